"""What is tried out: another wording of a policy, other rates, other charges, or several of them together.

A candidate is checked whole before anything runs, and changes nothing until it is promoted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import billing.snapshot
from billing.models import Plan, PlanVersion
from billing.rating.prices import Pricing, compile_charges
from billing.snapshot import BillingSnapshot
from routing import snapshot
from routing.catalog.cost import Rate, RateCard, RatesInvalid
from routing.catalog.rates import NewRate
from routing.entries import RoutingSnapshot
from routing.models import CostRate, Endpoint, RoutingPolicyVersion
from routing.types import Target
from tenants.errors import ApiError

EVER = datetime(1970, 1, 1, tzinfo=UTC)

type RateKey = tuple[str, str]
"""A provider's (or price book's) slug and the model's name there."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a replay tries out. At least one part is set; a part that is None stays as it was recorded."""

    version: RoutingPolicyVersion | None = None  # of its policy; takes the place of the recorded wording
    rates: Sequence[NewRate] = ()
    plan: str = ""  # slug
    charges: Sequence[Mapping[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class World:
    """The configuration that the candidate would make, for the whole window."""

    routing: RoutingSnapshot
    billing: BillingSnapshot
    targets: Mapping[str, Target]  # by endpoint id
    pricings: Mapping[UUID, Pricing]  # by plan version, the candidate's charges in place
    is_rerouted: bool
    is_recosted: bool


def world_of(candidate: Candidate, *, since: datetime) -> World:
    """Today's configuration with the candidate put in, and every rate in force since `since`.

    Raises ApiError invalid_request for a policy, plan, rate or charge that cannot be applied.
    """
    routes = snapshot.load(rates_since=since)
    if candidate.rates:
        routes = _recosted(routes, candidate.rates)
    if candidate.version is not None:
        routes = snapshot.reworded(routes, candidate.version)
    return World(
        routing=routes,
        billing=billing.snapshot.load(),
        targets={target.endpoint_id: target for entry in routes.models.values() for target in entry.targets},
        pricings=_pricings(candidate),
        is_rerouted=candidate.version is not None,
        is_recosted=bool(candidate.rates),
    )


# ------------------------------------------------------------------ the price book


def _recosted(routes: RoutingSnapshot, rates: Sequence[NewRate]) -> RoutingSnapshot:
    """The candidate's rates as if they had been in force all along; a provider's own go before its book's."""
    wanted: dict[RateKey, list[Rate]] = {}
    for number, rate in enumerate(rates):
        wanted.setdefault((rate.provider, rate.provider_model), []).append(_rate(rate, number))
    held = set(CostRate.objects.values_list("provider", "provider_model").distinct())
    cards: dict[str, RateCard] = {}
    old = {t.endpoint_id: t.rates for entry in routes.models.values() for t in entry.targets}
    for endpoint in Endpoint.objects.filter(pk__in=list(old)).select_related("provider", "model"):
        keys = snapshot.price_keys(endpoint.provider, endpoint.provider_model, endpoint.model.slug)
        key = next((each for each in keys if each in wanted or each in held), None)
        if key in wanted:
            present = old[str(endpoint.pk)].rates if key in held else ()
            cards[str(endpoint.pk)] = _card(present, wanted[key])
    models = {
        slug: replace(entry, targets=tuple(_with_rates(target, cards) for target in entry.targets))
        for slug, entry in routes.models.items()
    }
    return replace(routes, models=models)


def _with_rates(target: Target, cards: Mapping[str, RateCard]) -> Target:
    card = cards.get(target.endpoint_id)
    return target if card is None else replace(target, rates=card)


def _rate(rate: NewRate, number: int) -> Rate:
    return Rate(
        component=rate.component,
        price=rate.price,
        per=rate.per,
        currency=rate.currency,
        service_tier=rate.service_tier,
        min_input_tokens=rate.min_input_tokens,
        effective_from=EVER,
        effective_to=None,
        id=f"candidate:{number}",
    )


def _card(present: Sequence[Rate], wanted: Sequence[Rate]) -> RateCard:
    replaced = {(rate.component, rate.service_tier, rate.min_input_tokens) for rate in wanted}
    kept = [r for r in present if (r.component, r.service_tier, r.min_input_tokens) not in replaced]
    try:
        return RateCard([*kept, *wanted])
    except RatesInvalid as error:
        raise ApiError("invalid_request", f"The rates cannot be applied: {error}.", param="rates") from error


# ------------------------------------------------------------------ the charges


def _pricings(candidate: Candidate) -> dict[UUID, Pricing]:
    """Every plan version's charges; those of the candidate's plan are the candidate's."""
    if candidate.charges is not None and not Plan.objects.filter(slug=candidate.plan).exists():
        raise ApiError("invalid_request", f"There is no plan {candidate.plan!r}.", param="plan")
    compiled: dict[UUID, Pricing] = {}
    for version in PlanVersion.objects.select_related("plan"):
        is_tried = candidate.charges is not None and version.plan.slug == candidate.plan
        charges = candidate.charges if is_tried else version.charges
        compiled[version.pk] = compile_charges(charges, version.currency)
    return compiled
