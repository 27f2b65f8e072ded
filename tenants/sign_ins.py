"""The trail of sign-ins: who came in or failed to, and what changed about how they do.

allauth tells of most of this by signal alone. This is the one module where the house listens to signals:
each handler writes an event and does nothing else. An event stands in the operator's chain and in that of
every tenant the person belongs to. Addresses nobody has an account for leave none.
"""

from collections.abc import Mapping
from typing import Any, cast

from allauth.account import signals as account
from allauth.account.internal.flows.login import get_authentication_records
from allauth.core import context
from allauth.mfa import signals as mfa
from allauth.mfa.adapter import get_adapter
from allauth.mfa.models import Authenticator
from allauth.mfa.webauthn.forms import (
    AddWebAuthnForm,
    AuthenticateWebAuthnForm,
    LoginWebAuthnForm,
    ReauthenticateWebAuthnForm,
)
from django.core.exceptions import ValidationError
from django.db import transaction
from django.dispatch import receiver
from django.http import HttpRequest

from tenants import audit
from tenants.authentication import principal_of
from tenants.models import Tenant, User
from tenants.principal import Principal

DOOR = Principal(kind="system", id=None, label="sign-in")
"""Who acts where nobody has proved who they are."""


def note(
    action: str,
    *,
    user: User,
    request: HttpRequest,
    after: Mapping[str, Any] | None = None,
    is_proven: bool = True,
) -> None:
    """Append the event about this person to the operator's chain and their tenants'.

    `is_proven`: the person did it themselves; otherwise somebody at the door did.
    """
    actor = principal_of(user) if is_proven else DOOR
    ip = audit.client_ip(request)
    with transaction.atomic():
        tenants = Tenant.objects.filter(memberships__user=user).order_by("id")
        for tenant in (None, *tenants):
            audit.record(
                principal=actor,
                action=action,
                object_type="user",
                object_id=user.id,
                tenant=tenant,
                after={"email": user.email, **(after or {})},
                ip=ip,
            )


def note_wrong_password(request: HttpRequest, email: str) -> None:
    """A failed sign-in, if the address is somebody's."""
    user = User.objects.filter(email__iexact=email.strip()).first() if email else None
    if user is not None:
        note("user.sign_in_failed", user=user, request=request, after={"method": "password"}, is_proven=False)


# ------------------------------------------------------------------ what allauth tells


@receiver(account.user_logged_in)
def _signed_in(request: HttpRequest, user: User, **_: Any) -> None:
    methods = [record.get("type") or record["method"] for record in get_authentication_records(request, user)]
    note("user.sign_in", user=user, request=request, after={"methods": methods})


@receiver(account.password_changed)
def _password_changed(request: HttpRequest, user: User, **_: Any) -> None:
    note("user.password_change", user=user, request=request)


@receiver(account.password_set)
def _password_set(request: HttpRequest, user: User, **_: Any) -> None:
    note("user.password_set", user=user, request=request)


@receiver(account.password_reset)
def _password_reset(request: HttpRequest, user: User, **_: Any) -> None:
    note("user.password_reset", user=user, request=request, after={"by": "link in a mail"})


@receiver(mfa.authenticator_added)
def _factor_added(request: HttpRequest, user: User, authenticator: Authenticator, **_: Any) -> None:
    note("user.mfa_add", user=user, request=request, after={"type": authenticator.type})


@receiver(mfa.authenticator_removed)
def _factor_removed(request: HttpRequest, user: User, authenticator: Authenticator, **_: Any) -> None:
    note("user.mfa_remove", user=user, request=request, after={"type": authenticator.type})


@receiver(mfa.authenticator_reset)
def _factor_reset(request: HttpRequest, user: User, authenticator: Authenticator, **_: Any) -> None:
    note("user.mfa_reset", user=user, request=request, after={"type": authenticator.type})


@receiver(mfa.authentication_failed)
def _factor_failed(request: HttpRequest, user: User, authenticator: Authenticator, **_: Any) -> None:
    note("user.mfa_failed", user=user, request=request, after={"type": authenticator.type}, is_proven=False)


# ------------------------------------------------------------------ what allauth does not tell


_NOT_A_CREDENTIAL = (AttributeError, KeyError, TypeError, ValueError)
"""What fido2's parser raises on JSON of another shape; allauth expects some of them only."""


class _CleanCredential:
    """A credential that cannot be read is a wrong one. So much for who sends it; who it is, nobody knows."""

    def clean_credential(self) -> Any:
        try:
            return super().clean_credential()  # type: ignore[misc]  # a form's, mixed in below
        except _NOT_A_CREDENTIAL as error:
            raise get_adapter().validation_error("incorrect_code") from error


class _NotedFailure(_CleanCredential):
    """A wrong passkey of a known person: allauth signals wrong codes alone."""

    user: User

    def clean_credential(self) -> Any:
        try:
            return super().clean_credential()
        except ValidationError:
            note(
                "user.mfa_failed",
                user=self.user,
                request=context.request,
                after={"type": "webauthn"},
                is_proven=False,
            )
            raise


class SignInByKeyForm(_CleanCredential, LoginWebAuthnForm):  # type: ignore[misc]
    """A passkey in place of a password."""


class SecondFactorByKeyForm(_NotedFailure, AuthenticateWebAuthnForm):  # type: ignore[misc]
    """A passkey as the second step of a sign-in."""


class ReauthenticateByKeyForm(_NotedFailure, ReauthenticateWebAuthnForm):  # type: ignore[misc]
    """A passkey to confirm that it is still the same person."""


class AddKeyForm(AddWebAuthnForm):  # type: ignore[misc]  # allauth ships no types
    """A new passkey."""

    def clean(self) -> dict[str, Any]:
        try:
            return cast("dict[str, Any]", super().clean())
        except _NOT_A_CREDENTIAL as error:
            raise get_adapter().validation_error("incorrect_code") from error
