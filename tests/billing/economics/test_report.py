"""The margin page's numbers against sums done by hand."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest

from billing.economics.report import bottom_tenants, outlook, report
from billing.models import FxRate, Plan, PlanVersion, Subscription
from billing.rating.money import PICO
from tenants.errors import ApiError
from tests.billing.ledger import NOON, TENANT, put, record
from tests.factories import tenant

pytestmark = pytest.mark.django_db

DAY = datetime(2026, 11, 24, tzinfo=UTC)
SPAN = {"start": DAY, "end": DAY + timedelta(days=1)}
OTHER = UUID(int=99)


def usd(amount: str) -> int:
    return int(Decimal(amount) * PICO)


def call(cost: str, price: str, **changes):
    changes = {"cost_components": None, "cache_read_tokens": 0, "reasoning_tokens": 0, **changes}
    return record(changes.pop("when", NOON), cost_pico=usd(cost), price_pico=usd(price), **changes)


def test_margin_is_revenue_less_provider_cost_and_overhead_and_unit_costs_divide_it():
    put(
        call("2", "5", input_tokens=600, output_tokens=200, end_user="ann"),
        call("1", "3", input_tokens=150, output_tokens=50, end_user="bob"),
        call("0.5", "0", status="error", is_final=False, input_tokens=0, output_tokens=0),
        call("0.25", "0", kind="shadow", is_final=False, input_tokens=0, output_tokens=0),
    )
    found = report(**SPAN).totals
    amounts, units = found.amounts, found.units
    assert units is not None
    assert (amounts.revenue_pico, amounts.provider_cost_pico) == (usd("8"), usd("3"))
    assert (amounts.wasted_cost_pico, amounts.shadow_cost_pico) == (usd("0.5"), usd("0.25"))
    assert (amounts.failover_cost_pico, amounts.overhead_cost_pico) == (usd("0.5"), usd("0.75"))
    assert found.margin_pico == usd("4.25")
    assert units.contribution_margin_percent_e2 == 5313  # 4.25 / 8
    assert units.cost_per_1k_tokens_e6 == 3_750_000  # 3.75 / 1000 tokens
    assert units.cost_per_request_e6 == 1_875_000
    assert (found.active_users, units.cost_per_active_user_e6) == (2, 1_875_000)
    assert found.cost_per_success_e6 == 1_875_000
    assert units.price_per_1k_tokens_for_target_e6 == 7_500_000


def test_a_zero_divisor_is_null_and_never_zero():
    put(call("1", "0", status="error", is_final=False, input_tokens=0, output_tokens=0))
    found = report(**SPAN).totals
    assert found.units is not None
    assert found.units.contribution_margin_percent_e2 is None
    assert found.units.cost_per_1k_tokens_e6 is None
    assert found.units.cost_per_request_e6 is None
    assert found.units.cost_per_active_user_e6 is None
    assert found.cost_per_success_e6 is None
    assert found.margin_pico == -usd("1")


def test_input_and_output_costs_and_cache_savings_come_from_the_components():
    put(
        record(
            input_tokens=1000, cache_read_tokens=3000, output_tokens=400, reasoning_tokens=100, cost_pico=usd("9"),
            cost_components={"input": usd("2"), "cache_read": usd("1"), "output": usd("5"), "reasoning": usd("1")},
        )
    )  # fmt: skip
    found = report(**SPAN).totals
    assert found.cost_per_1k_input_tokens_e6 == 750_000  # 3 / 4000 tokens
    assert found.cost_per_1k_output_tokens_e6 == 12_000_000  # 6 / 500 tokens
    assert found.amounts.cache_savings_pico == usd("5")  # 3000 tokens at 2 per 1000, less 1


def test_groups_and_filters_tell_the_same_story_as_the_whole():
    put(
        call("1", "2", feature="search", model="a"),
        call("2", "1", feature="chat", model="b"),
        call("4", "5", feature="chat", model="a", when=NOON + timedelta(days=-1)),
    )
    found = report(start=DAY - timedelta(days=1), end=DAY + timedelta(days=1), group_by=("day", "feature"))
    margins = {row.label: row.figures.margin_pico for row in found.rows}
    assert margins == {
        (date(2026, 11, 23), "chat"): usd("1"),
        (date(2026, 11, 24), "chat"): -usd("1"),
        (date(2026, 11, 24), "search"): usd("1"),
    }
    assert sum(margins.values()) == found.totals.margin_pico
    assert [row.label[1] for row in found.losing()] == ["chat"]
    only = report(**SPAN, group_by=("model",), filters={"feature": ["chat"]})
    assert [(row.label, row.figures.amounts.cost_pico) for row in only.rows] == [(("b",), usd("2"))]


def test_by_key_the_ledger_is_read_and_named_and_says_what_the_rollups_say():
    put(call("1", "2", api_key_id=UUID(int=7)), call("2", "3", api_key_id=UUID(int=8), is_byok=True))
    found = report(**SPAN, group_by=("key",))
    assert found.reads_ledger == ("key", "active_users")
    assert {row.label[0].int: row.figures.amounts.cost_pico for row in found.rows} == {7: usd("1"), 8: 0}
    assert found.totals.amounts == report(**SPAN).totals.amounts


def test_what_tenants_pay_providers_themselves_is_no_cost_of_ours_nor_a_divisor():
    put(call("1", "2"), call("100", "1", is_byok=True))
    found = report(**SPAN).totals
    assert found.units is not None
    assert (found.amounts.cost_pico, found.amounts.byok_cost_pico) == (usd("1"), usd("100"))
    assert found.margin_pico == usd("2")
    assert (found.counts.requests, found.counts.own_requests) == (2, 1)
    assert found.units.cost_per_request_e6 == 1_000_000


def test_currencies_are_converted_at_each_days_frozen_rate_or_kept_apart():
    put(
        call("1", "2", price_currency="EUR"),
        call("1", "2", when=NOON - timedelta(days=1), price_currency="EUR"),
    )
    span = {"start": DAY - timedelta(days=1), "end": DAY + timedelta(days=1)}
    apart = report(**span).totals
    assert apart.units is None
    assert apart.margin_pico is None
    assert apart.foreign["EUR"].revenue_pico == usd("4")
    assert apart.amounts.cost_pico == usd("2")
    FxRate.objects.create(base="EUR", quote="USD", day=date(2026, 11, 23), rate=Decimal("1.10"))
    FxRate.objects.create(base="EUR", quote="USD", day=date(2026, 11, 24), rate=Decimal("1.20"))
    found = report(**span).totals
    assert found.foreign == {}
    assert found.amounts.revenue_pico == usd("4.60")
    assert found.margin_pico == usd("2.60")


def test_base_fees_accrue_by_time_and_go_to_features_by_their_share_of_charges():
    acme = tenant("acme")
    type(acme).objects.filter(pk=acme.pk).update(created_at=datetime(2026, 10, 1, tzinfo=UTC))
    version = PlanVersion.objects.create(
        plan=Plan.objects.create(slug="pro", name="Pro"), number=1, base_amount=Decimal(30), charges=[]
    )
    Subscription.objects.create(tenant=acme, plan_version=version, start=datetime(2026, 10, 1, tzinfo=UTC))
    put(
        call("1", "3", feature="chat", tenant_id=acme.pk, plan_version_id=version.pk),
        call("1", "1", feature="search", tenant_id=acme.pk, plan_version_id=version.pk),
        call("1", "7", feature="chat", tenant_id=OTHER),
    )
    found = report(**SPAN, group_by=("plan", "feature"))
    fees = {row.label: row.figures.amounts.base_revenue_pico for row in found.rows}
    assert fees == {("pro", "chat"): usd("0.75"), ("pro", "search"): usd("0.25"), ("", "chat"): 0}
    assert found.totals.amounts.base_revenue_pico == usd("1")  # a thirtieth of November
    part = report(**SPAN, group_by=("feature",), filters={"feature": ["search"]})
    assert part.totals.amounts.base_revenue_pico == usd("0.25")
    quiet = report(start=DAY - timedelta(days=2), end=DAY - timedelta(days=1), group_by=("feature",))
    assert (quiet.rows, quiet.unallocated_base_pico) == ([], usd("1"))
    assert quiet.totals.amounts.base_revenue_pico == usd("1")


def test_the_ten_worst_tenants_come_with_the_worst_first():
    put(*(call("5", str(n), tenant_id=UUID(int=100 + n)) for n in range(12)))
    found = bottom_tenants(**SPAN)
    assert [row.label[0].int for row in found] == [100 + n for n in range(10)]
    assert found[0].figures.margin_pico == -usd("5")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"group_by": ("status",)}, "group_by"),
        ({"group_by": ("model", "model")}, "group_by"),
        ({"filters": {"day": ["2026-11-24"]}}, "day"),
        ({"end": DAY}, "to"),
        ({"end": DAY + timedelta(days=500)}, "from"),
        ({"group_by": ("key",), "end": DAY + timedelta(days=100)}, "from"),
        ({"target_margin_percent": Decimal(100)}, "target_margin_percent"),
    ],
)
def test_what_makes_no_sense_is_refused(change, param):
    with pytest.raises(ApiError) as refused:
        report(**{**SPAN, **change})
    assert (refused.value.code, refused.value.param) == ("invalid_request", param)


def test_users_are_counted_once_over_all_groups_and_not_over_long_spans():
    put(*(call("1", "1", model=model, end_user="ann") for model in ("a", "b")), call("1", "1", end_user=""))
    found = report(**SPAN, group_by=("model",))
    assert [row.figures.active_users for row in found.rows] == [1, 1, 0]
    assert found.totals.active_users == 1
    assert report(start=DAY - timedelta(days=100), end=SPAN["end"]).totals.active_users is None


def test_the_outlook_is_per_currency_and_names_its_method():
    put(*(call("1", "2", when=NOON - timedelta(days=n)) for n in range(1, 10)))
    (found,) = outlook(as_of=NOON, tenant_ids=[TENANT])
    assert found.currency == "USD"
    assert found.revenue is not None
    assert found.cost is not None
    assert found.revenue.method == found.cost.method == "seasonal_naive"
    # nine days so far, then the last week over again until 30 November: 7 days of 2
    assert found.revenue.total_pico == usd("32")
    assert found.margin_pico == usd("16")
    assert outlook(as_of=NOON, tenant_ids=[OTHER]) == []
