"""A document's sums from its lines: discounts, promotional credit, tax, prepaid balance (R6, R11 to R17).

Pure, in whole minor units of one currency. Every part equals its whole: nets sum to the total before tax,
the tax breakdown to the tax.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Literal, assert_never

from billing.rating.allocation import spread
from billing.rating.money import round_half_away, to_minor
from billing.rating.tax import Tax, TaxRate, taxes

type Document = Literal["invoice", "credit_note", "none"]


@dataclass(frozen=True, slots=True)
class DocumentLine:
    """A rated line: `amount_minor` before discounts, already rounded (R6). `kind` usage takes promotional
    credit."""

    id: str
    amount_minor: int
    tax: str
    kind: str = "usage"


@dataclass(frozen=True, slots=True)
class Discount:
    """`value` is a percentage or an amount in currency units. `line_ids` None: every line is eligible."""

    kind: Literal["percent", "fixed"]
    value: Decimal
    line_ids: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Totals:
    """Minor units. `nets` are the lines after discounts and promotional credit, in the lines' order.

    `discounts` are the amounts of the given discounts, in their order. `document`: what it becomes.
    """

    subtotal_minor: int
    discounts_minor: tuple[int, ...]
    promotional_applied_minor: int
    nets_minor: tuple[int, ...]
    taxes: tuple[Tax, ...]
    prepaid_applied_minor: int
    document: Document

    @property
    def discount_total_minor(self) -> int:
        return sum(self.discounts_minor)

    @property
    def total_excluding_tax_minor(self) -> int:
        return sum(self.nets_minor)

    @property
    def total_tax_minor(self) -> int:
        return sum(tax.amount_minor for tax in self.taxes)

    @property
    def total_minor(self) -> int:
        return self.total_excluding_tax_minor + self.total_tax_minor

    @property
    def amount_due_minor(self) -> int:
        """What is left to pay; 0 for a credit note (R15)."""
        return max(0, self.total_minor - self.prepaid_applied_minor)


def totals_of(
    lines: Sequence[DocumentLine],
    *,
    tax_rates: Mapping[str, TaxRate],
    currency: str,
    discounts: Iterable[Discount] = (),
    promotional_minor: int = 0,
    prepaid_minor: int = 0,
    issue_zero_invoices: bool = False,
) -> Totals:
    """The steps in their order: discounts (R11), promotional credit (R13), tax (R12), prepaid balance (R13).

    `promotional_minor` and `prepaid_minor` are what the wallet has, rounded down to whole minor units.
    Raises KeyError for a line whose tax key has no rate.
    """
    nets = [line.amount_minor for line in lines]
    amounts = tuple(_apply(discount, lines, nets, currency) for discount in discounts)
    promotional = _apply_promotional(promotional_minor, lines, nets)
    breakdown = taxes(((line.tax, net) for line, net in zip(lines, nets, strict=True)), tax_rates)
    subtotal = sum(line.amount_minor for line in lines)
    total = sum(nets) + sum(tax.amount_minor for tax in breakdown)
    return Totals(
        subtotal_minor=subtotal,
        discounts_minor=amounts,
        promotional_applied_minor=promotional,
        nets_minor=tuple(nets),
        taxes=breakdown,
        prepaid_applied_minor=max(0, min(prepaid_minor, total)),
        document=_document(subtotal, total, issue_zero_invoices),
    )


def _apply(discount: Discount, lines: Sequence[DocumentLine], nets: list[int], currency: str) -> int:
    """R11, on `nets` in place; the amount. A percentage mirrors a negative base, a fixed amount leaves it."""
    eligible = [
        position
        for position, line in enumerate(lines)
        if discount.line_ids is None or line.id in discount.line_ids
    ]
    base = sum(nets[position] for position in eligible)
    match discount.kind:
        case "percent":
            amount = round_half_away(base * Fraction(discount.value) / 100)
        case "fixed":
            amount = max(0, min(to_minor(discount.value, currency), base))
        case _:
            assert_never(discount.kind)
    _take(amount, eligible, nets)
    return amount


def _apply_promotional(credit_minor: int, lines: Sequence[DocumentLine], nets: list[int]) -> int:
    """R13: at most the usage lines' net, before tax."""
    usage = [position for position, line in enumerate(lines) if line.kind == "usage"]
    amount = max(0, min(credit_minor, sum(nets[position] for position in usage)))
    _take(amount, usage, nets)
    return amount


def _take(amount: int, positions: Sequence[int], nets: list[int]) -> None:
    if amount:
        parts = spread(amount, [nets[position] for position in positions])
        for position, part in zip(positions, parts, strict=True):
            nets[position] -= part


def _document(subtotal_minor: int, total_minor: int, issue_zero_invoices: bool) -> Document:
    """R15, R17."""
    if total_minor < 0:
        return "credit_note"
    if total_minor == 0 and subtotal_minor == 0 and not issue_zero_invoices:
        return "none"
    return "invoice"
