"""How many mirrored calls this worker has under way, and how many it began this minute. They come last everywhere.

A shadow that finds no room is never queued: it does not happen.
"""

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Any, Final

MAX_IN_FLIGHT: Final = 16
"""Per worker. A shadow holds a request, an answer and a connection."""
BUSY_SHARE: Final = 0.5
"""Of the calls that a worker may have under way: from here on no shadow begins."""
STOP_WAIT_S: Final = 2.0


class Shadows:
    """One worker's background calls."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._begun: Counter[str] = Counter()
        self._minute = 0
        self.dropped: Counter[str] = Counter()  # reason -> how many, for /metrics

    @property
    def in_flight(self) -> int:
        return len(self._tasks)

    def take(self, policy: str, per_minute: int, *, now: float, calls: int, max_calls: int) -> bool:
        """Whether one more may begin at `now` (unix seconds), with `calls` real ones under way; then it counts."""
        minute = int(now // 60)
        if minute != self._minute:
            self._minute = minute
            self._begun.clear()
        reason = ""
        if calls >= max_calls * BUSY_SHARE:
            reason = "busy"
        elif len(self._tasks) >= MAX_IN_FLIGHT:
            reason = "in_flight"
        elif self._begun[policy] >= per_minute:
            reason = "per_minute"
        if reason:
            self.dropped[reason] += 1
            return False
        self._begun[policy] += 1
        return True

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run it in the background; the caller's own `add_done_callback` sees how it ends."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def stop(self) -> None:
        """End them all, so that each closes its record while records can still be sent."""
        if self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks, timeout=STOP_WAIT_S)
