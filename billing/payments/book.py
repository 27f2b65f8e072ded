"""The life of a payment: asked for, started at its provider, settled once, refunded.

Rows that are due carry the work: no transaction is open while a provider is asked, and every call to one may be
repeated under the payment's own key. Locks the payment, then the buyer's profile, the invoice, the wallet.
"""

import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID
from zoneinfo import ZoneInfo

from django.conf import settings
from django.db import transaction
from django.db.models import Sum

from billing.invoicing.locks import locked
from billing.invoicing.mark_paid import PAYABLE, mark_paid
from billing.models import CreditGrant, Invoice, Payment, PaymentCustomer, PaymentEvent, Refund, Wallet
from billing.payments.interface import Charge, Found, Heard, ProviderError, ProviderRefusedError, Returned
from billing.payments.manual import NAME as MANUAL
from billing.payments.providers import default_name, provider
from billing.rating.money import minor_text, minor_to_pico
from billing.wallets import book as wallets
from billing.wallets.drawdown import cap_month
from billing.wallets.drawdown import top_up as top_up_due
from billing.wallets.prepaid import spendable_pico
from tenants import audit
from tenants.errors import ApiError
from tenants.models import Tenant
from tenants.principal import SYSTEM, Principal

logger = logging.getLogger(__name__)

RETRY: Final = (60, 300, 1800, 7200, 21_600, 86_400)
"""Seconds until a provider that could not be asked is asked again; after the last one the payment fails."""

