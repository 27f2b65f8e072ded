"""Invoice pages: the list with its totals, a document down to the calls behind it, and what is done with one.

A tenant reads what has been issued to it; every change is the operator's. Files come from the same functions
as the API's.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import islice
from typing import Any, Final, cast
from uuid import UUID
from zoneinfo import ZoneInfo

from django import forms
from django.contrib import messages
from django.db.models import Count, F, QuerySet, Sum
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from rest_framework.request import Request

from billing.invoicing import exports
from billing.invoicing.api import (
    READ,
    WRITE,
    composition_shown,
    einvoice_file,
    file,
    invoice_shown,
    stream,
    to_exact_minor,
)
from billing.invoicing.document import show, show_credit
from billing.invoicing.draft import discard, draft
from billing.invoicing.explain import calls_behind, has_calls
from billing.invoicing.finalize import finalize
from billing.invoicing.issue_credit import issue_credit
from billing.invoicing.mark_paid import PAYABLE, mark_paid
from billing.invoicing.pdf import pdf
from billing.invoicing.preview import period_of, preview
from billing.invoicing.uncollectible import mark_uncollectible
from billing.invoicing.void import void
from billing.models import CreditNote, Invoice, InvoiceLine, LegalEntity
from billing.rating.lines import Unrateable
from billing.rating.money import minor_text
from tenants.console import ConsoleRequest, add_refusal, page_of, platform_room, tenant_room, uuid_or_none
from tenants.errors import ApiError
from tenants.models import Tenant
from tenants.places import both_rooms, here

CALLS_SHOWN: Final = 200
MAX_AT_ONCE: Final = 200
FINALIZE_WORD: Final = "finalize"


# ------------------------------------------------------------------ lists


class InvoiceFilter(forms.Form):
    """What stands in the address."""

    tenant = forms.CharField(
        required=False, max_length=63, widget=forms.TextInput(attrs={"placeholder": "slug"})
    )
    status = forms.ChoiceField(required=False, choices=(("", "any"), *Invoice.Status.choices))
    number = forms.CharField(required=False, max_length=64)
    month = forms.CharField(
        label="Period begins in",
        required=False,
        max_length=7,
        widget=forms.TextInput(attrs={"type": "month"}),
    )
    currency = forms.CharField(required=False, max_length=3)
    overdue = forms.BooleanField(label="Overdue", required=False)

    def clean_month(self) -> date | None:
        text = self.cleaned_data["month"]
        try:
            return datetime.strptime(text, "%Y-%m").date() if text else None  # noqa: DTZ007 - a month has no zone
        except ValueError as error:
            raise forms.ValidationError("As 2026-11.") from error

    def narrow(self, rows: QuerySet[Invoice], today: date) -> QuerySet[Invoice]:
        data = self.cleaned_data if self.is_valid() else {}
        for name, lookup in (
            ("tenant", "tenant__slug"),
            ("status", "status"),
            ("number", "number__icontains"),
            ("currency", "currency__iexact"),
        ):
            if data.get(name):
                rows = rows.filter(**{lookup: data[name].strip()})
        if data.get("month"):
            # Periods begin at midnight where the tenant lives; half a day either way keeps them in their month.
            begin = datetime.combine(data["month"], time(), ZoneInfo("UTC"))
            end = datetime.combine(_next_month(data["month"]), time(), ZoneInfo("UTC"))
            half = timedelta(hours=12)
            rows = rows.filter(period_start__gte=begin - half, period_start__lt=end - half)
        if data.get("overdue"):
            rows = rows.filter(status=Invoice.Status.OPEN, due_date__lt=today)
        return rows


def _next_month(month: date) -> date:
    return (month.replace(day=1) + timedelta(days=32)).replace(day=1)


@dataclass(frozen=True, slots=True)
class CurrencyTotals:
    """Sums of a filtered list in one currency, minor units; void documents count for nothing."""

    currency: str
    count: int
    total_minor: int
    tax_minor: int
    open_minor: int


def totals_of(rows: QuerySet[Invoice]) -> list[CurrencyTotals]:
    """One entry per currency."""
    opened = F("total_minor") - F("prepaid_minor") - F("paid_minor") - F("credited_minor")
    standing = rows.exclude(status=Invoice.Status.VOID).order_by()
    summed = standing.values("currency").annotate(
        count=Count("id"), total=Sum("total_minor"), tax=Sum("tax_minor")
    )
    owed = standing.filter(status=Invoice.Status.OPEN).values("currency").annotate(left=Sum(opened))
    left = {row["currency"]: row["left"] for row in owed}
    return [
        CurrencyTotals(row["currency"], row["count"], row["total"], row["tax"], left.get(row["currency"], 0))
        for row in summed.order_by("currency")
    ]


def _rows(request: ConsoleRequest) -> QuerySet[Invoice]:
    rows = Invoice.objects.visible_to(request.principal, READ).select_related("tenant", "legal_entity")
    return rows if request.tenant is None else rows.filter(tenant=request.tenant)


def _invoice(request: ConsoleRequest, invoice_id: UUID) -> Invoice:
    rows = _rows(request).prefetch_related("lines__plan_version__plan", "discounts__tenant_coupon__coupon")
    return get_object_or_404(rows, pk=invoice_id)


@both_rooms(READ)
def invoice_list(request: ConsoleRequest) -> HttpResponse:
    """Documents with the totals of what the filter leaves."""
    form = InvoiceFilter(request.GET)
    if request.tenant is not None:
        del form.fields["tenant"]
    today = timezone.localdate()
    rows = form.narrow(_rows(request), today)
    page = page_of(rows, cursor=request.GET.get("cursor", ""))
    context = {
        "page": page,
        "form": form,
        "totals": totals_of(rows),
        "today": today,
        "has_drafts": any(row.status == Invoice.Status.DRAFT for row in page.rows),
        "is_filtered": any(request.GET.get(name) for name in form.fields),
        "has_seller": request.tenant is not None or LegalEntity.objects.exists(),
        "word": FINALIZE_WORD,
    }
    return render(request, "billing/invoice_list.html", context)


# ------------------------------------------------------------------ one document


@both_rooms(READ)
def invoice_detail(request: ConsoleRequest, invoice_id: UUID) -> HttpResponse:
    """A document with its lines, what became of it, and what can be done."""
    return _detail(request, _invoice(request, invoice_id))


def _detail(
    request: ConsoleRequest,
    invoice: Invoice,
    *,
    pay_form: "PayForm | None" = None,
    status: int = 200,
) -> HttpResponse:
    lines = list(invoice.lines.all())
    context = {
        "invoice": invoice,
        "document": invoice_shown(invoice),
        "explained": {line.position for line in lines if has_calls(line)},
        "notes": invoice.credit_notes.order_by("id"),
        "is_overdue": invoice.status == Invoice.Status.OPEN
        and invoice.due_date is not None
        and invoice.due_date < timezone.localdate(),
        "is_payable": invoice.status in PAYABLE,
        "may_act": request.tenant is None and request.principal.can(WRITE),
        "pay_form": pay_form
        or PayForm(initial={"amount": minor_text(invoice.balance_minor, invoice.currency)}),
        "reason_form": ReasonForm(auto_id="void_%s"),
        "write_off_form": ReasonForm(auto_id="write_off_%s"),
        "word": FINALIZE_WORD,
    }
    return render(request, "billing/invoice_detail.html", context, status=status)


@both_rooms(READ)
def invoice_calls(request: ConsoleRequest, invoice_id: UUID, position: int) -> HttpResponse:
    """The calls behind one line, each with its place in the request log."""
    invoice = _invoice(request, invoice_id)
    line = get_object_or_404(
        InvoiceLine.objects.select_related("plan_version__plan", "invoice"),
        invoice=invoice,
        position=position,
    )
    calls = list(islice(calls_behind(line), CALLS_SHOWN + 1))
    context = {
        "invoice": invoice,
        "line": line,
        "calls": calls[:CALLS_SHOWN],
        "has_more": len(calls) > CALLS_SHOWN,
        "shown": CALLS_SHOWN,
        "shows_cost": request.principal.can("cost:read", invoice.tenant_id),
    }
    return render(request, "billing/invoice_calls.html", context)


@tenant_room(READ)
def invoice_preview(request: ConsoleRequest, tenant: Tenant) -> HttpResponse:
    """What the running period's document would say now, or that of the month in the address."""
    at, problem, document = _month_asked(request, tenant), "", None
    try:
        document = composition_shown(preview(tenant=tenant, now=timezone.now(), at=at))
    except ApiError as error:
        problem = error.message
    except Unrateable as error:
        problem = str(error)
    context = {"document": document, "problem": problem, "explained": ()}
    return render(request, "billing/invoice_preview.html", context)


