"""Reading the request log: filters, keyset pages, one call's story. Never counts, never reads unbounded time.

Every query names a period, so that PostgreSQL opens only the days it needs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Q

from gateway.models import RequestLog
from tenants.ids import instant_of

CANCELLED = 499
STATUS_FILTERS: Mapping[str, Q] = {
    "ok": Q(status__lt=400),
    "error": Q(status__gte=400) & ~Q(status=CANCELLED),
    "cancelled": Q(status=CANCELLED),
    "4xx": Q(status__gte=400, status__lt=500) & ~Q(status=CANCELLED),
    "5xx": Q(status__gte=500),
}


@dataclass(frozen=True, slots=True)
class Filters:
    """What to look for between `start` (inclusive) and `end` (exclusive). Empty texts match everything.

    `tenant_ids` None means every tenant: only for principals who may see all.
    """

    tenant_ids: frozenset[UUID] | None
    start: datetime
    end: datetime
    model: str = ""
    provider: str = ""
    status: str = ""
    api_key_id: UUID | None = None
    experiment: str = ""
    arm: str = ""


@dataclass(frozen=True, slots=True)
class LogPage:
    """Calls, newest first. `next_cursor` (a request id, which carries its time) is empty at the end."""

    rows: Sequence[RequestLog]
    next_cursor: str


def search(*, filters: Filters, cursor: UUID | None, size: int) -> LogPage:
    """One page in one query, without a count."""
    rows = RequestLog.objects.filter(occurred_at__gte=filters.start, occurred_at__lt=filters.end)
    if filters.tenant_ids is not None:
        rows = rows.filter(tenant_id__in=filters.tenant_ids)
    if filters.model:
        rows = rows.filter(Q(model=filters.model) | Q(request_model=filters.model))
    if filters.provider:
        rows = rows.filter(provider=filters.provider)
    if filters.status:
        rows = rows.filter(STATUS_FILTERS.get(filters.status) or Q(error_code=filters.status))
    if filters.api_key_id is not None:
        rows = rows.filter(api_key_id=filters.api_key_id)
    if filters.experiment:
        rows = rows.filter(experiment=filters.experiment)
        if filters.arm:
            rows = rows.filter(arm=filters.arm)
    if cursor is not None:
        moment = instant_of(cursor)
        rows = rows.filter(occurred_at__lte=moment).filter(
            Q(occurred_at__lt=moment) | Q(occurred_at=moment, request_id__lt=cursor)
        )
    found = list(
        rows.select_related("tenant")
        .defer("attempts", "route", "tags")
        .order_by("-occurred_at", "-request_id")[: size + 1]
    )
    return LogPage(found[:size], str(found[size - 1].request_id) if len(found) > size else "")


def find(request_id: UUID, *, tenant_ids: frozenset[UUID] | None) -> RequestLog | None:
    """One call, if it is still kept and belongs to these tenants. The id's own time names the partition."""
    if request_id.version != 7:
        return None
    rows = RequestLog.objects.filter(occurred_at=instant_of(request_id), request_id=request_id)
    if tenant_ids is not None:
        rows = rows.filter(tenant_id__in=tenant_ids)
    return rows.select_related("tenant").first()


def recent_errors(
    *, tenant_ids: frozenset[UUID] | None, now: datetime, within: timedelta, size: int
) -> Sequence[RequestLog]:
    """The newest failed calls; those whose client left are none."""
    filters = Filters(tenant_ids=tenant_ids, start=now - within, end=now, status="error")
    return search(filters=filters, cursor=None, size=size).rows


def was_ever_called(*, tenant_ids: frozenset[UUID] | None) -> bool:
    """Whether the log holds any call of these tenants."""
    rows = RequestLog.objects.all()
    if tenant_ids is not None:
        rows = rows.filter(tenant_id__in=tenant_ids)
    return rows.exists()


# ------------------------------------------------------------------ one call's story


@dataclass(frozen=True, slots=True)
class Component:
    """One priced part of an attempt: how many units, and what the provider charged for them together."""

    name: str
    units: int
    cost_pico: int | None


@dataclass(frozen=True, slots=True)
class Span:
    """One attempt in the waterfall. Shares are percent of the whole call; `wait` ends at the
    first byte, and is nothing for an answer that came whole."""

    number: int
    provider: str
    model: str
    region: str
    status: str
    error: str
    http_status: int
    start_ms: int
    latency_ms: int
    first_byte_ms: int | None
    start_share: str
    wait_share: str
    flow_share: str
    flow_start_share: str
    cost_pico: int | None
    components: Sequence[Component]

    @property
    def is_ok(self) -> bool:
        return self.status == "ok"


def spans_of(log: RequestLog) -> Sequence[Span]:
    """The attempts, one after the other, on the scale of the whole call."""
    whole = max(log.latency_ms, sum(attempt["latency_ms"] for attempt in log.attempts), 1)
    spans = []
    start = 0
    for number, attempt in enumerate(log.attempts, 1):
        latency = attempt["latency_ms"]
        first_byte = attempt.get("first_byte_ms")
        wait = 0 if first_byte is None else min(first_byte, latency)
        spans.append(
            Span(
                number=number,
                provider=attempt["provider"],
                model=attempt["model"],
                region=attempt["region"],
                status=attempt["status"],
                error=attempt["error"],
                http_status=attempt.get("http_status") or 0,
                start_ms=start,
                latency_ms=latency,
                first_byte_ms=first_byte,
                start_share=_share(start, whole),
                wait_share=_share(wait, whole),
                flow_start_share=_share(start + wait, whole),
                flow_share=_share(latency - wait, whole),
                cost_pico=attempt.get("cost_pico"),
                components=_components(attempt),
            )
        )
        start += latency
    return spans


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.3f}"


def _components(attempt: Mapping[str, Any]) -> Sequence[Component]:
    units = attempt.get("units") or {}
    costs = attempt.get("cost_components")
    # Reasoning without a rate of its own is costed inside output, so a name may stand in one map alone.
    names = list(dict.fromkeys((*units, *(costs or {}))))
    return [
        Component(name, units.get(name, 0), costs.get(name) if costs is not None else None) for name in names
    ]


def headers_of(log: RequestLog) -> Sequence[tuple[str, str]]:
    """The response headers the caller got, to quote to support (API.md)."""
    attempts = ",".join(
        f"{each['provider']}:{each.get('http_status') or each['error']}" for each in log.attempts
    )
    headers = (
        ("X-Request-Id", str(log.request_id)),
        ("X-Tollhouse-Provider", log.provider),
        ("X-Tollhouse-Model", log.model),
        ("X-Tollhouse-Region", log.region),
        ("X-Tollhouse-Policy", log.policy),
        ("X-Tollhouse-Attempts", attempts),
    )
    return [(name, value) for name, value in headers if value]
