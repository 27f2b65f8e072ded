"""Which policy rules whose calls: bindings of tenants and plans, and the features of the operator's product.

A policy of one tenant may rule that tenant alone. Only the operator binds: a binding is what the operator
demands, so a tenant must never be able to loosen its own.
"""

from collections.abc import Mapping
from typing import Any, Final

from django.db import IntegrityError, transaction

from routing.models import Feature, PolicyBinding, RoutingPolicy
from tenants import audit, versions
from tenants.errors import ApiError
from tenants.models import Tenant
from tenants.principal import Principal

_FEATURE_FIELDS: Final = ("name", "policy", "slo_p95_ms", "slo_success", "slo_max_cost")


def policy_for(*, slug: str, tenant: Tenant | None) -> RoutingPolicy:
    """The policy of this name that may rule the tenant's calls (None: everybody's): its own, then the operator's.

    Raises ApiError: invalid_request when there is none, or it is switched off.
    """
    found = RoutingPolicy.objects.filter(slug=slug, tenant=tenant).first()
    if found is None:
        found = RoutingPolicy.objects.filter(slug=slug, tenant=None).first()
    if found is None:
        raise ApiError("invalid_request", f"There is no policy {slug!r} for this.", param="policy")
    if not found.is_enabled:
        raise ApiError("invalid_request", f"The policy {slug!r} is switched off.", param="policy")
    return found


def bind(*, policy: RoutingPolicy, tenant: Tenant | None, plan: str, actor: Principal) -> PolicyBinding:
    """Let the policy rule the calls of one tenant, or of all tenants on a plan (its slug).

    Raises ApiError: invalid_request unless it is one of the two, or for another tenant's policy; conflict
    when they are bound already.
    """
    if (tenant is None) == (not plan):
        raise ApiError("invalid_request", "Bind a policy to a tenant or to a plan.", param="tenant")
    _check_owner(policy, tenant)
    try:
        with transaction.atomic():
            versions.bump("routing")
            _refuse_disabled(policy)
            row = PolicyBinding.objects.create(policy=policy, tenant=tenant, plan=plan)
            _record_binding("binding.create", row, before=None, after=_picture(row), actor=actor)
    except IntegrityError as error:
        raise ApiError("conflict", f"{row_name(tenant, plan)} is bound already.", param="policy") from error
    return row


def rebind(*, binding: PolicyBinding, policy: RoutingPolicy, actor: Principal) -> PolicyBinding:
    """Let another policy rule in the place of this one. Raises ApiError: invalid_request."""
    _check_owner(policy, binding.tenant)
    with transaction.atomic():
        versions.bump("routing")
        _refuse_disabled(policy)
        held = (
            PolicyBinding.objects.select_for_update(of=("self",))
            .select_related("policy", "tenant")
            .get(pk=binding.pk)
        )
        before = _picture(held)
        held.policy = policy
        held.save(update_fields=("policy", "updated_at"))
        _record_binding("binding.update", held, before=before, after=_picture(held), actor=actor)
    return held


def unbind(*, binding: PolicyBinding, actor: Principal) -> None:
    """Take the binding away: what is bound less specifically rules again, or nothing does."""
    with transaction.atomic():
        versions.bump("routing")
        _record_binding("binding.delete", binding, before=_picture(binding), after=None, actor=actor)
        binding.delete()


def add_feature(*, slug: str, tenant: Tenant | None, values: Mapping[str, Any], actor: Principal) -> Feature:
    """A feature (of all tenants, or of one), its policy and what it promises.

    Raises ApiError: conflict for a slug in use; invalid_request for another tenant's policy.
    """
    policy = values.get("policy")
    if policy is not None:
        _check_owner(policy, tenant)
    try:
        with transaction.atomic():
            versions.bump("routing")
            if policy is not None:
                _refuse_disabled(policy)
            feature = Feature.objects.create(slug=slug, tenant=tenant, **values)
            _record_feature(
                "feature.create", feature, before=None, after=feature_picture(feature), actor=actor
            )
    except IntegrityError as error:
        raise ApiError("conflict", f"There is a feature {slug!r} already.", param="slug") from error
    return feature


def change_feature(*, feature: Feature, changes: Mapping[str, Any], actor: Principal) -> Feature:
    """Change name, policy or promise; slug and tenant stay. Raises ApiError: invalid_request."""
    if fixed := changes.keys() - set(_FEATURE_FIELDS):
        raise ApiError("invalid_request", "This cannot change: add another feature.", param=min(fixed))
    policy = changes.get("policy")
    if policy is not None:
        _check_owner(policy, feature.tenant)
    with transaction.atomic():
        versions.bump("routing")
        held = (
            Feature.objects.select_for_update(of=("self",))
            .select_related("policy", "tenant")
            .get(pk=feature.pk)
        )
        if policy is not None and policy.pk != held.policy_id:
            _refuse_disabled(policy)
        before = feature_picture(held)
        for name, value in changes.items():
            setattr(held, name, value)
        held.save(update_fields=[*changes, "updated_at"])
        _record_feature("feature.update", held, before=before, after=feature_picture(held), actor=actor)
    return held


def remove_feature(*, feature: Feature, actor: Principal) -> None:
    """Forget a feature; calls may still name it, and ledger rows do."""
    with transaction.atomic():
        versions.bump("routing")
        _record_feature("feature.delete", feature, before=feature_picture(feature), after=None, actor=actor)
        feature.delete()


def row_name(tenant: Tenant | None, plan: str) -> str:
    """Whom a binding is for, in words."""
    return f"The tenant {tenant.slug!r}" if tenant else f"The plan {plan!r}"


def feature_picture(feature: Feature) -> dict[str, Any]:
    """A feature as the audit trail shows it."""
    return {
        "slug": feature.slug,
        "name": feature.name,
        "policy": feature.policy.slug if feature.policy else None,
        "slo_p95_ms": feature.slo_p95_ms,
        "slo_success": _text(feature.slo_success),
        "slo_max_cost": _text(feature.slo_max_cost),
    }


def _text(value: Any) -> str | None:
    return None if value is None else format(value.normalize(), "f")


def _check_owner(policy: RoutingPolicy, tenant: Tenant | None) -> None:
    if policy.tenant_id is not None and policy.tenant_id != (tenant.pk if tenant else None):
        raise ApiError(
            "invalid_request",
            f"The policy {policy.slug!r} is another's and cannot rule this.",
            param="policy",
        )


def _refuse_disabled(policy: RoutingPolicy) -> None:
    """Under a lock, against a switch-off at this moment (`wordings.change_policy` looks for bindings)."""
    held = RoutingPolicy.objects.select_for_update().get(pk=policy.pk)
    if not held.is_enabled:
        raise ApiError("invalid_request", f"The policy {held.slug!r} is switched off.", param="policy")


def _picture(row: PolicyBinding) -> dict[str, Any]:
    return {
        "policy": row.policy.slug,
        "policy_tenant": row.policy.tenant.slug if row.policy.tenant else None,
        "tenant": row.tenant.slug if row.tenant else None,
        "plan": row.plan or None,
    }


def _record_binding(
    action: str,
    row: PolicyBinding,
    *,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
    actor: Principal,
) -> None:
    audit.record(
        principal=actor,
        action=action,
        object_type="policy_binding",
        object_id=row.pk,
        tenant=row.tenant,
        before=before,
        after=after,
    )


def _record_feature(
    action: str,
    feature: Feature,
    *,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
    actor: Principal,
) -> None:
    audit.record(
        principal=actor,
        action=action,
        object_type="feature",
        object_id=feature.slug,
        tenant=feature.tenant,
        before=before,
        after=after,
    )
