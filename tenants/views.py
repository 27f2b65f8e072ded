"""Console pages about people and keys: API keys, members, one's own account.

Each view calls one verb or one query. A key's text leaves this module once, in the answer to the POST that
made it, and is kept nowhere.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta
from typing import cast
from uuid import UUID
from zoneinfo import available_timezones

from django import forms
from django.conf import settings
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone

from tenants import keys, members
from tenants.console import (
    ConsoleRequest,
    add_refusal,
    page_of,
    signed_in_room,
    tenant_room,
    words_of,
)
from tenants.errors import ApiError
from tenants.models import ApiKey, Membership, Tenant
from tenants.principal import Principal
from tenants.profile import change_profile
from tenants.scopes import SCOPES

DAY_S = 24 * 3600
GRACE_CHOICES = (
    (0, "At once: the old key stops now"),
    (3600, "1 hour"),
    (DAY_S, "1 day"),
    (7 * DAY_S, "7 days"),
    (30 * DAY_S, "30 days"),
)
EXPIRY_CHOICES = (
    ("", "Never"),
    ("30", "In 30 days"),
    ("90", "In 90 days"),
    ("365", "In a year"),
    ("on", "On a date"),
)
CALL_SCOPES = ("inference:chat", "inference:completions", "inference:embeddings", "models:read")


# ------------------------------------------------------------------ keys


class KeyForm(forms.Form):
    """What a new key may do. Offers only scopes that its maker holds."""

    name = forms.CharField(max_length=100, help_text="Where it will be used, e.g. “Production backend”.")
    call_scopes = forms.MultipleChoiceField(
        label="Calls", required=False, widget=forms.CheckboxSelectMultiple, initial=CALL_SCOPES
    )
    manage_scopes = forms.MultipleChoiceField(
        label="Management", required=False, widget=forms.CheckboxSelectMultiple
    )
    allowed_models = forms.CharField(
        label="Models",
        required=False,
        widget=forms.Textarea(
            attrs={"rows": 3, "placeholder": "gpt-4o-mini\npolicy:cost-optimized", "spellcheck": "false"}
        ),
        help_text="One per line. Empty: every model of the plan.",
    )
    allowed_ips = forms.CharField(
        label="Addresses",
        required=False,
        widget=forms.Textarea(attrs={"rows": 2, "placeholder": "203.0.113.0/24", "spellcheck": "false"}),
        help_text="CIDR ranges that may use the key, one per line. Empty: from everywhere.",
    )
    limit_rpm = forms.IntegerField(
        label="Requests per minute", required=False, min_value=1, max_value=2**31 - 1
    )
    limit_tpm = forms.IntegerField(
        label="Tokens per minute", required=False, min_value=1, max_value=2**63 - 1
    )
    max_concurrent = forms.IntegerField(
        label="At the same time", required=False, min_value=1, max_value=2**31 - 1
    )
    expiry = forms.ChoiceField(label="Expires", choices=EXPIRY_CHOICES, required=False)
    expires_on = forms.DateField(
        label="Date",
        required=False,
        widget=forms.DateInput(attrs={"type": "date"}, format="%Y-%m-%d"),
        help_text="The key works until the end of this day.",
    )

    def __init__(self, *args: object, principal: Principal, tenant: Tenant, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]  # Django's own positional data and files
        offered = [(scope, words) for scope, words in SCOPES.items() if principal.can(scope, tenant.id)]
        calls = cast("forms.MultipleChoiceField", self.fields["call_scopes"])
        manage = cast("forms.MultipleChoiceField", self.fields["manage_scopes"])
        calls.choices = [(scope, words) for scope, words in offered if scope in CALL_SCOPES]
        manage.choices = [
            (scope, words) for scope, words in offered if scope not in CALL_SCOPES and scope != "tenants:act"
        ]

    def clean(self) -> None:
        super().clean()
        data = self.cleaned_data
        if not (data.get("call_scopes") or data.get("manage_scopes")):
            self.add_error("call_scopes", "Choose at least one thing the key may do.")
        if data.get("expiry") == "on" and not data.get("expires_on"):
            self.add_error("expires_on", "Choose the date.")
        expires_at = self.expires_at(timezone.now()) if not self.errors else None
        if expires_at is not None and expires_at <= timezone.now():
            self.add_error("expires_on", "This day is over.")

    def expires_at(self, now: datetime) -> datetime | None:
        """When the key ends, in UTC; a date means its last instant in the reader's zone."""
        choice = self.cleaned_data["expiry"]
        if choice == "on":
            day = self.cleaned_data["expires_on"] + timedelta(days=1)
            return datetime.combine(day, time.min, timezone.get_current_timezone()).astimezone(UTC)
        return now + timedelta(days=int(choice)) if choice else None


