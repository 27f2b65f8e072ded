"""Tokens: what stands in a call for a piece of personal data, the same for the same value in every call of a tenant.

Without the tenant's key, a token tells nothing of what it stands for. Never holds a value longer than a call.
"""

import hmac
import re
import unicodedata
from collections.abc import Iterable
from typing import Final

from gateway.privacy.kinds import EMAIL, label

ALPHABET: Final = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"
"""Base 32 without 0, O, 1 and I, which readers (and models) take for each other."""
DIGEST_LENGTH: Final = 8
MAX_TOKEN: Final = 40
_DIGEST: Final = re.compile(rf"_([{ALPHABET}]{{{DIGEST_LENGTH}}})(?![A-Z0-9])", re.IGNORECASE | re.ASCII)


class Vault:
    """Makes the tokens of one tenant. `key`: 32 bytes that only this tenant's tokens are made with."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = key

    def token(self, kind: str, text: str, attempt: int = 0) -> str:
        """`<EMAIL_7F3K2Q9A>`: the same for values that are equal but for their spelling. `attempt`: another one,
        for when the first already stands for something else in this call."""
        message = f"{kind}\x00{normalised(kind, text)}" + (f"\x00{attempt}" if attempt else "")
        number = int.from_bytes(
            hmac.digest(self._key, message.encode("utf-8", "surrogatepass"), "sha256")[:5]
        )
        signs = [ALPHABET[number >> shift & 31] for shift in range(35, -5, -5)]
        return f"<{label(kind)}_{''.join(signs)}>"


def normalised(kind: str, text: str) -> str:
    """The value without what differs between spellings of it."""
    made = unicodedata.normalize("NFKC", text)
    return made.casefold() if kind == EMAIL else made


def bare(token: str) -> str:
    """The token without its angle brackets, for where those may not stand."""
    return token[1:-1]


def digests_in(texts: Iterable[str]) -> set[str]:
    """The last parts of everything in the texts that looks like a token, in upper case."""
    return {each.upper() for text in texts if "_" in text for each in _DIGEST.findall(text)}
