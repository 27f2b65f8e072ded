"""From the pipeline to the content stream, beside the call's own record: sealed in this process, never waited for.

What does not fit (too much waits here or in Redis, Redis or the key is out of reach) is let go and counted: content
may be lost, a call never waits for it. No text leaves this process unsealed.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from time import monotonic
from typing import Any, Final
from uuid import UUID

import orjson
from django.conf import settings
from django.db import DatabaseError

from gateway.content.day_keys import Day, DayKey, obtain
from gateway.content.seal import sealed, texts_of
from gateway.pipeline.call import Call, Caller
from gateway.state.redis import RedisPipe, RedisReplyError, RedisUnavailable, Script
from tenants.encryption import SealBrokenError
from tenants.pseudonyms import pseudonym

logger = logging.getLogger(__name__)

STREAM: Final = "th:content"
HELD: Final = "th:content:bytes"
LOST: Final = "content:all:lost"
"""Its name among the counters for /metrics."""
MAX_WAITING_BYTES: Final = 64 * 1024 * 1024
BATCH: Final = 64
KEY_AGE_S: Final = 30.0
"""A day key is asked for again after this: it may have been destroyed meanwhile."""
STOP_WAIT_S: Final = 3.0

type InDatabase = Callable[
    [Callable[[Sequence[Day]], dict[Day, DayKey]], list[Day]], Awaitable[dict[Day, DayKey]]
]


@dataclass(frozen=True, slots=True)
class Waiting:
    """One call's content before it is sealed."""

    request_id: UUID
    occurred_at: float
    tenant_id: UUID
    kind: str
    of_request_id: str | None
    end_user: str  # a pseudonym, or ""
    body: Any
    answer: list[bytes]
    answer_bytes: int
    is_stream: bool
    size_bytes: int  # as counted against MAX_WAITING_BYTES

    @property
    def day(self) -> Day:
        return self.tenant_id, day_of(self.occurred_at)


def day_of(occurred_at: float) -> date:
    return datetime.fromtimestamp(occurred_at, UTC).date()


class Keeper:
    """One per worker process."""

    def __init__(
        self, pipe: RedisPipe, in_database: InDatabase, counters: Callable[[], Counter[str]]
    ) -> None:
        self.max_bytes: int = settings.TOLLHOUSE_CONTENT_MAX_BYTES
        self._most_held: int = settings.TOLLHOUSE_CONTENT_BUFFER_BYTES
        self._pipe = pipe
        self._in_database = in_database
        self._counters = counters
        self._script = Script((Path(__file__).parent / "keep.lua").read_text())
        self._waiting: deque[Waiting] = deque()
        self._waiting_bytes = 0
        self._keys: dict[Day, tuple[float, DayKey]] = {}
        self._work: asyncio.Task[None] | None = None

    def keep(self, call: Call, caller: Caller) -> None:
        """Take what a recorded call said. Never waits, never raises for what cannot be kept."""
        kept, tenant = call.kept, caller.tenant
        if kept is None:
            return
        call.kept = None
        size_bytes = call.input_bytes + kept.size_bytes
        if self._waiting_bytes + size_bytes > MAX_WAITING_BYTES:
            self._lost(1)
            return
        end_user = call.end_user
        if end_user and not tenant.is_pseudonymous:
            end_user = pseudonym(tenant.pseudonym_key, end_user) if tenant.pseudonym_key else ""
        self._waiting_bytes += size_bytes
        self._waiting.append(
            Waiting(
                request_id=call.id,
                occurred_at=call.occurred_at,
                tenant_id=tenant.id,
                kind=call.kind,
                of_request_id=None if call.sample is None else call.sample["of_request_id"],
                end_user=end_user,
                body=call.body,
                answer=kept.pieces,
                answer_bytes=kept.size_bytes,
                is_stream=call.is_stream,
                size_bytes=size_bytes,
            )
        )
        if self._work is None or self._work.done():
            self._work = asyncio.ensure_future(self._send_all())

    async def stop(self) -> None:
        """Send what waits, for STOP_WAIT_S at most."""
        if self._work is not None and not self._work.done():
            await asyncio.wait((self._work,), timeout=STOP_WAIT_S)
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)

    async def _send_all(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            try:
                await self._send(batch)
            except (DatabaseError, SealBrokenError, RedisUnavailable, RedisReplyError) as error:
                logger.warning("content of %d calls is let go: %s", len(batch), type(error).__name__)
                self._lost(len(batch))
            except Exception:
                # Content is the one thing that may be lost; the call it is of has long been answered.
                logger.exception("content of %d calls is let go", len(batch))
                self._lost(len(batch))
            finally:
                self._waiting_bytes -= sum(each.size_bytes for each in batch)

    async def _send(self, batch: list[Waiting]) -> None:
        keys = await self._keys_of({each.day for each in batch})
        entries = await asyncio.to_thread(_seal_all, batch, keys, self.max_bytes)
        replies = await asyncio.gather(
            *(
                self._pipe.script(self._script, (STREAM, HELD), (self._most_held, header, blob))
                for header, blob in entries
            ),
            return_exceptions=True,
        )
        if lost := sum(reply != 1 for reply in replies):
            logger.warning("content of %d calls is let go: the stream is full or out of reach", lost)
            self._lost(lost)

    async def _keys_of(self, days: set[Day]) -> dict[Day, DayKey]:
        now = monotonic()
        self._keys = {day: known for day, known in self._keys.items() if now - known[0] < KEY_AGE_S}
        if missing := sorted(days - self._keys.keys()):
            found = await self._in_database(obtain, missing)
            self._keys |= {day: (now, key) for day, key in found.items()}
        return {day: self._keys[day][1] for day in days if day in self._keys}

    def _lost(self, count: int) -> None:
        self._counters()[LOST] += count


def _seal_all(batch: list[Waiting], keys: dict[Day, DayKey], max_bytes: int) -> list[tuple[bytes, bytes]]:
    """Header and sealed content of each. Runs in a thread: texts may be large."""
    entries = []
    for each in batch:
        key = keys[each.day]
        texts = texts_of(
            orjson.dumps(each.body),
            (b"\n" if each.is_stream else b"").join(each.answer),
            answer_bytes=each.answer_bytes,
            is_stream=each.is_stream,
            max_bytes=max_bytes,
        )
        blob = sealed(texts, key.cipher, tenant_id=each.tenant_id, request_id=each.request_id)
        header = orjson.dumps(
            (
                str(each.request_id),
                str(each.tenant_id),
                each.kind,
                each.of_request_id,
                each.end_user,
                str(key.id),
                texts.request_bytes + texts.answer_bytes,
                texts.is_cut,
            )
        )
        entries.append((header, blob))
    return entries
