"""The main job: the official OpenAI client through a real gateway, every call in an exact ledger."""

import concurrent.futures
import threading
import time

import httpx
import openai
import pytest
import redis
from django.conf import settings
from django.db import connection, transaction

from billing.models import Budget, UsageEvent
from billing.usage.verify import verify
from gateway.logs.consumer import SUSPENSE
from gateway.models import RequestLog
from gateway.pipeline.record import encode_unknown
from gateway.state import reaper
from gateway.state.limits import STREAM
from routing.models import RoutingPolicy, RoutingPolicyVersion
from tenants import keys, versions
from tenants.ids import uuid7
from tenants.models import Tenant
from tenants.principal import SYSTEM
from tests.e2e.gateway_process import running

HELLO = [{"role": "user", "content": "Hello there"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture
def client(gateway, demo):
    with openai.OpenAI(
        base_url=f"{gateway.url}/v1", api_key=demo["tenants"][0]["api_key"], max_retries=0
    ) as made:
        yield made


def test_every_kind_of_call_is_in_the_ledger_to_the_last_token(client, drain):
    whole = client.chat.completions.create(model="policy:cost-optimized", messages=HELLO)
    stream = client.chat.completions.create(
        model="policy:latency-optimized", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    tools = client.chat.completions.create(
        model="sandbox-large", messages=HELLO, tools=[TOOL], tool_choice="required"
    )
    vectors = client.embeddings.create(model="sandbox-embed", input=["one", "two"])
    text = client.completions.create(model="sandbox-small", prompt="Once upon a time")

    assert whole.choices[0].message.content
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert tools.choices[0].message.tool_calls[0].function.name == "get_weather"
    assert [len(item.embedding) for item in vectors.data] == [256, 256]
    assert text.choices[0].text
    drain()
    told = [
        (u.prompt_tokens, u.completion_tokens)
        for u in (whole.usage, chunks[-1].usage, tools.usage, text.usage)
    ]
    told.append((vectors.usage.prompt_tokens, 0))
    rows = UsageEvent.objects.all()
    assert sorted((row.input_tokens, row.output_tokens + row.reasoning_tokens) for row in rows) == sorted(
        told
    )
    assert all(row.price_pico * 10 == row.cost_pico * 12 for row in rows)  # the starter plan adds 20 %
    assert verify().ok


def test_models_are_those_the_key_may_use(client):
    names = {model.id for model in client.models.list()}
    assert {"sandbox-small", "policy:cost-optimized"} <= names
    assert client.models.retrieve("sandbox-small").owned_by
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nothing")


@pytest.mark.parametrize(
    ("change", "error", "code"),
    [
        ({"model": "nothing"}, openai.NotFoundError, "model_not_found"),
        ({"messages": []}, openai.BadRequestError, "invalid_request"),
        ({"temperature": 3}, openai.BadRequestError, "invalid_request"),
        (
            {"extra_body": {"provider": {"quantizations": []}}},
            openai.UnprocessableEntityError,
            "unsupported_parameter",
        ),
        (
            {"messages": [{"role": "user", "content": "[[sandbox status=503]]"}]},
            openai.InternalServerError,
            "provider_overloaded",
        ),
        (
            {"messages": [{"role": "user", "content": "[[sandbox status=500]]"}]},
            openai.InternalServerError,
            "provider_unavailable",
        ),
    ],
)
def test_a_refusal_is_typed_and_costs_nothing(client, drain, change, error, code):
    with pytest.raises(error) as caught:
        client.chat.completions.create(**{"model": "policy:reliable", "messages": HELLO, **change})
    assert caught.value.code == code
    assert caught.value.response.headers["x-request-id"]
    drain()
    assert sum(row.price_pico for row in UsageEvent.objects.all()) == 0
    assert verify().ok


def test_a_cut_stream_ends_in_an_error_and_is_billed_as_delivered(gateway, demo, drain):
    body = {
        "model": "sandbox-small",
        "stream": True,
        "messages": [{"role": "user", "content": "[[sandbox cut_after=6 tokens=40]] go on"}],
    }
    headers = {"authorization": f"Bearer {demo['tenants'][0]['api_key']}"}
    answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers, timeout=30)
    assert b"[DONE]" not in answer.content
    assert b'"code":"provider_invalid_response"' in answer.content.split(b"\n\n")[-2]
    drain()
    row = UsageEvent.objects.get()
    assert (row.status, row.usage_source) == ("cut", "estimated")
    assert 0 < row.output_tokens < 40


def test_a_client_that_leaves_is_billed_for_what_was_sent(gateway, demo, drain):
    body = {
        "model": "sandbox-small",
        "stream": True,
        "messages": [{"role": "user", "content": "[[sandbox tokens=400 token_ms=10]] go on"}],
    }
    headers = {"authorization": f"Bearer {demo['tenants'][0]['api_key']}"}
    with httpx.stream("POST", f"{gateway.url}/v1/chat/completions", json=body, headers=headers) as answer:
        for number, _ in enumerate(answer.iter_lines()):
            if number > 10:
                break
    time.sleep(1)
    drain()
    row = UsageEvent.objects.get()
    assert row.status == "cancelled"
    assert 0 < row.output_tokens < 400
    assert RequestLog.objects.get().status == 499


def test_keys_limits_and_budgets_refuse(gateway, demo):
    tenant = Tenant.objects.get(slug="acme")
    poor = keys.issue(tenant=tenant, name="poor", scopes=("inference:chat",), actor=SYSTEM, limit_rpm=1)
    Budget.objects.create(tenant=tenant, api_key=poor.key, limit="0.000001")
    with transaction.atomic():
        versions.bump("billing")
    time.sleep(2)  # a change is announced, and polled for once a second
    url = f"{gateway.url}/v1/chat/completions"
    body = {"model": "sandbox-small", "messages": HELLO}

    def call(key, path=url, **json):
        answer = httpx.post(path, json=body | json, headers={"x-api-key": key}, timeout=30)
        return answer.status_code, answer.json()["error"]["code"]

    assert call("th_wrong") == (401, "invalid_api_key")
    assert call(poor.text, f"{gateway.url}/v1/embeddings", model="sandbox-embed", input="x") == (
        403,
        "permission_denied",
    )
    assert call(poor.text) == (402, "budget_exceeded")
    keys.revoke(key=poor.key, actor=SYSTEM, now=poor.key.created_at)
    deadline = time.monotonic() + 20
    while call(poor.text) != (401, "key_revoked"):
        assert time.monotonic() < deadline


def test_another_tenants_call_cannot_be_seen(gateway, demo, client, drain):
    mine = client.chat.completions.with_raw_response.create(model="sandbox-small", messages=HELLO)
    drain()
    url = f"{gateway.url}/v1/generations/{mine.headers['x-request-id']}"
    one, other = (tenant["api_key"] for tenant in demo["tenants"])
    shown = httpx.get(url, headers={"authorization": f"Bearer {one}"}, timeout=30)
    assert (shown.status_code, shown.json()["output_tokens"]) == (200, mine.parse().usage.completion_tokens)
    hidden = httpx.get(url, headers={"authorization": f"Bearer {other}"}, timeout=30)
    assert (hidden.status_code, hidden.json()["error"]["code"]) == (404, "not_found")


def test_a_killed_worker_loses_and_doubles_nothing(gateway, demo, drain, monkeypatch):
    body = {
        "model": "sandbox-small",
        "messages": [{"role": "user", "content": "[[sandbox tokens=20 token_ms=20]] hi"}],
    }
    headers = {"authorization": f"Bearer {demo['tenants'][0]['api_key']}"}

    def call(_):
        try:
            return httpx.post(
                f"{gateway.url}/v1/chat/completions", json=body, headers=headers, timeout=20
            ).status_code
        except httpx.TransportError:
            return 0

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        calls = [pool.submit(call, number) for number in range(48)]
        time.sleep(1.0)
        gateway.kill()
        answered = [each.result() for each in calls].count(200)
    time.sleep(11)  # the dead worker's sign of life expires
    monkeypatch.setattr(reaper, "GRACE_S", 0)
    reaper.close_abandoned()
    drain()
    statuses = [row.status for row in UsageEvent.objects.all()]
    assert answered <= statuses.count("ok") <= answered + 16
    assert statuses.count("unknown") <= 16
    assert set(statuses) <= {"ok", "unknown"}
    assert len(statuses) == UsageEvent.objects.values("request_id").distinct().count()
    assert reaper.close_abandoned() == 0
    assert verify().ok


def test_an_answer_without_a_count_is_estimated_and_not_free(client, drain):
    client.chat.completions.create(
        model="sandbox-small",
        messages=[{"role": "user", "content": "[[sandbox no_usage tokens=40]] say much"}],
    )
    drain()
    row = UsageEvent.objects.get()
    assert (row.status, row.usage_source) == ("ok", "estimated")
    assert row.input_tokens > 0
    assert 20 <= row.output_tokens <= 80
    assert row.price_pico * 10 == row.cost_pico * 12 > 0


@pytest.mark.parametrize("attempts", [1, 2])
def test_a_policy_bounds_the_tries(client, drain, attempts):
    RoutingPolicyVersion.objects.create(
        policy=RoutingPolicy.objects.get(slug="reliable"),
        number=2,
        strategy="ordered",
        targets=["sandbox-small"],
        max_attempts=attempts,
    )
    with transaction.atomic():
        versions.bump("routing")
    time.sleep(2)  # a change is announced, and polled for once a second
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(
            model="policy:reliable", messages=[{"role": "user", "content": "[[sandbox status=500]]"}]
        )
    assert len(caught.value.response.headers["x-tollhouse-attempts"].split(",")) == attempts


@pytest.mark.parametrize("user", ["x" * 201, "a\x00b", "line\nbreak"])
def test_a_user_the_ledger_cannot_hold_is_refused(client, user):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="sandbox-small", messages=HELLO, user=user)
    assert caught.value.param == "user"


def test_a_stream_that_outlives_the_drain_ends_in_an_error(demo, tmp_path, drain):
    body = {
        "model": "sandbox-small",
        "stream": True,
        "messages": [{"role": "user", "content": "[[sandbox tokens=900 token_ms=10]] go on"}],
    }
    headers = {"authorization": f"Bearer {demo['tenants'][0]['api_key']}"}
    with (
        running(tmp_path, "--timeout-graceful-shutdown", "1") as gateway,
        httpx.stream(
            "POST", f"{gateway.url}/v1/chat/completions", json=body, headers=headers, timeout=30
        ) as answer,
    ):
        lines = answer.iter_lines()
        next(lines)
        gateway.process.terminate()
        rest = [line for line in lines if line]
    assert '"code":"shutting_down"' in rest[-1]
    assert "[DONE]" not in rest[-1]
    drain()
    row = UsageEvent.objects.get()
    assert (row.status, row.error_type) == ("cut", "shutting_down")
    assert 0 < row.output_tokens < 900


def test_a_record_the_ledger_refuses_is_set_aside(demo, drain):
    payload = encode_unknown(
        str(uuid7()),
        {
            **dict.fromkeys(("tenant", "key", "plan_version", "endpoint"), str(uuid7())),
            **dict.fromkeys(("provider", "provider_model", "model", "region", "policy", "feature"), "x"),
            "price_currency": "USD",
            "cost_currency": "USD",
            "operation": "chat",
            "request_model": "m",
            "end_user": "x" * 300,
            "is_stream": False,
            "attempt": 1,
            "worst_cost_pico": 1,
        },
    )
    with redis.Redis.from_url(settings.REDIS_URL) as store:
        store.xadd(STREAM, {"r": payload})
        drain()
        assert (store.xlen(STREAM), store.xlen(SUSPENSE)) == (0, 1)
        assert store.xrange(SUSPENSE)[0][1][b"r"] == payload
    assert not UsageEvent.objects.exists()


def test_redis_that_lost_everything_gets_its_budgets_back_from_the_ledger(gateway, demo, drain):
    tenant = Tenant.objects.get(slug="acme")
    budget = Budget.objects.create(tenant=tenant, name="cap", limit=5)
    with transaction.atomic():
        versions.bump("billing")
    time.sleep(2)
    headers = {"authorization": f"Bearer {demo['tenants'][0]['api_key']}"}

    def call():
        return httpx.post(
            f"{gateway.url}/v1/chat/completions",
            json={"model": "sandbox-small", "messages": HELLO},
            headers=headers,
            timeout=30,
        ).status_code

    stop = threading.Event()

    def keep_draining():
        while not stop.is_set():
            drain()
        connection.close()

    worker = threading.Thread(target=keep_draining)
    worker.start()
    try:
        with redis.Redis.from_url(settings.REDIS_URL, decode_responses=True) as store:
            assert [call() for _ in range(5)] == [200] * 5
            store.flushdb()
            statuses = []
            while statuses[-1:] != [200]:
                statuses.append(call())
                assert len(statuses) < 30
            assert set(statuses) <= {200, 503}
            (key,) = store.scan_iter(f"th:budget:{budget.id}:*")
            while store.hexists(key, "seeding") or store.hget(key, "held") != "0":
                time.sleep(0.1)
            counter = {name: int(store.hget(key, name)) for name in ("spent", "rest")}
    finally:
        stop.set()
        worker.join()
    drain()
    rows = UsageEvent.objects.all()
    assert rows.count() == 5 + statuses.count(200)
    assert counter["spent"] * 1_000_000 + counter["rest"] == sum(row.price_pico for row in rows)
