"""The likeliest cause of a difference, by what both sides show."""

from datetime import date, timedelta
from decimal import Decimal

import pytest

from billing.models import ReconcileLine
from billing.reconciliation.classify import Evidence, cause_of, neighbours_of, steady_price
from billing.reconciliation.match import Day, Matched, Tolerance, status_of

Cause = ReconcileLine.Cause
TOLERANCE = Tolerance(Decimal("0.01"), Decimal("0.5"))
DAY, TODAY = date(2026, 5, 10), date(2026, 6, 1)
UNIT = 10**12


def matched(ledger: float, provider: float, day: date = DAY) -> Matched:
    pair = Day(day, round(ledger * UNIT), round(provider * UNIT))
    return Matched(pair, status_of(pair, TOLERANCE))


@pytest.mark.parametrize(
    ("ledger", "provider", "evidence", "cause"),
    [
        (10, 10.04, Evidence(attempts=5), Cause.NONE),
        (9, 10, Evidence(attempts=5, items=300), Cause.ROUNDING),
        (9, 10, Evidence(attempts=5, unpriced=1), Cause.UNPRICED),
        (10, 9, Evidence(attempts=5, unpriced=1), Cause.UNEXPLAINED),
        (9, 10, Evidence(attempts=5, unknown=2), Cause.UNKNOWN_ATTEMPTS),
        (0, 10, Evidence(), Cause.MISSING_ROWS),
        (9, 10, Evidence(attempts=5, tokens=900, billed_tokens=Decimal(1000)), Cause.MISSING_ROWS),
        (9, 10, Evidence(attempts=5, tokens=1000, billed_tokens=Decimal(1001)), Cause.PRICE_DIFFERENCE),
        (9, 10, Evidence(attempts=5), Cause.UNEXPLAINED),
        (9, 0, Evidence(attempts=5), Cause.UNEXPLAINED),
    ],
)
def test_the_cause_follows_from_the_evidence(ledger, provider, evidence, cause):
    assert (
        cause_of(matched(ledger, provider), evidence, neighbours=(), tolerance=TOLERANCE, today=TODAY)
        is cause
    )


def test_a_day_that_providers_may_still_post_is_not_billed_yet():
    found = cause_of(
        matched(9, 0), Evidence(attempts=1), neighbours=(), tolerance=TOLERANCE, today=DAY + timedelta(days=3)
    )
    assert found is Cause.NOT_BILLED_YET


def test_what_one_day_lacks_and_the_next_has_too_much_is_a_timezone_edge():
    days = {DAY: matched(10, 12), DAY + timedelta(days=1): matched(12, 10, DAY + timedelta(days=1))}
    near = neighbours_of(DAY, days)
    assert (
        cause_of(days[DAY], Evidence(), neighbours=near, tolerance=TOLERANCE, today=TODAY)
        is Cause.TIMEZONE_EDGE
    )
    apart = [matched(12, 10, DAY + timedelta(days=2))]
    assert (
        cause_of(days[DAY], Evidence(), neighbours=apart, tolerance=TOLERANCE, today=TODAY)
        is Cause.UNEXPLAINED
    )


def test_the_same_factor_on_three_days_is_a_price():
    days = [matched(n, n * 1.1, DAY + timedelta(days=n)) for n in (10, 20, 30)]
    assert steady_price(days)
    assert not steady_price(days[:2])
    assert not steady_price([*days[:2], matched(10, 13, DAY)])
