"""The two-person rule: what one person asks for, another must approve before anything changes.

A verb names its change to `gate` after its checks and before its first write. Where the rule is on, the gate
stops it, the entrance (rest.py, console.py) keeps the proposal, and approving runs the same verb with the very
payload that was proposed, in the approver's transaction. Nobody may ever decide what they, or a key of theirs,
have proposed.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.conf import settings
from django.core.checks import CheckMessage, Error
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction

from tenants import audit
from tenants.errors import ApiError
from tenants.models import ApiKey, AuditEvent, Proposal, Tenant, User
from tenants.principal import Principal

KINDS: Final = ("prices", "caps", "rerating")
OPEN_FOR: Final = timedelta(days=7)
_YES: Final = ("true", "1", "yes", "on", "y", "t", "ok")
_NO: Final = ("false", "0", "no", "off", "n", "f", "")

type Executor = Callable[[Mapping[str, Any], Principal], object]
_EXECUTORS: Final[dict[str, Executor]] = {}
_executing: ContextVar[Proposal | None] = ContextVar("tollhouse_executing_proposal", default=None)


@dataclass(frozen=True, slots=True)
class Draft:
    """A change as a verb would make it. `scope` is what it takes to make it, and so to approve it."""

    kind: str
    operation: str
    payload: Mapping[str, Any]
    scope: str
    object_type: str
    object_id: str
    tenant: Tenant | None
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None


class ApprovalRequiredError(Exception):
    """A second person must approve this. Whoever catches it keeps the draft by `propose`."""

    def __init__(self, draft: Draft, actor: Principal) -> None:
        super().__init__(f"{draft.operation} needs a second person")
        self.draft = draft
        self.actor = actor


class ProposedError(Exception):
    """For the console: the API, through which a form acts, has kept a proposal instead of changing anything."""

    def __init__(self, proposal_id: UUID) -> None:
        super().__init__(str(proposal_id))
        self.proposal_id = proposal_id


# ------------------------------------------------------------------ where the rule is on


def kinds_on() -> frozenset[str]:
    """The kinds of change that need two, by TOLLHOUSE_TWO_PERSON: `prices,caps,rerating`; `true` is re-rating's.

    Raises ImproperlyConfigured for an unknown kind.
    """
    value = settings.TOLLHOUSE_TWO_PERSON
    if isinstance(value, bool):
        return frozenset({"rerating"} if value else ())
    if isinstance(value, str):
        if value.strip().lower() in _NO:
            return frozenset()
        if value.strip().lower() in _YES:
            return frozenset({"rerating"})
        value = value.split(",")
    kinds = frozenset(each.strip() for each in value) - {""}
    if unknown := kinds - set(KINDS):
        msg = f"TOLLHOUSE_TWO_PERSON: {min(unknown)!r} is none of {', '.join(KINDS)}"
        raise ImproperlyConfigured(msg)
    return kinds


def check_setting(**options: Any) -> list[CheckMessage]:
    """A Django check: a misspelt kind is told at the start, not when somebody changes a price."""
    try:
        kinds_on()
    except ImproperlyConfigured as error:
        return [Error(str(error), id="tenants.E001")]
    return []


def is_on(kind: str) -> bool:
    """Whether changes of this kind need two."""
    return kind in kinds_on()


# ------------------------------------------------------------------ what verbs say


def executor(operation: str) -> Callable[[Executor], Executor]:
    """Register who carries `operation` out: a function of the payload and the approver, calling the verb."""

    def register(function: Executor) -> Executor:
        if operation in _EXECUTORS:
            msg = f"{operation} has an executor"
            raise RuntimeError(msg)
        _EXECUTORS[operation] = function
        return function

    return register


def gate(draft: Draft, actor: Principal) -> None:
    """Let the change through, or stop it. Call it in the verb's transaction, checks done and nothing written.

    Through goes what the system itself does, what needs nobody, and what is being carried out exactly as it was
    approved. Raises ApprovalRequiredError; ApiError conflict when it is carried out on another object than was
    shown, because that has changed meanwhile.
    """
    approved = _executing.get()
    if approved is not None:
        wanted = (approved.operation, approved.object_id, _canonical(approved.payload), approved.fingerprint)
        found = (draft.operation, draft.object_id, _canonical(audit.masked(draft.payload)), _print_of(draft))
        if found != wanted:
            raise ApiError(
                "conflict", "What this proposal is about has changed since: refuse it and propose anew."
            )
        return
    if actor.kind != "system" and is_on(draft.kind):
        raise ApprovalRequiredError(draft, actor)


def _print_of(draft: Draft) -> str:
    return hashlib.sha256(_canonical(audit.masked(draft.before or {})).encode()).hexdigest()


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


# ------------------------------------------------------------------ verbs


def propose(*, draft: Draft, actor: Principal, now: datetime) -> Proposal:
    """Keep what somebody asked for until another person decides, a week at most.

    Raises ApiError conflict where the same change of the same object waits already.
    """
    payload = audit.masked(draft.payload)
    if _canonical(payload) != _canonical(_plain(draft.payload)):
        msg = f"{draft.operation}: a payload must be plain JSON without secrets"
        raise RuntimeError(msg)
    with transaction.atomic():
        same = Proposal.objects.filter(
            state=Proposal.State.OPEN, operation=draft.operation, object_id=draft.object_id, payload=payload
        )
        if same.filter(expires_at__gt=now).exists():
            raise ApiError("conflict", "This very change waits for a second person already.")
        proposal = Proposal.objects.create(
            tenant=draft.tenant,
            kind=draft.kind,
            operation=draft.operation,
            payload=payload,
            scope=draft.scope,
            object_type=draft.object_type,
            object_id=draft.object_id,
            before=None if draft.before is None else audit.masked(draft.before),
            after=None if draft.after is None else audit.masked(draft.after),
            fingerprint=_print_of(draft),
            reason=audit.reason_here(),
            proposed_by_kind=actor.kind,
            proposed_by_id=actor.id,
            proposed_by_label=actor.label,
            people=sorted(people_behind(actor)),
            expires_at=now + OPEN_FOR,
        )
        _record("create", proposal, actor, before=proposal.before, after=proposal.after)
    return proposal


def approve(*, proposal: Proposal, actor: Principal, now: datetime) -> Proposal:
    """Carry out what was proposed, exactly, and in this transaction.

    Raises ApiError: permission_denied for who stands behind the proposal, who is nobody known, and who might not
    make the change themselves; conflict when it is decided, has expired, or its object has changed; and whatever
    the change itself is refused for. Then nothing has changed, and the proposal stays open.
    """
    with transaction.atomic():
        held = _open(proposal, now)
        _check_decider(held, actor)
        execute = _EXECUTORS[held.operation]
        why = f"Proposal {held.pk} of {held.proposed_by_label}: {held.reason}"[:500].rstrip(": ")
        with _carrying_out(held), audit.origin(ip=None, request_id="", reason=why):
            execute(held.payload, actor)
        return _decide(held, Proposal.State.EXECUTED, "approve", actor, now)


def refuse(*, proposal: Proposal, actor: Principal, now: datetime) -> Proposal:
    """Let nothing come of it. Raises ApiError as `approve`, but that its object may have changed."""
    with transaction.atomic():
        held = _open(proposal, now)
        _check_decider(held, actor)
        return _decide(held, Proposal.State.REFUSED, "refuse", actor, now)


def withdraw(*, proposal: Proposal, actor: Principal, now: datetime) -> Proposal:
    """Take back one's own. Raises ApiError: permission_denied for everybody else, conflict as `approve`."""
    with transaction.atomic():
        held = _open(proposal, now)
        if not people_behind(actor) & set(held.people):
            raise ApiError("permission_denied", "Only who proposed it can withdraw it.")
        return _decide(held, Proposal.State.WITHDRAWN, "withdraw", actor, now)


