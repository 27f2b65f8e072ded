"""Why a day's bill and our ledger differ: the likeliest cause by what both sides show. Pure, pico-units.

A guess for people to confirm, never a reason to change a number by itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

from billing.models.reconciliation import ReconcileLine
from billing.rating.money import amount_text
from billing.reconciliation.match import Day, Matched, Tolerance

Cause = ReconcileLine.Cause

BILLED_WITHIN_DAYS: Final = 3
"""Providers post and correct a day for about so long."""
SAME_QUANTITY: Final = Fraction(1, 200)
ROUNDED_TO_PICO: Final = 5 * 10**9
"""Half a cent: what an item that is rounded to cents may be off by."""
TOKEN_UNITS: Final = ("token", "tokens")


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one (day, family, currency) shows beside its amounts. `billed_tokens` is None where the bill
    gives no quantity."""

    attempts: int = 0
    unpriced: int = 0
    unknown: int = 0
    tokens: int = 0
    items: int = 0
    billed_tokens: Decimal | None = None


def cause_of(
    matched: Matched,
    evidence: Evidence,
    *,
    neighbours: Sequence[Matched],
    tolerance: Tolerance,
    today: date,
) -> Cause:
    """`neighbours` are the family's days before and after. A match has no cause."""
    day = matched.day
    if matched.status == "match":
        return Cause.NONE
    if matched.status == "missing_in_provider_bill" and (today - day.day).days <= BILLED_WITHIN_DAYS:
        return Cause.NOT_BILLED_YET
    if evidence.items and abs(day.variance_pico) <= evidence.items * ROUNDED_TO_PICO:
        return Cause.ROUNDING
    if any(_offsets(day, each.day, tolerance) for each in neighbours if each.status != "match"):
        return Cause.TIMEZONE_EDGE
    if day.variance_pico > 0 and evidence.unpriced:
        return Cause.UNPRICED
    if evidence.unknown:
        return Cause.UNKNOWN_ATTEMPTS
    if matched.status == "missing_in_ledger":
        return Cause.MISSING_ROWS
    if evidence.billed_tokens is not None and evidence.tokens:
        apart = abs(Fraction(evidence.billed_tokens) - evidence.tokens)
        if apart > evidence.tokens * SAME_QUANTITY:
            return Cause.MISSING_ROWS
        return Cause.PRICE_DIFFERENCE
    return Cause.UNEXPLAINED


def _offsets(day: Day, other: Day, tolerance: Tolerance) -> bool:
    """Whether what one day lacks the next has too much: the same calls, dated by another clock."""
    if abs((day.day - other.day).days) != 1 or day.variance_pico * other.variance_pico >= 0:
        return False
    return tolerance.covers(
        day.variance_pico + other.variance_pico, max(abs(day.provider_pico), abs(other.provider_pico))
    )


def steady_price(lines: Sequence[Matched]) -> bool:
    """Whether the family is off by the same factor on at least three days: a rate, not a loss."""
    factors = [
        Fraction(each.day.provider_pico, each.day.ledger_pico)
        for each in lines
        if each.status in ("under_captured", "over_captured") and each.day.ledger_pico > 0
    ]
    return len(factors) >= 3 and max(factors) - min(factors) <= min(factors) * SAME_QUANTITY


def neighbours_of(day: date, by_day: Mapping[date, Matched]) -> list[Matched]:
    """The days before and after, where they are known."""
    around = (day - timedelta(days=1), day + timedelta(days=1))
    return [by_day[each] for each in around if each in by_day]


def shown(evidence: Evidence, day: Day) -> dict[str, Any]:
    """For the row, and for people."""
    return {
        "attempts": evidence.attempts,
        "unpriced": evidence.unpriced,
        "unknown": evidence.unknown,
        "tokens": evidence.tokens,
        "items": evidence.items,
        "billed_tokens": None if evidence.billed_tokens is None else f"{evidence.billed_tokens:f}",
        "variance": amount_text(day.variance_pico),
    }
