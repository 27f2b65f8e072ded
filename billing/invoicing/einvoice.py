"""EN 16931 e-invoices from issued documents: CII and UBL as XML, Factur-X as PDF. Needs the extra `einvoice`.

Validates against the XSD; never sends a document to the library's validation server.
"""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

from billing.invoicing.document import show, show_credit
from billing.invoicing.pdf import pdf
from billing.models import CreditNote, Invoice, InvoiceLine
from billing.rating.money import minor_digits, minor_text, plain_text
from tenants.errors import ApiError

type Format = Literal["cii", "ubl"]

FLAVORS: Final = {"cii": "factur-x", "ubl": "ubl-2.1"}
INVOICE, CREDIT_NOTE = "380", "381"  # UNTDID 1001
TRANSFER, SEPA_TRANSFER = "30", "58"  # UNTDID 4461

_UNIT_CODES: Final = {"month": "MON", "year": "ANN", "days": "DAY", "seconds": "SEC"}
"""UN/ECE Recommendation 20; all else is counted in ones."""


def xml(document: Invoice | CreditNote, form: Format) -> bytes:
    """The document as XML, valid by its XSD.

    Raises ApiError conflict: the extra is not installed; a draft; more than two decimals in the currency
    (BR-DEC); seller or buyer without a country.
    """
    made = _library().generate_xml(
        _terms(document), flavor=FLAVORS[form], level="en16931", check_xsd=True, check_schematron=False
    )
    return made if isinstance(made, bytes) else bytes(made, "utf-8")


def factur_x(document: Invoice | CreditNote) -> bytes:
    """The PDF with the CII inside (Factur-X, profile EN 16931). Raises as `xml`."""
    shown = show(document) if isinstance(document, Invoice) else show_credit(document)
    made: bytes = _library().generate_from_binary(
        pdf(shown), xml(document, "cii"), flavor="factur-x", level="en16931", check_xsd=False,
        check_schematron=False, lang="en", afrelationship="alternative",
    )  # fmt: skip
    return made


def _library() -> Any:
    try:
        import facturx  # type: ignore[import-untyped,unused-ignore]  # noqa: PLC0415 - an extra, and heavy
    except ImportError as error:
        raise ApiError(
            "conflict", "E-invoices need the optional extra 'einvoice': uv sync --extra einvoice."
        ) from error
    return facturx


# ------------------------------------------------------------------ business terms


@dataclass(frozen=True, slots=True)
class _Row:
    """A line as it goes into the XML; `sign` is in quantity and amounts already."""

    id: str
    name: str
    quantity: Decimal
    unit: str
    price: Decimal
    per: Decimal
    amount_minor: int
    net_minor: int
    tax: dict[str, Any]
    start: date
    end: date


def _terms(document: Invoice | CreditNote) -> dict[str, Any]:
    """The document by the numbers of EN 16931's business terms and groups."""
    invoice = document if isinstance(document, Invoice) else document.invoice
    if invoice.status == Invoice.Status.DRAFT or document.issue_date is None:
        raise ApiError("conflict", "A draft is no e-invoice yet.")
    currency = document.currency
    if minor_digits(currency) > 2:
        raise ApiError(
            "conflict", f"EN 16931 allows two decimals, and {currency} has more.", param="currency"
        )
    is_note = isinstance(document, CreditNote)
    is_credit = is_note or invoice.document == Invoice.Document.CREDIT_NOTE
    sign = -1 if is_credit and not is_note else 1
    taxes = {row["key"]: row for row in document.tax_breakdown}
    rows = _note_rows(document, taxes) if isinstance(document, CreditNote) else _rows(invoice, taxes, sign)
    seller, buyer = invoice.parties["seller"], invoice.parties["buyer"]
    is_outside = any(row["category"] == "O" for row in document.tax_breakdown)
    prepaid = 0 if is_credit else invoice.prepaid_minor

    def money(minor: int) -> str:
        return minor_text(minor, currency)

    zone = ZoneInfo(invoice.timezone)
    terms: dict[str, Any] = {
        "BT-1": document.number,
        "BT-2": document.issue_date,
        "BT-3": CREDIT_NOTE if is_credit else INVOICE,
        "BT-5": currency,
        "BT-10": buyer["buyer_reference"] or buyer["tenant"],
        "BT-72": _last_day(invoice.period_end, zone),
        "BT-73": invoice.period_start.astimezone(zone).date(),
        "BT-74": _last_day(invoice.period_end, zone),
        "BG-4": _party(seller, seller["registration"], seller["email"], is_outside=is_outside),
        "BG-7": _party(buyer, "", (buyer["emails"] or [""])[0], is_outside=is_outside),
        "BG-23": [_tax(row, sign, currency) for row in document.tax_breakdown],
        "BG-25": [_line(row, currency) for row in rows],
        "BT-106": money(sum(row.net_minor for row in rows)),
        "BT-109": money(sign * document.net_minor),
        "BT-110": money(sign * document.tax_minor),
        "BT-112": money(sign * document.total_minor),
        "BT-115": money(sign * document.total_minor - prepaid),
    }
    if prepaid:
        terms["BT-113"] = money(prepaid)
    if buyer["purchase_order"]:
        terms["BT-13"] = buyer["purchase_order"]
    if isinstance(document, CreditNote):
        terms["BG-3"] = [{"BT-25": invoice.number, "BT-26": invoice.issue_date}]
        terms["BG-1"] = [{"BT-22": document.reason}]
    elif not is_credit:
        terms |= _payment(invoice, seller)
    return terms


