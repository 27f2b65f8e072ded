"""Deleting what its time is over for: content by key and by day, the request log by day and by column, artifacts.

Every deletion is one transaction with its certificate. A tenant under legal hold is left out of all of them; money
and meters are never touched.
"""

# ruff: noqa: S608 - table names are constants

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final
from uuid import UUID

from django.conf import settings
from django.db import connection, models, transaction
from django.db.backends.utils import CursorWrapper

from billing.usage.partitions import existing_days, partition_of
from gateway.content.certificates import DataClass, Deleted, Method, issue
from gateway.content.models import ContentDayKey
from gateway.content.store import CONTENT
from gateway.experiments.models import Feedback, ShadowSample
from gateway.logs.partitions import REQUEST_LOG
from tenants.models import RetentionSetting
from tenants.retention import deletion_lock, held_tenants

LOCK_TIMEOUT: Final = "5s"
_CLASS_OF: Final = {CONTENT: DataClass.CONTENT, REQUEST_LOG: DataClass.REQUEST_LOG}
_DUE_KEYS: Final = """
    SELECT k.id FROM gateway_contentdaykey k LEFT JOIN tenants_retentionsetting s ON s.tenant_id = k.tenant_id
    WHERE k.destroyed_at IS NULL
      AND (coalesce(s.content_days, 0) = 0 OR k.day < %(today)s - s.content_days::int)
      AND NOT EXISTS (
          SELECT FROM tenants_legalhold h WHERE h.tenant_id = k.tenant_id AND h.released_at IS NULL
      )
    ORDER BY k.day, k.tenant_id
"""


def purge(*, now: datetime) -> int:
    """All that is due at `now`. Returns how many certificates it left."""
    today = now.astimezone(UTC).date()
    count = sum(1 for _ in shred_content(today=today, now=now))
    count += len(drop_content_days(today=today, now=now))
    log_days = settings.TOLLHOUSE_REQUEST_LOG_DAYS
    count += len(
        drop_days(
            REQUEST_LOG,
            before=today - timedelta(days=log_days),
            rule=f"TOLLHOUSE_REQUEST_LOG_DAYS={log_days}",
            now=now,
        )
    )
    return count + shorten_logs(today=today, now=now) + forget_artifacts(now=now)


# ------------------------------------------------------------------ content


def shred_content(*, today: date, now: datetime) -> Iterator[ContentDayKey]:
    """Destroy the day keys whose tenant's days are over: their content cannot be read from here on.

    A day's content is kept for the tenant's content_days after it; a tenant that keeps none loses all at once.
    """
    with connection.cursor() as cursor:
        cursor.execute(_DUE_KEYS, {"today": today})
        due = [row[0] for row in cursor.fetchall()]
    for key_id in due:
        shredded = _shred(key_id, today, now)
        if shredded is not None:
            yield shredded


def _shred(key_id: UUID, today: date, now: datetime) -> ContentDayKey | None:
    """Destroy one key, if it is still due."""
    with transaction.atomic():
        deletion_lock()
        key = ContentDayKey.objects.select_for_update().get(pk=key_id)
        setting = RetentionSetting.objects.filter(tenant=key.tenant_id).first()
        days = setting.content_days if setting else 0
        is_due = days == 0 or key.day < today - timedelta(days=days)
        if key.destroyed_at is not None or not is_due or key.tenant_id in held_tenants():
            return None
        with connection.cursor() as cursor:
            cursor.execute(
                f"SELECT count(*) FROM {CONTENT} WHERE tenant_id = %s AND day_key_id = %s "
                "AND occurred_at >= %s AND occurred_at < %s",
                [key.tenant_id, key.id, *_bounds(key.day)],
            )
            rows = int(cursor.fetchone()[0])
        key.sealed_key, key.destroyed_at = b"", now
        key.save(update_fields=("sealed_key", "destroyed_at", "updated_at"))
        zero = ", zero retention" if setting and setting.zero_retention else ""
        deleted = Deleted(
            tenant_id=key.tenant_id,
            data_class=DataClass.CONTENT,
            method=Method.KEY_DESTROYED,
            day=key.day,
            rows=rows,
            rule=f"content_days={days}{zero}",
            details={"day_key": str(key.id)},
        )
        issue([deleted], now=now)
    return key


