"""What one request costs us at a provider: rules R2 to R5, in integers, from the disjoint units of `Usage`.

Pure and on the hot path. It must never use a binary float for money and never answer zero for a missing rate.
"""

from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType

from routing.types import INPUT_COMPONENTS, OUTPUT_COMPONENTS

PICO = 10**12
"""Pico-units in one unit of a currency."""

MILLION = 10**6

FALLBACKS: Mapping[str, tuple[str, ...]] = {
    "cache_read": ("input",),
    "cache_write": ("input",),
    "cache_write_1h": ("cache_write", "input"),
    "reasoning": ("output",),
}
"""R3: whose rate a component takes while it has none of its own."""


class Unpriced(Exception):
    """No rate in force covers `component`, not even by the fallbacks of R3."""

    def __init__(self, component: str) -> None:
        super().__init__(f"no rate in force for {component}")
        self.component = component


class RatesInvalid(ValueError):
    """Rates that cannot form one card: two currencies, two prices for the same thing at once, or nonsense."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A CostRate row as plain data: `price` per `per` units, in [effective_from, effective_to)."""

    component: str
    price: Decimal
    per: int
    currency: str
    service_tier: str
    min_input_tokens: int
    effective_from: datetime
    effective_to: datetime | None
    id: str


@dataclass(frozen=True, slots=True)
class Cost:
    """Pico-units by component (zero quantities are absent) and their sum."""

    components: dict[str, int]
    total_pico: int


type _Step = tuple[int, int, int]
"""min_input_tokens, and pico-units per unit as numerator and denominator."""


class InForce:
    """The rates between two boundaries, by service tier and component; highest context tier first."""

    __slots__ = ("_bounds", "from_s", "plain", "tiers", "until_s")

    def __init__(
        self, from_s: float, until_s: float, tiers: Mapping[str, Mapping[str, tuple[_Step, ...]]]
    ) -> None:
        self.from_s = from_s
        self.until_s = until_s
        self.tiers = tiers
        self.plain = {
            tier: (steps.get("input", ()), steps.get("output", ())) for tier, steps in tiers.items()
        }
        self._bounds: dict[tuple[str, str, Collection[str]], tuple[_Step, ...]] = {}

    def dearest(self, tier: str, plain: str, names: Collection[str]) -> tuple[_Step, ...]:
        """Per context tier the dearest rate of any of these components up to it; highest tier first.

        Empty below the first tier of `plain`, whose price every bound needs. `names` must be hashable.
        """
        key = (tier, plain, names)
        steps = self._bounds.get(key)
        if steps is None:
            steps = self._bounds[key] = tuple(self._dearest(self.tiers.get(tier, _NO_RATES), plain, names))
        return steps

    @staticmethod
    def _dearest(
        components: Mapping[str, tuple[_Step, ...]], plain: str, names: Collection[str]
    ) -> Iterable[_Step]:
        every = [step for name in {plain, *names} for step in components.get(name, ())]
        first = min((step[0] for step in components.get(plain, ())), default=None)
        if first is None:
            return
        for minimum in sorted({first, *(step[0] for step in every if step[0] > first)}, reverse=True):
            within = [step for step in every if step[0] <= minimum]
            _, numerator, denominator = max(within, key=lambda step: Fraction(step[1], step[2]))
            yield minimum, numerator, denominator


_NO_RATES: Mapping[str, tuple[_Step, ...]] = MappingProxyType({})