def expire(*, now: datetime, actor: Principal) -> int:
    """Close what nobody decided in time. Returns how many."""
    expired = 0
    for row in Proposal.objects.filter(state=Proposal.State.OPEN, expires_at__lte=now):
        with transaction.atomic():
            held = Proposal.objects.select_for_update().get(pk=row.pk)
            if held.state == Proposal.State.OPEN:
                _decide(held, Proposal.State.EXPIRED, "expire", actor, now)
                expired += 1
    return expired


def _open(proposal: Proposal, now: datetime) -> Proposal:
    held = Proposal.objects.select_for_update().get(pk=proposal.pk)
    if held.state != Proposal.State.OPEN:
        raise ApiError("conflict", f"This proposal is {held.get_state_display().lower()}.")
    if held.expires_at <= now:
        raise ApiError("conflict", "This proposal has expired.")
    return held


def _check_decider(proposal: Proposal, actor: Principal) -> None:
    people = people_behind(actor)
    if not people:
        raise ApiError("permission_denied", "A decision takes a person, or a key whose maker is known.")
    if people & set(proposal.people):
        raise ApiError("permission_denied", "You stand behind this proposal: another person must decide.")
    for scope in ("approvals:write", proposal.scope):
        if not actor.can(scope, proposal.tenant_id):
            raise ApiError("permission_denied", f"This needs the scope {scope!r}.")


