"""Service accounts: actors without a password in one tenant, which own keys.

A key of theirs may do no more than the account's role as it is now, and nothing while the account is stopped.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from django.db import IntegrityError, transaction

from tenants import audit, roles, versions
from tenants.errors import ApiError
from tenants.models import ApiKey, ServiceAccount, Tenant
from tenants.principal import Principal

_NAME_MAX_CHARACTERS: Final = 100


def open_account(*, tenant: Tenant, name: str, role: str, actor: Principal) -> ServiceAccount:
    """A new, active account without keys.

    Raises ApiError: invalid_request with `param`, permission_denied for a role that may do more than `actor`,
    conflict for a taken name.
    """
    name = name.strip()
    if not 0 < len(name) <= _NAME_MAX_CHARACTERS:
        raise ApiError("invalid_request", f"A name has 1 to {_NAME_MAX_CHARACTERS} characters.", param="name")
    try:
        with transaction.atomic():
            versions.bump("tenants")
            own = roles.assignable(role, tenant=tenant, actor=actor)
            account = ServiceAccount.objects.create(
                tenant=tenant, name=name, role=role, custom_role=own, created_by=actor.label
            )
            _record("create", account, actor, before=None, after={"name": name, "role": role})
    except IntegrityError as error:
        raise ApiError("conflict", f"There is a service account {name!r} already.", param="name") from error
    return account


def change_role(*, account: ServiceAccount, role: str, actor: Principal) -> ServiceAccount:
    """Give the account another role; its keys may do so much from now on.

    Raises ApiError: invalid_request and permission_denied as `open_account`, conflict for a deactivated one.
    """
    with transaction.atomic():
        version = versions.bump("tenants")
        held = _locked(account)
        own = roles.assignable(role, tenant=held.tenant, actor=actor)
        roles.assignable(held.role, tenant=held.tenant, actor=actor)
        _check_alive(held)
        before, held.role, held.custom_role = held.role, role, own
        held.save(update_fields=("role", "custom_role", "updated_at"))
        _touch_keys(held, version)
        _record("update", held, actor, before={"role": before}, after={"role": role})
    return held


def suspend(*, account: ServiceAccount, actor: Principal, now: datetime) -> ServiceAccount:
    """Refuse its keys until `activate`. Suspending twice changes nothing. Raises ApiError as `change_role`."""
    return _set_status(account, ServiceAccount.Status.SUSPENDED, now, actor)


def activate(*, account: ServiceAccount, actor: Principal, now: datetime) -> ServiceAccount:
    """Let its keys work again. Activating twice changes nothing. Raises ApiError as `change_role`."""
    return _set_status(account, ServiceAccount.Status.ACTIVE, now, actor)


def deactivate(*, account: ServiceAccount, actor: Principal, now: datetime) -> ServiceAccount:
    """Refuse its keys for good. Deactivating twice changes nothing. Raises ApiError as `change_role`."""
    return _set_status(account, ServiceAccount.Status.DEACTIVATED, now, actor)


def _set_status(account: ServiceAccount, status: str, now: datetime, actor: Principal) -> ServiceAccount:
    with transaction.atomic():
        version = versions.bump("tenants")
        held = _locked(account)
        roles.assignable(held.role, tenant=held.tenant, actor=actor)
        if status != ServiceAccount.Status.DEACTIVATED:
            _check_alive(held)
        before, held.status = held.status, status
        held.stopped_at = None if status == ServiceAccount.Status.ACTIVE else held.stopped_at or now
        held.save(update_fields=("status", "stopped_at", "updated_at"))
        _touch_keys(held, version)
        verb = {"active": "activate", "suspended": "suspend", "deactivated": "deactivate"}[status]
        _record(verb, held, actor, before={"status": before}, after={"status": held.status})
    return held


def _touch_keys(account: ServiceAccount, version: int) -> None:
    """The workers load the account's keys again."""
    ApiKey.objects.filter(service_account=account).update(config_version=version)


def _locked(account: ServiceAccount) -> ServiceAccount:
    return (
        ServiceAccount.objects.select_for_update(of=("self",))
        .select_related("tenant", "custom_role")
        .get(pk=account.pk)
    )


def _check_alive(account: ServiceAccount) -> None:
    if account.status == ServiceAccount.Status.DEACTIVATED:
        raise ApiError("conflict", "This service account is deactivated for good; open a new one.")


def _record(
    verb: str,
    account: ServiceAccount,
    actor: Principal,
    *,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any],
) -> None:
    audit.record(
        principal=actor,
        action=f"service_account.{verb}",
        object_type="service_account",
        object_id=account.id,
        tenant=account.tenant,
        before=before,
        after=after,
    )