def _month_asked(request: ConsoleRequest, tenant: Tenant) -> datetime | None:
    """The last instant of the month in the address, in the tenant's zone, or None."""
    try:
        month = datetime.strptime(request.GET.get("month", ""), "%Y-%m")  # noqa: DTZ007 - the zone is the tenant's
    except ValueError:
        return None
    begin = month.replace(tzinfo=ZoneInfo(tenant.timezone))
    return min(begin + timedelta(days=14), timezone.now())


# ------------------------------------------------------------------ files


def _name(invoice: Invoice) -> str:
    return invoice.number or f"draft-{invoice.pk}"


def _or_back(request: ConsoleRequest, invoice: Invoice, error: ApiError) -> HttpResponse:
    messages.error(request, error.message)
    return redirect(here(request, "invoice_detail", invoice_id=invoice.pk))


@both_rooms(READ)
def invoice_pdf(request: ConsoleRequest, invoice_id: UUID) -> HttpResponse:
    """The document as PDF/A."""
    invoice = _invoice(request, invoice_id)
    return file(pdf(show(invoice)), "application/pdf", f"{_name(invoice)}.pdf")


@both_rooms(READ)
def invoice_xml(request: ConsoleRequest, invoice_id: UUID) -> HttpResponse:
    """The document as e-invoice: ?format=cii, ubl or factur-x."""
    invoice = _invoice(request, invoice_id)
    try:
        return einvoice_file(Request(request), invoice)
    except ApiError as error:
        return _or_back(request, invoice, error)


