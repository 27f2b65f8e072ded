"""When an endpoint is left alone, and when it is tried again: a circuit breaker as a state machine. Pure.

Never decides that nobody is left to call: that the last target of a route is not ejected is the planner's
rule, for which it gets the state, the deadline and the permit for the one probe.
"""

from dataclasses import dataclass, replace
from typing import Final, Literal

from routing.types import Circuit, ErrorKind

type Source = Literal["", "calls", "check", "operator"]
"""Who opened or closed a breaker last: calls of tenants, our own active checks, or a person."""

FAILURES: Final = frozenset(
    (
        ErrorKind.TIMEOUT,
        ErrorKind.CONNECTION,
        ErrorKind.SERVER_ERROR,
        ErrorKind.OVERLOADED,
        ErrorKind.INVALID_RESPONSE,
    )
)
"""The errors that tell against an endpoint (RELIABILITY.md §2.7). All others are the caller's, the quota's or
the credential's; a cut stream is an INVALID_RESPONSE or a CONNECTION."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What opens a breaker, and for how long.

    Five in a row is Envoy's `consecutive_5xx`; half of at least ten in ten seconds is RELIABILITY.md §9.4.

    An opening lasts a third of the outage so far, at least 5 s and at most 300 s (Envoy's
    `max_ejection_time`), ± 20 %. So the end of an outage is noticed after a third of its length at the latest,
    and the failed probes grow with its logarithm. It replaces Envoy's n times 30 s, which would break Failover
    Bench S15: back on the primary within 30 s after an outage of 60 s, with one call every 4 s. Here the last
    opening of such an outage lasts at most 60 / 3 * 1.2 = 24 s, and the next call comes 4 s later: 28 s.

    A latency outlier is an endpoint of which four answers in five, of at least twenty, begin five times later
    than its own median of the last minutes, and later than 3 s. The median follows within minutes, so that an
    endpoint which has become slow for good is left to the ranking.
    """

    consecutive: int = 5
    window_s: int = 10
    failure_share: float = 0.5
    min_samples: int = 10
    slow_share: float = 0.8
    min_slow_samples: int = 20
    slow_factor: float = 5.0
    slow_floor_ms: float = 3000.0
    first_open_s: float = 5.0
    outage_share: float = 1 / 3
    max_open_s: float = 300.0
    jitter: float = 0.2
    unprobed_s: float = 60.0
    steady_s: float = 60.0  # closed for so long, the next opening begins a new outage


RULES: Final = Rules()


@dataclass(frozen=True, slots=True)
class Counts:
    """What all workers saw of one endpoint in the window, and how many failures in a row came last.

    `slow` counts answers among `succeeded`.
    """

    succeeded: int = 0
    failed: int = 0
    slow: int = 0
    consecutive: int = 0


@dataclass(frozen=True, slots=True)
class Breaker:
    """One endpoint's breaker. Instants are unix seconds of the clock that all workers share.

    `generation` counts the changes: of two pictures of a breaker the one with more is the newer.
    """

    is_open: bool = False
    generation: int = 0
    open_until: float = 0.0
    opened_at: float = 0.0  # when it opened first since it was closed
    broken_since: float = 0.0  # the same, but kept over recoveries shorter than `steady_s`
    closed_at: float = 0.0
    reason: str = ""
    source: Source = ""


CLOSED: Final = Breaker()


def circuit_of(breaker: Breaker, now: float) -> Circuit:
    """Closed, open, or half open: open and past its deadline, so that one probe may find out."""
    if not breaker.is_open:
        return Circuit.CLOSED
    return Circuit.HALF_OPEN if now >= breaker.open_until else Circuit.OPEN


def judge(breaker: Breaker, counts: Counts, *, now: float, draw: float, rules: Rules = RULES) -> Breaker:
    """After a call ended: open a closed breaker if the counts say so. `draw` is uniform in [0, 1)."""
    if breaker.is_open:
        return breaker
    reason = _complaint(counts, rules)
    return _opened(breaker, reason, "calls", now=now, draw=draw, rules=rules) if reason else breaker