class RotateForm(forms.Form):
    grace_s = forms.TypedChoiceField(
        label="Keep the old key working for", choices=GRACE_CHOICES, coerce=int, initial=DAY_S
    )


def state_of(key: ApiKey, now: datetime) -> str:
    """active, expiring (ends within seven days), expired or revoked."""
    if key.revoked_at is not None:
        return "revoked"
    if key.expires_at is not None and key.expires_at <= now:
        return "expired"
    if key.expires_at is not None and key.expires_at <= now + timedelta(days=7):
        return "expiring"
    return "active"


@tenant_room("keys:read")
def key_list(request: ConsoleRequest, tenant: Tenant) -> HttpResponse:
    """Every key of the tenant, newest first."""
    rows = ApiKey.objects.for_tenant(tenant).visible_to(request.principal, "keys:read")
    if request.GET.get("show") != "all":
        rows = rows.filter(revoked_at__isnull=True)
    page = page_of(rows, cursor=request.GET.get("cursor", ""))
    now = timezone.now()
    listed = [(key, state_of(key, now)) for key in page.rows]
    return render(
        request, "tenants/key_list.html", {"page": page, "keys": listed, "show": request.GET.get("show", "")}
    )


@tenant_room("keys:write", write="keys:write")
def key_create(request: ConsoleRequest, tenant: Tenant) -> HttpResponse:
    """The form, and on success the page that shows the text this once."""
    form = KeyForm(request.POST or None, principal=request.principal, tenant=tenant)
    if request.method == "POST" and form.is_valid():
        data = form.cleaned_data
        try:
            issued = keys.issue(
                tenant=tenant,
                name=data["name"],
                scopes=[*data["call_scopes"], *data["manage_scopes"]],
                allowed_models=words_of(data["allowed_models"]),
                allowed_ips=words_of(data["allowed_ips"]),
                limit_rpm=data["limit_rpm"],
                limit_tpm=data["limit_tpm"],
                max_concurrent=data["max_concurrent"],
                expires_at=form.expires_at(timezone.now()),
                actor=request.principal,
            )
        except ApiError as error:
            add_refusal(form, error)
        else:
            return _show_once(request, issued)
    status = 422 if form.is_bound else 200
    return render(request, "tenants/key_create.html", {"form": form}, status=status)


def _show_once(
    request: ConsoleRequest, issued: keys.Issued, *, replaced: ApiKey | None = None
) -> HttpResponse:
    context = {
        "key": issued.key,
        "text": issued.text,
        "replaced": replaced,
        "base_url": f"{settings.PUBLIC_URL}/v1",
    }
    return render(request, "tenants/key_created.html", context)


def _key(request: ConsoleRequest, tenant: Tenant, key_id: UUID, scope: str) -> ApiKey:
    rows = ApiKey.objects.for_tenant(tenant).visible_to(request.principal, scope)
    return get_object_or_404(rows.select_related("replaced_by", "replaces"), pk=key_id)


@tenant_room("keys:read")
def key_detail(request: ConsoleRequest, tenant: Tenant, key_id: UUID) -> HttpResponse:
    """What the key may do, and the two things to be done with it."""
    key = _key(request, tenant, key_id, "keys:read")
    return render(
        request,
        "tenants/key_detail.html",
        {"key": key, "state": state_of(key, timezone.now()), "rotate_form": RotateForm()},
    )


@tenant_room(write="keys:write")
def key_rotate(request: ConsoleRequest, tenant: Tenant, key_id: UUID) -> HttpResponse:
    """Replace the key; the old one goes on for the chosen grace."""
    key = _key(request, tenant, key_id, "keys:write")
    form = RotateForm(request.POST)
    if form.is_valid():
        try:
            issued = keys.rotate(
                key=key, grace_s=form.cleaned_data["grace_s"], actor=request.principal, now=timezone.now()
            )
        except ApiError as error:
            messages.error(request, error.message)
        else:
            key.refresh_from_db()
            return _show_once(request, issued, replaced=key)
    return redirect("key_detail", tenant.slug, key.id)


@tenant_room(write="keys:write")
def key_revoke(request: ConsoleRequest, tenant: Tenant, key_id: UUID) -> HttpResponse:
    """Stop the key for good; the person has typed its name."""
    key = _key(request, tenant, key_id, "keys:write")
    if request.POST.get("confirm", "").strip() != key.name:
        messages.error(request, "The name did not match. The key was not revoked.")
    else:
        keys.revoke(key=key, actor=request.principal, now=timezone.now())
        messages.success(request, f"{key.name} is revoked. Calls with it are refused from now on.")
    return redirect("key_detail", tenant.slug, key.id)


