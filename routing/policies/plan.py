"""Where a call may go, in which order, and why: the one place that decides. Pure.

Fails closed: what a region, an allowlist or a policy's constraint does not clearly permit is left out.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from enum import IntEnum
from operator import itemgetter
from typing import Any, NamedTuple
from uuid import UUID

from routing.catalog.cost import Unpriced, estimate_pico, price_per_million
from routing.entries import Choice, PolicyEntry, RoutingSnapshot
from routing.types import DEFAULT_CONDUCT, Dropped, Health, Operation, Ranked, RoutePlan, Target
from tenants.errors import ApiError

POLICY_PREFIX = "policy:"
STRATEGIES = ("cost", "latency", "weighted", "ordered")
EXPLORE_SHARE = 0.05
"""How often a latency policy tries an endpoint it knows nothing about first."""
PRIOR_MS = 1000.0
"""What an unmeasured endpoint is taken for the rest of the time."""
NOT_COMPARABLE = float("inf")
DRAWN_PLACES = 5
MEMO_ENTRIES = 10_000

type LatencyOf = Callable[[str], float | None]
"""Measured time to first byte of an endpoint in milliseconds, None while unknown."""


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What a call asks of its route. Sets that are None do not restrict; token counts are estimates."""

    model: str
    operation: Operation
    tenant_id: UUID
    regions: frozenset[str] | None = None
    allowed_models: frozenset[str] | None = None
    capabilities: frozenset[str] = frozenset()
    input_tokens: int = 0
    output_tokens: int = 0
    service_tier: str = ""
    allow_unpriced: bool = False


class _Stage(IntEnum):
    """The filters in their order. If nothing is left, the furthest one that a target reached is the error."""

    ALLOWED = 1
    OPERATION = 2
    CAPABILITY = 3
    REGION = 4
    CONTEXT = 5
    PRICED = 6
    PRICE_LIMIT = 7


@dataclass(frozen=True, slots=True)
class _Limits:
    """What the request and the policy demand together."""

    regions: frozenset[str] | None
    capabilities: frozenset[str]
    max_price_per_million: Decimal | None


type _Kept = tuple[Target, int, int, int | None]
"""A target that passed, weight and position of its policy target, and its estimated cost in pico-units (None
while unpriced). A plain tuple, because planning fifty endpoints must stay cheap."""


class _Sieved(NamedTuple):
    """What the filters say that do not depend on this one request's size: worked out once per snapshot."""

    limits: _Limits
    choices: Sequence[Choice]
    passed: Sequence[Choice]
    dropped: Sequence[Dropped]
    furthest: _Stage
    currency: str
    is_mixed: bool  # some rates are in another currency than the commonest, `currency`


def plan(
    request: PlanRequest, snapshot: RoutingSnapshot, *, health: Health, now: float, draw: float
) -> RoutePlan:
    """The targets to try in order, with the reasons for each kept and dropped one.

    `now` is in unix seconds, `draw` is uniform in [0, 1). Raises ApiError: model_not_found,
    model_not_allowed, invalid_request, unsupported_parameter, context_length_exceeded, region_unavailable,
    model_unpriced.
    """
    policy, choices = _resolve(request, snapshot)
    key = (
        request.model,
        policy.tenant_id if policy else None,
        request.operation,
        request.capabilities,
        request.regions,
        request.allowed_models,
    )
    sieved: _Sieved | None = snapshot.memo.get(key)
    if sieved is None:
        if len(snapshot.memo) >= MEMO_ENTRIES:
            snapshot.memo.clear()
        sieved = snapshot.memo[key] = _sieve(request, policy, choices)
    kept, dropped, furthest = _weigh(request, sieved, now)
    if not kept:
        if not choices:
            raise _not_found(request.model)
        raise _refusal(request, furthest, sieved.limits)
    strategy = policy.strategy if policy else "weighted"

    def latency_of(endpoint_id: str) -> float | None:
        seen = health.endpoints.get(endpoint_id)
        return seen.first_byte_p50_ms if seen else None

    return RoutePlan(
        policy=policy.name if policy else "",
        strategy=strategy,
        targets=tuple(_ranked(strategy if policy else "", kept, sieved, latency_of=latency_of, draw=draw)),
        dropped=(*sieved.dropped, *dropped),
        conduct=policy.conduct if policy else DEFAULT_CONDUCT,
    )


# ------------------------------------------------------------------ names


