"""The keys that content is sealed under: one per tenant and UTC day. Destroying one shreds that day.

A key leaves the database sealed under the tenant's data key and never otherwise; destroyed rows stay, empty.
"""

import base64
from collections.abc import Iterable
from datetime import date
from typing import Final, NamedTuple
from uuid import UUID

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.content.models import ContentDayKey
from tenants.encryption import Sealed, seal, unseal_all
from tenants.ids import uuid7
from tenants.models import Tenant

KEY_BITS: Final = 256

type Day = tuple[UUID, date]
"""A tenant's id and a UTC day."""


class DayKey(NamedTuple):
    id: UUID
    cipher: AESGCM


def obtain(wanted: Iterable[Day]) -> dict[Day, DayKey]:
    """The living keys of these days, made where there are none."""
    days = set(wanted)
    known = {(row.tenant_id, row.day): row for row in _living(days)}
    if missing := days - known.keys():
        tenants = Tenant.objects.in_bulk({tenant_id for tenant_id, _ in missing})
        made = []
        for tenant_id, day in sorted(missing):
            row = ContentDayKey(id=uuid7(), tenant=tenants[tenant_id], day=day)
            text = base64.b64encode(AESGCM.generate_key(KEY_BITS)).decode()
            row.sealed_key = seal(text, tenant=tenants[tenant_id], context=_place(row.id))
            made.append(row)
        ContentDayKey.objects.bulk_create(made, ignore_conflicts=True)  # another worker may have been quicker
        known = {(row.tenant_id, row.day): row for row in _living(days)}
    return dict(zip(known, _opened(known.values()), strict=True))


def key_of(key_id: UUID) -> DayKey | None:
    """The key content was sealed under; None once it is destroyed. Raises SealBrokenError."""
    row = ContentDayKey.objects.filter(pk=key_id, destroyed_at__isnull=True).first()
    return None if row is None else _opened([row])[0]


def _living(days: set[Day]) -> list[ContentDayKey]:
    rows = ContentDayKey.objects.order_by().filter(
        destroyed_at__isnull=True, tenant_id__in={t for t, _ in days}, day__in={day for _, day in days}
    )
    return [row for row in rows if (row.tenant_id, row.day) in days]


def _opened(rows: Iterable[ContentDayKey]) -> list[DayKey]:
    rows = list(rows)
    texts = unseal_all(Sealed(bytes(row.sealed_key), row.tenant_id, _place(row.id)) for row in rows)
    return [DayKey(row.id, AESGCM(base64.b64decode(text))) for row, text in zip(rows, texts, strict=True)]


def _place(key_id: UUID) -> str:
    return f"gateway_contentdaykey|{key_id}|sealed_key"
