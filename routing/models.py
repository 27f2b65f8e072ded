"""Where a call may go and what it costs there: providers, credentials, the catalogue, rates, policies.

Tenants are known, plans and prices are not.
"""

from django.contrib.postgres.constraints import ExclusionConstraint
from django.contrib.postgres.fields import ArrayField, DateTimeRangeField, RangeBoundary, RangeOperators
from django.db import models

from routing.types import DEFAULT_MAX_ATTEMPTS, Operation, ProviderKind
from tenants.ids import uuid7
from tenants.models import OwnedQuerySet, Stamped, Tenant


class Provider(Stamped):
    """An account at a model provider, or a server that speaks a provider's dialect."""

    slug = models.SlugField(max_length=63, unique=True)
    name = models.CharField(max_length=200)
    kind = models.CharField(max_length=32, choices=[(k.value, k.value) for k in ProviderKind])
    base_url = models.URLField(max_length=500, blank=True, help_text="Empty: the dialect's public address.")
    region = models.CharField(max_length=32, default="global")
    price_book = models.SlugField(
        max_length=63,
        blank=True,
        help_text="Catalogue whose rates apply where this provider has none of its own.",
    )
    options = models.JSONField(
        default=dict, blank=True, help_text="Dialect extras, e.g. api_version for Azure."
    )
    trains_on_data = models.BooleanField(
        null=True,
        blank=True,
        help_text="Whether the provider may train on what is sent. Unknown counts as yes.",
    )
    retention_days = models.PositiveIntegerField(
        null=True, blank=True, help_text="How long it keeps content. 0: zero retention; empty: unknown."
    )
    is_enabled = models.BooleanField(default=True)
    first_byte_timeout_s = models.FloatField(default=10.0)
    stall_timeout_s = models.FloatField(default=10.0)
    total_timeout_s = models.FloatField(default=600.0)

    class Meta:
        ordering = ("slug",)

    def __str__(self) -> str:
        return self.slug


class Credential(Stamped):
    """A secret for a provider, encrypted at rest. `tenant` empty: the operator's; else the tenant's own (BYO)."""

    provider = models.ForeignKey(Provider, on_delete=models.PROTECT, related_name="credentials")
    tenant = models.ForeignKey(
        Tenant, on_delete=models.PROTECT, null=True, blank=True, related_name="credentials"
    )
    label = models.CharField(max_length=100, blank=True)
    secret = models.BinaryField(help_text="AES-256-GCM under the owner's data key.")
    last_four = models.CharField(max_length=4, blank=True)
    base_url = models.URLField(max_length=500, blank=True)
    weight = models.PositiveIntegerField(
        default=1, help_text="Share of the calls among a provider's credentials."
    )
    limit_rpm = models.PositiveIntegerField(
        null=True, blank=True, help_text="The provider's own limit, where its headers do not tell it."
    )
    limit_tpm = models.PositiveIntegerField(null=True, blank=True)
    is_enabled = models.BooleanField(default=True)

    objects = OwnedQuerySet["Credential"].as_manager()

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"{self.provider.slug} …{self.last_four}"


class Model(Stamped):
    """A model of the catalogue, whoever serves it."""

    slug = models.CharField(max_length=200, unique=True)
    name = models.CharField(max_length=200)
    owned_by = models.CharField(max_length=100, blank=True)
    operations = ArrayField(models.CharField(max_length=32, choices=[(o.value, o.value) for o in Operation]))
    capabilities = ArrayField(models.CharField(max_length=32), default=list, blank=True)
    context_window = models.PositiveIntegerField(null=True, blank=True)
    max_output_tokens = models.PositiveIntegerField(null=True, blank=True)
    is_enabled = models.BooleanField(default=True, help_text="Off: nobody is served this model.")

    class Meta:
        ordering = ("slug",)

    def __str__(self) -> str:
        return self.slug


class EndpointQuerySet(models.QuerySet["Endpoint"]):
    def routable(self) -> "EndpointQuerySet":
        """Those that calls may go to: nothing about them is switched off, and no kill switch is thrown."""
        return (
            self.filter(is_enabled=True, provider__is_enabled=True, model__is_enabled=True)
            .exclude(provider__slug__in=KillSwitch.thrown_at_kind(KillSwitch.Kind.PROVIDER))
            .exclude(model__slug__in=KillSwitch.thrown_at_kind(KillSwitch.Kind.MODEL))
        )


