"""Keeping upstream calls within the providers' rate limits: all workers of a house take their slots from one Redis.

A quota is what one credential may do with one model (`Target.quota_key`). Its limits come from the provider's
headers, or from the credential until these speak. Who finds no slot at once waits here, briefly and in a fair
order, or is told when one would come. Nothing is queued without bound, and a quota without a known limit costs
one dictionary look-up. Everything here may be lost: the provider's 429 stays the last word.
"""

import asyncio
import heapq
import itertools
import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import orjson

from billing.snapshot import Terms
from gateway.state.redis import RedisPipe, RedisReplyError, RedisUnavailable, Script
from routing.providers.limits import WINDOWS_S, LimitState, read_limits, tells_limits
from routing.types import Headers, Target

logger = logging.getLogger(__name__)

STATE: Final = "th:pace:{}"
KNOWN, CHANGED, WORKERS = "th:pace:known", "th:pace:changed", "th:pace:workers"
MAX_WAITING: Final = 1_000
MAX_ASKED: Final = 64
MAX_LENT: Final = 32
USABLE_SHARE: Final = 0.01
"""How late a slot may be used, as a share of its window; pace.lua keeps twice as much clear."""
FLUSH_S: Final = 0.2
BELIEVED_S: Final = 0.05
GRACE_S: Final = 2.0
"""Nobody waits longer than this beyond what was allowed, whatever becomes of Redis's answers."""
LISTEN_S: Final = 0.05
FRESH_REMAINING_MS: Final = 5_000
IDLE_S: Final = 3_600.0
WORKER_TTL_S: Final = 5.0
DEFAULT_PAUSE_S: Final = 1.0
DEFAULT_WEIGHT: Final = 10


class Level(IntEnum):
    """Who goes first when a provider's rate limit is short. A level waits for all levels above it."""

    INTERACTIVE = 0
    FREE = 1
    BATCH = 2
    SHADOW = 3


@dataclass(frozen=True, slots=True)
class Priority:
    """Whose turn it is: within a level, tenants share by weight, whatever each has waiting."""

    level: Level = Level.INTERACTIVE
    tenant: str = ""
    weight: int = DEFAULT_WEIGHT  # 1 to 100


DEFAULT_PRIORITY: Final = Priority()
_LEVELS: Final = {"interactive": Level.INTERACTIVE, "free": Level.FREE, "batch": Level.BATCH}


def priority_of(terms: Terms, tenant_id: UUID, *, is_shadow: bool = False) -> Priority:
    """As the tenant's plan has it; a mirrored call waits for everybody else."""
    level = Level.SHADOW if is_shadow else _LEVELS[terms.priority]
    return Priority(level, str(tenant_id), terms.priority_weight)


class Saturated(Exception):
    """The quota has no slot within the time allowed; in `retry_after_s` there may be one."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"the rate limit is used up for {retry_after_s:.1f} s")
        self.retry_after_s = retry_after_s


@dataclass(slots=True)
class Slot:
    """The right to send one call now. `amounts`: what it was counted as, per meter."""

    quota_key: str
    stamp_ms: int  # Redis time under which it was counted; 0: Redis was away
    amounts: dict[str, int]


type _Meters = dict[str, tuple[int, int]]
"""What is counted -> (limit, window in ms)."""


class _Waiter:
    """A call that waits for its slot. Ordered by level, then by its tenant's fair share, then by arrival."""

    __slots__ = ("amounts", "deadline_s", "future", "is_asked", "order", "priority")

    def __init__(
        self,
        future: asyncio.Future[Slot],
        amounts: dict[str, int],
        deadline_s: float,
        priority: Priority,
        order: tuple[int, float, int],
    ) -> None:
        self.future = future
        self.amounts = amounts
        self.deadline_s = deadline_s
        self.priority = priority
        self.order = order
        self.is_asked = False

    def __lt__(self, other: "_Waiter") -> bool:
        return self.order < other.order


