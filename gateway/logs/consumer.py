"""From the stream to PostgreSQL: closed calls become ledger rows, rollups and log rows, in one transaction.

An entry leaves the stream only after its transaction: whatever dies in between, the entry comes again and
the ledger drops what it has. A record that nobody can read or store is set aside and reported, never lost.
"""

import logging
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import redis
from django.conf import settings
from django.db import transaction
from django.utils import timezone

from billing.usage.ingest import ingest
from billing.usage.records import UsageRecord
from gateway.content import late
from gateway.experiments import samples
from gateway.experiments.samples import SampleEntry
from gateway.logs import streams
from gateway.logs.ingest import LogEntry, store
from gateway.pipeline.record import decode
from gateway.state.limits import STREAM
from gateway.telemetry import metrics
from tenants import keys

logger = logging.getLogger(__name__)

GROUP: Final = "ledger"
SUSPENSE: Final = "th:suspense"


def drain(*, budget_s: float, block_ms: int = 800) -> int:
    """Move everything that waits, for about `budget_s` seconds. Returns how many calls were stored."""
    return streams.drain(READER, budget_s=budget_s, block_ms=block_ms)


def _store(client: redis.Redis, entries: streams.Entries) -> int:
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
        store(late.forgotten(log), now=timezone.now())
        samples.store(measured)
    suspense += [
        entry_of[request_id] for request_id in {refused.key.request_id for refused in ingested.rejected}
    ]
    pipe = client.pipeline(transaction=True)
    for entry_id, fields in suspense:
        pipe.xadd(SUSPENSE, {**fields, b"id": entry_id})
    uses: dict[UUID, datetime] = {}
    for each in log:
        uses[each.api_key_id] = max(each.occurred_at, uses.get(each.api_key_id, each.occurred_at))
    keys.note_use(uses)
    metrics.count(pipe, rows, log)
    ids = [entry_id for entry_id, _ in entries]
    pipe.xack(STREAM, GROUP, *ids)
    pipe.xdel(STREAM, *ids)
    pipe.execute()
    if settings.OTEL_EXPORTER_OTLP_ENDPOINT:
        from gateway.telemetry import traces  # noqa: PLC0415 - what it needs is an extra

        traces.export(log)
    return len(entry_of)


READER: Final = streams.Reader(STREAM, GROUP, _store)
