"""Provider credentials: stored sealed, opened only for the snapshot and for a provider test.

Must never return, log or audit a secret; `last_four` is all that anyone sees again.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from uuid import UUID

from django.db import transaction

from routing.models import Credential, Provider
from tenants import audit, encryption, versions
from tenants.encryption import SealBrokenError, Sealed
from tenants.errors import ApiError
from tenants.ids import uuid7
from tenants.models import Tenant
from tenants.principal import Principal

logger = logging.getLogger(__name__)

MAX_SECRET_CHARACTERS = 4000
SHORTEST_WITH_TAIL = 12
"""Of a shorter secret four characters would give away too much."""


@dataclass(frozen=True, slots=True)
class OperatorCredential:
    """An opened credential of the operator's own."""

    id: UUID
    base_url: str
    api_key: str = field(repr=False)


def store(
    *, provider: Provider, tenant: Tenant | None, secret: str, label: str, base_url: str, actor: Principal
) -> Credential:
    """Seal and keep a secret; it takes the place of its owner's earlier one for this provider and label.

    `base_url` overrides the provider's; a tenant's must have passed `egress.check_url`. Raises ApiError
    invalid_request for what cannot be a key.
    """
    secret = secret.strip()
    if not secret or len(secret) > MAX_SECRET_CHARACTERS or not secret.isascii() or not secret.isprintable():
        raise ApiError("invalid_request", "A key is one line of printable ASCII characters.", param="api_key")
    with transaction.atomic():
        versions.bump("routing")
        row = Credential(
            id=uuid7(),
            provider=provider,
            tenant=tenant,
            label=label,
            base_url=base_url,
            last_four=secret[-4:] if len(secret) >= SHORTEST_WITH_TAIL else "",
        )
        row.secret = encryption.seal(secret, tenant=tenant, context=_context(row.id))
        replaced = list(
            Credential.objects.select_for_update()
            .filter(provider=provider, tenant=tenant, label=label, is_enabled=True)
            .values_list("id", flat=True)
        )
        Credential.objects.filter(id__in=replaced).update(is_enabled=False)
        row.save(force_insert=True)
        audit.record(
            principal=actor,
            action="credential.create",
            object_type="credential",
            object_id=row.id,
            tenant=tenant,
            before={"replaced": [str(each) for each in replaced]} if replaced else None,
            after=picture(row),
        )
    return row


def remove(*, credential: Credential, actor: Principal) -> None:
    """Delete a credential with its secret."""
    with transaction.atomic():
        versions.bump("routing")
        audit.record(
            principal=actor,
            action="credential.delete",
            object_type="credential",
            object_id=credential.id,
            tenant=credential.tenant,
            before=picture(credential),
        )
        credential.delete()


def picture(credential: Credential) -> dict[str, str | bool]:
    """A credential as the audit trail shows it."""
    return {
        "provider": credential.provider.slug,
        "label": credential.label,
        "base_url": credential.base_url,
        "last_four": credential.last_four,
        "is_enabled": credential.is_enabled,
    }


def unseal_all() -> Mapping[UUID, OperatorCredential]:
    """The operator's newest enabled credential of every provider, by provider id.

    One that does not open is logged and passed over for the next older one.
    """
    rows = list(Credential.objects.filter(tenant=None, is_enabled=True).order_by("id"))
    opened: dict[UUID, OperatorCredential] = {}
    for row, secret in _open(rows):
        opened[row.provider_id] = OperatorCredential(row.id, row.base_url, secret)
    return opened


def unseal_for(provider: Provider) -> OperatorCredential | None:
    """The operator's newest usable credential of one provider; None if there is none."""
    rows = list(Credential.objects.filter(tenant=None, is_enabled=True, provider=provider).order_by("id"))
    newest = None
    for row, secret in _open(rows):
        newest = OperatorCredential(row.id, row.base_url, secret)
    return newest


def _open(rows: list[Credential]) -> Iterable[tuple[Credential, str]]:
    sealed = [Sealed(bytes(row.secret), row.tenant_id, _context(row.id)) for row in rows]
    try:
        return list(zip(rows, encryption.unseal_all(sealed), strict=True))
    except SealBrokenError:
        # One bad row must not close every route: find it, and go on without it.
        return [(row, secret) for row, value in zip(rows, sealed, strict=True) for secret in _open_one(value)]


def _open_one(value: Sealed) -> Iterable[str]:
    try:
        return list(encryption.unseal_all([value]))
    except SealBrokenError as error:
        logger.error("a credential is not used: %s", error)
        return []


def _context(credential_id: UUID) -> str:
    return f"routing_credential|{credential_id}|secret"
