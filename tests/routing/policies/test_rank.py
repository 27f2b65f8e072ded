from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.entries import FeatureEntry, RoutingSnapshot
from routing.policies.rank import FULL_BURN, SLACK, Objective, success_bound, uses_of
from routing.types import Circuit, EndpointHealth, Health
from tests.routing.policies.planning import asked, order, whys
from tests.routing.targets import card, policy, snapshot, target


def priced(endpoint_id: str, price: str, **fields: Any) -> Any:
    return target(endpoint_id, rates=card(input=price, output=price), **fields)


# ------------------------------------------------------------------ latency and throughput


def test_latency_counts_a_slow_tail_by_a_quarter() -> None:
    routes = snapshot([target("tail"), target("steady")], policy("quick", "latency"))
    health = {
        "tail": EndpointHealth(first_byte_p50_ms=100, first_byte_p95_ms=2100),
        "steady": EndpointHealth(first_byte_p50_ms=300, first_byte_p95_ms=700),
    }
    answer = asked(routes, "policy:quick", health=health)
    assert [(r.target.endpoint_id, r.score) for r in answer.targets] == [("steady", 400.0), ("tail", 600.0)]


def test_latency_takes_the_cheaper_of_equals() -> None:
    routes = snapshot([priced("dear", "9"), priced("cheap", "1")], policy("quick", "latency"))
    assert order(asked(routes, "policy:quick", latency={"dear": 80.0, "cheap": 80.0})) == ["cheap", "dear"]


# ------------------------------------------------------------------ reliability


def test_reliability_ranks_by_what_is_certain_not_by_what_was_lucky() -> None:
    routes = snapshot([target("lucky"), target("proven"), target("new")], policy("sure", "reliability"))
    health = {
        "lucky": EndpointHealth(success=1.0, samples=5),
        "proven": EndpointHealth(success=0.995, samples=2000),
    }
    answer = asked(routes, "policy:sure", health=health)
    assert order(answer) == ["proven", "lucky", "new"]
    assert whys(answer)[2] == "success not measured yet"
    assert [ranked.score for ranked in answer.targets] == [0.009, 0.434, 1.0]


def test_of_equally_reliable_targets_a_closed_circuit_is_first_and_then_the_cheaper() -> None:
    routes = snapshot(
        [priced("probing", "1"), priced("dear", "9"), priced("cheap", "2")], policy("sure", "reliability")
    )
    same = {"success": 0.999, "samples": 5000}
    health = {
        "probing": EndpointHealth(Circuit.HALF_OPEN, is_probe=True, **same),
        "dear": EndpointHealth(**same),
        "cheap": EndpointHealth(**same),
    }
    assert order(asked(routes, "policy:sure", health=health)) == ["cheap", "dear", "probing"]


def test_wilsons_bound_is_the_textbooks() -> None:
    assert success_bound(1.0, 10) == pytest.approx(0.7225, abs=1e-4)
    assert success_bound(0.9, 100) == pytest.approx(0.8256, abs=1e-4)
    assert (success_bound(None, 0), success_bound(0.0, 100)) == (0.0, 0.0)


@given(share=st.floats(0, 1), samples=st.integers(1, 10**6))
def test_wilsons_bound_never_exceeds_the_share_and_grows_with_the_samples(share: float, samples: int) -> None:
    bound = success_bound(share, samples)
    assert 0 <= bound <= share + 1e-9
    assert bound <= success_bound(share, samples * 10) + 1e-9


# ------------------------------------------------------------------ slo


def chat(**promised: Any) -> dict[str, Any]:
    entry = FeatureEntry(
        "chat",
        None,
        None,
        promised.get("p95_ms"),
        promised.get("success"),
        promised.get("max_cost_pico"),
    )
    return {"features": {(None, "chat"): entry}}


