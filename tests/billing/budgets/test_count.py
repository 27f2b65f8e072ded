"""What a call takes from a budget is what the ledger will say of its rows (I8)."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from uuid import UUID

import pytest

from billing.budgets.count import AttemptAmounts, Counted, taken
from billing.budgets.counters import carry, spent, spent_by_bucket
from billing.budgets.evaluate import Window, carried, rolling_window
from billing.models import FxRate, Plan, PlanVersion
from billing.rating.fx import NO_RATES, DailyRate, FxTable
from billing.snapshot import BudgetEntry, fx_table
from billing.usage.records import UsageRecord
from gateway.pipeline.record import amounts_of_row
from tests.billing.ledger import NOON, TENANT, put, record

AT_S = NOON.timestamp()
HOUR = Window(AT_S, AT_S + 3600, "noon")
OK = AttemptAmounts("m", "p", False, True, False, 10, 700, "USD", 500, "USD")
FAILED = OK._replace(is_final=False, is_failed=True, tokens=3, price_pico=0, cost_pico=40)


def entry(**changes) -> BudgetEntry:
    return replace(
        BudgetEntry(
            id=UUID(int=9), tenant_id=TENANT, name="", api_key_id=None, feature="", model="", end_user="",
            measure="price", limit=1, mode="hard", window="hour", timezone="UTC", anchor_day=1, week_start=0,
        ),
        **changes,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("counted", "amount"),
    [
        (Counted("price"), 700),
        (Counted("cost"), 540),
        (Counted("cost", include_failed=False), 500),
        (Counted("tokens"), 10),
        (Counted("requests"), 1),
        (Counted("nothing"), 0),
        (Counted("price", model="other"), 0),
        (Counted("cost", provider="p"), 540),
        (Counted("cost", provider="other"), 0),
    ],
)
def test_each_measure_takes_what_it_counts(counted, amount):
    assert taken(counted, [FAILED, OK], fx=NO_RATES, at_s=AT_S) == amount


def test_own_keys_count_by_their_fee_alone_unless_asked_for():
    own = OK._replace(is_byok=True)
    counts = [
        taken(Counted(m), [own], fx=NO_RATES, at_s=AT_S) for m in ("price", "cost", "tokens", "requests")
    ]
    assert counts == [700, 0, 0, 0]
    assert taken(Counted("cost", include_byok=True), [own], fx=NO_RATES, at_s=AT_S) == 500


def test_amounts_are_converted_at_the_days_rate_and_add_nothing_without_one():
    fx = FxTable([DailyRate("EUR", "USD", NOON.date(), Decimal("1.15"))])
    euros = OK._replace(price_currency="EUR", price_pico=10)
    assert taken(Counted("price"), [euros], fx=fx, at_s=AT_S) == 12  # 11.5, half away from zero
    assert taken(Counted("price"), [euros], fx=NO_RATES, at_s=AT_S) == 0


# ------------------------------------------------------------------ the ledger says the same


def rows() -> list[UsageRecord]:
    base = {"cost_components": None}
    return [
        record(NOON + timedelta(seconds=1), **base),
        record(NOON + timedelta(seconds=2), **base, is_byok=True, price_pico=30),
        record(NOON + timedelta(seconds=3), **base, is_final=False, status="error", price_pico=0, attempt=1),
        record(NOON + timedelta(seconds=4), **base, other_units={"input_audio": 7, "cache_write_1h": 5},
               cache_write_tokens=9),
        record(NOON + timedelta(seconds=5), **base, provider="azure", model="claude", tags={"env": "live"}),
        record(NOON + timedelta(seconds=6), **base, price_currency="EUR", price_pico=333,
               cost_currency="EUR", cost_pico=777),
        record(NOON + timedelta(seconds=7), **base, price_pico=None, cost_pico=None),
    ]  # fmt: skip


@pytest.mark.django_db
@pytest.mark.parametrize("measure", ["price", "cost", "tokens", "requests"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"include_byok": True}, {"include_failed": False}, {"provider": "azure"}, {"model": "gpt-4o"},
     {"currency": "EUR"}],
)  # fmt: skip
def test_settlements_and_the_ledger_agree_to_the_last_digit(measure, changes):
    FxRate.objects.create(base="EUR", quote="USD", day=NOON.date(), rate=Decimal("1.0815"))
    FxRate.objects.create(base="USD", quote="EUR", day=NOON.date() - timedelta(days=2), rate=Decimal("0.93"))
    made = rows()
    put(*made)
    budget = entry(measure=measure, **changes)
    fx = fx_table()
    settled = sum(
        taken(budget.counted, [amounts_of_row(row)], fx=fx, at_s=row.occurred_at.timestamp()) for row in made
    )
    assert settled == spent(budget, HOUR) > 0


@pytest.mark.django_db
def test_a_tag_a_plan_and_the_house_narrow_and_widen_the_scope():
    plan = Plan.objects.create(slug="gold", name="Gold")
    version = PlanVersion.objects.create(plan=plan, number=1, charges=[])
    put(
        record(price_pico=1, tags={"env": "live"}),
        record(price_pico=2, tags={"env": "test"}),
        record(price_pico=4, plan_version_id=version.pk),
        record(price_pico=8, tenant_id=UUID(int=88), plan_version_id=version.pk),
        record(price_pico=0, cost_pico=16, cost_components=None, kind="shadow", is_final=False),
    )
    assert spent(entry(tag=("env", "live")), HOUR) == 1
    assert spent(entry(plan_id=plan.pk), HOUR) == 4
    assert spent(entry(tenant_id=None, plan_id=plan.pk), HOUR) == 12
    assert spent(entry(tenant_id=None), HOUR) == 15
    house = entry(tenant_id=None, measure="cost")
    assert spent(house, HOUR) == 4_000
    assert spent(replace(house, include_overhead=True), HOUR) == 4_016


@pytest.mark.django_db
def test_a_rolling_window_is_summed_by_its_buckets():
    window = rolling_window(60, AT_S + 59.5)
    put(
        *(
            record(NOON + timedelta(seconds=s), price_pico=p)
            for s, p in ((-1.1, 1), (0, 2), (0.4, 4), (59, 8))
        )
    )
    first = int(AT_S)
    assert (window.start, window.width_ms, window.end) == (AT_S - 1, 1000, None)
    assert spent_by_bucket(entry(), window) == {first: 6, first + 59: 8}
    assert spent(entry(), window) == 14


@pytest.mark.parametrize("length_s", [60, 61, 90, 3600, 86_400, 2_678_400])
def test_a_rolling_window_is_never_shorter_than_it_says_and_at_most_one_bucket_longer(length_s):
    for at_s in (AT_S, AT_S + 0.001, AT_S + 1234.567):
        window = rolling_window(length_s, at_s)
        over_ms = round((at_s - length_s - window.start) * 1000)
        assert 0 <= over_ms < window.width_ms <= length_s * 1000 / 60


@pytest.mark.parametrize(
    ("how", "spent_before", "cap", "left"),
    [("unused", [100, 30], None, 70), ("unused", [0, 30], 25, 25), ("unused", [130], None, 0),
     ("debt", [130], None, -30), ("debt", [150, 80], None, -30), ("debt", [150, 20], None, 0),
     ("debt", [], None, 0), ("none", [10], None, 0)],
)  # fmt: skip
def test_windows_leave_what_is_unused_or_owed(how, spent_before, cap, left):
    assert carried(how, limit=100, spent=spent_before, cap=cap) == left


@pytest.mark.django_db
def test_what_is_carried_comes_from_the_ledger_and_from_no_time_before_the_budget():
    put(record(NOON - timedelta(minutes=30), price_pico=600_000), record(NOON, price_pico=1))
    of = entry(limit=1, carry_over="unused", created_s=AT_S - 7200)  # 1 micro-unit is 1,000,000 pico
    window = of.window_at(AT_S + 60)
    assert carry(of, window) == 400_000
    assert carry(of, window, held_before=300_000) == 100_000
    assert carry(replace(of, carry_cap=0), window) == 0
    assert carry(replace(of, created_s=AT_S), window) == 0
    assert carry(replace(of, limit=0, carry_over="debt"), window) == -600_000
