"""Documents: who issues them, to whom, their lines, discounts, credit notes and numbers.

Amounts are integers in the currency's minor unit. From its finalization on, nothing of a document but its
payment state moves: migration 0008 holds that by trigger, and that numbers are unique and lines sum up.
"""

from decimal import Decimal

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q
from django.utils.timezone import now

from billing.models.plans import PlanVersion
from tenants.ids import uuid7
from tenants.models import OwnedQuerySet, Stamped, Tenant
from tenants.principal import Principal


class TaxCategory(models.TextChoices):
    """UNTDID 5305, as EN 16931 uses it."""

    STANDARD = "S"
    ZERO = "Z"
    EXEMPT = "E"
    REVERSE_CHARGE = "AE"
    INTRA_COMMUNITY = "K"
    EXPORT = "G"
    OUT_OF_SCOPE = "O"


class LegalEntity(Stamped):
    """The seller on documents. Numbers count per entity, series and year of its local time (R16)."""

    code = models.SlugField(max_length=32, unique=True)
    name = models.CharField(max_length=200)
    address_lines = ArrayField(models.CharField(max_length=200), default=list, blank=True, size=3)
    postal_code = models.CharField(max_length=20, blank=True)
    city = models.CharField(max_length=100, blank=True)
    country = models.CharField(max_length=2, help_text="ISO 3166-1 alpha-2.")
    vat_id = models.CharField(max_length=32, blank=True)
    registration = models.CharField(max_length=100, blank=True, help_text="Company register and number.")
    email = models.EmailField(blank=True)
    iban = models.CharField(max_length=34, blank=True)
    bic = models.CharField(max_length=11, blank=True)
    timezone = models.CharField(max_length=64, default="UTC")
    currency = models.CharField(max_length=3, default="EUR")
    number_prefix = models.CharField(max_length=16)
    series = models.CharField(max_length=8, default="INV")
    credit_series = models.CharField(max_length=8, default="CN")
    net_days = models.PositiveSmallIntegerField(default=14)
    logo_svg = models.TextField(blank=True)
    footer = models.CharField(max_length=500, blank=True)
    is_default = models.BooleanField(default=False)
    auto_finalize = models.BooleanField(default=False, help_text="Close periods without a clerk.")
    grace_hours = models.PositiveSmallIntegerField(default=6)
    bills_from = models.DateTimeField(
        default=now, help_text="Periods that ended before are not closed by the clock."
    )

    class Meta:
        ordering = ("code",)
        verbose_name_plural = "legal entities"
        constraints = (
            models.UniqueConstraint(
                fields=("is_default",), condition=Q(is_default=True), name="one_default_legal_entity"
            ),
            models.UniqueConstraint(fields=("number_prefix",), name="number_prefix_once"),
            models.CheckConstraint(
                condition=~Q(series=models.F("credit_series")), name="invoice_and_credit_series_differ"
            ),
        )

    def __str__(self) -> str:
        return self.code


class TaxRate(Stamped):
    """A percentage of the net for a tax key (R12), in force in [valid_from, valid_to) for a seller's country."""

    key = models.SlugField(max_length=63)
    category = models.CharField(max_length=2, choices=TaxCategory)
    percent = models.DecimalField(max_digits=7, decimal_places=4)
    country = models.CharField(max_length=2)
    valid_from = models.DateField()
    valid_to = models.DateField(null=True, blank=True)
    exemption_text = models.CharField(max_length=300, blank=True)
    exemption_code = models.CharField(max_length=30, blank=True, help_text="VATEX code.")

    class Meta:
        ordering = ("country", "key", "-valid_from")
        constraints = (
            models.UniqueConstraint(fields=("country", "key", "valid_from"), name="tax_rate_once"),
            models.CheckConstraint(condition=Q(percent__gte=0, percent__lte=100), name="tax_percent"),
            models.CheckConstraint(
                condition=Q(category=TaxCategory.STANDARD) | Q(percent=0),
                name="only_standard_tax_has_percent",
            ),
            models.CheckConstraint(
                condition=Q(valid_to__isnull=True) | Q(valid_to__gt=models.F("valid_from")),
                name="tax_rate_period",
            ),
        )

    def __str__(self) -> str:
        return f"{self.key} {self.country} {self.percent} %"


