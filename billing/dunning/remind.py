"""Reminding of overdue invoices: a row per step, due at its day and hour (R27), sent at least once under one id.

Must never remind of what is paid, void, written off or held back: the invoice is looked at again, locked, before
each message. No transaction is open while a message is sent.
"""

import logging
import smtplib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import urlsplit
from uuid import UUID

from django.conf import settings
from django.core.mail import EmailMultiAlternatives
from django.db import transaction
from django.db.models import Q
from django.template.loader import render_to_string

from billing.invoicing.document import day, money
from billing.invoicing.dunning import overdue_from, reminders
from billing.models import DunningHold, DunningReminder, DunningSchedule, Invoice
from tenants import audit
from tenants.errors import ApiError
from tenants.models import Membership
from tenants.principal import SYSTEM, Principal

logger = logging.getLogger(__name__)

LEASE: Final = timedelta(minutes=5)
RETRY: Final = (300, 1800, 7200, 21_600)
BATCH: Final = 100
_State = DunningReminder.State


@dataclass(frozen=True, slots=True)
class Message:
    """A reminder as it is sent."""

    reminder_id: UUID
    recipients: tuple[str, ...]
    subject: str
    text: str
    html: str


def is_overdue(invoice: Invoice, now: datetime) -> bool:
    """R27: from the local midnight after the due date, while something is open."""
    return (
        invoice.status == Invoice.Status.OPEN
        and invoice.due_date is not None
        and invoice.balance_minor > 0
        and overdue_from(invoice.due_date, invoice.timezone) <= now
    )


def plan(*, now: datetime) -> int:
    """Write down the steps of every open invoice whose seller reminds. Once each, however often it runs."""
    made = 0
    for schedule in DunningSchedule.objects.filter(is_enabled=True):
        if not schedule.days:
            continue
        rows = Invoice.objects.filter(
            legal_entity=schedule.legal_entity_id, status=Invoice.Status.OPEN, due_date__isnull=False
        ).exclude(reminders__day=schedule.days[-1])
        for invoice in rows.order_by("id").iterator(chunk_size=500):
            assert invoice.due_date is not None  # noqa: S101 - filtered above; for the type
            steps = reminders(
                invoice.due_date,
                invoice.timezone,
                local_time=schedule.local_time,
                schedule_days=schedule.days,
            )
            before = DunningReminder.objects.filter(invoice=invoice).count()
            DunningReminder.objects.bulk_create(
                (
                    DunningReminder(
                        invoice=invoice,
                        tenant_id=invoice.tenant_id,
                        day=step.day,
                        due_at=step.at,
                        next_at=step.at,
                    )
                    for step in steps
                ),
                ignore_conflicts=True,
            )
            made += DunningReminder.objects.filter(invoice=invoice).count() - before
    return made


def send_due(*, now: datetime) -> int:
    """Send what is due; of several steps of one invoice the last alone. Returns how many messages were tried."""
    due = DunningReminder.objects.filter(state=_State.PENDING, next_at__lte=now).order_by("next_at")
    sent = 0
    for reminder_id in list(due.values_list("pk", flat=True)[:BATCH]):
        message = _claim(reminder_id, now)
        if message is not None:
            failure = _deliver(message)
            _finish(message, failure, now)
            sent += 1
    return sent


def _claim(reminder_id: UUID, now: datetime) -> Message | None:
    """Lease a reminder that is to be sent now, or book why it is not."""
    with transaction.atomic():
        held = (
            DunningReminder.objects.select_for_update(of=("self",), skip_locked=True)
            .select_related("tenant")
            .filter(pk=reminder_id, state=_State.PENDING, next_at__lte=now)
            .first()
        )
        if held is None:
            return None
        invoice = (
            Invoice.objects.select_for_update(of=("self",))
            .select_related("legal_entity")
            .get(pk=held.invoice_id)
        )
        if invoice.status != Invoice.Status.OPEN or not invoice.balance_minor:
            _skip(held, f"The invoice is {invoice.status}.")
            return None
        hold = DunningHold.objects.filter(invoice=invoice).first()
        if hold is not None and hold.until is None:
            _skip(held, "Reminders were stopped.")
            return None
        if hold is not None and hold.until is not None and hold.until > now:
            held.next_at = hold.until
            held.save(update_fields=("next_at", "updated_at"))
            return None
        later = DunningReminder.objects.filter(
            invoice=invoice, state=_State.PENDING, due_at__lte=now, due_at__gt=held.due_at
        )
        if later.exists():
            _skip(held, "A later reminder is due as well.")
            return None
        recipients = recipients_of(invoice)
        if not recipients:
            held.state, held.detail = _State.FAILED, "Nobody's address is known."
            held.save(update_fields=("state", "detail", "updated_at"))
            logger.error("nobody can be reminded of %s", invoice.number)
            return None
        held.attempts += 1
        held.recipients = list(recipients)
        held.next_at = now + LEASE
        held.save(update_fields=("attempts", "recipients", "next_at", "updated_at"))
        return _compose(held, invoice, recipients, now)


