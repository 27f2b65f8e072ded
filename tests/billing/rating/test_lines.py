from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import ROUND_CEILING, ROUND_HALF_UP, Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.rating.charges import CostPlus, Graduated, Package, Percentage, Standard, Tier, UnitModel, Volume
from billing.rating.lines import (
    Line,
    NoPriceInForce,
    PeriodUsage,
    PriceVersion,
    Unrateable,
    rate_charge,
    rate_costs,
    rate_events,
    rate_frozen,
    rate_quantity,
    rate_versions,
    sum_minor,
    true_up_minor,
)
from billing.rating.money import PICO
from billing.rating.prices import compile_charges

D = Decimal
TIERS = (Tier(D(100), D("0.50"), 1, D("5.00")), Tier(D(200), D("0.30")), Tier(None, D("0.10"), 1, D("10.00")))


def rated(model: UnitModel, quantity: Any, *, currency: str = "EUR", **more: Any) -> list[tuple[str, int]]:
    lines = rate_quantity(model, D(str(quantity)), currency=currency, **more)
    return [(str(line.quantity), line.amount_minor) for line in lines]


# ------------------------------------------------------------------ one price


def test_standard_is_rounded_once_half_away_from_zero():
    assert rated(Standard(D("0.005")), 1) == [("1", 1)]
    assert rated(Standard(D("0.005")), -1) == [("-1", -1)]
    assert rated(Standard(D("23.75"), 1_000_000), 300_000, currency="JPY") == [("300000", 7)]
    assert rated(Standard(D("0.0125"), 60), 90, currency="KWD") == [("90", 19)]


def test_included_units_go_off_first_and_never_below_nothing():
    assert rated(Standard(D(1)), 10, included=D(4)) == [("6", 600)]
    assert rated(Standard(D(1)), 3, included=D(4)) == [("0", 0)]


def test_included_units_never_apply_to_a_negative_quantity():
    assert rated(Standard(D(1)), -10, included=D(4)) == [("-10", -1000)]


# ------------------------------------------------------------------ tiers


@pytest.mark.parametrize(
    ("quantity", "expected"),
    [
        (0, []),
        (1, [("1", 50), ("1", 500)]),
        (100, [("100", 5000), ("1", 500)]),
        (101, [("100", 5000), ("1", 500), ("1", 30)]),
        (200, [("100", 5000), ("1", 500), ("100", 3000)]),
        (250, [("100", 5000), ("1", 500), ("100", 3000), ("50", 500), ("1", 1000)]),
        ("100.5", [("100", 5000), ("1", 500), ("0.5", 15)]),
        (-4, [("-4", -200)]),
    ],
)
def test_graduated_prices_each_tier_and_its_fee_once_entered(quantity: Any, expected: list[tuple[str, int]]):
    assert rated(Graduated(TIERS), quantity) == expected


@pytest.mark.parametrize(
    ("quantity", "expected"),
    [
        (0, [("0", 0)]),
        (1, [("1", 50), ("1", 500)]),
        (100, [("100", 5000), ("1", 500)]),
        (101, [("101", 3030)]),
        (200, [("200", 6000)]),
        ("200.01", [("200.01", 2000), ("1", 1000)]),
        (-4, [("-4", -200)]),
    ],
)
def test_volume_prices_all_units_at_the_tier_they_reach(quantity: Any, expected: list[tuple[str, int]]):
    assert rated(Volume(TIERS), quantity) == expected


def test_tiers_count_from_the_first_unit_that_is_not_included():
    assert rated(Graduated(TIERS), 150, included=D(50)) == [("100", 5000), ("1", 500)]
    assert rated(Volume(TIERS), 151, included=D(50)) == [("101", 3030)]


@pytest.mark.parametrize(
    ("quantity", "packages", "amount"),
    [(0, "0", 0), (1, "1", 420), (750, "1", 420), (751, "2", 840), ("750.001", "2", 840), (-800, "-1", -420)],
)
def test_every_begun_package_is_due(quantity: Any, packages: str, amount: int):
    assert rated(Package(D(750), D("4.20")), quantity) == [(packages, amount)]


def test_a_package_may_hold_a_part_of_a_unit():
    assert rated(Package(D("0.25"), D(1)), "0.6") == [("3", 300)]


# ------------------------------------------------------------------ costs and events


