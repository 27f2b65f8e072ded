from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal, localcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.catalog.cost import (
    Cost,
    Rate,
    RateCard,
    RatesInvalid,
    Unpriced,
    cost_of,
    price_per_million,
    worst_case_pico,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


def rate(component: str, price: str, **fields: Any) -> Rate:
    return Rate(
        component=component,
        price=Decimal(price),
        **{
            "per": 1_000_000,
            "currency": "USD",
            "service_tier": "",
            "min_input_tokens": 0,
            "effective_from": START,
            "effective_to": None,
            "id": f"{component}-{price}",
            **fields,
        },
    )


def cost(rates: list[Rate], units: Mapping[str, int], **at: Any) -> Cost:
    return cost_of(RateCard(rates), units, **{"occurred_at": NOON, **at})


def test_components_are_priced_apart_and_sum_to_the_total() -> None:
    answer = cost([rate("input", "0.075"), rate("output", "0.3")], {"input": 1001, "output": 7})
    assert answer == Cost({"input": 75_075_000, "output": 2_100_000}, 77_175_000)


def test_half_a_pico_rounds_away_from_zero_once_per_component() -> None:
    # 1 token at 0.0000005 per million is half a pico.
    answer = cost([rate("input", "0.0000005"), rate("output", "0.0000005")], {"input": 1, "output": 3})
    assert answer == Cost({"input": 1, "output": 2}, 3)


def test_less_than_half_a_pico_rounds_down() -> None:
    assert cost([rate("input", "0.0000004")], {"input": 1}).components == {"input": 0}


def test_prices_by_the_hour_and_by_the_piece() -> None:
    answer = cost(
        [rate("input_seconds", "0.36", per=3600), rate("web_searches", "0.01", per=1)],
        {"input_seconds": 7, "web_searches": 2},
    )
    assert answer.components == {"input_seconds": 700_000_000, "web_searches": 20_000_000_000}


def test_zero_quantities_are_absent_and_need_no_rate() -> None:
    assert cost([rate("input", "1")], {"input": 0, "output": 0}) == Cost({}, 0)


@pytest.mark.parametrize(
    ("component", "rates", "pico"),
    [
        ("cache_read", [rate("input", "2")], 20_000_000),
        ("cache_write", [rate("input", "2")], 20_000_000),
        ("cache_write_1h", [rate("input", "2"), rate("cache_write", "2.5")], 25_000_000),
        ("cache_write_1h", [rate("input", "2")], 20_000_000),
        ("cache_read", [rate("input", "2"), rate("cache_read", "0.2")], 2_000_000),
    ],
)
def test_cache_components_fall_back_as_r3_says(component: str, rates: list[Rate], pico: int) -> None:
    assert cost(rates, {component: 10}).components == {component: pico}


def test_reasoning_without_its_own_rate_is_rounded_together_with_output() -> None:
    # Apart they would be 0.4 + 0.4 pico, each rounded to nothing.
    assert cost([rate("output", "0.0000004")], {"output": 1, "reasoning": 1}) == Cost({"output": 1}, 1)


@pytest.mark.parametrize(
    "units", [{"reasoning": 5}, {"output": 0, "reasoning": 5}, {"reasoning": 5, "output": 0}]
)
def test_reasoning_alone_without_its_own_rate_is_output(units: dict[str, int]) -> None:
    assert cost([rate("output", "1")], units) == Cost({"output": 5_000_000}, 5_000_000)


def test_reasoning_with_its_own_rate_is_priced_apart() -> None:
    answer = cost([rate("output", "1"), rate("reasoning", "3")], {"output": 2, "reasoning": 5})
    assert answer.components == {"output": 2_000_000, "reasoning": 15_000_000}


@pytest.mark.parametrize(
    ("units", "missing"),
    [
        ({"input": 1}, "input"),
        ({"cache_read": 1}, "cache_read"),
        ({"reasoning": 1}, "output"),
        ({"input_audio": 1}, "input_audio"),
        ({"web_searches": 1}, "web_searches"),
    ],
)
def test_a_missing_rate_is_unpriced_and_named(units: dict[str, int], missing: str) -> None:
    with pytest.raises(Unpriced) as refusal:
        cost([], units)
    assert refusal.value.component == missing


def test_a_service_tier_matches_exactly_or_not_at_all() -> None:
    rates = [rate("input", "2"), rate("input", "1", service_tier="flex")]
    assert cost(rates, {"input": 10}, service_tier="flex").total_pico == 10_000_000
    with pytest.raises(Unpriced, match="input"):
        cost(rates, {"input": 10}, service_tier="priority")


def test_fallbacks_stay_inside_the_service_tier() -> None:
    rates = [rate("input", "2"), rate("cache_read", "0.2"), rate("input", "1", service_tier="flex")]
    assert cost(rates, {"cache_read": 10}, service_tier="flex").total_pico == 10_000_000


@pytest.mark.parametrize(("plain", "pico"), [(0, 20_000), (99, 20_000), (100, 20_000), (101, 40_000)])
def test_a_context_tier_applies_when_the_total_input_strictly_exceeds_it(plain: int, pico: int) -> None:
    rates = [rate("input", "1"), rate("output", "0.02"), rate("output", "0.04", min_input_tokens=200)]
    units = {"input": plain, "cache_read": 60, "cache_write_1h": 40, "output": 1}
    assert cost(rates, units).components["output"] == pico


def test_a_tier_covers_the_whole_request() -> None:
    rates = [rate("input", "1"), rate("input", "3", min_input_tokens=100)]
    assert cost(rates, {"input": 101}).total_pico == 303_000_000


def test_validity_is_half_open_and_the_card_remembers_each_period() -> None:
    change = NOON
    card = RateCard([rate("input", "1", effective_to=change), rate("input", "2", effective_from=change)])
    before, after = change - timedelta(microseconds=1), change + timedelta(days=1)
    for _ in range(2):
        assert cost_of(card, {"input": 1}, occurred_at=before).total_pico == 1_000_000
        assert cost_of(card, {"input": 1}, occurred_at=change).total_pico == 2_000_000
        assert cost_of(card, {"input": 1}, occurred_at=after.timestamp()).total_pico == 2_000_000


def test_nothing_is_priced_before_the_first_rate_or_after_the_last() -> None:
    card = RateCard([rate("input", "1", effective_to=NOON)])
    for instant in (START - timedelta(seconds=1), NOON):
        with pytest.raises(Unpriced):
            cost_of(card, {"input": 1}, occurred_at=instant)


def test_free_is_a_price_of_zero_and_not_a_missing_one() -> None:
    assert cost([rate("input", "0")], {"input": 5}) == Cost({"input": 0}, 0)


@pytest.mark.parametrize(
    "rates",
    [
        [rate("input", "1"), rate("input", "2")],
        [rate("input", "1", effective_to=NOON), rate("input", "2", effective_from=NOON - timedelta(days=1))],
        [rate("input", "1"), rate("output", "1", currency="EUR")],
        [rate("input", "-1")],
        [rate("input", "NaN")],
        [rate("input", "1", per=0)],
        [rate("input", "1", effective_to=START)],
    ],
)
def test_contradictory_rates_form_no_card(rates: list[Rate]) -> None:
    with pytest.raises(RatesInvalid):
        RateCard(rates)


def test_negative_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="a negative count of input"):
        cost([rate("input", "1")], {"input": -1})