@both_rooms(READ)
def invoice_csv(request: ConsoleRequest, invoice_id: UUID) -> HttpResponse:
    """The lines as CSV."""
    invoice = _invoice(request, invoice_id)
    rows = "".join(exports.lines_csv(invoice))
    return file(rows.encode(), "text/csv; charset=utf-8", f"{_name(invoice)}.csv")


@both_rooms(READ)
def invoice_calls_csv(request: ConsoleRequest, invoice_id: UUID) -> HttpResponse:
    """Every call behind the lines as CSV, or behind the one at ?position; costs only with cost:read."""
    invoice = _invoice(request, invoice_id)
    line, text = None, request.GET.get("position", "")
    if text:
        if not (text.isascii() and text.isdecimal()):
            raise Http404
        line = get_object_or_404(invoice.lines, position=int(text))
    with_cost = request.principal.can("cost:read", invoice.tenant_id)
    rows = exports.calls_csv(invoice, line=line, with_cost=with_cost)
    # A stream shares HttpResponse's base alone; whoever serves it asks for no more than that.
    return cast("HttpResponse", stream(Request(request), rows, f"{_name(invoice)}-calls.csv"))


# ------------------------------------------------------------------ the clerk's work


class DraftForm(forms.Form):
    """Which period to draft."""

    tenant = forms.SlugField(max_length=63, widget=forms.TextInput(attrs={"placeholder": "slug"}))
    month = forms.CharField(
        label="A month in the period",
        required=False,
        max_length=7,
        widget=forms.TextInput(attrs={"type": "month"}),
        help_text="Empty: the last period that is over.",
    )
    currency = forms.CharField(required=False, max_length=3, help_text="Empty: the tenant's.")

    clean_month = InvoiceFilter.clean_month

    def clean_tenant(self) -> Tenant:
        tenant = Tenant.objects.filter(slug=self.cleaned_data["tenant"]).first()
        if tenant is None:
            raise forms.ValidationError("There is no such tenant.")
        return tenant


