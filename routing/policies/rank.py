"""In which order the targets that are left are tried: one function per strategy. Pure.

Each answers with the places of a `Field`, best first, with the figure that ranked each (lower is better) and why.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from math import inf, sqrt
from typing import Final, NamedTuple

from routing.policies.pool import Pool, shares_of
from routing.policies.standing import p95_of, usd
from routing.types import Circuit, EndpointHealth, Target

STRATEGIES: Final = ("cost", "latency", "reliability", "slo", "weighted", "ordered")
"""What a policy may choose; a caller's `provider.sort` may also ask for "throughput"."""
EXPLORE_SHARE: Final = 0.05
"""How often a latency or slo policy tries an endpoint it knows nothing about first."""
PRIOR_MS: Final = 1000.0
"""What an unmeasured endpoint is taken for the rest of the time."""
TAIL_SHARE: Final = 0.25
"""How much of the way from the median to the p95 counts: a fast endpoint with a slow tail is not fast."""
NOT_COMPARABLE: Final = inf
FOREIGN: Final = 1e300  # behind every price in the common currency, before the unpriced
DRAWN_PLACES: Final = 5
CONFIDENCE_Z: Final = 1.96  # 95 %
SLACK: Final = 0.8
"""The share of its objective that a target may use to count as meeting it."""
FULL_BURN: Final = 4.0
"""The burn rate of the error budget from which only the most reliable target counts as meeting the objective."""


@dataclass(frozen=True, slots=True)
class Objective:
    """What an slo policy holds its targets to, and how fast the feature's error budget is being spent."""

    p95_ms: float | None
    success: float | None
    burn: float
    source: str  # "the feature 'x'" or "the policy's constraints"


@dataclass(slots=True)
class Field:
    """A pool with what is known of each place now. `main` and `fallback` are the places that are left, in order.

    `costs` are estimates in pico-units, `seen` is health; both are indexed by place, as the pool's own sequences.
    """

    pool: Pool
    costs: Sequence[int | None]
    seen: Sequence[EndpointHealth | None]
    main: Sequence[int]
    fallback: Sequence[int]

    def comparable(self) -> Sequence[float]:
        """The costs as sort keys: other currencies than the commonest behind, the unpriced last."""
        pool = self.pool
        if pool.is_priced and not pool.is_mixed:
            return self.costs  # type: ignore[return-value]  # none is None
        return [
            NOT_COMPARABLE if cost is None else cost if target.rates.currency == pool.currency else FOREIGN
            for cost, target in zip(self.costs, pool.targets, strict=True)
        ]


class Order(NamedTuple):
    """The main places, best first; scores and reasons are indexed by place, not by rank."""

    places: list[int]
    scores: Sequence[float]
    reasons: Sequence[str]


def rank(strategy: str, field: Field, *, objective: Objective | None, draw: float) -> Order:
    """The main places of `field` by a strategy; "" is a plain model's. `draw` is uniform in [0, 1)."""
    match strategy:
        case "":
            return _drawn_then_cheapest(field, draw)
        case "cost":
            return _by_cost(field)
        case "latency":
            return _by_latency(field, draw)
        case "reliability":
            return _by_reliability(field, "the most that may fail of it, with 95 % certainty")
        case "slo" if objective is not None:
            return _by_objective(field, objective, draw)
        case "slo":
            return _by_reliability(
                field, "the most that may fail of it: neither the feature nor the policy sets an objective"
            )
        case "weighted":
            return _by_weight(field, draw)
        case "ordered":
            return _in_order(field)
        case "throughput":
            return _by_throughput(field)
    raise ValueError(f"the strategy {strategy!r} is unknown")


# ------------------------------------------------------------------ strategies


