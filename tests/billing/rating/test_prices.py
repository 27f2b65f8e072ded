from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.rating.fx import DailyRate, FxTable
from billing.rating.prices import Pricing, compile_charges
from tenants.errors import ApiError

STANDARD: dict[str, Any] = {
    "model": "standard",
    "models": ["gpt-4o*"],
    "components": {
        "input": {"price": "5.00", "per": 1_000_000},
        "output": {"price": "15.00", "per": 1_000_000},
        "cache_write": {"price": "6.25", "per": 1_000_000},
    },
}
COST_PLUS: dict[str, Any] = {"model": "cost_plus", "markup_percent": "20", "fixed_per_request": "0.001"}

GRADUATED: dict[str, Any] = {
    "model": "graduated",
    "components": {
        "tokens": {
            "included": "1000",
            "tiers": [
                {"up_to": "50000", "price": "1.10", "per": 1000, "flat": "5.00"},
                {"up_to": None, "price": "0.70", "per": 1000},
            ],
        }
    },
}


def graduated(*tiers: dict[str, Any]) -> dict[str, Any]:
    return {"model": "graduated", "components": {"tokens": {"tiers": list(tiers)}}}


def standard(**components: dict[str, Any]) -> dict[str, Any]:
    return {"model": "standard", "components": components}


def price(
    pricing: Pricing,
    *,
    cost_pico: int | None = None,
    currency: str = "USD",
    model: str = "m",
    units: dict[str, int] | None = None,
    **more: Any,
) -> int | None:
    return pricing.price_of(
        cost_pico=cost_pico, cost_currency=currency, units=units or {}, model=model, **more
    )


def test_cost_plus_adds_the_markup_and_the_fixed_fee():
    assert price(compile_charges([COST_PLUS], "USD"), cost_pico=1_000_000_000) == 2_200_000_000


def test_a_zero_cost_is_still_priced():
    assert price(compile_charges([COST_PLUS], "USD"), cost_pico=0) == 1_000_000_000


def test_cost_plus_rounds_half_away_from_zero():
    pricing = compile_charges([{"model": "cost_plus", "markup_percent": "50"}], "USD")
    assert [price(pricing, cost_pico=n) for n in (1, 3, -1, -3)] == [2, 5, -2, -5]


def test_cost_plus_cannot_price_an_unknown_cost():
    assert price(compile_charges([COST_PLUS], "USD"), cost_pico=None) is None


def test_cost_plus_cannot_price_a_cost_in_another_currency():
    assert price(compile_charges([COST_PLUS], "EUR"), cost_pico=5, currency="USD") is None


