"""The one order of locks for documents: the buyer's profile, the invoice, the counter."""

from billing.invoicing.parties import locked_profile
from billing.models import Invoice


def locked(invoice: Invoice) -> Invoice:
    """The invoice as it is now, locked until the caller's transaction ends."""
    locked_profile(invoice.tenant)
    return (
        Invoice.objects.select_for_update(of=("self",))
        .select_related("tenant", "legal_entity")
        .get(pk=invoice.pk)
    )
