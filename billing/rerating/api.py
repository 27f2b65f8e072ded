"""Re-ratings over the API: ask, look at the dry run, approve or reject. Operators only."""

from decimal import Decimal
from typing import Any, ClassVar, cast

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from billing.models import ReRating
from billing.rerating import jobs
from tenants.rest import Resource, StrictSerializer, plain

PERS = (1, 60, 1000, 3600, 1_000_000)


class CorrectedRateSerializer(StrictSerializer):
    """What one component should have cost. Without times it holds over the whole window."""

    provider_model = serializers.CharField(
        max_length=200, required=False, help_text="All of them unless given."
    )
    component = serializers.RegexField(r"^[a-z][a-z0-9_]{0,31}$")
    price = serializers.DecimalField(max_digits=20, decimal_places=10, min_value=Decimal(0))
    per = serializers.ChoiceField(choices=PERS, required=False, default=1_000_000)
    currency = serializers.RegexField(r"^[A-Z]{3}$", required=False, default="USD")
    service_tier = serializers.CharField(max_length=32, required=False, allow_blank=True, default="")
    min_input_tokens = serializers.IntegerField(min_value=0, required=False, default=0)
    effective_from = serializers.DateTimeField(required=False)
    effective_to = serializers.DateTimeField(required=False)

    def to_representation(self, instance: Any) -> Any:
        return instance  # stored as it was asked


class ReRatingSerializer(StrictSerializer, serializers.ModelSerializer[ReRating]):
    """A correction of what calls in [start, end) cost. `report` is the dry run's diff, `digest` names it."""

    provider_model = serializers.CharField(max_length=200, required=False, allow_blank=True, default="")
    tenants = serializers.ListField(
        child=serializers.CharField(max_length=63), required=False, default=list, max_length=1000
    )
    rates = CorrectedRateSerializer(many=True, required=False, default=list, max_length=1000)  # type: ignore[call-arg]  # of many
    report = serializers.JSONField(read_only=True)

    class Meta:
        model = ReRating
        fields: ClassVar[tuple[str, ...]] = (
            "id", "reason", "start", "end", "provider", "provider_model", "tenants", "rates", "needs_two",
            "status", "report", "digest", "appended", "error", "created_by", "created_at", "approved_by",
            "approved_at", "finished_at",
        )  # fmt: skip
        read_only_fields = (
            "id", "status", "digest", "appended", "error", "created_by", "created_at", "approved_by",
            "approved_at", "finished_at",
        )  # fmt: skip


class ApprovalSerializer(StrictSerializer):
    """Which dry run is approved."""

    digest = serializers.CharField(max_length=64)


class ReRatingResource(Resource[ReRating]):
    """Corrected costs: asked for with the scope to change rates, approved with the same."""

    queryset = ReRating.objects.all()
    serializer_class = ReRatingSerializer
    read_scope, write_scope = "cost:read", "prices:write"
    http_method_names = ["get", "post", "head"]
    filters: ClassVar = {"status": "status", "provider": "provider"}

    def perform_create(self, serializer: serializers.BaseSerializer[ReRating]) -> None:
        """Raises ApiError as `jobs.ask`."""
        given = serializer.validated_data
        serializer.instance = jobs.ask(
            reason=given["reason"],
            start=given["start"],
            end=given["end"],
            provider=given["provider"],
            provider_model=given["provider_model"],
            tenants=given["tenants"],
            rates=cast("list[dict[str, Any]]", plain(given["rates"])),
            needs_two=given.get("needs_two", False),
            actor=self.principal,
        )

    @extend_schema(request=ApprovalSerializer, responses={200: ReRatingSerializer})
    @action(detail=True, methods=["post"])
    def approve(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Append the deltas of the dry run. Where two are needed, not by whoever asked."""
        row = self.get_object()
        given = ApprovalSerializer(data=request.data, context=self.get_serializer_context())
        given.is_valid(raise_exception=True)
        done = jobs.approve(
            row=row, digest=given.validated_data["digest"], actor=self.principal, now=timezone.now()
        )
        return Response(self.get_serializer(done).data)

    @extend_schema(request=None, responses={200: ReRatingSerializer})
    @action(detail=True, methods=["post"])
    def reject(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Drop it."""
        return Response(self.get_serializer(jobs.reject(row=self.get_object(), actor=self.principal)).data)
