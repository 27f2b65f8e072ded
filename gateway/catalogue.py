"""Models as a tenant sees them: what it may call, what a million tokens cost it, and how to ask for it.

Prices come from the same compiled charges that rate its calls; what providers charge stays inside.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from django.db.models import Q

from billing.rating.money import PICO
from billing.rating.prices import Pricing, compile_charges
from billing.subscriptions import current_version
from routing.catalog.offers import Offer, offers_of
from routing.models import Endpoint, Model, RoutingPolicy
from routing.types import TEXTLESS
from tenants.models import Tenant

MILLION = 1_000_000
ROWS = 200


@dataclass(frozen=True, slots=True)
class PricedModel:
    """A row of the price list. Amounts are pico-units of `currency` per million tokens, None: unpriced."""

    slug: str
    note: str
    currency: str
    input_pico: int | None
    output_pico: int | None
    has_output: bool
    context_window: int | None
    abilities: Sequence[str]
    regions: Sequence[str]
    is_policy: bool = False


def priced_models(*, tenant: Tenant, text: str, now: datetime) -> Sequence[PricedModel]:
    """Policies first, then models by name; at most `ROWS` models, narrowed by `text`. Four queries."""
    version = current_version(tenant)
    pricing = compile_charges(version.charges, version.currency)
    endpoints = Endpoint.objects.routable().filter(model__slug__icontains=text)
    if version.allowed_models:
        endpoints = endpoints.filter(model__slug__in=version.allowed_models)
    models = Model.objects.filter(pk__in=endpoints.values("model")).order_by("slug")[:ROWS]
    served = list(
        endpoints.filter(model__in=list(models)).select_related("provider", "model").order_by("model__slug")
    )
    offers = offers_of(served, now=now)
    by_model: dict[Model, list[Offer]] = defaultdict(list)
    for endpoint in served:
        if _may_go_to(endpoint, tenant):
            by_model[endpoint.model].append(offers[endpoint.pk])
    return [*_policies(tenant, text), *(_row(model, offers, pricing) for model, offers in by_model.items())]


def callable_name(tenant: Tenant) -> str | None:
    """A name that a first call of this tenant can use: a policy, else a model; None while there is none."""
    is_own = Q(tenant=tenant) | Q(tenant__isnull=True)
    endpoints = Endpoint.objects.routable().filter(model__operations__contains=["chat"])
    first = endpoints.order_by("model__slug").values_list("model__slug", flat=True).first()
    if first is None:
        return None
    policy = RoutingPolicy.objects.filter(is_own, is_enabled=True).order_by("slug").first()
    return f"policy:{policy.slug}" if policy else first


def _may_go_to(endpoint: Endpoint, tenant: Tenant) -> bool:
    return not tenant.region_policy or (endpoint.region or endpoint.provider.region) in tenant.region_policy


def _policies(tenant: Tenant, text: str) -> Sequence[PricedModel]:
    is_own = Q(tenant=tenant) | Q(tenant__isnull=True)
    rows = RoutingPolicy.objects.filter(is_own, is_enabled=True, slug__icontains=text.removeprefix("policy:"))
    return [
        PricedModel(
            slug=f"policy:{row.slug}",
            note=row.name or "chooses the model for you",
            currency=tenant.currency,
            input_pico=None,
            output_pico=None,
            has_output=True,
            context_window=None,
            abilities=("routing",),
            regions=(),
            is_policy=True,
        )
        for row in rows
    ]


def _row(model: Model, offers: Sequence[Offer], pricing: Pricing) -> PricedModel:
    """The dearest of the targets, so that no call costs more than the list says."""
    return PricedModel(
        slug=model.slug,
        note=model.owned_by,
        currency=pricing.currency,
        input_pico=_dearest([_price(offer, "input", offer.input_price, pricing) for offer in offers]),
        output_pico=_dearest([_price(offer, "output", offer.output_price, pricing) for offer in offers]),
        has_output=not TEXTLESS.issuperset(model.operations),
        context_window=model.context_window,
        abilities=(*model.operations, *sorted(model.capabilities)),
        regions=sorted({offer.endpoint.region or offer.endpoint.provider.region for offer in offers}),
    )


def _price(offer: Offer, component: str, cost: Decimal | None, pricing: Pricing) -> int | None:
    return pricing.price_of(
        cost_pico=None if cost is None else int(cost * PICO),
        cost_currency=offer.currency,
        units={component: MILLION},
        model=offer.endpoint.model.slug,
    )


def _dearest(prices: Sequence[int | None]) -> int | None:
    known = [price for price in prices if price is not None]
    return max(known) if len(known) == len(prices) and known else None
