"""Retention, legal holds, certificates, erasures and residency over the API. Shapes only: every change is a verb's."""

from datetime import timedelta
from typing import Any, ClassVar, cast

from django.conf import settings
from django.http import HttpResponse
from django.urls import URLPattern, URLResolver, include, path
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.routers import SimpleRouter

from billing.query import IgnoreAccept, instant_of, known_parameters
from gateway.content import erase, residency
from gateway.content.models import DeletionCertificate, Erasure
from tenants import retention
from tenants.models import LegalHold, Tenant
from tenants.models.retention import MAX_CONTENT_DAYS, MIN_AUDIT_DAYS
from tenants.pseudonyms import pseudonym
from tenants.rest import Guarded, ReadResource, Resource, StrictSerializer

# ------------------------------------------------------------------ retention


class RetentionSerializer(StrictSerializer):
    """Days by data class; null: as long as the operator keeps it. Money and meters are never shortened."""

    content_days = serializers.IntegerField(
        required=False,
        min_value=0,
        max_value=MAX_CONTENT_DAYS,
        help_text="0: what calls say is never stored.",
    )
    zero_retention = serializers.BooleanField(
        required=False,
        help_text="Keep no content, no end user, tags or error text; call only endpoints that keep nothing.",
    )
    pseudonymize_end_users = serializers.BooleanField(required=False)
    request_log_days = serializers.IntegerField(required=False, allow_null=True, min_value=1, max_value=32767)
    audit_days = serializers.IntegerField(
        required=False, allow_null=True, min_value=MIN_AUDIT_DAYS, max_value=2**31 - 1
    )
    artifacts_days = serializers.IntegerField(required=False, allow_null=True, min_value=1, max_value=32767)
    operator = serializers.SerializerMethodField(help_text="The operator's own days and region.")

    def get_operator(self, row: Any) -> dict[str, Any]:
        return {
            "max_content_days": settings.TOLLHOUSE_MAX_CONTENT_DAYS,
            "request_log_days": settings.TOLLHOUSE_REQUEST_LOG_DAYS,
            "artifacts_days": settings.TOLLHOUSE_ARTIFACTS_DAYS,
            "region": settings.TOLLHOUSE_REGION,
        }


class RetentionView(Guarded):
    """How long one tenant's data is kept."""

    read_scope, write_scope = "retention:read", "retention:write"
    http_method_names = ["get", "patch", "head"]

    @extend_schema(operation_id="retention_retrieve", responses={200: RetentionSerializer})
    def get(self, request: Request, tenant: str) -> Response:
        """The tenant's choices, and the operator's limits."""
        return Response(RetentionSerializer(retention.setting_of(cast("Tenant", self.tenant))).data)

    @extend_schema(
        operation_id="retention_update", request=RetentionSerializer, responses={200: RetentionSerializer}
    )
    def patch(self, request: Request, tenant: str) -> Response:
        """Change some choices. Shorter days delete what is older within the hour, unless a legal hold stands."""
        given = RetentionSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        row = retention.change_setting(
            tenant=cast("Tenant", self.tenant), changes=given.validated_data, actor=self.principal
        )
        return Response(RetentionSerializer(row).data)


class LegalHoldSerializer(StrictSerializer, serializers.ModelSerializer[LegalHold]):
    """While it stands, nothing of the tenant is deleted or erased."""

    class Meta:
        model = LegalHold
        fields = (
            "id",
            "reason",
            "since",
            "placed_by",
            "is_operators",
            "released_at",
            "released_by",
        )
        read_only_fields = ("id", "since", "placed_by", "is_operators", "released_at", "released_by")


class NoBodySerializer(StrictSerializer):
    """A body without fields."""


