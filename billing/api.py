"""The control plane's REST resources of this floor: plans, subscriptions, budgets, usage, the ledger's proof.

Shapes only: every change is one verb's. What providers charge leaves only with the scope `cost:read`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, ClassVar, cast
from uuid import UUID
from zoneinfo import available_timezones

from django.http import HttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from billing.budgets import caps
from billing.budgets.count import MONEY
from billing.budgets.counters import carry, spent
from billing.models import Budget, FxRate, Plan, PlanVersion, Subscription
from billing.query import IgnoreAccept, instant_of, known_parameters, names_of, uuids_of
from billing.rating.money import PICO, amount_text
from billing.snapshot import MICRO, currency_of, entry_of
from billing.subscriptions import change_plan, current_version, newest_version, publish, subscribe, terms_of
from billing.usage.reports import DIMENSIONS, GROUPS, MEASURES, Report, report
from billing.usage.verify import verify
from tenants.approvals import ApprovalRequiredError
from tenants.errors import ApiError
from tenants.models import ApiKey, Tenant
from tenants.rest import Guarded, Resource, StrictSerializer, TenantField
from tenants.spreadsheet import lines

# ------------------------------------------------------------------ plans


class LimitsSerializer(StrictSerializer):
    """What all calls of a tenant together may do; left out means unlimited.

    Where a provider's own rate limit is short, `priority` tells who waits for whom (`interactive`, the default,
    goes before `free`, that before `batch`), and `priority_weight` (10 if left out) the share among equals.
    """

    limit_rpm = serializers.IntegerField(min_value=1, max_value=2**31 - 1, required=False)
    limit_tpm = serializers.IntegerField(min_value=1, max_value=2**53 - 1, required=False)
    max_concurrent = serializers.IntegerField(min_value=1, max_value=2**31 - 1, required=False)
    priority = serializers.ChoiceField(choices=("interactive", "free", "batch"), required=False)
    priority_weight = serializers.IntegerField(min_value=1, max_value=100, required=False)


class EntitlementsSerializer(StrictSerializer):
    """Models a plan opens (none named: all) and its limits."""

    models = serializers.ListField(
        child=serializers.CharField(max_length=200), required=False, max_length=500
    )
    limits = LimitsSerializer(required=False)
    features = serializers.ListField(
        child=serializers.CharField(max_length=100), required=False, max_length=500
    )


class TermsSerializer(StrictSerializer):
    """The part of a plan that makes a version."""

    currency = serializers.RegexField(r"^[A-Z]{3}$", required=False)
    interval = serializers.ChoiceField(choices=PlanVersion.Interval.choices, required=False)
    base_amount = serializers.DecimalField(
        max_digits=20, decimal_places=4, min_value=Decimal(0), required=False
    )
    is_in_advance = serializers.BooleanField(required=False)
    trial_days = serializers.IntegerField(min_value=0, max_value=366, required=False)
    min_commitment = serializers.DecimalField(
        max_digits=20, decimal_places=4, min_value=Decimal(0), required=False
    )
    proration = serializers.ChoiceField(choices=PlanVersion.Proration.choices, required=False)
    base_tax = serializers.SlugField(max_length=63, required=False, allow_blank=True)
    charges = serializers.ListField(child=serializers.JSONField(), required=False, max_length=1000)
    entitlements = EntitlementsSerializer(required=False)


class PlanSerializer(TermsSerializer):
    """A plan with its newest version. A change of anything but the name makes a new version."""

    id = serializers.UUIDField(read_only=True)
    slug = serializers.RegexField(r"^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$", max_length=63)
    name = serializers.CharField(max_length=200)
    is_default = serializers.BooleanField(read_only=True)
    version = serializers.IntegerField(read_only=True)

    def to_representation(self, instance: Plan) -> dict[str, Any]:
        versions = list(instance.versions.all())  # prefetched, newest first
        head = {
            "id": str(instance.pk),
            "slug": instance.slug,
            "name": instance.name,
            "is_default": instance.is_default,
        }
        return head | (_version_shown(versions[0]) if versions else {"version": None})


class PlanVersionSerializer(TermsSerializer):
    """One immutable version."""

    version = serializers.IntegerField(read_only=True)
    created_at = serializers.DateTimeField(read_only=True)

    def to_representation(self, instance: PlanVersion) -> dict[str, Any]:
        return _version_shown(instance) | {"created_at": instance.created_at}


def _version_shown(version: PlanVersion) -> dict[str, Any]:
    return {"version": version.number, "charges": version.charges, **_terms_shown(version)}


def _terms_shown(version: PlanVersion) -> dict[str, Any]:
    """What a version's subscribers may know: the charges would tell what the operator pays."""
    return {
        "currency": version.currency,
        "interval": version.interval,
        "base_amount": f"{version.base_amount:.4f}",
        "is_in_advance": version.is_in_advance,
        "trial_days": version.trial_days,
        "min_commitment": f"{version.min_commitment:.4f}",
        "proration": version.proration,
        "base_tax": version.base_tax,
        "entitlements": {
            "models": version.allowed_models,
            "limits": version.limits,
            "features": version.features,
        },
    }


