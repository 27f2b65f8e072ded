"""Day partitions of the big tables: made ahead of time, and made late without losing what came before them.

Partitions are attached, never created in place: readers and writers of other days go on meanwhile. Rows
that already lie in the DEFAULT partition move into the new one in the same transaction.
"""

# ruff: noqa: S608 - table names are constants

from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta

from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper

LEDGER = "billing_usage_event"
_LOCK = 0x746F6C6C  # advisory lock of everybody who makes partitions


def ensure_partitions(*, today: date, days_ahead: int = 7) -> tuple[date, ...]:
    """Give the ledger a partition for `today` (UTC) and each of the following days; return the new ones."""
    return ensure_days(table=LEDGER, days=(today + timedelta(n) for n in range(days_ahead + 1)))


def ensure_days(*, table: str, days: Iterable[date]) -> tuple[date, ...]:
    """Give `table` (ranges of `occurred_at`) a partition for each of the UTC days; return the new ones."""
    missing = sorted(set(days) - existing_days(table=table))
    for day in missing:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
            if day not in existing_days(table=table):
                _attach(cursor, table, day)
    return tuple(missing)


def existing_days(*, table: str) -> set[date]:
    """The UTC days for which `table` has a partition."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT substr(relname, %s) FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid "
            "WHERE inhparent = to_regclass(%s) AND relname ~ %s",
            [len(table) + 2, table, rf"^{table}_\d{{8}}$"],
        )
        return {date(int(d[:4]), int(d[4:6]), int(d[6:])) for (d,) in cursor.fetchall()}


def partition_of(*, table: str, day: date) -> str:
    """The name of a day's partition."""
    return f"{table}_{day:%Y%m%d}"


def _attach(cursor: CursorWrapper, table: str, day: date) -> None:
    """Make, fill from DEFAULT and attach one day. The caller holds the advisory lock."""
    name, default = partition_of(table=table, day=day), f"{table}_default"
    start = datetime.combine(day, time(), UTC)
    bounds = [start, start + timedelta(days=1)]
    cursor.execute(f"LOCK TABLE {default} IN ACCESS EXCLUSIVE MODE")
    cursor.execute(
        f"CREATE TABLE {name} (LIKE {table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES)"
    )
    cursor.execute(
        f"SELECT EXISTS (SELECT FROM {default} WHERE occurred_at >= %s AND occurred_at < %s)",
        bounds,
    )
    if cursor.fetchone()[0]:
        # Moving changes nothing, but the trigger cannot know that: it rests while we hold the lock.
        cursor.execute(f"ALTER TABLE {default} DISABLE TRIGGER USER")
        cursor.execute(
            f"WITH moved AS (DELETE FROM {default} WHERE occurred_at >= %s AND occurred_at < %s RETURNING *) "
            f"INSERT INTO {name} SELECT * FROM moved",
            bounds,
        )
        cursor.execute(f"ALTER TABLE {default} ENABLE TRIGGER USER")
    cursor.execute(f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM (%s) TO (%s)", bounds)
    if table == LEDGER:
        # Row triggers come with ATTACH, the one against TRUNCATE does not.
        cursor.execute(
            f"CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON {name} "
            "FOR EACH STATEMENT EXECUTE FUNCTION tollhouse_append_only()"
        )
