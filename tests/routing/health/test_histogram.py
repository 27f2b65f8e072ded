"""Histograms that add up, and windows that slide."""

import statistics
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.health.histogram import BOUNDS_MS, FIRST_BYTE, WHOLE, Sliding


def tally(*values_ms, codes=FIRST_BYTE):
    return Counter(codes.of(value) for value in values_ms)


def test_a_bound_belongs_to_its_own_bucket():
    assert [FIRST_BYTE.of(ms) for ms in (0, 1, 2, 2.5, 8, 9, 10)] == [
        "f0",
        "f0",
        "f1",
        "f2",
        "f7",
        "f8",
        "f9",
    ]
    assert FIRST_BYTE.of(10**9) == f"f{len(BOUNDS_MS)}"


def test_nothing_has_no_quantile():
    assert FIRST_BYTE.quantile({}, 0.5) is None
    assert FIRST_BYTE.quantile(tally(5, codes=WHOLE), 0.5) is None


def test_the_overflow_answers_the_last_bound():
    assert FIRST_BYTE.quantile(tally(10**9), 0.95) == BOUNDS_MS[-1]


def test_small_values_are_exact():
    assert FIRST_BYTE.quantile(tally(1, 2, 3, 4), 0.5) == 2.0


@given(st.lists(st.integers(1, 600_000), min_size=1, max_size=200), st.sampled_from([0.5, 0.95, 1.0]))
def test_a_quantile_is_off_by_a_bucket_at_most(values, q):
    exact = sorted(values)[max(0, -(-len(values) * q // 1).__int__() - 1)]
    assert FIRST_BYTE.quantile(tally(*values), q) == pytest.approx(exact, rel=0.16, abs=1)


@given(st.lists(st.integers(0, 10**6), max_size=50), st.lists(st.integers(0, 10**6), max_size=50))
def test_two_halves_add_up_to_the_whole(one, other):
    assert tally(*one) + tally(*other) == tally(*one, *other)


def test_below_counts_up_to_each_bound():
    rows = dict(FIRST_BYTE.below(tally(1, 3, 3, 10**9)))
    assert (rows[1], rows[2], rows[3], rows[BOUNDS_MS[-1]]) == (1, 1, 3, 3)


def test_a_window_sums_its_slots_and_forgets_old_ones():
    window = Sliding(3)
    for slot in range(10, 15):
        window.put(slot, {"a": {"ok": slot}})
    assert window.totals(14)["a"]["ok"] == 12 + 13 + 14
    assert window.totals(15)["a"]["ok"] == 13 + 14
    assert window.totals(17) == {}


def test_a_slot_is_replaced_not_added():
    window = Sliding(3)
    window.put(1, {"a": {"ok": 1}})
    assert window.totals(3)["a"]["ok"] == 1
    window.put(1, {"a": {"ok": 5}})
    window.put(3, {"a": {"ok": 1}})
    window.put(3, {"a": {"ok": 2}, "b": {"ok": 7}})
    assert {owner: dict(sums) for owner, sums in window.totals(3).items()} == {"a": {"ok": 7}, "b": {"ok": 7}}


def test_further_slots_count_within_the_window_only():
    window = Sliding(3)
    window.put(9, {"a": {"ok": 1}})
    own = {6: {"a": {"ok": 100}}, 8: {"a": {"ok": 10}}, 9: {"b": {"ok": 1}}}
    assert {owner: dict(sums) for owner, sums in window.totals(9, own).items()} == {
        "a": {"ok": 11},
        "b": {"ok": 1},
    }


def test_the_median_of_many_is_the_median():
    values = list(range(1, 1000))
    assert FIRST_BYTE.quantile(tally(*values), 0.5) == pytest.approx(statistics.median(values), rel=0.05)
