from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.entries import PolicyTarget, RoutingSnapshot
from routing.policies.plan import EXPLORE_SHARE, check_constraints
from routing.types import Operation
from tenants.errors import ApiError
from tests.routing.policies.planning import STRANGER, TENANT, asked, order, reasons, refused
from tests.routing.targets import card, policy, snapshot, target

# ------------------------------------------------------------------ names


def test_a_catalogue_model_plans_its_endpoints_without_a_policy() -> None:
    answer = asked(snapshot([target("a"), target("b", model="other")]), "m")
    assert (order(answer), answer.policy, answer.strategy, answer.dropped) == (["a"], "", "weighted", ())


@pytest.mark.parametrize("name", ["acme/m", "acme/m-1"])
def test_provider_and_model_name_one_providers_endpoints(name: str) -> None:
    routes = snapshot([target("a"), target("b", provider="other")])
    assert order(asked(routes, name)) == ["a"]


def test_a_providers_own_name_may_hold_slashes() -> None:
    routes = snapshot([target("a", provider_model="org/models/m-1"), target("b", provider="other")])
    assert order(asked(routes, "acme/org/models/m-1")) == ["a"]


def test_a_catalogue_name_with_a_slash_is_not_taken_for_a_provider() -> None:
    routes = snapshot([target("a", model="acme/m"), target("b")])
    assert order(asked(routes, "acme/m")) == ["a"]


def test_a_policy_of_the_tenants_own_hides_the_global_one_from_nobody_else() -> None:
    routes = snapshot(
        [target("a"), target("b", model="n")],
        policy("best", "ordered", "m"),
        policy("best", "ordered", "n", tenant_id=TENANT, number=7),
    )
    own, others = asked(routes, "policy:best"), asked(routes, "policy:best", tenant_id=STRANGER)
    assert (order(own), own.policy) == (["b"], "best@7")
    assert (order(others), others.policy) == (["a"], "best@3")


@pytest.mark.parametrize(
    "name", ["nobody", "acme/nothing", "policy:none", "policy:", "/", "", "policy:foreign"]
)
def test_an_unknown_name_is_not_found(name: str) -> None:
    routes = snapshot([target("a")], policy("foreign", "cost", "m", tenant_id=STRANGER))
    error = refused(routes, name)
    assert (error.code, error.status, error.param) == ("model_not_found", 404, "model")


def test_a_model_that_nobody_serves_is_not_found() -> None:
    routes = snapshot([target("a")])
    empty = RoutingSnapshot(
        1,
        {"m": routes.models["m"].__class__("m", "m", "", frozenset(), frozenset(), None, None, 0, ())},
        {},
        {},
    )
    assert refused(empty, "m").code == "model_not_found"


# ------------------------------------------------------------------ filters and their reasons


MIXED = snapshot(
    [
        target("denied", model="secret"),
        target("embedder", operations=frozenset({"embeddings"})),
        target("toolless", capabilities=frozenset()),
        target("short", context_window=999),
        target("far", region="ap"),
        target("unknown", rates=card()),
        target("good", region="eu"),
    ],
    policy("all", "cost"),
)


def test_every_dropped_target_has_its_first_reason() -> None:
    answer = asked(
        MIXED,
        "policy:all",
        allowed_models=frozenset({"m"}),
        capabilities=frozenset({"tools"}),
        regions=frozenset({"eu", "us"}),
    )
    assert order(answer) == ["good"]
    assert reasons(answer) == {
        "denied": "not among the models this key may use",
        "embedder": "does not serve chat",
        "toolless": "does not support tools",
        "short": "its context window is 999 tokens",
        "far": "is in region ap",
        "unknown": "has no price for input",
    }


