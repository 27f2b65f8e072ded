from datetime import UTC, datetime, timedelta

import pytest

from billing.invoicing.coupons import redeem
from billing.invoicing.draft import discard, draft
from billing.invoicing.preview import preview
from billing.models import Coupon, Invoice, LegalEntity, TaxRate
from billing.subscriptions import change_plan, subscribe
from tenants.errors import ApiError
from tenants.principal import SYSTEM
from tests.billing.invoicing import world
from tests.billing.invoicing.world import AFTER, NOVEMBER, OCTOBER
from tests.billing.ledger import put

pytestmark = pytest.mark.django_db

DECEMBER = datetime(2026, 12, 1, tzinfo=UTC)
TIERS = [
    {"up_to": "1000000", "price": "2", "per": 1_000_000},
    {"up_to": None, "price": "1.5", "per": 1_000_000, "flat": "3"},
]


def coupon(code: str = "ten", **fields: object) -> Coupon:
    return Coupon.objects.create(**{"code": code, "name": code, "kind": "percent", "value": 10, **fields})


def test_a_document_holds_the_base_fee_and_each_meter_rounded_once():
    world.seller()
    tenant = world.buyer(world.plan(base_amount="49"))
    for hour in (1, 2, 3):
        world.use(tenant, OCTOBER + timedelta(hours=hour), input_tokens=700_001, output_tokens=300_000)
    invoice = world.issued(tenant)
    assert world.lines(invoice) == [("base", "1", 4900), ("usage", "2100003", 420), ("usage", "900000", 720)]
    assert (invoice.net_minor, invoice.tax_minor, invoice.total_minor) == (6040, 1148, 7188)
    assert (invoice.number, invoice.status) == ("ACME-INV-2026-00001", "open")
    assert (str(invoice.issue_date), str(invoice.due_date)) == ("2026-11-01", "2026-11-15")
    assert invoice.parties["buyer"]["name"] == f"{tenant.name} Ltd"


def test_only_answered_priced_calls_of_the_period_are_billed_and_corrections_count():
    world.seller()
    tenant = world.buyer(world.plan())
    at = OCTOBER + timedelta(days=3)
    unknown = world.call(tenant, at, usage_source="unknown", status="unknown")
    put(unknown, recorded_at=at)
    truth = world.call(tenant, at, request_id=unknown.request_id, input_tokens=1_000_000)
    put(truth, recorded_at=at)
    world.use(tenant, at, status="error", input_tokens=9_000_000)
    world.use(tenant, at, is_final=False, input_tokens=9_000_000)
    world.use(tenant, at, price_pico=None, input_tokens=9_000_000)
    world.use(tenant, at, kind="shadow", is_final=False, input_tokens=9_000_000)
    world.use(tenant, OCTOBER - timedelta(seconds=1), input_tokens=9_000_000)
    world.use(tenant, NOVEMBER, input_tokens=9_000_000)
    made = world.drafted(tenant)
    assert world.lines(made.invoice) == [("usage", "1000000", 200)]
    assert made.unpriced == 1


def test_cache_writes_of_an_hour_have_their_own_price():
    world.seller()
    charge = {"model": "standard", "components": {
        "input": {"price": "1", "per": 1000}, "cache_write": {"price": "2", "per": 1000},
        "cache_write_1h": {"price": "4", "per": 1000}}}  # fmt: skip
    tenant = world.buyer(world.plan(charges=[charge]))
    world.use(
        tenant, OCTOBER, input_tokens=1000, cache_write_tokens=3000, other_units={"cache_write_1h": 1000}
    )
    assert world.lines(world.drafted(tenant).invoice) == [
        ("usage", "1000", 100),
        ("usage", "2000", 400),
        ("usage", "1000", 400),
    ]


def test_tiers_become_a_line_each_with_their_fee_and_cost_plus_sums_the_costs():
    world.seller()
    charges = [
        {"model": "graduated", "models": ["claude*"], "components": {"tokens": {"tiers": TIERS}}},
        {"model": "cost_plus", "markup_percent": "20", "fixed_per_request": "0.01"},
    ]
    tenant = world.buyer(world.plan(charges=charges))
    for _ in range(3):
        world.use(tenant, OCTOBER, model="claude-x", input_tokens=500_000, output_tokens=500_000)
        world.use(tenant, OCTOBER, cost_pico=333_333_333_333, price_pico=1, cost_components=None)
    invoice = world.drafted(tenant).invoice
    assert world.lines(invoice) == [
        ("usage", "1000000", 200),
        ("usage", "2000000", 300),
        ("tier_fee", "1", 300),
        ("usage", "3", 120),
        ("request_fee", "3", 3),
    ]
    assert [line.measured for line in invoice.lines.all()] == [3_000_000] * 3 + [3, 3]


