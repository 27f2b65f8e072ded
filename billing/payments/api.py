"""The REST resources of payments and refunds, the provider's portal, and the statement of account.

Shapes only: every change is one verb's. A tenant asks to pay what it owes; that money has come, and that it goes
back, is said by providers and operators alone.
"""

from datetime import date
from decimal import Decimal
from functools import partial
from typing import Any, ClassVar, cast
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.http import HttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from billing.dunning.statement import Statement, statement, statement_csv
from billing.models import Invoice, Payment, PaymentCustomer, Refund
from billing.payments import book
from billing.payments.interface import ProviderError, ProviderRefusedError
from billing.payments.providers import default_name, provider
from billing.query import IgnoreAccept
from billing.rating.money import minor_digits, minor_text
from tenants.errors import ApiError
from tenants.ids import uuid7
from tenants.models import Tenant
from tenants.principal import Principal
from tenants.rest import Guarded, ReadResource, StrictSerializer

READ, WRITE = "payments:read", "payments:write"


class RefundShownSerializer(serializers.Serializer[Any]):
    """Money of a payment that went back."""

    id = serializers.UUIDField()
    amount = serializers.CharField()
    currency = serializers.CharField()
    destination = serializers.ChoiceField(choices=Refund.Destination.choices)
    status = serializers.ChoiceField(choices=Refund.Status.choices)
    reason = serializers.CharField()
    reference = serializers.CharField()
    failure = serializers.CharField()
    created_at = serializers.DateTimeField()


class PaymentShownSerializer(serializers.Serializer[Any]):
    """Money for an invoice or the wallet. `checkout_url`: where it is paid, while it is pending."""

    id = serializers.UUIDField()
    tenant = serializers.CharField()
    provider = serializers.CharField()
    purpose = serializers.ChoiceField(choices=Payment.Purpose.choices)
    status = serializers.ChoiceField(choices=Payment.Status.choices)
    amount = serializers.CharField()
    currency = serializers.CharField()
    invoice = serializers.UUIDField(allow_null=True)
    invoice_amount = serializers.CharField(help_text="What of it went to the invoice.")
    refunded = serializers.CharField()
    reference = serializers.CharField()
    checkout_url = serializers.CharField(allow_null=True)
    failure = serializers.CharField()
    is_automatic = serializers.BooleanField()
    paid_at = serializers.DateTimeField(allow_null=True)
    created_at = serializers.DateTimeField()

    def to_representation(self, instance: Payment) -> dict[str, Any]:
        return payment_shown(instance)


def payment_shown(payment: Payment) -> dict[str, Any]:
    is_open = payment.status == Payment.Status.PENDING
    return {
        "id": str(payment.pk),
        "tenant": payment.tenant.slug,
        "provider": payment.provider,
        "purpose": payment.purpose,
        "status": payment.status,
        "amount": minor_text(payment.amount_minor, payment.currency),
        "currency": payment.currency,
        "invoice": str(payment.invoice_id) if payment.invoice_id else None,
        "invoice_amount": minor_text(payment.invoice_minor, payment.currency),
        "refunded": minor_text(payment.refunded_minor, payment.currency),
        "reference": payment.reference or payment.provider_ref or "",
        "checkout_url": (payment.checkout_url or None) if is_open else None,
        "failure": payment.failure,
        "is_automatic": payment.is_automatic,
        "paid_at": payment.paid_at,
        "created_at": payment.created_at,
    }


def refund_shown(refund: Refund) -> dict[str, Any]:
    currency = refund.payment.currency
    return {
        "id": str(refund.pk),
        "amount": minor_text(refund.amount_minor, currency),
        "currency": currency,
        "destination": refund.destination,
        "status": refund.status,
        "reason": refund.reason,
        "reference": refund.reference or refund.provider_ref or "",
        "failure": refund.failure,
        "created_at": refund.created_at,
    }


class RecordSerializer(StrictSerializer):
    """Money that has arrived for an invoice."""

    invoice = serializers.UUIDField()
    reference = serializers.CharField(max_length=200)
    amount = serializers.DecimalField(
        max_digits=24, decimal_places=4, min_value=Decimal("0.0001"), required=False
    )


class CheckoutSerializer(StrictSerializer):
    """An invoice to pay."""

    invoice = serializers.UUIDField()


class ConfirmSerializer(StrictSerializer):
    """Under which reference a transfer has arrived."""

    reference = serializers.CharField(max_length=200)


