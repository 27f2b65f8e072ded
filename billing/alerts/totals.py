"""What many budgets' windows have used, in one statement over the rollups: an upper bound, cheap to ask.

Must never be below `budgets.counters.spent`, which decides: it screens out the budgets that cannot have
reached a threshold. Tokens of failed attempts are in the rollups and not in budgets; scopes that are not
known here are not narrowed to.
"""

# ruff: noqa: S608 - the statement is put together from constants

from collections.abc import Sequence
from datetime import UTC, datetime

from django.db import connection

from billing.snapshot import BudgetEntry, Window
from billing.usage.partitions import LEDGER
from billing.usage.rollups import FINAL_WEIGHT, TOKENS

_FOREVER = datetime(9999, 1, 1, tzinfo=UTC)
_FINAL_TOKENS = f"CASE WHEN is_final THEN {TOKENS} ELSE 0 END"
_KEY = "(b.api_key_id IS NULL OR u.api_key_id = b.api_key_id)"
_FEATURE = "(b.feature = '' OR u.feature = b.feature)"
_MODEL = "(b.model = '' OR u.model = b.model)"
_USER = "(b.end_user = '' OR u.end_user = b.end_user)"


def _sum(table: str, *, tokens: str, requests: str, where: str) -> str:
    """A LATERAL item with the total of budget `b` in a table."""
    return (
        f"LATERAL (SELECT CASE b.measure WHEN 'price' THEN sum(price_pico) WHEN 'cost' THEN sum(cost_pico) "
        f"WHEN 'tokens' THEN sum({tokens}) ELSE sum({requests}) END AS total "
        f"FROM {table} u WHERE u.tenant_id = b.tenant_id AND {where})"
    )


_BY_HOUR = _sum(
    "billing_usage_hour",
    tokens=TOKENS,
    requests="requests",
    where=f"b.source = 'hour' AND u.hour >= b.whole AND u.hour < b.high AND {_FEATURE} AND {_MODEL}",
)
_BY_KEY = _sum(
    "billing_usage_key_hour",
    tokens="tokens",
    requests="requests",
    where=f"b.source = 'key' AND u.hour >= b.whole AND u.hour < b.high AND {_KEY} AND {_MODEL}",
)
# All of a scope that the rollups do not know; of others, what their window's start cuts off an hour.
_BY_CALL = _sum(
    LEDGER,
    tokens=_FINAL_TOKENS,
    requests=FINAL_WEIGHT,
    where=(
        "u.occurred_at >= b.low AND u.occurred_at < CASE b.source WHEN 'call' THEN b.high ELSE b.whole END "
        f"AND {_KEY} AND {_FEATURE} AND {_MODEL} AND {_USER}"
    ),
)
_COLUMNS = {
    "tenant_id": "uuid", "api_key_id": "uuid", "feature": "text", "model": "text", "end_user": "text",
    "measure": "text", "source": "text", "low": "timestamptz", "whole": "timestamptz", "high": "timestamptz",
}  # fmt: skip
_STATEMENT = (
    "SELECT coalesce(by_hour.total, 0) + coalesce(by_key.total, 0) + coalesce(by_call.total, 0) "
    f"FROM unnest({', '.join(f'%({name})s::{kind}[]' for name, kind in _COLUMNS.items())}) "
    f"WITH ORDINALITY AS b ({', '.join(_COLUMNS)}, position) "
    f"LEFT JOIN {_BY_HOUR} by_hour ON b.source = 'hour' LEFT JOIN {_BY_KEY} by_key ON b.source = 'key' "
    f"LEFT JOIN {_BY_CALL} by_call ON b.source = 'call' OR b.low < b.whole ORDER BY b.position"
)


def upper_bounds(asked: Sequence[tuple[BudgetEntry, Window]]) -> list[int]:
    """For each budget and its running window, at least what it has used: pico-units, tokens or requests."""
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
        return [int(total) for (total,) in cursor.fetchall()]


def _source_of(entry: BudgetEntry) -> str:
    """The coarsest table that knows the budget's scope."""
    if entry.end_user or (entry.api_key_id is not None and entry.feature):
        return "call"
    return "hour" if entry.api_key_id is None else "key"


def _instant(unix_s: float) -> datetime:
    return datetime.fromtimestamp(unix_s, UTC)
