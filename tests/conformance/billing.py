"""Translates a case of billing_examples.json into production calls, and their answer into the case's shape.

It must hold no arithmetic of its own: what it computes is only how the case spells its input.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from routing.catalog.cost import Rate, RateCard, cost_of

type Case = Mapping[str, Any]

CACHE_PARTS = ("cache_read", "cache_write", "cache_write_1h")
TOKENS = ("input", "output", "reasoning", *CACHE_PARTS)


def run_case(case: Case) -> dict[str, Any]:
    """The answer to one case. Raises NotImplementedError for a kind nobody has translated yet."""
    runner = RUNNERS.get(case["kind"])
    if runner is None:
        raise NotImplementedError(case["kind"])
    return runner(case["input"])


def request_cost(given: Case) -> dict[str, Any]:
    card = RateCard(_rate(number, row) for number, row in enumerate(given["rates"]))
    cost = cost_of(
        card,
        _disjoint(given["usage"], given["token_convention"]),
        occurred_at=_instant(given["occurred_at"]),
        service_tier=given.get("service_tier") or "",
    )
    return {
        "components": {name: _from_pico(pico) for name, pico in cost.components.items()},
        "cost": _from_pico(cost.total_pico),
    }


RUNNERS: dict[str, Callable[[Case], dict[str, Any]]] = {
    "request_cost": request_cost,
}


def _disjoint(usage: Mapping[str, int], convention: str) -> dict[str, int]:
    """R3 into disjoint units: what the adapters do with each provider's usage object."""
    units = {name.removesuffix("_tokens") if name.removesuffix("_tokens") in TOKENS else name: int(count)
             for name, count in usage.items()}  # fmt: skip
    if convention == "inclusive":
        units["input"] = units.get("input", 0) - sum(units.get(part, 0) for part in CACHE_PARTS)
    units["output"] = units.get("output", 0) - units.get("reasoning", 0)
    return units


def _rate(number: int, row: Case) -> Rate:
    return Rate(
        component=row["component"],
        price=Decimal(row["price"]),
        per=int(row["per"]),
        currency=row.get("currency", "USD"),
        service_tier=row.get("service_tier") or "",
        min_input_tokens=int(row.get("min_input_tokens") or 0),
        effective_from=_instant(row["effective_from"]),
        effective_to=_instant(row["effective_to"]) if row.get("effective_to") else None,
        id=str(number),
    )


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _from_pico(pico: int) -> str:
    return f"{pico // 10**12}.{pico % 10**12:012d}"
