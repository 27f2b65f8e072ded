"""Translates a case of billing_examples.json into production calls, and their answer into the case's shape.

It must hold no arithmetic of its own: what it computes is only how the case spells its input.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from billing.budgets.evaluate import Window, allows, due, window_of
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


def windows(given: Case) -> dict[str, Any]:
    found = [(at, _window(given["window"], given["timezone"], _instant(at))) for at in given["instants"]]
    return {
        "windows": [
            {
                "at": at,
                "start": _text(window.start),
                "end": None if window.end is None else _text(window.end),
                "seconds": None if window.end is None else int(window.end - window.start),
            }
            for at, window in found
        ]
    }


def budget(given: Case) -> dict[str, Any]:
    """The counters are kept here as the gateway keeps them in Redis: per window, holds by reservation."""
    terms = given["budget"]
    limit = _to_pico(terms["limit"])
    spent: dict[float, int] = {}
    holds: dict[float, dict[str, int]] = {}
    fired: dict[float, list[int]] = {}
    alerts, decisions = [], []
    for event in given["events"]:
        start = _window(terms["window"], terms["timezone"], _instant(event["at"])).start
        spent.setdefault(start, 0)
        held = holds.setdefault(start, {})
        match event["type"]:
            case "reserve":
                estimate, open_holds = _to_pico(event["estimate"]), sum(held.values())
                is_allowed = allows(
                    limit=limit, spent=spent[start], held=open_holds, estimate=estimate, mode=terms["mode"]
                )
                if is_allowed:
                    held[event["id"]] = estimate
                decisions.append(
                    {
                        "id": event["id"],
                        "decision": "allow" if is_allowed else "deny",
                        "available_before": _from_pico(limit - spent[start] - open_holds),
                    }
                )
            case "spend" | "settle" | "release":
                for window_holds in holds.values():
                    window_holds.pop(event.get("id", ""), None)
                spent[start] += _to_pico(event["amount"]) if event["type"] != "release" else 0
            case unknown:
                raise NotImplementedError(unknown)
        seen = fired.setdefault(start, [])
        for threshold in due(
            limit=limit, spent=spent[start], thresholds=terms.get("thresholds") or (), fired=seen
        ):
            seen.append(threshold)
            alerts.append(
                {
                    "window_start": _text(start),
                    "threshold": threshold,
                    "at": event["at"],
                    "spent": _from_pico(spent[start]),
                }
            )
    return {
        "spent_by_window": {_text(start): _from_pico(amount) for start, amount in spent.items()},
        "alerts": alerts,
        "decisions": decisions,
    }


RUNNERS: dict[str, Callable[[Case], dict[str, Any]]] = {
    "request_cost": request_cost,
    "windows": windows,
    "budget": budget,
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


def _window(window: Case, timezone: str, at: datetime) -> Window:
    if window.get("type", "calendar") not in ("calendar", "total"):
        raise NotImplementedError(f"{window['type']} windows")
    unit = "total" if window.get("type") == "total" else window["unit"]
    return window_of(
        unit,
        timezone,
        at,
        anchor_day=window.get("anchor_day") or 1,
        week_start=window.get("week_start") or 0,
    )


def _text(unix_s: float) -> str:
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _to_pico(text: str) -> int:
    return int(Decimal(text).scaleb(12))


def _from_pico(pico: int) -> str:
    return f"{Decimal(pico).scaleb(-12):.12f}"
