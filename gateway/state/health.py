"""What the providers have lately been like: every attempt is told to it, and the planner reads `view`.

Guides routing, never money. Everything here may be lost.
"""

from collections.abc import Mapping

from routing.types import EndpointHealth, Health, ProviderError, Target

SMOOTHING = 0.1


class HealthTracker:
    """One worker's picture of the endpoints."""

    def __init__(self) -> None:
        self._first_byte_ms: dict[str, float] = {}
        self._endpoints: dict[str, EndpointHealth] = {}
        self.view = Health(endpoints=self._endpoints)

    def succeeded(
        self,
        target: Target,
        *,
        first_byte_ms: int,
        latency_ms: int,
        output_tokens: int,
        headers: Mapping[str, str],
    ) -> None:
        """An attempt answered. `headers` are the reply's, names in lower case."""
        known = self._first_byte_ms.get(target.endpoint_id)
        self._set(
            target.endpoint_id,
            float(first_byte_ms) if known is None else known + SMOOTHING * (first_byte_ms - known),
        )

    def failed(self, target: Target, error: ProviderError, *, waited_ms: int) -> None:
        """An attempt failed. The time it cost counts, so that a dead endpoint does not stay the fastest."""
        known = self._first_byte_ms.get(target.endpoint_id)
        penalty = max(float(waited_ms), 10 * (known or 100.0))
        self._set(target.endpoint_id, (known or 0.0) + SMOOTHING * (penalty - (known or 0.0)))

    def _set(self, endpoint_id: str, first_byte_ms: float) -> None:
        self._first_byte_ms[endpoint_id] = first_byte_ms
        self._endpoints[endpoint_id] = EndpointHealth(first_byte_p50_ms=first_byte_ms)
