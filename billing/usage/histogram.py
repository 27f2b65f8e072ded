"""Latency histograms that can be added up: one fixed set of bounds, so that hours, models and tenants merge.

Pure. A quantile read from buckets is off by at most one bucket's width: 15 % of its value, and nothing
below 8 ms.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence


def _bounds(*, ratio_percent: int, last_ms: int) -> tuple[int, ...]:
    bounds = [1]
    while bounds[-1] < last_ms:
        bounds.append(max(bounds[-1] + 1, -(-bounds[-1] * ratio_percent // 100)))
    return tuple(bounds)


BOUNDS_MS = _bounds(ratio_percent=115, last_ms=20 * 60 * 1000)
"""Upper bounds, inclusive, in milliseconds. Part of the data: changing them needs a rebuild of the rollup."""

OVERFLOW = len(BOUNDS_MS)
"""The bucket of everything above the last bound."""


def bucket_of(latency_ms: int) -> int:
    """The bucket that counts this latency: the first whose bound it does not exceed, or OVERFLOW."""
    return bisect_left(BOUNDS_MS, latency_ms)


def quantile(counts: Mapping[int, int] | Sequence[int], q: float) -> float | None:
    """The latency in ms below which the share `q` (0 to 1) of the counted calls lies; None without calls.

    `counts` maps a bucket to its count. Inside a bucket calls are taken to lie evenly; in OVERFLOW the
    last bound is the answer.
    """
    if not 0 <= q <= 1:
        raise ValueError(f"{q} is no share")
    items = sorted(counts.items() if isinstance(counts, Mapping) else enumerate(counts))
    total = sum(count for _, count in items)
    if total <= 0:
        return None
    rank = q * total
    seen = 0
    for bucket, count in items:
        if count > 0 and seen + count >= rank:
            if bucket >= OVERFLOW:
                return float(BOUNDS_MS[-1])
            low = BOUNDS_MS[bucket - 1] if bucket else 0
            return low + (BOUNDS_MS[bucket] - low) * (rank - seen) / count
        seen += count
    raise AssertionError("ranks end at the total")
