"""Margin in numbers: revenue, cost, overhead and unit figures by any dimension; one query for page, API and CSV.

Read from the hourly rollups, in whole UTC hours and UTC days. From the ledger come only two things, and the
report says so: distinct end users, and everything by API key. Amounts of different currencies are converted
at each day's frozen rate or kept apart, never added up.
"""

# ruff: noqa: S608 - statements are put together from this package's own constants

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final
from uuid import UUID

from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper

from billing.economics.forecast import Forecast, forecast
from billing.economics.unit import Activity, UnitEconomics, unit_economics
from billing.invoicing.period import periods_of, segments_of, within
from billing.models import FxRate, PlanVersion
from billing.rating.allocation import spread
from billing.rating.fx import MAX_AGE_DAYS, DailyRate, FxTable, convert_pico
from billing.rating.money import PICO, round_half_away, to_pico
from billing.usage.partitions import LEDGER
from billing.usage.rollups import USAGE_HOUR
from tenants.errors import ApiError
from tenants.models import Tenant

DIMENSIONS: Final[Mapping[str, str]] = {
    "day": "(hour AT TIME ZONE 'UTC')::date",
    "tenant": "tenant_id",
    "plan": "coalesce(p.slug, '')",
    "feature": "feature",
    "model": "model",
    "region": "region",
    "provider": "provider",
    "key": "api_key_id",
}
"""What can be grouped by. All but `day` can be filtered by."""

GROUPS: Final = tuple(DIMENSIONS)
MAX_SPAN: Final = timedelta(days=400)
MAX_LEDGER_SPAN: Final = timedelta(days=92)
HISTORY_DAYS: Final = 120
BOTTOM: Final = 10
THOUSAND: Final = 1000
E6: Final = 6

FEES_ALLOCATION: Final = "charge_share"
"""Base fees accrue by the second of their billing cycle and go to a tenant's rows by their share of its
charges in the span; a tenant without charges has them in the totals alone, or in its own row."""

_OF_OVERHEAD: Final = ("day", "tenant", "model", "provider")
_PLANS: Final = (
    "LEFT JOIN billing_planversion v ON v.id = plan_version_id LEFT JOIN billing_plan p ON p.id = v.plan_id"
)
_FAILED: Final = "status IN ('error', 'cut', 'unknown')"
_SUMS: Final[Mapping[str, str]] = {
    "requests": "requests",
    "successes": "CASE WHEN status = 'ok' THEN requests ELSE 0 END",
    "attempts": "attempts",
    "unpriced": "unpriced",
    "input_tokens": "input_tokens + cache_read_tokens + cache_write_tokens",
    "output_tokens": "output_tokens + reasoning_tokens",
    "usage_revenue_pico": "price_pico",
    "cost_pico": "cost_pico",
    "wasted_cost_pico": f"CASE WHEN {_FAILED} THEN cost_pico ELSE 0 END",
    "failover_cost_pico": "failover_cost_pico",
    "input_cost_pico": "input_cost_pico",
    "output_cost_pico": "output_cost_pico",
    "cache_savings_pico": "cache_saved_pico",
}

type Label = tuple[Any, ...]


@dataclass(slots=True)
class Amounts:
    """Money of one currency, in pico-units. All of it adds up over rows, the totals' base fees included.

    `provider_cost_pico` is what answering calls cost us; overhead is what failed attempts (`wasted`),
    shadows and evaluations (`shadow`) cost on top. `failover` is the part of both spent on attempts beside
    the one that counted. `byok` is what tenants paid providers on their own keys: no cost of ours.
    """

    usage_revenue_pico: int = 0
    base_revenue_pico: int = 0
    provider_cost_pico: int = 0
    wasted_cost_pico: int = 0
    shadow_cost_pico: int = 0
    failover_cost_pico: int = 0
    input_cost_pico: int = 0
    output_cost_pico: int = 0
    cache_savings_pico: int = 0
    byok_cost_pico: int = 0

    @property
    def revenue_pico(self) -> int:
        return self.usage_revenue_pico + self.base_revenue_pico

    @property
    def overhead_cost_pico(self) -> int:
        return self.wasted_cost_pico + self.shadow_cost_pico

    @property
    def cost_pico(self) -> int:
        return self.provider_cost_pico + self.overhead_cost_pico

    @property
    def margin_pico(self) -> int:
        return self.revenue_pico - self.cost_pico

    def add(self, other: "Amounts", convert: DailyRate | None = None) -> None:
        for each in fields(Amounts):
            pico = getattr(other, each.name)
            pico = pico if convert is None else convert_pico(pico, convert.rate)
            setattr(self, each.name, getattr(self, each.name) + pico)


