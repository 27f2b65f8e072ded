"""Verbs of gated rollouts: begin one, take it a stage further, take it back. Each is one transaction and audited.

A stage is never skipped, and a policy that was changed meanwhile is never overwritten.
"""

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from django.db import IntegrityError, transaction
from django.utils import timezone

from routing.experiments.arms import bad, check_slug, check_unit
from routing.experiments.gates import gates_of
from routing.experiments.models import Rollout, RolloutDecision
from routing.experiments.shadows import MAX_PER_MINUTE, checked_scoring, checked_share
from routing.experiments.trials import refuse_while_split
from routing.models import RoutingPolicy
from routing.policies import wordings
from routing.policies.wordings import Wording
from tenants import audit, versions
from tenants.errors import ApiError
from tenants.principal import Principal

STAGES: Final = (
    {"kind": "shadow", "share": 0.05},
    {"kind": "live", "share": 0.1},
    {"kind": "live", "share": 0.5},
    {"kind": "live", "share": 1.0},
)
MAX_STAGES: Final = 10
WORDING: Final = ("strategy", "targets", "constraints", "fallback", "conduct", "max_attempts")
Verdict = RolloutDecision.Verdict


def begin_rollout(
    *,
    slug: str,
    name: str,
    policy: RoutingPolicy,
    candidate: Mapping[str, Any],
    unit: str = "call",
    stages: object = None,
    gates: Mapping[str, Any] | None = None,
    scoring: Mapping[str, Any] | None = None,
    min_samples: int = 100,
    min_stage_s: int = 300,
    per_minute: int = 60,
    actor: Principal,
    now: datetime | None = None,
) -> Rollout:
    """Start at the first stage. `candidate` is {"version": n}, or what differs from the wording in force.

    Raises ApiError: invalid_request, not_found (no such version), conflict (the slug is taken, or something
    splits this policy's calls already).
    """
    check_slug(slug)
    unit = check_unit(unit, by_call=True)
    checked_stages = _checked_stages(STAGES if stages is None else stages)
    scored = checked_scoring("scoring", scoring or {})
    kept = _checked_gates(gates or {}, scored)
    for param, value, least, most in (
        ("min_samples", min_samples, 1, 10_000_000),
        ("min_stage_s", min_stage_s, 0, 30 * 86_400),
        ("per_minute", per_minute, 1, MAX_PER_MINUTE),
    ):
        if type(value) is not int or not least <= value <= most:
            raise bad(param, f"must be a whole number between {least} and {most}")
    at = now or timezone.now()
    try:
        with transaction.atomic():
            versions.bump("routing")
            held = RoutingPolicy.objects.select_for_update(of=("self",)).get(pk=policy.pk)
            refuse_while_split(held)
            if not held.is_enabled:
                raise bad("policy", "is switched off")
            wording, base = _wording(held, candidate)
            made = Rollout.objects.create(
                slug=slug,
                name=name,
                policy=held,
                candidate={each: _plain(getattr(wording, each)) for each in WORDING},
                base_version=base,
                unit=unit,
                salt=secrets.token_hex(16),
                stages=checked_stages,
                gates=kept,
                scoring=scored,
                min_samples=min_samples,
                min_stage_s=min_stage_s,
                per_minute=per_minute,
                started_at=at,
                stage_started_at=at,
                created_by=actor.label,
            )
            _decide(made, Verdict.START, 0, "The rollout began.", {}, actor, at, before=None)
    except IntegrityError as error:
        raise ApiError("conflict", f"The rollout {slug!r} exists already.", param="slug") from error
    return made


def advance(
    *,
    rollout: Rollout,
    reason: str,
    figures: Mapping[str, Any],
    actor: Principal,
    now: datetime | None = None,
    from_stage: int | None = None,
) -> Rollout:
    """One stage further; after the last one the candidate becomes the policy's next version.

    Raises ApiError conflict: it is not running, is not at `from_stage` any more, or its policy was changed.
    """
    at = now or timezone.now()
    with transaction.atomic():
        versions.bump("routing")
        policy = RoutingPolicy.objects.select_for_update(of=("self",)).get(pk=rollout.policy_id)
        held = _running(rollout, from_stage)
        before = picture(held)
        if changed := policy_changed(held):
            raise ApiError("conflict", changed)
        if held.stage + 1 < len(held.stages):
            held.stage += 1
            held.stage_started_at = at
            held.evaluation = {}
            held.save(update_fields=("stage", "stage_started_at", "evaluation", "updated_at"))
            _decide(held, Verdict.ADVANCE, held.stage - 1, reason, figures, actor, at, before=before)
            return held
        held.status, held.finished_at = Rollout.Status.COMPLETED, at
        held.save(update_fields=("status", "finished_at", "updated_at"))
        wordings.change_policy(
            policy=policy,
            name=policy.name,
            is_enabled=policy.is_enabled,
            wording=Wording(**held.candidate),
            actor=actor,
        )
        _decide(held, Verdict.COMPLETE, held.stage, reason, figures, actor, at, before=before)
    return held


