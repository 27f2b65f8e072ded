"""Which wording rules a call, and what a kind of call finds in one snapshot: worked out once, found again by key. Pure.

Two calls share a route if nothing in it can tell them apart; what depends on a single call (its size, its moment, its
dice) must not be in it.
"""

from dataclasses import dataclass
from typing import Final

from routing.entries import PolicyEntry, RoutingSnapshot
from routing.policies import filters
from routing.policies.constraints import (
    NO_CONSTRAINTS,
    CallerNames,
    Constraints,
    Credentials,
    caller_refused,
    read_constraints,
)
from routing.policies.filters import Sieve
from routing.policies.names import Named, choices_of, is_allowed_by_name, is_offered, resolve
from routing.policies.preferences import NO_PREFERENCES, Preferences
from routing.policies.rank import STRATEGIES
from routing.policies.request import Demands, PlanRequest
from routing.policies.split import Subject, ruled_by
from routing.types import Assignment
from tenants.errors import ApiError

MEMO_ENTRIES: Final = 10_000
MEMO_SIEVES: Final = 500
SIEVES: Final = "sieves"


@dataclass(frozen=True, slots=True)
class Route:
    """What a kind of call finds in one snapshot: worked out once."""

    named: Named
    policy: PolicyEntry | None
    policy_name: str
    strategy: str  # of the ranking; "" for a plain model
    constraints: Constraints
    preferences: Preferences
    sieve: Sieve
    max_cost_pico: int | None
    names_callers: bool  # the constraints allow or deny by who calls
    is_split: bool  # an experiment or a rollout may give single calls another wording
    has_measures: bool  # the constraints ask for measured figures
    has_wishes: bool  # the preferences do


def ruled(request: PlanRequest, snapshot: RoutingSnapshot, draw: float) -> tuple[Route, Assignment | None]:
    """The route, and the call's arm if an experiment or a rollout splits it."""
    key = _kind(request, snapshot)
    route: Route | None = snapshot.memo.get(key)
    if route is None:
        named = resolve(
            name=request.model,
            tenant_id=request.tenant_id,
            plan=request.plan,
            feature=request.feature,
            snapshot=snapshot,
        )
        route = _remembered(snapshot, key, _routed(request, snapshot, named, named.policy))
    if route.names_callers:
        _admit_caller(request, route)
    if not route.is_split or route.policy is None:
        return route, None
    subject = Subject(request.tenant_id, request.end_user, request.tags)
    ruling = ruled_by(route.policy, subject, draw=draw)
    if ruling.policy is route.policy:
        return route, ruling.assignment
    if not is_offered(route.named, ruling.policy, snapshot):
        return route, None  # the caller named a model that this wording does not know: it takes no part
    varied = variant(request, snapshot, route.named, ruling.policy)
    if varied.names_callers:
        _admit_caller(request, varied)
    return varied, ruling.assignment


def _kind(request: PlanRequest, snapshot: RoutingSnapshot) -> tuple[object, ...]:
    """What calls must have in common to share a route. Names that nobody has declared make no kinds of their own."""
    feature = request.feature
    if feature and snapshot.feature_of(request.tenant_id, feature) is None:
        feature = ""
    return (
        request.model,
        request.tenant_id,
        request.operation,
        feature,
        request.plan,
        request.capabilities,
        request.regions,
        request.allowed_models,
        request.preferences,
    )


def variant(request: PlanRequest, snapshot: RoutingSnapshot, named: Named, policy: PolicyEntry) -> Route:
    """The route of the same call under another wording of its policy."""
    varied = (*_kind(request, snapshot), policy.variant, named.is_copy)
    route: Route | None = snapshot.memo.get(varied)
    return route or _remembered(snapshot, varied, _routed(request, snapshot, named, policy))


def _remembered(snapshot: RoutingSnapshot, key: tuple[object, ...], route: Route) -> Route:
    if len(snapshot.memo) >= MEMO_ENTRIES:
        sieves = snapshot.memo.get(SIEVES, {})
        snapshot.memo.clear()
        snapshot.memo[SIEVES] = sieves
    snapshot.memo[key] = route
    return route


def _routed(
    request: PlanRequest, snapshot: RoutingSnapshot, named: Named, policy: PolicyEntry | None
) -> Route:
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
    return Route(
        named=named,
        policy=policy,
        policy_name=policy.name if policy is not None else "",
        strategy=strategy,
        constraints=constraints,
        preferences=preferences,
        sieve=_sieve_of(request, snapshot, named, policy, constraints, preferences),
        max_cost_pico=min((limit for limit in limits if limit is not None), default=None),
        names_callers=constraints.allow.name_callers or constraints.deny.name_callers,
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


def _admit_caller(request: PlanRequest, route: Route) -> None:
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