@dataclass(slots=True)
class Counts:
    """What was done. `own_…` leaves out calls on tenants' own provider keys: unit costs divide by those."""

    requests: int = 0
    successes: int = 0
    attempts: int = 0
    unpriced: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    own_requests: int = 0
    own_successes: int = 0
    own_input_tokens: int = 0
    own_output_tokens: int = 0

    def add(self, other: "Counts") -> None:
        for each in fields(Counts):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


@dataclass(frozen=True, slots=True)
class Figures:
    """A row's whole story. `foreign` holds what has no rate into the report's currency; while it holds
    anything, `units` and what is derived from sums of both are None: a part is not the whole."""

    counts: Counts
    amounts: Amounts
    foreign: Mapping[str, Amounts]
    active_users: int | None
    units: UnitEconomics | None
    cost_per_1k_input_tokens_e6: int | None
    cost_per_1k_output_tokens_e6: int | None
    cost_per_success_e6: int | None

    @property
    def margin_pico(self) -> int | None:
        return None if self.foreign else self.amounts.margin_pico


@dataclass(frozen=True, slots=True)
class Row:
    """One group: `label` in the order asked for. `tenant` and `key` are UUIDs, `day` a date, others text."""

    label: Label
    figures: Figures


@dataclass(frozen=True, slots=True)
class EconomicsReport:
    """Rows in the order of their labels, and the whole. [start, end) is as read: widened to whole UTC hours.

    `reads_ledger` names what did not come from rollups.
    """

    group_by: tuple[str, ...]
    rows: Sequence[Row]
    totals: Figures
    currency: str
    start: datetime
    end: datetime
    as_of: datetime
    reads_ledger: tuple[str, ...]
    unallocated_base_pico: int

    def losing(self) -> list[Row]:
        """Rows with a margin below zero, the worst first."""
        return [row for row in self.by_margin() if (row.figures.margin_pico or 0) < 0]

    def by_margin(self) -> list[Row]:
        """The lowest margin first; rows whose margin is not known come last."""
        return sorted(
            self.rows, key=lambda row: (row.figures.margin_pico is None, row.figures.margin_pico or 0)
        )


def report(
    *,
    start: datetime,
    end: datetime,
    group_by: Sequence[str] = (),
    filters: Mapping[str, Collection[Any]] | None = None,
    currency: str = "USD",
    target_margin_percent: Decimal = Decimal(50),
    with_users: bool = True,
) -> EconomicsReport:
    """Economics of the calls that began in [start, end), widened to whole UTC hours.

    `filters` maps dimensions (not `day`) to the values that count. End users are counted only up to 92 days.
    Raises ApiError invalid_request for names, spans or a target that make no sense.
    """
    filters = filters or {}
    start, end = _floor(start), _ceil(end)
    _check(start, end, group_by, filters, target_margin_percent)
    is_by_key = "key" in group_by or "key" in filters
    counts_users = with_users and end - start <= MAX_LEDGER_SPAN
    wanted = _Wanted(tuple(group_by), {name: list(values) for name, values in filters.items()}, start, end)
    book = _Book(wanted, currency, _fx(currency, start, end))
    users: Mapping[Label, int] = {}
    with _snapshot() as cursor:
        cursor.execute("SELECT now()")
        as_of = cursor.fetchone()[0]
        _read_usage(cursor, wanted, book, from_ledger=is_by_key)
        _read_overhead(cursor, wanted, book)
        if counts_users:
            users = _read_users(cursor, wanted)
        _add_fees(cursor, wanted, book)
    rows = [
        Row(label, _figures(group, users.get(label, 0) if counts_users else None, target_margin_percent))
        for label, group in sorted(book.groups.items(), key=lambda each: tuple(map(str, each[0])))
    ]
    everybody = users.get(_ALL, 0) if counts_users else None
    return EconomicsReport(
        group_by=tuple(group_by),
        rows=rows,
        totals=_figures(book.total, everybody, target_margin_percent),
        currency=currency,
        start=start,
        end=end,
        as_of=as_of,
        reads_ledger=(*(("key",) if is_by_key else ()), *(("active_users",) if counts_users else ())),
        unallocated_base_pico=book.unallocated_pico,
    )


