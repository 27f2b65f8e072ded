"""The REST resources of alerts: channels, rules, firings and deliveries. Shapes only; changes are verbs'.

A target's secret part and a signing secret go in and never come out again, but for the answer that made it.
"""

from collections.abc import Sequence
from datetime import UTC
from decimal import Decimal
from typing import Any, ClassVar, cast
from uuid import UUID
from zoneinfo import ZoneInfo

from django.db import models
from django.utils import timezone
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from billing.alerts import deliver, firing, setup
from billing.alerts.reads import without_cost
from billing.models import (
    AlertAction,
    AlertAttempt,
    AlertChannel,
    AlertDelivery,
    AlertFiring,
    AlertRule,
    Budget,
)
from billing.rating.money import plain_text
from tenants import webhooks
from tenants.errors import ApiError
from tenants.models import ApiKey, Tenant
from tenants.rest import ReadResource, Resource, StrictSerializer, TenantField

_Kind = AlertRule.Kind


class EmptyBodySerializer(StrictSerializer):
    """A body without fields."""


class ZoneField(serializers.CharField):
    """An IANA time zone."""

    def to_internal_value(self, data: Any) -> str:
        name = super().to_internal_value(data)
        try:
            ZoneInfo(name)
        except (ValueError, OSError, LookupError) as error:
            # ZoneInfo answers bad names with all of these, by how they are bad.
            raise serializers.ValidationError(f"There is no timezone {name!r}.") from error
        return name


# ------------------------------------------------------------------ channels


