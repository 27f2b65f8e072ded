"""Single sign-on of a tenant: its OpenID Connect provider, the mail domains it speaks for, whom it lets in.

A connection speaks for a domain only once the operator has confirmed it, and for the issuer it had then. It
never lets in the operator's staff, never anybody of another domain, and never gives a role by itself but the
one the tenant chose.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit

from allauth.socialaccount.models import SocialAccount
from django.conf import settings
from django.db import IntegrityError, transaction

from tenants import audit, egress, encryption, members, roles, versions
from tenants.errors import ApiError
from tenants.models import Invitation, Membership, SignInSetting, SsoConnection, SsoDomain, Tenant, User
from tenants.principal import SYSTEM, Principal

_DOMAIN: Final = re.compile(
    r"(?=.{4,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]"
)
MAX_DOMAINS: Final = 50
_PLAIN: Final = ("name", "client_id", "default_role", "counts_as_mfa", "is_enabled", "is_enforced")


class SsoRefusedError(Exception):
    """The provider vouches for somebody who may not come in this way. The text is for that person."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What a provider says of a person, its signature checked."""

    subject: str
    email: str
    is_email_verified: bool
    name: str = ""


# ------------------------------------------------------------------ connections


def create_connection(
    *,
    tenant: Tenant,
    name: str,
    issuer: str,
    client_id: str,
    client_secret: str,
    domains: Collection[str] = (),
    default_role: str = "",
    counts_as_mfa: bool = False,
    is_enabled: bool = True,
    is_enforced: bool = False,
    actor: Principal,
) -> SsoConnection:
    """A connection whose domains wait for the operator.

    Raises ApiError: url_not_allowed (issuer), invalid_request (a bad domain, an unknown role or owner),
    permission_denied (a role that may do more than `actor`); each with `param`.
    """
    _check_role(default_role, tenant=tenant, actor=actor)
    listed = _domains(domains)
    connection = SsoConnection(
        tenant=tenant,
        name=_text(name, "name", 100),
        issuer=_issuer(issuer),
        client_id=_text(client_id, "client_id", 255),
        default_role=default_role,
        counts_as_mfa=counts_as_mfa,
        is_enabled=is_enabled,
        is_enforced=is_enforced,
    )
    with transaction.atomic():
        connection.client_secret = _sealed(connection, client_secret)
        connection.save(force_insert=True)
        SsoDomain.objects.bulk_create(
            [SsoDomain(tenant=tenant, connection=connection, domain=domain) for domain in listed]
        )
        _record("create", connection, actor, after=picture(connection))
    return connection


def change_connection(
    *, connection: SsoConnection, changes: Mapping[str, Any], actor: Principal
) -> SsoConnection:
    """Change fields of `create_connection`. Raises ApiError as that does.

    Another issuer ends the confirmation of every domain and every link to a person: both were given for the
    issuer that was.
    """
    tenant = connection.tenant
    if changes.get("default_role"):
        _check_role(changes["default_role"], tenant=tenant, actor=actor)
    with transaction.atomic():
        held = (
            SsoConnection.objects.select_for_update(of=("self",))
            .select_related("tenant")
            .get(pk=connection.pk)
        )
        before = picture(held)
        for field in _PLAIN:
            if field in changes:
                limit = {"name": 100, "client_id": 255}.get(field)
                value = changes[field]
                setattr(held, field, value if limit is None else _text(value, field, limit))
        if changes.get("client_secret"):
            held.client_secret = _sealed(held, changes["client_secret"])
        if "issuer" in changes and (issuer := _issuer(changes["issuer"])) != held.issuer:
            held.issuer = issuer
            held.domains.update(confirmed_at=None)
            SocialAccount.objects.filter(provider=str(held.pk)).delete()
        held.save()
        if "domains" in changes:
            listed = _domains(changes["domains"])
            held.domains.exclude(domain__in=listed).delete()
            known = set(held.domains.values_list("domain", flat=True))
            SsoDomain.objects.bulk_create(
                [
                    SsoDomain(tenant=tenant, connection=held, domain=domain)
                    for domain in listed
                    if domain not in known
                ]
            )
        after = picture(held) | ({"client_secret": "changed"} if changes.get("client_secret") else {})
        changed = [field for field in after if after[field] != before.get(field)]
        _record(
            "update",
            held,
            actor,
            before={field: before.get(field) for field in changed},
            after={field: after[field] for field in changed},
        )
    return held