def bottom_tenants(*, start: datetime, end: datetime, currency: str = "USD") -> list[Row]:
    """The ten tenants with the lowest margin, the worst first."""
    found = report(start=start, end=end, group_by=("tenant",), currency=currency, with_users=False)
    return found.by_margin()[:BOTTOM]


# ------------------------------------------------------------------ forecast


@dataclass(frozen=True, slots=True)
class Outlook:
    """Where the UTC month will end, in one currency: None where the history is too short to say."""

    currency: str
    revenue: Forecast | None
    cost: Forecast | None

    @property
    def margin_pico(self) -> int | None:
        if self.revenue is None or self.cost is None:
            return None
        return self.revenue.total_pico - self.cost.total_pico


def outlook(*, as_of: datetime, tenant_ids: Collection[UUID] | None = None) -> list[Outlook]:
    """The running UTC month to its end, from the days before `as_of`: revenue by usage, and our cost.

    Cost is the provider's bill for calls on our keys, shadows and evaluations of all tenants asked for.
    """
    today = as_of.astimezone(UTC).date()
    begin = datetime.combine(today - timedelta(days=HISTORY_DAYS), time(), UTC)
    end = datetime.combine(today, time(), UTC)
    whose = "TRUE" if tenant_ids is None else "tenant_id = ANY(%(tenants)s)"
    day = DIMENSIONS["day"]
    series: dict[tuple[str, str], dict[date, int]] = {}
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT 'revenue', price_currency, {day}, sum(price_pico) FROM billing_usage_hour "
            f"WHERE hour >= %(start)s AND hour < %(end)s AND {whose} GROUP BY 1, 2, 3 "
            f"UNION ALL SELECT 'cost', cost_currency, {day}, sum(cost_pico) FROM billing_usage_hour "
            f"WHERE hour >= %(start)s AND hour < %(end)s AND NOT is_byok AND {whose} GROUP BY 1, 2, 3 "
            f"UNION ALL SELECT 'cost', cost_currency, {day}, sum(cost_pico) FROM billing_overhead_hour "
            f"WHERE hour >= %(start)s AND hour < %(end)s AND {whose} GROUP BY 1, 2, 3",
            {
                "start": begin,
                "end": end,
                "tenants": None if tenant_ids is None else sorted(tenant_ids),
            },
        )
        for measure, currency, on, pico in cursor.fetchall():
            days = series.setdefault((measure, currency), {})
            days[on] = days.get(on, 0) + int(pico)
    return [
        Outlook(
            currency,
            forecast(series.get(("revenue", currency), {}), today),
            forecast(series.get(("cost", currency), {}), today),
        )
        for currency in sorted({currency for _, currency in series if currency})
    ]


# ------------------------------------------------------------------ what is asked


@dataclass(frozen=True, slots=True)
class _Wanted:
    group_by: tuple[str, ...]
    filters: Mapping[str, list[Any]]
    start: datetime
    end: datetime

    def labels(self, known: Collection[str] = GROUPS) -> list[str]:
        """Expressions of the groups; those the source does not have are empty."""
        return [DIMENSIONS[name] if name in known else "NULL::text" for name in self.group_by]

    def narrowing(self) -> str:
        return " AND ".join(f"{DIMENSIONS[name]} = ANY(%(only_{name})s)" for name in self.filters) or "TRUE"

    @property
    def parameters(self) -> dict[str, Any]:
        return {
            "start": self.start,
            "end": self.end,
            **{f"only_{name}": values for name, values in self.filters.items()},
        }


def _check(
    start: datetime,
    end: datetime,
    group_by: Sequence[str],
    filters: Mapping[str, Any],
    target_margin_percent: Decimal,
) -> None:
    for name in group_by:
        if name not in DIMENSIONS:
            raise ApiError("invalid_request", f"{name!r} is none of {', '.join(GROUPS)}.", param="group_by")
    if len(set(group_by)) < len(group_by):
        raise ApiError("invalid_request", "group_by names something twice.", param="group_by")
    for name in filters:
        if name not in DIMENSIONS or name == "day":
            raise ApiError("invalid_request", f"There is no filter {name!r}.", param=name)
    if start >= end:
        raise ApiError("invalid_request", "The span must end after it starts.", param="to")
    by_key = "key" in group_by or "key" in filters
    limit = MAX_LEDGER_SPAN if by_key else MAX_SPAN
    if end - start > limit:
        raise ApiError("invalid_request", f"The span may be {limit.days} days long.", param="from")
    if not target_margin_percent.is_finite() or not 0 <= target_margin_percent < 100:
        raise ApiError(
            "invalid_request", "The target margin is from 0 to below 100 %.", param="target_margin_percent"
        )


