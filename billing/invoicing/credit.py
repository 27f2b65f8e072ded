"""How much a credit note gives back, with the tax that belongs to it, and where the money goes (R14b).

Pure, in minor units. Notes in any split credit exactly the invoice's tax once everything is credited.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from billing.rating.tax import Tax, TaxRate, tax_minor
from tenants.errors import ApiError


@dataclass(frozen=True, slots=True)
class InvoicedLine:
    """A line of the finalized invoice, net of its discounts."""

    id: str
    net_minor: int
    tax: str


@dataclass(frozen=True, slots=True)
class Credit:
    """What one note credits: nets by line, tax by key, and how its gross is disposed of."""

    lines: tuple[InvoicedLine, ...]
    taxes: tuple[Tax, ...]
    reduces_open_minor: int
    refundable_minor: int
    to_wallet_minor: int

    @property
    def net_minor(self) -> int:
        return sum(line.net_minor for line in self.lines)

    @property
    def total_minor(self) -> int:
        return self.net_minor + sum(tax.amount_minor for tax in self.taxes)


def credit(
    wanted: Iterable[tuple[str, int]],
    *,
    invoice: Sequence[InvoicedLine],
    tax_rates: Mapping[str, TaxRate],
    earlier: Sequence[Credit] = (),
    paid_minor: int = 0,
    prepaid_applied_minor: int = 0,
) -> Credit:
    """The note that credits the `wanted` (line id, net) amounts after the `earlier` notes of this invoice.

    The tax of a key is round(rate times all credited so far) less the tax credited before. The gross first
    reduces what is open, then is refundable up to what was paid, then returns to the wallet. Raises ApiError
    invalid_request, param `lines`, for the whole note if a line is unknown or would be credited above what
    is left of it.
    """
    by_id = {line.id: line for line in invoice}
    credited = _sums((line.id, line.net_minor) for note in earlier for line in note.lines)
    nets = _sums(wanted)
    if not nets:
        raise ApiError("invalid_request", "A credit note needs at least one line.", param="lines")
    for line_id, net in nets.items():
        line = by_id.get(line_id)
        if line is None:
            raise ApiError("invalid_request", f"The invoice has no line {line_id}.", param="lines")
        left = line.net_minor - credited.get(line_id, 0)
        if not min(0, left) <= net <= max(0, left):
            raise ApiError("invalid_request", f"{line_id} has only {left} minor units left.", param="lines")
    lines = tuple(InvoicedLine(line_id, net, by_id[line_id].tax) for line_id, net in nets.items())
    breakdown = _taxes(lines, tax_rates, earlier)
    total = sum(nets.values()) + sum(tax.amount_minor for tax in breakdown)
    still_open = max(
        0,
        invoice_total(invoice, tax_rates)
        - paid_minor
        - prepaid_applied_minor
        - sum(note.reduces_open_minor for note in earlier),
    )
    reduces = min(total, still_open)
    refundable = min(total - reduces, max(0, paid_minor - sum(note.refundable_minor for note in earlier)))
    return Credit(lines, breakdown, reduces, refundable, total - reduces - refundable)


def invoice_total(invoice: Sequence[InvoicedLine], tax_rates: Mapping[str, TaxRate]) -> int:
    """Nets and tax per key (R12), in minor units."""
    nets = _sums((line.tax, line.net_minor) for line in invoice)
    return sum(net + tax_minor(net, tax_rates[key]) for key, net in nets.items())


def _taxes(
    lines: Sequence[InvoicedLine], tax_rates: Mapping[str, TaxRate], earlier: Sequence[Credit]
) -> tuple[Tax, ...]:
    nets_before = _sums((line.tax, line.net_minor) for note in earlier for line in note.lines)
    tax_before = _sums((tax.rate.key, tax.amount_minor) for note in earlier for tax in note.taxes)
    rows = []
    for key, net in _sums((line.tax, line.net_minor) for line in lines).items():
        rate = tax_rates[key]
        so_far = tax_minor(nets_before.get(key, 0) + net, rate)
        rows.append(Tax(rate, net, so_far - tax_before.get(key, 0)))
    return tuple(rows)


def _sums(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    """By key, in the order in which the keys first appear."""
    sums: dict[str, int] = {}
    for key, amount in pairs:
        sums[key] = sums.get(key, 0) + amount
    return sums
