"""Content as it is stored: both texts cut to size, compressed, sealed under a day key, bound to its call. Pure.

A sealed content is `version (1) | nonce (12) | ciphertext and tag`. Moved to another call or tenant it does not open.
"""

import os
import zlib
from dataclasses import astuple, dataclass
from typing import Final
from uuid import UUID

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VERSION: Final = 1
_NONCE_BYTES: Final = 12
_LEVEL: Final = 6
CUT_MARK: Final = "… [cut by the gateway]"


class ContentBrokenError(Exception):
    """Sealed content does not open here: altered, moved, or of an unknown version. Carries no content."""


@dataclass(frozen=True, slots=True)
class Texts:
    """What a call said. `answer` is one body, or with `is_stream` the stream's chunks, one JSON object per line."""

    request: str
    answer: str
    is_stream: bool = False
    request_bytes: int = 0  # before it was cut
    answer_bytes: int = 0
    is_cut: bool = False


def texts_of(request: bytes, answer: bytes, *, answer_bytes: int, is_stream: bool, max_bytes: int) -> Texts:
    """The texts, each cut to `max_bytes` and marked where it is longer; `answer` may have been cut before."""
    return Texts(
        request=_cut(request, max_bytes),
        answer=_cut(answer, max_bytes),
        is_stream=is_stream,
        request_bytes=len(request),
        answer_bytes=answer_bytes,
        is_cut=max(len(request), answer_bytes) > max_bytes,
    )


def sealed(texts: Texts, cipher: AESGCM, *, tenant_id: UUID, request_id: UUID) -> bytes:
    """Compress and encrypt for this call."""
    packed = zlib.compress(orjson.dumps(astuple(texts)), _LEVEL)
    nonce = os.urandom(_NONCE_BYTES)
    return bytes((VERSION,)) + nonce + cipher.encrypt(nonce, packed, _bound_to(tenant_id, request_id))


def opened(blob: bytes, cipher: AESGCM, *, tenant_id: UUID, request_id: UUID) -> Texts:
    """What `sealed` made for this call. Raises ContentBrokenError."""
    if len(blob) <= 1 + _NONCE_BYTES or blob[0] != VERSION:
        raise ContentBrokenError("not sealed content, or of an unknown version")
    nonce, ciphertext = blob[1 : 1 + _NONCE_BYTES], blob[1 + _NONCE_BYTES :]
    try:
        packed = cipher.decrypt(nonce, ciphertext, _bound_to(tenant_id, request_id))
    except InvalidTag as error:
        raise ContentBrokenError("altered, or moved from another call") from error
    return Texts(*orjson.loads(zlib.decompress(packed)))


def _bound_to(tenant_id: UUID, request_id: UUID) -> bytes:
    return b"content|" + tenant_id.bytes + request_id.bytes


def _cut(body: bytes, max_bytes: int) -> str:
    if len(body) <= max_bytes:
        return body.decode(errors="replace")
    return body[:max_bytes].decode(errors="ignore") + CUT_MARK