def _by_cost(field: Field) -> Order:
    """Cheapest first, of equals the faster; then what cannot be compared: other currencies, unpriced."""
    pool, costs = field.pool, field.comparable()
    places = _sorted(field.main, costs, [_p50_ms(known) for known in field.seen])
    if pool.is_priced and not pool.is_mixed:
        return Order(places, costs, ("estimated cost in pico-units",) * len(costs))
    reasons = [
        "unpriced"
        if cost == NOT_COMPARABLE
        else f"priced in {target.rates.currency}, not comparable with {pool.currency}"
        if cost == FOREIGN
        else "estimated cost in pico-units"
        for cost, target in zip(costs, pool.targets, strict=True)
    ]
    return Order(places, [NOT_COMPARABLE if cost == FOREIGN else cost for cost in costs], reasons)


def _by_latency(field: Field, draw: float) -> Order:
    """Fastest measured first byte first; now and then an unmeasured one, so that it gets measured."""
    figures = [_first_byte_ms(known) for known in field.seen]
    scores = [PRIOR_MS if figure is None else figure for figure in figures]
    places = _sorted(field.main, scores, field.comparable())
    reasons = ["not measured yet" if figure is None else "measured first byte in ms" for figure in figures]
    _explore(places, reasons, [place for place in field.main if figures[place] is None], draw)
    return Order(places, scores, reasons)


def _by_throughput(field: Field) -> Order:
    """Most output tokens per second first, of equals the cheaper; the unmeasured last."""
    paces = [None if known is None else known.output_tokens_per_s for known in field.seen]
    scores = [NOT_COMPARABLE if pace is None else -pace for pace in paces]
    reasons = ["not measured yet" if pace is None else "output tokens per second, negated" for pace in paces]
    return Order(_sorted(field.main, scores, field.comparable()), scores, reasons)


def _by_reliability(field: Field, reason: str) -> Order:
    """The highest certain success share first, then closed circuits before others, then the cheaper.

    Shares that agree to a thousandth are equal. An endpoint that is not measured may fail always.
    """
    scores = [
        1.0 if known is None else round(1.0 - success_bound(known.success, known.samples), 3)
        for known in field.seen
    ]
    closed = Circuit.CLOSED
    is_troubled = [known is not None and known.circuit is not closed for known in field.seen]
    places = _sorted(field.main, scores, is_troubled, field.comparable())
    return Order(places, scores, [reason if score < 1.0 else "success not measured yet" for score in scores])


def _by_objective(field: Field, objective: Objective, draw: float) -> Order:
    """The cheapest target that meets the objective with slack; the faster its budget burns, the less slack counts.

    A target's *use* is how much of the objective it takes up, the larger of
        p95 / target p95,  and  (failures + 1) / (attempts x allowed failure share + 1);
    1 is exactly on target, and what an endpoint without measurements counts as: one failure is assumed of every
    endpoint, so that few samples say little. With the burn rate b of the feature's error budget
        shift = (b - 1) / (FULL_BURN - 1), within [0, 1];   limit = SLACK - shift x (SLACK - least use).
    Targets whose use is within the limit go first, the cheapest of them first; the others follow by their use. So
    a burn of 1 or less takes the cheapest that keeps the promise with slack, FULL_BURN the most reliable and
    fastest alone, and what lies between moves there by degrees. While the burn is 1 or less, EXPLORE_SHARE of the
    calls measure an endpoint that is not measured yet.
    """
    uses, costs = uses_of(field.seen, objective), field.comparable()
    least = min([uses[place] for place in field.main], default=1.0)
    shift = min(max((objective.burn - 1.0) / (FULL_BURN - 1.0), 0.0), 1.0)
    limit = SLACK if least >= SLACK else max(SLACK - shift * (SLACK - least), least)
    keys = [0.0 if use <= limit else use for use in uses]
    places = _sorted(field.main, keys, costs)
    burn = f"{objective.source}, burn {objective.burn:.2g}"
    within = f"uses at most {limit:.0%} of {burn}: the cheapest first"
    beyond = f"uses more than {limit:.0%} of {burn}: the least use first"
    reasons = [beyond if key else within for key in keys]
    if objective.burn <= 1.0:
        unmeasured = [place for place in field.main if p95_of(field.seen[place]) is None]
        if len(unmeasured) < len(places):
            _explore(places, reasons, unmeasured, draw)
    return Order(places, [key or cost for key, cost in zip(keys, costs, strict=True)], reasons)