def test_what_is_missing_to_the_minimum_commitment_is_a_line_of_its_own():
    world.seller()
    tenant = world.buyer(world.plan(min_commitment="20"))
    world.use(tenant, OCTOBER, input_tokens=1_000_000)
    assert world.lines(world.drafted(tenant).invoice) == [("usage", "1000000", 200), ("true_up", "1", 1800)]


def test_a_plan_that_begins_amid_the_cycle_owes_its_days_and_their_share_of_the_commitment():
    world.seller()
    tenant = world.buyer(
        world.plan(base_amount="31", min_commitment="62"), start=datetime(2026, 10, 22, 15, tzinfo=UTC)
    )
    invoice = world.drafted(tenant).invoice
    assert (invoice.period_start, invoice.period_end) == (OCTOBER, NOVEMBER)
    assert world.lines(invoice) == [("base", "10", 1000), ("true_up", "1", 2000)]


def test_a_trial_owes_no_base_amount():
    world.seller()
    tenant = world.buyer(world.plan(base_amount="31", trial_days=21))
    world.use(tenant, OCTOBER, input_tokens=1_000_000)
    assert world.lines(world.drafted(tenant).invoice) == [("base", "10", 1000), ("usage", "1000000", 200)]


def test_a_change_of_plan_splits_arrears_by_days_and_usage_by_the_version_of_each_call():
    world.seller()
    tenant = world.buyer(world.plan("small", base_amount="31"))
    old = world.version_of(tenant)
    world.use(tenant, OCTOBER, input_tokens=1_000_000)
    double = world.TOKENS | {"components": {"input": {"price": "4", "per": 1_000_000}}}
    large = world.plan("large", base_amount="62", charges=[double])
    change_plan(tenant=tenant, plan=large, at=datetime(2026, 10, 22, 9, tzinfo=UTC), actor=SYSTEM)
    world.use(tenant, datetime(2026, 10, 23, tzinfo=UTC), input_tokens=1_000_000)
    world.use(tenant, datetime(2026, 10, 23, tzinfo=UTC), version=old, input_tokens=500_000)
    invoice = world.drafted(tenant).invoice
    assert world.lines(invoice) == [
        ("base", "21", 2100),
        ("base", "10", 2000),
        ("usage", "1000000", 400),
        ("usage", "1500000", 300),
    ]


def test_a_fee_in_advance_is_charged_at_the_opening_then_with_each_period_for_the_next():
    world.seller()
    tenant = world.buyer(world.plan(base_amount="31", is_in_advance=True))
    opening = world.issued(tenant, now=OCTOBER + timedelta(hours=1), occasion="opening")
    assert world.lines(opening) == [("base", "1", 3100)]
    october = world.issued(tenant)
    assert [(line.kind, line.period_start, line.net_minor) for line in october.lines.all()] == [
        ("base", NOVEMBER, 3100)
    ]
    november = world.issued(tenant, at=NOVEMBER, now=DECEMBER + timedelta(hours=7))
    assert [(line.kind, line.period_start) for line in november.lines.all()] == [("base", DECEMBER)]


def test_a_change_of_what_was_paid_in_advance_credits_the_old_rest_and_charges_the_new():
    """R10."""
    world.seller()
    tenant = world.buyer(world.plan("small", base_amount="31", is_in_advance=True))
    world.issued(tenant, now=OCTOBER + timedelta(hours=1), occasion="opening")
    large = world.plan("large", base_amount="62", is_in_advance=True)
    change_plan(tenant=tenant, plan=large, at=datetime(2026, 10, 22, 9, tzinfo=UTC), actor=SYSTEM)
    assert world.lines(world.drafted(tenant).invoice) == [
        ("proration", "-10", -1000),
        ("proration", "10", 2000),
        ("base", "1", 6200),
    ]