class RefundSerializer(StrictSerializer):
    """What is to go back, and where to."""

    amount = serializers.DecimalField(max_digits=24, decimal_places=4, min_value=Decimal("0.0001"))
    destination = serializers.ChoiceField(choices=Refund.Destination.choices, required=False)
    reason = serializers.CharField(max_length=300)
    reference = serializers.CharField(max_length=200, required=False)


class PortalSerializer(serializers.Serializer[Any]):
    """Where the customer sees to cards and receipts."""

    url = serializers.CharField()


class StatementEntrySerializer(serializers.Serializer[Any]):
    """One movement: above zero more is owed."""

    date = serializers.DateField()
    kind = serializers.CharField()
    reference = serializers.CharField()
    amount = serializers.CharField()
    balance = serializers.CharField()


class StatementSerializer(serializers.Serializer[Any]):
    """A tenant's account over a span of days, both included."""

    currency = serializers.CharField()
    start = serializers.DateField()
    end = serializers.DateField()
    opening_balance = serializers.CharField()
    closing_balance = serializers.CharField()
    entries = StatementEntrySerializer(many=True)


def to_exact_minor(amount: Decimal, currency: str, param: str) -> int:
    """Raises ApiError invalid_request for more decimals than the currency has."""
    minor = amount.scaleb(minor_digits(currency))
    if minor != minor.to_integral_value():
        raise ApiError("invalid_request", f"{currency} has {minor_digits(currency)} decimals.", param=param)
    return int(minor)


def key_of(request: Request, principal: Principal) -> str:
    """The payment's own key: the request's Idempotency-Key, told apart by who sent it, or a fresh one."""
    given = request.headers.get("Idempotency-Key")
    return f"{principal.kind}:{principal.id}:{given}"[:255] if given else str(uuid7())


def start_soon() -> None:
    """Have the provider asked once this is committed; the clock would do it within a minute."""
    from billing.tasks import move_payments  # noqa: PLC0415 - tasks import every verb

    transaction.on_commit(partial(move_payments.delay), robust=True)


