"""Envelope encryption for secrets we must be able to read again (provider credentials, webhook secrets).

AES-256-GCM under a data key per owner, itself wrapped by a master key (tenants/kms.py). Every value is bound
to its owner and its place: moved to another row, column or tenant it does not open. Must never log or return
plaintext in an error. Whoever stores a sealed value names its column in `sealed_columns` of the app's config
(tenants/resealing.py), or a rotation of data keys passes it by.

A sealed value is `version (1) | data key id (16) | nonce (12) | ciphertext and tag`. Nonces are random, far
below the 2^32 messages per key of NIST SP 800-38D.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.db import IntegrityError, transaction
from django.db.models import Count

from tenants.ids import uuid7
from tenants.keyring import KEY_BYTES
from tenants.kms import KmsUnavailableError, MasterKeyMissingError, SealBrokenError, Wrapped, kms
from tenants.models import DataKey, Tenant

__all__ = (
    "KmsUnavailableError",
    "MasterKeyMissingError",
    "Rewrapped",
    "SealBrokenError",
    "Sealed",
    "derived_key",
    "new_data_key",
    "remaining_by_key",
    "rewrap_data_keys",
    "seal",
    "sealed_under",
    "unseal",
    "unseal_all",
)

VERSION: Final = 1
_NONCE_BYTES: Final = 12
_HEADER_BYTES: Final = 1 + 16
_REWRAP_BATCH: Final = 500


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed value with what it is bound to: its owner (None: the operator) and "table|row|column"."""

    blob: bytes
    tenant_id: UUID | None
    context: str


@dataclass(frozen=True, slots=True)
class Rewrapped:
    """Progress of a master key rotation: rows wrapped anew, and rows left under each older key."""

    count: int
    remaining: Mapping[str, int]


def seal(plaintext: str, *, tenant: Tenant | None, context: str) -> bytes:
    """Encrypt for one owner and one place: `context` is "table|row|column". Raises KmsUnavailableError."""
    row = _current(tenant)
    nonce = os.urandom(_NONCE_BYTES)
    header = bytes((VERSION,)) + row.id.bytes
    bound = _bound_to(header, tenant.id if tenant else None, context)
    return header + nonce + AESGCM(_unwrap([row])[row.id]).encrypt(nonce, plaintext.encode(), bound)


def unseal(blob: bytes, *, tenant: Tenant | None, context: str) -> str:
    """Decrypt what `seal` made for this owner and place. Raises SealBrokenError, KmsUnavailableError."""
    (plaintext,) = unseal_all([Sealed(bytes(blob), tenant.id if tenant else None, context)])
    return plaintext


def unseal_all(values: Iterable[Sealed]) -> Iterator[str]:
    """Decrypt many, in order, with one query for all data keys.

    Raises SealBrokenError at the first bad one, KmsUnavailableError.
    """
    values = list(values)
    rows = DataKey.objects.in_bulk({sealed_under(value.blob) for value in values})
    ciphers: dict[UUID, AESGCM] = {}
    for value in values:
        key_id = sealed_under(value.blob)
        row = rows.get(key_id)
        if row is None or row.tenant_id != value.tenant_id:
            msg = f"{value.context}: sealed for another owner"
            raise SealBrokenError(msg)
        if not ciphers:
            ciphers = {each: AESGCM(key) for each, key in _unwrap(list(rows.values())).items()}
        yield _open(ciphers[key_id], value)


def derived_key(*, tenant: Tenant | None, purpose: str) -> bytes:
    """256 bits of the owner's own for one purpose (HKDF-SHA256 over its first data key): always the same,
    whatever data key seals now and whatever master key wraps them. Makes the data key where there is none."""
    row = DataKey.objects.filter(tenant=tenant).order_by("version").first() or _current(tenant)
    derivation = HKDF(SHA256(), length=KEY_BYTES, salt=None, info=purpose.encode())
    return derivation.derive(_unwrap([row])[row.id])


