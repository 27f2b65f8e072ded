"""Moderations and rankings through a real gateway: the official client's answers, and the ledger row of each call."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal

import openai
import orjson
import pytest
from django.db import connection, transaction

from billing.budgets.counters import spent
from billing.models import Budget, UsageEvent
from billing.snapshot import entry_of
from billing.usage.verify import verify
from gateway.privacy import bindings
from routing.models import CostRate, Endpoint, Model, Provider
from tenants import keys, versions
from tenants.models import Tenant
from tenants.principal import SYSTEM
from tests.fakes.http_server import reply, serve
from tests.gateway import plane as planes

db, drain = planes.db, planes.drain

SINCE = datetime(2025, 1, 1, tzinfo=UTC)
SEARCH_PICO = 2_000_000_000  # 2 USD per 1,000
REQUEST_PICO = 500_000_000
DOCUMENTS = ["snow in Oslo", "rain in Bergen", "how to boil an egg"]
CALLERS, FITS = 24, 5
JSON = ("Content-Type", "application/json")


@pytest.fixture(scope="module")
def received():
    return []


@pytest.fixture(scope="module")
def provider(received):
    """A server that ranks in the order it was asked in, and says nothing else; `broken` names no such document."""

    async def handle(peer, request):
        body = orjson.loads(request.body)
        received.append((request.target, body))
        index = 7 if body["model"] == "broken" else 0
        said = {"results": [{"index": index, "relevance_score": 0.5}]}
        await peer.send(reply(orjson.dumps(said), headers=(JSON,)))

    with serve(handle) as server:
        yield server


@pytest.fixture(scope="module")
def demo(db, provider):
    for demo in planes.rows(db):
        with transaction.atomic():
            versions.bump("routing")
            versions.bump("billing")
            sandbox = Provider.objects.get(slug="sandbox")
            local = Provider.objects.create(
                slug="ranker",
                name="Ranker",
                kind="openai_compatible",
                base_url=f"{provider.url}/v1",
                region="us",
            )
            add(sandbox, "moderator", "moderations", "requests", "0.5", capabilities=["vision"])
            add(sandbox, "text-moderator", "moderations", "requests", "0.5")
            add(sandbox, "ranker", "rerank", "searches", "2")
            add(sandbox, "unpriced-ranker", "rerank", "input", "2")
            add(local, "local-ranker", "rerank", "searches", "2")
            add(local, "broken", "rerank", "searches", "2")
            acme = Tenant.objects.get(slug="acme")
            Budget.objects.create(
                tenant=acme,
                feature="race",
                window="total",
                measure="cost",
                limit=Decimal(FITS * SEARCH_PICO) / 10**12,
            )
            Tenant.objects.filter(slug="globex").update(region_policy=["eu"])
            versions.bump("tenants")
        profile = bindings.create_profile(
            slug="hide", tenant=acme, values={"actions": {"email": "tokenize"}, "vault_days": 1}, actor=SYSTEM
        )
        bindings.bind(profile=profile, bound_tenant=acme, feature="private", policy="", actor=SYSTEM)
        yield demo


def add(provider, slug, operation, component, price, capabilities=()):
    model = Model.objects.create(
        slug=slug, name=slug, operations=[operation], capabilities=list(capabilities)
    )
    Endpoint.objects.create(provider=provider, model=model, provider_model=slug)
    CostRate.objects.create(
        provider=provider.slug,
        provider_model=slug,
        component=component,
        price=Decimal(price),
        per=1000,
        effective_from=SINCE,
    )


@pytest.fixture(scope="module")
def plane(demo, tmp_path_factory):
    with planes.serving(
        demo, tmp_path_factory.mktemp("data"), TOLLHOUSE_EGRESS_ALLOWED_HOSTS=["127.0.0.1"]
    ) as started:
        yield started


@pytest.fixture(scope="module", autouse=True)
def draining(plane):
    """Counters are made from the ledger, which must follow."""
    over = threading.Event()

    def work():
        while not over.is_set():
            drain()
        connection.close()

    worker = threading.Thread(target=work)
    worker.start()
    yield
    over.set()
    worker.join()


@pytest.fixture
def client(plane):
    with openai.OpenAI(base_url=f"{plane.url}/v1", api_key=plane.key, max_retries=0) as opened:
        yield opened


def rank(plane, *, key=None, feature="", model="ranker", **body):
    asked = {"model": model, "query": "weather in Oslo", "documents": DOCUMENTS} | body
    headers = {"authorization": f"Bearer {key or plane.key}"}
    if feature:
        headers["x-tollhouse-feature"] = feature
    return plane.http.post(f"{plane.url}/v1/rerank", json=asked, headers=headers)


def booked(answer):
    drain()
    (row,) = UsageEvent.objects.filter(request_id=answer.headers["x-request-id"])
    assert verify().ok
    return row


def error_of(answer):
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


def test_texts_are_moderated_and_booked_by_the_request(client):
    raw = client.moderations.with_raw_response.create(model="moderator", input=["a nice day", "kill them"])
    said = raw.parse()
    assert [result.flagged for result in said.results] == [False, True]
    assert said.model == "moderator"
    row = booked(raw)
    assert (row.operation, row.other_units, row.input_tokens, row.output_tokens) == (
        "moderations",
        {"requests": 1},
        0,
        0,
    )
    assert (row.cost_pico, row.price_pico) == (REQUEST_PICO, REQUEST_PICO * 120 // 100)
    assert (row.status, row.usage_source) == ("ok", "estimated")


def test_a_picture_is_moderated_only_by_a_model_that_sees(client):
    parts = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    said = client.moderations.create(model="moderator", input=parts)
    assert [result.flagged for result in said.results] == [False]
    with pytest.raises(openai.APIStatusError) as refused:
        client.moderations.create(model="text-moderator", input=parts)
    assert refused.value.code == "unsupported_parameter"


def test_documents_are_ranked_and_booked_by_searches(plane):
    answer = rank(plane, return_documents=True, top_n=2)
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    assert [(each["index"], each["document"]) for each in results] == [
        (0, {"text": DOCUMENTS[0]}),
        (1, {"text": DOCUMENTS[1]}),
    ]
    assert results[0]["relevance_score"] > results[1]["relevance_score"] > 0
    row = booked(answer)
    assert (row.operation, row.other_units, row.cost_pico) == ("rerank", {"searches": 1}, SEARCH_PICO)
    assert Decimal(answer.headers["x-tollhouse-price"]) * 10**12 == row.price_pico == SEARCH_PICO * 120 // 100


def test_every_hundred_documents_are_a_search(plane):
    row = booked(rank(plane, documents=["a text"] * 201))
    assert (row.other_units, row.cost_pico) == ({"searches": 3}, 3 * SEARCH_PICO)


def test_a_server_that_only_ranks_gets_its_answer_completed(plane, received):
    received.clear()
    answer = rank(plane, model="local-ranker", return_documents=True)
    assert answer.json() == {
        "results": [{"index": 0, "relevance_score": 0.5, "document": {"text": DOCUMENTS[0]}}],
        "model": "local-ranker",
    }
    ((path, body),) = received
    assert (path, body["model"], body["documents"]) == ("/v1/rerank", "local-ranker", DOCUMENTS)


def test_a_ranking_of_documents_nobody_sent_is_no_answer(plane):
    answer = rank(plane, model="broken")
    assert answer.status_code == 502
    drain()
    rows = UsageEvent.objects.filter(request_id=answer.headers["x-request-id"])
    assert {(row.status, row.error_type, row.cost_pico) for row in rows} == {("error", "invalid_response", 0)}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"query": ""}, "query"),
        ({"query": ["x"]}, "query"),
        ({"documents": []}, "documents"),
        ({"documents": "x"}, "documents"),
        ({"documents": ["x", ""]}, "documents[1]"),
        ({"documents": [{"title": "x"}]}, "documents[0]"),
        ({"documents": ["x"] * 10_001}, "documents"),
        ({"top_n": 0}, "top_n"),
        ({"return_documents": "yes"}, "return_documents"),
        ({"stream": True}, "stream"),
    ],
)
def test_a_wrong_ranking_names_what_is_wrong(plane, body, param):
    assert error_of(rank(plane, **body)) == (400, "invalid_request", param)


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ("", "input"),
        ([], "input"),
        (["x", ""], "input"),
        ([{"type": "file"}], "input[0].type"),
        ([1], "input"),
    ],
)
def test_a_wrong_moderation_names_what_is_wrong(plane, given, param):
    answer = plane.http.post(
        f"{plane.url}/v1/moderations",
        json={"model": "moderator", "input": given},
        headers={"authorization": f"Bearer {plane.key}"},
    )
    assert error_of(answer) == (400, "invalid_request", param)


def test_a_unit_without_a_price_is_not_sent(plane):
    assert error_of(rank(plane, model="unpriced-ranker"))[:2] == (402, "model_unpriced")


def test_a_model_ranks_only_if_it_can(plane):
    assert rank(plane, model="sandbox-small").status_code in (400, 422)
    assert rank(plane, model="moderator").status_code in (400, 422)


def test_a_key_needs_the_operations_scope(plane):
    acme = Tenant.objects.get(slug="acme")
    key = keys.issue(tenant=acme, name="no rank", scopes=("inference:chat",), actor=SYSTEM).text
    assert error_of(rank(plane, key=key))[:2] == (403, "permission_denied")
    able = keys.issue(tenant=acme, name="rank", scopes=("inference:rerank",), actor=SYSTEM).text
    assert rank(plane, key=able).status_code == 200


def test_a_tenant_of_another_region_is_not_ranked_here(plane):
    answer = rank(plane, key=plane.other_key)
    assert error_of(answer)[:2] == (422, "region_unavailable")


def test_personal_data_reaches_no_ranker_and_comes_back(plane, received):
    received.clear()
    documents = ["write to ann@planted.example", "or not"]
    answer = rank(
        plane,
        feature="private",
        model="local-ranker",
        query="who is bob@planted.example?",
        documents=documents,
        return_documents=True,
    )
    ((_, body),) = received
    assert b"planted.example" not in orjson.dumps(body)
    assert answer.json()["results"][0]["document"] == {"text": documents[0]}


def test_of_rankings_at_once_exactly_those_pass_that_fit(plane):
    with ThreadPoolExecutor(CALLERS) as pool:
        statuses = Counter(pool.map(lambda _: rank(plane, feature="race").status_code, range(CALLERS)))
    assert statuses == Counter({200: FITS, 402: CALLERS - FITS})
    drain()
    budget = Budget.objects.select_related("tenant").get(feature="race")
    entry = entry_of(budget)
    used = spent(entry, entry.window_at(datetime.now(UTC).timestamp()))
    assert used == entry.limit * entry.unit