def remove_connection(*, connection: SsoConnection, actor: Principal) -> None:
    """End it, and every link to a person it made; the people and their memberships stay."""
    with transaction.atomic():
        _record("delete", connection, actor, before=picture(connection))
        SocialAccount.objects.filter(provider=str(connection.pk)).delete()
        connection.delete()


def confirm_domain(
    *, connection: SsoConnection, domain: str, actor: Principal, now: datetime
) -> SsoConnection:
    """The operator says that the domain is this tenant's; from now on the connection speaks for it.

    Raises ApiError: not_found for a domain it does not claim, conflict for one of another connection.
    """
    row = connection.domains.filter(domain=domain.strip().lower()).first()
    if row is None:
        raise ApiError("not_found", "The connection does not claim this domain.")
    try:
        with transaction.atomic():
            SsoDomain.objects.filter(pk=row.pk, confirmed_at__isnull=True).update(confirmed_at=now)
            _record(
                "confirm_domain", connection, actor, after={"domain": row.domain, "issuer": connection.issuer}
            )
    except IntegrityError as error:
        raise ApiError("conflict", "Another connection speaks for this domain.", param="domain") from error
    return connection


def secret_of(connection: SsoConnection) -> str:
    """The client secret in clear, for the provider's token endpoint alone. Raises SealBrokenError."""
    return encryption.unseal(
        bytes(connection.client_secret), tenant=connection.tenant, context=_place(connection)
    )


def picture(connection: SsoConnection) -> dict[str, Any]:
    """The connection as the trail shows it: without its secret."""
    return {
        "name": connection.name,
        "issuer": connection.issuer,
        "client_id": connection.client_id,
        "domains": {
            row.domain: "confirmed" if row.confirmed_at else "claimed" for row in connection.domains.all()
        },
        "default_role": connection.default_role,
        "counts_as_mfa": connection.counts_as_mfa,
        "is_enabled": connection.is_enabled,
        "is_enforced": connection.is_enforced,
    }


# ------------------------------------------------------------------ what a tenant demands


def demands_of(tenant: Tenant) -> SignInSetting:
    """The tenant's setting; not saved where it has none."""
    return SignInSetting.objects.filter(tenant=tenant).first() or SignInSetting(tenant=tenant)


def change_demands(*, tenant: Tenant, require_mfa: bool, actor: Principal) -> SignInSetting:
    """Whether members must have a second factor; those without one are led to set it up at once."""
    with transaction.atomic():
        held = demands_of(tenant)
        before, held.require_mfa = held.require_mfa, require_mfa
        held.save()
        audit.record(
            principal=actor,
            action="sign_in.update",
            object_type="sign_in",
            object_id=tenant.id,
            tenant=tenant,
            before={"require_mfa": before},
            after={"require_mfa": require_mfa},
        )
    return held


# ------------------------------------------------------------------ whom a connection lets in


def connection_for(email: str) -> SsoConnection | None:
    """The enabled connection that speaks for the address's domain."""
    row = (
        SsoDomain.objects.filter(
            domain=_domain_of(email), confirmed_at__isnull=False, connection__is_enabled=True
        )
        .select_related("connection__tenant")
        .first()
    )
    return row.connection if row is not None else None


def enforced_for(user: User) -> SsoConnection | None:
    """The connection this person must use. Owners of its tenant and the operator's staff are free of it."""
    if _is_staff(user):
        return None
    connection = connection_for(user.email)
    if connection is None or not connection.is_enforced:
        return None
    is_owner = Membership.objects.filter(
        tenant=connection.tenant, user=user, role=Membership.Role.OWNER
    ).exists()
    return None if is_owner else connection