def test_late_usage_is_what_all_of_the_period_rates_to_less_what_was_billed():
    """R19, with tiers: the adjustment is not the late units at a price of their own."""
    world.seller()
    charges = [{"model": "graduated", "components": {"tokens": {"tiers": TIERS}}}]
    tenant = world.buyer(world.plan(charges=charges))
    world.use(tenant, OCTOBER, input_tokens=900_000)
    assert world.lines(world.issued(tenant)) == [("usage", "900000", 180)]
    world.use(tenant, OCTOBER + timedelta(days=5), recorded_at=AFTER, input_tokens=300_000)
    later = datetime(2026, 12, 1, 7, tzinfo=UTC)
    november = world.issued(tenant, at=NOVEMBER, now=later)
    assert world.lines(november) == [("adjustment", "300000", 200 + 30 + 300 - 180)]
    (line,) = november.lines.all()
    assert (line.period_start, line.period_end, line.measured) == (OCTOBER, NOVEMBER, 300_000)
    december = world.drafted(tenant, at=DECEMBER, now=datetime(2027, 1, 1, 7, tzinfo=UTC))
    assert world.lines(december.invoice) == []


def test_late_usage_within_the_minimum_commitment_moves_the_true_up():
    world.seller()
    tenant = world.buyer(world.plan(min_commitment="20"))
    world.issued(tenant)
    world.use(tenant, OCTOBER, recorded_at=AFTER, input_tokens=1_000_000)
    november = world.drafted(tenant, at=NOVEMBER, now=datetime(2026, 12, 1, 7, tzinfo=UTC)).invoice
    assert world.lines(november) == [
        ("true_up", "1", 2000),
        ("adjustment", "1000000", 200),
        ("adjustment", "1", -200),
    ]


def test_coupons_come_off_in_the_order_of_redemption_as_often_as_they_say():
    world.seller()
    tenant = world.buyer(world.plan(base_amount="50"))
    half = coupon("half", kind="percent", value=50, line_kinds=["usage"], duration="forever")
    fixed = coupon("five", kind="fixed", value=5, currency="EUR", duration="once")
    for n, each in enumerate((half, fixed)):
        redeem(coupon=each, tenant=tenant, now=OCTOBER + timedelta(hours=n), actor=SYSTEM)
    world.use(tenant, OCTOBER, input_tokens=5_000_000)
    invoice = world.issued(tenant)
    assert [(each.description, each.amount_minor) for each in invoice.discounts.all()] == [
        ("half", 500),
        ("five", 500),
    ]
    assert (invoice.subtotal_minor, invoice.discount_minor, invoice.net_minor) == (6000, 1000, 5000)
    assert sum(line.net_minor for line in invoice.lines.all()) == 5000
    world.use(tenant, NOVEMBER, input_tokens=5_000_000)
    november = world.issued(tenant, at=NOVEMBER, now=datetime(2026, 12, 1, 7, tzinfo=UTC))
    assert [each.description for each in november.discounts.all()] == ["half"]


def test_tax_is_once_per_key_and_the_buyers_treatment_goes_before_the_plans_key():
    world.seller()
    reduced = {
        "model": "standard",
        "models": ["b*"],
        "tax": "reduced",
        "components": {"input": {"price": "0.33"}},
    }
    charges = [world.TOKENS, reduced]
    home, abroad = (
        world.buyer(sold, profile=profile)
        for sold in (world.plan(charges=charges),)
        for profile in ({}, {"tax_treatment": "reverse_charge", "vat_id": "ATU12345678"})
    )
    for tenant in (home, abroad):
        world.use(tenant, OCTOBER, input_tokens=1_000_000)
        world.use(tenant, OCTOBER, model="b", input_tokens=1)
    taxes = [
        (row["key"], row["taxable_minor"], row["amount_minor"]) for row in world.issued(home).tax_breakdown
    ]
    assert taxes == [("standard", 200, 38), ("reduced", 33, 2)]
    (row,) = world.issued(abroad).tax_breakdown
    assert (row["key"], row["category"], row["taxable_minor"], row["amount_minor"]) == (
        "reverse_charge",
        "AE",
        233,
        0,
    )


