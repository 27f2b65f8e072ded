"""Invitations: an address is offered a role; whoever holds the mailed link takes it, once, within seven days.

The token leaves by mail alone and is kept as a digest. Mail goes out after the commit, and a failing mail
server undoes nothing: the invitation can be sent again.
"""

import hashlib
import secrets
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from allauth.account.adapter import get_adapter
from allauth.account.forms import default_token_generator
from allauth.account.utils import user_pk_to_url_str
from django.conf import settings
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import transaction
from django.urls import reverse

from tenants import audit, members, roles
from tenants.authentication import principal_of
from tenants.errors import ApiError
from tenants.models import Invitation, Membership, Tenant, User
from tenants.principal import SYSTEM, Principal

LASTS: Final = timedelta(days=7)


def invite(*, tenant: Tenant, email: str, role: str, actor: Principal, now: datetime) -> Invitation:
    """Offer a role to an address and mail the link.

    Raises ApiError: invalid_request for a bad address or role, permission_denied for a role that may do more
    than `actor`, conflict for a member and for an open invitation.
    """
    email = _address(email)
    with transaction.atomic():
        Tenant.objects.select_for_update().get(pk=tenant.pk)  # puts two invitations of one person in line
        roles.assignable(role, tenant=tenant, actor=actor)
        if Membership.objects.filter(tenant=tenant, user__email__iexact=email).exists():
            raise ApiError("conflict", f"{email} is a member already.", param="email")
        before = _open(tenant, email)
        if before is not None and before.state(now) == Invitation.State.PENDING:
            raise ApiError("conflict", f"{email} has an invitation: send it again.", param="email")
        if before is not None:
            Invitation.objects.filter(pk=before.pk).update(withdrawn_at=now)
        invitation = Invitation(tenant=tenant, email=email, role=role, invited_by=actor.label)
        _send(invitation, now)
        invitation.save(force_insert=True)
        _record("create", invitation, actor)
    return invitation


def add(*, tenant: Tenant, email: str, role: str, actor: Principal) -> Membership:
    """Make a person a member at once, as an operator's own backend does. A new person gets a mail with a link to
    choose a password; until then the account has none and opens nothing.

    Raises ApiError as `invite`.
    """
    email = _address(email)
    with transaction.atomic():
        Tenant.objects.select_for_update().get(pk=tenant.pk)
        roles.assignable(role, tenant=tenant, actor=actor)
        user = User.objects.filter(email__iexact=email).first()
        is_known = user is not None
        if user is None:
            user = members.create_person(email=email, actor=actor, by="member")
        membership = members.join(tenant=tenant, user=user, role=role, actor=actor)
        transaction.on_commit(partial(_tell, membership, actor, is_known=is_known), robust=True)
    return membership


def resend(*, invitation: Invitation, actor: Principal, now: datetime) -> Invitation:
    """Mail a new link, good for another seven days; the old one is dead. Raises ApiError as `invite`, and
    conflict for one that was accepted or withdrawn.
    """
    with transaction.atomic():
        held = _locked(invitation)
        roles.assignable(held.role, tenant=held.tenant, actor=actor)
        _send(held, now)
        held.save()
        _record("resend", held, actor)
    return held


def withdraw(*, invitation: Invitation, actor: Principal, now: datetime) -> Invitation:
    """The link stops working. Raises ApiError conflict for one that was accepted or withdrawn."""
    with transaction.atomic():
        held = _locked(invitation)
        roles.assignable(held.role, tenant=held.tenant, actor=actor)
        held.withdrawn_at = now
        held.save()
        _record("withdraw", held, actor)
    return held


def find(token: str, *, now: datetime) -> Invitation | None:
    """The pending invitation that this link is for."""
    digest = hashlib.sha256(token.encode()).digest()
    found = Invitation.objects.select_related("tenant").filter(token_digest=digest).first()
    return found if found is not None and found.state(now) == Invitation.State.PENDING else None


def has_account(invitation: Invitation) -> bool:
    """Whether the address is somebody's already: then they sign in and accept, and choose no password."""
    return User.objects.filter(email__iexact=invitation.email).exists()


