"""Booking a payment that arrived by other ways than ours, with the reference it came under."""

from datetime import datetime

from django.db import transaction

from billing.invoicing.locks import locked
from billing.models import Invoice
from tenants import audit
from tenants.errors import ApiError
from tenants.principal import Principal

PAYABLE = (Invoice.Status.OPEN, Invoice.Status.UNCOLLECTIBLE)


def mark_paid(
    *,
    invoice: Invoice,
    reference: str,
    now: datetime,
    actor: Principal,
    amount_minor: int | None = None,
    paid_at: datetime | None = None,
) -> Invoice:
    """Book `amount_minor` (all that is open unless given); the invoice is paid once nothing is left.

    Raises ApiError: conflict for an invoice that is not owed; invalid_request for an amount that is not
    between 1 and the balance.
    """
    with transaction.atomic():
        held = locked(invoice)
        if held.status not in PAYABLE:
            raise ApiError("conflict", f"An invoice that is {held.status} cannot be paid.")
        amount = held.balance_minor if amount_minor is None else amount_minor
        if not 0 < amount <= held.balance_minor:
            raise ApiError(
                "invalid_request",
                f"The payment must lie between 1 and the {held.balance_minor} minor units that are open.",
                param="amount",
            )
        before = {"status": held.status, "paid_minor": held.paid_minor}
        held.paid_minor += amount
        held.payment_reference = reference
        if not held.balance_minor:
            held.status, held.paid_at = Invoice.Status.PAID, paid_at or now
        held.save(update_fields=("paid_minor", "payment_reference", "status", "paid_at", "updated_at"))
        audit.record(
            principal=actor,
            action="invoice.pay",
            object_type="invoice",
            object_id=held.pk,
            tenant=held.tenant,
            before=before,
            after={"status": held.status, "paid_minor": held.paid_minor, "reference": reference},
        )
    return held
