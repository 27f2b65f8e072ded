"""What many budgets' windows have used, in one statement over the rollups: an upper bound, cheap to ask.

Must never be below `budgets.counters.spent`, which decides: it screens out the budgets that cannot have
reached a threshold. Tokens of failed attempts are in the rollups and not in budgets; scopes that are not
known here are not narrowed to.
"""

# ruff: noqa: S608 - the statement is put together from constants

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from django.db import connection
from django.db.models import Max

from billing.budgets.counters import ALL_TOKENS, spent
from billing.models import FxRate
from billing.snapshot import BudgetEntry, Window
from billing.usage.partitions import LEDGER
from billing.usage.rollups import FINAL_WEIGHT, IS_TENANTS, TOKENS

_FOREVER = datetime(9999, 1, 1, tzinfo=UTC)
_COLUMNS = {
    "tenant_id": "uuid", "api_key_id": "uuid", "feature": "text", "model": "text", "end_user": "text",
    "measure": "text", "source": "text", "low": "timestamptz", "whole": "timestamptz", "high": "timestamptz",
}  # fmt: skip
_SCOPE = {
    "api_key_id": "(b.api_key_id IS NULL OR u.api_key_id = b.api_key_id)",
    "feature": "(b.feature = '' OR u.feature = b.feature)",
    "model": "(b.model = '' OR u.model = b.model)",
    "end_user": "(b.end_user = '' OR u.end_user = b.end_user)",
}


_MEASURED = (
    "CASE b.measure WHEN 'price' THEN u.price WHEN 'cost' THEN u.cost WHEN 'tokens' THEN u.tokens "
    "ELSE u.requests END"
)


def _sums(*, tokens: str, requests: str) -> str:
    return f"sum(price_pico) AS price, sum(cost_pico) AS cost, sum({tokens}) AS tokens, sum({requests}) AS requests"


def _rolled_up(source: str, table: str, *, keys: Sequence[str], tokens: str) -> str:
    """The sums of each tenant and span that budgets of this source ask for, once for all of them."""
    named = ", ".join(keys)
    return (
        f"SELECT span.*, sums.* FROM (SELECT DISTINCT tenant_id, whole, high FROM b WHERE source = '{source}') span "
        f"CROSS JOIN LATERAL (SELECT {named}, {_sums(tokens=tokens, requests='requests')} FROM {table} u "
        "WHERE u.tenant_id = span.tenant_id AND u.hour >= span.whole AND u.hour < span.high "
        f"GROUP BY {named}) sums"
    )


def _of_budgets(source: str, name: str, *, keys: Sequence[str]) -> str:
    """Each budget's part of those sums."""
    scope = " AND ".join(_SCOPE[key] for key in keys)
    return (
        f"SELECT b.position, {_MEASURED} AS total FROM b JOIN {name} u USING (tenant_id, whole, high) "
        f"WHERE b.source = '{source}' AND {scope}"
    )


_OF_HOURS = ("feature", "model")
_OF_KEYS = ("api_key_id", "model")
_FINAL_TOKENS = f"CASE WHEN is_final THEN {ALL_TOKENS} ELSE 0 END"
# All of a scope that the rollups do not know; of others, what their window's start cuts off an hour.
_OF_CALLS = (
    f"SELECT b.position, {_MEASURED} AS total FROM b CROSS JOIN LATERAL ("
    f"SELECT {_sums(tokens=_FINAL_TOKENS, requests=FINAL_WEIGHT)} FROM {LEDGER} u "
    "WHERE u.tenant_id = b.tenant_id AND u.occurred_at >= b.low "
    "AND u.occurred_at < CASE b.source WHEN 'call' THEN b.high ELSE b.whole END "
    f"AND {IS_TENANTS} AND {' AND '.join(_SCOPE.values())}) u WHERE b.source = 'call' OR b.low < b.whole"
)
_STATEMENT = (
    f"WITH b AS MATERIALIZED (SELECT * FROM unnest({', '.join(f'%({n})s::{k}[]' for n, k in _COLUMNS.items())}) "
    f"WITH ORDINALITY AS asked ({', '.join(_COLUMNS)}, position)), "
    f"by_hour AS MATERIALIZED ({_rolled_up('hour', 'billing_usage_hour', keys=_OF_HOURS, tokens=TOKENS)}), "
    f"by_key AS MATERIALIZED ({_rolled_up('key', 'billing_usage_key_hour', keys=_OF_KEYS, tokens='tokens')}) "
    f"SELECT coalesce(sum(total), 0) FROM (SELECT position, 0 AS total FROM b "
    f"UNION ALL {_of_budgets('hour', 'by_hour', keys=_OF_HOURS)} "
    f"UNION ALL {_of_budgets('key', 'by_key', keys=_OF_KEYS)} UNION ALL {_OF_CALLS}) parts "
    "GROUP BY position ORDER BY position"
)


def upper_bounds(asked: Sequence[tuple[BudgetEntry, Window]]) -> list[int]:
    """For each budget and its running window, at least what it has used: pico-units, tokens or requests.

    The operator's budgets, which may span all tenants and count overhead, are asked for one by one.
    """
    of_tenants = [each for each in asked if each[0].tenant_id is not None]
    bounds = iter(_of_tenants(of_tenants) if of_tenants else ())
    return [spent(*each) if each[0].tenant_id is None else next(bounds) for each in asked]


def _of_tenants(asked: Sequence[tuple[BudgetEntry, Window]]) -> list[int]:
    dearest = dict(FxRate.objects.values_list("quote").annotate(rate=Max("rate")).order_by())
    columns: dict[str, list[object]] = {
        name: [getattr(entry, name) for entry, _ in asked]
        for name in ("tenant_id", "api_key_id", "feature", "model", "end_user", "measure")
    }
    columns["source"] = [_source_of(entry) for entry, _ in asked]
    columns["low"] = [_instant(window.start) for _, window in asked]
    columns["whole"] = [_instant(-(-window.start // 3600) * 3600) for _, window in asked]
    columns["high"] = [_FOREVER if window.end is None else _instant(window.end) for _, window in asked]
    with connection.cursor() as cursor:
        cursor.execute(_STATEMENT, columns)
        totals = [int(total) for (total,) in cursor.fetchall()]
    # Amounts of all currencies are in the sum: none of them is worth more than its dearest rate says.
    factors = [math.ceil(max(1, dearest.get(entry.currency, 1))) for entry, _ in asked]
    return [total * factor for total, factor in zip(totals, factors, strict=True)]


def _source_of(entry: BudgetEntry) -> str:
    """The coarsest table that knows the budget's scope."""
    if entry.measure == "tokens" or entry.end_user or (entry.api_key_id is not None and entry.feature):
        return "call"
    return "hour" if entry.api_key_id is None else "key"


def _instant(unix_s: float) -> datetime:
    return datetime.fromtimestamp(unix_s, UTC)
