from typing import Any

import pytest

from routing.entries import FeatureEntry, PolicyTarget, RoutingSnapshot
from routing.types import Conduct
from tests.routing.policies.planning import STRANGER, TENANT, asked, order, reasons, refused
from tests.routing.targets import policy, snapshot, target

OURS = policy("ours", "ordered", "a", tenant_id=TENANT)
FEATURES = policy("features", "ordered", "b")
TENANTS = policy("tenants", "ordered", "c")
PLANS = policy("plans", "ordered", "d")
TARGETS = [target(name, model=name) for name in "abcd"]


def feature(tenant: Any, rules: Any) -> FeatureEntry:
    return FeatureEntry("chat", tenant, rules, None, None, None)


def routes(*, own_feature: Any = None, features: bool = True, tenants: bool = True) -> RoutingSnapshot:
    return snapshot(
        TARGETS,
        OURS,
        FEATURES,
        TENANTS,
        PLANS,
        features={
            (TENANT, "chat"): feature(TENANT, own_feature),
            (None, "chat"): feature(None, FEATURES if features else None),
        },
        bindings={(None, "pro"): PLANS} | ({(TENANT, ""): TENANTS} if tenants else {}),
    )


def test_auto_takes_the_most_specific_binding() -> None:
    call = {"feature": "chat", "plan": "pro"}
    answers = [
        asked(routes(own_feature=OURS), "auto", **call),
        asked(routes(), "auto", **call),
        asked(routes(features=False), "auto", **call),
        asked(routes(features=False, tenants=False), "auto", **call),
    ]
    assert [(answer.policy, order(answer)) for answer in answers] == [
        ("ours@3", ["a"]),
        ("features@3", ["b"]),
        ("tenants@3", ["c"]),
        ("plans@3", ["d"]),
    ]


def test_auto_without_a_binding_is_not_found() -> None:
    error = refused(routes(tenants=False), "auto", plan="free")
    assert (error.code, error.param) == ("model_not_found", "model")
    assert "No policy is bound" in error.message


def test_a_binding_of_one_tenant_rules_no_other() -> None:
    assert refused(routes(), "auto", tenant_id=STRANGER).code == "model_not_found"


def test_a_named_policy_is_itself_whatever_is_bound() -> None:
    assert asked(routes(), "policy:plans", feature="chat", plan="pro").policy == "plans@3"


def test_a_bound_policy_rules_a_plain_model_with_its_strategy_constraints_and_conduct() -> None:
    eu_only = policy("eu", "cost", constraints={"regions": ["eu"]}, conduct=Conduct(max_attempts=7))
    world = snapshot(
        [target("us"), target("eu", region="eu"), target("other", model="n", region="eu")],
        eu_only,
        bindings={(TENANT, ""): eu_only},
    )
    answer = asked(world, "m")
    assert (answer.policy, answer.strategy, order(answer)) == ("eu@3", "cost", ["eu"])
    assert answer.conduct.max_attempts == 7
    assert reasons(answer) == {"us": "is in region us"}


def test_a_bound_policy_is_not_dodged_by_naming_a_model_it_does_not_offer() -> None:
    error = refused(routes(), "a", plan="pro")
    assert (error.code, error.param) == ("model_not_allowed", "model")
    assert error.message == "'a' is not offered by the policy tenants@3, which is bound to the tenant."
    assert "bound to the plan 'pro'" in refused(routes(tenants=False), "a", plan="pro").message
    assert "bound to the feature 'chat'" in refused(routes(), "acme/a", feature="chat").message


def test_provider_and_model_stay_one_providers_under_a_bound_policy() -> None:
    everything = policy("all", "cost")
    world = snapshot(
        [target("a"), target("b", provider="other")], everything, bindings={(TENANT, ""): everything}
    )
    answer = asked(world, "other/m")
    assert (order(answer), answer.policy) == (["b"], "all@3")


def test_an_unknown_model_is_unknown_also_where_a_policy_is_bound() -> None:
    assert refused(routes(), "nobody").code == "model_not_found"


def test_a_feature_without_a_policy_leaves_the_ruling_to_the_next() -> None:
    assert asked(routes(features=False), "auto", feature="chat").policy == "tenants@3"


@pytest.mark.parametrize("allowed", [{"auto"}, {"policy:tenants"}, {"c"}, {"acme/c"}])
def test_an_allowlist_may_name_auto_its_policy_or_what_it_leads_to(allowed: set[str]) -> None:
    assert order(asked(routes(), "auto", allowed_models=frozenset(allowed))) == ["c"]


def test_an_allowlist_without_them_closes_auto() -> None:
    assert refused(routes(), "auto", allowed_models=frozenset({"a"})).code == "model_not_allowed"


def test_fallback_targets_come_after_all_others_in_their_order() -> None:
    world = snapshot(
        [*TARGETS, target("a2", model="a")],
        policy(
            "p",
            "cost",
            "b",
            fallback=(PolicyTarget("d", None, 1), PolicyTarget("a", None, 1), PolicyTarget("gone", None, 1)),
        ),
    )
    answer = asked(world, "policy:p")
    assert order(answer) == ["b", "d", "a", "a2"]
    assert [ranked.reason for ranked in answer.targets][1:] == ["fallback, in the policy's order"] * 3
    assert [dropped.model for dropped in answer.dropped] == ["gone"]