def _floor(instant: datetime) -> datetime:
    return instant.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _ceil(instant: datetime) -> datetime:
    floor = _floor(instant)
    return floor if floor == instant else floor + timedelta(hours=1)


# ------------------------------------------------------------------ sums


@dataclass(slots=True)
class _Group:
    counts: Counts = field(default_factory=Counts)
    amounts: Amounts = field(default_factory=Amounts)
    foreign: dict[str, Amounts] = field(default_factory=dict)


class _Book:
    """Sums while they are added up: per label, and the whole."""

    def __init__(self, wanted: _Wanted, currency: str, rates: FxTable) -> None:
        self.wanted = wanted
        self.currency = currency
        self.rates = rates
        self.groups: dict[Label, _Group] = {}
        self.total = _Group()
        self.charges: dict[tuple[UUID, str], dict[Label, int]] = {}  # what base fees are shared out by
        self.unallocated_pico = 0

    def count(self, label: Label, counts: Counts) -> None:
        for group in (self.groups.setdefault(label, _Group()), self.total):
            group.counts.add(counts)

    def book(self, label: Label | None, currency: str, day: date, amounts: Amounts) -> None:
        """Into the report's currency at the day's rate, or aside. Without a label: the totals alone."""
        if amounts == Amounts():
            return
        groups = [self.total] if label is None else [self.groups.setdefault(label, _Group()), self.total]
        rate = None if currency == self.currency else self.rates.rate_on(currency, self.currency, day)
        for group in groups:
            if currency == self.currency or rate is not None:
                group.amounts.add(amounts, rate)
            else:
                group.foreign.setdefault(currency, Amounts()).add(amounts)


def _figures(group: _Group, users: int | None, target_margin_percent: Decimal) -> Figures:
    counts, amounts = group.counts, group.amounts
    if group.foreign:
        return Figures(counts, amounts, dict(sorted(group.foreign.items())), users, None, None, None, None)
    has_parts = bool(amounts.input_cost_pico or amounts.output_cost_pico) or not amounts.provider_cost_pico
    return Figures(
        counts=counts,
        amounts=amounts,
        foreign={},
        active_users=users,
        units=unit_economics(
            Activity(
                revenue_pico=amounts.revenue_pico,
                provider_cost_pico=amounts.provider_cost_pico,
                other_variable_cost_pico=amounts.overhead_cost_pico,
                tokens=counts.own_input_tokens + counts.own_output_tokens,
                requests=counts.own_requests,
                active_users=users or 0,
            ),
            target_margin_percent=target_margin_percent,
        ),
        cost_per_1k_input_tokens_e6=_per(
            amounts.input_cost_pico * THOUSAND, counts.own_input_tokens if has_parts else 0
        ),
        cost_per_1k_output_tokens_e6=_per(
            amounts.output_cost_pico * THOUSAND, counts.own_output_tokens if has_parts else 0
        ),
        cost_per_success_e6=_per(amounts.cost_pico, counts.own_successes),
    )


def _per(pico: int, divisor: int) -> int | None:
    return None if not divisor else round_half_away(Fraction(pico, PICO) / divisor, E6)


# ------------------------------------------------------------------ reading


