"""What tenants are sold: plans, their immutable versions, and who is on which."""

from django.contrib.postgres.fields import ArrayField
from django.db import models

from tenants.ids import uuid7
from tenants.models import OwnedQuerySet, Stamped, Tenant


class Plan(Stamped):
    """A product on the price list. The default plan is what a new tenant gets."""

    slug = models.SlugField(max_length=63, unique=True)
    name = models.CharField(max_length=200)
    is_default = models.BooleanField(default=False)

    class Meta:
        ordering = ("slug",)
        constraints = (
            models.UniqueConstraint(
                fields=("is_default",), condition=models.Q(is_default=True), name="one_default_plan"
            ),
        )

    def __str__(self) -> str:
        return self.slug


class PlanVersion(models.Model):
    """One immutable wording of a plan; the highest number is sold. billing.rating applies `charges` (R7)."""

    class Interval(models.TextChoices):
        MONTH = "month"
        YEAR = "year"

    class Proration(models.TextChoices):
        DAY = "day"
        SECOND = "second"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    plan = models.ForeignKey(Plan, on_delete=models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    currency = models.CharField(max_length=3, default="USD")
    interval = models.CharField(max_length=8, choices=Interval, default=Interval.MONTH)
    base_amount = models.DecimalField(max_digits=20, decimal_places=4, default=0)
    is_in_advance = models.BooleanField(default=False, help_text="The base amount is due at the start.")
    trial_days = models.PositiveSmallIntegerField(
        default=0, help_text="Without base amount, for new tenants."
    )
    min_commitment = models.DecimalField(max_digits=20, decimal_places=4, default=0)
    proration = models.CharField(max_length=8, choices=Proration, default=Proration.DAY)
    base_tax = models.CharField(max_length=63, blank=True, help_text="Tax key of the base; empty: standard.")
    charges = models.JSONField(default=list)
    allowed_models = ArrayField(
        models.CharField(max_length=200), default=list, blank=True, help_text="Empty means all."
    )
    limits = models.JSONField(
        default=dict, blank=True, help_text="limit_rpm, limit_tpm, max_concurrent per tenant."
    )
    features = ArrayField(
        models.CharField(max_length=100),
        default=list,
        blank=True,
        help_text="What else it entitles to, by name.",
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("plan", "-number")
        constraints = (models.UniqueConstraint(fields=("plan", "number"), name="plan_version_once"),)

    def __str__(self) -> str:
        return f"{self.plan.slug}@{self.number}"


class Subscription(Stamped):
    """Which plan version a tenant is on, since when. History rows: a change ends one and begins another."""

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="subscriptions")
    plan_version = models.ForeignKey(PlanVersion, on_delete=models.PROTECT, related_name="subscriptions")
    start = models.DateTimeField()
    end = models.DateTimeField(null=True, blank=True)
    anchor_day = models.PositiveSmallIntegerField(default=1)
    trial_end = models.DateTimeField(null=True, blank=True)

    objects = OwnedQuerySet["Subscription"].as_manager()

    class Meta:
        ordering = ("-start",)
        constraints = (
            models.UniqueConstraint(
                fields=("tenant",), condition=models.Q(end__isnull=True), name="one_current_subscription"
            ),
            models.CheckConstraint(
                condition=models.Q(anchor_day__gte=1, anchor_day__lte=31), name="anchor_day_in_month"
            ),
        )

    def __str__(self) -> str:
        return f"{self.tenant} on {self.plan_version}"


class SubscriptionChange(Stamped):
    """What will become of a subscription at the end of its period: another plan, or its end (`plan` empty)."""

    class State(models.TextChoices):
        PENDING = "pending"
        DONE = "done"
        WITHDRAWN = "withdrawn"
        REFUSED = "refused"

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="subscription_changes")
    subscription = models.ForeignKey(Subscription, on_delete=models.PROTECT, related_name="changes")
    plan = models.ForeignKey(Plan, on_delete=models.PROTECT, null=True, blank=True, related_name="+")
    at = models.DateTimeField()
    state = models.CharField(max_length=16, choices=State, default=State.PENDING)
    detail = models.CharField(max_length=300, blank=True)

    objects = OwnedQuerySet["SubscriptionChange"].as_manager()

    class Meta:
        ordering = ("-id",)
        indexes = (models.Index(fields=("at",), condition=models.Q(state="pending"), name="change_due"),)
        constraints = (
            models.UniqueConstraint(
                fields=("tenant",), condition=models.Q(state="pending"), name="one_pending_change"
            ),
        )

    def __str__(self) -> str:
        return f"{self.subscription} to {self.plan or 'its end'}"