class _Quota:
    """One worker's side of one quota."""

    __slots__ = (
        "configured",
        "corrections",
        "fair",
        "flush",
        "free_at_s",
        "full",
        "is_asking",
        "is_scheduled",
        "key",
        "learned",
        "lent",
        "meters",
        "news",
        "next_learn_s",
        "pause_ms",
        "paused_until_s",
        "seen",
        "slots",
        "takes",
        "takes_per_s",
        "takes_since_s",
        "timer",
        "turn",
        "used_s",
        "waiting",
    )

    def __init__(self, key: str, now_s: float) -> None:
        self.key = key
        self.configured: _Meters = {}
        self.learned: _Meters = {}
        self.meters: _Meters = {}
        self.waiting: list[_Waiter] = []  # a heap; those whose future is done are skipped
        self.slots: list[tuple[float, int, dict[str, int]]] = []  # (loop time, stamp, amounts), a heap
        self.lent: deque[tuple[int, float, dict[str, int]]] = deque()  # (stamp, usable until, amounts)
        self.corrections: list[tuple[str, int, int]] = []
        self.seen: dict[str, int] = {}
        self.pause_ms = 0
        self.paused_until_s = 0.0  # loop time
        self.news = False
        self.is_asking = False
        self.is_scheduled = False
        self.timer: asyncio.TimerHandle | None = None
        self.flush: asyncio.TimerHandle | None = None
        self.next_learn_s = 0.0
        self.used_s = now_s
        self.takes = 0
        self.takes_per_s = 0.0
        self.takes_since_s = now_s
        self.full: tuple[float, float, dict[str, int]] | None = None  # (believed until, slot at, amounts)
        self.free_at_s = 0.0  # pacing by this worker alone, while Redis is away
        self.fair: dict[tuple[int, str], float] = {}  # (level, tenant) -> where its share ends
        self.turn = 0.0  # how far the shares have been served

    @property
    def usable_s(self) -> float:
        window_ms = min((window for _, window in self.meters.values()), default=60_000)
        return window_ms / 1000 * USABLE_SHARE


