"""The REST resources of documents: invoices, credit notes, sellers, buyers, tax rates, coupons.

Shapes only: every change is one verb's. Documents are made by operators, whatever a tenant's key may do; a
tenant reads what has been issued to it, and what the running period would cost.
"""

from collections.abc import AsyncIterator, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, ClassVar, cast

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.db import models
from django.http import HttpResponse, StreamingHttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import mixins, serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from billing.alerts.api import ZoneField
from billing.invoicing import exports
from billing.invoicing.compose import Composition
from billing.invoicing.coupons import redeem, remove
from billing.invoicing.document import show, show_credit
from billing.invoicing.draft import discard, draft
from billing.invoicing.einvoice import Format, factur_x, xml
from billing.invoicing.finalize import finalize
from billing.invoicing.issue_credit import issue_credit
from billing.invoicing.mark_paid import mark_paid
from billing.invoicing.parties import profile_of
from billing.invoicing.pdf import pdf
from billing.invoicing.preview import period_of, preview
from billing.invoicing.uncollectible import mark_uncollectible
from billing.invoicing.void import void
from billing.models import (
    BillingProfile,
    Coupon,
    CreditNote,
    DocumentCounter,
    Invoice,
    InvoiceLine,
    LegalEntity,
    TaxRate,
)
from billing.query import IgnoreAccept
from billing.rating.money import minor_digits, minor_text, plain_text
from tenants.errors import ApiError
from tenants.models import Tenant
from tenants.principal import Principal
from tenants.rest import Guarded, ReadResource, Resource, StrictSerializer, TenantField, plain

READ, WRITE = "invoices:read", "invoices:write"

_COUNTRY = r"^[A-Z]{2}$"
_CURRENCY = r"^[A-Z]{3}$"


# ------------------------------------------------------------------ how documents are shown


class LineShownSerializer(serializers.Serializer[Any]):
    """A line. `amount` is before discounts, `net` after; `measured` what the calls behind it count."""

    id = serializers.UUIDField(allow_null=True)
    position = serializers.IntegerField()
    kind = serializers.ChoiceField(choices=InvoiceLine.Kind.choices)
    plan = serializers.CharField(allow_null=True)
    charge = serializers.IntegerField(allow_null=True)
    meter = serializers.CharField()
    tier = serializers.IntegerField(allow_null=True)
    description = serializers.CharField()
    quantity = serializers.CharField()
    unit = serializers.CharField()
    price = serializers.CharField(allow_null=True)
    per = serializers.CharField()
    amount = serializers.CharField()
    discount = serializers.CharField()
    net = serializers.CharField()
    tax = serializers.CharField()
    period_start = serializers.DateTimeField()
    period_end = serializers.DateTimeField()
    measured = serializers.CharField(allow_null=True)


class TaxShownSerializer(serializers.Serializer[Any]):
    """A row of the tax breakdown."""

    key = serializers.CharField()
    category = serializers.CharField()
    percent = serializers.CharField()
    taxable = serializers.CharField()
    amount = serializers.CharField()
    exemption_text = serializers.CharField()


class DiscountShownSerializer(serializers.Serializer[Any]):
    """What a coupon took off."""

    code = serializers.CharField()
    description = serializers.CharField()
    amount = serializers.CharField()


class TotalsShownSerializer(serializers.Serializer[Any]):
    """Decimal strings in the document's currency; total = net + tax, balance is what is open."""

    subtotal = serializers.CharField()
    discount = serializers.CharField()
    promotional_credit = serializers.CharField()
    net = serializers.CharField()
    tax = serializers.CharField()
    total = serializers.CharField()
    prepaid = serializers.CharField()
    amount_due = serializers.CharField()
    paid = serializers.CharField()
    credited = serializers.CharField()
    balance = serializers.CharField()


class InvoiceShownSerializer(serializers.Serializer[Any]):
    """A document. A preview has neither id nor number nor dates. `unpriced_calls` are on no line."""

    id = serializers.UUIDField(allow_null=True)
    number = serializers.CharField(allow_null=True)
    status = serializers.ChoiceField(choices=Invoice.Status.choices)
    document = serializers.ChoiceField(choices=Invoice.Document.choices)
    occasion = serializers.ChoiceField(choices=Invoice.Occasion.choices)
    tenant = serializers.CharField()
    legal_entity = serializers.CharField()
    currency = serializers.CharField()
    period_start = serializers.DateTimeField()
    period_end = serializers.DateTimeField()
    timezone = serializers.CharField()
    issue_date = serializers.DateField(allow_null=True)
    due_date = serializers.DateField(allow_null=True)
    finalized_at = serializers.DateTimeField(allow_null=True)
    paid_at = serializers.DateTimeField(allow_null=True)
    payment_reference = serializers.CharField()
    status_reason = serializers.CharField()
    as_of = serializers.DateTimeField()
    unpriced_calls = serializers.IntegerField(allow_null=True)
    totals = TotalsShownSerializer()
    taxes = TaxShownSerializer(many=True)
    discounts = DiscountShownSerializer(many=True)
    lines = LineShownSerializer(many=True)


