"""Finished calls as OpenTelemetry spans, sent by the worker: one for the call, one below it for each attempt.

Needs the extra `otel`; imported only where OTEL_EXPORTER_OTLP_ENDPOINT is set. Spans hold no content, no key
and no end user. An attempt's start is reckoned from the durations, one after the other.
"""

import hashlib
import logging
import time
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

from django.conf import settings
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from gateway.logs.ingest import LogEntry
from gateway.telemetry import names

logger = logging.getLogger(__name__)

TIMEOUT_S: Final = 2
REST_S: Final = 30.0
"""How long a collector is left alone that did not answer: the ledger must not wait for it every second."""
OUR_FAULT: Final = 500
MS: Final = 1_000_000
"""Nanoseconds in a millisecond."""


_failed_s: dict[OTLPSpanExporter, float] = {}
"""When a collector last failed, on the monotonic clock."""


def export(log: Iterable[LogEntry]) -> bool:
    """Send the calls' spans; False when they could not be sent: they are lost then.

    A caller that traces itself decides whether its call is sampled; all others are.
    """
    spans = [span for entry in log if not _unsampled(entry) for span in spans_of(entry)]
    if not spans:
        return True
    exporter = _exporter(settings.OTEL_EXPORTER_OTLP_ENDPOINT, settings.OTEL_EXPORTER_OTLP_HEADERS)
    if _failed_s.get(exporter, -REST_S) + REST_S > time.monotonic():
        return False
    if exporter.export(spans) is SpanExportResult.SUCCESS:
        return True
    _failed_s[exporter] = time.monotonic()
    logger.warning("spans are lost: the collector did not take them; the next try is in %d s", REST_S)
    return False


@lru_cache(maxsize=4)
def _exporter(endpoint: str, headers: str) -> OTLPSpanExporter:

    pairs = dict(part.strip().partition("=")[::2] for part in headers.split(",") if part.strip())
    return OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", headers=pairs, timeout=TIMEOUT_S)


def spans_of(entry: LogEntry) -> list[ReadableSpan]:
    """The call's span and its attempts'. The trace is the caller's (`traceparent`), else the request's own id."""

    begun_ns = round(entry.occurred_at.timestamp() * 1000) * MS
    trace_id, parent_id = _trace(entry)
    root_id = _span_id(entry, 0)
    root = _span(
        f"{_operation(entry)} {entry.request_model}",
        ids=(trace_id, root_id, parent_id),
        kind=SpanKind.SERVER,
        times=(begun_ns, begun_ns + entry.latency_ms * MS),
        error=entry.error_code if entry.status >= OUR_FAULT else "",
        attributes=_of_call(entry),
    )
    spans = [root]
    at_ns = begun_ns
    for number, attempt in enumerate(entry.attempts, 1):
        until_ns = at_ns + (attempt.get("latency_ms") or 0) * MS
        spans.append(
            _span(
                f"{_operation(entry)} {attempt.get('model')}",
                ids=(trace_id, _span_id(entry, number), root_id),
                kind=SpanKind.CLIENT,
                times=(at_ns, until_ns),
                error=str(attempt.get("error") or ""),
                attributes=_of_attempt(entry, number, attempt),
            )
        )
        at_ns = until_ns
    return spans


def _of_call(entry: LogEntry) -> dict[str, Any]:
    return {
        names.OPERATION: _operation(entry),
        names.REQUEST_MODEL: entry.request_model,
        names.RESPONSE_MODEL: entry.model,
        names.PROVIDER: entry.provider,
        names.FINISH_REASONS: [entry.finish_reason] if entry.finish_reason else [],
        names.INPUT_TOKENS: entry.input_tokens,
        names.OUTPUT_TOKENS: entry.output_tokens,
        names.HTTP_METHOD: "POST",
        names.HTTP_STATUS: entry.status,
        names.ERROR_TYPE: entry.error_code,
        names.TENANT: str(entry.tenant_id),
        names.FEATURE: entry.feature,
        names.POLICY: entry.policy,
        names.REGION: entry.region,
        names.PRICE_PICO: entry.price_pico,
        names.PRICE_CURRENCY: entry.price_currency,
    }


def _of_attempt(entry: LogEntry, number: int, attempt: Mapping[str, Any]) -> dict[str, Any]:
    units = attempt.get("units") or {}
    return {
        names.OPERATION: _operation(entry),
        names.PROVIDER: attempt.get("provider"),
        names.REQUEST_MODEL: attempt.get("model"),
        names.REGION: attempt.get("region"),
        names.ATTEMPT: number,
        names.HTTP_STATUS: attempt.get("http_status"),
        names.ERROR_TYPE: attempt.get("error"),
        names.CACHE_READ_TOKENS: units.get("cache_read"),
        names.COST_PICO: attempt.get("cost_pico"),
        names.COST_CURRENCY: entry.cost_currency,
    }


def _operation(entry: LogEntry) -> str:
    return names.OPERATION_NAMES.get(entry.operation, entry.operation)


def _unsampled(entry: LogEntry) -> bool:
    return str(entry.route.get("traceparent") or "").endswith("-00")


def _trace(entry: LogEntry) -> tuple[int, int | None]:
    """Trace and parent span from the caller's `traceparent` (W3C), already checked where it came in."""
    given = str(entry.route.get("traceparent") or "")
    if not given:
        return entry.request_id.int, None
    _, trace, parent, _ = given.split("-")
    return int(trace, 16), int(parent, 16)


def _span_id(entry: LogEntry, number: int) -> int:
    """The same call has the same spans, however often it is sent."""
    digest = hashlib.blake2b(entry.request_id.bytes + bytes((number,)), digest_size=8).digest()
    return int.from_bytes(digest) or 1


def _span(
    name: str,
    *,
    ids: tuple[int, int, int | None],
    kind: Any,
    times: tuple[int, int],
    error: str,
    attributes: Mapping[str, Any],
) -> ReadableSpan:

    trace_id, span_id, parent_id = ids
    flags = TraceFlags(TraceFlags.SAMPLED)
    parent = (
        None if parent_id is None else SpanContext(trace_id, parent_id, is_remote=True, trace_flags=flags)
    )
    return ReadableSpan(
        name,
        context=SpanContext(trace_id, span_id, is_remote=False, trace_flags=flags),
        parent=parent,
        resource=Resource({"service.name": "tollhouse"}),
        attributes={key: value for key, value in attributes.items() if value not in (None, "", [])},
        kind=kind,
        instrumentation_scope=InstrumentationScope("tollhouse"),
        status=Status(StatusCode.ERROR, error) if error else Status(StatusCode.UNSET),
        start_time=times[0],
        end_time=times[1],
    )
