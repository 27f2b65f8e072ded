"""Verbs of experiments: write one, start it, stop it, take an arm over. Each is one transaction and audited."""

import secrets
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db import IntegrityError, transaction
from django.utils import timezone

from routing.experiments.arms import bad, check_slug, check_unit, checked_arms
from routing.experiments.models import Experiment, Rollout
from routing.models import RoutingPolicy
from routing.policies import wordings
from tenants import audit, versions
from tenants.errors import ApiError
from tenants.principal import Principal

_WRITTEN = ("name", "unit", "arms", "policy")


def create_experiment(
    *, slug: str, name: str, policy: RoutingPolicy, unit: str, arms: object, actor: Principal
) -> Experiment:
    """A draft. Raises ApiError: invalid_request, conflict (the slug is taken)."""
    check_slug(slug)
    unit, checked = check_unit(unit), checked_arms(arms)
    try:
        with transaction.atomic():
            versions.bump("routing")
            made = Experiment.objects.create(
                slug=slug,
                name=name,
                policy=policy,
                unit=unit,
                salt=secrets.token_hex(16),
                arms=checked,
                created_by=actor.label,
            )
            _record("experiment.create", made, None, actor)
    except IntegrityError as error:
        raise ApiError("conflict", f"The experiment {slug!r} exists already.", param="slug") from error
    return made


def change_experiment(*, experiment: Experiment, changes: Mapping[str, Any], actor: Principal) -> Experiment:
    """Another wording of a draft. Raises ApiError: invalid_request; conflict once it has been started."""
    with transaction.atomic():
        versions.bump("routing")
        held = _held(experiment)
        before = picture(held)
        if held.status != Experiment.Status.DRAFT and changes.keys() - {"name"}:
            raise ApiError("conflict", "An experiment that was started keeps its wording: make another.")
        held.name = changes.get("name", held.name)
        held.unit = check_unit(changes.get("unit", held.unit))
        held.arms = checked_arms(changes.get("arms", held.arms))
        held.policy = changes.get("policy", held.policy)
        held.save(update_fields=(*_WRITTEN, "updated_at"))
        _record("experiment.update", held, before, actor)
    return held


def start(*, experiment: Experiment, actor: Principal, now: datetime | None = None) -> Experiment:
    """Let it split its policy's calls. Raises ApiError conflict unless it is a draft and nothing else splits them."""
    with transaction.atomic():
        versions.bump("routing")
        policy = RoutingPolicy.objects.select_for_update().get(pk=experiment.policy_id)
        held = _held(experiment)
        before = picture(held)
        if held.status != Experiment.Status.DRAFT:
            raise ApiError("conflict", f"This experiment is {held.status}.")
        if not policy.is_enabled:
            raise bad("policy", "is switched off")
        refuse_while_split(policy)
        held.arms = checked_arms(held.arms)
        held.status, held.is_in_force = Experiment.Status.RUNNING, True
        held.started_at = now or timezone.now()
        held.save()
        _record("experiment.start", held, before, actor)
    return held


def stop(*, experiment: Experiment, actor: Principal, now: datetime | None = None) -> Experiment:
    """Let the policy rule alone again: also takes back what a promoted arm still set. Raises ApiError conflict."""
    with transaction.atomic():
        versions.bump("routing")
        held = _held(experiment)
        before = picture(held)
        if not held.is_in_force:
            raise ApiError("conflict", f"This experiment is {held.status}: nothing is split by it.")
        held.status, held.is_in_force = Experiment.Status.STOPPED, False
        held.stopped_at = held.stopped_at or now or timezone.now()
        held.save()
        _record("experiment.stop", held, before, actor)
    return held


def promote(*, experiment: Experiment, arm: str, actor: Principal, now: datetime | None = None) -> Experiment:
    """Take one arm over for all calls: its targets become the policy's next version; what a version cannot
    hold (parameters, a system prompt) stays in force through the experiment until it is stopped.

    Raises ApiError: invalid_request for an arm it does not have, conflict unless it is running or stopped.
    """
    with transaction.atomic():
        versions.bump("routing")
        policy = RoutingPolicy.objects.select_for_update().get(pk=experiment.policy_id)
        held = _held(experiment)
        before = picture(held)
        if held.status not in (Experiment.Status.RUNNING, Experiment.Status.STOPPED):
            raise ApiError("conflict", f"This experiment is {held.status}.")
        chosen = next((each for each in held.arms if each["name"] == arm), None)
        if chosen is None:
            raise bad("arm", f"must be one of {', '.join(each['name'] for each in held.arms)}")
        if not held.is_in_force:
            refuse_while_split(policy)
        if chosen["targets"]:
            _take_over(policy, chosen["targets"], actor)
        held.status, held.promoted_arm = Experiment.Status.PROMOTED, arm
        held.is_in_force = bool(chosen["parameters"] or chosen["system_prompt"])
        held.stopped_at = held.stopped_at or now or timezone.now()
        held.save()
        _record("experiment.promote", held, before, actor)
    return held


def _take_over(policy: RoutingPolicy, targets: list[Any], actor: Principal) -> None:
    current = wordings.newest(policy)
    if current is None:
        raise ApiError("conflict", "The policy has no version.")
    said = wordings.wording_of(current)
    wordings.change_policy(
        policy=policy,
        name=policy.name,
        is_enabled=policy.is_enabled,
        wording=wordings.Wording(
            strategy=said.strategy,
            targets=targets,
            constraints=said.constraints,
            max_attempts=said.max_attempts,
            fallback=said.fallback,
            conduct=said.conduct,
        ),
        actor=actor,
    )


def refuse_while_split(policy: RoutingPolicy) -> None:
    """Raise ApiError conflict while an experiment or a rollout splits the policy's calls. Its row is locked."""
    held = Experiment.objects.filter(policy=policy, is_in_force=True).values_list("slug", flat=True).first()
    if held is not None:
        raise ApiError("conflict", f"The experiment {held!r} splits this policy's calls already.")
    held = (
        Rollout.objects.filter(policy=policy, status=Rollout.Status.RUNNING)
        .values_list("slug", flat=True)
        .first()
    )
    if held is not None:
        raise ApiError("conflict", f"The rollout {held!r} splits this policy's calls already.")


def _held(experiment: Experiment) -> Experiment:
    return (
        Experiment.objects.select_for_update(of=("self",))
        .select_related("policy", "policy__tenant")
        .get(pk=experiment.pk)
    )


def picture(experiment: Experiment) -> dict[str, Any]:
    return {
        "slug": experiment.slug,
        "policy": experiment.policy.slug,
        "unit": experiment.unit,
        "arms": experiment.arms,
        "status": experiment.status,
        "is_in_force": experiment.is_in_force,
        "promoted_arm": experiment.promoted_arm,
    }


def _record(action: str, experiment: Experiment, before: dict[str, Any] | None, actor: Principal) -> None:
    audit.record(
        principal=actor,
        action=action,
        object_type="experiment",
        object_id=experiment.slug,
        tenant=experiment.policy.tenant,
        before=before,
        after=picture(experiment),
    )