class ChannelSerializer(StrictSerializer, serializers.ModelSerializer[AlertChannel]):
    """Where alerts go. `tenant` null is the operator's own. `secret` is a webhook's signing secret, shown once.

    `target` is addresses separated by commas (email), a URL (webhook, slack) or a routing key (pagerduty);
    of the latter two only the end is shown.
    """

    tenant = TenantField(required=False, allow_null=True)
    target = serializers.CharField(max_length=2000)
    timezone = ZoneField(max_length=64, required=False)
    secret = serializers.SerializerMethodField(help_text="Shown once: null ever after.")

    class Meta:
        model = AlertChannel
        fields = ("id", "tenant", "name", "kind", "target", "secret", "is_enabled", "is_default", "timezone",
                  "quiet_from", "quiet_to", "created_at", "updated_at")  # fmt: skip
        read_only_fields = ("id", "created_at", "updated_at")

    def get_secret(self, channel: AlertChannel) -> str | None:
        return None

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Raises ValidationError for another kind than it has, and for half of quiet hours."""
        held = self.instance if isinstance(self.instance, AlertChannel) else None
        if held is not None and attrs.get("kind", held.kind) != held.kind:
            raise serializers.ValidationError({"kind": "The kind of a channel cannot change."})
        ends = [attrs.get(name, getattr(held, name, None)) for name in ("quiet_from", "quiet_to")]
        if (ends[0] is None) != (ends[1] is None):
            raise serializers.ValidationError({"quiet_to": "Quiet hours need both ends."})
        return attrs


class RotateSecretSerializer(StrictSerializer):
    """How long the old secret goes on, in seconds; a day unless said otherwise."""

    grace_s = serializers.IntegerField(default=24 * 3600, min_value=0, max_value=webhooks.MAX_GRACE_S)


class TriedSerializer(serializers.Serializer[Any]):
    """What became of a test message."""

    ok = serializers.BooleanField()
    status = serializers.IntegerField(allow_null=True)
    detail = serializers.CharField()
    delivery = serializers.UUIDField()


class ChannelResource(Resource[AlertChannel]):
    """Channels of the tenants the principal knows, and the operator's own for operators."""

    queryset = AlertChannel.objects.select_related("tenant")
    serializer_class = ChannelSerializer
    read_scope, write_scope = "budgets:read", "budgets:write"
    secret_fields = ("secret",)
    readonly_actions = ("test",)  # no transaction may be open while it sends; its verb leaves the event
    filters: ClassVar = {"tenant": "tenant__slug", "kind": "kind"}

    def create(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Open a channel; `secret` in the answer is a webhook's."""
        serializer = self.get_serializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        given = serializer.validated_data
        self.require("budgets:write", given.setdefault("tenant", None))
        channel, secret = setup.open_channel(now=timezone.now(), **given)
        self.record("create", channel, after=self.picture(channel))
        return self._shown_once(channel, secret, status=201)

    def perform_update(self, serializer: serializers.BaseSerializer[AlertChannel]) -> None:
        """Raises ApiError as `setup.change_channel`; invalid_request for another tenant."""
        channel = cast("AlertChannel", serializer.instance)
        given = dict(serializer.validated_data)
        if given.pop("tenant", channel.tenant) != channel.tenant:
            raise ApiError("invalid_request", "An object cannot move to another tenant.", param="tenant")
        given.pop("kind", None)
        before = self.picture(channel)
        serializer.instance = setup.change_channel(channel=channel, changes=given)
        self.record("update", channel, before=before, after=self.picture(serializer.instance))

    def perform_destroy(self, instance: AlertChannel) -> None:
        self.record("delete", instance, before=self.picture(instance))
        setup.close_channel(channel=instance)

    @extend_schema(request=RotateSecretSerializer, responses={201: ChannelSerializer})
    @action(detail=True, methods=["post"], url_path="rotate-secret")
    def rotate_secret(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """A fresh signing secret; messages carry both signatures while the old one goes on."""
        channel = self.get_object()
        options = RotateSecretSerializer(data=request.data)
        options.is_valid(raise_exception=True)
        channel, secret = setup.rotate_secret(
            channel=channel, now=timezone.now(), grace_s=options.validated_data["grace_s"]
        )
        self.record("rotate_secret", channel, after={"grace_s": options.validated_data["grace_s"]})
        return self._shown_once(channel, secret, status=201)

    @extend_schema(request=EmptyBodySerializer, responses={200: TriedSerializer})
    @action(detail=True, methods=["post"])
    def test(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Send a test message now and wait for what becomes of it."""
        channel = self.get_object()
        EmptyBodySerializer(data=request.data).is_valid(raise_exception=True)
        delivery, outcome = deliver.try_out(channel=channel, actor=self.principal, clock=timezone.now)
        return Response(
            {
                "ok": outcome.kind == "delivered",
                "status": outcome.status,
                "detail": outcome.detail,
                "delivery": delivery.pk,
            }
        )

    def _shown_once(self, channel: AlertChannel, secret: str | None, *, status: int) -> Response:
        return Response(self.get_serializer(channel).data | {"secret": secret}, status=status)


# ------------------------------------------------------------------ rules


class StepSerializer(StrictSerializer):
    """Whom to tell if nobody has acknowledged after `after_s` seconds."""

    after_s = serializers.IntegerField(min_value=60, max_value=7 * 24 * 3600)
    channels = serializers.ListField(child=serializers.UUIDField(), min_length=1, max_length=20)


class RuleSerializer(StrictSerializer, serializers.ModelSerializer[AlertRule]):
    """Something to watch. `tenant` null is the whole platform, for operators.

    `thresholds`: percent of the budget (whole numbers) or, with `unit` absolute, amounts in its unit; percent
    of failed calls; milliseconds; percent of margin to fall below; the score of an unusual day (5).
    """

    tenant = TenantField(required=False, allow_null=True)
    budget = serializers.UUIDField(source="budget_id", required=False, allow_null=True)
    key = serializers.UUIDField(source="api_key_id", required=False, allow_null=True)
    thresholds = serializers.ListField(
        child=serializers.DecimalField(max_digits=24, decimal_places=6), min_length=1, max_length=20
    )
    span_s = serializers.IntegerField(min_value=60, max_value=24 * 3600, required=False)
    min_requests = serializers.IntegerField(min_value=1, max_value=10**6, required=False)
    min_amount = serializers.DecimalField(
        max_digits=24, decimal_places=6, min_value=Decimal(0), required=False
    )
    actions = serializers.ListField(
        child=serializers.ChoiceField(choices=AlertRule.Action.choices), required=False, max_length=1
    )
    throttle_rpm = serializers.IntegerField(min_value=1, max_value=2**31 - 1, required=False, allow_null=True)
    channels = serializers.ListField(child=serializers.UUIDField(), required=False, max_length=20)
    escalation = serializers.ListField(child=StepSerializer(), required=False, max_length=10)

    class Meta:
        model = AlertRule
        fields = ("id", "tenant", "name", "kind", "budget", "key", "feature", "model", "provider", "basis",
                  "unit", "thresholds", "window", "span_s", "min_requests", "min_amount", "severity", "actions",
                  "throttle_rpm", "channels", "escalation", "is_enabled", "created_at", "updated_at")  # fmt: skip
        read_only_fields = ("id", "created_at", "updated_at")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Raises ValidationError for what makes no sense together, or is not the tenant's."""
        held = self.instance if isinstance(self.instance, AlertRule) else AlertRule()
        if self.instance is not None and attrs.get("kind", held.kind) != held.kind:
            raise serializers.ValidationError({"kind": "The kind of a rule cannot change."})
        rule = AlertRule(
            **{
                field.attname: attrs.get(field.attname, attrs.get(field.name, getattr(held, field.attname)))
                for field in AlertRule._meta.concrete_fields
                if field.name != "tenant"
            }
        )
        rule.tenant = attrs.get("tenant", held.tenant if held.tenant_id else None)
        _check_scope(rule)
        _check_thresholds(rule)
        _check_actions(rule)
        return attrs

    def to_representation(self, instance: AlertRule) -> dict[str, Any]:
        shown = super().to_representation(_WithSteps(instance))
        shown["thresholds"] = [plain_text(each) for each in instance.thresholds]
        return shown


class _WithSteps:
    """A rule with its steps as the API words them."""

    def __init__(self, rule: AlertRule) -> None:
        self._rule = rule
        by_delay: dict[int, list[UUID]] = {}
        for step in rule.steps.all():
            by_delay.setdefault(step.after_s, []).append(step.channel_id)
        self.channels = by_delay.pop(0, [])
        self.escalation = [{"after_s": after_s, "channels": ids} for after_s, ids in sorted(by_delay.items())]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rule, name)


def _check_scope(rule: AlertRule) -> None:
    """Raises ValidationError unless budget and key are the tenant's; of the platform's rules, anybody's."""
    whose = {} if rule.tenant is None else {"tenant": rule.tenant}
    if rule.kind == _Kind.BUDGET:
        if rule.budget_id is None or not Budget.objects.filter(pk=rule.budget_id, **whose).exists():
            raise serializers.ValidationError({"budget": "There is no such budget."})
        for name, value in (("key", rule.api_key_id), ("feature", rule.feature), ("model", rule.model),
                            ("provider", rule.provider)):  # fmt: skip
            if value:
                raise serializers.ValidationError({name: "The budget has the scope already."})
    else:
        if rule.budget_id is not None:
            raise serializers.ValidationError({"budget": "Only rules of kind budget name one."})
        if rule.basis != AlertRule.Basis.ACTUAL:
            raise serializers.ValidationError({"basis": "Only budgets are forecast."})
        if rule.api_key_id is not None and not ApiKey.objects.filter(pk=rule.api_key_id, **whose).exists():
            raise serializers.ValidationError({"key": "There is no such key."})


def _check_thresholds(rule: AlertRule) -> None:
    is_percent_of_budget = rule.kind == _Kind.BUDGET and rule.unit == AlertRule.Unit.PERCENT
    low, high = {
        _Kind.BUDGET: (1, 1000) if is_percent_of_budget else (Decimal("0.000001"), Decimal(10) ** 17),
        _Kind.ANOMALY: (1, 1000),
        _Kind.MARGIN: (-1000, 100),
        _Kind.ERROR_RATE: (Decimal("0.01"), 100),
        _Kind.LATENCY_P95: (1, 3_600_000),
    }[_Kind(rule.kind)]
    for each in rule.thresholds:
        if not low <= each <= high:
            raise serializers.ValidationError({"thresholds": f"Thresholds lie between {low} and {high}."})
        if is_percent_of_budget and each != int(each):
            raise serializers.ValidationError({"thresholds": "Percent of a budget are whole numbers."})
    if len(set(rule.thresholds)) < len(rule.thresholds):
        raise serializers.ValidationError({"thresholds": "A threshold is named twice."})


def _check_actions(rule: AlertRule) -> None:
    if not rule.actions:
        return
    if rule.basis != AlertRule.Basis.ACTUAL:
        raise serializers.ValidationError({"actions": "A forecast does nothing to a key."})
    if _key_of(rule) is None:
        raise serializers.ValidationError({"actions": "Name a key, or a budget of a key."})
    if AlertRule.Action.THROTTLE_KEY in rule.actions and rule.throttle_rpm is None:
        raise serializers.ValidationError({"throttle_rpm": "To how many requests a minute?"})


def _key_of(rule: AlertRule) -> ApiKey | None:
    """The key that actions are about."""
    pk = rule.api_key_id or (rule.budget.api_key_id if rule.budget is not None else None)
    return ApiKey.objects.select_related("tenant").filter(pk=pk).first() if pk else None


class RuleResource(Resource[AlertRule]):
    """Rules of the tenants the principal knows. What shows cost takes `cost:read`, acting on a key `keys:write`."""

    queryset = AlertRule.objects.select_related("tenant").prefetch_related("steps")
    serializer_class = RuleSerializer
    read_scope, write_scope = "budgets:read", "budgets:write"
    filters: ClassVar = {"tenant": "tenant__slug", "kind": "kind", "budget": "budget"}

    def perform_create(self, serializer: serializers.BaseSerializer[AlertRule]) -> None:
        given = serializer.validated_data
        tenant: Tenant | None = given.setdefault("tenant", None)
        self.require("budgets:write", tenant)
        if AlertRule.objects.filter(tenant=tenant).count() >= setup.MAX_RULES:
            raise ApiError("conflict", f"There are {setup.MAX_RULES} rules already.")
        serializer.instance = self._write_rule(AlertRule(tenant=tenant), given)
        self.record("create", serializer.instance, after=self.picture(serializer.instance))

    def perform_update(self, serializer: serializers.BaseSerializer[AlertRule]) -> None:
        rule = cast("AlertRule", serializer.instance)
        given = serializer.validated_data
        if given.pop("tenant", rule.tenant) != rule.tenant:
            raise ApiError("invalid_request", "An object cannot move to another tenant.", param="tenant")
        before = self.picture(rule)
        serializer.instance = self._write_rule(rule, given)
        after = self.picture(serializer.instance)
        changed = [name for name in after if after[name] != before[name]]
        self.record(
            "update",
            rule,
            before={name: before[name] for name in changed},
            after={name: after[name] for name in changed},
        )

    def _write_rule(self, rule: AlertRule, given: dict[str, Any]) -> AlertRule:
        """Save what was given. Raises ApiError permission_denied, and invalid_request for a foreign channel."""
        given = dict(given)
        now_told = None if rule._state.adding else _WithSteps(self._again(rule))
        channels = given.pop("channels", now_told.channels if now_told else [])
        escalation = given.pop("escalation", now_told.escalation if now_told else [])
        for name, value in given.items():
            setattr(rule, name, value)
        self._check_rights(rule)
        steps = [(0, each) for each in channels]
        steps += [(step["after_s"], each) for step in escalation for each in step["channels"]]
        self._check_channels(rule, [each for _, each in steps])
        rule.save()
        setup.set_steps(rule=rule, steps=steps)
        return self._again(rule)

    def _again(self, rule: AlertRule) -> AlertRule:
        return AlertRule.objects.select_related("tenant").prefetch_related("steps").get(pk=rule.pk)

    def _check_rights(self, rule: AlertRule) -> None:
        budget = rule.budget
        shows_cost = rule.kind == _Kind.MARGIN or (
            budget is not None and budget.measure == Budget.Measure.COST
        )
        if shows_cost or (rule.kind == _Kind.ANOMALY and rule.tenant is None):
            self.require("cost:read", rule.tenant)
        key = _key_of(rule)
        if rule.actions and key is not None:
            self.require("keys:write", key.tenant)

    def _check_channels(self, rule: AlertRule, ids: Sequence[UUID]) -> None:
        found = {each.pk: each for each in AlertChannel.objects.filter(pk__in=set(ids))}
        for each in ids:
            channel = found.get(each)
            is_own = channel is not None and channel.tenant_id == rule.tenant_id
            is_operators = (
                channel is not None and channel.tenant_id is None and self.principal.can("budgets:write")
            )
            if not (is_own or is_operators):
                raise ApiError("invalid_request", f"There is no channel {each}.", param="channels")


# ------------------------------------------------------------------ firings and deliveries


class ActionSerializer(serializers.ModelSerializer[AlertAction]):
    """What an alert did to a key."""

    key = serializers.UUIDField(source="api_key_id")

    class Meta:
        model = AlertAction
        fields = ("action", "key", "limit_rpm", "limit_rpm_before", "until", "undone_at")


class AlertSerializer(serializers.ModelSerializer[AlertFiring]):
    """A threshold that was reached. `state` is firing, acknowledged or resolved."""

    tenant = TenantField(read_only=True)
    state = serializers.CharField(read_only=True)
    facts = serializers.SerializerMethodField()
    threshold = serializers.SerializerMethodField(method_name="threshold_text")
    value = serializers.SerializerMethodField(method_name="value_text")
    limit = serializers.SerializerMethodField(method_name="limit_text")
    actions = ActionSerializer(many=True, read_only=True)

    class Meta:
        model = AlertFiring
        fields = ("id", "tenant", "rule", "budget", "kind", "basis", "severity", "state", "title", "body",
                  "facts", "threshold", "unit", "value", "limit", "currency", "window_start", "window_end",
                  "fired_at", "acknowledged_at", "acknowledged_by", "snoozed_until", "rearmed_at",
                  "resolved_at", "actions")  # fmt: skip

    @extend_schema_field({"type": "array", "items": {"type": "array", "items": {"type": "string"}}})
    def get_facts(self, row: AlertFiring) -> Any:
        return row.facts["shown"]

    def threshold_text(self, row: AlertFiring) -> str:
        return plain_text(row.threshold)

    def value_text(self, row: AlertFiring) -> str:
        return plain_text(row.value)

    def limit_text(self, row: AlertFiring) -> str | None:
        return None if row.limit is None else plain_text(row.limit)


class AttemptSerializer(serializers.ModelSerializer[AlertAttempt]):
    """One try. Without `finished_at` it is under way, or whoever tried it died."""

    class Meta:
        model = AlertAttempt
        fields = ("number", "started_at", "finished_at", "status", "detail")


class DeliverySerializer(serializers.ModelSerializer[AlertDelivery]):
    """A message to a channel, with every attempt. `message_id` is what a webhook's receiver sees."""

    tenant = TenantField(read_only=True)
    alert = serializers.UUIDField(source="firing_id")
    message_id = serializers.SerializerMethodField()
    title = serializers.SerializerMethodField()
    next_at = serializers.SerializerMethodField()
    log = AttemptSerializer(many=True, read_only=True)

    class Meta:
        model = AlertDelivery
        fields = ("id", "tenant", "alert", "channel", "channel_label", "event", "title", "message_id",
                  "after_s", "state", "attempts", "next_at", "delivered_at", "digest", "created_at",
                  "log")  # fmt: skip

    def get_message_id(self, row: AlertDelivery) -> str:
        return f"msg_{row.pk.hex}"

    def get_title(self, row: AlertDelivery) -> str:
        return str(row.payload["title"])

    @extend_schema_field({"type": ["string", "null"], "format": "date-time"})
    def get_next_at(self, row: AlertDelivery) -> Any:
        return row.next_at if row.state == AlertDelivery.State.PENDING else None


class SnoozeSerializer(StrictSerializer):
    """Until when nothing is said of it."""

    until = serializers.DateTimeField(default_timezone=UTC)


class AlertResource(ReadResource[AlertFiring]):
    """What fired, newest first. Alerts about cost exist only where the principal has `cost:read`."""

    queryset = AlertFiring.objects.select_related("tenant").prefetch_related("actions")
    serializer_class = AlertSerializer
    read_scope, write_scope = "budgets:read", "budgets:write"
    http_method_names = ["get", "post", "head"]
    filters: ClassVar = {
        "tenant": "tenant__slug",
        "rule": "rule",
        "budget": "budget",
        "kind": "kind",
        "severity": "severity",
    }

    def get_queryset(self) -> models.QuerySet[AlertFiring]:
        rows = super().get_queryset()
        return rows if getattr(self, "swagger_fake_view", False) else without_cost(self.principal, rows)

    @extend_schema(request=EmptyBodySerializer, responses={200: AlertSerializer})
    @action(detail=True, methods=["post"])
    def acknowledge(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Somebody is on it: escalation stops."""
        row = self.get_object()
        EmptyBodySerializer(data=request.data).is_valid(raise_exception=True)
        firing.acknowledge(firing=row, actor=self.principal, now=timezone.now())
        return Response(self.get_serializer(self.get_object()).data)

    @extend_schema(request=SnoozeSerializer, responses={200: AlertSerializer})
    @action(detail=True, methods=["post"])
    def snooze(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Say nothing of this subject for a while."""
        row = self.get_object()
        options = SnoozeSerializer(data=request.data)
        options.is_valid(raise_exception=True)
        firing.snooze(
            firing=row, until=options.validated_data["until"], actor=self.principal, now=timezone.now()
        )
        return Response(self.get_serializer(self.get_object()).data)

    @extend_schema(responses={200: DeliverySerializer(many=True)})
    @action(detail=True)
    def deliveries(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Who was told, and how that went."""
        rows = AlertDelivery.objects.visible_to(self.principal, "budgets:read").filter(
            firing=self.get_object()
        )
        rows = rows.select_related("tenant").prefetch_related("log").order_by("id")
        return Response({"data": DeliverySerializer(rows, many=True).data, "next_cursor": None})


class DeliveryResource(ReadResource[AlertDelivery]):
    """Messages to the channels the principal may see, newest first."""

    queryset = AlertDelivery.objects.select_related("tenant").prefetch_related("log")
    serializer_class = DeliverySerializer
    read_scope, write_scope = "budgets:read", "budgets:write"
    http_method_names = ["get", "post", "head"]
    filters: ClassVar = {
        "tenant": "tenant__slug",
        "alert": "firing",
        "channel": "channel",
        "state": "state",
        "event": "event",
    }

    def get_queryset(self) -> models.QuerySet[AlertDelivery]:
        rows = super().get_queryset()
        if getattr(self, "swagger_fake_view", False):
            return rows
        return without_cost(self.principal, rows, "firing__")

    @extend_schema(request=EmptyBodySerializer, responses={200: DeliverySerializer})
    @action(detail=True, methods=["post"])
    def replay(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Send it once more, under its own id."""
        row = self.get_object()
        EmptyBodySerializer(data=request.data).is_valid(raise_exception=True)
        deliver.replay(delivery=row, actor=self.principal, now=timezone.now())
        return Response(self.get_serializer(self.get_object()).data)
