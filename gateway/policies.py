"""The control plane's resources of routing that must see billing too: features, bindings, simulated calls.

What rules whose calls is what the operator demands of its tenants, so the operator alone writes here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from decimal import Decimal
from typing import Any, ClassVar, Final, cast
from uuid import UUID

from django.conf import settings
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing.api import BudgetSerializer
from billing.budgets.count import MONEY
from billing.models import Budget, Plan
from gateway import simulate
from gateway.replay.api import WordingSerializer
from routing.api import SLUG, PolicyResource, SlugOfTenant
from routing.models import Feature, PolicyBinding, RoutingPolicy, RoutingPolicyVersion
from routing.policies import bindings, wordings
from routing.policies.names import POLICY_PREFIX
from routing.types import Operation, RoutePlan
from tenants import audit, versions
from tenants.errors import ApiError
from tenants.models import ApiKey, Tenant
from tenants.principal import Principal
from tenants.rest import Resource, StrictSerializer, TenantField

BEYOND_FEATURES: Final[Mapping[str, str]] = {
    "window": Budget.Window.ROLLING.value,
    "mode": Budget.Mode.THROTTLE.value,
}
"""What a budget nested in a feature cannot say, because it needs fields that only /budgets/ has."""
FEATURE_SLUG = r"^[A-Za-z0-9](?:[A-Za-z0-9._:-]{0,99})$"


# ------------------------------------------------------------------ features


class SloSerializer(StrictSerializer):
    """What a feature promises: latency, success, and what a call may cost. Null promises nothing."""

    p95_ms = serializers.IntegerField(
        source="slo_p95_ms", min_value=1, max_value=3_600_000, required=False, allow_null=True
    )
    success = serializers.DecimalField(
        source="slo_success",
        max_digits=6,
        decimal_places=5,
        required=False,
        allow_null=True,
        help_text="Share of calls, above 0 and below 1.",
    )
    max_cost = serializers.DecimalField(
        source="slo_max_cost",
        max_digits=20,
        decimal_places=10,
        min_value=Decimal(0),
        required=False,
        allow_null=True,
        help_text="Per call, in USD.",
    )

    def validate_success(self, value: Decimal | None) -> Decimal | None:
        if value is not None and not 0 < value < 1:
            raise serializers.ValidationError("A share of calls lies above 0 and below 1.")
        return value


class FeatureBudgetSerializer(BudgetSerializer):
    """The budget of a feature: as in /budgets/, its scope is the feature's tenant and slug."""

    class Meta(BudgetSerializer.Meta):
        fields = (
            "id", "name", "measure", "limit", "mode", "window", "anchor_day", "week_start", "thresholds",
            "is_enabled", "spent", "remaining", "window_start", "window_end",
        )  # fmt: skip

    scope = None  # type: ignore[assignment]  # DRF's way to drop a field

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """What must go together is seen where the budget is known, in `_put_budget`."""
        if "window" in attrs:
            attrs["rolling_s"] = None
        return attrs


class FeatureSerializer(StrictSerializer, serializers.ModelSerializer[Feature]):
    """A feature of the operator's product, of one tenant or (without `tenant`) of all.

    `policy` rules the calls that name it in X-Tollhouse-Feature; `slo` is what the strategy `slo` works for.
    """

    slug = serializers.RegexField(FEATURE_SLUG, max_length=100)
    tenant = TenantField(required=False, allow_null=True, default=None)
    policy = serializers.RegexField(SLUG, max_length=63, required=False, allow_null=True)
    slo = SloSerializer(source="*", required=False)
    budget = FeatureBudgetSerializer(required=False, allow_null=True)

    class Meta:
        model = Feature
        fields = ("id", "slug", "name", "tenant", "policy", "slo", "budget", "created_at", "updated_at")
        read_only_fields = ("id", "created_at", "updated_at")
        # The verb says conflict; the serializer's own check would demand every field.
        validators: ClassVar[list[Any]] = []

    def to_representation(self, instance: Feature) -> dict[str, Any]:
        budget = budget_of(instance)
        return {
            "id": str(instance.pk),
            "slug": instance.slug,
            "name": instance.name,
            "tenant": instance.tenant.slug if instance.tenant else None,
            "policy": instance.policy.slug if instance.policy else None,
            "slo": SloSerializer(instance).data,
            "budget": FeatureBudgetSerializer(budget, context=self.context).data if budget else None,
            "created_at": instance.created_at,
            "updated_at": instance.updated_at,
        }


