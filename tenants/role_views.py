"""Console pages about what actors may do: a tenant's own roles, and its service accounts with their keys.

Each view calls one verb or one query. A key's text leaves once, in the answer to the POST that made it.
"""

from collections.abc import Callable
from typing import Any, cast
from uuid import UUID

from django import forms
from django.conf import settings
from django.contrib import messages
from django.db.models import Count
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone

from tenants import keys, roles, service_accounts
from tenants.console import ConsoleRequest, add_refusal, page_of, tenant_room
from tenants.errors import ApiError
from tenants.models import ApiKey, CustomRole, ServiceAccount, Tenant
from tenants.principal import Principal
from tenants.scopes import SCOPES, TENANT_ROLES, TENANT_SCOPES, grants

# ------------------------------------------------------------------ roles


class RoleForm(forms.Form):
    """A role's name and scopes, one group of boxes for each area; offers only scopes that its maker holds."""

    slug = forms.SlugField(max_length=63, help_text="Stands in the API, set once, e.g. “auditor”.")
    name = forms.CharField(max_length=100)

    def __init__(self, *args: Any, principal: Principal, tenant: Tenant, is_new: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not is_new:
            del self.fields["slug"]
        areas: dict[str, list[tuple[str, str]]] = {}
        for scope, words in SCOPES.items():
            if scope in TENANT_SCOPES and principal.can(scope, tenant.id):
                areas.setdefault(scope.partition(":")[0], []).append((scope, words))
        self.area_names = [f"area_{area}" for area in areas]
        for area, offered in areas.items():
            self.fields[f"area_{area}"] = forms.MultipleChoiceField(
                label=area.capitalize(),
                choices=offered,
                required=False,
                widget=forms.CheckboxSelectMultiple,
                initial=[scope for scope, _ in offered if scope in self.initial.get("scopes", ())],
            )

    @property
    def areas(self) -> list[forms.BoundField]:
        """The groups of boxes, for the template."""
        return [self[name] for name in self.area_names]

    def clean(self) -> None:
        super().clean()
        if not self.scopes:
            self.add_error(None, "Choose at least one thing the role may do.")

    @property
    def scopes(self) -> list[str]:
        return [scope for name in self.area_names for scope in self.cleaned_data.get(name, ())]


def _role(request: ConsoleRequest, tenant: Tenant, slug: str, scope: str) -> CustomRole:
    rows = CustomRole.objects.for_tenant(tenant).visible_to(request.principal, scope)
    return get_object_or_404(rows.select_related("tenant"), slug=slug)


@tenant_room("roles:read")
def role_list(request: ConsoleRequest, tenant: Tenant) -> HttpResponse:
    """The tenant's own roles with who holds them, and the built-in ones below."""
    rows = CustomRole.objects.for_tenant(tenant).visible_to(request.principal, "roles:read")
    held = rows.annotate(
        members=Count("memberships", distinct=True), accounts=Count("service_accounts", distinct=True)
    )
    page = page_of(held, cursor=request.GET.get("cursor", ""))
    built_in = [
        (role, [scope for scope in SCOPES if grants(held_scopes, scope)])
        for role, held_scopes in TENANT_ROLES.items()
    ]
    return render(request, "tenants/role_list.html", {"page": page, "built_in": built_in})


@tenant_room("roles:write", write="roles:write")
def role_create(request: ConsoleRequest, tenant: Tenant) -> HttpResponse:
    """The form; a POST makes the role."""
    form = RoleForm(request.POST or None, principal=request.principal, tenant=tenant, is_new=True)
    if request.method == "POST" and form.is_valid():
        data = form.cleaned_data
        try:
            role = roles.create_role(
                tenant=tenant,
                slug=data["slug"],
                name=data["name"],
                scopes=form.scopes,
                actor=request.principal,
            )
        except ApiError as error:
            add_refusal(form, error)
        else:
            messages.success(request, f"{role.name} can be given to members now.")
            return redirect("role_list", tenant.slug)
    return render(request, "tenants/role_form.html", {"form": form}, status=422 if form.is_bound else 200)


@tenant_room("roles:write", write="roles:write")
def role_edit(request: ConsoleRequest, tenant: Tenant, role: str) -> HttpResponse:
    """Change name and scopes; whoever holds the role may do so much from then on."""
    held = _role(request, tenant, role, "roles:write")
    form = RoleForm(
        request.POST or None,
        principal=request.principal,
        tenant=tenant,
        is_new=False,
        initial={"name": held.name, "scopes": held.scopes},
    )
    if request.method == "POST" and form.is_valid():
        try:
            roles.change_role(
                role=held, name=form.cleaned_data["name"], scopes=form.scopes, actor=request.principal
            )
        except ApiError as error:
            add_refusal(form, error)
        else:
            messages.success(request, "Saved. It holds for everybody with this role at once.")
            return redirect("role_list", tenant.slug)
    context = {"form": form, "role": held}
    return render(request, "tenants/role_form.html", context, status=422 if form.is_bound else 200)


@tenant_room(write="roles:write")
def role_remove(request: ConsoleRequest, tenant: Tenant, role: str) -> HttpResponse:
    """Remove a role that nobody holds; the person has typed its slug."""
    held = _role(request, tenant, role, "roles:write")
    if request.POST.get("confirm", "").strip() != held.slug:
        messages.error(request, "The name did not match. The role was not removed.")
        return redirect("role_edit", tenant.slug, held.slug)
    try:
        roles.remove_role(role=held, actor=request.principal)
    except ApiError as error:
        messages.error(request, error.message)
        return redirect("role_edit", tenant.slug, held.slug)
    messages.success(request, f"{held.name} is gone.")
    return redirect("role_list", tenant.slug)


# ------------------------------------------------------------------ service accounts


def role_choices(tenant: Tenant) -> list[tuple[str, str]]:
    """Built-in roles, then the tenant's own, for a select."""
    own = CustomRole.objects.for_tenant(tenant).order_by("name").values_list("slug", "name")
    return [*((role, role.capitalize()) for role in TENANT_ROLES), *own]


class AccountForm(forms.Form):
    """A new service account."""

    name = forms.CharField(max_length=100, help_text="Which program acts here, e.g. “Deployments”.")
    role = forms.ChoiceField(initial="developer", help_text="Its keys may never do more.")

    def __init__(self, *args: Any, tenant: Tenant, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        cast("forms.ChoiceField", self.fields["role"]).choices = role_choices(tenant)


class AccountKeyForm(forms.Form):
    """A new key of a service account: the scopes that its role and its maker both hold."""

    name = forms.CharField(max_length=100)
    scopes = forms.MultipleChoiceField(widget=forms.CheckboxSelectMultiple)

    def __init__(self, *args: Any, principal: Principal, account: ServiceAccount, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        held = account.scopes
        cast("forms.MultipleChoiceField", self.fields["scopes"]).choices = [
            (scope, words)
            for scope, words in SCOPES.items()
            if grants(held, scope) and principal.can(scope, account.tenant_id)
        ]


def _account(request: ConsoleRequest, tenant: Tenant, account_id: UUID, scope: str) -> ServiceAccount:
    rows = ServiceAccount.objects.for_tenant(tenant).visible_to(request.principal, scope)
    return get_object_or_404(rows.select_related("tenant", "custom_role"), pk=account_id)


@tenant_room("members:read", write="members:write")
def service_account_list(request: ConsoleRequest, tenant: Tenant) -> HttpResponse:
    """Every service account; a POST opens one."""
    form = AccountForm(request.POST or None, tenant=tenant)
    if request.method == "POST" and form.is_valid():
        try:
            account = service_accounts.open_account(
                tenant=tenant, actor=request.principal, **form.cleaned_data
            )
        except ApiError as error:
            add_refusal(form, error)
        else:
            messages.success(request, f"{account.name} is open. Give it a key.")
            return redirect("service_account_detail", tenant.slug, account.id)
    rows = ServiceAccount.objects.for_tenant(tenant).visible_to(request.principal, "members:read")
    page = page_of(rows.annotate(keys=Count("api_keys")), cursor=request.GET.get("cursor", ""))
    context = {"page": page, "form": form}
    status = 422 if form.is_bound else 200
    return render(request, "tenants/service_account_list.html", context, status=status)


@tenant_room("members:read")
def service_account_detail(request: ConsoleRequest, tenant: Tenant, account_id: UUID) -> HttpResponse:
    """What the account may do, its keys, and what can be done with it."""
    account = _account(request, tenant, account_id, "members:read")
    may_see_keys = request.principal.can("keys:read", tenant.id)
    held = ApiKey.objects.for_tenant(tenant).filter(service_account=account)
    context = {
        "account": account,
        "scopes": [scope for scope in SCOPES if grants(account.scopes, scope)],
        "keys": held.order_by("-id")[:100] if may_see_keys else (),
        "roles": role_choices(tenant),
        "key_form": AccountKeyForm(principal=request.principal, account=account),
    }
    return render(request, "tenants/service_account_detail.html", context)


@tenant_room(write="keys:write")
def service_account_key(request: ConsoleRequest, tenant: Tenant, account_id: UUID) -> HttpResponse:
    """Make a key of the account; the page shows its text this once."""
    account = _account(request, tenant, account_id, "keys:write")
    form = AccountKeyForm(request.POST, principal=request.principal, account=account)
    if not form.is_valid():
        messages.error(request, "A key needs a name and at least one scope.")
        return redirect("service_account_detail", tenant.slug, account.id)
    try:
        issued = keys.issue(
            tenant=tenant, service_account=account, actor=request.principal, **form.cleaned_data
        )
    except ApiError as error:
        messages.error(request, error.message)
        return redirect("service_account_detail", tenant.slug, account.id)
    base_url = f"{settings.PUBLIC_URL}/v1"
    context = {"key": issued.key, "text": issued.text, "replaced": None, "base_url": base_url}
    return render(request, "tenants/key_created.html", context)


@tenant_room(write="members:write")
def service_account_role(request: ConsoleRequest, tenant: Tenant, account_id: UUID) -> HttpResponse:
    """Give the account another role; its keys follow at once."""
    account = _account(request, tenant, account_id, "members:write")
    try:
        changed = service_accounts.change_role(
            account=account, role=request.POST.get("role", ""), actor=request.principal
        )
    except ApiError as error:
        messages.error(request, error.message)
    else:
        messages.success(request, f"{changed.name} is now {changed.role}.")
    return redirect("service_account_detail", tenant.slug, account.id)


@tenant_room(write="members:write")
def service_account_status(request: ConsoleRequest, tenant: Tenant, account_id: UUID) -> HttpResponse:
    """Suspend, activate, or deactivate for good (the person has typed the account's name)."""
    account = _account(request, tenant, account_id, "members:write")
    verbs: dict[str, tuple[Callable[..., ServiceAccount], str]] = {
        "suspend": (service_accounts.suspend, "is suspended. Its keys are refused."),
        "activate": (service_accounts.activate, "is active. Its keys work again."),
        "deactivate": (service_accounts.deactivate, "is deactivated. Its keys are refused for good."),
    }
    wanted = request.POST.get("action", "")
    if wanted not in verbs:
        messages.error(request, "Choose what is to be done.")
    elif wanted == "deactivate" and request.POST.get("confirm", "").strip() != account.name:
        messages.error(request, "The name did not match. The account was not deactivated.")
    else:
        verb, words = verbs[wanted]
        try:
            verb(account=account, actor=request.principal, now=timezone.now())
        except ApiError as error:
            messages.error(request, error.message)
        else:
            messages.success(request, f"{account.name} {words}")
    return redirect("service_account_detail", tenant.slug, account.id)