class ReasonForm(forms.Form):
    reason = forms.CharField(max_length=300, help_text="For the people who read it later.")


class PayForm(forms.Form):
    """A payment that arrived."""

    reference = forms.CharField(max_length=200, help_text="E.g. the transfer's own reference.")
    amount = forms.DecimalField(max_digits=20, decimal_places=4, required=False)
    paid_on = forms.DateField(
        label="Arrived on",
        required=False,
        widget=forms.DateInput(attrs={"type": "date"}, format="%Y-%m-%d"),
        help_text="Empty: today.",
    )


@platform_room(WRITE, write=WRITE)
def invoice_draft(request: ConsoleRequest) -> HttpResponse:
    """Build the draft of a period, or refresh it with what the ledger knows by now."""
    form = DraftForm(request.POST or None, initial={"tenant": request.GET.get("tenant", "")})
    if request.method == "POST" and form.is_valid():
        data, now = form.cleaned_data, timezone.now()
        tenant: Tenant = data["tenant"]
        try:
            period = period_of(tenant, _in_month(data["month"], tenant) or now, now=now)
            if data["month"] is None:
                period = period_of(tenant, period.start - timedelta(microseconds=1), now=now)
            currency = data["currency"].upper() or None
            made = draft(tenant=tenant, period=period, now=now, actor=request.principal, currency=currency)
        except ApiError as error:
            form.add_error({"at": "month"}.get(error.param or ""), error.message)
        except Unrateable as error:
            form.add_error(None, str(error))
        else:
            if made.unpriced:
                messages.warning(
                    request, f"{made.unpriced} calls of the period have no price: they are on no line."
                )
            messages.success(request, "The draft stands. Look it over, then finalize it.")
            return redirect("invoice_detail", made.invoice.pk)
    return render(request, "billing/invoice_draft.html", {"form": form}, status=422 if form.is_bound else 200)


def _in_month(month: date | None, tenant: Tenant) -> datetime | None:
    return (
        None
        if month is None
        else datetime.combine(month.replace(day=15), time(12), ZoneInfo(tenant.timezone))
    )


@platform_room(write=WRITE)
def invoice_refresh(request: ConsoleRequest, invoice_id: UUID) -> HttpResponse:
    """Compute a draft again with what the ledger knows by now."""
    invoice, now = _invoice(request, invoice_id), timezone.now()
    try:
        period = period_of(invoice.tenant, invoice.period_start, now=now)
        draft(
            tenant=invoice.tenant,
            period=period,
            now=now,
            actor=request.principal,
            currency=invoice.currency,
            occasion=invoice.occasion,
        )
    except (ApiError, Unrateable) as error:
        messages.error(request, str(error))
    else:
        messages.success(request, "The draft says what the ledger says now.")
    return redirect("invoice_detail", invoice.pk)


@platform_room(write=WRITE)
def invoice_finalize(request: ConsoleRequest, invoice_id: UUID) -> HttpResponse:
    """Issue a draft, the word typed to confirm: its number cannot be given back."""
    invoice = _invoice(request, invoice_id)
    if request.POST.get("confirm", "").strip() != FINALIZE_WORD:
        messages.error(request, f"Type {FINALIZE_WORD} to confirm. Nothing was issued.")
        return redirect("invoice_detail", invoice.pk)
    try:
        made = finalize(invoice=invoice, now=timezone.now(), actor=request.principal)
    except (ApiError, Unrateable) as error:
        messages.error(request, str(error))
    else:
        messages.success(request, f"{made.number} is issued.")
    return redirect("invoice_detail", invoice.pk)