def _by_weight(field: Field, draw: float) -> Order:
    """The first places by one draw without replacement: its rest after each pick is uniform again.

    Nobody tries more than `DRAWN_PLACES` targets, so what is behind them follows by weight.
    """
    pool, left = field.pool, list(field.main)
    shares = pool.shares
    if len(left) < pool.main:
        shares = shares_of([pool.choices[place] for place in left])
    weights = list(shares[: len(left)])
    by_place = dict(zip(left, weights, strict=True))
    places: list[int] = []
    reasons = ["next by weight"] * len(pool.choices)
    while left and len(places) < DRAWN_PLACES:
        at, share, draw = _pick(weights, draw)
        if at is None:
            break
        del weights[at]
        place = left.pop(at)
        places.append(place)
        reasons[place] = f"drawn with weight share {share:.3g}"
    left.sort(key=by_place.__getitem__, reverse=True)
    places += left
    return Order(places, _ranks(places, len(reasons)), reasons)


def _drawn_then_cheapest(field: Field, draw: float) -> Order:
    """A plain model name: one endpoint drawn by weight, the others behind it from the cheapest up."""
    pool, main = field.pool, field.main
    if len(pool.choices) == 1:
        return Order([0], (0.0,), ("the only endpoint",))
    places = _sorted(main, field.comparable())
    reasons = ["next by cost"] * len(pool.choices)
    at, share, _ = _pick([float(pool.targets[place].weight) for place in main], draw)
    if at is not None:
        places.remove(main[at])
        places.insert(0, main[at])
        reasons[main[at]] = f"drawn with weight share {share:.3g}"
    return Order(places, _ranks(places, len(reasons)), reasons)


def _in_order(field: Field) -> Order:
    positions = [choice[2] for choice in field.pool.choices]
    places = _sorted(field.main, positions, field.comparable())
    return Order(places, positions, ("in the policy's order",) * len(positions))


# ------------------------------------------------------------------ several credentials


def spread(order: Order, field: Field, draw: float) -> None:
    """Which of an endpoint's credentials goes first, by weight: a strategy that measures cannot tell them apart.

    Other bits of the draw decide than those that choose a target.
    """
    draw = draw * 2.0**24 % 1.0
    rank_of = {place: number for number, place in enumerate(order.places)}
    for group in field.pool.siblings:
        ranks = sorted(rank_of[place] for place in group if place in rank_of)
        members = [order.places[each] for each in ranks]
        at, _, _ = _pick([float(field.pool.targets[place].weight) for place in members], draw)
        if at:
            members.insert(0, members.pop(at))
        for each, place in zip(ranks, members, strict=True):
            order.places[each] = place


# ------------------------------------------------------------------ figures


@lru_cache(maxsize=4096)
def success_bound(success: float | None, samples: int) -> float:
    """The success share that an endpoint has at least, with 95 % certainty: Wilson's score interval (1927)."""
    if success is None or not samples:
        return 0.0
    n, p, z = samples, success, CONFIDENCE_Z
    spread = z * sqrt(p * (1.0 - p) / n + z * z / (4 * n * n))
    return max(0.0, (p + z * z / (2 * n) - spread) / (1.0 + z * z / n))


