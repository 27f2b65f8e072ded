from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.budgets.evaluate import Window, allows, due, window_of

ZONES = (
    "UTC", "America/New_York", "America/Havana", "America/St_Johns", "America/Sao_Paulo", "Europe/Berlin",
    "Africa/Cairo", "Africa/Casablanca", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Apia",
)  # fmt: skip
UNITS = ("hour", "day", "week", "month", "quarter", "year")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def span(unit: str, zone: str, moment: str, **options: int) -> tuple[str, str]:
    window = window_of(unit, zone, at(moment), **options)
    assert window.end is not None
    start, end = (datetime.fromtimestamp(edge, UTC) for edge in (window.start, window.end))
    return f"{start:%Y-%m-%dT%H:%MZ}", f"{end:%Y-%m-%dT%H:%MZ}"


@pytest.mark.parametrize(
    ("zone", "moment", "start", "end"),
    [
        ("UTC", "2026-05-01T12:00:00Z", "2026-05-01T00:00Z", "2026-05-02T00:00Z"),
        # 23 hours, and 25
        ("America/New_York", "2026-03-08T12:00:00Z", "2026-03-08T05:00Z", "2026-03-09T04:00Z"),
        ("America/New_York", "2026-11-01T12:00:00Z", "2026-11-01T04:00Z", "2026-11-02T05:00Z"),
        ("Europe/Berlin", "2026-03-29T12:00:00Z", "2026-03-28T23:00Z", "2026-03-29T22:00Z"),
        # midnight comes twice; the day begins with the first
        ("America/Havana", "2026-11-01T05:30:00Z", "2026-11-01T04:00Z", "2026-11-02T05:00Z"),
        # midnight does not exist: the clocks go from 24:00 to 01:00
        ("Africa/Cairo", "2026-04-24T12:00:00Z", "2026-04-23T22:00Z", "2026-04-24T21:00Z"),
        ("America/Sao_Paulo", "2018-11-04T12:00:00Z", "2018-11-04T03:00Z", "2018-11-05T02:00Z"),
        # set back at 00:01 to 23:01 of the day before
        ("America/St_Johns", "1990-10-28T02:40:00Z", "1990-10-28T02:30Z", "1990-10-29T03:30Z"),
        ("Asia/Kolkata", "2026-05-01T18:29:59Z", "2026-04-30T18:30Z", "2026-05-01T18:30Z"),
        ("Asia/Kathmandu", "2026-05-01T18:15:00Z", "2026-05-01T18:15Z", "2026-05-02T18:15Z"),
        ("Australia/Lord_Howe", "2026-04-04T12:00:00Z", "2026-04-03T13:00Z", "2026-04-04T13:00Z"),
        # 30 December 2011 did not take place
        ("Pacific/Apia", "2011-12-30T10:00:00Z", "2011-12-30T10:00Z", "2011-12-31T10:00Z"),
    ],
)  # fmt: skip
def test_a_day_runs_from_local_midnight_to_local_midnight(zone: str, moment: str, start: str, end: str):
    assert span("day", zone, moment) == (start, end)


@pytest.mark.parametrize(
    ("anchor_day", "moment", "start", "end"),
    [
        (1, "2026-02-15T00:00:00Z", "2026-02-01T00:00Z", "2026-03-01T00:00Z"),
        (31, "2026-02-15T00:00:00Z", "2026-01-31T00:00Z", "2026-02-28T00:00Z"),
        (31, "2026-02-28T00:00:00Z", "2026-02-28T00:00Z", "2026-03-31T00:00Z"),
        (30, "2028-02-29T00:00:00Z", "2028-02-29T00:00Z", "2028-03-30T00:00Z"),
        (15, "2026-01-14T23:59:59Z", "2025-12-15T00:00Z", "2026-01-15T00:00Z"),
        (15, "2026-12-15T00:00:00Z", "2026-12-15T00:00Z", "2027-01-15T00:00Z"),
    ],
)
def test_a_month_starts_on_its_anchor_or_its_last_day(anchor_day: int, moment: str, start: str, end: str):
    assert span("month", "UTC", moment, anchor_day=anchor_day) == (start, end)


