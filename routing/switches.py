"""Kill switches: a provider, a model or a tenant is cut off at once, in every worker, until it is restored.

A provider or model leaves the snapshot, whatever its `is_enabled` says; a tenant is suspended. Calls under way
end as they would have. Must never change what a restore has to give back.
"""

from typing import Any, Final

from django.db import IntegrityError, transaction
from django.utils import timezone

from routing.models import KillSwitch, Model, Provider
from tenants import audit, lifecycle, versions
from tenants.errors import ApiError
from tenants.models import Tenant
from tenants.principal import Principal

MAX_REASON_CHARACTERS: Final = 500


def throw(*, kind: str, target: str, reason: str, actor: Principal) -> KillSwitch:
    """Cut off a provider, model or tenant by its slug, from the next configuration on (bump and message).

    Raises ApiError: invalid_request for an unknown kind or target or without a reason; conflict when it is
    cut off already.
    """
    reason = reason.strip()
    if not reason or len(reason) > MAX_REASON_CHARACTERS:
        raise ApiError(
            "invalid_request", f"Say why, in at most {MAX_REASON_CHARACTERS} characters.", param="reason"
        )
    try:
        with transaction.atomic():
            if kind != KillSwitch.Kind.TENANT:
                versions.bump("routing")
            before = _found(kind, target)
            row = KillSwitch.objects.create(
                kind=kind, target=target, reason=reason, before=before, thrown_by=actor.label
            )
            if kind == KillSwitch.Kind.TENANT and before["status"] == Tenant.Status.ACTIVE:
                lifecycle.suspend(tenant=Tenant.objects.get(slug=target), actor=actor)
            _record("kill_switch.throw", row, actor)
    except IntegrityError as error:
        raise ApiError("conflict", f"The {kind} {target!r} is cut off already.", param="target") from error
    return row


def restore(*, switch: KillSwitch, actor: Principal) -> KillSwitch:
    """Give back what it was: a tenant that had been suspended before stays so. Raises ApiError: conflict."""
    with transaction.atomic():
        if switch.kind != KillSwitch.Kind.TENANT:
            versions.bump("routing")
        held = KillSwitch.objects.select_for_update().get(pk=switch.pk)
        if held.restored_at is not None:
            raise ApiError("conflict", "It is restored already.")
        held.restored_at, held.restored_by = timezone.now(), actor.label
        held.save(update_fields=("restored_at", "restored_by"))
        if held.kind == KillSwitch.Kind.TENANT and held.before["status"] == Tenant.Status.ACTIVE:
            lifecycle.activate(tenant=Tenant.objects.get(slug=held.target), actor=actor)
        _record("kill_switch.restore", held, actor)
    return held


def thrown(*, kind: str, target: str) -> KillSwitch | None:
    """The switch that holds it off now; None if nothing does."""
    return KillSwitch.objects.filter(kind=kind, target=target, restored_at=None).first()


def _found(kind: str, target: str) -> dict[str, Any]:
    """What it is now. Raises ApiError: invalid_request."""
    match kind:
        case KillSwitch.Kind.PROVIDER:
            provider = Provider.objects.filter(slug=target).first()
            if provider is not None:
                return {"is_enabled": provider.is_enabled}
        case KillSwitch.Kind.MODEL:
            model = Model.objects.filter(slug=target).first()
            if model is not None:
                return {"is_enabled": model.is_enabled}
        case KillSwitch.Kind.TENANT:
            tenant = Tenant.objects.filter(slug=target).first()
            if tenant is not None:
                return {"status": tenant.status}
        case _:
            raise ApiError(
                "invalid_request", f"kind must be one of {', '.join(KillSwitch.Kind.values)}.", param="kind"
            )
    raise ApiError("invalid_request", f"There is no {kind} {target!r}.", param="target")


def _record(action: str, row: KillSwitch, actor: Principal) -> None:
    """In the tenant's own trail too: what happened to it is its business."""
    audit.record(
        principal=actor,
        action=action,
        object_type="kill_switch",
        object_id=row.pk,
        tenant=Tenant.objects.get(slug=row.target) if row.kind == KillSwitch.Kind.TENANT else None,
        after={"kind": row.kind, "target": row.target, "reason": row.reason, "before": row.before},
    )
