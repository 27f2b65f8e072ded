"""Tax: once per key on the sum of its net lines, never per line (R12). Pure, minor units."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from billing.rating.money import round_half_away

CATEGORIES = frozenset({"S", "Z", "E", "AE", "K", "G", "O"})
"""UNTDID 5305 as EN 16931 uses it: standard, zero, exempt, reverse charge, intra-EU, export, out of scope."""


@dataclass(frozen=True, slots=True)
class TaxRate:
    """`percent` of the net. Reverse charge is the category AE with 0 percent."""

    key: str
    category: str
    percent: Decimal


@dataclass(frozen=True, slots=True)
class Tax:
    """One row of a document's tax breakdown."""

    rate: TaxRate
    taxable_minor: int
    amount_minor: int


def tax_minor(net_minor: int, rate: TaxRate) -> int:
    """Half away from zero, so that the tax of a negative document mirrors the positive one's."""
    return round_half_away(net_minor * Fraction(rate.percent) / 100)


def taxes(nets: Iterable[tuple[str, int]], rates: Mapping[str, TaxRate]) -> tuple[Tax, ...]:
    """The breakdown of (tax key, net) lines, in the order in which the keys first appear.

    Raises KeyError for a key without a rate: a document must never be issued untaxed by oversight.
    """
    sums: dict[str, int] = {}
    for key, net in nets:
        sums[key] = sums.get(key, 0) + net
    return tuple(Tax(rates[key], net, tax_minor(net, rates[key])) for key, net in sums.items())
