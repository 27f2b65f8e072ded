"""Which periods a tenant is invoiced for, and which plan version held in which part of them.

Periods tile a tenant's time without gap or overlap. They follow the plan's interval and anchor day in the
tenant's zone (R18); where either changes, the period ends early and the next begins.
"""

from calendar import monthrange
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time
from fractions import Fraction
from typing import Literal, cast
from zoneinfo import ZoneInfo

from billing.models import PlanVersion, Subscription
from billing.rating.proration import Mode, unused_of
from tenants.models import Tenant

type Interval = Literal["month", "year"]


@dataclass(frozen=True, slots=True)
class Segment:
    """[start, end) under one plan version; `end` None is open. `is_subscribed` False: the default plan's."""

    start: datetime
    end: datetime | None
    version: PlanVersion
    is_subscribed: bool
    anchor_day: int = 1
    trial_end: datetime | None = None

    @property
    def paid_from(self) -> datetime:
        """Where the base amount begins to be owed: the start, or the end of the trial."""
        return self.start if self.trial_end is None else max(self.start, self.trial_end)

    @property
    def rhythm(self) -> tuple[Interval, int]:
        return cast("Interval", self.version.interval), self.anchor_day


@dataclass(frozen=True, slots=True)
class Period:
    """[start, end) of one document, within the whole cycle that base amounts are shares of."""

    start: datetime
    end: datetime
    cycle_start: datetime
    cycle_end: datetime
    timezone: str

    def days(self, start: datetime, end: datetime, mode: Mode = "day") -> tuple[int, int]:
        """How much of the cycle lies in [start, end), in days (R10: the first one counts) or seconds, and
        how much the cycle has."""
        first, last = (
            unused_of(
                period_start=self.cycle_start,
                period_end=self.cycle_end,
                change_at=min(max(moment, self.cycle_start), self.cycle_end),
                timezone=self.timezone,
                mode=mode,
            )
            for moment in (start, end)
        )
        return first.unused - last.unused, first.whole

    def share(self, start: datetime, end: datetime, mode: Mode = "day") -> Fraction:
        return Fraction(*self.days(start, end, mode))


# ------------------------------------------------------------------ from the database


def segments_of(tenant: Tenant) -> tuple[Segment, ...]:
    """The tenant's plan versions from its beginning on, without gaps; the last one is open.

    Time without a subscription belongs to the default plan, in the version that was sold then.
    """
    rows = list(
        Subscription.objects.for_tenant(tenant).select_related("plan_version__plan").order_by("start", "id")
    )
    found: list[Segment] = []
    reached = min([tenant.created_at, *(row.start for row in rows)])
    for row in rows:
        start = max(row.start, reached)
        if row.end is not None and row.end <= start:
            continue
        if start > reached:
            found.append(_default_segment(reached, start))
        found.append(Segment(start, row.end, row.plan_version, True, row.anchor_day, trial_end=row.trial_end))
        if row.end is None:
            return tuple(found)
        reached = row.end
    return (*found, _default_segment(reached, None))


def _default_segment(start: datetime, end: datetime | None) -> Segment:
    versions = list(PlanVersion.objects.filter(plan__is_default=True).select_related("plan"))
    sold = [version for version in versions if end is None or version.created_at < end] or versions[-1:]
    return Segment(start, end, sold[0], False)  # newest first


# ------------------------------------------------------------------ periods, pure


def periods_of(segments: Sequence[Segment], timezone: str, *, until: datetime) -> Iterator[Period]:
    """All periods that begin before `until`, oldest first."""
    for number, (start, end, interval, anchor_day) in enumerate(_rhythms(segments)):
        month = start.astimezone(ZoneInfo(timezone)).month
        at = start
        while at < until and (end is None or at < end):
            cycle_start, cycle_end = cycle_of(
                at, timezone=timezone, interval=interval, anchor_day=anchor_day, anchor_month=month
            )
            if number == 0 and at == start:
                at = cycle_start  # nothing came before: the first period is a whole one
            period_end = cycle_end if end is None else min(cycle_end, end)
            yield Period(at, period_end, cycle_start, cycle_end, timezone)
            at = period_end


def period_at(segments: Sequence[Segment], timezone: str, at: datetime) -> Period | None:
    """The period that contains `at`; None before the tenant's first."""
    for period in periods_of(segments, timezone, until=max(at, segments[0].start) + _TICK):
        if period.start <= at < period.end:
            return period
    return None


def within(segments: Iterable[Segment], start: datetime, end: datetime) -> tuple[Segment, ...]:
    """The segments that touch [start, end), cut to it."""
    return tuple(
        replace(
            segment,
            start=max(segment.start, start),
            end=end if segment.end is None else min(segment.end, end),
        )
        for segment in segments
        if segment.start < end and (segment.end is None or segment.end > start)
    )


def segment_at(segments: Iterable[Segment], at: datetime) -> Segment | None:
    return next((s for s in segments if s.start <= at and (s.end is None or at < s.end)), None)


def cycle_of(
    at: datetime, *, timezone: str, interval: Interval, anchor_day: int, anchor_month: int = 1
) -> tuple[datetime, datetime]:
    """The whole month or year that contains `at`, from the anchor day's local midnight on, in UTC (R18)."""
    zone = ZoneInfo(timezone)
    today = at.astimezone(zone).date()
    step = 1 if interval == "month" else 12
    month = today.month if interval == "month" else anchor_month
    first = _anchored(today.year, month, anchor_day)
    if _midnight(first, zone) > at:
        first = _anchored(first.year, first.month - step, anchor_day)
    return _midnight(first, zone), _midnight(_anchored(first.year, first.month + step, anchor_day), zone)


_TICK = datetime.resolution


def _rhythms(
    segments: Iterable[Segment],
) -> Iterator[tuple[datetime, datetime | None, Interval, int]]:
    """Neighbouring segments of one interval and anchor day, joined."""
    held: tuple[datetime, datetime | None, Interval, int] | None = None
    for segment in segments:
        interval, anchor_day = segment.rhythm
        if held is not None and held[2:] == (interval, anchor_day):
            held = (held[0], segment.end, interval, anchor_day)
            continue
        if held is not None:
            yield held
        held = (segment.start, segment.end, interval, anchor_day)
    if held is not None:
        yield held


def _anchored(year: int, month: int, anchor_day: int) -> date:
    """The anchor day of that month, or the month's last day; months beyond 1 to 12 roll over."""
    year, month = year + (month - 1) // 12, (month - 1) % 12 + 1
    return date(year, month, min(anchor_day, monthrange(year, month)[1]))


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(), zone).astimezone(UTC)
