"""Credit a tenant has in advance: wallets, the grants in them, and the entries that move them.

Entries are only ever added. What a wallet and each grant still hold is written by the database alone, with
the entry (migration 0013), and can never fall below zero. Amounts are pico-units of the wallet's currency,
wider than a bigint, which one in VND would overflow.
"""

from django.db import models
from django.db.models import F, Q

from billing.models.invoices import CreditNote, Invoice
from billing.rating.money import minor_to_pico
from tenants.ids import uuid7
from tenants.models import OwnedQuerySet, Stamped, Tenant


class Wallet(Stamped):
    """One tenant's credit in one currency.

    `is_prepaid`: what is left is a hard limit on calls. `settled_pico` is then the price of the calls that no
    document will draw on it for any more: those before `prepaid_from`, and those that were invoiced.
    """

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="wallets")
    currency = models.CharField(max_length=3)
    balance_pico = models.DecimalField(max_digits=38, decimal_places=0, default=0, editable=False)
    is_prepaid = models.BooleanField(default=False)
    settled_pico = models.DecimalField(max_digits=38, decimal_places=0, default=0, editable=False)
    prepaid_from = models.DateTimeField(null=True, blank=True, editable=False)
    top_up_below_minor = models.BigIntegerField(
        null=True, blank=True, help_text="Top up by itself when the balance is below; empty: never."
    )
    top_up_amount_minor = models.BigIntegerField(null=True, blank=True)
    top_up_monthly_cap_minor = models.BigIntegerField(null=True, blank=True)

    objects = OwnedQuerySet["Wallet"].as_manager()

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(fields=("tenant", "currency"), name="wallet_once_per_currency"),
            models.UniqueConstraint(
                fields=("tenant",), condition=Q(is_prepaid=True), name="one_prepaid_wallet"
            ),
            models.CheckConstraint(condition=Q(balance_pico__gte=0), name="wallet_not_negative"),
            models.CheckConstraint(
                condition=Q(top_up_below_minor__isnull=True)
                | Q(top_up_below_minor__gt=0, top_up_amount_minor__gt=0),
                name="wallet_top_up_has_an_amount",
            ),
            models.CheckConstraint(
                condition=Q(top_up_monthly_cap_minor__isnull=True) | Q(top_up_monthly_cap_minor__gte=0),
                name="wallet_top_up_cap",
            ),
        )

    def __str__(self) -> str:
        return f"{self.tenant} {self.currency}"

    @property
    def top_up_below_pico(self) -> int | None:
        if self.top_up_below_minor is None:
            return None
        return minor_to_pico(self.top_up_below_minor, self.currency)


class CreditGrant(models.Model):
    """Credit given at once (R14), usable while effective_at <= t < expires_at. Nothing of it ever changes but
    what remains."""

    class Category(models.TextChoices):
        PAID = "paid"
        PROMOTIONAL = "promotional"

    class Source(models.TextChoices):
        MANUAL = "manual"
        TOP_UP = "top_up"
        CREDIT_NOTE = "credit_note"
        PAYMENT = "payment"
        RETURNED = "returned"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    wallet = models.ForeignKey(Wallet, on_delete=models.PROTECT, related_name="grants")
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="credit_grants")
    name = models.CharField(max_length=200, blank=True)
    category = models.CharField(max_length=16, choices=Category)
    source = models.CharField(max_length=16, choices=Source, default=Source.MANUAL)
    amount_pico = models.DecimalField(max_digits=38, decimal_places=0)
    remaining_pico = models.DecimalField(max_digits=38, decimal_places=0, default=0, editable=False)
    priority = models.PositiveSmallIntegerField(default=50, help_text="A low one is used first.")
    effective_at = models.DateTimeField()
    expires_at = models.DateTimeField(null=True, blank=True)
    credit_note = models.OneToOneField(
        CreditNote, on_delete=models.PROTECT, null=True, blank=True, related_name="grant"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    objects = OwnedQuerySet["CreditGrant"].as_manager()

    class Meta:
        ordering = ("-id",)
        indexes = (models.Index(fields=("expires_at",), name="grant_expiry"),)
        constraints = (
            models.CheckConstraint(condition=Q(amount_pico__gt=0), name="grant_amount"),
            models.CheckConstraint(
                condition=Q(remaining_pico__gte=0, remaining_pico__lte=F("amount_pico")),
                name="grant_remaining",
            ),
            models.CheckConstraint(
                condition=Q(expires_at__isnull=True) | Q(expires_at__gt=F("effective_at")),
                name="grant_span",
            ),
        )

    def __str__(self) -> str:
        return self.name or f"{self.category} credit"


class WalletEntry(models.Model):
    """One movement of one grant, signed, with what it was for. Only ever added."""

    class Kind(models.TextChoices):
        GRANT = "grant"
        DRAW = "draw"
        RETURN = "return"
        EXPIRE = "expire"
        REFUND = "refund"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    wallet = models.ForeignKey(Wallet, on_delete=models.PROTECT, related_name="entries")
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="wallet_entries")
    grant = models.ForeignKey(CreditGrant, on_delete=models.PROTECT, related_name="entries")
    kind = models.CharField(max_length=8, choices=Kind)
    amount_pico = models.DecimalField(max_digits=38, decimal_places=0)
    at = models.DateTimeField()
    invoice = models.ForeignKey(
        Invoice, on_delete=models.PROTECT, null=True, blank=True, related_name="wallet_entries"
    )
    request_id = models.UUIDField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = OwnedQuerySet["WalletEntry"].as_manager()

    class Meta:
        ordering = ("-id",)
        verbose_name_plural = "wallet entries"
        indexes = (models.Index(fields=("wallet", "at"), name="entry_of_wallet"),)
        constraints = (
            models.UniqueConstraint(
                fields=("invoice", "grant", "kind"),
                condition=Q(invoice__isnull=False),
                name="entry_once_per_invoice",
            ),
            models.UniqueConstraint(
                fields=("request_id", "grant", "kind"),
                condition=Q(request_id__isnull=False),
                name="entry_once_per_request",
            ),
            models.UniqueConstraint(
                fields=("grant",), condition=Q(kind="grant"),
                name="granted_once",
            ),
            models.CheckConstraint(
                condition=Q(kind__in=("grant", "return"), amount_pico__gt=0)
                | Q(kind__in=("draw", "expire", "refund"), amount_pico__lt=0),
                name="entry_sign",
            ),
        )  # fmt: skip

    def __str__(self) -> str:
        return f"{self.kind} {self.amount_pico}"
