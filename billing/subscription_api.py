"""The REST resources of a subscription's life: change, cancellation, what a change would cost.

Shapes only: every change is one verb's. Operators alone move a tenant, whatever a tenant's key may do.
"""

from typing import Any, cast

from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing import subscriptions
from billing.models import Plan, SubscriptionChange
from billing.rating.money import minor_text
from tenants.errors import ApiError
from tenants.models import Tenant
from tenants.rest import Guarded, StrictSerializer

READ, WRITE = "plans:read", "plans:write"
WHEN = ("now", "period_end")


class ChangeSerializer(StrictSerializer):
    """Which plan's newest version, and when."""

    plan = serializers.SlugField(max_length=63)
    when = serializers.ChoiceField(choices=WHEN, required=False)


class CancelSerializer(StrictSerializer):
    """When the subscription ends."""

    when = serializers.ChoiceField(choices=WHEN, required=False)


class PendingSerializer(serializers.Serializer[Any]):
    """What will become of the subscription at `at`; `plan` null: it ends. All null: nothing."""

    at = serializers.DateTimeField(allow_null=True)
    plan = serializers.CharField(allow_null=True)


class ChangePreviewSerializer(serializers.Serializer[Any]):
    """What a change credits and charges of amounts paid in advance (R10), before tax."""

    at = serializers.DateTimeField()
    currency = serializers.CharField()
    mode = serializers.ChoiceField(choices=("day", "second"))
    unused = serializers.IntegerField()
    whole = serializers.IntegerField()
    credit = serializers.CharField()
    charge = serializers.CharField()
    net = serializers.CharField()


class _Subscribed(Guarded):
    """A view on a tenant's subscription."""

    read_scope, write_scope = READ, WRITE

    def _of(self) -> Tenant:
        return cast("Tenant", self.tenant)

    def _pending(self) -> Response:
        held = (
            SubscriptionChange.objects.for_tenant(self._of())
            .filter(state=SubscriptionChange.State.PENDING)
            .select_related("plan")
            .first()
        )
        plan = held.plan.slug if held is not None and held.plan is not None else None
        return Response({"at": held.at if held else None, "plan": plan})


class SubscriptionChangeView(_Subscribed):
    """Moving to another plan, now or when the period ends."""

    http_method_names = ["get", "post", "delete", "head"]

    @extend_schema(responses={200: PendingSerializer})
    def get(self, request: Request, tenant: str) -> Response:
        """What is scheduled."""
        return self._pending()

    @extend_schema(request=ChangeSerializer, responses={200: PendingSerializer})
    def post(self, request: Request, tenant: str) -> Response:
        """Change the plan. Raises ApiError as `change_plan` and `schedule`."""
        self.require(WRITE, None)
        wanted = ChangeSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        plan, now = _plan(wanted.validated_data["plan"]), timezone.now()
        if wanted.validated_data.get("when", "period_end") == "now":
            subscriptions.change_plan(tenant=self._of(), plan=plan, at=now, actor=self.principal)
        else:
            subscriptions.schedule(tenant=self._of(), plan=plan, now=now, actor=self.principal)
        return self._pending()

    @extend_schema(responses={200: PendingSerializer})
    def delete(self, request: Request, tenant: str) -> Response:
        """Let the subscription go on as it is. Raises ApiError as `withdraw`."""
        self.require(WRITE, None)
        subscriptions.withdraw(tenant=self._of(), actor=self.principal)
        return self._pending()


class SubscriptionCancelView(_Subscribed):
    """Ending a subscription, now or when the period ends."""

    http_method_names = ["post"]

    @extend_schema(request=CancelSerializer, responses={200: PendingSerializer})
    def post(self, request: Request, tenant: str) -> Response:
        """Cancel. Raises ApiError as `cancel` and `schedule`."""
        self.require(WRITE, None)
        wanted = CancelSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        now = timezone.now()
        if wanted.validated_data.get("when", "period_end") == "now":
            subscriptions.cancel(tenant=self._of(), at=now, actor=self.principal)
        else:
            subscriptions.schedule(tenant=self._of(), plan=None, now=now, actor=self.principal)
        return self._pending()


class SubscriptionPreviewView(_Subscribed):
    """What a change of plan now would cost."""

    http_method_names = ["get", "head"]

    @extend_schema(
        parameters=[OpenApiParameter("plan", required=True)], responses={200: ChangePreviewSerializer}
    )
    def get(self, request: Request, tenant: str) -> Response:
        """Nothing is changed. Raises ApiError as `preview_change`."""
        for name in request.query_params:
            if name != "plan":
                raise ApiError("unknown_field", f"The parameter {name!r} is unknown.", param=name)
        plan = _plan(request.query_params.get("plan", ""))
        made = subscriptions.preview_change(tenant=self._of(), plan=plan, at=timezone.now())
        return Response(
            {
                "at": made.at,
                "currency": made.currency,
                "mode": made.mode,
                "unused": made.unused,
                "whole": made.whole,
                "credit": minor_text(made.credit_minor, made.currency),
                "charge": minor_text(made.charge_minor, made.currency),
                "net": minor_text(made.net_minor, made.currency),
            }
        )


def _plan(slug: str) -> Plan:
    plan = Plan.objects.filter(slug=slug).first()
    if plan is None:
        raise ApiError("invalid_request", f"There is no plan {slug!r}.", param="plan")
    return plan