LADDER: RoutingSnapshot = snapshot(
    [priced("cheap", "1"), priced("middle", "2"), priced("good", "3"), priced("best", "4")],
    policy("kept", "slo"),
    **chat(p95_ms=2000, success=0.99),
)
USES = {
    "cheap": EndpointHealth(success=0.9925, samples=10_000, latency_p95_ms=1000),  # use 0.75 of failures
    "middle": EndpointHealth(success=0.999, samples=10_000, latency_p95_ms=1200),  # 0.6 of time
    "good": EndpointHealth(success=0.999, samples=10_000, latency_p95_ms=800),  # 0.4 of time
    "best": EndpointHealth(success=0.9999, samples=10_000, latency_p95_ms=400),  # 0.2 of time
}


def burning(burn: float) -> Any:
    return asked(LADDER, "policy:kept", feature="chat", health=Health(endpoints=USES, burn={"*/chat": burn}))


def test_the_use_of_an_objective_is_its_tightest_goal() -> None:
    objective = Objective(2000, 0.99, 0.0, "")
    uses = uses_of([*USES.values(), None, EndpointHealth(success=1.0, samples=100)], objective)
    assert uses == pytest.approx([0.752, 0.6, 0.4, 0.2, 1.0, 1.0], abs=1e-3)
    assert uses_of([EndpointHealth(success=1.0, samples=100)], Objective(None, 0.99, 0.0, "")) == [
        pytest.approx(0.5)
    ]


@pytest.mark.parametrize(
    ("burn", "expected"),
    [
        (0.0, ["cheap", "middle", "good", "best"]),
        (1.0, ["cheap", "middle", "good", "best"]),
        (1.2, ["cheap", "middle", "good", "best"]),  # limit 0.76
        (1.3, ["middle", "good", "best", "cheap"]),  # limit 0.74
        (2.0, ["middle", "good", "best", "cheap"]),  # limit 0.6
        (2.1, ["good", "best", "middle", "cheap"]),  # limit 0.58
        (3.0, ["good", "best", "middle", "cheap"]),  # limit 0.4
        (3.1, ["best", "good", "middle", "cheap"]),
        (FULL_BURN, ["best", "good", "middle", "cheap"]),
        (99.0, ["best", "good", "middle", "cheap"]),
    ],
)
def test_a_burning_budget_moves_calls_by_degrees_from_the_cheapest_to_the_best(
    burn: float, expected: list[str]
) -> None:
    assert order(burning(burn)) == expected


def test_an_slo_plan_says_what_it_weighed() -> None:
    said = whys(burning(2.1))
    assert said[0] == (
        "uses at most 58% of the objective of the feature 'chat', burn 2.1: the cheapest first"
    )
    assert said[3] == (
        "uses more than 58% of the objective of the feature 'chat', burn 2.1: the least use first"
    )


def test_targets_that_miss_the_objective_follow_by_how_far() -> None:
    routes = snapshot(
        [priced("far", "1"), priced("near", "2"), priced("unmeasured", "3"), priced("meets", "9")],
        policy("kept", "slo"),
        **chat(p95_ms=1000),
    )
    health = {
        "far": EndpointHealth(latency_p95_ms=5000),
        "near": EndpointHealth(latency_p95_ms=1100),
        "meets": EndpointHealth(latency_p95_ms=1000 * SLACK),
    }
    answer = asked(routes, "policy:kept", feature="chat", health=health)
    assert order(answer) == ["meets", "unmeasured", "near", "far"]


def test_an_slo_that_burns_slowly_measures_what_it_does_not_know_now_and_then() -> None:
    routes = snapshot([priced("known", "1"), priced("new", "9")], policy("kept", "slo"), **chat(p95_ms=1000))
    seen = {"known": EndpointHealth(latency_p95_ms=100)}
    first = [
        order(
            asked(
                routes,
                "policy:kept",
                feature="chat",
                draw=draw,
                health=Health(endpoints=seen, burn={"*/chat": burn}),
            )
        )[0]
        for draw, burn in ((0.01, 0.5), (0.01, 1.5), (0.06, 0.5))
    ]
    assert first == ["new", "known", "known"]


def test_an_slos_cost_limit_holds_whatever_burns() -> None:
    routes = snapshot(
        [priced("cheap", "1"), priced("best", "4")],
        policy("kept", "slo"),
        **chat(p95_ms=2000, max_cost_pico=1_500_000_000),
    )
    health = Health(endpoints=USES, burn={"*/chat": 50.0})
    assert order(asked(routes, "policy:kept", feature="chat", health=health)) == ["cheap"]


