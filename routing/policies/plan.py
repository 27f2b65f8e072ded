"""Where a call may go, in which order, and why: the one place that decides. Pure.

Fails closed: what a region, an allowlist or a policy's constraint does not clearly permit is left out.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from enum import IntEnum
from typing import Any, NamedTuple
from uuid import UUID

from routing.catalog.cost import Unpriced, estimate_pico, price_per_million
from routing.entries import Choice, PolicyEntry, RoutingSnapshot
from routing.types import Dropped, LatencyOf, Operation, Ranked, RoutePlan, Target
from tenants.errors import ApiError

POLICY_PREFIX = "policy:"
STRATEGIES = ("cost", "latency", "weighted", "ordered")
EXPLORE_SHARE = 0.05
"""How often a latency policy tries an endpoint it knows nothing about first."""
PRIOR_MS = 1000.0
"""What an unmeasured endpoint is taken for the rest of the time."""
NOT_COMPARABLE = float("inf")


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
    CONTEXT = 4
    REGION = 5
    PRICED = 6
    PRICE_LIMIT = 7


@dataclass(frozen=True, slots=True)
class _Limits:
    """What the request and the policy demand together."""

    regions: frozenset[str] | None
    capabilities: frozenset[str]
    max_price_per_million: Decimal | None


class _Kept(NamedTuple):
    """A target that passed; `cost_pico` is None while unpriced. A tuple, because planning must stay cheap."""

    target: Target
    weight: int  # of the policy's pointer; of the endpoint for a plain name
    position: int  # of the policy's pointer
    cost_pico: int | None


def plan(
    request: PlanRequest, snapshot: RoutingSnapshot, *, latency_of: LatencyOf, now: float, draw: float
) -> RoutePlan:
    """The targets to try in order, with the reasons for each kept and dropped one.

    `now` is in unix seconds, `draw` is uniform in [0, 1). Raises ApiError: model_not_found,
    model_not_allowed, invalid_request, unsupported_parameter, context_length_exceeded, region_unavailable,
    model_unpriced.
    """
    policy, choices = _resolve(request, snapshot)
    limits = _limits(request, policy)
    kept, dropped, furthest = _filter(request, choices, limits, now)
    if not kept:
        if not choices:
            raise _not_found(request.model)
        raise _refusal(request, furthest, limits)
    strategy = policy.strategy if policy else "weighted"
    return RoutePlan(
        policy=f"{policy.slug}@{policy.number}" if policy else "",
        strategy=strategy,
        targets=tuple(
            _ranked(strategy, kept, latency_of=latency_of, draw=draw, is_policy=policy is not None)
        ),
        dropped=(*dropped, *_dead_ends(policy, choices)),
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


def _filter(
    request: PlanRequest, choices: Iterable[Choice], limits: _Limits, now: float
) -> tuple[list[_Kept], list[Dropped], _Stage]:
    is_allowed_whole = request.allowed_models is None or request.model in request.allowed_models
    kept: list[_Kept] = []
    dropped: list[Dropped] = []
    furthest = _Stage.ALLOWED
    for choice in choices:
        target = choice[0]
        cost_pico: int | None = None
        if not is_allowed_whole and not _is_allowed(request.allowed_models, target):
            stage, reason = _Stage.ALLOWED, "not among the models this key may use"
        elif request.operation not in target.operations:
            stage, reason = _Stage.OPERATION, f"does not serve {request.operation}"
        elif not limits.capabilities <= target.capabilities:
            missing = min(limits.capabilities - target.capabilities)
            stage, reason = _Stage.CAPABILITY, f"does not support {missing}"
        elif target.context_window is not None and request.input_tokens > target.context_window:
            stage, reason = _Stage.CONTEXT, f"its context window is {target.context_window} tokens"
        elif limits.regions is not None and target.region not in limits.regions:
            stage, reason = _Stage.REGION, f"is in region {target.region}"
        else:
            try:
                cost_pico = estimate_pico(
                    target.rates, request.input_tokens, request.output_tokens, now, request.service_tier
                )
            except Unpriced as unpriced:
                if request.allow_unpriced and limits.max_price_per_million is None:
                    kept.append(_Kept(*choice, None))
                    continue
                stage, reason = _Stage.PRICED, f"has no price for {unpriced.component}"
            else:
                if limits.max_price_per_million is None or _is_within(target, request, limits, now):
                    kept.append(_Kept(*choice, cost_pico))
                    continue
                stage, reason = (
                    _Stage.PRICE_LIMIT,
                    f"costs more than {limits.max_price_per_million} per million",
                )
        dropped.append(Dropped(target.endpoint_id, target.provider, target.model, reason))
        furthest = max(furthest, stage)
    return kept, dropped, furthest


def _is_allowed(allowed: frozenset[str] | None, target: Target) -> bool:
    return allowed is None or target.model in allowed or f"{target.provider}/{target.model}" in allowed


def _is_within(target: Target, request: PlanRequest, limits: _Limits, now: float) -> bool:
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
        <= (limits.max_price_per_million or 0)
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
    strategy: str, kept: list[_Kept], *, latency_of: LatencyOf, draw: float, is_policy: bool
) -> Iterable[Ranked]:
    if not is_policy:
        return _drawn_then_cheapest(kept, draw)
    match strategy:
        case "cost":
            return _by_cost(kept, latency_of)
        case "latency":
            return _by_latency(kept, latency_of, draw)
        case "weighted":
            return _by_weight(kept, draw)
        case "ordered":
            return _in_order(kept)
    raise ApiError("invalid_request", f"The strategy {strategy!r} is unknown.", param="model")


def _by_cost(kept: list[_Kept], latency_of: LatencyOf) -> list[Ranked]:
    """Cheapest first, of equals the faster; then other currencies than the commonest, then the unpriced."""
    currency = _commonest_currency(kept)

    def key(each: _Kept) -> tuple[int, int, float]:
        if each.cost_pico is None:
            return 2, 0, 0.0
        latency_ms = latency_of(each.target.endpoint_id)
        is_foreign = each.target.rates.currency != currency
        return is_foreign, each.cost_pico, PRIOR_MS if latency_ms is None else latency_ms

    return [Ranked(each.target, *_cost_words(each, currency)) for each in sorted(kept, key=key)]


def _cost_words(each: _Kept, currency: str) -> tuple[float, str]:
    if each.cost_pico is None:
        return NOT_COMPARABLE, "unpriced"
    own = each.target.rates.currency
    if own != currency:
        return NOT_COMPARABLE, f"priced in {own}, not comparable with {currency}"
    return float(each.cost_pico), "estimated cost in pico-units"


def _commonest_currency(kept: list[_Kept]) -> str:
    first = kept[0].target.rates.currency
    if all(each.target.rates.currency == first for each in kept):
        return first
    return Counter(each.target.rates.currency for each in kept).most_common(1)[0][0]


def _by_latency(kept: list[_Kept], latency_of: LatencyOf, draw: float) -> list[Ranked]:
    """Fastest measured first byte first; now and then an unmeasured one, so that it gets measured."""
    figures = [(each, latency_of(each.target.endpoint_id)) for each in kept]
    unmeasured = [each for each, latency_ms in figures if latency_ms is None]
    explored = None
    if unmeasured and len(unmeasured) < len(kept) and draw < EXPLORE_SHARE:
        explored = unmeasured[int(draw / EXPLORE_SHARE * len(unmeasured))]
    elif len(unmeasured) == len(kept):
        # Nothing is known of any: spread the first calls over all of them.
        explored = unmeasured[int(draw * len(unmeasured))]
    ranked = [
        (
            each is not explored,
            PRIOR_MS if latency_ms is None else latency_ms,
            NOT_COMPARABLE if each.cost_pico is None else each.cost_pico,
            "measured first byte in ms" if latency_ms is not None else "not measured yet",
            each.target,
        )
        for each, latency_ms in figures
    ]
    ranked.sort(key=lambda row: row[:3])
    return [
        Ranked(target, score, reason if is_not_explored else "not measured yet, drawn to explore")
        for is_not_explored, score, _, reason, target in ranked
    ]


def _by_weight(kept: list[_Kept], draw: float) -> list[Ranked]:
    """A weighted order without replacement out of one draw: its rest after each pick is uniform again.

    A policy target's weight is shared by its endpoints in proportion to theirs.
    """
    shares: Counter[int] = Counter()
    for each in kept:
        shares[each.position] += each.target.weight
    pool = [(each, each.weight * each.target.weight / (shares[each.position] or 1)) for each in kept]
    ranked: list[Ranked] = []
    while pool:
        each, share, draw = _pick(pool, draw)
        ranked.append(Ranked(each.target, float(len(ranked)), f"drawn with weight share {share:.3g}"))
    return ranked


def _drawn_then_cheapest(kept: list[_Kept], draw: float) -> list[Ranked]:
    """A plain model name: one endpoint drawn by weight, the others behind it from the cheapest up."""
    pool = [(each, float(each.weight)) for each in kept]
    first, share, _ = _pick(pool, draw)
    rest = sorted((each for each, _ in pool), key=_cost_key)
    return [
        Ranked(first.target, 0.0, f"drawn with weight share {share:.3g}"),
        *(Ranked(each.target, float(place), "next by cost") for place, each in enumerate(rest, start=1)),
    ]


def _in_order(kept: list[_Kept]) -> list[Ranked]:
    ordered = sorted(kept, key=lambda each: (each.position, _cost_key(each)))
    return [Ranked(each.target, float(each.position), "in the policy's order") for each in ordered]


def _cost_key(each: _Kept) -> float:
    return NOT_COMPARABLE if each.cost_pico is None else each.cost_pico


def _pick(pool: list[tuple[_Kept, float]], draw: float) -> tuple[_Kept, float, float]:
    """Take one out of `pool` by weight: it, its share of the weights, and the draw that is left.

    A weight of zero is taken only when nothing else is left.
    """
    total = sum(weight for _, weight in pool)
    if total <= 0:
        each, _ = pool.pop(0)
        return each, 0.0, draw
    point = draw * total
    passed = 0.0
    chosen = max(index for index, (_, weight) in enumerate(pool) if weight > 0)
    for index, (_, weight) in enumerate(pool):
        if weight > 0 and point < passed + weight:
            chosen = index
            break
        passed += weight
    each, weight = pool.pop(chosen)
    left = min(max((point - passed) / weight, 0.0), 1.0 - 2**-53)
    return each, weight / total, left
