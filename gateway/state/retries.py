"""How much a worker may send beyond one attempt per call: retries by provider, hedges in all.

Without these bounds a provider in trouble gets the most traffic when it can bear the least. Failing over to
another target is no retry: it takes load away from the one in trouble.
"""

from collections import Counter

RETRY_SHARE = 0.2
"""Retries under way at a provider, as a share of what is under way there (Envoy's `budget_percent`)."""
MIN_RETRIES = 3
"""... and so many more, without which a quiet worker could never retry (Envoy's `min_retry_concurrency`).
https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/cluster/v3/circuit_breaker.proto"""
HEDGE_SHARE = 0.05
"""Hedges per call that might be hedged."""
MAX_HEDGES_SAVED = 10.0


class RetryBudget:
    """Counts attempts that wait for their first content, by provider slug."""

    __slots__ = ("_retries", "_under_way")

    def __init__(self) -> None:
        self._under_way: Counter[str] = Counter()
        self._retries: Counter[str] = Counter()

    def allows(self, provider: str) -> bool:
        return self._retries[provider] < MIN_RETRIES + RETRY_SHARE * self._under_way[provider]

    def begin(self, provider: str, *, is_retry: bool) -> None:
        self._under_way[provider] += 1
        if is_retry:
            self._retries[provider] += 1

    def end(self, provider: str, *, is_retry: bool) -> None:
        self._under_way[provider] -= 1
        if is_retry:
            self._retries[provider] -= 1


class HedgeBudget:
    """A token bucket: every call that might be hedged pays in HEDGE_SHARE of a hedge."""

    __slots__ = ("_saved",)

    def __init__(self) -> None:
        self._saved = 1.0

    def earn(self) -> None:
        self._saved = min(MAX_HEDGES_SAVED, self._saved + HEDGE_SHARE)

    def spend(self) -> bool:
        """Take one hedge, if one is saved."""
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True