def _decide(proposal: Proposal, state: str, verb: str, actor: Principal, now: datetime) -> Proposal:
    proposal.state = state
    proposal.decided_by_kind, proposal.decided_by_id = actor.kind, actor.id
    proposal.decided_by_label, proposal.decided_at = actor.label, now
    proposal.decided_reason = audit.reason_here()
    proposal.save()
    _record(verb, proposal, actor, before={"state": Proposal.State.OPEN}, after={"state": state})
    return proposal


def _record(
    verb: str,
    proposal: Proposal,
    actor: Principal,
    *,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
) -> None:
    audit.record(
        principal=actor,
        action=f"proposal.{verb}",
        object_type="proposal",
        object_id=proposal.pk,
        tenant=proposal.tenant,
        before=before,
        after={"operation": proposal.operation, "object": proposal.object_id, **(after or {})},
    )


@contextlib.contextmanager
def _carrying_out(proposal: Proposal) -> Iterator[None]:
    token = _executing.set(proposal)
    try:
        yield
    finally:
        _executing.reset(token)


# ------------------------------------------------------------------ who stands behind whom


def people_behind(actor: Principal) -> frozenset[UUID]:
    """The person, or those who made or rotated the key and the keys it came from. Empty: nobody is known."""
    if actor.id is None:
        return frozenset()
    if actor.kind == "user":
        return frozenset({actor.id})
    people: set[UUID] = set()
    keys, seen = {actor.id}, set()
    while keys:
        key_id = keys.pop()
        seen.add(key_id)
        made = AuditEvent.objects.filter(
            action__in=("key.create", "key.rotate"), object_type="key", object_id=str(key_id)
        )
        for kind, maker in made.values_list("actor_kind", "actor_id"):
            if kind == "user" and maker is not None:
                people.add(maker)
            elif kind == "key" and maker is not None:
                keys |= {maker} - seen
        # The trail may have forgotten a key's beginning; its row has not.
        key = ApiKey.objects.filter(pk=key_id).select_related("replaces").first()
        if key is None:
            continue
        people |= set(User.objects.filter(email__iexact=key.created_by).values_list("id", flat=True))
        before = ApiKey.objects.filter(replaced_by=key).values_list("id", flat=True)
        keys |= set(before) - seen
    return frozenset(people)


def is_same_person(actor: Principal, other_id: UUID | None) -> bool:
    """Whether `actor` is, or has a person in common with, the user or key `other_id`; nobody known is everybody."""
    if actor.id is None or actor.id == other_id:
        return True
    if other_id is None:
        return False
    others = people_behind(Principal(kind="key", id=other_id, label="")) | {other_id}
    return bool(people_behind(actor) & others)


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


# ------------------------------------------------------------------ as others see it


def as_json(proposal: Proposal) -> dict[str, Any]:
    """A proposal in the names of the API."""
    return {
        "id": str(proposal.pk),
        "tenant": proposal.tenant.slug if proposal.tenant else None,
        "kind": proposal.kind,
        "operation": proposal.operation,
        "object": {"type": proposal.object_type, "id": proposal.object_id},
        "before": proposal.before,
        "after": proposal.after,
        "payload": proposal.payload,
        "reason": proposal.reason,
        "state": str(proposal.state),
        "proposed_by": {
            "kind": proposal.proposed_by_kind,
            "id": str(proposal.proposed_by_id) if proposal.proposed_by_id else None,
            "label": proposal.proposed_by_label,
        },
        "decided_by": {
            "kind": proposal.decided_by_kind,
            "id": str(proposal.decided_by_id) if proposal.decided_by_id else None,
            "label": proposal.decided_by_label,
        }
        if proposal.decided_at
        else None,
        "decided_reason": proposal.decided_reason,
        "created_at": proposal.created_at.isoformat(),
        "expires_at": proposal.expires_at.isoformat(),
        "decided_at": proposal.decided_at.isoformat() if proposal.decided_at else None,
    }
