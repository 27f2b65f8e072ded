"""What endpoints cost right now, for pages that show a handful. Display only: calls use the snapshot."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from django.db.models import Q

from routing.catalog.cost import Rate, RateCard, RatesInvalid, Unpriced, price_per_million
from routing.models import CostRate, Endpoint
from routing.snapshot import price_keys, rate_of
from routing.types import TEXTLESS


@dataclass(frozen=True, slots=True)
class Offer:
    """An endpoint's cost per million tokens, in `currency`; None where no rate is in force."""

    endpoint: Endpoint
    currency: str
    input_price: Decimal | None
    output_price: Decimal | None

    @property
    def has_output(self) -> bool:
        """Whether its model makes tokens that could have a price."""
        return not TEXTLESS.issuperset(self.endpoint.model.operations)


def offers_of(endpoints: Sequence[Endpoint], *, now: datetime) -> Mapping[UUID, Offer]:
    """Offers by endpoint id, in one query. The endpoints come with their provider and model."""
    keys = {
        endpoint.pk: price_keys(endpoint.provider, endpoint.provider_model, endpoint.model.slug)
        for endpoint in endpoints
    }
    wanted = {key for candidates in keys.values() for key in candidates}
    rates: dict[tuple[str, str], list[Rate]] = defaultdict(list)
    rows = CostRate.objects.filter(
        Q(effective_to__isnull=True) | Q(effective_to__gt=now),
        effective_from__lte=now,
        provider__in={provider for provider, _ in wanted},
        provider_model__in={name for _, name in wanted},
    )
    for row in rows:
        rates[row.provider, row.provider_model].append(rate_of(row))
    return {
        endpoint.pk: _offer(
            endpoint, next((rates[key] for key in keys[endpoint.pk] if key in rates), []), now
        )
        for endpoint in endpoints
    }


def _offer(endpoint: Endpoint, rates: Sequence[Rate], now: datetime) -> Offer:
    try:
        card = RateCard(rates)
    except RatesInvalid:  # the snapshot logs it and calls are unpriced; so is the page
        card = RateCard(())
    return Offer(
        endpoint=endpoint,
        currency=card.currency,
        input_price=_price(card, now, "input"),
        output_price=_price(card, now, "output"),
    )


def _price(card: RateCard, now: datetime, component: str) -> Decimal | None:
    try:
        return price_per_million(card, now, component)
    except Unpriced:
        return None
