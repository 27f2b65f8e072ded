"""API keys: their text, their keyed hash, and the verbs that issue, rotate, revoke and check them.

The text is shown once and never stored or logged; only its keyed hash is. Nothing here knows what a key's
limits cost or which models exist.
"""

import hashlib
import hmac
import ipaddress
import secrets
import string
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from django.conf import settings
from django.db import transaction

from tenants import audit, versions
from tenants.errors import ApiError
from tenants.keyring import keyring
from tenants.models import ApiKey, ServiceAccount, Tenant
from tenants.principal import Principal
from tenants.scopes import grants, is_scope

PREFIX: Final = "th"
PUBLIC_ID_CHARACTERS: Final = 12
PUBLIC_ID: Final = slice(len(PREFIX) + 1, len(PREFIX) + 1 + PUBLIC_ID_CHARACTERS)
"""Where the public id stands in a key's text."""
SECRET_BYTES: Final = 32
SECRET_CHARACTERS: Final = 43  # 62**43 > 256**32
CHECKSUM_CHARACTERS: Final = 6  # 62**6 > 2**32
MAX_GRACE_S: Final = 90 * 24 * 3600
MAX_TEXT_CHARACTERS: Final = 128
_DIGITS: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_ALPHABET: Final = frozenset(_DIGITS)


@dataclass(frozen=True, slots=True)
class ParsedKey:
    """A key text that is well formed and whose checksum holds; whether it was ever issued is unknown."""

    public_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Issued:
    """A new key and its text, which exists only here: show it, then forget it."""

    key: ApiKey
    text: str


# ------------------------------------------------------------------ text and hash (pure)


def base62(number: int, width: int) -> str:
    """`number` in base 62, zero-padded to `width` characters."""
    digits = []
    while number:
        number, digit = divmod(number, 62)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits)).rjust(width, "0")


def checksum(body: str) -> str:
    """Six characters that tell a mistyped or cut key from a wrong one, without a look-up."""
    return base62(zlib.crc32(body.encode("ascii")), CHECKSUM_CHARACTERS)


def compose(*, public_id: str, secret: bytes) -> str:
    """The key text `th_<public id>_<secret><checksum>`."""
    body = f"{PREFIX}_{public_id}_{base62(int.from_bytes(secret), SECRET_CHARACTERS)}"
    return body + checksum(body)


def parse(text: str) -> ParsedKey | None:
    """The parts of a key text; None for anything that cannot be one of ours."""
    if len(text) != len(PREFIX) + PUBLIC_ID_CHARACTERS + SECRET_CHARACTERS + CHECKSUM_CHARACTERS + 2:
        return None
    prefix, _, rest = text.partition("_")
    public_id, _, secret = rest.partition("_")
    if prefix != PREFIX or len(public_id) != PUBLIC_ID_CHARACTERS:
        return None
    if not _ALPHABET.issuperset(public_id) or not _ALPHABET.issuperset(secret):
        return None
    if checksum(text[:-CHECKSUM_CHARACTERS]) != text[-CHECKSUM_CHARACTERS:]:
        return None
    return ParsedKey(public_id=public_id, text=text)


def digest_of(text: str, pepper: bytes) -> bytes:
    """What is stored of a key: BLAKE2b-256 of its whole text, keyed with the pepper.

    A slow hash would add nothing: the secret holds 256 random bits.
    """
    return hashlib.blake2b(text.encode("ascii"), key=pepper, digest_size=32).digest()


# ------------------------------------------------------------------ verbs


