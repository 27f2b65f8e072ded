"""From the stream to PostgreSQL: closed calls become ledger rows, rollups and log rows, in one transaction.

An entry leaves the stream only after its transaction: whatever dies in between, the entry comes again and
the ledger drops what it has. A record that nobody can read or store is set aside and reported, never lost.
"""

import logging
import os
import socket
import time
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

import redis
from django.conf import settings
from django.db import transaction
from django.utils import timezone

from billing.usage.ingest import ingest
from billing.usage.records import UsageRecord
from gateway.experiments import samples
from gateway.experiments.samples import SampleEntry
from gateway.logs.ingest import LogEntry, store
from gateway.pipeline.record import decode
from gateway.state.limits import STREAM

logger = logging.getLogger(__name__)

GROUP: Final = "ledger"
SUSPENSE: Final = "th:suspense"
BATCH: Final = 500
CLAIM_AFTER_MS: Final = 5_000


def drain(*, budget_s: float, block_ms: int = 800) -> int:
    """Move everything that waits, for about `budget_s` seconds. Returns how many calls were stored."""
    client = redis.Redis.from_url(settings.REDIS_URL)
    consumer = f"{socket.gethostname()}-{os.getpid()}"
    moved = 0
    try:
        _ensure_group(client)
        deadline = time.monotonic() + budget_s
        moved += _store(client, _abandoned(client, consumer))
        while left := client.xreadgroup(GROUP, consumer, {STREAM: "0"}, count=BATCH):
            if not (entries := left[0][1]):  # type: ignore[index]  # redis-py's stubs name an awaitable, too
                break
            moved += _store(client, entries)  # taken before, and not finished: Redis was away
        while time.monotonic() < deadline:
            try:
                reply: Any = client.xreadgroup(GROUP, consumer, {STREAM: ">"}, count=BATCH, block=block_ms)
            except redis.ResponseError:
                _ensure_group(client)  # Redis has lost its memory meanwhile: begin anew, or raise what it is
                continue
            if not reply:
                break
            moved += _store(client, reply[0][1])
    finally:
        client.close()
    return moved


def _ensure_group(client: redis.Redis) -> None:
    try:
        client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
    except redis.ResponseError as error:
        if "BUSYGROUP" not in str(error):
            raise


def _abandoned(client: redis.Redis, consumer: str) -> Sequence[Any]:
    """Entries that a consumer took and did not finish."""
    reply: Any = client.xautoclaim(STREAM, GROUP, consumer, CLAIM_AFTER_MS, "0-0", count=BATCH)
    entries: Sequence[Any] = reply[1]
    return entries


def _store(client: redis.Redis, entries: Sequence[Any]) -> int:
    if not entries:
        return 0
    rows: list[UsageRecord] = []
    log: list[LogEntry] = []
    measured: list[SampleEntry] = []
    suspense: list[Any] = []
    entry_of: dict[UUID, Any] = {}
    for entry_id, fields in entries:
        try:
            closed = decode(fields[b"r"])
        except (ValueError, KeyError, TypeError) as error:
            logger.exception("usage record %s cannot be read (%s)", entry_id, type(error).__name__)
            suspense.append((entry_id, fields))
            continue
        rows += closed.rows
        if closed.log is not None:
            log.append(closed.log)
        if closed.sample is not None:
            measured.append(closed.sample)
        entry_of[closed.request_id] = (entry_id, fields)
    with transaction.atomic():
        ingested = ingest(rows, recorded_at=timezone.now())
        store(log, now=timezone.now())
        samples.store(measured)
    suspense += [
        entry_of[request_id] for request_id in {refused.key.request_id for refused in ingested.rejected}
    ]
    pipe = client.pipeline(transaction=True)
    for entry_id, fields in suspense:
        pipe.xadd(SUSPENSE, {**fields, b"id": entry_id})
    ids = [entry_id for entry_id, _ in entries]
    pipe.xack(STREAM, GROUP, *ids)
    pipe.xdel(STREAM, *ids)
    pipe.execute()
    return len(entry_of)
