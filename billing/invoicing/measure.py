"""What a tenant used in a period, as the ledger knew it at a watermark: the facts that lines are rated from.

Reads the ledger itself, not its rollups: those know neither when a row was recorded (so no document could be
recomputed) nor which calls are unpriced, were mere attempts, or used components without a column.
"""

# ruff: noqa: S608 - statements are put together from this package's own constants

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

from django.db import connection

from billing.usage.partitions import LEDGER
from billing.usage.rollups import WEIGHT

COUNTED = (
    "(kind IN ('usage', 'reversal', 'replacement') AND is_final AND status IN ('ok', 'cut', 'cancelled'))"
)
"""Attempts that a tenant may owe something for: those that answered, as the pipeline prices them."""

BILLABLE = f"(({COUNTED} AND price_pico IS NOT NULL) OR (kind = 'adjustment' AND price_pico <> 0))"
"""Ledger rows that stand behind a document."""

SCOPE = (
    "tenant_id = %(tenant)s AND occurred_at >= %(start)s AND occurred_at < %(end)s "
    "AND price_currency = %(currency)s AND recorded_at <= %(recorded_to)s"
)

type Group = tuple[UUID, str, bool]
"""Plan version, model, own key: what decides which charge prices a call."""


@dataclass(frozen=True, slots=True)
class Fact:
    """Sums of a group's priced calls. `cost_pico` by (currency, UTC day; None where no rate is needed)."""

    requests: int
    units: Mapping[str, int]
    cost_pico: Mapping[tuple[str, date | None], int]
    price_pico: int


@dataclass(frozen=True, slots=True)
class Measured:
    """`adjustments` are (rows, pico) of amounts booked by plan version; `unpriced` calls are on no line."""

    facts: Mapping[Group, Fact]
    adjustments: Mapping[UUID, tuple[int, int]]
    unpriced: int


_COLUMNS: Mapping[str, str] = {
    "input": "input_tokens",
    "cache_read": "cache_read_tokens",
    "cache_write": "cache_write_tokens",
    "output": "output_tokens",
    "reasoning": "reasoning_tokens",
}


def measure(
    *, tenant_id: UUID, start: datetime, end: datetime, currency: str, recorded_to: datetime
) -> Measured:
    """Calls that began in [start, end), are priced in `currency` and were recorded up to `recorded_to`.

    Re-rated costs are left out (R22).
    """
    scope: dict[str, Any] = {
        "tenant": tenant_id,
        "start": start,
        "end": end,
        "currency": currency,
        "recorded_to": recorded_to,
    }
    sums: dict[Group, dict[str, Any]] = {}
    adjustments: dict[UUID, tuple[int, int]] = {}
    unpriced = 0
    with connection.cursor() as cursor:
        cursor.execute(_SUMS, scope)
        for version, model, is_byok, kind, is_priced, cost_currency, day, weight, *rest in cursor.fetchall():
            numbers = [int(number) for number in rest]
            if kind == "adjustment":
                rows, pico = adjustments.get(version, (0, 0))
                adjustments[version] = (rows + numbers[-1], pico + numbers[-2])
                continue
            if not is_priced:
                unpriced += int(weight)
                continue
            group = sums.setdefault(
                (version, model, is_byok), {"requests": 0, "price": 0, "units": {}, "cost": {}}
            )
            group["requests"] += int(weight)
            group["price"] += numbers[-2]
            key = (cost_currency, day)
            group["cost"][key] = group["cost"].get(key, 0) + numbers[-3]
            for name, number in zip(_COLUMNS, numbers, strict=False):
                group["units"][name] = group["units"].get(name, 0) + number
        cursor.execute(_OTHERS, scope)
        for version, model, is_byok, name, number in cursor.fetchall():
            units = sums[version, model, is_byok]["units"]
            units[name] = units.get(name, 0) + int(number)
            if name == "cache_write_1h":
                units["cache_write"] -= int(number)
    facts = {
        group: Fact(
            requests=found["requests"],
            units={name: number for name, number in found["units"].items() if number},
            cost_pico=found["cost"],
            price_pico=found["price"],
        )
        for group, found in sorted(sums.items(), key=lambda item: (str(item[0][0]), *item[0][1:]))
    }
    return Measured(facts, adjustments, unpriced)


def currencies(*, tenant_id: UUID, start: datetime, end: datetime) -> tuple[str, ...]:
    """In which currencies the period's calls are priced."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT DISTINCT price_currency FROM {LEDGER} WHERE tenant_id = %s AND occurred_at >= %s "
            f"AND occurred_at < %s AND {BILLABLE} ORDER BY 1",
            [tenant_id, start, end],
        )
        return tuple(currency for (currency,) in cursor.fetchall())


def has_rows_since(
    *,
    tenant_id: UUID,
    start: datetime,
    end: datetime,
    currency: str,
    recorded_from: datetime,
    recorded_to: datetime,
) -> bool:
    """Whether anything about calls of [start, end) was recorded in (recorded_from, recorded_to]."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT EXISTS (SELECT FROM {LEDGER} WHERE {SCOPE} AND recorded_at > %(recorded_from)s "
            f"AND {BILLABLE})",
            {
                "tenant": tenant_id,
                "start": start,
                "end": end,
                "currency": currency,
                "recorded_from": recorded_from,
                "recorded_to": recorded_to,
            },
        )
        return bool(cursor.fetchone()[0])


_SUMS = (
    "SELECT plan_version_id, model, is_byok, CASE kind WHEN 'adjustment' THEN kind ELSE 'usage' END, "
    "price_pico IS NOT NULL, cost_currency, CASE WHEN cost_currency NOT IN ('', price_currency) "
    f"THEN (occurred_at AT TIME ZONE 'UTC')::date END, sum({WEIGHT}), "
    f"{', '.join(f'sum({column})' for column in _COLUMNS.values())}, sum(coalesce(cost_pico, 0)), "
    f"sum(coalesce(price_pico, 0)), count(*) FROM {LEDGER} WHERE {SCOPE} "
    f"AND ({COUNTED} OR kind = 'adjustment') GROUP BY 1, 2, 3, 4, 5, 6, 7"
)
_OTHERS = (
    "SELECT plan_version_id, model, is_byok, key, sum(value::numeric) "
    f"FROM {LEDGER}, jsonb_each_text(other_units) WHERE {SCOPE} AND {COUNTED} AND price_pico IS NOT NULL "
    "AND other_units IS NOT NULL GROUP BY 1, 2, 3, 4"
)