class CreditLineShownSerializer(serializers.Serializer[Any]):
    """What is credited of an invoice line."""

    line = serializers.UUIDField()
    description = serializers.CharField()
    net = serializers.CharField()


class CreditNoteShownSerializer(serializers.Serializer[Any]):
    """A credit note, in positive amounts; the last three are where its total went."""

    id = serializers.UUIDField()
    number = serializers.CharField()
    invoice = serializers.UUIDField()
    invoice_number = serializers.CharField()
    tenant = serializers.CharField()
    reason = serializers.CharField()
    currency = serializers.CharField()
    issue_date = serializers.DateField()
    finalized_at = serializers.DateTimeField()
    net = serializers.CharField()
    tax = serializers.CharField()
    total = serializers.CharField()
    reduces_open = serializers.CharField()
    refundable = serializers.CharField()
    to_wallet = serializers.CharField()
    taxes = TaxShownSerializer(many=True)
    lines = CreditLineShownSerializer(many=True)


def invoice_shown(invoice: Invoice, *, unpriced: int | None = None) -> dict[str, Any]:
    currency = invoice.currency

    def money(minor: int) -> str:
        return minor_text(minor, currency)

    return {
        "id": invoice.pk,
        "number": invoice.number,
        "status": invoice.status,
        "document": invoice.document,
        "occasion": invoice.occasion,
        "tenant": invoice.tenant.slug,
        "legal_entity": invoice.legal_entity.code,
        "currency": currency,
        "period_start": invoice.period_start,
        "period_end": invoice.period_end,
        "timezone": invoice.timezone,
        "issue_date": invoice.issue_date,
        "due_date": invoice.due_date,
        "finalized_at": invoice.finalized_at,
        "paid_at": invoice.paid_at,
        "payment_reference": invoice.payment_reference,
        "status_reason": invoice.status_reason,
        "as_of": invoice.ledger_to,
        "unpriced_calls": unpriced,
        "totals": {
            "subtotal": money(invoice.subtotal_minor),
            "discount": money(invoice.discount_minor),
            "promotional_credit": money(invoice.promotional_minor),
            "net": money(invoice.net_minor),
            "tax": money(invoice.tax_minor),
            "total": money(invoice.total_minor),
            "prepaid": money(invoice.prepaid_minor),
            "amount_due": money(invoice.amount_due_minor),
            "paid": money(invoice.paid_minor),
            "credited": money(invoice.credited_minor),
            "balance": money(invoice.balance_minor if invoice.is_final else invoice.amount_due_minor),
        },
        "taxes": _taxes_shown(invoice.tax_breakdown, currency),
        "discounts": [
            {
                "code": each.tenant_coupon.coupon.code,
                "description": each.description,
                "amount": money(each.amount_minor),
            }
            for each in invoice.discounts.all()
        ],
        "lines": [
            {
                "id": line.pk,
                "position": line.position,
                "kind": line.kind,
                "plan": str(line.plan_version) if line.plan_version else None,
                "charge": line.charge,
                "meter": line.meter,
                "tier": line.tier,
                "description": line.description,
                "quantity": plain_text(line.quantity),
                "unit": line.unit,
                "price": None if line.price is None else plain_text(line.price),
                "per": plain_text(line.per),
                "amount": money(line.amount_minor),
                "discount": money(line.discount_minor),
                "net": money(line.net_minor),
                "tax": line.tax_key,
                "period_start": line.period_start,
                "period_end": line.period_end,
                "measured": None if line.measured is None else plain_text(line.measured),
            }
            for line in invoice.lines.all()
        ],
    }


def composition_shown(made: Composition) -> dict[str, Any]:
    """A document that is not written: the same shape."""
    currency, totals = made.currency, made.totals

    def money(minor: int) -> str:
        return minor_text(minor, currency)

    return {
        "id": None,
        "number": None,
        "status": Invoice.Status.DRAFT,
        "document": totals.document,
        "occasion": made.occasion,
        "tenant": made.tenant.slug,
        "legal_entity": made.seller.code,
        "currency": currency,
        "period_start": made.period.start,
        "period_end": made.period.end,
        "timezone": made.period.timezone,
        "issue_date": None,
        "due_date": None,
        "finalized_at": None,
        "paid_at": None,
        "payment_reference": "",
        "status_reason": "",
        "as_of": made.ledger_to,
        "unpriced_calls": made.unpriced,
        "totals": {
            "subtotal": money(totals.subtotal_minor),
            "discount": money(totals.discount_total_minor),
            "promotional_credit": money(totals.promotional_applied_minor),
            "net": money(totals.total_excluding_tax_minor),
            "tax": money(totals.total_tax_minor),
            "total": money(totals.total_minor),
            "prepaid": money(totals.prepaid_applied_minor),
            "amount_due": money(totals.amount_due_minor),
            "paid": money(0),
            "credited": money(0),
            "balance": money(totals.amount_due_minor),
        },
        "taxes": _taxes_shown(made.tax_breakdown(), currency),
        "discounts": [
            {
                "code": each.tenant_coupon.coupon.code,
                "description": each.description,
                "amount": money(each.amount_minor),
            }
            for each in made.coupons
        ],
        "lines": [
            {
                "id": None,
                "position": position,
                "kind": line.kind,
                "plan": str(line.version) if line.version else None,
                "charge": line.charge,
                "meter": line.meter,
                "tier": line.tier,
                "description": line.description,
                "quantity": plain_text(line.quantity),
                "unit": line.unit,
                "price": None if line.price is None else plain_text(line.price),
                "per": plain_text(line.per),
                "amount": money(line.amount_minor),
                "discount": money(line.amount_minor - net),
                "net": money(net),
                "tax": key,
                "period_start": line.period_start,
                "period_end": line.period_end,
                "measured": None if line.measured is None else str(line.measured),
            }
            for position, (line, net, key) in enumerate(
                zip(made.lines, totals.nets_minor, made.tax_keys, strict=True), 1
            )
        ],
    }


