"""Who sells, who buys, which tax that makes, and what is taken off: sellers, tax rates, buyers, coupons."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render

from billing.console.resources import act, refuse
from billing.invoicing.api import (
    READ,
    WRITE,
    BillingProfileView,
    CouponResource,
    LegalEntityResource,
    TaxRateResource,
)
from billing.invoicing.parties import profile_of
from billing.models import BillingProfile, Coupon, InvoiceLine, LegalEntity, TaxCategory, TaxRate
from tenants.console import ConsoleRequest, platform_room, tenant_room
from tenants.errors import ApiError
from tenants.models import Tenant

DATE = forms.DateInput(attrs={"type": "date"}, format="%Y-%m-%d")


def lines_of(text: str) -> list[str]:
    """One item per line, blanks dropped."""
    return [line.strip() for line in text.splitlines() if line.strip()]


# ------------------------------------------------------------------ sellers


class LegalEntityForm(forms.Form):
    """Who issues documents."""

    code = forms.SlugField(max_length=32, help_text="In addresses and files, e.g. tollhouse-de.")
    name = forms.CharField(max_length=200)
    address = forms.CharField(
        required=False, widget=forms.Textarea(attrs={"rows": 3}), help_text="Up to three lines."
    )
    postal_code = forms.CharField(max_length=20, required=False)
    city = forms.CharField(max_length=100, required=False)
    country = forms.CharField(max_length=2, help_text="Two letters, e.g. DE.")
    vat_id = forms.CharField(label="VAT id", max_length=32, required=False)
    registration = forms.CharField(max_length=100, required=False, help_text="Register and number.")
    email = forms.EmailField(required=False)
    iban = forms.CharField(label="IBAN", max_length=42, required=False)
    bic = forms.CharField(label="BIC", max_length=11, required=False)
    currency = forms.CharField(max_length=3, initial="EUR")
    timezone = forms.CharField(label="Time zone", max_length=64, initial="UTC")
    number_prefix = forms.CharField(max_length=16, help_text="Before every number, e.g. TH.")
    series = forms.CharField(label="Invoice series", max_length=8, initial="INV")
    credit_series = forms.CharField(label="Credit note series", max_length=8, initial="CN")
    net_days = forms.IntegerField(label="Days to pay", min_value=0, max_value=365, initial=14)
    grace_hours = forms.IntegerField(
        label="Hours after a period", min_value=0, max_value=336, initial=6, help_text="For late calls."
    )
    footer = forms.CharField(max_length=500, required=False)
    logo_svg = forms.CharField(
        label="Logo (SVG)", required=False, max_length=200_000, widget=forms.Textarea(attrs={"rows": 3})
    )
    is_default = forms.BooleanField(label="Issues for whoever names no other", required=False)
    auto_finalize = forms.BooleanField(label="Issues without a clerk", required=False)

    @property
    def values(self) -> dict[str, Any]:
        """The fields as the resource takes them."""
        data = dict(self.cleaned_data)
        data["address_lines"] = lines_of(data.pop("address"))
        for name in ("country", "currency", "number_prefix", "series", "credit_series"):
            data[name] = data[name].strip().upper()
        return data


_OF_ADDRESS: Mapping[str, str] = {"address_lines": "address"}


@platform_room(READ)
def legal_entity_list(request: ConsoleRequest) -> HttpResponse:
    """Who issues documents, and the tax rates of their countries."""
    context = {
        "sellers": LegalEntity.objects.all(),
        "rates": TaxRate.objects.all(),
        "rate_form": TaxRateForm(),
    }
    return render(request, "billing/legal_entity_list.html", context)


@platform_room(WRITE, write=WRITE)
def legal_entity_create(request: ConsoleRequest) -> HttpResponse:
    """One more seller."""
    initial = {"is_default": not LegalEntity.objects.filter(is_default=True).exists()}
    return _seller_page(request, LegalEntityForm(request.POST or None, initial=initial), None)


@platform_room(WRITE, write=WRITE)
def legal_entity_edit(request: ConsoleRequest, code: str) -> HttpResponse:
    """Change a seller; issued documents keep what they say."""
    seller = get_object_or_404(LegalEntity, code=code)
    initial = {name: getattr(seller, name, None) for name in LegalEntityForm.base_fields}
    initial["address"] = "\n".join(seller.address_lines)
    return _seller_page(request, LegalEntityForm(request.POST or None, initial=initial), seller)


def _seller_page(request: ConsoleRequest, form: LegalEntityForm, seller: LegalEntity | None) -> HttpResponse:
    if request.method == "POST" and form.is_valid():
        try:
            if seller is None:
                act(request, LegalEntityResource, "post", form.values, action="create")
            else:
                act(
                    request,
                    LegalEntityResource,
                    "patch",
                    form.values,
                    action="partial_update",
                    code=seller.code,
                )
        except ApiError as error:
            refuse(form, error, _OF_ADDRESS)
        else:
            messages.success(request, "Saved. It stands on the next document.")
            return redirect("legal_entity_list")
    context = {"form": form, "seller": seller}
    return render(request, "billing/legal_entity_form.html", context, status=422 if form.is_bound else 200)


# ------------------------------------------------------------------ tax rates


class TaxRateForm(forms.Form):
    """A rate from a day on. It stands; a new one takes over."""

    key = forms.SlugField(
        max_length=63, initial="standard", help_text="“standard” unless a charge names another."
    )
    country = forms.CharField(max_length=2, help_text="The seller's.")
    category = forms.ChoiceField(choices=TaxCategory.choices, initial=TaxCategory.STANDARD)
    percent = forms.DecimalField(max_digits=7, decimal_places=4, min_value=0, max_value=100)
    valid_from = forms.DateField(widget=DATE)
    exemption_text = forms.CharField(max_length=300, required=False)
    exemption_code = forms.CharField(max_length=30, required=False, help_text="VATEX code, e.g. VATEX-EU-AE.")


class TaxRateEndForm(forms.Form):
    valid_to = forms.DateField(label="Ends before", widget=DATE)


@platform_room(WRITE, write=WRITE)
def tax_rate_create(request: ConsoleRequest) -> HttpResponse:
    """A rate of a seller's country."""
    seller = LegalEntity.objects.filter(is_default=True).first()
    form = TaxRateForm(request.POST or None, initial={"country": seller.country if seller else ""})
    if request.method == "POST" and form.is_valid():
        values = form.cleaned_data | {"country": form.cleaned_data["country"].upper()}
        try:
            act(request, TaxRateResource, "post", values, action="create")
        except ApiError as error:
            refuse(form, error)
        else:
            messages.success(request, "The rate applies from its day on.")
            return redirect("legal_entity_list")
    return render(request, "billing/tax_rate_form.html", {"form": form}, status=422 if form.is_bound else 200)


