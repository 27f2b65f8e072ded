"""`python -m benchmarks.plan`: what one plan costs, in microseconds, by strategy.

Fifty endpoints with prices and measured health, a new size for every call; and the common case of one endpoint. It
measures CPU time, and needs neither a database nor a network. The best of several rounds counts: on a
machine that others use as well, the rest of the time is theirs.
"""

import argparse
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final
from uuid import UUID

from routing.catalog.cost import Rate, RateCard
from routing.entries import FeatureEntry, ModelEntry, PolicyEntry, PolicyTarget, RoutingSnapshot
from routing.policies.plan import PlanRequest, plan
from routing.policies.preferences import Preferences, read_preferences
from routing.policies.rank import STRATEGIES
from routing.types import Circuit, EndpointHealth, Health, Operation, ProviderKind, Target

NOW: Final = datetime(2026, 6, 1, tzinfo=UTC).timestamp()
TENANT: Final = UUID(int=1)
ENDPOINTS: Final = 50
ROUNDS: Final = 15
CALLS: Final = 400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds: int = parser.parse_args().rounds
    dice = random.Random(7)
    routes, health = world(dice), health_of(dice)
    asked = [request("policy:cost", dice) for _ in range(CALLS)]
    print(f"{ENDPOINTS} endpoints, health of each, {CALLS} sizes; best of {rounds} rounds, µs per plan")
    for strategy in STRATEGIES:
        asked = [request(f"policy:{strategy}", dice) for _ in range(CALLS)]
        show(strategy, best(rounds, asked, routes, health))
    troubled = Health(
        endpoints={**health.endpoints, "e7": EndpointHealth(Circuit.OPEN, NOW + 9)},
        pauses={"c/m-9": NOW + 3},
    )
    asked = [request("policy:cost", dice) for _ in range(CALLS)]
    show("cost, one circuit open, one quota paused", best(rounds, asked, routes, troubled))
    wishes = read_preferences({"order": ["p3", "p1"], "ignore": ["p2"], "max_price": {"prompt": 40}})
    asked = [request("policy:cost", dice, wishes) for _ in range(CALLS)]
    show("cost, with preferences of the caller", best(rounds, asked, routes, health))
    asked = [request("m0", dice) for _ in range(CALLS)]
    show("one endpoint, no policy", best(rounds, asked, routes, health))


def show(name: str, spent_us: float) -> None:
    print(f"{name:>42} {spent_us:7.1f}")


def best(rounds: int, asked: list[PlanRequest], routes: RoutingSnapshot, health: Health) -> float:
    return min(spent_us(asked, routes, health, time.process_time) for _ in range(rounds))


def spent_us(
    asked: list[PlanRequest], routes: RoutingSnapshot, health: Health, clock: Callable[[], float]
) -> float:
    draws = [number / len(asked) for number in range(len(asked))]
    start = clock()
    for each, draw in zip(asked, draws, strict=True):
        plan(each, routes, health=health, now=NOW, draw=draw)
    return (clock() - start) / len(asked) * 1e6


def request(model: str, dice: random.Random, preferences: Preferences | None = None) -> PlanRequest:
    return PlanRequest(
        model=model,
        operation=Operation.CHAT,
        tenant_id=TENANT,
        regions=frozenset(("eu", "us")),
        capabilities=frozenset(("tools",)),
        input_tokens=dice.randrange(10, 30_000),
        output_tokens=dice.randrange(1, 512),
        tenant="acme",
        feature="chat",
        plan="pro",
        preferences=preferences,
    )


def world(dice: random.Random) -> RoutingSnapshot:
    targets = [target(number, dice) for number in range(ENDPOINTS)]
    models = {
        each.model: ModelEntry(
            each.model, each.model, "acme", each.operations, each.capabilities, 128_000, 4096, 0, (each,)
        )
        for each in targets
    }
    return RoutingSnapshot(
        version=1,
        models=models,
        policies={(None, strategy): policy(strategy, targets) for strategy in STRATEGIES},
        providers={each.provider: each.kind for each in targets},
        features={(None, "chat"): FeatureEntry("chat", None, None, 2000, 0.99, 10**11)},
    )


def policy(strategy: str, targets: list[Target]) -> PolicyEntry:
    pointers = tuple(PolicyTarget(each.model, None, 1 + number % 3) for number, each in enumerate(targets))
    return PolicyEntry(strategy, 1, strategy, pointers, {}, None)


def target(number: int, dice: random.Random) -> Target:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    rates = RateCard(
        Rate(
            component, Decimal(dice.randrange(1, 2000)) / 100, 10**6, "USD", "", above, start, None, component
        )
        for component in ("input", "output")
        for above in (0, 16_000)
    )
    return Target(
        endpoint_id=f"e{number}",
        provider=f"p{number % 7}",
        kind=ProviderKind.OPENAI,
        provider_model=f"m-{number}",
        model=f"m{number}",
        region="eu" if number % 2 else "us",
        base_url="https://provider.test/v1",
        credential_id="c",
        api_key="",
        operations=frozenset((Operation.CHAT,)),
        capabilities=frozenset(("tools", "vision")),
        context_window=128_000,
        max_output_tokens=4096,
        weight=1,
        rates=rates,
        options={},
        first_byte_timeout_s=10,
        stall_timeout_s=10,
        total_timeout_s=600,
        quota_key=f"c/m-{number}",
    )


def health_of(dice: random.Random) -> Health:
    return Health(
        endpoints={
            f"e{number}": EndpointHealth(
                success=1 - dice.random() / 50,
                samples=dice.randrange(50, 5000),
                first_byte_p50_ms=dice.uniform(80, 900),
                first_byte_p95_ms=dice.uniform(900, 3000),
                latency_p95_ms=dice.uniform(900, 9000),
                output_tokens_per_s=dice.uniform(10, 200),
            )
            for number in range(ENDPOINTS)
        },
        burn={"*/chat": 1.8},
    )


if __name__ == "__main__":
    main()
