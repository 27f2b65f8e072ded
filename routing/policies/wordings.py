"""Policies as their admins write them: each change is a new immutable version, the highest is in force.

Checks everything that can be checked now, so that `plan` finds nothing it cannot apply.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db import IntegrityError, transaction

from routing.models import Endpoint, Model, Provider, RoutingPolicy, RoutingPolicyVersion
from routing.policies.plan import STRATEGIES, check_constraints
from routing.types import DEFAULT_MAX_ATTEMPTS
from tenants import audit, versions
from tenants.errors import ApiError
from tenants.models import Tenant
from tenants.principal import Principal

MAX_TARGETS = 200
MAX_WEIGHT = 1_000_000
MOST_ATTEMPTS = 10


@dataclass(frozen=True, slots=True)
class Wording:
    """What a version says. No targets means the whole catalogue."""

    strategy: str
    targets: Sequence[str | Mapping[str, Any]] = ()
    constraints: Mapping[str, Any] = field(default_factory=dict)
    max_attempts: int = DEFAULT_MAX_ATTEMPTS


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
            _record("policy.create", policy, None, _picture(policy, version), actor)
    except IntegrityError as error:
        raise ApiError("conflict", f"The policy {slug!r} exists already.", param="slug") from error
    return policy


def change_policy(
    *, policy: RoutingPolicy, name: str, is_enabled: bool, wording: Wording, actor: Principal
) -> RoutingPolicy:
    """Rename or switch a policy; another wording is its next version. Raises ApiError: invalid_request."""
    _check(wording)
    with transaction.atomic():
        versions.bump("routing")
        held = (
            RoutingPolicy.objects.select_for_update(of=("self",)).select_related("tenant").get(pk=policy.pk)
        )
        current = newest(held)
        before = _picture(held, current)
        held.name, held.is_enabled = name, is_enabled
        held.save(update_fields=("name", "is_enabled", "updated_at"))
        version = current
        if current is None or wording_of(current) != wording:
            version = _publish(held, current.number + 1 if current else 1, wording, actor)
        _record("policy.update", held, before, _picture(held, version), actor)
    return held


def newest(policy: RoutingPolicy) -> RoutingPolicyVersion | None:
    """The version in force."""
    return policy.versions.order_by("-number").first()


def wording_of(version: RoutingPolicyVersion) -> Wording:
    """A stored version as a value."""
    return Wording(version.strategy, version.targets, version.constraints, version.max_attempts)


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
        max_attempts=wording.max_attempts,
    )


def _check(wording: Wording) -> None:
    if wording.strategy not in STRATEGIES:
        raise _bad("strategy", f"must be one of {', '.join(STRATEGIES)}")
    if not 1 <= wording.max_attempts <= MOST_ATTEMPTS:
        raise _bad("max_attempts", f"must be between 1 and {MOST_ATTEMPTS}")
    try:
        check_constraints(wording.constraints)
    except ValueError as error:
        raise _bad("constraints", str(error)) from error
    if len(wording.targets) > MAX_TARGETS:
        raise _bad("targets", f"must be at most {MAX_TARGETS}")
    for number, raw in enumerate(wording.targets):
        _check_target(f"targets.{number}", {"model": raw} if isinstance(raw, str) else raw)


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
            "max_attempts": version.max_attempts,
        }
    return {"slug": policy.slug, "name": policy.name, "is_enabled": policy.is_enabled, **said}


def _record(
    action: str,
    policy: RoutingPolicy,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any],
    actor: Principal,
) -> None:
    audit.record(
        principal=actor,
        action=action,
        object_type="policy",
        object_id=policy.slug,
        tenant=policy.tenant,
        before=before,
        after=after,
    )