class PlanResource(Resource[Plan]):
    """Plans, for operators; tenants see theirs as their subscription. Not deleted: the ledger names them."""

    queryset = Plan.objects.prefetch_related("versions")
    serializer_class = PlanSerializer
    lookup_field = "slug"
    read_scope, write_scope = "plans:read", "plans:write"
    section = "billing"
    http_method_names = ["get", "post", "patch", "head"]
    filters: ClassVar = {"slug": "slug"}

    def perform_create(self, serializer: serializers.BaseSerializer[Plan]) -> None:
        """Raises ApiError: conflict for a slug in use, invalid_request as `publish`."""
        given = dict(serializer.validated_data)
        slug, name = given.pop("slug"), given.pop("name")
        if Plan.objects.filter(slug=slug).exists():
            raise ApiError("conflict", f"There is a plan {slug!r} already.", param="slug")
        plan = Plan.objects.create(slug=slug, name=name)
        self.record("create", plan, after={"slug": slug, "name": name})
        publish(plan=plan, terms=_terms_of(given), actor=self.principal)
        serializer.instance = self.get_queryset().get(pk=plan.pk)

    def perform_update(self, serializer: serializers.BaseSerializer[Plan]) -> None:
        """Raises ApiError invalid_request for another slug, and as `publish`."""
        plan = cast("Plan", serializer.instance)
        given = dict(serializer.validated_data)
        if given.pop("slug", plan.slug) != plan.slug:
            raise ApiError("invalid_request", "The slug of a plan cannot change.", param="slug")
        before = plan.name
        name = given.pop("name", before)
        if name != before or not given:
            plan.name = name
            plan.save(update_fields=("name", "updated_at"))
            self.record("update", plan, before={"name": before}, after={"name": name})
        if given:
            held = terms_of(newest_version(plan))
            try:
                publish(plan=plan, terms=held | _terms_of(given), actor=self.principal)
            except ApprovalRequiredError as needed:
                if name == before:
                    raise
                reason = "Change the name by itself: the rest takes a second person."
                raise ApiError("invalid_request", reason, param="name") from needed
        serializer.instance = self.get_queryset().get(pk=plan.pk)

    @extend_schema(responses={200: PlanVersionSerializer(many=True)})
    @action(detail=True)
    def versions(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """All versions, newest first."""
        rows = self.get_object().versions.all()
        return Response({"data": PlanVersionSerializer(rows, many=True).data, "next_cursor": None})


def _terms_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The request's words as PlanVersion's columns."""
    terms = dict(given)
    entitlements = terms.pop("entitlements", {})
    for name, column in (("models", "allowed_models"), ("limits", "limits"), ("features", "features")):
        if name in entitlements:
            terms[column] = entitlements[name]
    return terms


# ------------------------------------------------------------------ subscriptions


class SubscriptionSerializer(StrictSerializer):
    """Which plan a tenant is on. `start` null: nobody chose, so the default plan's newest version holds."""

    plan = serializers.SlugField(max_length=63)
    start = serializers.DateTimeField(required=False, default_timezone=UTC)
    anchor_day = serializers.IntegerField(min_value=1, max_value=31, required=False)
    version = serializers.IntegerField(read_only=True)
    currency = serializers.CharField(read_only=True)
    interval = serializers.CharField(read_only=True)
    base_amount = serializers.CharField(read_only=True)
    is_in_advance = serializers.BooleanField(read_only=True)
    trial_days = serializers.IntegerField(read_only=True)
    min_commitment = serializers.CharField(read_only=True)
    proration = serializers.CharField(read_only=True)
    base_tax = serializers.CharField(read_only=True)
    entitlements = EntitlementsSerializer(read_only=True)

    def validate_start(self, value: datetime) -> datetime:
        if value > timezone.now():
            raise serializers.ValidationError("A plan cannot start in the future yet.")
        return value


class SubscriptionView(Guarded):
    """A tenant's plan. Only operators put a tenant on one, whatever a tenant's key may do."""

    read_scope, write_scope = "plans:read", "plans:write"
    http_method_names = ["get", "put", "head"]

    @extend_schema(responses={200: SubscriptionSerializer})
    def get(self, request: Request, tenant: str) -> Response:
        """The plan in force."""
        return Response(self._shown())

    @extend_schema(request=SubscriptionSerializer, responses={200: SubscriptionSerializer})
    def put(self, request: Request, tenant: str) -> Response:
        """Put the tenant on a plan's newest version, from `start` or now.

        Raises ApiError as `subscribe` and `change_plan`; invalid_request for an unknown plan.
        """
        self.require("plans:write", None)
        wanted = SubscriptionSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        given = wanted.validated_data
        plan = Plan.objects.filter(slug=given["plan"]).first()
        if plan is None:
            raise ApiError("invalid_request", f"There is no plan {given['plan']!r}.", param="plan")
        of, present = self._of(), self._present()
        start = given.get("start") or timezone.now()
        if present is None:
            anchor_day = given.get("anchor_day", 1)
            subscribe(tenant=of, plan=plan, start=start, anchor_day=anchor_day, actor=self.principal)
        elif given.get("anchor_day", present.anchor_day) != present.anchor_day:
            raise ApiError("invalid_request", "The anchor day stays with the tenant.", param="anchor_day")
        else:
            change_plan(tenant=of, plan=plan, at=start, actor=self.principal)
        return Response(self._shown())

    def _of(self) -> Tenant:
        return cast("Tenant", self.tenant)

    def _present(self) -> Subscription | None:
        return Subscription.objects.for_tenant(self._of()).filter(end__isnull=True).first()

    def _shown(self) -> dict[str, Any]:
        version, present = current_version(self._of()), self._present()
        return {
            "plan": version.plan.slug,
            "version": version.number,
            "start": present.start if present else None,
            "anchor_day": present.anchor_day if present else 1,
            **_terms_shown(version),
        }


# ------------------------------------------------------------------ budgets


MAX_COUNT = 2**53 - 1
"""What a counter can hold exactly: tokens, requests, or micro-units of money."""

MIN_ROLLING_S, MAX_ROLLING_S = 60, 31 * 86_400


class BudgetScopeSerializer(StrictSerializer):
    """Whose calls count, and which: all that is given must match. Without a tenant it is the operator's budget,
    shared by all tenants it matches: those on `plan`, or the whole house.
    """

    tenant = TenantField(required=False, allow_null=True)
    feature = serializers.CharField(max_length=100, required=False, allow_blank=True)
    key = serializers.PrimaryKeyRelatedField(
        source="api_key", queryset=ApiKey.objects.all(), required=False, allow_null=True
    )
    user = serializers.CharField(source="end_user", max_length=200, required=False, allow_blank=True)
    plan = serializers.SlugRelatedField(
        slug_field="slug", queryset=Plan.objects.all(), required=False, allow_null=True
    )
    model = serializers.CharField(max_length=200, required=False, allow_blank=True)
    provider = serializers.CharField(max_length=63, required=False, allow_blank=True)
    tag = serializers.RegexField(
        r"^[A-Za-z0-9._-]{1,40}=[^,=]{1,100}$", max_length=141, required=False, allow_blank=True
    )


class BudgetSerializer(StrictSerializer, serializers.ModelSerializer[Budget]):
    """A limit. `spent` and `remaining` are the ledger's in the window now, in the unit of `limit`; `carried` is what
    earlier windows left (or, negative, overspent).

    Of a budget of cost they are null without the scope `cost:read`.
    """

    scope = BudgetScopeSerializer(source="*", required=False)
    limit = serializers.DecimalField(max_digits=24, decimal_places=6, min_value=Decimal(0))
    currency = serializers.RegexField(r"^[A-Z]{3}$", required=False)
    anchor_day = serializers.IntegerField(min_value=1, max_value=31, required=False)
    week_start = serializers.IntegerField(min_value=0, max_value=6, required=False)
    rolling_s = serializers.IntegerField(
        min_value=MIN_ROLLING_S, max_value=MAX_ROLLING_S, required=False, allow_null=True
    )
    throttle_policy = serializers.RegexField(
        r"^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$", max_length=63, required=False, allow_blank=True
    )
    throttle_rpm = serializers.IntegerField(min_value=1, max_value=2**31 - 1, required=False, allow_null=True)
    carry_max_percent = serializers.IntegerField(min_value=1, max_value=1000, required=False, allow_null=True)
    carry_max_amount = serializers.DecimalField(
        max_digits=24, decimal_places=6, min_value=Decimal(0), required=False, allow_null=True
    )
    thresholds = serializers.ListField(
        child=serializers.IntegerField(min_value=1, max_value=1000), required=False, max_length=20
    )
    spent = serializers.CharField(read_only=True, allow_null=True)
    carried = serializers.CharField(read_only=True, allow_null=True)
    remaining = serializers.CharField(read_only=True, allow_null=True)
    window_start = serializers.DateTimeField(read_only=True)
    window_end = serializers.DateTimeField(read_only=True, allow_null=True)

    class Meta:
        model = Budget
        fields: ClassVar[tuple[str, ...]] = (
            "id", "scope", "name", "measure", "limit", "currency", "mode", "throttle_policy", "throttle_rpm",
            "window", "rolling_s", "timezone", "anchor_day", "week_start", "carry_over", "carry_max_percent",
            "carry_max_amount", "include_byok", "include_failed", "include_overhead", "thresholds",
            "is_enabled", "spent", "carried", "remaining", "window_start", "window_end", "created_at",
            "updated_at",
        )  # fmt: skip
        read_only_fields = ("id", "created_at", "updated_at")

    def validate_timezone(self, value: str) -> str:
        if value and value not in available_timezones():
            raise serializers.ValidationError("There is no such time zone.")
        return value

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Raises ValidationError for what does not go together."""
        held = self.instance if isinstance(self.instance, Budget) else None
        if attrs.get("window") not in (None, Budget.Window.ROLLING):
            attrs.setdefault("rolling_s", None)
        if attrs.get("mode") not in (None, Budget.Mode.THROTTLE):
            attrs.setdefault("throttle_policy", "")
            attrs.setdefault("throttle_rpm", None)
        made = Budget(**{
            field.name: attrs.get(field.name, getattr(held, field.name) if held else field.get_default())
            for field in Budget._meta.concrete_fields
        })  # fmt: skip
        for name, fault in _faults(made):
            raise serializers.ValidationError({name: fault})
        return attrs

    def to_representation(self, instance: Budget) -> dict[str, Any]:
        entry = entry_of(instance)
        window = entry.window_at(timezone.now().timestamp())
        used = over = left = None
        if self.may_see(instance):
            is_money = instance.measure in MONEY
            count, carried = spent(entry, window), carry(entry, window)
            limit = int(instance.limit * (PICO if is_money else 1))
            used, over, left = (
                amount_text(each) if is_money else str(each)
                for each in (count, carried, max(limit + carried - count, 0))
            )
        instance.spent, instance.carried, instance.remaining = used, over, left  # type: ignore[attr-defined]
        instance.window_start = datetime.fromtimestamp(window.start, UTC)  # type: ignore[attr-defined]
        instance.window_end = (  # type: ignore[attr-defined]  # all for this answer alone
            None if window.end is None else datetime.fromtimestamp(window.end, UTC)
        )
        shown = super().to_representation(instance)
        if "currency" in shown:
            shown["currency"] = currency_of(instance) if instance.measure in MONEY else None
        return shown

    def may_see(self, budget: Budget) -> bool:
        principal = self.context["request"].user
        return budget.measure != Budget.Measure.COST or principal.can("cost:read", budget.tenant_id)


def _faults(budget: Budget) -> Iterator[tuple[str, Any]]:
    """What is wrong with a budget as it would be: the field, and why."""
    is_rolling, is_money = budget.window == Budget.Window.ROLLING, budget.measure in MONEY
    key = budget.api_key
    if key is not None and key.tenant_id != budget.tenant_id:
        yield "scope", {"key": "The tenant has no such key."}
    if budget.end_user and budget.tenant_id is None:
        yield "scope", {"user": "A user is a tenant's: name the tenant."}
    if not is_money and budget.limit != int(budget.limit):
        yield "limit", f"There are no fractions of {budget.measure}."
    if budget.limit * (MICRO if is_money else 1) > MAX_COUNT:
        yield "limit", f"A limit may be {MAX_COUNT // (MICRO if is_money else 1)} at most."
    if budget.currency and not is_money:
        yield "currency", f"{budget.measure} have no currency."
    if is_rolling and budget.rolling_s is None:
        yield "rolling_s", "A rolling window needs its length."
    if not is_rolling and budget.rolling_s is not None:
        yield "rolling_s", "Only a rolling window has a length."
    is_throttle = budget.mode == Budget.Mode.THROTTLE
    if is_throttle and not budget.throttle_policy and budget.throttle_rpm is None:
        yield "mode", "A throttle needs a throttle_policy or a throttle_rpm."
    if not is_throttle and (budget.throttle_policy or budget.throttle_rpm is not None):
        yield "throttle_policy" if budget.throttle_policy else "throttle_rpm", "Only a throttle has one."
    carries = budget.carry_over != Budget.CarryOver.NONE
    if carries and (is_rolling or budget.window == Budget.Window.TOTAL):
        yield "carry_over", "Only calendar windows carry over."
    for name in ("carry_max_percent", "carry_max_amount"):
        if getattr(budget, name) is not None and budget.carry_over != Budget.CarryOver.UNUSED:
            yield name, "Only what is carried over unused has a maximum."
    is_operators_cost = budget.tenant_id is None and budget.measure == Budget.Measure.COST
    if budget.include_overhead and not is_operators_cost:
        yield "include_overhead", "Only the operator's budgets of cost count overhead."


class BudgetResource(Resource[Budget]):
    """Budgets of the tenants the principal knows; those without a tenant are the operator's alone. One on cost takes
    the scope `cost:read` as well."""

    queryset = Budget.objects.select_related("tenant", "plan")
    serializer_class = BudgetSerializer
    read_scope, write_scope = "budgets:read", "budgets:write"
    section = "billing"
    filters: ClassVar = {
        "tenant": "tenant__slug",
        "key": "api_key",
        "feature": "feature",
        "model": "model",
        "user": "end_user",
        "plan": "plan__slug",
        "provider": "provider",
        "tag": "tag",
        "measure": "measure",
        "mode": "mode",
        "window": "window",
    }

    def picture(self, obj: Budget) -> dict[str, Any]:
        """Without what is spent, which is no part of the budget."""
        moving = ("spent", "carried", "remaining", "window_start", "window_end")
        return {name: value for name, value in super().picture(obj).items() if name not in moving}

    def perform_create(self, serializer: serializers.BaseSerializer[Budget]) -> None:
        given = serializer.validated_data
        self._check_cost(given, given.get("tenant"))
        super().perform_create(serializer)

    def perform_update(self, serializer: serializers.BaseSerializer[Budget]) -> None:
        budget, given = cast("Budget", serializer.instance), serializer.validated_data
        self._check_cost(given, budget.tenant)
        caps.gate_change(budget=budget, changes=given, actor=self.principal)
        super().perform_update(serializer)

    def perform_destroy(self, instance: Budget) -> None:
        caps.gate_removal(budget=instance, actor=self.principal)
        super().perform_destroy(instance)

    def _check_cost(self, given: Mapping[str, Any], tenant: Tenant | None) -> None:
        if given.get("measure") == Budget.Measure.COST:
            self.require("cost:read", tenant)


# ------------------------------------------------------------------ exchange rates


class FxRateSerializer(StrictSerializer, serializers.ModelSerializer[FxRate]):
    """One unit of `base` is `rate` units of `quote` on `day` (UTC). Frozen: a rate is never changed."""

    base = serializers.RegexField(r"^[A-Z]{3}$")
    quote = serializers.RegexField(r"^[A-Z]{3}$")
    rate = serializers.DecimalField(max_digits=24, decimal_places=12, min_value=Decimal("0.000000000001"))

    class Meta:
        model = FxRate
        fields = ("id", "base", "quote", "day", "rate", "source", "created_at")
        read_only_fields = ("id", "created_at")
        validators: ClassVar[list[Any]] = []  # a rate that is there already is a conflict

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Raises ValidationError for a rate of a currency to itself."""
        if attrs["base"] == attrs["quote"]:
            raise serializers.ValidationError({"quote": "A currency needs no rate to itself."})
        return attrs


class FxRateResource(Resource[FxRate]):
    """Daily exchange rates, for operators: costs, prices and budgets in another currency are converted by them."""

    queryset = FxRate.objects.all()
    serializer_class = FxRateSerializer
    read_scope, write_scope = "plans:read", "plans:write"
    section = "billing"
    http_method_names = ["get", "post", "head"]
    filters: ClassVar = {"base": "base", "quote": "quote", "day": "day"}

    def perform_create(self, serializer: serializers.BaseSerializer[FxRate]) -> None:
        """Raises ApiError conflict for a pair that has its rate of the day."""
        given = serializer.validated_data
        pair = {name: given[name] for name in ("base", "quote", "day")}
        if FxRate.objects.filter(**pair).exists():
            raise ApiError("conflict", "This pair has its rate of the day, and rates stay.", param="day")
        super().perform_create(serializer)


# ------------------------------------------------------------------ usage

MAX_SPAN = timedelta(days=3 * 366)
MAX_SPAN_BY_HOUR = timedelta(days=92)
PARAMETERS = ("from", "to", "timezone", "group_by", "measures", *DIMENSIONS)
_DESCRIBED = [
    OpenApiParameter("from", OpenApiTypes.DATETIME, description="Inclusive; 30 days before `to`."),
    OpenApiParameter("to", OpenApiTypes.DATETIME, description="Exclusive; now unless given."),
    OpenApiParameter("timezone", description="IANA name; UTC unless given."),
    OpenApiParameter("group_by", description=f"Of {', '.join(GROUPS)}; `day` unless given."),
    OpenApiParameter(
        "measures", description=f"Of {', '.join(MEASURES)}; `requests,tokens,price` unless given."
    ),
    *(OpenApiParameter(name, description="Only these, separated by commas.") for name in DIMENSIONS),
]


class UsageSerializer(serializers.Serializer[Any]):
    """Rows of the groups asked for; money is a mapping of currency to a plain decimal."""

    data = serializers.ListField(child=serializers.DictField())  # type: ignore[assignment]  # a field
    totals = serializers.DictField()
    as_of = serializers.DateTimeField()
    start = serializers.DateTimeField()
    end = serializers.DateTimeField()
    timezone = serializers.CharField()


class UsageView(Guarded):
    """Usage of the tenants whose usage the principal may read: the console's numbers and the invoice's."""

    read_scope = "usage:read"
    is_open_to_tenants = True
    http_method_names = ["get", "head"]

    @extend_schema(operation_id="usage", parameters=_DESCRIBED, responses={200: UsageSerializer})
    def get(self, request: Request) -> Response:
        """Usage by group."""
        start, end, found = self.ask(request)
        slugs = _slugs(found)
        return Response(
            {
                "data": [
                    {name: _shown(name, value, slugs) for name, value in row.items()} for row in found.rows
                ],
                "totals": {name: _shown(name, value, slugs) for name, value in found.totals.items()},
                "as_of": found.as_of,
                "start": start,
                "end": end,
                "timezone": request.query_params.get("timezone", "UTC"),
            }
        )

    def ask(self, request: Request) -> tuple[datetime, datetime, Report]:
        """The report the parameters describe. Raises ApiError: unknown_field, invalid_request,
        permission_denied for cost without `cost:read`, not_found for a stranger's tenant.
        """
        known_parameters(request, *PARAMETERS)
        end = instant_of(request, "to") or timezone.now()
        start = instant_of(request, "from") or end - timedelta(days=30)
        group_by = names_of(request, "group_by", "day")
        measures = names_of(request, "measures", "requests,tokens,price")
        limit = MAX_SPAN_BY_HOUR if "hour" in group_by else MAX_SPAN
        if end - start > limit:
            raise ApiError("invalid_request", f"The span may be {limit.days} days long.", param="from")
        filters: dict[str, list[Any]] = {
            name: names_of(request, name, "")
            for name in DIMENSIONS
            if name in request.query_params and name not in ("tenant", "key")
        }
        if "key" in request.query_params:
            filters["key"] = uuids_of(request, "key")
        tenant_ids = self._tenant_ids(request)
        if "cost" in measures:
            open_to = self.principal.tenants_with("cost:read")
            if open_to is not None and (tenant_ids is None or not tenant_ids <= open_to):
                raise ApiError("permission_denied", "cost needs the scope 'cost:read'.", param="measures")
        return (
            start,
            end,
            report(
                tenant_ids=tenant_ids,
                start=start,
                end=end,
                timezone=request.query_params.get("timezone", "UTC"),
                group_by=group_by,
                measures=measures,
                filters=filters,
            ),
        )

    def _tenant_ids(self, request: Request) -> frozenset[UUID] | None:
        allowed = self.principal.tenants_with("usage:read")
        if "tenant" not in request.query_params:
            return allowed
        slugs = set(names_of(request, "tenant", ""))
        ids = dict(Tenant.objects.filter(slug__in=slugs).values_list("slug", "id"))
        for slug in sorted(slugs):
            if slug not in ids or (allowed is not None and ids[slug] not in allowed):
                raise ApiError("not_found", f"There is no tenant {slug!r}.", param="tenant")
        return frozenset(ids.values())


class UsageCsv(UsageView):
    """The same report as a file: one column per group and measure, money one per currency."""

    content_negotiation_class = IgnoreAccept

    @extend_schema(
        operation_id="usage_csv", parameters=_DESCRIBED, responses={(200, "text/csv"): OpenApiTypes.STR}
    )
    def get(self, request: Request) -> HttpResponse:  # type: ignore[override]  # a file, not data
        """Usage by group as CSV (RFC 4180, UTF-8)."""
        _, _, found = self.ask(request)
        slugs = _slugs(found)
        columns = [
            (name, currency)
            for name in (*names_of(request, "group_by", "day"), *found.totals)
            for currency in (found.totals[name] if name in MONEY else ("",))
        ]
        text = lines(
            [f"{name} {currency}".rstrip() for name, currency in columns],
            *(
                [_shown(name, _part(row[name], currency), slugs) for name, currency in columns]
                for row in found.rows
            ),
        )
        return HttpResponse(
            text,
            content_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": 'attachment; filename="usage.csv"'},
        )


def _part(value: Any, currency: str) -> Any:
    return amount_text(value.get(currency, 0)) if currency else value


def _shown(name: str, value: Any, slugs: Mapping[UUID, str]) -> Any:
    """A group or measure as clients get it."""
    if name in MONEY and isinstance(value, Mapping):
        return {currency: amount_text(pico) for currency, pico in value.items()}
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, UUID):
        return slugs.get(value, str(value)) if name == "tenant" else str(value)
    if name in ("p50_ms", "p95_ms") and value is not None:
        return round(value, 1)
    return value


