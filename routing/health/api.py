"""The control plane's REST views of the providers' health. Shapes only: `report` says what is, `store` resets."""

from typing import Any
from uuid import UUID

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from routing.health import report, store
from routing.health.history import Day
from routing.health.models import Incident
from routing.health.report import EndpointReport, ProviderReport, Rest
from routing.models import Endpoint, Provider
from routing.probe import Probe
from routing.types import Circuit
from tenants.errors import ApiError
from tenants.rest import Guarded, StrictSerializer

STATES = ("ok", "degraded", "failing", "unknown", "disabled")


class ProbeSerializer(serializers.Serializer[Probe]):
    """How the provider answered its last test."""

    ok = serializers.BooleanField()
    code = serializers.CharField()
    detail = serializers.CharField()
    latency_ms = serializers.IntegerField()
    at = serializers.DateTimeField()
    models = serializers.ListField(child=serializers.CharField())


class CircuitSerializer(serializers.Serializer[EndpointReport]):
    """An endpoint's breaker, and what all workers saw of it in the last five minutes."""

    id = serializers.UUIDField(source="endpoint.pk")
    model = serializers.CharField(source="endpoint.model.slug")
    provider_model = serializers.CharField(source="endpoint.provider_model")
    region = serializers.CharField()
    circuit = serializers.ChoiceField(choices=[circuit.value for circuit in Circuit])
    open_until = serializers.DateTimeField(allow_null=True)
    reason = serializers.CharField()
    success = serializers.FloatField(source="health.success", allow_null=True)
    samples = serializers.IntegerField(source="health.samples")
    first_byte_p50_ms = serializers.FloatField(source="health.first_byte_p50_ms", allow_null=True)
    first_byte_p95_ms = serializers.FloatField(source="health.first_byte_p95_ms", allow_null=True)
    latency_p95_ms = serializers.FloatField(source="health.latency_p95_ms", allow_null=True)
    output_tokens_per_s = serializers.FloatField(source="health.output_tokens_per_s", allow_null=True)


class PauseSerializer(serializers.Serializer[Rest]):
    """A quota that nobody calls on until then: after a 429, or because the provider refuses the credential."""

    credential = serializers.UUIDField(source="credential.pk", allow_null=True, default=None)
    provider_model = serializers.CharField()
    until = serializers.DateTimeField()
    reason = serializers.SerializerMethodField()
    refused_since = serializers.DateTimeField(allow_null=True)
    refused_times = serializers.SerializerMethodField()

    def get_reason(self, rest: Rest) -> str:
        return "credential" if rest.refusal else "rate_limited"

    def get_refused_times(self, rest: Rest) -> int:
        return rest.refusal.count if rest.refusal else 0


class DaySerializer(serializers.Serializer[Day]):
    """A day (UTC). `uptime` is the share of its time in which the endpoints' breakers were closed."""

    date = serializers.DateField()
    uptime = serializers.FloatField(allow_null=True)
    incidents = serializers.IntegerField()
    attempts = serializers.IntegerField()
    failed = serializers.IntegerField()


class IncidentSerializer(serializers.Serializer[Incident]):
    """A time in which a breaker was open."""

    id = serializers.UUIDField(source="pk")
    endpoint = serializers.UUIDField(source="endpoint_id")
    model = serializers.CharField(source="endpoint.model.slug")
    opened_at = serializers.DateTimeField()
    closed_at = serializers.DateTimeField(allow_null=True)
    reason = serializers.CharField()
    opened_by = serializers.CharField()
    closed_by = serializers.CharField()


class ProviderHealthSerializer(serializers.Serializer[ProviderReport]):
    """A provider's health now and over 90 days. `is_live` is false while its present state is unknown."""

    provider = serializers.CharField(source="provider.slug")
    status = serializers.ChoiceField(choices=STATES, source="state")
    is_live = serializers.BooleanField()
    endpoints = serializers.SerializerMethodField()
    last_test = ProbeSerializer(allow_null=True)
    circuits = CircuitSerializer(many=True, source="endpoints")
    pauses = PauseSerializer(many=True, source="rests")
    uptime = serializers.FloatField(allow_null=True)
    days = DaySerializer(many=True)
    incidents = IncidentSerializer(many=True)

    def get_endpoints(self, each: ProviderReport) -> int:
        return len(each.endpoints)


class ProviderSummarySerializer(serializers.Serializer[ProviderReport]):
    """A provider in the overview."""

    provider = serializers.CharField(source="provider.slug")
    name = serializers.CharField(source="provider.name")
    status = serializers.ChoiceField(choices=STATES, source="state")
    is_live = serializers.BooleanField()
    endpoints = serializers.SerializerMethodField()
    broken = serializers.IntegerField()
    pauses = serializers.SerializerMethodField()
    uptime = serializers.FloatField(allow_null=True)
    incidents = IncidentSerializer(many=True)

    def get_endpoints(self, each: ProviderReport) -> int:
        return len(each.endpoints)

    def get_pauses(self, each: ProviderReport) -> int:
        return len(each.rests)


class OverviewSerializer(serializers.Serializer[Any]):
    """Every provider; all are on this one page."""

    data = ProviderSummarySerializer(many=True)  # type: ignore[assignment]  # DRF takes it off the class again
    next_cursor = serializers.CharField(allow_null=True)


class ResetSerializer(StrictSerializer):
    """A body without fields."""


class ProviderHealthView(Guarded):
    """One provider's health."""

    read_scope = "providers:read"
    http_method_names = ["get", "head"]

    @extend_schema(responses={200: ProviderHealthSerializer}, operation_id="providers_health_retrieve")
    def get(self, request: Request, slug: str) -> Response:
        """Breakers, figures of the last five minutes, pauses, uptime per day, incidents, the last test."""
        provider = Provider.objects.filter(slug=slug).first()
        if provider is None:
            raise ApiError("not_found", "There is no such provider.")
        return Response(ProviderHealthSerializer(report.of_provider(provider, now=timezone.now())).data)


class OverviewView(Guarded):
    """All providers' health."""

    read_scope = "providers:read"
    http_method_names = ["get", "head"]

    @extend_schema(responses={200: OverviewSerializer}, operation_id="health_retrieve")
    def get(self, request: Request) -> Response:
        """The state of every provider, its uptime over 90 days, its newest incidents."""
        reports = report.of_all(now=timezone.now())
        return Response(OverviewSerializer({"data": reports, "next_cursor": None}).data)


class ResetView(Guarded):
    """Closes an endpoint's breaker by hand."""

    write_scope = "providers:write"
    http_method_names = ["post"]

    @extend_schema(
        request=ResetSerializer, responses={200: CircuitSerializer}, operation_id="endpoints_reset_create"
    )
    def post(self, request: Request, endpoint_id: UUID) -> Response:
        """Let calls through again at once. A breaker that is closed already is a conflict."""
        endpoint = Endpoint.objects.filter(pk=endpoint_id).select_related("provider", "model").first()
        if endpoint is None:
            raise ApiError("not_found", "There is no such endpoint.")
        ResetSerializer(data=request.data).is_valid(raise_exception=True)
        store.reset(endpoint=endpoint, actor=self.principal)
        return Response(CircuitSerializer(report.of_endpoint(endpoint)).data)
