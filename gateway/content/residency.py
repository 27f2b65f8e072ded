"""Where a tenant's data went, from the ledger: attempts by region, provider and policy version, and each exception.

An attempt sends data, so attempts are counted, shadows and evaluations among them; tokens are net of corrections.
What was allowed is what the row recorded when the call began, not what the tenant's policy says today.
"""

# ruff: noqa: S608 - statements are put together from constants

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.db import connection

from billing.usage.partitions import LEDGER
from tenants.errors import ApiError
from tenants.models import Tenant
from tenants.spreadsheet import lines

MAX_SPAN: Final = timedelta(days=3 * 366)
MAX_EXCEPTIONS: Final = 10_000
SENT: Final = ("usage", "shadow", "eval")
"""Kinds of ledger rows that stand for something that was sent; the others correct them."""
CORRECTED: Final = ("usage", "reversal", "replacement", "shadow", "eval")

_OUTSIDE: Final = "tenant_regions <> '' AND NOT region = ANY(string_to_array(tenant_regions, ','))"
_TOKENS: Final = "input_tokens + cache_read_tokens + cache_write_tokens + output_tokens + reasoning_tokens"
_WINDOW: Final = "tenant_id = %(tenant)s AND occurred_at >= %(start)s AND occurred_at < %(end)s"
_FLOWS: Final = f"""
    SELECT region, provider, policy, tenant_regions,
        CASE WHEN kind IN ('shadow', 'eval') THEN kind ELSE 'usage' END AS purpose,
        count(DISTINCT request_id) FILTER (WHERE kind = ANY(%(sent)s)),
        count(*) FILTER (WHERE kind = ANY(%(sent)s)), coalesce(sum({_TOKENS}), 0)::bigint
    FROM {LEDGER} WHERE {_WINDOW} AND kind = ANY(%(corrected)s)
    GROUP BY region, provider, policy, tenant_regions, purpose
    ORDER BY region, provider, policy, tenant_regions NULLS FIRST, purpose DESC
"""
_EXCEPTIONS: Final = f"""
    SELECT occurred_at, request_id, attempt, kind, region, provider, model, policy, tenant_regions
    FROM {LEDGER} WHERE {_WINDOW} AND kind = ANY(%(sent)s) AND {_OUTSIDE}
    ORDER BY occurred_at, request_id, attempt LIMIT %(most)s
"""
COLUMNS: Final = (
    "region", "provider", "policy", "allowed_regions", "purpose", "calls", "attempts", "tokens", "within",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Flow:
    """What went to one region by one provider under one policy version while these regions were allowed.

    `allowed_regions`: names with commas between, "" for anywhere, None from before it was recorded. `within` is
    None where nothing was demanded or nobody knows. `purpose`: usage, shadow or eval.
    """

    region: str
    provider: str
    policy: str
    allowed_regions: str | None
    purpose: str
    calls: int
    attempts: int
    tokens: int

    @property
    def within(self) -> bool | None:
        return self.region in self.allowed_regions.split(",") if self.allowed_regions else None


@dataclass(frozen=True, slots=True)
class Stray:
    """One attempt that went outside the regions that were allowed."""

    occurred_at: datetime
    request_id: UUID
    attempt: int
    kind: str
    region: str
    provider: str
    model: str
    policy: str
    allowed_regions: str


@dataclass(frozen=True, slots=True)
class Report:
    """A tenant's report. `share_within`: of the attempts that a region was demanded of, None without any.

    `strays` are all there are, unless `has_more_strays`. `kept_in` is where this installation keeps logs and content.
    """

    start: datetime
    end: datetime
    as_of: datetime
    allowed_regions: Sequence[str]
    kept_in: str
    flows: Sequence[Flow]
    strays: Sequence[Stray]
    has_more_strays: bool

    @property
    def attempts(self) -> int:
        return sum(flow.attempts for flow in self.flows)

    @property
    def tokens(self) -> int:
        return sum(flow.tokens for flow in self.flows)

    @property
    def outside(self) -> int:
        return sum(flow.attempts for flow in self.flows if flow.within is False)

    @property
    def unrecorded(self) -> int:
        """Attempts from before the tenant's regions were recorded."""
        return sum(flow.attempts for flow in self.flows if flow.allowed_regions is None)

    @property
    def share_within(self) -> float | None:
        demanded = sum(flow.attempts for flow in self.flows if flow.within is not None)
        return (demanded - self.outside) / demanded if demanded else None


def report(*, tenant: Tenant, start: datetime, end: datetime, now: datetime, kept_in: str) -> Report:
    """Everything sent for the tenant in [start, end). Raises ApiError invalid_request."""
    if not start < end:
        raise ApiError("invalid_request", "The period must end after its start.", param="to")
    if end - start > MAX_SPAN:
        raise ApiError("invalid_request", f"A period is at most {MAX_SPAN.days} days.", param="from")
    values: dict[str, Any] = {
        "tenant": tenant.id,
        "start": start,
        "end": end,
        "sent": list(SENT),
        "corrected": list(CORRECTED),
        "most": MAX_EXCEPTIONS + 1,
    }
    with connection.cursor() as cursor:
        cursor.execute(_FLOWS, values)
        flows = [Flow(*row) for row in cursor.fetchall()]
        cursor.execute(_EXCEPTIONS, values)
        strays = [Stray(*row) for row in cursor.fetchall()]
    return Report(
        start=start,
        end=end,
        as_of=now,
        allowed_regions=sorted(tenant.region_policy),
        kept_in=kept_in,
        flows=flows,
        strays=strays[:MAX_EXCEPTIONS],
        has_more_strays=len(strays) > MAX_EXCEPTIONS,
    )


def csv_of(found: Report) -> str:
    """The flows, then the exceptions under a head of their own (RFC 4180)."""
    exceptions = tuple(Stray.__dataclass_fields__)
    return lines(
        COLUMNS,
        *([_plain(getattr(flow, name)) for name in COLUMNS] for flow in found.flows),
        (),
        exceptions,
        *([_plain(getattr(stray, name)) for name in exceptions] for stray in found.strays),
    )


def _plain(value: Any) -> Any:
    match value:
        case None:
            return "unknown"
        case bool():
            return "yes" if value else "no"
        case datetime():
            return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
    return str(value) if isinstance(value, UUID) else value
