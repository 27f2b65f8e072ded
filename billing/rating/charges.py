"""What a plan version sells, as checked plain data: price models (R7), meters, and rows that filter calls.

Pure. A fault in a plan's JSON is refused here with its path, before it can rate anything.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, assert_never

from tenants.errors import ApiError

MAX_AMOUNT = Decimal(1_000_000)
MAX_QUANTITY = Decimal(10**15)
MAX_TIERS = 100
MAX_TEXT = 200

FALLBACKS: Mapping[str, tuple[str, ...]] = {
    "cache_read": ("input",),
    "cache_write": ("input",),
    "cache_write_1h": ("cache_write", "input"),
    "reasoning": ("output",),
}
"""Where a component without a price of its own takes it from (R3)."""

TOKEN_COMPONENTS = ("input", "cache_read", "cache_write", "cache_write_1h", "output", "reasoning")

ALL_TOKENS = "tokens"
"""A meter that counts every token of a call, whatever its component."""

REQUESTS = "requests"
"""A meter that counts 1 per priced call."""

COMPONENT_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class Standard:
    """quantity times price / per."""

    price: Decimal
    per: int = 1


@dataclass(frozen=True, slots=True)
class Tier:
    """Covers (previous up_to, up_to]; None is open. `flat` is due once the quantity enters the tier."""

    up_to: Decimal | None
    price: Decimal
    per: int = 1
    flat: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class Graduated:
    """Each unit at the price of the tier it falls into."""

    tiers: tuple[Tier, ...]


@dataclass(frozen=True, slots=True)
class Volume:
    """All units at the price of the tier that the whole quantity reaches."""

    tiers: tuple[Tier, ...]


@dataclass(frozen=True, slots=True)
class Package:
    """`price` for every begun package of `size` units."""

    size: Decimal
    price: Decimal


type UnitModel = Standard | Graduated | Volume | Package


@dataclass(frozen=True, slots=True)
class CostPlus:
    """What the provider charges, times (1 + markup_percent / 100), plus a fee per request."""

    markup_percent: Decimal = Decimal(0)
    fixed_per_request: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class Percentage:
    """Per event: amount times percent / 100, plus fixed, then at least `least`, then at most `most`."""

    percent: Decimal = Decimal(0)
    fixed: Decimal = Decimal(0)
    least: Decimal | None = None
    most: Decimal | None = None


@dataclass(frozen=True, slots=True)
class CacheHit:
    """An answer from our own cache: `percent_off` 100 is free, 0 the full price."""

    percent_off: Decimal


@dataclass(frozen=True, slots=True)
class Meter:
    """A quantity that one price applies to. `included` units of a period are free (R8)."""

    name: str
    model: UnitModel
    included: Decimal = Decimal(0)


type Kind = str
"""`price`, `byok` or `cache_hit`: which calls a row speaks about."""


@dataclass(frozen=True, slots=True)
class Charge:
    """One row of a plan version's `charges`. Either `meters` or `terms` is set.

    `models` are exact names, or prefixes that end in `*`. `name` and `tax` are for the invoice's line.
    """

    position: int
    model: str
    models: tuple[str, ...]
    name: str
    tax: str
    meters: tuple[Meter, ...] = ()
    terms: CostPlus | Percentage | CacheHit | None = None

    @property
    def kind(self) -> Kind:
        return self.model if self.model in ("byok", "cache_hit") else "price"

    @property
    def is_provisional(self) -> bool:
        """Whether a call's price depends on the rest of its period, so that the invoice rates it anew."""
        return any(not isinstance(meter.model, Standard) or meter.included for meter in self.meters)

    def quantities(self, units: Mapping[str, int], *, requests: int = 1) -> dict[str, int] | None:
        """Disjoint units, of one call or summed over `requests` calls, by meter; None if one has no price."""
        found: dict[str, int] = {}
        by_name = {meter.name: meter for meter in self.meters}
        if REQUESTS in by_name:
            found[REQUESTS] = requests
            if len(by_name) == 1:
                return found
        for component, count in units.items():
            if count:
                meter = meter_for(component, by_name)
                if meter is None:
                    return None
                found[meter] = found.get(meter, 0) + count
        return found


def meter_for(component: str, names: Mapping[str, object]) -> str | None:
    """The meter that counts a component: its own, that of its kin (R3), or the one of all tokens."""
    for name in (component, *FALLBACKS.get(component, ())):
        if name in names:
            return name
    return ALL_TOKENS if component in TOKEN_COMPONENTS and ALL_TOKENS in names else None


