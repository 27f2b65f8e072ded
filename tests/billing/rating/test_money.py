from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.rating.fx import convert_pico
from billing.rating.money import (
    amount_text,
    fixed_text,
    minor_digits,
    minor_text,
    minor_to_pico,
    pico_to_minor,
    plain_text,
    round_half_away,
    to_minor,
    to_pico,
)


@pytest.mark.parametrize(
    ("currency", "digits"),
    [("EUR", 2), ("USD", 2), ("JPY", 0), ("KRW", 0), ("KWD", 3), ("IQD", 3), ("LBP", 2), ("CLF", 4)],
)
def test_minor_units_are_those_of_iso_4217(currency: str, digits: int):
    assert minor_digits(currency) == digits


def test_halves_go_away_from_zero():
    assert [round_half_away(Decimal(n)) for n in ("0.5", "1.5", "-0.5", "-1.5", "0.4999")] == [
        1,
        2,
        -1,
        -2,
        0,
    ]
    assert [to_minor(Decimal(n), "EUR") for n in ("1.005", "-1.005", "1.0049999")] == [101, -101, 100]
    assert to_minor(Decimal("7.125"), "JPY") == 7
    assert to_minor(Decimal("1.0005"), "KWD") == 1001
    assert to_pico(Fraction(1, 3)) == 333_333_333_333


def test_minor_units_read_with_all_their_decimals():
    assert [minor_text(1050, c) for c in ("EUR", "JPY", "KWD")] == ["10.50", "1050", "1.050"]
    assert [minor_text(n, "EUR") for n in (0, -5, -105)] == ["0.00", "-0.05", "-1.05"]
    assert fixed_text(-1, 12) == "-0.000000000001"


def test_plain_text_has_neither_exponent_nor_needless_zeros():
    texts = ("1E+3", "0.50", "10", "100", "-0", "0E-9", "-0.0100")
    assert [plain_text(Decimal(text)) for text in texts] == ["1000", "0.5", "10", "100", "0", "0", "-0.01"]


def test_amount_text_is_exact():
    assert [amount_text(n) for n in (1_500_000_000_000, 1, -(10**12), 0)] == [
        "1.5",
        "0.000000000001",
        "-1",
        "0",
    ]


@given(st.decimals(-(10**9), 10**9, places=6), st.integers(0, 6))
def test_rounding_equals_decimals_half_up(value: Decimal, digits: int):
    exact = value.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
    assert round_half_away(value, digits) == int(exact.scaleb(digits))


@given(st.integers(-(10**9), 10**9), st.sampled_from(["EUR", "JPY", "KWD"]))
def test_minor_units_survive_the_way_through_pico(minor: int, currency: str):
    assert pico_to_minor(minor_to_pico(minor, currency), currency) == minor


def test_a_days_cost_is_converted_and_rounded_once():
    assert convert_pico(10, Decimal("0.25")) == 3
    assert convert_pico(-10, Decimal("0.25")) == -3
    assert convert_pico(3, Fraction(1, 3)) == 1