def _read_usage(cursor: CursorWrapper, wanted: _Wanted, book: _Book, *, from_ledger: bool) -> None:
    labels = wanted.labels()
    source = "billing_usage_hour" if not from_ledger else f"({_hours_by_key()}) hours"
    columns = [
        *labels, "tenant_id", DIMENSIONS["day"], "is_byok", "cost_currency", "price_currency",
        *(f"sum({expression})" for expression in _SUMS.values()),
    ]  # fmt: skip
    positions = ", ".join(str(n + 1) for n in range(len(labels) + 5))
    cursor.execute(
        f"SELECT {', '.join(columns)} FROM {source} {_PLANS} "
        f"WHERE hour >= %(start)s AND hour < %(end)s AND {wanted.narrowing()} GROUP BY {positions}",
        wanted.parameters,
    )
    width = len(labels)
    for row in cursor.fetchall():
        label: Label = tuple(row[:width])
        tenant_id, day, is_byok, cost_currency, price_currency = row[width : width + 5]
        sums = dict(zip(_SUMS, map(int, row[width + 5 :]), strict=True))
        book.count(label, _counts(sums, is_byok=is_byok))
        if sums["usage_revenue_pico"]:
            charges = book.charges.setdefault((tenant_id, price_currency), {})
            charges[label] = charges.get(label, 0) + sums["usage_revenue_pico"]
        book.book(label, price_currency, day, Amounts(usage_revenue_pico=sums["usage_revenue_pico"]))
        book.book(label, cost_currency, day, _costs(sums, is_byok=is_byok))


def _counts(sums: Mapping[str, int], *, is_byok: bool) -> Counts:
    plain = {name: sums[name] for name in ("requests", "successes", "input_tokens", "output_tokens")}
    own = {f"own_{name}": 0 if is_byok else value for name, value in plain.items()}
    return Counts(**plain, **own, attempts=sums["attempts"], unpriced=sums["unpriced"])


def _costs(sums: Mapping[str, int], *, is_byok: bool) -> Amounts:
    if is_byok:
        return Amounts(byok_cost_pico=sums["cost_pico"])
    return Amounts(
        provider_cost_pico=sums["cost_pico"] - sums["wasted_cost_pico"],
        **{
            name: sums[name]
            for name in (
                "wasted_cost_pico", "failover_cost_pico", "input_cost_pico", "output_cost_pico",
                "cache_savings_pico",
            )
        },
    )  # fmt: skip


def _hours_by_key() -> str:
    """The rollup's rows from the ledger, by API key as well."""
    keys = ", ".join((*(f"{e} AS {name}" for name, e in USAGE_HOUR.keys.items()), "api_key_id"))
    sums = ", ".join(
        f"sum({expression})::{USAGE_HOUR.type_of(name)} AS {name}"
        for name, expression in USAGE_HOUR.sums.items()
    )
    positions = ", ".join(str(n + 1) for n in range(len(USAGE_HOUR.keys) + 1))
    return (
        f"SELECT {keys}, {sums} FROM {LEDGER} WHERE occurred_at >= %(start)s AND occurred_at < %(end)s "
        f"AND {USAGE_HOUR.condition} GROUP BY {positions}"
    )


def _read_overhead(cursor: CursorWrapper, wanted: _Wanted, book: _Book) -> None:
    """Shadows and evaluations. Dimensions they do not have are empty, and a filter by one leaves them out."""
    if not set(wanted.filters) <= set(_OF_OVERHEAD):
        return
    labels = wanted.labels(_OF_OVERHEAD)
    columns = [*labels, DIMENSIONS["day"], "cost_currency", "sum(cost_pico)"]
    positions = ", ".join(str(n + 1) for n in range(len(labels) + 2))
    cursor.execute(
        f"SELECT {', '.join(columns)} FROM billing_overhead_hour "
        f"WHERE hour >= %(start)s AND hour < %(end)s AND {wanted.narrowing()} GROUP BY {positions}",
        wanted.parameters,
    )
    for *parts, day, currency, pico in cursor.fetchall():
        label = tuple("" if part is None else part for part in parts)
        book.book(label, currency, day, Amounts(shadow_cost_pico=int(pico)))


_ALL: Final[Label] = ("*all*",)


def _read_users(cursor: CursorWrapper, wanted: _Wanted) -> dict[Label, int]:
    """Distinct end users who were served something, by label and (`_ALL`) altogether."""
    ledger = (
        f"(SELECT *, occurred_at AS hour FROM {LEDGER} WHERE kind = 'usage' AND is_final AND end_user <> '' "
        "AND occurred_at >= %(start)s AND occurred_at < %(end)s) calls"
    )
    labels = wanted.labels()
    names = [f"g{n}" for n in range(len(labels))]
    inner = ", ".join(
        [*(f"{e} AS {name}" for e, name in zip(labels, names, strict=True)), "tenant_id", "end_user"]
    )
    cursor.execute(
        f"SELECT {''.join(f'{name}, ' for name in names)} count(DISTINCT (tenant_id, end_user)), "
        f"{'grouping(' + ', '.join(names) + ')' if names else '1'} FROM "
        f"(SELECT {inner} FROM {ledger} {_PLANS} WHERE {wanted.narrowing()}) u "
        f"GROUP BY GROUPING SETS ({'(' + ', '.join(names) + '), ' if names else ''}())",
        wanted.parameters,
    )
    found: dict[Label, int] = {}
    for *parts, number, is_grouped in cursor.fetchall():
        found[_ALL if is_grouped else tuple(parts)] = int(number)
    if not names:
        found[()] = found.get(_ALL, 0)
    return found


