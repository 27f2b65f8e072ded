import math
import random
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal

import pytest

from billing.alerts.rules import (
    CONFIRM_AFTER,
    Decision,
    Fired,
    Share,
    attribute,
    beyond,
    decide,
    digest_at,
    error_percent,
    is_confirmed,
    judge,
    margin_percent,
    quiet_until,
    run_rate,
    severity_of,
)

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def numbers(*values):
    return tuple(Decimal(value) for value in values)


def decided(value, *, limit=1000, thresholds=(50, 80, 100), is_percent=True, unit=1, fired=()):
    return decide(
        value=value,
        limit=limit,
        thresholds=numbers(*thresholds),
        is_percent=is_percent,
        unit=unit,
        fired=[Fired(Decimal(t), under) for t, under in fired],
    )


# ------------------------------------------------------------------ thresholds


@pytest.mark.parametrize(
    ("value", "fires"),
    [(499, ()), (500, (50,)), (799, (50,)), (800, (50, 80)), (1000, (50, 80, 100)), (5000, (50, 80, 100))],
)
def test_thresholds_fire_at_or_beyond_in_ascending_order(value: int, fires: tuple[int, ...]) -> None:
    assert decided(value, thresholds=(100, 50, 80)) == Decision(fire=numbers(*fires))


def test_a_threshold_fires_once_in_a_window() -> None:
    assert decided(850, fired=[(50, 1000)]) == Decision(fire=numbers(80))
    assert decided(850, fired=[(50, 1000), (80, 1000)]) == Decision()


def test_a_raised_limit_above_the_spend_arms_a_threshold_again() -> None:
    assert decided(850, limit=2000, fired=[(50, 1000), (80, 1000)]) == Decision(rearm=numbers(50, 80))
    assert decided(1700, limit=2000, fired=[]) == Decision(fire=numbers(50, 80))


def test_a_limit_raised_too_little_does_not_arm_again() -> None:
    assert decided(850, limit=1050, fired=[(50, 1000), (80, 1000)]) == Decision()


def test_a_correction_of_the_books_and_a_lowered_limit_arm_nothing() -> None:
    assert decided(400, fired=[(50, 1000)]) == Decision()
    assert decided(400, limit=900, fired=[(50, 1000)]) == Decision()


def test_nothing_used_fires_nothing_even_of_a_limit_of_nothing() -> None:
    assert decided(0, limit=0) == Decision()
    assert decided(1, limit=0) == Decision(fire=numbers(50, 80, 100))


def test_money_is_compared_to_the_last_pico() -> None:
    limit = 10**24 + 1  # more digits than a Decimal context holds
    assert decided(limit - 1, limit=limit, thresholds=(100,)) == Decision()
    assert decided(limit, limit=limit, thresholds=(100,)) == Decision(fire=numbers(100))


def test_absolute_thresholds_are_in_the_budgets_own_unit_and_ignore_the_limit() -> None:
    given = {"thresholds": ("2.5", "1"), "is_percent": False, "unit": 10**12}
    assert decided(25 * 10**11 - 1, **given) == Decision(fire=numbers("1"))
    assert decided(25 * 10**11, **given) == Decision(fire=numbers("1", "2.5"))
    assert decided(25 * 10**11, limit=10**30, fired=[("1", 5)], **given) == Decision(fire=numbers("2.5"))


# ------------------------------------------------------------------ forecasts


def test_a_forecast_needs_three_days_and_draws_a_straight_line() -> None:
    window = {"start": NOW - timedelta(days=3), "end": NOW + timedelta(days=27)}
    assert run_rate(value=300, now=NOW, **window) == 3000
    assert run_rate(value=300, now=NOW - timedelta(microseconds=1), **window) is None
    assert run_rate(value=300, now=window["end"], **window) is None


def test_two_evaluations_in_a_row_confirm_a_forecast_but_not_the_same_one_twice() -> None:
    assert not is_confirmed(seen_at=None, now=NOW)
    assert not is_confirmed(seen_at=NOW - timedelta(seconds=1), now=NOW)
    assert is_confirmed(seen_at=NOW - CONFIRM_AFTER, now=NOW)
    assert not is_confirmed(seen_at=NOW - timedelta(hours=4), now=NOW)  # something lay between


# ------------------------------------------------------------------ shares


@pytest.mark.parametrize(
    ("price", "cost", "expected"), [(100, 80, 20.0), (100, 130, -30.0), (0, 5, None), (-1, 0, None)]
)
def test_a_margin_without_revenue_is_unknown_and_not_zero(price: int, cost: int, expected: float) -> None:
    assert margin_percent(price=price, cost=cost) == expected


@pytest.mark.parametrize(
    ("success_rate", "requests", "expected"),
    [(0.75, 20, 25.0), (0.75, 19, None), (1.0, 20, 0.0), (None, 50, None)],
)
def test_an_error_rate_of_few_calls_says_nothing(success_rate, requests, expected) -> None:
    assert error_percent(success_rate=success_rate, requests=requests, min_requests=20) == expected


@pytest.mark.parametrize(
    ("threshold", "is_hard", "severity"),
    [(79, True, "info"), (80, True, "warning"), (100, False, "warning"), (100, True, "critical")],
)
def test_a_hard_budget_used_up_is_critical(threshold: int, is_hard: bool, severity: str) -> None:
    assert severity_of(Decimal(threshold), is_hard=is_hard) == severity


