from datetime import date
from decimal import Decimal

import pytest

from billing.rating.money import PICO
from billing.reconciliation.match import Day, Tolerance, reconcile, status_of

D = Decimal
TOLERANCE = Tolerance(D("0.05"), D(1))


def day(ledger: str, provider: str) -> Day:
    return Day(date(2026, 5, 1), *(int(D(text) * PICO) for text in (ledger, provider)))


@pytest.mark.parametrize(
    ("ledger", "provider", "status"),
    [
        ("10", "10", "match"),
        ("0", "0", "match"),
        ("99", "100", "match"),
        ("98.999999999999", "100", "under_captured"),
        ("101", "100", "match"),
        ("101.000000000001", "100", "over_captured"),
        ("0.95", "1.00", "match"),
        ("0.949999999999", "1.00", "under_captured"),
        ("0", "0.01", "missing_in_ledger"),
        ("0.01", "0", "missing_in_provider_bill"),
        ("0", "-10", "over_captured"),
        ("-99", "-100", "match"),
    ],
)
def test_a_day_is_classified(ledger: str, provider: str, status: str):
    assert status_of(day(ledger, provider), TOLERANCE) == status


def test_the_capture_rate_is_what_the_ledger_has_of_the_bill():
    done = reconcile([day("1", "1.50"), day("1", "1.50")], TOLERANCE)
    assert (done.ledger_pico, done.provider_pico, done.variance_pico) == (2 * PICO, 3 * PICO, PICO)
    assert done.capture_rate_e4 == 666_667
    assert reconcile([day("1", "0")], TOLERANCE).capture_rate_e4 is None