def test_without_a_tax_rate_in_force_or_a_seller_there_is_no_document():
    seller = world.seller()
    tenant = world.buyer(world.plan(base_amount="1"))
    TaxRate.objects.filter(key="standard").update(valid_to=OCTOBER.date())
    with pytest.raises(ApiError) as refused:
        world.drafted(tenant)
    assert (refused.value.code, refused.value.param) == ("conflict", "tax_rates")
    LegalEntity.objects.filter(pk=seller.pk).update(is_default=False)
    with pytest.raises(ApiError) as refused:
        world.drafted(tenant)
    assert (refused.value.code, refused.value.param) == ("conflict", "legal_entity")
    assert not Invoice.objects.exists()


def test_periods_are_the_tenants_own_months_and_tile_its_time():
    world.seller()
    tenant = world.buyer(timezone="America/Sao_Paulo", start=datetime(2026, 9, 1, 3, tzinfo=UTC))
    sold = world.plan()
    subscribe(
        tenant=tenant, plan=sold, start=datetime(2026, 10, 10, 12, tzinfo=UTC), anchor_day=31, actor=SYSTEM
    )
    found = world.period(tenant, datetime(2026, 10, 20, tzinfo=UTC))
    assert (found.start, found.end) == (
        datetime(2026, 10, 10, 12, tzinfo=UTC),
        datetime(2026, 10, 31, 3, tzinfo=UTC),
    )
    before = world.period(tenant, datetime(2026, 10, 5, tzinfo=UTC))
    assert (before.start, before.end) == (datetime(2026, 10, 1, 3, tzinfo=UTC), found.start)
    after = world.period(tenant, found.end)
    assert (after.start, after.end) == (found.end, datetime(2026, 11, 30, 3, tzinfo=UTC))


def test_a_refreshed_draft_takes_in_what_was_recorded_since_and_keeps_its_row():
    world.seller()
    tenant = world.buyer(world.plan())
    world.use(tenant, OCTOBER, input_tokens=1_000_000)
    first = world.drafted(tenant).invoice
    world.use(tenant, OCTOBER, recorded_at=AFTER, input_tokens=1_000_000)
    again = world.drafted(tenant, now=AFTER + timedelta(minutes=2)).invoice
    assert (again.pk, world.lines(again)) == (first.pk, [("usage", "2000000", 400)])
    assert Invoice.objects.count() == 1


def test_a_preview_is_the_draft_of_the_same_moment_and_writes_nothing():
    world.seller()
    tenant = world.buyer(world.plan(base_amount="49", min_commitment="10"))
    world.use(tenant, OCTOBER, input_tokens=1_234_567)
    seen = preview(tenant=tenant, now=OCTOBER + timedelta(days=2))
    assert not Invoice.objects.exists()
    drafted = draft(
        tenant=tenant, period=seen.period, now=OCTOBER + timedelta(days=2, minutes=1), actor=SYSTEM
    ).invoice
    assert [line.amount_minor for line in seen.lines] == [line.amount_minor for line in drafted.lines.all()]
    assert (seen.totals.total_minor, seen.rating_hash) == (drafted.total_minor, drafted.rating_hash)


def test_currencies_of_no_and_three_decimals_round_to_their_own_minor_unit():
    world.seller()
    for currency, net in (("JPY", 3), ("KWD", 2500)):
        sold = world.plan(currency.lower(), currency=currency, charges=[
            {"model": "standard", "components": {"input": {"price": "2.5", "per": 1}}}])  # fmt: skip
        tenant = world.buyer(sold, currency=currency)
        world.use(tenant, OCTOBER, input_tokens=1, price_currency=currency, cost_currency=currency)
        assert world.drafted(tenant).invoice.net_minor == net


def test_a_draft_is_discarded_whole():
    world.seller()
    tenant = world.buyer(world.plan(base_amount="1"))
    made = world.drafted(tenant).invoice
    discard(invoice=made, actor=SYSTEM)
    assert not Invoice.objects.exists()
    issued = world.issued(tenant)
    with pytest.raises(ApiError) as refused:
        discard(invoice=issued, actor=SYSTEM)
    assert refused.value.code == "conflict"
    with pytest.raises(ApiError) as refused:
        world.drafted(tenant)
    assert refused.value.code == "conflict"
    assert Invoice.objects.get().number == issued.number