def test_cost_plus_is_marked_up_after_the_sum_and_its_fee_has_its_own_line():
    terms = CostPlus(D(15), D("0.0001"))
    lines = rate_costs(terms, cost_pico=855_000_000_000, requests=254_000, currency="USD")
    assert [(line.kind, line.amount_minor) for line in lines] == [("usage", 98), ("request_fee", 2540)]
    assert len(rate_costs(CostPlus(D(15)), cost_pico=1, requests=1, currency="USD")) == 1


def test_percentage_keeps_each_event_within_its_least_and_most():
    terms = Percentage(D("2.5"), D("0.10"), D("0.50"), D("3.00"))
    events = [(D(10), 2), (D(100), 1), (D(1000), 3)]
    (line,) = rate_events(terms, events, currency="EUR")
    assert (line.quantity, line.amount_minor) == (6, 2 * 50 + 260 + 3 * 300)


def test_percentage_is_rounded_once_over_all_events():
    (line,) = rate_events(Percentage(D(1)), [(D("0.14"), 10)], currency="EUR")
    assert line.amount_minor == 1


def test_nothing_happened_is_a_line_of_nothing():
    assert rate_events(Percentage(D(1)), [], currency="EUR") == (Line("usage", D(0), 0),)


# ------------------------------------------------------------------ versions and commitment


def version(name: str, price: str, start: int, end: int | None) -> PriceVersion:
    return PriceVersion(name, D(price), 1, moment(start), None if end is None else moment(end))


def moment(day: int) -> datetime:
    return datetime(2026, 5, day, tzinfo=UTC)


def test_each_price_version_with_usage_has_its_line_in_their_order():
    versions = [version("a", "1", 1, 5), version("b", "2", 5, 9), version("c", "3", 9, None)]
    events = [(moment(9), D(1)), (moment(1), D(4)), (moment(20), D(2))]
    lines = rate_versions(versions, events, currency="EUR")
    assert [(line.version, line.quantity, line.amount_minor) for line in lines] == [
        ("a", 4, 400),
        ("c", 3, 900),
    ]


def test_usage_that_no_version_covers_is_refused():
    with pytest.raises(NoPriceInForce, match="2026-05-05"):
        rate_versions([version("a", "1", 1, 5)], [(moment(5), D(1))], currency="EUR")


def test_a_true_up_fills_the_commitment_and_is_never_negative():
    lines = rate_quantity(Standard(D(1)), D(10), currency="EUR")
    assert true_up_minor(lines, D("15.00"), currency="EUR") == 500
    assert true_up_minor(lines, D("9.99"), currency="EUR") == 0


def test_a_short_period_commits_to_its_share_rounded_first():
    lines = rate_quantity(Standard(D(1)), D(1), currency="EUR")
    more = {"currency": "EUR", "commitment_days": 10, "period_days": 30}
    assert true_up_minor(lines, D("100.00"), **more) == 3333 - 100


# ------------------------------------------------------------------ a plan's charge over a period


def charge_of(row: dict[str, Any]):
    (charge,) = compile_charges([row], "EUR").charges
    return charge


def test_each_meter_of_a_charge_is_rated_over_its_own_quantity():
    charge = charge_of(
        {"model": "graduated", "components": {
            "input": {"tiers": [{"up_to": 1000, "price": "2", "per": 1000}, {"price": "1", "per": 1000}]},
            "output": {"included": 100, "tiers": [{"up_to": None, "price": "5", "per": 1000}]},
        }}
    )  # fmt: skip
    usage = PeriodUsage(requests=3, units={"input": 1500, "cache_read": 500, "output": 300})
    lines = rate_charge(charge, usage, currency="EUR")
    assert [(line.meter, line.tier, line.quantity, line.amount_minor) for line in lines] == [
        ("input", 0, 1000, 200),
        ("input", 1, 1000, 100),
        ("output", 0, 200, 100),
    ]


def test_cost_plus_rates_the_costs_and_percentage_the_frozen_prices():
    usage = PeriodUsage(requests=4, units={"input": 9}, cost_pico=10**12, price_pico=555 * 10**10)
    cost_plus = charge_of({"model": "cost_plus", "markup_percent": "10", "fixed_per_request": "0.01"})
    assert [line.amount_minor for line in rate_charge(cost_plus, usage, currency="EUR")] == [110, 4]
    percentage = charge_of({"model": "percentage", "percent_of_cost": "5", "min_per_request": "1"})
    assert [line.amount_minor for line in rate_charge(percentage, usage, currency="EUR")] == [555]


