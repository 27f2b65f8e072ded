"""Attempts as a re-rating sees them: what was used, and what all of the ledger's rows about it cost so far.

Reads in slices of time, so that a month never stands in memory. Shadows and evaluations are left out: a
`rerate` entry is a tenant's, and these are nobody's usage.
"""

# ruff: noqa: S608 - statements are put together from constants

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import orjson
from django.db import connection

from billing.usage.partitions import LEDGER

SLICE_ROWS: Final = 2_000

_UNITS: Final = ("input", "cache_read", "cache_write", "output", "reasoning")
_COPIED: Final = (
    "tenant_id", "api_key_id", "plan_version_id", "feature", "end_user", "operation", "request_model", "model",
    "provider", "provider_model", "endpoint_id", "region", "service_tier", "policy", "status", "error_type",
    "is_final", "is_stream", "is_byok", "usage_source", "cost_currency", "price_currency", "tenant_regions",
    "tags",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Scope:
    """Which attempts: begun in [start, end), at this provider, of this model ("": all), of these tenants
    (empty: all)."""

    start: datetime
    end: datetime
    provider: str
    provider_model: str = ""
    tenant_ids: Sequence[UUID] = ()

    def where(self) -> tuple[str, dict[str, Any]]:
        words = ["provider = %(provider)s", "kind IN ('usage', 'reversal', 'replacement', 'rerate')"]
        if self.provider_model:
            words.append("provider_model = %(provider_model)s")
        if self.tenant_ids:
            words.append("tenant_id = ANY(%(tenant_ids)s)")
        return " AND ".join(words), {
            "provider": self.provider,
            "provider_model": self.provider_model,
            "tenant_ids": list(self.tenant_ids),
        }


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt that stands. `booked_pico` is the sum of its entries, None while none had a cost;
    `components` are their sums, None where an entry does not tell. `columns` are what a delta copies."""

    occurred_at: datetime
    request_id: UUID
    attempt: int
    units: Mapping[str, int]
    booked_pico: int | None
    components: Mapping[str, int] | None
    price_pico: int
    columns: Mapping[str, Any]

    @property
    def is_known(self) -> bool:
        """Whether there are counts to rate. A worker that died leaves an estimate without them."""
        return self.columns["usage_source"] != "unknown" and (bool(self.units) or not self.booked_pico)


def slices(scope: Scope, *, begin: datetime | None = None) -> Iterator[tuple[datetime, datetime]]:
    """Neighbouring pieces of the window from `begin` on, of some 2,000 rows each; an instant is never cut."""
    where, values = scope.where()
    at = begin or scope.start
    statement = (
        f"SELECT occurred_at FROM {LEDGER} WHERE occurred_at >= %(at)s AND occurred_at < %(end)s AND {where} "
        "ORDER BY occurred_at OFFSET %(rows)s LIMIT 1"
    )
    while at < scope.end:
        with connection.cursor() as cursor:
            cursor.execute(statement, {**values, "at": at, "end": scope.end, "rows": SLICE_ROWS})
            row = cursor.fetchone()
        until = scope.end if row is None else max(row[0], at + timedelta(milliseconds=1))
        yield at, until
        at = until


def attempts(scope: Scope, begin: datetime, until: datetime) -> Iterator[Attempt]:
    """The attempts of one slice, in the ledger's order."""
    where, values = scope.where()
    columns = ", ".join(f"(array_agg({name} ORDER BY rank))[1]" for name in _COPIED if name != "tags")
    units = ", ".join(f"(array_agg({name}_tokens ORDER BY rank))[1]" for name in _UNITS)
    statement = f"""
        WITH entries AS (
            SELECT *, coalesce(ref_request_id, request_id) AS about,
                CASE kind WHEN 'replacement' THEN 0 WHEN 'usage' THEN 1 ELSE 2 END AS rank
            FROM {LEDGER} WHERE occurred_at >= %(begin)s AND occurred_at < %(until)s AND {where}
        )
        SELECT occurred_at, about, attempt, {units},
            (array_agg(other_units ORDER BY rank))[1]::text, sum(cost_pico),
            jsonb_agg(cost_components) FILTER (WHERE cost_pico <> 0)::text, coalesce(sum(price_pico), 0),
            (array_agg(tags ORDER BY rank))[1]::text, {columns}
        FROM entries GROUP BY occurred_at, about, attempt
        HAVING bool_or(kind = 'replacement') OR (bool_or(kind = 'usage') AND NOT bool_or(kind = 'reversal'))
        ORDER BY occurred_at, about, attempt"""
    with connection.cursor() as cursor:
        cursor.execute(statement, {**values, "begin": begin, "until": until})
        rows = cursor.fetchall()
    names = [name for name in _COPIED if name != "tags"]
    for row in rows:
        occurred_at, request_id, attempt = row[:3]
        counts, (other, booked, parts, price, tags) = row[3:8], row[8:13]
        yield Attempt(
            occurred_at=occurred_at,
            request_id=request_id,
            attempt=attempt,
            units=_units(counts, other),
            booked_pico=None if booked is None else int(booked),
            components=_components(parts),
            price_pico=int(price),
            columns={
                **dict(zip(names, row[13:], strict=True)),
                "tags": None if tags is None else orjson.loads(tags),
            },
        )


def _units(counts: Sequence[int], other: str | None) -> dict[str, int]:
    """Disjoint components, as they were rated: `cache_write_1h` is told apart beside its column."""
    units = dict(zip(_UNITS, counts, strict=True))
    units |= orjson.loads(other) if other else {}
    units["cache_write"] -= units.get("cache_write_1h", 0)
    return {name: number for name, number in units.items() if number}


def _components(parts: str | None) -> dict[str, int] | None:
    if parts is None:
        return {}
    found: dict[str, int] = {}
    for entry in orjson.loads(parts):
        if entry is None:
            return None
        for name, pico in entry.items():
            found[name] = found.get(name, 0) + int(pico)
    return found
