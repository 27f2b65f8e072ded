"""Where re-rating meets the price book: the rates it uses, frozen, and the very function that prices live calls.

Billing knows no routes and routing no ledger; this is the one place where both are seen.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from django.db import connection

from billing.models import ReRating
from billing.rerating.attempts import Attempt
from billing.rerating.jobs import Costed, scope_of
from billing.usage.partitions import LEDGER
from routing.catalog.cost import Rate, RateCard, RatesInvalid, Unpriced, cost_of
from routing.models import CostRate, Provider
from routing.snapshot import price_keys, rate_of
from tenants.errors import ApiError


class PriceBook:
    """A `billing.rerating.jobs.Pricer` over routing's cost rates."""

    def freeze(self, *, rerating: ReRating) -> dict[str, list[dict[str, Any]]]:
        """Every rate of each model that the window used, corrections put in, by the provider's model name.

        Raises ApiError invalid_request for corrections that cannot stand beside the book's other rates, or
        that no call of the window would meet.
        """
        provider = Provider.objects.filter(slug=rerating.provider).first()
        frozen: dict[str, list[dict[str, Any]]] = {}
        for name, model in _models(rerating):
            keys = price_keys(provider, name, model) if provider is not None else ((rerating.provider, name),)
            rates = _corrected(_book(keys), rerating, name)
            try:
                RateCard(rates)
            except RatesInvalid as error:
                raise ApiError("invalid_request", f"{name}: {error}.", param="rates") from error
            frozen[name] = [_plain(rate) for rate in rates]
        if unused := {rate.get("provider_model") or "" for rate in rerating.rates} - {"", *frozen}:
            raise ApiError("invalid_request", f"No call of the window used {min(unused)!r}.", param="rates")
        return frozen

    def costing(
        self, frozen: Mapping[str, Sequence[Mapping[str, Any]]]
    ) -> Callable[[Attempt], Costed | None]:
        """The cost by the frozen rates of the attempt's model; None where they do not cover it."""
        cards = {name: RateCard(map(_rate, rates)) for name, rates in frozen.items()}

        def cost(attempt: Attempt) -> Costed | None:
            card = cards.get(attempt.columns["provider_model"])
            if card is None:
                return None
            try:
                found = cost_of(
                    card,
                    attempt.units,
                    occurred_at=attempt.occurred_at,
                    service_tier=attempt.columns["service_tier"],
                )
            except Unpriced:
                return None
            return Costed(found.total_pico, found.components, card.currency)

        return cost


PRICE_BOOK: Final = PriceBook()


def _models(rerating: ReRating) -> list[tuple[str, str]]:
    """The provider's model names that the window used, each with the model it served last."""
    scope = scope_of(rerating)
    where, values = scope.where()
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT DISTINCT ON (provider_model) provider_model, model FROM {LEDGER} "  # noqa: S608 - constants
            f"WHERE occurred_at >= %(start)s AND occurred_at < %(end)s AND {where} "
            "ORDER BY provider_model, occurred_at DESC",
            {**values, "start": scope.start, "end": scope.end},
        )
        return [(name, model) for name, model in cursor.fetchall()]


def _book(keys: Sequence[tuple[str, str]]) -> list[Rate]:
    """The rates of the first key that has any: the provider's own go before its price book's."""
    for provider, name in keys:
        rows = CostRate.objects.filter(provider=provider, provider_model=name)
        if rates := [rate_of(row) for row in rows.order_by("effective_from", "id")]:
            return rates
    return []


def _corrected(book: Sequence[Rate], rerating: ReRating, name: str) -> list[Rate]:
    """The corrections, and the book's rates cut back to where no correction of the same thing holds."""
    corrections = [
        _correction(number, rate, rerating)
        for number, rate in enumerate(rerating.rates)
        if (rate.get("provider_model") or name) == name
    ]
    rates = list(book)
    for correction in corrections:
        rates = [piece for rate in rates for piece in _outside(rate, correction)]
    return [*rates, *corrections]


def _correction(number: int, rate: Mapping[str, Any], rerating: ReRating) -> Rate:
    """In force over the whole window unless it says when."""
    start, end = rate.get("effective_from"), rate.get("effective_to")
    return Rate(
        component=rate["component"],
        price=Decimal(rate["price"]),
        per=rate["per"],
        currency=rate["currency"],
        service_tier=rate.get("service_tier", ""),
        min_input_tokens=rate.get("min_input_tokens", 0),
        effective_from=datetime.fromisoformat(start) if start else rerating.start,
        effective_to=datetime.fromisoformat(end) if end else rerating.end,
        id=f"correction:{number}",
    )


def _outside(rate: Rate, correction: Rate) -> list[Rate]:
    """What is left of a rate beside a correction of the same thing: the time before it and the time after."""
    same = ("component", "service_tier", "min_input_tokens")
    if any(getattr(rate, name) != getattr(correction, name) for name in same):
        return [rate]
    pieces = []
    begins, ends = correction.effective_from, correction.effective_to
    if rate.effective_from < begins:
        until = begins if rate.effective_to is None else min(rate.effective_to, begins)
        pieces.append(_between(rate, rate.effective_from, until))
    if ends is not None and (rate.effective_to is None or rate.effective_to > ends):
        pieces.append(_between(rate, max(rate.effective_from, ends), rate.effective_to))
    return pieces


def _between(rate: Rate, start: datetime, end: datetime | None) -> Rate:
    return Rate(
        rate.component, rate.price, rate.per, rate.currency, rate.service_tier, rate.min_input_tokens, start,
        end, rate.id,
    )  # fmt: skip


def _plain(rate: Rate) -> dict[str, Any]:
    return {
        "component": rate.component,
        "price": str(rate.price),
        "per": rate.per,
        "currency": rate.currency,
        "service_tier": rate.service_tier,
        "min_input_tokens": rate.min_input_tokens,
        "effective_from": rate.effective_from.isoformat(),
        "effective_to": rate.effective_to.isoformat() if rate.effective_to else None,
        "id": rate.id,
    }


def _rate(data: Mapping[str, Any]) -> Rate:
    return Rate(
        component=data["component"],
        price=Decimal(data["price"]),
        per=data["per"],
        currency=data["currency"],
        service_tier=data["service_tier"],
        min_input_tokens=data["min_input_tokens"],
        effective_from=datetime.fromisoformat(data["effective_from"]),
        effective_to=datetime.fromisoformat(data["effective_to"]) if data["effective_to"] else None,
        id=data["id"],
    )