def accept(*, invitation: Invitation, user: User, now: datetime) -> Membership:
    """The invited person takes the role. Raises ApiError: permission_denied for somebody else, conflict for an
    invitation that is no longer open.
    """
    if user.email.lower() != invitation.email.lower():
        raise ApiError("permission_denied", f"This invitation is for {invitation.email}.")
    with transaction.atomic():
        return _take(invitation, user, now)


def accept_as_new(*, invitation: Invitation, name: str, password: str, now: datetime) -> User:
    """Make the account this link vouches for, and a member of it.

    Raises ApiError: invalid_request for a weak password, conflict for an address with an account and for an
    invitation that is no longer open.
    """
    try:
        validate_password(password, User(email=invitation.email, name=name))
    except ValidationError as error:
        raise ApiError("invalid_request", " ".join(error.messages), param="password") from error
    with transaction.atomic():
        user = members.create_person(
            email=invitation.email, name=name, password=password, actor=SYSTEM, by="invitation"
        )
        _take(invitation, user, now)
    return user


def _take(invitation: Invitation, user: User, now: datetime) -> Membership:
    held = _locked(invitation)
    if held.state(now) != Invitation.State.PENDING:
        raise ApiError("conflict", "This invitation is no longer open.")
    held.accepted_at = now
    held.save()
    membership = members.join(tenant=held.tenant, user=user, role=held.role, actor=principal_of(user))
    _record("accept", held, principal_of(user))
    return membership


def _address(email: str) -> str:
    email = email.strip().lower()
    try:
        validate_email(email)
    except ValidationError as error:
        raise ApiError("invalid_request", "This is not an email address.", param="email") from error
    return email


def _open(tenant: Tenant, email: str) -> Invitation | None:
    return Invitation.objects.filter(
        tenant=tenant, email__iexact=email, accepted_at__isnull=True, withdrawn_at__isnull=True
    ).first()


def _locked(invitation: Invitation) -> Invitation:
    rows = Invitation.objects.select_for_update(of=("self",)).select_related("tenant")
    held = rows.filter(pk=invitation.pk).first()
    if held is None:
        raise ApiError("not_found", "There is no such invitation.")
    if held.accepted_at is not None or held.withdrawn_at is not None:
        raise ApiError("conflict", "This invitation is no longer open.")
    return held


def _send(invitation: Invitation, now: datetime) -> None:
    """Give it a new token, and mail that after the commit."""
    token = secrets.token_urlsafe(32)
    invitation.token_digest = hashlib.sha256(token.encode()).digest()
    invitation.sent_at, invitation.expires_at = now, now + LASTS
    transaction.on_commit(partial(_mail, invitation, token), robust=True)


def _mail(invitation: Invitation, token: str) -> None:
    context = {
        "tenant": invitation.tenant,
        "invited_by": invitation.invited_by,
        "role": invitation.role,
        "is_known": has_account(invitation),
        "days": LASTS.days,
        "url": settings.PUBLIC_URL + reverse("accept_invitation", args=(token,)),
    }
    get_adapter().send_mail("emails/invitation", invitation.email, context)


def _tell(membership: Membership, actor: Principal, *, is_known: bool) -> None:
    adapter, user = get_adapter(), membership.user
    url = f"{settings.PUBLIC_URL}/"
    if not is_known:
        token = f"{user_pk_to_url_str(user)}-{default_token_generator.make_token(user)}"
        url = adapter.get_reset_password_from_key_url(token)
    context = {
        "tenant": membership.tenant,
        "added_by": actor.label,
        "role": membership.role,
        "is_known": is_known,
        "days": settings.PASSWORD_RESET_TIMEOUT // 86_400,
        "url": url,
    }
    adapter.send_mail("emails/membership", user.email, context)


def _record(verb: str, invitation: Invitation, actor: Principal) -> None:
    audit.record(
        principal=actor,
        action=f"invitation.{verb}",
        object_type="invitation",
        object_id=invitation.pk,
        tenant=invitation.tenant,
        after={"email": invitation.email, "role": invitation.role, "expires_at": invitation.expires_at},
    )
