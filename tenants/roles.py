"""Roles of a tenant's own: make, change and remove them, and who may give which role to whom.

Nobody makes or gives a role that may do more than they; what only the operator may is in no tenant's role.
"""

import re
from collections.abc import Collection
from typing import Final

from django.db import IntegrityError, transaction

from tenants import audit, versions
from tenants.errors import ApiError
from tenants.models import ApiKey, CustomRole, Membership, ServiceAccount, Tenant
from tenants.principal import Principal
from tenants.scopes import RESERVED_ROLES, SCOPES, TENANT_ROLES, TENANT_SCOPES, grants, scopes_of_role

_SLUG: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_NAME_MAX_CHARACTERS: Final = 100


def assignable(role: str, *, tenant: Tenant, actor: Principal) -> CustomRole | None:
    """The tenant's own role of that slug, None for a built-in one; what `actor` may give, change or take away.

    Raises ApiError: invalid_request for an unknown role, permission_denied for one that may do more than
    `actor`; `param` is "role".
    """
    own = None if role in TENANT_ROLES else CustomRole.objects.for_tenant(tenant).filter(slug=role).first()
    if own is None and role not in TENANT_ROLES:
        raise ApiError(
            "invalid_request", f"A role is one of {', '.join(TENANT_ROLES)} or one of your own.", param="role"
        )
    if role == Membership.Role.OWNER and not _is_owner(actor, tenant):
        raise ApiError("permission_denied", "Only an owner may make, change or remove owners.", param="role")
    beyond = _beyond(scopes_of_role(role, own.scopes if own else None), tenant=tenant, actor=actor)
    if beyond is not None:
        raise ApiError(
            "permission_denied", f"The role {role!r} may do more than you: {beyond}.", param="role"
        )
    return own


def create_role(
    *, tenant: Tenant, slug: str, name: str, scopes: Collection[str], actor: Principal
) -> CustomRole:
    """A new role. Raises ApiError: invalid_request with `param` (bad or reserved slug, empty name, no scope,
    unknown or operator-only scope), permission_denied for a scope `actor` does not hold, conflict for a taken
    slug.
    """
    if not _SLUG.fullmatch(slug):
        raise ApiError("invalid_request", "Lower-case letters, digits and hyphens only.", param="slug")
    if slug in RESERVED_ROLES:
        raise ApiError("invalid_request", f"The role {slug!r} is built in.", param="slug")
    name, held = _name(name), _scopes(scopes, tenant=tenant, actor=actor)
    try:
        with transaction.atomic():
            versions.bump("tenants")
            role = CustomRole.objects.create(tenant=tenant, slug=slug, name=name, scopes=held)
            audit.record(
                principal=actor,
                action="role.create",
                object_type="role",
                object_id=slug,
                tenant=tenant,
                after={"name": name, "scopes": held},
            )
    except IntegrityError as error:
        raise ApiError("conflict", f"There is a role {slug!r} already.", param="slug") from error
    return role


def change_role(
    *, role: CustomRole, name: str | None = None, scopes: Collection[str] | None = None, actor: Principal
) -> CustomRole:
    """Change name or scopes (None: as they are); whoever holds the role may do so much from now on.

    Raises ApiError as `create_role`; permission_denied for a role that may do more than `actor`.
    """
    tenant = role.tenant
    new_name = None if name is None else _name(name)
    new_scopes = None if scopes is None else _scopes(scopes, tenant=tenant, actor=actor)
    with transaction.atomic():
        version = versions.bump("tenants")
        held = _locked(role)
        _check_holds(held, actor)
        before = {"name": held.name, "scopes": held.scopes}
        held.name, held.scopes = new_name or held.name, new_scopes or held.scopes
        held.save(update_fields=("name", "scopes", "updated_at"))
        ApiKey.objects.filter(service_account__custom_role=held).update(config_version=version)
        audit.record(
            principal=actor,
            action="role.update",
            object_type="role",
            object_id=held.slug,
            tenant=tenant,
            before=before,
            after={"name": held.name, "scopes": held.scopes},
        )
    return held


def remove_role(*, role: CustomRole, actor: Principal) -> None:
    """Raises ApiError: conflict while a member or a service account holds it, permission_denied for a role
    that may do more than `actor`.
    """
    tenant = role.tenant
    with transaction.atomic():
        versions.bump("tenants")  # also puts whoever gives this role in line
        held = _locked(role)
        _check_holds(held, actor)
        if (
            Membership.objects.filter(custom_role=held).exists()
            or ServiceAccount.objects.filter(custom_role=held).exists()
        ):
            raise ApiError("conflict", "Somebody holds this role: give them another one first.")
        audit.record(
            principal=actor,
            action="role.delete",
            object_type="role",
            object_id=held.slug,
            tenant=tenant,
            before={"name": held.name, "scopes": held.scopes},
        )
        held.delete()


def _locked(role: CustomRole) -> CustomRole:
    held = CustomRole.objects.select_for_update(of=("self",)).filter(pk=role.pk).first()
    if held is None:
        raise ApiError("not_found", "There is no such role.")
    return held


def _check_holds(role: CustomRole, actor: Principal) -> None:
    beyond = _beyond(TENANT_SCOPES.intersection(role.scopes), tenant=role.tenant, actor=actor)
    if beyond is not None:
        raise ApiError("permission_denied", f"This role may do more than you: {beyond}.")


def _name(name: str) -> str:
    name = name.strip()
    if not 0 < len(name) <= _NAME_MAX_CHARACTERS:
        raise ApiError("invalid_request", f"A name has 1 to {_NAME_MAX_CHARACTERS} characters.", param="name")
    return name


def _scopes(scopes: Collection[str], *, tenant: Tenant, actor: Principal) -> list[str]:
    """The scopes in the table's order. Whole areas (`keys:*`) are refused: they would grow by themselves."""
    if not scopes:
        raise ApiError("invalid_request", "A role needs at least one scope.", param="scopes")
    for scope in scopes:
        if scope not in TENANT_SCOPES:
            words = "Only the operator may" if scope in SCOPES else "Unknown scope"
            raise ApiError("invalid_request", f"{words} {scope!r}.", param="scopes")
    beyond = _beyond(scopes, tenant=tenant, actor=actor)
    if beyond is not None:
        raise ApiError("permission_denied", f"You do not hold {beyond!r} yourself.", param="scopes")
    return [scope for scope in SCOPES if scope in scopes]


def _beyond(scopes: Collection[str], *, tenant: Tenant, actor: Principal) -> str | None:
    """The first scope that `actor` does not hold in the tenant."""
    own = actor.operator_scopes | actor.tenant_scopes.get(tenant.id, frozenset())
    return next((scope for scope in sorted(scopes) if not grants(own, scope)), None)


def _is_owner(actor: Principal, tenant: Tenant) -> bool:
    """Owners, and whoever may write the tenant. The scopes of owner and admin do not tell them apart."""
    if actor.can("tenants:write", tenant.id):
        return True
    return (
        actor.kind == "user"
        and actor.id is not None
        and Membership.objects.filter(tenant=tenant, user_id=actor.id, role=Membership.Role.OWNER).exists()
    )
