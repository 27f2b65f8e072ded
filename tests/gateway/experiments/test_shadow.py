"""Mirrored calls on a real gateway: in the background, nobody's usage, and in no tenant's sight."""

import time
from datetime import timedelta

import orjson
import pytest
from django.test import Client
from django.utils import timezone

from billing.models import Budget, OverheadHour, UsageEvent
from billing.usage.verify import verify
from gateway.experiments.models import ShadowSample
from gateway.models import RequestLog
from gateway.state import process as state
from routing.experiments import shadows
from routing.experiments.models import PolicyShadow
from routing.models import RoutingPolicy
from tenants.models import Tenant
from tenants.principal import SYSTEM
from tests.gateway import plane as planes

db, demo, drain = planes.db, planes.demo, planes.drain
CALLS = 40
SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "answer",
        "schema": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
    },
}
RUBRIC = {
    "kind": "rubric",
    "rubric": "Is it polite?",
    "target": {"model": "sandbox-small", "provider": "sandbox"},
}


def shadowed(slug, **wording):
    policy = RoutingPolicy.objects.get(slug=slug)
    return shadows.set_shadow(policy=policy, wording={"share": "0.5", **wording}, actor=SYSTEM)


@pytest.fixture(scope="module")
def plane(demo, tmp_path_factory):
    Budget.objects.create(tenant=Tenant.objects.get(slug="acme"), name="Roomy", limit="100")
    shadowed("cost-optimized", targets=["sandbox-large"], scoring={"kind": "similarity"})
    shadowed("reliable", targets=[{"model": "sandbox-small", "provider": "sandbox"}], scoring=RUBRIC)
    shadowed("eu-only", targets=[{"model": "sandbox-large", "provider": "sandbox"}])
    shadowed("latency-optimized", targets=["sandbox-large"], per_minute=3)
    with planes.serving(demo, tmp_path_factory.mktemp("data")) as started:
        yield started


def ask(plane, policy, text="Hello", **more):
    return plane.http.post(
        f"{plane.url}/v1/chat/completions",
        headers={"authorization": f"Bearer {plane.key}"},
        json={"model": f"policy:{policy}", "messages": [{"role": "user", "content": text}], **more},
    )


def settled():
    """Every mirrored call has ended and is in the ledger."""
    while state.current().shadows.in_flight:
        time.sleep(0.01)
    while drain():
        pass


@pytest.fixture(scope="module")
def calls(plane):
    """Answers to forty calls of a policy whose calls are mirrored by half, streams among them."""
    answers = [ask(plane, "cost-optimized", f"Hello {n}", stream=n % 2 == 1) for n in range(CALLS)]
    settled()
    return answers


def test_the_caller_is_answered_as_ever(calls):
    assert [answer.status_code for answer in calls] == [200] * CALLS
    assert {answer.headers["x-tollhouse-provider"] for answer in calls} <= {"sandbox", "sandbox-eu"}
    assert all(answer.text.rstrip().endswith("[DONE]") for answer in calls[1::2])


def test_a_share_is_mirrored_and_booked_as_overhead(calls):
    rows = list(UsageEvent.objects.filter(kind="shadow", policy__startswith="cost-optimized@"))
    assert 5 <= len(rows) <= 35  # half of forty, but for luck of one in a million
    assert {(row.price_pico, row.is_final, row.status, row.model, row.is_stream) for row in rows} == {
        (0, False, "ok", "sandbox-large", False)
    }
    assert all(row.cost_pico > 0 and row.tenant_id == Tenant.objects.get(slug="acme").id for row in rows)
    booked = OverheadHour.objects.filter(policy__startswith="cost-optimized@")
    assert sum(int(row.cost_pico) for row in booked) == sum(row.cost_pico for row in rows)
    assert verify().ok


def test_what_was_measured_stands_beside_what_was_mirrored(calls):
    samples = list(ShadowSample.objects.filter(policy__startswith="cost-optimized@"))
    rows = UsageEvent.objects.filter(kind="shadow", policy__startswith="cost-optimized@")
    assert {sample.request_id for sample in samples} == {row.request_id for row in rows}
    asked = {answer.headers["x-request-id"] for answer in calls}
    for sample in samples:
        assert str(sample.of_request_id) in asked
        assert (sample.status, sample.of_status, sample.model) == (200, 200, "sandbox-large")
        assert (sample.of_model, sample.scoring) == ("sandbox-small", "similarity")
        assert 0 <= sample.score <= 1
        assert sample.is_json_valid is sample.of_is_json_valid is None
        assert sample.of_cost_pico == sum(
            row.cost_pico for row in UsageEvent.objects.filter(request_id=sample.of_request_id)
        )
    assert {sample.score for sample in samples} != {0.0}


def test_a_tenant_sees_nothing_of_it(calls, plane):
    shadow_ids = set(UsageEvent.objects.filter(kind="shadow").values_list("request_id", flat=True))
    assert shadow_ids
    assert not RequestLog.objects.filter(request_id__in=shadow_ids).exists()
    client = Client(headers={"authorization": f"Bearer {plane.key}"})
    now = timezone.now()
    usage = client.get(
        "/api/v1/usage/",
        {
            "from": (now - timedelta(hours=1)).isoformat(),
            "to": (now + timedelta(hours=1)).isoformat(),
            "group_by": "model",
            "measures": "requests,attempts,tokens",
        },
    ).json()
    real = UsageEvent.objects.filter(kind="usage")
    assert sum(row["attempts"] for row in usage["data"]) == real.count()
    assert sum(row["tokens"] for row in usage["data"]) == sum(
        row.input_tokens + row.cache_read_tokens + row.output_tokens + row.reasoning_tokens for row in real
    )
    assert (
        client.get("/api/v1/overhead/", {"from": now.isoformat(), "to": now.isoformat()}).status_code == 403
    )
    one = plane.http.get(
        f"{plane.url}/v1/generations/{next(iter(shadow_ids))}",
        headers={"authorization": f"Bearer {plane.key}"},
    )
    assert one.status_code == 404


