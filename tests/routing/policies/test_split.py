from collections import Counter
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.entries import Arm, ExperimentEntry, PolicyEntry, RolloutEntry, ShadowEntry
from routing.policies.split import (
    Subject,
    added_bytes,
    applied,
    assign,
    choose_arm,
    is_candidate,
    is_mirrored,
    ruled_by,
    unit_value,
)
from routing.types import Assignment, Operation

TENANT = UUID(int=1)
OTHER = UUID(int=2)
BASE = PolicyEntry(slug="p", number=3, strategy="cost", targets=(), constraints={}, tenant_id=None)
A, B, C = Arm("a", 1), Arm("b", 1), Arm("c", 2)


def experiment(*arms: Arm, unit: str = "user") -> ExperimentEntry:
    return ExperimentEntry(slug="x", unit=unit, salt="salt", arms=arms)


def shares(*arms: Arm, n: int = 8_000) -> Counter[str]:
    chosen = [choose_arm("salt", f"user-{number}", arms) for number in range(n)]
    return Counter(arm.name for arm in chosen if arm)


def test_the_same_unit_always_gets_the_same_arm() -> None:
    for number in range(200):
        first = choose_arm("salt", str(number), (A, B, C))
        assert choose_arm("salt", str(number), (C, A, B)) is first


def test_the_arms_get_their_shares() -> None:
    """Chi-square with two degrees of freedom: 13.8 is passed once in a thousand salts, and this salt is fixed."""
    expected = {"a": 2_000, "b": 2_000, "c": 4_000}
    counts = shares(A, B, C)
    assert sum((counts[name] - n) ** 2 / n for name, n in expected.items()) < 13.8


def test_another_salt_deals_anew() -> None:
    same = sum(
        choose_arm("salt", str(n), (A, B)) is choose_arm("pepper", str(n), (A, B)) for n in range(2_000)
    )
    assert 900 < same < 1_100


def test_when_one_weight_changes_units_move_only_from_or_to_that_arm() -> None:
    heavier = replace(C, weight=5)
    moves = Counter(
        (before.name, after.name)
        for number in range(3_000)
        if (before := choose_arm("s", str(number), (A, B, C)))
        and (after := choose_arm("s", str(number), (A, B, heavier)))
        and before.name != after.name
    )
    assert set(moves) == {("a", "c"), ("b", "c")}


def test_an_arm_without_weight_gets_nobody() -> None:
    assert set(shares(A, replace(B, weight=0), n=500)) == {"a"}
    assert choose_arm("s", "u", (replace(A, weight=0),)) is None


@pytest.mark.parametrize(
    ("unit", "subject", "expected"),
    [
        ("tenant", Subject(TENANT), str(TENANT)),
        ("user", Subject(TENANT, "ann"), f"{TENANT}\x1fann"),
        ("user", Subject(TENANT), ""),
        ("tag:team", Subject(TENANT, "", {"team": "red"}), f"{TENANT}\x1fred"),
        ("tag:team", Subject(TENANT, "", {"other": "red"}), ""),
        ("tag:team", Subject(TENANT), ""),
    ],
)
def test_a_unit_belongs_to_its_tenant(unit: str, subject: Subject, expected: str) -> None:
    assert unit_value(unit, subject) == expected


def test_a_call_without_its_unit_takes_no_part() -> None:
    assert assign(experiment(A, B), "") is None
    policy = replace(BASE, experiment=experiment(A, B))
    assert ruled_by(policy, Subject(TENANT), draw=0.5).assignment is None


def test_an_arm_with_targets_rules_by_them_and_one_without_by_the_policys() -> None:
    other = replace(BASE, variant="arm:b")
    policy = replace(BASE, experiment=experiment(A, replace(B, policy=other, parameters={"seed": 1})))
    rulings = [ruled_by(policy, Subject(TENANT, str(n)), draw=0.5) for n in range(50)]
    for ruling in rulings:
        assert ruling.assignment is not None
        assert ruling.policy is (other if ruling.assignment.arm == "b" else policy)
        assert ruling.assignment.parameters == ({"seed": 1} if ruling.assignment.arm == "b" else {})
    assert {ruling.assignment.arm for ruling in rulings if ruling.assignment} == {"a", "b"}


