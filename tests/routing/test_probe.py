import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from routing import credentials
from routing.models import Endpoint, Model, Provider
from routing.probe import last_probe, probe
from tenants import egress
from tenants.models import AuditEvent
from tenants.principal import SYSTEM

pytestmark = pytest.mark.django_db

KEY = "sk-probe-secret-0001"


class Upstream(BaseHTTPRequestHandler):
    """Answers every path with what the test put into `answers`, and notes what it was asked."""

    def do_GET(self) -> None:
        self.server.seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}))  # type: ignore[attr-defined]
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        status, body = self.server.answers.get(path, (404, {"error": {"message": "no such route"}}))  # type: ignore[attr-defined]
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    do_POST = do_GET  # noqa: N815 - the base class's name

    def log_message(self, *args: object) -> None:
        """Quiet."""


@contextmanager
def upstream(answers: dict[str, tuple[int, Any]]) -> Iterator[tuple[str, list[tuple[str, dict[str, str]]]]]:
    with HTTPServer(("127.0.0.1", 0), Upstream) as http:
        http.seen, http.answers = [], answers  # type: ignore[attr-defined]
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_port}", http.seen  # type: ignore[attr-defined]
        finally:
            http.shutdown()
            thread.join()


def provider(kind: str, base_url: str, *, key: str = KEY, **fields: Any) -> Provider:
    row = Provider.objects.create(slug="p", name="P", kind=kind, base_url=base_url, **fields)
    if key:
        credentials.store(provider=row, tenant=None, secret=key, label="", base_url="", actor=SYSTEM)
    return row


LISTING = {"data": [{"id": "m-1"}, {"id": "m-2"}]}
GEMINI_LISTING = {"models": [{"name": "models/m-1"}, {"name": "models/m-2"}]}
COHERE_LISTING = {"models": [{"name": "m-1"}, {"name": "m-2"}]}
LISTS: list[tuple[str, str, str, dict[str, Any], str, str]] = [
    ("openai", "/v1", "/v1/models", LISTING, "authorization", f"Bearer {KEY}"),
    ("openai_compatible", "/v1", "/v1/models", LISTING, "authorization", f"Bearer {KEY}"),
    ("anthropic", "", "/v1/models", LISTING, "x-api-key", KEY),
    ("gemini", "/v1beta", "/v1beta/models", GEMINI_LISTING, "x-goog-api-key", KEY),
    ("azure_openai", "", "/openai/models", LISTING, "api-key", KEY),
    ("mistral", "/v1", "/v1/models", LISTING, "authorization", f"Bearer {KEY}"),
    ("cohere", "/v2", "/v1/models", COHERE_LISTING, "authorization", f"Bearer {KEY}"),
]


@pytest.mark.parametrize(("kind", "base", "path", "listing", "header", "value"), LISTS)
def test_each_dialect_is_asked_for_its_models_in_its_own_way(
    kind: str, base: str, path: str, listing: dict[str, Any], header: str, value: str
) -> None:
    with upstream({path: (200, listing)}) as (address, seen):
        result = probe(provider=provider(kind, address + base), actor=SYSTEM)
    assert (result.ok, result.code, result.detail, result.models) == (True, "ok", "2 models", ("m-1", "m-2"))
    assert result.latency_ms >= 0
    assert seen[0][1][header] == value


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (401, {"error": {"message": "Incorrect API key"}}, "credential"),
        (429, {"error": {"message": "slow down"}}, "rate_limited"),
        (500, {"error": {"message": "oops"}}, "server_error"),
        (200, b"<html>", "invalid_response"),
        (200, {"data": "none"}, "invalid_response"),
        (302, {}, "invalid_response"),
    ],
)
def test_a_failure_is_reported_by_its_kind_and_never_with_the_key(status: int, body: Any, code: str) -> None:
    with upstream({"/v1/models": (status, body)}) as (address, _):
        result = probe(provider=provider("openai", f"{address}/v1"), actor=SYSTEM)
    assert (result.ok, result.code) == (False, code)
    assert KEY not in result.detail


def test_a_server_without_a_list_is_asked_for_one_token() -> None:
    answer = {
        "id": "c", "object": "chat.completion", "created": 1, "model": "m-1",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "length"}
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
    }  # fmt: skip
    with upstream({"/v1/chat/completions": (200, answer)}) as (address, seen):
        row = provider("openai_compatible", f"{address}/v1", key="")
        model = Model.objects.create(slug="m-1", name="m-1", operations=["chat"])
        Endpoint.objects.create(provider=row, model=model, provider_model="m-1")
        result = probe(provider=row, actor=SYSTEM)
    assert (result.ok, result.detail) == (True, "m-1 answered")
    assert [path for path, _ in seen] == ["/v1/models", "/v1/chat/completions"]


def test_a_server_without_a_list_and_without_endpoints_cannot_be_tested() -> None:
    with upstream({}) as (address, _):
        result = probe(provider=provider("openai_compatible", f"{address}/v1"), actor=SYSTEM)
    assert (result.ok, result.code) == (False, "no_endpoint")


def test_a_provider_without_its_key_is_not_asked() -> None:
    with upstream({}) as (address, seen):
        result = probe(provider=provider("openai", f"{address}/v1", key=""), actor=SYSTEM)
    assert (result.ok, result.code, seen) == (False, "no_credential", [])


def test_a_closed_port_is_a_connection_failure() -> None:
    with upstream({}) as (address, _):
        pass
    assert probe(provider=provider("openai", f"{address}/v1"), actor=SYSTEM).code == "connection"


@pytest.mark.parametrize(
    "base_url", ["http://169.254.169.254/v1", "http://100.100.100.200/v1", "http://[fe80::1]/v1"]
)
def test_not_even_the_operators_provider_may_sit_on_a_metadata_address(base_url: str) -> None:
    assert probe(provider=provider("openai_compatible", base_url), actor=SYSTEM).code == "url_not_allowed"


def test_the_sandbox_answers_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: object, **options: object) -> None:
        raise AssertionError("the sandbox went to the network")

    monkeypatch.setattr(egress, "fetch", unreachable)
    row = provider("sandbox", "", key="")
    model = Model.objects.create(slug="sandbox-x", name="x", operations=["chat"])
    Endpoint.objects.create(provider=row, model=model, provider_model="sandbox-x")
    assert probe(provider=row, actor=SYSTEM).detail == "sandbox-x answered"
    Endpoint.objects.update(provider_model="sandbox-x [[sandbox status=503]]")
    assert probe(provider=row, actor=SYSTEM).code == "overloaded"


def test_a_test_is_remembered_and_audited() -> None:
    row = provider("openai", "", key="")
    assert last_probe(row) is None
    result = probe(provider=row, actor=SYSTEM)
    assert last_probe(row) == result
    event = AuditEvent.objects.get(action="provider.test")
    assert (event.object_id, event.after) == ("p", {"code": "no_credential", "latency_ms": result.latency_ms})