def _slugs(found: Report) -> Mapping[UUID, str]:
    ids = {row["tenant"] for row in found.rows if "tenant" in row}
    return dict(Tenant.objects.filter(id__in=ids).values_list("id", "slug")) if ids else {}


# ------------------------------------------------------------------ the proof of the ledger


class CheckSerializer(serializers.Serializer[Any]):
    """One rule. A warning that is not ok leaves the proof ok."""

    name = serializers.CharField()
    ok = serializers.BooleanField()
    detail = serializers.CharField()
    expected = serializers.CharField()
    found = serializers.CharField()
    is_warning = serializers.BooleanField()


class ProofSerializer(serializers.Serializer[Any]):
    """All checks over [since, until), widened to whole UTC hours."""

    ok = serializers.BooleanField()
    checks = CheckSerializer(many=True)
    since = serializers.DateTimeField(allow_null=True)
    until = serializers.DateTimeField(allow_null=True)
    as_of = serializers.DateTimeField()


class LedgerProof(Guarded):
    """Recompute the ledger's rollups and rules now; operators only."""

    read_scope = "ledger:read"
    http_method_names = ["get", "head"]

    @extend_schema(
        parameters=[OpenApiParameter("since"), OpenApiParameter("until")], responses={200: ProofSerializer}
    )
    def get(self, request: Request) -> Response:
        """Prove the books over [since, until)."""
        known_parameters(request, "since", "until")
        proof = verify(since=instant_of(request, "since"), until=instant_of(request, "until"))
        return Response(ProofSerializer(asdict(proof)).data)
