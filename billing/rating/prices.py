"""What a tenant owes for one call: a plan version's charges, compiled once and applied in integers (R2, R7).

Pure and on the hot path. Nothing here may use a float, and a call nobody priced must never cost 0.

**The frozen price.** cost_plus, percentage, byok and standard are exact per call: the price is the call's
share of the invoice, rounded once to a pico-unit. Where the price of a unit depends on the period's other
units (graduated, volume, package, included units) a call's price is *provisional*: its units at the dearest
unit price of the meter (`is_provisional`). A budget on price so never counts too little: the usage lines,
which `rating.lines` rates over the period's quantity, come to at most the sum of the frozen prices. Only
fees of tiers and the unused rest of a package, which no single call owes, come on top.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from math import lcm

from billing.rating.charges import (
    ALL_TOKENS,
    REQUESTS,
    TOKEN_COMPONENTS,
    CacheHit,
    Charge,
    CostPlus,
    Kind,
    Percentage,
    dearest_unit_price,
    meter_for,
    parse_charges,
)
from billing.rating.fx import NO_RATES, FxTable
from billing.rating.money import PICO, round_ratio

DEARER: Mapping[str, tuple[str, ...]] = {
    "input": ("input", "cache_read", "cache_write", "cache_write_1h"),
    "output": ("output", "reasoning"),
}
"""What tokens announced as plain input or output may turn out to be, for bounds."""


@dataclass(frozen=True, slots=True)
class _OfCost:
    """price = (cost * numerator + fixed) / denominator, kept within [least, most]; in pico."""

    position: int
    numerator: int
    fixed: int
    denominator: int
    least: int | None = None
    most: int | None = None

    @property
    def needs_cost(self) -> bool:
        return self.numerator != 0

    def price(self, cost_pico: int) -> int:
        return self._within(round_ratio(cost_pico * self.numerator + self.fixed, self.denominator))

    def bound(self, cost_pico: int) -> int:
        return self._within(-(-(cost_pico * self.numerator + self.fixed) // self.denominator))

    def _within(self, pico: int) -> int:
        if self.least is not None and pico < self.least:
            pico = self.least
        if self.most is not None and pico > self.most:
            pico = self.most
        return pico


@dataclass(frozen=True, slots=True)
class _OfUnits:
    """price = (Σ units * numerator + fixed) / denominator, in pico; one denominator for all components.

    `covers_all`: a price per request alone, whatever the call used.
    """

    position: int
    numerators: Mapping[str, int]
    dearest: Mapping[str, int]
    fixed: int
    denominator: int
    covers_all: bool

    def price(self, units: Mapping[str, int]) -> int | None:
        total = self._total(units, self.numerators)
        return None if total is None else round_ratio(total, self.denominator)

    def bound(self, units: Mapping[str, int]) -> int | None:
        total = self._total(units, self.dearest)
        return None if total is None else -(-total // self.denominator)

    def _total(self, units: Mapping[str, int], numerators: Mapping[str, int]) -> int | None:
        total = self.fixed
        if self.covers_all:
            return total
        for component, count in units.items():
            if count:
                numerator = numerators.get(component)
                if numerator is None:
                    return None
                total += count * numerator
        return total


type _Compiled = _OfCost | _OfUnits

_FREE = _OfCost(position=-1, numerator=0, fixed=0, denominator=1)


@dataclass(frozen=True, slots=True)
class _ByModel[T]:
    """The most specific entry that covers a model: its exact name, else the longest prefix."""

    exact: Mapping[str, T]
    prefixes: tuple[tuple[str, T], ...]  # longest first; "" matches every model

    def find(self, model: str) -> T | None:
        found = self.exact.get(model)
        if found is None:
            for prefix, candidate in self.prefixes:
                if model.startswith(prefix):
                    return candidate
        return found


@dataclass(frozen=True, slots=True)
class Pricing:
    """The compiled charges of one plan version. Amounts are pico-units of `currency`.

    `charges` are the version's rows as data; `fx` has the frozen daily rates into `currency` (R23).
    """

    currency: str
    charges: tuple[Charge, ...]
    fx: FxTable
    _priced: _ByModel[_Compiled] = field(repr=False)
    _byok: _ByModel[_Compiled] = field(repr=False)
    _cache_hit: _ByModel[tuple[int, int]] = field(repr=False)

    def price_of(
        self,
        *,
        cost_pico: int | None,
        cost_currency: str,
        units: Mapping[str, int],
        model: str,
        is_byok: bool = False,
        cache_hit: bool = False,
        at_s: float | None = None,
    ) -> int | None:
        """What one attempt costs the tenant, rounded once, half away from zero; None means unpriced.

        Unpriced: no charge covers the model; a used component has no price; a charge on the cost meets an
        unknown cost, or one in another currency without a frozen rate of the day the call began (`at_s`,
        unix seconds; None converts nothing). `is_byok`: on the tenant's own provider key, so only the
        plan's fee for that, else 0. `cache_hit`: from our cache, where `cost_pico` and `units` are those of
        the stored answer; free unless the plan says otherwise.
        """
        charge = self._charge_for(model, is_byok)
        price: int | None
        if charge is None:
            return None
        kept, whole = self._kept_of(model) if cache_hit else (1, 1)
        if not kept:
            return 0
        if isinstance(charge, _OfUnits):
            price = charge.price(units)
        elif not charge.needs_cost:
            price = charge.price(0)
        else:
            cost = self._converted(cost_pico, cost_currency, at_s)
            price = None if cost is None else charge.price(round_ratio(*cost))
        return price if price is None or kept == whole else round_ratio(price * kept, whole)

    def hold_of(
        self,
        *,
        worst_cost_pico: int | None,
        units_bound: Mapping[str, int],
        model: str,
        cost_currency: str | None = None,
        is_byok: bool = False,
        cache_hit: bool = False,
        at_s: float | None = None,
    ) -> int | None:
        """A bound, rounded up: no call whose cost and units stay within the arguments is priced above it.

        Tokens bounded as `input` or `output` may turn out to be cached or reasoning ones, so they are
        held at the dearest of those prices. `cost_currency` None means the plan's own. None means
        unpriced, as in `price_of`, whose other arguments mean the same here.
        """
        charge = self._charge_for(model, is_byok)
        bound: int | None
        if charge is None:
            return None
        kept, whole = self._kept_of(model) if cache_hit else (1, 1)
        if not kept:
            return 0
        if isinstance(charge, _OfUnits):
            bound = charge.bound(units_bound)
        elif not charge.needs_cost:
            bound = charge.bound(0)
        else:
            cost = self._converted(worst_cost_pico, cost_currency or self.currency, at_s)
            bound = None if cost is None else charge.bound(-(-cost[0] // cost[1]))
        return bound if bound is None or kept == whole else -(-bound * kept // whole)

    def charge_for(self, model: str, *, is_byok: bool = False) -> Charge | None:
        """The row that prices a call: what its invoice line is grouped by. None: unpriced, or a BYO call
        without a fee."""
        compiled = self._charge_for(model, is_byok)
        return None if compiled is None or compiled.position < 0 else self.charges[compiled.position]

    def is_provisional(self, model: str) -> bool:
        """Whether the invoice will rate this model's calls anew over the period's quantity."""
        charge = self.charge_for(model)
        return charge is not None and charge.is_provisional

    def _charge_for(self, model: str, is_byok: bool) -> _Compiled | None:
        if is_byok:
            return self._byok.find(model) or _FREE
        return self._priced.find(model)

    def _kept_of(self, model: str) -> tuple[int, int]:
        """The part of a cache hit's price that is owed, as a ratio."""
        return self._cache_hit.find(model) or (0, 1)

    def _converted(
        self, cost_pico: int | None, cost_currency: str, at_s: float | None
    ) -> tuple[int, int] | None:
        """The cost in the plan's currency, as a ratio in pico."""
        if cost_pico is None:
            return None
        if cost_currency == self.currency:
            return cost_pico, 1
        rate = None if at_s is None else self.fx.rate_at(cost_currency, self.currency, at_s)
        return None if rate is None else (cost_pico * rate.numerator, rate.denominator)


