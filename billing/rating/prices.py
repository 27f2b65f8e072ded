"""What a tenant owes for one call: a plan version's charges, compiled once and applied in integers (R2, R7).

Pure and on the hot path. Nothing here may use a float, and a call nobody priced must never cost 0.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from math import lcm
from typing import Any

from billing.rating.money import PICO
from tenants.errors import ApiError

MAX_AMOUNT = Decimal(1_000_000)

FALLBACKS: Mapping[str, tuple[str, ...]] = {
    "cache_read": ("input",),
    "cache_write": ("input",),
    "cache_write_1h": ("cache_write", "input"),
    "reasoning": ("output",),
}
"""Where a component without a price of its own takes it from (R3)."""

DEARER: Mapping[str, tuple[str, ...]] = {
    "input": ("input", "cache_read", "cache_write", "cache_write_1h"),
    "output": ("output", "reasoning"),
}
"""What tokens announced as plain input or output may turn out to be, for bounds."""

COMPONENT_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class _CostPlus:
    """price = (cost * numerator + fixed) / denominator, in pico."""

    numerator: int
    fixed: int
    denominator: int

    def price(self, cost_pico: int) -> int:
        return _round(cost_pico * self.numerator + self.fixed, self.denominator)

    def bound(self, cost_pico: int) -> int:
        return -(-(cost_pico * self.numerator + self.fixed) // self.denominator)


@dataclass(frozen=True, slots=True)
class _Standard:
    """price = Σ units * numerator / denominator, in pico; all components share one denominator."""

    numerators: Mapping[str, int]
    dearest: Mapping[str, int]
    denominator: int

    def price(self, units: Mapping[str, int]) -> int | None:
        total = 0
        for component, count in units.items():
            if count:
                numerator = self.numerators.get(component)
                if numerator is None:
                    return None
                total += count * numerator
        return _round(total, self.denominator)

    def bound(self, units: Mapping[str, int]) -> int | None:
        total = 0
        for component, count in units.items():
            if count:
                numerator = self.dearest.get(component)
                if numerator is None:
                    return None
                total += count * numerator
        return -(-total // self.denominator)


type _Charge = _CostPlus | _Standard


@dataclass(frozen=True, slots=True)
class Pricing:
    """The compiled charges of one plan version. Amounts are pico-units of `currency`."""

    currency: str
    exact: Mapping[str, _Charge]
    prefixes: tuple[tuple[str, _Charge], ...]  # longest first; "" matches every model

    def price_of(
        self, *, cost_pico: int | None, cost_currency: str, units: Mapping[str, int], model: str
    ) -> int | None:
        """What one attempt costs the tenant, rounded once, half away from zero; None means unpriced.

        Unpriced: no charge covers the model; a used component has no price; a cost-plus charge meets an
        unknown cost or one in another currency.
        """
        charge = self._charge_for(model)
        if charge is None:
            return None
        if isinstance(charge, _Standard):
            return charge.price(units)
        if cost_pico is None or cost_currency != self.currency:
            return None
        return charge.price(cost_pico)

    def hold_of(
        self,
        *,
        worst_cost_pico: int | None,
        units_bound: Mapping[str, int],
        model: str,
        cost_currency: str | None = None,
    ) -> int | None:
        """A bound, rounded up: no call whose cost and units stay within the arguments is priced above it.

        Tokens bounded as `input` or `output` may turn out to be cached or reasoning ones, so they are
        held at the dearest of those prices. `cost_currency` None means the plan's own. None means
        unpriced, as in `price_of`.
        """
        charge = self._charge_for(model)
        if charge is None:
            return None
        if isinstance(charge, _Standard):
            return charge.bound(units_bound)
        if worst_cost_pico is None or (cost_currency is not None and cost_currency != self.currency):
            return None
        return charge.bound(worst_cost_pico)

    def _charge_for(self, model: str) -> "_Charge | None":
        charge = self.exact.get(model)
        if charge is None:
            for prefix, candidate in self.prefixes:
                if model.startswith(prefix):
                    return candidate
        return charge


# ------------------------------------------------------------------ compiling


def compile_charges(charges: object, currency: str) -> Pricing:
    """Check a plan version's `charges` and make them quick to apply.

    Each charge names its `model` (cost_plus or standard) and may carry `models`, a list of exact names or
    of prefixes ending in `*`; without it the charge covers every model. The exact name wins, then the
    longest prefix. Raises ApiError invalid_request; `param` is the path of the fault.
    """
    if not isinstance(charges, Sequence) or isinstance(charges, str | bytes):
        raise _invalid("charges", "must be a list")
    exact: dict[str, _Charge] = {}
    prefixes: dict[str, _Charge] = {}
    for position, row in enumerate(charges):
        path = f"charges[{position}]"
        if not isinstance(row, Mapping):
            raise _invalid(path, "must be an object")
        charge = _compile(row, path)
        for pattern in _patterns(row, path):
            place, key = (prefixes, pattern[:-1]) if pattern.endswith("*") else (exact, pattern)
            if key in place:
                raise _invalid(f"{path}.models", f"{pattern!r} is already covered by another charge")
            place[key] = charge
    ordered = sorted(prefixes.items(), key=lambda item: -len(item[0]))
    return Pricing(currency=currency, exact=exact, prefixes=tuple(ordered))


def _compile(row: Mapping[str, Any], path: str) -> _Charge:
    match row.get("model"):
        case "cost_plus":
            _known(row, ("model", "models", "markup_percent", "fixed_per_request"), path)
            markup = _decimal(row.get("markup_percent", "0"), f"{path}.markup_percent", least=Decimal(-100))
            fixed = _decimal(row.get("fixed_per_request", "0"), f"{path}.fixed_per_request")
            factor = 1 + Fraction(markup) / 100
            fixed_pico = Fraction(fixed) * PICO
            denominator = _common((factor, fixed_pico))
            return _CostPlus(int(factor * denominator), int(fixed_pico * denominator), denominator)
        case "standard":
            _known(row, ("model", "models", "components"), path)
            return _compile_standard(row.get("components"), f"{path}.components")
        case other:
            raise _invalid(f"{path}.model", f"must be cost_plus or standard, not {other!r}")


def _compile_standard(components: object, path: str) -> _Standard:
    if not isinstance(components, Mapping) or not components:
        raise _invalid(path, "must be an object of component prices and may not be empty")
    prices: dict[str, Fraction] = {}
    for name, price in components.items():
        if not isinstance(name, str) or COMPONENT_NAME.fullmatch(name) is None:
            raise _invalid(f"{path}.{name}", "is not a component's name")
        if not isinstance(price, Mapping):
            raise _invalid(f"{path}.{name}", "must be an object with price and per")
        _known(price, ("price", "per"), f"{path}.{name}")
        per = price.get("per", 1)
        if not isinstance(per, int) or isinstance(per, bool) or not 1 <= per <= 10**9:
            raise _invalid(f"{path}.{name}.per", "must be an integer from 1 to 1000000000")
        amount = _decimal(price.get("price"), f"{path}.{name}.price")
        prices[name] = Fraction(amount) * PICO / per
    for name, sources in FALLBACKS.items():
        source = next((s for s in (name, *sources) if s in prices), None)
        if source is not None:
            prices[name] = prices[source]
    denominator = _common(prices.values())
    numerators = {name: int(price * denominator) for name, price in prices.items()}
    dearest = numerators | {
        name: max(numerators[n] for n in names if n in numerators)
        for name, names in DEARER.items()
        if name in numerators
    }
    return _Standard(numerators, dearest, denominator)


def _patterns(row: Mapping[str, Any], path: str) -> Sequence[str]:
    patterns = row.get("models", ["*"])
    if not isinstance(patterns, list) or not patterns:
        raise _invalid(f"{path}.models", "must be a list of model names and may not be empty")
    for pattern in patterns:
        if not isinstance(pattern, str) or not pattern or "*" in pattern[:-1]:
            raise _invalid(f"{path}.models", "a model is a name, or a prefix that ends in *")
    return patterns


def _known(row: Mapping[str, Any], names: Sequence[str], path: str) -> None:
    for name in row:
        if name not in names:
            raise _invalid(f"{path}.{name}", "is not known here; known are " + ", ".join(names))


def _decimal(value: object, path: str, *, least: Decimal = Decimal(0)) -> Decimal:
    """An exact decimal from a string or an integer (floats are refused, R1), at most 12 places."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _invalid(path, "must be a decimal string")
    try:
        number = Decimal(value)
    except InvalidOperation:
        raise _invalid(path, "must be a decimal string") from None
    if not number.is_finite() or not least <= number <= MAX_AMOUNT:
        raise _invalid(path, f"must lie between {least} and {MAX_AMOUNT}")
    if number != round(number, 12):
        raise _invalid(path, "may have at most 12 decimals")
    return number


def _common(values: Iterable[Fraction]) -> int:
    return lcm(*(value.denominator for value in values))


def _round(numerator: int, denominator: int) -> int:
    """Half away from zero."""
    if numerator < 0:
        return -((-2 * numerator + denominator) // (2 * denominator))
    return (2 * numerator + denominator) // (2 * denominator)


def _invalid(param: str, message: str) -> ApiError:
    return ApiError("invalid_request", f"{param} {message}.", param=param)
