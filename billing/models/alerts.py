"""What is watched, who is told, what was found, and every attempt to tell it.

A firing is what happened; a delivery is one message about it to one channel, with an attempt for each try.
Rows are what survives a killed worker: a delivery is due at `next_at` until it is delivered, dead or folded.
"""

from django.contrib.postgres.fields import ArrayField
from django.db import models

from billing.models.budgets import Budget
from tenants.encryption import seal, unseal
from tenants.models import ApiKey, OwnedQuerySet, Stamped, Tenant


class AlertChannel(Stamped):
    """Where a tenant, or the operator (`tenant` empty), is told. What opens the door is sealed.

    `target` is fit to be shown: addresses, a webhook's URL, a Slack URL or PagerDuty key without its secret
    part. `sealed` holds the Slack URL, the PagerDuty routing key or the webhook's signing secrets.
    """

    class Kind(models.TextChoices):
        EMAIL = "email"
        SLACK = "slack"
        WEBHOOK = "webhook"
        PAGERDUTY = "pagerduty"

    tenant = models.ForeignKey(
        Tenant, on_delete=models.PROTECT, null=True, blank=True, related_name="alert_channels"
    )
    name = models.CharField(max_length=100)
    kind = models.CharField(max_length=16, choices=Kind)
    target = models.CharField(max_length=2000)
    sealed = models.BinaryField(null=True, blank=True)
    is_enabled = models.BooleanField(default=True)
    is_default = models.BooleanField(default=True, help_text="Told of budgets' own thresholds.")
    timezone = models.CharField(max_length=64, default="UTC")
    quiet_from = models.TimeField(null=True, blank=True, help_text="Local; critical alerts come through.")
    quiet_to = models.TimeField(null=True, blank=True)

    objects = OwnedQuerySet["AlertChannel"].as_manager()

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.CheckConstraint(
                condition=models.Q(quiet_from__isnull=True, quiet_to__isnull=True)
                | models.Q(quiet_from__isnull=False, quiet_to__isnull=False),
                name="alert_channel_quiet_hours_whole",
            ),
        )

    def __str__(self) -> str:
        return f"{self.name} ({self.kind})"

    def put_secret(self, text: str) -> None:
        """Seal `text` for this row. The caller saves."""
        self.sealed = seal(text, tenant=self.tenant, context=self._context)

    def secret(self) -> str:
        """What `put_secret` sealed; empty for a channel that has none. Raises SealBrokenError."""
        if self.sealed is None:
            return ""
        return unseal(bytes(self.sealed), tenant=self.tenant, context=self._context)

    @property
    def _context(self) -> str:
        return f"billing_alertchannel|{self.pk}|sealed"


class AlertRule(Stamped):
    """Something to watch beyond the thresholds that budgets have themselves.

    Empty scope fields match everything inside the tenant; `tenant` empty watches the whole platform and is
    the operator's. Thresholds are in percent (budget, margin, error rate), in the budget's own unit
    (`unit` absolute), in milliseconds (latency) or a score (anomaly).
    """

    class Kind(models.TextChoices):
        BUDGET = "budget"
        ANOMALY = "anomaly"
        MARGIN = "margin"
        ERROR_RATE = "error_rate"
        LATENCY_P95 = "latency_p95"

    class Basis(models.TextChoices):
        ACTUAL = "actual"
        FORECAST = "forecast"

    class Unit(models.TextChoices):
        PERCENT = "percent"
        ABSOLUTE = "absolute"

    class Severity(models.TextChoices):
        INFO = "info"
        WARNING = "warning"
        CRITICAL = "critical"

    class Window(models.TextChoices):
        DAY = "day"
        WEEK = "week"
        MONTH = "month"

    class Action(models.TextChoices):
        THROTTLE_KEY = "throttle_key"
        FREEZE_KEY = "freeze_key"

    tenant = models.ForeignKey(
        Tenant, on_delete=models.PROTECT, null=True, blank=True, related_name="alert_rules"
    )
    name = models.CharField(max_length=100)
    kind = models.CharField(max_length=16, choices=Kind)
    budget = models.ForeignKey(
        Budget, on_delete=models.CASCADE, null=True, blank=True, related_name="alert_rules"
    )
    api_key = models.ForeignKey(
        ApiKey, on_delete=models.PROTECT, null=True, blank=True, related_name="alert_rules"
    )
    feature = models.CharField(max_length=100, blank=True)
    model = models.CharField(max_length=200, blank=True)
    provider = models.CharField(max_length=63, blank=True)
    basis = models.CharField(max_length=16, choices=Basis, default=Basis.ACTUAL)
    unit = models.CharField(max_length=16, choices=Unit, default=Unit.PERCENT)
    thresholds = ArrayField(models.DecimalField(max_digits=24, decimal_places=6))
    window = models.CharField(max_length=16, choices=Window, default=Window.DAY, help_text="Of a margin.")
    span_s = models.PositiveIntegerField(default=300, help_text="Error rate and latency: how far back.")
    min_requests = models.PositiveIntegerField(default=20, help_text="Fewer say nothing.")
    min_amount = models.DecimalField(
        max_digits=24, decimal_places=6, default=1, help_text="Anomaly and margin: less money says nothing."
    )
    severity = models.CharField(max_length=16, choices=Severity, default=Severity.WARNING)
    actions = ArrayField(models.CharField(max_length=16, choices=Action), default=list, blank=True)
    throttle_rpm = models.PositiveIntegerField(null=True, blank=True)
    is_enabled = models.BooleanField(default=True)

    objects = OwnedQuerySet["AlertRule"].as_manager()

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.CheckConstraint(
                condition=models.Q(kind="budget", budget__isnull=False)
                | (~models.Q(kind="budget") & models.Q(budget__isnull=True)),
                name="alert_rule_names_its_budget",
            ),
            models.CheckConstraint(
                condition=~models.Q(actions__contains=["throttle_key"])
                | models.Q(throttle_rpm__isnull=False),
                name="alert_rule_throttles_to_a_rate",
            ),
        )

    def __str__(self) -> str:
        return f"{self.name} ({self.kind})"