@pytest.mark.parametrize(
    ("only", "code", "status", "param"),
    [
        ("denied", "model_not_allowed", 403, "model"),
        ("embedder", "invalid_request", 400, "model"),
        ("toolless", "unsupported_parameter", 422, "tools"),
        ("short", "context_length_exceeded", 400, "messages"),
        ("far", "region_unavailable", 422, None),
        ("unknown", "model_unpriced", 402, "model"),
    ],
)
def test_without_a_target_the_error_is_the_furthest_filter(
    only: str, code: str, status: int, param: str | None
) -> None:
    targets = [
        t for entry in MIXED.models.values() for t in entry.targets if t.endpoint_id in ("denied", only)
    ]
    error = refused(
        snapshot(targets, policy("all", "cost")),
        "policy:all",
        allowed_models=frozenset({"m"}),
        capabilities=frozenset({"tools"}),
        regions=frozenset({"eu", "us"}),
    )
    assert (error.code, error.status, error.param) == (code, status, param)


def test_a_region_is_the_error_where_only_another_region_has_the_capability() -> None:
    routes = snapshot([target("us"), target("eu", region="eu", capabilities=frozenset())])
    error = refused(routes, "m", regions=frozenset({"eu"}), capabilities=frozenset({"tools"}))
    assert error.code == "region_unavailable"


@pytest.mark.parametrize("allowed", ["m", "acme/m", "policy:all"])
def test_an_allowlist_may_name_a_model_a_providers_model_or_the_policy(allowed: str) -> None:
    routes = snapshot([target("a")], policy("all", "cost"))
    assert order(asked(routes, "policy:all", allowed_models=frozenset({allowed}))) == ["a"]


def test_an_empty_allowlist_allows_nothing_and_an_empty_region_set_neither() -> None:
    routes = snapshot([target("a")])
    assert refused(routes, "m", allowed_models=frozenset()).code == "model_not_allowed"
    assert refused(routes, "m", regions=frozenset()).code == "region_unavailable"


def test_an_unpriced_target_goes_last_where_the_operator_allows_it() -> None:
    routes = snapshot([target("unknown", rates=card()), target("known")], policy("all", "cost"))
    answer = asked(routes, "policy:all", allow_unpriced=True)
    assert order(answer) == ["known", "unknown"]
    assert answer.targets[1].reason == "unpriced"


def test_a_missing_output_price_is_unpriced_for_chat_and_harmless_for_embeddings() -> None:
    routes = snapshot([target("a", operations=frozenset({"chat", "embeddings"}), rates=card(input="1"))])
    assert refused(routes, "m").code == "model_unpriced"
    assert order(asked(routes, "m", operation=Operation.EMBEDDINGS, output_tokens=0)) == ["a"]


def test_a_service_tier_without_prices_is_unpriced() -> None:
    assert refused(snapshot([target("a")]), "m", service_tier="priority").code == "model_unpriced"


def test_policy_regions_and_tenant_regions_must_both_agree() -> None:
    routes = snapshot(
        [target("us"), target("eu", region="eu")], policy("eu-only", "cost", constraints={"regions": ["eu"]})
    )
    assert order(asked(routes, "policy:eu-only")) == ["eu"]
    assert refused(routes, "policy:eu-only", regions=frozenset({"us"})).code == "region_unavailable"


def test_a_policy_may_limit_the_price_per_million() -> None:
    dear = target("dear", rates=card(input="1", output="20"))
    routes = snapshot(
        [dear, target("cheap")], policy("p", "cost", constraints={"max_price_per_million": "2"})
    )
    answer = asked(routes, "policy:p")
    assert order(answer) == ["cheap"]
    assert reasons(answer) == {"dear": "costs more than 2 per million"}
    only_dear = snapshot([dear], policy("p", "cost", constraints={"max_price_per_million": "2"}))
    assert refused(only_dear, "policy:p").code == "model_not_allowed"


def test_a_price_limit_excludes_what_has_no_price_even_where_unpriced_is_allowed() -> None:
    routes = snapshot(
        [target("unknown", rates=card())], policy("p", "cost", constraints={"max_price_per_million": "2"})
    )
    assert refused(routes, "policy:p", allow_unpriced=True).code == "model_unpriced"


