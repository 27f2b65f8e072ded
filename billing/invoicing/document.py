"""An invoice or credit note in words: what its PDF, its page and its mail show, already formatted.

Reads the frozen document alone, never today's parties or prices.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final
from zoneinfo import ZoneInfo

from babel import Locale
from babel.dates import format_date
from babel.numbers import format_decimal

from billing.models import CreditNote, Invoice, InvoiceLine
from billing.rating.money import minor_digits, minor_text, plain_text

LOCALE: Final = "en"
DASH: Final = "\N{EN DASH}"

_GROUPS: Final = (
    ("Plan", (InvoiceLine.Kind.BASE, InvoiceLine.Kind.PRORATION, InvoiceLine.Kind.TRUE_UP)),
    ("Usage", (InvoiceLine.Kind.USAGE, InvoiceLine.Kind.TIER_FEE, InvoiceLine.Kind.REQUEST_FEE)),
    ("Adjustments", (InvoiceLine.Kind.ADJUSTMENT,)),
)


@dataclass(frozen=True, slots=True)
class LineShown:
    description: str
    quantity: str
    unit: str
    price: str
    amount: str


@dataclass(frozen=True, slots=True)
class GroupShown:
    title: str
    lines: tuple[LineShown, ...]
    subtotal: str


@dataclass(frozen=True, slots=True)
class TaxShown:
    label: str
    taxable: str
    amount: str
    note: str


@dataclass(frozen=True, slots=True)
class DocumentShown:
    """Texts for people. `facts` and `totals` are (label, value) in their order; the last total is the due one."""

    title: str
    number: str
    is_draft: bool
    is_void: bool
    seller: dict[str, Any]
    buyer: dict[str, Any]
    facts: tuple[tuple[str, str], ...]
    groups: tuple[GroupShown, ...]
    totals: tuple[tuple[str, str], ...]
    due: tuple[str, str]
    taxes: tuple[TaxShown, ...]
    notes: tuple[str, ...]
    payment: tuple[tuple[str, str], ...]
    currency: str
    dated: date


def show(invoice: Invoice) -> DocumentShown:
    """The invoice (or draft) for people."""
    currency = invoice.currency
    is_credit = invoice.document == Invoice.Document.CREDIT_NOTE
    lines = list(invoice.lines.all())
    return DocumentShown(
        title="Credit note" if is_credit else "Invoice",
        number=invoice.number or "Draft",
        is_draft=invoice.status == Invoice.Status.DRAFT,
        is_void=invoice.status == Invoice.Status.VOID,
        seller=_party(invoice.parties["seller"]),
        buyer=_party(invoice.parties["buyer"]),
        facts=tuple(_facts(invoice)),
        groups=tuple(_groups(lines, currency)),
        totals=tuple(_totals(invoice)),
        due=_due(invoice, is_credit),
        taxes=_taxes(invoice.tax_breakdown, currency),
        notes=tuple(
            dict.fromkeys(row["exemption_text"] for row in invoice.tax_breakdown if row["exemption_text"])
        ),
        payment=() if is_credit or not invoice.amount_due_minor else tuple(_payment(invoice)),
        currency=currency,
        dated=invoice.issue_date or invoice.period_end.astimezone(ZoneInfo(invoice.timezone)).date(),
    )


def show_credit(note: CreditNote) -> DocumentShown:
    """The credit note for people."""
    invoice, currency = note.invoice, note.currency
    lines = [
        LineShown(line.invoice_line.description, "", "", "", money(-line.net_minor, currency))
        for line in note.lines.select_related("invoice_line")
    ]
    disposed = (
        ("Off the open balance", note.reduces_open_minor),
        ("To be refunded", note.refundable_minor),
        ("Returned to the wallet", note.to_wallet_minor),
    )
    return DocumentShown(
        title="Credit note",
        number=note.number,
        is_draft=False,
        is_void=False,
        seller=_party(invoice.parties["seller"]),
        buyer=_party(invoice.parties["buyer"]),
        facts=(
            ("Credit note no.", note.number),
            ("Issue date", day(note.issue_date)),
            ("For invoice", invoice.number or DASH),
            ("Invoice date", day(invoice.issue_date)),
            ("Reason", note.reason),
        ),
        groups=(GroupShown("Credited", tuple(lines), money(-note.net_minor, currency)),),
        totals=(
            ("Total excluding tax", money(-note.net_minor, currency)),
            ("Tax", money(-note.tax_minor, currency)),
            *((label, money(-minor, currency)) for label, minor in disposed if minor),
        ),
        due=("Total credited", money(-note.total_minor, currency)),
        taxes=_taxes(note.tax_breakdown, currency, sign=-1),
        notes=tuple(
            dict.fromkeys(row["exemption_text"] for row in note.tax_breakdown if row["exemption_text"])
        ),
        payment=(),
        currency=currency,
        dated=note.issue_date,
    )


# ------------------------------------------------------------------ words


def money(minor: int, currency: str) -> str:
    """1234567 EUR-cents as `12,345.67 EUR`: exact, in the reader's grouping."""
    text = minor_text(minor, currency)
    _, _, decimals = text.partition(".")
    pattern = "#,##0" + (f".{'0' * len(decimals)}" if decimals else "")
    return f"{format_decimal(Decimal(text), format=pattern, locale=LOCALE)} {currency}"