@pytest.mark.parametrize(
    ("week_start", "start", "end"),
    [(0, "2026-11-23T00:00Z", "2026-11-30T00:00Z"), (6, "2026-11-22T00:00Z", "2026-11-29T00:00Z"),
     (2, "2026-11-18T00:00Z", "2026-11-25T00:00Z"), (1, "2026-11-24T00:00Z", "2026-12-01T00:00Z")],
)  # fmt: skip
def test_a_week_starts_on_its_day(week_start: int, start: str, end: str):
    assert span("week", "UTC", "2026-11-24T12:00:00Z", week_start=week_start) == (start, end)


def test_a_year_and_a_quarter_are_the_calendars():
    assert span("year", "Asia/Tokyo", "2026-12-31T15:00:00Z") == ("2026-12-31T15:00Z", "2027-12-31T15:00Z")
    assert span("quarter", "UTC", "2026-12-31T15:00:00Z") == ("2026-10-01T00:00Z", "2027-01-01T00:00Z")


def test_an_hour_follows_the_local_clock():
    assert span("hour", "Asia/Kathmandu", "2026-05-01T12:20:00Z") == (
        "2026-05-01T12:15Z",
        "2026-05-01T13:15Z",
    )
    # 02:00 becomes 01:30: the hour is cut short, and 01:30 to 02:00 comes again as one of its own
    assert span("hour", "Australia/Lord_Howe", "2026-04-04T14:59:00Z") == (
        "2026-04-04T14:00Z",
        "2026-04-04T15:00Z",
    )
    assert span("hour", "Australia/Lord_Howe", "2026-04-04T15:10:00Z") == (
        "2026-04-04T15:00Z",
        "2026-04-04T15:30Z",
    )
    assert span("hour", "Australia/Lord_Howe", "2026-04-04T15:30:00Z") == (
        "2026-04-04T15:30Z",
        "2026-04-04T16:30Z",
    )


def test_the_total_never_ends():
    assert window_of("total", "Asia/Tokyo", at("2026-05-01T12:00:00Z")) == Window(0.0, None, "total")


@given(
    moment=st.datetimes(datetime(1988, 1, 1), datetime(2036, 1, 1)).map(lambda m: m.replace(tzinfo=UTC)),  # noqa: DTZ001
    zone=st.sampled_from(ZONES),
    unit=st.sampled_from(UNITS),
    anchor_day=st.integers(1, 31),
    week_start=st.integers(0, 6),
)
def test_windows_hold_their_moment_and_follow_each_other_without_gap(
    moment, zone, unit, anchor_day, week_start
):
    options = {"anchor_day": anchor_day, "week_start": week_start}
    window = window_of(unit, zone, moment, **options)
    assert window.end is not None
    assert window.start <= moment.timestamp() < window.end
    following = window_of(unit, zone, datetime.fromtimestamp(window.end, UTC), **options)
    assert following.start == window.end
    assert following.id != window.id
    last = datetime.fromtimestamp(window.end, UTC) - timedelta(microseconds=1)
    assert window_of(unit, zone, last, **options) == window


def test_the_reset_is_told_in_both_zones():
    window = window_of("day", "Asia/Tokyo", at("2026-05-01T12:00:00Z"))
    assert (
        window.reset_text("Asia/Tokyo") == "It resets at 2026-05-01T15:00:00Z (2026-05-02 00:00 Asia/Tokyo)."
    )
    assert Window(0.0, None, "total").reset_text("UTC") == "It does not reset."


@pytest.mark.parametrize(
    ("spent", "held", "estimate", "is_allowed"),
    [
        (0, 0, 100, True),
        (40, 59, 1, True),
        (40, 60, 1, False),
        (101, 0, 0, False),
        (100, 0, 0, True),
        (0, 0, 101, False),
    ],
)
def test_a_hard_budget_allows_what_fits_and_a_soft_one_everything(spent, held, estimate, is_allowed):
    assert allows(limit=100, spent=spent, held=held, estimate=estimate, mode="hard") is is_allowed
    assert allows(limit=100, spent=spent, held=held, estimate=estimate, mode="soft") is True


def test_a_threshold_fires_when_reached_ascending_and_once():
    assert due(limit=1000, spent=499, thresholds=(90, 50), fired=()) == ()
    assert due(limit=1000, spent=500, thresholds=(90, 50), fired=()) == (50,)
    assert due(limit=1000, spent=950, thresholds=(90, 50), fired=()) == (50, 90)
    assert due(limit=1000, spent=950, thresholds=(90, 50), fired=(50,)) == (90,)
    assert due(limit=0, spent=0, thresholds=(100,), fired=()) == (100,)
