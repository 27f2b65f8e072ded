"""Taking an issued invoice back before anything was paid. It keeps its number and stays readable."""

from datetime import datetime

from django.db import transaction

from billing.invoicing.locks import locked
from billing.invoicing.wallet import wallet
from billing.models import Invoice
from tenants import audit
from tenants.errors import ApiError
from tenants.principal import Principal


def void(*, invoice: Invoice, reason: str, now: datetime, actor: Principal) -> Invoice:
    """Raises ApiError conflict unless it is open or uncollectible, unpaid, and without credit notes."""
    with transaction.atomic():
        held = locked(invoice)
        if held.status not in (Invoice.Status.OPEN, Invoice.Status.UNCOLLECTIBLE):
            raise ApiError("conflict", f"An invoice that is {held.status} cannot be voided.")
        if held.paid_minor or held.credit_notes.exists():
            raise ApiError("conflict", "Something was paid or credited already: issue a credit note instead.")
        before = held.status
        held.status, held.voided_at, held.status_reason = Invoice.Status.VOID, now, reason
        held.save(update_fields=("status", "voided_at", "status_reason", "updated_at"))
        wallet().give_back(invoice=held, at=now)
        audit.record(
            principal=actor,
            action="invoice.void",
            object_type="invoice",
            object_id=held.pk,
            tenant=held.tenant,
            before={"status": before},
            after={"status": held.status, "reason": reason},
        )
    return held
