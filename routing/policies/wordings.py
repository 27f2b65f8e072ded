"""Policies as their admins write them: each change is a new immutable version, the highest is in force.

Checks everything that can be checked now, so that `plan` finds nothing it cannot apply.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from django.db import IntegrityError, transaction

from routing.models import Endpoint, Model, Provider, RoutingPolicy, RoutingPolicyVersion
from routing.policies.constraints import check_constraints
from routing.policies.rank import STRATEGIES
from routing.types import DEFAULT_MAX_ATTEMPTS, Recovery
from tenants import audit, versions
from tenants.errors import ApiError
from tenants.models import Tenant
from tenants.principal import Principal

MAX_TARGETS = 200
MAX_WEIGHT = 1_000_000
MOST_ATTEMPTS = 10

CONDUCT_BOUNDS: Final[Mapping[str, tuple[int, int, bool]]] = {
    "hold_back_tokens": (1, 100_000, True),
    "hedge_after_ms": (0, 60_000, True),
    "queue_ms": (0, 30_000, False),
}
"""Least, most, and whether null may be said: the numbers of routing.types.Conduct that a policy sets."""

_FIELDS: Final = ("strategy", "targets", "constraints", "fallback", "conduct", "max_attempts")


@dataclass(frozen=True, slots=True)
class Wording:
    """What a version says. No targets means the whole catalogue."""

    strategy: str
    targets: Sequence[str | Mapping[str, Any]] = ()
    constraints: Mapping[str, Any] = field(default_factory=dict)
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    fallback: Sequence[str | Mapping[str, Any]] = ()
    conduct: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Change:
    """One field in which two wordings differ, `constraints.regions` for a part of one. None: not said."""

    field: str
    before: Any
    after: Any


def create_policy(
    *, slug: str, name: str, tenant: Tenant | None, is_enabled: bool, wording: Wording, actor: Principal
) -> RoutingPolicy:
    """A new policy with its version 1. Raises ApiError: conflict (slug taken), invalid_request."""
    _check(wording)
    try:
        with transaction.atomic():
            versions.bump("routing")
            policy = RoutingPolicy.objects.create(slug=slug, name=name, tenant=tenant, is_enabled=is_enabled)
            version = _publish(policy, 1, wording, actor)
            record_change("policy.create", policy, None, _picture(policy, version), actor)
    except IntegrityError as error:
        raise ApiError("conflict", f"The policy {slug!r} exists already.", param="slug") from error
    return policy


def change_policy(
    *, policy: RoutingPolicy, name: str, is_enabled: bool, wording: Wording, actor: Principal
) -> RoutingPolicy:
    """Rename or switch a policy; another wording is its next version.

    Raises ApiError: invalid_request; conflict for switching off what still rules somebody's calls.
    """
    _check(wording)
    with transaction.atomic():
        versions.bump("routing")
        held = (
            RoutingPolicy.objects.select_for_update(of=("self",)).select_related("tenant").get(pk=policy.pk)
        )
        current = newest(held)
        before = _picture(held, current)
        if held.is_enabled and not is_enabled:
            _refuse_while_ruling(held)
        held.name, held.is_enabled = name, is_enabled
        held.save(update_fields=("name", "is_enabled", "updated_at"))
        version = current
        if current is None or wording_of(current) != wording:
            version = _publish(held, current.number + 1 if current else 1, wording, actor)
        record_change("policy.update", held, before, _picture(held, version), actor)
    return held


def roll_back(*, policy: RoutingPolicy, number: int, actor: Principal) -> RoutingPolicyVersion:
    """Put an older wording in force again, as a new version: history is never rewritten.

    Raises ApiError: not_found without such a version; conflict when that wording is the one in force;
    invalid_request when it names what no longer exists.
    """
    with transaction.atomic():
        versions.bump("routing")
        held = (
            RoutingPolicy.objects.select_for_update(of=("self",)).select_related("tenant").get(pk=policy.pk)
        )
        wanted, current = version_of(held, number), newest(held)
        wording = wording_of(wanted)
        if current is None or wording_of(current) == wording:
            raise ApiError("conflict", f"Version {number} says what is in force.", param="version")
        _check(wording)
        version = _publish(held, current.number + 1, wording, actor)
        held.save(update_fields=("updated_at",))
        after = {**_picture(held, version), "rolled_back_to": number}
        record_change("policy.rollback", held, _picture(held, current), after, actor)
    return version


def version_of(policy: RoutingPolicy, number: int) -> RoutingPolicyVersion:
    """One version. Raises ApiError: not_found."""
    found = policy.versions.filter(number=number).first()
    if found is None:
        raise ApiError("not_found", f"There is no version {number} of {policy.slug!r}.")
    return found


def difference(before: Wording, after: Wording) -> list[Change]:
    """Field by field, constraints and conduct by their parts; nothing for two that say the same."""
    changes: list[Change] = []
    for name in _FIELDS:
        old, new = getattr(before, name), getattr(after, name)
        if name in ("constraints", "conduct"):
            changes += [
                Change(f"{name}.{part}", old.get(part), new.get(part))
                for part in sorted(old.keys() | new.keys())
                if old.get(part) != new.get(part)
            ]
        elif _plain(old) != _plain(new):
            changes.append(Change(name, _plain(old), _plain(new)))
    return changes


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int) else list(value)


def newest(policy: RoutingPolicy) -> RoutingPolicyVersion | None:
    """The version in force."""
    return policy.versions.order_by("-number").first()


def wording_of(version: RoutingPolicyVersion) -> Wording:
    """A stored version as a value."""
    return Wording(
        strategy=version.strategy,
        targets=version.targets,
        constraints=version.constraints,
        max_attempts=version.max_attempts,
        fallback=version.fallback,
        conduct=version.conduct,
    )


def draft(*, policy: RoutingPolicy, wording: Wording) -> RoutingPolicyVersion:
    """The policy's next version with this wording, checked and not stored. Raises ApiError: invalid_request."""
    _check(wording)
    current = newest(policy)
    return _worded(policy, current.number + 1 if current else 1, wording)


