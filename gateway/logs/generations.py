"""`GET /v1/generations/{id}`: what was served for one request id, from the request log."""

from uuid import UUID

import orjson

from billing.rating.prices import PICO
from gateway.logs.search import find

PRIVATE = ("cost_pico", "cost_components")


def generation_of(request_id: UUID, tenant_id: UUID, *, sees_cost: bool) -> bytes | None:
    """The call as JSON; None when it is not (yet) logged, or another tenant's."""
    row = find(request_id, tenant_ids=frozenset((tenant_id,)))
    if row is None:
        return None
    document = {
        "id": str(row.request_id),
        "object": "generation",
        "created": int(row.occurred_at.timestamp()),
        "operation": row.operation,
        "request_model": row.request_model,
        "model": row.model,
        "provider": row.provider,
        "region": row.region,
        "policy": row.policy,
        "status": row.status,
        "error": {"code": row.error_code, "message": row.error_message} if row.error_code else None,
        "finish_reason": row.finish_reason,
        "is_stream": row.is_stream,
        "feature": row.feature,
        "end_user": row.end_user,
        "tags": row.tags,
        "input_tokens": row.input_tokens,
        "output_tokens": row.output_tokens,
        "usage_source": row.usage_source,
        "price": decimal(row.price_pico),
        "currency": row.price_currency,
        "latency_ms": row.latency_ms,
        "time_to_first_chunk_ms": row.first_byte_ms,
        "attempts": [
            {name: value for name, value in attempt.items() if name not in PRIVATE}
            for attempt in row.attempts
        ],
        "route": row.route,
    }
    if sees_cost:
        document["cost"] = decimal(row.cost_pico)
        document["cost_currency"] = row.cost_currency
    return orjson.dumps(document)


def decimal(pico: int | None) -> str | None:
    """Pico-units as a decimal string of the major unit, exactly; None (unpriced) stays None."""
    if pico is None:
        return None
    whole, rest = divmod(abs(pico), PICO)
    return f"{'-' if pico < 0 else ''}{whole}.{rest:012d}"
