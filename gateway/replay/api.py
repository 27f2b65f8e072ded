"""What-if over the API: ask for a replay, watch it, read the report, promote the candidate. Operators only."""

from typing import Any, ClassVar, cast

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from gateway.models import Replay
from gateway.replay import jobs
from routing.api import RateSerializer
from tenants.rest import Resource, StrictSerializer, plain
from tenants.wire import api_error


class CandidateRateSerializer(RateSerializer):
    """A rate to try out: in force over the whole window; from the promotion on, if it is promoted."""

    effective_from = None  # type: ignore[assignment]  # DRF's way to drop a field
    effective_to = None  # type: ignore[assignment]
    source = None  # type: ignore[assignment]

    class Meta(RateSerializer.Meta):
        fields: ClassVar[tuple[str, ...]] = (
            "provider",
            "provider_model",
            "component",
            "price",
            "per",
            "currency",
            "service_tier",
            "min_input_tokens",
        )
        read_only_fields = ("id", "created_at")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        return attrs


class WordingSerializer(StrictSerializer):
    """A policy's wording, as in /policies/."""

    strategy = serializers.CharField(max_length=16)
    targets = serializers.ListField(child=serializers.JSONField(), required=False)
    constraints = serializers.DictField(required=False)
    fallback = serializers.ListField(child=serializers.JSONField(), required=False)
    conduct = serializers.DictField(required=False)
    max_attempts = serializers.IntegerField(required=False)


class CandidateSerializer(StrictSerializer):
    """What is tried out: a policy's wording, rates, a plan's charges, or several of them together."""

    policy = serializers.CharField(max_length=63, required=False)
    policy_tenant = serializers.CharField(
        max_length=63, required=False, help_text="Slug of a policy's owner."
    )
    wording = WordingSerializer(required=False)
    rates = CandidateRateSerializer(many=True, required=False, max_length=5_000)  # type: ignore[call-arg]  # of many
    plan = serializers.CharField(max_length=63, required=False)
    charges = serializers.ListField(child=serializers.JSONField(), required=False, max_length=1000)

    def to_representation(self, instance: Any) -> Any:
        return instance  # stored as it was asked


def candidate_from(data: dict[str, Any]) -> dict[str, Any]:
    """A candidate from elsewhere than a request, checked as the API checks it. Raises ApiError."""
    given = CandidateSerializer(data=data)
    try:
        given.is_valid(raise_exception=True)
    except serializers.ValidationError as error:
        raise api_error(error) from error
    return cast("dict[str, Any]", plain(given.validated_data))


class ReplaySerializer(StrictSerializer, serializers.ModelSerializer[Replay]):
    """A replay of the calls in [start, end): those the policy ruled, or with `is_whole` all of them."""

    candidate = CandidateSerializer()
    tenants = serializers.ListField(
        child=serializers.CharField(max_length=63), required=False, default=list, max_length=1000
    )
    report = serializers.JSONField(read_only=True)

    class Meta:
        model = Replay
        fields: ClassVar[tuple[str, ...]] = (
            "id",
            "candidate",
            "start",
            "end",
            "tenants",
            "is_whole",
            "status",
            "calls",
            "done",
            "report",
            "error",
            "created_by",
            "created_at",
            "finished_at",
            "promoted_at",
        )
        read_only_fields = (
            "id",
            "status",
            "calls",
            "done",
            "error",
            "created_by",
            "created_at",
            "finished_at",
            "promoted_at",
        )


class ReplayResource(Resource[Replay]):
    """What would have been: recorded traffic under a candidate."""

    queryset = Replay.objects.all()
    serializer_class = ReplaySerializer
    read_scope, write_scope = "cost:read", "policies:write"  # the report tells what providers charge
    http_method_names = ["get", "post", "head"]
    filters: ClassVar = {"status": "status"}

    def perform_create(self, serializer: serializers.BaseSerializer[Replay]) -> None:
        """Raises ApiError as `jobs.ask`."""
        given = serializer.validated_data
        serializer.instance = jobs.ask(
            candidate=cast("dict[str, Any]", plain(given["candidate"])),
            start=given["start"],
            end=given["end"],
            tenants=given["tenants"],
            is_whole=given.get("is_whole", False),
            actor=self.principal,
        )

    @extend_schema(request=None, responses={200: ReplaySerializer})
    @action(detail=True, methods=["post"])
    def promote(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Put the candidate in force. Needs the scope to write each of its parts."""
        row = self.get_object()
        if row.candidate.get("rates"):
            self.require("prices:write", None)
        if row.candidate.get("charges") is not None:
            self.require("plans:write", None)
        return Response(self.get_serializer(jobs.promote(row=row, actor=self.principal)).data)
