"""What the providers' present state does to a plan: open circuits, paused quotas, measured limits. Pure.

It may take targets out or put them behind others, but never out for a circuit or a pause: these pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import inf
from typing import Final

from routing.policies.constraints import Constraints
from routing.policies.filters import USD
from routing.policies.pool import Pool
from routing.policies.preferences import Preferences
from routing.policies.refusals import Stage
from routing.types import Circuit, EndpointHealth, Health

PAUSED: Final = 1
PROBED_BY_OTHERS: Final = 2
OPEN: Final = 3


@dataclass(slots=True)
class Standing:
    """Places that are out, and those that go behind others (a higher level further behind), with the reasons."""

    dropped: dict[int, str] = field(default_factory=dict)
    furthest: Stage = Stage.SERVED
    behind: dict[int, tuple[float, str]] = field(default_factory=dict)
    lesser: dict[int, str] = field(default_factory=dict)
    """Places behind the others of their own class: unmeasured where a limit asks for it, or not as preferred."""

    def drop(self, place: int, stage: Stage, reason: str) -> None:
        self.dropped[place] = reason
        self.furthest = max(self.furthest, stage)


def within_cost(standing: Standing, pool: Pool, costs: Sequence[int | None], limit_pico: int) -> None:
    """Drop what would cost more than `limit_pico` (USD) by its estimate, and what cannot be compared with it."""
    words = f"estimated above the limit of {usd(limit_pico)} per call"
    if pool.is_priced and pool.currency == USD and not pool.is_mixed:
        over = [place for place, cost_pico in enumerate(costs) if cost_pico > limit_pico]  # type: ignore[operator]  # none is None
        if over:
            standing.dropped |= dict.fromkeys(over, words)
            standing.furthest = max(standing.furthest, Stage.COST_LIMIT)
        return
    for place, cost_pico in enumerate(costs):
        currency = pool.targets[place].rates.currency
        if cost_pico is None:
            standing.drop(place, Stage.PRICED, "has no price, and the cost per call is limited")
        elif currency != USD:
            unlike = f"priced in {currency}, not comparable with a limit in USD"
            standing.drop(place, Stage.COST_LIMIT, unlike)
        elif cost_pico > limit_pico:
            standing.drop(place, Stage.COST_LIMIT, words)


def within_measures(
    standing: Standing, seen: Sequence[EndpointHealth | None], constraints: Constraints
) -> None:
    """Drop what is measured to be too slow or to fail too often; what is not measured goes behind the rest."""
    max_p95_ms, min_success = constraints.max_p95_ms, constraints.min_success
    for place, known in enumerate(seen):
        if max_p95_ms is not None:
            p95_ms = p95_of(known)
            if p95_ms is None:
                standing.lesser[place] = "p95 not measured yet"
            elif p95_ms > max_p95_ms:
                standing.drop(place, Stage.SLOW, f"its p95 is {p95_ms:.0f} ms, the limit is {max_p95_ms} ms")
        if min_success is not None:
            success = known.success if known is not None else None
            if success is None:
                standing.lesser[place] = "success not measured yet"
            elif success < min_success:
                words = f"{success:.2%} of its attempts succeed, {min_success:.2%} are asked for"
                standing.drop(place, Stage.UNRELIABLE, words)


def as_preferred(standing: Standing, seen: Sequence[EndpointHealth | None], preferences: Preferences) -> None:
    """Put behind the rest what is not as fast as the caller prefers; what is not measured may well be."""
    max_p50_ms, max_p95_ms = preferences.max_p50_ms or inf, preferences.max_p95_ms or inf
    min_pace = preferences.min_tokens_per_s or 0.0
    for place, known in enumerate(seen):
        if known is None:
            continue
        if (known.first_byte_p50_ms or 0.0) > max_p50_ms or (known.first_byte_p95_ms or 0.0) > max_p95_ms:
            standing.lesser[place] = "slower than provider.preferred_max_latency"
        elif known.output_tokens_per_s is not None and known.output_tokens_per_s < min_pace:
            standing.lesser[place] = "slower than provider.preferred_min_throughput"


def by_pauses(standing: Standing, pool: Pool, health: Health, now: float) -> None:
    """A target whose provider asked us to wait goes behind all that are ready."""
    pauses = health.pauses
    for place, target in enumerate(pool.targets):
        if target.quota_key in pauses and (until_s := pauses[target.quota_key]) > now:
            standing.behind[place] = (PAUSED, f"behind the others: rate limited until {clock(until_s)}")


def by_circuits(
    standing: Standing, seen: Sequence[EndpointHealth | None], troubled: Sequence[int], now: float
) -> None:
    """Put the `troubled` places last: half-open ones (unless this is the probe), then open ones, the soonest first.

    Last and not out: a call gets there only when everything before has failed it, and then a provider that
    probably fails is better than a certain refusal.
    """
    for place in troubled:
        known = seen[place]
        if known is None or place in standing.dropped:
            continue
        if known.circuit is Circuit.OPEN and known.open_until > now:
            words = f"last: circuit open until {clock(known.open_until)}"
            standing.behind[place] = (OPEN + known.open_until, words)
        elif known.circuit is not Circuit.CLOSED and not known.is_probe:
            standing.behind[place] = (PROBED_BY_OTHERS, "last: circuit half open, waiting for its probe")


def arranged(
    places: Sequence[int], reasons: Sequence[str], pool: Pool, state: Standing
) -> tuple[list[int], list[str]]:
    """Whatever goes before the rank, in this order: what is ready now, the fallback last, the tenant's own
    credentials first, the caller's provider.order, and what is measured to be as asked."""
    nothing, plain = (0.0, ""), (0, 0, 0)
    behind, lesser, classes = state.behind, state.lesser, pool.classes

    def before_rank(place: int) -> tuple[float, tuple[int, int, int], bool]:
        of_class = plain if classes is None else classes[place]
        return behind.get(place, nothing)[0], of_class, place in lesser

    told = list(reasons)
    if classes is not None:
        for place, target in enumerate(pool.targets):
            if target.is_own:
                told[place] = f"the tenant's own credential; {told[place]}"
    for place, words in lesser.items():
        told[place] = f"{told[place]}; {words}"
    for place, (_, words) in behind.items():
        told[place] = f"{told[place]}; {words}"
    return sorted(places, key=before_rank), told


def p95_of(known: EndpointHealth | None) -> float | None:
    """Milliseconds to the end of an answer, else (none measured yet) to its first byte; None: not measured."""
    if known is None:
        return None
    return known.first_byte_p95_ms if known.latency_p95_ms is None else known.latency_p95_ms


def clock(instant_s: float) -> str:
    return f"{datetime.fromtimestamp(instant_s, UTC):%Y-%m-%d %H:%M:%S} UTC"


def usd(pico: int) -> str:
    whole, part = divmod(pico, 10**12)
    return f"${whole}.{part:012d}".rstrip("0").rstrip(".")
