"""Money in templates: exact, never a float, never a zero for what nobody priced."""

from decimal import Decimal
from fractions import Fraction

import pytest
from django.utils.translation import override
from hypothesis import given
from hypothesis import strategies as st

from gateway.templatetags import money

PICO = 10**12


@pytest.mark.parametrize(
    ("pico", "currency", "text"),
    [
        (0, "USD", "$0.00"),
        (1, "USD", "$0.000000000001"),
        (123_456_789, "USD", "$0.0001235"),
        (150_000_000_000, "USD", "$0.15"),
        (352_013_000_000, "USD", "$0.3520"),
        (999_999_999_999, "USD", "$1.0000"),
        (PICO, "USD", "$1.00"),
        (1_204_505_000_000_000, "USD", "$1,204.50"),
        (-42_000_000, "USD", "-$0.000042"),
        (2_500_000_000_000, "EUR", "€2.50"),
        (99_000_000_000_000, "JPY", "¥99.00"),
        (Decimal(10**37), "USD", "$10,000,000,000,000,000,000,000,000.00"),
    ],
)
def test_an_amount_is_shown_with_the_digits_it_needs(pico, currency, text):
    assert money.shown(pico, currency) == text


def test_german_readers_get_german_numbers():
    with override("de"):
        assert money.shown(1_204_500_000_000_000, "EUR") == "1.204,50\xa0€"


def test_an_unpriced_amount_is_no_zero():
    assert money.money(None, "USD") == '<span class="tag warn">unpriced</span>'


def test_the_exact_amount_stands_behind_the_rounded_one():
    expected = '<data value="0.000123456789" title="USD 0.000123456789">$0.0001235</data>'
    assert money.money(123_456_789, "USD") == expected


@given(st.integers(-(10**30), 10**30))
def test_the_exact_text_is_the_amount_to_the_last_digit(pico):
    assert Fraction(money.exact(pico)) * PICO == pico


def test_a_rate_per_million_is_shown_as_it_was_agreed():
    assert money.rate(Decimal("0.075"), "USD") == '<data value="0.075" title="USD 0.075">$0.075</data>'
