"""Where a calendar month's amount will end, by the days so far (R28, and robust Theta). Pure, pico-units.

run_rate and seasonal_naive are exact. robust_theta is an estimate and the only place here that uses floats:
nothing that is booked may come from it. `forecast` picks the method by the length of the history, names it,
and says how far the same method was off in the past.
"""

from calendar import monthrange
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from fractions import Fraction
from statistics import median
from typing import Literal

from billing.rating.money import round_half_away

type Method = Literal["run_rate", "seasonal_naive", "robust_theta"]
type Daily = Callable[[Sequence[float], int], list[float]]
"""A history ending yesterday, and how many days from today on are wanted; the days' values."""

WEEK = 7
NAIVE_FROM_DAYS = 7
THETA_FROM_DAYS = 14

RUNNING_DAYS = 15
OUTLIER_MADS = 4.0
PROFILE_DAYS = 56
LEVEL_DAYS = 112
ALPHA = 0.3
SLOPE_DAYS = 42
LEAST_RATIO, MOST_RATIO = 0.01, 10.0
"""Of a weekday to its week: series that are mostly 0 have ratios that mean nothing."""

MAX_ORIGINS = 40
MIN_ORIGINS = 8
ORIGIN_STEP_DAYS = 3
"""Not a multiple of 7, so that past errors come from all weekdays."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How the method did at the same point of `origins` past spans of a month's length.

    `wape` is Σ|error| / Σ|actual| of the month's total; `low` and `high` are the 10 % and 90 % quantiles of
    actual / forecast.
    """

    origins: int
    wape: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """The month's total in pico-units. The interval (80 %) is None while the past is too short to know."""

    method: Method
    total_pico: int
    low_pico: int | None
    high_pico: int | None
    accuracy: Accuracy | None


def month_to_date(history: Mapping[date, int], as_of: date) -> int:
    """From the first of the month, without `as_of` itself. Days absent from the history are 0."""
    return sum(amount for day, amount in history.items() if as_of.replace(day=1) <= day < as_of)


def run_rate(history: Mapping[date, int], as_of: date) -> int | None:
    """R28: month to date / days elapsed times days in the month; None on the first day."""
    elapsed = as_of.day - 1
    if not elapsed:
        return None
    days = monthrange(as_of.year, as_of.month)[1]
    return round_half_away(Fraction(month_to_date(history, as_of) * days, elapsed))


def seasonal_naive(history: Mapping[date, int], as_of: date) -> int:
    """R28: month to date, plus each remaining day's weekday in the last complete 7 days before `as_of`."""
    remaining = monthrange(as_of.year, as_of.month)[1] - as_of.day + 1
    last_week = [history.get(as_of - timedelta(days=WEEK - offset), 0) for offset in range(WEEK)]
    return month_to_date(history, as_of) + sum(last_week[offset % WEEK] for offset in range(remaining))


def forecast(history: Mapping[date, int], as_of: date) -> Forecast | None:
    """The best that the history allows: robust Theta from 14 days on, seasonal naive from 7, else run rate.

    The history begins with its first day; later days that are absent are 0, `as_of` and what follows is
    not looked at. None without a complete day of this month or 7 days of history.
    """
    days = [day for day in history if day < as_of]
    if not days:
        return None
    first = min(days)
    series = [float(history.get(first + timedelta(days=n), 0)) for n in range((as_of - first).days)]
    so_far = month_to_date(history, as_of)
    remaining = monthrange(as_of.year, as_of.month)[1] - as_of.day + 1
    elapsed = as_of.day - 1
    if len(series) >= THETA_FROM_DAYS:
        total = so_far + round(sum(robust_theta(series, remaining)))
        accuracy = past_accuracy(series, robust_theta, elapsed=elapsed, remaining=remaining)
        return _with_interval("robust_theta", total, so_far, accuracy)
    if len(series) >= NAIVE_FROM_DAYS:
        return Forecast("seasonal_naive", seasonal_naive(history, as_of), None, None, None)
    if not elapsed:
        return None
    # A history that began within the month says nothing about the days before it.
    seen = min(elapsed, len(series))
    total = so_far + round_half_away(Fraction(so_far * remaining, seen))
    return Forecast("run_rate", total, None, None, None)


