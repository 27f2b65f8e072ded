"""What a plan's wording would make of an imagined month: the worked example beside the price editor. Pure.

The lines are `rating.lines`', as an invoice's are; nothing is rounded in another place.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from billing.rating.charges import Percentage
from billing.rating.lines import Line, PeriodUsage, rate_charge, rate_events, sum_minor, true_up_minor
from billing.rating.money import PICO, to_minor
from billing.rating.prices import Pricing


@dataclass(frozen=True, slots=True)
class Month:
    """Calls of one model in one month. `cost` is what providers charge for all of them, in the plan's currency."""

    model: str
    requests: int
    units: Mapping[str, int]
    cost: Decimal


@dataclass(frozen=True, slots=True)
class Example:
    """The document's lines before tax, in minor units of `currency`. `margin_percent` None: nothing is earned."""

    currency: str
    charge: str
    lines: tuple[Line, ...]
    base_minor: int
    true_up_minor: int
    cost_minor: int

    @property
    def net_minor(self) -> int:
        return self.base_minor + sum_minor(self.lines) + self.true_up_minor

    @property
    def margin_minor(self) -> int:
        return self.net_minor - self.cost_minor

    @property
    def margin_percent(self) -> Decimal | None:
        return Decimal(self.margin_minor) * 100 / self.net_minor if self.net_minor > 0 else None


class NoChargeError(LookupError):
    """No charge of the plan covers the model: its calls would be unpriced."""


def example(*, pricing: Pricing, base: Decimal, commitment: Decimal, month: Month) -> Example:
    """Rate an imagined month.

    A percentage is taken of the average call, as the calls' own costs are not told. The commitment counts
    usage, as on an invoice. Raises NoChargeError; Unrateable for a unit that the charge does not price.
    """
    charge = pricing.charge_for(month.model)
    if charge is None:
        raise NoChargeError(month.model)
    currency = pricing.currency
    lines: tuple[Line, ...]
    if isinstance(charge.terms, Percentage):
        average = month.cost / month.requests if month.requests else Decimal(0)
        lines = rate_events(charge.terms, [(average, month.requests)], currency=currency)
    else:
        usage = PeriodUsage(requests=month.requests, units=month.units, cost_pico=int(month.cost * PICO))
        lines = rate_charge(charge, usage, currency=currency)
    return Example(
        currency=currency,
        charge=charge.name or charge.model,
        lines=lines,
        base_minor=to_minor(base, currency),
        true_up_minor=true_up_minor(lines, commitment, currency=currency) if commitment else 0,
        cost_minor=to_minor(month.cost, currency),
    )
