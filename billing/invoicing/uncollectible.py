"""Writing an open invoice off. It stays owed, and may still be paid or credited."""

from datetime import datetime

from django.db import transaction

from billing.invoicing.locks import locked
from billing.models import Invoice
from tenants import audit
from tenants.errors import ApiError
from tenants.principal import Principal


def mark_uncollectible(*, invoice: Invoice, reason: str, now: datetime, actor: Principal) -> Invoice:
    """Raises ApiError conflict unless it is open."""
    with transaction.atomic():
        held = locked(invoice)
        if held.status != Invoice.Status.OPEN:
            raise ApiError("conflict", f"An invoice that is {held.status} cannot be written off.")
        held.status, held.status_reason = Invoice.Status.UNCOLLECTIBLE, reason
        held.save(update_fields=("status", "status_reason", "updated_at"))
        audit.record(
            principal=actor,
            action="invoice.write_off",
            object_type="invoice",
            object_id=held.pk,
            tenant=held.tenant,
            before={"status": Invoice.Status.OPEN},
            after={"status": held.status, "reason": reason},
        )
    return held
