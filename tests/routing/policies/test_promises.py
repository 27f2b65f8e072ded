"""What must hold for every plan: over generated catalogues, policies, callers, preferences and states."""

import random
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from routing.entries import FeatureEntry, PolicyTarget, RoutingSnapshot, ShadowEntry
from routing.policies.plan import STRATEGIES, plan
from routing.policies.preferences import read_preferences
from routing.types import Circuit, EndpointHealth, Health, RoutePlan, Target
from tenants.errors import ApiError
from tests.routing.policies.planning import STRANGER, TENANT, own, request
from tests.routing.targets import NOW, card, policy, snapshot, target

REQUESTS_PER_WORLD = 100
PROVIDERS = ("alpha", "beta", "gamma")
REGIONS = ("eu", "eu", "eu", "us", "ap", "global")
MODELS = ("m", "n", "o")


def some_target(dice: random.Random, number: int) -> Target:
    provider, model = dice.choice(PROVIDERS), dice.choice(MODELS)
    prices = card(
        dice.choice(("USD", "USD", "EUR")), input=str(dice.randint(0, 9)), output=str(dice.randint(1, 30))
    )
    return target(
        f"e{number // 2}",  # two credentials each
        credential_id=f"c{number % 2}",
        quota_key=f"c{number % 2}/{number // 2}",
        provider=provider,
        model=model,
        provider_model=f"{model}-{provider}",
        region=dice.choice(REGIONS),
        weight=dice.randint(0, 3),
        rates=prices if dice.random() < 0.9 else card(),
        context_window=dice.choice((None, 500, 8000)),
        capabilities=frozenset(dice.sample(("tools", "vision"), dice.randint(0, 2))),
        trains_on_data=dice.choice((None, True, False)),
        retention_days=dice.choice((None, 0, 30)),
        needs_own=dice.random() < 0.05,
    )


def twins(made: list[Target]) -> list[Target]:
    """An endpoint's credentials differ in nothing else."""
    return [
        replace(made[number - number % 2], credential_id=each.credential_id, quota_key=each.quota_key)
        for number, each in enumerate(made)
    ]


def world(dice: random.Random, constraints: dict[str, Any]) -> RoutingSnapshot:
    targets = twins([some_target(dice, number) for number in range(2 * dice.randint(1, 12))])
    fallback = tuple(PolicyTarget(name, None, 1) for name in dice.sample(MODELS, dice.randint(0, 2)))
    main = [PolicyTarget(name, None, dice.randint(0, 3)) for name in dice.sample(MODELS, dice.randint(0, 3))]
    shadowed = policy("shadowed", "cost", variant="shadow", constraints=constraints)
    rules = [
        policy(name, name, *main, fallback=fallback, constraints=constraints,
               shadow=ShadowEntry(0.5, shadowed, 60, judge=shadowed))
        for name in STRATEGIES
    ]  # fmt: skip
    return snapshot(
        targets,
        *rules,
        features={(None, "chat"): FeatureEntry("chat", None, rules[3], 2000, 0.99, 10**12)},
        bindings={(TENANT, ""): dice.choice(rules)} if dice.random() < 0.7 else {},
        own={(TENANT, "alpha"): (own("mine"),)},
    )


def some_request(dice: random.Random) -> dict[str, Any]:
    return {
        "model": dice.choice((*(f"policy:{name}" for name in STRATEGIES), "m", "n", "auto", "alpha/m")),
        "tenant_id": dice.choice((TENANT, STRANGER)),
        "feature": dice.choice(("", "chat")),
        "allowed_models": dice.choice((*[None] * 6, frozenset({"m", "beta/n"}), frozenset({"auto"}))),
        "capabilities": dice.choice((frozenset(), frozenset(), frozenset({"tools"}))),
        "input_tokens": dice.choice((0, 400, 400, 5000)),
        "output_tokens": dice.choice((0, 300)),
        "allow_unpriced": dice.random() < 0.5,
    }


def some_wishes(dice: random.Random) -> dict[str, Any]:
    """Every preference, in every combination."""
    said: dict[str, Any] = {
        "order": dice.sample(PROVIDERS, dice.randint(0, 3)),
        "only": dice.sample(PROVIDERS, dice.randint(1, 3)),
        "ignore": dice.sample(PROVIDERS, dice.randint(0, 2)),
        "allow_fallbacks": dice.random() < 0.5,
        "require_parameters": True,
        "data_collection": dice.choice(("allow", "deny")),
        "zdr": dice.random() < 0.5,
        "sort": dice.choice(("price", "latency", "throughput")),
        "max_price": {dice.choice(("prompt", "completion", "request", "image")): dice.randint(1, 40)},
        "preferred_max_latency": dice.choice((0.5, {"p90": 2})),
        "preferred_min_throughput": 20,
    }
    return {name: value for name, value in said.items() if dice.random() < 0.2}