class Endpoint(Stamped):
    """One provider serving one model under its own name."""

    provider = models.ForeignKey(Provider, on_delete=models.PROTECT, related_name="endpoints")
    model = models.ForeignKey(Model, on_delete=models.PROTECT, related_name="endpoints")
    provider_model = models.CharField(max_length=200)
    region = models.CharField(max_length=32, blank=True, help_text="Empty: the provider's.")
    weight = models.PositiveIntegerField(default=1)
    is_enabled = models.BooleanField(default=True)

    objects = EndpointQuerySet.as_manager()

    class Meta:
        ordering = ("model", "provider")
        constraints = (
            models.UniqueConstraint(
                fields=("provider", "provider_model", "model", "region"), name="endpoint_once"
            ),
        )

    def __str__(self) -> str:
        return f"{self.provider.slug}/{self.provider_model}"


class DateTimeRange(models.Func):
    """tstzrange(from, to, '[)') for the exclusion constraint."""

    function = "TSTZRANGE"
    output_field = DateTimeRangeField()


class CostRate(models.Model):
    """What a provider charges for one component of one model in one period (R2 to R5). Never updated, only closed.

    `provider` is a Provider's slug or a price book's. price / per is the price of one unit in `currency`.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    provider = models.CharField(max_length=63)
    provider_model = models.CharField(max_length=200)
    component = models.CharField(max_length=32)
    price = models.DecimalField(max_digits=20, decimal_places=10)
    per = models.PositiveIntegerField(default=1_000_000)
    currency = models.CharField(max_length=3, default="USD")
    service_tier = models.CharField(max_length=32, default="", blank=True)
    min_input_tokens = models.PositiveIntegerField(default=0)
    effective_from = models.DateTimeField()
    effective_to = models.DateTimeField(null=True, blank=True)
    source = models.CharField(
        max_length=16, choices=[(s, s) for s in ("manual", "catalogue", "contract")], default="manual"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("provider", "provider_model", "component", "min_input_tokens", "-effective_from")
        indexes = (models.Index(fields=("provider", "provider_model"), name="cost_rate_lookup"),)
        constraints = (
            models.CheckConstraint(condition=models.Q(price__gte=0), name="cost_rate_not_negative"),
            models.CheckConstraint(
                condition=models.Q(per__in=(1, 60, 1000, 3600, 1_000_000)), name="cost_rate_per"
            ),
            models.CheckConstraint(
                condition=models.Q(effective_to__isnull=True)
                | models.Q(effective_to__gt=models.F("effective_from")),
                name="cost_rate_period",
            ),
            ExclusionConstraint(
                name="cost_rate_no_overlap",
                expressions=(
                    ("provider", RangeOperators.EQUAL),
                    ("provider_model", RangeOperators.EQUAL),
                    ("component", RangeOperators.EQUAL),
                    ("service_tier", RangeOperators.EQUAL),
                    ("min_input_tokens", RangeOperators.EQUAL),
                    (
                        DateTimeRange("effective_from", "effective_to", RangeBoundary()),
                        RangeOperators.OVERLAPS,
                    ),
                ),
            ),
        )

    def __str__(self) -> str:
        return f"{self.provider}/{self.provider_model} {self.component} {self.price}/{self.per}"


class RoutingPolicy(Stamped):
    """A named way to choose among targets, called as `policy:<slug>`. `tenant` empty: for all tenants."""

    slug = models.SlugField(max_length=63)
    name = models.CharField(max_length=200, blank=True)
    tenant = models.ForeignKey(
        Tenant, on_delete=models.PROTECT, null=True, blank=True, related_name="routing_policies"
    )
    is_enabled = models.BooleanField(default=True)

    objects = OwnedQuerySet["RoutingPolicy"].as_manager()

    class Meta:
        ordering = ("slug",)
        constraints = (
            models.UniqueConstraint(fields=("tenant", "slug"), name="policy_slug_once", nulls_distinct=False),
        )

    def __str__(self) -> str:
        return self.slug


class RoutingPolicyVersion(models.Model):
    """One immutable wording of a policy; the highest number is in force."""

    class Strategy(models.TextChoices):
        COST = "cost"
        LATENCY = "latency"
        RELIABILITY = "reliability"
        SLO = "slo"
        WEIGHTED = "weighted"
        ORDERED = "ordered"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    policy = models.ForeignKey(RoutingPolicy, on_delete=models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    strategy = models.CharField(max_length=16, choices=Strategy)
    targets = models.JSONField(
        default=list,
        blank=True,
        help_text='Model slugs or {"model", "provider", "weight"}; empty means the whole catalogue.',
    )
    constraints = models.JSONField(
        default=dict, blank=True, help_text='{"regions": [], "max_price_per_million": ""} ...'
    )
    fallback = models.JSONField(
        default=list, blank=True, help_text="Targets tried after all others, in this order."
    )
    conduct = models.JSONField(
        default=dict,
        blank=True,
        help_text='{"recovery", "hold_back_tokens", "hedge_after_ms", "queue_ms"}: routing.types.Conduct.',
    )
    max_attempts = models.PositiveSmallIntegerField(default=DEFAULT_MAX_ATTEMPTS)
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.CharField(max_length=254, blank=True)

    class Meta:
        ordering = ("policy", "-number")
        constraints = (models.UniqueConstraint(fields=("policy", "number"), name="policy_version_once"),)

    def __str__(self) -> str:
        return f"{self.policy.slug}@{self.number}"


class Feature(Stamped):
    """A feature of the operator's product: the policy that rules its calls, and what it promises.

    `tenant` empty: for all tenants. A call names it in X-Tollhouse-Feature.
    """

    slug = models.CharField(max_length=100)
    name = models.CharField(max_length=200, blank=True)
    tenant = models.ForeignKey(
        Tenant, on_delete=models.PROTECT, null=True, blank=True, related_name="features"
    )
    policy = models.ForeignKey(
        RoutingPolicy, on_delete=models.PROTECT, null=True, blank=True, related_name="features"
    )
    slo_p95_ms = models.PositiveIntegerField(null=True, blank=True)
    slo_success = models.DecimalField(
        max_digits=6, decimal_places=5, null=True, blank=True, help_text="Share of calls, e.g. 0.999."
    )
    slo_max_cost = models.DecimalField(
        max_digits=20, decimal_places=10, null=True, blank=True, help_text="Per call, in USD."
    )

    objects = OwnedQuerySet["Feature"].as_manager()

    class Meta:
        ordering = ("slug",)
        constraints = (
            models.UniqueConstraint(
                fields=("tenant", "slug"), name="feature_slug_once", nulls_distinct=False
            ),
            models.CheckConstraint(
                condition=models.Q(slo_success__isnull=True) | models.Q(slo_success__gt=0, slo_success__lt=1),
                name="feature_success_share",
            ),
        )

    def __str__(self) -> str:
        return self.slug


class PolicyBinding(Stamped):
    """The policy that rules the calls of a tenant, or of all tenants on a plan. A feature's own goes first."""

    policy = models.ForeignKey(RoutingPolicy, on_delete=models.PROTECT, related_name="bindings")
    tenant = models.ForeignKey(
        Tenant, on_delete=models.PROTECT, null=True, blank=True, related_name="policy_bindings"
    )
    plan = models.SlugField(
        max_length=63, blank=True, help_text="A plan's slug; empty for a tenant's binding."
    )

    objects = OwnedQuerySet["PolicyBinding"].as_manager()

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(fields=("tenant", "plan"), name="binding_once", nulls_distinct=False),
            models.CheckConstraint(
                condition=models.Q(tenant__isnull=False, plan="")
                | (models.Q(tenant__isnull=True) & ~models.Q(plan="")),
                name="binding_of_tenant_or_plan",
            ),
        )

    def __str__(self) -> str:
        return f"{self.policy} for {self.tenant or self.plan}"