def probed(breaker: Breaker, *, ok: bool, now: float, draw: float, rules: Rules = RULES) -> Breaker:
    """The one probe of a half-open breaker has ended: close it, or open it again for longer.

    Without effect on a breaker that is closed, or was meanwhile opened anew: the later deadline wins.
    """
    if circuit_of(breaker, now) is not Circuit.HALF_OPEN:
        return breaker
    if ok:
        return _closed(breaker, "calls", now=now)
    return _opened(breaker, breaker.reason, "calls", now=now, draw=draw, rules=rules)


def checked(
    breaker: Breaker, counts: Counts, *, ok: bool, now: float, draw: float, rules: Rules = RULES
) -> Breaker:
    """An active check has ended, which asks less than a call does (a list of models).

    Its failures count like a call's. Its success proves only that the provider is reachable: it closes a
    half-open breaker that checks have opened, but one that calls have opened only after `unprobed_s` in which
    no call came to probe it. (Else an endpoint that is nobody's first choice would stay broken for good.)
    """
    if circuit_of(breaker, now) is Circuit.HALF_OPEN:
        if not ok:
            return _opened(breaker, breaker.reason, breaker.source, now=now, draw=draw, rules=rules)
        is_enough = breaker.source == "check" or now - breaker.open_until >= rules.unprobed_s
        return _closed(breaker, "check", now=now) if is_enough else breaker
    if breaker.is_open or ok:
        return breaker
    reason = _complaint(counts, rules)
    return _opened(breaker, reason, "check", now=now, draw=draw, rules=rules) if reason else breaker


def reset(breaker: Breaker, *, now: float) -> Breaker:
    """Closed by a person; the next outage is a new one."""
    return replace(_closed(breaker, "operator", now=now), broken_since=0.0)


def later(one: Breaker, other: Breaker) -> Breaker:
    """The newer of two pictures of a breaker; of two equally new ones the one with the later deadline."""
    if (other.generation, other.open_until) > (one.generation, one.open_until):
        return other
    return one


def open_for_s(outage_s: float, *, draw: float, rules: Rules = RULES) -> float:
    """How long a breaker stays open that far into an outage."""
    length_s = min(max(outage_s * rules.outage_share, rules.first_open_s), rules.max_open_s)
    return length_s * (1 + rules.jitter * (2 * draw - 1))


def slow_after_ms(median_ms: float | None, rules: Rules = RULES) -> float:
    """From when on an answer counts as slow, given the endpoint's own median."""
    if median_ms is None:
        return float("inf")
    return max(median_ms * rules.slow_factor, rules.slow_floor_ms)


def _complaint(counts: Counts, rules: Rules) -> str:
    """What speaks against the endpoint, in words for people; empty if nothing does."""
    if counts.consecutive >= rules.consecutive:
        return f"{counts.consecutive} failures in a row"
    samples = counts.succeeded + counts.failed
    if samples >= rules.min_samples and counts.failed >= rules.failure_share * samples:
        return f"{counts.failed} of {samples} calls failed within {rules.window_s} s"
    if samples >= rules.min_slow_samples and counts.slow >= rules.slow_share * samples:
        return f"{counts.slow} of {samples} answers within {rules.window_s} s began far later than usual"
    return ""


def _opened(
    breaker: Breaker, reason: str, source: Source, *, now: float, draw: float, rules: Rules
) -> Breaker:
    is_same_outage = breaker.is_open or now - breaker.closed_at < rules.steady_s
    broken_since = breaker.broken_since if is_same_outage and breaker.broken_since else now
    return Breaker(
        is_open=True,
        generation=breaker.generation + 1,
        open_until=now + open_for_s(now - broken_since, draw=draw, rules=rules),
        opened_at=breaker.opened_at if breaker.is_open else now,
        broken_since=broken_since,
        closed_at=breaker.closed_at,
        reason=reason,
        source=source,
    )


def _closed(breaker: Breaker, source: Source, *, now: float) -> Breaker:
    return replace(
        breaker,
        is_open=False,
        generation=breaker.generation + 1,
        open_until=0.0,
        closed_at=now,
        source=source,
    )
