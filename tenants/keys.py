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
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Q
from django.utils import timezone

from tenants import approvals, audit, versions
from tenants.approvals import Draft
from tenants.errors import ApiError
from tenants.keyring import keyring
from tenants.models import ApiKey, OwnedQuerySet, ServiceAccount, Tenant
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
MAX_AT_ONCE: Final = 500
"""Keys that one bulk change takes: its transaction holds them all."""
EXPIRES_SOON: Final = timedelta(days=7)
NOTED_AGAIN_AFTER: Final = timedelta(minutes=1)
"""How exact `last_used_at` is: a key in constant use is written once in this time."""
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


@dataclass(frozen=True, slots=True)
class Leaked:
    """A key that leaked and is refused now, and the one that takes its place, if any."""

    key: ApiKey
    replacement: Issued | None


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
    rights = _normal(
        {
            "name": name,
            "scopes": scopes,
            "allowed_models": allowed_models,
            "allowed_ips": allowed_ips,
            "limit_rpm": limit_rpm,
            "limit_tpm": limit_tpm,
            "max_concurrent": max_concurrent,
            "expires_at": expires_at,
            "service_account_id": service_account.id if service_account is not None else None,
        }
    )
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
        old = _held(key)
        _check_living(old, now)
        if old.replaced_by_id is not None:
            raise ApiError("conflict", "This key has been rotated already.")
        issued = _replace(old, actor=actor, version=version)
        ends_at = now + timedelta(seconds=grace_s)
        old_expires_at = old.expires_at
        old.expires_at = ends_at if old.expires_at is None else min(ends_at, old.expires_at)
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


def rotate_many(*, keys: Sequence[ApiKey], grace_s: int, actor: Principal, now: datetime) -> Sequence[Issued]:
    """`rotate` all of them, or none: the texts are nowhere else. Raises ApiError as it, and for too many."""
    with transaction.atomic():
        return [rotate(key=key, grace_s=grace_s, actor=actor, now=now) for key in _many(keys)]


def change(*, key: ApiKey, changes: Mapping[str, Any], actor: Principal, now: datetime) -> ApiKey:
    """Change what a key may do: name, scopes, models, addresses, limits, expiry. Its text stays.

    Afterwards it may do no more than `actor`. Raises ApiError: invalid_request with `param`, conflict for a
    key that is revoked or expired, permission_denied.
    """
    if fixed := changes.keys() - set(_CHANGEABLE):
        raise ApiError("invalid_request", "This cannot be changed: create another key.", param=min(fixed))
    with transaction.atomic():
        version = versions.bump("tenants")
        held = _held(key)
        _check_living(held, now)
        values = _normal(changes)
        scopes = values.get("scopes", held.scopes)
        _check_scopes(scopes, tenant=held.tenant, actor=actor)
        if held.service_account is not None and "scopes" in values:
            _check_account(held.service_account, scopes, tenant=held.tenant)
        expires_at = values.get("expires_at")
        if expires_at is not None and expires_at <= now:
            raise ApiError("invalid_request", "This moment is in the past.", param="expires_at")
        _gate(held, values, actor)
        before = {name: getattr(held, name) for name in values}
        for name, value in values.items():
            setattr(held, name, value)
        held.config_version = version
        held.save(update_fields=[*values, "config_version", "updated_at"])
        audit.record(
            principal=actor,
            action="key.update",
            object_type="key",
            object_id=held.id,
            tenant=held.tenant,
            before=before,
            after=values,
        )
    return held


def _gate(held: ApiKey, values: Mapping[str, Any], actor: Principal) -> None:
    """A limit raised or taken away may take two people; with it waits whatever else was to change."""
    moved = {name: value for name, value in values.items() if value != getattr(held, name)}
    limits = [name for name in _LIMITS if name in moved and getattr(held, name) is not None]
    if not any(moved[name] is None or moved[name] > getattr(held, name) for name in limits):
        return
    before = {name: _plain(getattr(held, name)) for name in _CHANGEABLE}
    changes = {name: _plain(value) for name, value in moved.items()}
    approvals.gate(
        Draft(
            kind="caps",
            operation="key.update",
            payload={"key": str(held.id), "changes": changes},
            scope="keys:write",
            object_type="key",
            object_id=str(held.id),
            tenant=held.tenant,
            before=before,
            after=before | changes,
        ),
        actor,
    )


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