def test_units_that_no_meter_counts_are_refused():
    charge = charge_of({"model": "standard", "components": {"input": {"price": "1"}}})
    with pytest.raises(Unrateable, match="images"):
        rate_charge(charge, PeriodUsage(requests=1, units={"images": 1}), currency="EUR")


def test_frozen_prices_are_summed_before_they_are_rounded():
    assert rate_frozen(5 * 10**9 * 3, 3, currency="EUR") == Line("usage", D(3), 2)


# ------------------------------------------------------------------ properties

quantities = st.decimals(0, 100_000, places=2)
prices = st.decimals(0, 100, places=4)


@st.composite
def tier_lists(draw: st.DrawFn) -> tuple[Tier, ...]:
    ends = sorted(draw(st.sets(st.integers(1, 50_000), max_size=4)))
    per = draw(st.sampled_from([1, 1000, 1_000_000]))
    return tuple(
        Tier(end, draw(prices), per, draw(st.sampled_from([D(0), D("2.50")])))
        for end in [*(D(end) for end in ends), None]
    )


def rounded(value: Decimal) -> int:
    return int((value * 100).quantize(D(1), ROUND_HALF_UP))


@given(tier_lists(), quantities)
def test_graduated_covers_every_unit_once_at_its_tier(tiers: tuple[Tier, ...], quantity: Decimal):
    lines = [
        line for line in rate_quantity(Graduated(tiers), quantity, currency="EUR") if line.kind == "usage"
    ]
    assert sum((line.quantity for line in lines), D(0)) == quantity
    lower = D(0)
    for line, tier in zip(lines, tiers, strict=False):
        upper = quantity if tier.up_to is None else min(quantity, tier.up_to)
        assert line.quantity == upper - lower > 0
        assert line.amount_minor == rounded((upper - lower) * tier.price / tier.per)
        lower = upper


@given(tier_lists(), quantities, quantities)
def test_late_usage_completes_the_bill_as_if_it_had_been_on_time(tiers, billed, late):
    def amount(quantity: Decimal) -> int:
        return sum_minor(rate_quantity(Graduated(tiers), quantity, currency="EUR"))

    assert amount(billed) + (amount(billed + late) - amount(billed)) == amount(billed + late)
    assert amount(billed) <= amount(billed + late)


@given(quantities, prices, st.integers(1, 1000))
def test_packages_equal_decimal_arithmetic(quantity: Decimal, price: Decimal, size: int):
    (line,) = rate_quantity(Package(D(size), price), quantity, currency="EUR")
    packages = (quantity / size).to_integral_value(ROUND_CEILING)
    assert (line.quantity, line.amount_minor) == (packages, rounded(packages * price))


@given(st.lists(st.integers(0, 10**13), max_size=30), st.randoms(), prices)
def test_the_order_and_split_of_costs_does_not_matter(costs: list[int], random: Any, markup: Decimal):
    def amounts(parts: Iterable[int]) -> list[int]:
        lines = rate_costs(CostPlus(markup), cost_pico=sum(parts), requests=len(costs), currency="EUR")
        return [line.amount_minor for line in lines]

    shuffled = random.sample(costs, len(costs))
    split = [part for cost in shuffled for part in (cost // 3, cost - cost // 3)]
    assert amounts(costs) == amounts(shuffled) == amounts(split)


@given(
    tier_lists(),
    st.sampled_from(["graduated", "volume"]),
    st.integers(0, 5000),
    st.lists(st.integers(0, 20_000), min_size=1, max_size=12),
)
def test_usage_lines_never_exceed_the_frozen_prices(tiers, model, included, calls):
    """Why a provisional price may feed a hard budget: fees of tiers aside, the invoice is not dearer."""
    rows = [
        {"up_to": None if t.up_to is None else str(t.up_to), "price": str(t.price), "per": t.per}
        for t in tiers
    ]
    pricing = compile_charges(
        [{"model": model, "components": {"tokens": {"tiers": rows, "included": included}}}], "EUR"
    )
    frozen = sum(
        pricing.price_of(cost_pico=None, cost_currency="EUR", units={"input": units}, model="m") or 0
        for units in calls
    )
    lines = rate_charge(
        pricing.charges[0], PeriodUsage(requests=len(calls), units={"input": sum(calls)}), currency="EUR"
    )
    rounding = len(lines) * PICO // 200 + len(calls)
    assert sum_minor(lines) * PICO // 100 <= frozen + rounding
