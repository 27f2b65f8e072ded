from datetime import UTC, datetime
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from billing.usage.rerate import Delta, RatedEntry, Rerating, UnitRate, cost_pico, delta_pico, rerate

D = Decimal
OLD, NEW = UnitRate(D("1.00"), 1_000_000), UnitRate(D("1.10"), 1_000_000)


def day(number: int) -> datetime:
    return datetime(2026, 5, number, tzinfo=UTC)


def entry(id_: str, at: datetime, quantity: int = 1234) -> RatedEntry:
    return RatedEntry(id_, at, D(quantity), 1_604_200_000)


def rerated(*entries: RatedEntry, until: datetime | None) -> Rerating:
    return rerate(entries, old=OLD, new=NEW, effective_from=day(2), effective_to=until)


def test_only_entries_of_the_half_open_window_get_a_delta():
    done = rerated(entry("a", day(1)), entry("b", day(2)), entry("c", day(3)), until=day(3))
    assert done.deltas == (Delta("b", 123_400_000),)
    assert (done.original_cost_pico, done.new_cost_pico) == (3_702_000_000, 3_825_400_000)
    assert [d.event_id for d in rerated(entry("b", day(2)), entry("c", day(30)), until=None).deltas] == [
        "b",
        "c",
    ]


def test_what_customers_were_charged_does_not_move():
    done = rerated(entry("b", day(2)), until=day(3))
    assert (done.charged_pico, done.margin_before_pico, done.margin_after_pico) == (
        1_604_200_000,
        370_200_000,
        246_800_000,
    )


def test_old_and_new_are_rounded_each_before_they_are_subtracted():
    old, new = UnitRate(D("0.0000005"), 1_000_000), UnitRate(D("0.0000014"), 1_000_000)
    assert [cost_pico(D(1), rate) for rate in (old, new)] == [1, 1]
    assert delta_pico(D(1), old, new) == 0
    assert delta_pico(D(-3), old, new) == -4 - -2


rates = st.builds(UnitRate, st.decimals(0, 100, places=6), st.sampled_from([1, 1000, 1_000_000]))


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(-1000, 10**7)), max_size=12), rates, rates)
def test_original_and_deltas_make_the_new_cost(rows, old, new):
    entries = [RatedEntry(str(n), day(at), D(quantity), 0) for n, (at, quantity) in enumerate(rows)]
    done = rerate(entries, old=old, new=new, effective_from=day(3), effective_to=day(7))
    expected = sum(cost_pico(e.quantity, new if day(3) <= e.occurred_at < day(7) else old) for e in entries)
    assert done.new_cost_pico == expected