@approvals.executor("key.update")
def _change_approved(payload: Mapping[str, Any], actor: Principal) -> None:
    changes = dict(payload["changes"])
    if changes.get("expires_at"):
        changes["expires_at"] = datetime.fromisoformat(changes["expires_at"])
    change(key=ApiKey.objects.get(pk=payload["key"]), changes=changes, actor=actor, now=timezone.now())


def revoke(*, key: ApiKey, actor: Principal, now: datetime) -> ApiKey:
    """Refuse the key from now on. Revoking twice changes nothing and is no error."""
    with transaction.atomic():
        version = versions.bump("tenants")
        held = _held(key)
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


def revoke_many(*, keys: Sequence[ApiKey], actor: Principal, now: datetime) -> Sequence[ApiKey]:
    """`revoke` all of them, or none. Raises ApiError invalid_request for too many."""
    with transaction.atomic():
        return [revoke(key=key, actor=actor, now=now) for key in _many(keys)]


def mark_leaked(
    *, key: ApiKey, reason: str, actor: Principal, now: datetime, is_replaced: bool = False
) -> Leaked:
    """Refuse a key that strangers have from now on, say so in the trail, and make a new one if asked for.

    A key that was revoked or replaced before is marked all the same; it gets no second replacement. Raises
    ApiError permission_denied when a replacement would do more than `actor`.
    """
    with transaction.atomic():
        version = versions.bump("tenants")
        held = _held(key)
        before = {"revoked_at": _text(held.revoked_at), "leaked_at": _text(held.leaked_at)}
        issued = None
        if is_replaced and held.revoked_at is None and held.replaced_by_id is None:
            issued = _replace(held, actor=actor, version=version)
        held.revoked_at = held.revoked_at or now
        held.leaked_at = held.leaked_at or now
        held.config_version = version
        held.save(update_fields=("revoked_at", "leaked_at", "replaced_by", "config_version", "updated_at"))
        audit.record(
            principal=actor,
            action="key.leak",
            object_type="key",
            object_id=held.id,
            tenant=held.tenant,
            before=before,
            after={
                "revoked_at": _text(held.revoked_at),
                "leaked_at": _text(held.leaked_at),
                "replaced_by": str(held.replaced_by_id) if held.replaced_by_id else None,
            },
            reason=reason,
        )
    return Leaked(key=held, replacement=issued)


def limit_rate(*, key: ApiKey, limit_rpm: int | None, actor: Principal) -> ApiKey:
    """Let the key make `limit_rpm` requests a minute from now on; None: as many as its tenant may.

    Raises ApiError invalid_request for a limit below 1.
    """
    if limit_rpm is not None and limit_rpm < 1:
        raise ApiError("invalid_request", "limit_rpm must be at least 1.", param="limit_rpm")
    with transaction.atomic():
        version = versions.bump("tenants")
        held = _held(key)
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


def find(text: str) -> ApiKey | None:
    """The key behind a text, in whatever state; None for any other text, at the cost of the same comparison."""
    parsed = parse(text)
    peppers = keyring(settings.TOLLHOUSE_KEY_PEPPERS, setting="TOLLHOUSE_KEY_PEPPERS")
    key = None
    if parsed is not None:
        with_owners = ApiKey.objects.select_related("tenant", "service_account__custom_role")
        key = with_owners.filter(public_id=parsed.public_id).first()
    pepper = peppers.get(key.pepper_id) if key is not None else next(iter(peppers.values()))
    expected = bytes(key.digest) if key is not None else bytes(32)
    presented = digest_of(parsed.text, pepper) if parsed is not None and pepper is not None else bytes(32)
    is_same = hmac.compare_digest(presented, expected)
    return key if is_same and parsed is not None and pepper is not None else None


def verify(text: str, now: datetime) -> ApiKey:
    """The key behind a text, for the control plane.

    Raises ApiError: invalid_api_key, key_revoked, key_expired. An unknown key says the same as a wrong one.
    """
    key = find(text)
    if key is None:
        raise ApiError("invalid_api_key", "Incorrect API key provided.")
    if key.revoked_at is not None:
        raise ApiError("key_revoked", "This API key has been revoked.")
    if key.service_account is not None and key.service_account.stopped_at is not None:
        raise ApiError("key_revoked", "The service account of this API key is stopped.")
    if key.expires_at is not None and key.expires_at <= now:
        raise ApiError("key_expired", "This API key has expired.")
    return key


