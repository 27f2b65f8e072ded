"""Provider credentials: stored sealed, opened only for the snapshot and for a provider test.

An owner (the operator, or a tenant) has one credential per provider and label; labels share the calls.

Must never return, log or audit a secret; `last_four` is all that anyone sees again.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from django.db import transaction

from routing.entries import OwnCredential
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
MAX_WEIGHT: Final = 1000

_CHANGEABLE: Final = ("weight", "limit_rpm", "limit_tpm", "is_enabled")


@dataclass(frozen=True, slots=True)
class OperatorCredential:
    """An opened credential of the operator's own. Limits are the provider's, where its headers do not tell."""

    id: UUID
    base_url: str
    api_key: str = field(repr=False)
    weight: int = 1
    limit_rpm: int | None = None
    limit_tpm: int | None = None


def store(
    *,
    provider: Provider,
    tenant: Tenant | None,
    secret: str,
    label: str,
    base_url: str,
    actor: Principal,
    weight: int = 1,
    limit_rpm: int | None = None,
    limit_tpm: int | None = None,
) -> Credential:
    """Seal and keep a secret; it takes the place of its owner's earlier one for this provider and label.

    `base_url` overrides the provider's; a tenant's must have passed `egress.check_url`. Raises ApiError
    invalid_request for what cannot be a key, or a weight or limit out of bounds.
    """
    secret = secret.strip()
    if not secret or len(secret) > MAX_SECRET_CHARACTERS or not secret.isascii() or not secret.isprintable():
        raise ApiError("invalid_request", "A key is one line of printable ASCII characters.", param="api_key")
    _check({"weight": weight, "limit_rpm": limit_rpm, "limit_tpm": limit_tpm})
    with transaction.atomic():
        versions.bump("routing")
        row = Credential(
            id=uuid7(),
            provider=provider,
            tenant=tenant,
            label=label,
            base_url=base_url,
            weight=weight,
            limit_rpm=limit_rpm,
            limit_tpm=limit_tpm,
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


def change(*, credential: Credential, changes: Mapping[str, Any], actor: Principal) -> Credential:
    """Change weight, limits or whether it is used. The secret stays: another one is another credential.

    Raises ApiError: invalid_request with `param`; conflict when its label has a newer one in use.
    """
    if fixed := changes.keys() - set(_CHANGEABLE):
        raise ApiError("invalid_request", "This cannot change: add another credential.", param=min(fixed))
    _check(changes)
    with transaction.atomic():
        versions.bump("routing")
        held = (
            Credential.objects.select_for_update(of=("self",))
            .select_related("provider", "tenant")
            .get(pk=credential.pk)
        )
        if changes.get("is_enabled") and not held.is_enabled:
            _refuse_second(held)
        before = picture(held)
        for name, value in changes.items():
            setattr(held, name, value)
        held.save(update_fields=[*changes, "updated_at"])
        audit.record(
            principal=actor,
            action="credential.update",
            object_type="credential",
            object_id=held.id,
            tenant=held.tenant,
            before=before,
            after=picture(held),
        )
    return held


def _refuse_second(credential: Credential) -> None:
    others = Credential.objects.filter(
        provider=credential.provider,
        tenant=credential.tenant,
        label=credential.label,
        is_enabled=True,
    )
    if others.exists():
        raise ApiError("conflict", "Another credential of this label is in use.", param="is_enabled")


def _check(values: Mapping[str, Any]) -> None:
    weight = values.get("weight", 1)
    if not 0 <= weight <= MAX_WEIGHT:
        raise ApiError("invalid_request", f"A weight is between 0 and {MAX_WEIGHT}.", param="weight")
    for name in ("limit_rpm", "limit_tpm"):
        limit = values.get(name)
        if limit is not None and not 1 <= limit <= 2**31 - 1:
            raise ApiError("invalid_request", "A limit is at least 1.", param=name)


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


def picture(credential: Credential) -> dict[str, Any]:
    """A credential as the audit trail shows it."""
    return {
        "provider": credential.provider.slug,
        "label": credential.label,
        "base_url": credential.base_url,
        "last_four": credential.last_four,
        "weight": credential.weight,
        "limit_rpm": credential.limit_rpm,
        "limit_tpm": credential.limit_tpm,
        "is_enabled": credential.is_enabled,
    }


def unseal_all() -> Mapping[UUID, tuple[OperatorCredential, ...]]:
    """The operator's enabled credentials by provider id: of every label the newest, oldest label first.

    One that does not open is logged and passed over for the next older one of its label.
    """
    rows = list(Credential.objects.filter(tenant=None, is_enabled=True).order_by("id"))
    by_label: dict[UUID, dict[str, OperatorCredential]] = defaultdict(dict)
    for row, secret in _open(rows):
        by_label[row.provider_id][row.label] = _of_operator(row, secret)
    return {provider: tuple(labels.values()) for provider, labels in by_label.items()}


def unseal_own() -> Mapping[tuple[UUID, str], tuple[OwnCredential, ...]]:
    """The tenants' own enabled credentials by tenant and provider slug: of every label the newest.

    Their addresses are tenants' words: whoever connects there must judge them at that moment.
    """
    rows = list(
        Credential.objects.filter(tenant__isnull=False, is_enabled=True, provider__is_enabled=True)
        .select_related("provider")
        .order_by("id")
    )
    by_label: dict[tuple[UUID, str], dict[str, OwnCredential]] = defaultdict(dict)
    for row, secret in _open(rows):
        if row.tenant_id is not None:
            key = (row.tenant_id, row.provider.slug)
            by_label[key][row.label] = OwnCredential(str(row.id), row.base_url, secret)
    return {key: tuple(labels.values()) for key, labels in by_label.items()}


def unseal_for(provider: Provider) -> OperatorCredential | None:
    """The operator's newest usable credential of one provider; None if there is none."""
    rows = list(Credential.objects.filter(tenant=None, is_enabled=True, provider=provider).order_by("id"))
    newest = None
    for row, secret in _open(rows):
        newest = _of_operator(row, secret)
    return newest


def unseal_one(row: Credential) -> OperatorCredential | None:
    """One credential opened, whoever's it is; None if it does not open. The caller records the access."""
    return next((_of_operator(row, secret) for row, secret in _open([row])), None)


def _of_operator(row: Credential, secret: str) -> OperatorCredential:
    return OperatorCredential(
        id=row.id,
        base_url=row.base_url,
        api_key=secret,
        weight=row.weight,
        limit_rpm=row.limit_rpm,
        limit_tpm=row.limit_tpm,
    )


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