@pytest.mark.parametrize(
    "constraints",
    [{"regoins": ["eu"]}, {"regions": "eu"}, {"max_price_per_million": "x"}, {"capabilities": [1]}],
)
def test_a_constraint_that_is_not_understood_closes_the_policy(constraints: dict[str, Any]) -> None:
    routes = snapshot([target("a")], policy("p", "cost", constraints=constraints))
    assert refused(routes, "policy:p").code == "invalid_request"
    with pytest.raises(ValueError, match=next(iter(constraints))):
        check_constraints(constraints)


def test_a_policy_says_what_it_names_but_nobody_serves() -> None:
    routes = snapshot(
        [target("a")],
        policy("p", "ordered", "m", "gone", PolicyTarget("m", "other", 1), PolicyTarget("m", "acme", 1)),
    )
    answer = asked(routes, "policy:p")
    assert [(d.provider, d.model, d.reason) for d in answer.dropped] == [
        ("", "gone", "no enabled endpoint with a credential serves it"),
        ("other", "m", "no enabled endpoint with a credential serves it"),
    ]


# ------------------------------------------------------------------ ranking


def test_cost_ranks_by_the_estimate_for_this_very_request() -> None:
    routes = snapshot(
        [
            target("reader", rates=card(input="1", output="9")),
            target("writer", rates=card(input="4", output="3")),
        ],
        policy("cheap", "cost"),
    )
    long_prompt = asked(routes, "policy:cheap", input_tokens=5000, output_tokens=100)
    long_answer = asked(routes, "policy:cheap", input_tokens=100, output_tokens=5000)
    assert order(long_prompt) == ["reader", "writer"]
    assert [r.score for r in long_prompt.targets] == [5_900_000_000.0, 20_300_000_000.0]
    assert order(long_answer) == ["writer", "reader"]


def test_of_equal_costs_the_faster_is_first() -> None:
    routes = snapshot([target("slow"), target("fast"), target("unmeasured")], policy("cheap", "cost"))
    assert order(asked(routes, "policy:cheap", latency={"slow": 1500.0, "fast": 90.0})) == [
        "fast", "unmeasured", "slow",
    ]  # fmt: skip


def test_prices_in_another_currency_are_not_compared() -> None:
    yen = target("yen", rates=card("JPY", input="0.1", output="0.1"))
    routes = snapshot([yen, target("a"), target("b")], policy("cheap", "cost"))
    answer = asked(routes, "policy:cheap")
    assert order(answer) == ["a", "b", "yen"]
    assert answer.targets[2].reason == "priced in JPY, not comparable with USD"


def test_latency_ranks_by_measured_time_and_the_unmeasured_by_a_neutral_prior() -> None:
    routes = snapshot([target("slow"), target("fast"), target("new")], policy("quick", "latency"))
    answer = asked(routes, "policy:quick", latency={"slow": 2000.0, "fast": 80.0})
    assert order(answer) == ["fast", "new", "slow"]
    assert [(r.score, r.reason) for r in answer.targets] == [
        (80.0, "measured first byte in ms"),
        (1000.0, "not measured yet"),
        (2000.0, "measured first byte in ms"),
    ]


def test_a_small_draw_explores_an_unmeasured_endpoint_first() -> None:
    routes = snapshot([target("fast"), target("new-1"), target("new-2")], policy("quick", "latency"))
    measured = {"fast": 80.0}
    first = [
        order(asked(routes, "policy:quick", latency=measured, draw=draw))[0]
        for draw in (0.0, EXPLORE_SHARE * 0.6, EXPLORE_SHARE)
    ]
    assert first == ["new-1", "new-2", "fast"]


def test_while_nothing_is_measured_the_first_calls_spread_over_all() -> None:
    routes = snapshot([target("a"), target("b")], policy("quick", "latency"))
    assert [order(asked(routes, "policy:quick", draw=draw))[0] for draw in (0.2, 0.7)] == ["a", "b"]


