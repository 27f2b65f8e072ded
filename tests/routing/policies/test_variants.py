"""Experiments, rollouts and shadows as a plan shows them; how calls are split is tested in test_split."""

import random
from dataclasses import replace
from typing import Any

import pytest

from routing.entries import Arm, ExperimentEntry, PolicyEntry, RolloutEntry, RoutingSnapshot, ShadowEntry
from routing.types import Assignment, Circuit, EndpointHealth
from tests.routing.policies.planning import KEY, TENANT, asked, order, own, refused
from tests.routing.targets import NOW, policy, snapshot, target

TARGETS = [target("a", model="m"), target("b", model="n"), target("c", model="n", region="eu")]
BASE = policy("p", "cost", "m")


def candidate(*models: str, variant: str = "rollout", **fields: Any) -> PolicyEntry:
    return replace(policy("p", "cost", *models, **fields), variant=variant)


def rolled_out(share: float, entry: PolicyEntry | None = None) -> RoutingSnapshot:
    rollout = RolloutEntry("new", "call", "salt", share, entry or candidate("n"))
    ruling = replace(BASE, rollout=rollout)
    return snapshot(TARGETS, ruling, bindings={(TENANT, ""): ruling})


def shadowed(share: float = 1.0, **fields: Any) -> RoutingSnapshot:
    judge = candidate("n", variant="judge", constraints={"regions": ["eu"]})
    shadow = ShadowEntry(share, fields.pop("policy", candidate("n", variant="shadow")), 30, judge=judge)
    ruling = replace(BASE, shadow=shadow)
    return snapshot(TARGETS, ruling, bindings={(TENANT, ""): ruling}, **fields)


def test_a_rollouts_share_goes_by_the_candidate_and_the_rest_by_the_wording_in_force() -> None:
    routes, dice = rolled_out(0.25), random.Random(4)
    plans = [asked(routes, "policy:p", draw=dice.random()) for _ in range(4000)]
    by_candidate = [answer for answer in plans if answer.policy == "p@3+rollout"]
    assert len(by_candidate) == pytest.approx(1000, abs=100)
    assert {tuple(order(answer)) for answer in by_candidate} == {("b", "c")}
    assert all(answer.assignment == Assignment("rollout:new", "candidate") for answer in by_candidate)
    others = [answer for answer in plans if answer.policy == "p@3"]
    assert all(order(answer) == ["a"] for answer in others)
    assert all(answer.assignment == Assignment("rollout:new", "control") for answer in others)


def test_a_call_for_a_model_that_the_candidate_does_not_know_takes_no_part() -> None:
    answer = asked(rolled_out(1.0), "m")
    assert (answer.policy, order(answer), answer.assignment) == ("p@3", ["a"], None)


def test_the_candidates_own_constraints_hold_for_its_share() -> None:
    strict = candidate("n", constraints={"deny": {"keys": [str(KEY)]}})
    assert refused(rolled_out(1.0, strict), "policy:p").code == "model_not_allowed"
    eu_only = candidate("n", constraints={"regions": ["eu"]})
    assert order(asked(rolled_out(1.0, eu_only), "policy:p")) == ["c"]


def test_an_experiments_arm_rules_by_its_targets_and_hands_on_its_parameters() -> None:
    arms = (
        Arm("control", 0),
        Arm("other", 1, candidate("n", variant="x/other"), {"temperature": 0}, "Be brief."),
    )
    ruling = replace(BASE, experiment=ExperimentEntry("x", "user", "salt", arms))
    routes = snapshot(TARGETS, ruling)
    answer = asked(routes, "policy:p", end_user="u-1")
    assert order(answer) == ["b", "c"]
    assert answer.assignment == Assignment("x", "other", {"temperature": 0}, "Be brief.")
    unnamed = asked(routes, "policy:p")
    assert (order(unnamed), unnamed.assignment) == (["a"], None)


def test_a_shadow_gets_the_best_of_its_own_targets_and_changes_nothing_for_the_call() -> None:
    answer = asked(shadowed(), "policy:p")
    assert (order(answer), answer.policy) == (["a"], "p@3")
    assert answer.mirror is not None
    assert answer.mirror.target.endpoint_id == "b"
    assert answer.mirror.judge is not None
    assert answer.mirror.judge.endpoint_id == "c"
    assert asked(shadowed(0.0), "policy:p").mirror is None


def test_a_shadow_passes_the_filters_of_the_call_and_its_circuits() -> None:
    eu = asked(shadowed(), "policy:p", regions=frozenset({"eu", "us"}), health={
        "b": EndpointHealth(Circuit.OPEN, NOW + 9)
    }).mirror  # fmt: skip
    assert eu is not None
    assert eu.target.endpoint_id == "c"
    nowhere = asked(shadowed(), "policy:p", regions=frozenset({"us"}))
    assert (order(nowhere), nowhere.mirror) == (["a"], None)  # no judge there


def test_a_shadow_never_goes_to_a_model_that_the_key_may_not_use() -> None:
    named = asked(shadowed(), "m", allowed_models=frozenset({"m"}))
    assert (order(named), named.mirror) == (["a"], None)
    both = asked(shadowed(), "m", allowed_models=frozenset({"m", "n"}))
    assert both.mirror is not None


def test_a_shadow_is_the_operators_expense() -> None:
    routes = shadowed(own={(TENANT, "acme"): (own("mine"),)})
    answer = asked(routes, "policy:p")
    assert [each.target.is_own for each in answer.targets] == [True, False]
    assert answer.mirror is not None
    assert not answer.mirror.target.is_own
    only_own = candidate("n", variant="shadow", constraints={"credentials": "own_only"})
    assert asked(shadowed(policy=only_own, own={(TENANT, "acme"): (own("k"),)}), "policy:p").mirror is None


def test_a_rollout_and_a_shadow_of_one_name_do_not_share_their_routes() -> None:
    shared = candidate("n", variant="same")
    ruling = replace(
        BASE,
        rollout=RolloutEntry("new", "call", "salt", 1.0, shared),
        shadow=ShadowEntry(1.0, shared, 30),
    )
    routes = snapshot(TARGETS, ruling, own={(TENANT, "acme"): (own("mine"),)})
    answer = asked(routes, "policy:p")
    assert answer.targets[0].target.is_own
    assert answer.mirror is not None
    assert not answer.mirror.target.is_own