class KillSwitch(models.Model):
    """A provider, a model or a tenant that was cut off at once: by whom, when, why, and when it came back.

    Stands above `is_enabled`: while `restored_at` is empty nothing goes there. Never deleted.
    """

    class Kind(models.TextChoices):
        PROVIDER = "provider"
        MODEL = "model"
        TENANT = "tenant"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    kind = models.CharField(max_length=16, choices=Kind)
    target = models.CharField(max_length=200, help_text="The slug.")
    reason = models.CharField(max_length=500)
    before = models.JSONField(default=dict, help_text="What it was, so that a restore gives back just that.")
    thrown_at = models.DateTimeField(auto_now_add=True)
    thrown_by = models.CharField(max_length=254)
    restored_at = models.DateTimeField(null=True, blank=True)
    restored_by = models.CharField(max_length=254, blank=True)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(
                fields=("kind", "target"),
                condition=models.Q(restored_at__isnull=True),
                name="kill_switch_thrown_once",
            ),
        )

    def __str__(self) -> str:
        return f"{self.kind} {self.target}"

    @classmethod
    def thrown_at_kind(cls, kind: str) -> models.QuerySet["KillSwitch", str]:
        """The slugs of this kind that are cut off now."""
        return cls.objects.filter(kind=kind, restored_at=None).values_list("target", flat=True)


from routing.experiments.models import (  # noqa: E402, F401 - of this app; they name the models above
    Experiment,
    PolicyShadow,
    Rollout,
    RolloutDecision,
)
from routing.health.models import HealthSample, Incident  # noqa: E402, F401 - as above
