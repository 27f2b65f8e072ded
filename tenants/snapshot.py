"""Tenants and keys as plain data for the hot path, loaded whole once and by difference afterwards.

Holds digests and peppers, never a key's text. Rows are never deleted, so a difference only adds and replaces.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network
from typing import Final
from uuid import UUID

from django.conf import settings
from django.db import models

from tenants import versions
from tenants.keyring import keyring
from tenants.models import ApiKey, Tenant
from tenants.retention import open_keys
from tenants.scopes import capped, scopes_of_role

_CHUNK_ROWS: Final = 5000


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """One key. None in a limit or a set means no limit; instants are Unix seconds.

    Of a service account's key: `scopes` are within the account's role, `revoked_at` is when it was stopped.
    """

    id: UUID
    public_id: str
    digest: bytes
    pepper_id: str
    tenant_id: UUID | None
    name: str
    scopes: frozenset[str]
    allowed_models: frozenset[str] | None
    allowed_networks: tuple[IPv4Network | IPv6Network, ...]
    limit_rpm: int | None
    limit_tpm: int | None
    max_concurrent: int | None
    expires_at: float | None
    revoked_at: float | None


@dataclass(frozen=True, slots=True)
class TenantEntry:
    """One tenant. `regions` None: its data may go anywhere. Zero retention keeps no content and no names."""

    id: UUID
    slug: str
    name: str
    is_active: bool
    timezone: str
    currency: str
    regions: frozenset[str] | None
    content_days: int = 0  # 0: what its calls say is kept nowhere
    zero_retention: bool = False
    is_pseudonymous: bool = False  # its end users are recorded by pseudonym alone
    pseudonym_key: bytes | None = field(default=None, repr=False)  # of a tenant with retention settings

    @property
    def regions_text(self) -> str:
        """Its regions as ledger and log record them; "" for anywhere."""
        return "" if self.regions is None else ",".join(sorted(self.regions))


@dataclass(frozen=True, slots=True)
class TenantsSnapshot:
    """All tenants and keys as of `version` (or a little later: the next difference brings those again)."""

    version: int
    keys: Mapping[str, KeyEntry]
    tenants: Mapping[UUID, TenantEntry]
    slugs: Mapping[str, UUID]
    peppers: Mapping[str, bytes]


def load(previous: TenantsSnapshot | None = None) -> TenantsSnapshot:
    """The snapshot as of now; with `previous`, from the rows that changed since.

    The version is read before the rows, and writers commit in its order (`versions.bump`), so nothing is
    missed. `previous` is not touched: readers may go on using it.
    """
    version = versions.current()["tenants"]
    peppers = keyring(settings.TOLLHOUSE_KEY_PEPPERS, setting="TOLLHOUSE_KEY_PEPPERS")
    if previous is not None and previous.version == version:
        return previous
    since = previous.version if previous is not None else None
    changed = _load_tenants(since)
    keys = _load_keys(since)
    if previous is None:
        return TenantsSnapshot(version, keys, changed, {t.slug: t.id for t in changed.values()}, peppers)
    tenants = {**previous.tenants, **changed}
    slugs = previous.slugs if not changed else {t.slug: t.id for t in tenants.values()}
    return TenantsSnapshot(
        version, {**previous.keys, **keys} if keys else previous.keys, tenants, slugs, peppers
    )


def _since[M: models.Model](rows: models.QuerySet[M], version: int | None) -> models.QuerySet[M]:
    return rows if version is None else rows.filter(config_version__gt=version)


def _load_tenants(since: int | None) -> dict[UUID, TenantEntry]:
    rows = _since(Tenant.objects.order_by(), since).values_list(
        "id",
        "slug",
        "name",
        "status",
        "timezone",
        "currency",
        "region_policy",
        "retention__id",
        "retention__content_days",
        "retention__zero_retention",
        "retention__pseudonymize_end_users",
        "retention__pseudonym_key",
    )
    loaded = list(rows.iterator(chunk_size=_CHUNK_ROWS))
    keys = open_keys({row[0]: (row[7], bytes(row[11])) for row in loaded if row[11]})
    return {
        row[0]: TenantEntry(
            id=row[0],
            slug=row[1],
            name=row[2],
            is_active=row[3] == Tenant.Status.ACTIVE,
            timezone=_shared(row[4]),
            currency=_shared(row[5]),
            regions=_set(tuple(row[6])) if row[6] else None,
            content_days=row[8] or 0,
            zero_retention=bool(row[9]),
            is_pseudonymous=bool(row[9] or row[10]),
            pseudonym_key=keys.get(row[0]),
        )
        for row in loaded
    }


def _load_keys(since: int | None) -> dict[str, KeyEntry]:
    rows = _since(ApiKey.objects.order_by(), since).values_list(
        "id",
        "public_id",
        "digest",
        "pepper_id",
        "tenant_id",
        "name",
        "scopes",
        "allowed_models",
        "allowed_ips",
        "limit_rpm",
        "limit_tpm",
        "max_concurrent",
        "expires_at",
        "revoked_at",
        "service_account__stopped_at",
        "service_account__role",
        "service_account__custom_role__scopes",
    )
    owners: dict[UUID, UUID] = {}
    return {
        row[1]: KeyEntry(
            id=row[0],
            public_id=row[1],
            digest=bytes(row[2]),
            pepper_id=_shared(row[3]),
            tenant_id=None if row[4] is None else owners.setdefault(row[4], row[4]),
            name=_shared(row[5]),
            scopes=_set(tuple(row[6]))
            if row[15] is None
            else _capped(tuple(row[6]), row[15], _tuple(row[16])),
            allowed_models=_set(tuple(row[7])) if row[7] else None,
            allowed_networks=tuple(_network(network) for network in row[8]),
            limit_rpm=row[9],
            limit_tpm=row[10],
            max_concurrent=row[11],
            expires_at=_unix_s(row[12]),
            revoked_at=_earliest(_unix_s(row[13]), _unix_s(row[14])),
        )
        for row in rows.iterator(chunk_size=_CHUNK_ROWS)
    }


def _earliest(*instants: float | None) -> float | None:
    return min((each for each in instants if each is not None), default=None)


def _tuple(values: list[str] | None) -> tuple[str, ...] | None:
    return None if values is None else tuple(values)


def _unix_s(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


# A hundred thousand keys share a handful of scope sets, names and ranges: one object each, not one per row.


@lru_cache(maxsize=4096)
def _set(values: tuple[str, ...]) -> frozenset[str]:
    return frozenset(values)


@lru_cache(maxsize=4096)
def _capped(scopes: tuple[str, ...], role: str, own: tuple[str, ...] | None) -> frozenset[str]:
    return capped(scopes, scopes_of_role(role, own))


@lru_cache(maxsize=4096)
def _network(text: str) -> IPv4Network | IPv6Network:
    return ipaddress.ip_network(text)


@lru_cache(maxsize=4096)
def _shared(text: str) -> str:
    return text