class FeatureResource(SlugOfTenant[Feature]):
    """Features: the policy that rules their calls, what they promise, what they may spend."""

    queryset = Feature.objects.select_related("tenant", "policy")
    serializer_class = FeatureSerializer
    read_scope, write_scope = "policies:read", "policies:write"
    section = "routing"
    filters: ClassVar = {"tenant": "tenant__slug", "slug": "slug", "policy": "policy__slug"}

    def authorize(self, principal: Principal) -> None:
        """Tenants read theirs. Raises ApiError: permission_denied, not_found."""
        super().authorize(principal)
        _operator_writes(self)

    def perform_create(self, serializer: serializers.BaseSerializer[Feature]) -> None:
        """Raises ApiError as `bindings.add_feature`, and for a budget as /budgets/."""
        given = dict(serializer.validated_data)
        slug, tenant, budget = given.pop("slug"), given.pop("tenant"), given.pop("budget", None)
        if budget is not None:
            versions.bump("billing")  # before the first audit event: everybody locks in that order
        feature = bindings.add_feature(
            slug=slug, tenant=tenant, values=_with_policy(given, tenant), actor=self.principal
        )
        if budget is not None:
            self._put_budget(feature, budget)
        serializer.instance = feature

    def perform_update(self, serializer: serializers.BaseSerializer[Feature]) -> None:
        """Raises ApiError as `bindings.change_feature`, and for a budget as /budgets/."""
        feature = cast("Feature", serializer.instance)
        given = dict(serializer.validated_data)
        for name, held in (("slug", feature.slug), ("tenant", feature.tenant)):
            if name in given and given.pop(name) != held:
                raise ApiError("invalid_request", f"The {name} of a feature cannot change.", param=name)
        has_budget, budget = "budget" in given, given.pop("budget", None)
        if has_budget:
            versions.bump("billing")  # before the first audit event: everybody locks in that order
        if given or not has_budget:
            feature = bindings.change_feature(
                feature=feature, changes=_with_policy(given, feature.tenant), actor=self.principal
            )
        if has_budget:
            self._put_budget(feature, budget)
        serializer.instance = feature

    def perform_destroy(self, instance: Feature) -> None:
        """Its budget stays: it counts what is spent under the feature's name, and is ended on its own."""
        bindings.remove_feature(feature=instance, actor=self.principal)

    def _put_budget(self, feature: Feature, given: Mapping[str, Any] | None) -> None:
        """Make, change, or (None) switch off the feature's budget; `billing` is bumped. Raises as /budgets/ does."""
        if feature.tenant is None:
            raise ApiError(
                "invalid_request",
                "Give each tenant's feature its budget: this one is of all.",
                param="budget",
            )
        self.require("budgets:write", feature.tenant)
        if given is not None and given.get("measure") == Budget.Measure.COST:
            self.require("cost:read", feature.tenant)
        for name, beyond in BEYOND_FEATURES.items():
            if given is not None and given.get(name) == beyond:
                raise ApiError(
                    "invalid_request",
                    f"The {name} {beyond!r} needs more: use /budgets/.",
                    param=f"budget.{name}",
                )
        budget = budget_of(feature)
        if budget is None and given is None:
            return
        if budget is None and given is not None and "limit" not in given:
            raise ApiError("invalid_request", "A budget needs a limit.", param="budget.limit")
        before = None if budget is None else _picture(budget)
        values: Mapping[str, Any] = {"is_enabled": False} if given is None else given
        if budget is None:
            budget = Budget.objects.create(tenant=feature.tenant, feature=feature.slug, **values)
        else:
            for name, value in values.items():
                setattr(budget, name, value)
            budget.save()
        if budget.measure not in MONEY and budget.limit != int(budget.limit):
            raise ApiError(
                "invalid_request", f"There are no fractions of {budget.measure}.", param="budget.limit"
            )
        audit.record(
            principal=self.principal,
            action="budget.create" if before is None else "budget.update",
            object_type="budget",
            object_id=budget.pk,
            tenant=feature.tenant,
            before=before,
            after=_picture(budget),
        )


def budget_of(feature: Feature) -> Budget | None:
    """The enabled budget whose scope is just this feature of its tenant: the oldest, should there be several."""
    return budgets_of([feature]).get(feature.pk)