class AlertStep(models.Model):
    """Whom a rule tells, `after_s` seconds after it fires; later steps only while nobody acknowledged."""

    rule = models.ForeignKey(AlertRule, on_delete=models.CASCADE, related_name="steps")
    channel = models.ForeignKey(AlertChannel, on_delete=models.CASCADE, related_name="steps")
    after_s = models.PositiveIntegerField(default=0)

    class Meta:
        ordering = ("after_s", "id")
        constraints = (
            models.UniqueConstraint(fields=("rule", "channel", "after_s"), name="alert_step_once"),
        )

    def __str__(self) -> str:
        return f"{self.channel} after {self.after_s} s"


class AlertWatch(models.Model):
    """A forecast seen beyond its threshold once: what two evaluations in a row have to agree on."""

    subject = models.CharField(max_length=64)
    window = models.CharField(max_length=64)
    threshold = models.DecimalField(max_digits=24, decimal_places=6)
    seen_at = models.DateTimeField()

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=("subject", "window", "threshold"), name="alert_watch_once"),
        )

    def __str__(self) -> str:
        return f"{self.subject} {self.threshold} since {self.seen_at}"


class AlertFiring(Stamped):
    """A threshold reached: once per subject, window and threshold, until the budget's limit is raised.

    `subject` is `budget:<id>` for a budget's own thresholds, `rule:<id>` for a rule's. Amounts are in units
    of `currency`; elsewhere in the kind's own unit. `is_cost` marks what only `cost:read` may see.
    """

    tenant = models.ForeignKey(
        Tenant, on_delete=models.PROTECT, null=True, blank=True, related_name="alert_firings"
    )
    rule = models.ForeignKey(
        AlertRule, on_delete=models.SET_NULL, null=True, blank=True, related_name="firings"
    )
    budget = models.ForeignKey(
        Budget, on_delete=models.SET_NULL, null=True, blank=True, related_name="firings"
    )
    subject = models.CharField(max_length=64)
    kind = models.CharField(max_length=16, choices=AlertRule.Kind)
    basis = models.CharField(max_length=16, choices=AlertRule.Basis, default=AlertRule.Basis.ACTUAL)
    severity = models.CharField(max_length=16, choices=AlertRule.Severity)
    window = models.CharField(max_length=64)
    window_start = models.DateTimeField()
    window_end = models.DateTimeField(null=True)
    threshold = models.DecimalField(max_digits=24, decimal_places=6)
    unit = models.CharField(max_length=16)
    value = models.DecimalField(max_digits=38, decimal_places=12)
    limit = models.DecimalField(max_digits=38, decimal_places=12, null=True)
    currency = models.CharField(max_length=3, blank=True)
    is_cost = models.BooleanField(default=False)
    title = models.CharField(max_length=300)
    body = models.TextField()
    facts = models.JSONField(default=dict)
    fired_at = models.DateTimeField()
    rearmed_at = models.DateTimeField(null=True)
    resolved_at = models.DateTimeField(null=True)
    acknowledged_at = models.DateTimeField(null=True)
    acknowledged_by = models.CharField(max_length=254, blank=True)
    snoozed_until = models.DateTimeField(null=True)

    objects = OwnedQuerySet["AlertFiring"].as_manager()

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(
                fields=("subject", "window", "threshold"),
                condition=models.Q(rearmed_at__isnull=True),
                name="alert_fires_once",
            ),
        )
        indexes = (
            models.Index(
                fields=("window_end",), condition=models.Q(resolved_at__isnull=True), name="alert_open"
            ),
        )

    def __str__(self) -> str:
        return self.title

    @property
    def state(self) -> str:
        """firing, acknowledged or resolved."""
        if self.resolved_at is not None:
            return "resolved"
        return "acknowledged" if self.acknowledged_at is not None else "firing"