class Pace:
    """Upstream pacing of one worker. Belongs to one event loop."""

    def __init__(self, pipe: RedisPipe, worker: str) -> None:
        self._pipe = pipe
        self._worker = worker
        self._script = Script((Path(__file__).parent / "scripts" / "pace.lua").read_text())
        self._quotas: dict[str, _Quota] = {}
        self._arrivals = itertools.count()
        self._seen_change_ms = 0
        self.workers = 1
        """Workers that were heard of lately; each paces alone by its share while Redis is away."""

    # ------------------------------------------------------------------ what calls need

    def governs(self, target: Target) -> bool:
        """Whether a call to `target` must `take` a slot first. No I/O; False until a limit is known."""
        return (
            target.quota_key in self._quotas or target.limit_rpm is not None or target.limit_tpm is not None
        )

    async def take(
        self,
        target: Target,
        *,
        tokens: int,
        wait_s: float,
        priority: Priority = DEFAULT_PRIORITY,
        output_tokens: int = 0,
    ) -> Slot:
        """Wait at most `wait_s` for the right to send one call. Raises Saturated as soon as that is too short.

        `tokens`: estimate of input and output together, `output_tokens` of them output; put right by `settle`.
        """
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        quota = self._quota_of(target, now_s)
        quota.used_s = now_s
        quota.takes += 1
        amounts = _amounts(quota.meters, tokens, output_tokens)
        if quota.paused_until_s - now_s > wait_s:
            raise Saturated(quota.paused_until_s - now_s)
        if not quota.meters and quota.paused_until_s <= now_s:
            return Slot(quota.key, 0, {})
        if not quota.waiting:
            while quota.lent:
                stamp_ms, until_s, counted = quota.lent.popleft()
                if now_s <= until_s:
                    self._correct(quota, stamp_ms, counted, amounts)
                    return Slot(quota.key, stamp_ms, amounts)
                self._correct(quota, stamp_ms, counted, {})
        if len(quota.waiting) >= MAX_WAITING:
            raise Saturated(1.0)
        order = self._order_of(quota, priority)
        waiter = _Waiter(loop.create_future(), amounts, now_s + wait_s, priority, order)
        self._refuse_when_full(quota, waiter, now_s, wait_s)
        heapq.heappush(quota.waiting, waiter)
        self._schedule(quota)
        try:
            async with asyncio.timeout_at(waiter.deadline_s + GRACE_S):
                return await waiter.future
        except asyncio.CancelledError:
            self._left(quota, waiter)
            raise
        except TimeoutError:
            self._left(quota, waiter)
            raise Saturated(DEFAULT_PAUSE_S) from None

    def settle(self, slot: Slot, *, tokens: int, output_tokens: int = 0) -> None:
        """Count what the call really took instead of its estimate."""
        quota = self._quotas.get(slot.quota_key)
        if quota is None or not slot.stamp_ms:
            return
        real = _amounts(quota.meters, tokens, output_tokens)
        self._correct(quota, slot.stamp_ms, slot.amounts, real)
        slot.amounts = real

    def give_back(self, slot: Slot) -> None:
        """The call was never sent."""
        quota = self._quotas.get(slot.quota_key)
        if quota is None or not slot.stamp_ms:
            return
        self._correct(quota, slot.stamp_ms, slot.amounts, {})
        slot.amounts = {}

    def learn(
        self,
        target: Target,
        status: int,
        headers: Headers,
        *,
        retry_after_s: float | None = None,
        waited_ms: int = 0,
    ) -> None:
        """Heed what a reply tells. `retry_after_s`: of its body, for providers that put it there; `waited_ms`:
        how old its counts are, since they were taken when the provider received the call."""
        if not target.quota_key or (status != 429 and not tells_limits(headers)):
            return
        now_s = asyncio.get_running_loop().time()
        quota = self._quotas.get(target.quota_key)
        if quota is not None and status != 429:
            if now_s < quota.next_learn_s:
                return
            quota.next_learn_s = now_s + LISTEN_S
        state = read_limits(target.kind, status, headers, time.time()) or LimitState()
        meters: _Meters = {
            name: (allowance.limit, round(allowance.window_s * 1000))
            for name, allowance in state.allowances
            # A daily quota is not spread over the day: it is spent as it comes, and a 429 tells its end.
            if allowance.window_s <= WINDOWS_S[0]
        }
        if not meters and status != 429:
            return
        quota = self._quota_of(target, now_s)
        quota.used_s = now_s
        if meters and not meters.items() <= quota.learned.items():
            quota.learned = {**quota.learned, **meters}
            quota.meters = _merged(quota)
            quota.news = True
        if waited_ms <= FRESH_REMAINING_MS:
            for name, allowance in state.allowances:
                if name in meters and allowance.remaining is not None:
                    quota.seen[name] = allowance.limit - allowance.remaining
        if status == 429:
            wait_s = next((w for w in (state.retry_after_s, retry_after_s) if w is not None), DEFAULT_PAUSE_S)
            if now_s + wait_s > quota.paused_until_s:
                quota.paused_until_s = now_s + wait_s
                quota.pause_ms = round(wait_s * 1000)
                quota.news = True
            self._schedule(quota)
        else:
            self._flush_soon(quota)

    def lent(self, target: Target) -> int:
        """Slots that this worker holds ahead of the calls that will take them."""
        quota = self._quotas.get(target.quota_key)
        return 0 if quota is None else len(quota.lent)

    async def refresh(self) -> None:
        """Once a second: say that this worker lives, hear what others learned, forget quotas out of use.

        Raises RedisUnavailable and RedisReplyError.
        """
        now = time.time()
        counted = await asyncio.gather(
            self._pipe.call("ZADD", WORKERS, int(now), self._worker),
            self._pipe.call("ZREMRANGEBYSCORE", WORKERS, "-inf", int(now - WORKER_TTL_S)),
            self._pipe.call("ZCARD", WORKERS),
            self._pipe.call(
                "ZRANGEBYSCORE", CHANGED, f"({self._seen_change_ms}", "+inf", "WITHSCORES", "LIMIT", 0, 1000
            ),
        )
        self.workers = max(1, counted[2])
        changed = counted[3]
        if changed:
            names = changed[0::2]
            known = await self._pipe.call("HMGET", KNOWN, *names)
            for name, told in zip(names, known, strict=True):
                if told is not None:
                    self._hear(name.decode(), orjson.loads(told))
            self._seen_change_ms = int(float(changed[-1]))
        now_s = asyncio.get_running_loop().time()
        for key, quota in tuple(self._quotas.items()):
            is_spent = not quota.meters and quota.paused_until_s <= now_s
            if not (quota.waiting or quota.is_asking) and (is_spent or now_s - quota.used_s > IDLE_S):
                _stop_timers(quota)
                del self._quotas[key]

    def close(self) -> None:
        """Let go of timers; whoever still waits is told to go elsewhere."""
        for quota in self._quotas.values():
            _stop_timers(quota)
            for waiter in quota.waiting:
                if not waiter.future.done():
                    waiter.future.set_exception(Saturated(1.0))
            quota.waiting.clear()
        self._quotas.clear()

    # ------------------------------------------------------------------ knowing the limits

    def _quota_of(self, target: Target, now_s: float) -> _Quota:
        quota = self._quotas.get(target.quota_key)
        if quota is None:
            quota = self._quotas[target.quota_key] = _Quota(target.quota_key, now_s)
        configured: _Meters = {}
        if target.limit_rpm is not None:
            configured["requests"] = (target.limit_rpm, 60_000)
        if target.limit_tpm is not None:
            configured["tokens"] = (target.limit_tpm, 60_000)
        if configured != quota.configured:
            quota.configured = configured
            quota.meters = _merged(quota)
        return quota

    def _hear(self, key: str, told: dict[str, Any]) -> None:
        """What another worker (or this one) has learned about a quota."""
        now_s = asyncio.get_running_loop().time()
        wait_s = told["paused_until"] - time.time()
        meters = {name: (limit, window_ms) for name, (limit, window_ms) in told["meters"].items()}
        quota = self._quotas.get(key)
        if quota is None:
            if not meters and wait_s <= 0:
                return
            quota = self._quotas[key] = _Quota(key, now_s)
        quota.learned = {**quota.learned, **meters}
        quota.meters = _merged(quota)
        quota.paused_until_s = max(quota.paused_until_s, now_s + wait_s)

    # ------------------------------------------------------------------ waiting

    def _refuse_when_full(self, quota: _Quota, waiter: _Waiter, now_s: float, wait_s: float) -> None:
        """Under more calls than there are slots, what one has just been told holds for those behind it."""
        if quota.full is None:
            return
        until_s, at_s, refused = quota.full
        if now_s > until_s:
            quota.full = None
        elif (
            at_s - now_s > wait_s
            and all(waiter.amounts.get(name, 0) >= refused[name] for name in refused)
            and not any(waiter < each for each in quota.waiting)  # else it might take that one's slot
        ):
            self._forgo(quota, waiter)
            raise Saturated(at_s - now_s)

    def _forgo(self, quota: _Quota, waiter: _Waiter) -> None:
        """A call that got no slot took nothing from its tenant's share."""
        share = (int(waiter.priority.level), waiter.priority.tenant)
        if share in quota.fair:
            quota.fair[share] -= 1 / waiter.priority.weight

    def _order_of(self, quota: _Quota, priority: Priority) -> tuple[int, float, int]:
        """Start-time fair queueing: a tenant's next call stands 1/weight behind its last one."""
        share = (int(priority.level), priority.tenant)
        if not quota.waiting:
            quota.fair.clear()
            quota.turn = 0.0
        elif len(quota.fair) > 2 * MAX_WAITING:
            quota.fair = {each: end for each, end in quota.fair.items() if end > quota.turn}
        start = max(quota.turn, quota.fair.get(share, 0.0))
        quota.fair[share] = start + 1 / priority.weight
        return (share[0], start, next(self._arrivals))

    def _schedule(self, quota: _Quota) -> None:
        """Ask once for all that arrive in this tick of the loop."""
        if not (quota.is_scheduled or quota.is_asking):
            quota.is_scheduled = True
            asyncio.get_running_loop().call_soon(self._ask, quota)

    def _ask(self, quota: _Quota) -> None:
        quota.is_scheduled = False
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        if quota.flush is not None:
            quota.flush.cancel()
            quota.flush = None
        self._return_stale(quota, now_s)
        asked = heapq.nsmallest(
            MAX_ASKED, (w for w in quota.waiting if not w.is_asked and not w.future.done())
        )
        for waiter in asked:
            waiter.is_asked = True
        if quota.lent:
            self._flush_soon(quota)  # what is not used must go back, also if nobody calls any more
        if not (asked or quota.corrections or quota.seen or quota.pause_ms or quota.news):
            return
        request: dict[str, Any] = {
            "l": quota.meters,
            "s": quota.seen,
            "p": quota.pause_ms,
            "n": "",
            "f": quota.corrections,
            "a": [[max(0, int((w.deadline_s - now_s) * 1000)), w.amounts] for w in asked],
        }
        lend = self._wanted_ahead(quota, asked, now_s)
        if lend is not None:
            request["x"] = lend
        if quota.news:
            request["n"] = orjson.dumps(
                {
                    "meters": quota.learned,
                    "paused_until": time.time() + max(0.0, quota.paused_until_s - now_s),
                }
            ).decode()
        quota.corrections, quota.seen, quota.pause_ms, quota.news = [], {}, 0, False
        quota.is_asking = True
        reply = self._pipe.script(
            self._script, [STATE.format(quota.key), KNOWN, CHANGED], [quota.key, orjson.dumps(request)]
        )
        had_news = bool(request["n"])
        reply.add_done_callback(lambda done: self._answered(quota, asked, lend, had_news, done))

    def _wanted_ahead(
        self, quota: _Quota, asked: Sequence[_Waiter], now_s: float
    ) -> tuple[int, dict[str, int]] | None:
        """Slots to borrow: what will probably be taken before they go stale, so that not every call makes a trip."""
        if not asked:
            return None
        elapsed_s = now_s - quota.takes_since_s
        if elapsed_s >= quota.usable_s:
            quota.takes_per_s = quota.takes / elapsed_s
            quota.takes, quota.takes_since_s = 0, now_s
        count = min(MAX_LENT, int(quota.takes_per_s * quota.usable_s))
        return (count, asked[-1].amounts) if count else None

    def _answered(
        self,
        quota: _Quota,
        asked: Sequence[_Waiter],
        lend: tuple[int, dict[str, int]] | None,
        had_news: bool,
        done: "asyncio.Future[Any]",
    ) -> None:
        quota.is_asking = False
        if done.cancelled():
            return
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        error = done.exception()
        if error is None:
            now_ms, lent, *answers = done.result()
            if lent and lend is not None:
                until_s = now_s + quota.usable_s
                quota.lent.extend((now_ms, until_s, lend[1]) for _ in range(lent))
                self._flush_soon(quota)
        elif isinstance(error, RedisUnavailable | RedisReplyError):
            if isinstance(error, RedisReplyError):
                logger.error("pacing is each worker's own: %s", error)
            now_ms, answers = 0, self._alone(quota, asked, now_s)
            if had_news:
                quota.news = True
                self._flush_soon(quota)
        else:
            raise error
        later_s = 0.0
        for waiter, answer in zip(asked, answers, strict=True):
            if answer < 0:
                later_s = max(later_s, -answer / 1000)
                quota.full = (now_s + BELIEVED_S, now_s - answer / 1000, waiter.amounts)
            else:
                stamp_ms = now_ms + answer if now_ms else 0
                heapq.heappush(quota.slots, (now_s + answer / 1000, stamp_ms, waiter.amounts))
        self._shed(quota, now_s, later_s)
        self._release(quota)
        self._lend(quota, now_s)
        if any(not w.is_asked and not w.future.done() for w in quota.waiting):
            self._schedule(quota)

    def _lend(self, quota: _Quota, now_s: float) -> None:
        """Slots held ahead serve those who came while Redis was being asked."""
        for waiter in sorted(w for w in quota.waiting if not w.is_asked and not w.future.done()):
            while quota.lent and not waiter.future.done():
                stamp_ms, until_s, counted = quota.lent.popleft()
                is_usable = now_s <= until_s
                self._correct(quota, stamp_ms, counted, waiter.amounts if is_usable else {})
                if is_usable:
                    waiter.future.set_result(Slot(quota.key, stamp_ms, waiter.amounts))
        quota.waiting = [w for w in quota.waiting if not w.future.done()]
        heapq.heapify(quota.waiting)

    def _shed(self, quota: _Quota, now_s: float, later_s: float) -> None:
        """Turn away whoever, in the order of the queue, is left without a slot in time."""
        asked = sorted(w for w in quota.waiting if w.is_asked and not w.future.done())
        times = sorted(at_s for at_s, _, _ in quota.slots)
        number = 0
        for waiter in asked:
            if number < len(times) and times[number] <= max(waiter.deadline_s, now_s) + 0.002:
                number += 1
                continue
            self._forgo(quota, waiter)
            at_s = times[number] - now_s if number < len(times) else 0.0
            waiter.future.set_exception(Saturated(max(later_s, at_s, waiter.deadline_s - now_s, 0.001)))
        quota.waiting = [w for w in quota.waiting if not w.future.done()]
        heapq.heapify(quota.waiting)

    def _release(self, quota: _Quota) -> None:
        """Let go whose time has come, and set the clock for the next."""
        if quota.timer is not None:
            quota.timer.cancel()
            quota.timer = None
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        usable_s = quota.usable_s
        while quota.slots and quota.slots[0][0] <= now_s:
            at_s, stamp_ms, counted = heapq.heappop(quota.slots)
            waiter = self._next_waiter(quota)
            if waiter is None:
                if now_s - at_s <= usable_s and stamp_ms:
                    quota.lent.append((stamp_ms, at_s + usable_s, counted))
                else:
                    self._correct(quota, stamp_ms, counted, {})
                continue
            if now_s - at_s > usable_s and stamp_ms:
                # This loop was held up: used now, the slot would count for longer there than here.
                self._correct(quota, stamp_ms, counted, {})
                waiter.is_asked = False
                heapq.heappush(quota.waiting, waiter)
                self._schedule(quota)
                continue
            if not waiter.is_asked:
                self._ask_again(quota)
            self._correct(quota, stamp_ms, counted, waiter.amounts)
            quota.turn = max(quota.turn, waiter.order[1])
            waiter.future.set_result(Slot(quota.key, stamp_ms, waiter.amounts))
        if quota.slots:
            quota.timer = loop.call_at(quota.slots[0][0], self._release, quota)

    def _ask_again(self, quota: _Quota) -> None:
        """Somebody more urgent has just taken a slot that was asked for others: the last of these needs a new one."""
        bumped = max((w for w in quota.waiting if w.is_asked and not w.future.done()), default=None)
        if bumped is not None:
            bumped.is_asked = False
            self._schedule(quota)

    def _next_waiter(self, quota: _Quota) -> _Waiter | None:
        while quota.waiting:
            waiter = heapq.heappop(quota.waiting)
            if not waiter.future.done():
                return waiter
        return None

    def _left(self, quota: _Quota, waiter: _Waiter) -> None:
        """A call that stopped waiting: its slot goes to the next one, or back."""
        if waiter.future.done() and not waiter.future.cancelled() and waiter.future.exception() is None:
            self.give_back(waiter.future.result())
            return
        self._forgo(quota, waiter)
        if waiter in quota.waiting:
            quota.waiting.remove(waiter)
            heapq.heapify(quota.waiting)
        surplus = len(quota.slots) - len(quota.waiting)
        if surplus > 0:
            quota.slots.sort()
            for _, stamp_ms, counted in reversed(quota.slots[-surplus:]):
                self._correct(quota, stamp_ms, counted, {})
            del quota.slots[-surplus:]

    # ------------------------------------------------------------------ keeping the count right

    def _correct(
        self, quota: _Quota, stamp_ms: int, counted: Mapping[str, int], real: Mapping[str, int]
    ) -> None:
        if not stamp_ms or counted == real:
            return
        for name in counted.keys() | real.keys():
            if delta := real.get(name, 0) - counted.get(name, 0):
                quota.corrections.append((name, stamp_ms, delta))
        self._flush_soon(quota)

    def _return_stale(self, quota: _Quota, now_s: float) -> None:
        while quota.lent and quota.lent[0][1] < now_s:
            stamp_ms, _, counted = quota.lent.popleft()
            self._correct(quota, stamp_ms, counted, {})

    def _flush_soon(self, quota: _Quota) -> None:
        if quota.flush is None and not quota.is_scheduled:
            quota.flush = asyncio.get_running_loop().call_later(FLUSH_S, self._flush, quota)

    def _flush(self, quota: _Quota) -> None:
        quota.flush = None
        self._schedule(quota)
        if quota.is_asking:
            self._flush_soon(quota)

    def _alone(self, quota: _Quota, asked: Sequence[_Waiter], now_s: float) -> list[int]:
        """Slots in ms from now without Redis: evenly, at this worker's share of each limit."""
        answers = []
        for waiter in asked:
            at_s = max(now_s, quota.free_at_s, quota.paused_until_s)
            wait_ms = round((at_s - now_s) * 1000)
            if at_s > max(waiter.deadline_s, now_s):
                answers.append(-max(1, wait_ms))
                continue
            answers.append(wait_ms)
            spacing_ms = (
                waiter.amounts.get(name, 0) * window_ms * self.workers / limit
                for name, (limit, window_ms) in quota.meters.items()
            )
            quota.free_at_s = at_s + max(spacing_ms, default=0.0) / 1000
        return answers


def _merged(quota: _Quota) -> _Meters:
    """The limits in force: the provider's word, and where it is silent the credential's."""
    return {**quota.configured, **quota.learned}


def _amounts(meters: _Meters, tokens: int, output_tokens: int) -> dict[str, int]:
    """What a call counts as on each meter that there is."""
    amounts: dict[str, int] = {}
    for name in meters:
        match name:
            case "requests":
                amounts[name] = 1
            case "tokens":
                amounts[name] = tokens
            case "input_tokens":
                amounts[name] = max(0, tokens - output_tokens)
            case "output_tokens":
                amounts[name] = output_tokens
    return amounts


def _stop_timers(quota: _Quota) -> None:
    for timer in (quota.timer, quota.flush):
        if timer is not None:
            timer.cancel()
    quota.timer = quota.flush = None
