"""What splits a policy's calls, as the snapshot has it."""

from typing import Any

import pytest

from routing import demo, snapshot
from routing.entries import PolicyEntry
from routing.experiments import rollouts, shadows, trials
from routing.experiments.models import Experiment
from routing.models import RoutingPolicy
from tenants.errors import ApiError
from tenants.principal import SYSTEM

pytestmark = pytest.mark.django_db
ARMS: list[dict[str, Any]] = [
    {"name": "a"},
    {"name": "b", "weight": 3, "targets": ["sandbox-large"]},
    {"name": "c", "system_prompt": "Be kind.", "parameters": {"temperature": 0}},
]


@pytest.fixture
def policy() -> RoutingPolicy:
    demo.seed()
    return RoutingPolicy.objects.get(slug="cost-optimized")


def entry(slug: str = "cost-optimized") -> PolicyEntry:
    return snapshot.load().policies[None, slug]


def experiment(policy: RoutingPolicy, slug: str = "x", **more: Any) -> Experiment:
    given = {"name": "", "unit": "user", "arms": ARMS, **more}
    return trials.create_experiment(slug=slug, policy=policy, actor=SYSTEM, **given)


def test_a_draft_splits_nothing_and_a_started_one_does(policy: RoutingPolicy) -> None:
    made = experiment(policy)
    assert entry().experiment is None
    trials.start(experiment=made, actor=SYSTEM)
    held = entry().experiment
    assert held is not None
    assert [(arm.name, arm.weight) for arm in held.arms] == [("a", 1), ("b", 3), ("c", 1)]
    a, b, c = held.arms
    assert a.policy is c.policy is None
    assert b.policy is not None
    assert ([each.model for each in b.policy.targets], b.policy.variant) == (["sandbox-large"], "arm:b")
    assert b.policy.constraints == entry().constraints
    assert (c.parameters, c.system_prompt) == ({"temperature": 0}, "Be kind.")
    trials.stop(experiment=made, actor=SYSTEM)
    assert entry().experiment is None


def test_a_promoted_prompt_stays_in_force_until_it_is_stopped(policy: RoutingPolicy) -> None:
    made = trials.start(experiment=experiment(policy), actor=SYSTEM)
    made = trials.promote(experiment=made, arm="c", actor=SYSTEM)
    held = entry().experiment
    assert held is not None
    assert [(arm.name, arm.system_prompt) for arm in held.arms] == [("c", "Be kind.")]
    with pytest.raises(ApiError, match="splits this policy's calls already"):
        trials.start(experiment=experiment(policy, "y"), actor=SYSTEM)
    trials.stop(experiment=made, actor=SYSTEM)
    assert entry().experiment is None


def test_promoted_targets_are_the_policys_next_version(policy: RoutingPolicy) -> None:
    made = trials.start(experiment=experiment(policy), actor=SYSTEM)
    made = trials.promote(experiment=made, arm="b", actor=SYSTEM)
    assert (made.status, made.is_in_force) == ("promoted", False)
    assert (entry().number, [each.model for each in entry().targets]) == (2, ["sandbox-large"])


def test_a_shadow_keeps_the_policys_constraints(policy: RoutingPolicy) -> None:
    eu = RoutingPolicy.objects.get(slug="eu-only")
    judge = {"kind": "rubric", "rubric": "Kind?", "target": "sandbox-small"}
    wording = {"share": "0.25", "targets": ["sandbox-large"], "scoring": judge}
    shadows.set_shadow(policy=eu, wording=wording, actor=SYSTEM)
    held = entry("eu-only").shadow
    assert held is not None
    assert (held.share, held.per_minute, held.policy.variant) == (0.25, 60, "shadow")
    assert held.policy.constraints == {"regions": ["eu"]}
    assert held.judge is not None
    assert held.judge.constraints == {"regions": ["eu"]}
    shadows.set_shadow(policy=eu, wording={"is_enabled": False}, actor=SYSTEM)
    assert entry("eu-only").shadow is None


def test_a_rollout_is_shadowed_first_and_beside_its_control_later(policy: RoutingPolicy) -> None:
    rollout = rollouts.begin_rollout(
        slug="r", name="", policy=policy, candidate={"targets": ["sandbox-large"]}, actor=SYSTEM
    )
    held = entry()
    assert held.rollout is not None
    assert held.shadow is not None
    assert (held.rollout.share, held.shadow.share, held.shadow.rollout) == (0.0, 0.05, "r")
    rollouts.advance(rollout=rollout, reason="", figures={}, actor=SYSTEM)
    held = entry()
    assert held.rollout is not None
    assert held.shadow is not None
    assert (held.rollout.share, held.shadow.share) == (0.1, 0.05)
    assert held.rollout.policy.name == "cost-optimized@1+rollout"
    rollouts.roll_back(rollout=rollout, reason="", figures={}, actor=SYSTEM)
    assert (entry().rollout, entry().shadow) == (None, None)


def test_an_experiment_and_a_rollout_never_split_the_same_calls(policy: RoutingPolicy) -> None:
    made = trials.start(experiment=experiment(policy), actor=SYSTEM)
    with pytest.raises(ApiError, match="The experiment 'x' splits"):
        rollouts.begin_rollout(
            slug="r", name="", policy=policy, candidate={"strategy": "ordered"}, actor=SYSTEM
        )
    trials.stop(experiment=made, actor=SYSTEM)
    rollouts.begin_rollout(slug="r", name="", policy=policy, candidate={"strategy": "ordered"}, actor=SYSTEM)
    with pytest.raises(ApiError, match="The rollout 'r' splits"):
        trials.start(experiment=experiment(policy, "y"), actor=SYSTEM)


def test_what_cannot_be_used_is_left_out_and_the_policy_rules_on(
    policy: RoutingPolicy, caplog: pytest.LogCaptureFixture
) -> None:
    made = trials.start(experiment=experiment(policy), actor=SYSTEM)
    Experiment.objects.filter(pk=made.pk).update(arms=[{"nonsense": 1}])
    assert entry().experiment is None
    assert "x cannot be used and is left out" in caplog.text