class BillingProfile(Stamped):
    """A tenant as a buyer. Its row is what everything that makes the tenant's documents locks first."""

    class Treatment(models.TextChoices):
        DOMESTIC = "domestic"
        REVERSE_CHARGE = "reverse_charge"
        EXEMPT = "exempt"
        EXPORT = "export"

    tenant = models.OneToOneField(Tenant, on_delete=models.PROTECT, related_name="billing_profile")
    legal_entity = models.ForeignKey(
        LegalEntity, on_delete=models.PROTECT, null=True, blank=True, help_text="Empty: the default one."
    )
    legal_name = models.CharField(max_length=200, blank=True)
    address_lines = ArrayField(models.CharField(max_length=200), default=list, blank=True, size=3)
    postal_code = models.CharField(max_length=20, blank=True)
    city = models.CharField(max_length=100, blank=True)
    country = models.CharField(max_length=2, blank=True)
    vat_id = models.CharField(max_length=32, blank=True)
    tax_treatment = models.CharField(max_length=16, choices=Treatment, default=Treatment.DOMESTIC)
    net_days = models.PositiveSmallIntegerField(null=True, blank=True, help_text="Empty: the seller's.")
    einvoice_address = models.CharField(max_length=200, blank=True, help_text="scheme:id, such as 0088:…")
    buyer_reference = models.CharField(max_length=100, blank=True)
    purchase_order = models.CharField(max_length=100, blank=True)
    emails = ArrayField(models.EmailField(), default=list, blank=True, size=20)
    issue_zero_invoices = models.BooleanField(default=False)

    objects = OwnedQuerySet["BillingProfile"].as_manager()

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"{self.tenant} as a buyer"


# ------------------------------------------------------------------ discounts


class Coupon(Stamped):
    """A discount on offer (R11): `value` percent, or an amount in units of `currency`."""

    class Kind(models.TextChoices):
        PERCENT = "percent"
        FIXED = "fixed"

    class Duration(models.TextChoices):
        ONCE = "once"
        REPEATING = "repeating"
        FOREVER = "forever"

    code = models.SlugField(max_length=63, unique=True)
    name = models.CharField(max_length=200)
    kind = models.CharField(max_length=8, choices=Kind)
    value = models.DecimalField(max_digits=20, decimal_places=4)
    currency = models.CharField(max_length=3, blank=True)
    duration = models.CharField(max_length=16, choices=Duration, default=Duration.ONCE)
    periods = models.PositiveSmallIntegerField(null=True, blank=True)
    line_kinds = ArrayField(
        models.CharField(max_length=16), default=list, blank=True, help_text="Empty means all lines."
    )
    redeem_by = models.DateTimeField(null=True, blank=True)
    is_active = models.BooleanField(default=True)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.CheckConstraint(
                condition=Q(kind="percent", value__gt=0, value__lte=100, currency="")
                | (Q(kind="fixed", value__gt=0) & ~Q(currency="")),
                name="coupon_value",
            ),
            models.CheckConstraint(
                condition=Q(duration="repeating", periods__gte=1)
                | (~Q(duration="repeating") & Q(periods__isnull=True)),
                name="coupon_periods",
            ),
        )

    def __str__(self) -> str:
        return self.code

    @property
    def invoice_limit(self) -> int | None:
        """On how many documents it comes off; None without end."""
        return {"once": 1, "repeating": self.periods, "forever": None}[self.duration]


class TenantCoupon(Stamped):
    """A coupon that a tenant has redeemed; applied in the order of redemption."""

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="coupons")
    coupon = models.ForeignKey(Coupon, on_delete=models.PROTECT, related_name="redemptions")
    redeemed_at = models.DateTimeField()
    removed_at = models.DateTimeField(null=True, blank=True)

    objects = OwnedQuerySet["TenantCoupon"].as_manager()

    class Meta:
        ordering = ("redeemed_at", "id")
        constraints = (models.UniqueConstraint(fields=("tenant", "coupon"), name="coupon_once_per_tenant"),)

    def __str__(self) -> str:
        return f"{self.coupon} of {self.tenant}"