def number(value: Decimal, least_decimals: int = 0) -> str:
    """All its digits, grouped."""
    _, _, found = plain_text(value).partition(".")
    decimals = max(len(found), least_decimals)
    pattern = "#,##0" + (f".{'0' * decimals}" if decimals else "")
    return str(format_decimal(value, format=pattern, locale=LOCALE))


def day(value: date | None) -> str:
    return "" if value is None else str(format_date(value, "d MMM yyyy", locale=LOCALE))


def span(start: datetime, end: datetime, timezone: str) -> str:
    """[start, end) as its first and last local day."""
    zone = ZoneInfo(timezone)
    last = end - datetime.resolution
    return f"{day(start.astimezone(zone).date())} {DASH} {day(last.astimezone(zone).date())}"


def _party(party: dict[str, Any]) -> dict[str, Any]:
    place = " ".join(part for part in (party["postal_code"], party["city"]) if part)
    country = Locale(LOCALE).territories.get(party["country"], party["country"])
    return {**party, "address": [part for part in (*party["address_lines"], place, country) if part]}


def _facts(invoice: Invoice) -> Iterable[tuple[str, str]]:
    buyer = invoice.parties["buyer"]
    yield "Number", invoice.number or DASH
    yield "Issue date", day(invoice.issue_date) or DASH
    yield "Service period", span(invoice.period_start, invoice.period_end, invoice.timezone)
    if invoice.due_date and invoice.amount_due_minor:
        yield "Due date", day(invoice.due_date)
    if buyer["purchase_order"]:
        yield "Purchase order", buyer["purchase_order"]
    if buyer["buyer_reference"]:
        yield "Your reference", buyer["buyer_reference"]
    if buyer["vat_id"]:
        yield "Your VAT ID", buyer["vat_id"]


def _groups(lines: Sequence[InvoiceLine], currency: str) -> Iterable[GroupShown]:
    for title, kinds in _GROUPS:
        found = [line for line in lines if line.kind in kinds]
        if found:
            yield GroupShown(
                title,
                tuple(_line(line, currency) for line in found),
                money(sum(line.amount_minor for line in found), currency),
            )


def _line(line: InvoiceLine, currency: str) -> LineShown:
    price = ""
    if line.price is not None:
        per = "" if line.per == 1 else f" / {number(line.per)}"
        price = f"{number(line.price, minor_digits(currency))}{per}"
    return LineShown(
        line.description,
        number(line.quantity),
        "" if line.unit in line.description else line.unit,
        price,
        money(line.amount_minor, currency),
    )


def _totals(invoice: Invoice) -> Iterable[tuple[str, str]]:
    currency = invoice.currency
    yield "Subtotal", money(invoice.subtotal_minor, currency)
    for discount in invoice.discounts.all():
        yield discount.description, money(-discount.amount_minor, currency)
    if invoice.promotional_minor:
        yield "Promotional credit", money(-invoice.promotional_minor, currency)
    if invoice.discount_minor or invoice.promotional_minor:
        yield "Total excluding tax", money(invoice.net_minor, currency)
    for row in invoice.tax_breakdown:
        yield _tax_label(row), money(row["amount_minor"], currency)
    yield "Total", money(invoice.total_minor, currency)
    if invoice.prepaid_minor:
        yield "Paid from your balance", money(-invoice.prepaid_minor, currency)


def _due(invoice: Invoice, is_credit: bool) -> tuple[str, str]:
    if is_credit:
        return "Credit", money(invoice.total_minor, invoice.currency)
    return "Amount due", money(invoice.amount_due_minor, invoice.currency)


_CATEGORIES: Final = {
    "S": "VAT", "Z": "VAT", "E": "Exempt", "AE": "Reverse charge", "K": "Intra-Community", "G": "Export",
    "O": "Outside the scope of VAT",
}  # fmt: skip


def _tax_label(row: dict[str, Any]) -> str:
    label = _CATEGORIES[row["category"]]
    return f"{label} {row['percent']} %" if row["category"] in ("S", "Z") else label


def _taxes(rows: Sequence[dict[str, Any]], currency: str, sign: int = 1) -> tuple[TaxShown, ...]:
    return tuple(
        TaxShown(
            _tax_label(row),
            money(sign * row["taxable_minor"], currency),
            money(sign * row["amount_minor"], currency),
            row["exemption_text"],
        )
        for row in rows
    )


def _payment(invoice: Invoice) -> Iterable[tuple[str, str]]:
    seller = invoice.parties["seller"]
    if seller["iban"]:
        yield "IBAN", " ".join(seller["iban"][n : n + 4] for n in range(0, len(seller["iban"]), 4))
    if seller["bic"]:
        yield "BIC", seller["bic"]
    if seller["iban"]:
        yield "Account holder", seller["name"]
    yield "Reference", invoice.number or DASH
    if invoice.due_date:
        yield "Payable until", day(invoice.due_date)
