"""The proof of the books: the ledger against its rollups, itself and the documents, to the last digit.

Reads one snapshot and changes nothing. Must never repair: a difference is for people to look at.
"""

# ruff: noqa: S608 - statements are put together from this package's own constants

import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper

from billing.checks import SHOWN, Check
from billing.invoicing.verify import document_checks
from billing.models import BudgetCheck
from billing.reconciliation.verify import bill_checks
from billing.usage.partitions import LEDGER
from billing.usage.rollups import (
    FINAL_WEIGHT,
    HOUR,
    IS_OVERHEAD,
    IS_TENANTS,
    ROLLUPS,
    TOKENS,
    USAGE_HOUR,
    WEIGHT,
    Rollup,
)
from billing.wallets.verify import wallet_checks

__all__ = ["Check", "Proof", "verify"]


@dataclass(frozen=True, slots=True)
class Proof:
    """All checks over [since, until), made on one snapshot at `as_of`."""

    ok: bool
    checks: tuple[Check, ...]
    since: datetime | None
    until: datetime | None
    as_of: datetime


def verify(*, since: datetime | None = None, until: datetime | None = None) -> Proof:
    """Prove the ledger over [since, until), widened to whole UTC hours; all of it without bounds.

    Runs in a REPEATABLE READ transaction of its own, so writers may go on. Inside the caller's transaction
    the snapshot is the caller's: each statement is consistent in itself then.
    """
    since, until = _floor(since), _ceil(until)
    alone = not connection.in_atomic_block
    with transaction.atomic() if alone else nullcontext(), connection.cursor() as cursor:
        if alone:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        cursor.execute("SELECT now()")
        as_of = cursor.fetchone()[0]
        window = _Window(since, until)
        checks = (
            *(_rollup_check(cursor, rollup, window) for rollup in ROLLUPS),
            _local_day_check(cursor, window),
            _components_check(cursor, window),
            _sign_check(cursor, window),
            _reversal_check(cursor, window),
            _replacement_check(cursor, window),
            _overhead_check(cursor, window),
            _default_check(cursor, window),
            _counters_check(),
            *document_checks(since=since, until=until),
            *bill_checks(since=since, until=until),
            *wallet_checks(),
        )
    ok = all(check.ok or check.is_warning for check in checks)
    return Proof(ok=ok, checks=checks, since=since, until=until, as_of=as_of)


@dataclass(frozen=True, slots=True)
class _Window:
    since: datetime | None
    until: datetime | None

    def over(self, column: str) -> str:
        low = f"{column} >= %(since)s" if self.since else "TRUE"
        high = f"{column} < %(until)s" if self.until else "TRUE"
        return f"({low} AND {high})"

    @property
    def parameters(self) -> Mapping[str, Any]:
        return {"since": self.since, "until": self.until}


# ------------------------------------------------------------------ ledger = rollups


def _rollup_check(cursor: CursorWrapper, rollup: Rollup, window: _Window) -> Check:
    """I1, row by row over the full key. Rows of zeros may be missing on either side: they are no amount."""
    source = f"(SELECT * FROM {LEDGER} WHERE {window.over('occurred_at')}) ledger"
    keys, sums = tuple(rollup.keys), tuple(rollup.sums)
    is_zero = {side: " AND ".join(f"coalesce({side}.{name}, 0) = 0" for name in sums) for side in "lr"}
    differs = " OR ".join(f"l.{name} IS DISTINCT FROM r.{name}" for name in sums)
    cursor.execute(
        f"WITH l AS ({rollup.aggregate(source)}), "
        f"r AS (SELECT * FROM {rollup.table} WHERE {window.over('hour')}), "
        f"wrong AS (SELECT {', '.join(keys)}, to_jsonb(l) AS ledger, to_jsonb(r) AS rollup "
        f"FROM l FULL OUTER JOIN r USING ({', '.join(keys)}) "
        f"WHERE ({differs}) AND NOT (({is_zero['l']}) AND ({is_zero['r']}))) "
        f"SELECT (SELECT count(*) FROM l), (SELECT count(*) FROM r), (SELECT count(*) FROM wrong), "
        f"ARRAY(SELECT to_jsonb(w) FROM (SELECT * FROM wrong ORDER BY {', '.join(keys)} LIMIT {SHOWN}) w)",
        window.parameters,
    )
    # Django hands jsonb over as text; json, unlike orjson, keeps integers beyond 64 bits exact.
    expected, found, wrong, shown = cursor.fetchone()
    return Check(
        name=f"ledger = {rollup.table}",
        ok=wrong == 0,
        detail="; ".join(_difference(row, keys, sums) for row in map(json.loads, shown))
        or f"{expected} rows agree in {len(sums)} sums",
        expected=f"{expected} rows",
        found=f"{found} rows" if wrong == 0 else f"{found} rows, {wrong} differ",
    )


