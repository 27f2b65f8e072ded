import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from uuid import UUID

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.trace import SpanKind, StatusCode

from gateway.logs.ingest import LogEntry
from gateway.telemetry import traces

AT = datetime(2026, 11, 1, 12, tzinfo=UTC)
NIL = UUID(int=0)
REQUEST = UUID("019a4000-0000-7000-8000-000000000001")
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def an_entry(**changes):
    failed = {"error": "timeout", "http_status": 0, "latency_ms": 400, "units": {}, "cost_pico": 0}
    served = {"error": "", "http_status": 200, "latency_ms": 600, "units": {"cache_read": 3}, "cost_pico": 9}
    attempts = [
        {"provider": "acme", "model": "a-1", "region": "eu", **failed},
        {"provider": "other", "model": "b-1", "region": "eu", **served},
    ]
    fields = {
        "occurred_at": AT, "request_id": REQUEST, "tenant_id": NIL, "api_key_id": NIL, "operation": "chat",
        "request_model": "policy:x", "model": "b-1", "provider": "other", "status": 200, "latency_ms": 1_000,
        "finish_reason": "stop", "input_tokens": 5, "output_tokens": 2, "end_user": "somebody", "attempts": attempts,
        "cost_currency": "USD", "price_pico": 12, "price_currency": "USD", "tags": {"secret": "tag"},
    }  # fmt: skip
    return LogEntry(**{**fields, **changes})


@pytest.fixture
def collector(settings):
    """A real OTLP receiver; `status` is what it answers."""
    taken = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            taken.append((self.path, dict(self.headers), ExportTraceServiceRequest.FromString(body)))
            self.send_response(server.status)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.status, server.taken = 200, taken
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    settings.OTEL_EXPORTER_OTLP_ENDPOINT = f"http://127.0.0.1:{server.server_port}"
    settings.OTEL_EXPORTER_OTLP_HEADERS = "x-team=red"
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_call_is_a_span_with_its_attempts_below():
    call, first, second = traces.spans_of(an_entry())
    assert (call.name, call.kind, call.parent) == ("chat policy:x", SpanKind.SERVER, None)
    assert call.context.trace_id == REQUEST.int
    assert call.end_time - call.start_time == 1_000_000_000
    assert [span.parent.span_id for span in (first, second)] == [call.context.span_id] * 2
    assert (first.status.status_code, second.status.status_code) == (StatusCode.ERROR, StatusCode.UNSET)
    assert first.end_time == second.start_time
    assert second.attributes["gen_ai.provider.name"] == "other"
    assert second.attributes["tollhouse.cost_pico"] == 9
    assert len({span.context.span_id for span in (call, first, second)}) == 3


def test_a_call_hangs_below_its_callers_trace():
    call, *_ = traces.spans_of(an_entry(route={"traceparent": PARENT}))
    assert f"{call.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert f"{call.parent.span_id:016x}" == "b7ad6b7169203331"
    assert call.parent.is_remote


def test_spans_tell_nothing_of_people():
    for span in traces.spans_of(an_entry()):
        assert "somebody" not in span.to_json()
        assert "secret" not in span.to_json()


def test_spans_arrive_at_a_collector(collector):
    assert traces.export([an_entry()])
    ((path, headers, request),) = collector.taken
    assert (path, headers["x-team"]) == ("/v1/traces", "red")
    (resource,) = request.resource_spans
    assert [span.name for span in resource.scope_spans[0].spans] == ["chat policy:x", "chat a-1", "chat b-1"]


def test_what_its_caller_does_not_sample_is_not_sent(collector):
    assert traces.export([an_entry(route={"traceparent": PARENT[:-2] + "00"})])
    assert collector.taken == []


def test_a_collector_that_refuses_is_left_alone_for_a_while(collector):
    collector.status = 400
    assert not traces.export([an_entry()])
    collector.status = 200
    assert not traces.export([an_entry()])
    assert len(collector.taken) == 1