def roll_back(
    *,
    rollout: Rollout,
    reason: str,
    figures: Mapping[str, Any],
    actor: Principal,
    now: datetime | None = None,
    from_stage: int | None = None,
) -> Rollout:
    """All calls by the wording in force again, at once. Raises ApiError conflict as `advance`."""
    at = now or timezone.now()
    with transaction.atomic():
        versions.bump("routing")
        held = _running(rollout, from_stage)
        before = picture(held)
        held.status, held.finished_at = Rollout.Status.ROLLED_BACK, at
        held.save(update_fields=("status", "finished_at", "updated_at"))
        _decide(held, Verdict.ROLL_BACK, held.stage, reason, figures, actor, at, before=before)
    return held


def policy_changed(rollout: Rollout) -> str:
    """Why the rollout has lost its ground; "" while its policy is as it was."""
    current = wordings.newest(rollout.policy)
    if current is not None and current.number == rollout.base_version:
        return ""
    return f"The policy was changed meanwhile: it is not at version {rollout.base_version} any more."


def _running(rollout: Rollout, from_stage: int | None) -> Rollout:
    held = (
        Rollout.objects.select_for_update(of=("self",))
        .select_related("policy", "policy__tenant")
        .get(pk=rollout.pk)
    )
    if held.status != Rollout.Status.RUNNING:
        raise ApiError("conflict", f"This rollout is {held.get_status_display().replace('_', ' ')}.")
    if from_stage is not None and held.stage != from_stage:
        raise ApiError("conflict", f"This rollout is at stage {held.stage} by now.")
    return held


def _wording(policy: RoutingPolicy, candidate: Mapping[str, Any]) -> tuple[Wording, int]:
    current = wordings.newest(policy)
    if current is None:
        raise ApiError("conflict", "The policy has no version.")
    base = wordings.wording_of(current)
    if unknown := candidate.keys() - {"version", *WORDING}:
        raise bad(f"candidate.{min(unknown)}", "is unknown")
    if "version" in candidate:
        if len(candidate) > 1 or type(candidate["version"]) is not int:
            raise bad("candidate.version", "is a number, and stands alone")
        wording = wordings.wording_of(wordings.version_of(policy, candidate["version"]))
    else:
        wording = Wording(**{**{each: getattr(base, each) for each in WORDING}, **candidate})
    try:
        wordings.draft(policy=policy, wording=wording)
    except (TypeError, AttributeError) as error:
        raise bad("candidate", "is no wording of a policy") from error
    if not wordings.difference(base, wording):
        raise bad("candidate", "says what is in force")
    return wording, current.number


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return value if isinstance(value, str | int) else list(value)


def _checked_stages(stages: object) -> list[dict[str, Any]]:
    if not isinstance(stages, Sequence) or isinstance(stages, str) or not 1 <= len(stages) <= MAX_STAGES:
        raise bad("stages", f"must be 1 to {MAX_STAGES}")
    made: list[dict[str, Any]] = []
    for number, stage in enumerate(stages):
        param = f"stages.{number}"
        if not isinstance(stage, Mapping) or stage.keys() != {"kind", "share"}:
            raise bad(param, 'must be {"kind", "share"}')
        if stage["kind"] not in ("shadow", "live"):
            raise bad(f"{param}.kind", "must be shadow or live")
        is_live = stage["kind"] == "live"
        share = checked_share(f"{param}.share", stage["share"], Decimal(1) if is_live else Decimal("0.5"))
        if made and made[-1]["kind"] == "live" and (not is_live or share <= made[-1]["share"]):
            raise bad(param, "must be live, with a greater share than the stage before")
        made.append({"kind": stage["kind"], "share": float(share)})
    if made[-1] != {"kind": "live", "share": 1.0}:
        raise bad("stages", "must end with all calls: live, 1")
    return made


def _checked_gates(gates: Mapping[str, Any], scoring: Mapping[str, Any]) -> dict[str, Any]:
    try:
        gates_of(gates)
    except ValueError as error:
        raise bad("gates", str(error)) from error
    if "min_score" in gates and scoring["kind"] == "none":
        raise bad("gates.min_score", "needs a scoring")
    return {name: float(value) for name, value in gates.items()}


def picture(rollout: Rollout) -> dict[str, Any]:
    return {
        "slug": rollout.slug,
        "policy": rollout.policy.slug,
        "candidate": rollout.candidate,
        "base_version": rollout.base_version,
        "status": rollout.status,
        "stage": rollout.stage,
        "gates": rollout.gates,
    }


def _decide(
    rollout: Rollout,
    verdict: RolloutDecision.Verdict,
    from_stage: int,
    reason: str,
    figures: Mapping[str, Any],
    actor: Principal,
    at: datetime,
    *,
    before: Mapping[str, Any] | None,
) -> None:
    RolloutDecision.objects.create(
        rollout=rollout,
        at=at,
        verdict=verdict,
        from_stage=from_stage,
        to_stage=rollout.stage,
        reason=reason[:500],
        figures=dict(figures),
        actor=actor.label,
    )
    audit.record(
        principal=actor,
        action=f"rollout.{verdict}",
        object_type="rollout",
        object_id=rollout.slug,
        tenant=rollout.policy.tenant,
        before=before,
        after={**picture(rollout), "reason": reason, "figures": dict(figures)},
    )
