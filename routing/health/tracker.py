"""One worker's picture of the providers: told of every attempt, it decides at once and alone, and shares on each beat.

Never does input or output itself: whoever owns a connection carries `outgoing` to Redis and `incoming` back. Own
news stand beside the shared picture until Redis has them, so that a worker alone opens its breakers just the same.
"""

import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import orjson

from routing.entries import FeatureEntry, RoutingSnapshot
from routing.health import burn
from routing.health.breaker import (
    CLOSED,
    FAILURES,
    RULES,
    Breaker,
    Counts,
    Rules,
    checked,
    circuit_of,
    judge,
    later,
    probed,
    reset,
    slow_after_ms,
)
from routing.health.exchange import (
    MINUTE_S,
    SLOT_S,
    Ask,
    Mark,
    News,
    Reply,
    decode_reply,
    minute_key,
    second_key,
    slot_key,
)
from routing.health.histogram import FIRST_BYTE, WHOLE, Sliding, Tally
from routing.types import Circuit, EndpointHealth, ErrorKind, Headers, Health, ProviderError, Target

WINDOW_SLOTS: Final = 30
"""Success, latency and throughput are those of the last five minutes."""

MIN_MEDIAN_SAMPLES: Final = 20
MEASURE_EVERY_S: Final = 1.0

PROBE_LEASE_MS: Final = 15_000
"""How long the one probe may take before another is allowed: longer than a first byte may (RELIABILITY.md §2.7)."""
IDLE_PERMIT_MS: Final = 3_000
"""A permit that is not used: a busy worker keeps it, one without calls gives it up after so long."""
BUSY_S: Final = 10.0
"""Who began a call within so long asks for a permit at once; others leave the busy ones that much of a start."""
HEAD_START_S: Final = 2.0

DEFAULT_PAUSE_S: Final = 5.0
"""After a 429 that does not say how long (gateway.pipeline.execute answers the same)."""
MAX_PAUSE_S: Final = 900.0
"""No header may silence a credential for longer: one call then asks again."""
CREDENTIAL_PAUSE_S: Final = 60.0
MAX_CREDENTIAL_PAUSE_S: Final = 3600.0

OUR_CONNECTIONS: Final = frozenset(("pool_full", "closed"))
PATIENT_PHASES: Final = frozenset(("connect", "stall"))
"""Waits that only the endpoint's own limits end; the others end with the caller's deadline too."""
REASONING_PATIENCE: Final = 6
"""As gateway.pipeline.attempt: a model that thinks before it speaks may stay silent so much longer."""
WAITED_SHARE: Final = 0.95

CUT_SHORT: Final = "cut_short"
CHECK_RUN: Final = "check:"
OK, SLOW, FAILED = "ok", "slow", "failed"
TOKENS, GENERATING_MS, FIRST_BYTE_SUM_MS = "tokens", "generating_ms", "first_byte_ms"


class _Endpoint:
    """What this worker saw of one endpoint since the last beat."""

    __slots__ = (
        "counts",
        "failed",
        "had_success",
        "id",
        "is_known",
        "name",
        "ok",
        "provider",
        "run",
        "slow",
        "slow_after_ms",
    )

    def __init__(self, endpoint_id: str, provider: str, name: str) -> None:
        self.id, self.provider, self.name = endpoint_id, provider, name
        self.is_known = False  # Redis has the name
        self.slow_after_ms = float("inf")
        self.clear()

    def clear(self) -> None:
        self.counts: defaultdict[str, int] = defaultdict(int)
        self.ok = self.failed = self.slow = self.run = 0
        self.had_success = False