# ------------------------------------------------------------------ invoices


class InvoiceQuerySet(OwnedQuerySet["Invoice"]):
    def visible_to(self, principal: Principal, scope: str) -> "InvoiceQuerySet":
        """Drafts are the operator's alone: what a tenant sees has been issued."""
        rows = super().visible_to(principal, scope)
        if principal.tenants_with(scope) is not None:
            rows = rows.exclude(status=Invoice.Status.DRAFT)
        return rows  # type: ignore[return-value]  # filter() keeps the class

    def standing(self) -> "InvoiceQuerySet":
        """Issued and not void: what has been billed."""
        return self.exclude(status__in=(Invoice.Status.DRAFT, Invoice.Status.VOID))


class Invoice(Stamped):
    """A document about one period of a tenant in one currency.

    `occasion` opening: the first base fee of a plan paid in advance. `document` credit_note: the total is
    negative (R15). `ledger_to`: ledger rows recorded up to then are in it, later ones become adjustments.
    """

    class Status(models.TextChoices):
        DRAFT = "draft"
        OPEN = "open"
        PAID = "paid"
        VOID = "void"
        UNCOLLECTIBLE = "uncollectible"

    class Occasion(models.TextChoices):
        PERIOD = "period"
        OPENING = "opening"

    class Document(models.TextChoices):
        INVOICE = "invoice"
        CREDIT_NOTE = "credit_note"
        NONE = "none"

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="invoices")
    legal_entity = models.ForeignKey(LegalEntity, on_delete=models.PROTECT, related_name="invoices")
    occasion = models.CharField(max_length=8, choices=Occasion, default=Occasion.PERIOD)
    document = models.CharField(max_length=16, choices=Document, default=Document.INVOICE)
    status = models.CharField(max_length=16, choices=Status, default=Status.DRAFT)
    number = models.CharField(max_length=64, null=True, blank=True)  # noqa: DJ001 - NULLs are not equal
    currency = models.CharField(max_length=3)
    timezone = models.CharField(max_length=64, help_text="The tenant's, in which the period lies.")
    period_start = models.DateTimeField()
    period_end = models.DateTimeField()
    issue_date = models.DateField(null=True, blank=True)
    due_date = models.DateField(null=True, blank=True)
    finalized_at = models.DateTimeField(null=True, blank=True)

    subtotal_minor = models.BigIntegerField(default=0)
    discount_minor = models.BigIntegerField(default=0)
    promotional_minor = models.BigIntegerField(default=0)
    net_minor = models.BigIntegerField(default=0)
    tax_minor = models.BigIntegerField(default=0)
    total_minor = models.BigIntegerField(default=0)
    prepaid_minor = models.BigIntegerField(default=0)
    tax_breakdown = models.JSONField(default=list)
    parties = models.JSONField(default=dict)
    rating_hash = models.CharField(max_length=64, blank=True)
    ledger_to = models.DateTimeField()

    paid_minor = models.BigIntegerField(default=0)
    credited_minor = models.BigIntegerField(default=0, help_text="Of credit notes, off the open balance.")
    paid_at = models.DateTimeField(null=True, blank=True)
    payment_reference = models.CharField(max_length=200, blank=True)
    voided_at = models.DateTimeField(null=True, blank=True)
    status_reason = models.CharField(max_length=300, blank=True)

    objects = InvoiceQuerySet.as_manager()

    class Meta:
        ordering = ("-id",)
        indexes = (models.Index(fields=("tenant", "period_start"), name="invoice_of_tenant"),)
        constraints = (
            models.UniqueConstraint(
                fields=("tenant", "period_start", "occasion", "currency"),
                condition=~Q(status="void"),
                name="invoice_once_per_period",
            ),
            models.UniqueConstraint(fields=("legal_entity", "number"), name="invoice_number_once"),
            models.CheckConstraint(
                condition=Q(status="draft", number__isnull=True)
                | (~Q(status="draft") & Q(number__isnull=False)),
                name="invoice_number_from_finalization_on",
            ),
            models.CheckConstraint(
                condition=Q(total_minor=models.F("net_minor") + models.F("tax_minor")), name="invoice_total"
            ),
            models.CheckConstraint(
                condition=Q(
                    net_minor=models.F("subtotal_minor")
                    - models.F("discount_minor")
                    - models.F("promotional_minor")
                ),
                name="invoice_net",
            ),
            models.CheckConstraint(
                condition=Q(period_end__gt=models.F("period_start")), name="invoice_period"
            ),
            models.CheckConstraint(
                condition=Q(paid_minor__gte=0, credited_minor__gte=0, prepaid_minor__gte=0),
                name="invoice_payments_not_negative",
            ),
        )

    def __str__(self) -> str:
        return self.number or f"draft of {self.tenant}"

    @property
    def amount_due_minor(self) -> int:
        """What the document asked to be paid when it was issued; 0 for a credit note (R15)."""
        return max(0, self.total_minor - self.prepaid_minor)

    @property
    def balance_minor(self) -> int:
        """What is still open."""
        return max(0, self.total_minor - self.prepaid_minor - self.paid_minor - self.credited_minor)

    @property
    def is_final(self) -> bool:
        return self.status != self.Status.DRAFT


