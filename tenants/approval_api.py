"""Proposals over REST: what waits for a second person, and their decision. Shapes only."""

from typing import Any, ClassVar

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from tenants import approvals
from tenants.models import Proposal
from tenants.rest import ReadResource, StrictSerializer


class ProposalSerializer(serializers.ModelSerializer[Proposal]):
    """A change that waits, or what became of it. `payload` is carried out as it stands when it is approved."""

    class ActorSerializer(serializers.Serializer[Any]):
        """A user or a key."""

        kind = serializers.CharField()
        id = serializers.UUIDField(allow_null=True)
        label = serializers.CharField()  # type: ignore[assignment]  # a field, not a caption

    class ThingSerializer(serializers.Serializer[Any]):
        """What would change."""

        type = serializers.CharField()
        id = serializers.CharField()

    tenant = serializers.CharField(allow_null=True)
    object = ThingSerializer()
    proposed_by = ActorSerializer()
    decided_by = ActorSerializer(allow_null=True)

    class Meta:
        model = Proposal
        fields: ClassVar[tuple[str, ...]] = (
            "id", "tenant", "kind", "operation", "object", "before", "after", "payload", "reason", "state",
            "proposed_by", "decided_by", "decided_reason", "created_at", "expires_at", "decided_at",
        )  # fmt: skip
        read_only_fields = fields

    def to_representation(self, instance: Proposal) -> dict[str, Any]:
        return approvals.as_json(instance)


class DecisionSerializer(StrictSerializer):
    """No field: the reason stands in the header X-Tollhouse-Reason."""


class ProposalResource(ReadResource[Proposal]):
    """Proposals of the platform for operators, of its own budgets for a tenant."""

    queryset = Proposal.objects.select_related("tenant")
    serializer_class = ProposalSerializer
    read_scope, write_scope = "approvals:read", "approvals:write"
    action_scopes: ClassVar = {"withdraw": "approvals:read"}
    http_method_names = ["get", "post", "head"]
    filters: ClassVar = {
        "tenant": "tenant__slug",
        "kind": "kind",
        "state": "state",
        "object_type": "object_type",
        "object_id": "object_id",
    }

    @extend_schema(request=DecisionSerializer, responses={200: ProposalSerializer})
    @action(detail=True, methods=["post"])
    def approve(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Carry it out exactly as proposed. Raises ApiError as `approvals.approve`."""
        proposal = self._asked()
        return self._shown(approvals.approve(proposal=proposal, actor=self.principal, now=timezone.now()))

    @extend_schema(request=DecisionSerializer, responses={200: ProposalSerializer})
    @action(detail=True, methods=["post"])
    def refuse(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Let nothing come of it. Raises ApiError as `approvals.refuse`."""
        proposal = self._asked()
        return self._shown(approvals.refuse(proposal=proposal, actor=self.principal, now=timezone.now()))

    @extend_schema(request=DecisionSerializer, responses={200: ProposalSerializer})
    @action(detail=True, methods=["post"])
    def withdraw(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Take back one's own. Raises ApiError as `approvals.withdraw`."""
        proposal = self._asked()
        return self._shown(approvals.withdraw(proposal=proposal, actor=self.principal, now=timezone.now()))

    def _asked(self) -> Proposal:
        proposal = self.get_object()
        DecisionSerializer(data=self.request.data).is_valid(raise_exception=True)
        return proposal

    def _shown(self, proposal: Proposal) -> Response:
        return Response(approvals.as_json(proposal))
