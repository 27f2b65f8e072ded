"""What a caller prefers of providers: the request body's `provider` object, in OpenRouter's names. Pure.

Preferences choose among what the tenant may use; they never add to it. Everything is understood or refused with the
parameter's name: no preference is dropped in silence. Source: https://openrouter.ai/docs/guides/routing/provider-selection
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from tenants.errors import ApiError

MAX_NAMES: Final = 100
SORTS: Final[Mapping[str, str]] = {"price": "cost", "latency": "latency", "throughput": "throughput"}
"""OpenRouter's word for an order -> the strategy that ranks so."""
PRICED: Final[Mapping[str, tuple[str, int]]] = {
    "prompt": ("input", 1_000_000),
    "completion": ("output", 1_000_000),
    "request": ("request", 1),
    "image": ("image", 1),
}
"""What max_price limits -> our price component, and per how many units."""


@dataclass(frozen=True, slots=True)
class Preferences:
    """A checked `provider` object. Provider names are slugs in lower case."""

    order: tuple[str, ...] = ()  # tried first, in this order
    only: frozenset[str] | None = None
    ignore: frozenset[str] = frozenset()
    allow_fallbacks: bool = True  # False: `order` alone, or without it the first provider alone
    may_train: bool = True  # data_collection
    zero_retention: bool = False  # zdr
    sort: str = ""  # a strategy, or "" for the policy's own
    max_price: tuple[
        tuple[str, Decimal], ...
    ] = ()  # USD by PRICED's names, held against the provider's rates
    max_p50_ms: float | None = None  # time to first byte; slower ones go behind
    max_p95_ms: float | None = None
    min_tokens_per_s: float | None = None


NO_PREFERENCES: Final = Preferences()


def forgetful(preferences: Preferences | None) -> Preferences:
    """The same, and only endpoints that keep nothing: the caller's tenant has zero retention."""
    return replace(preferences or NO_PREFERENCES, zero_retention=True)


def read_preferences(value: Any) -> Preferences | None:
    """The `provider` object as a value; None for null. Raises ApiError: invalid_request, unknown_field,
    unsupported_parameter.

    `require_parameters` needs nothing here: no parameter is ever left out of what goes upstream, a provider that
    cannot express one is passed over.
    """
    if value is None:
        return None
    if not isinstance(value, dict):
        raise _bad("provider", "must be an object")
    read: dict[str, Any] = {}
    for name, said in value.items():
        where = f"provider.{name}"
        if name in UNSUPPORTED:
            raise ApiError("unsupported_parameter", f"{where} is not supported.", param=where)
        reader = READERS.get(name)
        if reader is None:
            raise ApiError("unknown_field", f"{where} is unknown.", param=where)
        if said is not None:
            read |= reader(where, said)
    return Preferences(**read)


# ------------------------------------------------------------------ one reader per preference

UNSUPPORTED: Final = frozenset(("quantizations", "enforce_distillable_text"))


def _bad(param: str, what: str) -> ApiError:
    return ApiError("invalid_request", f"{param} {what}.", param=param)


def _slugs(where: str, said: Any) -> tuple[str, ...]:
    if not isinstance(said, list) or not all(isinstance(each, str) and each for each in said):
        raise _bad(where, "must be an array of provider names")
    if len(said) > MAX_NAMES:
        raise _bad(where, f"must name at most {MAX_NAMES} providers")
    return tuple(dict.fromkeys(each.lower() for each in said))


def _flag(where: str, said: Any) -> bool:
    if type(said) is not bool:
        raise _bad(where, "must be true or false")
    return said


def _number(where: str, said: Any) -> float:
    if type(said) not in (int, float) or not 0 < said < 1e9:
        raise _bad(where, "must be a number above 0")
    return float(said)


def _order(where: str, said: Any) -> dict[str, Any]:
    return {"order": _slugs(where, said)}


def _only(where: str, said: Any) -> dict[str, Any]:
    return {"only": frozenset(_slugs(where, said))}


def _ignore(where: str, said: Any) -> dict[str, Any]:
    return {"ignore": frozenset(_slugs(where, said))}


def _allow_fallbacks(where: str, said: Any) -> dict[str, Any]:
    return {"allow_fallbacks": _flag(where, said)}


