"""What a policy version demands of every call and target, from the JSON that an admin wrote. Pure.

Nothing is guessed: a name or a shape that is not known here is refused when a policy is written, and closes the
policy when it is met in a plan.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from fractions import Fraction
from typing import Any, Final
from uuid import UUID

PICO: Final = 10**12
MAX_P95_MS: Final = 3_600_000


class Credentials(StrEnum):
    """Whose credentials a call may use, where its tenant has its own (BYO)."""

    NEVER = "never"  # the operator's alone
    OWN_FIRST = "own_first"  # the tenant's own before the operator's
    OWN_ONLY = "own_only"  # the tenant's own alone


@dataclass(frozen=True, slots=True)
class Rules:
    """One side of allow and deny. None in `allow` permits all; an empty set there permits nothing."""

    models: frozenset[str] | None = None
    providers: frozenset[str] | None = None
    tenants: frozenset[str] | None = None
    plans: frozenset[str] | None = None
    keys: frozenset[str] | None = None
    features: frozenset[str] | None = None

    @property
    def name_callers(self) -> bool:
        return any(each is not None for each in (self.tenants, self.plans, self.keys, self.features))


NO_RULES: Final = Rules()


@dataclass(frozen=True, slots=True)
class Constraints:
    """A policy's constraints, read. None does not restrict. Money is in USD."""

    regions: frozenset[str] | None = None
    capabilities: frozenset[str] = frozenset()
    max_price_per_million: Decimal | None = None  # for input and for output tokens, each
    max_cost_pico: int | None = None  # per call, on the estimate
    max_p95_ms: int | None = None  # of whole answers, as measured
    min_success: float | None = None  # share of attempts, as measured
    allow: Rules = NO_RULES
    deny: Rules = NO_RULES
    may_train: bool = True
    max_retention_days: int | None = None
    credentials: Credentials = Credentials.OWN_FIRST


NO_CONSTRAINTS: Final = Constraints()


def check_constraints(constraints: Mapping[str, Any]) -> None:
    """Raise ValueError, in words an admin can act on, unless every constraint is known and well formed."""
    read_constraints(constraints)


def read_constraints(constraints: Mapping[str, Any]) -> Constraints:
    """The constraints as values. Raises ValueError for an unknown name or a malformed value."""
    read: dict[str, Any] = {}
    for name, value in constraints.items():
        reader = READERS.get(name)
        if reader is None:
            raise ValueError(f"the constraint {name!r} is unknown")
        read |= reader(name, value)
    return Constraints(**read)


# ------------------------------------------------------------------ one reader per constraint


def _names(where: str, value: Any) -> frozenset[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) and each for each in value):
        raise ValueError(f"{where} must be a list of names")
    return frozenset(value)


def _amount(where: str, value: Any) -> Decimal:
    try:
        amount = Decimal(value) if isinstance(value, str) else None
    except InvalidOperation:
        amount = None
    if amount is None or not amount.is_finite() or not 0 <= amount < PICO:
        raise ValueError(f'{where} must be an amount in USD as a string, like "0.01"')
    return amount


def _object(where: str, value: Any, *known: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} must be an object")
    if unknown := sorted(str(name) for name in value.keys() - set(known)):
        raise ValueError(f"{where}.{unknown[0]} is unknown; known are {', '.join(known)}")
    return value


def _is_count(value: Any, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _read_names(name: str, value: Any) -> dict[str, Any]:
    return {name: _names(name, value)}


def _read_price(name: str, value: Any) -> dict[str, Any]:
    return {name: _amount(name, value)}


def _read_cost(name: str, value: Any) -> dict[str, Any]:
    # Less than a pico-unit is cut off: a limit may become stricter by reading, never looser.
    return {"max_cost_pico": int(Fraction(_amount(name, value)) * PICO)}


def _read_p95(name: str, value: Any) -> dict[str, Any]:
    if not _is_count(value, 1, MAX_P95_MS):
        raise ValueError(f"{name} must be whole milliseconds between 1 and {MAX_P95_MS}")
    return {name: value}


def _read_success(name: str, value: Any) -> dict[str, Any]:
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a share between 0 and 1")
    return {name: float(value)}


def _read_rules(name: str, value: Any) -> dict[str, Any]:
    kinds = ("models", "providers", "tenants", "plans", "keys", "features")
    said = _object(name, value, *kinds)
    return {name: Rules(**{kind: _names(f"{name}.{kind}", names) for kind, names in said.items()})}


def _read_data(name: str, value: Any) -> dict[str, Any]:
    said = _object(name, value, "training", "retention_days")
    if said.get("training", "deny") not in ("allow", "deny"):
        raise ValueError(f'{name}.training must be "allow" or "deny"')
    days = said.get("retention_days")
    if "retention_days" in said and not _is_count(days, 0, 36_500):
        raise ValueError(f"{name}.retention_days must be a whole number of days")
    return {"may_train": said.get("training", "allow") == "allow", "max_retention_days": days}


def _read_credentials(name: str, value: Any) -> dict[str, Any]:
    if value not in tuple(Credentials):
        raise ValueError(f"{name} must be one of {', '.join(Credentials)}")
    return {name: Credentials(value)}


READERS: Final[Mapping[str, Callable[[str, Any], dict[str, Any]]]] = {
    "regions": _read_names,
    "capabilities": _read_names,
    "max_price_per_million": _read_price,
    "max_cost": _read_cost,
    "max_p95_ms": _read_p95,
    "min_success": _read_success,
    "allow": _read_rules,
    "deny": _read_rules,
    "data": _read_data,
    "credentials": _read_credentials,
}


# ------------------------------------------------------------------ rules about callers


@dataclass(frozen=True, slots=True)
class CallerNames:
    """Everything by which a rule may name who calls."""

    tenant_id: UUID
    tenant: str
    plan: str
    api_key_id: UUID | None
    feature: str


def caller_refused(constraints: Constraints, caller: CallerNames) -> str | None:
    """Which kind of rule keeps this caller out ("tenant", "plan", "key", "feature"), or None.

    A tenant is named by slug or id, a key by id. A rule about features concerns calls without one too:
    they are not among those allowed.
    """
    allow, deny = constraints.allow, constraints.deny
    tenant = {str(caller.tenant_id), caller.tenant} - {""}
    key = {str(caller.api_key_id)} if caller.api_key_id else set()
    checks = (
        ("tenant", tenant, allow.tenants, deny.tenants),
        ("plan", {caller.plan} - {""}, allow.plans, deny.plans),
        ("key", key, allow.keys, deny.keys),
        ("feature", {caller.feature} - {""}, allow.features, deny.features),
    )
    for kind, names, allowed, denied in checks:
        if allowed is not None and not names & allowed:
            return kind
        if denied is not None and names & denied:
            return kind
    return None
