from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.wallets.drawdown import Allocation, Grant, TopUp, cap_month, draw, in_order, top_up


def day(number: int, month: int = 6) -> datetime:
    return datetime(2026, month, number, tzinfo=UTC)


def grant(id_: str, amount: int = 100, **more: Any) -> Grant:
    fields = {"category": "paid", "effective_at": day(1), "expires_at": None} | more
    return Grant(id_, amount, **fields)


def take(amount: int, *grants: Grant, at: datetime) -> tuple[list[tuple[str, int]], int]:
    drawn = draw(amount, grants, {g.id: g.amount_pico for g in grants}, at=at)
    return [(part.grant_id, part.amount_pico) for part in drawn.allocations], drawn.uncovered_pico


def test_each_rank_of_the_order_decides_only_between_equals_of_the_one_before():
    expected = [
        grant("priority", priority=1, category="paid"),
        grant("expires", expires_at=day(20), category="paid", effective_at=day(9)),
        grant("promotional", expires_at=day(25), category="promotional", effective_at=day(9)),
        grant("effective", expires_at=day(25), effective_at=day(2)),
        grant("a", expires_at=day(25), effective_at=day(3)),
        grant("b", expires_at=day(25), effective_at=day(3)),
        grant("never", category="promotional"),
        grant("last", priority=99, expires_at=day(2), category="promotional"),
    ]
    assert in_order(reversed(expected)) == expected


def test_a_grant_is_usable_from_its_first_moment_and_not_at_its_end():
    g = grant("g", effective_at=day(2), expires_at=day(5))
    assert [g.is_usable(day(n)) for n in (1, 2, 4, 5)] == [False, True, True, False]
    assert [g.has_expired(day(n)) for n in (1, 4, 5)] == [False, False, True]


def test_a_debit_runs_through_the_grants_and_the_rest_is_uncovered():
    a, b = grant("a", 30, expires_at=day(9)), grant("b", 50)
    assert take(25, a, b, at=day(2)) == ([("a", 25)], 0)
    assert take(100, b, a, at=day(2)) == ([("a", 30), ("b", 50)], 20)
    assert take(100, a, b, at=day(9)) == ([("b", 50)], 50)
    assert take(0, a, b, at=day(2)) == ([], 0)


def test_a_used_up_grant_is_passed_over():
    a, b = grant("a"), grant("b")
    assert draw(5, [a, b], {"a": 0, "b": 9}, at=day(2)).allocations == (Allocation("b", 5),)


def test_a_negative_debit_is_refused():
    with pytest.raises(ValueError, match="negative"):
        draw(-1, [], {}, at=day(1))


@given(
    st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 3), st.integers(1, 9)), max_size=8),
    st.lists(st.tuples(st.integers(1, 10), st.integers(0, 900)), max_size=8),
)
def test_allocations_and_the_uncovered_make_the_debit_and_no_grant_goes_below_zero(rows, debits):
    grants = [
        grant(str(n), amount, priority=priority, expires_at=day(last) if last < 9 else None)
        for n, (amount, priority, last) in enumerate(rows)
    ]
    left = {g.id: g.amount_pico for g in grants}
    for at, amount in sorted(debits):
        drawn = draw(amount, grants, left, at=day(at))
        assert sum(part.amount_pico for part in drawn.allocations) + drawn.uncovered_pico == amount
        for part in drawn.allocations:
            left[part.grant_id] -= part.amount_pico
        assert min(left.values(), default=0) >= 0
        if drawn.uncovered_pico:
            assert all(not left[g.id] for g in grants if g.is_usable(day(at)))


# ------------------------------------------------------------------ top-ups


def asked(balance: int, *, added: int = 0, cap: int | None = 50) -> TopUp | None:
    return top_up(
        balance_pico=balance,
        threshold_pico=10,
        amount_pico=25,
        monthly_cap_pico=cap,
        added_this_month_pico=added,
    )


def test_a_balance_at_the_threshold_is_enough():
    assert asked(10) is None
    assert asked(9) == TopUp(25)


def test_a_top_up_must_fit_under_the_monthly_cap_whole():
    assert asked(-100, added=25) == TopUp(25)
    assert asked(9, added=26) == TopUp(None, "monthly_cap")
    assert asked(9, added=26, cap=None) == TopUp(25)


def test_the_caps_month_is_that_of_the_zone():
    at = datetime(2026, 6, 30, 23, tzinfo=UTC)
    assert (cap_month(at), cap_month(at, "Europe/Berlin")) == ((2026, 6), (2026, 7))