def credit_shown(note: CreditNote) -> dict[str, Any]:
    def money(minor: int) -> str:
        return minor_text(minor, note.currency)

    return {
        "id": note.pk,
        "number": note.number,
        "invoice": note.invoice_id,
        "invoice_number": note.invoice.number,
        "tenant": note.tenant.slug,
        "reason": note.reason,
        "currency": note.currency,
        "issue_date": note.issue_date,
        "finalized_at": note.finalized_at,
        "net": money(note.net_minor),
        "tax": money(note.tax_minor),
        "total": money(note.total_minor),
        "reduces_open": money(note.reduces_open_minor),
        "refundable": money(note.refundable_minor),
        "to_wallet": money(note.to_wallet_minor),
        "taxes": _taxes_shown(note.tax_breakdown, note.currency),
        "lines": [
            {
                "line": line.invoice_line_id,
                "description": line.invoice_line.description,
                "net": money(line.net_minor),
            }
            for line in note.lines.all()
        ],
    }


def _taxes_shown(rows: Iterable[dict[str, Any]], currency: str) -> list[dict[str, Any]]:
    return [
        {
            "key": row["key"],
            "category": row["category"],
            "percent": row["percent"],
            "taxable": minor_text(row["taxable_minor"], currency),
            "amount": minor_text(row["amount_minor"], currency),
            "exemption_text": row["exemption_text"],
        }
        for row in rows
    ]


# ------------------------------------------------------------------ what comes in


class DraftSerializer(StrictSerializer):
    """A draft to build or refresh. `period`: an instant in it; the last period that is over unless given."""

    tenant = TenantField()
    period = serializers.DateTimeField(required=False, default_timezone=UTC)
    currency = serializers.RegexField(_CURRENCY, required=False)
    occasion = serializers.ChoiceField(choices=Invoice.Occasion.choices, required=False)


class ReasonSerializer(StrictSerializer):
    """Why, for the people who read it later."""

    reason = serializers.CharField(max_length=300)


class PaymentSerializer(StrictSerializer):
    """A payment that arrived. `amount` is all that is open unless given."""

    reference = serializers.CharField(max_length=200)
    amount = serializers.DecimalField(max_digits=20, decimal_places=4, required=False)
    paid_at = serializers.DateTimeField(required=False, default_timezone=UTC)


class CreditLineSerializer(StrictSerializer):
    """`net` to credit of an invoice line, before tax."""

    line = serializers.UUIDField()
    net = serializers.DecimalField(max_digits=20, decimal_places=4)


class CreditSerializer(StrictSerializer):
    """What to credit, and why."""

    reason = serializers.CharField(max_length=300)
    lines = serializers.ListField(child=CreditLineSerializer(), min_length=1, max_length=1000)


class EmptySerializer(StrictSerializer):
    """A body without fields."""


def to_exact_minor(amount: Decimal, currency: str, param: str) -> int:
    """Raises ApiError invalid_request for more decimals than the currency has."""
    minor = amount.scaleb(minor_digits(currency))
    if minor != minor.to_integral_value():
        raise ApiError("invalid_request", f"{currency} has {minor_digits(currency)} decimals.", param=param)
    return int(minor)


# ------------------------------------------------------------------ invoices

_FILE = {(200, "application/octet-stream"): OpenApiTypes.BINARY}
_TEXT = {(200, "text/csv"): OpenApiTypes.STR}


class Issued(Guarded):
    """Documents: tenants read theirs, operators alone change any."""

    read_scope, write_scope = READ, WRITE
    content_negotiation_class = IgnoreAccept

    def authorize_object(self, principal: Principal, obj: models.Model) -> None:
        super().authorize_object(principal, obj)
        if self.request.method not in ("GET", "HEAD"):
            self.require(WRITE, None)