def admit(*, connection: SsoConnection, claims: Claims, linked: User | None, now: datetime) -> User:
    """The person the provider vouches for, made an account and a member if need be.

    `linked` has signed in here before. Raises SsoRefusedError, and has changed nothing then.
    """
    email = claims.email.strip().lower()
    if not claims.is_email_verified or not email:
        raise SsoRefusedError("Your provider does not say that your e-mail address is verified.")
    if not _speaks_for(connection, email):
        raise SsoRefusedError("Your e-mail address belongs to no domain of this connection.")
    tenant = connection.tenant
    with transaction.atomic():
        versions.bump("tenants")  # also puts two first sign-ins of the same person in line
        user = linked or User.objects.filter(email__iexact=email).first()
        if user is not None and (_is_staff(user) or not user.is_active):
            raise SsoRefusedError("This account does not sign in through a workspace's provider.")
        if user is not None and not _speaks_for(connection, user.email):
            raise SsoRefusedError("Your account has an e-mail address of another domain.")
        if user is not None and Membership.objects.filter(tenant=tenant, user=user).exists():
            return user
        offer = Invitation.objects.filter(
            tenant=tenant,
            email__iexact=email,
            accepted_at__isnull=True,
            withdrawn_at__isnull=True,
            expires_at__gt=now,
        ).first()
        role = offer.role if offer is not None else connection.default_role
        if not role:
            raise SsoRefusedError("You have no invitation to this workspace. Ask an owner for one.")
        try:
            if user is None:
                user = members.create_person(email=email, name=claims.name, actor=SYSTEM, by=str(connection))
            members.join(tenant=tenant, user=user, role=role, actor=SYSTEM)
        except ApiError as error:
            raise SsoRefusedError(error.message) from error
        if offer is not None:
            Invitation.objects.filter(pk=offer.pk).update(accepted_at=now)
    return user


# ------------------------------------------------------------------ parts


def _speaks_for(connection: SsoConnection, email: str) -> bool:
    spoken = connection_for(email)
    return spoken is not None and spoken.pk == connection.pk


def _is_staff(user: User) -> bool:
    return bool(user.operator_role) or user.is_staff or user.is_superuser


def _domain_of(email: str) -> str:
    return email.rpartition("@")[2].strip().lower()


def _place(connection: SsoConnection) -> str:
    return f"{connection._meta.db_table}|{connection.pk}|client_secret"


def _sealed(connection: SsoConnection, secret: str) -> bytes:
    secret = _text(secret, "client_secret", 2000)
    return encryption.seal(secret, tenant=connection.tenant, context=_place(connection))


def _text(value: str, param: str, limit: int) -> str:
    value = value.strip()
    if not 0 < len(value) <= limit or not value.isprintable():
        raise ApiError("invalid_request", f"This has 1 to {limit} printable characters.", param=param)
    return value


def _issuer(url: str) -> str:
    url = url.strip()
    egress.check_url(url, allow_private_hosts=settings.TOLLHOUSE_EGRESS_ALLOWED_HOSTS, param="issuer")
    parts = urlsplit(url)
    if parts.query or parts.fragment or "/.well-known/" in parts.path or len(url) > 500:
        raise ApiError(
            "invalid_request",
            "Give the issuer itself: no query, and nothing of “/.well-known/openid-configuration”.",
            param="issuer",
        )
    return url


def _domains(given: Collection[str]) -> list[str]:
    listed = list(dict.fromkeys(domain.strip().lower() for domain in given))
    if len(listed) > MAX_DOMAINS:
        raise ApiError("invalid_request", f"At most {MAX_DOMAINS} domains.", param="domains")
    for domain in listed:
        if not _DOMAIN.fullmatch(domain):
            raise ApiError("invalid_request", f"{domain!r} is not a mail domain.", param="domains")
    return listed


def _check_role(role: str, *, tenant: Tenant, actor: Principal) -> None:
    if not role:
        return
    if role == Membership.Role.OWNER:
        raise ApiError(
            "invalid_request",
            "Nobody becomes an owner by signing in: owners are invited.",
            param="default_role",
        )
    try:
        roles.assignable(role, tenant=tenant, actor=actor)
    except ApiError as error:
        raise ApiError(error.code, error.message, param="default_role") from error


def _record(
    verb: str,
    connection: SsoConnection,
    actor: Principal,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    audit.record(
        principal=actor,
        action=f"sso_connection.{verb}",
        object_type="sso_connection",
        object_id=connection.pk,
        tenant=connection.tenant,
        before=before,
        after=after,
    )
