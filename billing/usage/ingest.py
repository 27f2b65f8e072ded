"""From records to the ledger: a batch becomes rows and rollups in one transaction, exactly once.

Any batch may come again, in any order, split or merged, from several writers at a time. Must never change
a row, never count a row that was not inserted, and never let one bad record hold up the others.
"""

# ruff: noqa: S608 - statements are put together from this package's own constants

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import orjson
import psycopg.errors
from django.db import DatabaseError, DataError, IntegrityError, connection, transaction
from django.db.backends.utils import CursorWrapper

from billing.usage.partitions import LEDGER, ensure_days, existing_days
from billing.usage.records import COLUMNS, UsageRecord
from billing.usage.rollups import ROLLUPS
from tenants.ids import instant_of

logger = logging.getLogger(__name__)

RETRIES = 3
LATE_DAYS = 400  # a day older than this, or in the future, gets no partition of its own
AHEAD_DAYS = 7

KEY = ("occurred_at", "request_id", "attempt", "kind")
_VALUES = tuple(name for name in COLUMNS if name not in KEY)
_NEGATED = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens",
            "cost_pico", "price_pico")  # fmt: skip
_NEGATED_JSON = ("other_units", "cost_components")


class EventKey(NamedTuple):
    """What identifies a ledger row, `occurred_at` following from the request's id."""

    request_id: UUID
    attempt: int
    kind: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that the ledger cannot hold, and the rule it breaks."""

    key: EventKey
    reason: str


@dataclass(frozen=True, slots=True)
class Ingested:
    """What became of a batch; the counts and lengths add up to its size.

    `conflicts` name records whose key is taken by other content (the first stays, R20); `amended` counts
    attempts known as 'unknown' that now have a reversal and a replacement (R21); `rejected` records can
    never be stored. Conflicts and rejections are logged as errors; sending them again does not help.
    """

    inserted: int = 0
    duplicates: int = 0
    conflicts: tuple[EventKey, ...] = ()
    amended: int = 0
    rejected: tuple[Rejected, ...] = ()

    def __add__(self, other: "Ingested") -> "Ingested":
        return Ingested(
            self.inserted + other.inserted,
            self.duplicates + other.duplicates,
            self.conflicts + other.conflicts,
            self.amended + other.amended,
            self.rejected + other.rejected,
        )


def ingest(records: Sequence[UsageRecord], *, recorded_at: datetime) -> Ingested:
    """Store a batch. Deadlocks and serialization failures are tried again, at most three times, unless the
    caller holds a transaction (then it must). Other database errors are raised and nothing is stored.
    """
    sound: list[UsageRecord] = []
    rejected: list[Rejected] = []
    for record in records:
        if instant_of(record.request_id) == record.occurred_at:
            sound.append(record)
        else:
            rejected.append(Rejected(_key_of(record), "occurred_at is not the instant in request_id"))
    result = Ingested(rejected=tuple(rejected))
    if sound:
        _prepare_days({record.occurred_at.astimezone(UTC).date() for record in sound}, recorded_at)
        result += _store(sound, recorded_at)
    for refusal in result.rejected:
        logger.error("usage record %s rejected: %s", refusal.key, refusal.reason)
    for key in result.conflicts:
        logger.error("usage record %s conflicts with the ledger; the first stays", key)
    return result


def _store(records: Sequence[UsageRecord], recorded_at: datetime) -> Ingested:
    """Store records that a partition awaits; halve the batch until what the database refuses stands alone."""
    try:
        return _with_retries(records, recorded_at)
    except (DataError, IntegrityError, UnicodeEncodeError) as error:
        if len(records) == 1:
            return Ingested(rejected=(Rejected(_key_of(records[0]), str(error).partition("\n")[0]),))
        middle = len(records) // 2
        return _store(records[:middle], recorded_at) + _store(records[middle:], recorded_at)


def _with_retries(records: Sequence[UsageRecord], recorded_at: datetime) -> Ingested:
    for attempt in range(RETRIES + 1):
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                return _post(cursor, records, recorded_at)
        except DatabaseError as error:
            is_transient = isinstance(
                error.__cause__, psycopg.errors.DeadlockDetected | psycopg.errors.SerializationFailure
            )
            if not is_transient or connection.in_atomic_block or attempt == RETRIES:
                raise
            logger.warning("ingest tries again after: %s", error)
            time.sleep(0.01 * 2**attempt)
    raise AssertionError("the last attempt returns or raises")


def _post(cursor: CursorWrapper, records: Sequence[UsageRecord], recorded_at: datetime) -> Ingested:
    _stage(cursor, records)
    cursor.execute(_INSERT, [recorded_at])
    inserted = int(cursor.fetchone()[0])
    if inserted == len(records):
        return Ingested(inserted=inserted)
    cursor.execute(_AMEND, [recorded_at])
    amended = int(cursor.fetchone()[0])
    cursor.execute(_CONFLICTS)
    conflicts = tuple(EventKey(*row) for row in cursor.fetchall())
    return Ingested(inserted, len(records) - inserted - amended - len(conflicts), conflicts, amended)


# ------------------------------------------------------------------ staging


def _stage(cursor: CursorWrapper, records: Sequence[UsageRecord]) -> None:
    cursor.execute(_STAGING)
    cursor.execute(
        "DELETE FROM billing_usage_staging"
    )  # left by an earlier batch of the caller's transaction
    copied = f"COPY billing_usage_staging ({', '.join(COLUMNS)}, position) FROM STDIN"
    with connection.wrap_database_errors, cursor.copy(copied) as copy:  # Django wraps execute, but not copy
        for position, record in enumerate(records):
            copy.write_row((*_row_of(record), position))


def _row_of(r: UsageRecord) -> tuple[Any, ...]:
    """The record as COPY takes it. Spelled out: a loop over getattr takes twice as long."""
    return (
        r.occurred_at, r.request_id, r.attempt, r.kind, r.tenant_id, r.api_key_id, r.plan_version_id,
        r.feature, r.end_user, r.operation, r.request_model, r.model, r.provider, r.provider_model,
        r.endpoint_id, r.region, r.service_tier, r.policy, r.status, r.error_type, r.is_final, r.is_stream,
        r.is_byok, r.usage_source, r.input_tokens, r.cache_read_tokens, r.cache_write_tokens,
        r.output_tokens, r.reasoning_tokens, _json(r.other_units), r.cost_pico, r.cost_currency,
        r.price_pico, r.price_currency, _json(r.cost_components), r.latency_ms, r.first_byte_ms,
        _json(r.tags), r.ref_request_id, r.tenant_regions,
    )  # fmt: skip


def _json(value: Mapping[str, int] | Mapping[str, str] | None) -> str | None:
    return None if value is None else orjson.dumps(dict(value)).decode()


def _key_of(record: UsageRecord) -> EventKey:
    return EventKey(record.request_id, record.attempt, record.kind)


# ------------------------------------------------------------------ partitions

_known_days: dict[str, set[date]] = {}
"""Days seen to have a partition, by database name; partitions of the ledger are never taken away under us."""


def _prepare_days(days: set[date], now: datetime) -> None:
    """See to a partition for each plausible day; rows of others go to DEFAULT, which the proof reports."""
    today = now.astimezone(UTC).date()
    wanted = {
        day for day in days if today - timedelta(LATE_DAYS) <= day <= today + timedelta(AHEAD_DAYS)
    } - _known_days.get(str(connection.settings_dict["NAME"]), set())
    if wanted:
        ensure_days(table=LEDGER, days=wanted)
        if not connection.in_atomic_block:  # else a rollback could take them back
            _known_days[str(connection.settings_dict["NAME"])] = existing_days(table=LEDGER)


# ------------------------------------------------------------------ statements

_STAGING = f"""
CREATE TEMPORARY TABLE IF NOT EXISTS billing_usage_staging
ON COMMIT DELETE ROWS
AS SELECT {", ".join(COLUMNS)}, 0 AS position FROM {LEDGER} WITH NO DATA
"""


def _posting(source: str, counted: str) -> str:
    """Insert the ledger rows of `source`, and the rollups of those really inserted, in one statement.

    `source` yields COLUMNS, sorted. Answers the number of inserted rows that meet `counted`.
    """
    upserts = ", ".join(f"r{number} AS ({rollup.upsert('fresh')})" for number, rollup in enumerate(ROLLUPS))
    columns = ", ".join(COLUMNS)
    return (
        f"WITH fresh AS (INSERT INTO {LEDGER} ({columns}, recorded_at) "
        f"SELECT {columns}, %s::timestamptz FROM ({source}) s "
        f"ON CONFLICT DO NOTHING RETURNING *), {upserts} "
        f"SELECT count(*) FILTER (WHERE {counted}) FROM fresh"
    )


def _columns(alias: str, names: Sequence[str] = COLUMNS) -> str:
    return ", ".join(f"{alias}.{name}" for name in names)


def _differs(one: str, other: str) -> str:
    return f"({_columns(one, _VALUES)}) IS DISTINCT FROM ({_columns(other, _VALUES)})"


def _entry(alias: str, kind: str) -> str:
    """The ledger row with a staged row's key. OFFSET 0 keeps it a look-up by key, whatever the statistics."""
    return (
        f"LATERAL (SELECT * FROM {LEDGER} e WHERE e.occurred_at = s.occurred_at "
        f"AND e.request_id = s.request_id AND e.attempt = s.attempt AND e.kind = {kind} OFFSET 0) {alias}"
    )