def test_values_reach_ceilings_from_below_and_floors_from_above() -> None:
    assert beyond(value=30, thresholds=numbers(50, 10, 30)) == numbers(10, 30)
    assert beyond(value=9.9, thresholds=numbers(20, 10, 5), is_floor=True) == numbers(20, 10)
    assert beyond(value=20, thresholds=numbers(20), is_floor=True) == ()


# ------------------------------------------------------------------ anomalies


def spend(days, *, seed=1, level=100.0, growth=0.002, noise=0.08):
    """A growing daily spend with quiet weekends; day 0 is a Monday."""
    dice = random.Random(seed)
    return [
        level * (1 + growth) ** day * (0.4 if day % 7 > 4 else 1.0) * math.exp(dice.gauss(0, noise))
        for day in range(days)
    ]


def flagged(values, *, floor=1.0):
    """The days that are judged anomalous, each by what was known until then."""
    found = []
    for day in range(len(values)):
        judgement = judge(values[: day + 1], weekday=day % 7, floor=floor)
        if judgement is not None and abs(judgement.z) > 5:
            found.append(day)
    return found


def test_spikes_and_a_level_step_are_found_and_hardly_anything_else() -> None:
    values = spend(365)
    spikes = [100, 160, 215, 330]
    for day in spikes:
        values[day] *= 5
    for day in range(270, 365):
        values[day] *= 1.6
    found = flagged(values)
    assert set(spikes) <= set(found)
    assert 270 in found
    others = [day for day in found if day not in spikes and not 270 <= day < 284]
    assert len(others) <= 2, others


def test_weekends_are_no_anomaly_and_a_dead_day_is_one() -> None:
    values = spend(120)
    assert flagged(values) == []
    values[117] = 0.0  # a Friday
    assert flagged(values) == [117]
    judgement = judge(values[:118], weekday=117 % 7, floor=1.0)
    assert judgement.z < -5
    assert judgement.value == 0


def test_three_weeks_of_history_are_needed() -> None:
    assert judge([10.0] * 20 + [900.0], weekday=0, floor=1) is None
    assert judge([10.0] * 21 + [900.0], weekday=0, floor=1).expected == 10


def test_small_money_is_never_an_anomaly_but_a_sleeper_that_wakes_is() -> None:
    sleeping = [0.0] * 40
    assert judge([*sleeping, 1.0], weekday=0, floor=1.0).z == 0
    assert judge([*sleeping, 50.0], weekday=0, floor=1.0).z > 5
    assert judge([*([0.01] * 40), 0.5], weekday=0, floor=1.0).z < 0


def test_the_member_that_explains_most_of_a_difference_is_named() -> None:
    on_day, before = {"chat": 500.0, "search": 110.0}, {"chat": 100.0, "search": 100.0, "old": 5.0}
    assert attribute("feature", on_day=on_day, before=before, difference=405.0) == Share(
        "feature", "chat", 98.8
    )
    assert attribute("feature", on_day={}, before={"chat": 100.0}, difference=-100.0) == Share(
        "feature", "chat", 100.0
    )
    assert attribute("feature", on_day={}, before={}, difference=10.0) is None
    assert attribute("feature", on_day={"a": 1.0}, before={"a": 2.0}, difference=10.0) is None


# ------------------------------------------------------------------ noise

BERLIN = "Europe/Berlin"


@pytest.mark.parametrize(
    ("at", "hours", "until"),
    [
        (datetime(2026, 11, 24, 22, 30, tzinfo=UTC), (22, 7), datetime(2026, 11, 25, 6, tzinfo=UTC)),
        (datetime(2026, 11, 24, 5, 59, tzinfo=UTC), (22, 7), datetime(2026, 11, 24, 6, tzinfo=UTC)),
        (datetime(2026, 11, 24, 6, 0, tzinfo=UTC), (22, 7), None),
        (datetime(2026, 11, 24, 20, 59, tzinfo=UTC), (22, 7), None),
        (datetime(2026, 11, 24, 12, 0, tzinfo=UTC), (13, 14), datetime(2026, 11, 24, 13, tzinfo=UTC)),
        (datetime(2026, 11, 24, 13, 0, tzinfo=UTC), (13, 14), None),
        # The night the clocks go forward is an hour shorter.
        (datetime(2026, 3, 28, 23, 0, tzinfo=UTC), (22, 7), datetime(2026, 3, 29, 5, tzinfo=UTC)),
    ],
)
def test_quiet_hours_end_by_the_recipients_clock(at, hours, until) -> None:
    quiet_from, quiet_to = (time(hour) for hour in hours)
    assert quiet_until(at, zone=BERLIN, quiet_from=quiet_from, quiet_to=quiet_to) == until


def test_without_quiet_hours_it_is_never_quiet() -> None:
    assert quiet_until(NOW, zone=BERLIN, quiet_from=None, quiet_to=None) is None
    assert quiet_until(NOW, zone=BERLIN, quiet_from=time(7), quiet_to=time(7)) is None


def test_five_messages_in_ten_minutes_go_singly_and_the_rest_in_one_digest() -> None:
    minute = timedelta(minutes=1)
    assert digest_at([], waiting=5, now=NOW) == (5, None)
    assert digest_at([], waiting=8, now=NOW) == (5, NOW + 10 * minute)
    told = [NOW - 4 * minute, NOW - 2 * minute, NOW - 11 * minute]
    assert digest_at(told, waiting=3, now=NOW) == (3, None)
    assert digest_at(told, waiting=4, now=NOW) == (3, NOW + 6 * minute)
    assert digest_at([NOW - minute] * 7, waiting=1, now=NOW) == (0, NOW + 9 * minute)