# ------------------------------------------------------------------ members


ROLE_HELP = {
    Membership.Role.OWNER: "Everything in the workspace",
    Membership.Role.ADMIN: "Everything in the workspace",
    Membership.Role.DEVELOPER: "Keys, usage, requests",
    Membership.Role.BILLING: "Usage, budgets, plan",
    Membership.Role.VIEWER: "Look, change nothing",
}


class MemberForm(forms.Form):
    email = forms.EmailField(label="E-mail", widget=forms.EmailInput(attrs={"autocomplete": "off"}))
    role = forms.ChoiceField(
        choices=[(role.value, f"{role.label}: {ROLE_HELP[role].lower()}") for role in Membership.Role],
        initial=Membership.Role.DEVELOPER.value,
    )


class RoleForm(forms.Form):
    role = forms.ChoiceField(choices=Membership.Role.choices)


@tenant_room("members:read", write="members:write")
def member_list(request: ConsoleRequest, tenant: Tenant) -> HttpResponse:
    """Who belongs to the tenant; a POST adds somebody."""
    form = MemberForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            member = members.add_member(
                tenant=tenant,
                email=form.cleaned_data["email"],
                role=form.cleaned_data["role"],
                actor=request.principal,
            )
        except ApiError as error:
            add_refusal(form, error)
        else:
            messages.success(request, f"{member.user.email} is now a member of {tenant.name}.")
            return redirect("member_list", tenant.slug)
    rows = (
        Membership.objects.for_tenant(tenant)
        .visible_to(request.principal, "members:read")
        .select_related("user")
    )
    page = page_of(rows, cursor=request.GET.get("cursor", ""))
    context = {"page": page, "form": form, "roles": Membership.Role.choices}
    return render(request, "tenants/member_list.html", context, status=422 if form.is_bound else 200)


def _membership(request: ConsoleRequest, tenant: Tenant, member_id: UUID) -> Membership:
    rows = Membership.objects.for_tenant(tenant).visible_to(request.principal, "members:write")
    return get_object_or_404(rows.select_related("user", "tenant"), pk=member_id)


@tenant_room(write="members:write")
def member_role(request: ConsoleRequest, tenant: Tenant, member_id: UUID) -> HttpResponse:
    """Change what a member may do."""
    membership = _membership(request, tenant, member_id)
    form = RoleForm(request.POST)
    if form.is_valid():
        role = form.cleaned_data["role"]
        try:
            members.change_role(membership=membership, role=role, actor=request.principal)
        except ApiError as error:
            messages.error(request, error.message)
        else:
            messages.success(request, f"{membership.user.email} is now {role}.")
    return redirect("member_list", tenant.slug)


@tenant_room(write="members:write")
def member_remove(request: ConsoleRequest, tenant: Tenant, member_id: UUID) -> HttpResponse:
    """Take a member out of the tenant; the account itself stays."""
    membership = _membership(request, tenant, member_id)
    email = membership.user.email
    try:
        members.remove_member(membership=membership, actor=request.principal)
    except ApiError as error:
        messages.error(request, error.message)
    else:
        messages.success(request, f"{email} is no longer a member.")
    return redirect("member_list", tenant.slug)


# ------------------------------------------------------------------ account


def zone_choices() -> Sequence[tuple[str, str]]:
    """Time zones people live in, by name."""
    named = sorted(
        zone
        for zone in available_timezones()
        if "/" in zone and not zone.startswith(("Etc/", "posix/", "right/"))
    )
    return [("UTC", "UTC"), *((zone, zone.replace("_", " ")) for zone in named)]


class AccountForm(forms.Form):
    name = forms.CharField(
        max_length=200, required=False, widget=forms.TextInput(attrs={"autocomplete": "name"})
    )
    timezone = forms.ChoiceField(
        label="Time zone",
        choices=zone_choices,
        help_text="Times in the console are shown in it, with UTC on hover.",
    )


@signed_in_room
def account(request: ConsoleRequest) -> HttpResponse:
    """One's own name, time zone and roles."""
    user = request.user
    form = AccountForm(request.POST or None, initial={"name": user.name, "timezone": user.timezone})
    if request.method == "POST" and form.is_valid():
        change_profile(
            user=user,
            name=form.cleaned_data["name"],
            timezone=form.cleaned_data["timezone"],
            actor=request.principal,
        )
        messages.success(request, "Saved.")
        return redirect("account")
    memberships = Membership.objects.filter(user=user).select_related("tenant").order_by("tenant__name")
    context = {"form": form, "memberships": memberships}
    return render(request, "tenants/account.html", context, status=422 if form.is_bound else 200)