class PaymentResource(ReadResource[Payment]):
    """Payments: a tenant's own."""

    queryset = Payment.objects.select_related("tenant")
    serializer_class = PaymentShownSerializer
    read_scope, write_scope = READ, WRITE
    http_method_names = ["get", "post", "head"]
    filters: ClassVar = {
        "tenant": "tenant__slug",
        "invoice": "invoice",
        "status": "status",
        "purpose": "purpose",
    }

    @extend_schema(request=RecordSerializer, responses={201: PaymentShownSerializer})
    def create(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Book money that has arrived (operators). Raises ApiError as `record_manual`."""
        self.require(WRITE, None)
        given = self._given(RecordSerializer)
        invoice, amount = self._invoice(given["invoice"]), given.get("amount")
        made = book.record_manual(
            invoice=invoice,
            reference=given["reference"],
            key=key_of(request, self.principal),
            amount_minor=None if amount is None else to_exact_minor(amount, invoice.currency, "amount"),
            now=timezone.now(),
            actor=self.principal,
        )
        return Response(payment_shown(made), 201)

    @extend_schema(request=CheckoutSerializer, responses={201: PaymentShownSerializer})
    @action(detail=False, methods=["post"])
    def checkout(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Ask to pay all that an invoice is owed. Raises ApiError as `ask_for_invoice`."""
        invoice = self._invoice(self._given(CheckoutSerializer)["invoice"])
        self.require(WRITE, invoice.tenant)
        made = book.ask_for_invoice(
            invoice=invoice, key=key_of(request, self.principal), now=timezone.now(), actor=self.principal
        )
        start_soon()
        return Response(payment_shown(made), 201)

    @extend_schema(request=ConfirmSerializer, responses={200: PaymentShownSerializer})
    @action(detail=True, methods=["post"])
    def confirm(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """The transfer it waits for has arrived (operators)."""
        payment = self.get_object()
        self.require(WRITE, None)
        made = book.confirm_manual(
            payment=payment,
            reference=self._given(ConfirmSerializer)["reference"],
            now=timezone.now(),
            actor=self.principal,
        )
        return Response(payment_shown(made))

    @extend_schema(methods=["get"], responses={200: RefundShownSerializer(many=True)}, filters=False)
    @extend_schema(methods=["post"], request=RefundSerializer, responses={201: RefundShownSerializer})
    @action(detail=True, methods=["get", "post"], pagination_class=None)
    def refunds(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """What went back, or one more (operators)."""
        payment = self.get_object()
        if request.method == "GET":
            rows = payment.refunds.select_related("payment")
            return Response({"data": [refund_shown(row) for row in rows], "next_cursor": None})
        self.require(WRITE, None)
        given = self._given(RefundSerializer)
        made = book.refund(
            payment=payment,
            amount_minor=to_exact_minor(given["amount"], payment.currency, "amount"),
            destination=given.get("destination", Refund.Destination.PROVIDER),
            reason=given["reason"],
            reference=given.get("reference", ""),
            key=key_of(request, self.principal),
            now=timezone.now(),
            actor=self.principal,
        )
        start_soon()
        return Response(refund_shown(made), 201)

    def _invoice(self, invoice_id: UUID) -> Invoice:
        """Raises ApiError invalid_request for one that does not exist for this principal."""
        rows = Invoice.objects.all().visible_to(self.principal, WRITE)
        found = rows.filter(pk=invoice_id).select_related("tenant").first()
        if found is None:
            raise ApiError("invalid_request", "There is no such invoice.", param="invoice")
        return found

    def _given(self, serializer: type[StrictSerializer]) -> dict[str, Any]:
        wanted = serializer(data=self.request.data, context=self.get_serializer_context())
        wanted.is_valid(raise_exception=True)
        return cast("dict[str, Any]", wanted.validated_data)


class PortalView(Guarded):
    """The payment provider's own pages for a tenant."""

    read_scope = WRITE
    http_method_names = ["get", "head"]

    @extend_schema(responses={200: PortalSerializer})
    def get(self, request: Request, tenant: str) -> Response:
        """A link that works once. Raises ApiError not_found where the tenant has paid nothing there yet."""
        name = default_name()
        customer = (
            PaymentCustomer.objects.for_tenant(cast("Tenant", self.tenant)).filter(provider=name).first()
        )
        if customer is None:
            raise ApiError("not_found", "There is no payment portal for this tenant.")
        try:
            url = provider(name).portal_url(
                customer_ref=customer.customer_ref, return_url=f"{settings.PUBLIC_URL}/"
            )
        except ProviderRefusedError as error:
            raise ApiError("conflict", "The payment provider refuses its portal.") from error
        except ProviderError as error:
            raise ApiError("overloaded", "The payment provider cannot be asked.", retry_after_s=30) from error
        return Response({"url": url})


_SPAN = [
    OpenApiParameter("from", OpenApiTypes.DATE, required=True),
    OpenApiParameter("to", OpenApiTypes.DATE, required=True, description="Included."),
    OpenApiParameter("currency"),
]


class StatementView(Guarded):
    """A tenant's statement of account."""

    read_scope = READ
    http_method_names = ["get", "head"]

    @extend_schema(parameters=_SPAN, responses={200: StatementSerializer})
    def get(self, request: Request, tenant: str) -> Response:
        """Documents and payments with a running balance."""
        made = self.ask(request)

        def money(minor: int) -> str:
            return minor_text(minor, made.currency)

        return Response(
            {
                "currency": made.currency,
                "start": made.start,
                "end": made.end,
                "opening_balance": money(made.opening_minor),
                "closing_balance": money(made.closing_minor),
                "entries": [
                    {
                        "date": entry.on,
                        "kind": entry.kind,
                        "reference": entry.reference,
                        "amount": money(entry.amount_minor),
                        "balance": money(entry.balance_minor),
                    }
                    for entry in made.entries
                ],
            }
        )

    def ask(self, request: Request) -> Statement:
        for name in request.query_params:
            if name not in ("from", "to", "currency"):
                raise ApiError("unknown_field", f"The parameter {name!r} is unknown.", param=name)
        of = cast("Tenant", self.tenant)
        start, end = _day(request, "from"), _day(request, "to")
        if end < start:
            raise ApiError("invalid_request", "The span ends before it begins.", param="to")
        currency = request.query_params.get("currency", of.currency)
        return statement(tenant=of, currency=currency, start=start, end=end)


class StatementCsv(StatementView):
    """The same as a file."""

    content_negotiation_class = IgnoreAccept

    @extend_schema(
        operation_id="statement_csv", parameters=_SPAN, responses={(200, "text/csv"): OpenApiTypes.STR}
    )
    def get(self, request: Request, tenant: str) -> HttpResponse:  # type: ignore[override]  # a file, not data
        """The statement of account as CSV (RFC 4180, UTF-8)."""
        made = self.ask(request)
        name = f"statement-{made.tenant}-{made.start}-{made.end}.csv"
        return HttpResponse(
            statement_csv(made),
            content_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )


def _day(request: Request, name: str) -> date:
    text = request.query_params.get(name)
    try:
        return date.fromisoformat(text or "")
    except ValueError as error:
        raise ApiError("invalid_request", f"{name} must be a day, YYYY-MM-DD.", param=name) from error