class InvoiceResource(Issued, mixins.DestroyModelMixin, ReadResource[Invoice]):
    """Invoices; drafts are for operators. POST builds a period's draft, or refreshes it."""

    queryset = Invoice.objects.select_related("tenant", "legal_entity").prefetch_related(
        "lines__plan_version__plan", "discounts__tenant_coupon__coupon"
    )
    serializer_class = InvoiceShownSerializer
    http_method_names = ["get", "post", "delete", "head"]
    filters: ClassVar = {
        "tenant": "tenant__slug",
        "status": "status",
        "number": "number",
        "currency": "currency",
        "legal_entity": "legal_entity__code",
        "from": "period_start__gte",
        "to": "period_start__lt",
    }

    def list(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Invoices, newest first."""
        page = self.paginate_queryset(self.filter_queryset(self.get_queryset()))
        return self.get_paginated_response([plain(invoice_shown(each)) for each in page or ()])

    def retrieve(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """One invoice with its lines."""
        return Response(invoice_shown(self.get_object()))

    @extend_schema(request=DraftSerializer, responses={201: InvoiceShownSerializer})
    def create(self, request: Request) -> Response:
        """Build the draft of a period, or refresh it with what the ledger knows by now."""
        self.require(WRITE, None)
        given = self._given(DraftSerializer)
        tenant, now = given["tenant"], timezone.now()
        period = period_of(tenant, given.get("period") or now, now=now)
        occasion = given.get("occasion", Invoice.Occasion.PERIOD)
        if "period" not in given and occasion == Invoice.Occasion.PERIOD:
            period = period_of(tenant, period.start - timedelta(microseconds=1), now=now)
        made = draft(
            tenant=tenant,
            period=period,
            now=now,
            actor=self.principal,
            currency=given.get("currency"),
            occasion=occasion,
        )
        return Response(self._shown(made.invoice, made.unpriced), status=201)

    def perform_destroy(self, instance: Invoice) -> None:
        """Discard a draft. Raises ApiError conflict as `discard`."""
        discard(invoice=instance, actor=self.principal)

    @extend_schema(
        parameters=[
            OpenApiParameter("tenant", required=True),
            OpenApiParameter(
                "at", OpenApiTypes.DATETIME, description="An instant in the period; now unless given."
            ),
            OpenApiParameter("currency"),
        ],
        responses={200: InvoiceShownSerializer},
        filters=False,
    )
    @action(detail=False, pagination_class=None)
    def preview(self, request: Request) -> Response:
        """What the running period's invoice would say now."""
        for name in request.query_params:
            if name not in ("tenant", "at", "currency"):
                raise ApiError("unknown_field", f"The parameter {name!r} is unknown.", param=name)
        tenant = self._tenant_asked(request)
        self.require(READ, tenant)
        text = request.query_params.get("at")
        at = None
        if text is not None:
            try:
                at = cast("datetime", serializers.DateTimeField(default_timezone=UTC).run_validation(text))
            except serializers.ValidationError as error:
                raise ApiError("invalid_request", "at must be an RFC 3339 instant.", param="at") from error
        made = preview(
            tenant=tenant, now=timezone.now(), at=at, currency=request.query_params.get("currency")
        )
        return Response(composition_shown(made))

    def _tenant_asked(self, request: Request) -> Tenant:
        """Raises ApiError: invalid_request without a tenant, not_found for a stranger's."""
        slug = request.query_params.get("tenant")
        if slug is None:
            raise ApiError("invalid_request", "Say which tenant.", param="tenant")
        tenant = Tenant.objects.filter(slug=slug).first()
        if tenant is None or not (self.principal.is_operator or tenant.pk in self.principal.tenant_scopes):
            raise ApiError("not_found", f"There is no tenant {slug!r}.", param="tenant")
        return tenant

    # -- what becomes of it

    @extend_schema(request=EmptySerializer, responses={200: InvoiceShownSerializer})
    @action(detail=True, methods=["post"], url_path="finalize")
    def finalize(self, request: Request, **kwargs: Any) -> Response:
        """Give the draft its number and issue it."""
        invoice = self.get_object()
        self._given(EmptySerializer)
        return Response(self._shown(finalize(invoice=invoice, now=timezone.now(), actor=self.principal)))

    @extend_schema(request=ReasonSerializer, responses={200: InvoiceShownSerializer})
    @action(detail=True, methods=["post"])
    def void(self, request: Request, **kwargs: Any) -> Response:
        """Take an unpaid invoice back; its number stays used."""
        invoice, given = self.get_object(), self._given(ReasonSerializer)
        made = void(invoice=invoice, reason=given["reason"], now=timezone.now(), actor=self.principal)
        return Response(self._shown(made))

    @extend_schema(request=PaymentSerializer, responses={200: InvoiceShownSerializer})
    @action(detail=True, methods=["post"], url_path="mark-paid")
    def mark_paid(self, request: Request, **kwargs: Any) -> Response:
        """Book a payment that arrived by other ways."""
        invoice, given = self.get_object(), self._given(PaymentSerializer)
        amount = given.get("amount")
        made = mark_paid(
            invoice=invoice,
            reference=given["reference"],
            amount_minor=None if amount is None else to_exact_minor(amount, invoice.currency, "amount"),
            paid_at=given.get("paid_at"),
            now=timezone.now(),
            actor=self.principal,
        )
        return Response(self._shown(made))

    @extend_schema(request=ReasonSerializer, responses={200: InvoiceShownSerializer})
    @action(detail=True, methods=["post"])
    def uncollectible(self, request: Request, **kwargs: Any) -> Response:
        """Write an open invoice off."""
        invoice, given = self.get_object(), self._given(ReasonSerializer)
        made = mark_uncollectible(
            invoice=invoice, reason=given["reason"], now=timezone.now(), actor=self.principal
        )
        return Response(self._shown(made))

    @extend_schema(methods=["get"], responses={200: CreditNoteShownSerializer(many=True)}, filters=False)
    @extend_schema(methods=["post"], request=CreditSerializer, responses={201: CreditNoteShownSerializer})
    @action(detail=True, methods=["get", "post"], url_path="credit-notes", pagination_class=None)
    def credit_notes(self, request: Request, **kwargs: Any) -> Response:
        """The invoice's credit notes, or one more."""
        invoice = self.get_object()
        if request.method == "GET":
            notes = invoice.credit_notes.select_related("invoice", "tenant").prefetch_related(
                "lines__invoice_line"
            )
            return Response({"data": [plain(credit_shown(note)) for note in notes], "next_cursor": None})
        given = self._given(CreditSerializer)
        note = issue_credit(
            invoice=invoice,
            lines=[
                (row["line"], to_exact_minor(row["net"], invoice.currency, "lines")) for row in given["lines"]
            ],
            reason=given["reason"],
            now=timezone.now(),
            actor=self.principal,
        )
        return Response(credit_shown(note), status=201)

    # -- files

    @extend_schema(responses=_FILE)
    @action(detail=True)
    def pdf(self, request: Request, **kwargs: Any) -> HttpResponse:
        """The document as PDF/A."""
        invoice = self.get_object()
        return file(pdf(show(invoice)), "application/pdf", f"{_name(invoice)}.pdf")

    @extend_schema(
        parameters=[
            OpenApiParameter("format", enum=["cii", "ubl", "factur-x"], description="cii unless given.")
        ],
        responses=_FILE,
    )
    @action(detail=True, url_path="xml")
    def xml(self, request: Request, **kwargs: Any) -> HttpResponse:
        """The document as EN 16931 e-invoice."""
        return einvoice_file(request, self.get_object())

    @extend_schema(responses=_TEXT)
    @action(detail=True, url_path="csv")
    def csv(self, request: Request, **kwargs: Any) -> HttpResponse:
        """The lines as CSV."""
        invoice = self.get_object()
        return file(
            "".join(exports.lines_csv(invoice)).encode(), "text/csv; charset=utf-8", f"{_name(invoice)}.csv"
        )

    @extend_schema(
        parameters=[
            OpenApiParameter("position", OpenApiTypes.INT, description="Of one line; all unless given.")
        ],
        responses=_TEXT,
    )
    @action(detail=True)
    def calls(self, request: Request, **kwargs: Any) -> StreamingHttpResponse:
        """Every call behind the lines as CSV; what providers charge only with the scope cost:read."""
        invoice = self.get_object()
        line = None
        text = request.query_params.get("position")
        if text is not None:
            line = (
                invoice.lines.filter(position=int(text)).first()
                if text.isascii() and text.isdecimal()
                else None
            )
            if line is None:
                raise ApiError("invalid_request", f"The invoice has no line {text!r}.", param="position")
        rows = exports.calls_csv(
            invoice, line=line, with_cost=self.principal.can("cost:read", invoice.tenant_id)
        )
        return stream(request, rows, f"{_name(invoice)}-calls.csv")

    @extend_schema(responses=_TEXT)
    @action(detail=False, pagination_class=None)
    def focus(self, request: Request) -> StreamingHttpResponse:
        """Issued documents as FOCUS 1.4 cost and usage; the parameters of the list narrow them."""
        rows = self.get_queryset().exclude(status__in=(Invoice.Status.DRAFT, Invoice.Status.VOID))
        for name in request.query_params:
            if name not in self.filters:
                raise ApiError("unknown_field", f"The parameter {name!r} is unknown.", param=name)
            text = request.query_params[name]
            rows = rows.filter(
                **{self.filters[name]: _instant(name, text) if name in ("from", "to") else text}
            )
        found = rows.order_by("finalized_at").iterator(chunk_size=200)
        return stream(request, exports.focus_csv(found), "focus-1.4-cost-and-usage.csv")

    # -- helpers

    def _given(self, serializer: type[StrictSerializer]) -> dict[str, Any]:
        wanted = serializer(data=self.request.data, context=self.get_serializer_context())
        wanted.is_valid(raise_exception=True)
        return cast("dict[str, Any]", wanted.validated_data)

    def _shown(self, invoice: Invoice, unpriced: int | None = None) -> dict[str, Any]:
        return invoice_shown(type(self).queryset.get(pk=invoice.pk), unpriced=unpriced)


class CreditNoteResource(Issued, ReadResource[CreditNote]):
    """Credit notes; they are issued at their invoice."""

    queryset = CreditNote.objects.select_related("invoice", "tenant").prefetch_related("lines__invoice_line")
    serializer_class = CreditNoteShownSerializer
    http_method_names = ["get", "head"]
    filters: ClassVar = {"tenant": "tenant__slug", "number": "number", "invoice": "invoice"}

    def list(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Credit notes, newest first."""
        page = self.paginate_queryset(self.filter_queryset(self.get_queryset()))
        return self.get_paginated_response([plain(credit_shown(each)) for each in page or ()])

    def retrieve(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """One credit note."""
        return Response(credit_shown(self.get_object()))

    @extend_schema(responses=_FILE)
    @action(detail=True)
    def pdf(self, request: Request, **kwargs: Any) -> HttpResponse:
        """The credit note as PDF/A."""
        note = self.get_object()
        return file(pdf(show_credit(note)), "application/pdf", f"{note.number}.pdf")

    @extend_schema(
        parameters=[
            OpenApiParameter("format", enum=["cii", "ubl", "factur-x"], description="cii unless given.")
        ],
        responses=_FILE,
    )
    @action(detail=True, url_path="xml")
    def xml(self, request: Request, **kwargs: Any) -> HttpResponse:
        """The credit note as EN 16931 e-invoice."""
        return einvoice_file(request, self.get_object())


def einvoice_file(request: Request, document: Invoice | CreditNote) -> HttpResponse:
    """Raises ApiError invalid_request for another format than cii, ubl or factur-x."""
    form = request.query_params.get("format", "cii")
    name = document.number or "draft"
    if form == "factur-x":
        return file(factur_x(document), "application/pdf", f"{name}-factur-x.pdf")
    if form not in ("cii", "ubl"):
        raise ApiError("invalid_request", "format is cii, ubl or factur-x.", param="format")
    return file(xml(document, cast("Format", form)), "application/xml", f"{name}-{form}.xml")


def file(content: bytes, content_type: str, name: str) -> HttpResponse:
    return HttpResponse(
        content,
        content_type=content_type,
        headers={
            "Content-Disposition": f'attachment; filename="{name}"',
            "X-Content-Type-Options": "nosniff",
        },
    )


def stream(request: Request, rows: Iterator[str], name: str) -> StreamingHttpResponse:
    """The rows as they are read, in pieces; each kind of server gets the kind of iterator it consumes."""
    pieces = _pieces(rows)
    content = _awaited(pieces) if isinstance(request._request, ASGIRequest) else pieces
    return StreamingHttpResponse(
        content,
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


_PIECE = 32_768


def _pieces(rows: Iterator[str]) -> Iterator[bytes]:
    held: list[str] = []
    size = 0
    for row in rows:
        held.append(row)
        size += len(row)
        if size >= _PIECE:
            yield "".join(held).encode()
            held, size = [], 0
    if held:
        yield "".join(held).encode()


async def _awaited(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Each piece in the request's own thread, where its database connection lives; closed there too."""
    try:
        while (piece := await sync_to_async(_next)(pieces)) is not None:
            yield piece
    finally:
        await sync_to_async(pieces.close)()  # type: ignore[attr-defined]  # it is a generator


def _next(pieces: Iterator[bytes]) -> bytes | None:
    return next(pieces, None)


def _name(invoice: Invoice) -> str:
    return invoice.number or f"draft-{invoice.pk}"


def _instant(name: str, text: str) -> datetime:
    try:
        return cast("datetime", serializers.DateTimeField(default_timezone=UTC).run_validation(text))
    except serializers.ValidationError as error:
        raise ApiError("invalid_request", f"{name} must be an RFC 3339 instant.", param=name) from error


# ------------------------------------------------------------------ sellers, buyers, taxes


class LegalEntitySerializer(StrictSerializer, serializers.ModelSerializer[LegalEntity]):
    """A seller. Its number prefix and series stand once a document has been issued."""

    country = serializers.RegexField(_COUNTRY)
    currency = serializers.RegexField(_CURRENCY, required=False)
    timezone = ZoneField(max_length=64, required=False)
    number_prefix = serializers.RegexField(r"^[A-Z0-9]{1,16}$")
    series = serializers.RegexField(r"^[A-Z0-9]{1,8}$", required=False)
    credit_series = serializers.RegexField(r"^[A-Z0-9]{1,8}$", required=False)
    net_days = serializers.IntegerField(min_value=0, max_value=365, required=False)
    grace_hours = serializers.IntegerField(min_value=0, max_value=24 * 14, required=False)
    logo_svg = serializers.CharField(max_length=200_000, required=False, allow_blank=True)
    bills_from = serializers.DateTimeField(required=False, default_timezone=UTC)

    class Meta:
        model = LegalEntity
        fields = ("id", "code", "name", "address_lines", "postal_code", "city", "country", "vat_id",
                  "registration", "email", "iban", "bic", "timezone", "currency", "number_prefix", "series",
                  "credit_series", "net_days", "logo_svg", "footer", "is_default", "auto_finalize",
                  "grace_hours", "bills_from", "created_at", "updated_at")  # fmt: skip
        read_only_fields = ("id", "created_at", "updated_at")

    def validate_iban(self, value: str) -> str:
        """Raises ValidationError for one whose check digits are wrong (ISO 13616)."""
        iban = value.replace(" ", "").upper()
        if iban and not is_iban(iban):
            raise serializers.ValidationError("The check digits of the IBAN are wrong.")
        return iban

    def validate_logo_svg(self, value: str) -> str:
        if value and "<svg" not in value[:2000]:
            raise serializers.ValidationError("A logo is an SVG.")
        return value

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        held = self.instance if isinstance(self.instance, LegalEntity) else None
        series = [attrs.get(name, getattr(held, name, default)) for name, default in _SERIES]
        if series[0] == series[1]:
            raise serializers.ValidationError({"credit_series": "Invoices and credit notes count apart."})
        if held is not None and DocumentCounter.objects.filter(legal_entity=held).exists():
            for name in ("number_prefix", "series", "credit_series", "code"):
                if attrs.get(name, getattr(held, name)) != getattr(held, name):
                    raise serializers.ValidationError({name: "It is on documents that have been issued."})
        if attrs.get("is_default"):
            others = LegalEntity.objects.filter(is_default=True)
            other = others.exclude(pk=held.pk).first() if held else others.first()
            if other is not None:
                raise ApiError(
                    "conflict", f"{other.code} is the default; unset it first.", param="is_default"
                )
        return attrs


_SERIES = (("series", "INV"), ("credit_series", "CN"))


def is_iban(text: str) -> bool:
    """ISO 13616: two letters, two digits, the rest; 1 modulo 97 once letters are numbers."""
    if not (text.isascii() and text.isalnum() and 15 <= len(text) <= 34):
        return False
    return text[:2].isalpha() and int("".join(str(int(c, 36)) for c in text[4:] + text[:4])) % 97 == 1


class LegalEntityResource(Resource[LegalEntity]):
    """Who issues documents; for operators. Not deleted: documents name it."""

    queryset = LegalEntity.objects.all()
    serializer_class = LegalEntitySerializer
    read_scope, write_scope = READ, WRITE
    lookup_field = "code"
    http_method_names = ["get", "post", "patch", "head"]
    filters: ClassVar = {"code": "code"}


class TaxRateSerializer(StrictSerializer, serializers.ModelSerializer[TaxRate]):
    """A rate of a seller's country from a day on. Of one that exists only its end can change."""

    percent = serializers.DecimalField(
        max_digits=7, decimal_places=4, min_value=Decimal(0), max_value=Decimal(100)
    )
    country = serializers.RegexField(_COUNTRY)

    class Meta:
        model = TaxRate
        fields = ("id", "key", "category", "percent", "country", "valid_from", "valid_to", "exemption_text",
                  "exemption_code", "created_at", "updated_at")  # fmt: skip
        read_only_fields = ("id", "created_at", "updated_at")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        held = self.instance if isinstance(self.instance, TaxRate) else None
        if held is not None:
            for name, value in attrs.items():
                if name != "valid_to" and value != getattr(held, name):
                    raise serializers.ValidationError({name: "A rate stands; close it and add the next one."})
        category = attrs.get("category", held.category if held else "")
        percent = attrs.get("percent", held.percent if held else Decimal(0))
        if category != "S" and percent:
            raise serializers.ValidationError({"percent": f"The category {category} has 0 percent."})
        start, end = (attrs.get(name, getattr(held, name, None)) for name in ("valid_from", "valid_to"))
        if start is not None and end is not None and end <= start:
            raise serializers.ValidationError({"valid_to": "It must come after valid_from."})
        return attrs


class TaxRateResource(Resource[TaxRate]):
    """Tax rates; for operators. The newest that is in force on the last day of a period applies."""

    queryset = TaxRate.objects.all()
    serializer_class = TaxRateSerializer
    read_scope, write_scope = READ, WRITE
    http_method_names = ["get", "post", "patch", "head"]
    filters: ClassVar = {"key": "key", "country": "country"}


class BillingProfileSerializer(StrictSerializer, serializers.ModelSerializer[BillingProfile]):
    """A tenant as a buyer. `legal_entity` null: the default seller."""

    legal_entity = serializers.SlugRelatedField(
        slug_field="code", queryset=LegalEntity.objects.all(), required=False, allow_null=True
    )
    country = serializers.RegexField(_COUNTRY, required=False, allow_blank=True)
    net_days = serializers.IntegerField(min_value=0, max_value=365, required=False, allow_null=True)
    currency = serializers.CharField(source="tenant.currency", read_only=True)
    timezone = serializers.CharField(source="tenant.timezone", read_only=True)

    class Meta:
        model = BillingProfile
        fields = ("legal_entity", "legal_name", "address_lines", "postal_code", "city", "country", "vat_id",
                  "tax_treatment", "net_days", "einvoice_address", "buyer_reference", "purchase_order",
                  "emails", "issue_zero_invoices", "currency", "timezone")  # fmt: skip

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        held = cast("BillingProfile", self.instance)
        treatment = attrs.get("tax_treatment", held.tax_treatment)
        if treatment == BillingProfile.Treatment.REVERSE_CHARGE and not attrs.get("vat_id", held.vat_id):
            raise serializers.ValidationError({"vat_id": "Reverse charge needs the buyer's VAT id."})
        return attrs


class BillingProfileView(Guarded):
    """How a tenant is invoiced. Operators change it, whatever a tenant's key may do."""

    read_scope, write_scope = READ, WRITE
    audit_type = "billing_profile"
    http_method_names = ["get", "patch", "head"]

    @extend_schema(responses={200: BillingProfileSerializer})
    def get(self, request: Request, tenant: str) -> Response:
        """The profile; empty where none was written."""
        return Response(BillingProfileSerializer(profile_of(cast("Tenant", self.tenant))).data)

    @extend_schema(request=BillingProfileSerializer, responses={200: BillingProfileSerializer})
    def patch(self, request: Request, tenant: str) -> Response:
        """Change what is given. Issued documents keep what they say."""
        self.require(WRITE, None)
        held = profile_of(cast("Tenant", self.tenant))
        before = plain(BillingProfileSerializer(held).data)
        wanted = BillingProfileSerializer(held, data=request.data, partial=True)
        wanted.is_valid(raise_exception=True)
        saved = wanted.save()
        after = plain(BillingProfileSerializer(saved).data)
        changed = [name for name in after if after[name] != before[name]]
        self.record(
            "update",
            saved,
            before={name: before[name] for name in changed},
            after={name: after[name] for name in changed},
        )
        return Response(after)


# ------------------------------------------------------------------ coupons


class CouponSerializer(StrictSerializer, serializers.ModelSerializer[Coupon]):
    """A discount on offer. Terms stand; name, end and activity can change."""

    value = serializers.DecimalField(max_digits=20, decimal_places=4, min_value=Decimal("0.0001"))
    currency = serializers.RegexField(_CURRENCY, required=False, allow_blank=True)
    line_kinds = serializers.ListField(
        child=serializers.ChoiceField(choices=InvoiceLine.Kind.choices), required=False, max_length=10
    )

    class Meta:
        model = Coupon
        fields = ("id", "code", "name", "kind", "value", "currency", "duration", "periods", "line_kinds",
                  "redeem_by", "is_active", "created_at", "updated_at")  # fmt: skip
        read_only_fields = ("id", "created_at", "updated_at")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        held = self.instance if isinstance(self.instance, Coupon) else None
        if held is not None:
            for name, value in attrs.items():
                if name not in ("name", "redeem_by", "is_active") and value != getattr(held, name):
                    raise serializers.ValidationError({name: "A coupon's terms stand; make another one."})
            return attrs
        is_percent = attrs["kind"] == Coupon.Kind.PERCENT
        if is_percent and attrs["value"] > 100:
            raise serializers.ValidationError({"value": "More than 100 percent cannot come off."})
        if is_percent == bool(attrs.get("currency")):
            raise serializers.ValidationError(
                {"currency": "A fixed amount needs a currency, a percentage has none."}
            )
        is_repeating = attrs.get("duration", Coupon.Duration.ONCE) == Coupon.Duration.REPEATING
        if is_repeating != bool(attrs.get("periods")):
            raise serializers.ValidationError(
                {"periods": "How many periods, for duration repeating and no other."}
            )
        return attrs


class RedeemSerializer(StrictSerializer):
    """Whose it is."""

    tenant = TenantField()


class CouponResource(Resource[Coupon]):
    """Coupons; for operators. Not deleted: documents name them."""

    queryset = Coupon.objects.all()
    serializer_class = CouponSerializer
    read_scope, write_scope = READ, WRITE
    lookup_field = "code"
    http_method_names = ["get", "post", "patch", "head"]
    filters: ClassVar = {"code": "code", "is_active": "is_active"}

    @extend_schema(request=RedeemSerializer, responses={200: CouponSerializer})
    @action(detail=True, methods=["post"])
    def redeem(self, request: Request, **kwargs: Any) -> Response:
        """Give it to a tenant, from its next document on."""
        coupon = self.get_object()
        redeem(coupon=coupon, tenant=self._tenant(), now=timezone.now(), actor=self.principal)
        return Response(self.get_serializer(coupon).data)

    @extend_schema(request=RedeemSerializer, responses={200: CouponSerializer})
    @action(detail=True, methods=["post"])
    def remove(self, request: Request, **kwargs: Any) -> Response:
        """Take it away from a tenant."""
        coupon = self.get_object()
        remove(coupon=coupon, tenant=self._tenant(), now=timezone.now(), actor=self.principal)
        return Response(self.get_serializer(coupon).data)

    def _tenant(self) -> Tenant:
        wanted = RedeemSerializer(data=self.request.data, context=self.get_serializer_context())
        wanted.is_valid(raise_exception=True)
        return cast("Tenant", wanted.validated_data["tenant"])
