"""What providers bill, as they said it, and how it was held against the ledger.

Bills and their lines are only ever added: a later import of a day takes the earlier one's place by being
later. Amounts are pico-units of the line's currency.
"""

from django.db import models
from django.utils import timezone

from tenants.encryption import seal, unseal
from tenants.ids import uuid7
from tenants.models import Stamped


class BillSource(Stamped):
    """Where the bills of one provider come from: its cost API under a sealed admin key, or files.

    `provider` is the slug that the ledger's rows carry. Days are pulled again for `repull_days`, since
    providers correct them.
    """

    class Kind(models.TextChoices):
        OPENAI = "openai"
        ANTHROPIC = "anthropic"
        CSV = "csv"
        FOCUS = "focus"

    slug = models.SlugField(max_length=63, unique=True)
    provider = models.CharField(max_length=63)
    kind = models.CharField(max_length=16, choices=Kind)
    base_url = models.CharField(max_length=500, blank=True, help_text="Empty: the provider's own address.")
    sealed = models.BinaryField(null=True, blank=True)
    tolerance_abs = models.DecimalField(max_digits=20, decimal_places=6, default="0.01")
    tolerance_percent = models.DecimalField(max_digits=9, decimal_places=4, default="0.5")
    repull_days = models.PositiveSmallIntegerField(default=3)
    is_enabled = models.BooleanField(default=True)
    pulled_at = models.DateTimeField(null=True, blank=True)
    last_error = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering = ("slug",)

    def __str__(self) -> str:
        return self.slug

    def put_secret(self, text: str) -> None:
        """Seal the admin key for this row. The caller saves."""
        self.sealed = seal(text, tenant=None, context=self._context)

    def secret(self) -> str:
        """The admin key; empty where there is none. Raises SealBrokenError."""
        return "" if self.sealed is None else unseal(bytes(self.sealed), tenant=None, context=self._context)

    @property
    def _context(self) -> str:
        return f"billing_billsource|{self.pk}|sealed"


class ProviderBill(models.Model):
    """One import: the UTC days [start, end) of a source, and the payload it was read from, byte by byte.

    The newest bill that covers a day is the one that counts for it; `digest` tells a repeated import.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    source = models.ForeignKey(BillSource, on_delete=models.PROTECT, related_name="bills")
    start = models.DateField()
    end = models.DateField()
    payload = models.JSONField()  # the raw texts, one per page or file
    digest = models.CharField(max_length=64)
    imported_at = models.DateTimeField(default=timezone.now)
    imported_by = models.CharField(max_length=254, blank=True)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.CheckConstraint(condition=models.Q(start__lt=models.F("end")), name="bill_has_days"),
        )

    def __str__(self) -> str:
        return f"{self.source} {self.start} to {self.end}"


class ProviderBillLine(models.Model):
    """One item of a day. `model_family` is what ledger and bill are matched by; `raw` is the item itself."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    bill = models.ForeignKey(ProviderBill, on_delete=models.CASCADE, related_name="lines")
    day = models.DateField()
    account = models.CharField(max_length=200, blank=True)  # project, workspace or sub-account
    item = models.CharField(max_length=300, blank=True)
    model_family = models.CharField(max_length=200, blank=True)
    quantity = models.DecimalField(max_digits=38, decimal_places=9, null=True)
    quantity_unit = models.CharField(max_length=63, blank=True)
    amount_pico = models.DecimalField(max_digits=38, decimal_places=0)
    currency = models.CharField(max_length=3)
    raw = models.JSONField()

    class Meta:
        ordering = ("id",)
        indexes = (models.Index(fields=("bill", "day"), name="bill_line_day"),)

    def __str__(self) -> str:
        return f"{self.day} {self.item}"


class ReconcileRun(Stamped):
    """One comparison of a source's bills with the ledger over the UTC days [start, end). A snapshot."""

    source = models.ForeignKey(BillSource, on_delete=models.PROTECT, related_name="runs")
    start = models.DateField()
    end = models.DateField()
    tolerance_abs = models.DecimalField(max_digits=20, decimal_places=6)
    tolerance_percent = models.DecimalField(max_digits=9, decimal_places=4)
    created_by = models.CharField(max_length=254, blank=True)

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"{self.source} {self.start} to {self.end}"


class ReconcileLine(Stamped):
    """One day and model family: what both sides say (R25), the likely cause, and what people made of it."""

    class Status(models.TextChoices):
        MATCH = "match"
        MISSING_IN_LEDGER = "missing_in_ledger"
        MISSING_IN_PROVIDER_BILL = "missing_in_provider_bill"
        UNDER_CAPTURED = "under_captured"
        OVER_CAPTURED = "over_captured"

    class Cause(models.TextChoices):
        NONE = ""
        ROUNDING = "rounding"
        TIMEZONE_EDGE = "timezone_edge"
        UNPRICED = "unpriced"
        UNKNOWN_ATTEMPTS = "unknown_attempts"
        MISSING_ROWS = "missing_rows"
        PRICE_DIFFERENCE = "price_difference"
        NOT_BILLED_YET = "not_billed_yet"
        UNEXPLAINED = "unexplained"

    class Resolution(models.TextChoices):
        OPEN = "open"
        ACCEPTED = "accepted"
        DISPUTED = "disputed"
        TRUED_UP = "trued_up"

    run = models.ForeignKey(ReconcileRun, on_delete=models.CASCADE, related_name="lines")
    day = models.DateField()
    model_family = models.CharField(max_length=200, blank=True)
    currency = models.CharField(max_length=3)
    ledger_pico = models.DecimalField(max_digits=38, decimal_places=0)
    provider_pico = models.DecimalField(max_digits=38, decimal_places=0)
    status = models.CharField(max_length=32, choices=Status)
    cause = models.CharField(max_length=32, choices=Cause, blank=True)
    evidence = models.JSONField(default=dict)
    resolution = models.CharField(max_length=16, choices=Resolution, default=Resolution.OPEN)
    note = models.CharField(max_length=1000, blank=True)
    resolved_by = models.CharField(max_length=254, blank=True)
    resolved_at = models.DateTimeField(null=True, blank=True)
    entry_id = models.UUIDField(null=True, blank=True)  # request_id of the true-up in the ledger

    class Meta:
        ordering = ("day", "model_family", "currency")
        constraints = (
            models.UniqueConstraint(
                fields=("run", "day", "model_family", "currency"), name="reconciled_once_per_run"
            ),
        )

    def __str__(self) -> str:
        return f"{self.day} {self.model_family} {self.status}"

    @property
    def variance_pico(self) -> int:
        """Provider less ledger: above 0, we booked too little."""
        return int(self.provider_pico) - int(self.ledger_pico)