# ------------------------------------------------------------------ compiling


def compile_charges(charges: object, currency: str, fx: FxTable = NO_RATES) -> Pricing:
    """Check a plan version's `charges` and make them quick to apply.

    Each row names its `model` and may carry `models`, a list of exact names or of prefixes ending in `*`;
    without it the row covers every model. The exact name wins, then the longest prefix. Rows of the model
    `byok` are the fee for calls on the tenant's own provider keys, rows of `cache_hit` the discount on
    answers from our cache; all other rows price calls. Raises ApiError invalid_request; `param` is the path
    of the fault.
    """
    rows = parse_charges(charges)
    return Pricing(
        currency=currency,
        charges=rows,
        fx=fx,
        _priced=_by_model(
            rows, "price", {row.position: _compile(row) for row in rows if row.kind == "price"}
        ),
        _byok=_by_model(rows, "byok", {row.position: _compile(row) for row in rows if row.kind == "byok"}),
        _cache_hit=_by_model(
            rows,
            "cache_hit",
            {row.position: _kept(row.terms) for row in rows if isinstance(row.terms, CacheHit)},
        ),
    )


def _by_model[T](rows: Iterable[Charge], kind: Kind, compiled: Mapping[int, T]) -> _ByModel[T]:
    exact: dict[str, T] = {}
    prefixes: dict[str, T] = {}
    for row in rows:
        if row.kind == kind:
            for pattern in row.models:
                place, key = (prefixes, pattern[:-1]) if pattern.endswith("*") else (exact, pattern)
                place[key] = compiled[row.position]
    return _ByModel(exact, tuple(sorted(prefixes.items(), key=lambda item: -len(item[0]))))


