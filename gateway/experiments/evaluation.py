"""One look at a running rollout: measure, decide, and take at most one step. Safe to run twice, late or at once.

Whoever finds another at the same rollout leaves it to them. A hold leaves what was found on the rollout itself;
a step leaves a decision with its figures, and an audit event.
"""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from django.db import connection, transaction

from gateway.experiments.figures import figures_of
from routing.experiments import rollouts
from routing.experiments.gates import Decision, Figures, Verdict, decide, gates_of
from routing.experiments.models import Rollout
from tenants.errors import ApiError
from tenants.principal import SYSTEM

LOCK: Final = 0x726F6C6C
"""The space of this module's advisory locks."""


def evaluate(*, rollout_id: UUID, now: datetime) -> str:
    """The verdict, or "busy" where another is at it, or "over" for one that is not running."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s, hashtext(%s))", [LOCK, str(rollout_id)])
        if not cursor.fetchone()[0]:
            return "busy"
        rollout = Rollout.objects.select_related("policy").get(pk=rollout_id)
        if rollout.status != Rollout.Status.RUNNING:
            return "over"
        candidate, control = figures_of(rollout, now=now)
        decision = _decided(rollout, candidate, control, now)
        shown = shown_figures(decision, candidate, control)
        match decision.verdict:
            case Verdict.HOLD:
                Rollout.objects.filter(pk=rollout.pk, stage=rollout.stage).update(
                    evaluated_at=now, evaluation={"reason": decision.reason, **shown}
                )
            case Verdict.ADVANCE:
                return _advance(rollout, decision.reason, shown, now)
            case Verdict.ROLL_BACK:
                rollouts.roll_back(
                    rollout=rollout,
                    reason=decision.reason,
                    figures=shown,
                    actor=SYSTEM,
                    now=now,
                    from_stage=rollout.stage,
                )
    return str(decision.verdict)


def _advance(rollout: Rollout, reason: str, shown: Mapping[str, Any], now: datetime) -> str:
    """A step further, or back if it can no longer be taken; "moved" when somebody else took one meanwhile."""
    stage = rollout.stage
    try:
        rollouts.advance(
            rollout=rollout, reason=reason, figures=shown, actor=SYSTEM, now=now, from_stage=stage
        )
    except ApiError as error:
        if error.code == "conflict":
            return "moved"
        rollouts.roll_back(
            rollout=rollout, reason=error.message, figures=shown, actor=SYSTEM, now=now, from_stage=stage
        )
        return str(Verdict.ROLL_BACK)
    return str(Verdict.ADVANCE)


def _decided(rollout: Rollout, candidate: Figures, control: Figures, now: datetime) -> Decision:
    if changed := rollouts.policy_changed(rollout):
        return Decision(Verdict.ROLL_BACK, changed, ())
    return decide(
        gates_of(rollout.gates),
        candidate=candidate,
        control=control,
        min_samples=rollout.min_samples,
        elapsed_s=(now - rollout.stage_started_at).total_seconds(),
        min_stage_s=rollout.min_stage_s,
    )


def shown_figures(decision: Decision, candidate: Figures, control: Figures) -> Mapping[str, Any]:
    """The figures a decision was taken on, as JSON: infinite ratios as text."""
    return {
        "candidate": asdict(candidate),
        "control": asdict(control),
        "gates": [
            {**asdict(outcome), "found": None if outcome.found is None else f"{outcome.found:.6g}"}
            for outcome in decision.outcomes
        ],
    }