def test_standard_prices_each_component_and_takes_missing_ones_from_their_kin():
    units = {"input": 1000, "cache_read": 100, "cache_write_1h": 8, "output": 20, "reasoning": 10}
    pricing = compile_charges([STANDARD], "EUR")
    expected = (1100 * 5 + 8 * 625 // 100 + 30 * 15) * 1_000_000
    assert price(pricing, model="gpt-4o-mini", units=units) == expected


def test_a_used_component_without_a_price_leaves_the_call_unpriced():
    pricing = compile_charges([STANDARD], "USD")
    assert price(pricing, model="gpt-4o", units={"input": 1, "web_searches": 1}) is None
    assert price(pricing, model="gpt-4o", units={"input": 1, "web_searches": 0}) == 5_000_000


def test_a_model_no_charge_covers_is_unpriced():
    assert price(compile_charges([STANDARD], "USD"), model="claude", cost_pico=1) is None
    assert price(compile_charges([], "USD"), cost_pico=1) is None


def test_the_most_specific_charge_wins_whatever_the_order():
    rows = [
        {"model": "cost_plus", "markup_percent": "1"},
        {"model": "cost_plus", "models": ["gpt-*"], "markup_percent": "2"},
        {"model": "cost_plus", "models": ["gpt-4o*"], "markup_percent": "3"},
        {"model": "cost_plus", "models": ["gpt-4o"], "markup_percent": "4"},
    ]
    for order in (rows, rows[::-1]):
        pricing = compile_charges(order, "USD")
        prices = [
            price(pricing, cost_pico=100, model=m) for m in ("claude", "gpt-5", "gpt-4o-mini", "gpt-4o")
        ]
        assert prices == [101, 102, 103, 104]


@pytest.mark.parametrize(
    ("charges", "param"),
    [
        ({}, "charges"),
        (["x"], "charges[0]"),
        ([{"model": "mystery"}], "charges[0].model"),
        ([{"model": "volume"}], "charges[0].components"),
        ([{"model": "cost_plus", "markup_percent": 1.5}], "charges[0].markup_percent"),
        ([{"model": "cost_plus", "markup_percent": "NaN"}], "charges[0].markup_percent"),
        ([{"model": "cost_plus", "markup_percent": "-101"}], "charges[0].markup_percent"),
        ([{"model": "cost_plus", "fixed_per_request": "0.0000000000001"}], "charges[0].fixed_per_request"),
        ([{"model": "cost_plus", "markup": "1"}], "charges[0].markup"),
        ([COST_PLUS, COST_PLUS], "charges[1].models"),
        ([COST_PLUS | {"models": []}], "charges[0].models"),
        ([COST_PLUS | {"models": ["a*b"]}], "charges[0].models"),
        ([{"model": "standard"}], "charges[0].components"),
        ([STANDARD | {"components": {"input": {"price": "1", "per": 0}}}], "charges[0].components.input.per"),
        ([STANDARD | {"components": {"input": {"per": 1}}}], "charges[0].components.input.price"),
        ([standard(tokens={"price": "1"}, output={"price": "1"})], "charges[0].components.tokens"),
        ([GRADUATED | {"components": {"tokens": {"tiers": []}}}], "charges[0].components.tokens.tiers"),
        ([graduated({"up_to": 5}, {"up_to": 10})], "charges[0].components.tokens.tiers[1].up_to"),
        ([graduated({"up_to": None}, {"up_to": None})], "charges[0].components.tokens.tiers[0].up_to"),
        ([graduated({"up_to": 5}, {"up_to": 5}, {})], "charges[0].components.tokens.tiers[1].up_to"),
        ([graduated({"flat": "-1"})], "charges[0].components.tokens.tiers[0].flat"),
        ([standard(a={"package_size": 0}) | {"model": "package"}], "charges[0].components.a.package_size"),
        ([{"model": "percentage", "min_per_request": "2", "max_per_request": "1"}], "charges[0].max_per_request"),
        ([{"model": "byok"}, {"model": "byok"}], "charges[1].models"),
        ([{"model": "cache_hit"}], "charges[0].percent_off"),
        ([{"model": "cache_hit", "percent_off": "101"}], "charges[0].percent_off"),
        ([COST_PLUS | {"name": "x" * 201}], "charges[0].name"),
    ],
)  # fmt: skip
def test_a_faulty_charge_is_refused_with_its_path(charges: Any, param: str):
    with pytest.raises(ApiError) as refused:
        compile_charges(charges, "USD")
    assert (refused.value.code, refused.value.param) == ("invalid_request", param)


amounts = st.decimals(min_value=0, max_value=1000, places=6).map(str)


@given(cost=st.integers(0, 10**15), markup=amounts, fixed=amounts)
def test_cost_plus_equals_decimal_arithmetic(cost: int, markup: str, fixed: str):
    pricing = compile_charges(
        [{"model": "cost_plus", "markup_percent": markup, "fixed_per_request": fixed}], "USD"
    )
    exact = Decimal(cost) * (1 + Decimal(markup) / 100) + Decimal(fixed) * 10**12
    assert price(pricing, cost_pico=cost) == int(exact.quantize(Decimal(1), ROUND_HALF_UP))


tokens = st.integers(0, 10**7)


@given(
    bound=st.fixed_dictionaries({"input": tokens, "output": tokens}),
    split=st.lists(st.floats(0, 1), min_size=4, max_size=4),
    price_in=amounts,
    price_write=amounts,
    price_reasoning=amounts,
)
def test_no_call_within_the_bound_is_priced_above_its_hold(
    bound, split, price_in, price_write, price_reasoning
):
    components = {"input": price_in, "cache_write": price_write, "output": "1", "reasoning": price_reasoning}
    pricing = compile_charges(
        [{"model": "standard", "components": {n: {"price": p, "per": 1000} for n, p in components.items()}}],
        "USD",
    )
    left, units = bound["input"], {}
    for name, share in zip(("input", "cache_read", "cache_write"), split, strict=False):
        units[name] = int(left * share)
        left -= units[name]
    units["reasoning"] = int(bound["output"] * split[3])
    units["output"] = bound["output"] - units["reasoning"]
    priced = price(pricing, units=units)
    held = pricing.hold_of(worst_cost_pico=None, units_bound=bound, model="m")
    assert priced is not None
    assert held is not None
    assert priced <= held


def test_a_cost_plus_hold_is_rounded_up_and_unpriced_where_the_price_would_be():
    pricing = compile_charges([{"model": "cost_plus", "markup_percent": "10"}], "USD")
    assert pricing.hold_of(worst_cost_pico=11, units_bound={}, model="m") == 13
    assert pricing.hold_of(worst_cost_pico=None, units_bound={}, model="m") is None
    assert pricing.hold_of(worst_cost_pico=11, units_bound={}, model="m", cost_currency="EUR") is None


# ------------------------------------------------------------------ models that depend on the period


def test_a_tiered_price_is_provisional_at_its_dearest_tier():
    pricing = compile_charges([GRADUATED], "USD")
    units = {"input": 600, "cache_read": 300, "output": 90, "reasoning": 10}
    assert price(pricing, units=units) == 1_100_000_000_000
    assert pricing.is_provisional("m")
    rising = compile_charges([graduated({"up_to": 10, "price": "1"}, {"up_to": None, "price": "3"})], "USD")
    assert price(rising, units={"input": 2}) == 6 * 10**12


def test_a_volume_price_is_provisional_at_its_dearest_tier():
    tiers = [{"up_to": 1000, "price": "2", "per": 1000}, {"up_to": None, "price": "1", "per": 1000}]
    pricing = compile_charges([{"model": "volume", "components": {"input": {"tiers": tiers}}}], "USD")
    assert price(pricing, units={"input": 5000}) == 10 * 10**12


def test_a_package_is_provisional_by_the_unit():
    row = {"model": "package", "components": {"requests": {"package_size": "100", "package_price": "7"}}}
    pricing = compile_charges([row], "USD")
    assert price(pricing, units={"input": 9}) == 70_000_000_000
    assert pricing.is_provisional("m")


def test_included_units_make_a_standard_price_provisional_but_not_lower():
    components = {"input": {"price": "1", "per": 1000, "included": "5000"}}
    pricing = compile_charges([{"model": "standard", "components": components}], "USD")
    assert price(pricing, units={"input": 10}) == 10_000_000_000
    assert pricing.is_provisional("m")
    assert not compile_charges([STANDARD], "USD").is_provisional("gpt-4o")
    assert not compile_charges([], "USD").is_provisional("m")


def test_a_price_per_request_alone_covers_whatever_the_call_used():
    only = {"model": "standard", "components": {"requests": {"price": "0.02"}}}
    assert price(compile_charges([only], "USD"), units={"input": 9, "images": 3}) == 20_000_000_000
    beside = {"requests": {"price": "0.02"}, "input": {"price": "1", "per": 1000}}
    pricing = compile_charges([{"model": "standard", "components": beside}], "USD")
    assert price(pricing, units={"input": 9}) == 29_000_000_000
    assert price(pricing, units={"input": 9, "images": 3}) is None


def test_units_are_counted_by_the_meter_that_prices_them():
    components = {"input": {"price": "1"}, "cache_write": {"price": "1"}, "requests": {"price": "1"}}
    (charge,) = compile_charges([{"model": "standard", "components": components}], "USD").charges
    units = {"input": 5, "cache_read": 3, "cache_write_1h": 2, "output": 0}
    assert charge.quantities(units, requests=7) == {"requests": 7, "input": 8, "cache_write": 2}
    assert charge.quantities({"output": 1}) is None
    (charge,) = compile_charges([GRADUATED], "USD").charges
    assert charge.quantities({"input": 5, "output": 3, "reasoning": 2}) == {"tokens": 10}
    assert charge.quantities({"images": 1}) is None


def test_a_percentage_is_kept_between_its_least_and_its_most():
    row = {"model": "percentage", "percent_of_cost": "5", "fixed_per_request": "0.01",
           "min_per_request": "0.02", "max_per_request": "0.06"}  # fmt: skip
    pricing = compile_charges([row], "USD")
    costs = (0, 400_000_000_000, 10**12, 2 * 10**12)
    assert [price(pricing, cost_pico=cost) for cost in costs] == [
        20_000_000_000,
        30_000_000_000,
        60_000_000_000,
        60_000_000_000,
    ]
    assert pricing.hold_of(worst_cost_pico=0, units_bound={}, model="m") == 20_000_000_000
    assert price(pricing, cost_pico=None) is None


# ------------------------------------------------------------------ own keys and cache hits


def test_a_call_on_the_tenants_own_key_is_free_without_a_fee():
    pricing = compile_charges([COST_PLUS], "USD")
    assert price(pricing, cost_pico=10**12, is_byok=True) == 0
    assert price(pricing, cost_pico=None, currency="EUR", is_byok=True) == 0
    assert pricing.hold_of(worst_cost_pico=10**12, units_bound={}, model="m", is_byok=True) == 0
    assert pricing.charge_for("m", is_byok=True) is None
    assert pricing.charge_for("m") is pricing.charges[0]


def test_the_fee_for_own_keys_is_per_request_and_part_of_the_shadow_cost():
    fee = {"model": "byok", "percent_of_cost": "5", "fixed_per_request": "0.001"}
    flat = {"model": "byok", "models": ["gpt-*"], "fixed_per_request": "0.002"}
    pricing = compile_charges([COST_PLUS, fee, flat], "USD")
    assert price(pricing, cost_pico=10**12, is_byok=True) == 51_000_000_000
    assert price(pricing, cost_pico=None, is_byok=True) is None
    assert price(pricing, cost_pico=None, is_byok=True, model="gpt-5") == 2_000_000_000
    assert price(pricing, cost_pico=10**12) == 1_201_000_000_000
    assert pricing.hold_of(worst_cost_pico=10**12, units_bound={}, model="m", is_byok=True) == 51_000_000_000
    assert pricing.charge_for("gpt-5", is_byok=True) is pricing.charges[2]


def test_a_fee_for_own_keys_prices_no_other_call():
    assert price(compile_charges([{"model": "byok", "fixed_per_request": "1"}], "USD"), cost_pico=1) is None


@pytest.mark.parametrize(
    ("rows", "expected"),
    [([], 0), ([{"model": "cache_hit", "percent_off": "100"}], 0),
     ([{"model": "cache_hit", "percent_off": "75"}], 550_000_000),
     ([{"model": "cache_hit", "percent_off": "0"}], 2_200_000_000)],
)  # fmt: skip
def test_a_cache_hit_is_free_discounted_or_at_full_price(rows: list[dict[str, Any]], expected: int):
    pricing = compile_charges([COST_PLUS, *rows], "USD")
    assert price(pricing, cost_pico=1_000_000_000, cache_hit=True) == expected
    assert price(pricing, cost_pico=1_000_000_000) == 2_200_000_000
    held = pricing.hold_of(worst_cost_pico=1_000_000_000, units_bound={}, model="m", cache_hit=True)
    assert held == expected


def test_a_cache_hit_of_a_model_nobody_priced_stays_unpriced():
    pricing = compile_charges([{"model": "cache_hit", "percent_off": "100"}], "USD")
    assert price(pricing, cost_pico=1, cache_hit=True) is None


# ------------------------------------------------------------------ other currencies (R23)


def at(day: int, hour: int = 0) -> float:
    return datetime(2026, 5, day, hour, tzinfo=UTC).timestamp()


FX = FxTable(
    [
        DailyRate("USD", "EUR", date(2026, 5, 1), Decimal("0.75")),
        DailyRate("USD", "EUR", date(2026, 5, 2), Decimal("0.7411")),
    ]
)


def test_cost_plus_converts_at_the_frozen_rate_of_the_day():
    pricing = compile_charges([{"model": "cost_plus", "markup_percent": "10"}], "EUR", FX)
    assert price(pricing, cost_pico=100, at_s=at(1, 23)) == 83
    assert price(pricing, cost_pico=1_000_000, at_s=at(2)) == 815_210
    assert price(pricing, cost_pico=100, currency="EUR") == 110


def test_weekends_take_the_newest_rate_before_and_old_rates_none():
    pricing = compile_charges([{"model": "cost_plus"}], "EUR", FX)
    assert price(pricing, cost_pico=10_000, at_s=at(9)) == 7411
    assert price(pricing, cost_pico=10_000, at_s=at(10)) is None
    assert price(pricing, cost_pico=10_000, at_s=at(1) - 1) is None


def test_without_a_rate_or_a_day_a_foreign_cost_is_unpriced():
    pricing = compile_charges([{"model": "cost_plus"}], "EUR", FX)
    assert price(pricing, cost_pico=100, currency="GBP", at_s=at(1)) is None
    assert price(pricing, cost_pico=100) is None
    held = pricing.hold_of(worst_cost_pico=101, units_bound={}, model="m", cost_currency="USD", at_s=at(1))
    assert held == 76


def test_a_rate_that_is_none_is_refused():
    with pytest.raises(ValueError, match="a rate of 0"):
        DailyRate("USD", "EUR", date(2026, 5, 1), Decimal(0))


@given(
    cost=st.integers(0, 10**13),
    worst=st.integers(0, 10**13),
    percent=amounts,
    least=amounts,
    rate=st.decimals("0.0001", 100, places=4),
    off=st.integers(0, 100),
)
def test_no_percentage_within_the_bound_is_priced_above_its_hold(cost, worst, percent, least, rate, off):
    row = {"model": "percentage", "percent_of_cost": percent, "min_per_request": least}
    fx = FxTable([DailyRate("USD", "EUR", date(2026, 5, 1), rate)])
    pricing = compile_charges([row, {"model": "cache_hit", "percent_off": str(off)}], "EUR", fx)
    low, high = sorted((cost, worst))
    priced = price(pricing, cost_pico=low, at_s=at(1), cache_hit=True)
    held = pricing.hold_of(
        worst_cost_pico=high, units_bound={}, model="m", cost_currency="USD", at_s=at(1), cache_hit=True
    )
    assert priced is not None
    assert held is not None
    assert priced <= held
