"""What a budget's window has used so far, by the ledger: the truth behind the counter in Redis.

Must agree, row by row, with what settlements add (`budgets.count.taken`, I8).
"""

# ruff: noqa: S608 - statements are put together from this package's own constants

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.db import connection

from billing.budgets.count import OTHER_TOKENS
from billing.budgets.evaluate import Window, carried, window_before
from billing.rating.fx import MAX_AGE_DAYS
from billing.snapshot import BudgetEntry
from billing.usage.partitions import LEDGER
from billing.usage.rollups import FINAL_WEIGHT, IS_OVERHEAD, IS_TENANTS, TOKENS

ALL_TOKENS = (
    f"({TOKENS} + {' + '.join(f"coalesce((other_units ->> '{n}')::bigint, 0)" for n in OTHER_TOKENS)})"
)
MAX_DEBT_WINDOWS = 24
"""How far back a debt is followed."""


def spent(entry: BudgetEntry, window: Window, *, request_ids: Sequence[UUID] | None = None) -> int:
    """Pico-units for price and cost, else tokens or requests. `request_ids` narrows to those calls.

    Exactly what settlements add: unpriced rows and overhead add nothing (but for budgets that ask for overhead),
    amounts in other currencies are converted at their day's rate, tokens and requests count final attempts.
    """
    condition, parameters = _rows(entry, window, request_ids)
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT coalesce(sum({_amount(entry)}), 0) FROM {LEDGER} u WHERE {condition}", parameters
        )
        return int(cursor.fetchone()[0])


def spent_by_bucket(
    entry: BudgetEntry, window: Window, *, request_ids: Sequence[UUID] | None = None
) -> Mapping[int, int]:
    """`spent` of a rolling window by its buckets; those without a row are left out."""
    condition, parameters = _rows(entry, window, request_ids)
    bucket = f"((extract(epoch FROM occurred_at) * 1000)::bigint / {int(window.width_ms)})"
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT {bucket}, coalesce(sum({_amount(entry)}), 0) FROM {LEDGER} u "
            f"WHERE {condition} GROUP BY 1",
            parameters,
        )
        return {int(index): int(amount) for index, amount in cursor.fetchall()}


def carry(entry: BudgetEntry, window: Window, *, held_before: int = 0) -> int:
    """What earlier windows leave to this one: unused above 0, debt below; in the unit of `spent`.

    `held_before` is what calls of the window before still hold. Windows that ended before the budget was made
    leave nothing.
    """
    if entry.carry_over == "none":
        return 0
    limit = entry.limit * entry.unit
    cap = None if entry.carry_cap is None else entry.carry_cap * entry.unit
    earlier: list[Window] = []
    found = window_before(entry, window)
    while found is not None and found.end is not None and found.end > entry.created_s:
        earlier.append(found)
        if entry.carry_over == "unused" or len(earlier) == MAX_DEBT_WINDOWS:
            break
        found = window_before(entry, found)
    totals = [spent(entry, each) for each in reversed(earlier)]
    if totals:
        totals[-1] += held_before
    return carried(entry.carry_over, limit=limit, spent=totals, cap=cap)


# ------------------------------------------------------------------ statements

_RATE = (
    "(SELECT f.rate FROM billing_fxrate f WHERE f.base = u.{currency} AND f.quote = %(currency)s "
    "AND f.day <= (u.occurred_at AT TIME ZONE 'UTC')::date "
    f"AND f.day >= (u.occurred_at AT TIME ZONE 'UTC')::date - {MAX_AGE_DAYS} ORDER BY f.day DESC LIMIT 1)"
)


def _amount(entry: BudgetEntry) -> str:
    match entry.measure:
        case "price" | "cost":
            currency = f"{entry.measure}_currency"
            rate = _RATE.format(currency=currency)
            amount = f"u.{entry.measure}_pico"
            return f"CASE WHEN u.{currency} = %(currency)s THEN {amount} ELSE round({amount} * {rate}) END"
        case "tokens":
            return f"CASE WHEN u.is_final THEN {ALL_TOKENS} ELSE 0 END"
        case _:
            return FINAL_WEIGHT


def _rows(
    entry: BudgetEntry, window: Window, request_ids: Sequence[UUID] | None
) -> tuple[str, Mapping[str, Any]]:
    """The ledger rows that count, as a condition on `u`."""
    conditions = ["u.occurred_at >= %(low)s"]
    parameters: dict[str, Any] = {
        "low": datetime.fromtimestamp(window.start, UTC),
        "currency": entry.currency,
    }
    if window.end is not None:
        conditions.append("u.occurred_at < %(high)s")
        parameters["high"] = datetime.fromtimestamp(window.end, UTC)
    for column in ("tenant_id", "api_key_id", "feature", "end_user", "model", "provider"):
        wanted = getattr(entry, column)
        if wanted:
            conditions.append(f"u.{column} = %({column})s")
            parameters[column] = wanted
    if entry.plan_id is not None:
        conditions.append(
            "u.plan_version_id IN (SELECT v.id FROM billing_planversion v WHERE v.plan_id = %(plan_id)s)"
        )
        parameters["plan_id"] = entry.plan_id
    if entry.tag:
        conditions.append("u.tags ->> %(tag_key)s = %(tag_value)s")
        parameters["tag_key"], parameters["tag_value"] = entry.tag
    if not entry.include_byok and entry.measure != "price":
        conditions.append("NOT u.is_byok")
    if not entry.include_overhead:
        conditions.append(IS_TENANTS)
    if entry.measure == "cost" and not entry.include_failed:
        conditions.append(f"({IS_OVERHEAD} OR (u.is_final AND u.status NOT IN ('error', 'unknown')))")
    if request_ids is not None:
        conditions.append("u.request_id = ANY(%(request_ids)s)")
        parameters["request_ids"] = list(request_ids)
    return " AND ".join(conditions), parameters
