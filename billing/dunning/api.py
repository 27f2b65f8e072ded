"""The REST resources of reminders: sellers' schedules, what was sent, and what is held back.

Shapes only. A tenant sees the reminders of its own invoices; operators alone change any.
"""

from datetime import UTC
from typing import Any, ClassVar
from uuid import UUID

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing.dunning.remind import hold, is_overdue, resume
from billing.models import DunningHold, DunningReminder, DunningSchedule, Invoice, LegalEntity
from tenants.errors import ApiError
from tenants.rest import Guarded, ReadResource, Resource, StrictSerializer

READ, WRITE = "payments:read", "payments:write"


class ScheduleSerializer(StrictSerializer, serializers.ModelSerializer[DunningSchedule]):
    """Reminders of a seller's invoices, so many local days after the due date (before it, if negative)."""

    legal_entity = serializers.SlugRelatedField(slug_field="code", queryset=LegalEntity.objects.all())
    days = serializers.ListField(
        child=serializers.IntegerField(min_value=-60, max_value=365), max_length=12, required=False
    )
    local_time = serializers.TimeField(required=False)

    class Meta:
        model = DunningSchedule
        fields = ("id", "legal_entity", "days", "local_time", "is_enabled", "created_at", "updated_at")
        read_only_fields = ("id", "created_at", "updated_at")

    def validate_days(self, value: list[int]) -> list[int]:
        if len(set(value)) != len(value):
            raise serializers.ValidationError("A day stands there twice.")
        return sorted(value)


class ScheduleResource(Resource[DunningSchedule]):
    """When sellers remind; operators only."""

    queryset = DunningSchedule.objects.select_related("legal_entity")
    serializer_class = ScheduleSerializer
    read_scope, write_scope = READ, WRITE
    filters: ClassVar = {"legal_entity": "legal_entity__code"}
    audit_type = "dunning_schedule"


class ReminderSerializer(serializers.Serializer[Any]):
    """One step of one invoice."""

    id = serializers.UUIDField()
    tenant = serializers.CharField()
    invoice = serializers.UUIDField()
    day = serializers.IntegerField()
    due_at = serializers.DateTimeField()
    state = serializers.ChoiceField(choices=DunningReminder.State.choices)
    sent_at = serializers.DateTimeField(allow_null=True)
    recipients = serializers.ListField(child=serializers.EmailField())
    detail = serializers.CharField()

    def to_representation(self, instance: DunningReminder) -> dict[str, Any]:
        return {
            "id": str(instance.pk),
            "tenant": instance.tenant.slug,
            "invoice": str(instance.invoice_id),
            "day": instance.day,
            "due_at": instance.due_at,
            "state": instance.state,
            "sent_at": instance.sent_at,
            "recipients": instance.recipients,
            "detail": instance.detail,
        }


class ReminderResource(ReadResource[DunningReminder]):
    """Reminders that were sent, or will be."""

    queryset = DunningReminder.objects.select_related("tenant")
    serializer_class = ReminderSerializer
    read_scope = READ
    http_method_names = ["get", "head"]
    filters: ClassVar = {"tenant": "tenant__slug", "invoice": "invoice", "state": "state"}


class HoldSerializer(StrictSerializer):
    """Until when nobody is reminded; null for good."""

    until = serializers.DateTimeField(allow_null=True, default_timezone=UTC)
    reason = serializers.CharField(max_length=300)


class DunningShownSerializer(serializers.Serializer[Any]):
    """How an invoice stands. `held` null: reminders go out."""

    is_overdue = serializers.BooleanField()
    held = HoldSerializer(allow_null=True)
    reminders = ReminderSerializer(many=True)


class InvoiceDunningView(Guarded):
    """The reminders of one invoice: seen by its tenant, held back by operators."""

    read_scope, write_scope = READ, WRITE
    http_method_names = ["get", "put", "delete", "head"]
    queryset = Invoice.objects.all()  # rows with an owner: who holds the scope somewhere may ask

    @extend_schema(responses={200: DunningShownSerializer})
    def get(self, request: Request, invoice: UUID) -> Response:
        """Whether it is overdue, what was sent, and whether anything is held back."""
        return Response(self._shown(self._invoice(invoice)))

    @extend_schema(request=HoldSerializer, responses={200: DunningShownSerializer})
    def put(self, request: Request, invoice: UUID) -> Response:
        """Pause until an instant, or stop for good. Raises ApiError as `hold`."""
        held = self._invoice(invoice)
        self.require(WRITE, None)
        wanted = HoldSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        hold(invoice=held, now=timezone.now(), actor=self.principal, **wanted.validated_data)
        return Response(self._shown(held))

    @extend_schema(responses={200: DunningShownSerializer})
    def delete(self, request: Request, invoice: UUID) -> Response:
        """Remind again. Raises ApiError as `resume`."""
        held = self._invoice(invoice)
        self.require(WRITE, None)
        resume(invoice=held, now=timezone.now(), actor=self.principal)
        return Response(self._shown(held))

    def _invoice(self, invoice_id: UUID) -> Invoice:
        rows = Invoice.objects.all().visible_to(self.principal, READ)
        found = rows.filter(pk=invoice_id).select_related("tenant").first()
        if found is None:
            raise ApiError("not_found", "There is no such invoice.")
        return found

    def _shown(self, invoice: Invoice) -> dict[str, Any]:
        held = DunningHold.objects.filter(invoice=invoice).first()
        rows = DunningReminder.objects.filter(invoice=invoice).select_related("tenant").order_by("due_at")
        return {
            "is_overdue": is_overdue(invoice, timezone.now()),
            "held": {"until": held.until, "reason": held.reason} if held else None,
            "reminders": ReminderSerializer(rows, many=True).data,
        }