@platform_room(WRITE, write=WRITE)
def tax_rate_end(request: ConsoleRequest, rate_id: UUID) -> HttpResponse:
    """Close a rate; that is all that can change of it."""
    rate = get_object_or_404(TaxRate, pk=rate_id)
    form = TaxRateEndForm(request.POST or None, initial={"valid_to": rate.valid_to})
    if request.method == "POST" and form.is_valid():
        try:
            act(request, TaxRateResource, "patch", form.cleaned_data, action="partial_update", pk=rate.pk)
        except ApiError as error:
            refuse(form, error)
        else:
            messages.success(request, "The rate has an end now.")
            return redirect("legal_entity_list")
    context = {"form": form, "rate": rate}
    return render(request, "billing/tax_rate_form.html", context, status=422 if form.is_bound else 200)


# ------------------------------------------------------------------ buyers


class BillingProfileForm(forms.Form):
    """A tenant as a buyer."""

    legal_entity = forms.ChoiceField(label="Seller", required=False)
    legal_name = forms.CharField(max_length=200, required=False, help_text="Empty: the tenant's name.")
    address = forms.CharField(
        required=False, widget=forms.Textarea(attrs={"rows": 3}), help_text="Up to three lines."
    )
    postal_code = forms.CharField(max_length=20, required=False)
    city = forms.CharField(max_length=100, required=False)
    country = forms.CharField(max_length=2, required=False, help_text="Two letters, e.g. DE.")
    vat_id = forms.CharField(label="VAT id", max_length=32, required=False)
    tax_treatment = forms.ChoiceField(choices=BillingProfile.Treatment.choices)
    net_days = forms.IntegerField(
        label="Days to pay", min_value=0, max_value=365, required=False, help_text="Empty: the seller's."
    )
    emails = forms.CharField(
        label="Invoices go to",
        required=False,
        widget=forms.Textarea(attrs={"rows": 2}),
        help_text="One per line.",
    )
    einvoice_address = forms.CharField(
        label="E-invoice address", max_length=200, required=False, help_text="scheme:id, such as 0088:…"
    )
    buyer_reference = forms.CharField(max_length=100, required=False, help_text="E.g. the Leitweg-ID.")
    purchase_order = forms.CharField(max_length=100, required=False)
    issue_zero_invoices = forms.BooleanField(label="Issue invoices of nothing", required=False)

    def __init__(self, *args: Any, sellers: list[tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["legal_entity"] = forms.ChoiceField(
            label="Seller", required=False, choices=[("", "the default one"), *sellers]
        )
        self.order_fields(["legal_entity"])

    @property
    def values(self) -> dict[str, Any]:
        """The fields as the resource takes them."""
        data = dict(self.cleaned_data)
        data["address_lines"] = lines_of(data.pop("address"))
        data["emails"] = lines_of(data["emails"].replace(",", "\n"))
        data["country"] = data["country"].strip().upper()
        data["legal_entity"] = data["legal_entity"] or None
        return data


@tenant_room(READ, write=WRITE)
def billing_profile(request: ConsoleRequest, tenant: Tenant) -> HttpResponse:
    """How a tenant is invoiced: it reads, the operator changes."""
    profile = profile_of(tenant)
    initial = {name: getattr(profile, name, None) for name in BillingProfileForm.base_fields}
    initial["legal_entity"] = profile.legal_entity.code if profile.legal_entity else ""
    initial["address"] = "\n".join(profile.address_lines)
    initial["emails"] = "\n".join(profile.emails)
    sellers = list(LegalEntity.objects.values_list("code", "name"))
    form = BillingProfileForm(request.POST or None, initial=initial, sellers=sellers)
    if request.method == "POST" and form.is_valid():
        try:
            act(request, BillingProfileView, "patch", form.values, tenant=tenant.slug)
        except ApiError as error:
            refuse(form, error, _OF_ADDRESS)
        else:
            messages.success(request, "Saved. It stands on the next document.")
            return redirect("billing_profile", tenant.slug)
    context = {"form": form, "profile": profile, "may_act": request.principal.can(WRITE)}
    return render(request, "billing/billing_profile.html", context, status=422 if form.is_bound else 200)


# ------------------------------------------------------------------ coupons


class CouponForm(forms.Form):
    """A discount on offer. Its terms stand."""

    code = forms.SlugField(max_length=63)
    name = forms.CharField(max_length=200, help_text="Stands on the invoice.")
    kind = forms.ChoiceField(choices=Coupon.Kind.choices)
    value = forms.DecimalField(
        max_digits=20, decimal_places=4, min_value=0, help_text="Percent, or an amount of the currency."
    )
    currency = forms.CharField(max_length=3, required=False, help_text="Of a fixed amount.")
    duration = forms.ChoiceField(choices=Coupon.Duration.choices, initial=Coupon.Duration.ONCE)
    periods = forms.IntegerField(min_value=1, max_value=1000, required=False, help_text="If repeating.")
    line_kinds = forms.MultipleChoiceField(
        label="Comes off",
        required=False,
        choices=InvoiceLine.Kind.choices,
        widget=forms.CheckboxSelectMultiple,
        help_text="None chosen: all lines.",
    )
    redeem_by = forms.DateTimeField(
        required=False,
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M"),
    )


class RedeemForm(forms.Form):
    tenant = forms.SlugField(max_length=63, widget=forms.TextInput(attrs={"placeholder": "slug"}))


@platform_room(READ)
def coupon_list(request: ConsoleRequest) -> HttpResponse:
    """Discounts on offer, and who has redeemed them."""
    coupons = Coupon.objects.prefetch_related("redemptions__tenant")
    rows = [
        (coupon, [each.tenant for each in coupon.redemptions.all() if each.removed_at is None])
        for coupon in coupons
    ]
    return render(request, "billing/coupon_list.html", {"rows": rows})


@platform_room(WRITE, write=WRITE)
def coupon_create(request: ConsoleRequest) -> HttpResponse:
    """One more discount."""
    form = CouponForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        given = {name: value for name, value in form.cleaned_data.items() if value not in (None, "")}
        if "currency" in given:
            given["currency"] = given["currency"].upper()
        try:
            act(request, CouponResource, "post", given, action="create")
        except ApiError as error:
            refuse(form, error)
        else:
            messages.success(request, "The coupon is on offer.")
            return redirect("coupon_list")
    return render(request, "billing/coupon_form.html", {"form": form}, status=422 if form.is_bound else 200)


@platform_room(write=WRITE)
def coupon_redeem(request: ConsoleRequest, code: str) -> HttpResponse:
    """Give a coupon to a tenant, or take it away again (`action` remove)."""
    coupon = get_object_or_404(Coupon, code=code)
    verb = "remove" if request.POST.get("action") == "remove" else "redeem"
    slug = request.POST.get("tenant", "").strip()
    try:
        act(request, CouponResource, "post", {"tenant": slug}, action=verb, code=coupon.code)
    except ApiError as error:
        messages.error(request, error.message)
    else:
        done = "no longer comes off" if verb == "remove" else "comes off from"
        messages.success(request, f"{coupon.code} {done} {slug}'s next document.")
    return redirect("coupon_list")