# ------------------------------------------------------------------ use


def living(rows: OwnedQuerySet[ApiKey], *, now: datetime) -> OwnedQuerySet[ApiKey]:
    """Those of the keys that open something: neither revoked nor expired."""
    return rows.filter(Q(expires_at__isnull=True) | Q(expires_at__gt=now), revoked_at__isnull=True)


def unused(rows: OwnedQuerySet[ApiKey], *, days: int, now: datetime) -> OwnedQuerySet[ApiKey]:
    """The living keys that nobody has used for so many days, and that have been there for as long."""
    before = now - timedelta(days=days)
    idle = Q(last_used_at__lt=before) | Q(last_used_at__isnull=True, created_at__lt=before)
    return living(rows, now=now).filter(idle)


def expiring(rows: OwnedQuerySet[ApiKey], *, days: int, now: datetime) -> OwnedQuerySet[ApiKey]:
    """The living keys that end within so many days."""
    return living(rows, now=now).filter(expires_at__lte=now + timedelta(days=days))


def note_use(uses: Mapping[UUID, datetime]) -> int:
    """Remember when keys were used last, in one statement; returns how many were written.

    At most one write per key and minute, and none for a key that somebody else holds locked: the next does it.
    """
    if not uses:
        return 0
    with connection.cursor() as cursor:
        cursor.execute(_NOTE_USE, [list(uses), list(uses.values()), NOTED_AGAIN_AFTER.total_seconds()])
        return int(cursor.rowcount)


_NOTE_USE: Final = """
UPDATE tenants_apikey AS held SET last_used_at = due.at
FROM (
    SELECT key.id, used.at FROM unnest(%s::uuid[], %s::timestamptz[]) AS used(id, at)
    JOIN tenants_apikey AS key ON key.id = used.id
    WHERE key.last_used_at IS NULL OR key.last_used_at <= used.at - make_interval(secs => %s)
    FOR NO KEY UPDATE OF key SKIP LOCKED
) AS due WHERE held.id = due.id
"""


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
_LIMITS: Final = ("limit_rpm", "limit_tpm", "max_concurrent")
_CHANGEABLE: Final = tuple(name for name in _RIGHTS if name != "service_account_id")


def _held(key: ApiKey) -> ApiKey:
    """The key's row, locked."""
    rows = ApiKey.objects.select_for_update(of=("self",)).select_related("tenant", "service_account")
    return rows.get(pk=key.pk)


def _many(keys: Sequence[ApiKey]) -> Sequence[ApiKey]:
    """In the order in which they are locked. Raises ApiError invalid_request."""
    if not 0 < len(keys) <= MAX_AT_ONCE:
        raise ApiError("invalid_request", f"Name 1 to {MAX_AT_ONCE} keys at once.", param="keys")
    return sorted(keys, key=lambda key: key.pk)


def _check_living(key: ApiKey, now: datetime) -> None:
    if key.revoked_at is not None or (key.expires_at is not None and key.expires_at <= now):
        raise ApiError("conflict", "This key is revoked or expired; create a new one.")


def _normal(values: Mapping[str, Any]) -> dict[str, Any]:
    """Rights as they are stored. Raises ApiError invalid_request with `param`."""
    normal = dict(values)
    if "name" in normal and not normal["name"].strip():
        raise ApiError("invalid_request", "A key needs a name.", param="name")
    if "scopes" in normal:
        normal["scopes"] = sorted(set(normal["scopes"]))
    if "allowed_models" in normal:
        normal["allowed_models"] = list(dict.fromkeys(normal["allowed_models"]))
    if "allowed_ips" in normal:
        normal["allowed_ips"] = _networks(normal["allowed_ips"])
    return normal


def _replace(old: ApiKey, *, actor: Principal, version: int) -> Issued:
    """A new key with the rights of `old`, which is locked and saved by the caller. Raises ApiError."""
    _check_scopes(old.scopes, tenant=old.tenant, actor=actor)
    rights = {field: getattr(old, field) for field in _RIGHTS}
    issued = _insert(tenant=old.tenant, rights=rights, actor=actor, version=version)
    old.replaced_by, old.config_version = issued.key, version
    return issued


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