def _require_parameters(where: str, said: Any) -> dict[str, Any]:
    _flag(where, said)
    return {}


def _data_collection(where: str, said: Any) -> dict[str, Any]:
    if said not in ("allow", "deny"):
        raise _bad(where, 'must be "allow" or "deny"')
    return {"may_train": said == "allow"}


def _zdr(where: str, said: Any) -> dict[str, Any]:
    return {"zero_retention": _flag(where, said)}


def _sort(where: str, said: Any) -> dict[str, Any]:
    """A word, or {"by", "partition"}; our order always runs across models, which is partition "none"."""
    if isinstance(said, dict):
        if unknown := sorted(said.keys() - {"by", "partition"}):
            raise ApiError(
                "unknown_field", f"{where}.{unknown[0]} is unknown.", param=f"{where}.{unknown[0]}"
            )
        if said.get("partition") not in (None, "none"):
            raise ApiError(
                "unsupported_parameter",
                f'{where}.partition can only be "none".',
                param=f"{where}.partition",
            )
        where, said = f"{where}.by", said.get("by")
    if not isinstance(said, str) or said not in SORTS:
        raise _bad(where, f"must be one of {', '.join(SORTS)}")
    return {"sort": SORTS[said]}


def _max_price(where: str, said: Any) -> dict[str, Any]:
    if not isinstance(said, dict):
        raise _bad(where, "must be an object")
    if unknown := sorted(said.keys() - PRICED.keys()):
        raise ApiError("unknown_field", f"{where}.{unknown[0]} is unknown.", param=f"{where}.{unknown[0]}")
    limits = {name: _price(f"{where}.{name}", price) for name, price in said.items() if price is not None}
    return {"max_price": tuple(sorted(limits.items()))}


def _price(where: str, said: Any) -> Decimal:
    """The amount as it was written.

    A JSON number has been read as a binary float; its shortest text gives back every amount of up to 15
    digits (IEEE 754), a longer one must come as a string.
    """
    price: Decimal | None = None
    if type(said) in (int, float, str):
        try:
            price = Decimal(said if isinstance(said, str) else repr(said))
        except InvalidOperation:
            price = None
    if price is None or not price.is_finite() or not 0 <= price < 10**12:
        raise _bad(where, "must be an amount in USD, 0 or more, as a number or a string")
    if isinstance(said, float) and len(price.normalize().as_tuple().digits) > 15:
        raise _bad(where, "has too many digits for a number; send it as a string")
    return price


def _preferred_max_latency(where: str, said: Any) -> dict[str, Any]:
    """Seconds to the first byte: a number for the median, or by percentile. p75 and p90 are held to the
    measured p95, which is never below them."""
    if not isinstance(said, dict):
        return {"max_p50_ms": _number(where, said) * 1000}
    limits: dict[str, float] = {}
    for name, seconds in said.items():
        if name not in ("p50", "p75", "p90"):
            code = "unsupported_parameter" if name == "p99" else "unknown_field"
            raise ApiError(code, f"{where} takes p50, p75 and p90.", param=f"{where}.{name}")
        if seconds is not None:
            kind = "max_p50_ms" if name == "p50" else "max_p95_ms"
            limit_ms = _number(f"{where}.{name}", seconds) * 1000
            limits[kind] = min(limit_ms, limits.get(kind, limit_ms))
    return limits


def _preferred_min_throughput(where: str, said: Any) -> dict[str, Any]:
    """Output tokens per second: a number, or {"p50"}; other percentiles are not measured."""
    if isinstance(said, dict):
        if other := sorted(said.keys() - {"p50"}):
            raise ApiError("unsupported_parameter", f"{where} takes p50.", param=f"{where}.{other[0]}")
        where, said = f"{where}.p50", said.get("p50")
    return {"min_tokens_per_s": _number(where, said)}


READERS: Final[Mapping[str, Callable[[str, Any], dict[str, Any]]]] = {
    "order": _order,
    "only": _only,
    "ignore": _ignore,
    "allow_fallbacks": _allow_fallbacks,
    "require_parameters": _require_parameters,
    "data_collection": _data_collection,
    "zdr": _zdr,
    "sort": _sort,
    "max_price": _max_price,
    "preferred_max_latency": _preferred_max_latency,
    "preferred_min_throughput": _preferred_min_throughput,
}