class AlertDelivery(Stamped):
    """One message to one channel. Its id is the message's, over all attempts and replays.

    Due at `next_at` while pending; `lease_until` keeps others off while somebody sends. A message with
    `after_s` above zero waits for nobody to acknowledge, and one may be folded into a `digest`. `tenant` is
    the channel's: nobody reads of messages to other people's channels.
    """

    class Event(models.TextChoices):
        FIRED = "fired"
        ACKNOWLEDGED = "acknowledged"
        RESOLVED = "resolved"
        DIGEST = "digest"
        TEST = "test"

    class State(models.TextChoices):
        PENDING = "pending"
        DELIVERED = "delivered"
        DEAD = "dead"
        CANCELLED = "cancelled"
        FOLDED = "folded"

    tenant = models.ForeignKey(
        Tenant, on_delete=models.PROTECT, null=True, blank=True, related_name="alert_deliveries"
    )
    firing = models.ForeignKey(
        AlertFiring, on_delete=models.CASCADE, null=True, blank=True, related_name="deliveries"
    )
    channel = models.ForeignKey(
        AlertChannel, on_delete=models.SET_NULL, null=True, blank=True, related_name="deliveries"
    )
    channel_label = models.CharField(max_length=200)
    event = models.CharField(max_length=16, choices=Event)
    after_s = models.PositiveIntegerField(default=0)
    payload = models.JSONField()
    state = models.CharField(max_length=16, choices=State, default=State.PENDING)
    attempts = models.PositiveSmallIntegerField(default=0)
    next_at = models.DateTimeField()
    lease_until = models.DateTimeField(null=True)
    delivered_at = models.DateTimeField(null=True)
    digest = models.ForeignKey(
        "self", on_delete=models.SET_NULL, null=True, blank=True, related_name="folded"
    )

    objects = OwnedQuerySet["AlertDelivery"].as_manager()

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(
                fields=("firing", "channel", "event", "after_s"), name="alert_told_once_per_step"
            ),
        )
        indexes = (
            models.Index(fields=("next_at",), condition=models.Q(state="pending"), name="alert_due"),
            models.Index(fields=("channel", "created_at"), name="alert_by_channel"),
        )

    def __str__(self) -> str:
        return f"{self.event} to {self.channel_label}: {self.state}"


class AlertAttempt(models.Model):
    """One try of a delivery. `finished_at` empty: under way, or whoever tried it died."""

    delivery = models.ForeignKey(AlertDelivery, on_delete=models.CASCADE, related_name="log")
    number = models.PositiveSmallIntegerField()
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)
    status = models.PositiveSmallIntegerField(null=True, help_text="The receiver's HTTP status.")
    detail = models.CharField(max_length=300, blank=True)

    class Meta:
        ordering = ("delivery", "number")
        constraints = (models.UniqueConstraint(fields=("delivery", "number"), name="alert_attempt_once"),)
        indexes = (models.Index(fields=("started_at",), name="alert_attempt_when"),)

    def __str__(self) -> str:
        return f"attempt {self.number}: {self.status or self.detail}"


class AlertAction(Stamped):
    """What a firing did to a key, and how it is undone: a throttle is taken back when `until` has come."""

    firing = models.ForeignKey(AlertFiring, on_delete=models.CASCADE, related_name="actions")
    api_key = models.ForeignKey(ApiKey, on_delete=models.PROTECT, related_name="alert_actions")
    action = models.CharField(max_length=16, choices=AlertRule.Action)
    limit_rpm = models.PositiveIntegerField(null=True, help_text="What the throttle set.")
    limit_rpm_before = models.PositiveIntegerField(null=True)
    until = models.DateTimeField(null=True)
    undone_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(fields=("firing", "api_key", "action"), name="alert_acts_once"),
        )

    def __str__(self) -> str:
        return f"{self.action} on {self.api_key}"
