"""Envelope encryption for secrets we must be able to read again (provider credentials, webhook secrets).

AES-256-GCM under a data key per owner, itself wrapped by a master key from the environment. Every value is
bound to its owner and its place: moved to another row, column or tenant it does not open. Must never log or
return plaintext in an error.

A sealed value is `version (1) | data key id (16) | nonce (12) | ciphertext and tag`; a wrapped data key is
`nonce (12) | ciphertext and tag`. Nonces are random, far below the 2^32 messages per key of NIST SP 800-38D.
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
from django.conf import settings
from django.db import IntegrityError, transaction

from tenants.ids import uuid7
from tenants.keyring import KEY_BYTES, keyring
from tenants.models import DataKey, Tenant

VERSION: Final = 1
_NONCE_BYTES: Final = 12
_HEADER_BYTES: Final = 1 + 16
_REWRAP_BATCH: Final = 500


class SealBrokenError(Exception):
    """A sealed value does not open here: altered, moved, or its key is gone. Carries no secret."""


class MasterKeyMissingError(SealBrokenError):
    """A data key is wrapped by a master key that TOLLHOUSE_MASTER_KEYS no longer holds."""


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
    """Encrypt for one owner and one place: `context` is "table|row|column"."""
    row = _data_key_of(tenant)
    nonce = os.urandom(_NONCE_BYTES)
    header = bytes((VERSION,)) + row.id.bytes
    bound = _bound_to(header, tenant.id if tenant else None, context)
    return header + nonce + AESGCM(_unwrap(row)).encrypt(nonce, plaintext.encode(), bound)


def unseal(blob: bytes, *, tenant: Tenant | None, context: str) -> str:
    """Decrypt what `seal` made for this owner and place. Raises SealBrokenError."""
    (plaintext,) = unseal_all([Sealed(bytes(blob), tenant.id if tenant else None, context)])
    return plaintext


def unseal_all(values: Iterable[Sealed]) -> Iterator[str]:
    """Decrypt many, in order, one query for all data keys. Raises SealBrokenError at the first bad one."""
    values = list(values)
    rows = DataKey.objects.in_bulk({_data_key_id(value.blob) for value in values})
    ciphers: dict[UUID, AESGCM] = {}
    for value in values:
        key_id = _data_key_id(value.blob)
        row = rows.get(key_id)
        if row is None or row.tenant_id != value.tenant_id:
            msg = f"{value.context}: sealed for another owner"
            raise SealBrokenError(msg)
        cipher = ciphers.get(key_id)
        if cipher is None:
            cipher = ciphers[key_id] = AESGCM(_unwrap(row))
        yield _open(cipher, value)


def derived_key(*, tenant: Tenant | None, purpose: str) -> bytes:
    """256 bits of the owner's own for one purpose (HKDF-SHA256 over its data key): the same for as long as the
    data key is, whatever master key wraps that. Makes the data key where there is none yet."""
    return HKDF(SHA256(), length=KEY_BYTES, salt=None, info=purpose.encode()).derive(
        _unwrap(_data_key_of(tenant))
    )


def rewrap_data_keys() -> Iterator[Rewrapped]:
    """Wrap every data key with the newest master key, batch by batch, reporting after each.

    May be stopped and started again at any point, and run beside itself. An old master key may leave the
    ring once it has no rows left. Sealed values themselves stay as they are.
    """
    newest = next(iter(_master_keys()))
    while True:
        with transaction.atomic():
            rows = list(
                DataKey.objects.select_for_update(skip_locked=True)
                .exclude(master_key_id=newest)
                .order_by("id")[:_REWRAP_BATCH]
            )
            for row in rows:
                row.wrapped, row.master_key_id = _wrap(_unwrap(row), row), newest
                row.save(update_fields=("wrapped", "master_key_id", "updated_at"))
        yield Rewrapped(count=len(rows), remaining=_rows_by_old_key(newest))
        if not rows:
            return


# ------------------------------------------------------------------ data keys


def _rows_by_old_key(newest: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for key_id in DataKey.objects.exclude(master_key_id=newest).values_list("master_key_id", flat=True):
        counts[key_id] = counts.get(key_id, 0) + 1
    return counts


def _master_keys() -> Mapping[str, bytes]:
    return keyring(settings.TOLLHOUSE_MASTER_KEYS, setting="TOLLHOUSE_MASTER_KEYS")


def _data_key_of(tenant: Tenant | None) -> DataKey:
    row = DataKey.objects.filter(tenant=tenant).first()
    if row is not None:
        return row
    row = DataKey(id=uuid7(), tenant=tenant, master_key_id=next(iter(_master_keys())))
    row.wrapped = _wrap(AESGCM.generate_key(KEY_BYTES * 8), row)
    try:
        with transaction.atomic():
            row.save(force_insert=True)
    except IntegrityError:  # somebody else made it in this moment
        return DataKey.objects.get(tenant=tenant)
    return row


def _wrap(key: bytes, row: DataKey) -> bytes:
    newest = next(iter(_master_keys().values()))
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(newest).encrypt(nonce, key, _bound_to(b"data key", row.tenant_id, str(row.id)))


def _unwrap(row: DataKey) -> bytes:
    master = _master_keys().get(row.master_key_id)
    if master is None:
        msg = f"TOLLHOUSE_MASTER_KEYS lacks the key {row.master_key_id!r} that data key {row.id} needs"
        raise MasterKeyMissingError(msg)
    wrapped = bytes(row.wrapped)
    bound = _bound_to(b"data key", row.tenant_id, str(row.id))
    try:
        return AESGCM(master).decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], bound)
    except (InvalidTag, ValueError) as error:
        msg = f"data key {row.id} does not open under master key {row.master_key_id!r}"
        raise SealBrokenError(msg) from error


# ------------------------------------------------------------------ values


def _bound_to(header: bytes, tenant_id: UUID | None, context: str) -> bytes:
    owner = tenant_id.hex if tenant_id else "operator"
    return b"|".join((header, owner.encode(), context.encode()))


def _data_key_id(blob: bytes) -> UUID:
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
