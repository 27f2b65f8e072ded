"""Where a call would go, and why, without sending it: the planner's answer for an imagined request.

Works on the present configuration and on what all workers know of the providers' health.
Must never call a provider, take from a limit or leave a trace.
"""

import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any, Literal

import orjson
import redis

from billing import subscriptions
from billing.rating.money import amount_text
from billing.snapshot import terms_of
from gateway.edge import openai
from gateway.pipeline.admit import EXPECTED_OUTPUT_TOKENS
from gateway.state.snapshot import allowed_models
from routing import snapshot
from routing.catalog.cost import Unpriced, cost_of, estimate_pico
from routing.health import store
from routing.health.tracker import Tracker
from routing.models import RoutingPolicyVersion
from routing.policies.names import POLICY_PREFIX, bound_policy
from routing.policies.plan import plan
from routing.policies.preferences import forgetful, read_preferences
from routing.policies.refusals import NoTarget
from routing.policies.request import PlanRequest
from routing.providers.media import physical_units
from routing.types import NO_HEALTH, PRICED_BY, TEXTLESS, Dropped, Health, Json, Operation, RoutePlan, Target
from tenants import versions
from tenants.errors import ApiError
from tenants.models import ApiKey, Tenant
from tenants.retention import setting_of

logger = logging.getLogger(__name__)

type HealthSource = Literal["live", "unknown"]

MIDDLE_DRAW = 0.5


@dataclass(frozen=True, slots=True)
class Imagined:
    """A call that nobody makes. None in a count or a set: as the body says. `model` is what the caller names."""

    model: str
    tenant: Tenant
    operation: Operation = Operation.CHAT
    body: Json = field(default_factory=dict)
    key: ApiKey | None = None
    feature: str = ""
    end_user: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    preferences: Any = None  # the body's `provider` object
    capabilities: frozenset[str] | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    draw: float = MIDDLE_DRAW  # in [0, 1): what chance would say


@dataclass(frozen=True, slots=True)
class Kept:
    """A target in its place. `cost` is the estimate for this request in `currency`; None while unpriced."""

    target: Target
    score: float | None  # lower is better; None where figures cannot be compared
    reason: str
    cost: str | None
    currency: str


@dataclass(frozen=True, slots=True)
class Simulated:
    """What the planner said. `refusal` is what the caller would have got in place of an answer."""

    policy: str  # slug@version, or ""
    binding: str  # what the ruling policy is bound to, in words; "" for one that was named
    input_tokens: int
    output_tokens: int
    capabilities: frozenset[str]
    health: HealthSource
    kept: Sequence[Kept] = ()
    dropped: Sequence[Dropped] = ()
    plan: RoutePlan | None = None
    refusal: ApiError | None = None


def simulate(
    *, imagined: Imagined, candidate: RoutingPolicyVersion | None, allow_unpriced: bool, explain: bool
) -> Simulated:
    """Plan the imagined call now; `candidate` (see `wordings.draft`) rules in the place of its policy's wording.

    `explain` puts figures (estimated costs, measures) into the reasons.
    Raises ApiError: invalid_request, unknown_field for a request that no model could take; permission_denied
    for a suspended tenant.
    """
    if imagined.tenant.status != Tenant.Status.ACTIVE:
        raise ApiError("permission_denied", "This tenant is suspended.", param="tenant")
    routes = current_routes()
    if candidate is not None:
        routes = snapshot.reworded(routes, candidate)
    request = _request_of(imagined, allow_unpriced=allow_unpriced)
    health, source = _health(routes)
    _, binding = bound_policy(
        tenant_id=request.tenant_id, plan=request.plan, feature=request.feature, snapshot=routes
    )
    said = Simulated(
        policy="",
        binding="" if request.model.startswith(POLICY_PREFIX) else binding,
        input_tokens=request.input_tokens,
        output_tokens=request.output_tokens,
        capabilities=request.capabilities,
        health=source,
    )
    now = time.time()
    try:
        route = plan(request, routes, health=health, now=now, draw=imagined.draw, explain=explain)
    except ApiError as error:
        dropped = error.dropped if isinstance(error, NoTarget) else ()
        return replace(said, refusal=error, dropped=dropped)
    kept = []
    for ranked in route.targets:
        cost = _cost(ranked.target, request, now)
        score = ranked.score if abs(ranked.score) != float("inf") else None
        kept.append(Kept(ranked.target, score, ranked.reason, cost, ranked.target.rates.currency))
    return replace(said, policy=route.policy, kept=kept, dropped=route.dropped, plan=route)


