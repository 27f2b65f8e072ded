"""Confidence intervals for what experiments measure: shares, means, quantiles, and differences between arms. Pure.

Calls are taken for independent; where one tenant makes many of them, the true intervals are wider.
"""

from dataclasses import dataclass
from math import ceil, floor, sqrt
from statistics import NormalDist
from typing import Final

LEVEL: Final = 0.95
FEW: Final = 30
"""Below so many calls an interval of a mean or a quantile promises too much: it is left out."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its interval; `low` and `high` are None where there is too little to tell."""

    value: float
    low: float | None
    high: float | None


def z_of(level: float) -> float:
    """How many standard errors a two-sided interval of that level reaches to each side."""
    return NormalDist().inv_cdf((1 + level) / 2)


def share(successes: int, n: int, *, level: float = LEVEL) -> Estimate | None:
    """A share with Wilson's score interval (Wilson 1927), sound for few calls and shares near 1. None without calls."""
    if n == 0:
        return None
    z = z_of(level)
    p = successes / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, middle - half)
    high = 1.0 if successes == n else min(1.0, middle + half)
    return Estimate(p, low, high)


def mean(total: float, n: int, deviation: float | None, *, level: float = LEVEL) -> Estimate | None:
    """A mean from its sum and the sample's standard deviation, with the normal interval. None without calls."""
    if n == 0:
        return None
    value = total / n
    if n < FEW or deviation is None:
        return Estimate(value, None, None)
    half = z_of(level) * deviation / sqrt(n)
    return Estimate(value, value - half, value + half)


def quantile_ranks(q: float, n: int, *, level: float = LEVEL) -> tuple[int, int, int] | None:
    """Which of `n` sorted values (from 1) are the quantile and the ends of its interval. None for too few:
    below FEW, and where no value lies far enough beyond the quantile to bound it (p95: below about 110).

    The number of values below the true quantile is binomial(n, q): the interval lies between two order
    statistics, whatever the distribution (David and Nagaraja, Order Statistics, 7.1; normal approximation).
    """
    if n < FEW:
        return None
    spread = z_of(level) * sqrt(n * q * (1 - q))
    low, high = floor(n * q - spread), ceil(n * q + spread) + 1
    return (ceil(n * q), low, high) if low >= 1 and high <= n else None


def share_difference(ours: tuple[int, int], control: tuple[int, int], *, level: float) -> Estimate | None:
    """The difference of two shares, (successes, n) each, with Newcombe's hybrid score interval (1998, method 10)."""
    a, b = share(*ours, level=level), share(*control, level=level)
    if a is None or b is None or a.low is None or a.high is None or b.low is None or b.high is None:
        return None
    value = a.value - b.value
    below = sqrt((a.value - a.low) ** 2 + (b.high - b.value) ** 2)
    above = sqrt((a.high - a.value) ** 2 + (b.value - b.low) ** 2)
    return Estimate(value, value - below, value + above)


def difference(ours: Estimate | None, control: Estimate | None, *, level: float) -> Estimate | None:
    """The difference of two figures whose intervals have LEVEL, as if each were normal (Welch, without few-sample
    correction)."""
    if ours is None or control is None:
        return None
    value = ours.value - control.value
    if ours.low is None or ours.high is None or control.low is None or control.high is None:
        return Estimate(value, None, None)
    scale = z_of(level) / z_of(LEVEL)
    below = scale * sqrt((ours.value - ours.low) ** 2 + (control.high - control.value) ** 2)
    above = scale * sqrt((ours.high - ours.value) ** 2 + (control.value - control.low) ** 2)
    return Estimate(value, value - below, value + above)


def wording(found: Estimate | None) -> str:
    """What a difference says, for people: `higher`, `lower`, `no significant difference` or `too few calls`."""
    if found is None or found.low is None or found.high is None:
        return "too few calls"
    if found.low > 0:
        return "significantly higher"
    if found.high < 0:
        return "significantly lower"
    return "no significant difference"


def level_for(comparisons: int) -> float:
    """The level of each of several comparisons, so that all hold together with LEVEL (Bonferroni)."""
    return 1 - (1 - LEVEL) / max(1, comparisons)