def _difference(row: Mapping[str, Any], keys: tuple[str, ...], sums: tuple[str, ...]) -> str:
    place = " ".join(f"{name}={row[name]}" for name in keys if row[name] not in ("", None))
    ledger, rollup = row["ledger"], row["rollup"]
    if ledger is None or rollup is None:
        return f"{place}: only in the {'rollup' if ledger is None else 'ledger'}"
    figures = ", ".join(
        f"{name} {ledger[name]} in the ledger, {rollup[name]} in the rollup"
        for name in sums
        if ledger[name] != rollup[name]
    )
    return f"{place}: {figures}"


def _local_day_check(cursor: CursorWrapper, window: _Window) -> Check:
    """I2: hours put together to the days of each tenant's zone are the ledger's days there.

    Hours that a zone's midnight could cut (offsets of half an hour) are left out on both sides: reports take
    those from the ledger.
    """
    sums = ("attempts", "requests", "tokens", "cost_pico", "price_pico")
    of_ledger = (WEIGHT, FINAL_WEIGHT, TOKENS, "coalesce(cost_pico, 0)", "coalesce(price_pico, 0)")
    of_hours = ("attempts", "requests", TOKENS, "cost_pico", "price_pico")
    keys = ("tenant_id", "day", "cost_currency", "price_currency")

    def days(moment: str, table: str, expressions: tuple[str, ...], condition: str) -> str:
        shown = ", ".join(f"sum({e})::numeric AS {name}" for e, name in zip(expressions, sums, strict=True))
        hour = moment if moment == "hour" else HOUR
        return (
            f"SELECT tenant_id, ({moment} AT TIME ZONE timezone)::date AS day, cost_currency, price_currency, "
            f"{shown} FROM {table} JOIN tenants_tenant zone ON zone.id = tenant_id "
            f"WHERE {window.over(moment)} AND {condition} "
            f"AND extract(minute FROM {hour} AT TIME ZONE timezone) = 0 GROUP BY 1, 2, 3, 4"
        )

    differs = " OR ".join(f"coalesce(l.{name}, 0) <> coalesce(r.{name}, 0)" for name in sums)
    cursor.execute(
        f"WITH l AS ({days('occurred_at', LEDGER, of_ledger, IS_TENANTS)}), "
        f"r AS ({days('hour', USAGE_HOUR.table, of_hours, 'TRUE')}), "
        f"wrong AS (SELECT tenant_id, day FROM l FULL OUTER JOIN r USING ({', '.join(keys)}) WHERE {differs}) "
        f"SELECT (SELECT count(*) FROM l), (SELECT count(*) FROM wrong), "
        f"ARRAY(SELECT tenant_id || ' ' || day FROM wrong ORDER BY 1 LIMIT {SHOWN})",
        window.parameters,
    )
    seen, wrong, shown = cursor.fetchone()
    return Check(
        name="hours = days in each tenant's zone (I2)",
        ok=wrong == 0,
        detail=", ".join(shown) or f"{seen} local days agree",
        expected="0 days differ",
        found=f"{wrong} days differ",
    )


# ------------------------------------------------------------------ the ledger in itself


def _count_check(cursor: CursorWrapper, window: _Window, *, name: str, wrong: str) -> Check:
    """No ledger row `e` of the window may meet `wrong`."""
    cursor.execute(
        f"SELECT count(*), (array_agg(e.request_id || '#' || e.attempt || ' ' || e.kind))[1:{SHOWN}] "
        f"FROM {LEDGER} e WHERE {window.over('e.occurred_at')} AND {wrong}",
        window.parameters,
    )
    count, shown = cursor.fetchone()
    return Check(
        name=name,
        ok=count == 0,
        detail=", ".join(shown or ()) or "no exception",
        expected="0 exceptions",
        found=f"{count} exceptions",
    )


