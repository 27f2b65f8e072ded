"""What tokens stand for, for as long as a profile wants it known: sealed in Redis under the tenant's own key.

Nothing is ever kept in clear, and nothing outlives its days. A key is opened once per process, never logged.
"""

import hashlib
import hmac
import os
from collections.abc import Mapping
from typing import Final
from uuid import UUID

import redis
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings

from gateway.state.redis import RedisPipe
from tenants import encryption
from tenants.errors import ApiError
from tenants.models import Tenant

SECONDS_PER_DAY: Final = 86_400
_NONCE_BYTES: Final = 12
_PURPOSE: Final = "privacy tokens"
_SEALING: Final = b"sealing"
_INDEXING: Final = b"end user"


def key_of(tenant: Tenant | None) -> bytes:
    """The tenant's key for tokens (None: the operator's, for trying rules out). Reads the database."""
    return encryption.derived_key(tenant=tenant, purpose=_PURPOSE)


def open_key(tenant_id: UUID) -> bytes:
    """As `key_of`, for a worker, which does so once per tenant and not on its loop."""
    return key_of(Tenant.objects.get(pk=tenant_id))


# ------------------------------------------------------------------ keeping


def _name(tenant_id: UUID, token: str) -> str:
    return f"th:vault:{tenant_id}:{token}"


def _index(tenant_id: UUID, end_user: str, key: bytes) -> str:
    """Where the tokens of an end user are listed; the name does not tell who it is."""
    return f"th:vault:{tenant_id}:of:{hmac.digest(_part(key, _INDEXING), end_user.encode(), 'sha256').hex()}"


def _part(key: bytes, purpose: bytes) -> bytes:
    return hmac.digest(key, purpose, hashlib.sha256)


async def keep(
    *, tenant_id: UUID, key: bytes, tokens: Mapping[str, str], end_user: str, days: int, pipe: RedisPipe
) -> None:
    """Seal what the tokens stand for, for `days`. `end_user` is as the ledger has it. Raises RedisUnavailable."""
    cipher, ttl_s = AESGCM(_part(key, _SEALING)), days * SECONDS_PER_DAY
    index = _index(tenant_id, end_user, key) if end_user else ""
    for token, original in tokens.items():
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + cipher.encrypt(nonce, original.encode(), _name(tenant_id, token).encode())
        await pipe.call("SET", _name(tenant_id, token), sealed, "EX", ttl_s)
    if index and tokens:
        await pipe.call("SADD", index, *tokens)
        for when in ("NX", "GT"):  # as long as the longest of its entries
            await pipe.call("EXPIRE", index, ttl_s, when)


# ------------------------------------------------------------------ looking, forgetting (control plane)


def reveal(*, tenant: Tenant, token: str) -> str:
    """What the token stands for. Raises ApiError not_found: never kept, its days are over, or erased."""
    name = _name(tenant.id, token)
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        sealed = client.get(name)
    if not isinstance(sealed, bytes):
        raise ApiError("not_found", "The vault does not hold this token.", param="token")
    cipher = AESGCM(_part(key_of(tenant), _SEALING))
    try:
        return cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], name.encode()).decode()
    except InvalidTag as error:
        raise ApiError("not_found", "The vault's entry does not open.", param="token") from error


def forget(*, tenant: Tenant, end_user: str) -> int:
    """Delete all that was kept of an end user's calls, by the name the ledger has; how many entries. For erasure."""
    index = _index(tenant.id, end_user, key_of(tenant))
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        tokens = [each.decode() for each in client.smembers(index)]
        return int(client.delete(*(_name(tenant.id, each) for each in tokens), index) if tokens else 0)


def forget_all(*, tenant: Tenant) -> int:
    """Delete everything that is kept for the tenant; how many entries."""
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        names = list(client.scan_iter(f"th:vault:{tenant.id}:*", count=1000))
        return sum(int(client.delete(*names[at : at + 500])) for at in range(0, len(names), 500))