def drop_content_days(*, today: date, now: datetime) -> list[date]:
    """Drop the days of which nobody's key is alive any more."""
    alive = set(
        ContentDayKey.objects.order_by()
        .filter(destroyed_at__isnull=True)
        .values_list("day", flat=True)
        .distinct()
    )
    days = [day for day in sorted(existing_days(table=CONTENT)) if day < today and day not in alive]
    rule = "every tenant's key of the day is destroyed"
    return [day for day in days if drop_day(CONTENT, day, rule=rule, now=now)]


# ------------------------------------------------------------------ days of a table


def drop_days(table: str, *, before: date, rule: str, now: datetime) -> list[date]:
    """Drop all days before `before` (UTC), stragglers in DEFAULT too; return those that something was deleted of."""
    old = [day for day in sorted(existing_days(table=table)) if day < before]
    dropped = [day for day in old if drop_day(table, day, rule=rule, now=now)]
    with transaction.atomic(), connection.cursor() as cursor:
        deletion_lock()
        until = datetime.combine(before, time(), UTC)
        deleted = _delete(cursor, f"{table}_default", held_tenants(), "occurred_at < %s", [until])
        _certify(table, None, deleted, Method.ROWS_DELETED, rule, now)
    return dropped


def drop_day(table: str, day: date, *, rule: str, now: datetime) -> bool:
    """Drop one day, with a certificate for each tenant that had rows in it and one for the day as a whole.

    Where a tenant of that day is under legal hold, the day stays and only the others' rows go. False: nothing went.
    Waits five seconds at most for readers and late writers; raises OperationalError when they do not let go.
    """
    name = partition_of(table=table, day=day)
    with transaction.atomic(), connection.cursor() as cursor:
        deletion_lock()
        cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        if day not in existing_days(table=table):
            return False
        cursor.execute(f"LOCK TABLE {name} IN SHARE MODE")  # nothing is added between the count and the end
        cursor.execute(f"SELECT tenant_id, count(*) FROM {name} GROUP BY tenant_id ORDER BY tenant_id")
        counts = {tenant_id: int(count) for tenant_id, count in cursor.fetchall()}
        held = held_tenants() & counts.keys()
        if not held:
            cursor.execute(f"DROP TABLE {name}")
            _certify(table, day, counts, Method.PARTITION_DROPPED, rule, now, partition=name)
            return True
        deleted = _delete(cursor, name, held, "TRUE", [])
        _certify(table, day, deleted, Method.ROWS_DELETED, rule, now, held_tenants=len(held))
        return bool(deleted)


def _delete(
    cursor: CursorWrapper, table: str, held: frozenset[UUID], where: str, values: Sequence[Any]
) -> dict[UUID, int]:
    """Delete rows of tenants that are not held; how many of each."""
    cursor.execute(
        f"WITH gone AS (DELETE FROM {table} WHERE {where} AND tenant_id <> ALL(%s) RETURNING tenant_id) "
        "SELECT tenant_id, count(*) FROM gone GROUP BY tenant_id ORDER BY tenant_id",
        [*values, list(held)],
    )
    return {tenant_id: int(count) for tenant_id, count in cursor.fetchall()}


def _certify(
    table: str,
    day: date | None,
    counts: dict[UUID, int],
    method: str,
    rule: str,
    now: datetime,
    **details: object,
) -> None:
    if not counts and method != Method.PARTITION_DROPPED:
        return
    told = {"table": table, **details}
    data_class = _CLASS_OF[table]
    whole = Deleted(
        tenant_id=None,
        data_class=data_class,
        method=method,
        day=day,
        rows=sum(counts.values()),
        rule=rule,
        details={**told, "tenants": len(counts)},
    )
    each = [
        Deleted(
            tenant_id=tenant_id,
            data_class=data_class,
            method=method,
            day=day,
            rows=rows,
            rule=rule,
            details=told,
        )
        for tenant_id, rows in counts.items()
    ]
    issue([whole, *each], now=now)


