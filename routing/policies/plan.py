"""Where a call may go, in which order, and why: the one place that decides. Pure.

Names, filters, present state, rank: each step has its module here, this one is the line through them. Fails closed:
what a region, an allowlist or a policy's constraint does not clearly permit is left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from routing.entries import PolicyEntry, RoutingSnapshot
from routing.policies import filters, standing
from routing.policies.constraints import (
    NO_CONSTRAINTS,
    CallerNames,
    Constraints,
    Credentials,
    caller_refused,
    check_constraints,
    read_constraints,
)
from routing.policies.filters import Demands, Pool, Sieve, refusal
from routing.policies.names import Named, choices_of, copy_of, is_allowed_by_name, is_offered, resolve
from routing.policies.preferences import Preferences
from routing.policies.rank import (
    EXPLORE_SHARE,
    STRATEGIES,
    Field,
    Objective,
    figures,
    rank,
    spread,
)
from routing.policies.split import Subject, is_mirrored, mirror_of, ruled_by
from routing.policies.standing import Standing
from routing.types import (
    DEFAULT_CONDUCT,
    Assignment,
    Circuit,
    Dropped,
    EndpointHealth,
    Health,
    Mirror,
    Operation,
    Ranked,
    RoutePlan,
)
from tenants.errors import ApiError

__all__ = ["EXPLORE_SHARE", "STRATEGIES", "PlanRequest", "check_constraints", "plan"]

MEMO_ENTRIES: Final = 10_000
MEMO_SIEVES: Final = 500
SIEVES: Final = "sieves"
NO_PREFERENCES: Final = Preferences()


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
    tenant: str = ""  # slug
    api_key_id: UUID | None = None
    feature: str = ""
    plan: str = ""  # slug of the tenant's plan
    end_user: str = ""
    tags: Mapping[str, str] | None = None
    preferences: Preferences | None = None


@dataclass(frozen=True, slots=True)
class _Route:
    """What a kind of call finds in one snapshot: worked out once."""

    named: Named
    policy: PolicyEntry | None
    policy_name: str
    strategy: str  # of the ranking; "" for a plain model
    constraints: Constraints
    preferences: Preferences
    sieve: Sieve
    max_cost_pico: int | None
    is_split: bool  # an experiment or a rollout may give single calls another wording
    has_measures: bool  # the constraints ask for measured figures
    has_wishes: bool  # the preferences do


def plan(
    request: PlanRequest,
    snapshot: RoutingSnapshot,
    *,
    health: Health,
    now: float,
    draw: float,
    explain: bool = False,
) -> RoutePlan:
    """The targets to try in order, with the reasons for each kept and dropped one.

    `now` is in unix seconds, `draw` is uniform in [0, 1). `explain` adds to each reason the figures that were
    known. Raises ApiError: model_not_found, model_not_allowed, invalid_request, unsupported_parameter,
    context_length_exceeded, region_unavailable, model_unpriced, provider_unavailable; a `filters.NoTarget`
    where every target was dropped, with the reasons.
    """
    route, assignment = _ruled(request, snapshot, draw)
    pool = _pool_of(route, request, now)
    field, state = _standing_now(route, pool, request, health, now)
    targets, dropped = _ranked(route, field, state, health, draw, explain=explain)
    return RoutePlan(
        policy=route.policy_name,
        strategy=route.strategy or "weighted",
        targets=targets,
        dropped=(*pool.dropped, *dropped) if dropped else pool.dropped,
        conduct=route.policy.conduct if route.policy is not None else DEFAULT_CONDUCT,
        assignment=assignment,
        mirror=_mirror(route, request, snapshot, health, now, draw),
    )


# ------------------------------------------------------------------ which wording rules the call


def _ruled(request: PlanRequest, snapshot: RoutingSnapshot, draw: float) -> tuple[_Route, Assignment | None]:
    """The route, and the call's arm if an experiment or a rollout splits it."""
    key = _kind(request)
    route: _Route | None = snapshot.memo.get(key)
    if route is None:
        named = _resolved(request, snapshot)
        route = _remembered(snapshot, key, _routed(request, snapshot, named, named.policy))
    if route.constraints.allow.name_callers or route.constraints.deny.name_callers:
        _admit_caller(request, route)
    if not route.is_split or route.policy is None:
        return route, None
    subject = Subject(request.tenant_id, request.end_user, request.tags)
    ruling = ruled_by(route.policy, subject, draw=draw)
    if ruling.policy is route.policy:
        return route, ruling.assignment
    if not is_offered(route.named, ruling.policy, snapshot):
        return route, None  # the caller named a model that this wording does not know: it takes no part
    varied = _variant(request, snapshot, route.named, ruling.policy)
    _admit_caller(request, varied)
    return varied, ruling.assignment