def budgets_of(features: Sequence[Feature]) -> Mapping[UUID, Budget]:
    """The features' own budgets, by the feature's id; one query. Features of all tenants have none."""
    owned = {(feature.tenant_id, feature.slug): feature.pk for feature in features if feature.tenant_id}
    rows = (
        Budget.objects.filter(
            tenant__in={tenant for tenant, _ in owned},
            feature__in={slug for _, slug in owned},
            api_key=None,
            plan=None,
            model="",
            provider="",
            tag="",
            end_user="",
            is_enabled=True,
        )
        .select_related("tenant")
        .order_by("-id")
    )
    return {owned[key]: row for row in rows if (key := (row.tenant_id, row.feature)) in owned}


def _picture(budget: Budget) -> dict[str, Any]:
    names = (
        "feature",
        "measure",
        "limit",
        "mode",
        "window",
        "anchor_day",
        "week_start",
        "thresholds",
        "is_enabled",
    )
    return {name: getattr(budget, name) for name in names}


def _with_policy(given: Mapping[str, Any], tenant: Tenant | None) -> dict[str, Any]:
    """The policy's slug as the policy. Raises ApiError: invalid_request."""
    values = dict(given)
    if values.get("policy") is not None:
        values["policy"] = bindings.policy_for(slug=values["policy"], tenant=tenant)
    return values


# ------------------------------------------------------------------ bindings


class BindingSerializer(StrictSerializer, serializers.ModelSerializer[PolicyBinding]):
    """The policy that rules the calls of one tenant, or of all tenants on a plan (its slug)."""

    policy = serializers.SlugField(max_length=63)
    tenant = TenantField(required=False, allow_null=True, default=None)
    plan = serializers.SlugField(max_length=63, required=False, allow_null=True, default=None)
    version = serializers.SerializerMethodField()

    class Meta:
        model = PolicyBinding
        fields = ("id", "policy", "version", "tenant", "plan", "created_at", "updated_at")
        read_only_fields = ("id", "version", "created_at", "updated_at")
        # The verb says conflict; the serializer's own check would demand every field.
        validators: ClassVar[list[Any]] = []

    def get_version(self, row: PolicyBinding) -> str:
        """`slug@version` in force."""
        return f"{row.policy.slug}@{_newest(row.policy)}"

    def to_representation(self, instance: PolicyBinding) -> dict[str, Any]:
        return {
            "id": str(instance.pk),
            "policy": instance.policy.slug,
            "version": self.get_version(instance),
            "tenant": instance.tenant.slug if instance.tenant else None,
            "plan": instance.plan or None,
            "created_at": instance.created_at,
            "updated_at": instance.updated_at,
        }


class BindingResource(Resource[PolicyBinding]):
    """Which policy rules whose calls. A feature's own policy goes before its tenant's, that before its plan's."""

    queryset = PolicyBinding.objects.select_related("policy", "policy__tenant", "tenant")
    serializer_class = BindingSerializer
    read_scope, write_scope = "policies:read", "policies:write"
    section = "routing"
    filters: ClassVar = {"tenant": "tenant__slug", "plan": "plan", "policy": "policy__slug"}

    def authorize(self, principal: Principal) -> None:
        """Tenants read theirs. Raises ApiError: permission_denied, not_found."""
        super().authorize(principal)
        _operator_writes(self)

    def perform_create(self, serializer: serializers.BaseSerializer[PolicyBinding]) -> None:
        """Raises ApiError as `bindings.bind`; invalid_request for an unknown plan."""
        given = serializer.validated_data
        plan = given["plan"] or ""
        if plan and not Plan.objects.filter(slug=plan).exists():
            raise ApiError("invalid_request", f"There is no plan {plan!r}.", param="plan")
        serializer.instance = bindings.bind(
            policy=bindings.policy_for(slug=given["policy"], tenant=given["tenant"]),
            tenant=given["tenant"],
            plan=plan,
            actor=self.principal,
        )

    def perform_update(self, serializer: serializers.BaseSerializer[PolicyBinding]) -> None:
        """Another policy in the same place. Raises ApiError as `bindings.rebind`."""
        row = cast("PolicyBinding", serializer.instance)
        given = serializer.validated_data
        for name, held in (("tenant", row.tenant), ("plan", row.plan or None)):
            if name in given and given[name] != held:
                raise ApiError("invalid_request", f"The {name} cannot change: bind anew.", param=name)
        if "policy" not in given:
            raise ApiError("invalid_request", "Name the policy.", param="policy")
        serializer.instance = bindings.rebind(
            binding=row,
            policy=bindings.policy_for(slug=given["policy"], tenant=row.tenant),
            actor=self.principal,
        )

    def perform_destroy(self, instance: PolicyBinding) -> None:
        bindings.unbind(binding=instance, actor=self.principal)