def past_accuracy(series: Sequence[float], method: Daily, *, elapsed: int, remaining: int) -> Accuracy | None:
    """Roll the origin through the past: forecast totals with `elapsed` known and `remaining` unknown days.

    None with fewer than 8 origins, each of which needs 14 days before it and what came after it.
    """
    last = len(series) - remaining
    first = max(THETA_FROM_DAYS, elapsed)
    origins = range(last, first - 1, -ORIGIN_STEP_DAYS)[:MAX_ORIGINS]
    errors = wrong = whole = 0.0
    ratios: list[float] = []
    for origin in origins:
        known = sum(series[origin - elapsed : origin])
        actual = known + sum(series[origin : origin + remaining])
        expected = known + sum(method(series[:origin], remaining))
        wrong += abs(actual - expected)
        whole += abs(actual)
        errors += 1
        if expected > 0:
            ratios.append(actual / expected)
    if errors < MIN_ORIGINS or len(ratios) < MIN_ORIGINS or not whole:
        return None
    return Accuracy(int(errors), wrong / whole, _quantile(ratios, 0.1), _quantile(ratios, 0.9))


def naive_week(series: Sequence[float], days: int) -> list[float]:
    """Seasonal naive on a series: the last week, over and over. The yardstick for other methods."""
    return [series[len(series) - WEEK + n % WEEK] for n in range(days)]


def robust_theta(series: Sequence[float], days: int) -> list[float]:
    """The next `days` values of a daily series of at least 14, ending yesterday; never below 0.

    A weekday profile is taken off and outliers are drawn in to 4 MAD of a running median (in this order, or
    weekends would pass for outliers); what is left is a level by simple exponential smoothing plus half the
    Theil-Sen slope (the Theta method's line), to which the profile is put back.
    """
    profile = _weekday_profile(series)
    flat = [value / profile[position % WEEK] for position, value in enumerate(series)]
    plain = _winsorised(flat[-LEVEL_DAYS:])
    level = plain[0]
    for value in plain[1:]:
        level += ALPHA * (value - level)
    drift = _theil_sen(plain[-SLOPE_DAYS:]) / 2
    begin = len(series)
    return [max(0.0, (level + drift * (n + 1)) * profile[(begin + n) % WEEK]) for n in range(days)]


def _winsorised(series: Sequence[float]) -> list[float]:
    """Each value within 4 median absolute deviations of the median of the 15 days around it."""
    half = RUNNING_DAYS // 2
    around = [median(series[max(0, n - half) : n + half + 1]) for n in range(len(series))]
    spread = median(abs(value - middle) for value, middle in zip(series, around, strict=True))
    reach = OUTLIER_MADS * spread
    return [
        min(max(value, middle - reach), middle + reach) if reach else value
        for value, middle in zip(series, around, strict=True)
    ]


def _weekday_profile(series: Sequence[float]) -> list[float]:
    """By position modulo 7: the median of value / centred 7-day median over 8 weeks; their mean is 1."""
    ratios: list[list[float]] = [[] for _ in range(WEEK)]
    half = WEEK // 2
    for n in range(max(half, len(series) - PROFILE_DAYS), len(series) - half):
        middle = median(series[n - half : n + half + 1])
        if middle > 0:
            ratios[n % WEEK].append(series[n] / middle)
    profile = [min(max(median(found), LEAST_RATIO), MOST_RATIO) if found else 1.0 for found in ratios]
    mean = sum(profile) / WEEK
    return [value / mean for value in profile]


def _theil_sen(values: Sequence[float]) -> float:
    """The median of the slopes between all pairs: outliers do not turn it."""
    slopes = [
        (later - earlier) / (m - n)
        for n, earlier in enumerate(values)
        for m, later in enumerate(values[n + 1 :], n + 1)
    ]
    return median(slopes) if slopes else 0.0


def _quantile(values: Sequence[float], part: float) -> float:
    """Linear between the two nearest of the sorted values."""
    ordered = sorted(values)
    place = part * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def _with_interval(method: Method, total: int, so_far: int, accuracy: Accuracy | None) -> Forecast:
    """What is spent already cannot be unspent: the interval never begins below it."""
    if accuracy is None:
        return Forecast(method, total, None, None, None)
    low, high = (round(total * factor) for factor in (accuracy.low, accuracy.high))
    return Forecast(method, total, max(so_far, min(low, total)), max(high, total), accuracy)