class InvoiceLine(models.Model):
    """One rated line. amount = round(quantity times price / per); net = amount less discounts and credit.

    `price` null: the amount is no product (the sum of costs or frozen prices). The ledger rows behind it
    occurred in [period_start, period_end) and were recorded in (ledger_from, ledger_to]. `measured` is what
    those rows count in the line's meter, before included units and tiers.
    """

    class Kind(models.TextChoices):
        BASE = "base"
        USAGE = "usage"
        TIER_FEE = "tier_fee"
        REQUEST_FEE = "request_fee"
        TRUE_UP = "true_up"
        PRORATION = "proration"
        ADJUSTMENT = "adjustment"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    invoice = models.ForeignKey(Invoice, on_delete=models.CASCADE, related_name="lines")
    position = models.PositiveIntegerField()
    kind = models.CharField(max_length=16, choices=Kind)
    plan_version = models.ForeignKey(PlanVersion, on_delete=models.PROTECT, null=True, blank=True)
    charge = models.IntegerField(null=True, blank=True, help_text="Position among the version's charges.")
    meter = models.CharField(max_length=64, blank=True)
    tier = models.IntegerField(null=True, blank=True)
    description = models.CharField(max_length=300)
    quantity = models.DecimalField(max_digits=30, decimal_places=12)
    unit = models.CharField(max_length=64, blank=True)
    price = models.DecimalField(max_digits=30, decimal_places=12, null=True, blank=True)
    per = models.DecimalField(max_digits=30, decimal_places=12, default=Decimal(1))
    amount_minor = models.BigIntegerField()
    discount_minor = models.BigIntegerField(default=0, help_text="Discounts and promotional credit.")
    net_minor = models.BigIntegerField()
    tax_key = models.CharField(max_length=200)
    period_start = models.DateTimeField()
    period_end = models.DateTimeField()
    ledger_from = models.DateTimeField(null=True, blank=True)
    ledger_to = models.DateTimeField(null=True, blank=True)
    measured = models.DecimalField(max_digits=40, decimal_places=0, null=True, blank=True)

    class Meta:
        ordering = ("position",)
        constraints = (
            models.UniqueConstraint(fields=("invoice", "position"), name="invoice_line_position"),
            models.CheckConstraint(
                condition=Q(net_minor=models.F("amount_minor") - models.F("discount_minor")),
                name="invoice_line_net",
            ),
        )

    def __str__(self) -> str:
        return self.description