def _newest(policy: RoutingPolicy) -> int:
    return int(policy.versions.order_by("-number").values_list("number", flat=True).first() or 0)


def _operator_writes(view: FeatureResource | BindingResource) -> None:
    if view.request.method not in ("GET", "HEAD"):
        view.require(str(view.scope_wanted()), None)


# ------------------------------------------------------------------ simulated calls


class SimulateSerializer(StrictSerializer):
    """A call that is planned and not made. `wording` stands in for the policy's: an edit before it is saved."""

    tenant = TenantField(help_text="Whose call it would be: its plan, regions, bindings and own keys count.")
    model = serializers.CharField(
        max_length=300,
        required=False,
        help_text="What the caller names: a model, `auto`, an alias. Without it this policy.",
    )
    operation = serializers.ChoiceField(
        choices=[(each.value, each.name) for each in Operation], default=Operation.CHAT.value
    )
    request = serializers.DictField(
        required=False, help_text="The body of the call: capabilities and token counts are read off it."
    )
    provider = serializers.DictField(required=False, help_text="Provider preferences, as in the body.")
    input_tokens = serializers.IntegerField(min_value=0, max_value=2**31 - 1, required=False)
    output_tokens = serializers.IntegerField(min_value=0, max_value=2**31 - 1, required=False)
    capabilities = serializers.ListField(
        child=serializers.CharField(max_length=32), required=False, max_length=50
    )
    feature = serializers.CharField(max_length=100, required=False, allow_blank=True, default="")
    key = serializers.UUIDField(required=False, allow_null=True, help_text="Id of one of the tenant's keys.")
    user = serializers.CharField(max_length=200, required=False, allow_blank=True, default="")
    tags = serializers.DictField(child=serializers.CharField(max_length=200), required=False)
    draw = serializers.FloatField(
        min_value=0, max_value=1, required=False, help_text="What chance says, in [0, 1); 0.5 by default."
    )
    wording = WordingSerializer(required=False)

    def validate_draw(self, value: float) -> float:
        if value >= 1:
            raise serializers.ValidationError("This must be below 1.")
        return value


class KeptSerializer(serializers.Serializer[simulate.Kept]):
    """A target in the order in which it would be tried. Null without the scope `cost:read`: score and cost."""

    endpoint = serializers.CharField(source="target.endpoint_id")
    provider = serializers.CharField(source="target.provider")
    provider_model = serializers.CharField(source="target.provider_model")
    model = serializers.CharField(source="target.model")
    region = serializers.CharField(source="target.region")
    credential = serializers.CharField(source="target.credential_id")
    is_own = serializers.BooleanField(source="target.is_own")
    score = serializers.FloatField(allow_null=True)
    reason = serializers.CharField()
    cost = serializers.CharField(allow_null=True)
    currency = serializers.CharField()


class DroppedSerializer(serializers.Serializer[Any]):
    """A target that is left out, and why. Without an endpoint: a target of the policy that nobody serves."""

    endpoint = serializers.CharField(source="endpoint_id")
    provider = serializers.CharField()
    model = serializers.CharField()
    reason = serializers.CharField()


class RefusalSerializer(serializers.Serializer[ApiError]):
    """What the caller would get in place of an answer."""

    code = serializers.CharField()
    status = serializers.IntegerField()
    message = serializers.CharField()
    param = serializers.CharField(allow_null=True)


class SimulatedSerializer(serializers.Serializer[Any]):
    """The planner's answer. `health` tells whether the providers' present state was known to it."""

    policy = serializers.CharField(help_text="slug@version that rules the call, or empty.")
    binding = serializers.CharField(help_text="What the policy is bound to; empty for one that was named.")
    strategy = serializers.CharField()
    input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    capabilities = serializers.ListField(child=serializers.CharField())
    health = serializers.ChoiceField(choices=("live", "unknown"))
    conduct = serializers.DictField(allow_null=True)
    experiment = serializers.DictField(allow_null=True, help_text="The arm this call was given.")
    shadow = serializers.DictField(allow_null=True, help_text="Where a copy of this call would go.")
    kept = KeptSerializer(many=True)
    dropped = DroppedSerializer(many=True)
    refusal = RefusalSerializer(allow_null=True)


