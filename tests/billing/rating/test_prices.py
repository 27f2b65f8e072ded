from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def price(
    pricing: Pricing,
    *,
    cost_pico: int | None = None,
    currency: str = "USD",
    model: str = "m",
    units: dict[str, int] | None = None,
) -> int | None:
    return pricing.price_of(cost_pico=cost_pico, cost_currency=currency, units=units or {}, model=model)


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
        ([{"model": "volume"}], "charges[0].model"),
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