@platform_room(write=WRITE)
def invoice_finalize_many(request: ConsoleRequest) -> HttpResponse:
    """Issue the chosen drafts, each on its own: one that is refused stays a draft and says why."""
    if request.POST.get("confirm", "").strip() != FINALIZE_WORD:
        messages.error(request, f"Type {FINALIZE_WORD} to confirm. Nothing was issued.")
        return redirect("invoice_list")
    chosen = [each for text in request.POST.getlist("invoice") if (each := uuid_or_none(text)) is not None]
    issued = 0
    for invoice in _rows(request).filter(pk__in=chosen[:MAX_AT_ONCE]).order_by("id"):
        try:
            finalize(invoice=invoice, now=timezone.now(), actor=request.principal)
        except (ApiError, Unrateable) as error:
            messages.error(request, f"{invoice.tenant.name}: {error}")
        else:
            issued += 1
    if issued:
        messages.success(request, f"{issued} document{'' if issued == 1 else 's'} issued.")
    elif not chosen:
        messages.error(request, "Choose drafts first.")
    return redirect("invoice_list")


@platform_room(write=WRITE)
def invoice_discard(request: ConsoleRequest, invoice_id: UUID) -> HttpResponse:
    """Take a draft away."""
    invoice = _invoice(request, invoice_id)
    try:
        discard(invoice=invoice, actor=request.principal)
    except ApiError as error:
        return _or_back(request, invoice, error)
    messages.success(request, "The draft is gone; the period can be drafted again.")
    return redirect("invoice_list")


@platform_room(write=WRITE)
def invoice_void(request: ConsoleRequest, invoice_id: UUID) -> HttpResponse:
    """Take an unpaid invoice back, its number typed to confirm."""
    invoice, form = _invoice(request, invoice_id), ReasonForm(request.POST)
    if request.POST.get("confirm", "").strip() != invoice.number or not form.is_valid():
        messages.error(request, "Say why, and type the number to confirm. The invoice stands.")
        return redirect("invoice_detail", invoice.pk)
    try:
        void(invoice=invoice, reason=form.cleaned_data["reason"], now=timezone.now(), actor=request.principal)
    except ApiError as error:
        return _or_back(request, invoice, error)
    messages.success(request, f"{invoice.number} is void. Its period can be drafted again.")
    return redirect("invoice_detail", invoice.pk)


@platform_room(write=WRITE)
def invoice_pay(request: ConsoleRequest, invoice_id: UUID) -> HttpResponse:
    """Book a payment that arrived by other ways."""
    invoice, form = _invoice(request, invoice_id), PayForm(request.POST)
    if form.is_valid():
        data, now = form.cleaned_data, timezone.now()
        paid_at = now
        if data["paid_on"]:
            noon = datetime.combine(data["paid_on"], time(12), timezone.get_current_timezone())
            paid_at = min(noon, now)
        try:
            amount = data["amount"]
            made = mark_paid(
                invoice=invoice,
                reference=data["reference"],
                amount_minor=None
                if amount is None
                else to_exact_minor(Decimal(amount), invoice.currency, "amount"),
                paid_at=paid_at,
                now=now,
                actor=request.principal,
            )
        except ApiError as error:
            add_refusal(form, error)
        else:
            left = minor_text(made.balance_minor, made.currency)
            is_paid = made.status == Invoice.Status.PAID
            words = "is paid" if is_paid else f"has {left} {made.currency} left to pay"
            messages.success(request, f"{made.number} {words}.")
            return redirect("invoice_detail", invoice.pk)
    return _detail(request, invoice, pay_form=form, status=422)


@platform_room(write=WRITE)
def invoice_write_off(request: ConsoleRequest, invoice_id: UUID) -> HttpResponse:
    """Call an open invoice uncollectible."""
    invoice, form = _invoice(request, invoice_id), ReasonForm(request.POST)
    if not form.is_valid():
        messages.error(request, "Say why.")
        return redirect("invoice_detail", invoice.pk)
    try:
        mark_uncollectible(
            invoice=invoice, reason=form.cleaned_data["reason"], now=timezone.now(), actor=request.principal
        )
    except ApiError as error:
        return _or_back(request, invoice, error)
    messages.success(request, f"{invoice.number} is written off. A payment can still be booked.")
    return redirect("invoice_detail", invoice.pk)


