"""A plan change in the middle of a period that was paid in advance (R10). Pure."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Literal
from zoneinfo import ZoneInfo

from billing.rating.money import to_minor

type Mode = Literal["day", "second"]


@dataclass(frozen=True, slots=True)
class Unused:
    """`unused` of `whole` days or seconds are left of the period."""

    unused: int
    whole: int

    @property
    def fraction(self) -> Fraction:
        return Fraction(self.unused, self.whole)


@dataclass(frozen=True, slots=True)
class Proration:
    """Minor units: `credit` is at most 0 for the old price, `charge` for the new one."""

    credit_minor: int
    charge_minor: int

    @property
    def net_minor(self) -> int:
        return self.credit_minor + self.charge_minor


def unused_of(
    *, period_start: datetime, period_end: datetime, change_at: datetime, timezone: str, mode: Mode
) -> Unused:
    """What is left of [period_start, period_end) at `change_at`.

    day: local calendar days; the day of change belongs to the new price. second: elapsed real seconds, so
    that a month with a clock change is longer or shorter. Naive datetimes are the zone's wall clock (the
    first of two equal times). Raises ValueError for a change outside the period, or an empty one.
    """
    zone = ZoneInfo(timezone)
    start, end, change = (_aware(moment, zone) for moment in (period_start, period_end, change_at))
    if not start <= change <= end or start == end:
        msg = f"{change_at.isoformat()} is not in the period"
        raise ValueError(msg)
    if mode == "day":
        first, last, today = (moment.astimezone(zone).date() for moment in (start, end, change))
        if first == last:
            msg = "a period within one day has no days to share"
            raise ValueError(msg)
        return Unused((last - today).days, (last - first).days)
    second = timedelta(seconds=1)
    return Unused((end - change) // second, (end - start) // second)


def prorate(
    *,
    unused: Unused,
    old_price: Decimal,
    new_price: Decimal,
    currency: str,
    old_quantity: Decimal = Decimal(1),
    new_quantity: Decimal = Decimal(1),
) -> Proration:
    """Each side rounded once to the minor unit, half away from zero."""
    credit = -to_minor(Fraction(old_price) * Fraction(old_quantity) * unused.fraction, currency)
    charge = to_minor(Fraction(new_price) * Fraction(new_quantity) * unused.fraction, currency)
    return Proration(credit, charge)


def _aware(moment: datetime, zone: ZoneInfo) -> datetime:
    """In UTC, where subtracting two instants gives the time that really passes between them."""
    return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).astimezone(UTC)
