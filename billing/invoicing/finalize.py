"""Issuing a draft: number, dates and parties frozen, wallet booked, period closed; all of it or nothing."""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from django.db import transaction

from billing.invoicing.compose import Composition, compose
from billing.invoicing.counter import take_number
from billing.invoicing.draft import fields_of
from billing.invoicing.parties import locked_profile, net_days_of
from billing.invoicing.period import Period, period_at, segments_of
from billing.invoicing.wallet import wallet
from billing.models import BillingProfile, ClosedPeriod, Invoice
from billing.snapshot import fx_table
from tenants import audit
from tenants.errors import ApiError
from tenants.principal import Principal

CHECKED = (
    "document", "subtotal_minor", "discount_minor", "promotional_minor", "net_minor", "tax_minor",
    "total_minor", "prepaid_minor", "tax_breakdown", "rating_hash",
)  # fmt: skip
"""What a recompute at the draft's own watermark must give again (I3, I4)."""


def finalize(*, invoice: Invoice, now: datetime, actor: Principal) -> Invoice:
    """Give the draft its number and make it owed, or paid where nothing is left to pay.

    Locks the buyer's profile, the invoice, then the counter, as everything here does. Raises ApiError
    conflict: no draft; the period is not over; a recompute at the draft's watermark differs (refresh it);
    nothing to invoice (R17).
    """
    with transaction.atomic():
        profile = locked_profile(invoice.tenant)
        held = Invoice.objects.select_for_update().select_related("tenant").get(pk=invoice.pk)
        if held.is_final:
            raise ApiError("conflict", f"The invoice {held.number} is {held.status} already.")
        if held.occasion == Invoice.Occasion.PERIOD and held.period_end > now:
            raise ApiError("conflict", "The period is not over yet.")
        made = recomposed(held, profile, now)
        _check(held, made)
        if held.document == Invoice.Document.NONE:
            raise ApiError("conflict", "There is nothing to invoice in this period.")
        seller = made.seller
        is_credit = held.document == Invoice.Document.CREDIT_NOTE
        held.number = take_number(
            seller=seller, series=seller.credit_series if is_credit else seller.series, at=now
        )
        held.parties = dict(fields_of(made)["parties"])
        held.issue_date = now.astimezone(ZoneInfo(seller.timezone)).date()
        held.due_date = held.issue_date + timedelta(days=net_days_of(seller, profile))
        held.finalized_at = now
        held.status = Invoice.Status.PAID if held.amount_due_minor == 0 else Invoice.Status.OPEN
        held.paid_at = now if held.status == Invoice.Status.PAID else None
        held.save()
        wallet().take(
            invoice=held,
            promotional_minor=held.promotional_minor,
            prepaid_minor=held.prepaid_minor,
            at=now,
        )
        if held.occasion == Invoice.Occasion.PERIOD:
            close(held, now)
        audit.record(
            principal=actor,
            action="invoice.finalize",
            object_type="invoice",
            object_id=held.pk,
            tenant=held.tenant,
            after={"number": held.number, "total_minor": held.total_minor, "currency": held.currency},
        )
    return held


def recomposed(held: Invoice, profile: BillingProfile, now: datetime) -> Composition:
    """The document computed again with the ledger as it stood for `held`."""
    segments = segments_of(held.tenant)
    period = period_at(segments, held.timezone, held.period_start)
    if period is None or (period.start, period.end) != (held.period_start, held.period_end):
        period = Period(held.period_start, held.period_end, held.period_start, held.period_end, held.timezone)
        if not held.is_final:
            raise ApiError("conflict", "The tenant's periods have moved since the draft: discard it.")
    return compose(
        profile=profile,
        period=period,
        currency=held.currency,
        now=now,
        ledger_to=held.ledger_to,
        occasion=held.occasion,
        segments=segments,
        fx=fx_table(),
    )


def _check(held: Invoice, made: Composition) -> None:
    """Raises ApiError conflict for a draft that does not say what its ledger says."""
    fresh = fields_of(made)
    moved = [name for name in CHECKED if getattr(held, name) != fresh[name]]
    nets = [line.net_minor for line in held.lines.all()]
    if nets != list(made.totals.nets_minor):
        moved.append("lines")
    if moved:
        raise ApiError(
            "conflict", f"The draft is out of date in {', '.join(moved)}: refresh it.", param=moved[0]
        )


def close(held: Invoice, now: datetime) -> None:
    """Note that the period is dealt with, by this document."""
    ClosedPeriod.objects.update_or_create(
        tenant=held.tenant,
        start=held.period_start,
        currency=held.currency,
        defaults={
            "end": held.period_end,
            "closed_at": now,
            "ledger_to": held.ledger_to,
            "invoice": held,
        },
    )
