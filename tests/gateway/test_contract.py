"""The public contract of API.md, status by status, through both doors: they must never differ."""

from datetime import timedelta
from decimal import Decimal

import orjson
import pytest
from django.db import transaction
from django.utils import timezone

from billing.models import Budget
from tenants import keys, versions
from tenants.models import Tenant
from tenants.principal import SYSTEM
from tests.gateway import plane as planes

db, demo, drain = planes.db, planes.demo, planes.drain

MAX_BODY_BYTES = 20_000
CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello there"}]
ASK = {"model": "sandbox-large", "messages": HELLO}


def said(text, **more):
    return {**ASK, "messages": [{"role": "user", "content": text}], **more}


@pytest.fixture(scope="module")
def texts(demo):
    """Keys of every kind, by name. Made before the server starts, so that it knows them from the first call."""
    tenant = Tenant.objects.get(slug="acme")
    now = timezone.now()

    def issue(*scopes, **rights):
        return keys.issue(
            tenant=tenant, name="contract", scopes=scopes or ("inference:*",), actor=SYSTEM, **rights
        )

    made = {
        "full": issue(),
        "seeing": issue("inference:*", "cost:read"),
        "chat": issue("inference:chat"),
        "revoked": issue(),
        "expired": issue(expires_at=now + timedelta(days=1)),
        "poor": issue(),
        "capped": issue(),
        "elsewhere": issue(allowed_ips=["192.0.2.0/24"]),
        "small only": issue(allowed_models=["sandbox-small"]),
        "one a minute, asgi": issue(limit_rpm=1),
        "one a minute, django": issue(limit_rpm=1),
    }
    keys.revoke(key=made["revoked"].key, actor=SYSTEM, now=now)
    type(made["expired"].key).objects.filter(pk=made["expired"].key.pk).update(
        expires_at=now - timedelta(seconds=1)
    )
    Budget.objects.create(tenant=tenant, api_key=made["poor"].key, name="Tiny", limit="0.000001")
    Budget.objects.create(tenant=tenant, api_key=made["capped"].key, name="Roomy", limit="100")
    with transaction.atomic():
        versions.bump("tenants")
        versions.bump("billing")
    full = made["full"].text
    return {name: issued.text for name, issued in made.items()} | {
        "garbage": "th_wrong",
        "forged": f"{full[:-1]}{'0' if full[-1] != '0' else '1'}",
    }


@pytest.fixture(scope="module")
def plane(demo, texts, tmp_path_factory):
    data = tmp_path_factory.mktemp("data")
    limits = {"TOLLHOUSE_MAX_BODY_BYTES": MAX_BODY_BYTES, "DATA_UPLOAD_MAX_MEMORY_SIZE": 1_000}
    with planes.serving(demo, data, **limits) as started:  # Django's own limit must not matter
        yield started


@pytest.fixture(params=["asgi", "django"])
def door(request):
    return request.param


@pytest.fixture
def send(plane, texts, door):
    """Send a request through the door at hand; `key` is a name of `texts`, None for none."""
    base = plane.url + ("" if door == "asgi" else planes.DJANGO)

    def send(path=CHAT, body=ASK, *, key="full", method="POST", **headers):
        sent = {"content-type": "application/json"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        if key is not None:
            sent["authorization"] = f"Bearer {texts[key]}"
        content = body if isinstance(body, bytes) or body is None else orjson.dumps(body)
        return plane.http.request(method, base + path, content=content, headers=sent)

    return send


def refused(answer, status, code, param=None):
    """The whole error object, and the request id in both its places."""
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param), error
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"] == error["request_id"]
    assert set(error) == {"message", "type", "param", "code", "request_id"}
    assert error["message"]
    return error


