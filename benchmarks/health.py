"""What the health tracker costs the hot path: CPU of `begin` and `succeeded`, of a failure, and of a beat.

`uv run python -m benchmarks.health`. Needs no service; the beat's trip to Redis is not in it.
"""

import time
from collections.abc import Callable

from routing.health.tracker import Tracker
from routing.types import ErrorKind, ProviderError
from tests.routing.targets import target

ENDPOINTS, CALLS, ROUNDS = 50, 50_000, 5
DOWN = ProviderError(ErrorKind.OVERLOADED, "down", 503)


def best_us(work: Callable[[], None], times: int) -> float:
    """The best of a few rounds, in µs of CPU per `times`."""
    took = []
    for _ in range(ROUNDS):
        began = time.process_time()
        work()
        took.append((time.process_time() - began) / times * 1e6)
    return min(took)


def main() -> None:
    targets = [target(f"e{number}") for number in range(ENDPOINTS)]
    tracker = Tracker("bench")

    def answers() -> None:
        for number in range(CALLS):
            each = targets[number % ENDPOINTS]
            tracker.begin(each)
            tracker.succeeded(each, first_byte_ms=120, latency_ms=900, output_tokens=50, headers={})

    def failures() -> None:
        for number in range(CALLS // 10):
            each = targets[number % ENDPOINTS]
            tracker.begin(each)
            tracker.failed(each, DOWN, waited_ms=5)

    def beat() -> None:
        for each in targets:
            tracker.succeeded(each, first_byte_ms=120, latency_ms=900, output_tokens=50, headers={})
        tracker.outgoing()
        tracker.alone()

    print(f"{'begin + succeeded':<32}{best_us(answers, CALLS):8.2f} us")
    print(f"{'begin + failed':<32}{best_us(failures, CALLS // 10):8.2f} us")
    print(f"{f'beat with {ENDPOINTS} busy endpoints':<32}{best_us(beat, 1):8.0f} us, four a second")


if __name__ == "__main__":
    main()