def issue(
    *,
    tenant: Tenant | None,
    name: str,
    scopes: Sequence[str],
    actor: Principal,
    allowed_models: Sequence[str] = (),
    allowed_ips: Sequence[str] = (),
    limit_rpm: int | None = None,
    limit_tpm: int | None = None,
    max_concurrent: int | None = None,
    expires_at: datetime | None = None,
    service_account: ServiceAccount | None = None,
) -> Issued:
    """Create a key. `tenant` None makes a platform key, which only an operator may.

    Raises ApiError: invalid_request with `param`, permission_denied when `actor` would grant more than it
    holds, conflict for a service account that is not active.
    """
    _check_scopes(scopes, tenant=tenant, actor=actor)
    rights = {
        "name": name,
        "scopes": sorted(set(scopes)),
        "allowed_models": list(dict.fromkeys(allowed_models)),
        "allowed_ips": _networks(allowed_ips),
        "limit_rpm": limit_rpm,
        "limit_tpm": limit_tpm,
        "max_concurrent": max_concurrent,
        "expires_at": expires_at,
        "service_account_id": service_account.id if service_account is not None else None,
    }
    with transaction.atomic():
        version = versions.bump("tenants")
        if service_account is not None:
            _check_account(service_account, scopes, tenant=tenant)
        issued = _insert(tenant=tenant, rights=rights, actor=actor, version=version)
        audit.record(
            principal=actor,
            action="key.create",
            object_type="key",
            object_id=issued.key.id,
            tenant=tenant,
            after=rights | {"public_id": issued.key.public_id},
        )
    return issued


def rotate(*, key: ApiKey, grace_s: int, actor: Principal, now: datetime) -> Issued:
    """A new key with the same rights; the old one goes on for `grace_s` seconds, then expires.

    Raises ApiError: invalid_request for a grace out of range, conflict for a key that is revoked, expired or
    already replaced, permission_denied when the key may do more than `actor`.
    """
    if not 0 <= grace_s <= MAX_GRACE_S:
        raise ApiError("invalid_request", f"grace_s must be between 0 and {MAX_GRACE_S}.", param="grace_s")
    with transaction.atomic():
        version = versions.bump("tenants")
        old = ApiKey.objects.select_for_update(of=("self",)).select_related("tenant").get(pk=key.pk)
        if old.revoked_at is not None or (old.expires_at is not None and old.expires_at <= now):
            raise ApiError("conflict", "This key is revoked or expired; create a new one.")
        if old.replaced_by_id is not None:
            raise ApiError("conflict", "This key has been rotated already.")
        _check_scopes(old.scopes, tenant=old.tenant, actor=actor)
        rights = {field: getattr(old, field) for field in _RIGHTS}
        issued = _insert(tenant=old.tenant, rights=rights, actor=actor, version=version)
        ends_at = now + timedelta(seconds=grace_s)
        old_expires_at = old.expires_at
        old.expires_at = ends_at if old.expires_at is None else min(ends_at, old.expires_at)
        old.replaced_by = issued.key
        old.config_version = version
        old.save(update_fields=("expires_at", "replaced_by", "config_version", "updated_at"))
        audit.record(
            principal=actor,
            action="key.rotate",
            object_type="key",
            object_id=old.id,
            tenant=old.tenant,
            before={"expires_at": _text(old_expires_at), "replaced_by": None},
            after={"expires_at": _text(old.expires_at), "replaced_by": str(issued.key.id)},
        )
    return issued


def revoke(*, key: ApiKey, actor: Principal, now: datetime) -> ApiKey:
    """Refuse the key from now on. Revoking twice changes nothing and is no error."""
    with transaction.atomic():
        version = versions.bump("tenants")
        held = ApiKey.objects.select_for_update(of=("self",)).select_related("tenant").get(pk=key.pk)
        before = _text(held.revoked_at)
        if held.revoked_at is None:
            held.revoked_at = now
            held.config_version = version
            held.save(update_fields=("revoked_at", "config_version", "updated_at"))
        audit.record(
            principal=actor,
            action="key.revoke",
            object_type="key",
            object_id=held.id,
            tenant=held.tenant,
            before={"revoked_at": before},
            after={"revoked_at": _text(held.revoked_at)},
        )
    return held


def limit_rate(*, key: ApiKey, limit_rpm: int | None, actor: Principal) -> ApiKey:
    """Let the key make `limit_rpm` requests a minute from now on; None: as many as its tenant may.

    Raises ApiError invalid_request for a limit below 1.
    """
    if limit_rpm is not None and limit_rpm < 1:
        raise ApiError("invalid_request", "limit_rpm must be at least 1.", param="limit_rpm")
    with transaction.atomic():
        version = versions.bump("tenants")
        held = ApiKey.objects.select_for_update(of=("self",)).select_related("tenant").get(pk=key.pk)
        before, held.limit_rpm, held.config_version = held.limit_rpm, limit_rpm, version
        held.save(update_fields=("limit_rpm", "config_version", "updated_at"))
        audit.record(
            principal=actor,
            action="key.limit_rate",
            object_type="key",
            object_id=held.id,
            tenant=held.tenant,
            before={"limit_rpm": before},
            after={"limit_rpm": limit_rpm},
        )
    return held


