"""A source's bills against the ledger, day by day and model family by model family, and what people decide.

A run is a snapshot and changes nothing else. A true-up appends one adjustment to the ledger: the operator's
own cost, no tenant's, once per line whatever comes twice.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Final
from uuid import UUID

from django.db import connection, transaction
from django.db.models import QuerySet

from billing.models import BillSource, ProviderBill, ProviderBillLine, ReconcileLine, ReconcileRun
from billing.models.usage import NIL
from billing.rating.money import amount_text
from billing.reconciliation.bills import MAX_DAYS, covering
from billing.reconciliation.classify import (
    TOKEN_UNITS,
    Cause,
    Evidence,
    cause_of,
    neighbours_of,
    shown,
    steady_price,
)
from billing.reconciliation.family import family_of
from billing.reconciliation.match import Day, Matched, Reconciliation, Tolerance, status_of
from billing.usage.derived import derived_id
from billing.usage.ingest import ingest
from billing.usage.partitions import LEDGER
from billing.usage.records import UsageRecord
from billing.usage.rollups import TOKENS, WEIGHT
from tenants import audit
from tenants.errors import ApiError
from tenants.ids import instant_of
from tenants.principal import Principal

NOBODY: Final = UUID(NIL)
TRUE_UP: Final = "true_up"
"""`operation` of the entries that true the ledger up."""
DAY: Final = timedelta(days=1)

type Key = tuple[date, str, str]
"""Day, model family, currency."""


def reconcile(*, source: BillSource, start: date, end: date, actor: Principal, now: datetime) -> ReconcileRun:
    """Compare the UTC days [start, end); days without a bill count as billed with nothing.

    What was decided about a line with the same two amounts before is kept. Raises ApiError invalid_request
    for a span that is empty, too long or not over, conflict where no day of it has a bill.
    """
    if not start < end or (end - start).days > MAX_DAYS:
        raise ApiError("invalid_request", f"From 1 to {MAX_DAYS} days at once.", param="start")
    if end > now.astimezone(UTC).date():
        raise ApiError("invalid_request", "Only days that are over can be reconciled.", param="end")
    tolerance = Tolerance(source.tolerance_abs, source.tolerance_percent)
    with transaction.atomic():
        BillSource.objects.select_for_update().get(pk=source.pk)
        bills = covering(source=source, start=start, end=end)
        if not bills:
            raise ApiError("conflict", "No bill covers any of these days.", param="start")
        billed, items = _billed(bills)
        flat = {day for day in bills if all(family == "" for at, family, _ in billed if at == day)}
        booked = _booked(source.provider, start, end, flat)
        run = ReconcileRun.objects.create(
            source=source,
            start=start,
            end=end,
            tolerance_abs=source.tolerance_abs,
            tolerance_percent=source.tolerance_percent,
            created_by=actor.label,
        )
        before = _decided(run)
        rows = [
            _kept(row, before)
            for row in _lines(run, billed, booked, items, tolerance, now.astimezone(UTC).date())
        ]
        ReconcileLine.objects.bulk_create(rows, batch_size=1_000)
        audit.record(
            principal=actor,
            action="reconciliation.run",
            object_type="reconciliation",
            object_id=run.pk,
            tenant=None,
            after={"source": source.slug, "start": start, "end": end, "lines": len(rows)},
        )
    return run


def summary_of(run: ReconcileRun) -> dict[str, Reconciliation]:
    """The sums and the capture rate of a run, by currency."""
    found: dict[str, list[Matched]] = {}
    for line in run.lines.all():
        day = Day(line.day, int(line.ledger_pico), int(line.provider_pico))
        found.setdefault(line.currency, []).append(Matched(day, line.status))  # type: ignore[arg-type]  # choices
    return {currency: Reconciliation(tuple(days)) for currency, days in sorted(found.items())}


def standing(*, start: date, end: date, source: BillSource | None = None) -> Iterator[ReconcileLine]:
    """For every day of [start, end) the lines of the newest run that covers it, source by source."""
    runs = ReconcileRun.objects.filter(start__lt=end, end__gt=start).select_related("source")
    if source is not None:
        runs = runs.filter(source=source)
    taken: dict[UUID, set[date]] = {}
    for run in runs.order_by("-id"):
        days = taken.setdefault(run.source_id, set())
        fresh = {
            run.start + DAY * n
            for n in range((run.end - run.start).days)
            if start <= run.start + DAY * n < end
        } - days
        if fresh:
            days |= fresh
            yield from run.lines.filter(day__in=fresh)


def open_lines(*, start: date, end: date, source: BillSource | None = None) -> list[ReconcileLine]:
    """Differences beyond the tolerance that nobody has dealt with (I9). Disputed ones are still open."""
    dealt = (ReconcileLine.Resolution.ACCEPTED, ReconcileLine.Resolution.TRUED_UP)
    return [
        line
        for line in standing(start=start, end=end, source=source)
        if line.status != ReconcileLine.Status.MATCH and line.resolution not in dealt
    ]


# ------------------------------------------------------------------ both sides


@dataclass(frozen=True, slots=True)
class _Booked:
    pico: int
    evidence: Evidence


def _billed(bills: Mapping[date, ProviderBill]) -> tuple[dict[Key, int], dict[Key, Evidence]]:
    ids = {bill.pk for bill in bills.values()}
    amounts: dict[Key, int] = {}
    items: dict[Key, Evidence] = {}
    for line in ProviderBillLine.objects.filter(bill_id__in=ids).defer("raw").iterator():
        if line.day not in bills or bills[line.day].pk != line.bill_id:
            continue  # a later bill counts for this day
        key = (line.day, line.model_family, line.currency)
        amounts[key] = amounts.get(key, 0) + int(line.amount_pico)
        held = items.get(key, Evidence())
        tokens = held.billed_tokens
        if line.quantity is not None and line.quantity_unit.lower() in TOKEN_UNITS:
            tokens = (tokens or Decimal(0)) + line.quantity
        items[key] = replace(held, items=held.items + 1, billed_tokens=tokens)
    return amounts, items


def _booked(provider: str, start: date, end: date, flat: set[date]) -> dict[Key, _Booked]:
    """What the ledger says, shadows, evaluations and earlier true-ups included, tenants' own keys not.

    Days in `flat` have a bill without models: theirs is one sum.
    """
    found: dict[Key, _Booked] = {}
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT (occurred_at AT TIME ZONE 'UTC')::date, provider_model, cost_currency, "  # noqa: S608
            f"sum(coalesce(cost_pico, 0)), sum({WEIGHT} + (kind IN ('shadow', 'eval'))::int), "
            "count(*) FILTER (WHERE cost_pico IS NULL), count(*) FILTER (WHERE usage_source = 'unknown'), "
            f"sum({TOKENS}) FROM {LEDGER} "
            "WHERE occurred_at >= %s AND occurred_at < %s AND provider = %s AND NOT is_byok GROUP BY 1, 2, 3",
            [_midnight(start), _midnight(end), provider],
        )
        for day, model, currency, pico, attempts, unpriced, unknown, tokens in cursor.fetchall():
            key = (day, "" if day in flat else family_of(model), currency)
            held = found.get(key, _Booked(0, Evidence()))
            found[key] = _Booked(
                held.pico + int(pico),
                Evidence(
                    attempts=held.evidence.attempts + int(attempts),
                    unpriced=held.evidence.unpriced + int(unpriced),
                    unknown=held.evidence.unknown + int(unknown),
                    tokens=held.evidence.tokens + int(tokens),
                ),
            )
    return found


def _lines(
    run: ReconcileRun,
    billed: Mapping[Key, int],
    booked: Mapping[Key, _Booked],
    items: Mapping[Key, Evidence],
    tolerance: Tolerance,
    today: date,
) -> Iterator[ReconcileLine]:
    families: dict[tuple[str, str], dict[date, Matched]] = {}
    nothing = _Booked(0, Evidence())
    for key in sorted({*billed, *booked}):
        day = Day(key[0], booked.get(key, nothing).pico, billed.get(key, 0))
        families.setdefault(key[1:], {})[key[0]] = Matched(day, status_of(day, tolerance))
    for (family, currency), by_day in sorted(families.items()):
        is_steady = steady_price(list(by_day.values()))
        for at, matched in by_day.items():
            key = (at, family, currency)
            of_bill = items.get(key, Evidence())
            evidence = replace(
                booked.get(key, nothing).evidence,
                items=of_bill.items,
                billed_tokens=of_bill.billed_tokens,
            )
            cause = cause_of(
                matched,
                evidence,
                neighbours=neighbours_of(at, by_day),
                tolerance=tolerance,
                today=today,
            )
            if cause is Cause.UNEXPLAINED and is_steady:
                cause = Cause.PRICE_DIFFERENCE
            yield ReconcileLine(
                run=run,
                day=at,
                model_family=family,
                currency=currency,
                ledger_pico=matched.day.ledger_pico,
                provider_pico=matched.day.provider_pico,
                status=matched.status,
                cause=cause,
                evidence=shown(evidence, matched.day),
            )


def _decided(run: ReconcileRun) -> dict[tuple[object, ...], ReconcileLine]:
    """Decisions that stand, by what they were about."""
    rows: QuerySet[ReconcileLine] = ReconcileLine.objects.filter(
        run__source=run.source, day__gte=run.start, day__lt=run.end
    ).exclude(resolution=ReconcileLine.Resolution.OPEN)
    return {_about(row): row for row in rows.order_by("id")}


def _about(row: ReconcileLine) -> tuple[object, ...]:
    return (row.day, row.model_family, row.currency, int(row.ledger_pico), int(row.provider_pico))


def _kept(row: ReconcileLine, before: Mapping[tuple[object, ...], ReconcileLine]) -> ReconcileLine:
    """With the same amounts, an acceptance or a dispute still holds. A true-up has changed the amounts."""
    held = before.get(_about(row))
    if held is not None and held.resolution != ReconcileLine.Resolution.TRUED_UP:
        row.resolution, row.note = held.resolution, held.note
        row.resolved_by, row.resolved_at = held.resolved_by, held.resolved_at
    return row


# ------------------------------------------------------------------ decisions


def resolve(
    *, line: ReconcileLine, resolution: str, note: str, actor: Principal, now: datetime
) -> ReconcileLine:
    """Accept or dispute a difference, or open it again. Needs a note unless it is opened again.

    Raises ApiError: invalid_request without a note, conflict for a match or a trued-up line.
    """
    if resolution != ReconcileLine.Resolution.OPEN and not note.strip():
        raise ApiError("invalid_request", "Say why.", param="note")
    with transaction.atomic():
        held = _undecided(line)
        held.resolution, held.note = resolution, note
        held.resolved_by = "" if resolution == ReconcileLine.Resolution.OPEN else actor.label
        held.resolved_at = None if resolution == ReconcileLine.Resolution.OPEN else now
        held.save()
        _audit(held, "resolve", actor)
    return held


def true_up(*, line: ReconcileLine, note: str, actor: Principal, now: datetime) -> ReconcileLine:
    """Append the variance to the ledger as an adjustment of that day, so that the next run matches.

    The entry is the operator's: of no tenant, at price 0. Raises ApiError: conflict for a match, for a line
    already trued up, or one that a newer run of its days has replaced; invalid_request without a note.
    """
    if not note.strip():
        raise ApiError("invalid_request", "Say why.", param="note")
    with transaction.atomic():
        BillSource.objects.select_for_update().get(pk=line.run.source_id)
        held = _undecided(line)
        newer = ReconcileRun.objects.filter(
            source=held.run.source_id, start__lte=held.day, end__gt=held.day, id__gt=held.run_id
        )
        if newer.exists():
            raise ApiError("conflict", "A newer run has compared this day again: decide there.")
        entry = adjustment_of(held, provider=held.run.source.provider)
        stored = ingest([entry], recorded_at=now)
        if stored.inserted != 1:
            raise ApiError("conflict", "The ledger did not take the entry: it has one for this line.")
        held.resolution, held.note = ReconcileLine.Resolution.TRUED_UP, note
        held.resolved_by, held.resolved_at, held.entry_id = actor.label, now, entry.request_id
        held.save()
        _audit(held, "true_up", actor)
    return held


def adjustment_of(line: ReconcileLine, *, provider: str) -> UsageRecord:
    """The ledger entry of a line: the same whenever it is made."""
    request_id = entry_id_of(line.pk, line.day)
    return UsageRecord(
        occurred_at=instant_of(request_id),
        request_id=request_id,
        kind="adjustment",
        tenant_id=NOBODY,
        api_key_id=NOBODY,
        plan_version_id=NOBODY,
        operation=TRUE_UP,
        request_model="",
        model=line.model_family,
        provider=provider,
        provider_model=line.model_family,
        endpoint_id=NOBODY,
        status="ok",
        is_final=False,
        usage_source="provider",
        cost_pico=line.variance_pico,
        cost_currency=line.currency,
        price_pico=0,
        price_currency=line.currency,
        latency_ms=0,
    )


def entry_id_of(line_id: UUID, day: date) -> UUID:
    """Noon (UTC) of the day, and the line."""
    return derived_id(_midnight(day) + timedelta(hours=12), b"true-up", line_id.bytes)


def _undecided(line: ReconcileLine) -> ReconcileLine:
    held = ReconcileLine.objects.select_for_update(of=("self",)).select_related("run__source").get(pk=line.pk)
    if held.status == ReconcileLine.Status.MATCH:
        raise ApiError("conflict", "Both sides agree: there is nothing to decide.")
    if held.resolution == ReconcileLine.Resolution.TRUED_UP:
        raise ApiError("conflict", "This line is trued up.")
    return held


def _audit(line: ReconcileLine, verb: str, actor: Principal) -> None:
    audit.record(
        principal=actor,
        action=f"reconciliation.{verb}",
        object_type="reconciliation_line",
        object_id=line.pk,
        tenant=None,
        after={
            "day": line.day,
            "model_family": line.model_family,
            "variance": amount_text(line.variance_pico),
            "resolution": line.resolution,
            "note": line.note,
        },
    )


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
