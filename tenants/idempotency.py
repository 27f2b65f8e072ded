"""Idempotency-Key: a write that is sent twice happens once, and the second answer says so.

The record is written in the transaction of the write itself, so a crash leaves neither; while that runs, an
advisory lock turns a second sender away. Refused writes (4xx, 5xx) are not kept: sending them again tries
again. The stored answer never holds a secret.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import orjson
from django.db import connection

from tenants.errors import ApiError
from tenants.models import IdempotencyRecord
from tenants.principal import Principal

KEPT_FOR: Final = timedelta(hours=24)
_KEY_MAX_CHARACTERS: Final = 255
_RUNNING_RETRY_AFTER_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to perform the write under this key, held until the transaction ends."""

    owner: str
    key: str
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class Replay:
    """The first answer, to be given again. Its secrets are null."""

    status: int
    body: Any


def fingerprint_of(*, method: str, path: str, body: object) -> bytes:
    """Tells two requests apart: method, path with query, and the parsed body whatever its key order."""
    plain = body if isinstance(body, bytes) else orjson.dumps(body, option=orjson.OPT_SORT_KEYS, default=str)
    return hashlib.sha256(b"\n".join((method.encode(), path.encode(), plain))).digest()


def lock_id_of(owner: str, key: str) -> int:
    """The advisory lock of one owner's key, a signed 64-bit number."""
    return int.from_bytes(hashlib.sha256(f"{owner}\n{key}".encode()).digest()[:8], signed=True)


def claim(*, principal: Principal, key: str, fingerprint: bytes, now: datetime) -> Claim | Replay:
    """Claim the key, inside the write's transaction.

    Raises ApiError: invalid_request for a malformed key, conflict when the key belongs to another request or
    the same one is still running (with Retry-After).
    """
    if not 0 < len(key) <= _KEY_MAX_CHARACTERS or not key.isprintable() or not key.isascii():
        raise ApiError(
            "invalid_request",
            f"Idempotency-Key must be 1 to {_KEY_MAX_CHARACTERS} printable ASCII characters.",
            param="Idempotency-Key",
        )
    owner = f"{principal.kind}:{principal.id}"
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [lock_id_of(owner, key)])
        (is_free,) = cursor.fetchone()
    if not is_free:
        raise ApiError(
            "conflict",
            "A request with this Idempotency-Key is still running.",
            param="Idempotency-Key",
            retry_after_s=_RUNNING_RETRY_AFTER_S,
        )
    IdempotencyRecord.objects.filter(owner=owner, key=key, created_at__lt=now - KEPT_FOR).delete()
    kept = IdempotencyRecord.objects.filter(owner=owner, key=key).first()
    if kept is None:
        return Claim(owner=owner, key=key, fingerprint=fingerprint)
    if bytes(kept.fingerprint) != fingerprint:
        raise ApiError(
            "conflict", "This Idempotency-Key was used for a different request.", param="Idempotency-Key"
        )
    return Replay(status=kept.status or 200, body=kept.body)


def keep(claimed: Claim, *, status: int, body: object) -> None:
    """Store the answer with the write. `body` is plain JSON without secrets."""
    IdempotencyRecord.objects.create(
        owner=claimed.owner, key=claimed.key, fingerprint=claimed.fingerprint, status=status, body=body
    )


def prune(*, now: datetime) -> int:
    """Forget answers older than 24 hours; returns how many."""
    deleted, _ = IdempotencyRecord.objects.filter(created_at__lt=now - KEPT_FOR).delete()
    return deleted
