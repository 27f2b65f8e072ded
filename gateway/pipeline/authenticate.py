"""Step one: whose key is this, and what may it do? Reads the snapshot alone."""

from collections.abc import Mapping
from hmac import compare_digest
from ipaddress import ip_address
from uuid import UUID

from gateway.pipeline.call import Caller
from gateway.state.snapshot import Snapshot
from routing.types import Operation
from tenants.errors import ApiError
from tenants.keys import PUBLIC_ID, digest_of, parse
from tenants.scopes import grants
from tenants.snapshot import KeyEntry


class UnknownKey(ApiError):
    """A well-formed key that this worker's snapshot does not hold: it may be newer than the snapshot."""

    def __init__(self) -> None:
        super().__init__("invalid_api_key", "Incorrect API key provided.")


def authenticate(headers: Mapping[str, str], client_ip: str, snapshot: Snapshot, *, now: float) -> Caller:
    """The caller behind the request's key. Takes OpenAI's, Anthropic's, Google's and Azure's key headers.

    Raises ApiError: invalid_api_key, key_expired, key_revoked, permission_denied.
    """
    key = _key(_presented(headers), snapshot)
    if key.revoked_at is not None and key.revoked_at <= now:
        raise ApiError("key_revoked", "This API key has been revoked.")
    if key.expires_at is not None and key.expires_at <= now:
        raise ApiError("key_expired", "This API key has expired.")
    if key.allowed_networks and not _is_in(client_ip, key):
        raise ApiError("permission_denied", "This API key may not be used from this address.")
    tenant_id = key.tenant_id
    acting_for = headers.get("x-tollhouse-tenant")
    if tenant_id is None:
        tenant_id = _acted_for(acting_for, key, snapshot)
    elif acting_for is not None and snapshot.tenants.slugs.get(acting_for) != tenant_id:
        raise ApiError("permission_denied", "This API key may not act for another tenant.")
    tenant = snapshot.tenants.tenants[tenant_id]
    if not tenant.is_active:
        raise ApiError("permission_denied", "This tenant is suspended.")
    return Caller(key, tenant, snapshot.terms_of(tenant_id))


def permit(caller: Caller, operation: Operation) -> None:
    """Raise permission_denied unless the key's scopes cover the operation."""
    scope = f"inference:{operation}"
    if not grants(caller.key.scopes, scope):
        raise ApiError("permission_denied", f"This API key lacks the scope {scope}.")


def _presented(headers: Mapping[str, str]) -> str:
    authorization = headers.get("authorization")
    if authorization is not None and authorization[:7].lower() == "bearer ":
        return authorization[7:].strip()
    for name in ("x-api-key", "x-goog-api-key", "api-key"):
        if name in headers:
            return headers[name]
    raise ApiError("invalid_api_key", "You did not provide an API key.")


def _key(text: str, snapshot: Snapshot) -> KeyEntry:
    tenants = snapshot.tenants
    entry = tenants.keys.get(text[PUBLIC_ID])
    if entry is not None:
        # The digest covers the whole text; the checksum is only asked why a text is wrong.
        if text.isascii() and compare_digest(digest_of(text, tenants.peppers[entry.pepper_id]), entry.digest):
            return entry
    elif parse(text) is not None:
        raise UnknownKey
    raise ApiError("invalid_api_key", "Incorrect API key provided.")


def _acted_for(slug: str | None, key: KeyEntry, snapshot: Snapshot) -> UUID:
    if slug is None:
        raise ApiError(
            "invalid_request",
            "A platform key names its tenant in X-Tollhouse-Tenant.",
            param="X-Tollhouse-Tenant",
        )
    if not grants(key.scopes, "tenants:act"):
        raise ApiError("permission_denied", "This API key lacks the scope tenants:act.")
    tenant_id = snapshot.tenants.slugs.get(slug)
    if tenant_id is None:
        raise ApiError("not_found", "No such tenant.", param="X-Tollhouse-Tenant")
    return tenant_id


def _is_in(client_ip: str, key: KeyEntry) -> bool:
    try:
        address = ip_address(client_ip)
    except ValueError:
        return False
    return any(address in network for network in key.allowed_networks)
