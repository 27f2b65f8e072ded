import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.economics.forecast import (
    Accuracy,
    Daily,
    Forecast,
    forecast,
    month_to_date,
    naive_week,
    past_accuracy,
    robust_theta,
    run_rate,
    seasonal_naive,
)
from billing.rating.money import PICO

SERIES: dict[str, Any] = json.loads(Path(__file__).with_name("daily_series.json").read_text())


def history(first: date, *amounts: float) -> dict[date, int]:
    return {first + timedelta(days=n): round(amount * PICO) for n, amount in enumerate(amounts)}


# ------------------------------------------------------------------ R28


def test_the_month_to_date_leaves_out_today_and_other_months():
    days = history(date(2026, 5, 31), 1, 2, 4, 8)
    assert month_to_date(days, date(2026, 6, 3)) == 6 * PICO
    assert month_to_date(days, date(2026, 6, 1)) == 0


def test_the_run_rate_is_the_straight_line_through_the_days_so_far():
    days = history(date(2026, 6, 1), 1, 2, 4)
    assert run_rate(days, date(2026, 6, 4)) == 70 * PICO
    assert run_rate(days, date(2026, 6, 1)) is None


def test_the_run_rate_is_rounded_half_away_from_zero():
    assert run_rate({date(2026, 2, 1): 1, date(2026, 2, 2): 1, date(2026, 2, 3): 1}, date(2026, 2, 9)) == 11


def test_seasonal_naive_repeats_each_weekday_of_the_last_seven_days():
    days = history(date(2026, 6, 19), 100, 1, 2, 3, 4, 5, 6, 7)
    assert seasonal_naive(days, date(2026, 6, 27)) == (128 + 1 + 2 + 3 + 4) * PICO


def test_seasonal_naive_reaches_into_the_month_before_and_takes_absent_days_for_nothing():
    days = history(date(2026, 5, 29), 10, 20)
    assert seasonal_naive(days, date(2026, 6, 1)) == 10 * 4 * PICO + 20 * 4 * PICO


# ------------------------------------------------------------------ the choice of a method


def test_the_method_follows_from_the_length_of_the_history():
    as_of = date(2026, 6, 20)
    made = {n: forecast(history(as_of - timedelta(days=n), *[5] * n), as_of) for n in (0, 3, 7, 13, 14)}
    assert made[0] is None
    assert [None if f is None else f.method for f in made.values()] == [
        None,
        "run_rate",
        "seasonal_naive",
        "seasonal_naive",
        "robust_theta",
    ]


def test_a_history_that_began_within_the_month_is_not_spread_over_days_before_it():
    as_of = date(2026, 6, 20)
    made = forecast(history(as_of - timedelta(days=3), 5, 5, 5), as_of)
    assert made == Forecast("run_rate", (15 + 11 * 5) * PICO, None, None, None)


def test_the_first_of_a_month_needs_a_week_of_history():
    assert forecast(history(date(2026, 5, 30), 1, 1), date(2026, 6, 1)) is None
    made = forecast(history(date(2026, 5, 25), *[1] * 7), date(2026, 6, 1))
    assert made == Forecast("seasonal_naive", 30 * PICO, None, None, None)


def test_a_level_history_is_forecast_level_with_no_past_error():
    made = forecast(history(date(2026, 1, 1), *[3] * 150), date(2026, 5, 31))
    assert made == Forecast(
        "robust_theta", 93 * PICO, 93 * PICO, 93 * PICO, Accuracy(40, wape=0.0, low=1.0, high=1.0)
    )


def test_today_and_what_follows_is_not_looked_at():
    days = history(date(2026, 1, 1), *[3] * 150)
    later = {date(2026, 5, 31): 10**20, date(2026, 6, 1): 10**20}
    assert forecast(days | later, date(2026, 5, 31)) == forecast(days, date(2026, 5, 31))


def test_the_interval_holds_the_total_and_never_falls_below_what_is_spent():
    values = SERIES["bikeshare_2011"]["values"]
    as_of = date(2026, 10, 20)
    made = forecast(history(as_of - timedelta(days=len(values)), *values), as_of)
    assert made is not None
    assert made.low_pico is not None
    assert made.high_pico is not None
    assert month_to_date(history(as_of - timedelta(days=len(values)), *values), as_of) <= made.low_pico
    assert made.low_pico <= made.total_pico <= made.high_pico
    assert made.accuracy is not None
    assert made.accuracy.origins == 40


# ------------------------------------------------------------------ robust Theta


def test_a_trend_is_followed_at_half_its_slope():
    found = robust_theta([100.0 + n for n in range(100)], 2)
    assert found[1] - found[0] == pytest.approx(0.5, rel=0.2)


def test_weekends_are_seen_and_are_no_outliers():
    weeks = [100.0, 101, 99, 100, 102, 20, 10] * 12
    assert robust_theta(weeks, 7) == pytest.approx([100, 101, 99, 100, 102, 20, 10], rel=0.03)


def test_a_single_spike_hardly_moves_the_forecast():
    calm = [100.0 + n % 3 for n in range(80)]
    spiked = [*calm[:75], 5000.0, *calm[76:]]
    assert sum(robust_theta(spiked, 10)) == pytest.approx(sum(robust_theta(calm, 10)), rel=0.02)


def test_a_falling_series_never_goes_below_nothing():
    assert min(robust_theta([float(max(0, 40 - n)) for n in range(60)], 31)) == 0.0


@given(st.lists(st.floats(0, 1e18), min_size=14, max_size=60), st.integers(1, 31))
def test_any_history_has_a_finite_forecast(series: list[float], days: int):
    found = robust_theta(series, days)
    assert len(found) == days
    assert all(0 <= value < 1e22 for value in found)


def wape(series: list[float], method: Daily, elapsed: int) -> float:
    """Rolling origin: the error of a 30-day total, `elapsed` days of which are known."""
    wrong = whole = 0.0
    for origin in range(max(14, elapsed), len(series) - (30 - elapsed) + 1):
        actual = sum(series[origin : origin + 30 - elapsed])
        known = sum(series[origin - elapsed : origin])
        wrong += abs(actual - sum(method(series[:origin], 30 - elapsed)))
        whole += known + actual
    return wrong / whole


@pytest.mark.parametrize("elapsed", [3, 7, 14, 21])
@pytest.mark.parametrize("name", sorted(SERIES))
def test_it_is_no_worse_than_a_tenth_behind_seasonal_naive_on_public_series(name: str, elapsed: int):
    series = [float(value) for value in SERIES[name]["values"]]
    assert wape(series, robust_theta, elapsed) <= 1.10 * wape(series, naive_week, elapsed)


def test_the_past_error_is_unknown_while_the_past_is_short():
    assert past_accuracy([1.0] * 57, robust_theta, elapsed=10, remaining=21) is not None
    assert past_accuracy([1.0] * 55, robust_theta, elapsed=10, remaining=21) is None
