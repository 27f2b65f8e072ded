"""Closing periods without a clerk: end, grace, draft, checks, finalization. Restartable at every point.

What is to be done stands in the rows: a step that was killed is found again, one that was done is not. One
tenant's trouble must never hold up the others.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.db import transaction

from billing.invoicing.compose import document_currencies, opening_segment
from billing.invoicing.draft import discard, draft
from billing.invoicing.finalize import close, finalize
from billing.invoicing.parties import locked_profile, profile_of, seller_of
from billing.invoicing.period import Period, Segment, period_at, periods_of, segments_of, within
from billing.models import ClosedPeriod, Invoice, LegalEntity
from billing.rating.lines import Unrateable
from tenants.errors import ApiError
from tenants.models import Tenant
from tenants.principal import SYSTEM

logger = logging.getLogger(__name__)

BACK = timedelta(days=400)
"""Periods that ended longer ago are left alone."""

FRESH = timedelta(days=3)
"""How long after its end a closed period is still asked for calls priced in another currency than its plans'."""


@dataclass(frozen=True, slots=True)
class Due:
    """A document that is to be made or issued now."""

    tenant_id: UUID
    period_start: datetime
    currency: str
    occasion: str


@dataclass(frozen=True, slots=True)
class Closed:
    """What became of a due document; both None: nothing to invoice (R17), or left to a clerk."""

    invoice_id: UUID | None = None
    is_final: bool = False


def due(*, now: datetime) -> Iterator[Due]:
    """Every document that is due, tenant by tenant. None without a default or own legal entity."""
    for tenant in Tenant.objects.order_by("id").iterator(chunk_size=500):
        try:
            seller = seller_of(profile_of(tenant))
        except ApiError:
            continue  # nobody to issue it: set up a legal entity first
        yield from due_of(tenant, seller, now=now)


def due_of(tenant: Tenant, seller: LegalEntity, *, now: datetime) -> Iterator[Due]:
    """The tenant's due documents, oldest period first, the opening one last."""
    segments = segments_of(tenant)
    grace = timedelta(hours=seller.grace_hours)
    begin = max(seller.bills_from, now - BACK)
    closed = set(
        ClosedPeriod.objects.for_tenant(tenant).filter(end__gt=begin).values_list("start", "currency")
    )
    documents = {
        (start, currency, occasion): status
        for start, currency, occasion, status in Invoice.objects.for_tenant(tenant)
        .filter(period_end__gt=begin)
        .order_by("created_at")
        .values_list("period_start", "currency", "occasion", "status")
    }
    for period in periods_of(segments, tenant.timezone, until=now):
        if period.end <= begin or period.end + grace > now:
            continue
        for currency in _currencies(tenant, period, segments, closed, now):
            status = documents.get((period.start, currency, Invoice.Occasion.PERIOD))
            is_waiting = status == Invoice.Status.DRAFT and seller.auto_finalize
            if (period.start, currency) not in closed and (status is None or is_waiting):
                yield Due(tenant.pk, period.start, currency, Invoice.Occasion.PERIOD)
    opening = _opening(tenant, segments, now)
    if opening is not None:
        period, segment = opening
        status = documents.get((period.start, segment.version.currency, Invoice.Occasion.OPENING))
        if status is None or (status == Invoice.Status.DRAFT and seller.auto_finalize):
            yield Due(tenant.pk, period.start, segment.version.currency, Invoice.Occasion.OPENING)


def _currencies(
    tenant: Tenant,
    period: Period,
    segments: tuple[Segment, ...],
    closed: set[tuple[datetime, str]],
    now: datetime,
) -> set[str]:
    """The period's currencies; of one closed a while ago those of its plans, without asking the ledger."""
    planned = {part.version.currency for part in within(segments, period.start, period.end)}
    if period.end + FRESH < now and {(period.start, currency) for currency in planned} <= closed:
        return planned
    return set(document_currencies(tenant, period, segments))


def _opening(tenant: Tenant, segments: tuple[Segment, ...], now: datetime) -> tuple[Period, Segment] | None:
    """The running period's first amount in advance, once it is owed and no other document has charged it."""
    period = period_at(segments, tenant.timezone, now)
    segment = opening_segment(period, segments) if period is not None else None
    if period is None or segment is None or segment.paid_from > now:
        return None
    return None if is_charged(tenant, period, segment) else (period, segment)


def is_charged(tenant: Tenant, period: Period, segment: Segment) -> bool:
    """Whether another period's document has charged this cycle's amount in advance."""
    return (
        Invoice.objects.for_tenant(tenant)
        .exclude(status=Invoice.Status.VOID)
        .filter(
            occasion=Invoice.Occasion.PERIOD,
            period_end__lte=period.start,
            lines__kind="base",
            lines__period_end=period.cycle_end,
            lines__plan_version=segment.version,
        )
        .exists()
    )


def close_one(*, wanted: Due, now: datetime) -> Closed:
    """Draft the document, and issue it where the seller wants that and every call has its price.

    Two transactions, each whole: the draft, then its finalization. A document that exists already is left as
    it is. Raises ApiError and Unrateable as `draft` and `finalize`.
    """
    tenant = Tenant.objects.get(pk=wanted.tenant_id)
    period = period_at(segments_of(tenant), tenant.timezone, wanted.period_start)
    if period is None:
        return Closed()
    made = draft(
        tenant=tenant,
        period=period,
        now=now,
        actor=SYSTEM,
        currency=wanted.currency,
        occasion=wanted.occasion,
    )
    invoice = made.invoice
    if invoice.document == Invoice.Document.NONE:
        _close_without(invoice, now)
        return Closed()
    if not invoice.legal_entity.auto_finalize:
        return Closed(invoice.pk)
    if made.unpriced:
        logger.error("%s has %s unpriced calls: its invoice waits for a clerk", tenant, made.unpriced)
        return Closed(invoice.pk)
    if invoice.document == Invoice.Document.CREDIT_NOTE:
        logger.warning("%s gets money back: its credit note waits for a clerk", tenant)
        return Closed(invoice.pk)
    return Closed(finalize(invoice=invoice, now=now, actor=SYSTEM).pk, is_final=True)


def _close_without(invoice: Invoice, now: datetime) -> None:
    """R17: note that the period is over, and drop its empty draft."""
    with transaction.atomic():
        locked_profile(invoice.tenant)
        if invoice.occasion == Invoice.Occasion.PERIOD:
            close(invoice, now)
            ClosedPeriod.objects.for_tenant(invoice.tenant).filter(invoice=invoice).update(invoice=None)
        discard(invoice=invoice, actor=SYSTEM)


def _is_issued(wanted: Due) -> bool:
    return (
        Invoice.objects.standing()
        .filter(
            tenant=wanted.tenant_id,
            period_start=wanted.period_start,
            currency=wanted.currency,
            occasion=wanted.occasion,
        )
        .exists()
    )


def close_due(*, now: datetime, limit: int | None = None) -> tuple[int, int]:
    """Work through what is due; how many documents were issued or drafted, and how many failed.

    A tenant's failure is logged as an error and tried again at the next run.
    """
    done = failed = 0
    for number, wanted in enumerate(due(now=now)):
        if limit is not None and number >= limit:
            break
        try:
            close_one(wanted=wanted, now=now)
        except (ApiError, Unrateable) as error:
            if _is_issued(wanted):
                continue  # by a run beside this one
            logger.error(
                "period %s of tenant %s is not closed: %s", wanted.period_start, wanted.tenant_id, error
            )
            failed += 1
        else:
            done += 1
    return done, failed
