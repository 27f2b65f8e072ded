"""The control plane's resources of experiments: A/B tests, gated rollouts, shadows, feedback, and what they cost.

For operators, but for feedback, which a tenant reads of its own calls. Shapes only: every change is a verb's.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import Any, ClassVar, cast

from django.urls import URLPattern, URLResolver, include, path
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.routers import SimpleRouter

from billing.rating.money import amount_text
from billing.usage.overhead import overhead
from gateway.experiments.evaluation import shown_figures
from gateway.experiments.figures import figures_of
from gateway.experiments.models import Feedback
from gateway.experiments.reports import ArmReport, Money, Report, report
from routing.api import SLUG, NothingSerializer
from routing.experiments import rollouts, shadows, trials
from routing.experiments.gates import Decision, Verdict
from routing.experiments.models import Experiment, PolicyShadow, Rollout, RolloutDecision
from routing.experiments.statistics import Estimate
from routing.models import RoutingPolicy
from tenants.errors import ApiError
from tenants.models import Tenant
from tenants.rest import Guarded, ReadResource, Resource, StrictSerializer, plain

MONEY_FIGURES = ("cost", "price")


def policy_of(slug: str, tenant: str | None) -> RoutingPolicy:
    """The operator's policy of that name, or a tenant's own. Raises ApiError invalid_request."""
    found = RoutingPolicy.objects.filter(slug=slug, tenant__slug=tenant).select_related("tenant").first()
    if found is None:
        raise ApiError("invalid_request", f"There is no policy {slug!r} of that owner.", param="policy")
    return found


# ------------------------------------------------------------------ experiments


class ExperimentSerializer(StrictSerializer, serializers.ModelSerializer[Experiment]):
    """An A/B test on a policy; the first arm is the control. `tenant` owns the policy; null: the operator."""

    slug = serializers.RegexField(SLUG, max_length=63)
    policy = serializers.CharField(max_length=63)
    tenant = serializers.CharField(max_length=63, required=False, allow_null=True, default=None)
    unit = serializers.CharField(max_length=48, required=False, default="tenant")
    arms = serializers.ListField(
        child=serializers.JSONField(),
        help_text='{"name", "weight", "targets", "parameters", "system_prompt"}, the control first.',
    )

    class Meta:
        model = Experiment
        fields: ClassVar[tuple[str, ...]] = (
            "id",
            "slug",
            "name",
            "policy",
            "tenant",
            "unit",
            "arms",
            "status",
            "is_in_force",
            "promoted_arm",
            "started_at",
            "stopped_at",
            "created_by",
            "created_at",
            "updated_at",
        )
        read_only_fields = (
            "id",
            "status",
            "is_in_force",
            "promoted_arm",
            "started_at",
            "stopped_at",
            "created_by",
            "created_at",
            "updated_at",
        )
        validators: ClassVar[list[Any]] = []

    def to_representation(self, instance: Experiment) -> dict[str, Any]:
        owner = instance.policy.tenant
        return {
            **{
                name: getattr(instance, name) for name in self.Meta.fields if name not in ("policy", "tenant")
            },
            "policy": instance.policy.slug,
            "tenant": owner.slug if owner else None,
        }


class PromoteSerializer(StrictSerializer):
    """Which arm all calls shall take."""

    arm = serializers.CharField(max_length=40)


class ExperimentResource(Resource[Experiment]):
    """A/B tests. Started, stopped and promoted by their own paths; never deleted: log rows name them."""

    queryset = Experiment.objects.select_related("policy", "policy__tenant")
    serializer_class = ExperimentSerializer
    lookup_field = "slug"
    read_scope, write_scope = "policies:read", "policies:write"
    action_scopes: ClassVar = {"report": "cost:read"}
    section = "routing"
    http_method_names = ["get", "post", "patch", "head"]
    filters: ClassVar = {"policy": "policy__slug", "status": "status"}

    def perform_create(self, serializer: serializers.BaseSerializer[Experiment]) -> None:
        """Raises ApiError as `trials.create_experiment`."""
        given = serializer.validated_data
        serializer.instance = trials.create_experiment(
            slug=given["slug"],
            name=given.get("name", ""),
            policy=policy_of(given["policy"], given["tenant"]),
            unit=given["unit"],
            arms=given["arms"],
            actor=self.principal,
        )

    def perform_update(self, serializer: serializers.BaseSerializer[Experiment]) -> None:
        """Raises ApiError as `trials.change_experiment`; the slug stands in log rows and stays."""
        experiment = cast("Experiment", serializer.instance)
        changes = dict(serializer.validated_data)
        if changes.pop("slug", experiment.slug) != experiment.slug:
            raise ApiError("invalid_request", "The slug of an experiment cannot change.", param="slug")
        tenant = changes.pop("tenant", None)
        if "policy" in changes:
            changes["policy"] = policy_of(changes["policy"], tenant)
        serializer.instance = trials.change_experiment(
            experiment=experiment, changes=changes, actor=self.principal
        )

    def _shown(self, experiment: Experiment) -> Response:
        return Response(plain(self.get_serializer(experiment).data))

    @extend_schema(request=NothingSerializer, responses={200: ExperimentSerializer})
    @action(detail=True, methods=["post"])
    def start(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Let it split its policy's calls. One at a time per policy."""
        experiment = self.get_object()
        NothingSerializer(data=request.data).is_valid(raise_exception=True)
        return self._shown(trials.start(experiment=experiment, actor=self.principal))

    @extend_schema(request=NothingSerializer, responses={200: ExperimentSerializer})
    @action(detail=True, methods=["post"])
    def stop(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Let the policy rule alone again."""
        experiment = self.get_object()
        NothingSerializer(data=request.data).is_valid(raise_exception=True)
        return self._shown(trials.stop(experiment=experiment, actor=self.principal))

    @extend_schema(request=PromoteSerializer, responses={200: ExperimentSerializer})
    @action(detail=True, methods=["post"])
    def promote(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Take one arm over for all calls."""
        experiment = self.get_object()
        given = PromoteSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        return self._shown(
            trials.promote(experiment=experiment, arm=given.validated_data["arm"], actor=self.principal)
        )

    @extend_schema(responses={200: OpenApiTypes.OBJECT})
    @action(detail=True)
    def report(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """How the arms compare, with confidence intervals."""
        return Response(plain(shown_report(report(self.get_object()))))


def shown_report(found: Report) -> dict[str, Any]:
    """A report as JSON; money as decimal strings."""
    return {
        "experiment": found.slug,
        "start": found.start,
        "end": found.end,
        "confidence": 0.95,
        "comparison_confidence": found.level,
        "arms": [_shown_arm(arm) for arm in found.arms],
    }


def _shown_arm(arm: ArmReport) -> dict[str, Any]:
    return {
        "name": arm.name,
        "is_control": arm.is_control,
        "n": arm.n,
        "client_left": arm.left,
        "tenants": arm.tenants,
        "success": _estimate(arm.success),
        "p50_ms": _estimate(arm.p50_ms),
        "p95_ms": _estimate(arm.p95_ms),
        "cost": _amounts(arm.cost),
        "price": _amounts(arm.price),
        "feedback": None if arm.feedback is None else {"n": arm.feedback_n, **_plain(arm.feedback)},
        "differences": [
            {
                "figure": each.figure,
                "change": _estimate(each.change, is_money=each.figure in MONEY_FIGURES),
                "wording": each.wording,
            }
            for each in arm.differences
        ],
    }


def _amounts(found: Sequence[Money]) -> list[dict[str, Any]]:
    return [
        {"currency": each.currency, "n": each.n, **(_estimate(each.mean_pico, is_money=True) or {})}
        for each in found
    ]


def _plain(found: Estimate) -> dict[str, Any]:
    return {"value": found.value, "low": found.low, "high": found.high}


def _estimate(found: Estimate | None, *, is_money: bool = False) -> dict[str, Any] | None:
    if found is None:
        return None
    if not is_money:
        return _plain(found)
    return {
        name: None if value is None else amount_text(round(value)) for name, value in _plain(found).items()
    }


# ------------------------------------------------------------------ rollouts


class DecisionSerializer(serializers.ModelSerializer[RolloutDecision]):
    """One step of a rollout and the figures it was taken on."""

    class Meta:
        model = RolloutDecision
        fields = ("at", "verdict", "from_stage", "to_stage", "reason", "figures", "actor")
        read_only_fields = fields


class RolloutSerializer(StrictSerializer, serializers.ModelSerializer[Rollout]):
    """A candidate wording on its way to all calls. `candidate`: {"version": n}, or what differs from the wording."""

    slug = serializers.RegexField(SLUG, max_length=63)
    policy = serializers.CharField(max_length=63)
    tenant = serializers.CharField(max_length=63, required=False, allow_null=True, default=None)
    candidate = serializers.DictField()
    unit = serializers.CharField(max_length=48, required=False, default="call")
    stages = serializers.ListField(child=serializers.DictField(), required=False)
    gates = serializers.DictField(required=False)
    scoring = serializers.DictField(required=False)
    min_samples = serializers.IntegerField(required=False, default=100)
    min_stage_s = serializers.IntegerField(required=False, default=300)
    per_minute = serializers.IntegerField(required=False, default=60)
    decisions = DecisionSerializer(many=True, read_only=True)

    class Meta:
        model = Rollout
        fields: ClassVar[tuple[str, ...]] = (
            "id",
            "slug",
            "name",
            "policy",
            "tenant",
            "candidate",
            "base_version",
            "unit",
            "stages",
            "gates",
            "scoring",
            "min_samples",
            "min_stage_s",
            "per_minute",
            "status",
            "stage",
            "started_at",
            "stage_started_at",
            "finished_at",
            "evaluated_at",
            "evaluation",
            "decisions",
            "created_by",
            "created_at",
        )
        read_only_fields = (
            "id",
            "base_version",
            "status",
            "stage",
            "started_at",
            "stage_started_at",
            "finished_at",
            "evaluated_at",
            "evaluation",
            "created_by",
            "created_at",
        )
        validators: ClassVar[list[Any]] = []

    def to_representation(self, instance: Rollout) -> dict[str, Any]:
        owner = instance.policy.tenant
        return {
            **{
                name: getattr(instance, name)
                for name in self.Meta.fields
                if name not in ("policy", "tenant", "decisions")
            },
            "policy": instance.policy.slug,
            "tenant": owner.slug if owner else None,
            "decisions": DecisionSerializer(instance.decisions.all(), many=True).data,
        }


class ReasonSerializer(StrictSerializer):
    """Why a person decides instead of the gates."""

    reason = serializers.CharField(max_length=400, required=False, default="By hand.")


class RolloutResource(Resource[Rollout]):
    """Gated rollouts. They begin when they are created; the clock takes them on, or a person."""

    queryset = Rollout.objects.select_related("policy", "policy__tenant").prefetch_related("decisions")
    serializer_class = RolloutSerializer
    lookup_field = "slug"
    read_scope, write_scope = "cost:read", "policies:write"  # the figures tell what providers charge
    section = "routing"
    http_method_names = ["get", "post", "head"]
    filters: ClassVar = {"policy": "policy__slug", "status": "status"}

    def perform_create(self, serializer: serializers.BaseSerializer[Rollout]) -> None:
        """Raises ApiError as `rollouts.begin_rollout`."""
        given = dict(serializer.validated_data)
        policy = policy_of(given.pop("policy"), given.pop("tenant"))
        serializer.instance = rollouts.begin_rollout(
            policy=policy, name=given.pop("name", ""), **given, actor=self.principal
        )

    def _decide(self, request: Request, verdict: Verdict) -> Response:
        row = self.get_object()
        given = ReasonSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        reason = given.validated_data["reason"]
        verb = rollouts.advance if verdict is Verdict.ADVANCE else rollouts.roll_back
        verb(rollout=row, reason=reason, figures=_figures(row, verdict, reason), actor=self.principal)
        return Response(plain(self.get_serializer(self.get_queryset().get(pk=row.pk)).data))

    @extend_schema(request=ReasonSerializer, responses={200: RolloutSerializer})
    @action(detail=True, methods=["post"])
    def advance(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """One stage further, whatever the gates say."""
        return self._decide(request, Verdict.ADVANCE)

    @extend_schema(request=ReasonSerializer, responses={200: RolloutSerializer})
    @action(detail=True, methods=["post"])
    def rollback(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """All calls by the wording in force again, at once."""
        return self._decide(request, Verdict.ROLL_BACK)


def _figures(row: Rollout, verdict: Verdict, reason: str) -> Mapping[str, Any]:
    """What was known when a person decided."""
    if row.status != Rollout.Status.RUNNING:
        return {}
    candidate, control = figures_of(row, now=timezone.now())
    return shown_figures(Decision(verdict, reason, ()), candidate, control)


# ------------------------------------------------------------------ shadows


class ShadowSerializer(StrictSerializer):
    """A share of the policy's calls, mirrored to `targets` in the background. Its cost is the operator's."""

    share = serializers.DecimalField(max_digits=5, decimal_places=4, required=False)
    targets = serializers.ListField(child=serializers.JSONField(), required=False)
    per_minute = serializers.IntegerField(required=False)
    scoring = serializers.DictField(
        required=False, help_text='{"kind": "none|exact_match|similarity|rubric", "target", "rubric"}'
    )
    is_enabled = serializers.BooleanField(required=False)


class ShadowView(Guarded):
    """`/policies/{slug}/shadow/`: set it, read it, clear it. For operators: it costs them."""

    read_scope, write_scope = "policies:read", "policies:write"
    section = "routing"
    http_method_names = ["get", "put", "delete", "head"]

    def _policy(self) -> RoutingPolicy:
        rows = RoutingPolicy.objects.select_related("tenant")
        found = rows.filter(
            slug=self.kwargs["slug"], tenant__slug=self.request.query_params.get("tenant")
        ).first()
        if found is None:
            raise ApiError("not_found", "There is no such policy.")
        return found

    @extend_schema(responses={200: ShadowSerializer})
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        held = PolicyShadow.objects.filter(policy=self._policy()).first()
        if held is None:
            raise ApiError("not_found", "This policy has no shadow.")
        return Response(shadows.picture(held))

    @extend_schema(request=ShadowSerializer, responses={200: ShadowSerializer})
    def put(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        policy = self._policy()
        given = ShadowSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        made = shadows.set_shadow(policy=policy, wording=given.validated_data, actor=self.principal)
        return Response(shadows.picture(made))

    @extend_schema(responses={204: None})
    def delete(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        shadows.clear_shadow(policy=self._policy(), actor=self.principal)
        return Response(status=204)


# ------------------------------------------------------------------ feedback and overhead


class FeedbackSerializer(serializers.ModelSerializer[Feedback]):
    """A caller's verdict on one answer; `score` in [-1, 1]."""

    tenant = serializers.SlugRelatedField[Tenant](slug_field="slug", read_only=True)

    class Meta:
        model = Feedback
        fields = ("id", "tenant", "request_id", "score", "label", "comment", "created_at", "updated_at")
        read_only_fields = fields


class FeedbackResource(ReadResource[Feedback]):
    """What callers thought of answers. Given at `POST /v1/feedback`."""

    queryset = Feedback.objects.select_related("tenant")
    serializer_class = FeedbackSerializer
    read_scope = "requests:read"
    http_method_names = ["get", "head"]
    filters: ClassVar = {"tenant": "tenant__slug", "label": "label", "request_id": "request_id"}


class OverheadView(Guarded):
    """What shadows and evaluations cost the operator."""

    read_scope = "cost:read"
    http_method_names = ["get", "head"]

    @extend_schema(
        parameters=[OpenApiParameter("from", str, required=True), OpenApiParameter("to", str, required=True)],
        responses={200: OpenApiTypes.OBJECT},
    )
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        for name in request.query_params:
            if name not in ("from", "to"):
                raise ApiError("unknown_field", f"The parameter {name!r} is unknown.", param=name)
        start, end = (self._moment(name) for name in ("from", "to"))
        rows = overhead(start=start, end=end)
        slugs = dict(Tenant.objects.filter(id__in={row.tenant_id for row in rows}).values_list("id", "slug"))
        return Response(
            {
                "data": [
                    {
                        "kind": row.kind,
                        "tenant": slugs.get(row.tenant_id, str(row.tenant_id)),
                        "policy": row.policy,
                        "provider": row.provider,
                        "model": row.model,
                        "attempts": row.attempts,
                        "tokens": row.tokens,
                        "cost": amount_text(row.cost_pico),
                        "currency": row.cost_currency,
                        "unpriced": row.unpriced,
                    }
                    for row in rows
                ],
                "next_cursor": None,
            }
        )

    def _moment(self, name: str) -> Any:
        text = self.request.query_params.get(name, "")
        try:
            return serializers.DateTimeField(default_timezone=UTC).run_validation(text)
        except serializers.ValidationError as error:
            raise ApiError("invalid_request", f"{name} must be an RFC 3339 time.", param=name) from error


_router = SimpleRouter(use_regex_path=False)
_router.register("experiments", ExperimentResource, basename="experiment")
_router.register("rollouts", RolloutResource, basename="rollout")
_router.register("feedback", FeedbackResource, basename="feedback")

urlpatterns: list[URLPattern | URLResolver] = [
    path("policies/<slug:slug>/shadow/", ShadowView.as_view(), name="policy-shadow"),
    path("overhead/", OverheadView.as_view(), name="overhead"),
    path("", include(_router.urls)),
]
