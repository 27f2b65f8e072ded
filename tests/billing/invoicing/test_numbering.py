from datetime import datetime

from billing.invoicing.numbering import CounterKey, counter_of, number_text, series_of


def test_the_year_is_that_of_the_entitys_local_time():
    at = datetime.fromisoformat("2026-12-31T23:30:00+00:00")
    assert counter_of(entity="DE", timezone="Europe/Berlin", at=at) == CounterKey("DE", "INV", 2027)
    assert counter_of(entity="UK", timezone="Europe/London", at=at) == CounterKey("UK", "INV", 2026)
    before = datetime.fromisoformat("2027-01-01T04:59:59+00:00")
    assert counter_of(entity="US", timezone="America/New_York", at=before, series="CN").year == 2026


def test_a_number_names_prefix_series_year_and_sequence():
    key = CounterKey("DE", "CN", 2027)
    assert number_text("NORTH", key, 7) == "NORTH-CN-2027-00007"
    assert number_text("NORTH", key, 123456) == "NORTH-CN-2027-123456"


def test_credit_notes_have_a_series_of_their_own():
    assert (series_of("invoice"), series_of("credit_note")) == ("INV", "CN")
