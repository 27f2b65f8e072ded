"""UUIDv7 (RFC 9562): ids that sort by time, so that a row's id also names its partition."""

import os
import time
import uuid
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Final

request_in_hand: Final[ContextVar[str]] = ContextVar("tollhouse_request_in_hand", default="")
"""The id of the request that this thread or task works for, for log lines."""


def uuid7(unix_ms: int | None = None) -> uuid.UUID:
    """A fresh id; `unix_ms` fixes its time part (milliseconds since 1970).

    Without it the twelve bits behind the milliseconds carry their fraction (RFC 9562, section 6.2, method 3),
    so ids made one after the other in one process sort in that order.
    """
    random = int.from_bytes(os.urandom(10))
    low = random & (1 << 62) - 1
    if unix_ms is None:
        unix_ms, nanoseconds = divmod(time.time_ns(), 1_000_000)
        high = (nanoseconds << 12) // 1_000_000
    else:
        high = random >> 64 & 0xFFF
    return uuid.UUID(int=unix_ms << 80 | 7 << 76 | high << 64 | 2 << 62 | low)


def instant_of(value: uuid.UUID) -> datetime:
    """The moment in a UUIDv7, to the millisecond, in UTC."""
    return datetime.fromtimestamp((value.int >> 80) / 1000, UTC)
