"""Frozen daily exchange rates as data (R23): one row per pair and day, picked by the day a call began.

Pure and on the hot path. A pair without a rate has none: nothing here may guess, invert or chain rates.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction

from billing.rating.money import round_half_away

MAX_AGE_DAYS = 7
"""How long a rate stands in for days without one: central banks publish none at weekends and on holidays."""

EPOCH = date(1970, 1, 1).toordinal()
DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class DailyRate:
    """One unit of `base` is `rate` units of `quote` on `day` (UTC). `id` is what a row freezes."""

    base: str
    quote: str
    day: date
    rate: Decimal
    id: str = ""
    numerator: int = field(init=False)
    denominator: int = field(init=False)

    def __post_init__(self) -> None:
        numerator, denominator = self.rate.as_integer_ratio()
        if numerator <= 0:
            msg = f"a rate of {self.rate} from {self.base} to {self.quote}"
            raise ValueError(msg)
        object.__setattr__(self, "numerator", numerator)
        object.__setattr__(self, "denominator", denominator)


class FxTable:
    """Immutable. The rate of a day is that day's, else the newest before it that is not too old."""

    __slots__ = ("_days", "_rates")

    def __init__(self, rates: Iterable[DailyRate] = ()) -> None:
        pairs: dict[tuple[str, str], dict[int, DailyRate]] = defaultdict(dict)
        for rate in rates:
            pairs[rate.base, rate.quote][rate.day.toordinal()] = rate
        self._days: Mapping[tuple[str, str], list[int]] = {pair: sorted(row) for pair, row in pairs.items()}
        self._rates: Mapping[tuple[str, str], dict[int, DailyRate]] = dict(pairs)

    def rate_on(self, base: str, quote: str, day: date) -> DailyRate | None:
        """The frozen rate of a UTC day; None where there is none of the last `MAX_AGE_DAYS`."""
        return self._find(base, quote, day.toordinal())

    def rate_at(self, base: str, quote: str, at_s: float) -> DailyRate | None:
        """As `rate_on`, by the instant (unix seconds) at which a call began."""
        return self._find(base, quote, int(at_s // DAY_S) + EPOCH)

    def _find(self, base: str, quote: str, day: int) -> DailyRate | None:
        days = self._days.get((base, quote))
        if not days:
            return None
        index = bisect_right(days, day)
        if not index or day - days[index - 1] > MAX_AGE_DAYS:
            return None
        return self._rates[base, quote][days[index - 1]]


NO_RATES = FxTable()


def convert_pico(cost_pico: int, rate: Decimal | Fraction) -> int:
    """R23: one day's cost at that day's rate, rounded to pico-units, half away from zero."""
    return round_half_away(cost_pico * Fraction(rate))


def utc_day(at: datetime) -> date:
    """The day whose rate applies to a call that began `at` (aware)."""
    return at.astimezone(UTC).date()