def _reversed(name: str) -> str:
    if name == "kind":
        return "'reversal' AS kind"
    if name in _NEGATED:
        return f"-o.{name} AS {name}"
    if name in _NEGATED_JSON:
        negated = f"SELECT jsonb_object_agg(key, -(value::bigint)) FROM jsonb_each_text(o.{name})"
        return f"({negated}) AS {name}"
    return f"o.{name}"


_REPLACEMENT = "'replacement'"
_SORTED = ", ".join(KEY)
_INSERT = _posting(
    f"SELECT {', '.join(COLUMNS)} FROM billing_usage_staging ORDER BY {_SORTED}, position", "TRUE"
)

# What a dead worker left as 'unknown' gives way to whoever knows better: minus the original, then the truth.
_BETTER = (
    f"SELECT DISTINCT ON (s.occurred_at, s.request_id, s.attempt) s.* FROM billing_usage_staging s, "
    f"{_entry('o', 's.kind')} WHERE s.kind = 'usage' AND o.usage_source = 'unknown' "
    f"AND s.usage_source <> 'unknown' ORDER BY s.occurred_at, s.request_id, s.attempt, s.position"
)
_AMEND = _posting(
    f"SELECT * FROM ("
    f"SELECT {', '.join(_reversed(name) for name in COLUMNS)} FROM ({_BETTER}) s, {_entry('o', 's.kind')} "
    f"UNION ALL SELECT {', '.join(_REPLACEMENT if n == 'kind' else f's.{n}' for n in COLUMNS)} "
    f"FROM ({_BETTER}) s) both_rows ORDER BY {_SORTED}",
    "kind = 'replacement'",
)
_CONFLICTS = (
    f"SELECT s.request_id, s.attempt, s.kind FROM billing_usage_staging s CROSS JOIN {_entry('o', 's.kind')} "
    f"LEFT JOIN {_entry('r', _REPLACEMENT)} ON s.kind = 'usage' "
    f"WHERE {_differs('s', 'o')} AND s.usage_source <> 'unknown' "
    f"AND (r.kind IS NULL OR {_differs('s', 'r')}) ORDER BY s.position"
)
