"""The proof of the documents: I3 against the ledger, I4 in themselves, I6 credit notes, I7 numbers.

Reads and changes nothing. Runs in the caller's transaction, so on one snapshot with the ledger's proof.
"""

from collections.abc import Iterable
from datetime import datetime

from django.db import connection
from django.db.models import QuerySet

from billing.checks import Check, exceptions
from billing.invoicing.compose import billed_by_key, standing_lines
from billing.invoicing.credit import Credit, credit
from billing.invoicing.issue_credit import credit_of, invoiced_lines, notes_of, tax_rates_of
from billing.invoicing.period import Period, period_at, segments_of
from billing.invoicing.rate import rate_period
from billing.models import ClosedPeriod, Invoice
from billing.rating.lines import Unrateable
from billing.snapshot import fx_table
from tenants.errors import ApiError

CHUNK = 200


def document_checks(*, since: datetime | None, until: datetime | None) -> tuple[Check, ...]:
    """I3, I4 and I6 for issued documents whose period touches [since, until); I7 over all numbers."""
    issued = Invoice.objects.standing()
    if since is not None:
        issued = issued.filter(period_end__gt=since)
    if until is not None:
        issued = issued.filter(period_start__lt=until)
    return (_ledger_check(issued), _sums_check(issued), _credit_check(issued), _number_check())


def _each(rows: QuerySet[Invoice]) -> Iterable[Invoice]:
    return rows.select_related("tenant").prefetch_related("lines").order_by("id").iterator(chunk_size=CHUNK)


# ------------------------------------------------------------------ I3


def _ledger_check(issued: QuerySet[Invoice]) -> Check:
    """Rating the ledger again at the document's watermark gives its lines; at the watermark of the last
    document that knows of late usage, all that was billed of the period."""
    wrong: list[str] = []
    seen = 0
    for invoice in _each(issued.filter(occasion=Invoice.Occasion.PERIOD)):
        seen += 1
        try:
            wrong += _ledger_faults(invoice)
        except Unrateable as error:
            wrong.append(f"{invoice.number}: {error}")
    return exceptions("documents = ledger (I3)", wrong, seen, "documents rated again, equal")


def _ledger_faults(invoice: Invoice) -> list[str]:
    segments = segments_of(invoice.tenant)
    start, end = invoice.period_start, invoice.period_end
    period = period_at(segments, invoice.timezone, start)
    if period is None or (period.start, period.end) != (start, end):
        period = Period(start, end, start, end, invoice.timezone)
    rated = rate_period(
        tenant_id=invoice.tenant_id,
        period=period,
        segments=segments,
        currency=invoice.currency,
        ledger_to=invoice.ledger_to,
        fx=fx_table(),
    )
    if rated.hash != invoice.rating_hash:
        return [f"{invoice.number}: its usage lines are not what the ledger rates to"]
    held = ClosedPeriod(tenant=invoice.tenant, start=start, end=end, ledger_to=invoice.ledger_to)
    billed = standing_lines(invoice.tenant, held, invoice.currency)
    last = max((line.ledger_to for line in billed if line.ledger_to), default=invoice.ledger_to)
    if last > invoice.ledger_to:
        rated = rate_period(
            tenant_id=invoice.tenant_id,
            period=period,
            segments=segments,
            currency=invoice.currency,
            ledger_to=last,
            fx=fx_table(),
        )
    should_be = {key: (amount, measured) for key, (amount, measured, _) in rated.by_key().items()}
    found = billed_by_key(billed)
    return [
        f"{invoice.number}: {key[2] or 'charge'} of charge {key[1]} rates to {should_be.get(key, (0, 0))}, "
        f"billed {found.get(key, (0, 0))}"
        for key in dict.fromkeys((*should_be, *found))
        if should_be.get(key, (0, 0)) != found.get(key, (0, 0))
    ]


# ------------------------------------------------------------------ I4


