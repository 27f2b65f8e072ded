"""What a corrected cost rate changes (R22): a delta for each entry of the window, as entries to append.

Pure, pico-units. What customers were charged stays as it is.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from fractions import Fraction

from billing.rating.money import to_pico


@dataclass(frozen=True, slots=True)
class UnitRate:
    """`price` currency units per `per` units of quantity."""

    price: Decimal
    per: int


@dataclass(frozen=True, slots=True)
class RatedEntry:
    """An entry of the ledger: what was used, and what its customer was charged for it."""

    event_id: str
    occurred_at: datetime
    quantity: Decimal
    charged_pico: int


@dataclass(frozen=True, slots=True)
class Delta:
    """The `rerate` entry to append for an event; 0 where the rounded cost does not move."""

    event_id: str
    delta_pico: int


@dataclass(frozen=True, slots=True)
class Rerating:
    """A dry run: nothing is written by it. Costs and charges are of all entries given."""

    deltas: tuple[Delta, ...]
    original_cost_pico: int
    charged_pico: int

    @property
    def delta_total_pico(self) -> int:
        return sum(delta.delta_pico for delta in self.deltas)

    @property
    def new_cost_pico(self) -> int:
        return self.original_cost_pico + self.delta_total_pico

    @property
    def margin_before_pico(self) -> int:
        return self.charged_pico - self.original_cost_pico

    @property
    def margin_after_pico(self) -> int:
        return self.charged_pico - self.new_cost_pico


def cost_pico(quantity: Decimal, rate: UnitRate) -> int:
    """R2: rounded once, half away from zero."""
    return to_pico(Fraction(quantity) * Fraction(rate.price) / rate.per)


def delta_pico(quantity: Decimal, old: UnitRate, new: UnitRate) -> int:
    """New less old, each rounded as in R2, so that original and delta sum to the new cost."""
    return cost_pico(quantity, new) - cost_pico(quantity, old)


def rerate(
    entries: Iterable[RatedEntry],
    *,
    old: UnitRate,
    new: UnitRate,
    effective_from: datetime,
    effective_to: datetime | None,
) -> Rerating:
    """Deltas for the entries in [effective_from, effective_to), in their order; None is open."""
    deltas: list[Delta] = []
    original = charged = 0
    for entry in entries:
        original += cost_pico(entry.quantity, old)
        charged += entry.charged_pico
        if effective_from <= entry.occurred_at and (effective_to is None or entry.occurred_at < effective_to):
            deltas.append(Delta(entry.event_id, delta_pico(entry.quantity, old, new)))
    return Rerating(tuple(deltas), original, charged)