def test_without_a_feature_the_policys_own_limits_are_the_objective() -> None:
    routes = snapshot(
        [priced("cheap", "1"), priced("good", "2")],
        policy("kept", "slo", constraints={"max_p95_ms": 1000}),
    )
    health = {"cheap": EndpointHealth(latency_p95_ms=900), "good": EndpointHealth(latency_p95_ms=700)}
    answer = asked(routes, "policy:kept", health=health)
    assert order(answer) == ["good", "cheap"]
    assert "the policy's own limits" in whys(answer)[0]


def test_without_any_objective_slo_is_reliability_and_says_so() -> None:
    routes = snapshot([priced("a", "1"), priced("b", "2")], policy("kept", "slo"))
    answer = asked(routes, "policy:kept", health={"b": EndpointHealth(success=0.99, samples=500)})
    assert order(answer) == ["b", "a"]
    assert whys(answer)[0].endswith("neither the feature nor the policy sets an objective")


@given(
    burns=st.tuples(st.floats(0, 10), st.floats(0, 10)).map(sorted),
    health=st.lists(
        st.tuples(st.floats(0.5, 1), st.integers(0, 5000), st.floats(10, 5000)), min_size=2, max_size=8
    ),
)
def test_a_faster_burn_never_puts_a_less_reliable_target_first(
    burns: list[float], health: list[tuple[float, int, float]]
) -> None:
    routes = snapshot(
        [priced(f"e{place}", str(place + 1)) for place in range(len(health))],
        policy("kept", "slo"),
        **chat(p95_ms=2000, success=0.99),
    )
    seen = {
        f"e{place}": EndpointHealth(success=share, samples=samples, latency_p95_ms=p95_ms)
        for place, (share, samples, p95_ms) in enumerate(health)
    }
    firsts = [
        order(
            asked(routes, "policy:kept", feature="chat", health=Health(endpoints=seen, burn={"*/chat": burn}))
        )[0]
        for burn in burns
    ]
    slow, fast = uses_of([seen[first] for first in firsts], Objective(2000, 0.99, 0.0, ""))
    assert fast <= slow


# ------------------------------------------------------------------ several credentials


def test_an_endpoints_credentials_share_its_calls_by_weight_under_every_strategy() -> None:
    twins = [target("e", credential_id="k1", weight=3), target("e", credential_id="k2", weight=1)]
    routes = snapshot(
        [*twins, priced("dear", "9", model="n")],
        *(policy(name, name) for name in ("cost", "latency", "reliability", "slo", "ordered")),
    )
    health = {name: EndpointHealth(first_byte_p50_ms=9, success=1.0, samples=9) for name in ("e", "dear")}
    for strategy in ("cost", "latency", "reliability", "slo", "ordered"):
        plans = [
            asked(routes, f"policy:{strategy}", draw=(n + 0.37) / 4000, health=health) for n in range(4000)
        ]
        first = Counter(answer.targets[0].target.credential_id for answer in plans)
        assert first["k1"] == pytest.approx(3000, abs=120), strategy
        assert all(order(answer) == ["e", "e", "dear"] for answer in plans), strategy


def test_explained_reasons_tell_the_figures() -> None:
    routes = snapshot([target("a"), target("far", region="ap", rates=card("EUR", input="1", output="1"))],
                      policy("cheap", "cost"))  # fmt: skip
    seen = EndpointHealth(
        success=0.995,
        samples=400,
        first_byte_p50_ms=80,
        first_byte_p95_ms=300,
        latency_p95_ms=900,
        output_tokens_per_s=55,
    )
    answer = asked(routes, "policy:cheap", health={"a": seen}, explain=True)
    assert whys(answer)[0] == (
        "estimated cost in pico-units (estimated at $0.002, first byte p50 80 ms, p95 300 ms, "
        "whole answer p95 900 ms, 99.50% of 400 succeeded, 55 tokens/s)"
    )
    assert whys(answer)[1].endswith("(estimated at 0.0015 EUR)")
