"""Experiments, shadows and rollouts in force, as the snapshot hangs them on the policies they split.

Reads the database in three queries. What cannot be used is logged and left out: the policy rules on without it.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import UUID

from routing.entries import (
    ROLLOUT_VARIANT,
    Arm,
    ExperimentEntry,
    PolicyEntry,
    PolicyTarget,
    RolloutEntry,
    ShadowEntry,
)
from routing.experiments.models import Experiment, PolicyShadow, Rollout
from routing.models import RoutingPolicyVersion

logger = logging.getLogger(__name__)

type TargetOf = Callable[[str | Mapping[str, Any]], PolicyTarget]
type EntryOf = Callable[[Any, RoutingPolicyVersion], PolicyEntry]


def attached(
    policies: Mapping[UUID, PolicyEntry], *, target_of: TargetOf, entry_of: EntryOf
) -> dict[UUID, PolicyEntry]:
    """The policies, by id, with what splits their calls. A rollout's own shadow goes before the policy's."""
    made = dict(policies)
    for experiment in Experiment.objects.filter(is_in_force=True):
        change = partial(_with_experiment, experiment, target_of=target_of)
        _attach(made, experiment.policy_id, experiment, change)
    for shadow in PolicyShadow.objects.filter(is_enabled=True):
        change = partial(_with_shadow, shadow, target_of=target_of)
        _attach(made, shadow.policy_id, shadow, change)
    for rollout in Rollout.objects.filter(status=Rollout.Status.RUNNING).select_related("policy"):
        change = partial(_with_rollout, rollout, target_of=target_of, entry_of=entry_of)
        _attach(made, rollout.policy_id, rollout, change)
    return made


def _attach(
    made: dict[UUID, PolicyEntry], policy_id: UUID, row: object, change: Callable[[PolicyEntry], PolicyEntry]
) -> None:
    base = made.get(policy_id)
    if base is None:  # switched off
        return
    try:
        made[policy_id] = change(base)
    except (KeyError, TypeError, ValueError, AttributeError):
        logger.exception("%s cannot be used and is left out", row)


def _with_experiment(row: Experiment, base: PolicyEntry, *, target_of: TargetOf) -> PolicyEntry:
    arms = tuple(
        Arm(
            name=arm["name"],
            weight=arm["weight"],
            policy=_aimed(base, arm["targets"], target_of, variant=f"arm:{arm['name']}")
            if arm.get("targets")
            else None,
            parameters=arm.get("parameters") or {},
            system_prompt=arm.get("system_prompt") or "",
        )
        for arm in row.arms
        if row.status != Experiment.Status.PROMOTED or arm["name"] == row.promoted_arm
    )
    if row.status == Experiment.Status.PROMOTED:  # its targets are in the policy's wording by now
        arms = tuple(replace(arm, policy=None, weight=1) for arm in arms)
    entry = ExperimentEntry(slug=row.slug, unit=row.unit, salt=row.salt, arms=arms)
    return replace(base, experiment=entry)


def _with_shadow(row: PolicyShadow, base: PolicyEntry, *, target_of: TargetOf) -> PolicyEntry:
    entry = ShadowEntry(
        share=float(row.share),
        policy=_aimed(base, row.targets, target_of, variant="shadow"),
        per_minute=row.per_minute,
        scoring=row.scoring,
        judge=_judge(row.scoring, base, target_of),
    )
    return replace(base, shadow=entry)


def _with_rollout(row: Rollout, base: PolicyEntry, *, target_of: TargetOf, entry_of: EntryOf) -> PolicyEntry:
    """While it is only shadowed no call goes by the candidate; later the shadow goes on beside the control."""
    version = RoutingPolicyVersion(policy=row.policy, number=base.number, **row.candidate)
    candidate = replace(entry_of(row.policy, version), variant=ROLLOUT_VARIANT)
    stage = row.stages[row.stage]
    is_live = stage["kind"] == "live"
    mirrored = next((each["share"] for each in row.stages if each["kind"] == "shadow"), 0)
    shadow = ShadowEntry(
        share=float(mirrored if is_live else stage["share"]),
        policy=replace(candidate, variant="candidate"),
        per_minute=row.per_minute,
        rollout=row.slug,
        scoring=row.scoring,
        judge=_judge(row.scoring, base, target_of),
    )
    return replace(
        base,
        rollout=RolloutEntry(
            slug=row.slug,
            unit=row.unit,
            salt=row.salt,
            share=float(stage["share"]) if is_live else 0.0,
            policy=candidate,
        ),
        shadow=shadow if shadow.share > 0 else base.shadow,
    )


def _judge(scoring: Mapping[str, Any], base: PolicyEntry, target_of: TargetOf) -> PolicyEntry | None:
    target = scoring.get("target")
    return None if target is None else _aimed(base, [target], target_of, variant="judge")


def _aimed(
    base: PolicyEntry, targets: list[str | Mapping[str, Any]], target_of: TargetOf, *, variant: str
) -> PolicyEntry:
    """The policy with other targets under the same constraints, without what splits it."""
    return replace(
        base,
        targets=tuple(target_of(raw) for raw in targets),
        fallback=base.fallback if variant.startswith("arm:") else (),
        variant=variant,
        experiment=None,
        rollout=None,
        shadow=None,
    )