def _resolve(request: PlanRequest, snapshot: RoutingSnapshot) -> tuple[PolicyEntry | None, Sequence[Choice]]:
    """`policy:slug` (the tenant's own first), a catalogue model, or `provider/model`."""
    name = request.model
    if name.startswith(POLICY_PREFIX):
        slug = name.removeprefix(POLICY_PREFIX)
        policy = snapshot.policies.get((request.tenant_id, slug)) or snapshot.policies.get((None, slug))
        if policy is None:
            raise _not_found(name)
        return policy, snapshot.choices_of(policy)
    entry = snapshot.models.get(name)
    if entry is not None:
        return None, [(target, target.weight, 0) for target in entry.targets]
    provider, _, rest = name.partition("/")
    targets = snapshot.targets_of(provider, rest)
    if not targets:
        raise _not_found(name)
    return None, [(target, target.weight, 0) for target in targets]


def _not_found(name: str) -> ApiError:
    return ApiError(
        "model_not_found", f"The model {name!r} does not exist or is not available to you.", param="model"
    )


# ------------------------------------------------------------------ filters


def _limits(request: PlanRequest, policy: PolicyEntry | None) -> _Limits:
    constraints: Mapping[str, Any] = policy.constraints if policy else {}
    if not constraints:
        return _Limits(request.regions, request.capabilities, None)
    regions, limit = request.regions, None
    try:
        check_constraints(constraints)
        if (own := constraints.get("regions")) is not None:
            regions = frozenset(own) if regions is None else regions & frozenset(own)
        if (price := constraints.get("max_price_per_million")) is not None:
            limit = Decimal(price)
    except ValueError as error:
        raise ApiError(
            "invalid_request", f"The policy {request.model!r} cannot be applied: {error}."
        ) from error
    return _Limits(regions, request.capabilities | frozenset(constraints.get("capabilities", ())), limit)


def check_constraints(constraints: Mapping[str, Any]) -> None:
    """Raise ValueError, in words an admin can act on, unless every constraint is known and well formed."""
    for name, value in constraints.items():
        match name:
            case "regions" | "capabilities":
                if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
                    raise ValueError(f"{name} must be a list of names")
            case "max_price_per_million":
                try:
                    is_price = isinstance(value, str) and Decimal(value).is_finite() and Decimal(value) >= 0
                except InvalidOperation:
                    is_price = False
                if not is_price:
                    raise ValueError(f"{name} must be a price as a string")
            case _:
                raise ValueError(f"the constraint {name!r} is unknown")


def _sieve(request: PlanRequest, policy: PolicyEntry | None, choices: Sequence[Choice]) -> _Sieved:
    """Allowlist, operation, capabilities and regions: all that a call's size and time do not touch."""
    limits = _limits(request, policy)
    is_allowed_whole = request.allowed_models is None or request.model in request.allowed_models
    passed: list[Choice] = []
    dropped: list[Dropped] = []
    furthest = _Stage.ALLOWED
    for choice in choices:
        target = choice[0]
        if not is_allowed_whole and not _is_allowed(request.allowed_models, target):
            stage, reason = _Stage.ALLOWED, "not among the models this key may use"
        elif request.operation not in target.operations:
            stage, reason = _Stage.OPERATION, f"does not serve {request.operation}"
        elif not limits.capabilities <= target.capabilities:
            missing = min(limits.capabilities - target.capabilities)
            stage, reason = _Stage.CAPABILITY, f"does not support {missing}"
        elif limits.regions is not None and target.region not in limits.regions:
            stage, reason = _Stage.REGION, f"is in region {target.region}"
        else:
            passed.append(choice)
            continue
        dropped.append(_dropped(target, reason))
        furthest = max(furthest, stage)
    currencies = Counter(target.rates.currency for target, _, _ in passed).most_common()
    return _Sieved(
        limits=limits,
        choices=choices,
        passed=passed,
        dropped=[*dropped, *_dead_ends(policy, choices)],
        furthest=furthest,
        currency=currencies[0][0] if currencies else "",
        is_mixed=len(currencies) > 1,
    )


def _weigh(request: PlanRequest, sieved: _Sieved, now: float) -> tuple[list[_Kept], list[Dropped], _Stage]:
    """Context window and price: what depends on this very request."""
    input_tokens, output_tokens = request.input_tokens, request.output_tokens
    limit = sieved.limits.max_price_per_million
    kept: list[_Kept] = []
    dropped: list[Dropped] = []
    furthest = sieved.furthest
    for target, weight, position in sieved.passed:
        window = target.context_window
        if window is not None and input_tokens > window:
            dropped.append(_dropped(target, f"its context window is {window} tokens"))
            furthest = max(furthest, _Stage.CONTEXT)
            continue
        try:
            cost_pico = estimate_pico(target.rates, input_tokens, output_tokens, now, request.service_tier)
        except Unpriced as unpriced:
            if request.allow_unpriced and limit is None:
                kept.append((target, weight, position, None))
            else:
                dropped.append(_dropped(target, f"has no price for {unpriced.component}"))
                furthest = max(furthest, _Stage.PRICED)
            continue
        if limit is not None and not _is_within(target, request, limit, now):
            dropped.append(_dropped(target, f"costs more than {limit} per million"))
            furthest = max(furthest, _Stage.PRICE_LIMIT)
            continue
        kept.append((target, weight, position, cost_pico))
    return kept, dropped, furthest