LOOK_AGAIN: Final = timedelta(minutes=15)
LEASE: Final = timedelta(minutes=2)
_Status = Payment.Status


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of a payment. `is_new`: this call made the difference."""

    payment: Payment
    is_new: bool


# ------------------------------------------------------------------ asking for money


def ask_for_invoice(*, invoice: Invoice, key: str, now: datetime, actor: Principal) -> Payment:
    """A payment of all that is open. Raises ApiError conflict for an invoice that is not owed, or asked for."""
    with transaction.atomic():
        held = locked(invoice)
        if held.status not in PAYABLE or not held.balance_minor:
            raise ApiError("conflict", f"An invoice that is {held.status} cannot be paid.")
        if Payment.objects.filter(invoice=held, status__in=(_Status.WAITING, _Status.PENDING)).exists():
            raise ApiError("conflict", "A payment of this invoice is under way.")
        return _ask(
            actor,
            tenant=held.tenant,
            purpose=Payment.Purpose.INVOICE,
            invoice=held,
            amount_minor=held.balance_minor,
            currency=held.currency,
            idempotency_key=key,
            next_at=now,
        )


def ask_for_top_up(
    *, tenant: Tenant, currency: str, amount_minor: int, key: str, now: datetime, actor: Principal
) -> Payment:
    """A payment into the wallet. Raises ApiError invalid_request for an amount that is none."""
    if amount_minor <= 0:
        raise ApiError("invalid_request", "A top-up needs an amount above zero.", param="amount")
    with transaction.atomic():
        return _ask(
            actor,
            tenant=tenant,
            purpose=Payment.Purpose.TOP_UP,
            wallet=wallets.locked_wallet(tenant, currency),
            amount_minor=amount_minor,
            currency=currency,
            idempotency_key=key,
            next_at=now,
        )


def ask_for_due_top_ups(*, now: datetime) -> int:
    """R14: every wallet below its threshold asks for its amount, once at a time and within its monthly cap."""
    asked = 0
    rows = Wallet.objects.filter(top_up_below_minor__isnull=False).select_related("tenant").order_by("id")
    for row in rows:
        with transaction.atomic():
            wallet = wallets.locked_wallet(row.tenant, row.currency)
            below, amount = wallet.top_up_below_pico, wallet.top_up_amount_minor
            open_ones = wallet.payments.filter(
                is_automatic=True, status__in=(_Status.WAITING, _Status.PENDING)
            )
            if below is None or amount is None or open_ones.exists():
                continue
            cap = wallet.top_up_monthly_cap_minor
            made = top_up_due(
                balance_pico=spendable_pico(wallet, now),
                threshold_pico=below,
                amount_pico=amount,
                monthly_cap_pico=cap,
                added_this_month_pico=_topped_up_minor(wallet, now),
            )
            if made is None or made.amount_pico is None or _failed_lately(wallet, now):
                continue
            _ask(
                SYSTEM,
                tenant=wallet.tenant,
                purpose=Payment.Purpose.TOP_UP,
                wallet=wallet,
                amount_minor=amount,
                currency=wallet.currency,
                idempotency_key=f"top-up-{wallet.pk}-{now.timestamp():.0f}",
                is_automatic=True,
                next_at=now,
            )
            asked += 1
    return asked


def _topped_up_minor(wallet: Wallet, now: datetime) -> int:
    """What this month's automatic top-ups come to, by the tenant's calendar; the cap is in minor units too."""
    year, month = cap_month(now, wallet.tenant.timezone)
    start = datetime(year, month, 1, tzinfo=ZoneInfo(wallet.tenant.timezone)).astimezone(UTC)
    rows = wallet.payments.filter(is_automatic=True, created_at__gte=start).exclude(status=_Status.FAILED)
    return rows.aggregate(sum=Sum("amount_minor"))["sum"] or 0


def _failed_lately(wallet: Wallet, now: datetime) -> bool:
    """A declined card is not asked every minute."""
    return wallet.payments.filter(
        is_automatic=True, status=_Status.FAILED, updated_at__gt=now - timedelta(days=1)
    ).exists()


def _ask(actor: Principal, **fields: object) -> Payment:
    if Payment.objects.filter(idempotency_key=fields["idempotency_key"]).exists():
        raise ApiError("conflict", "There is a payment under this key already.", param="Idempotency-Key")
    made = Payment.objects.create(provider=default_name(), **fields)
    _audit(actor, "payment.ask", made)
    return made


# ------------------------------------------------------------------ at the provider


def start_due(*, now: datetime) -> int:
    """Ask providers for what waits, and what became of what was asked for. Returns how many were seen to."""
    rows = Payment.objects.filter(status__in=(_Status.WAITING, _Status.PENDING), next_at__lte=now).order_by(
        "next_at"
    )
    seen = 0
    for payment_id in list(rows.values_list("pk", flat=True)[:200]):
        payment = _lease(payment_id, now)
        if payment is None:
            continue
        seen += 1
        try:
            if payment.provider_ref is None:
                found = provider(payment.provider).create_payment(_charge_of(payment))
            else:
                found = provider(payment.provider).look_up(payment.provider_ref)
        except (ProviderError, ApiError) as error:
            _put_off(payment, str(error), now)
        except ProviderRefusedError as error:
            _fail(payment, str(error))
        else:
            settle(payment=payment, found=found, now=now, actor=SYSTEM)
    return seen


def _lease(payment_id: UUID, now: datetime) -> Payment | None:
    with transaction.atomic():
        held = (
            Payment.objects.select_for_update(of=("self",), skip_locked=True)
            .select_related("tenant", "invoice")
            .filter(pk=payment_id, status__in=(_Status.WAITING, _Status.PENDING), next_at__lte=now)
            .first()
        )
        if held is not None:
            held.next_at = now + LEASE
            held.save(update_fields=("next_at", "updated_at"))
    return held


def _charge_of(payment: Payment) -> Charge:
    customer = PaymentCustomer.objects.filter(tenant=payment.tenant, provider=payment.provider).first()
    profile = getattr(payment.tenant, "billing_profile", None)
    emails = profile.emails if profile is not None else []
    return Charge(
        key=payment.idempotency_key,
        amount_minor=payment.amount_minor,
        currency=payment.currency,
        description=f"Invoice {payment.invoice.number}" if payment.invoice else "Wallet top-up",
        email=emails[0] if emails else "",
        customer_ref=customer.customer_ref if customer else "",
        method_ref=customer.method_ref if customer and payment.is_automatic else "",
        return_url=f"{settings.PUBLIC_URL}/",
    )


def _put_off(payment: Payment, words: str, now: datetime) -> None:
    logger.warning("payment %s waits: %s", payment.pk, words)
    with transaction.atomic():
        held = Payment.objects.select_for_update(of=("self",)).get(pk=payment.pk)
        held.attempts += 1
        held.failure = words[:300]
        is_over = held.provider_ref is None and held.attempts >= len(RETRY)
        held.next_at = now + timedelta(seconds=RETRY[min(held.attempts, len(RETRY)) - 1])
        if is_over:
            held.status, held.next_at = _Status.FAILED, None
        held.save(update_fields=("attempts", "failure", "next_at", "status", "updated_at"))
        if is_over:
            _audit(SYSTEM, "payment.fail", held)


def _fail(payment: Payment, words: str) -> None:
    with transaction.atomic():
        held = Payment.objects.select_for_update(of=("self",)).select_related("tenant").get(pk=payment.pk)
        if held.status in (_Status.WAITING, _Status.PENDING):
            held.status, held.failure, held.next_at = _Status.FAILED, words[:300], None
            held.save(update_fields=("status", "failure", "next_at", "updated_at"))
            _audit(SYSTEM, "payment.fail", held)


def settle(
    *, payment: Payment, found: Found, now: datetime, actor: Principal, heard: Heard | None = None
) -> Settled:
    """Book what the provider itself said. Money is credited once, whoever says so, and however often.

    An amount or currency other than the one asked for credits nothing, and is an error in the log.
    """
    with transaction.atomic():
        held = (
            Payment.objects.select_for_update(of=("self",))
            .select_related("tenant", "invoice", "wallet")
            .get(pk=payment.pk)
        )
        if heard is not None and not _note(held, heard, now):
            return Settled(held, is_new=False)
        if held.status not in (_Status.WAITING, _Status.PENDING):
            return Settled(held, is_new=False)
        held.provider_ref = held.provider_ref or found.ref
        held.charge_ref = found.charge_ref or held.charge_ref
        held.checkout_url = found.url or held.checkout_url
        if (found.amount_minor, found.currency) != (held.amount_minor, held.currency):
            logger.error("payment %s is of another amount at %s", held.pk, held.provider)
            told = minor_text(found.amount_minor, found.currency)
            held.failure = f"{held.provider} has it as {told} {found.currency}."
            held.status = _Status.PENDING
            held.next_at = None  # for people to look at
        elif found.outcome == "succeeded":
            _book(held, now, actor)
        elif found.outcome == "failed":
            held.status, held.failure, held.next_at = _Status.FAILED, found.failure[:300], None
        else:
            held.status, held.attempts = _Status.PENDING, 0
            held.next_at = None if held.provider == MANUAL else now + LOOK_AGAIN
        held.save()
        if found.customer_ref and found.outcome == "succeeded":
            _know(held, found)
        if held.status in (_Status.SUCCEEDED, _Status.FAILED):
            _audit(actor, "payment.succeed" if held.status == _Status.SUCCEEDED else "payment.fail", held)
    return Settled(held, is_new=True)


def record_manual(
    *,
    invoice: Invoice,
    reference: str,
    key: str,
    now: datetime,
    actor: Principal,
    amount_minor: int | None = None,
) -> Payment:
    """Book money that has arrived for an invoice, all that is open unless an amount is given.

    Raises ApiError: conflict for an invoice that is not owed or a key in use, invalid_request for the amount.
    """
    with transaction.atomic():
        if Payment.objects.filter(idempotency_key=key).exists():
            raise ApiError("conflict", "There is a payment under this key already.", param="Idempotency-Key")
        held = locked(invoice)
        amount = held.balance_minor if amount_minor is None else amount_minor
        paid = mark_paid(invoice=held, reference=reference, now=now, actor=actor, amount_minor=amount)
        made = Payment.objects.create(
            tenant=held.tenant,
            provider=MANUAL,
            purpose=Payment.Purpose.INVOICE,
            invoice=paid,
            status=_Status.SUCCEEDED,
            amount_minor=amount,
            currency=held.currency,
            idempotency_key=key,
            reference=reference,
            paid_at=now,
            invoice_minor=amount,
        )
        _audit(actor, "payment.record", made)
    return made


def confirm_manual(*, payment: Payment, reference: str, now: datetime, actor: Principal) -> Payment:
    """The transfer that a payment waits for has arrived. Raises ApiError conflict for any other payment."""
    with transaction.atomic():
        held = Payment.objects.select_for_update(of=("self",)).get(pk=payment.pk)
        if held.provider != MANUAL or held.status not in (_Status.WAITING, _Status.PENDING):
            raise ApiError(
                "conflict", f"A {held.provider} payment that is {held.status} cannot be confirmed."
            )
        held.reference = reference
        held.save(update_fields=("reference", "updated_at"))
        found = Found(
            held.provider_ref or held.idempotency_key, "succeeded", held.amount_minor, held.currency
        )
        return settle(payment=held, found=found, now=now, actor=actor).payment


def _book(held: Payment, now: datetime, actor: Principal) -> None:
    """To the invoice what it still owes, the rest into the wallet. The invoice is locked before the wallet."""
    reference = (held.reference or held.provider_ref or "")[:200]
    invoice = locked(held.invoice) if held.invoice else None
    to_invoice = 0
    if invoice is not None and invoice.status in PAYABLE:
        to_invoice = min(held.amount_minor, invoice.balance_minor)
    if held.amount_minor > to_invoice:
        held.grant = wallets.grant(
            tenant=held.tenant,
            currency=held.currency,
            amount_pico=minor_to_pico(held.amount_minor - to_invoice, held.currency),
            category="paid",
            at=now,
            actor=actor,
            name="Top-up" if invoice is None else f"Paid beyond {invoice.number}",
            source=CreditGrant.Source.TOP_UP if invoice is None else CreditGrant.Source.PAYMENT,
        )
    if invoice is not None and to_invoice:
        mark_paid(invoice=invoice, reference=reference, now=now, actor=actor, amount_minor=to_invoice)
    held.status, held.paid_at, held.next_at, held.failure = _Status.SUCCEEDED, now, None, ""
    held.invoice_minor = to_invoice


def _know(held: Payment, found: Found) -> None:
    """Remember the customer and the saved card, for top-ups that nobody is there for."""
    PaymentCustomer.objects.update_or_create(
        tenant=held.tenant,
        provider=held.provider,
        defaults={"customer_ref": found.customer_ref}
        | ({"method_ref": found.method_ref} if found.method_ref else {}),
    )


def _audit(actor: Principal, action: str, payment: Payment) -> None:
    audit.record(
        principal=actor,
        action=action,
        object_type="payment",
        object_id=payment.pk,
        tenant=payment.tenant,
        after={
            "amount": minor_text(payment.amount_minor, payment.currency),
            "currency": payment.currency,
            "purpose": payment.purpose,
            "provider": payment.provider,
            "status": payment.status,
            "failure": payment.failure,
        },
    )


# ------------------------------------------------------------------ messages


def _note(payment: Payment | None, heard: Heard, now: datetime) -> bool:
    """Whether the message is new. Inside the transaction of what follows from it."""
    name = payment.provider if payment is not None else default_name()
    made = PaymentEvent(
        provider=name, event_id=heard.event_id, kind=heard.kind, received_at=now, payment=payment
    )
    if PaymentEvent.objects.filter(provider=name, event_id=heard.event_id).exists():
        return False
    PaymentEvent.objects.bulk_create([made], ignore_conflicts=True)
    return PaymentEvent.objects.filter(pk=made.pk).exists()


def hear(*, name: str, heard: Heard, now: datetime) -> Settled | None:
    """Act on a believed message: look the payment up at the provider, and book what that says.

    None for a message about nothing of ours, or one heard before. Raises ProviderError when the provider cannot
    be asked: it will say it again.
    """
    if PaymentEvent.objects.filter(provider=name, event_id=heard.event_id).exists():
        return None
    refund = (
        Refund.objects.filter(provider_ref=heard.ref, payment__provider=name).first() if heard.ref else None
    )
    if refund is not None:
        returned = provider(name).look_up_refund(heard.ref)
        with transaction.atomic():
            if _note(refund.payment, heard, now):
                finish_refund(refund=refund, returned=returned, now=now)
        return None
    payment = Payment.objects.filter(provider=name, provider_ref=heard.ref).first() if heard.ref else None
    if payment is None and heard.ref:
        payment = Payment.objects.filter(provider=name, charge_ref=heard.ref).first()
    if payment is None or payment.provider_ref is None:
        with transaction.atomic():
            _note(None, heard, now)
        return None
    try:
        found = provider(name).look_up(payment.provider_ref)
    except ProviderRefusedError as error:
        raise ProviderError(str(error)) from error
    return settle(payment=payment, found=found, now=now, actor=SYSTEM, heard=heard)


# ------------------------------------------------------------------ money back


def refund(
    *,
    payment: Payment,
    amount_minor: int,
    destination: str,
    reason: str,
    key: str,
    now: datetime,
    actor: Principal,
    reference: str = "",
) -> Refund:
    """Give back a part of a payment: of an invoice what its credit notes made refundable, of a top-up what is
    left of its credit. Into the wallet it is there at once.

    Raises ApiError: conflict for a payment that has not succeeded, a key in use, or more than there is to give
    back; invalid_request for an amount or destination that is none.
    """
    if amount_minor <= 0:
        raise ApiError("invalid_request", "A refund needs an amount above zero.", param="amount")
    with transaction.atomic():
        held = (
            Payment.objects.select_for_update(of=("self",))
            .select_related("tenant", "invoice", "grant__wallet", "grant__tenant")
            .get(pk=payment.pk)
        )
        if Refund.objects.filter(idempotency_key=key).exists():
            raise ApiError("conflict", "There is a refund under this key already.", param="Idempotency-Key")
        if held.status != _Status.SUCCEEDED:
            raise ApiError("conflict", f"A payment that is {held.status} cannot be refunded.")
        if amount_minor > held.amount_minor - held.refunded_minor:
            raise ApiError("conflict", "That is more than is left of the payment.", param="amount")
        to_wallet = destination == Refund.Destination.WALLET
        if held.invoice is not None:
            _check_refundable(held, amount_minor)
        elif to_wallet:
            raise ApiError("invalid_request", "A top-up is in the wallet already.", param="destination")
        elif held.grant is not None:
            wallets.take_from_grant(
                held=held.grant, amount_pico=minor_to_pico(amount_minor, held.currency), at=now
            )
        if to_wallet:
            wallets.grant(
                tenant=held.tenant,
                currency=held.currency,
                amount_pico=minor_to_pico(amount_minor, held.currency),
                category="paid",
                at=now,
                actor=actor,
                name=reason,
                source=CreditGrant.Source.RETURNED,
            )
        held.refunded_minor += amount_minor
        held.save(update_fields=("refunded_minor", "updated_at"))
        is_done = to_wallet or held.provider == MANUAL
        made = Refund.objects.create(
            payment=held,
            tenant=held.tenant,
            destination=destination,
            status=Refund.Status.SUCCEEDED if is_done else Refund.Status.WAITING,
            amount_minor=amount_minor,
            reason=reason,
            reference=reference,
            idempotency_key=key,
            next_at=None if is_done else now,
        )
        audit.record(
            principal=actor,
            action="payment.refund",
            object_type="refund",
            object_id=made.pk,
            tenant=held.tenant,
            after={"amount": minor_text(amount_minor, held.currency), "currency": held.currency,
                   "destination": destination, "reason": reason, "payment": str(held.pk)},
        )  # fmt: skip
    return made


def refund_to_wallet(
    *, payment: Payment, amount_minor: int, reason: str, key: str, now: datetime, actor: Principal
) -> Refund:
    """`refund` into the wallet."""
    return refund(
        payment=payment,
        amount_minor=amount_minor,
        destination=Refund.Destination.WALLET,
        reason=reason,
        key=key,
        now=now,
        actor=actor,
    )


def _check_refundable(held: Payment, amount_minor: int) -> None:
    """Only a credit note makes money refundable; all payments of an invoice share what its notes free."""
    invoice = locked(held.invoice) if held.invoice else None
    if invoice is None:
        return
    freed = invoice.credit_notes.aggregate(sum=Sum("refundable_minor"))["sum"] or 0
    given = Payment.objects.filter(invoice=invoice).aggregate(sum=Sum("refunded_minor"))["sum"] or 0
    if amount_minor > freed - given:
        left = minor_text(freed - given, held.currency)
        raise ApiError("conflict", f"Credit notes leave {left} {held.currency} to refund.", param="amount")


def refund_due(*, now: datetime) -> int:
    """Ask providers for the refunds that wait, and what became of those asked for. Returns how many."""
    open_ones = (Refund.Status.WAITING, Refund.Status.PENDING)
    rows = Refund.objects.filter(status__in=open_ones, next_at__lte=now).order_by("next_at")
    seen = 0
    for pk in list(rows.values_list("pk", flat=True)[:200]):
        with transaction.atomic():
            held = (
                Refund.objects.select_for_update(of=("self",), skip_locked=True)
                .select_related("payment")
                .filter(pk=pk, status__in=open_ones, next_at__lte=now)
                .first()
            )
            if held is None:
                continue
            held.next_at = now + LEASE
            held.save(update_fields=("next_at", "updated_at"))
        seen += 1
        of = held.payment
        try:
            if held.provider_ref is None:
                returned = provider(of.provider).refund(
                    charge_ref=of.charge_ref,
                    amount_minor=held.amount_minor,
                    currency=of.currency,
                    key=held.idempotency_key,
                )
            else:
                returned = provider(of.provider).look_up_refund(held.provider_ref)
        except ProviderRefusedError as error:
            returned = Returned(held.provider_ref or "", "failed", str(error))
        except (ProviderError, ApiError) as error:
            logger.warning("refund %s waits: %s", held.pk, error)
            held.attempts += 1
            held.failure = str(error)[:300]
            held.next_at = now + timedelta(seconds=RETRY[min(held.attempts, len(RETRY)) - 1])
            held.save(update_fields=("attempts", "failure", "next_at", "updated_at"))
            continue
        finish_refund(refund=held, returned=returned, now=now)
    return seen


def finish_refund(*, refund: Refund, returned: Returned, now: datetime) -> Refund:
    """Book what the provider said. A refund that failed gives the payment back what it had taken."""
    with transaction.atomic():
        payment = (
            Payment.objects.select_for_update(of=("self",)).select_related("tenant").get(pk=refund.payment_id)
        )
        held = Refund.objects.select_for_update(of=("self",)).get(pk=refund.pk)
        if held.status not in (Refund.Status.WAITING, Refund.Status.PENDING):
            return held
        held.provider_ref = held.provider_ref or returned.ref or None
        held.status, held.failure = Refund.Status(returned.outcome), returned.failure[:300]
        held.next_at = now + LOOK_AGAIN if returned.outcome == "pending" else None
        held.save()
        if returned.outcome == "failed":
            payment.refunded_minor -= held.amount_minor
            payment.save(update_fields=("refunded_minor", "updated_at"))
            if payment.purpose == Payment.Purpose.TOP_UP:
                wallets.grant(
                    tenant=payment.tenant,
                    currency=payment.currency,
                    amount_pico=minor_to_pico(held.amount_minor, payment.currency),
                    category="paid",
                    at=now,
                    actor=SYSTEM,
                    name="A refund that failed",
                    source=CreditGrant.Source.RETURNED,
                )
        if held.status != Refund.Status.PENDING:
            audit.record(
                principal=SYSTEM,
                action=f"refund.{held.status}",
                object_type="refund",
                object_id=held.pk,
                tenant=payment.tenant,
                after={"failure": held.failure, "amount": minor_text(held.amount_minor, payment.currency)},
            )
    return held
