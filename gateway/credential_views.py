"""A tenant's own keys at providers (BYO): kept, tested, paused, removed, and what a call on them costs here.

Joins routing (the keys) and billing (the fee). A provider's key is taken in and never shown.
"""

from uuid import UUID

from django import forms
from django.conf import settings
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render

from billing.rating.charges import Charge
from billing.rating.prices import compile_charges
from billing.subscriptions import current_version
from routing import credentials
from routing.models import Credential, Provider
from routing.probe import Probe, last_probe, probe_own
from routing.types import ProviderKind
from tenants import egress
from tenants.console import ConsoleRequest, add_refusal, page_of, tenant_room
from tenants.errors import ApiError
from tenants.models import Tenant


class CredentialForm(forms.Form):
    """One more of the tenant's keys. One of a provider and label in use takes the old one's place."""

    provider = forms.ModelChoiceField(Provider.objects.none(), to_field_name="slug")
    api_key = forms.CharField(
        label="API key",
        max_length=credentials.MAX_SECRET_CHARACTERS,
        widget=forms.PasswordInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
        help_text="Encrypted at rest and never shown again.",
    )
    label = forms.CharField(
        max_length=100, required=False, help_text="A key of the same provider and label is replaced."
    )
    base_url = forms.URLField(
        label="Base URL",
        required=False,
        max_length=500,
        assume_scheme="https",
        widget=forms.URLInput(attrs={"placeholder": "https://…", "spellcheck": "false"}),
        help_text="Empty: the provider's own address.",
    )

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]  # Django's own positional data
        offered = Provider.objects.filter(is_enabled=True).exclude(kind=ProviderKind.SANDBOX.value)
        field = self.fields["provider"]
        field.queryset = offered.order_by("name")  # type: ignore[attr-defined]  # of the field's own class
        field.label_from_instance = lambda row: row.name  # type: ignore[attr-defined]


def fees_of(tenant: Tenant) -> tuple[str, list[Charge]]:
    """The plan's currency and its fees for calls on own keys, in its order; calls that none covers are free."""
    version = current_version(tenant)
    pricing = compile_charges(version.charges, version.currency)
    return version.currency, [charge for charge in pricing.charges if charge.kind == "byok"]


@tenant_room("credentials:read", write="credentials:write")
def credential_list(request: ConsoleRequest, tenant: Tenant) -> HttpResponse:
    """The keys and their fee; a POST stores one."""
    form = CredentialForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        data = form.cleaned_data
        try:
            if data["base_url"]:
                egress.check_url(
                    data["base_url"],
                    allow_private_hosts=settings.TOLLHOUSE_EGRESS_ALLOWED_HOSTS,
                    param="base_url",
                )
            credentials.store(
                provider=data["provider"],
                tenant=tenant,
                secret=data["api_key"],
                label=data["label"],
                base_url=data["base_url"],
                actor=request.principal,
            )
        except ApiError as error:
            add_refusal(form, error)
        else:
            messages.success(request, f"Calls at {data['provider'].name} use your key from now on. Test it.")
            return redirect("credential_list", tenant.slug)
    rows = (
        Credential.objects.for_tenant(tenant)
        .visible_to(request.principal, "credentials:read")
        .select_related("provider")
    )
    page = page_of(rows, cursor=request.GET.get("cursor", ""))
    currency, fees = fees_of(tenant)
    context = {
        "page": page,
        "rows": [(row, last_probe(row)) for row in page.rows],
        "form": form,
        "fees": fees,
        "currency": currency,
    }
    return render(request, "gateway/credential_list.html", context, status=422 if form.is_bound else 200)


def _credential(request: ConsoleRequest, tenant: Tenant, credential_id: UUID) -> Credential:
    rows = Credential.objects.for_tenant(tenant).visible_to(request.principal, "credentials:write")
    return get_object_or_404(rows.select_related("provider", "tenant"), pk=credential_id)


@tenant_room(write="credentials:write")
def credential_test(request: ConsoleRequest, tenant: Tenant, credential_id: UUID) -> HttpResponse:
    """Ask the provider for something small with this key and show how it answered, as a fragment."""
    credential = _credential(request, tenant, credential_id)
    result: Probe = probe_own(credential=credential, actor=request.principal)
    return render(request, "routing/test_result.html", {"probe": result})


@tenant_room(write="credentials:write")
def credential_switch(request: ConsoleRequest, tenant: Tenant, credential_id: UUID) -> HttpResponse:
    """Use the key, or pause it."""
    credential = _credential(request, tenant, credential_id)
    is_enabled = request.POST.get("is_enabled") == "true"
    try:
        credentials.change(credential=credential, changes={"is_enabled": is_enabled}, actor=request.principal)
    except ApiError as error:
        messages.error(request, error.message)
    else:
        state = "in use" if is_enabled else "paused"
        messages.success(request, f"Your key at {credential.provider.name} is {state}.")
    return redirect("credential_list", tenant.slug)


@tenant_room(write="credentials:write")
def credential_remove(request: ConsoleRequest, tenant: Tenant, credential_id: UUID) -> HttpResponse:
    """Delete the key with its secret."""
    credential = _credential(request, tenant, credential_id)
    credentials.remove(credential=credential, actor=request.principal)
    messages.success(request, f"Your key at {credential.provider.name} is gone.")
    return redirect("credential_list", tenant.slug)
