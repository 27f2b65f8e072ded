import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.rating.allocation import spread


def test_what_floors_leave_goes_to_the_largest_remainders_and_ties_to_the_earlier():
    assert spread(100, [1, 1, 1]) == [34, 33, 33]
    assert spread(10, [3, 3, 1]) == [4, 4, 2]
    assert spread(1, [1, 2, 1]) == [0, 1, 0]
    assert spread(3, [50, 50]) == [2, 1]


def test_negative_amounts_and_weights_are_floored_too():
    assert spread(-100, [1, 1, 1]) == [-33, -33, -34]
    assert spread(7, [10, -3]) == [10, -3]
    assert spread(5, [-10, -10]) == [3, 2]


def test_there_is_no_proportion_of_nothing():
    assert spread(0, [0, 0]) == [0, 0]
    assert spread(0, []) == []
    with pytest.raises(ValueError, match="cannot spread 1"):
        spread(1, [5, -5])


@given(st.integers(-(10**9), 10**9), st.lists(st.integers(0, 10**7), min_size=1, max_size=20).filter(any))
def test_parts_equal_the_whole_and_are_within_one_of_their_share(amount: int, weights: list[int]):
    parts = spread(amount, weights)
    assert sum(parts) == amount
    whole = sum(weights)
    assert all(
        abs(part * whole - amount * weight) < whole for part, weight in zip(parts, weights, strict=True)
    )


@given(st.integers(-(10**6), 10**6), st.lists(st.integers(-1000, 1000), min_size=1).filter(sum))
def test_parts_equal_the_whole_with_negative_lines(amount: int, weights: list[int]):
    assert sum(spread(amount, weights)) == amount


@given(st.lists(st.integers(0, 10**6), min_size=1).filter(any), st.data())
def test_no_part_exceeds_its_line(weights: list[int], data: st.DataObject):
    amount = data.draw(st.integers(0, sum(weights)))
    assert all(0 <= part <= weight for part, weight in zip(spread(amount, weights), weights, strict=True))