def verify(text: str, now: datetime) -> ApiKey:
    """The key behind a text, for the control plane.

    Raises ApiError: invalid_api_key, key_revoked, key_expired. An unknown key costs the same comparison as
    a wrong one, and says the same.
    """
    parsed = parse(text)
    peppers = keyring(settings.TOLLHOUSE_KEY_PEPPERS, setting="TOLLHOUSE_KEY_PEPPERS")
    key = None
    if parsed is not None:
        with_owners = ApiKey.objects.select_related("tenant", "service_account__custom_role")
        key = with_owners.filter(public_id=parsed.public_id).first()
    pepper = peppers.get(key.pepper_id) if key is not None else next(iter(peppers.values()))
    expected = bytes(key.digest) if key is not None else bytes(32)
    presented = digest_of(parsed.text, pepper) if parsed is not None and pepper is not None else bytes(32)
    if not hmac.compare_digest(presented, expected) or key is None or parsed is None or pepper is None:
        raise ApiError("invalid_api_key", "Incorrect API key provided.")
    if key.revoked_at is not None:
        raise ApiError("key_revoked", "This API key has been revoked.")
    if key.service_account is not None and key.service_account.stopped_at is not None:
        raise ApiError("key_revoked", "The service account of this API key is stopped.")
    if key.expires_at is not None and key.expires_at <= now:
        raise ApiError("key_expired", "This API key has expired.")
    return key


# ------------------------------------------------------------------ shared by the verbs

_RIGHTS: Final = (
    "name",
    "scopes",
    "allowed_models",
    "allowed_ips",
    "limit_rpm",
    "limit_tpm",
    "max_concurrent",
    "expires_at",
    "service_account_id",
)


def _insert(*, tenant: Tenant | None, rights: Mapping[str, Any], actor: Principal, version: int) -> Issued:
    pepper_id, pepper = next(
        iter(keyring(settings.TOLLHOUSE_KEY_PEPPERS, setting="TOLLHOUSE_KEY_PEPPERS").items())
    )
    public_id = "".join(secrets.choice(_DIGITS) for _ in range(PUBLIC_ID_CHARACTERS))
    text = compose(public_id=public_id, secret=secrets.token_bytes(SECRET_BYTES))
    key = ApiKey.objects.create(
        tenant=tenant,
        public_id=public_id,
        digest=digest_of(text, pepper),
        pepper_id=pepper_id,
        last_four=text[-4:],
        created_by=actor.label,
        config_version=version,
        **rights,
    )
    return Issued(key=key, text=text)


def _check_scopes(scopes: Sequence[str], *, tenant: Tenant | None, actor: Principal) -> None:
    if not scopes:
        raise ApiError("invalid_request", "A key needs at least one scope.", param="scopes")
    for scope in scopes:
        if not is_scope(scope):
            raise ApiError("invalid_request", f"Unknown scope {scope!r}.", param="scopes")
        if not actor.can(scope, tenant.id if tenant else None):
            raise ApiError(
                "permission_denied", f"You cannot grant {scope!r}: you do not hold it.", param="scopes"
            )


def _check_account(account: ServiceAccount, scopes: Sequence[str], *, tenant: Tenant | None) -> None:
    if tenant is None or account.tenant_id != tenant.id:
        raise ApiError("invalid_request", "There is no such service account.", param="service_account")
    account = ServiceAccount.objects.select_related("custom_role").get(pk=account.pk)
    if account.stopped_at is not None:
        raise ApiError("conflict", "This service account is stopped.", param="service_account")
    for scope in scopes:
        if not grants(account.scopes, scope):
            raise ApiError(
                "invalid_request", f"The service account's role does not hold {scope!r}.", param="scopes"
            )


def _networks(values: Sequence[str]) -> list[str]:
    try:
        return list(dict.fromkeys(str(ipaddress.ip_network(value, strict=False)) for value in values))
    except ValueError as error:
        raise ApiError("invalid_request", f"Not an address range: {error}.", param="allowed_ips") from error


def _text(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None