def uses_of(seen: Sequence[EndpointHealth | None], objective: Objective) -> list[float]:
    """How much of the objective each endpoint takes up; see `_by_objective`."""
    target_ms = objective.p95_ms
    allowed = None if objective.success is None else 1.0 - objective.success
    unmeasured = 0.0 if target_ms is None and allowed is None else 1.0
    uses: list[float] = []
    for known in seen:
        if known is None:
            uses.append(unmeasured)
            continue
        use = 0.0
        if target_ms is not None:
            p95_ms = known.first_byte_p95_ms if known.latency_p95_ms is None else known.latency_p95_ms
            use = 1.0 if p95_ms is None else p95_ms / target_ms
        if allowed is not None:
            success = known.success
            of_failures = 1.0
            if success is not None:
                of_failures = (known.samples * (1.0 - success) + 1.0) / (known.samples * allowed + 1.0)
            use = max(use, of_failures)
        uses.append(use)
    return uses


def figures(cost_pico: int | None, target: Target, known: EndpointHealth | None) -> str:
    """What was known of a target when it was ranked, in one line for an admin."""
    currency = target.rates.currency
    if cost_pico is None:
        parts = ["unpriced"]
    else:
        amount = usd(cost_pico)
        parts = [f"estimated at {amount}" if currency == "USD" else f"estimated at {amount[1:]} {currency}"]
    if known is not None:
        if known.first_byte_p50_ms is not None:
            parts.append(f"first byte p50 {known.first_byte_p50_ms:.0f} ms")
        if known.first_byte_p95_ms is not None:
            parts.append(f"p95 {known.first_byte_p95_ms:.0f} ms")
        if known.latency_p95_ms is not None:
            parts.append(f"whole answer p95 {known.latency_p95_ms:.0f} ms")
        if known.success is not None:
            parts.append(f"{known.success:.2%} of {known.samples} succeeded")
        if known.output_tokens_per_s is not None:
            parts.append(f"{known.output_tokens_per_s:.0f} tokens/s")
    return ", ".join(parts)


def _first_byte_ms(known: EndpointHealth | None) -> float | None:
    if known is None:
        return None
    p50_ms, p95_ms = known.first_byte_p50_ms, known.first_byte_p95_ms
    if p50_ms is None or p95_ms is None:
        return p50_ms
    return p50_ms + TAIL_SHARE * (p95_ms - p50_ms)


def _p50_ms(known: EndpointHealth | None) -> float:
    return PRIOR_MS if known is None or known.first_byte_p50_ms is None else known.first_byte_p50_ms


def _sorted(places: Sequence[int], *keys: Sequence[float]) -> list[int]:
    """The places by the first key, of equals by the next; as they were where all are equal.

    One stable pass per key, the last key first: cheaper than comparing tuples.
    """
    places = list(places)
    for key in reversed(keys):
        places.sort(key=key.__getitem__)
    return places


def _explore(places: list[int], reasons: list[str], unmeasured: Sequence[int], draw: float) -> None:
    """Move an unmeasured place to the front: for EXPLORE_SHARE of the draws, always while nothing is measured."""
    if not unmeasured:
        return
    share = EXPLORE_SHARE if len(unmeasured) < len(places) else 1.0
    if draw < share:
        explored = unmeasured[int(draw / share * len(unmeasured))]
        places.remove(explored)
        places.insert(0, explored)
        reasons[explored] = "not measured yet, drawn to explore"


def _ranks(places: Sequence[int], count: int) -> list[float]:
    scores = [0.0] * count
    for number, place in enumerate(places):
        scores[place] = float(number)
    return scores


def _pick(weights: Sequence[float], draw: float) -> tuple[int | None, float, float]:
    """Choose one by weight: its index, its share of the weights, and the draw that is left.

    A weight of zero is never chosen; without any other the index is None.
    """
    sums = list(accumulate(weights))
    total = sums[-1] if sums else 0.0
    if total <= 0:
        return None, 0.0, draw
    point = draw * total
    at = min(bisect_right(sums, point), len(sums) - 1)  # rounding may carry the point to the very end
    while not weights[at]:
        at -= 1
    left = min(max((point - sums[at] + weights[at]) / weights[at], 0.0), 1.0 - 2**-53)
    return at, weights[at] / total, left
