"""Money that comes in and goes back: payments, refunds, what providers told us, and customers over there.

Amounts are integers in the currency's minor unit. A payment's idempotency key is what makes it happen once,
here and at its provider.
"""

from django.db import models
from django.db.models import F, Q

from billing.models.invoices import CreditNote, Invoice
from billing.models.wallets import CreditGrant, Wallet
from tenants.ids import uuid7
from tenants.models import OwnedQuerySet, Stamped, Tenant


class PaymentCustomer(Stamped):
    """A tenant as a payment provider knows it. `method_ref`: what may be charged without the customer there."""

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="payment_customers")
    provider = models.CharField(max_length=16)
    customer_ref = models.CharField(max_length=200)
    method_ref = models.CharField(max_length=200, blank=True)

    objects = OwnedQuerySet["PaymentCustomer"].as_manager()

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(fields=("tenant", "provider"), name="customer_once_per_provider"),
            models.UniqueConstraint(fields=("provider", "customer_ref"), name="customer_of_one_tenant"),
        )

    def __str__(self) -> str:
        return f"{self.tenant} at {self.provider}"


class Payment(Stamped):
    """Money for an invoice, or for the wallet. What exceeds the invoice's balance goes into the wallet.

    `waiting`: not yet asked for at the provider; `pending`: asked for, under `provider_ref`.
    """

    class Purpose(models.TextChoices):
        INVOICE = "invoice"
        TOP_UP = "top_up"

    class Status(models.TextChoices):
        WAITING = "waiting"
        PENDING = "pending"
        SUCCEEDED = "succeeded"
        FAILED = "failed"

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="payments")
    provider = models.CharField(max_length=16)
    purpose = models.CharField(max_length=8, choices=Purpose)
    invoice = models.ForeignKey(
        Invoice, on_delete=models.PROTECT, null=True, blank=True, related_name="payments"
    )
    wallet = models.ForeignKey(
        Wallet, on_delete=models.PROTECT, null=True, blank=True, related_name="payments"
    )
    status = models.CharField(max_length=16, choices=Status, default=Status.WAITING)
    amount_minor = models.BigIntegerField()
    currency = models.CharField(max_length=3)
    idempotency_key = models.CharField(max_length=255, unique=True)
    is_automatic = models.BooleanField(default=False, help_text="A top-up nobody asked for in person.")
    provider_ref = models.CharField(max_length=200, null=True, blank=True)  # noqa: DJ001 - NULLs are not equal
    charge_ref = models.CharField(max_length=200, blank=True, help_text="What a refund names.")
    checkout_url = models.TextField(blank=True)
    reference = models.CharField(max_length=200, blank=True)
    failure = models.CharField(max_length=300, blank=True)
    attempts = models.PositiveSmallIntegerField(default=0)
    next_at = models.DateTimeField(null=True, blank=True)
    paid_at = models.DateTimeField(null=True, blank=True)
    invoice_minor = models.BigIntegerField(default=0, help_text="What went to the invoice.")
    refunded_minor = models.BigIntegerField(default=0)
    grant = models.OneToOneField(
        CreditGrant, on_delete=models.PROTECT, null=True, blank=True, related_name="payment"
    )

    objects = OwnedQuerySet["Payment"].as_manager()

    class Meta:
        ordering = ("-id",)
        indexes = (models.Index(fields=("status", "next_at"), name="payment_due"),)
        constraints = (
            models.UniqueConstraint(fields=("provider", "provider_ref"), name="payment_ref_once"),
            models.CheckConstraint(condition=Q(amount_minor__gt=0), name="payment_amount"),
            models.CheckConstraint(
                condition=Q(refunded_minor__gte=0, refunded_minor__lte=F("amount_minor")),
                name="payment_refunded",
            ),
            models.CheckConstraint(
                condition=Q(purpose="invoice", invoice__isnull=False)
                | Q(purpose="top_up", invoice__isnull=True, wallet__isnull=False),
                name="payment_is_for_something",
            ),
            models.UniqueConstraint(
                fields=("wallet",),
                condition=Q(is_automatic=True, status__in=("waiting", "pending")),
                name="one_automatic_top_up_at_a_time",
            ),
        )

    def __str__(self) -> str:
        return f"{self.amount_minor} {self.currency} {self.status}"


class Refund(Stamped):
    """Money of a payment given back: to where it came from, or into the wallet."""

    class Destination(models.TextChoices):
        PROVIDER = "provider"
        WALLET = "wallet"

    class Status(models.TextChoices):
        WAITING = "waiting"
        PENDING = "pending"
        SUCCEEDED = "succeeded"
        FAILED = "failed"

    payment = models.ForeignKey(Payment, on_delete=models.PROTECT, related_name="refunds")
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="refunds")
    destination = models.CharField(max_length=8, choices=Destination)
    status = models.CharField(max_length=16, choices=Status, default=Status.WAITING)
    amount_minor = models.BigIntegerField()
    reason = models.CharField(max_length=300)
    reference = models.CharField(max_length=200, blank=True)
    idempotency_key = models.CharField(max_length=255, unique=True)
    provider_ref = models.CharField(max_length=200, null=True, blank=True)  # noqa: DJ001 - NULLs are not equal
    failure = models.CharField(max_length=300, blank=True)
    attempts = models.PositiveSmallIntegerField(default=0)
    next_at = models.DateTimeField(null=True, blank=True)
    credit_note = models.ForeignKey(
        CreditNote, on_delete=models.PROTECT, null=True, blank=True, related_name="refunds"
    )

    objects = OwnedQuerySet["Refund"].as_manager()

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.CheckConstraint(condition=Q(amount_minor__gt=0), name="refund_amount"),
            models.UniqueConstraint(fields=("provider_ref",), name="refund_ref_once"),
        )

    def __str__(self) -> str:
        return f"{self.amount_minor} back of {self.payment}"


class PaymentEvent(models.Model):
    """A provider's message that was heard: each id once. Its content decides nothing, so none is kept."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    provider = models.CharField(max_length=16)
    event_id = models.CharField(max_length=200)
    kind = models.CharField(max_length=100)
    received_at = models.DateTimeField()
    payment = models.ForeignKey(
        Payment, on_delete=models.PROTECT, null=True, blank=True, related_name="events"
    )

    class Meta:
        ordering = ("-id",)
        constraints = (models.UniqueConstraint(fields=("provider", "event_id"), name="payment_event_once"),)

    def __str__(self) -> str:
        return f"{self.kind} {self.event_id}"