class Tracker:
    """`worker` names the sender. `clock` gives unix seconds, `draw` is uniform in [0, 1).

    Without `may_probe` it never asks for the permit to probe: it makes no calls.
    """

    def __init__(
        self,
        worker: str,
        *,
        clock: Callable[[], float] = time.time,
        draw: Callable[[], float] = random.random,
        rules: Rules = RULES,
        may_probe: bool = True,
    ) -> None:
        self.view = Health()
        self._may_probe = may_probe
        self._worker, self._clock, self._draw, self._rules = worker, clock, draw, rules
        self._ahead_s = 0.0  # the shared clock (Redis's) minus ours
        self._endpoints: dict[str, _Endpoint] = {}
        self._routing: RoutingSnapshot | None = None
        self._features: Mapping[str, FeatureEntry] = {}
        self._addresses: Mapping[str, str] = {}
        self._served: dict[str, Counter[str]] = {}
        self._news = News()
        self._sending: tuple[int, bytes, News] | None = None
        self._sequence = 0
        self._asks: dict[str, Ask] = {}
        self._asked: dict[str, Ask] = {}  # with the beat that is under way
        self._check_runs: dict[str, tuple[bool, int]] = {}
        self._last_begin = float("-inf")
        self._has_begun = False
        # -- the shared picture
        self._version = ""
        self._circuits: dict[str, Breaker] = {}
        self._runs: Mapping[str, int] = {}
        self._pauses: dict[str, float] = {}
        self._marks: dict[str, Mark] = {}
        self._seconds: dict[int, Mapping[str, Tally]] = {}
        self._slots = Sliding(WINDOW_SLOTS)
        self._minutes = Sliding(max(burn.WINDOWS_MIN))
        self._short_minutes = Sliding(min(burn.WINDOWS_MIN))
        self._read_second = self._read_slot = self._read_minute = 0
        self._wanted: list[tuple[int, int]] = []
        self._measured_at = float("-inf")
        self._measured: dict[str, EndpointHealth] = {}
        self._burn: dict[str, float] = {}
        self._permits: dict[str, float] = {}  # endpoint -> since when this worker may probe it
        self._probing: dict[str, float] = {}  # endpoint -> until when its probe keeps others from probing

    # ------------------------------------------------------------------ configuration

    def configure(self, routing: RoutingSnapshot) -> None:
        """Which promises features make, and where the operator's endpoints are."""
        if routing is self._routing:
            return
        self._routing = routing
        self._features = {feature.key: feature for feature in routing.features.values()}
        self._addresses = {
            target.endpoint_id: target.base_url
            for entry in routing.models.values()
            for target in entry.targets
            if not target.is_own
        }

    # ------------------------------------------------------------------ what calls tell

    def begin(self, target: Target) -> None:
        """An attempt is about to be made. Takes the permit for a half-open endpoint, if this worker holds it."""
        self._has_begun = True
        if self._permits and target.endpoint_id in self._permits:
            self._use(target.endpoint_id)

    def succeeded(
        self,
        target: Target,
        *,
        first_byte_ms: int,
        latency_ms: int,
        output_tokens: int,
        headers: Headers,
    ) -> None:
        """An attempt answered, and whole. For an answer that was no stream, the first byte is the last."""
        if target.is_own and self._is_elsewhere(target):
            return
        seen = self._endpoints.get(target.endpoint_id) or self._meet(target)
        seen.ok += 1
        seen.run = 0
        seen.had_success = True
        if first_byte_ms > seen.slow_after_ms:
            seen.slow += 1
            self._judge(seen.id)
        counts = seen.counts
        counts[FIRST_BYTE.of(first_byte_ms)] += 1
        counts[WHOLE.of(latency_ms)] += 1
        counts[FIRST_BYTE_SUM_MS] += first_byte_ms
        if output_tokens:
            counts[TOKENS] += output_tokens
            counts[GENERATING_MS] += (latency_ms - first_byte_ms) or latency_ms
        if self._probing and seen.id in self._probing:
            self._end_probe(seen.id, ok=True)
        if self._marks and target.quota_key in self._marks:
            self._lift(target.quota_key)

    def failed(self, target: Target, error: ProviderError, *, waited_ms: int) -> None:
        """An attempt failed. What is not the endpoint's fault pauses a credential, or counts nowhere.

        A silent endpoint's wait counts as its time to first byte, so that it does not stay the fastest.
        """
        if error.kind is ErrorKind.RATE_LIMITED:
            self._rest(target, error)
        elif error.kind is ErrorKind.CREDENTIAL:
            self._mark(target, error)
        if target.is_own and self._is_elsewhere(target):
            return
        seen = self._endpoints.get(target.endpoint_id) or self._meet(target)
        if error.kind not in FAILURES or _is_ours(target, error, waited_ms):
            seen.counts[error.kind.value if error.kind not in FAILURES else CUT_SHORT] += 1
            self._let_go(seen.id)
            return
        seen.counts[error.kind.value] += 1
        if error.kind is ErrorKind.TIMEOUT:
            seen.counts[FIRST_BYTE.of(waited_ms)] += 1
            seen.counts[FIRST_BYTE_SUM_MS] += waited_ms
        seen.failed += 1
        seen.run += 1
        if self._probing and seen.id in self._probing:
            self._end_probe(seen.id, ok=False)
        else:
            self._judge(seen.id)

    def abandoned(self, target: Target) -> None:
        """An attempt ended without a verdict (the client left): its permit, if any, goes back."""
        self._let_go(target.endpoint_id)

    def served(self, feature_key: str, *, ok: bool, latency_ms: float, cost_pico: int | None) -> None:
        """A call of a feature has ended, after however many attempts: measured against what the feature promises."""
        feature = self._features.get(feature_key)
        if feature is None:
            return
        tally = self._served.get(feature_key)
        if tally is None:
            tally = self._served[feature_key] = Counter()
        tally[burn.CALLS] += 1
        for fault in burn.faults_of(feature, ok=ok, latency_ms=latency_ms, cost_pico=cost_pico):
            tally[fault] += 1

    # ------------------------------------------------------------------ what checks and people tell

    def checked(self, endpoint_id: str, *, provider: str, name: str, error: ErrorKind | None) -> None:
        """An active check has ended, with an error or none. Not counted as traffic, only by the breaker."""
        seen = self._endpoints.get(endpoint_id)
        if seen is None:
            seen = self._endpoints[endpoint_id] = _Endpoint(endpoint_id, provider, name)
        if error is not None and error not in FAILURES:
            return
        seen.counts[f"check_{error.value if error else OK}"] += 1
        name_of_run = f"{CHECK_RUN}{endpoint_id}"
        had_success, failures = self._check_runs.get(endpoint_id, (False, 0))
        self._check_runs[endpoint_id] = (True, 0) if error is None else (had_success, failures + 1)
        run = _followed(self._run_of(name_of_run), *self._check_runs[endpoint_id])
        self._decide(
            endpoint_id,
            lambda breaker, **at: checked(breaker, Counts(consecutive=run), ok=error is None, **at),
        )

    def reset(self, endpoint_id: str) -> None:
        """Close a breaker by hand."""
        self._adopt(endpoint_id, reset(self._circuits.get(endpoint_id, CLOSED), now=self.now()), is_own=True)

    # ------------------------------------------------------------------ the beat

    def outgoing(self, *, everything: bool = False) -> list[bytes | str | int]:
        """The arguments of beat.lua: news since the last beat that was heard, and what to read."""
        now = self.now()
        if self._has_begun:
            self._has_begun, self._last_begin = False, now
        self._gather(now)
        if self._sending is None and self._news:
            self._sequence += 1
            self._sending = (self._sequence, self._news.encoded(), self._news)
            self._news = News()
        self._wanted = self._wants(now, everything=everything)
        asks = self._asking(now)
        self._asked, self._asks = self._asks, {}
        sequence, told = (self._sending[0], self._sending[1]) if self._sending else (0, b"")
        keys = [_KEYS[level](number) for level, number in self._wanted]
        return [self._worker, sequence, told, orjson.dumps(asks), self._version, *keys]

    def incoming(self, raw: Sequence[object]) -> None:
        """What beat.lua answered to the last `outgoing`."""
        reply = decode_reply(raw)
        if self._sending is not None:
            for endpoint_id in self._sending[2].names:
                self._endpoints[endpoint_id].is_known = True
            self._sending = None
        self._ahead_s = reply.now - self._clock()
        self._asked = {}
        self._take_over(reply)
        now = self.now()
        for (level, number), tallies in zip(self._wanted, reply.counts, strict=True):
            if level == 1:
                self._seconds[number] = tallies
            elif level == SLOT_S:
                self._slots.put(number, tallies)
            else:
                self._minutes.put(number, tallies)
                self._short_minutes.put(number, tallies)
        self._read_second = int(now)
        read = {level for level, _ in self._wanted}
        if SLOT_S in read:
            self._read_slot = int(now // SLOT_S)
        if MINUTE_S in read:
            self._read_minute = int(now // MINUTE_S)
        for second in [second for second in self._seconds if second <= now - self._rules.window_s - 1]:
            del self._seconds[second]
        # A permit that was used while the beat was under way is not granted again by its answer.
        free = [name for name in reply.granted if not self._is_probing(name, now)]
        self._permits = {name: self._permits.get(name, now) for name in free}
        self._measure(now)
        self._publish(now)

    def alone(self) -> None:
        """In place of `incoming` when Redis did not answer: the worker grants itself what is due."""
        now = self.now()
        self._asks, self._asked = self._asked | self._asks, {}
        for endpoint_id, breaker in self._circuits.items():
            if circuit_of(breaker, now) is Circuit.HALF_OPEN and not self._is_probing(endpoint_id, now):
                self._permits.setdefault(endpoint_id, now)
        self._measure(now)
        self._publish(now)

    # ------------------------------------------------------------------ for those who show it

    @property
    def pauses(self) -> Mapping[str, float]:
        """Until when nobody calls on a quota, in the shared clock."""
        return self._pauses

    def failing_checks(self, endpoint_id: str) -> int:
        """How many active checks of this endpoint failed in a row."""
        return self._run_of(f"{CHECK_RUN}{endpoint_id}")

    @property
    def circuits(self) -> Mapping[str, Breaker]:
        """Every endpoint's breaker that was ever open, in the shared clock."""
        return self._circuits

    @property
    def marks(self) -> Mapping[str, Mark]:
        """Credentials that their providers refuse, by quota key."""
        return self._marks

    # ------------------------------------------------------------------ inside: one call

    def now(self) -> float:
        """Unix seconds of the clock that all workers share."""
        return self._clock() + self._ahead_s

    def _meet(self, target: Target) -> _Endpoint:
        name = orjson.dumps([target.provider, target.model, target.provider_model, target.region]).decode()
        seen = self._endpoints[target.endpoint_id] = _Endpoint(target.endpoint_id, target.provider, name)
        return seen

    def _is_elsewhere(self, target: Target) -> bool:
        """Whether a tenant's own credential leads to an address of the tenant's own.

        What happens there tells nothing about the operator's endpoint, and must not close it to others.
        """
        return self._addresses.get(target.endpoint_id) != target.base_url

    def _counts(self, endpoint_id: str) -> Counts:
        """The window's counts, own news included; what came before the last closing is forgotten."""
        now = self.now()
        breaker = self._circuits.get(endpoint_id, CLOSED)
        oldest = max(int(now) - self._rules.window_s + 1, int(breaker.closed_at) + 1)
        ok = failed = slow = 0
        for seconds in self._all_seconds():
            for second, owners in seconds.items():
                if second >= oldest and (tally := owners.get(endpoint_id)):
                    ok += tally.get(OK, 0)
                    failed += tally.get(FAILED, 0)
                    slow += tally.get(SLOW, 0)
        run = self._run_of(endpoint_id)
        seen = self._endpoints.get(endpoint_id)
        if seen is not None:
            run = _followed(run, seen.had_success, seen.run)
            if int(now) >= oldest:
                ok, failed, slow = ok + seen.ok, failed + seen.failed, slow + seen.slow
        return Counts(succeeded=ok, failed=failed, slow=slow, consecutive=run)

    def _run_of(self, name: str) -> int:
        """Failures in a row as of the last beat that was gathered."""
        run = self._runs.get(name, 0)
        for news in self._unheard():
            run = _followed(run, *news.runs.get(name, (False, 0)))
        return run

    def _unheard(self) -> tuple[News, ...]:
        return (self._sending[2], self._news) if self._sending else (self._news,)

    def _all_seconds(self) -> list[Mapping[int, Mapping[str, Tally]]]:
        return [self._seconds, *(news.seconds for news in self._unheard())]

    def _decide(self, endpoint_id: str, step: Callable[..., Breaker]) -> None:
        """Take one step of the state machine, and make known what it changed."""
        held = self._circuits.get(endpoint_id, CLOSED)
        new = step(held, now=self.now(), draw=self._draw(), rules=self._rules)
        if new is not held:
            self._adopt(endpoint_id, new, is_own=True)

    def _judge(self, endpoint_id: str) -> None:
        self._decide(endpoint_id, lambda breaker, **at: judge(breaker, self._counts(endpoint_id), **at))

    def _adopt(self, endpoint_id: str, breaker: Breaker, *, is_own: bool) -> None:
        was = self._circuits.get(endpoint_id, CLOSED)
        self._circuits[endpoint_id] = breaker
        if is_own:
            self._news.circuits[endpoint_id] = breaker
        self._permits.pop(endpoint_id, None)
        if was.generation != breaker.generation:
            self._probing.pop(endpoint_id, None)
        if was.is_open and not breaker.is_open:
            self._forget_run(endpoint_id)
        self._publish(self.now())

    def _forget_run(self, endpoint_id: str) -> None:
        """Failures before a closing tell nothing after it."""
        names = (endpoint_id, f"{CHECK_RUN}{endpoint_id}")
        self._runs = {name: run for name, run in self._runs.items() if name not in names}
        for news in self._unheard():
            for name in names:
                news.runs.pop(name, None)
        self._check_runs.pop(endpoint_id, None)
        if (seen := self._endpoints.get(endpoint_id)) is not None:
            seen.run = 0

    def _use(self, endpoint_id: str) -> None:
        now = self.now()
        del self._permits[endpoint_id]
        self._probing[endpoint_id] = now + PROBE_LEASE_MS / 1000
        self._asks[endpoint_id] = ("use", PROBE_LEASE_MS)
        self._publish(now)

    def _end_probe(self, endpoint_id: str, *, ok: bool) -> None:
        """Also a verdict that comes late, as of a long stream, is one."""
        del self._probing[endpoint_id]
        self._asks[endpoint_id] = ("free", 0)
        self._decide(endpoint_id, lambda breaker, **at: probed(breaker, ok=ok, **at))

    def _is_probing(self, endpoint_id: str, now: float) -> bool:
        return self._probing.get(endpoint_id, 0.0) >= now

    def _let_go(self, endpoint_id: str) -> None:
        if self._probing and self._probing.pop(endpoint_id, None) is not None:
            self._asks[endpoint_id] = ("free", 0)

    # ------------------------------------------------------------------ inside: credentials

    def _rest(self, target: Target, error: ProviderError) -> None:
        """A 429: nobody calls on this quota until the provider's Retry-After has passed."""
        wait_s = DEFAULT_PAUSE_S if error.retry_after_s is None else error.retry_after_s
        self._pause(target.quota_key, self.now() + min(wait_s, MAX_PAUSE_S))

    def _mark(self, target: Target, error: ProviderError) -> None:
        """A 401 or 403: rest this credential, each time twice as long, and say so to the operator."""
        now, held = self.now(), self._marks.get(target.quota_key)
        if not target.quota_key or (held is not None and held.until > now):
            return
        count = held.count + 1 if held else 1
        rest_s = min(CREDENTIAL_PAUSE_S * 2 ** min(count - 1, 10), MAX_CREDENTIAL_PAUSE_S)
        mark = Mark(
            provider=target.provider,
            credential_id=target.credential_id,
            status=error.status,
            count=count,
            since=held.since if held else now,
            until=now + rest_s,
        )
        self._marks[target.quota_key] = self._news.marks[target.quota_key] = mark
        self._pause(target.quota_key, mark.until)

    def _pause(self, quota_key: str, until: float) -> None:
        if quota_key and until > self._pauses.get(quota_key, 0.0):
            self._pauses[quota_key] = self._news.pauses[quota_key] = until
            self._publish(self.now())

    def _lift(self, quota_key: str) -> None:
        """A refused credential was accepted."""
        del self._marks[quota_key]
        self._pauses.pop(quota_key, None)
        self._news.marks[quota_key] = None
        self._news.pauses[quota_key] = 0.0
        self._publish(self.now())

    # ------------------------------------------------------------------ inside: the beat

    def _gather(self, now: float) -> None:
        """Put what was counted since the last beat into this moment's second, slot and minute."""
        news, second = self._news, int(now)
        slot, minute = second // SLOT_S, second // MINUTE_S
        for seen in self._endpoints.values():
            if not (seen.counts or seen.ok or seen.run or seen.had_success):
                continue
            if seen.ok or seen.failed:
                window = {OK: seen.ok, FAILED: seen.failed, SLOW: seen.slow}
                news.add(
                    news.seconds, second, seen.id, {name: count for name, count in window.items() if count}
                )
                news.used[seen.id] = second
            if seen.ok:
                seen.counts[OK] += seen.ok
            if seen.counts:
                news.add(news.slots, slot, seen.id, seen.counts)
                for code, count in seen.counts.items():
                    if not code.startswith("w"):
                        news.totals[f"{code} {seen.provider}"] += count
            if seen.run or seen.had_success:
                news.add_run(seen.id, seen.had_success, seen.run)
            if not seen.is_known:
                news.names[seen.id] = seen.name
            seen.clear()
        for endpoint_id, (had_success, failures) in self._check_runs.items():
            news.add_run(f"{CHECK_RUN}{endpoint_id}", had_success, failures)
        self._check_runs = {}
        for key, tally in self._served.items():
            news.add(news.minutes, minute, key, tally)
        self._served = {}
        news.forget(
            seconds=second - self._rules.window_s,
            slots=slot - WINDOW_SLOTS,
            minutes=minute - max(burn.WINDOWS_MIN),
        )

    def _wants(self, now: float, *, everything: bool) -> list[tuple[int, int]]:
        """Which counts to read: the seconds since the last look, and each second the newest slots too."""
        second = int(now)
        since = max(self._read_second - 1, second - self._rules.window_s)
        wanted = [(1, each) for each in range(since, second + 1)]
        if everything or now - self._measured_at >= MEASURE_EVERY_S:
            for level, read, width in (
                (SLOT_S, self._read_slot, WINDOW_SLOTS),
                (MINUTE_S, self._read_minute, max(burn.WINDOWS_MIN)),
            ):
                newest = second // level
                if level == MINUTE_S and not self._features:
                    continue
                wanted += [(level, each) for each in range(max(read - 1, newest - width + 1), newest + 1)]
        return wanted

    def _asking(self, now: float) -> dict[str, Ask]:
        """Ask for the permits of half-open endpoints, and keep those that may soon be used."""
        asks = dict(self._asks)
        if not self._may_probe:
            return asks
        is_busy = now - self._last_begin < BUSY_S
        for endpoint_id, breaker in self._circuits.items():
            if circuit_of(breaker, now) is not Circuit.HALF_OPEN or self._is_probing(endpoint_id, now):
                continue
            since = self._permits.get(endpoint_id)
            if since is None:
                if is_busy or now - breaker.open_until >= HEAD_START_S:
                    asks.setdefault(endpoint_id, ("want", IDLE_PERMIT_MS))
            elif is_busy or now - since < IDLE_PERMIT_MS / 1000:
                asks[endpoint_id] = ("want", IDLE_PERMIT_MS)
            else:
                asks[endpoint_id] = ("free", 0)
        return asks

    def _take_over(self, reply: Reply) -> None:
        self._runs, self._version = reply.runs, reply.version
        if reply.circuits is not None:
            for endpoint_id, shared in reply.circuits.items():
                held = self._circuits.get(endpoint_id, CLOSED)
                if later(held, shared) is not held:
                    self._news.circuits.pop(endpoint_id, None)
                    self._adopt(endpoint_id, shared, is_own=False)
            for endpoint_id, held in self._circuits.items():  # Redis has lost its memory
                if held.is_open and endpoint_id not in reply.circuits:
                    self._news.circuits[endpoint_id] = held
        pending = self._news.pauses
        self._pauses = {**reply.pauses, **pending}
        self._pauses = {name: until for name, until in self._pauses.items() if until}
        marks: dict[str, Mark | None] = {**reply.marks, **self._news.marks}
        self._marks = {name: mark for name, mark in marks.items() if mark is not None}

    def _measure(self, now: float) -> None:
        """Once a second: percentiles, success and burn rates of their windows."""
        if now - self._measured_at < MEASURE_EVERY_S:
            return
        self._measured_at = now
        unheard = self._unheard()
        totals = self._slots.totals(int(now // SLOT_S), *(news.slots for news in unheard))
        self._measured = {endpoint_id: measured(tally) for endpoint_id, tally in totals.items()}
        for endpoint_id, seen in self._endpoints.items():
            figures = self._measured.get(endpoint_id)
            is_judged = figures is not None and figures.samples >= MIN_MEDIAN_SAMPLES
            median_ms = figures.first_byte_p50_ms if figures is not None and is_judged else None
            seen.slow_after_ms = slow_after_ms(median_ms, self._rules)
        if not self._features:
            self._burn = {}
            return
        minute = int(now // MINUTE_S)
        minutes = [news.minutes for news in unheard]
        windows = {
            min(burn.WINDOWS_MIN): self._short_minutes.totals(minute, *minutes),
            max(burn.WINDOWS_MIN): self._minutes.totals(minute, *minutes),
        }
        rates = {
            key: burn.burn_rate(feature, {width: each.get(key, {}) for width, each in windows.items()})
            for key, feature in self._features.items()
            if key in windows[min(burn.WINDOWS_MIN)]
        }
        self._burn = {key: rate for key, rate in rates.items() if rate is not None}

    def _publish(self, now: float) -> None:
        """A new `view`. Deadlines are turned back into this worker's own clock, with which it plans."""
        endpoints = dict(self._measured)
        for endpoint_id, breaker in self._circuits.items():
            circuit = circuit_of(breaker, now)
            if circuit is not Circuit.CLOSED:
                endpoints[endpoint_id] = replace(
                    endpoints.get(endpoint_id, _UNMEASURED),
                    circuit=circuit,
                    open_until=breaker.open_until - self._ahead_s,
                    is_probe=circuit is Circuit.HALF_OPEN and endpoint_id in self._permits,
                )
        pauses = {name: until - self._ahead_s for name, until in self._pauses.items() if until > now}
        self.view = Health(endpoints=endpoints, pauses=pauses, burn=self._burn)


def _is_ours(target: Target, error: ProviderError, waited_ms: int) -> bool:
    """Whether the failure tells of us or of the caller: our pool was full, or the caller's own deadline came first.

    Else a tenant in a hurry could close an endpoint to everybody. `error.code` is the HTTP client's word for
    where a connection or a wait ended.
    """
    if error.kind is ErrorKind.CONNECTION:
        return error.code in OUR_CONNECTIONS
    if error.kind is not ErrorKind.TIMEOUT or error.code in PATIENT_PHASES:
        return False
    patience = REASONING_PATIENCE if "reasoning" in target.capabilities else 1
    return waited_ms < WAITED_SHARE * target.first_byte_timeout_s * patience * 1000


def _followed(run: int, had_success: bool, failures: int) -> int:
    """Failures in a row after some more calls, of which the last `failures` failed."""
    return failures if had_success else run + failures


_UNMEASURED: Final = EndpointHealth()
_KEYS: Final[Mapping[int, Callable[[int], str]]] = {1: second_key, SLOT_S: slot_key, MINUTE_S: minute_key}


def measured(tally: Tally) -> EndpointHealth:
    """The figures behind one endpoint's tally; the circuit is left closed."""
    ok = tally.get(OK, 0)
    samples = ok + sum(tally.get(kind.value, 0) for kind in FAILURES)
    generating_ms = tally.get(GENERATING_MS, 0)
    return EndpointHealth(
        success=ok / samples if samples else None,
        samples=samples,
        first_byte_p50_ms=FIRST_BYTE.quantile(tally, 0.5),
        first_byte_p95_ms=FIRST_BYTE.quantile(tally, 0.95),
        latency_p95_ms=WHOLE.quantile(tally, 0.95),
        output_tokens_per_s=1000 * tally.get(TOKENS, 0) / generating_ms if generating_ms else None,
    )
