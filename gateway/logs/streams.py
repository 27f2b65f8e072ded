"""Reading a Redis stream into PostgreSQL: at least once, batch by batch, by any number of workers.

An entry leaves the stream only once it is stored: whatever dies in between, it comes again, and storing must be
idempotent.
"""

import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import redis
from django.conf import settings

BATCH: Final = 500
CLAIM_AFTER_MS: Final = 5_000

type Entries = Sequence[tuple[bytes, dict[bytes, bytes]]]


@dataclass(frozen=True, slots=True)
class Reader:
    """A stream, its group of readers, and what stores a batch: it takes the entries off and counts what it stored."""

    stream: str
    group: str
    store: Callable[[redis.Redis, Entries], int]
    batch: int = BATCH


def drain(reader: Reader, *, budget_s: float, block_ms: int) -> int:
    """Move everything that waits, for about `budget_s` seconds. Returns how many were stored."""
    client = redis.Redis.from_url(settings.REDIS_URL)
    consumer = f"{socket.gethostname()}-{os.getpid()}"
    stream, group, count = reader.stream, reader.group, reader.batch
    moved = 0
    try:
        _ensure_group(client, reader)
        deadline = time.monotonic() + budget_s
        # Entries that a consumer took and did not finish.
        abandoned: Any = client.xautoclaim(stream, group, consumer, CLAIM_AFTER_MS, "0-0", count=count)
        moved += _store(reader, client, abandoned[1])
        while True:
            left: Any = client.xreadgroup(group, consumer, {stream: "0"}, count=count)
            if not (left and left[0][1]):
                break
            moved += _store(reader, client, left[0][1])  # taken before, and not finished: Redis was away
        while time.monotonic() < deadline:
            try:
                reply: Any = client.xreadgroup(group, consumer, {stream: ">"}, count=count, block=block_ms)
            except redis.ResponseError:
                _ensure_group(client, reader)  # Redis has lost its memory meanwhile: begin anew, or raise it
                continue
            if not reply:
                break
            moved += _store(reader, client, reply[0][1])
    finally:
        client.close()
    return moved


def _store(reader: Reader, client: redis.Redis, entries: Entries) -> int:
    return reader.store(client, entries) if entries else 0


def _ensure_group(client: redis.Redis, reader: Reader) -> None:
    try:
        client.xgroup_create(reader.stream, reader.group, id="0", mkstream=True)
    except redis.ResponseError as error:
        if "BUSYGROUP" not in str(error):
            raise
