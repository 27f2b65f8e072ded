"""The proof of the bills (I9): what providers billed is what the ledger says, or somebody has said why not."""

from datetime import UTC, date, datetime, timedelta

from billing.checks import Check, exceptions
from billing.models import ReconcileLine
from billing.rating.money import amount_text
from billing.reconciliation.run import standing

FIRST, LAST = date(2000, 1, 1), date(9999, 12, 31)


def bill_checks(*, since: datetime | None, until: datetime | None) -> tuple[Check, ...]:
    """I9 over the UTC days that touch [since, until) and were compared; days without a bill yet are no fault."""
    start = FIRST if since is None else since.astimezone(UTC).date()
    end = LAST if until is None else (until - timedelta(microseconds=1)).astimezone(UTC).date() + timedelta(1)
    seen, wrong = 0, []
    dealt = (ReconcileLine.Resolution.ACCEPTED, ReconcileLine.Resolution.TRUED_UP)
    for line in standing(start=start, end=end):
        seen += 1
        is_late = line.cause == ReconcileLine.Cause.NOT_BILLED_YET
        if line.status != ReconcileLine.Status.MATCH and line.resolution not in dealt and not is_late:
            wrong.append(
                f"{line.run.source.slug} {line.day} {line.model_family or 'all models'}: "
                f"{amount_text(line.variance_pico)} {line.currency} {line.status}"
            )
    return (exceptions("provider bills = ledger, or explained (I9)", wrong, seen, "days compared"),)
