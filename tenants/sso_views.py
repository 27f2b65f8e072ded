"""Console pages of a tenant's sign-in: what it demands, its OpenID Connect connections, the operator's word on
their domains. A client secret goes in and is never shown again.
"""

from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone

from tenants import oidc, sso
from tenants.console import ConsoleRequest, add_refusal, tenant_room, words_of
from tenants.errors import ApiError
from tenants.models import Membership, SsoConnection, Tenant
from tenants.people_views import own_roles


class DemandForm(forms.Form):
    require_mfa = forms.BooleanField(
        label="Every member needs a second factor",
        required=False,
        help_text="Who has none is led to set one up before anything else.",
    )


class ConnectionForm(forms.Form):
    """A connection. On one that exists the secret is optional: empty keeps the one that is stored."""

    name = forms.CharField(
        max_length=100, help_text="What people read on the way there, e.g. “Acme Entra ID”."
    )
    issuer = forms.CharField(
        max_length=500,
        widget=forms.URLInput(attrs={"placeholder": "https://login.example.com", "spellcheck": "false"}),
        help_text="The issuer's URL. Another issuer later ends every confirmation of a domain.",
    )
    client_id = forms.CharField(label="Client ID", max_length=255)
    client_secret = forms.CharField(
        label="Client secret",
        max_length=2000,
        widget=forms.PasswordInput(attrs={"autocomplete": "off"}),
    )
    domains = forms.CharField(
        label="Mail domains",
        required=False,
        widget=forms.Textarea(attrs={"rows": 2, "placeholder": "example.com", "spellcheck": "false"}),
        help_text="One per line. Each counts once the operator has confirmed it.",
    )
    default_role = forms.ChoiceField(
        label="Role of newcomers",
        required=False,
        help_text="People who sign in for the first time become members with it.",
    )
    counts_as_mfa = forms.BooleanField(
        label="Counts as a second factor", required=False, help_text="The provider asks for one itself."
    )
    is_enforced = forms.BooleanField(
        label="Only way in for its domains",
        required=False,
        help_text="Passwords and passkeys are refused there. Owners may still use theirs, for emergencies.",
    )
    is_enabled = forms.BooleanField(label="Enabled", required=False, initial=True)

    def __init__(self, *args: Any, tenant: Tenant, is_new: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        roles = [(role.value, role.label) for role in Membership.Role if role is not Membership.Role.OWNER]
        self.fields["default_role"].choices = [  # type: ignore[attr-defined]
            ("", "None: invited people alone"),
            *roles,
            *own_roles(tenant),
        ]
        if not is_new:
            self.fields["client_secret"].required = False
            self.fields["client_secret"].help_text = "Leave it empty to keep the one that is stored."

    def values(self) -> dict[str, Any]:
        return {**self.cleaned_data, "domains": words_of(self.cleaned_data["domains"])}


def _connection(request: ConsoleRequest, tenant: Tenant, connection_id: UUID, scope: str) -> SsoConnection:
    rows = SsoConnection.objects.for_tenant(tenant).visible_to(request.principal, scope)
    return get_object_or_404(rows.select_related("tenant"), pk=connection_id)


@tenant_room("sso:read", write="sso:write")
def sign_in_settings(request: ConsoleRequest, tenant: Tenant) -> HttpResponse:
    """What the tenant demands, and its connections."""
    demands = sso.demands_of(tenant)
    form = DemandForm(request.POST or None, initial={"require_mfa": demands.require_mfa})
    if request.method == "POST":
        # A form of one unticked box arrives empty, which Django takes for no form at all.
        wanted = request.POST.get("require_mfa") == "on"
        sso.change_demands(tenant=tenant, require_mfa=wanted, actor=request.principal)
        messages.success(request, "Saved.")
        return redirect("sign_in_settings", tenant.slug)
    rows = SsoConnection.objects.for_tenant(tenant).visible_to(request.principal, "sso:read")
    context = {"form": form, "demands": demands, "connections": rows.prefetch_related("domains")}
    return render(request, "tenants/sign_in_settings.html", context)


@tenant_room("sso:write", write="sso:write")
def sso_create(request: ConsoleRequest, tenant: Tenant) -> HttpResponse:
    """A new connection."""
    form = ConnectionForm(request.POST or None, tenant=tenant, is_new=True)
    if request.method == "POST" and form.is_valid():
        try:
            made = sso.create_connection(tenant=tenant, actor=request.principal, **form.values())
        except ApiError as error:
            add_refusal(form, error)
        else:
            messages.success(request, f"{made.name} is set up. Register its redirect URI with the provider.")
            return redirect("sso_edit", tenant.slug, made.pk)
    status = 422 if form.is_bound else 200
    return render(request, "tenants/sso_form.html", {"form": form, "connection": None}, status=status)


@tenant_room("sso:read", write="sso:write")
def sso_edit(request: ConsoleRequest, tenant: Tenant, connection_id: UUID) -> HttpResponse:
    """A connection, and what the provider needs to know of us."""
    scope = "sso:write" if request.method == "POST" else "sso:read"
    connection = _connection(request, tenant, connection_id, scope)
    initial = {**sso.picture(connection), "domains": "\n".join(sso.picture(connection)["domains"])}
    form = ConnectionForm(request.POST or None, initial=initial, tenant=tenant, is_new=False)
    if request.method == "POST" and form.is_valid():
        try:
            sso.change_connection(connection=connection, changes=form.values(), actor=request.principal)
        except ApiError as error:
            add_refusal(form, error)
        else:
            messages.success(request, "Saved.")
            return redirect("sso_edit", tenant.slug, connection.pk)
    return _page(request, connection, form, status=422 if form.is_bound else 200)


def _page(
    request: ConsoleRequest,
    connection: SsoConnection,
    form: ConnectionForm,
    *,
    status: int,
    tried: dict[str, str] | None = None,
    failure: str = "",
) -> HttpResponse:
    context = {
        "connection": connection,
        "form": form,
        "domains": connection.domains.all(),
        "redirect_uri": oidc.callback_url(connection),
        "tried": tried,
        "failure": failure,
    }
    return render(request, "tenants/sso_form.html", context, status=status)


@tenant_room(write="sso:write")
def sso_test(request: ConsoleRequest, tenant: Tenant, connection_id: UUID) -> HttpResponse:
    """Ask the provider for its description and keys, and show what came."""
    connection = _connection(request, tenant, connection_id, "sso:write")
    tried: dict[str, str] | None = None
    failure = ""
    try:
        tried = oidc.try_connection(connection=connection, actor=request.principal)
    except ApiError as error:
        failure = error.message
    initial = {**sso.picture(connection), "domains": "\n".join(sso.picture(connection)["domains"])}
    form = ConnectionForm(initial=initial, tenant=tenant, is_new=False)
    return _page(request, connection, form, status=200, tried=tried, failure=failure)


@tenant_room(write="tenants:write")
def sso_confirm(request: ConsoleRequest, tenant: Tenant, connection_id: UUID) -> HttpResponse:
    """The operator's word that a domain is the tenant's."""
    connection = _connection(request, tenant, connection_id, "tenants:write")
    domain = request.POST.get("domain", "")
    try:
        sso.confirm_domain(connection=connection, domain=domain, actor=request.principal, now=timezone.now())
    except ApiError as error:
        messages.error(request, error.message)
    else:
        messages.success(request, f"{connection.name} speaks for {domain} from now on.")
    return redirect("sso_edit", tenant.slug, connection.pk)


@tenant_room(write="sso:write")
def sso_remove(request: ConsoleRequest, tenant: Tenant, connection_id: UUID) -> HttpResponse:
    """End a connection; its people keep their memberships and sign in otherwise."""
    connection = _connection(request, tenant, connection_id, "sso:write")
    sso.remove_connection(connection=connection, actor=request.principal)
    messages.success(request, f"{connection.name} is removed.")
    return redirect("sign_in_settings", tenant.slug)
