"""A replay's outcome as its readers get it: JSON, amounts as exact decimal strings, tenants and targets by name."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from billing.rating.money import amount_text
from gateway.replay.recorded import Latencies
from gateway.replay.run import Outcome, Sums, Tally
from routing.types import Target

MAX_TENANTS = 1_000
"""The tenants with the most calls; the totals hold all."""


def report(
    outcome: Outcome,
    *,
    latencies: Latencies,
    targets: Mapping[str, Target],
    tenants: Mapping[UUID, str],
) -> dict[str, Any]:
    """`targets` are the known endpoints, `tenants` the slugs."""
    largest = sorted(outcome.tenants.items(), key=lambda each: -each[1].calls)
    return {
        "total": _tally(outcome.total, latencies),
        "targets": _shares(outcome.total, targets),
        "tenants": [
            {"tenant": tenants.get(tenant_id, str(tenant_id)), **_tally(tally, latencies)}
            for tenant_id, tally in largest[:MAX_TENANTS]
        ],
        "tenants_left_out": max(0, len(largest) - MAX_TENANTS),
    }


def _tally(tally: Tally, latencies: Latencies) -> dict[str, Any]:
    answered = sum(tally.candidate_targets.values())
    return {
        "calls": tally.calls,
        "moved": tally.moved,
        "refused": dict(sorted(tally.refused.items())),
        "unpriced": {"recorded": tally.unpriced_recorded, "candidate": tally.unpriced_candidate},
        "cost": _money(tally.cost),
        "price": _money(tally.price),
        "margin": _margin(tally),
        "p95_ms": {
            "recorded": _rounded(latencies.p95_ms(tally.recorded_targets)),
            "candidate": _rounded(latencies.p95_ms(tally.candidate_targets)),
            "calls_with_history": latencies.known(tally.candidate_targets),
            "calls": answered,
        },
    }


def _money(sums: Mapping[str, Sums]) -> dict[str, dict[str, str]]:
    return {currency: _line(each) for currency, each in sorted(sums.items())}


def _line(sums: Sums) -> dict[str, str]:
    return {
        "recorded": amount_text(sums.recorded_pico),
        "candidate": amount_text(sums.candidate_pico),
        "difference": amount_text(sums.candidate_pico - sums.recorded_pico),
    }


def _margin(tally: Tally) -> dict[str, dict[str, str]]:
    """Price less cost, where both are in one currency; elsewhere there is no such number."""
    return {
        currency: _line(
            Sums(
                price.recorded_pico - tally.cost[currency].recorded_pico,
                price.candidate_pico - tally.cost[currency].candidate_pico,
            )
        )
        for currency, price in sorted(tally.price.items())
        if set(tally.cost) == {currency} and set(tally.price) == {currency}
    }


def _rounded(value: float | None) -> int | None:
    return None if value is None else round(value)


def _shares(tally: Tally, targets: Mapping[str, Target]) -> list[dict[str, Any]]:
    """Every endpoint of either side, the candidate's busiest first."""
    every = {**tally.recorded_targets, **tally.candidate_targets}
    rows = [
        {
            "endpoint": endpoint_id,
            **_named(targets.get(endpoint_id)),
            "recorded": tally.recorded_targets.get(endpoint_id, 0),
            "candidate": tally.candidate_targets.get(endpoint_id, 0),
        }
        for endpoint_id in every
    ]
    return sorted(rows, key=lambda row: (-row["candidate"], -row["recorded"], row["endpoint"]))


def _named(target: Target | None) -> dict[str, str]:
    if target is None:
        return {"provider": "", "model": "", "region": ""}
    return {"provider": target.provider, "model": target.provider_model, "region": target.region}
