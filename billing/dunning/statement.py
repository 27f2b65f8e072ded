"""The statement of account: what was billed and paid in a span, document by document, with a running balance."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

from billing.models import CreditNote, Invoice, Payment, Refund
from billing.rating.money import minor_text
from tenants.models import Tenant
from tenants.spreadsheet import lines


@dataclass(frozen=True, slots=True)
class Entry:
    """One movement: above zero the tenant owes more, below it owes less. Minor units."""

    on: date
    kind: str
    reference: str
    amount_minor: int
    balance_minor: int = 0


@dataclass(frozen=True, slots=True)
class Statement:
    """[start, end] by local day of the sellers' documents; balances in minor units."""

    tenant: str
    currency: str
    start: date
    end: date
    opening_minor: int
    entries: tuple[Entry, ...]

    @property
    def closing_minor(self) -> int:
        return self.opening_minor + sum(entry.amount_minor for entry in self.entries)


def statement(*, tenant: Tenant, currency: str, start: date, end: date) -> Statement:
    """Every issued document and every payment of the tenant in one currency."""
    movements = sorted(
        _movements(tenant, currency), key=lambda entry: (entry.on, entry.kind, entry.reference)
    )
    opening = sum(entry.amount_minor for entry in movements if entry.on < start)
    running, shown = opening, []
    for entry in movements:
        if start <= entry.on <= end:
            running += entry.amount_minor
            shown.append(Entry(entry.on, entry.kind, entry.reference, entry.amount_minor, running))
    return Statement(tenant.slug, currency, start, end, opening, tuple(shown))


def _movements(tenant: Tenant, currency: str) -> Iterable[Entry]:
    for invoice in Invoice.objects.for_tenant(tenant).filter(currency=currency, issue_date__isnull=False):
        number, on = invoice.number or "", invoice.issue_date
        if on is None:
            continue
        yield Entry(on, "invoice", number, invoice.total_minor)
        if invoice.prepaid_minor:
            yield Entry(on, "paid from balance", number, -invoice.prepaid_minor)
        if invoice.status == Invoice.Status.VOID and invoice.voided_at is not None:
            yield Entry(invoice.voided_at.date(), "void", number, invoice.prepaid_minor - invoice.total_minor)
        booked = 0
        for payment in Payment.objects.filter(invoice=invoice, status=Payment.Status.SUCCEEDED):
            if payment.invoice_minor and payment.paid_at is not None:
                booked += payment.invoice_minor
                words = payment.reference or payment.provider_ref or number
                yield Entry(payment.paid_at.date(), "payment", words, -payment.invoice_minor)
        if invoice.paid_minor > booked:
            # Marked as paid without a payment's row, so all that is known is when the last of it came.
            came = invoice.paid_at or invoice.updated_at
            yield Entry(
                came.date(), "payment", invoice.payment_reference or number, booked - invoice.paid_minor
            )
    for note in CreditNote.objects.for_tenant(tenant).filter(currency=currency):
        yield Entry(note.issue_date, "credit note", note.number, -note.total_minor)
        if note.to_wallet_minor:
            yield Entry(note.issue_date, "returned to the wallet", note.number, note.to_wallet_minor)
    done = Refund.objects.for_tenant(tenant).filter(
        status=Refund.Status.SUCCEEDED, payment__currency=currency, payment__invoice__isnull=False
    )
    for refund in done:
        words = refund.reference or refund.provider_ref or refund.reason
        yield Entry(refund.updated_at.date(), "refund", words, refund.amount_minor)


def statement_csv(made: Statement) -> str:
    """RFC 4180, one line per movement between the opening and the closing balance."""

    def money(minor: int) -> str:
        return minor_text(minor, made.currency)

    return lines(
        ("date", "kind", "reference", "amount", "balance", "currency"),
        (made.start.isoformat(), "opening balance", "", "", money(made.opening_minor), made.currency),
        *(
            (entry.on.isoformat(), entry.kind, entry.reference, money(entry.amount_minor),
             money(entry.balance_minor), made.currency)
            for entry in made.entries
        ),
        (made.end.isoformat(), "closing balance", "", "", money(made.closing_minor), made.currency),
    )  # fmt: skip