def _kind(request: PlanRequest) -> tuple[object, ...]:
    """What calls must have in common to share a route."""
    return (
        request.model,
        request.tenant_id,
        request.operation,
        request.feature,
        request.plan,
        request.capabilities,
        request.regions,
        request.allowed_models,
        request.preferences,
    )


def _resolved(request: PlanRequest, snapshot: RoutingSnapshot) -> Named:
    return resolve(
        name=request.model,
        tenant_id=request.tenant_id,
        plan=request.plan,
        feature=request.feature,
        snapshot=snapshot,
    )


def _variant(request: PlanRequest, snapshot: RoutingSnapshot, named: Named, policy: PolicyEntry) -> _Route:
    """The route of the same call under another wording of its policy."""
    varied = (*_kind(request), policy.variant)
    route: _Route | None = snapshot.memo.get(varied)
    return route or _remembered(snapshot, varied, _routed(request, snapshot, named, policy))


def _remembered(snapshot: RoutingSnapshot, key: tuple[object, ...], route: _Route) -> _Route:
    if len(snapshot.memo) >= MEMO_ENTRIES:
        snapshot.memo.clear()
    snapshot.memo[key] = route
    return route


def _routed(
    request: PlanRequest, snapshot: RoutingSnapshot, named: Named, policy: PolicyEntry | None
) -> _Route:
    constraints = _constraints_of(policy, request.model)
    preferences = request.preferences or NO_PREFERENCES
    strategy = preferences.sort or (policy.strategy if policy is not None else "")
    if policy is not None and policy.strategy not in STRATEGIES:
        raise ApiError(
            "invalid_request", f"The strategy {policy.strategy!r} of {policy.name} is unknown.", param="model"
        )
    limits = [constraints.max_cost_pico]
    if policy is not None and policy.strategy == "slo" and named.feature is not None:
        limits.append(named.feature.max_cost_pico)
    return _Route(
        named=named,
        policy=policy,
        policy_name=policy.name if policy is not None else "",
        strategy=strategy,
        constraints=constraints,
        preferences=preferences,
        sieve=_sieve_of(request, snapshot, named, policy, constraints, preferences),
        max_cost_pico=min((limit for limit in limits if limit is not None), default=None),
        is_split=policy is not None and (policy.experiment is not None or policy.rollout is not None),
        has_measures=constraints.max_p95_ms is not None or constraints.min_success is not None,
        has_wishes=any(
            wish is not None
            for wish in (preferences.max_p50_ms, preferences.max_p95_ms, preferences.min_tokens_per_s)
        ),
    )


def _constraints_of(policy: PolicyEntry | None, name: str) -> Constraints:
    if policy is None or not policy.constraints:
        return NO_CONSTRAINTS
    try:
        return read_constraints(policy.constraints)
    except ValueError as error:
        raise ApiError(
            "invalid_request", f"The policy {policy.name} of {name!r} cannot be applied: {error}."
        ) from error


def _admit_caller(request: PlanRequest, route: _Route) -> None:
    """Raise ApiError model_not_allowed if the policy's allow and deny keep this caller out."""
    caller = CallerNames(request.tenant_id, request.tenant, request.plan, request.api_key_id, request.feature)
    kind = caller_refused(route.constraints, caller)
    if kind is not None:
        raise ApiError(
            "model_not_allowed",
            f"The policy {route.policy_name} does not allow {request.model!r} to this {kind}.",
            param="model",
        )


