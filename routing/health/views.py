"""Console pages of the providers' health: how they are now, how they were for 90 days, and the reset by hand.

Shows what `report` says and nothing else; never decides about a breaker itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone

from routing.health import history, report, store
from routing.health.history import Day
from routing.health.models import HealthSample
from routing.health.report import EndpointReport, ProviderReport
from routing.models import Endpoint, Provider
from tenants.console import ConsoleRequest, platform_room
from tenants.errors import ApiError

BAR_HEIGHT: Final = 28
LEAST_SHOWN: Final = 5
"""A day with any downtime shows at least so much red, or nobody would see it."""
SPARK_HEIGHT: Final = 20
SPARK_BIN: Final = timedelta(minutes=30)
SPARK_BINS: Final = 48
INCIDENTS_ON_OVERVIEW: Final = 20


@dataclass(frozen=True, slots=True)
class DayBar:
    """One day as a bar: what of its height is downtime, from the top."""

    x: int
    day: Day
    down: int

    @property
    def css(self) -> str:
        return "track" if self.day.uptime is None else "flow"


@dataclass(frozen=True, slots=True)
class Spark:
    """Half an hour of an endpoint: the heights of its median and 95th percentile, from the bottom."""

    x: int
    p50: int
    p95: int

    @property
    def p50_top(self) -> int:
        return SPARK_HEIGHT - self.p50

    @property
    def p95_top(self) -> int:
        return SPARK_HEIGHT - self.p95


@dataclass(frozen=True, slots=True)
class EndpointRow:
    """An endpoint with its last day."""

    report: EndpointReport
    sparks: Sequence[Spark]
    highest_ms: float | None


@dataclass(frozen=True, slots=True)
class ProviderRow:
    """A provider with its bars."""

    report: ProviderReport
    bars: Sequence[DayBar]

    @property
    def days_with_incidents(self) -> int:
        return sum(bar.day.incidents > 0 for bar in self.bars)


@platform_room("providers:read")
def health_list(request: ConsoleRequest) -> HttpResponse:
    """Every provider now and over 90 days, and the newest incidents of all."""
    reports = report.of_all(now=timezone.now())
    incidents = sorted(
        (incident for each in reports for incident in each.incidents),
        key=lambda incident: (incident.closed_at is None, incident.opened_at),
        reverse=True,
    )
    context = {
        "rows": [_row(each) for each in reports],
        "incidents": incidents[:INCIDENTS_ON_OVERVIEW],
        "is_live": all(each.is_live for each in reports),
        "height": BAR_HEIGHT,
    }
    return render(request, "routing/health_list.html", context)


@platform_room("providers:read")
def health_detail(request: ConsoleRequest, slug: str) -> HttpResponse:
    """One provider: its endpoints' breakers and figures, 90 days, what rests, its incidents."""
    provider = get_object_or_404(Provider, slug=slug)
    now = timezone.now()
    its_report = report.of_provider(provider, now=now)
    since = now - SPARK_BIN * SPARK_BINS
    samples = history.recent([each.endpoint for each in its_report.endpoints], since=since)
    context = {
        "provider": provider,
        "row": _row(its_report),
        "endpoints": [
            _endpoint_row(each, samples.get(each.endpoint.pk, ()), since) for each in its_report.endpoints
        ],
        "troubled_days": [day for day in reversed(its_report.days) if day.incidents or day.failed],
        "incidents": its_report.incidents,
        "is_live": its_report.is_live,
        "height": BAR_HEIGHT,
        "spark_height": SPARK_HEIGHT,
        "spark_bins": SPARK_BINS,
    }
    return render(request, "routing/health_detail.html", context)


@platform_room(write="providers:write")
def breaker_reset(request: ConsoleRequest, slug: str, endpoint_id: UUID) -> HttpResponse:
    """Close an endpoint's breaker by hand."""
    endpoint = get_object_or_404(
        Endpoint.objects.select_related("model", "provider"), provider__slug=slug, pk=endpoint_id
    )
    try:
        store.reset(endpoint=endpoint, actor=request.principal)
    except ApiError as error:
        messages.error(request, error.message)
    else:
        messages.success(request, f"Calls go to {endpoint.model.slug} at {slug} again.")
    return redirect("health_detail", slug)


def _row(each: ProviderReport) -> ProviderRow:
    return ProviderRow(each, [DayBar(x, day, _down(day)) for x, day in enumerate(each.days)])


def _down(day: Day) -> int:
    if not day.incidents or day.uptime is None:
        return 0
    return max(LEAST_SHOWN, round((1 - day.uptime) * BAR_HEIGHT))


def _endpoint_row(each: EndpointReport, samples: Sequence[HealthSample], since: datetime) -> EndpointRow:
    """The highest value of each half hour, against the highest of the day."""
    p50: dict[int, float] = {}
    p95: dict[int, float] = {}
    for sample in samples:
        x = min(int((sample.at - since) / SPARK_BIN), SPARK_BINS - 1)
        if sample.first_byte_p50_ms is not None and sample.first_byte_p95_ms is not None:
            p50[x] = max(p50.get(x, 0.0), sample.first_byte_p50_ms)
            p95[x] = max(p95.get(x, 0.0), sample.first_byte_p95_ms)
    highest_ms = max(p95.values(), default=None)
    scale = SPARK_HEIGHT / highest_ms if highest_ms else 0.0
    sparks = [Spark(x, max(1, round(p50[x] * scale)), max(1, round(p95[x] * scale))) for x in sorted(p95)]
    return EndpointRow(each, sparks, highest_ms)
