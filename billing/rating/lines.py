"""A period's quantity or costs into document lines, each rounded once to the minor unit (R6 to R9, R19).

Pure; the arithmetic is exact until the line. One line per (charge, price version, tier): an e-invoice shows
each with its unit price, quantity and amount.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Literal, assert_never

from billing.rating.charges import (
    Charge,
    CostPlus,
    Graduated,
    Package,
    Percentage,
    Standard,
    Tier,
    UnitModel,
    Volume,
)
from billing.rating.money import PICO, pico_to_minor, to_minor

type Kind = Literal["usage", "tier_fee", "request_fee"]


class Unrateable(ValueError):
    """Usage with a component that its charge does not price: its calls are unpriced and on no invoice."""


class NoPriceInForce(ValueError):
    """Usage at an instant that no price version covers: it cannot be billed until one does."""


@dataclass(frozen=True, slots=True)
class Line:
    """`amount_minor` = round(quantity times price / per). `price` None: the amount is no product of it."""

    kind: Kind
    quantity: Decimal
    amount_minor: int
    price: Decimal | None = None
    per: Decimal = Decimal(1)
    tier: int | None = None
    version: str = ""
    meter: str = ""


@dataclass(frozen=True, slots=True)
class PeriodUsage:
    """The sums of a period's priced calls that one charge covers, answers from our cache left out.

    `units` are disjoint components. `cost_pico` is what they cost when they were made, in the plan's
    currency, each day converted at its own rate (R23), re-rating left out (R22); `price_pico` the sum of
    their frozen prices.
    """

    requests: int
    units: Mapping[str, int]
    cost_pico: int = 0
    price_pico: int = 0


@dataclass(frozen=True, slots=True)
class PriceVersion:
    """A unit price in force in [effective_from, effective_to); None is open (R5)."""

    id: str
    price: Decimal
    per: int
    effective_from: datetime
    effective_to: datetime | None

    def covers(self, at: datetime) -> bool:
        return self.effective_from <= at and (self.effective_to is None or at < self.effective_to)


def billable(quantity: Decimal, included: Decimal) -> Decimal:
    """R8: what remains after the included units, which never apply to a negative quantity."""
    return quantity if quantity <= 0 else max(quantity - included, Decimal(0))


def rate_quantity(
    model: UnitModel, quantity: Decimal, *, currency: str, included: Decimal = Decimal(0)
) -> tuple[Line, ...]:
    """R7, R8: a period's units of one meter.

    standard, volume and package always give their line, of nothing too; graduated one per tier entered.
    Negative quantities (corrections) are priced at the first tier and owe no tier fee.
    """
    left = billable(quantity, included)
    match model:
        case Standard(price, per):
            return (_line(left, price, Decimal(per), currency),)
        case Graduated(tiers):
            return tuple(_graduated(tiers, left, currency))
        case Volume(tiers):
            reached = next(
                (n for n, tier in enumerate(tiers) if tier.up_to is None or left <= tier.up_to),
                len(tiers) - 1,
            )
            lower = tiers[reached - 1].up_to if reached else None
            return tuple(_tier_lines(tiers, reached, left, left > (lower or 0), currency))
        case Package(size, price):
            packages = Decimal(-(-Fraction(left) // Fraction(size)))
            return (_line(packages, price, Decimal(1), currency),)
        case _:
            assert_never(model)


def rate_charge(charge: Charge, usage: PeriodUsage, *, currency: str) -> tuple[Line, ...]:
    """A plan's row over a period: meters by their quantity, cost-plus by the costs.

    percentage and byok keep each call within its least and most, so their line is the sum of the frozen
    prices. Raises Unrateable for units that no meter counts.
    """
    if isinstance(charge.terms, CostPlus):
        return rate_costs(charge.terms, cost_pico=usage.cost_pico, requests=usage.requests, currency=currency)
    if charge.terms is not None:
        return (rate_frozen(usage.price_pico, usage.requests, currency=currency),)
    quantities = charge.quantities(usage.units, requests=usage.requests)
    if quantities is None:
        raise Unrateable(f"charge {charge.position} does not price all of {sorted(usage.units)}")
    return tuple(
        replace(line, meter=meter.name)
        for meter in charge.meters
        if meter.name in quantities
        for line in rate_quantity(
            meter.model, Decimal(quantities[meter.name]), currency=currency, included=meter.included
        )
    )


def rate_frozen(price_pico: int, requests: int, *, currency: str) -> Line:
    """A line of what was frozen with each call: the prices are summed exactly, then rounded once."""
    return Line("usage", Decimal(requests), pico_to_minor(price_pico, currency))


def rate_costs(terms: CostPlus, *, cost_pico: int, requests: int, currency: str) -> tuple[Line, ...]:
    """R7 cost_plus: the sum of the calls' costs marked up in one line, the fee per request in another."""
    marked_up = Fraction(cost_pico, PICO) * (1 + Fraction(terms.markup_percent) / 100)
    lines = (Line("usage", Decimal(requests), to_minor(marked_up, currency)),)
    if not terms.fixed_per_request:
        return lines
    fee = _line(Decimal(requests), terms.fixed_per_request, Decimal(1), currency, kind="request_fee")
    return (*lines, fee)


