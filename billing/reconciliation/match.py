"""The ledger's cost of a day against the provider's bill of that day (R25). Pure, pico-units."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from fractions import Fraction
from typing import Literal

from billing.rating.money import PICO, round_half_away

type Status = Literal[
    "match", "missing_in_ledger", "missing_in_provider_bill", "under_captured", "over_captured"
]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """The larger of an amount in currency units and a percentage of the provider's; inclusive."""

    absolute: Decimal
    percent: Decimal

    def covers(self, variance_pico: int, provider_pico: int) -> bool:
        share = abs(provider_pico) * Fraction(self.percent) / 100
        return abs(variance_pico) <= max(Fraction(self.absolute) * PICO, share)


@dataclass(frozen=True, slots=True)
class Day:
    """What both sides say about one UTC day (of one account and model family)."""

    day: date
    ledger_pico: int
    provider_pico: int

    @property
    def variance_pico(self) -> int:
        """Provider less ledger: above 0, we booked too little."""
        return self.provider_pico - self.ledger_pico


@dataclass(frozen=True, slots=True)
class Matched:
    day: Day
    status: Status


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """The days in their order, and their sums."""

    days: tuple[Matched, ...]

    @property
    def ledger_pico(self) -> int:
        return sum(matched.day.ledger_pico for matched in self.days)

    @property
    def provider_pico(self) -> int:
        return sum(matched.day.provider_pico for matched in self.days)

    @property
    def variance_pico(self) -> int:
        return self.provider_pico - self.ledger_pico

    @property
    def capture_rate_e4(self) -> int | None:
        """Ledger as a percentage of the provider's amount, in ten-thousandths; None for a bill of 0."""
        if not self.provider_pico:
            return None
        return round_half_away(Fraction(self.ledger_pico * 100, self.provider_pico), 4)


def reconcile(days: Iterable[Day], tolerance: Tolerance) -> Reconciliation:
    return Reconciliation(tuple(Matched(day, status_of(day, tolerance)) for day in days))


def status_of(day: Day, tolerance: Tolerance) -> Status:
    """One side missing takes precedence over a match within the tolerance."""
    if day.ledger_pico == 0 and day.provider_pico > 0:
        return "missing_in_ledger"
    if day.provider_pico == 0 and day.ledger_pico > 0:
        return "missing_in_provider_bill"
    if tolerance.covers(day.variance_pico, day.provider_pico):
        return "match"
    return "under_captured" if day.variance_pico > 0 else "over_captured"
