"""Wraps data keys with a master key: one of the environment's ring, or one that never leaves HashiCorp Vault.

Must never put a key or a token into an error, nor take an unreachable service for a broken key: the first goes
away by itself, the second does not.
"""

import base64
import binascii
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, Protocol

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from tenants import egress
from tenants.errors import ApiError
from tenants.keyring import keyring

VAULT_PREFIX: Final = "vault:"
"""Begins the ids of Vault's key versions; the ids of the ring hold no colon."""
MAX_CACHED_KEYS: Final = 50_000
NEWEST_FOR_S: Final = 60.0
"""How long Vault's newest key version is believed before it is asked again."""
_TIMEOUT_S: Final = 10.0
_BATCH: Final = 500
_NONCE_BYTES: Final = 12


class SealBrokenError(Exception):
    """A sealed value does not open here: altered, moved, or its key is gone. Carries no secret."""


class MasterKeyMissingError(SealBrokenError):
    """A data key is wrapped by a master key that this process does not have."""


class KmsUnavailableError(ApiError):
    """The key management service does not answer, or refuses us: nothing can be opened or sealed until it does."""

    def __init__(self, reason: str) -> None:
        super().__init__("overloaded", f"The key management service {reason}.", retry_after_s=5)


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A data key under a master key. `context` is what it is bound to, `name` how errors call it."""

    master_key_id: str
    blob: bytes = field(repr=False)
    context: bytes
    name: str


class Kms(Protocol):
    """Who wraps data keys. Ids are stored beside what they wrapped, and tell later who opens it."""

    def newest_id(self) -> str:
        """The master key that wraps from now on. Raises KmsUnavailableError."""

    def wrap(self, keys: Sequence[tuple[bytes, bytes]]) -> Sequence[tuple[str, bytes]]:
        """Master key id and blob for each (key, context), in order. Raises KmsUnavailableError."""

    def unwrap(self, values: Sequence[Wrapped]) -> Sequence[bytes]:
        """The keys, in order. Raises SealBrokenError for the first bad one, KmsUnavailableError."""


# ------------------------------------------------------------------ the ring


@dataclass(frozen=True, slots=True)
class RingKms:
    """Master keys from the environment: AES-256-GCM, `nonce (12) | ciphertext and tag`."""

    keys: Mapping[str, bytes] = field(repr=False)

    def newest_id(self) -> str:
        return next(iter(self.keys))

    def wrap(self, keys: Sequence[tuple[bytes, bytes]]) -> Sequence[tuple[str, bytes]]:
        newest, master = next(iter(self.keys.items()))
        wrapped = []
        for key, context in keys:
            nonce = os.urandom(_NONCE_BYTES)
            wrapped.append((newest, nonce + AESGCM(master).encrypt(nonce, key, context)))
        return wrapped

    def unwrap(self, values: Sequence[Wrapped]) -> Sequence[bytes]:
        return [self._open(value) for value in values]

    def _open(self, value: Wrapped) -> bytes:
        master = self.keys.get(value.master_key_id)
        if master is None:
            msg = f"TOLLHOUSE_MASTER_KEYS lacks the key {value.master_key_id!r} that {value.name} needs"
            raise MasterKeyMissingError(msg)
        try:
            return AESGCM(master).decrypt(value.blob[:_NONCE_BYTES], value.blob[_NONCE_BYTES:], value.context)
        except (InvalidTag, ValueError) as error:
            raise _does_not_open(value) from error


# ------------------------------------------------------------------ Vault


@dataclass(slots=True)
class VaultKms:
    """Vault's Transit engine: it keeps the master key, we send data keys to be wrapped and unwrapped.

    https://developer.hashicorp.com/vault/api-docs/secret/transit. `key` is `mount/name`; the key must be of an
    AEAD kind (aes256-gcm96). Opened keys are kept in this process for `cache_s`: an outage shorter than that
    is not noticed by who has opened them before.
    """

    url: str
    token: str = field(repr=False)
    key: str
    cache_s: float
    _opened: dict[tuple[bytes, bytes], tuple[bytes, float]] = field(
        init=False, repr=False, default_factory=dict
    )
    _newest: tuple[str, float] = field(init=False, repr=False, default=("", 0.0))
    _lock: threading.Lock = field(init=False, repr=False, default_factory=threading.Lock)

    def newest_id(self) -> str:
        newest, until = self._newest
        if time.monotonic() >= until:
            version = self._ask("GET", "keys").get("latest_version")
            if not isinstance(version, int):
                raise KmsUnavailableError("did not say which key is its newest")
            newest = f"{VAULT_PREFIX}v{version}"
            self._newest = (newest, time.monotonic() + NEWEST_FOR_S)
        return newest

    def wrap(self, keys: Sequence[tuple[bytes, bytes]]) -> Sequence[tuple[str, bytes]]:
        wrapped = []
        for at in range(0, len(keys), _BATCH):
            batch = keys[at : at + _BATCH]
            results = self._batch(
                "encrypt",
                [{"plaintext": _text(key), "associated_data": _text(context)} for key, context in batch],
            )
            for result in results:
                text = result.get("ciphertext")
                parts = text.split(":", 2) if isinstance(text, str) else []
                if len(parts) != 3 or f"{parts[0]}:" != VAULT_PREFIX:
                    raise KmsUnavailableError("did not wrap a key")
                wrapped.append((f"{VAULT_PREFIX}{parts[1]}", str(text).encode()))
        return wrapped

    def unwrap(self, values: Sequence[Wrapped]) -> Sequence[bytes]:
        now = time.monotonic()
        found = {(value.blob, value.context): self._kept(value, now) for value in values}
        missing = [value for value in values if found[value.blob, value.context] is None]
        for at in range(0, len(missing), _BATCH):
            batch = missing[at : at + _BATCH]
            results = self._batch(
                "decrypt",
                [{"ciphertext": _ascii(value), "associated_data": _text(value.context)} for value in batch],
            )
            for value, result in zip(batch, results, strict=True):
                found[value.blob, value.context] = self._keep(value, _key_in(value, result), now)
        return [key for value in values if (key := found[value.blob, value.context]) is not None]

    def _kept(self, value: Wrapped, now: float) -> bytes | None:
        key, until = self._opened.get((value.blob, value.context), (b"", 0.0))
        return key if now < until else None

    def _keep(self, value: Wrapped, key: bytes, now: float) -> bytes:
        with self._lock:
            self._opened.pop((value.blob, value.context), None)
            while len(self._opened) >= MAX_CACHED_KEYS:
                del self._opened[next(iter(self._opened))]  # the one opened longest ago
            self._opened[value.blob, value.context] = (key, now + self.cache_s)
        return key

    def _batch(self, operation: str, items: list[dict[str, str]]) -> list[dict[str, Any]]:
        results = self._ask("POST", operation, {"batch_input": items}).get("batch_results")
        if not isinstance(results, list) or len(results) != len(items):
            raise KmsUnavailableError("answered something else than was asked")
        return results

    def _ask(self, method: str, operation: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The answer's `data`. A batch of which an item failed is answered 400, with the results of all."""
        mount, _, name = self.key.rpartition("/")
        try:
            reply = egress.fetch(
                method,
                f"{self.url}/v1/{mount}/{operation}/{name}",
                headers=[("x-vault-token", self.token), ("x-vault-request", "true")],
                body=b"" if body is None else orjson.dumps(body),
                allow_private_hosts=egress.ANY_HOST,
                timeout_s=_TIMEOUT_S,
            )
        except egress.EgressError as error:
            raise KmsUnavailableError("cannot be reached") from error
        except ApiError as error:
            raise KmsUnavailableError("has an address that cannot be used") from error
        try:
            answer = orjson.loads(reply.body)
        except orjson.JSONDecodeError:
            answer = None
        data = answer.get("data") if isinstance(answer, dict) else None
        is_partial = reply.status == 400 and isinstance(data, dict) and "batch_results" in data
        if not isinstance(data, dict) or not (reply.status == 200 or is_partial):
            raise KmsUnavailableError(f"answered {reply.status}")
        return data


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _ascii(value: Wrapped) -> str:
    try:
        return value.blob.decode("ascii")
    except UnicodeDecodeError as error:
        raise _does_not_open(value) from error


