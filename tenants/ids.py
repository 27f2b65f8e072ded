"""UUIDv7 (RFC 9562): ids that sort by time, so that a row's id also names its partition."""

import os
import time
import uuid
from datetime import UTC, datetime


def uuid7(unix_ms: int | None = None) -> uuid.UUID:
    """A fresh id; `unix_ms` fixes its time part (milliseconds since 1970)."""
    stamp = time.time_ns() // 1_000_000 if unix_ms is None else unix_ms
    random = int.from_bytes(os.urandom(10))
    high, low = random >> 64, random & (1 << 62) - 1
    return uuid.UUID(int=stamp << 80 | 7 << 76 | (high & 0xFFF) << 64 | 2 << 62 | low)


def instant_of(value: uuid.UUID) -> datetime:
    """The moment in a UUIDv7, to the millisecond, in UTC."""
    return datetime.fromtimestamp((value.int >> 80) / 1000, UTC)
