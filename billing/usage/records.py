"""The one sentence a call says to the ledger: a usage record, made by the pipeline and stored by `ingest`.

Plain data for the hot path. Nothing here may import Django or change a record once it is made.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

type Kind = Literal["usage", "reversal", "replacement", "rerate", "adjustment", "shadow", "eval"]
type Status = Literal["ok", "error", "cut", "cancelled", "unknown"]
type Source = Literal["provider", "estimated", "unknown"]

OVERHEAD: tuple[Kind, ...] = ("shadow", "eval")
"""Calls made for the operator's own ends: real cost, price 0, never final. `tenant_id` says for whose calls
they were made; nothing that a tenant sees or is counted against may hold them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRecord:
    """One attempt at a provider: the columns of UsageEvent in their order, `recorded_at` aside.

    `occurred_at` must be the instant in the request's UUIDv7 (`tenants.ids.instant_of`): a repeated
    record then meets the row it repeats. Token counts are disjoint: `input_tokens` leaves out the cache
    parts, `output_tokens` leaves out reasoning; `cache_write_tokens` holds both lifetimes. All other
    components (audio, images, searches …) stand in `other_units`, and beside them `cache_write_1h`: how many
    of `cache_write_tokens` live for an hour, so never add it to them. Amounts are pico-units of their
    currency, None means unpriced. `cost_components` sums to `cost_pico`. `is_final` marks the attempt
    that answered the caller, or the last that failed to. `ref_request_id` is the request whose `attempt` a
    rerate corrects; its own request_id carries the same instant, so that one attempt may have several.
    `tenant_regions` is where the tenant's data was allowed to go: names with commas between, "" for anywhere,
    None in records from before it was kept.
    """

    occurred_at: datetime
    request_id: UUID
    attempt: int = 0
    kind: Kind = "usage"
    tenant_id: UUID
    api_key_id: UUID
    plan_version_id: UUID
    feature: str = ""
    end_user: str = ""
    operation: str
    request_model: str
    model: str
    provider: str
    provider_model: str
    endpoint_id: UUID
    region: str = ""
    service_tier: str = ""
    policy: str = ""
    status: Status
    error_type: str = ""
    is_final: bool = True
    is_stream: bool = False
    is_byok: bool = False
    usage_source: Source
    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    other_units: Mapping[str, int] | None = None
    cost_pico: int | None
    cost_currency: str
    price_pico: int | None
    price_currency: str
    cost_components: Mapping[str, int] | None = None
    latency_ms: int
    first_byte_ms: int | None = None
    tags: Mapping[str, str] | None = None
    ref_request_id: UUID | None = None
    tenant_regions: str | None = None

    def as_row(self) -> tuple[Any, ...]:
        """The values in column order, JSON columns as mappings."""
        return tuple(getattr(self, name) for name in COLUMNS)


COLUMNS: tuple[str, ...] = tuple(UsageRecord.__dataclass_fields__)
"""Ledger columns that a record fills, in order."""