class RateCard:
    """All rates of one provider's model, past, present and announced. Immutable; empty means unpriced.

    Raises RatesInvalid for rates in two currencies or with overlapping periods for the same key.
    """

    __slots__ = ("_boundaries", "_current", "_periods", "currency", "rates")

    def __init__(self, rates: Iterable[Rate]) -> None:
        self.rates = tuple(rates)
        _check(self.rates)
        self.currency = self.rates[0].currency if self.rates else "USD"
        starts = {rate.effective_from.timestamp() for rate in self.rates}
        ends = {rate.effective_to.timestamp() for rate in self.rates if rate.effective_to is not None}
        self._boundaries = sorted(starts | ends)
        self._periods: dict[int, InForce] = {}
        self._current = InForce(0.0, 0.0, {})  # an empty period: the first look-up replaces it

    def at(self, instant_s: float) -> InForce:
        """The rates in force at `instant_s` (unix seconds, UTC); remembered until the next boundary."""
        current = self._current
        if current.from_s <= instant_s < current.until_s:
            return current
        index = bisect_right(self._boundaries, instant_s)
        period = self._periods.get(index)
        if period is None:
            period = self._periods[index] = self._compile(index)
        self._current = period
        return period

    def _compile(self, index: int) -> InForce:
        from_s = self._boundaries[index - 1] if index else float("-inf")
        until_s = self._boundaries[index] if index < len(self._boundaries) else float("inf")
        tiers: dict[str, dict[str, list[_Step]]] = {}
        for rate in self.rates:
            ends_s = float("inf") if rate.effective_to is None else rate.effective_to.timestamp()
            if index and rate.effective_from.timestamp() <= from_s < ends_s:
                numerator, denominator = _ratio(rate)
                steps = tiers.setdefault(rate.service_tier, {}).setdefault(rate.component, [])
                steps.append((rate.min_input_tokens, numerator, denominator))
        return InForce(
            from_s,
            until_s,
            {
                tier: {name: tuple(sorted(steps, reverse=True)) for name, steps in components.items()}
                for tier, components in tiers.items()
            },
        )


def cost_of(
    card: RateCard, units: Mapping[str, int], *, occurred_at: datetime | float, service_tier: str = ""
) -> Cost:
    """The cost of one request's disjoint `units` at its start, `occurred_at` (aware, or unix seconds).

    Raises Unpriced when a quantity above zero has no rate in that very service tier. Counts must be >= 0.
    """
    components = card.at(_seconds(occurred_at)).tiers.get(service_tier, _NO_RATES)
    total_input = 0
    for name in INPUT_COMPONENTS:
        if name in units:
            total_input += units[name]
    if units.get("reasoning") and _step(components, "reasoning", total_input) is None:
        # R3: without a price of its own reasoning stays in output, and is rounded with it.
        units = {**units, "output": units.get("output", 0) + units["reasoning"], "reasoning": 0}
    costs: dict[str, int] = {}
    total = 0
    for name, count in units.items():
        if count == 0:
            continue
        if count < 0:
            raise ValueError(f"a negative count of {name}")
        _, numerator, denominator = _priced(components, name, total_input)
        # Half away from zero; counts and prices are never negative.
        pico = (2 * count * numerator + denominator) // (2 * denominator)
        costs[name] = pico
        total += pico
    return Cost(costs, total)


def estimate_pico(
    card: RateCard, input_tokens: int, output_tokens: int, instant_s: float, service_tier: str = ""
) -> int:
    """Roughly what a request without cached or special tokens will cost, to compare targets; never booked.

    At least one input token is assumed, so that an endpoint without an input rate shows. Raises Unpriced.
    """
    input_steps, output_steps = card.at(instant_s).plain.get(service_tier, ((), ()))
    for minimum, numerator, denominator in input_steps:
        if input_tokens > minimum or minimum == 0:
            pico = (input_tokens or 1) * numerator // denominator
            break
    else:
        raise Unpriced("input")
    if output_tokens:
        for minimum, numerator, denominator in output_steps:
            if input_tokens > minimum or minimum == 0:
                return pico + output_tokens * numerator // denominator
        raise Unpriced("output")
    return pico


def token_rates(
    card: RateCard,
    instant_s: float,
    *,
    service_tier: str = "",
    input_tokens: int = 0,
    input_component: str = "input",
) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """What one plain input token and one output token cost in a request of this size: exact fractions.

    Numerator and denominator in pico-units, None where there is no rate. The same for every instant of
    `card.at(instant_s)` and every size between two of the card's context tiers, so that a planner which
    weighs many targets may keep them; `estimate_pico` is the same sum for a single card.
    """
    period = card.at(instant_s)
    input_steps, output_steps = period.plain.get(service_tier, ((), ()))
    if input_component != "input":  # a unit of an operation that is not metered in tokens
        input_steps = period.tiers.get(service_tier, _NO_RATES).get(input_component, ())
    found: list[tuple[int, int] | None] = []
    for steps in (input_steps, output_steps):
        step = next((step for step in steps if input_tokens > step[0] or step[0] == 0), None)
        found.append(None if step is None else (step[1], step[2]))
    return found[0], found[1]


