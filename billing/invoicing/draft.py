"""Building and refreshing a draft: a document computed from the ledger and written down, still without number."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction

from billing.invoicing.compose import Composition, compose
from billing.invoicing.parties import locked_profile, snapshot
from billing.invoicing.period import Period, segments_of
from billing.models import Invoice, InvoiceDiscount, InvoiceLine
from billing.snapshot import fx_table
from tenants import audit
from tenants.errors import ApiError
from tenants.models import Tenant
from tenants.principal import Principal

SETTLING = timedelta(minutes=1)
"""Rows are stamped before they are committed: a watermark stays this far behind the clock, so that no row
can still turn up below it."""


@dataclass(frozen=True, slots=True)
class Drafted:
    """The draft as written. `unpriced` calls of the period are on no line."""

    invoice: Invoice
    unpriced: int


def draft(
    *,
    tenant: Tenant,
    period: Period,
    now: datetime,
    actor: Principal,
    currency: str | None = None,
    occasion: str = Invoice.Occasion.PERIOD,
) -> Drafted:
    """Build the draft of `period`, or refresh it with what the ledger knows by now.

    Raises ApiError conflict where the period has a document already that is not a draft, and as `compose`.
    """
    with transaction.atomic():
        profile = locked_profile(tenant)
        currency = currency or tenant.currency
        held = (
            Invoice.objects.for_tenant(tenant)
            .filter(period_start=period.start, occasion=occasion, currency=currency)
            .exclude(status=Invoice.Status.VOID)
            .select_for_update()
            .first()
        )
        if held is not None and held.is_final:
            raise ApiError("conflict", f"The period has been invoiced already: {held.number}.")
        made = compose(
            profile=profile,
            period=period,
            currency=currency,
            now=now,
            ledger_to=now - SETTLING,
            occasion=occasion,
            segments=segments_of(tenant),
            fx=fx_table(),
        )
        invoice = write(made, held)
        audit.record(
            principal=actor,
            action="invoice.draft",
            object_type="invoice",
            object_id=invoice.pk,
            tenant=tenant,
            after={"period_start": period.start.isoformat(), "total_minor": invoice.total_minor},
        )
    return Drafted(invoice, made.unpriced)


def write(made: Composition, held: Invoice | None) -> Invoice:
    """Put a composition down as a draft, in place of what `held` says. The caller holds the profile's lock."""
    invoice = held or Invoice(tenant=made.tenant, occasion=made.occasion, currency=made.currency)
    for name, value in fields_of(made).items():
        setattr(invoice, name, value)
    invoice.save()
    invoice.discounts.all().delete()
    invoice.lines.all().delete()
    InvoiceLine.objects.bulk_create(_lines(made, invoice))
    InvoiceDiscount.objects.bulk_create(
        InvoiceDiscount(
            invoice=invoice,
            tenant_coupon=each.tenant_coupon,
            position=position,
            description=each.description,
            amount_minor=each.amount_minor,
        )
        for position, each in enumerate(made.coupons, 1)
    )
    return invoice


def fields_of(made: Composition) -> Mapping[str, Any]:
    """The invoice's columns that a composition decides."""
    totals = made.totals
    return {
        "legal_entity": made.seller,
        "document": totals.document,
        "timezone": made.period.timezone,
        "period_start": made.period.start,
        "period_end": made.period.end,
        "subtotal_minor": totals.subtotal_minor,
        "discount_minor": totals.discount_total_minor,
        "promotional_minor": totals.promotional_applied_minor,
        "net_minor": totals.total_excluding_tax_minor,
        "tax_minor": totals.total_tax_minor,
        "total_minor": totals.total_minor,
        "prepaid_minor": totals.prepaid_applied_minor,
        "tax_breakdown": made.tax_breakdown(),
        "parties": snapshot(made.seller, made.profile),
        "rating_hash": made.rating_hash,
        "ledger_to": made.ledger_to,
    }


def _lines(made: Composition, invoice: Invoice) -> list[InvoiceLine]:
    return [
        InvoiceLine(
            invoice=invoice,
            position=position,
            kind=line.kind,
            plan_version=line.version,
            charge=line.charge,
            meter=line.meter,
            tier=line.tier,
            description=line.description,
            quantity=line.quantity,
            unit=line.unit,
            price=line.price,
            per=line.per,
            amount_minor=line.amount_minor,
            discount_minor=line.amount_minor - net,
            net_minor=net,
            tax_key=key,
            period_start=line.period_start,
            period_end=line.period_end,
            ledger_from=line.ledger_from,
            ledger_to=line.ledger_to,
            measured=line.measured,
        )
        for position, (line, net, key) in enumerate(
            zip(made.lines, made.totals.nets_minor, made.tax_keys, strict=True), 1
        )
    ]


def discard(*, invoice: Invoice, actor: Principal) -> None:
    """Take a draft away. Raises ApiError conflict for a document that has been issued."""
    with transaction.atomic():
        profile = locked_profile(invoice.tenant)
        held = Invoice.objects.select_for_update().get(pk=invoice.pk)
        if held.is_final:
            raise ApiError("conflict", f"{held.number} has been issued; it can be voided or credited.")
        audit.record(
            principal=actor,
            action="invoice.discard",
            object_type="invoice",
            object_id=held.pk,
            tenant=profile.tenant,
            before={"period_start": held.period_start.isoformat(), "total_minor": held.total_minor},
        )
        held.discounts.all().delete()
        held.lines.all().delete()
        held.delete()
