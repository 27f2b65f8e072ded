"""Days of the request log: made ahead, dropped whole when their time is over. Must never touch the ledger."""

from datetime import UTC, date, datetime, time, timedelta

from django.db import connection, transaction

from billing.usage.partitions import ensure_days, existing_days, partition_of

REQUEST_LOG = "gateway_request_log"


def ensure_partitions(*, today: date, days_ahead: int = 7) -> tuple[date, ...]:
    """Give the log a partition for `today` (UTC) and each of the following days; return the new ones."""
    return ensure_days(table=REQUEST_LOG, days=(today + timedelta(n) for n in range(days_ahead + 1)))


def drop_before(*, day: date) -> tuple[date, ...]:
    """Forget all calls before `day` (UTC): drop their partitions, clear stragglers; return the days dropped.

    Waits at most five seconds for each partition's lock; raises OperationalError when a reader holds it.
    """
    dropped = []
    for old in sorted(existing_days(table=REQUEST_LOG)):
        if old < day:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("SET LOCAL lock_timeout = '5s'")
                cursor.execute(f"DROP TABLE {partition_of(table=REQUEST_LOG, day=old)}")
            dropped.append(old)
    with connection.cursor() as cursor:
        cursor.execute(
            f"DELETE FROM {REQUEST_LOG}_default WHERE occurred_at < %s",  # noqa: S608 - a constant
            [datetime.combine(day, time(), UTC)],
        )
    return tuple(dropped)
