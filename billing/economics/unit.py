"""Margin and cost per unit of a feature, tenant, plan, model or key (R26). Pure.

A figure whose divisor is 0 is None, never 0: there is no margin in percent without revenue.
"""

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from billing.rating.money import PICO, round_half_away

THOUSAND = 1000


@dataclass(frozen=True, slots=True)
class Activity:
    """What one row of the margin page stands on. Amounts in pico-units of one currency."""

    revenue_pico: int
    provider_cost_pico: int
    other_variable_cost_pico: int = 0
    tokens: int = 0
    requests: int = 0
    active_users: int = 0

    @property
    def cost_pico(self) -> int:
        return self.provider_cost_pico + self.other_variable_cost_pico


@dataclass(frozen=True, slots=True)
class UnitEconomics:
    """Currency units with 6 decimals as whole millionths (`_e6`); the percent in hundredths (`_e2`)."""

    contribution_margin_e6: int
    contribution_margin_percent_e2: int | None
    cost_per_1k_tokens_e6: int | None
    cost_per_request_e6: int | None
    cost_per_active_user_e6: int | None
    break_even_price_per_1k_tokens_e6: int | None
    price_per_1k_tokens_for_target_e6: int | None


def unit_economics(row: Activity, *, target_margin_percent: Decimal) -> UnitEconomics:
    """Each figure rounded once, half away from zero. The target price is cost / (1 - target margin)."""
    cost = Fraction(row.cost_pico, PICO)
    margin = Fraction(row.revenue_pico, PICO) - cost
    per_1k = _ratio(cost * THOUSAND, row.tokens)
    kept = 1 - Fraction(target_margin_percent) / 100
    return UnitEconomics(
        contribution_margin_e6=round_half_away(margin, 6),
        contribution_margin_percent_e2=_rounded(_ratio(margin * 100, Fraction(row.revenue_pico, PICO)), 2),
        cost_per_1k_tokens_e6=_rounded(per_1k, 6),
        cost_per_request_e6=_rounded(_ratio(cost, row.requests), 6),
        cost_per_active_user_e6=_rounded(_ratio(cost, row.active_users), 6),
        break_even_price_per_1k_tokens_e6=_rounded(per_1k, 6),
        price_per_1k_tokens_for_target_e6=_rounded(None if per_1k is None else _ratio(per_1k, kept), 6),
    )


def _ratio(value: Fraction, divisor: int | Fraction) -> Fraction | None:
    return value / divisor if divisor else None


def _rounded(value: Fraction | None, digits: int) -> int | None:
    return None if value is None else round_half_away(value, digits)
