"""Kill switches on a running gateway: new calls go elsewhere or are refused at once, calls under way end well."""

import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.gateway import plane as planes
from tests.gateway.plane import Plane

db, demo, plane = planes.db, planes.demo, planes.plane

CHAT = "/v1/chat/completions"
PATIENCE_S = 10.0  # only ends a test that would hang: no speed is asserted


def call(plane: Plane, model: str = "sandbox-large", text: str = "Hello", **more: Any) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
    return plane.http.post(plane.url + CHAT, json=body, headers={"authorization": f"Bearer {plane.key}"})


def provider_of(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return answer.headers["x-tollhouse-provider"]


@pytest.fixture
def throw(plane):
    """Cut off by the API; whatever is still cut off afterwards is restored."""
    headers = {"authorization": f"Bearer {plane.demo['operator_key']}"}
    url = f"{plane.url}/api/v1/kill-switches/"
    thrown: list[str] = []

    def throw(kind: str, target: str) -> Callable[[], None]:
        body = {"kind": kind, "target": target, "reason": "a test"}
        answer = plane.http.post(url, json=body, headers=headers)
        assert answer.status_code == 201, answer.text
        thrown.append(answer.json()["id"])

        def restore() -> None:
            answer = plane.http.delete(f"{url}{thrown.pop()}/", headers=headers)
            assert answer.status_code == 200, answer.text

        return restore

    yield throw
    for each in thrown:
        assert plane.http.delete(f"{url}{each}/", headers=headers).status_code == 200


def seen_after(
    what: str, ask: Callable[[], httpx.Response], is_so: Callable[[httpx.Response], bool]
) -> float:
    """Ask until it is so; how long it took, in seconds, is printed and returned."""
    started = time.monotonic()
    while time.monotonic() - started < PATIENCE_S:
        answer = ask()
        if is_so(answer):
            took_s = time.monotonic() - started
            print(f"{what}: {took_s * 1000:.0f} ms")
            return took_s
    pytest.fail(f"{what}: not seen; the last answer was {answer.status_code} {answer.text[:200]}")


def test_calls_leave_a_provider_that_is_cut_off_and_come_back(plane, throw) -> None:
    usual = provider_of(call(plane, "policy:cost-optimized"))
    assert usual == "sandbox"
    restore = throw("provider", "sandbox")
    seen_after(
        "rerouted",
        lambda: call(plane, "policy:cost-optimized"),
        lambda answer: provider_of(answer) == "sandbox-eu",
    )
    assert {provider_of(call(plane)) for _ in range(20)} == {"sandbox-eu"}
    assert call(plane, "sandbox/sandbox-large").json()["error"]["code"] == "model_not_found"
    restore()
    seen_after(
        "restored",
        lambda: call(plane, "policy:cost-optimized"),
        lambda answer: provider_of(answer) == "sandbox",
    )


def test_a_model_that_is_cut_off_is_no_longer_there(plane, throw) -> None:
    restore = throw("model", "sandbox-large")
    seen_after("refused", lambda: call(plane), lambda answer: answer.status_code == 404)
    assert call(plane).json()["error"]["code"] == "model_not_found"
    assert provider_of(call(plane, "sandbox-vision"))
    models = plane.http.get(f"{plane.url}/v1/models", headers={"authorization": f"Bearer {plane.key}"}).json()
    assert "sandbox-large" not in [each["id"] for each in models["data"]]
    restore()
    seen_after("restored", lambda: call(plane), lambda answer: answer.status_code == 200)


def test_a_tenant_that_is_cut_off_is_refused_and_its_open_stream_ends_well(plane, throw) -> None:
    slow = "[[sandbox first_token_ms=1 token_ms=40 tokens=60]] go on"
    body = {"model": "sandbox-vision", "messages": [{"role": "user", "content": slow}], "stream": True}
    with plane.http.stream(
        "POST", plane.url + CHAT, json=body, headers={"authorization": f"Bearer {plane.key}"}
    ) as stream:
        assert stream.status_code == 200
        lines = stream.iter_lines()
        first = next(line for line in lines if line)
        assert first.startswith("data: {")
        throw("tenant", "acme")
        seen_after("refused", lambda: call(plane), lambda answer: answer.status_code == 403)
        assert call(plane).json()["error"]["code"] == "permission_denied"
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert not any('"error"' in line for line in rest)
    other = plane.http.post(
        plane.url + CHAT,
        json={"model": "sandbox-large", "messages": [{"role": "user", "content": "Hi"}]},
        headers={"authorization": f"Bearer {plane.other_key}"},
    )
    assert other.status_code == 200