# ------------------------------------------------------------------ credit notes


@dataclass(frozen=True, slots=True)
class CreditRow:
    """A line of the form: what was billed, what has been credited, and the field for what is to be."""

    line: InvoiceLine
    credited_minor: int
    field: forms.BoundField

    @property
    def left_minor(self) -> int:
        return self.line.net_minor - self.credited_minor


class CreditForm(forms.Form):
    """What to credit of each line, before tax."""

    reason = forms.CharField(max_length=300, help_text="Stands on the credit note.")

    def __init__(self, *args: Any, lines: Iterable[InvoiceLine], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lines = list(lines)
        for line in self.lines:
            self.fields[f"line-{line.position}"] = forms.DecimalField(
                label=f"Credit of line {line.position}", max_digits=20, decimal_places=4, required=False
            )

    def chosen(self, currency: str) -> list[tuple[UUID, int]]:
        """(line, net in minor units). Raises ApiError invalid_request, param the field, for too many decimals."""
        found = []
        for line in self.lines:
            name = f"line-{line.position}"
            amount = self.cleaned_data.get(name)
            if amount:
                found.append((line.pk, to_exact_minor(amount, currency, name)))
        return found


@platform_room(WRITE, write=WRITE)
def invoice_credit(request: ConsoleRequest, invoice_id: UUID) -> HttpResponse:
    """Give back a part of an invoice, or all of it."""
    invoice = _invoice(request, invoice_id)
    lines = list(invoice.lines.annotate(credited=Sum("credits__net_minor")))
    form = CreditForm(request.POST or None, lines=lines)
    if request.method == "POST" and form.is_valid():
        try:
            chosen = form.chosen(invoice.currency)
            if not chosen:
                raise ApiError("invalid_request", "Credit at least one line.")
            note = issue_credit(
                invoice=invoice,
                lines=chosen,
                reason=form.cleaned_data["reason"],
                now=timezone.now(),
                actor=request.principal,
            )
        except ApiError as error:
            add_refusal(form, error)
        else:
            messages.success(request, f"{note.number} is issued.")
            return redirect("credit_note_detail", note.pk)
    rows = [CreditRow(line, line.credited or 0, form[f"line-{line.position}"]) for line in lines]
    context = {"invoice": invoice, "form": form, "rows": rows}
    return render(request, "billing/credit_form.html", context, status=422 if form.is_bound else 200)


def _note(request: ConsoleRequest, note_id: UUID) -> CreditNote:
    rows = CreditNote.objects.visible_to(request.principal, READ).select_related(
        "invoice", "tenant", "legal_entity"
    )
    if request.tenant is not None:
        rows = rows.filter(tenant=request.tenant)
    return get_object_or_404(rows.prefetch_related("lines__invoice_line"), pk=note_id)


@both_rooms(READ)
def credit_note_detail(request: ConsoleRequest, note_id: UUID) -> HttpResponse:
    """A credit note and where its total went."""
    return render(request, "billing/credit_note.html", {"note": _note(request, note_id)})


@both_rooms(READ)
def credit_note_pdf(request: ConsoleRequest, note_id: UUID) -> HttpResponse:
    """The credit note as PDF/A."""
    note = _note(request, note_id)
    return file(pdf(show_credit(note)), "application/pdf", f"{note.number}.pdf")


@both_rooms(READ)
def credit_note_xml(request: ConsoleRequest, note_id: UUID) -> HttpResponse:
    """The credit note as e-invoice: ?format=cii, ubl or factur-x."""
    note = _note(request, note_id)
    try:
        return einvoice_file(Request(request), note)
    except ApiError as error:
        messages.error(request, error.message)
        return redirect(here(request, "credit_note_detail", note_id=note.pk))