# ------------------------------------------------------------------ base fees


def _add_fees(cursor: CursorWrapper, wanted: _Wanted, book: _Book) -> None:
    """What base fees accrued in the span, shared out by charges (FEES_ALLOCATION)."""
    only = wanted.filters.get("tenant")
    last = (wanted.end - timedelta(microseconds=1)).date()
    fees = [
        (tenant_id, currency, pico)
        for tenant_id, currency, pico in _fees(wanted.start, wanted.end)
        if only is None or tenant_id in only
    ]
    if not fees:
        return
    whole: dict[tuple[UUID, str], int] = {}
    cursor.execute(
        "SELECT tenant_id, price_currency, sum(price_pico) FROM billing_usage_hour "
        "WHERE hour >= %s AND hour < %s GROUP BY 1, 2",
        [wanted.start, wanted.end],
    )
    for tenant_id, currency, pico in cursor.fetchall():
        whole[tenant_id, currency] = int(pico)
    for tenant_id, currency, pico in fees:
        charges = {
            label: weight
            for label, weight in book.charges.get((tenant_id, currency), {}).items()
            if weight > 0
        }
        rest = max(whole.get((tenant_id, currency), 0) - sum(charges.values()), 0)
        if charges:
            *parts, _ = spread(pico, [*charges.values(), rest])
            for label, part in zip(charges, parts, strict=True):
                book.book(label, currency, last, Amounts(base_revenue_pico=part))
        elif rest == 0 and set(wanted.filters) <= {"tenant"}:
            own: Label | None = (tenant_id,) if wanted.group_by == ("tenant",) else None
            book.book(own, currency, last, Amounts(base_revenue_pico=pico))
            if own is None and currency == book.currency:
                book.unallocated_pico += pico


def _fees(start: datetime, end: datetime) -> Iterator[tuple[UUID, str, int]]:
    """Base amounts accrued in [start, end) by tenant and currency, straight over each billing cycle."""
    paying = PlanVersion.objects.filter(base_amount__gt=0)
    tenants = Tenant.objects.filter(created_at__lt=end)
    if not paying.filter(plan__is_default=True).exists():
        tenants = tenants.filter(subscriptions__plan_version__in=paying).distinct()
    for tenant in tenants.order_by("id"):
        accrued: dict[str, Fraction] = {}
        segments = segments_of(tenant)
        for period in periods_of(segments, tenant.timezone, until=end):
            low, high = max(period.start, start), min(period.end, end)
            if low >= high:
                continue
            for segment in within(segments, low, high):
                begin, until = max(segment.paid_from, segment.start), segment.end or high
                if segment.version.base_amount and begin < until:
                    share = period.share(begin, until, "second")
                    currency = segment.version.currency
                    accrued[currency] = (
                        accrued.get(currency, Fraction(0)) + Fraction(segment.version.base_amount) * share
                    )
        for currency, amount in accrued.items():
            yield tenant.pk, currency, to_pico(amount)


def _fx(currency: str, start: datetime, end: datetime) -> FxTable:
    rows = FxRate.objects.filter(
        quote=currency,
        day__gte=(start - timedelta(days=MAX_AGE_DAYS)).date(),
        day__lte=end.date(),
    )
    return FxTable(DailyRate(row.base, row.quote, row.day, row.rate, str(row.pk)) for row in rows)


@contextmanager
def _snapshot() -> Iterator[CursorWrapper]:
    """A cursor that sees one state throughout; inside a caller's transaction, the caller's."""
    alone = not connection.in_atomic_block
    with transaction.atomic() if alone else nullcontext(), connection.cursor() as cursor:
        if alone:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        yield cursor