# ------------------------------------------------------------------ rollouts and shadows


def rollout(share: float, unit: str = "user") -> RolloutEntry:
    return RolloutEntry("r", unit, "salt", share, replace(BASE, variant="rollout"))


def test_who_is_in_a_rollout_stays_in_while_it_grows() -> None:
    subjects = [Subject(TENANT, str(number)) for number in range(2_000)]
    before: set[str] = set()
    for share in (0.1, 0.5, 1.0):
        now = {each.end_user for each in subjects if is_candidate(rollout(share), each, draw=0)}
        assert before <= now
        assert abs(len(now) / 2_000 - share) < 0.03
        before = now


def test_a_rollouts_calls_know_their_side_and_the_candidate_has_a_name_of_its_own() -> None:
    policy = replace(BASE, rollout=rollout(0.5, unit="call"))
    rulings = [ruled_by(policy, Subject(TENANT), draw=n / 1000) for n in range(1000)]
    by_arm = Counter(ruling.assignment.arm for ruling in rulings if ruling.assignment)
    assert by_arm.total() == 1000
    assert {(r.assignment.experiment, r.policy.name) for r in rulings if r.assignment} == {
        ("rollout:r", "p@3"),
        ("rollout:r", "p@3+rollout"),
    }


def test_a_rollout_that_is_only_shadowed_splits_nothing() -> None:
    policy = replace(BASE, rollout=rollout(0.0))
    assert ruled_by(policy, Subject(TENANT, "ann"), draw=0.0).assignment is None


def test_a_shadow_takes_its_share_wherever_the_route_fell() -> None:
    shadow = ShadowEntry(share=0.25, policy=BASE, per_minute=1)
    draws = [(n * 0.6180339887498949) % 1.0 for n in range(20_000)]
    low = [is_mirrored(shadow, draw=draw) for draw in draws if draw < 0.5]
    high = [is_mirrored(shadow, draw=draw) for draw in draws if draw >= 0.5]
    assert abs(sum(low) / len(low) - 0.25) < 0.02
    assert abs(sum(high) / len(high) - 0.25) < 0.02


# ------------------------------------------------------------------ bodies

BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 1}


def test_an_arms_parameters_go_into_a_new_body() -> None:
    before = repr(BODY)
    made = applied(BODY, Assignment("x", "b", {"temperature": 0}, "Be brief."), Operation.CHAT)
    assert made["temperature"] == 0
    assert made["messages"] == [{"role": "system", "content": "Be brief."}, *BODY["messages"]]
    assert repr(BODY) == before


def test_the_callers_own_system_prompt_is_replaced_where_it_stands() -> None:
    body = {**BODY, "messages": [{"role": "developer", "content": "Old"}, *BODY["messages"]]}
    made = applied(body, Assignment("x", "b", {}, "New"), Operation.CHAT)
    assert made["messages"] == [{"role": "developer", "content": "New"}, *BODY["messages"]]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, {"max_completion_tokens": 50}),
        ({"max_tokens": 20}, {"max_completion_tokens": 20}),
        ({"max_completion_tokens": 80}, {"max_completion_tokens": 50}),
    ],
)
def test_a_ceiling_of_output_is_only_lowered(asked: dict[str, int], expected: dict[str, int]) -> None:
    made = applied({**BODY, **asked}, Assignment("x", "b", {"max_completion_tokens": 50}), Operation.CHAT)
    assert {name: value for name, value in made.items() if name.startswith("max_")} == expected


def test_what_no_arm_may_set_is_left_out() -> None:
    made = applied(BODY, Assignment("x", "b", {"user": "eve", "n": 9, "store": True}), Operation.CHAT)
    assert made == BODY


def test_embeddings_stay_as_they_are() -> None:
    body = {"model": "m", "input": "x"}
    assert applied(body, Assignment("x", "b", {"temperature": 0}, "Hi"), Operation.EMBEDDINGS) is body


@given(prompt=st.text(max_size=50))
def test_an_arm_adds_no_more_bytes_than_told(prompt: str) -> None:
    assert added_bytes(Assignment("x", "b", {}, prompt)) == len(prompt.encode("utf-8", "surrogatepass"))
