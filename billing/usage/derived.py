"""Ids of ledger entries that follow from other entries: the same whenever they are made, so none comes twice. Pure."""

import hashlib
from datetime import datetime
from uuid import UUID


def derived_id(at: datetime, *parts: bytes) -> UUID:
    """A UUIDv7 of that instant (to the millisecond) whose random bits are a digest of `parts`."""
    bits = int.from_bytes(hashlib.sha256(b"\x00".join(parts)).digest()[:10])
    low, high = bits & (1 << 62) - 1, bits >> 62 & 0xFFF
    milliseconds = round(at.timestamp() * 1000)
    return UUID(int=milliseconds << 80 | 7 << 76 | high << 64 | 2 << 62 | low)