def rewrap_data_keys() -> Iterator[Rewrapped]:
    """Wrap every data key with the newest master key, batch by batch, reporting after each.

    May be stopped and started again at any point, and run beside itself. An old master key may leave the
    ring once it has no rows left. Sealed values themselves stay as they are.
    """
    service = kms()
    newest = service.newest_id()
    while True:
        with transaction.atomic():
            rows = list(
                DataKey.objects.select_for_update(skip_locked=True)
                .exclude(master_key_id=newest)
                .order_by("id")[:_REWRAP_BATCH]
            )
            opened = _unwrap(rows)
            wrapped = service.wrap([(opened[row.id], _context_of(row)) for row in rows])
            for row, (master_key_id, blob) in zip(rows, wrapped, strict=True):
                row.wrapped, row.master_key_id = blob, master_key_id
                row.save(update_fields=("wrapped", "master_key_id", "updated_at"))
        yield Rewrapped(count=len(rows), remaining=remaining_by_key(newest))
        if not rows:
            return


# ------------------------------------------------------------------ data keys


def remaining_by_key(newest: str) -> dict[str, int]:
    """Data keys under each master key but the newest."""
    rows = DataKey.objects.order_by().exclude(master_key_id=newest)
    return dict(rows.values_list("master_key_id").annotate(Count("id")))


def new_data_key(tenant: Tenant | None, *, version: int) -> DataKey:
    """A current data key of the owner, not saved. Raises KmsUnavailableError."""
    row = DataKey(id=uuid7(), tenant=tenant, version=version)
    ((row.master_key_id, row.wrapped),) = kms().wrap([(AESGCM.generate_key(KEY_BYTES * 8), _context_of(row))])
    return row


def _current(tenant: Tenant | None) -> DataKey:
    current = DataKey.objects.filter(tenant=tenant, retired_at__isnull=True)
    row = current.first()
    if row is not None:
        return row
    row = new_data_key(tenant, version=1)
    try:
        with transaction.atomic():
            row.save(force_insert=True)
    except IntegrityError:  # somebody else made it in this moment
        return current.get()
    return row


def _unwrap(rows: list[DataKey]) -> dict[UUID, bytes]:
    wrapped = [
        Wrapped(row.master_key_id, bytes(row.wrapped), _context_of(row), f"data key {row.id}") for row in rows
    ]
    return {row.id: key for row, key in zip(rows, kms().unwrap(wrapped), strict=True)}


def _context_of(row: DataKey) -> bytes:
    return _bound_to(b"data key", row.tenant_id, str(row.id))


# ------------------------------------------------------------------ values


def _bound_to(header: bytes, tenant_id: UUID | None, context: str) -> bytes:
    owner = tenant_id.hex if tenant_id else "operator"
    return b"|".join((header, owner.encode(), context.encode()))


def sealed_under(blob: bytes) -> UUID:
    """The id of the data key that opens a sealed value. Raises SealBrokenError for what is none."""
    if len(blob) <= _HEADER_BYTES + _NONCE_BYTES or blob[0] != VERSION:
        msg = "not a sealed value, or of an unknown version"
        raise SealBrokenError(msg)
    return UUID(bytes=bytes(blob[1:_HEADER_BYTES]))


def _open(cipher: AESGCM, value: Sealed) -> str:
    nonce_end = _HEADER_BYTES + _NONCE_BYTES
    header, nonce, ciphertext = (
        value.blob[:_HEADER_BYTES],
        value.blob[_HEADER_BYTES:nonce_end],
        value.blob[nonce_end:],
    )
    try:
        plaintext = cipher.decrypt(nonce, ciphertext, _bound_to(header, value.tenant_id, value.context))
    except InvalidTag as error:
        msg = f"{value.context}: altered, or moved from another place"
        raise SealBrokenError(msg) from error
    return plaintext.decode()
