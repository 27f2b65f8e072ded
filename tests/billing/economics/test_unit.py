from decimal import Decimal

from billing.economics.unit import Activity, UnitEconomics, unit_economics
from billing.rating.money import PICO


def figures(row: Activity, target: str = "50") -> UnitEconomics:
    return unit_economics(row, target_margin_percent=Decimal(target))


def test_cost_is_the_providers_and_all_other_that_varies():
    made = figures(Activity(40 * PICO, 10 * PICO, 2 * PICO, tokens=3_000_000, requests=500, active_users=7))
    assert made == UnitEconomics(
        contribution_margin_e6=28_000_000,
        contribution_margin_percent_e2=7000,
        cost_per_1k_tokens_e6=4000,
        cost_per_request_e6=24_000,
        cost_per_active_user_e6=1_714_286,
        break_even_price_per_1k_tokens_e6=4000,
        price_per_1k_tokens_for_target_e6=8000,
    )


def test_nothing_to_divide_by_is_none_and_not_zero():
    made = figures(Activity(0, 10 * PICO))
    assert made == UnitEconomics(-10_000_000, None, None, None, None, None, None)


def test_a_target_of_all_the_revenue_has_no_price():
    made = figures(Activity(PICO, PICO, tokens=1000), target="100")
    assert (made.break_even_price_per_1k_tokens_e6, made.price_per_1k_tokens_for_target_e6) == (
        1_000_000,
        None,
    )


def test_the_target_price_is_rounded_once_from_the_exact_cost():
    made = figures(Activity(PICO, PICO, tokens=3000), target="40")
    assert made.cost_per_1k_tokens_e6 == 333_333
    assert made.price_per_1k_tokens_for_target_e6 == 555_556


def test_a_loss_is_negative_in_percent_too():
    made = figures(Activity(3 * PICO, 4 * PICO))
    assert (made.contribution_margin_e6, made.contribution_margin_percent_e2) == (-1_000_000, -3333)