# ------------------------------------------------------------------ the request itself


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"model": ', None),
        (b"", None),
        (b"[]", None),
        (b'{"model": NaN}', None),
        (b'{"model": "\xff"}', None),
        ({"messages": HELLO}, "model"),
        ({"model": 7, "messages": HELLO}, "model"),
        ({"model": "", "messages": HELLO}, "model"),
        ({"model": "sandbox-large"}, "messages"),
        ({**ASK, "messages": []}, "messages"),
        ({**ASK, "messages": "Hello"}, "messages"),
        ({**ASK, "messages": ["Hello"]}, "messages[0].role"),
        ({**ASK, "messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
        ({**ASK, "messages": [*HELLO, {"role": "user"}]}, "messages[1].content"),
        ({**ASK, "messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        (
            {**ASK, "messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text",
        ),
        ({**ASK, "temperature": 3}, "temperature"),
        ({**ASK, "temperature": True}, "temperature"),
        ({**ASK, "max_tokens": 0}, "max_tokens"),
        ({**ASK, "n": 1.5}, "n"),
        ({**ASK, "stream": "yes"}, "stream"),
        ({**ASK, "stream_options": []}, "stream_options"),
        ({**ASK, "user": 7}, "user"),
        ({**ASK, "tools": {}}, "tools"),
        ({**ASK, "tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({**ASK, "response_format": {"type": "xml"}}, "response_format"),
    ],
)
def test_a_wrong_body_is_refused_naming_the_parameter(send, body, param):
    assert refused(send(body=body), 400, "invalid_request", param)["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("body", "param"),
    [({"tools": 7}, "tools"), ({"modalities": 7}, "modalities"), ({"service_tier": 7}, "service_tier")],
)
def test_no_body_makes_an_internal_error(send, body, param):
    refused(send(body=ASK | body), 400, "invalid_request", param)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/completions", {"model": "sandbox-small"}, "prompt"),
        ("/v1/embeddings", {"model": "sandbox-embed"}, "input"),
        ("/v1/embeddings", {"model": "sandbox-embed", "input": []}, "input"),
        (
            "/v1/embeddings",
            {"model": "sandbox-embed", "input": "x", "encoding_format": "hex"},
            "encoding_format",
        ),
    ],
)
def test_other_operations_check_their_own_parameters(send, path, body, param):
    refused(send(path, body), 400, "invalid_request", param)


def test_only_json_is_taken(send):
    refused(send(content_type="text/plain"), 415, "unsupported_media_type")
    refused(send(content_type="multipart/form-data; boundary=x"), 415, "unsupported_media_type")
    assert send(content_type="application/json; charset=utf-8").status_code == 200


def test_a_compressed_body_is_refused(send):
    refused(send(content_encoding="gzip"), 415, "unsupported_media_type")


def test_a_large_body_is_refused_before_it_is_read(send):
    refused(send(body=b" " * (MAX_BODY_BYTES + 1)), 413, "payload_too_large")
    refused(send(body=said("x" * MAX_BODY_BYTES), key=None), 413, "payload_too_large")
    assert send(body=said("x" * (MAX_BODY_BYTES - 200), max_tokens=1)).status_code == 200


def test_a_large_body_of_unknown_length_is_refused(plane, texts, door):
    def pieces():
        for _ in range(30):
            yield b" " * 1_000

    base = plane.url + ("" if door == "asgi" else planes.DJANGO)
    headers = {"content-type": "application/json", "authorization": f"Bearer {texts['full']}"}
    refused(plane.http.post(base + CHAT, content=pieces(), headers=headers), 413, "payload_too_large")


@pytest.mark.parametrize(
    "path", ["/v1/nothing", "/v1/chat", "/v1/chat/completions/", "/v1/generations/no-uuid"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_an_unknown_path_is_a_typed_404(send, path, method):
    assert refused(send(path, method=method), 404, "not_found")["type"] == "not_found_error"


def test_a_known_path_takes_its_own_method_alone(send):
    refused(send(method="GET", body=None), 405, "method_not_allowed")
    refused(send("/v1/models"), 405, "method_not_allowed")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Tollhouse-Feature", "no spaces please"),
        ("X-Tollhouse-Tags", "novalue"),
        ("X-Tollhouse-Tags", ",".join(f"k{n}=v" for n in range(11))),
        ("X-Tollhouse-Timeout-Ms", "0"),
        ("X-Tollhouse-Timeout-Ms", "soon"),
    ],
)
def test_our_own_headers_are_checked(send, name, value):
    refused(send(**{name: value}), 400, "invalid_request", name)


# ------------------------------------------------------------------ who asks, and what it may


@pytest.mark.parametrize(
    ("key", "status", "code"),
    [
        (None, 401, "invalid_api_key"),
        ("garbage", 401, "invalid_api_key"),
        ("forged", 401, "invalid_api_key"),
        ("revoked", 401, "key_revoked"),
        ("expired", 401, "key_expired"),
        ("elsewhere", 403, "permission_denied"),
        ("small only", 403, "model_not_allowed"),
    ],
)
def test_a_key_that_may_not_is_refused(send, key, status, code):
    error = refused(send(key=key), status, code, "model" if code == "model_not_allowed" else None)
    assert error["type"] == {401: "authentication_error", 403: "permission_error"}[status]


def test_a_scope_must_cover_the_operation(send):
    refused(
        send("/v1/embeddings", {"model": "sandbox-embed", "input": "x"}, key="chat"), 403, "permission_denied"
    )
    assert send(key="chat").status_code == 200


def test_a_key_may_not_act_for_another_tenant(send):
    refused(send(x_tollhouse_tenant="globex"), 403, "permission_denied")
    refused(send(x_tollhouse_tenant="nobody"), 403, "permission_denied")
    assert send(x_tollhouse_tenant="acme").status_code == 200


@pytest.mark.parametrize("name", ["x-api-key", "x-goog-api-key", "api-key"])
def test_the_key_is_taken_where_each_sdk_puts_it(send, texts, name):
    assert send(key=None, **{name: texts["full"]}).status_code == 200


@pytest.mark.parametrize("model", ["nothing", "policy:nothing", "openai/nothing"])
def test_an_unknown_model_is_not_found(send, model):
    refused(send(body=ASK | {"model": model}), 404, "model_not_found", "model")


def test_a_used_up_budget_refuses_and_says_which(send):
    drain()  # a budget's counter is made from the ledger
    error = refused(send(key="poor"), 402, "budget_exceeded")
    assert "Tiny" in error["message"]
    assert error["type"] == "billing_error"


def test_a_rate_limit_says_when_to_come_again(send, door):
    first = send(key=f"one a minute, {door}")
    assert first.status_code == 200
    assert first.headers["x-ratelimit-limit-requests"] == "1"
    assert first.headers["x-ratelimit-remaining-requests"] == "0"
    second = send(key=f"one a minute, {door}")
    assert refused(second, 429, "rate_limit_exceeded")["type"] == "rate_limit_error"
    assert 1 <= int(second.headers["retry-after"]) <= 61


# ------------------------------------------------------------------ what comes back


def test_an_answer_tells_how_it_was_made(send):
    answer = send(body=ASK | {"model": "policy:reliable"})
    headers = answer.headers
    assert answer.status_code == 200
    assert headers["x-request-id"]
    assert headers["x-tollhouse-provider"] == "sandbox"
    assert headers["x-tollhouse-model"].startswith("sandbox-large")
    assert headers["x-tollhouse-region"] == "us"
    assert headers["x-tollhouse-policy"] == "reliable@1"
    assert headers["x-tollhouse-attempts"] == "sandbox:200"
    assert headers["x-tollhouse-cache"] == "off"
    assert float(headers["x-tollhouse-price"]) > 0
    assert "x-tollhouse-cost" not in headers


def test_cost_is_shown_to_a_key_that_may_see_it(send):
    headers = send(key="seeing").headers
    cost, price = (Decimal(headers[f"x-tollhouse-{name}"]) for name in ("cost", "price"))
    assert price * 10 == cost * 12


def test_what_a_budget_has_left_is_told(send):
    drain()
    assert 0 < float(send(key="capped").headers["x-tollhouse-budget-remaining"]) < 100


@pytest.mark.parametrize(
    ("told", "status", "code"),
    [
        (503, 503, "provider_overloaded"),
        (429, 503, "provider_overloaded"),
        (500, 502, "provider_unavailable"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_when_every_target_fails_the_error_is_typed_and_lists_the_tries(send, told, status, code, stream):
    body = said(f"[[sandbox status={told}]]", model="policy:reliable", stream=stream)
    answer = send(body=body)
    refused(answer, status, code)
    tries = answer.headers["x-tollhouse-attempts"].split(",")
    assert len(tries) > 1
    assert {each.split(":")[1] for each in tries} == {str(told)}
    assert {each.split(":")[0] for each in tries} == {"sandbox", "sandbox-eu"}
    assert ("retry-after" in answer.headers) is (status == 503)


def events(answer):
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    return [event.removeprefix("data: ") for event in answer.text.removesuffix("\n\n").split("\n\n")]


def test_a_stream_ends_with_its_usage_and_done(send):
    answer = send(body=said("Hello", stream=True, stream_options={"include_usage": True}))
    *chunks, usage, done = events(answer)
    assert done == "[DONE]"
    usage = orjson.loads(usage)
    assert usage["choices"] == []
    assert usage["usage"]["tollhouse"]["request_id"] == answer.headers["x-request-id"]
    assert all(orjson.loads(chunk).get("usage") is None for chunk in chunks)


def test_a_stream_shows_no_usage_that_nobody_asked_for(send):
    *chunks, done = events(send(body=said("Hello", stream=True)))
    assert done == "[DONE]"
    assert all("tollhouse" not in chunk and orjson.loads(chunk)["choices"] for chunk in chunks)


def test_a_cut_stream_ends_with_an_error_and_is_never_done(send):
    answer = send(body=said("[[sandbox cut_after=5]]", stream=True, stream_options={"include_usage": True}))
    *chunks, last = events(answer)
    error = orjson.loads(last)["error"]
    assert error["code"] == "provider_invalid_response"
    assert error["request_id"] == answer.headers["x-request-id"]
    assert chunks
    assert all(
        choice["finish_reason"] is None for chunk in chunks for choice in orjson.loads(chunk)["choices"]
    )
    assert "[DONE]" not in answer.text
    assert '"usage":{' not in answer.text


def test_a_generation_is_told_to_its_own_tenant_alone(plane, send):
    answer = send(x_tollhouse_feature="support", x_tollhouse_tags="team=blue")
    drain()
    url = f"/v1/generations/{answer.headers['x-request-id']}"
    told = send(url, None, method="GET").json()
    assert told["id"] == answer.headers["x-request-id"]
    assert told["output_tokens"] == answer.json()["usage"]["completion_tokens"]
    assert told["price"] == answer.headers["x-tollhouse-price"]
    assert (told["feature"], told["tags"]) == ("support", {"team": "blue"})
    assert "cost" not in told
    seen = send(url, None, method="GET", key="seeing").json()
    assert Decimal(seen["price"]) * 10 == Decimal(seen["cost"]) * 12
    hidden = plane.http.get(plane.url + url, headers={"x-api-key": plane.other_key})
    assert (hidden.status_code, hidden.json()["error"]["code"]) == (404, "not_found")
