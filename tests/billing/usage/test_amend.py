from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.usage.amend import Entry, Sums, amend, by_local_day, standing, sums_of, take
from tenants.errors import ApiError

D = Decimal
AT = datetime(2026, 5, 31, 21, 59, 59, tzinfo=UTC)


def event(
    id_: str, quantity: str = "10", amount: int = 2500, *, source: str = "gw", at: datetime = AT
) -> Entry:
    return Entry(source, id_, at, D(quantity), amount)


def test_an_event_said_again_is_ignored_and_counted():
    again = replace(event("1", "10.0"), occurred_at=AT.astimezone(timezone(timedelta(hours=2))))
    taken = take([event("1"), again, event("1")])
    assert (taken.entries, taken.duplicates, taken.conflicts) == ((event("1"),), 2, ())


@pytest.mark.parametrize(
    "other", [event("1", "11"), event("1", amount=1), event("1", at=AT + timedelta(seconds=1))]
)
def test_other_content_under_the_same_id_is_a_conflict_and_the_first_stays(other: Entry):
    taken = take([event("1"), other])
    assert (taken.entries, taken.duplicates, taken.conflicts) == ((event("1"),), 0, ("1",))


def test_an_id_is_one_of_its_source():
    assert len(take([event("1"), event("1", source="import")]).entries) == 2


def test_what_the_ledger_knows_already_counts():
    taken = take([event("1"), event("2", "5")], {("gw", "1"): event("1"), ("gw", "2"): event("2")})
    assert (taken.entries, taken.duplicates, taken.conflicts) == ((), 1, ("2",))


def test_an_amendment_appends_a_reversal_and_a_replacement_at_the_originals_time():
    reversal, replacement = amend(event("1"), (D(12), 3000))
    assert (reversal.kind, reversal.quantity, reversal.amount_pico) == ("reversal", -10, -2500)
    assert (replacement.kind, replacement.quantity, replacement.amount_pico) == ("replacement", 12, 3000)
    assert {reversal.occurred_at, replacement.occurred_at} == {AT}


def test_a_second_amendment_reverses_what_stands_and_not_the_original():
    entries = [event("1"), event("2")]
    entries += amend(standing(entries, ("gw", "1")), (D(12), 3000))
    entries += amend(standing(entries, ("gw", "1")), (D(13), 3100))
    assert sums_of(entries) == Sums(6, D(23), 5600)


def test_what_was_reversed_cannot_be_reversed_again():
    entries = [event("1"), *amend(event("1"))]
    assert sums_of(entries) == Sums(2, D(0), 0)
    with pytest.raises(ApiError, match="reversed already"):
        amend(standing(entries, ("gw", "1")))


events = st.lists(
    st.builds(
        event,
        st.sampled_from("abcdef"),
        st.decimals(0, 100, places=2).map(str),
        st.integers(0, 10**12),
        at=st.integers(0, 6 * 86_400).map(lambda second: AT + timedelta(days=-64, seconds=second)),
    ),
    max_size=20,
)


@given(events, st.sampled_from(["Europe/Paris", "Asia/Kathmandu", "America/St_Johns", "Pacific/Apia"]))
def test_days_of_any_zone_add_up_to_the_ledger(entries: list[Entry], zone: str):
    days = by_local_day(entries, zone).values()
    added = Sums(
        sum(d.entries for d in days), sum((d.quantity for d in days), D(0)), sum(d.amount_pico for d in days)
    )
    assert added == sums_of(entries)


@given(events, st.randoms(), st.data())
def test_repeats_delays_and_batches_change_nothing(entries, random, data):
    entries = list({entry.key: entry for entry in entries}.values())
    stream = [*entries, *data.draw(st.lists(st.sampled_from(entries), max_size=9))] if entries else []
    random.shuffle(stream)
    cut = data.draw(st.integers(0, len(stream)))
    first = take(stream[:cut])
    second = take(stream[cut:], {entry.key: entry for entry in first.entries})
    assert sums_of([*first.entries, *second.entries]) == sums_of(entries)
    assert first.duplicates + second.duplicates == len(stream) - len(entries)
    assert first.conflicts + second.conflicts == ()


def test_a_day_is_the_zones_own():
    later = event("2", "7", 1750, at=AT + timedelta(seconds=1))
    assert by_local_day([later, event("1")], "Europe/Paris") == {
        date(2026, 5, 31): Sums(1, D(10), 2500),
        date(2026, 6, 1): Sums(1, D(7), 1750),
    }
