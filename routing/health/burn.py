"""How fast a feature spends its error budget: burn rates over several windows, after the SRE workbook. Pure.

https://sre.google/workbook/alerting-on-slos/ (multiwindow, multi-burn-rate).
"""

from collections.abc import Mapping
from typing import Final

from routing.entries import FeatureEntry
from routing.health.histogram import Tally

WINDOWS_MIN: Final = (5, 60)
"""The short window ends an alarm soon after the trouble ends, the long one keeps a blip from raising it."""

SLOW_SHARE: Final = 0.05
"""A target p95 allows this share of calls to take longer; the limit per call is held to the same share."""

MIN_CALLS: Final = 10
"""Fewer calls in the short window say nothing about a share."""

CALLS, FAILED, LATE, DEAR = "n", "e", "l", "c"


def faults_of(
    feature: FeatureEntry, *, ok: bool, latency_ms: float, cost_pico: int | None
) -> tuple[str, ...]:
    """Which promises one call broke. A call that nobody could price breaks none by its cost."""
    faults = []
    if not ok:
        faults.append(FAILED)
    if feature.target_p95_ms is not None and latency_ms > feature.target_p95_ms:
        faults.append(LATE)
    if feature.max_cost_pico is not None and cost_pico is not None and cost_pico > feature.max_cost_pico:
        faults.append(DEAR)
    return tuple(faults)


def burn_rate(feature: FeatureEntry, windows: Mapping[int, Tally]) -> float | None:
    """Error share over allowed share: 1.0 spends the budget exactly in time. None while too little is known.

    Of a promise's windows the lowest rate counts, since a rate is exceeded only where all windows exceed it; of
    several promises the worst counts. `windows` maps each of WINDOWS_MIN to what was counted in it.
    """
    if windows[WINDOWS_MIN[0]].get(CALLS, 0) < MIN_CALLS:
        return None
    rates = [
        min(tally.get(fault, 0) / max(1, tally.get(CALLS, 0)) for tally in windows.values()) / allowed
        for fault, allowed in _allowed(feature).items()
    ]
    return max(rates, default=None)


def _allowed(feature: FeatureEntry) -> Mapping[str, float]:
    allowed = {}
    if feature.target_success is not None:
        allowed[FAILED] = 1 - feature.target_success
    if feature.target_p95_ms is not None:
        allowed[LATE] = SLOW_SHARE
    if feature.max_cost_pico is not None:
        allowed[DEAR] = SLOW_SHARE
    return allowed
