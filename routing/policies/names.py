"""What a call's model name means for this caller: an alias, `auto`, a model, and the policy bound to the call. Pure.

Most specific wins: the tenant's own feature, the operator's feature, the tenant, the plan. A policy that is bound
rules also calls that name a model themselves; it must never be dodged by naming one that it does not offer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

from routing.entries import Choice, FeatureEntry, PolicyEntry, RoutingSnapshot
from routing.types import Target
from tenants.errors import ApiError

POLICY_PREFIX: Final = "policy:"
AUTO: Final = "auto"


@dataclass(frozen=True, slots=True)
class Named:
    """A name resolved. `asked` are the targets of a model named by the caller; None: the policy's own."""

    name: str
    policy: PolicyEntry | None
    binding: str  # what the policy is bound to, in words; "" for one that the caller named
    asked: Sequence[Target] | None
    feature: FeatureEntry | None
    is_copy: bool = (
        False  # of a mirrored call: not for the caller's eyes, so not bound to the model it asked for
    )


def resolve(*, name: str, tenant_id: UUID, plan: str, feature: str, snapshot: RoutingSnapshot) -> Named:
    """Raises ApiError model_not_found."""
    entry = snapshot.feature_of(tenant_id, feature)
    if name.startswith(POLICY_PREFIX):
        slug = name.removeprefix(POLICY_PREFIX)
        policy = snapshot.policies.get((tenant_id, slug)) or snapshot.policies.get((None, slug))
        if policy is None:
            raise not_found(name)
        return Named(name, policy, "", None, entry)
    policy, binding = bound_policy(tenant_id=tenant_id, plan=plan, feature=feature, snapshot=snapshot)
    if name == AUTO:
        if policy is None:
            raise ApiError(
                "model_not_found",
                "No policy is bound to this call: 'auto' needs one, by feature, tenant or plan.",
                param="model",
            )
        return Named(name, policy, binding, None, entry)
    return Named(name, policy, binding, _targets_named(name, snapshot), entry)


def bound_policy(
    *, tenant_id: UUID, plan: str, feature: str, snapshot: RoutingSnapshot
) -> tuple[PolicyEntry | None, str]:
    """The policy that rules a call without being named, and what it is bound to, in words."""
    if feature:
        for owner in (tenant_id, None):
            entry = snapshot.features.get((owner, feature))
            if entry is not None and entry.policy is not None:
                return entry.policy, f"the feature {feature!r}"
    policy = snapshot.bindings.get((tenant_id, ""))
    if policy is not None:
        return policy, "the tenant"
    policy = snapshot.bindings.get((None, plan)) if plan else None
    return (policy, f"the plan {plan!r}") if policy is not None else (None, "")


def choices_of(named: Named, policy: PolicyEntry | None, snapshot: RoutingSnapshot) -> Sequence[Choice]:
    """What may be chosen from: the policy's targets, narrowed to the model that was asked for.

    `policy` is the named one, or the variant of it that rules this call. Raises ApiError model_not_allowed.
    """
    if policy is None:
        return [Choice(target, target.weight, 0) for target in named.asked or ()]
    choices = snapshot.choices_of(policy)
    if named.asked is None:
        return choices
    asked = {(target.endpoint_id, target.credential_id) for target in named.asked}
    offered = [choice for choice in choices if (choice[0].endpoint_id, choice[0].credential_id) in asked]
    if asked and not offered:
        raise ApiError(
            "model_not_allowed",
            f"{named.name!r} is not offered by the policy {policy.name}, which is bound to {named.binding}.",
            param="model",
        )
    return offered


def copy_of(named: Named) -> Named:
    """The same call as a shadow or its judge gets it: any target that the call's filters allow will do."""
    return replace(named, asked=None, is_copy=True)


def is_offered(named: Named, policy: PolicyEntry, snapshot: RoutingSnapshot) -> bool:
    """Whether this wording of the policy has anything for the model that the caller named, if it named one."""
    if named.asked is None:
        return True
    asked = {target.endpoint_id for target in named.asked}
    return any(choice[0].endpoint_id in asked for choice in snapshot.choices_of(policy))


def is_allowed_by_name(named: Named, allowed: frozenset[str] | None) -> bool:
    """Whether an allowlist names what the caller named, so that its single targets need not be listed."""
    if allowed is None:
        return True
    if named.is_copy and named.name != AUTO and not named.name.startswith(POLICY_PREFIX):
        return False  # it may go to other models than the one named and allowed
    if named.name in allowed:
        return True
    return named.name == AUTO and named.policy is not None and POLICY_PREFIX + named.policy.slug in allowed


def _targets_named(name: str, snapshot: RoutingSnapshot) -> Sequence[Target]:
    """A catalogue model's, or one provider's (`provider/model`). Raises ApiError model_not_found."""
    entry = snapshot.models.get(name)
    if entry is not None:
        targets = entry.targets
    else:
        provider, _, rest = name.partition("/")
        targets = snapshot.targets_of(provider, rest)
    if not targets:
        raise not_found(name)
    return targets


def not_found(name: str) -> ApiError:
    return ApiError(
        "model_not_found", f"The model {name!r} does not exist or is not available to you.", param="model"
    )