def _sieve_of(
    request: PlanRequest,
    snapshot: RoutingSnapshot,
    named: Named,
    policy: PolicyEntry | None,
    constraints: Constraints,
    preferences: Preferences,
) -> Sieve:
    """The sieve that all calls of this kind share, whoever makes them."""
    regions = request.regions
    if constraints.regions is not None:
        regions = constraints.regions if regions is None else regions & constraints.regions
    demands = Demands(
        name=request.model,
        operation=request.operation,
        allowed_models=request.allowed_models,
        is_allowed_by_name=is_allowed_by_name(named, request.allowed_models),
        regions=regions,
        capabilities=request.capabilities | constraints.capabilities,
        constraints=constraints,
        preferences=preferences,
    )
    sieves: dict[object, Sieve] = snapshot.memo.setdefault(SIEVES, {})
    key = (
        request.model,
        (policy.tenant_id, policy.slug, policy.variant) if policy is not None else None,
        request.operation,
        request.capabilities,
        request.regions,
        request.allowed_models,
        preferences,
        request.tenant_id if snapshot.has_own(request.tenant_id) else None,
        named.is_copy,
    )
    sieve = sieves.get(key)
    if sieve is None:
        choices = choices_of(named, policy, snapshot)
        mode = Credentials.NEVER if named.is_copy else constraints.credentials
        sieve = filters.sieve(
            demands,
            filters.with_own(choices, tenant_id=request.tenant_id, mode=mode, snapshot=snapshot),
            filters.unserved(policy, choices) if policy is not None and named.asked is None else (),
        )
        if len(sieves) >= MEMO_SIEVES:
            sieves.clear()
        sieves[key] = sieve
    return sieve


# ------------------------------------------------------------------ what fits, what is healthy


def _pool_of(route: _Route, request: PlanRequest, now: float) -> Pool:
    """The targets that fit this call. Raises ApiError when there are none."""
    pool = route.sieve.pool(
        input_tokens=request.input_tokens,
        has_output=request.output_tokens > 0,
        service_tier=request.service_tier,
        allow_unpriced=request.allow_unpriced,
        now=now,
    )
    if not pool.choices:
        raise _refused(route, request, pool.furthest, pool)
    return pool


def _standing_now(
    route: _Route, pool: Pool, request: PlanRequest, health: Health, now: float
) -> tuple[Field, Standing | None]:
    """What is left of the pool by measure and present state. No standing: all of it, as it is.

    Raises ApiError when the limits leave nothing; circuits and pauses always leave something.
    """
    costs = pool.costs(request.input_tokens, request.output_tokens)
    seen: list[EndpointHealth | None] = [*map(health.endpoints.get, pool.endpoint_ids)]
    closed = Circuit.CLOSED
    troubled = [
        place for place, known in enumerate(seen) if known is not None and known.circuit is not closed
    ]
    main, count, limit_pico = pool.main, len(seen), route.max_cost_pico
    is_plain = not (troubled or health.pauses or route.has_measures or route.has_wishes)
    if is_plain and limit_pico is None:
        return Field(pool, costs, seen, range(main), range(main, count)), None
    state = Standing()
    if limit_pico is not None:
        standing.within_cost(state, pool, costs, limit_pico)
    if route.has_measures:
        standing.within_measures(state, seen, route.constraints)
    if len(state.dropped) == count:
        told = [filters.dropped_for(pool.targets[place], why) for place, why in state.dropped.items()]
        raise _refused(route, request, max(state.furthest, pool.furthest), pool, *told)
    if route.has_wishes:
        standing.as_preferred(state, seen, route.preferences)
    if health.pauses:
        standing.by_pauses(state, pool, health, now)
    if troubled:
        standing.by_circuits(state, seen, troubled, now)
    out = state.dropped
    left = [place for place in range(main) if place not in out]
    return Field(pool, costs, seen, left, [place for place in range(main, count) if place not in out]), state


def _refused(
    route: _Route, request: PlanRequest, stage: filters.Stage, pool: Pool, *dropped: Dropped
) -> ApiError:
    error = refusal(
        stage,
        route.sieve.demands,
        input_tokens=request.input_tokens,
        policy=route.policy_name,
        binding=route.named.binding,
        param=pool.param,
    )
    error.dropped = (*pool.dropped, *dropped)
    return error


# ------------------------------------------------------------------ in which order