def _kept(terms: CacheHit) -> tuple[int, int]:
    return ((100 - Fraction(terms.percent_off)) / 100).as_integer_ratio()


def _compile(row: Charge) -> _Compiled:
    match row.terms:
        case CostPlus(markup, fixed):
            return _of_cost(row.position, 1 + Fraction(markup) / 100, fixed)
        case Percentage(percent, fixed, least, most):
            return _of_cost(row.position, Fraction(percent) / 100, fixed, least, most)
        case _:
            return _of_units(row)


def _of_cost(
    position: int,
    factor: Fraction,
    fixed: Decimal,
    least: Decimal | None = None,
    most: Decimal | None = None,
) -> _OfCost:
    fixed_pico = Fraction(fixed) * PICO
    denominator = _common((factor, fixed_pico))
    return _OfCost(
        position,
        int(factor * denominator),
        int(fixed_pico * denominator),
        denominator,
        None if least is None else int(least * PICO),
        None if most is None else int(most * PICO),
    )


def _of_units(row: Charge) -> _OfUnits:
    prices = {}
    for meter in row.meters:
        price, per = dearest_unit_price(meter.model)
        prices[meter.name] = Fraction(price) * PICO / Fraction(per)
    fixed = prices.get(REQUESTS, Fraction(0))
    covers_all = tuple(prices) == (REQUESTS,)
    for component in TOKEN_COMPONENTS:
        source = meter_for(component, prices)
        if source is not None:
            prices[component] = prices[source]
    by_component = {name: price for name, price in prices.items() if name not in (REQUESTS, ALL_TOKENS)}
    denominator = _common((*by_component.values(), fixed))
    numerators = {name: int(price * denominator) for name, price in by_component.items()}
    dearest = numerators | {
        name: max(numerators[n] for n in names if n in numerators)
        for name, names in DEARER.items()
        if name in numerators
    }
    return _OfUnits(row.position, numerators, dearest, int(fixed * denominator), denominator, covers_all)


def _common(values: Iterable[Fraction]) -> int:
    return lcm(*(value.denominator for value in values))
