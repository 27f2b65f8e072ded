"""Usage in numbers: the one query behind the console's pages, the API, its CSV and, later, the invoice.

Whole hours come from the rollups, what cuts an hour from the ledger itself. Must never show one tenant's
usage to another (the caller says whose), nor add up amounts of different currencies.
"""

# ruff: noqa: S608 - statements are put together from this package's own constants

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper

from billing.usage.histogram import quantile
from billing.usage.partitions import LEDGER
from billing.usage.rollups import (
    FINAL_WEIGHT,
    IS_TENANTS,
    TOKENS,
    USAGE_HOUR,
    USAGE_KEY_HOUR,
    USAGE_LATENCY_HOUR,
    Rollup,
)
from tenants.errors import ApiError

DIMENSIONS: Mapping[str, str] = {
    "tenant": "tenant_id",
    "key": "api_key_id",
    "feature": "feature",
    "operation": "operation",
    "model": "model",
    "provider": "provider",
    "region": "region",
    "status": "status",
}
"""What can be grouped and filtered by, and its column everywhere."""

_MOMENTS: Mapping[str, str] = {
    "day": "(moment AT TIME ZONE %(zone)s)::date",
    "hour": "date_trunc('hour', moment, %(zone)s)",
}
GROUPS: tuple[str, ...] = (*_MOMENTS, *DIMENSIONS)

_COUNTS: Mapping[str, str] = {
    "requests": "requests",
    "attempts": "attempts",
    "tokens": TOKENS,
    "input_tokens": "input_tokens + cache_read_tokens + cache_write_tokens",
    "output_tokens": "output_tokens + reasoning_tokens",
    "cache_read_tokens": "cache_read_tokens",
    "cache_write_tokens": "cache_write_tokens",
    "reasoning_tokens": "reasoning_tokens",
    "unpriced": "unpriced",
    "errors": "CASE WHEN status IN ('error', 'cut', 'unknown') THEN requests ELSE 0 END",
    "successes": "CASE WHEN status = 'ok' THEN requests ELSE 0 END",
}
_OF_KEYS: Mapping[str, str] = {"requests": "requests", "tokens": "tokens"}
_QUANTILES: Mapping[str, float] = {"p50_ms": 0.5, "p95_ms": 0.95}
_MONEY = ("cost", "price")
MEASURES: tuple[str, ...] = (
    *(name for name in _COUNTS if name != "successes"),
    *_MONEY,
    "success_rate",
    *_QUANTILES,
)
"""`requests` are calls of tenants, `attempts` what they took at providers. `input_tokens` holds the cache
parts, `output_tokens` reasoning: together they are `tokens`. `unpriced` are attempts without a cost or a
price. `errors` are calls that failed, broke or never told how they ended; `success_rate` is the share of
good ones among good and failed (a client that left counts for neither), None without any. Money is a
mapping of currency to pico-units; times are in ms, None without calls."""

_HOUR = timedelta(hours=1)

type Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Report:
    """`rows` hold the groups asked for, then the measures, in the order of the groups; `totals` the measures.

    `day` is a date, `hour` an instant, `tenant` and `key` are UUIDs, other groups text. All of it is one
    snapshot of the database, taken at `as_of`.
    """

    rows: Sequence[Row]
    totals: Row
    as_of: datetime


@dataclass(frozen=True, slots=True)
class LiveMinute:
    """What ended well or badly among the calls that began in this minute (UTC)."""

    minute: datetime
    requests: int
    errors: int
    tokens: int


