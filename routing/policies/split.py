"""Which calls of a policy take another way: an experiment's arms, a gated rollout's share, a shadow's share. Pure.

Sticky: the same unit (tenant, user, tag) gets the same answer in every worker and after every restart. Must
never read a clock or a random source; what must not be sticky is decided by the call's own `draw`.

How `plan` uses it: `ruled_by` gives the wording to sieve and rank by (its `variant` is part of every memo's
key). If the policy that the call named has a `shadow` and `is_mirrored` says so, `shadow.policy` (and
`shadow.judge`, if there is one) goes through the very same sieve, and the first target that is left becomes
`mirror_of`: whatever may not serve this tenant may not see its calls either. None left: not mirrored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from json import dumps
from math import inf, log
from typing import Any, Final
from uuid import UUID

from routing.entries import Arm, ExperimentEntry, PolicyEntry, RolloutEntry, ShadowEntry
from routing.types import TEXTLESS, Assignment, Json, Mirror, Operation, Target

TAG_PREFIX: Final = "tag:"
UNITS: Final = ("tenant", "user", "tag:<name>")
CONTROL, CANDIDATE = "control", "candidate"
ROLLOUT_PREFIX: Final = "rollout:"
_SEPARATOR: Final = "\x1f"
SHARED_PARAMETERS: Final = frozenset(
    ("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "stop", "max_completion_tokens")
)
PARAMETERS: Final = SHARED_PARAMETERS | frozenset(
    ("top_k", "reasoning_effort", "response_format", "verbosity", "parallel_tool_calls")
)
"""Body fields that an arm may set. What decides who may see, spend or store something is not among them."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Of whom a call comes, as far as splitting goes. An empty `end_user` is nobody."""

    tenant_id: UUID
    end_user: str = ""
    tags: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Ruling:
    """What rules one call: the policy's own wording or a variant of it, and why."""

    policy: PolicyEntry
    assignment: Assignment | None = None


def unit_value(unit: str, subject: Subject) -> str:
    """What `unit` is for this call; "" when the call names none, and then it takes no part.

    An end user or a tag belongs to its tenant: two tenants' "user-1" are two units.
    """
    if unit == "tenant":
        return str(subject.tenant_id)
    if unit == "user":
        return f"{subject.tenant_id}{_SEPARATOR}{subject.end_user}" if subject.end_user else ""
    value = (subject.tags or {}).get(unit.removeprefix(TAG_PREFIX), "")
    return f"{subject.tenant_id}{_SEPARATOR}{value}" if value else ""


def uniform(*parts: str) -> float:
    """SHA-256 of the parts as a number in [0, 1), uniform over units."""
    digest = sha256(_SEPARATOR.join(parts).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:7]) / 2.0**56


def choose_arm(salt: str, value: str, arms: Sequence[Arm]) -> Arm | None:
    """The unit's arm, by weighted rendezvous hashing; None without an arm of positive weight.

    Each arm gets -ln(u) / weight, the least wins: shares follow the weights, and when one arm's weight
    changes, units move only from it or to it (Thaler and Ravishankar 1998; weights as in Schindelhauer and
    Schomaker 2005).
    """
    best, least = None, inf
    for arm in arms:
        if arm.weight <= 0:
            continue
        distance = -log(max(uniform(salt, value, arm.name), 2.0**-56)) / arm.weight
        if distance < least:
            best, least = arm, distance
    return best


def assign(experiment: ExperimentEntry, value: str) -> tuple[Arm, Assignment] | None:
    """The arm of a unit, and what the call must remember of it. None: it takes no part."""
    arm = choose_arm(experiment.salt, value, experiment.arms) if value else None
    if arm is None:
        return None
    return arm, Assignment(
        experiment=experiment.slug,
        arm=arm.name,
        parameters=arm.parameters,
        system_prompt=arm.system_prompt,
    )


def ruled_by(policy: PolicyEntry, subject: Subject, *, draw: float) -> Ruling:
    """The wording that rules a call which `policy` was found to rule."""
    if policy.experiment is not None:
        assigned = assign(policy.experiment, unit_value(policy.experiment.unit, subject))
        if assigned is not None:
            return Ruling(assigned[0].policy or policy, assigned[1])
    rollout = policy.rollout
    if rollout is not None and rollout.share > 0:
        name = ROLLOUT_PREFIX + rollout.slug
        if is_candidate(rollout, subject, draw=draw):
            return Ruling(rollout.policy, Assignment(name, CANDIDATE))
        return Ruling(policy, Assignment(name, CONTROL))
    return Ruling(policy)


def is_candidate(rollout: RolloutEntry, subject: Subject, *, draw: float) -> bool:
    """Whether the call is in the rollout's share. Who is in stays in while the share grows.

    By call for the unit `call`, and for calls that do not name their unit.
    """
    value = "" if rollout.unit == "call" else unit_value(rollout.unit, subject)
    point = uniform(rollout.salt, value) if value else draw * 2.0**16 % 1.0
    return point < rollout.share


def is_mirrored(shadow: ShadowEntry, *, draw: float) -> bool:
    """Whether this call is in the shadow's share.

    Other bits of the draw decide than those that choose a target or a rollout's share: the three do not
    depend on each other.
    """
    return draw * 2.0**32 % 1.0 < shadow.share


def mirror_of(shadow: ShadowEntry, target: Target, reason: str, *, judge: Target | None = None) -> Mirror:
    """The shadow's order to mirror a call to `target`, the best that passed every filter of the call."""
    return Mirror(
        target=target,
        reason=reason,
        rollout=shadow.rollout,
        policy=f"{shadow.policy.tenant_id or '*'}/{shadow.policy.slug}",
        per_minute=shadow.per_minute,
        scoring=shadow.scoring,
        judge=judge,
    )


def applied(body: Json, assignment: Assignment, operation: Operation) -> Json:
    """The body as the arm wants it: a new object, the caller's own stays as it is for other attempts.

    An arm may lower the caller's ceiling of output tokens, never lift it: the admission has held for that.
    """
    if operation in TEXTLESS:
        return body
    allowed = PARAMETERS if operation is Operation.CHAT else SHARED_PARAMETERS
    changed: dict[str, Any] = {
        name: value for name, value in assignment.parameters.items() if name in allowed
    }
    ceiling = changed.pop("max_completion_tokens", None)
    made = {**body, **changed}
    if ceiling is not None:
        asked = body.get("max_completion_tokens", body.get("max_tokens"))
        name = "max_completion_tokens" if operation is Operation.CHAT else "max_tokens"
        made.pop("max_tokens", None)
        made[name] = ceiling if asked is None else min(ceiling, asked)
    if assignment.system_prompt and operation is Operation.CHAT:
        made["messages"] = _prompted(body["messages"], assignment.system_prompt)
    return made


def added_bytes(assignment: Assignment) -> int:
    """By how much the arm may lengthen what a provider counts as input: an upper bound."""
    form = assignment.parameters.get("response_format")
    return len(assignment.system_prompt.encode()) + (len(dumps(form)) if form is not None else 0)


def _prompted(messages: Sequence[Json], prompt: str) -> list[Json]:
    """The messages with their first system (or developer) message replaced; without one, with it in front."""
    for place, message in enumerate(messages):
        if message.get("role") in ("system", "developer"):
            return [*messages[:place], {**message, "content": prompt}, *messages[place + 1 :]]
    return [{"role": "system", "content": prompt}, *messages]
