from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

import pytest

from billing.budgets.counters import spent
from billing.snapshot import BudgetEntry, Window
from tests.billing.ledger import KEY, NOON, PLAN, TENANT, put, record

pytestmark = pytest.mark.django_db

HOUR = Window(NOON.timestamp(), (NOON + timedelta(hours=1)).timestamp(), "noon")


def entry(**changes) -> BudgetEntry:
    return replace(
        BudgetEntry(
            id=UUID(int=9), tenant_id=TENANT, name="", api_key_id=None, feature="", model="", end_user="",
            measure="price", limit=1, mode="hard", window="hour", timezone="UTC", anchor_day=1, week_start=0,
        ),
        **changes,
    )  # fmt: skip


def late(**changes: int) -> datetime:
    return NOON + timedelta(**changes)


def test_an_empty_ledger_has_spent_nothing():
    assert [spent(entry(measure=m), HOUR) for m in ("price", "cost", "tokens", "requests")] == [0, 0, 0, 0]


def test_each_measure_is_summed_in_its_unit():
    put(
        record(price_pico=7, cost_pico=5, cost_components=None),
        record(price_pico=None, cost_pico=None, cost_components=None),
        record(price_pico=3, cost_pico=2, cost_components=None, is_final=False, status="error"),
    )
    found = {m: spent(entry(measure=m), HOUR) for m in ("price", "cost", "tokens", "requests")}
    assert found == {"price": 10, "cost": 7, "tokens": 2 * 155, "requests": 2}


def test_a_window_is_half_open_and_the_total_has_no_end():
    put(
        *(
            record(when, price_pico=2**n)
            for n, when in enumerate((late(seconds=-1), NOON, late(minutes=59), late(hours=1)))
        )
    )
    assert spent(entry(), HOUR) == 0b0110
    assert spent(entry(), Window(0.0, None, "total")) == 0b1111


@pytest.mark.parametrize(
    "scope", [{"api_key_id": UUID(int=77)}, {"feature": "chat"}, {"model": "claude"}, {"end_user": "ann"}]
)
def test_only_calls_within_the_scope_count(scope):
    put(record(price_pico=1), record(price_pico=2, **scope))
    assert spent(entry(**scope), HOUR) == 2
    assert spent(entry(), HOUR) == 3


def test_another_tenants_calls_do_not_count():
    put(record(price_pico=1), record(price_pico=2, tenant_id=UUID(int=88)))
    assert spent(entry(), HOUR) == 1


def test_some_requests_can_be_asked_for():
    calls = [record(price_pico=2**n) for n in range(3)]
    put(*calls)
    assert spent(entry(), HOUR, request_ids=[calls[0].request_id, calls[2].request_id]) == 0b101
    assert spent(entry(), HOUR, request_ids=[]) == 0


def test_a_correction_counts_as_the_truth_alone():
    known = record(price_pico=40)
    put(replace(known, usage_source="unknown", status="unknown", price_pico=900, output_tokens=0))
    put(known)
    found = {m: spent(entry(measure=m), HOUR) for m in ("price", "cost", "tokens", "requests")}
    assert found == {"price": 40, "cost": 1_000, "tokens": 155, "requests": 1}


def test_the_entry_matches_what_the_ledger_counts():
    call = {
        "api_key_id": KEY,
        "feature": "search",
        "end_user": "ann",
        "plan_id": PLAN,
        "tags": {"env": "live"},
    }
    scope = {
        "api_key_id": KEY,
        "feature": "search",
        "end_user": "ann",
        "plan_id": PLAN,
        "tag": ("env", "live"),
    }
    assert entry().matches(**call)
    assert entry(**scope).matches(**call)
    others = {
        "api_key_id": UUID(int=77),
        "feature": "x",
        "end_user": "x",
        "plan_id": UUID(int=77),
        "tag": ("env", "x"),
    }
    for name, other in others.items():
        assert not entry(**{name: other}).matches(**call)