def _dropped(target: Target, reason: str) -> Dropped:
    return Dropped(target.endpoint_id, target.provider, target.model, reason)


def _is_allowed(allowed: frozenset[str] | None, target: Target) -> bool:
    return allowed is None or target.model in allowed or f"{target.provider}/{target.model}" in allowed


def _is_within(target: Target, request: PlanRequest, limit: Decimal, now: float) -> bool:
    """Neither input nor output may cost more per million than the policy says."""
    components = ("input", "output") if request.output_tokens else ("input",)
    return all(
        price_per_million(
            target.rates,
            now,
            component,
            service_tier=request.service_tier,
            input_tokens=request.input_tokens,
        )
        <= limit
        for component in components
    )


def _refusal(request: PlanRequest, stage: _Stage, limits: _Limits) -> ApiError:
    name = request.model
    match stage:
        case _Stage.ALLOWED:
            return ApiError("model_not_allowed", f"This key may not use {name!r}.", param="model")
        case _Stage.OPERATION:
            return ApiError("invalid_request", f"{name!r} does not serve {request.operation}.", param="model")
        case _Stage.CAPABILITY:
            needed = ", ".join(sorted(limits.capabilities))
            return ApiError(
                "unsupported_parameter", f"No target of {name!r} supports {needed}.", param=needed
            )
        case _Stage.CONTEXT:
            return ApiError(
                "context_length_exceeded",
                f"About {request.input_tokens} input tokens do not fit any target of {name!r}.",
                param="messages" if request.operation is Operation.CHAT else None,
            )
        case _Stage.REGION:
            regions = ", ".join(sorted(limits.regions or ())) or "none"
            return ApiError(
                "region_unavailable", f"No target of {name!r} is in an allowed region ({regions})."
            )
        case _Stage.PRICED:
            return ApiError("model_unpriced", f"No target of {name!r} has a known price.", param="model")
        case _Stage.PRICE_LIMIT:
            return ApiError(
                "model_not_allowed",
                f"Every target of {name!r} costs more than its policy allows.",
                param="model",
            )


def _dead_ends(policy: PolicyEntry | None, choices: Sequence[Choice]) -> Iterable[Dropped]:
    """What a policy names but nobody serves: disabled, without a credential, or misspelt."""
    if policy is None:
        return
    reached = {position for _, _, position in choices}
    for position, pointer in enumerate(policy.targets):
        if position not in reached and not _is_named_before(policy, position, choices):
            yield Dropped(
                "",
                pointer.provider or "",
                pointer.model or "",
                "no enabled endpoint with a credential serves it",
            )


def _is_named_before(policy: PolicyEntry, position: int, choices: Sequence[Choice]) -> bool:
    """Whether an earlier pointer of the policy already led to everything that this one names."""
    pointer = policy.targets[position]
    return any(
        pointer.model in (None, target.model, target.provider_model)
        and pointer.provider in (None, target.provider)
        for target, _, _ in choices
    )


# ------------------------------------------------------------------ ranking


def _ranked(
    strategy: str, kept: list[_Kept], sieved: _Sieved, *, latency_of: LatencyOf, draw: float
) -> Iterable[Ranked]:
    match strategy:
        case "":
            return _drawn_then_cheapest(kept, draw)
        case "cost":
            return _by_cost(kept, sieved, latency_of)
        case "latency":
            return _by_latency(kept, latency_of, draw)
        case "weighted":
            return _by_weight(kept, draw)
        case "ordered":
            return _in_order(kept)
    raise ApiError("invalid_request", f"The strategy {strategy!r} is unknown.", param="model")


def _by_cost(kept: list[_Kept], sieved: _Sieved, latency_of: LatencyOf) -> list[Ranked]:
    """Cheapest first, of equals the faster; then what cannot be compared: other currencies, unpriced."""
    comparable: list[tuple[int, float, int, Target]] = []
    foreign: list[Ranked] = []
    unpriced: list[Ranked] = []
    for place, (target, _, _, cost_pico) in enumerate(kept):
        if cost_pico is None:
            unpriced.append(Ranked(target, NOT_COMPARABLE, "unpriced"))
        elif sieved.is_mixed and target.rates.currency != sieved.currency:
            words = f"priced in {target.rates.currency}, not comparable with {sieved.currency}"
            foreign.append(Ranked(target, NOT_COMPARABLE, words))
        else:
            latency_ms = latency_of(target.endpoint_id)
            comparable.append((cost_pico, PRIOR_MS if latency_ms is None else latency_ms, place, target))
    comparable.sort()
    reason = "estimated cost in pico-units"
    return [*[Ranked(target, float(cost), reason) for cost, _, _, target in comparable], *foreign, *unpriced]


