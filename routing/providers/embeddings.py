"""Embedding vectors in the two encodings of OpenAI's API: JSON floats, and base64 of little-endian float32.

OpenAI's own clients ask for base64 by default; many compatible servers answer floats all the same.
"""

import binascii
import struct
from base64 import b64decode, b64encode

from routing.types import Json


def embeddings_as(encoding_format: str | None, document: Json) -> bool:
    """Bring every vector of an OpenAI embeddings reply into the asked encoding; True if any was changed.

    `document` is changed in place. None means float, OpenAI's default. Raises ValueError when a vector is
    neither a list of numbers nor base64 of whole float32 values.
    """
    changed = False
    for row in document["data"]:
        vector = row["embedding"]
        if encoding_format == "base64" and isinstance(vector, list):
            row["embedding"] = encode(vector)
            changed = True
        elif encoding_format != "base64" and isinstance(vector, str):
            row["embedding"] = decode(vector)
            changed = True
    return changed


def encode(vector: list[float]) -> str:
    """Base64 of the vector's float32 values. Raises ValueError on anything that is not a number."""
    try:
        return b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")
    except (struct.error, OverflowError) as error:
        raise ValueError("an embedding holds something that is not a float32") from error


def decode(text: str) -> list[float]:
    """The float32 values behind base64 text. Raises ValueError when it is not that."""
    try:
        raw = b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("an embedding is not valid base64") from error
    if len(raw) % 4:
        raise ValueError("an embedding is not a whole number of float32 values")
    return list(struct.unpack(f"<{len(raw) // 4}f", raw))
