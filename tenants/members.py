"""People in tenants: add, change and remove members; and the door of the console, which has no sign-up.

A tenant never loses its last owner. Mail goes out after the commit, and a failing mail server undoes nothing:
"forgot password" on the sign-in page sends the same link again.
"""

from functools import partial
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote, urlsplit

from allauth.account.adapter import DefaultAccountAdapter, get_adapter
from allauth.account.forms import default_token_generator
from allauth.account.utils import user_pk_to_url_str
from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import transaction
from django.http import HttpRequest
from django.urls import reverse

from tenants import audit, roles, versions
from tenants.errors import ApiError
from tenants.models import Membership, Tenant, User
from tenants.principal import Principal


class ClosedDoorAdapter(DefaultAccountAdapter):  # type: ignore[misc]  # allauth ships no types
    """allauth without sign-up; links in mails start with PUBLIC_URL, never with a request's Host header."""

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        return False

    def get_reset_password_from_key_url(self, key: str) -> str:
        path = reverse("account_reset_password_from_key", kwargs={"uidb36": "UID", "key": "KEY"})
        return f"{settings.PUBLIC_URL}{path.replace('UID-KEY', quote(key))}"

    def format_email_subject(self, subject: str) -> str:
        return f"Tollhouse: {subject}"

    def send_mail(self, template_prefix: str, email: str, context: dict[str, Any]) -> None:
        site = SimpleNamespace(name="Tollhouse", domain=urlsplit(settings.PUBLIC_URL).netloc)
        self.render_mail(template_prefix, email, {"email": email, "current_site": site, **context}).send()


def add_member(*, tenant: Tenant, email: str, role: str, actor: Principal) -> Membership:
    """Make a person a member. A new person gets a mail with a link to choose a password.

    Raises ApiError: invalid_request for a bad email or role, permission_denied for a role that may do more
    than `actor`, conflict for somebody who is a member already.
    """
    email = email.strip().lower()
    try:
        validate_email(email)
    except ValidationError as error:
        raise ApiError("invalid_request", "This is not an email address.", param="email") from error
    with transaction.atomic():
        versions.bump("tenants")  # also puts two invitations of the same person in line
        own = roles.assignable(role, tenant=tenant, actor=actor)
        user = User.objects.filter(email__iexact=email).first()
        is_new = user is None
        if user is None:
            user = User.objects.create_user(email)
        if Membership.objects.filter(tenant=tenant, user=user).exists():
            raise ApiError("conflict", f"{email} is a member already.", param="email")
        membership = Membership.objects.create(tenant=tenant, user=user, role=role, custom_role=own)
        audit.record(
            principal=actor,
            action="member.create",
            object_type="member",
            object_id=membership.id,
            tenant=tenant,
            after={"email": email, "role": role},
        )
        if is_new:
            transaction.on_commit(partial(_send_invitation, user, tenant, actor), robust=True)
    return membership


def change_role(*, membership: Membership, role: str, actor: Principal) -> Membership:
    """Give a member another role. Raises ApiError as `add_member`; conflict for the last owner."""
    tenant = membership.tenant
    with transaction.atomic():
        versions.bump("tenants")
        own = roles.assignable(role, tenant=tenant, actor=actor)
        held = _locked(membership)
        roles.assignable(held.role, tenant=tenant, actor=actor)
        if held.role == Membership.Role.OWNER and role != Membership.Role.OWNER:
            _keep_an_owner(held)
        before, held.role, held.custom_role = held.role, role, own
        held.save(update_fields=("role", "custom_role", "updated_at"))
        audit.record(
            principal=actor,
            action="member.update",
            object_type="member",
            object_id=held.id,
            tenant=tenant,
            before={"email": held.user.email, "role": before},
            after={"email": held.user.email, "role": role},
        )
    return held


def remove_member(*, membership: Membership, actor: Principal) -> None:
    """End a membership; the person remains. Raises ApiError conflict for the last owner."""
    tenant = membership.tenant
    with transaction.atomic():
        versions.bump("tenants")
        held = _locked(membership)
        roles.assignable(held.role, tenant=tenant, actor=actor)
        if held.role == Membership.Role.OWNER:
            _keep_an_owner(held)
        audit.record(
            principal=actor,
            action="member.delete",
            object_type="member",
            object_id=held.id,
            tenant=tenant,
            before={"email": held.user.email, "role": held.role},
        )
        held.delete()


def _locked(membership: Membership) -> Membership:
    held = (
        Membership.objects.select_for_update(of=("self",))
        .select_related("user", "tenant")
        .filter(pk=membership.pk)
        .first()
    )
    if held is None:
        raise ApiError("not_found", "There is no such member.")
    return held


def _keep_an_owner(membership: Membership) -> None:
    """The caller holds the config version's lock, so no other change of members runs meanwhile."""
    others = Membership.objects.filter(tenant_id=membership.tenant_id, role=Membership.Role.OWNER)
    if not others.exclude(pk=membership.pk).exists():
        raise ApiError("conflict", "A tenant needs an owner: make somebody else owner first.", param="role")


def _send_invitation(user: User, tenant: Tenant, actor: Principal) -> None:
    adapter = get_adapter()
    token = f"{user_pk_to_url_str(user)}-{default_token_generator.make_token(user)}"
    context = {
        "tenant": tenant,
        "invited_by": actor.label,
        "password_reset_url": adapter.get_reset_password_from_key_url(token),
    }
    adapter.send_mail("emails/invitation", user.email, context)
