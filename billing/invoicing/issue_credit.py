"""Issuing a credit note (R14b): the arithmetic is credit.py's, here it gets its number and its rows."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from uuid import UUID
from zoneinfo import ZoneInfo

from django.db import transaction

from billing.invoicing.counter import take_number
from billing.invoicing.credit import Credit, InvoicedLine, credit
from billing.invoicing.locks import locked
from billing.invoicing.wallet import wallet
from billing.models import CreditNote, CreditNoteLine, Invoice
from billing.rating.tax import Tax, TaxRate
from tenants import audit
from tenants.errors import ApiError
from tenants.principal import Principal


def issue_credit(
    *,
    invoice: Invoice,
    lines: Iterable[tuple[UUID, int]],
    reason: str,
    now: datetime,
    actor: Principal,
) -> CreditNote:
    """Credit (line id, net in minor units) of an issued invoice, all or nothing.

    Raises ApiError: conflict for a draft or void invoice; invalid_request, param `lines`, as `credit`.
    """
    with transaction.atomic():
        held = locked(invoice)
        if held.status in (Invoice.Status.DRAFT, Invoice.Status.VOID):
            raise ApiError("conflict", f"An invoice that is {held.status} cannot be credited.")
        made = credit(
            [(str(line_id), net) for line_id, net in lines],
            invoice=invoiced_lines(held),
            tax_rates=tax_rates_of(held),
            earlier=[credit_of(note) for note in notes_of(held)],
            paid_minor=held.paid_minor,
            prepaid_applied_minor=held.prepaid_minor,
        )
        seller = held.legal_entity
        note = CreditNote.objects.create(
            invoice=held,
            tenant=held.tenant,
            legal_entity=seller,
            number=take_number(seller=seller, series=seller.credit_series, at=now),
            reason=reason,
            currency=held.currency,
            issue_date=now.astimezone(ZoneInfo(seller.timezone)).date(),
            finalized_at=now,
            net_minor=made.net_minor,
            tax_minor=made.total_minor - made.net_minor,
            total_minor=made.total_minor,
            tax_breakdown=_breakdown(held, made),
            reduces_open_minor=made.reduces_open_minor,
            refundable_minor=made.refundable_minor,
            to_wallet_minor=made.to_wallet_minor,
        )
        CreditNoteLine.objects.bulk_create(
            CreditNoteLine(
                credit_note=note,
                invoice_line_id=UUID(line.id),
                position=position,
                net_minor=line.net_minor,
                tax_key=line.tax,
            )
            for position, line in enumerate(made.lines, 1)
        )
        held.credited_minor += made.reduces_open_minor
        if held.status in (Invoice.Status.OPEN, Invoice.Status.UNCOLLECTIBLE) and not held.balance_minor:
            held.status, held.paid_at = Invoice.Status.PAID, now
        held.save(update_fields=("credited_minor", "status", "paid_at", "updated_at"))
        wallet().deposit(note=note, amount_minor=made.to_wallet_minor, at=now)
        audit.record(
            principal=actor,
            action="invoice.credit",
            object_type="credit_note",
            object_id=note.pk,
            tenant=held.tenant,
            after={"number": note.number, "invoice": held.number, "total_minor": note.total_minor},
        )
    return note


def invoiced_lines(invoice: Invoice) -> list[InvoicedLine]:
    return [InvoicedLine(str(line.pk), line.net_minor, line.tax_key) for line in invoice.lines.all()]


def tax_rates_of(invoice: Invoice) -> dict[str, TaxRate]:
    """The rates that the document was issued with."""
    return {
        row["key"]: TaxRate(row["key"], row["category"], Decimal(row["percent"]))
        for row in invoice.tax_breakdown
    }


def notes_of(invoice: Invoice) -> Sequence[CreditNote]:
    """The invoice's credit notes, oldest first."""
    return list(invoice.credit_notes.prefetch_related("lines").order_by("finalized_at", "id"))


def credit_of(note: CreditNote) -> Credit:
    """A stored note as the arithmetic knows it."""
    return Credit(
        lines=tuple(
            InvoicedLine(str(line.invoice_line_id), line.net_minor, line.tax_key) for line in note.lines.all()
        ),
        taxes=tuple(
            Tax(
                TaxRate(row["key"], row["category"], Decimal(row["percent"])),
                row["taxable_minor"],
                row["amount_minor"],
            )
            for row in note.tax_breakdown
        ),
        reduces_open_minor=note.reduces_open_minor,
        refundable_minor=note.refundable_minor,
        to_wallet_minor=note.to_wallet_minor,
    )


def _breakdown(invoice: Invoice, made: Credit) -> list[dict[str, object]]:
    words = {row["key"]: row for row in invoice.tax_breakdown}
    return [
        {
            **words[tax.rate.key],
            "taxable_minor": tax.taxable_minor,
            "amount_minor": tax.amount_minor,
        }
        for tax in made.taxes
    ]
