"""Reading stored content: for who may, with an audit event for every look. Must never be read in any other way."""

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from uuid import UUID

from django.db import transaction

from gateway.content.day_keys import key_of
from gateway.content.models import ContentDayKey, StoredContent
from gateway.content.seal import Texts, opened
from tenants import audit
from tenants.errors import ApiError
from tenants.ids import instant_of
from tenants.models import Tenant
from tenants.principal import Principal
from tenants.retention import setting_of

SCOPE = "content:read"


@dataclass(frozen=True, slots=True)
class Content:
    """One call's content. `kept_until` is when its day is shredded, unless a legal hold stands."""

    texts: Texts
    kept_until: datetime
    kept_in: str
    shadows: tuple[tuple[UUID, Texts], ...] = ()  # for the operator: what mirrored calls answered


def is_kept(request_id: UUID, *, tenant: Tenant) -> bool:
    """Whether there is content of this call that could be read. Reads none."""
    row = _row(request_id, tenant)
    return (
        row is not None
        and ContentDayKey.objects.filter(pk=row.day_key_id, destroyed_at__isnull=True).exists()
    )


def read(*, request_id: UUID, tenant: Tenant, principal: Principal, reason: str) -> Content | None:
    """The content of one call, recorded as an access; None where none is kept (any more).

    Raises ApiError: permission_denied without the scope; invalid_request where the operator's staff give no reason.
    """
    if not principal.can(SCOPE, tenant.id):
        raise ApiError("permission_denied", f"This needs the scope {SCOPE!r}.")
    is_member = tenant.id in principal.tenant_scopes
    if not is_member and not reason.strip():
        raise ApiError(
            "invalid_request", "Say why you look at a tenant's content.", param="X-Tollhouse-Reason"
        )
    row = _row(request_id, tenant)
    texts = None if row is None else _texts(row)
    if row is None or texts is None:
        return None
    with transaction.atomic():
        audit.record(
            principal=principal,
            action="content.access",
            object_type="content",
            object_id=request_id,
            tenant=tenant,
            after={"what": "request and answer shown"},
            reason=reason,
        )
    day = row.occurred_at.astimezone(UTC).date()
    days = setting_of(tenant).content_days
    return Content(
        texts,
        kept_until=datetime.combine(day + timedelta(days=days + 1), time(), UTC),
        kept_in=row.kept_in,
        shadows=() if is_member else tuple(_shadows(request_id, tenant)),
    )


def _shadows(request_id: UUID, tenant: Tenant) -> list[tuple[UUID, Texts]]:
    rows = StoredContent.objects.filter(
        of_request_id=request_id, tenant=tenant, occurred_at__gte=instant_of(request_id)
    )
    return [(row.request_id, texts) for row in rows if (texts := _texts(row)) is not None]


def _row(request_id: UUID, tenant: Tenant) -> StoredContent | None:
    if request_id.version != 7:
        return None
    rows = StoredContent.objects.filter(occurred_at=instant_of(request_id), request_id=request_id)
    return rows.filter(tenant=tenant, kind="usage").first()


def _texts(row: StoredContent) -> Texts | None:
    key = key_of(row.day_key_id)
    if key is None:
        return None
    return opened(bytes(row.sealed), key.cipher, tenant_id=row.tenant_id, request_id=row.request_id)
