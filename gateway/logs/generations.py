"""`GET /v1/generations/{id}`: what was served for one request id, from the request log."""

from typing import Any
from uuid import UUID

import orjson

from billing.rating.money import amount_text
from gateway.logs.search import find
from gateway.models import RequestLog

PRIVATE = ("cost_pico", "cost_components")


def generation_of(request_id: UUID, tenant_id: UUID, *, sees_cost: bool) -> bytes | None:
    """The call as JSON; None when it is not (yet) logged, or another tenant's."""
    row = find(request_id, tenant_ids=frozenset((tenant_id,)))
    if row is None:
        return None
    head = {"id": str(row.request_id), "object": "generation", "created": int(row.occurred_at.timestamp())}
    return orjson.dumps(head | summary_of(row, sees_cost=sees_cost) | story_of(row))


def summary_of(row: RequestLog, *, sees_cost: bool) -> dict[str, Any]:
    """The call in figures, as clients get it."""
    document: dict[str, Any] = {
        "operation": row.operation,
        "request_model": row.request_model,
        "model": row.model,
        "provider": row.provider,
        "region": row.region,
        "policy": row.policy,
        "experiment": {"name": row.experiment, "arm": row.arm} if row.experiment else None,
        "status": row.status,
        "error": {"code": row.error_code, "message": row.error_message} if row.error_code else None,
        "finish_reason": row.finish_reason,
        "is_stream": row.is_stream,
        "feature": row.feature,
        "end_user": row.end_user,
        "input_tokens": row.input_tokens,
        "output_tokens": row.output_tokens,
        "usage_source": row.usage_source,
        "price": _text(row.price_pico),
        "currency": row.price_currency,
        "latency_ms": row.latency_ms,
        "time_to_first_chunk_ms": row.first_byte_ms,
    }
    if sees_cost:
        document["cost"] = _text(row.cost_pico)
        document["cost_currency"] = row.cost_currency
    return document


def story_of(row: RequestLog) -> dict[str, Any]:
    """Where the call went, attempt by attempt, and why."""
    return {
        "tags": row.tags,
        "attempts": [
            {name: value for name, value in attempt.items() if name not in PRIVATE}
            for attempt in row.attempts
        ],
        "route": row.route,
    }


def _text(pico: int | None) -> str | None:
    """None (unpriced) stays None."""
    return None if pico is None else amount_text(pico)
