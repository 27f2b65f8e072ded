"""How much may be spent: limits over a window, for a tenant, a part of it, or several tenants together."""

from django.contrib.postgres.fields import ArrayField
from django.db import models

from billing.models.plans import Plan
from tenants.models import ApiKey, OwnedQuerySet, Stamped, Tenant


class Budget(Stamped):
    """A limit on one measure in one window. Every budget that matches a call must allow it (R19b).

    Empty scope fields match everything. Without a tenant it is the operator's: all tenants that it matches
    (those on `plan`, or the whole house) share one counter.
    """

    class Measure(models.TextChoices):
        PRICE = "price"
        COST = "cost"
        TOKENS = "tokens"
        REQUESTS = "requests"

    class Mode(models.TextChoices):
        HARD = "hard"
        SOFT = "soft"
        THROTTLE = "throttle"

    class Window(models.TextChoices):
        HOUR = "hour"
        DAY = "day"
        WEEK = "week"
        MONTH = "month"
        QUARTER = "quarter"
        YEAR = "year"
        TOTAL = "total"
        ROLLING = "rolling"

    class CarryOver(models.TextChoices):
        NONE = "none"
        UNUSED = "unused"
        DEBT = "debt"

    tenant = models.ForeignKey(
        Tenant, on_delete=models.PROTECT, null=True, blank=True, related_name="budgets"
    )
    name = models.CharField(max_length=100, blank=True)
    api_key = models.ForeignKey(
        ApiKey, on_delete=models.PROTECT, null=True, blank=True, related_name="budgets"
    )
    feature = models.CharField(max_length=100, blank=True)
    end_user = models.CharField(max_length=200, blank=True)
    plan = models.ForeignKey(Plan, on_delete=models.PROTECT, null=True, blank=True, related_name="budgets")
    model = models.CharField(max_length=200, blank=True)
    provider = models.CharField(max_length=63, blank=True)
    tag = models.CharField(max_length=141, blank=True, help_text="key=value, as in X-Tollhouse-Tags.")
    measure = models.CharField(max_length=16, choices=Measure, default=Measure.PRICE)
    limit = models.DecimalField(
        max_digits=24, decimal_places=6, help_text="Currency units, tokens or requests."
    )
    currency = models.CharField(
        max_length=3, blank=True, help_text="Of price: the tenant's unless given; of cost: USD unless given."
    )
    mode = models.CharField(max_length=16, choices=Mode, default=Mode.HARD)
    throttle_policy = models.CharField(
        max_length=63, blank=True, help_text="Where calls go once a throttle is used up."
    )
    throttle_rpm = models.PositiveIntegerField(
        null=True, blank=True, help_text="Requests per minute once a throttle is used up."
    )
    window = models.CharField(max_length=16, choices=Window, default=Window.MONTH)
    rolling_s = models.PositiveIntegerField(
        null=True, blank=True, help_text="Length of a rolling window in seconds."
    )
    timezone = models.CharField(
        max_length=64, blank=True, help_text="IANA name; the tenant's own, else UTC, where empty."
    )
    anchor_day = models.PositiveSmallIntegerField(default=1)
    week_start = models.PositiveSmallIntegerField(default=0, help_text="0 is Monday.")
    carry_over = models.CharField(max_length=16, choices=CarryOver, default=CarryOver.NONE)
    carry_max_percent = models.PositiveSmallIntegerField(
        null=True, blank=True, help_text="Of the limit, at most this much unused is carried over."
    )
    carry_max_amount = models.DecimalField(
        max_digits=24, decimal_places=6, null=True, blank=True, help_text="In the unit of the limit."
    )
    include_byok = models.BooleanField(
        default=False, help_text="Whether cost, tokens and requests on a tenant's own provider keys count."
    )
    include_failed = models.BooleanField(
        default=True, help_text="Whether the cost of failed attempts counts."
    )
    include_overhead = models.BooleanField(
        default=False, help_text="Whether the cost of shadow calls and evaluations counts; operators only."
    )
    thresholds = ArrayField(
        models.PositiveSmallIntegerField(), default=list, blank=True, help_text="Percent of the limit."
    )
    is_enabled = models.BooleanField(default=True)

    objects = OwnedQuerySet["Budget"].as_manager()

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.CheckConstraint(condition=models.Q(limit__gte=0), name="budget_limit_not_negative"),
            models.CheckConstraint(
                condition=models.Q(window="rolling", rolling_s__gte=60)
                | (~models.Q(window="rolling") & models.Q(rolling_s=None)),
                name="budget_rolling_has_length",
            ),
            models.CheckConstraint(
                condition=models.Q(include_overhead=False) | models.Q(tenant=None, measure="cost"),
                name="budget_overhead_is_operators_cost",
            ),
        )

    def __str__(self) -> str:
        window = f"{self.rolling_s} s" if self.window == self.Window.ROLLING else self.window
        return f"{self.limit} {self.measure} per {window} of {self.tenant or 'the house'}"


class BudgetCheck(models.Model):
    """One comparison of all counters with the ledger (I8). `differences` were repaired when they were found."""

    checked_at = models.DateTimeField()
    counters = models.PositiveIntegerField()
    differences = models.JSONField(default=list)

    class Meta:
        ordering = ("-checked_at",)
        indexes = (models.Index(fields=("-checked_at",), name="budget_check_newest"),)

    def __str__(self) -> str:
        return f"{self.checked_at}: {self.counters} counters, {len(self.differences)} differ"