def report(
    *,
    tenant_ids: frozenset[UUID] | None,
    start: datetime,
    end: datetime,
    timezone: str,
    group_by: Sequence[str],
    measures: Sequence[str],
    filters: Mapping[str, Collection[Any]] | None = None,
) -> Report:
    """Usage of calls that began in [start, end), of these tenants (None: all).

    Days and hours are those of `timezone` (IANA). `filters` maps a dimension to the values that count.
    Quantiles by anything but tenant, provider, model and time, and most measures by key, are read from the
    ledger row by row. Raises ApiError invalid_request for names or a span that make no sense.
    """
    filters = filters or {}
    _check_names(group_by=group_by, measures=measures, filters=filters)
    zone = _checked_zone(start, end, timezone)
    wanted = _Wanted(
        group_by=tuple(group_by),
        columns=frozenset(DIMENSIONS[name] for name in (*group_by, *filters) if name in DIMENSIONS),
        filters={DIMENSIONS[name]: list(values) for name, values in filters.items()},
        tenant_ids=None if tenant_ids is None else sorted(tenant_ids),
        span=(start, end),
        cut_hours=_cut_hours(start, end, zone, group_by),
        zone=timezone,
    )
    groups: dict[tuple[Any, ...], _Sums] = {}
    with _snapshot() as cursor:
        cursor.execute("SELECT now()")
        as_of = cursor.fetchone()[0]
        if any(name not in _QUANTILES for name in measures):
            _add_up(cursor, wanted, measures, groups)
        if any(name in _QUANTILES for name in measures):
            _count_latencies(cursor, wanted, groups)
    total = _Sums()
    for sums in groups.values():
        total.add(sums)
    labels = sorted(groups, key=lambda label: tuple(map(str, label)))
    return Report(
        rows=[
            {**dict(zip(group_by, label, strict=True)), **groups[label].measured(measures)}
            for label in labels
        ],
        totals=total.measured(measures),
        as_of=as_of,
    )


def live(*, tenant_ids: frozenset[UUID] | None, minutes: int) -> Sequence[LiveMinute]:
    """The last `minutes` minutes, the present one included, from the ledger; quiet ones are left out."""
    whose = "TRUE" if tenant_ids is None else "tenant_id = ANY(%(tenant_ids)s)"
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT date_trunc('minute', occurred_at, 'UTC'), sum({FINAL_WEIGHT}), "
            f"sum(CASE WHEN status IN ('error', 'cut', 'unknown') THEN {FINAL_WEIGHT} ELSE 0 END), "
            f"sum({TOKENS}) FROM {LEDGER} "
            f"WHERE occurred_at >= date_trunc('minute', now(), 'UTC') - make_interval(mins => %(back)s) "
            f"AND {whose} AND {IS_TENANTS} GROUP BY 1 ORDER BY 1",
            {"back": minutes - 1, "tenant_ids": None if tenant_ids is None else sorted(tenant_ids)},
        )
        return [
            LiveMinute(minute, int(requests), int(errors), int(tokens))
            for minute, requests, errors, tokens in cursor.fetchall()
        ]


