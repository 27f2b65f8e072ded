"""Pseudonyms of a tenant's end users. Pure.

The same name gives the same pseudonym in one tenant and another one in the next; without the tenant's key nobody
can tell which name a pseudonym stands for, or whether a name has one.
"""

import base64
import hashlib
import hmac
import re
from typing import Final

PREFIX: Final = "u_"
KEY_BYTES: Final = 32
_DIGEST_BYTES: Final = 20
_FORM: Final = re.compile(r"u_[a-z2-7]{32}")


def is_pseudonym(text: str) -> bool:
    """Whether a name has the form of a pseudonym."""
    return _FORM.fullmatch(text) is not None


def pseudonym(key: bytes, end_user: str) -> str:
    """HMAC-SHA-256 under the tenant's key, cut to 160 bits: `u_` and 32 letters and digits. "" stays ""."""
    if not end_user:
        return ""
    digest = hmac.digest(key, end_user.encode(errors="surrogatepass"), hashlib.sha256)[:_DIGEST_BYTES]
    return PREFIX + base64.b32encode(digest).decode().lower()
