"""Where a call may go, in which order, and why: the one place that decides. Pure.

Names, filters, present state, rank: each step has its module here, this one is the line through them. Fails closed:
what a region, an allowlist or a policy's constraint does not clearly permit is left out.
"""

from collections.abc import Sequence

from routing.entries import PolicyEntry, RoutingSnapshot
from routing.policies import filters, standing
from routing.policies.constraints import check_constraints
from routing.policies.names import copy_of
from routing.policies.pool import Pool
from routing.policies.rank import EXPLORE_SHARE, STRATEGIES, Field, Objective, figures, rank, spread
from routing.policies.refusals import NoTarget, Stage, refusal
from routing.policies.request import PlanRequest
from routing.policies.routes import Route, ruled, variant
from routing.policies.split import is_mirrored, mirror_of
from routing.policies.standing import Standing
from routing.types import (
    DEFAULT_CONDUCT,
    Circuit,
    Dropped,
    EndpointHealth,
    Health,
    Mirror,
    Ranked,
    RoutePlan,
)
from tenants.errors import ApiError

__all__ = ["EXPLORE_SHARE", "STRATEGIES", "PlanRequest", "check_constraints", "plan"]


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
    context_length_exceeded, region_unavailable, model_unpriced, provider_unavailable; a `refusals.NoTarget`
    where every target was dropped, with the reasons.
    """
    route, assignment = ruled(request, snapshot, draw)
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


# ------------------------------------------------------------------ what fits, what is healthy


def _pool_of(route: Route, request: PlanRequest, now: float) -> Pool:
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
    route: Route, pool: Pool, request: PlanRequest, health: Health, now: float
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


def _refused(route: Route, request: PlanRequest, stage: Stage, pool: Pool, *dropped: Dropped) -> NoTarget:
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
    route: Route, field: Field, state: Standing | None, health: Health, draw: float, *, explain: bool
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
        places, reasons = standing.arranged(places, reasons, pool, state or Standing())
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


def _objective(route: Route, health: Health) -> Objective | None:
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
    route: Route, request: PlanRequest, snapshot: RoutingSnapshot, health: Health, now: float, draw: float
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
        routed = variant(request, snapshot, copy, policy)
        field, state = _standing_now(routed, _pool_of(routed, request, now), request, health, now)
        targets, _ = _ranked(routed, field, state, health, draw, explain=False)
        return targets[0]

    try:
        first = best(shadow.policy)
        judge = best(shadow.judge).target if shadow.judge is not None else None
    except ApiError:
        return None
    return mirror_of(shadow, first.target, first.reason, judge=judge)
