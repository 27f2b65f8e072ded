"""Standard Webhooks: signatures, key rotation and the retry schedule of everything we post to a tenant's URL.

Pure: the instant and the dice are arguments, and whoever sends keeps the rows. Must never show a secret, nor
accept a message whose signature or time does not hold.
https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

import orjson

PREFIX: Final = "whsec_"
SECRET_BYTES: Final = 32
TOLERANCE_S: Final = 300
MAX_SECRETS: Final = 2
MAX_GRACE_S: Final = 30 * 24 * 3600
RETRY_AFTER_S: Final = (0, 5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Seconds before attempt 1, 2, …: now, 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h, in all 75.6 h."""

MAX_RETRY_AFTER_S: Final = 3600.0
JITTER: Final = 0.1
_SECRET_BYTES_ALLOWED: Final = range(24, 65)
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
_DIGITS: Final = re.compile(r"[0-9]{1,12}")


class SignatureError(Exception):
    """A message that is not to be believed. Says why, never what would have been right."""


@dataclass(frozen=True, slots=True)
class SigningSecret:
    """`until` None: signs for good. Else it was rotated out and signs beside its successor until then."""

    text: str = field(repr=False)
    until: datetime | None = None


# ------------------------------------------------------------------ secrets


def new_secret() -> str:
    """`whsec_` and 256 random bits in base64, as receivers' libraries take it."""
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def rotate(
    held: Sequence[SigningSecret], fresh: str, *, now: datetime, grace_s: int
) -> tuple[SigningSecret, ...]:
    """`fresh` signs first; the secret before it goes on for `grace_s`, so that receivers can change over.

    Older ones stop at once. Raises ValueError for a grace out of range or a secret of another form.
    """
    if not 0 <= grace_s <= MAX_GRACE_S:
        msg = f"grace_s must be between 0 and {MAX_GRACE_S}"
        raise ValueError(msg)
    _bytes_of(fresh)
    kept = [SigningSecret(each.text, now + timedelta(seconds=grace_s)) for each in held if each.until is None]
    return (SigningSecret(fresh), *(kept if grace_s else ()))


def in_force(held: Sequence[SigningSecret], now: datetime) -> tuple[str, ...]:
    """The texts to sign with at `now`, newest first."""
    return tuple(each.text for each in held if each.until is None or now < each.until)[:MAX_SECRETS]


def dump(held: Sequence[SigningSecret]) -> str:
    """For sealing (tenants.encryption), never for showing."""
    rows = [{"text": each.text, "until": each.until.isoformat() if each.until else None} for each in held]
    return orjson.dumps(rows).decode()


def load(text: str) -> tuple[SigningSecret, ...]:
    """What `dump` made."""
    return tuple(
        SigningSecret(row["text"], datetime.fromisoformat(row["until"]) if row["until"] else None)
        for row in orjson.loads(text)
    )


# ------------------------------------------------------------------ signatures


def sign(
    *, message_id: str, at: datetime, body: bytes, secrets: Sequence[str]
) -> tuple[tuple[str, str], ...]:
    """The three headers of one attempt: one signature per secret, separated by a space.

    `message_id` stays the same over all attempts of a message, `at` is the attempt's. Raises ValueError for
    an id with other characters than letters, digits, `_` and `-`, and without a secret.
    """
    if not _ID.fullmatch(message_id):
        msg = "a message id holds letters, digits, '_' and '-' only"
        raise ValueError(msg)
    if not secrets:
        msg = "nothing to sign with"
        raise ValueError(msg)
    timestamp = str(int(at.timestamp()))
    signatures = (f"v1,{_signature(secret, message_id, timestamp, body)}" for secret in secrets)
    return (
        ("webhook-id", message_id),
        ("webhook-timestamp", timestamp),
        ("webhook-signature", " ".join(signatures)),
    )


def verify(
    *,
    headers: Mapping[str, str],
    body: bytes,
    secrets: Sequence[str],
    now: datetime,
    tolerance_s: int = TOLERANCE_S,
) -> str:
    """The id of a message that any of the secrets signed at most `tolerance_s` from now.

    `body` is what came over the wire, byte for byte. Raises SignatureError. Whoever receives keeps the ids
    it has seen for as long as the tolerance: a repeated message verifies again.
    """
    found = {name.lower(): value for name, value in headers.items()}
    message_id, timestamp, given = (
        found.get(name, "") for name in ("webhook-id", "webhook-timestamp", "webhook-signature")
    )
    if not (_ID.fullmatch(message_id) and _DIGITS.fullmatch(timestamp) and given):
        raise SignatureError("a webhook header is missing or malformed")
    age_s = now.astimezone(UTC).timestamp() - int(timestamp)
    if abs(age_s) > tolerance_s:
        raise SignatureError("the message is too old" if age_s > 0 else "the message is from the future")
    offered = [
        text for version, _, text in (each.partition(",") for each in given.split()) if version == "v1"
    ]
    wanted = [_signature(secret, message_id, timestamp, body) for secret in secrets]
    # Every pair is compared, so that the time taken tells nothing.
    matches = [hmac.compare_digest(a.encode(), b.encode()) for a in offered for b in wanted]
    if not any(matches):
        raise SignatureError("no signature matches")
    return message_id


def _signature(secret: str, message_id: str, timestamp: str, body: bytes) -> str:
    signed = b".".join((message_id.encode(), timestamp.encode(), body))
    return base64.b64encode(hmac.digest(_bytes_of(secret), signed, hashlib.sha256)).decode()


def _bytes_of(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError) as error:
        msg = "a signing secret is base64"
        raise ValueError(msg) from error
    if len(key) not in _SECRET_BYTES_ALLOWED:
        msg = "a signing secret holds 24 to 64 bytes"
        raise ValueError(msg)
    return key


# ------------------------------------------------------------------ retries


def next_attempt_at(
    *, attempts: int, now: datetime, draw: float, retry_after_s: float | None = None
) -> datetime | None:
    """When to try again after `attempts` failed ones; None when the schedule has run out (dead letter).

    `draw` from [0, 1) spreads receivers that failed together by up to a tenth of the wait. A receiver's
    Retry-After can only lengthen the wait, to an hour at most.
    """
    if attempts >= len(RETRY_AFTER_S):
        return None
    wait_s = RETRY_AFTER_S[attempts] * (1 + JITTER * draw)
    if retry_after_s is not None:
        wait_s = max(wait_s, min(retry_after_s, MAX_RETRY_AFTER_S))
    return now + timedelta(seconds=wait_s)
