"""Console pages about people: members and invitations, one's own account and its sign-ins.

Each view calls one verb or one query. Whatever is ended here is the person's own, or their tenant's.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID
from zoneinfo import available_timezones

from allauth.mfa.models import Authenticator
from django import forms
from django.contrib import messages
from django.http import HttpResponse, HttpResponseNotAllowed
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone

from tenants import invitations, members, sessions
from tenants.console import ConsoleRequest, add_refusal, page_of, signed_in_room, tenant_room
from tenants.errors import ApiError
from tenants.models import CustomRole, Invitation, Membership, Tenant
from tenants.profile import change_profile

# ------------------------------------------------------------------ members


ROLE_HELP = {
    Membership.Role.OWNER: "Everything in the workspace",
    Membership.Role.ADMIN: "Everything in the workspace",
    Membership.Role.DEVELOPER: "Keys, usage, requests",
    Membership.Role.BILLING: "Usage, budgets, plan",
    Membership.Role.VIEWER: "Look, change nothing",
}


class InviteForm(forms.Form):
    email = forms.EmailField(label="E-mail", widget=forms.EmailInput(attrs={"autocomplete": "off"}))
    role = forms.ChoiceField(initial=Membership.Role.DEVELOPER.value)

    def __init__(self, *args: Any, tenant: Tenant, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        built_in = [(role.value, f"{role.label}: {ROLE_HELP[role].lower()}") for role in Membership.Role]
        self.fields["role"].choices = [*built_in, *own_roles(tenant)]  # type: ignore[attr-defined]


class RoleForm(forms.Form):
    role = forms.CharField(max_length=63)


def own_roles(tenant: Tenant) -> list[tuple[str, str]]:
    """The tenant's own roles, as choices."""
    return list(CustomRole.objects.for_tenant(tenant).order_by("name").values_list("slug", "name"))


@tenant_room("members:read", write="members:write")
def member_list(request: ConsoleRequest, tenant: Tenant) -> HttpResponse:
    """Who belongs to the tenant and who is invited; a POST invites somebody."""
    now = timezone.now()
    form = InviteForm(request.POST or None, tenant=tenant)
    if request.method == "POST" and form.is_valid():
        try:
            invitation = invitations.invite(
                tenant=tenant, actor=request.principal, now=now, **form.cleaned_data
            )
        except ApiError as error:
            add_refusal(form, error)
        else:
            messages.success(request, f"{invitation.email} has been invited to {tenant.name}.")
            return redirect("member_list", tenant.slug)
    rows = (
        Membership.objects.for_tenant(tenant)
        .visible_to(request.principal, "members:read")
        .select_related("user")
    )
    offers = Invitation.objects.for_tenant(tenant).filter(accepted_at=None, withdrawn_at=None)
    context = {
        "page": page_of(rows, cursor=request.GET.get("cursor", "")),
        "form": form,
        "roles": [*Membership.Role.choices, *own_roles(tenant)],
        "invitations": [(each, each.state(now)) for each in offers.order_by("-sent_at")[:100]],
    }
    return render(request, "tenants/member_list.html", context, status=422 if form.is_bound else 200)


def _invitation(request: ConsoleRequest, tenant: Tenant, invitation_id: UUID) -> Invitation:
    rows = Invitation.objects.for_tenant(tenant).visible_to(request.principal, "members:write")
    return get_object_or_404(rows.select_related("tenant"), pk=invitation_id)


@tenant_room(write="members:write")
def invitation_resend(request: ConsoleRequest, tenant: Tenant, invitation_id: UUID) -> HttpResponse:
    """Mail a new link; the old one is dead."""
    invitation = _invitation(request, tenant, invitation_id)
    try:
        invitations.resend(invitation=invitation, actor=request.principal, now=timezone.now())
    except ApiError as error:
        messages.error(request, error.message)
    else:
        messages.success(request, f"A new link is on its way to {invitation.email}. The old one is dead.")
    return redirect("member_list", tenant.slug)


@tenant_room(write="members:write")
def invitation_withdraw(request: ConsoleRequest, tenant: Tenant, invitation_id: UUID) -> HttpResponse:
    """The link stops working."""
    invitation = _invitation(request, tenant, invitation_id)
    try:
        invitations.withdraw(invitation=invitation, actor=request.principal, now=timezone.now())
    except ApiError as error:
        messages.error(request, error.message)
    else:
        messages.success(request, f"The invitation of {invitation.email} is withdrawn.")
    return redirect("member_list", tenant.slug)


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
    factors = Authenticator.objects.filter(user_id=user.pk).values_list("type", flat=True)
    context = {
        "form": form,
        "memberships": memberships,
        "factors": set(factors),
        "sessions": sessions.list_sessions(user=user, current_key=request.session.session_key),
    }
    return render(request, "tenants/account.html", context, status=422 if form.is_bound else 200)


@signed_in_room
def session_end(request: ConsoleRequest, session_id: int) -> HttpResponse:
    """End one of one's other sessions."""
    if request.method != "POST":
        return HttpResponseNotAllowed(("POST",))
    try:
        sessions.end_session(
            user=request.user,
            session_id=session_id,
            current_key=request.session.session_key,
            actor=request.principal,
        )
    except ApiError as error:
        messages.error(request, error.message)
    else:
        messages.success(request, "That device is signed out.")
    return redirect("account")


@signed_in_room
def sessions_end(request: ConsoleRequest) -> HttpResponse:
    """End all sessions but this one."""
    if request.method != "POST":
        return HttpResponseNotAllowed(("POST",))
    count = sessions.end_other_sessions(
        user=request.user, current_key=request.session.session_key, actor=request.principal
    )
    messages.success(request, f"Signed out of {count} other device{'' if count == 1 else 's'}.")
    return redirect("account")