def _key_in(value: Wrapped, result: Mapping[str, Any]) -> bytes:
    try:
        key = base64.b64decode(result.get("plaintext") or "", validate=True)
    except (binascii.Error, TypeError) as error:
        raise _does_not_open(value) from error
    if result.get("error") or not key:
        raise _does_not_open(value)
    return key


def _does_not_open(value: Wrapped) -> SealBrokenError:
    return SealBrokenError(f"{value.name} does not open under master key {value.master_key_id!r}")


# ------------------------------------------------------------------ both


@dataclass(frozen=True, slots=True)
class ChosenKms:
    """Wraps with the one that the settings choose, unwraps with whichever wrapped: so one can move both ways."""

    ring: Kms
    vault: Kms | None
    wraps: Kms

    def newest_id(self) -> str:
        return self.wraps.newest_id()

    def wrap(self, keys: Sequence[tuple[bytes, bytes]]) -> Sequence[tuple[str, bytes]]:
        return self.wraps.wrap(keys)

    def unwrap(self, values: Sequence[Wrapped]) -> Sequence[bytes]:
        if self.vault is None:
            for value in values:
                if value.master_key_id.startswith(VAULT_PREFIX):
                    msg = (
                        f"{value.name} needs the key {value.master_key_id!r} of Vault: set TOLLHOUSE_KMS_URL"
                    )
                    raise MasterKeyMissingError(msg)
            return self.ring.unwrap(values)
        outside = [value.master_key_id.startswith(VAULT_PREFIX) for value in values]
        opened = {
            is_outside: iter(
                source.unwrap([v for v, out in zip(values, outside, strict=True) if out == is_outside])
            )
            for is_outside, source in ((True, self.vault), (False, self.ring))
        }
        return [next(opened[is_outside]) for is_outside in outside]


def kms() -> Kms:
    """The one that the settings describe. Raises ImproperlyConfigured."""
    ring = keyring(settings.TOLLHOUSE_MASTER_KEYS, setting="TOLLHOUSE_MASTER_KEYS")
    return _chosen(
        tuple(ring.items()),
        settings.TOLLHOUSE_KMS_URL,
        settings.TOLLHOUSE_KMS_TOKEN,
        settings.TOLLHOUSE_KMS_KEY,
        settings.TOLLHOUSE_KMS_CACHE_S,
        settings.TOLLHOUSE_KMS_WRAPS,
    )


@lru_cache(maxsize=4)
def _chosen(
    ring_keys: tuple[tuple[str, bytes], ...], url: str, token: str, key: str, cache_s: float, wraps: bool
) -> ChosenKms:
    ring = RingKms(dict(ring_keys))
    if not url:
        return ChosenKms(ring=ring, vault=None, wraps=ring)
    if not token or not all(key.rpartition("/")) or cache_s < 0:
        msg = "TOLLHOUSE_KMS_URL needs TOLLHOUSE_KMS_TOKEN, TOLLHOUSE_KMS_KEY as mount/name and a cache time"
        raise ImproperlyConfigured(msg)
    vault = VaultKms(url=url.rstrip("/"), token=token, key=key, cache_s=cache_s)
    return ChosenKms(ring=ring, vault=vault, wraps=vault if wraps else ring)