def _by_latency(kept: list[_Kept], latency_of: LatencyOf, draw: float) -> list[Ranked]:
    """Fastest measured first byte first; now and then an unmeasured one, so that it gets measured."""
    figures = [latency_of(target.endpoint_id) for target, _, _, _ in kept]
    unmeasured = [place for place, latency_ms in enumerate(figures) if latency_ms is None]
    explored = -1
    if unmeasured and len(unmeasured) < len(kept):
        if draw < EXPLORE_SHARE:
            explored = unmeasured[int(draw / EXPLORE_SHARE * len(unmeasured))]
    elif unmeasured:
        # Nothing is known of any: spread the first calls over all of them.
        explored = unmeasured[int(draw * len(unmeasured))]
    rows = [
        (
            place != explored,
            PRIOR_MS if latency_ms is None else latency_ms,
            NOT_COMPARABLE if cost_pico is None else cost_pico,
            place,
            target,
        )
        for place, ((target, _, _, cost_pico), latency_ms) in enumerate(zip(kept, figures, strict=True))
    ]
    rows.sort()
    ranked: list[Ranked] = []
    for is_not_explored, latency_ms, _, place, target in rows:
        if figures[place] is not None:
            reason = "measured first byte in ms"
        else:
            reason = "not measured yet" if is_not_explored else "not measured yet, drawn to explore"
        ranked.append(Ranked(target, latency_ms, reason))
    return ranked


def _by_weight(kept: list[_Kept], draw: float) -> list[Ranked]:
    """The first places by one draw without replacement: its rest after each pick is uniform again.

    A policy target's weight is shared by its endpoints in proportion to theirs. Nobody tries more than
    `DRAWN_PLACES` targets, so what is behind them follows by weight.
    """
    shares: Counter[int] = Counter()
    for target, _, position, _ in kept:
        shares[position] += target.weight
    pool = [
        (target, weight * target.weight / (shares[position] or 1)) for target, weight, position, _ in kept
    ]
    ranked: list[Ranked] = []
    while pool and len(ranked) < DRAWN_PLACES:
        chosen, share, draw = _pick(pool, draw)
        ranked.append(Ranked(pool.pop(chosen)[0], float(len(ranked)), f"drawn with weight share {share:.3g}"))
    pool.sort(key=itemgetter(1), reverse=True)
    ranked.extend(
        Ranked(target, float(place), "next by weight") for place, (target, _) in enumerate(pool, DRAWN_PLACES)
    )
    return ranked


def _drawn_then_cheapest(kept: list[_Kept], draw: float) -> list[Ranked]:
    """A plain model name: one endpoint drawn by weight, the others behind it from the cheapest up."""
    if len(kept) == 1:
        return [Ranked(kept[0][0], 0.0, "the only endpoint")]
    chosen, share, _ = _pick([(target, float(weight)) for target, weight, _, _ in kept], draw)
    rest = sorted((each for place, each in enumerate(kept) if place != chosen), key=_cost_key)
    return [
        Ranked(kept[chosen][0], 0.0, f"drawn with weight share {share:.3g}"),
        *(Ranked(each[0], float(place), "next by cost") for place, each in enumerate(rest, start=1)),
    ]


def _in_order(kept: list[_Kept]) -> list[Ranked]:
    ordered = sorted(kept, key=lambda each: (each[2], _cost_key(each)))
    return [Ranked(target, float(position), "in the policy's order") for target, _, position, _ in ordered]


def _cost_key(each: _Kept) -> float:
    return NOT_COMPARABLE if each[3] is None else each[3]


def _pick(pool: Sequence[tuple[Target, float]], draw: float) -> tuple[int, float, float]:
    """Choose one by weight: its index, its share of the weights, and the draw that is left.

    A weight of zero is chosen only when nothing else is there.
    """
    total = sum(weight for _, weight in pool)
    if total <= 0:
        return 0, 0.0, draw
    point = draw * total
    passed = chosen_from = chosen_weight = 0.0
    chosen = 0
    for index, (_, weight) in enumerate(pool):
        if weight > 0:
            chosen, chosen_from, chosen_weight = index, passed, weight
            passed += weight
            if point < passed:
                break
    left = min(max((point - chosen_from) / chosen_weight, 0.0), 1.0 - 2**-53)
    return chosen, chosen_weight / total, left