class SimulationResource(PolicyResource):
    """Plans a call by a policy, for the operator: reasons tell what providers charge and how they are."""

    readonly_actions = ("simulate",)
    action_scopes: ClassVar = {"simulate": "policies:read"}
    http_method_names = ["post"]

    @extend_schema(request=SimulateSerializer, responses={200: SimulatedSerializer})
    def simulate(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Where such a call would go now, in which order, and why; nothing is sent, nothing is counted."""
        policy = self.get_object()
        self.require("policies:read", None)
        wanted = SimulateSerializer(data=request.data, context=self.get_serializer_context())
        wanted.is_valid(raise_exception=True)
        given = wanted.validated_data
        may_see_cost = self.principal.can("cost:read")
        answer = simulate.simulate(
            imagined=_imagined(policy, given),
            candidate=_candidate(policy, given.get("wording")),
            allow_unpriced=settings.TOLLHOUSE_ALLOW_UNPRICED,
            explain=may_see_cost,
        )
        return Response(SimulatedSerializer(shown(answer, may_see_cost=may_see_cost)).data)


def shown(answer: simulate.Simulated, *, may_see_cost: bool) -> dict[str, Any]:
    """The answer as it leaves: without scores and costs for who may not see what providers charge."""
    route = answer.plan
    kept = answer.kept
    if not may_see_cost:
        kept = [replace(each, score=None, cost=None) for each in kept]
    return {
        "policy": answer.policy,
        "binding": answer.binding,
        "strategy": route.strategy if route else "",
        "input_tokens": answer.input_tokens,
        "output_tokens": answer.output_tokens,
        "capabilities": sorted(answer.capabilities),
        "health": answer.health,
        "conduct": asdict(route.conduct) if route else None,
        "experiment": asdict(route.assignment) if route and route.assignment else None,
        "shadow": _mirror(route) if route else None,
        "kept": kept,
        "dropped": answer.dropped,
        "refusal": answer.refusal,
    }


def _mirror(route: RoutePlan) -> dict[str, Any] | None:
    mirror = route.mirror
    if mirror is None:
        return None
    return {
        "provider": mirror.target.provider,
        "model": mirror.target.model,
        "reason": mirror.reason,
        "rollout": mirror.rollout,
    }


def _imagined(policy: RoutingPolicy, given: Mapping[str, Any]) -> simulate.Imagined:
    """Raises ApiError: invalid_request for a key that is not the tenant's."""
    tenant: Tenant = given["tenant"]
    if policy.tenant is not None and policy.tenant != tenant:
        raise ApiError("invalid_request", "This policy is another tenant's.", param="tenant")
    key = None
    if given.get("key") is not None:
        key = ApiKey.objects.filter(pk=given["key"], tenant=tenant).first()
        if key is None:
            raise ApiError("invalid_request", "The tenant has no such key.", param="key")
    body = dict(given.get("request", {}))
    named = body.pop("model", None)
    capabilities = given.get("capabilities")
    return simulate.Imagined(
        model=given.get("model") or named or f"{POLICY_PREFIX}{policy.slug}",
        tenant=tenant,
        operation=Operation(given["operation"]),
        body=body,
        key=key,
        feature=given["feature"],
        end_user=given["user"],
        tags=given.get("tags", {}),
        preferences=given.get("provider"),
        capabilities=None if capabilities is None else frozenset(capabilities),
        input_tokens=given.get("input_tokens"),
        output_tokens=given.get("output_tokens"),
        draw=given.get("draw", simulate.MIDDLE_DRAW),
    )


def _candidate(policy: RoutingPolicy, given: Mapping[str, Any] | None) -> RoutingPolicyVersion | None:
    """The unsaved wording: what it leaves out is as the policy says now. Raises ApiError: invalid_request."""
    if given is None:
        return None
    newest = wordings.newest(policy)
    base = wordings.wording_of(newest) if newest else wordings.Wording(given["strategy"])
    return wordings.draft(policy=policy, wording=replace(base, **given))