def price_per_million(
    card: RateCard,
    instant: datetime | float,
    component: str,
    *,
    service_tier: str = "",
    input_tokens: int = 0,
) -> Decimal:
    """A million units of `component` in `card.currency`, for ranking and display. Raises Unpriced."""
    components = card.at(_seconds(instant)).tiers.get(service_tier, _NO_RATES)
    _, numerator, denominator = _priced(components, component, input_tokens)
    return Decimal(numerator * MILLION) / (denominator * PICO)


def worst_case_pico(
    card: RateCard,
    input_tokens: int,
    output_tokens: int,
    instant: datetime | float,
    *,
    service_tier: str = "",
    input_components: Collection[str] = INPUT_COMPONENTS,
    output_components: Collection[str] = OUTPUT_COMPONENTS,
) -> int:
    """An upper bound of `cost_of` for up to these many tokens, however they fall into components and tiers.

    Takes the dearest rate of any context tier within reach of `input_tokens`. A caller who knows that a
    request cannot, say, write to the one-hour cache narrows the components. Raises Unpriced("input" or
    "output"); a component without any rate is not in the bound, `cost_of` will call it unpriced.
    """
    rates = card.at(_seconds(instant))
    bound = 0
    for plain, names, tokens in (
        ("input", input_components, input_tokens),
        ("output", output_components, output_tokens),
    ):
        if tokens <= 0:
            continue
        for minimum, numerator, denominator in rates.dearest(service_tier, plain, names):
            if minimum == 0 or input_tokens > minimum:
                # Each component of the real cost rounds on its own, up by less than one pico.
                bound += -(-tokens * numerator // denominator) + len(names) + 1
                break
        else:
            raise Unpriced(plain)
    return bound


def _step(components: Mapping[str, tuple[_Step, ...]], name: str, total_input: int) -> _Step | None:
    """R4: the highest context tier that the total input strictly exceeds; tier 0 always applies."""
    for step in components.get(name, ()):
        if total_input > step[0] or step[0] == 0:
            return step
    return None


def _priced(components: Mapping[str, tuple[_Step, ...]], name: str, total_input: int) -> _Step:
    step = _step(components, name, total_input)
    if step is None:
        for fallback in FALLBACKS.get(name, ()):
            step = _step(components, fallback, total_input)
            if step is not None:
                break
        else:
            raise Unpriced(name)
    return step


def _seconds(instant: datetime | float) -> float:
    if isinstance(instant, datetime):
        if instant.tzinfo is None:
            raise ValueError("an instant needs a time zone")
        return instant.timestamp()
    return instant


def _ratio(rate: Rate) -> tuple[int, int]:
    """Pico-units per unit as an exact fraction in lowest terms."""
    numerator, denominator = rate.price.as_integer_ratio()
    fraction = Fraction(numerator * PICO, denominator * rate.per)
    return fraction.numerator, fraction.denominator


def _check(rates: tuple[Rate, ...]) -> None:
    if len({rate.currency for rate in rates}) > 1:
        raise RatesInvalid("rates in more than one currency")
    ends: dict[tuple[str, str, int], datetime | None] = {}
    for rate in sorted(rates, key=lambda rate: rate.effective_from):
        if not rate.price.is_finite() or rate.price < 0 or rate.per <= 0 or rate.min_input_tokens < 0:
            raise RatesInvalid(f"a price of {rate.price} per {rate.per} above {rate.min_input_tokens} tokens")
        if rate.effective_to is not None and rate.effective_to <= rate.effective_from:
            raise RatesInvalid(f"a rate for {rate.component} that ends before it starts")
        key = (rate.component, rate.service_tier, rate.min_input_tokens)
        if key in ends:
            previous = ends[key]
            if previous is None or rate.effective_from < previous:
                raise RatesInvalid(f"two rates for {rate.component} at once")
        ends[key] = rate.effective_to