def _skip(held: DunningReminder, words: str) -> None:
    held.state, held.detail = _State.SKIPPED, words
    held.save(update_fields=("state", "detail", "updated_at"))


def recipients_of(invoice: Invoice) -> tuple[str, ...]:
    """The buyer's own addresses for bills, else the tenant's owners and billing people."""
    profile = getattr(invoice.tenant, "billing_profile", None)
    if profile is not None and profile.emails:
        return tuple(profile.emails)
    roles = (Membership.Role.OWNER, Membership.Role.BILLING)
    people = Membership.objects.filter(tenant=invoice.tenant_id, role__in=roles, user__is_active=True)
    return tuple(people.order_by("user__email").values_list("user__email", flat=True))


def _compose(held: DunningReminder, invoice: Invoice, recipients: tuple[str, ...], now: datetime) -> Message:
    late = is_overdue(invoice, now)
    seller = invoice.parties["seller"]
    context = {
        "number": invoice.number,
        "seller": seller,
        "buyer": invoice.parties["buyer"],
        "is_overdue": late,
        "balance": money(invoice.balance_minor, invoice.currency),
        "facts": (
            ("Invoice", invoice.number),
            ("Issued", day(invoice.issue_date)),
            ("Due", day(invoice.due_date)),
            ("Total", money(invoice.total_minor, invoice.currency)),
            ("Still open", money(invoice.balance_minor, invoice.currency)),
        ),
        "payment": (("IBAN", seller["iban"]), ("BIC", seller["bic"]), ("Reference", invoice.number))
        if seller["iban"]
        else (),
        "href": f"{settings.PUBLIC_URL}/",
    }
    words = "is overdue" if late else "is due soon"
    return Message(
        reminder_id=held.pk,
        recipients=recipients,
        subject=f"{seller['name']}: invoice {invoice.number} {words}",
        text=render_to_string("emails/dunning_message.txt", context).strip() + "\n",
        html=render_to_string("emails/dunning_message.html", context),
    )


def _deliver(message: Message) -> str:
    """Why it could not be sent; empty when it was."""
    host = urlsplit(settings.PUBLIC_URL).hostname or "localhost"
    mail = EmailMultiAlternatives(
        message.subject,
        message.text,
        to=list(message.recipients),
        headers={"Message-ID": f"<{message.reminder_id}@{host}>"},
    )
    mail.attach_alternative(message.html, "text/html")
    try:
        mail.send()
    except (smtplib.SMTPException, OSError) as error:
        logger.warning("reminder %s cannot be sent: %s", message.reminder_id, type(error).__name__)
        return f"The mail could not be handed over ({type(error).__name__})."
    return ""


def _finish(message: Message, failure: str, now: datetime) -> None:
    with transaction.atomic():
        held = (
            DunningReminder.objects.select_for_update(of=("self",))
            .select_related("tenant", "invoice")
            .get(pk=message.reminder_id)
        )
        if held.state != _State.PENDING:
            return
        held.detail = failure
        if not failure:
            held.state, held.sent_at = _State.SENT, now
        elif held.attempts > len(RETRY):
            held.state = _State.FAILED
        else:
            held.next_at = now + timedelta(seconds=RETRY[held.attempts - 1])
        held.save(update_fields=("state", "detail", "sent_at", "next_at", "updated_at"))
        if held.state == _State.SENT:
            audit.record(
                principal=SYSTEM,
                action="invoice.remind",
                object_type="invoice",
                object_id=held.invoice_id,
                tenant=held.tenant,
                after={"number": held.invoice.number, "day": held.day, "recipients": len(held.recipients)},
            )


# ------------------------------------------------------------------ holding back


def hold(
    *, invoice: Invoice, until: datetime | None, reason: str, now: datetime, actor: Principal
) -> DunningHold:
    """Remind nobody of an invoice until then, or ever. Raises ApiError invalid_request for a time that is over."""
    if until is not None and until <= now:
        raise ApiError("invalid_request", "A pause must end in the future.", param="until")
    with transaction.atomic():
        held, _ = DunningHold.objects.update_or_create(
            invoice=invoice, defaults={"tenant": invoice.tenant, "until": until, "reason": reason}
        )
        audit.record(
            principal=actor,
            action="dunning.pause" if until else "dunning.stop",
            object_type="invoice",
            object_id=invoice.pk,
            tenant=invoice.tenant,
            after={"until": until.isoformat() if until else None, "reason": reason},
        )
    return held


def resume(*, invoice: Invoice, now: datetime, actor: Principal) -> None:
    """Remind again from now on; steps that were skipped stay so. Raises ApiError conflict where nothing held it."""
    with transaction.atomic():
        held = DunningHold.objects.select_for_update().filter(invoice=invoice).first()
        if held is None:
            raise ApiError("conflict", "Reminders of this invoice are not held back.")
        held.delete()
        DunningReminder.objects.filter(
            Q(invoice=invoice, state=_State.PENDING, due_at__lte=now, next_at__gt=now)
        ).update(next_at=now)
        audit.record(
            principal=actor,
            action="dunning.resume",
            object_type="invoice",
            object_id=invoice.pk,
            tenant=invoice.tenant,
        )
