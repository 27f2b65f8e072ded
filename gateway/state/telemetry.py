"""What this worker has counted: the token density of each endpoint, and counters for /metrics.

Guides estimates, never money. Everything here may be lost.
"""

from collections import Counter

SMOOTHING = 0.1
DEFAULT_BYTES_PER_TOKEN = 4.0


class Telemetry:
    def __init__(self) -> None:
        self._bytes_per_token: dict[str, float] = {}
        self.counters: Counter[str] = Counter()

    def input_tokens_in(self, size_bytes: int, endpoint_id: str) -> int:
        """How many input tokens this endpoint would probably count in a request of that size."""
        density = self._bytes_per_token.get(endpoint_id, DEFAULT_BYTES_PER_TOKEN)
        return max(1, round(size_bytes / density))

    def counted(self, endpoint_id: str, *, size_bytes: int, input_tokens: int) -> None:
        """The provider counted `input_tokens` in a request of that size."""
        if input_tokens > 0:
            known = self._bytes_per_token.get(endpoint_id, DEFAULT_BYTES_PER_TOKEN)
            self._bytes_per_token[endpoint_id] = known + SMOOTHING * (size_bytes / input_tokens - known)