def test_no_budget_pays_for_it(calls):
    import redis
    from django.conf import settings

    with redis.Redis.from_url(settings.REDIS_URL) as store:
        (name,) = store.scan_iter("th:budget:*")
        counter = {field: int(store.hget(name, field)) for field in ("spent", "rest", "held")}
    prices = sum(row.price_pico for row in UsageEvent.objects.all())
    assert counter["held"] == 0
    assert counter["spent"] * 1_000_000 + counter["rest"] == prices > 0


def test_a_judge_scores_and_is_overhead_too(plane):
    answers = [ask(plane, "reliable", f"Be nice {n}", response_format=SCHEMA) for n in range(16)]
    settled()
    assert [answer.status_code for answer in answers] == [200] * 16
    samples = list(ShadowSample.objects.filter(policy__startswith="reliable@"))
    assert samples
    assert {(s.scoring, s.is_json_valid, s.of_is_json_valid) for s in samples} == {("rubric", True, True)}
    assert all(sample.score is not None and 0 <= sample.score <= 1 for sample in samples)
    verdicts = list(UsageEvent.objects.filter(kind="eval"))
    assert len(verdicts) == len(samples)
    assert {(row.price_pico, row.is_final, row.provider, row.model) for row in verdicts} == {
        (0, False, "sandbox", "sandbox-small")
    }
    assert verify().ok


def test_a_target_that_may_not_serve_the_tenant_does_not_see_its_calls(plane):
    answers = [ask(plane, "eu-only", f"Stay here {n}") for n in range(20)]
    settled()
    assert {answer.headers["x-tollhouse-region"] for answer in answers} == {"eu"}
    assert not ShadowSample.objects.filter(policy__startswith="eu-only@").exists()
    assert not UsageEvent.objects.filter(policy__startswith="eu-only@", region="us").exists()


def test_no_more_is_mirrored_in_a_minute_than_allowed(plane):
    while time.time() % 60 > 50:  # all of it in one minute
        time.sleep(0.5)
    answers = [ask(plane, "latency-optimized", f"Hurry {n}") for n in range(30)]
    settled()
    assert {answer.status_code for answer in answers} == {200}
    assert ShadowSample.objects.filter(policy__startswith="latency-optimized@").count() == 3


def test_a_failing_shadow_costs_the_caller_nothing(plane):
    """The mirrored provider refuses the very text that the real one answers with an error of its own: both count."""
    before = ShadowSample.objects.count()
    answers = [ask(plane, "cost-optimized", "[[sandbox status=500]]") for _ in range(12)]
    settled()
    assert {answer.status_code for answer in answers} == {502}
    failed = ShadowSample.objects.filter(of_status=502)
    assert failed.count() == ShadowSample.objects.count() - before > 0
    assert set(failed.values_list("status", "error_code")) == {(502, "provider_unavailable")}
    assert verify().ok


def test_a_draining_worker_mirrors_nothing(plane):
    before = ShadowSample.objects.count()
    process = state.current()
    try:
        for number in range(10):
            body = {
                "model": "policy:cost-optimized",
                "messages": [{"role": "user", "content": f"[[sandbox tokens=4 token_ms=20]] {number}"}],
                "stream": True,
            }
            with plane.http.stream(
                "POST",
                f"{plane.url}/v1/chat/completions",
                headers={"authorization": f"Bearer {plane.key}"},
                json=body,
            ) as answer:
                process.is_draining = True
                assert answer.read().rstrip().endswith(b"[DONE]")
            process.is_draining = False
    finally:
        process.is_draining = False
    settled()
    assert ShadowSample.objects.count() == before


def test_the_operator_reads_what_it_cost(calls, plane):
    client = Client(headers={"authorization": f"Bearer {plane.demo['operator_key']}"})
    now = timezone.now()
    span = {"from": (now - timedelta(hours=2)).isoformat(), "to": (now + timedelta(hours=1)).isoformat()}
    rows = client.get("/api/v1/overhead/", span).json()["data"]
    assert {row["tenant"] for row in rows} == {"acme"}
    assert {row["kind"] for row in rows} >= {"shadow"}
    assert client.get("/api/v1/overhead/", {"from": "x", "to": "y"}).status_code == 400


def test_a_shadow_is_set_read_and_cleared_over_the_api(demo):
    client = Client(headers={"authorization": f"Bearer {demo['operator_key']}"})
    url = "/api/v1/policies/cost-optimized/shadow/"

    def put(**body):
        return client.put(url, orjson.dumps(body), content_type="application/json")

    assert put(share="0.2").json()["share"] == "0.2000"
    assert client.get(url).json()["targets"] == ["sandbox-large"]
    for wrong, param in (
        ({"share": "0.6"}, "shadow.share"),
        ({"targets": ["no-such-model"]}, "shadow.targets.0"),
        ({"scoring": {"kind": "rubric"}}, "shadow.scoring.rubric"),
        ({"per_minute": 0}, "shadow.per_minute"),
    ):
        refused = put(**wrong)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
    assert client.delete(url).status_code == 204
    assert client.get(url).status_code == 404
    assert not PolicyShadow.objects.filter(policy__slug="cost-optimized").exists()