def _sums_check(issued: QuerySet[Invoice]) -> Check:
    wrong: list[str] = []
    seen = 0
    for invoice in _each(issued):
        seen += 1
        lines = list(invoice.lines.all())
        taxes = invoice.tax_breakdown
        equations = (
            ("subtotal", invoice.subtotal_minor, sum(line.amount_minor for line in lines)),
            ("net", invoice.net_minor, sum(line.net_minor for line in lines)),
            ("taxable", invoice.net_minor, sum(row["taxable_minor"] for row in taxes)),
            ("tax", invoice.tax_minor, sum(row["amount_minor"] for row in taxes)),
            ("total", invoice.total_minor, invoice.net_minor + invoice.tax_minor),
        )
        wrong += (
            f"{invoice.number}: {name} is {says}, its parts sum to {parts}"
            for name, says, parts in equations
            if says != parts
        )
    return exceptions("documents = sum of their lines and taxes (I4)", wrong, seen, "documents add up")


# ------------------------------------------------------------------ I6


def _credit_check(issued: QuerySet[Invoice]) -> Check:
    """Each note is what the arithmetic gives after those before it: within its lines, with its tax."""
    wrong: list[str] = []
    seen = 0
    for invoice in _each(issued.filter(credit_notes__isnull=False).distinct()):
        earlier: list[Credit] = []
        for note in notes_of(invoice):
            seen += 1
            stored = credit_of(note)
            try:
                made = credit(
                    [(line.id, line.net_minor) for line in stored.lines],
                    invoice=invoiced_lines(invoice),
                    tax_rates=tax_rates_of(invoice),
                    earlier=earlier,
                )
            except ApiError as error:
                wrong.append(f"{note.number}: {error.message}")
                continue
            if (made.net_minor, made.total_minor) != (note.net_minor, note.total_minor):
                wrong.append(f"{note.number}: credits {note.total_minor}, should be {made.total_minor}")
            earlier.append(stored)
        reduced = sum(note.reduces_open_minor for note in earlier)
        if reduced != invoice.credited_minor:
            wrong.append(f"{invoice.number}: {invoice.credited_minor} credited, notes say {reduced}")
    return exceptions("credit notes stay within their invoice (I6)", wrong, seen, "credit notes, tax exact")


# ------------------------------------------------------------------ I7


def _number_check() -> Check:
    """1 to n in every series of every seller's year, n being what its counter says."""
    with connection.cursor() as cursor:
        cursor.execute(_NUMBERS)
        rows = cursor.fetchall()
    wrong = [
        f"{code} {series} {year}: {count} numbers, from {low} to {high}, the counter says {last}"
        for code, series, year, count, distinct, low, high, last in rows
        if not (low == 1 and high == count == distinct == last)
    ]
    return exceptions(
        "document numbers run from 1 without a gap (I7)", wrong, sum(row[3] for row in rows), "numbers"
    )


_NUMBERS = r"""
WITH numbers AS (
    SELECT legal_entity_id, number FROM billing_invoice WHERE number IS NOT NULL
    UNION ALL SELECT legal_entity_id, number FROM billing_creditnote
), parts AS (
    SELECT legal_entity_id, split_part(number, '-', -3) AS series, split_part(number, '-', -2)::int AS year,
           split_part(number, '-', -1)::int AS sequence
    FROM numbers
), taken AS (
    SELECT legal_entity_id, series, year, count(*) AS count, count(DISTINCT sequence) AS "distinct",
           min(sequence) AS low, max(sequence) AS high
    FROM parts GROUP BY 1, 2, 3
)
SELECT e.code, j.series, j.year, coalesce(j.count, 0), coalesce(j."distinct", 0), coalesce(j.low, 0),
       coalesce(j.high, 0), coalesce(j.last, 0)
FROM (taken FULL JOIN billing_documentcounter USING (legal_entity_id, series, year)) j
JOIN billing_legalentity e ON e.id = j.legal_entity_id
WHERE coalesce(j.count, 0) > 0 OR j.last > 0
ORDER BY 1, 2, 3
"""