def _components_check(cursor: CursorWrapper, window: _Window) -> Check:
    total = "(SELECT coalesce(sum(value::numeric), 0) FROM jsonb_each_text(e.cost_components))"
    return _count_check(
        cursor,
        window,
        name="cost = sum of its components",
        wrong=f"e.cost_components IS NOT NULL AND e.cost_pico IS DISTINCT FROM {total}",
    )


def _sign_check(cursor: CursorWrapper, window: _Window) -> Check:
    columns = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens",
               "cost_pico", "latency_ms")  # fmt: skip
    return _count_check(
        cursor,
        window,
        name="usage is never negative",
        wrong="e.kind IN ('usage', 'replacement', 'shadow', 'eval') "
        f"AND LEAST({', '.join('e.' + name for name in columns)}) < 0",
    )


def _reversal_check(cursor: CursorWrapper, window: _Window) -> Check:
    negated = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens",
               "cost_pico", "price_pico")  # fmt: skip
    same = ("tenant_id", "api_key_id", "plan_version_id", "feature", "model", "provider", "status",
            "cost_currency", "price_currency", "is_final")  # fmt: skip
    mirrors = " AND ".join(
        (
            *(f"o.{name} IS NOT DISTINCT FROM -e.{name}" for name in negated),
            *(f"o.{name} = e.{name}" for name in same),
        )
    )
    return _count_check(
        cursor,
        window,
        name="every reversal mirrors its original",
        wrong=f"e.kind = 'reversal' AND NOT EXISTS (SELECT FROM {LEDGER} o WHERE {_sibling('usage')} "
        f"AND {mirrors})",
    )


def _replacement_check(cursor: CursorWrapper, window: _Window) -> Check:
    return _count_check(
        cursor,
        window,
        name="every replacement follows a reversal",
        wrong=f"e.kind = 'replacement' AND NOT EXISTS (SELECT FROM {LEDGER} o WHERE {_sibling('reversal')})",
    )


def _overhead_check(cursor: CursorWrapper, window: _Window) -> Check:
    return _count_check(
        cursor,
        window,
        name="overhead is nobody's usage",
        wrong=f"{IS_OVERHEAD} AND (e.price_pico IS DISTINCT FROM 0 OR e.is_final)",
    )


def _sibling(kind: str) -> str:
    return (
        "o.occurred_at = e.occurred_at AND o.request_id = e.request_id AND o.attempt = e.attempt "
        f"AND o.kind = '{kind}'"
    )


def _default_check(cursor: CursorWrapper, window: _Window) -> Check:
    """Rows without a partition of their own are counted, yet somebody's clock is wrong: a warning."""
    cursor.execute(
        f"SELECT count(*), min(occurred_at), max(occurred_at) FROM {LEDGER}_default "
        f"WHERE {window.over('occurred_at')}",
        window.parameters,
    )
    count, first, last = cursor.fetchone()
    return Check(
        name="every row lies in its day's partition",
        ok=count == 0,
        detail=f"from {first} to {last}" if count else "the default partition is empty",
        expected="0 rows in DEFAULT",
        found=f"{count} rows in DEFAULT",
        is_warning=True,
    )


def _counters_check() -> Check:
    """I8, as the check that runs every minute last found it: only it sees the counters. Differences were repaired."""
    last = BudgetCheck.objects.first()
    name, expected = "budget counters = ledger + open holds", "0 counters differ"
    if last is None:
        return Check(name, True, "never checked yet", expected, "no check", is_warning=True)
    wrong = len(last.differences)
    detail = "; ".join(
        f"budget {each['budget']} {each['window']}: counter {each['counter']}, ledger {each['ledger']}, "
        f"held {each['held']} of {each['held_open']}"
        for each in last.differences[:SHOWN]
    )
    return Check(
        name=name,
        ok=wrong == 0,
        detail=detail or f"{last.counters} counters agreed at {last.checked_at:%Y-%m-%dT%H:%M:%SZ}",
        expected=expected,
        found=f"{wrong} of {last.counters} counters differed",
    )


def _floor(instant: datetime | None) -> datetime | None:
    return None if instant is None else instant.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _ceil(instant: datetime | None) -> datetime | None:
    floor = _floor(instant)
    return floor if floor is None or floor == instant else floor + timedelta(hours=1)
