"""One recorded call in the candidate's world: where it would go, what it would cost, what the tenant would owe.

The planner, the rate card and the charges are the very ones that live calls meet; only the token counts are
the recorded ones, whichever model would have served.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from uuid import UUID

from gateway.replay.candidate import World
from gateway.replay.recorded import RecordedCall
from gateway.state.snapshot import allowed_models
from routing.catalog.cost import Unpriced, cost_of
from routing.policies.plan import PlanRequest, plan
from routing.policies.preferences import forgetful
from routing.types import PRICED_BY, Health, Operation, Target, Usage
from tenants.errors import ApiError
from tenants.snapshot import TenantsSnapshot

GONE = "endpoint_gone"
"""In place of an error code: the recorded endpoint is no longer configured, so its rates are unknown."""
PROGRESS_EVERY = 1_000


@dataclass(slots=True)
class Sums:
    """Money of the same calls, before and after, in pico-units of one currency."""

    recorded_pico: int = 0
    candidate_pico: int = 0

    def add(self, recorded_pico: int, candidate_pico: int) -> None:
        self.recorded_pico += recorded_pico
        self.candidate_pico += candidate_pico


@dataclass(slots=True)
class Tally:
    """What a set of replayed calls comes to. Costs and prices by currency; a call counts where both sides are known."""

    calls: int = 0
    refused: dict[str, int] = field(default_factory=dict)  # by error code
    unpriced_recorded: int = 0
    unpriced_candidate: int = 0
    moved: int = 0  # calls that go to another endpoint than they did
    cost: dict[str, Sums] = field(default_factory=dict)
    price: dict[str, Sums] = field(default_factory=dict)
    recorded_targets: dict[str, int] = field(default_factory=dict)  # calls by endpoint id
    candidate_targets: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Outcome:
    """All calls together, and by tenant."""

    total: Tally = field(default_factory=Tally)
    tenants: dict[UUID, Tally] = field(default_factory=dict)


def replay(
    calls: Iterable[RecordedCall],
    world: World,
    *,
    tenants: TenantsSnapshot,
    health: Health,
    as_policy: str = "",
    progress: Callable[[int], None] = lambda done: None,
) -> Outcome:
    """Every call once. `health` stands for the state of the providers; `progress` hears now and then.

    `as_policy` (`policy:slug`): as if every call had asked for it, whatever it did ask for.
    """
    outcome = Outcome()
    allowed = {key.id: key.allowed_models for key in tenants.keys.values()}
    for number, call in enumerate(calls, 1):
        tallies = (outcome.total, outcome.tenants.setdefault(call.tenant_id, Tally()))
        _replay_one(call, world, tenants, allowed, health, as_policy, tallies)
        if number % PROGRESS_EVERY == 0:
            progress(number)
    return outcome


def _replay_one(
    call: RecordedCall,
    world: World,
    tenants: TenantsSnapshot,
    allowed: dict[UUID, frozenset[str] | None],
    health: Health,
    as_policy: str,
    tallies: tuple[Tally, ...],
) -> None:
    code, target = "", world.targets.get(call.endpoint_id)
    try:
        if world.is_rerouted:
            target = _route(call, world, tenants, allowed, health, as_policy)
    except ApiError as refusal:
        code = refusal.code
    else:
        code = GONE if target is None else ""
    if code or target is None:
        for tally in tallies:
            tally.calls += 1
            tally.refused[code] = tally.refused.get(code, 0) + 1
        return
    cost_pico = _cost(call, world, target)
    price_pico = world.pricings[call.plan_version_id].price_of(
        cost_pico=cost_pico,
        cost_currency=target.rates.currency,
        units=call.units,
        model=target.model,
        is_byok=target.is_own if world.is_rerouted else call.is_byok,
        at_s=call.occurred_at.timestamp(),
    )
    for tally in tallies:
        _count(tally, call, target, cost_pico, price_pico)


def _route(
    call: RecordedCall,
    world: World,
    tenants: TenantsSnapshot,
    allowed: dict[UUID, frozenset[str] | None],
    health: Health,
    as_policy: str,
) -> Target:
    """The target that the candidate's policy would try first. Raises ApiError as `plan`."""
    terms = world.billing.terms.get(call.tenant_id, world.billing.default_terms)
    tenant = tenants.tenants.get(call.tenant_id)
    usage, operation = Usage(call.units), Operation(call.operation)
    chosen = plan(
        PlanRequest(
            model=as_policy or call.request_model,
            operation=operation,
            tenant_id=call.tenant_id,
            regions=tenant.regions if tenant else None,
            allowed_models=allowed_models(allowed.get(call.api_key_id), terms.allowed_models),
            capabilities=call.needs,
            input_tokens=sum(call.units.values()) if operation in PRICED_BY else usage.input_tokens,
            output_tokens=usage.output_tokens,
            service_tier=call.service_tier,
            tenant=tenant.slug if tenant else "",
            api_key_id=call.api_key_id,
            feature=call.feature,
            plan=terms.plan.partition("@")[0],
            end_user=call.end_user,
            preferences=forgetful(None) if tenant is not None and tenant.zero_retention else None,
        ),
        world.routing,
        health=health,
        now=call.occurred_at.timestamp(),
        draw=draw_of(call.request_id),
    )
    return chosen.targets[0].target


def draw_of(request_id: UUID) -> float:
    """The call's dice, in [0, 1): the same in every replay."""
    return int.from_bytes(hashlib.sha256(request_id.bytes).digest()[:7]) / 2**56


def _cost(call: RecordedCall, world: World, target: Target) -> int | None:
    if not (world.is_rerouted or world.is_recosted):
        return call.cost_pico
    try:
        return cost_of(
            target.rates, call.units, occurred_at=call.occurred_at, service_tier=call.service_tier
        ).total_pico
    except Unpriced:
        return None


def _count(
    tally: Tally, call: RecordedCall, target: Target, cost_pico: int | None, price_pico: int | None
) -> None:
    tally.calls += 1
    tally.moved += target.endpoint_id != call.endpoint_id
    tally.unpriced_recorded += call.cost_pico is None or call.price_pico is None
    tally.unpriced_candidate += cost_pico is None or price_pico is None
    for targets, endpoint_id in (
        (tally.recorded_targets, call.endpoint_id),
        (tally.candidate_targets, target.endpoint_id),
    ):
        targets[endpoint_id] = targets.get(endpoint_id, 0) + 1
    _add(tally.cost, call.cost_currency, call.cost_pico, target.rates.currency, cost_pico)
    _add(tally.price, call.price_currency, call.price_pico, call.price_currency, price_pico)


def _add(
    sums: dict[str, Sums],
    recorded_currency: str,
    recorded_pico: int | None,
    candidate_currency: str,
    candidate_pico: int | None,
) -> None:
    """A call whose one side is unknown is left out of both, so that the difference compares like with like."""
    if recorded_pico is None or candidate_pico is None:
        return
    sums.setdefault(recorded_currency, Sums()).add(recorded_pico, 0)
    sums.setdefault(candidate_currency, Sums()).add(0, candidate_pico)
