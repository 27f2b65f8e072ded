"""Opening, changing, suspending, activating a tenant: one transaction each, audited, announced to workers.

Must never delete a tenant: its ledger goes on explaining old invoices.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from zoneinfo import available_timezones

from babel.numbers import list_currencies
from django.db import IntegrityError, transaction

from tenants import audit, versions
from tenants.errors import ApiError
from tenants.models import Tenant
from tenants.principal import Principal

_FIELDS: Final = ("slug", "name", "status", "timezone", "currency", "region_policy")


def open_tenant(
    *, slug: str, name: str, timezone: str, currency: str, region_policy: Sequence[str], actor: Principal
) -> Tenant:
    """A new, active tenant. Raises ApiError: invalid_request with `param`, conflict for a taken slug."""
    values = {
        "slug": slug,
        "name": name,
        "timezone": timezone,
        "currency": currency,
        "region_policy": list(region_policy),
    }
    _check(values)
    try:
        with transaction.atomic():
            version = versions.bump("tenants")
            tenant = Tenant.objects.create(**values, config_version=version)
            _record("tenant.create", tenant=tenant, before=None, after=_of(tenant), actor=actor)
    except IntegrityError as error:
        raise ApiError("conflict", f"The slug {slug!r} is taken.", param="slug") from error
    return tenant


def change_tenant(*, tenant: Tenant, changes: Mapping[str, Any], actor: Principal) -> Tenant:
    """Change name, time zone, currency or region policy. The slug stays: it stands in everybody's addresses.

    Raises ApiError: invalid_request with `param`.
    """
    unknown = changes.keys() - {"name", "timezone", "currency", "region_policy"}
    if unknown:
        raise ApiError("invalid_request", "This cannot be changed.", param=min(unknown))
    _check(changes)
    return _change(tenant, changes, action="tenant.update", actor=actor)


def suspend(*, tenant: Tenant, actor: Principal) -> Tenant:
    """Refuse the tenant's keys from now on. Suspending twice changes nothing."""
    return _change(tenant, {"status": Tenant.Status.SUSPENDED.value}, action="tenant.suspend", actor=actor)


def activate(*, tenant: Tenant, actor: Principal) -> Tenant:
    """Let the tenant's keys work again. Activating twice changes nothing."""
    return _change(tenant, {"status": Tenant.Status.ACTIVE.value}, action="tenant.activate", actor=actor)


def _change(tenant: Tenant, changes: Mapping[str, Any], *, action: str, actor: Principal) -> Tenant:
    with transaction.atomic():
        version = versions.bump("tenants")
        held = Tenant.objects.select_for_update().get(pk=tenant.pk)
        before = _of(held)
        for field, value in changes.items():
            setattr(held, field, value)
        held.config_version = version
        held.save(update_fields=[*changes, "config_version", "updated_at"])
        _record(action, tenant=held, before=before, after=_of(held), actor=actor)
    return held


def _check(values: Mapping[str, Any]) -> None:
    if "name" in values and not values["name"].strip():
        raise ApiError("invalid_request", "A tenant needs a name.", param="name")
    if "timezone" in values and values["timezone"] not in available_timezones():
        raise ApiError("invalid_request", f"Unknown time zone {values['timezone']!r}.", param="timezone")
    if "currency" in values and values["currency"] not in list_currencies():
        raise ApiError("invalid_request", f"Unknown currency {values['currency']!r}.", param="currency")


def _of(tenant: Tenant) -> dict[str, Any]:
    return {field: getattr(tenant, field) for field in _FIELDS}


def _record(
    action: str,
    *,
    tenant: Tenant,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any],
    actor: Principal,
) -> None:
    audit.record(
        principal=actor,
        action=action,
        object_type="tenant",
        object_id=tenant.slug,
        tenant=tenant,
        before=before,
        after=after,
    )