def some_health(dice: random.Random) -> Health:
    return Health(
        endpoints={
            f"e{number}": EndpointHealth(
                circuit=dice.choice((Circuit.CLOSED, Circuit.CLOSED, *Circuit)),
                open_until=NOW + dice.randint(-9, 9),
                is_probe=dice.random() < 0.5,
                success=dice.choice((None, dice.random())),
                samples=dice.randint(0, 500),
                first_byte_p50_ms=dice.choice((None, dice.uniform(10, 3000))),
                latency_p95_ms=dice.choice((None, dice.uniform(10, 9000))),
                output_tokens_per_s=dice.choice((None, 50.0)),
            )
            for number in range(12)
            if dice.random() < 0.7
        },
        pauses={f"c0/{number}": NOW + 5 for number in range(12) if dice.random() < 0.2},
        burn={"*/chat": dice.uniform(0, 6)},
    )


def planned(routes: RoutingSnapshot, health: Health, draw: float, **fields: Any) -> RoutePlan | str:
    """The plan, or the code of the refusal."""
    try:
        return plan(request(**fields), routes, health=health, now=NOW, draw=draw)
    except ApiError as error:
        return error.code


def names_of(answer: RoutePlan) -> list[tuple[str, str]]:
    return [(each.target.endpoint_id, each.target.credential_id) for each in answer.targets]


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), by_policy=st.booleans())
def test_no_plan_of_ten_thousand_leaves_the_eu(seed: int, by_policy: bool) -> None:
    dice = random.Random(seed)
    routes = world(dice, {"regions": ["eu"]} if by_policy else {})
    codes = set()
    for _ in range(REQUESTS_PER_WORLD):
        fields = some_request(dice)
        if not by_policy or not fields["model"].startswith("policy:"):
            fields["regions"] = frozenset({"eu"})
        answer = planned(
            routes,
            some_health(dice),
            dice.random(),
            **fields,
            preferences=read_preferences(some_wishes(dice)),
        )
        if isinstance(answer, str):
            codes.add(answer)
            continue
        assert {each.target.region for each in answer.targets} == {"eu"}
        if answer.mirror is not None:
            assert answer.mirror.target.region == "eu"
            assert answer.mirror.judge is not None
            assert answer.mirror.judge.region == "eu"
            assert not answer.mirror.target.is_own
    assert codes <= {
        "region_unavailable",
        "unsupported_parameter",
        "model_not_found",
        "model_not_allowed",
        "model_unpriced",
        "context_length_exceeded",
    }


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_every_choice_is_kept_or_dropped_once_and_every_plan_comes_out_the_same_again(seed: int) -> None:
    dice = random.Random(seed)
    routes = world(dice, {})
    fresh = replace(routes)
    for _ in range(20):
        fields, health, draw = some_request(dice), some_health(dice), dice.random()
        fields["preferences"] = read_preferences(some_wishes(dice))
        answer = planned(routes, health, draw, **fields)
        assert planned(fresh, health, draw, **fields) == answer
        if isinstance(answer, str):
            continue
        kept = names_of(answer)
        assert len(set(kept)) == len(kept)
        told = [each.endpoint_id for each in answer.dropped if each.endpoint_id]
        told += [endpoint_id for endpoint_id, _ in kept]
        if fields["model"].startswith("policy:"):
            choices = routes.choices_of(routes.policies[None, fields["model"].removeprefix("policy:")])
            mine = [
                choice
                for choice in choices
                if choice.target.provider == "alpha" and fields["tenant_id"] == TENANT
            ]
            owned = {choice.target.endpoint_id for choice in mine}
            assert sorted(told) == sorted([*(choice.target.endpoint_id for choice in choices), *owned])


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_preferences_never_widen_what_a_caller_may_use(seed: int) -> None:
    dice = random.Random(seed)
    routes = world(dice, {"deny": {"providers": ["gamma"]}, "max_price_per_million": "20"})
    for _ in range(20):
        fields, health, draw = some_request(dice), some_health(dice), dice.random()
        without = planned(routes, health, draw, **fields)
        with_wishes = planned(routes, health, draw, **fields, preferences=read_preferences(some_wishes(dice)))
        if isinstance(with_wishes, RoutePlan):
            assert isinstance(without, RoutePlan)
            assert set(names_of(with_wishes)) <= set(names_of(without))
