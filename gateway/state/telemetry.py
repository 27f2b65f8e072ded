"""What this worker has measured: latency and token density per endpoint, and counters for /metrics.

Guides routing and estimates, never money. Everything here may be lost.
"""

from collections import Counter
from dataclasses import dataclass

SMOOTHING = 0.1
DEFAULT_BYTES_PER_TOKEN = 4.0


@dataclass(slots=True)
class EndpointStats:
    """Exponentially smoothed figures of one endpoint."""

    first_byte_ms: float | None = None
    bytes_per_token: float = DEFAULT_BYTES_PER_TOKEN


class Telemetry:
    def __init__(self) -> None:
        self._endpoints: dict[str, EndpointStats] = {}
        self.counters: Counter[str] = Counter()

    def latency_of(self, endpoint_id: str) -> float | None:
        """Smoothed time to first byte in milliseconds, None before the first success."""
        stats = self._endpoints.get(endpoint_id)
        return stats.first_byte_ms if stats else None

    def input_tokens_in(self, size_bytes: int, endpoint_id: str) -> int:
        """How many input tokens this endpoint would probably count in a request of that size."""
        stats = self._endpoints.get(endpoint_id)
        density = stats.bytes_per_token if stats else DEFAULT_BYTES_PER_TOKEN
        return max(1, round(size_bytes / density))

    def succeeded(self, endpoint_id: str, *, first_byte_ms: int, size_bytes: int, input_tokens: int) -> None:
        stats = self._endpoints.get(endpoint_id)
        if stats is None:
            stats = self._endpoints[endpoint_id] = EndpointStats()
        if stats.first_byte_ms is None:
            stats.first_byte_ms = float(first_byte_ms)
        else:
            stats.first_byte_ms += SMOOTHING * (first_byte_ms - stats.first_byte_ms)
        if input_tokens > 0:
            stats.bytes_per_token += SMOOTHING * (size_bytes / input_tokens - stats.bytes_per_token)

    def failed(self, endpoint_id: str, *, waited_ms: int) -> None:
        """A failure counts as the time it cost, so that a dead endpoint does not stay the fastest."""
        stats = self._endpoints.setdefault(endpoint_id, EndpointStats())
        penalty = max(float(waited_ms), 10 * (stats.first_byte_ms or 100.0))
        stats.first_byte_ms = (stats.first_byte_ms or 0.0) + SMOOTHING * (
            penalty - (stats.first_byte_ms or 0.0)
        )