# ------------------------------------------------------------------ shorter than the operator's days


def shorten_logs(*, today: date, now: datetime) -> int:
    """Blank who, what for and why it failed in log rows older than their tenant's request_log_days.

    What is left of the row (models, tokens, times, status) is metering. Returns how many certificates it left.
    """
    settings_of = RetentionSetting.objects.filter(request_log_days__isnull=False).order_by("id")
    return sum(
        _blank(setting, day, now)
        for setting in settings_of
        for day in sorted(existing_days(table=REQUEST_LOG))
        if day < today - timedelta(days=setting.request_log_days or 0)
    )


def _blank(setting: RetentionSetting, day: date, now: datetime) -> bool:
    """One tenant's rows of one day."""
    with transaction.atomic(), connection.cursor() as cursor:
        deletion_lock()
        if setting.tenant_id in held_tenants():
            return False
        cursor.execute(
            f"UPDATE {REQUEST_LOG} SET end_user = '', tags = '{{}}', error_message = '' "
            "WHERE tenant_id = %s AND occurred_at >= %s AND occurred_at < %s "
            "AND (end_user <> '' OR tags <> '{}' OR error_message <> '')",
            [setting.tenant_id, *_bounds(day)],
        )
        rows = cursor.rowcount
        if rows:
            deleted = Deleted(
                tenant_id=setting.tenant_id,
                data_class=DataClass.REQUEST_LOG,
                method=Method.COLUMNS_BLANKED,
                day=day,
                rows=rows,
                rule=f"request_log_days={setting.request_log_days}",
                details={"columns": ["end_user", "tags", "error_message"]},
            )
            issue([deleted], now=now)
    return bool(rows)


def forget_artifacts(*, now: datetime) -> int:
    """Delete feedback and shadow samples whose calls are older than their tenant's days, or the operator's.

    Shadow samples are part of the request log's story and go with its days at the latest. Returns how many
    certificates it left.
    """
    most = settings.TOLLHOUSE_ARTIFACTS_DAYS
    chosen = dict(
        RetentionSetting.objects.filter(artifacts_days__isnull=False).values_list(
            "tenant_id", "artifacts_days"
        )
    )
    left = 0
    with_own = [
        (frozenset((tenant_id,)), frozenset[UUID](), days or most) for tenant_id, days in chosen.items()
    ]
    for only, without, days in (*with_own, (None, frozenset(chosen), most)):
        left += _forget(ShadowSample, only, without, min(days, settings.TOLLHOUSE_REQUEST_LOG_DAYS), now)
        left += _forget(Feedback, only, without, days, now)
    return left


def _forget(
    model: type[models.Model],
    only: frozenset[UUID] | None,
    without: frozenset[UUID],
    days: int,
    now: datetime,
) -> int:
    table = model._meta.db_table
    where = "occurred_at < %s AND tenant_id <> ALL(%s)"
    values: list[Any] = [now - timedelta(days=days), list(without)]
    if only is not None:
        where, values = f"{where} AND tenant_id = ANY(%s)", [*values, list(only)]
    with transaction.atomic(), connection.cursor() as cursor:
        deletion_lock()
        counts = _delete(cursor, table, held_tenants(), where, values)
        issue(
            [
                Deleted(
                    tenant_id=tenant_id,
                    data_class=DataClass.ARTIFACTS,
                    method=Method.ROWS_DELETED,
                    rows=rows,
                    rule=f"{days} days",
                    details={"table": table},
                )
                for tenant_id, rows in counts.items()
            ],
            now=now,
        )
    return len(counts)


def _bounds(day: date) -> tuple[datetime, datetime]:
    start = datetime.combine(day, time(), UTC)
    return start, start + timedelta(days=1)