def dearest_unit_price(model: UnitModel) -> tuple[Decimal, Decimal]:
    """The most a further unit can cost, as (price, per); fees of tiers and begun packages left out."""
    match model:
        case Standard():
            return model.price, Decimal(model.per)
        case Graduated() | Volume():
            tier = max(model.tiers, key=lambda tier: tier.price / tier.per)
            return tier.price, Decimal(tier.per)
        case Package():
            return model.price, model.size
        case _:
            assert_never(model)


# ------------------------------------------------------------------ reading a plan's JSON


COMMON = ("model", "models", "name", "tax")


def parse_charges(charges: object) -> tuple[Charge, ...]:
    """A plan version's `charges`, checked. Raises ApiError invalid_request; `param` is the fault's path."""
    if not isinstance(charges, Sequence) or isinstance(charges, str | bytes):
        raise _invalid("charges", "must be a list")
    rows: list[Charge] = []
    taken: set[tuple[Kind, str]] = set()
    for position, row in enumerate(charges):
        path = f"charges[{position}]"
        if not isinstance(row, Mapping):
            raise _invalid(path, "must be an object")
        charge = _charge(row, path, position)
        for pattern in charge.models:
            if (charge.kind, pattern) in taken:
                raise _invalid(f"{path}.models", f"{pattern!r} is already covered by another charge")
            taken.add((charge.kind, pattern))
        rows.append(charge)
    return tuple(rows)


def _charge(row: Mapping[str, Any], path: str, position: int) -> Charge:
    model = row.get("model")
    meters: tuple[Meter, ...] = ()
    terms: CostPlus | Percentage | CacheHit | None = None
    match model:
        case "standard" | "graduated" | "volume" | "package":
            _known(row, (*COMMON, "components"), path)
            meters = _meters(model, row.get("components"), f"{path}.components")
        case "cost_plus":
            _known(row, (*COMMON, "markup_percent", "fixed_per_request"), path)
            terms = CostPlus(
                _decimal(row.get("markup_percent", "0"), f"{path}.markup_percent", least=Decimal(-100)),
                _decimal(row.get("fixed_per_request", "0"), f"{path}.fixed_per_request"),
            )
        case "percentage" | "byok":
            _known(
                row,
                (*COMMON, "percent_of_cost", "fixed_per_request", "min_per_request", "max_per_request"),
                path,
            )
            terms = _percentage(row, path)
        case "cache_hit":
            _known(row, (*COMMON, "percent_off"), path)
            terms = CacheHit(_decimal(row.get("percent_off"), f"{path}.percent_off", most=Decimal(100)))
        case other:
            known = "cost_plus, standard, graduated, volume, package, percentage, byok or cache_hit"
            raise _invalid(f"{path}.model", f"must be {known}, not {other!r}")
    return Charge(
        position=position,
        model=model,
        models=_patterns(row, path),
        name=_short(row, "name", path),
        tax=_short(row, "tax", path),
        meters=meters,
        terms=terms,
    )


def _percentage(row: Mapping[str, Any], path: str) -> Percentage:
    least, most = (
        None if row.get(name) is None else _decimal(row[name], f"{path}.{name}")
        for name in ("min_per_request", "max_per_request")
    )
    if least is not None and most is not None and most < least:
        raise _invalid(f"{path}.max_per_request", "may not lie below min_per_request")
    return Percentage(
        _decimal(row.get("percent_of_cost", "0"), f"{path}.percent_of_cost"),
        _decimal(row.get("fixed_per_request", "0"), f"{path}.fixed_per_request"),
        least,
        most,
    )


def _meters(model: str, components: object, path: str) -> tuple[Meter, ...]:
    if not isinstance(components, Mapping) or not components:
        raise _invalid(path, "must be an object of component prices and may not be empty")
    meters = tuple(_meter(model, name, row, f"{path}.{name}") for name, row in components.items())
    if ALL_TOKENS in components and (both := sorted({*components} & {*TOKEN_COMPONENTS})):
        raise _invalid(f"{path}.{ALL_TOKENS}", f"counts what {both[0]} counts already")
    return meters


