"""From closed shadows to `ShadowSample`: figures alone. Must never hold a prompt or an answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from gateway.experiments.models import ShadowSample
from routing.types import Usage

MEASURED = (
    "is_json_valid",
    "scoring",
    "score",
    "of_request_id",
    "of_provider",
    "of_model",
    "of_status",
    "of_latency_ms",
    "of_cost_pico",
    "of_cost_currency",
    "of_is_json_valid",
)
"""What the shadow itself tells (`Call.sample`), beside the policy and the rollout it was made for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleEntry:
    """One mirrored call: the columns of ShadowSample."""

    request_id: UUID
    occurred_at: datetime
    tenant_id: UUID
    of_request_id: UUID
    policy: str
    rollout: str
    operation: str
    provider: str
    model: str
    region: str
    status: int
    error_code: str
    input_tokens: int
    output_tokens: int
    latency_ms: int
    cost_pico: int | None
    cost_currency: str
    is_json_valid: bool | None
    scoring: str
    score: float | None
    of_provider: str
    of_model: str
    of_status: int
    of_latency_ms: int
    of_cost_pico: int | None
    of_cost_currency: str
    of_is_json_valid: bool | None


def sample_of(
    request_id: UUID,
    occurred_at: datetime,
    shared: Sequence[Any],
    attempts: Sequence[Sequence[Any]],
    log: Sequence[Any],
    told: Mapping[str, Any],
) -> SampleEntry:
    """A sample out of a closed record's parts; see pipeline.record.encode. Raises ValueError or KeyError."""
    last = attempts[-1] if attempts else None
    usage = Usage(last[10] if last else {})
    costs = [row[11] for row in attempts]
    return SampleEntry(
        request_id=request_id,
        occurred_at=occurred_at,
        tenant_id=UUID(shared[0]),
        policy=shared[9],
        rollout=told["rollout"],
        operation=shared[6],
        provider=last[2] if last else told["provider"],
        model=last[1] if last else told["model"],
        region=last[5] if last else told["region"],
        status=log[0],
        error_code=log[1],
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        latency_ms=log[6],
        cost_pico=None if None in costs else sum(costs),
        cost_currency=last[12] if last else told["of_cost_currency"],
        **{name: told[name] for name in MEASURED if name != "of_request_id"},
        of_request_id=UUID(told["of_request_id"]),
    )


def store(entries: Sequence[SampleEntry]) -> None:
    """Store a batch; a sample that is there already stays as it is."""
    if entries:
        ShadowSample.objects.bulk_create(
            [ShadowSample(**{name: getattr(entry, name) for name in COLUMNS}) for entry in entries],
            ignore_conflicts=True,
        )


COLUMNS: tuple[str, ...] = tuple(SampleEntry.__dataclass_fields__)
