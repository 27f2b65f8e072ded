"""The control plane's top floor: what needs more than one room below. Tenants with their plan; the last 404."""

from typing import Any, ClassVar

from django.db import transaction
from django.http import HttpRequest
from django.urls import URLPattern, URLResolver, include, path
from django.utils import timezone
from rest_framework import serializers
from rest_framework.permissions import AllowAny
from rest_framework.routers import SimpleRouter
from rest_framework.views import APIView

from billing import subscriptions
from billing.models import Plan
from gateway.policies import BindingResource, FeatureResource, SimulationResource
from gateway.replay.api import ReplayResource
from tenants import api as tenants_api
from tenants.errors import ApiError
from tenants.models import Tenant


class TenantSerializer(tenants_api.TenantSerializer):
    """A tenant with the plan it is on (a plan's slug; the newest version is taken)."""

    plan = serializers.CharField(required=False, write_only=True)

    class Meta(tenants_api.TenantSerializer.Meta):
        fields: ClassVar[tuple[str, ...]] = (*tenants_api.TenantSerializer.Meta.fields, "plan")

    def to_representation(self, instance: Tenant) -> Any:
        shown = super().to_representation(instance)
        return {**shown, "plan": subscriptions.current_version(instance).plan.slug}


class TenantResource(tenants_api.TenantResource):
    """`/tenants/`: the tenants room's resource, joined with billing's subscriptions."""

    serializer_class = TenantSerializer

    def perform_create(self, serializer: serializers.BaseSerializer[Tenant]) -> None:
        plan = _plan(serializer)
        with transaction.atomic():
            super().perform_create(serializer)
            if plan is not None and serializer.instance is not None:
                subscriptions.subscribe(
                    tenant=serializer.instance, plan=plan, start=timezone.now(), actor=self.principal
                )

    def perform_update(self, serializer: serializers.BaseSerializer[Tenant]) -> None:
        plan = _plan(serializer)
        with transaction.atomic():
            super().perform_update(serializer)
            if plan is not None and serializer.instance is not None:
                self.require("plans:write", None)
                subscriptions.change_plan(
                    tenant=serializer.instance, plan=plan, at=timezone.now(), actor=self.principal
                )


def _plan(serializer: serializers.BaseSerializer[Tenant]) -> Plan | None:
    slug = serializer.validated_data.pop("plan", None)
    if slug is None:
        return None
    plan = Plan.objects.filter(slug=slug).first()
    if plan is None:
        raise ApiError("invalid_request", f"There is no plan {slug!r}.", param="plan")
    return plan


class NotFound(APIView):
    """Every other path of the control plane: a typed 404, whoever asks."""

    authentication_classes = ()
    permission_classes = (AllowAny,)
    schema = None

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        self.headers = {}
        drf_request = self.initialize_request(request, *args, **kwargs)
        self.request = drf_request
        response = self.handle_exception(
            ApiError("not_found", f"No such path: {request.method} {request.path}")
        )
        self.response = self.finalize_response(drf_request, response, *args, **kwargs)
        return self.response


_router = SimpleRouter(use_regex_path=False)
_router.register("tenants", TenantResource, basename="tenant")
_router.register("features", FeatureResource, basename="feature")
_router.register("policy-bindings", BindingResource, basename="policy-binding")
_router.register("replays", ReplayResource, basename="replay")

urlpatterns: list[URLPattern | URLResolver] = [
    path(
        "policies/<slug:slug>/simulate/",
        SimulationResource.as_view({"post": "simulate"}),
        name="policy-simulate",
    ),
    path("", include(_router.urls)),
]