# ------------------------------------------------------------------ what is asked


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A checked request. `cut_hours` are the UTC hours of which only parts count, or parts for each group."""

    group_by: tuple[str, ...]
    columns: frozenset[str]
    filters: Mapping[str, list[Any]]
    tenant_ids: list[UUID] | None
    span: tuple[datetime, datetime]
    cut_hours: Sequence[datetime]
    zone: str

    def labels(self) -> list[str]:
        return [_MOMENTS.get(name) or DIMENSIONS[name] for name in self.group_by]

    def facts(self, rollup: Rollup, extra: Collection[str]) -> tuple[str, Mapping[str, Any]]:
        """A FROM item of rows (moment, dimensions, extra keys, sums) and the statement's parameters.

        A rollup that lacks a dimension is replaced by the ledger over the whole span.
        """
        start, end = self.span
        dimensions = [*sorted(self.columns - set(extra)), *extra]
        from_ledger = ", ".join(
            (
                "occurred_at AS moment",
                *(f"{rollup.keys.get(name, name)} AS {name}" for name in dimensions),
                *(f"({sums})::{rollup.type_of(name)} AS {name}" for name, sums in rollup.sums.items()),
            )
        )
        source = (
            f"SELECT {from_ledger} FROM unnest(%(lows)s::timestamptz[], %(highs)s::timestamptz[]) "
            f"AS piece (low, high) JOIN {LEDGER} ON occurred_at >= low AND occurred_at < high "
            f"WHERE {rollup.condition} AND {self._narrowing()}"
        )
        pieces = [(start, end)]
        if self.columns <= set(rollup.keys):
            pieces = _pieces(self.cut_hours, start, end)
            source += (
                f" UNION ALL SELECT {', '.join(('hour AS moment', *dimensions, *rollup.sums))} "
                f"FROM {rollup.table} WHERE hour >= %(first)s AND hour < %(last)s "
                f"AND hour <> ALL(%(cut_hours)s::timestamptz[]) AND {self._narrowing()}"
            )
        return f"({source}) facts", {
            "lows": [low for low, _ in pieces],
            "highs": [high for _, high in pieces],
            "first": _floor(start),
            "last": end,
            "cut_hours": list(self.cut_hours),
            "zone": self.zone,
            "tenant_ids": self.tenant_ids,
            **{f"only_{column}": values for column, values in self.filters.items()},
        }

    def _narrowing(self) -> str:
        conditions = [f"{column} = ANY(%(only_{column})s)" for column in self.filters]
        if self.tenant_ids is not None:
            conditions.append("tenant_id = ANY(%(tenant_ids)s)")
        return " AND ".join(conditions) or "TRUE"


def _check_names(
    *, group_by: Sequence[str], measures: Sequence[str], filters: Mapping[str, Collection[Any]]
) -> None:
    for param, names, known in (
        ("group_by", group_by, GROUPS),
        ("measures", measures, MEASURES),
        ("filters", tuple(filters), tuple(DIMENSIONS)),
    ):
        for name in names:
            if name not in known:
                raise ApiError("invalid_request", f"{name!r} is none of {', '.join(known)}.", param=param)
        if len(set(names)) < len(names):
            raise ApiError("invalid_request", f"{param} names something twice.", param=param)
    if not measures:
        raise ApiError("invalid_request", "Ask for at least one measure.", param="measures")


def _checked_zone(start: datetime, end: datetime, timezone: str) -> ZoneInfo:
    if start >= end:
        raise ApiError("invalid_request", "The span must end after it starts.", param="to")
    try:
        return ZoneInfo(timezone)
    except (ValueError, OSError, LookupError) as error:
        # ZoneInfo answers bad names with all of these, by how they are bad.
        raise ApiError("invalid_request", f"There is no timezone {timezone!r}.", param="timezone") from error


# ------------------------------------------------------------------ hours and what cuts them


def _floor(instant: datetime) -> datetime:
    return instant.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _cut_hours(start: datetime, end: datetime, zone: ZoneInfo, group_by: Sequence[str]) -> Sequence[datetime]:
    """UTC hours that the span's ends, or the zone's days and hours where asked for, cut into parts."""
    cuts = {start, end}
    if "day" in group_by:
        cuts.update(_midnights(start, end, zone))
    hours = {_floor(cut) for cut in cuts if cut != _floor(cut)}
    if "hour" in group_by:
        hour = _floor(start)
        while hour < end:
            if _is_off_grid(hour, zone) or _is_off_grid(hour + _HOUR - timedelta(seconds=1), zone):
                hours.add(hour)
            hour += _HOUR
    return sorted(hours)


def _midnights(start: datetime, end: datetime, zone: ZoneInfo) -> Iterator[datetime]:
    day: date = start.astimezone(zone).date()
    while True:
        day += timedelta(days=1)
        midnight = datetime.combine(day, time(), zone).astimezone(UTC)
        if midnight >= end:
            return
        yield midnight


def _is_off_grid(instant: datetime, zone: ZoneInfo) -> bool:
    """Whether the zone's hours do not begin with UTC's at that time."""
    offset = instant.astimezone(zone).utcoffset()
    return bool(offset and offset % _HOUR)


def _pieces(hours: Sequence[datetime], start: datetime, end: datetime) -> list[tuple[datetime, datetime]]:
    """The parts of [start, end) within these hours, neighbours joined."""
    pieces: list[tuple[datetime, datetime]] = []
    for hour in hours:
        low, high = max(hour, start), min(hour + _HOUR, end)
        if pieces and pieces[-1][1] == low:
            pieces[-1] = (pieces[-1][0], high)
        else:
            pieces.append((low, high))
    return pieces


# ------------------------------------------------------------------ sums


@dataclass(slots=True)
class _Sums:
    """One group's numbers while they are added up."""

    counts: dict[str, int] = field(default_factory=dict)
    money: dict[str, dict[str, int]] = field(default_factory=lambda: {name: {} for name in _MONEY})
    latencies: dict[int, int] = field(default_factory=dict)

    def add(self, other: "_Sums") -> None:
        _merge(self.counts, other.counts)
        _merge(self.latencies, other.latencies)
        for name in _MONEY:
            _merge(self.money[name], other.money[name])

    def measured(self, measures: Sequence[str]) -> dict[str, Any]:
        return {name: self._measure(name) for name in measures}

    def _measure(self, name: str) -> Any:
        if name in _QUANTILES:
            return quantile(self.latencies, _QUANTILES[name])
        if name in _MONEY:
            return dict(sorted(self.money[name].items()))
        if name == "success_rate":
            good, bad = self.counts.get("successes", 0), self.counts.get("errors", 0)
            return good / (good + bad) if good + bad else None
        return self.counts.get(name, 0)