class InvoiceDiscount(models.Model):
    """What a coupon took off a document, in the order of application."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    invoice = models.ForeignKey(Invoice, on_delete=models.CASCADE, related_name="discounts")
    tenant_coupon = models.ForeignKey(TenantCoupon, on_delete=models.PROTECT, related_name="uses")
    position = models.PositiveIntegerField()
    description = models.CharField(max_length=300)
    amount_minor = models.BigIntegerField()

    class Meta:
        ordering = ("position",)
        constraints = (
            models.UniqueConstraint(fields=("invoice", "tenant_coupon"), name="coupon_once_per_invoice"),
        )

    def __str__(self) -> str:
        return self.description


class ClosedPeriod(models.Model):
    """A period that is over and dealt with: invoiced, or found to be worth no document (R17).

    Late usage of it is looked for from then on; closing it again changes nothing.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="closed_periods")
    start = models.DateTimeField()
    end = models.DateTimeField()
    currency = models.CharField(max_length=3)
    closed_at = models.DateTimeField()
    ledger_to = models.DateTimeField()
    invoice = models.ForeignKey(
        Invoice, on_delete=models.PROTECT, null=True, blank=True, related_name="closed_periods"
    )

    objects = OwnedQuerySet["ClosedPeriod"].as_manager()

    class Meta:
        ordering = ("-start",)
        constraints = (
            models.UniqueConstraint(fields=("tenant", "start", "currency"), name="period_closed_once"),
        )

    def __str__(self) -> str:
        return f"{self.tenant} {self.start:%Y-%m-%d}"


# ------------------------------------------------------------------ credit notes and numbers


class CreditNote(Stamped):
    """Gives back a part of an invoice (R14b). Written once, with its number; never changed.

    The gross reduced the open balance, became refundable, and returned to the wallet, in this order.
    """

    invoice = models.ForeignKey(Invoice, on_delete=models.PROTECT, related_name="credit_notes")
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="credit_notes")
    legal_entity = models.ForeignKey(LegalEntity, on_delete=models.PROTECT, related_name="credit_notes")
    number = models.CharField(max_length=64)
    reason = models.CharField(max_length=300)
    currency = models.CharField(max_length=3)
    issue_date = models.DateField()
    finalized_at = models.DateTimeField()
    net_minor = models.BigIntegerField()
    tax_minor = models.BigIntegerField()
    total_minor = models.BigIntegerField()
    tax_breakdown = models.JSONField(default=list)
    reduces_open_minor = models.BigIntegerField()
    refundable_minor = models.BigIntegerField()
    to_wallet_minor = models.BigIntegerField()

    objects = OwnedQuerySet["CreditNote"].as_manager()

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(fields=("legal_entity", "number"), name="credit_note_number_once"),
            models.CheckConstraint(
                condition=Q(total_minor=models.F("net_minor") + models.F("tax_minor")),
                name="credit_note_total",
            ),
            models.CheckConstraint(
                condition=Q(
                    total_minor=models.F("reduces_open_minor")
                    + models.F("refundable_minor")
                    + models.F("to_wallet_minor")
                ),
                name="credit_note_disposed_of",
            ),
        )

    def __str__(self) -> str:
        return self.number


class CreditNoteLine(models.Model):
    """The net given back of one invoice line."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    credit_note = models.ForeignKey(CreditNote, on_delete=models.PROTECT, related_name="lines")
    invoice_line = models.ForeignKey(InvoiceLine, on_delete=models.PROTECT, related_name="credits")
    position = models.PositiveIntegerField()
    net_minor = models.BigIntegerField()
    tax_key = models.CharField(max_length=200)

    class Meta:
        ordering = ("position",)
        constraints = (
            models.UniqueConstraint(fields=("credit_note", "invoice_line"), name="line_once_per_credit_note"),
        )

    def __str__(self) -> str:
        return f"{self.credit_note} {self.position}"


class DocumentCounter(models.Model):
    """The last number given in a series; its row is locked by the transaction that finalizes (R16)."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    legal_entity = models.ForeignKey(LegalEntity, on_delete=models.PROTECT, related_name="counters")
    series = models.CharField(max_length=8)
    year = models.PositiveSmallIntegerField()
    last = models.PositiveIntegerField(default=0)

    class Meta:
        ordering = ("legal_entity", "series", "year")
        constraints = (
            models.UniqueConstraint(fields=("legal_entity", "series", "year"), name="counter_once"),
        )

    def __str__(self) -> str:
        return f"{self.legal_entity} {self.series} {self.year}: {self.last}"