def _publish(policy: RoutingPolicy, number: int, wording: Wording, actor: Principal) -> RoutingPolicyVersion:
    version = _worded(policy, number, wording)
    version.created_by = actor.label
    version.save(force_insert=True)
    return version


def _worded(policy: RoutingPolicy, number: int, wording: Wording) -> RoutingPolicyVersion:
    return RoutingPolicyVersion(
        policy=policy,
        number=number,
        strategy=wording.strategy,
        targets=list(wording.targets),
        constraints=dict(wording.constraints),
        fallback=list(wording.fallback),
        conduct=dict(wording.conduct),
        max_attempts=wording.max_attempts,
    )


def _refuse_while_ruling(policy: RoutingPolicy) -> None:
    """Switched off it would rule nobody, so a call would go where the policy forbade."""
    ruled = [
        *(f"the feature {slug!r}" for slug in policy.features.values_list("slug", flat=True)),
        *(
            f"the plan {plan!r}" if plan else f"the tenant {tenant!r}"
            for plan, tenant in policy.bindings.values_list("plan", "tenant__slug")
        ),
    ]
    if ruled:
        raise ApiError("conflict", f"It still rules {', '.join(sorted(ruled)[:5])}.", param="is_enabled")


def _check(wording: Wording) -> None:
    if wording.strategy not in STRATEGIES:
        raise _bad("strategy", f"must be one of {', '.join(STRATEGIES)}")
    if not 1 <= wording.max_attempts <= MOST_ATTEMPTS:
        raise _bad("max_attempts", f"must be between 1 and {MOST_ATTEMPTS}")
    try:
        check_constraints(wording.constraints)
    except ValueError as error:
        raise _bad("constraints", str(error)) from error
    check_targets("targets", wording.targets)
    check_targets("fallback", wording.fallback)
    _check_conduct(wording.conduct)


def _check_conduct(conduct: Mapping[str, Any]) -> None:
    for name, value in conduct.items():
        param = f"conduct.{name}"
        if name == "recovery":
            if value not in tuple(Recovery):
                raise _bad(param, f"must be one of {', '.join(Recovery)}")
        elif name in CONDUCT_BOUNDS:
            least, most, is_optional = CONDUCT_BOUNDS[name]
            if value is None and is_optional:
                continue
            if type(value) is not int or not least <= value <= most:
                raise _bad(param, f"must be a whole number between {least} and {most}")
        else:
            raise _bad(param, "is unknown")
    if conduct.get("hold_back_tokens") is not None and conduct.get("recovery") != Recovery.BUFFERED:
        raise _bad("conduct.hold_back_tokens", "is for the recovery 'buffered' alone")


def check_targets(param: str, targets: Sequence[str | Mapping[str, Any]]) -> None:
    """Raise ApiError invalid_request for a target that is malformed or names what does not exist."""
    if len(targets) > MAX_TARGETS:
        raise _bad(param, f"must be at most {MAX_TARGETS}")
    for number, raw in enumerate(targets):
        _check_target(f"{param}.{number}", {"model": raw} if isinstance(raw, str) else raw)


def _check_target(param: str, target: Mapping[str, Any]) -> None:
    if not isinstance(target, Mapping) or target.keys() - {"model", "provider", "weight"}:
        raise _bad(param, 'must be a model or {"model", "provider", "weight"}')
    model, provider, weight = target.get("model"), target.get("provider"), target.get("weight", 1)
    if not isinstance(model, str | None) or not isinstance(provider, str | None) or not (model or provider):
        raise _bad(param, "must name a model, a provider or both")
    if not isinstance(weight, int) or isinstance(weight, bool) or not 0 <= weight <= MAX_WEIGHT:
        raise _bad(param, f"must have a weight between 0 and {MAX_WEIGHT}")
    if provider is not None and not Provider.objects.filter(slug=provider).exists():
        raise _bad(param, f"names the provider {provider!r}, which does not exist")
    if model is None or Model.objects.filter(slug=model).exists():
        return
    if (
        provider is None
        or not Endpoint.objects.filter(provider__slug=provider, provider_model=model).exists()
    ):
        raise _bad(param, f"names the model {model!r}, which does not exist")


def _bad(param: str, what: str) -> ApiError:
    return ApiError("invalid_request", f"{param} {what}.", param=param)


def _picture(policy: RoutingPolicy, version: RoutingPolicyVersion | None) -> dict[str, Any]:
    said: dict[str, Any] = {}
    if version is not None:
        said = {
            "version": version.number,
            "strategy": version.strategy,
            "targets": version.targets,
            "constraints": version.constraints,
            "fallback": version.fallback,
            "conduct": version.conduct,
            "max_attempts": version.max_attempts,
        }
    return {"slug": policy.slug, "name": policy.name, "is_enabled": policy.is_enabled, **said}


def record_change(
    action: str,
    policy: RoutingPolicy,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
    actor: Principal,
) -> None:
    """The audit event of a change to a policy, or to what hangs on it."""
    audit.record(
        principal=actor,
        action=action,
        object_type="policy",
        object_id=policy.slug,
        tenant=policy.tenant,
        before=before,
        after=after,
    )
