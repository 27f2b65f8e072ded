"""Who is asking, for the control plane: API keys, console sessions, and the rule that nothing is open unless
declared.

A request's `user` is always a Principal, never a User row; `auth` is the ApiKey or None. Must never answer
whether a key exists beyond "incorrect", nor import rest_framework.views (which reads this while it loads).
"""

import ipaddress
from datetime import datetime
from typing import Any

from django.utils import timezone
from rest_framework.authentication import BaseAuthentication, SessionAuthentication
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from tenants import keys
from tenants.audit import client_ip
from tenants.errors import ApiError
from tenants.models import ApiKey, Tenant, User
from tenants.principal import Principal
from tenants.scopes import OPERATOR_ROLES, capped, scopes_of_role


def principal_of(user: User) -> Principal:
    """What a person may do: their operator role everywhere, their memberships each in its tenant."""
    if not user.is_active:
        return Principal(kind="user", id=user.id, label=user.email)
    memberships = user.memberships.values_list("tenant_id", "role", "custom_role__scopes")
    return Principal(
        kind="user",
        id=user.id,
        label=user.email,
        operator_scopes=OPERATOR_ROLES.get(user.operator_role, frozenset()),
        tenant_scopes={tenant_id: scopes_of_role(role, own) for tenant_id, role, own in memberships},
    )


def principal_of_key(key: ApiKey) -> Principal:
    """What a key may do: a platform key's scopes hold everywhere, a tenant key's in its tenant alone.

    A service account's key may do no more than the account's role as it is now.
    """
    scopes = frozenset(key.scopes)
    if key.service_account is not None:
        scopes = capped(scopes, key.service_account.scopes)
    label = f"{key.name} (th_{key.public_id})"
    if key.tenant_id is None:
        return Principal(kind="key", id=key.id, label=label, operator_scopes=scopes)
    return Principal(kind="key", id=key.id, label=label, tenant_scopes={key.tenant_id: scopes})


def key_text_of(request: Request) -> str | None:
    """The key in `Authorization: Bearer …` or `x-api-key`; None when the request brings neither."""
    scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return credentials.strip()
    if scheme:
        raise ApiError("invalid_api_key", "Use 'Authorization: Bearer <key>' or the x-api-key header.")
    return request.headers.get("x-api-key")


class KeyAuthentication(BaseAuthentication):
    """An API key of a tenant or of the operator's backend."""

    def authenticate(self, request: Request) -> tuple[Principal, ApiKey] | None:
        """None without a key. Raises ApiError for a wrong, expired, revoked or misplaced one."""
        text = key_text_of(request)
        if text is None:
            return None
        now = timezone.now()
        key = keys.verify(text, now)
        if key.tenant is not None and key.tenant.status != Tenant.Status.ACTIVE:
            raise ApiError("permission_denied", "This tenant is suspended.")
        _check_address(key, client_ip(request._request))
        _note_use(key, now)
        return principal_of_key(key), key

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="tollhouse"'


def _check_address(key: ApiKey, ip: str | None) -> None:
    if not key.allowed_ips:
        return
    address = ipaddress.ip_address(ip) if ip else None
    if address is None or not any(address in ipaddress.ip_network(network) for network in key.allowed_ips):
        raise ApiError("permission_denied", "This API key may not be used from this address.")


def _note_use(key: ApiKey, now: datetime) -> None:
    if key.last_used_at is None or now - key.last_used_at >= keys.NOTED_AGAIN_AFTER:
        keys.note_use({key.id: now})


class ConsoleAuthentication(SessionAuthentication):
    """A signed-in person: session cookie, and the CSRF token on every write."""

    def authenticate(self, request: Request) -> tuple[Principal, None] | None:
        """None without a session. Raises PermissionDenied when the CSRF token is missing."""
        signed_in = super().authenticate(request)
        if signed_in is None:
            return None
        user = signed_in[0]
        if not isinstance(user, User):
            return None
        return principal_of(user), None


class DenyByDefault(BasePermission):
    """Opens a view only through its own `authorize`, which `tenants.rest.Guarded` derives from its scopes.

    A view without one is refused to everybody; so is a request without a principal.
    """

    def has_permission(self, request: Request, view: Any) -> bool:
        authorize = getattr(view, "authorize", None)
        if authorize is None or not isinstance(request.user, Principal):
            return False
        authorize(request.user)
        return True

    def has_object_permission(self, request: Request, view: Any, obj: Any) -> bool:
        authorize = getattr(view, "authorize_object", None)
        if authorize is None or not isinstance(request.user, Principal):
            return False
        authorize(request.user, obj)
        return True