def _rows(invoice: Invoice, taxes: dict[str, Any], sign: int) -> list[_Row]:
    zone = ZoneInfo(invoice.timezone)
    rows = []
    for line in invoice.lines.all():
        quantity, price, per = _as_product(line, invoice.currency)
        rows.append(
            _Row(
                str(line.position), line.description, sign * quantity,
                _UNIT_CODES.get(line.unit, "C62"), price, per,
                sign * line.amount_minor, sign * line.net_minor, taxes[line.tax_key],
                line.period_start.astimezone(zone).date(), _last_day(line.period_end, zone),
            )
        )  # fmt: skip
    return rows


def _note_rows(note: CreditNote, taxes: dict[str, Any]) -> list[_Row]:
    """What is credited, in positive amounts: the type of the document says which way they go."""
    zone = ZoneInfo(note.invoice.timezone)
    return [
        _Row(
            str(line.position), line.invoice_line.description,
            Decimal(-1 if line.net_minor < 0 else 1), "C62",
            Decimal(minor_text(abs(line.net_minor), note.currency)), Decimal(1),
            line.net_minor, line.net_minor, taxes[line.tax_key],
            line.invoice_line.period_start.astimezone(zone).date(),
            _last_day(line.invoice_line.period_end, zone),
        )
        for line in note.lines.select_related("invoice_line")
    ]  # fmt: skip


def _as_product(line: InvoiceLine, currency: str) -> tuple[Decimal, Decimal, Decimal]:
    """quantity, price and base quantity, the price never negative (BR-27). A line that is no product is one
    piece at its amount."""
    if line.price is not None and line.price >= 0:
        return line.quantity, line.price, line.per
    amount = Decimal(minor_text(abs(line.amount_minor), currency))
    return Decimal(-1 if line.amount_minor < 0 else 1), amount, Decimal(1)


def _line(row: _Row, currency: str) -> dict[str, Any]:
    category = row.tax["category"]
    terms: dict[str, Any] = {
        "BT-126": row.id,
        "BT-129": plain_text(row.quantity),
        "BT-130": row.unit,
        "BT-131": minor_text(row.net_minor, currency),
        "BT-134": row.start,
        "BT-135": row.end,
        "BT-146": plain_text(row.price),
        "BT-149": plain_text(row.per),
        "BT-151": category,
        "BT-153": row.name,
    }
    if category != "O":
        terms["BT-152"] = row.tax["percent"]
    off = row.amount_minor - row.net_minor
    if off:
        key = "BG-27" if off > 0 else "BG-28"
        terms[key] = [{"amount": minor_text(abs(off), currency), "reason": "Discount"}]
    return terms


def _tax(row: dict[str, Any], sign: int, currency: str) -> dict[str, Any]:
    terms = {
        "BT-116": minor_text(sign * row["taxable_minor"], currency),
        "BT-117": minor_text(sign * row["amount_minor"], currency),
        "BT-118": row["category"],
    }
    if row["category"] != "O":
        terms["BT-119"] = row["percent"]
    if row["category"] not in ("S", "Z"):
        terms["BT-120"] = row["exemption_text"] or "Exempt"
        if row["exemption_code"]:
            terms["BT-121"] = row["exemption_code"]
    return terms


def _party(party: dict[str, Any], registration: str, email: str, *, is_outside: bool) -> dict[str, Any]:
    if not party["country"]:
        raise ApiError(
            "conflict", f"{party['name']} has no country: an e-invoice needs one.", param="country"
        )
    lines = [*party["address_lines"], "", "", ""]
    terms = {
        "name": party["name"],
        "country_code": party["country"],
        "city": party["city"],
        "postcode": party["postal_code"],
        "addr_l1": lines[0],
        "addr_l2": lines[1],
        "addr_l3": lines[2],
        "legal_identifier": registration,
        "vat_identifier": "" if is_outside else party["vat_id"],  # BR-O-02
    }
    scheme, _, address = party.get("einvoice_address", "").partition(":")
    if address:
        terms |= {"einvoicing_addr": address, "einvoicing_addr_schemeid": scheme}
    elif email:
        terms |= {"einvoicing_addr": email, "einvoicing_addr_schemeid": "EM"}
    return {name: value for name, value in terms.items() if value}


def _payment(invoice: Invoice, seller: dict[str, Any]) -> dict[str, Any]:
    terms: dict[str, Any] = {"BT-83": invoice.number}
    if invoice.due_date and invoice.amount_due_minor:
        terms["BT-9"] = invoice.due_date
        terms["BT-20"] = f"Payable until {invoice.due_date.isoformat()}."
    if seller["iban"]:
        terms |= {
            "BT-81": SEPA_TRANSFER if invoice.currency == "EUR" else TRANSFER,
            "BT-84": seller["iban"],
            "BT-85": seller["name"],
        }
        if seller["bic"]:
            terms["BT-86"] = seller["bic"]
    else:
        terms["BT-81"] = TRANSFER
    return terms


def _last_day(end: datetime, zone: ZoneInfo) -> date:
    return (end - timedelta(microseconds=1)).astimezone(zone).date()
