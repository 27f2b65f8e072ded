"""From the content stream to PostgreSQL: sealed content into its day's partition, once per call.

Content whose key was destroyed, or whose person was erased, since it left its worker is let go here.
"""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import orjson
import redis
from django.conf import settings
from django.db import transaction
from django.utils import timezone

from billing.usage.partitions import ensure_days
from gateway.content import late
from gateway.content.keep import HELD, STREAM
from gateway.content.models import ContentDayKey, StoredContent
from gateway.logs import streams
from tenants.ids import instant_of

logger = logging.getLogger(__name__)

CONTENT: Final = "gateway_content"
GROUP: Final = "content"
BATCH: Final = 100


def drain(*, budget_s: float, block_ms: int = 1) -> int:
    """Move everything that waits, for about `budget_s` seconds. Returns how many contents were stored.

    Does not wait for more: content is in no hurry, and its reader shall not keep a worker from others.
    """
    return streams.drain(READER, budget_s=budget_s, block_ms=block_ms)


def _store(client: redis.Redis, entries: streams.Entries) -> int:
    rows = []
    for entry_id, fields in entries:
        try:
            rows.append(_row(orjson.loads(fields[b"h"]), fields[b"c"]))
        except (ValueError, KeyError, TypeError) as error:  # content may be lost; what is unreadable stays so
            logger.error("content %s cannot be read (%s)", entry_id, type(error).__name__)
    stored = keep(rows)
    pipe = client.pipeline(transaction=True)
    pipe.xack(STREAM, GROUP, *(entry_id for entry_id, _ in entries))
    pipe.xdel(STREAM, *(entry_id for entry_id, _ in entries))
    pipe.decrby(HELD, sum(len(fields.get(b"c", b"")) for _, fields in entries))
    pipe.execute()
    return stored


def keep(rows: Sequence[StoredContent]) -> int:
    """Store what may still be kept; return how many that were. What is there already stays as it is."""
    if not rows:
        return 0
    ensure_days(table=CONTENT, days={row.occurred_at.astimezone(UTC).date() for row in rows})
    with transaction.atomic():
        living = set(
            ContentDayKey.objects.select_for_update()  # no key dies between this look and the insert
            .order_by("id")
            .filter(id__in={row.day_key_id for row in rows}, destroyed_at__isnull=True)
            .values_list("id", flat=True)
        )
        people = late.erased({row.tenant_id for row in rows if row.end_user})
        wanted = [row for row in rows if row.day_key_id in living and not _is_erased(row, people)]
        StoredContent.objects.bulk_create(wanted, ignore_conflicts=True)
    return len(wanted)


def _is_erased(row: StoredContent, people: dict[late.Person, datetime]) -> bool:
    before = people.get((row.tenant_id, row.end_user))
    return before is not None and row.occurred_at <= before


def _row(header: Sequence[Any], blob: bytes) -> StoredContent:
    request_id, tenant_id, kind, of_request_id, end_user, key_id, size_bytes, is_cut = header
    return StoredContent(
        occurred_at=instant_of(UUID(request_id)),
        request_id=UUID(request_id),
        tenant_id=UUID(tenant_id),
        kind=kind,
        of_request_id=None if of_request_id is None else UUID(of_request_id),
        end_user=end_user,
        day_key_id=UUID(key_id),
        sealed=blob,
        size_bytes=size_bytes,
        is_cut=is_cut,
        kept_in=settings.TOLLHOUSE_REGION,
        stored_at=timezone.now(),
    )


READER: Final = streams.Reader(STREAM, GROUP, _store, batch=BATCH)
