"""The month's closing list: what must be true before its books are shut. Reads alone; each step says why."""

# ruff: noqa: S608 - statements are put together from this package's own constants

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final, Literal

from django.db import connection
from django.db.models import Q

from billing.models import BillSource, ClosedPeriod, Invoice, LedgerProof, ReRating
from billing.reconciliation.bills import covering
from billing.reconciliation.run import open_lines
from billing.usage.partitions import LEDGER
from billing.usage.rollups import WEIGHT

type State = Literal["done", "open", "unknown"]

SHOWN: Final = 10


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the list. `count` is how many things stand in the way; None where nobody could look."""

    key: str
    label: str
    state: State
    count: int | None
    detail: str


@dataclass(frozen=True, slots=True)
class Checklist:
    """The month (UTC) from its first day, and its steps in the order they are best done."""

    month: date
    is_over: bool
    steps: tuple[Step, ...]

    @property
    def is_done(self) -> bool:
        return self.is_over and all(step.state == "done" for step in self.steps)


def checklist(*, month: date, now: datetime, suspense: int | None) -> Checklist:
    """The list of the UTC month that begins on `month`. `suspense` is how many records wait set aside (None:
    nobody could ask)."""
    first = month.replace(day=1)
    end = (first + timedelta(days=32)).replace(day=1)
    start, until = (datetime.combine(day, time(), UTC) for day in (first, end))
    over = min(until, now)
    steps: tuple[Callable[[], Step], ...] = (
        lambda: _suspense(suspense),
        lambda: _priced(start, until),
        lambda: _reratings(start, until),
        lambda: _imported(first, end, now),
        lambda: _reconciled(first, end, now),
        lambda: _invoiced(start, until),
        lambda: _proven(start, over, is_over=until <= now),
    )
    return Checklist(first, until <= now, tuple(step() for step in steps))


def _step(key: str, label: str, count: int, detail: str, none: str) -> Step:
    return Step(key, label, "open" if count else "done", count, detail if count else none)


def _suspense(count: int | None) -> Step:
    label = "No record is set aside"
    if count is None:
        return Step("suspense_empty", label, "unknown", None, "The stream of records could not be asked.")
    return _step(
        "suspense_empty", label, count, f"{count} records could not be read or stored.", "None is waiting."
    )


def _priced(start: datetime, end: datetime) -> Step:
    """Attempts whose cost or price nobody knows; a cost that a re-rating has supplied is known."""
    supplied = (
        f"EXISTS (SELECT FROM {LEDGER} r WHERE r.occurred_at = e.occurred_at AND r.kind = 'rerate' "
        "AND r.ref_request_id = e.request_id AND r.attempt = e.attempt)"
    )
    with connection.cursor() as cursor:
        cursor.execute(
            "WITH hours AS (SELECT DISTINCT hour FROM billing_usage_hour "
            "WHERE hour >= %(start)s AND hour < %(end)s AND unpriced <> 0 "
            "UNION SELECT DISTINCT hour FROM billing_overhead_hour "
            "WHERE hour >= %(start)s AND hour < %(end)s AND unpriced <> 0), "
            f"open AS (SELECT e.provider, e.model, {WEIGHT} + (e.kind IN ('shadow', 'eval'))::int AS weight "
            f"FROM hours JOIN {LEDGER} e ON e.occurred_at >= hour AND e.occurred_at < hour + interval '1 hour' "
            f"WHERE e.price_pico IS NULL OR (e.cost_pico IS NULL AND NOT {supplied})) "
            "SELECT provider, model, sum(weight) FROM open GROUP BY 1, 2 HAVING sum(weight) <> 0 ORDER BY 3 DESC",
            {"start": start, "end": end},
        )
        found = cursor.fetchall()
    count = sum(int(number) for _, _, number in found)
    named = ", ".join(f"{provider}/{model} {number}" for provider, model, number in found[:SHOWN])
    return _step("all_priced", "Every attempt has a cost and a price", count, named, "All are priced.")


def _reratings(start: datetime, end: datetime) -> Step:
    over = (ReRating.Status.DONE, ReRating.Status.FAILED, ReRating.Status.REJECTED)
    rows = list(ReRating.objects.filter(start__lt=end, end__gt=start).exclude(status__in=over))
    named = "; ".join(f"{row} is {row.status}" for row in rows[:SHOWN])
    return _step("reratings_closed", "No re-rating is open", len(rows), named, "None is open.")


def _imported(first: date, end: date, now: datetime) -> Step:
    label = "Every provider's bill is imported"
    days = [
        first + timedelta(days=n)
        for n in range((end - first).days)
        if first + timedelta(days=n) < now.astimezone(UTC).date()
    ]
    missing: list[str] = []
    sources = list(BillSource.objects.filter(is_enabled=True))
    for source in sources:
        held = covering(source=source, start=first, end=end)
        lacking = [day for day in days if day not in held]
        if lacking:
            missing.append(f"{source.slug}: {len(lacking)} days from {lacking[0]} on")
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT DISTINCT provider FROM billing_usage_hour WHERE hour >= %s AND hour < %s "
            "AND NOT is_byok AND cost_pico <> 0 AND NOT provider = ANY(%s) ORDER BY 1",
            [
                datetime.combine(first, time(), UTC),
                datetime.combine(end, time(), UTC),
                [source.provider for source in sources],
            ],
        )
        missing += [f"{provider}: no source of bills" for (provider,) in cursor.fetchall()]
    return _step(
        "bills_imported",
        label,
        len(missing),
        "; ".join(missing[:SHOWN]),
        f"{len(sources)} sources are complete.",
    )


def _reconciled(first: date, end: date, now: datetime) -> Step:
    label = "Bills and ledger agree, or differences are explained"
    missing: list[str] = []
    for source in BillSource.objects.filter(is_enabled=True):
        held = set(covering(source=source, start=first, end=end))
        compared = _compared(source, first, end)
        if held - compared:
            missing.append(f"{source.slug}: {len(held - compared)} days not compared")
    lines = open_lines(start=first, end=end)
    missing += [f"{line.run.source.slug}: {line}" for line in lines]
    return _step("reconciled", label, len(missing), "; ".join(missing[:SHOWN]), "Nothing is open.")


def _compared(source: BillSource, first: date, end: date) -> set[date]:
    days: set[date] = set()
    for run in source.runs.filter(start__lt=end, end__gt=first):
        days |= {run.start + timedelta(days=n) for n in range((run.end - run.start).days)}
    return days


def _invoiced(start: datetime, end: datetime) -> Step:
    """Drafts of periods that end in the month, and usage of tenants that no closed period holds."""
    drafts = list(
        Invoice.objects.filter(
            Q(period_end__gt=start, period_end__lte=end), status=Invoice.Status.DRAFT
        ).select_related("tenant")[:SHOWN]
    )
    named = "; ".join(f"{draft.tenant.slug}: a draft" for draft in drafts)
    closed = ClosedPeriod.objects.filter(end__gt=start, end__lte=end).count()
    return _step(
        "invoices_finalized",
        "Every invoice is finalized",
        len(drafts),
        named,
        f"{closed} periods that ended are closed.",
    )


def _proven(start: datetime, end: datetime, *, is_over: bool) -> Step:
    """A proof of the whole month that holds, made after it ended (while it runs: of the last day)."""
    label = "The books prove themselves"
    covers = Q(is_whole=True) | Q(since__lte=start, until__isnull=True) | Q(since__lte=start, until__gte=end)
    newest = LedgerProof.objects.filter(covers, at__gte=end if is_over else end - timedelta(days=1)).first()
    if newest is None:
        return Step("ledger_proven", label, "open", 1, "No proof has been made since the month ended.")
    failing = [check["name"] for check in newest.checks if not check["ok"] and not check["is_warning"]]
    return _step(
        "ledger_proven", label, len(failing), "; ".join(failing), f"Proven {newest.at:%Y-%m-%d %H:%M} UTC."
    )
