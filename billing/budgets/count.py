"""What one call takes from a budget: the same sum that `counters.spent` makes of its ledger rows (I8).

Pure and on the hot path. Nothing here may round but once per attempt, as the ledger's sum does.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from billing.rating.fx import FxTable
from billing.rating.money import round_ratio

MONEY = ("price", "cost")
OTHER_TOKENS = ("input_audio", "input_image", "output_audio", "output_image")
"""Token components without a column of their own; `cache_write_1h` stands in cache_write_tokens already."""

NOTHING = "nothing"
"""In place of a measure: the hold is given back and nothing is counted."""


class AttemptAmounts(NamedTuple):
    """One attempt as the ledger will hold it. `is_failed`: it did not serve the caller. None: unpriced."""

    model: str
    provider: str
    is_byok: bool
    is_final: bool
    is_failed: bool
    tokens: int
    price_pico: int | None
    price_currency: str
    cost_pico: int | None
    cost_currency: str


@dataclass(frozen=True, slots=True)
class Counted:
    """Which attempts of a matching call count, and by what. `price` always counts: what is owed is owed."""

    measure: str
    currency: str = "USD"
    model: str = ""
    provider: str = ""
    include_byok: bool = False
    include_failed: bool = True

    def as_wire(self) -> list[Any]:
        """For the call's open record."""
        return [
            self.measure,
            self.currency,
            self.model,
            self.provider,
            self.include_byok,
            self.include_failed,
        ]

    @classmethod
    def from_wire(cls, wire: Sequence[Any]) -> "Counted":
        return cls(*wire)

    def covers(self, *, model: str, provider: str, is_byok: bool) -> bool:
        """Whether an attempt at this model, provider and credential counts."""
        return (
            (not self.model or self.model == model)
            and (not self.provider or self.provider == provider)
            and (self.include_byok or not is_byok or self.measure == "price")
        )


def taken(counted: Counted, attempts: Iterable[AttemptAmounts], *, fx: FxTable, at_s: float) -> int:
    """Pico-units of the budget's currency, tokens or requests. What has no price or no rate adds nothing."""
    total = 0
    for attempt in attempts:
        if not counted.covers(model=attempt.model, provider=attempt.provider, is_byok=attempt.is_byok):
            continue
        match counted.measure:
            case "price":
                total += _converted(attempt.price_pico, attempt.price_currency, counted, fx, at_s)
            case "cost":
                if counted.include_failed or not attempt.is_failed:
                    total += _converted(attempt.cost_pico, attempt.cost_currency, counted, fx, at_s)
            case "tokens":
                total += attempt.tokens if attempt.is_final else 0
            case "requests":
                total += attempt.is_final
            case _:
                pass
    return total


def _converted(pico: int | None, currency: str, counted: Counted, fx: FxTable, at_s: float) -> int:
    if not pico or currency == counted.currency:
        return pico or 0
    rate = fx.rate_at(currency, counted.currency, at_s)
    return 0 if rate is None else round_ratio(pico * rate.numerator, rate.denominator)