def _request_of(imagined: Imagined, *, allow_unpriced: bool) -> PlanRequest:
    """As the pipeline would fill it in. Raises ApiError."""
    body = {**imagined.body, "model": imagined.model}
    preferences = body.pop("provider", None) if imagined.preferences is None else imagined.preferences
    if len(body) > 1:  # more than the model: a request to be read as the edge would
        openai.check(imagined.operation, body)
    raw = orjson.dumps(body)
    limit = openai.output_limit(body)
    has_no_output = imagined.operation in TEXTLESS
    expected = 0 if has_no_output else min(limit or EXPECTED_OUTPUT_TOKENS, EXPECTED_OUTPUT_TOKENS)
    terms = terms_of(subscriptions.current_version(imagined.tenant))
    key_models = frozenset(imagined.key.allowed_models) if imagined.key else frozenset()
    regions = imagined.tenant.region_policy
    capabilities, wishes = imagined.capabilities, read_preferences(preferences)
    return PlanRequest(
        model=imagined.model,
        operation=imagined.operation,
        tenant_id=imagined.tenant.pk,
        regions=frozenset(regions) if regions else None,
        allowed_models=allowed_models(key_models or None, terms.allowed_models),
        capabilities=openai.needed_capabilities(body, raw) if capabilities is None else capabilities,
        input_tokens=(
            _input_of(imagined.operation, body, raw)
            if imagined.input_tokens is None
            else imagined.input_tokens
        ),
        output_tokens=expected if imagined.output_tokens is None else imagined.output_tokens,
        service_tier=body.get("service_tier") or "",
        allow_unpriced=allow_unpriced,
        tenant=imagined.tenant.slug,
        api_key_id=imagined.key.pk if imagined.key else None,
        feature=imagined.feature,
        plan=terms.plan.partition("@")[0],
        end_user=imagined.end_user,
        tags=imagined.tags,
        preferences=forgetful(wishes) if setting_of(imagined.tenant).zero_retention else wishes,
    )


def _input_of(operation: Operation, body: Json, raw: bytes) -> int:
    """As `admit.probable_input`; a body that was only imagined has one unit."""
    if operation in PRICED_BY:
        return sum(physical_units(operation, body).values()) if len(body) > 1 else 1
    return max(1, openai.input_bound(body, raw) // 4)


def _cost(target: Target, request: PlanRequest, now: float) -> str | None:
    component = PRICED_BY.get(request.operation)
    try:
        if component is not None:
            units = {component: request.input_tokens}
            cost = cost_of(target.rates, units, occurred_at=now, service_tier=request.service_tier)
            return amount_text(cost.total_pico)
        pico = estimate_pico(
            target.rates, request.input_tokens, request.output_tokens, now, request.service_tier
        )
    except Unpriced:
        return None
    return amount_text(pico)


def _health(routes: snapshot.RoutingSnapshot) -> tuple[Health, HealthSource]:
    """What all workers together know of the providers; nothing while that cannot be read."""
    reader = Tracker(f"simulate-{secrets.token_hex(6)}", may_probe=False)
    reader.configure(routes)
    try:
        store.exchange(reader, everything=True)
    except redis.RedisError as error:
        logger.warning("simulated without the providers' health: %s", error)
        return NO_HEALTH, "unknown"
    return reader.view, "live"


_loading = Lock()
_held: list[snapshot.RoutingSnapshot] = []


def current_routes() -> snapshot.RoutingSnapshot:
    """The routing configuration as it is now; loaded again only after a change."""
    with _loading:
        if not _held or _held[0].version != versions.current()["routing"]:
            _held[:] = [snapshot.load()]
        return _held[0]
