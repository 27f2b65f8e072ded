from decimal import Decimal

import pytest

from billing.rating.tax import Tax, TaxRate, tax_minor, taxes

STD = TaxRate("std", "S", Decimal(19))
RED = TaxRate("red", "S", Decimal("5.5"))
REVERSE = TaxRate("rc", "AE", Decimal(0))
RATES = {rate.key: rate for rate in (STD, RED, REVERSE)}


def test_tax_is_rounded_once_per_key_and_never_per_line():
    assert tax_minor(3, STD) * 3 == 3
    assert taxes([("std", 3)] * 3, RATES) == (Tax(STD, 9, 2),)


def test_keys_stand_in_the_order_in_which_they_first_appear():
    found = taxes([("red", 990), ("std", 100), ("red", 10), ("rc", 500)], RATES)
    assert found == (Tax(RED, 1000, 55), Tax(STD, 100, 19), Tax(REVERSE, 500, 0))


def test_the_tax_of_a_negative_net_mirrors_the_positive_one():
    assert [tax_minor(n, RED) for n in (100, -100)] == [6, -6]


def test_a_key_without_a_rate_is_never_taken_for_untaxed():
    with pytest.raises(KeyError, match="none"):
        taxes([("none", 1)], RATES)