def _meter(model: str, name: object, row: object, path: str) -> Meter:
    if not isinstance(name, str) or COMPONENT_NAME.fullmatch(name) is None:
        raise _invalid(path, "is not a component's name")
    if not isinstance(row, Mapping):
        raise _invalid(path, "must be an object with its price")
    price: UnitModel
    match model:
        case "standard":
            _known(row, ("price", "per", "included"), path)
            price = Standard(_decimal(row.get("price"), f"{path}.price"), _per(row, path))
        case "package":
            _known(row, ("package_size", "package_price", "included"), path)
            price = Package(
                _quantity(row.get("package_size"), f"{path}.package_size", is_positive=True),
                _decimal(row.get("package_price"), f"{path}.package_price"),
            )
        case _:
            _known(row, ("tiers", "included"), path)
            tiers = _tiers(row.get("tiers"), f"{path}.tiers")
            price = Graduated(tiers) if model == "graduated" else Volume(tiers)
    return Meter(name, price, _quantity(row.get("included", 0), f"{path}.included"))


def _tiers(rows: object, path: str) -> tuple[Tier, ...]:
    """Contiguous by construction: a tier begins where the one before ends. The last one is open."""
    if not isinstance(rows, list) or not 1 <= len(rows) <= MAX_TIERS:
        raise _invalid(path, f"must be a list of 1 to {MAX_TIERS} tiers")
    tiers: list[Tier] = []
    reached = Decimal(0)
    for number, row in enumerate(rows):
        place = f"{path}[{number}]"
        if not isinstance(row, Mapping):
            raise _invalid(place, "must be an object")
        _known(row, ("up_to", "price", "per", "flat"), place)
        up_to = row.get("up_to")
        if (up_to is None) != (number == len(rows) - 1):
            raise _invalid(f"{place}.up_to", "must be null in the last tier and in no other")
        end = None if up_to is None else _quantity(up_to, f"{place}.up_to")
        if end is not None:
            if end <= reached:
                raise _invalid(f"{place}.up_to", "must lie above the tier before")
            reached = end
        tiers.append(
            Tier(
                end,
                _decimal(row.get("price", "0"), f"{place}.price"),
                _per(row, place),
                _decimal(row.get("flat", "0"), f"{place}.flat"),
            )
        )
    return tuple(tiers)


def _patterns(row: Mapping[str, Any], path: str) -> tuple[str, ...]:
    patterns = row.get("models", ["*"])
    if not isinstance(patterns, list) or not patterns:
        raise _invalid(f"{path}.models", "must be a list of model names and may not be empty")
    for pattern in patterns:
        if not isinstance(pattern, str) or not pattern or "*" in pattern[:-1]:
            raise _invalid(f"{path}.models", "a model is a name, or a prefix that ends in *")
    return tuple(patterns)


def _short(row: Mapping[str, Any], name: str, path: str) -> str:
    text = row.get(name, "")
    if not isinstance(text, str) or len(text) > MAX_TEXT:
        raise _invalid(f"{path}.{name}", f"must be a text of at most {MAX_TEXT} characters")
    return text


def _known(row: Mapping[str, Any], names: Sequence[str], path: str) -> None:
    for name in row:
        if name not in names:
            raise _invalid(f"{path}.{name}", "is not known here; known are " + ", ".join(names))


def _per(row: Mapping[str, Any], path: str) -> int:
    per = row.get("per", 1)
    if not isinstance(per, int) or isinstance(per, bool) or not 1 <= per <= 10**9:
        raise _invalid(f"{path}.per", "must be an integer from 1 to 1000000000")
    return per


def _quantity(value: object, path: str, *, is_positive: bool = False) -> Decimal:
    quantity = _decimal(value, path, most=MAX_QUANTITY)
    if is_positive and not quantity:
        raise _invalid(path, "must be above 0")
    return quantity


def _decimal(value: object, path: str, *, least: Decimal = Decimal(0), most: Decimal = MAX_AMOUNT) -> Decimal:
    """An exact decimal from a string or an integer (floats are refused, R1), at most 12 places."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _invalid(path, "must be a decimal string")
    try:
        number = Decimal(value)
    except InvalidOperation:
        raise _invalid(path, "must be a decimal string") from None
    if not number.is_finite() or not least <= number <= most:
        raise _invalid(path, f"must lie between {least} and {most}")
    if number != round(number, 12):
        raise _invalid(path, "may have at most 12 decimals")
    return number


def _invalid(param: str, message: str) -> ApiError:
    return ApiError("invalid_request", f"{param} {message}.", param=param)
