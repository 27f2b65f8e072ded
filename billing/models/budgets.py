"""How much may be spent: limits over a window, for a tenant or a part of it."""

from django.contrib.postgres.fields import ArrayField
from django.db import models

from tenants.models import ApiKey, OwnedQuerySet, Stamped, Tenant


class Budget(Stamped):
    """A limit on one measure in one window. Every budget that matches a call must allow it (R19b).

    Empty scope fields match everything inside the tenant.
    """

    class Measure(models.TextChoices):
        PRICE = "price"
        COST = "cost"
        TOKENS = "tokens"
        REQUESTS = "requests"

    class Mode(models.TextChoices):
        HARD = "hard"
        SOFT = "soft"

    class Window(models.TextChoices):
        HOUR = "hour"
        DAY = "day"
        WEEK = "week"
        MONTH = "month"
        YEAR = "year"
        TOTAL = "total"

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="budgets")
    name = models.CharField(max_length=100, blank=True)
    api_key = models.ForeignKey(
        ApiKey, on_delete=models.PROTECT, null=True, blank=True, related_name="budgets"
    )
    feature = models.CharField(max_length=100, blank=True)
    model = models.CharField(max_length=200, blank=True)
    end_user = models.CharField(max_length=200, blank=True)
    measure = models.CharField(max_length=16, choices=Measure, default=Measure.PRICE)
    limit = models.DecimalField(
        max_digits=24, decimal_places=6, help_text="Currency units, tokens or requests."
    )
    mode = models.CharField(max_length=16, choices=Mode, default=Mode.HARD)
    window = models.CharField(max_length=16, choices=Window, default=Window.MONTH)
    anchor_day = models.PositiveSmallIntegerField(default=1)
    week_start = models.PositiveSmallIntegerField(default=0, help_text="0 is Monday.")
    thresholds = ArrayField(
        models.PositiveSmallIntegerField(), default=list, blank=True, help_text="Percent of the limit."
    )
    is_enabled = models.BooleanField(default=True)

    objects = OwnedQuerySet["Budget"].as_manager()

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.CheckConstraint(condition=models.Q(limit__gte=0), name="budget_limit_not_negative"),
        )

    def __str__(self) -> str:
        return f"{self.limit} {self.measure} per {self.window} of {self.tenant}"
