from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.rating.proration import Mode, Proration, Unused, prorate, unused_of

D = Decimal


def unused(start: str, end: str, change: str, mode: Mode, timezone: str = "Europe/Berlin") -> tuple[int, int]:
    found = unused_of(
        period_start=datetime.fromisoformat(start),
        period_end=datetime.fromisoformat(end),
        change_at=datetime.fromisoformat(change),
        timezone=timezone,
        mode=mode,
    )
    return found.unused, found.whole


def test_the_day_of_change_belongs_to_the_new_price():
    assert unused("2026-04-01", "2026-05-01", "2026-04-15T23:59:59", "day") == (16, 30)
    assert unused("2026-04-01", "2026-05-01", "2026-04-01T00:00:00", "day") == (30, 30)
    assert unused("2026-04-01", "2026-05-01", "2026-05-01T00:00:00", "day") == (0, 30)


def test_seconds_are_those_that_really_pass():
    march = ("2026-03-01", "2026-04-01")
    assert unused(*march, "2026-03-29T00:00:00", "second") == (3 * 86400 - 3600, 31 * 86400 - 3600)
    assert unused(*march, "2026-03-30T00:00:00", "second") == (2 * 86400, 31 * 86400 - 3600)
    october = ("2026-10-01", "2026-11-01")
    assert unused(*october, "2026-10-25T00:00:00", "second") == (7 * 86400 + 3600, 31 * 86400 + 3600)


def test_a_clock_change_makes_no_day_longer():
    assert unused("2026-03-01", "2026-04-01", "2026-03-29T12:00:00", "day") == (3, 31)


def test_a_skipped_wall_clock_is_the_moment_after_and_a_doubled_one_the_first():
    skipped = unused("2026-03-01", "2026-04-01", "2026-03-29T02:30:00", "second")
    assert skipped == unused("2026-03-01", "2026-04-01", "2026-03-29T03:30:00", "second")
    doubled = unused("2026-10-01", "2026-11-01", "2026-10-25T02:30:00", "second")
    assert doubled[0] == 6 * 86400 + 22 * 3600 + 1800


def test_instants_are_read_in_the_customers_zone():
    found = unused_of(
        period_start=datetime(2026, 3, 31, 22, tzinfo=UTC),
        period_end=datetime(2026, 4, 30, 22, tzinfo=UTC),
        change_at=datetime(2026, 4, 14, 22, 30, tzinfo=UTC),
        timezone="Europe/Berlin",
        mode="day",
    )
    assert found == Unused(16, 30)


@pytest.mark.parametrize("change", ["2026-03-31T23:59:59", "2026-05-01T00:00:01"])
def test_a_change_outside_the_period_is_refused(change: str):
    with pytest.raises(ValueError, match="not in the period"):
        unused("2026-04-01", "2026-05-01", change, "day")


def test_a_period_without_days_is_refused():
    with pytest.raises(ValueError, match="no days"):
        unused("2026-04-01T00:00:00", "2026-04-01T12:00:00", "2026-04-01T06:00:00", "day")


def priced(unused: Unused, **more: Any) -> Proration:
    terms = {"old_price": D("20.00"), "new_price": D("50.00"), "currency": "GBP"} | more
    return prorate(unused=unused, **terms)


def test_each_side_is_rounded_once_half_away_from_zero():
    made = priced(Unused(16, 30))
    assert (made.credit_minor, made.charge_minor, made.net_minor) == (-1067, 2667, 1600)
    halves = priced(Unused(1, 2), old_price=D("0.01"), new_price=D("0.03"))
    assert (halves.credit_minor, halves.charge_minor) == (-1, 2)


def test_quantities_count_and_zero_decimal_currencies_round_to_whole_units():
    made = priced(Unused(1, 3), old_quantity=D(2), new_quantity=D(5), currency="JPY")
    assert (made.credit_minor, made.charge_minor) == (-13, 83)


def test_a_downgrade_is_owed_back():
    assert priced(Unused(15, 30), old_price=D(50), new_price=D(20)).net_minor == -1500


@given(st.integers(0, 30 * 86400), st.sampled_from(["Europe/Berlin", "America/St_Johns", "Asia/Kathmandu"]))
def test_used_and_unused_seconds_make_the_period(second: int, timezone: str):
    start = datetime(2026, 3, 1, tzinfo=UTC)
    change = start + timedelta(seconds=second)
    end = start + timedelta(days=30)
    found = unused_of(period_start=start, period_end=end, change_at=change, timezone=timezone, mode="second")
    assert (found.unused, found.whole) == (30 * 86400 - second, 30 * 86400)
