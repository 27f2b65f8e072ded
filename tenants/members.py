"""People in tenants: their accounts and memberships. A tenant never loses its last owner.

Nobody comes in here but by an invitation, by the addition of somebody who may (both tenants/invitations.py), or by a
tenant's provider (tenants/sso.py).
"""

from django.db import transaction

from tenants import audit, roles, versions
from tenants.errors import ApiError
from tenants.models import CustomRole, Membership, Tenant, User
from tenants.principal import Principal
from tenants.scopes import TENANT_ROLES


def create_person(
    *, email: str, actor: Principal, by: str, name: str = "", password: str | None = None
) -> User:
    """An account; without a password only a mail to the address opens it. The caller holds a transaction.

    `by` says how it came to be: an invitation, a connection, a member added. Raises ApiError conflict when there
    is one already.
    """
    if User.objects.filter(email__iexact=email).exists():
        raise ApiError("conflict", "There is an account with this address.", param="email")
    user = User.objects.create_user(email, password, name=name)
    audit.record(
        principal=actor,
        action="user.create",
        object_type="user",
        object_id=user.id,
        tenant=None,
        after={"email": user.email, "by": by},
    )
    return user


def join(*, tenant: Tenant, user: User, role: str, actor: Principal) -> Membership:
    """Make an account a member. Whether `role` may be given was judged when it was offered.

    Raises ApiError: conflict for a member, and for a role that is no longer there.
    """
    with transaction.atomic():
        versions.bump("tenants")  # also puts two ways into the same tenant in line
        own = (
            None if role in TENANT_ROLES else CustomRole.objects.for_tenant(tenant).filter(slug=role).first()
        )
        if own is None and role not in TENANT_ROLES:
            raise ApiError("conflict", f"The role {role!r} is no longer there. Ask for a new invitation.")
        if Membership.objects.filter(tenant=tenant, user=user).exists():
            raise ApiError("conflict", f"{user.email} is a member already.", param="email")
        membership = Membership.objects.create(tenant=tenant, user=user, role=role, custom_role=own)
        audit.record(
            principal=actor,
            action="member.create",
            object_type="member",
            object_id=membership.id,
            tenant=tenant,
            after={"email": user.email, "role": role},
        )
    return membership


def change_role(*, membership: Membership, role: str, actor: Principal) -> Membership:
    """Give a member another role. Raises ApiError as `add_member`; conflict for the last owner."""
    tenant = membership.tenant
    with transaction.atomic():
        versions.bump("tenants")
        own = roles.assignable(role, tenant=tenant, actor=actor)
        held = _locked(membership)
        roles.assignable(held.role, tenant=tenant, actor=actor)
        if held.role == Membership.Role.OWNER and role != Membership.Role.OWNER:
            _keep_an_owner(held)
        before, held.role, held.custom_role = held.role, role, own
        held.save(update_fields=("role", "custom_role", "updated_at"))
        audit.record(
            principal=actor,
            action="member.update",
            object_type="member",
            object_id=held.id,
            tenant=tenant,
            before={"email": held.user.email, "role": before},
            after={"email": held.user.email, "role": role},
        )
    return held


def remove_member(*, membership: Membership, actor: Principal) -> None:
    """End a membership; the person remains. Raises ApiError conflict for the last owner."""
    tenant = membership.tenant
    with transaction.atomic():
        versions.bump("tenants")
        held = _locked(membership)
        roles.assignable(held.role, tenant=tenant, actor=actor)
        if held.role == Membership.Role.OWNER:
            _keep_an_owner(held)
        audit.record(
            principal=actor,
            action="member.delete",
            object_type="member",
            object_id=held.id,
            tenant=tenant,
            before={"email": held.user.email, "role": held.role},
        )
        held.delete()


def _locked(membership: Membership) -> Membership:
    held = (
        Membership.objects.select_for_update(of=("self",))
        .select_related("user", "tenant")
        .filter(pk=membership.pk)
        .first()
    )
    if held is None:
        raise ApiError("not_found", "There is no such member.")
    return held


def _keep_an_owner(membership: Membership) -> None:
    """The caller holds the config version's lock, so no other change of members runs meanwhile."""
    others = Membership.objects.filter(tenant_id=membership.tenant_id, role=Membership.Role.OWNER)
    if not others.exclude(pk=membership.pk).exists():
        raise ApiError("conflict", "A tenant needs an owner: make somebody else owner first.", param="role")