def test_an_instant_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        cost([rate("input", "1")], {"input": 1}, occurred_at=NOON.replace(tzinfo=None))


def test_price_per_million_follows_tier_and_fallback() -> None:
    card = RateCard(
        [
            rate("input", "0.00125", per=1000),
            rate("input", "2.5", min_input_tokens=200_000),
            rate("output", "10"),
        ]
    )
    assert price_per_million(card, NOON, "input") == Decimal("1.25")
    assert price_per_million(card, NOON, "cache_read", input_tokens=200_001) == Decimal("2.5")
    with pytest.raises(Unpriced, match="input_audio"):
        price_per_million(card, NOON, "input_audio")


def test_worst_case_takes_the_dearest_rate_within_reach() -> None:
    card = RateCard(
        [
            rate("input", "1"),
            rate("cache_write_1h", "2"),
            rate("input", "5", min_input_tokens=1000),
            rate("output", "4"),
        ]
    )
    bound = worst_case_pico(card, 1000, 10, NOON)
    assert bound == 1000 * 2_000_000 + 10 * 4_000_000 + 12  # a pico for each component's rounding
    assert worst_case_pico(card, 1000, 0, NOON, input_components=("input",)) == 1000 * 1_000_000 + 2
    assert worst_case_pico(card, 1001, 0, NOON, input_components=("input",)) == 1001 * 5_000_000 + 2


def test_worst_case_without_a_plain_rate_is_unpriced() -> None:
    with pytest.raises(Unpriced, match="output"):
        worst_case_pico(RateCard([rate("input", "1")]), 1, 1, NOON)


prices = st.decimals(min_value=0, max_value=1000, places=10)
counts = st.integers(min_value=0, max_value=10**7)
priced = ("input", "cache_read", "cache_write", "cache_write_1h", "output", "reasoning")


@given(
    price=prices,
    per=st.sampled_from((1, 60, 1000, 3600, 1_000_000)),
    count=st.integers(min_value=1, max_value=10**9),
)
def test_one_component_is_the_decimal_product_rounded_half_up(price: Decimal, per: int, count: int) -> None:
    with localcontext(prec=60):
        expected = (price * count / per).quantize(Decimal("1e-12"), ROUND_HALF_UP)
        assert cost([rate("input", str(price), per=per)], {"input": count}).total_pico == expected * 10**12


@given(
    own=st.dictionaries(st.sampled_from(priced), prices),
    tier=st.dictionaries(st.sampled_from(priced), prices),
    plain=st.tuples(prices, prices),
    units=st.dictionaries(st.sampled_from(priced), st.one_of(counts, st.integers(0, 5000))),
    slack=st.tuples(counts, counts),
)
def test_worst_case_bounds_every_real_cost_and_components_sum(
    own: dict[str, Decimal],
    tier: dict[str, Decimal],
    plain: tuple[Decimal, Decimal],
    units: dict[str, int],
    slack: tuple[int, int],
) -> None:
    base = {"input": plain[0], "output": plain[1], **own}
    card = RateCard(
        [
            *(rate(name, str(price)) for name, price in base.items()),
            *(rate(name, str(price), min_input_tokens=10_000) for name, price in tier.items()),
        ]
    )
    answer = cost_of(card, units, occurred_at=NOON)
    written = sum(units.get(name, 0) for name in ("output", "reasoning"))
    read = sum(units.values()) - written
    assert sum(answer.components.values()) == answer.total_pico
    assert answer.total_pico <= worst_case_pico(card, read + slack[0], written + slack[1], NOON)
