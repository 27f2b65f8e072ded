"""Reads the rings of secret keys that the settings carry as "id:base64" entries, newest first.

Pure: knows neither what the keys are for nor where they are stored, and never puts one into a message.
"""

import base64
import binascii
from collections.abc import Iterable, Mapping
from functools import lru_cache

from django.core.exceptions import ImproperlyConfigured

KEY_BYTES = 32
_ID_MAX_CHARACTERS = 16


def keyring(entries: Iterable[str], *, setting: str) -> Mapping[str, bytes]:
    """Key by id, in the order given (the first is the one in use). Raises ImproperlyConfigured."""
    return _parse(tuple(entries), setting)


@lru_cache(maxsize=16)
def _parse(entries: tuple[str, ...], setting: str) -> Mapping[str, bytes]:
    ring: dict[str, bytes] = {}
    for position, entry in enumerate(entries, start=1):
        key_id, _, encoded = entry.strip().partition(":")
        try:
            key = base64.b64decode(encoded, validate=True)
        except binascii.Error as error:
            msg = f"{setting}: entry {position} is not id:base64"
            raise ImproperlyConfigured(msg) from error
        if not 0 < len(key_id) <= _ID_MAX_CHARACTERS or len(key) != KEY_BYTES:
            msg = f"{setting}: entry {position} needs an id of 1 to 16 characters and {KEY_BYTES} bytes"
            raise ImproperlyConfigured(msg)
        if key_id in ring:
            msg = f"{setting}: the id of entry {position} occurs twice"
            raise ImproperlyConfigured(msg)
        ring[key_id] = key
    if not ring:
        msg = f"{setting} must hold at least one key"
        raise ImproperlyConfigured(msg)
    return ring