def _ranked(
    route: _Route, field: Field, state: Standing | None, health: Health, draw: float, *, explain: bool
) -> tuple[tuple[Ranked, ...], list[Dropped]]:
    """The targets in order, and what present state and `provider.allow_fallbacks` leave out."""
    pool = field.pool
    objective = _objective(route, health) if route.strategy == "slo" else None
    order = rank(route.strategy, field, objective=objective, draw=draw)
    if pool.siblings and route.strategy not in ("", "weighted"):
        spread(order, field, draw)
    places, scores, reasons = order
    if field.fallback:
        places = [*places, *field.fallback]
        reasons = [*reasons[: pool.main], *["fallback, in the policy's order"] * (len(reasons) - pool.main)]
    if pool.classes is not None or (state is not None and (state.behind or state.lesser)):
        places, reasons = _arranged(places, reasons, pool, state or Standing())
    dropped = {} if state is None else dict(state.dropped)
    if not route.preferences.allow_fallbacks and not route.preferences.order:
        places = _first_provider(places, pool, dropped)
    targets = pool.targets
    if explain:
        known = [figures(*each) for each in zip(field.costs, targets, field.seen, strict=True)]
        reasons = [f"{reason} ({figure})" for reason, figure in zip(reasons, known, strict=True)]
        dropped = {place: f"{reason} ({known[place]})" for place, reason in dropped.items()}
    return (
        tuple([Ranked(targets[place], scores[place], reasons[place]) for place in places]),
        [filters.dropped_for(targets[place], reason) for place, reason in dropped.items()],
    )


def _first_provider(places: Sequence[int], pool: Pool, dropped: dict[int, str]) -> list[int]:
    """The places at the provider that is tried first; the others are told in `dropped`."""
    first = pool.targets[places[0]].provider
    for place in places:
        if pool.targets[place].provider != first:
            dropped[place] = "not the first provider, and provider.allow_fallbacks is false"
    return [place for place in places if place not in dropped]


def _arranged(
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
    for place, target in enumerate(pool.targets):
        if target.is_own:
            told[place] = f"the tenant's own credential; {told[place]}"
        if place in lesser:
            told[place] = f"{told[place]}; {lesser[place]}"
        if place in behind:
            told[place] = f"{told[place]}; {behind[place][1]}"
    return sorted(places, key=before_rank), told


def _objective(route: _Route, health: Health) -> Objective | None:
    """What an slo policy works for: the feature's promise, else its own constraints; None without either."""
    feature, constraints = route.named.feature, route.constraints
    if feature is not None and (feature.target_p95_ms is not None or feature.target_success is not None):
        return Objective(
            p95_ms=feature.target_p95_ms,
            success=feature.target_success,
            burn=health.burn.get(feature.key, 0.0),
            source=f"the objective of the feature {feature.slug!r}",
        )
    if constraints.max_p95_ms is None and constraints.min_success is None:
        return None
    return Objective(
        p95_ms=constraints.max_p95_ms,
        success=constraints.min_success,
        burn=0.0,
        source="the policy's own limits",
    )


# ------------------------------------------------------------------ shadows


def _mirror(
    route: _Route, request: PlanRequest, snapshot: RoutingSnapshot, health: Health, now: float, draw: float
) -> Mirror | None:
    """Where a copy of this call goes, if its policy has a shadow and the call is in its share.

    The shadow's targets and its judge's pass every filter that the call's own do, and are reached with the operator's
    credentials alone: a copy is the operator's expense. A shadow that has none left takes no copy: it must never be
    the reason for which a call fails.
    """
    ruling = route.named.policy
    shadow = ruling.shadow if ruling is not None else None
    if shadow is None or not is_mirrored(shadow, draw=draw):
        return None
    copy = copy_of(route.named)

    def best(policy: PolicyEntry) -> Ranked:
        routed = _variant(request, snapshot, copy, policy)
        field, state = _standing_now(routed, _pool_of(routed, request, now), request, health, now)
        targets, _ = _ranked(routed, field, state, health, draw, explain=False)
        return targets[0]

    try:
        first = best(shadow.policy)
        judge = best(shadow.judge).target if shadow.judge is not None else None
    except ApiError:
        return None
    return mirror_of(shadow, first.target, first.reason, judge=judge)
