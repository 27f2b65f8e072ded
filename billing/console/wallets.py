"""The wallet page and the statement of account: what a tenant has in advance, and what it owed and paid."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final
from uuid import uuid4

from django import forms
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone

from billing.console.resources import act, refuse
from billing.dunning.statement import statement, statement_csv
from billing.invoicing.api import READ as INVOICES_READ
from billing.invoicing.api import file
from billing.models import CreditGrant, Wallet, WalletEntry
from billing.rating.money import minor_text
from billing.wallets.api import READ, WRITE, GrantResource, TopUpView, WalletView
from billing.wallets.prepaid import spendable_pico
from tenants.console import ConsoleRequest, page_of, tenant_room
from tenants.errors import ApiError
from tenants.models import Tenant

SPAN_DAYS: Final = 90


class GrantForm(forms.Form):
    """Credit to give; operators alone."""

    amount = forms.DecimalField(max_digits=24, decimal_places=12, min_value=0)
    category = forms.ChoiceField(
        choices=CreditGrant.Category.choices, help_text="Promotional credit comes off before tax."
    )
    name = forms.CharField(max_length=200, required=False, help_text="What for.")
    priority = forms.IntegerField(
        min_value=0, max_value=1000, initial=50, help_text="A low one is used first."
    )
    expires_on = forms.DateField(
        label="Usable until the end of",
        required=False,
        widget=forms.DateInput(attrs={"type": "date"}, format="%Y-%m-%d"),
        help_text="Empty: for ever.",
    )

    def values(self, tenant: Tenant) -> dict[str, Any]:
        """The fields as the resource takes them; a day ends where the reader lives."""
        data = dict(self.cleaned_data)
        day: date | None = data.pop("expires_on")
        ends = None
        if day is not None:
            ends = datetime.combine(day + timedelta(days=1), time(), timezone.get_current_timezone())
        return data | {"currency": tenant.currency, "expires_at": ends.astimezone(UTC) if ends else None}


class AutoTopUpForm(forms.Form):
    """When the wallet fills itself."""

    is_on = forms.BooleanField(label="Top up automatically", required=False)
    below = forms.DecimalField(label="When below", max_digits=16, decimal_places=4, required=False)
    amount = forms.DecimalField(label="add", max_digits=16, decimal_places=4, required=False)
    monthly_cap = forms.DecimalField(label="At most a month", max_digits=16, decimal_places=4, required=False)

    def clean(self) -> None:
        super().clean()
        if self.cleaned_data.get("is_on"):
            for name in ("below", "amount"):
                if self.cleaned_data.get(name) is None and name not in self.errors:
                    self.add_error(name, "Say how much.")

    @property
    def values(self) -> dict[str, Any] | None:
        data = self.cleaned_data
        if not data["is_on"]:
            return None
        return {name: data[name] for name in ("below", "amount", "monthly_cap")}


class TopUpForm(forms.Form):
    amount = forms.DecimalField(max_digits=16, decimal_places=4, min_value=0)


@tenant_room(READ)
def wallet(request: ConsoleRequest, tenant: Tenant) -> HttpResponse:
    """Balance, grants, movements."""
    return _page(request, tenant)


def _page(
    request: ConsoleRequest, tenant: Tenant, *, status: int = 200, **forms_given: forms.Form
) -> HttpResponse:
    held = Wallet.objects.for_tenant(tenant).select_related("tenant").filter(currency=tenant.currency).first()
    entries = (
        WalletEntry.objects.for_tenant(tenant)
        .visible_to(request.principal, READ)
        .select_related("wallet", "grant", "invoice")
    )
    context: dict[str, Any] = {
        "wallet": held,
        "spendable": spendable_pico(held, timezone.now()) if held else 0,
        "grants": held.grants.order_by("priority", "expires_at", "id") if held else [],
        "page": page_of(entries, cursor=request.GET.get("cursor", "")),
        "may_grant": request.principal.can(WRITE),
        "now": timezone.now(),
        "grant_form": GrantForm(auto_id="grant_%s"),
        "auto_form": AutoTopUpForm(auto_id="auto_%s", initial=_auto(held)),
        "top_up_form": TopUpForm(auto_id="topup_%s"),
        **forms_given,
    }
    return render(request, "billing/wallet.html", context, status=status)


def _auto(held: Wallet | None) -> dict[str, Any]:
    if held is None or held.top_up_below_minor is None:
        return {}
    cap = held.top_up_monthly_cap_minor
    return {
        "is_on": True,
        "below": minor_text(held.top_up_below_minor, held.currency),
        "amount": minor_text(held.top_up_amount_minor or 0, held.currency),
        "monthly_cap": None if cap is None else minor_text(cap, held.currency),
    }


@tenant_room(write=WRITE)
def wallet_grant(request: ConsoleRequest, tenant: Tenant) -> HttpResponse:
    """Give credit; the resource refuses whoever is no operator."""
    form = GrantForm(request.POST, auto_id="grant_%s")
    if form.is_valid():
        try:
            act(request, GrantResource, "post", form.values(tenant), action="create", tenant=tenant.slug)
        except ApiError as error:
            refuse(form, error, {"expires_at": "expires_on"})
        else:
            messages.success(request, "The credit is in the wallet.")
            return redirect("wallet", tenant.slug)
    return _page(request, tenant, status=422, grant_form=form)


@tenant_room(write=WRITE)
def wallet_auto(request: ConsoleRequest, tenant: Tenant) -> HttpResponse:
    """Set when the wallet fills itself."""
    form = AutoTopUpForm(request.POST, auto_id="auto_%s")
    if form.is_valid():
        try:
            act(request, WalletView, "patch", {"auto_top_up": form.values}, tenant=tenant.slug)
        except ApiError as error:
            name = (error.param or "").rpartition(".")[2]
            form.add_error(name if name in form.fields else None, error.message)
        else:
            messages.success(request, "Saved.")
            return redirect("wallet", tenant.slug)
    return _page(request, tenant, status=422, auto_form=form)


@tenant_room(write=WRITE)
def wallet_prepaid(request: ConsoleRequest, tenant: Tenant) -> HttpResponse:
    """Make the balance a hard limit on calls, or no longer; the resource refuses whoever is no operator."""
    is_prepaid = request.POST.get("is_prepaid") == "on"
    try:
        act(request, WalletView, "patch", {"is_prepaid": is_prepaid}, tenant=tenant.slug)
    except ApiError as error:
        messages.error(request, error.message)
    else:
        words = (
            "Calls stop where the balance ends." if is_prepaid else "The balance limits no calls any more."
        )
        messages.success(request, words)
    return redirect("wallet", tenant.slug)


@tenant_room(write=WRITE)
def wallet_top_up(request: ConsoleRequest, tenant: Tenant) -> HttpResponse:
    """Ask for a payment into the wallet."""
    form = TopUpForm(request.POST, auto_id="topup_%s")
    if form.is_valid():
        try:
            act(
                request,
                TopUpView,
                "post",
                form.cleaned_data,
                tenant=tenant.slug,
                idempotency_key=f"console-{uuid4()}",
            )
        except ApiError as error:
            refuse(form, error)
        else:
            messages.success(request, "The payment is asked for; the credit is here once it has arrived.")
            return redirect("wallet", tenant.slug)
    return _page(request, tenant, status=422, top_up_form=form)


# ------------------------------------------------------------------ statement of account


def _span(request: ConsoleRequest) -> tuple[date, date]:
    """The days in the address; the last 90 where they make no sense."""
    today = timezone.localdate()
    try:
        start = date.fromisoformat(request.GET.get("from", ""))
        end = date.fromisoformat(request.GET.get("to", ""))
    except ValueError:
        return today - timedelta(days=SPAN_DAYS), today
    return (start, end) if start <= end else (today - timedelta(days=SPAN_DAYS), today)


@tenant_room(INVOICES_READ)
def account_statement(request: ConsoleRequest, tenant: Tenant) -> HttpResponse:
    """What was billed and paid, with a running balance."""
    start, end = _span(request)
    made = statement(tenant=tenant, currency=tenant.currency, start=start, end=end)
    return render(request, "billing/statement.html", {"statement": made})


@tenant_room(INVOICES_READ)
def account_statement_csv(request: ConsoleRequest, tenant: Tenant) -> HttpResponse:
    """The same as a file."""
    start, end = _span(request)
    made = statement(tenant=tenant, currency=tenant.currency, start=start, end=end)
    name = f"statement-{tenant.slug}-{start}-{end}.csv"
    return file(statement_csv(made).encode(), "text/csv; charset=utf-8", name)