def rate_events(
    terms: Percentage, events: Iterable[tuple[Decimal, int]], *, currency: str
) -> tuple[Line, ...]:
    """R7 percentage: `events` are (amount of each, how many), their shares kept within least and most each."""
    total, number = Fraction(0), 0
    for amount, count in events:
        share = Fraction(amount) * Fraction(terms.percent) / 100 + Fraction(terms.fixed)
        if terms.least is not None:
            share = max(share, Fraction(terms.least))
        if terms.most is not None:
            share = min(share, Fraction(terms.most))
        total += share * count
        number += count
    return (Line("usage", Decimal(number), to_minor(total, currency)),)


def rate_versions(
    versions: Sequence[PriceVersion], events: Iterable[tuple[datetime, Decimal]], *, currency: str
) -> tuple[Line, ...]:
    """R5, R6: one line for each price version that has usage, in the versions' order.

    Raises NoPriceInForce for an event that no version covers.
    """
    quantities: dict[int, Decimal] = {}
    for at, quantity in events:
        position = next((n for n, version in enumerate(versions) if version.covers(at)), None)
        if position is None:
            msg = f"no price is in force at {at.isoformat()}"
            raise NoPriceInForce(msg)
        quantities[position] = quantities.get(position, Decimal(0)) + quantity
    return tuple(
        _line(quantities[position], version.price, Decimal(version.per), currency, version=version.id)
        for position, version in enumerate(versions)
        if position in quantities
    )


def sum_minor(lines: Iterable[Line]) -> int:
    return sum(line.amount_minor for line in lines)


def true_up_minor(
    lines: Iterable[Line],
    commitment: Decimal,
    *,
    currency: str,
    commitment_days: int | None = None,
    period_days: int | None = None,
) -> int:
    """R9: what is missing to the minimum commitment, in minor units; never negative.

    A short period owes commitment_days / period_days of it, rounded first.
    """
    share = Fraction(1)
    if commitment_days is not None and period_days is not None:
        share = Fraction(commitment_days, period_days)
    return max(0, to_minor(Fraction(commitment) * share, currency) - sum_minor(lines))


def adjustment_minor(*, already_billed_minor: int, should_be_minor: int) -> int:
    """R19: what late usage adds to the next document: all units of the period, less what was billed, both
    rated with that period's price."""
    return should_be_minor - already_billed_minor


def _graduated(tiers: Sequence[Tier], quantity: Decimal, currency: str) -> Iterable[Line]:
    if quantity < 0:
        yield from _tier_lines(tiers, 0, quantity, False, currency)
        return
    lower = Decimal(0)
    for position, tier in enumerate(tiers):
        if quantity <= lower:
            return
        is_last = tier.up_to is None or position == len(tiers) - 1
        upper = quantity if is_last else min(quantity, tier.up_to or quantity)
        yield from _tier_lines(tiers, position, upper - lower, True, currency)
        lower = upper


def _tier_lines(
    tiers: Sequence[Tier], position: int, units: Decimal, is_entered: bool, currency: str
) -> Iterable[Line]:
    tier = tiers[position]
    yield _line(units, tier.price, Decimal(tier.per), currency, tier=position)
    if is_entered and tier.flat:
        yield _line(Decimal(1), tier.flat, Decimal(1), currency, kind="tier_fee", tier=position)


def _line(
    quantity: Decimal,
    price: Decimal,
    per: Decimal,
    currency: str,
    *,
    kind: Kind = "usage",
    tier: int | None = None,
    version: str = "",
) -> Line:
    amount = Fraction(quantity) * Fraction(price) / Fraction(per)
    return Line(kind, quantity, to_minor(amount, currency), price, per, tier, version)