def test_ordered_keeps_the_policys_order_and_the_cheaper_endpoint_within_a_model() -> None:
    routes = snapshot(
        [
            target("dear", model="second", rates=card(input="5", output="5")),
            target("cheap", model="second"),
            target("x", model="first", rates=card(input="9", output="9")),
        ],
        policy("steady", "ordered", "first", "second"),
    )
    assert order(asked(routes, "policy:steady")) == ["x", "cheap", "dear"]


def test_weights_share_the_first_place_exactly_and_endpoints_share_their_policy_targets_weight() -> None:
    routes = snapshot(
        [
            target("a1", model="a"),
            target("a2", model="a"),
            target("b", model="b"),
            target("never", model="zero"),
        ],
        policy(
            "split",
            "weighted",
            PolicyTarget("a", None, 3),
            PolicyTarget("b", None, 1),
            PolicyTarget("zero", None, 0),
        ),
    )
    first = Counter(order(asked(routes, "policy:split", draw=(n + 0.5) / 800))[0] for n in range(800))
    assert first == {"a1": 300, "a2": 300, "b": 200}


def test_a_plain_name_draws_by_weight_and_falls_back_by_cost() -> None:
    routes = snapshot(
        [
            target("dear", rates=card(input="9", output="9")),
            target("mid", rates=card(input="5", output="5"), weight=3),
            target("cheap"),
        ]
    )
    assert order(asked(routes, "m", draw=0.1)) == ["dear", "cheap", "mid"]
    assert order(asked(routes, "m", draw=0.5)) == ["mid", "cheap", "dear"]


def test_an_endpoint_of_weight_zero_is_only_a_fallback() -> None:
    routes = snapshot([target("spare", weight=0), target("main")])
    assert {tuple(order(asked(routes, "m", draw=draw))) for draw in (0.0, 0.5, 0.99)} == {("main", "spare")}


# ------------------------------------------------------------------ properties


regions = st.sampled_from(("eu", "us", "ap", "global"))
names = st.sampled_from(("m", "n", "o"))


@given(
    spots=st.lists(st.tuples(names, regions, st.integers(0, 3), st.booleans()), min_size=1, max_size=12),
    wanted=st.one_of(st.none(), st.frozensets(regions)),
    own=st.one_of(st.none(), st.lists(regions)),
    strategy=st.sampled_from(("cost", "latency", "weighted", "ordered")),
    allowed=st.one_of(st.none(), st.frozensets(names)),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_no_plan_leaves_the_regions_or_the_allowlist_and_every_target_is_told_of(
    spots: list[tuple[str, str, int, bool]],
    wanted: frozenset[str] | None,
    own: list[str] | None,
    strategy: str,
    allowed: frozenset[str] | None,
    draw: float,
) -> None:
    targets = [
        target(
            f"e{number}",
            model=model,
            region=region,
            weight=weight,
            rates=card(input="1", output="1") if priced else card(),
        )
        for number, (model, region, weight, priced) in enumerate(spots)
    ]
    constraints = {} if own is None else {"regions": own}
    routes = snapshot(targets, policy("p", strategy, constraints=constraints))
    permitted = {"eu", "us", "ap", "global"} & (
        wanted if wanted is not None else {"eu", "us", "ap", "global"}
    )
    permitted &= set(own) if own is not None else permitted
    try:
        answer = asked(routes, "policy:p", regions=wanted, allowed_models=allowed, draw=draw)
    except ApiError as error:
        assert error.code in ("region_unavailable", "model_not_allowed", "model_unpriced")  # noqa: PT017
        return
    assert {ranked.target.region for ranked in answer.targets} <= permitted
    assert allowed is None or {ranked.target.model for ranked in answer.targets} <= allowed
    told = order(answer) + [dropped.endpoint_id for dropped in answer.dropped]
    assert sorted(told) == sorted(t.endpoint_id for t in targets)