def _merge[K](mine: dict[K, int], theirs: Mapping[K, int]) -> None:
    for key, value in theirs.items():
        mine[key] = mine.get(key, 0) + value


def _add_up(
    cursor: CursorWrapper,
    wanted: _Wanted,
    measures: Sequence[str],
    groups: dict[tuple[Any, ...], _Sums],
) -> None:
    plain = {*measures} - {*_QUANTILES, *_MONEY}
    extra: tuple[str, ...]
    is_for_keys = "api_key_id" in wanted.columns and wanted.columns <= set(USAGE_KEY_HOUR.keys)
    if is_for_keys and plain <= set(_OF_KEYS):
        rollup, expressions, extra = USAGE_KEY_HOUR, _OF_KEYS, ()
    else:
        rollup, expressions, extra = USAGE_HOUR, _COUNTS, ("status",)
    currencies = tuple(f"{name}_currency" for name in _MONEY)
    facts, parameters = wanted.facts(rollup, (*extra, *currencies))
    labels = wanted.labels()
    sums = [f"sum({expression})" for expression in expressions.values()]
    sums += [f"sum({name}_pico)" for name in _MONEY]
    columns = [*labels, *currencies]
    positions = ", ".join(str(n + 1) for n in range(len(columns)))
    cursor.execute(f"SELECT {', '.join((*columns, *sums))} FROM {facts} GROUP BY {positions}", parameters)
    width = len(labels)
    for row in cursor.fetchall():
        label, used, numbers = row[:width], row[width : width + 2], [int(n) for n in row[width + 2 :]]
        group = groups.setdefault(label, _Sums())
        _merge(group.counts, dict(zip(expressions, numbers, strict=False)))
        for name, currency, pico in zip(_MONEY, used, numbers[-2:], strict=True):
            if currency:
                _merge(group.money[name], {currency: pico})


def _count_latencies(cursor: CursorWrapper, wanted: _Wanted, groups: dict[tuple[Any, ...], _Sums]) -> None:
    facts, parameters = wanted.facts(USAGE_LATENCY_HOUR, ("bucket",))
    columns = [*wanted.labels(), "bucket"]
    positions = ", ".join(str(n + 1) for n in range(len(columns)))
    cursor.execute(f"SELECT {', '.join(columns)}, sum(count) FROM {facts} GROUP BY {positions}", parameters)
    for *label, bucket, count in cursor.fetchall():
        _merge(groups.setdefault(tuple(label), _Sums()).latencies, {bucket: int(count)})


@contextmanager
def _snapshot() -> Iterator[CursorWrapper]:
    """A cursor that sees one state throughout; inside a caller's transaction, the caller's."""
    if connection.in_atomic_block:
        with connection.cursor() as cursor:
            yield cursor
        return
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        yield cursor