class LegalHoldResource(Resource[LegalHold]):
    """Legal holds on one tenant. They are lifted, never deleted."""

    queryset = LegalHold.objects.select_related("tenant")
    serializer_class = LegalHoldSerializer
    read_scope, write_scope = "retention:read", "retention:write"
    http_method_names = ["get", "post", "head"]

    def perform_create(self, serializer: serializers.BaseSerializer[LegalHold]) -> None:
        """Raises ApiError as `retention.place_hold`."""
        serializer.instance = retention.place_hold(
            tenant=cast("Tenant", self.tenant),
            actor=self.principal,
            now=timezone.now(),
            **serializer.validated_data,
        )

    @extend_schema(request=NoBodySerializer, responses={200: LegalHoldSerializer})
    @action(detail=True, methods=["post"])
    def release(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Lift the hold: what is due is deleted within the hour."""
        hold = self.get_object()
        NoBodySerializer(data=request.data).is_valid(raise_exception=True)
        released = retention.release_hold(hold=hold, actor=self.principal, now=timezone.now())
        return Response(self.get_serializer(released).data)


# ------------------------------------------------------------------ certificates and erasures


@extend_schema_field(OpenApiTypes.STR)
class Hex(serializers.Field[bytes, str, str, Any]):
    """Bytes as hexadecimal digits, for reading."""

    def to_representation(self, value: bytes) -> str:
        return bytes(value).hex()


class DeletionCertificateSerializer(serializers.ModelSerializer[DeletionCertificate]):
    """What was deleted, whose, by which rule; `hash` covers it all and the certificate before."""

    tenant = serializers.SlugRelatedField(slug_field="slug", read_only=True)  # type: ignore[var-annotated]
    previous_hash = Hex(read_only=True)
    hash = Hex(read_only=True)

    class Meta:
        model = DeletionCertificate
        fields = (
            "id",
            "chain",
            "sequence",
            "tenant",
            "issued_at",
            "data_class",
            "day",
            "method",
            "rows",
            "rule",
            "details",
            "previous_hash",
            "hash",
        )


class DeletionCertificateResource(ReadResource[DeletionCertificate]):
    """Proofs of deletion. The operator's own (tenant null) are about whole days of the installation."""

    queryset = DeletionCertificate.objects.select_related("tenant")
    serializer_class = DeletionCertificateSerializer
    read_scope = "retention:read"
    http_method_names = ["get", "head"]
    filters: ClassVar = {
        "tenant": "tenant__slug",
        "data_class": "data_class",
        "day": "day",
        "method": "method",
    }


class ErasureSerializer(StrictSerializer, serializers.ModelSerializer[Erasure]):
    """An erasure and how far it is. `counts.stays` is what keeps naming the person: rows of the ledger."""

    end_user = serializers.CharField(
        max_length=erase.MAX_NAME,
        write_only=True,
        trim_whitespace=False,
        help_text="As in X-Tollhouse-User, or its pseudonym. It is kept sealed until the erasure is done.",
    )

    class Meta:
        model = Erasure
        fields = (
            "id",
            "end_user",
            "pseudonym",
            "before",
            "status",
            "days_total",
            "days_done",
            "counts",
            "certificate",
            "requested_by",
            "created_at",
            "finished_at",
        )
        read_only_fields = tuple(name for name in fields if name != "end_user")


class EndUserSerializer(StrictSerializer):
    """An end user's name."""

    end_user = serializers.CharField(max_length=erase.MAX_NAME, trim_whitespace=False)


class PseudonymSerializer(serializers.Serializer[Any]):
    """The name's pseudonym in this tenant: what is recorded in its place."""

    pseudonym = serializers.CharField()


class ErasureResource(Resource[Erasure]):
    """Erasures of end users of one tenant."""

    queryset = Erasure.objects.select_related("tenant")
    serializer_class = ErasureSerializer
    read_scope, write_scope = "retention:read", "retention:write"
    http_method_names = ["get", "post", "head"]
    filters: ClassVar = {"status": "status", "pseudonym": "pseudonym"}
    readonly_actions = ("pseudonym",)

    def perform_create(self, serializer: serializers.BaseSerializer[Erasure]) -> None:
        """Raises ApiError as `erase.ask`."""
        serializer.instance = erase.ask(
            tenant=cast("Tenant", self.tenant),
            actor=self.principal,
            now=timezone.now(),
            **serializer.validated_data,
        )

    @extend_schema(request=EndUserSerializer, responses={200: PseudonymSerializer})
    @action(detail=False, methods=["post"])
    def pseudonym(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """The pseudonym of a name, for budgets and filters of a tenant that records no names."""
        given = EndUserSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        key = retention.pseudonym_key(cast("Tenant", self.tenant))
        return Response({"pseudonym": pseudonym(key, given.validated_data["end_user"])})


# ------------------------------------------------------------------ residency

_PERIOD = [
    OpenApiParameter("from", OpenApiTypes.DATETIME, description="Inclusive; 30 days before `to`."),
    OpenApiParameter("to", OpenApiTypes.DATETIME, description="Exclusive; now unless given."),
]


class FlowSerializer(serializers.Serializer[Any]):
    """What went to one region by one provider; `within` null: nothing was demanded, or nobody recorded it."""

    region = serializers.CharField()
    provider = serializers.CharField()
    policy = serializers.CharField()
    allowed_regions = serializers.CharField(allow_null=True)
    purpose = serializers.CharField()
    calls = serializers.IntegerField()
    attempts = serializers.IntegerField()
    tokens = serializers.IntegerField()
    within = serializers.BooleanField(allow_null=True)


class StraySerializer(serializers.Serializer[Any]):
    """One attempt outside the regions that were allowed when its call began."""

    occurred_at = serializers.DateTimeField()
    request_id = serializers.UUIDField()
    attempt = serializers.IntegerField()
    kind = serializers.CharField()
    region = serializers.CharField()
    provider = serializers.CharField()
    model = serializers.CharField()
    policy = serializers.CharField()
    allowed_regions = serializers.CharField()


class ResidencySerializer(serializers.Serializer[Any]):
    """Where a tenant's data went. `share_within` null: no region was demanded of anything."""

    start = serializers.DateTimeField()
    end = serializers.DateTimeField()
    as_of = serializers.DateTimeField()
    allowed_regions = serializers.ListField(child=serializers.CharField())
    kept_in = serializers.CharField()
    attempts = serializers.IntegerField()
    tokens = serializers.IntegerField()
    outside = serializers.IntegerField()
    unrecorded = serializers.IntegerField()
    share_within = serializers.FloatField(allow_null=True)
    flows = FlowSerializer(many=True)
    exceptions = StraySerializer(many=True, source="strays")
    has_more_exceptions = serializers.BooleanField(source="has_more_strays")


class ResidencyView(Guarded):
    """The residency report of one tenant, from the ledger."""

    read_scope = "residency:read"
    http_method_names = ["get", "head"]

    @extend_schema(operation_id="residency", parameters=_PERIOD, responses={200: ResidencySerializer})
    def get(self, request: Request, tenant: str) -> Response:
        """Attempts and tokens by region, provider and policy version, and every exception."""
        return Response(ResidencySerializer(self.ask(request)).data)

    def ask(self, request: Request) -> residency.Report:
        """Raises ApiError: unknown_field, invalid_request."""
        known_parameters(request, "from", "to")
        now = timezone.now()
        end = instant_of(request, "to") or now
        return residency.report(
            tenant=cast("Tenant", self.tenant),
            start=instant_of(request, "from") or end - timedelta(days=30),
            end=end,
            now=now,
            kept_in=settings.TOLLHOUSE_REGION,
        )


class ResidencyCsv(ResidencyView):
    """The same as a file."""

    content_negotiation_class = IgnoreAccept

    @extend_schema(
        operation_id="residency_csv", parameters=_PERIOD, responses={(200, "text/csv"): OpenApiTypes.STR}
    )
    def get(self, request: Request, tenant: str) -> HttpResponse:  # type: ignore[override]  # a file, not data
        """The report as CSV (RFC 4180, UTF-8)."""
        return HttpResponse(
            residency.csv_of(self.ask(request)),
            content_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": 'attachment; filename="residency.csv"'},
        )


# ------------------------------------------------------------------ paths

_top = SimpleRouter(use_regex_path=False)
_top.register("deletion-certificates", DeletionCertificateResource, basename="deletion-certificate")
_nested = SimpleRouter(use_regex_path=False)
_nested.register("legal-holds", LegalHoldResource, basename="legal-hold")
_nested.register("erasures", ErasureResource, basename="erasure")

urlpatterns: list[URLPattern | URLResolver] = [
    *_top.urls,
    path(
        "tenants/<slug:tenant>/",
        include(
            [
                path("retention/", RetentionView.as_view(), name="retention"),
                path("residency/", ResidencyView.as_view(), name="residency"),
                path("residency.csv", ResidencyCsv.as_view(), name="residency-csv"),
                *_nested.urls,
            ]
        ),
    ),
]
