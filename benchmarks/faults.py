"""The fault drill: two providers of which each breaks three calls in ten, and callers who must not notice.

    uv run python -m benchmarks.faults [--calls 5000] [--concurrency 16]

Half of the calls are streams. Eight kinds of plain faults and seven of streams, as in RELIABILITY.md §10, drawn
with a fixed seed. Goals: at least 99.9 % of the calls succeed with exactly the right text, none exceeds its
deadline, and the ledger has a row for every attempt that the providers saw.
"""

import argparse
import asyncio
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.failover import Caller, Seen
from benchmarks.product import Product, product
from tests.fakes.faulty_provider import FaultyProvider, Waits, faulty

WAITS = Waits(retry_after_s=0.2, first_token_s=3.0, stall_s=8.0, silence_s=8.0, outage_s=0.0, token_gap_s=0.0)
LIMITS = {"first_byte_timeout_s": 1.0, "stall_timeout_s": 1.0, "total_timeout_s": 1.5}
DEADLINE_S = 30.0
GRACE_S = 0.5
"""For the way back of an answer that was ready in time."""
MODELS = ("mixed-a", "mixed-b")
POLICY = "drill"
MAX_ATTEMPTS = 8
"""Seven faults in a row at three in ten: once in 4,600 calls."""


@dataclass(frozen=True, slots=True)
class Drill:
    """What became of the calls; `failures` by what the client was told."""

    calls: int
    failures: Counter[str]
    slowest_s: float
    p50_s: float
    p99_s: float
    tries: Counter[str]

    @property
    def success(self) -> float:
        return 1 - self.failures.total() / self.calls

    @property
    def attempts(self) -> int:
        return self.tries.total()


async def drill(gateway: Product, wall: FaultyProvider, *, calls: int, concurrency: int) -> Drill:
    """Send them, every other one a stream, so many at a time."""
    headers = {"X-Tollhouse-Timeout-Ms": str(round(DEADLINE_S * 1000))}
    numbers = iter(range(calls))
    seen: list[Seen] = []

    async def work(caller: Caller) -> None:
        for number in numbers:
            answered = await caller.call(
                f"policy:{POLICY}", is_stream=number % 2 == 1, limit_s=DEADLINE_S + 10 * GRACE_S
            )
            seen.append(answered)

    wall.reset()
    async with Caller(gateway.url, gateway.key, extra_headers=headers) as caller:
        await asyncio.gather(*(work(caller) for _ in range(concurrency)))
    times_s = sorted(each.elapsed_s for each in seen)
    return Drill(
        calls=calls,
        failures=Counter(each.error or "a broken answer as success" for each in seen if not each.is_whole),
        slowest_s=times_s[-1],
        p50_s=times_s[len(times_s) // 2],
        p99_s=times_s[len(times_s) * 99 // 100],
        tries=Counter(each.outcome for each in wall.tries),
    )


def ledger_rows(*, wait_s: float = 30.0) -> tuple[int, int]:
    """Attempts and calls in the ledger, once every closed call has got there. Needs Django set up."""
    from billing.models import UsageEvent
    from gateway.logs import consumer

    until_s = time.monotonic() + wait_s
    while consumer.drain(budget_s=2, block_ms=500) and time.monotonic() < until_s:
        pass
    rows = UsageEvent.objects.filter(kind="usage")
    return rows.count(), rows.filter(is_final=True).count()


def tell(done: Drill, rows: tuple[int, int]) -> Sequence[tuple[str, str, bool]]:
    """Goal, measured, whether it was reached."""
    failures = ", ".join(f"{count} {name}" for name, count in done.failures.items())
    return (
        ("success ≥ 99.9 %", f"{done.success:.3%} of {done.calls} calls ({failures})", done.success >= 0.999),
        (
            f"no call over its deadline of {DEADLINE_S:g} s",
            f"slowest {done.slowest_s:.2f} s, p50 {done.p50_s:.3f} s, p99 {done.p99_s:.2f} s",
            done.slowest_s <= DEADLINE_S + GRACE_S,
        ),
        (
            "a ledger row per attempt",
            f"{rows[0]} rows, {done.attempts} attempts seen",
            rows[0] == done.attempts,
        ),
        ("a final row per call", f"{rows[1]} rows, {done.calls} calls", rows[1] == done.calls),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=5_000)
    parser.add_argument("--concurrency", type=int, default=16)
    chosen = parser.parse_args()
    with faulty(WAITS) as wall:

        def seed() -> str:
            from benchmarks.walls import open_tenant, seed_drill

            seed_drill(wall.url, POLICY, MODELS, max_attempts=MAX_ATTEMPTS, **LIMITS)
            return open_tenant()

        with product(seed) as gateway:
            done = asyncio.run(drill(gateway, wall, calls=chosen.calls, concurrency=chosen.concurrency))
            rows = ledger_rows()
    print("faults drawn: " + ", ".join(f"{count} {name}" for name, count in sorted(done.tries.items())))
    lines = tell(done, rows)
    for goal, measured, is_reached in lines:
        print(f"{'ok    ' if is_reached else 'FAILED'} {goal}: {measured}")
    if not all(is_reached for *_, is_reached in lines):
        sys.exit(1)


if __name__ == "__main__":
    main()
