"""What a tenant keeps and for how long, and legal holds: verbs that are audited and announced to the workers.

Deletes nothing itself. Whoever deletes takes `deletion_lock` first and leaves out what `held_tenants` names, so
that no deletion runs past a hold that stands. Money and meters know no retention: they are never shortened.
"""

import base64
import os
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import connection, transaction

from tenants import audit, versions
from tenants.encryption import Sealed, seal, unseal_all
from tenants.errors import ApiError
from tenants.ids import uuid7
from tenants.models import LegalHold, RetentionSetting, Tenant
from tenants.principal import Principal
from tenants.pseudonyms import KEY_BYTES

FIELDS: Final = (
    "content_days",
    "zero_retention",
    "pseudonymize_end_users",
    "request_log_days",
    "audit_days",
    "artifacts_days",
)
_DELETIONS: Final = 0x686F6C64  # advisory lock of everybody who deletes by retention, or stops it


def setting_of(tenant: Tenant) -> RetentionSetting:
    """The tenant's choices; an unsaved row with the defaults where it has made none."""
    return RetentionSetting.objects.filter(tenant=tenant).first() or RetentionSetting(tenant=tenant)


def change_setting(*, tenant: Tenant, changes: Mapping[str, Any], actor: Principal) -> RetentionSetting:
    """Change some of FIELDS. Raises ApiError invalid_request with `param`.

    Zero retention puts content to 0 days by itself; content days together with it are refused.
    """
    unknown = changes.keys() - set(FIELDS)
    if unknown:
        raise ApiError("invalid_request", "This cannot be changed.", param=min(unknown))
    with transaction.atomic():
        version = versions.bump("tenants")
        row = _locked(tenant)
        before = picture(row)
        for name, value in changes.items():
            setattr(row, name, value)
        if row.zero_retention and "content_days" not in changes:
            row.content_days = 0
        _check(row)
        row.save()
        Tenant.objects.filter(pk=tenant.pk).update(config_version=version)
        audit.record(
            principal=actor,
            action="retention.update",
            object_type="retention",
            object_id=tenant.slug,
            tenant=tenant,
            before=before,
            after=picture(row),
        )
    return row


def picture(row: RetentionSetting) -> dict[str, Any]:
    """The choices by name."""
    return {name: getattr(row, name) for name in FIELDS}


def pseudonym_key(tenant: Tenant) -> bytes:
    """The key of the tenant's pseudonyms, made where there is none."""
    row = RetentionSetting.objects.filter(tenant=tenant).first()
    if row is None or not row.pseudonym_key:
        with transaction.atomic():
            row = _locked(tenant)
    return open_keys({tenant.id: (row.id, bytes(row.pseudonym_key))})[tenant.id]


def open_keys(sealed: Mapping[UUID, tuple[UUID, bytes]]) -> dict[UUID, bytes]:
    """Pseudonym keys by tenant, from each setting's id and sealed key, in one query. Raises SealBrokenError."""
    if not sealed:
        return {}
    values = [Sealed(blob, tenant_id, _place(row_id)) for tenant_id, (row_id, blob) in sealed.items()]
    return dict(zip(sealed, map(base64.b64decode, unseal_all(values)), strict=True))


def _place(setting_id: UUID) -> str:
    """What a pseudonym key is bound to."""
    return f"tenants_retentionsetting|{setting_id}|pseudonym_key"


def _locked(tenant: Tenant) -> RetentionSetting:
    """The tenant's row, locked; made with its key where there is none."""
    row = RetentionSetting.objects.select_for_update().filter(tenant=tenant).first()
    if row is None:
        made = RetentionSetting(id=uuid7(), tenant=tenant)
        made.pseudonym_key = _new_key(made)
        RetentionSetting.objects.bulk_create([made], ignore_conflicts=True)
        row = RetentionSetting.objects.select_for_update().get(tenant=tenant)
    return row


def _new_key(row: RetentionSetting) -> bytes:
    text = base64.b64encode(os.urandom(KEY_BYTES)).decode()
    return seal(text, tenant=row.tenant, context=_place(row.id))


def _check(row: RetentionSetting) -> None:
    if row.zero_retention and row.content_days:
        raise ApiError("invalid_request", "Zero retention keeps no content.", param="content_days")
    try:
        row.clean_fields(exclude=("tenant",))
    except ValidationError as error:
        name, messages = next(iter(error.message_dict.items()))
        raise ApiError("invalid_request", messages[0], param=name) from error
    for name, most in (
        ("content_days", settings.TOLLHOUSE_MAX_CONTENT_DAYS),
        ("request_log_days", settings.TOLLHOUSE_REQUEST_LOG_DAYS),
        ("artifacts_days", settings.TOLLHOUSE_ARTIFACTS_DAYS),
    ):
        if (getattr(row, name) or 0) > most:
            raise ApiError("invalid_request", f"The operator keeps it for {most} days at most.", param=name)


# ------------------------------------------------------------------ legal holds


def place_hold(*, tenant: Tenant, reason: str, actor: Principal, now: datetime) -> LegalHold:
    """Stop every deletion of the tenant's data. Waits for a deletion under way. Raises ApiError invalid_request."""
    reason = " ".join(reason.split())
    if not reason or len(reason) > 500 or not reason.isprintable():
        raise ApiError("invalid_request", "Say why, in 1 to 500 characters.", param="reason")
    with transaction.atomic():
        deletion_lock()
        hold = LegalHold.objects.create(
            tenant=tenant, reason=reason, since=now, placed_by=actor.label, is_operators=actor.is_operator
        )
        _record_hold("legal_hold.place", hold, actor, before=None)
    return hold


def release_hold(*, hold: LegalHold, actor: Principal, now: datetime) -> LegalHold:
    """Lift a hold. Raises ApiError: conflict when it is lifted, permission_denied for the operator's own."""
    with transaction.atomic():
        row = LegalHold.objects.select_for_update().select_related("tenant").get(pk=hold.pk)
        if row.released_at is not None:
            raise ApiError("conflict", "This hold has been lifted before.")
        if row.is_operators and not actor.is_operator:
            raise ApiError("permission_denied", "The operator has placed this hold and alone may lift it.")
        before = hold_picture(row)
        row.released_at, row.released_by = now, actor.label
        row.save(update_fields=("released_at", "released_by", "updated_at"))
        _record_hold("legal_hold.release", row, actor, before=before)
    return row


def hold_picture(hold: LegalHold) -> dict[str, Any]:
    """A hold as the audit trail shows it."""
    return {
        "reason": hold.reason,
        "since": hold.since.isoformat(),
        "is_operators": hold.is_operators,
        "released_at": None if hold.released_at is None else hold.released_at.isoformat(),
    }


def is_held(tenant_id: UUID) -> bool:
    """Whether a hold stands on the tenant."""
    return LegalHold.objects.filter(tenant_id=tenant_id, released_at__isnull=True).exists()


def held_tenants() -> frozenset[UUID]:
    """Tenants on which a hold stands."""
    return frozenset(
        LegalHold.objects.order_by().filter(released_at__isnull=True).values_list("tenant_id", flat=True)
    )


def deletion_lock() -> None:
    """Held until the transaction ends by whoever deletes, and by whoever places a hold."""
    if not connection.in_atomic_block:
        msg = "deletion_lock() belongs into a transaction"
        raise RuntimeError(msg)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_DELETIONS])


def _record_hold(action: str, hold: LegalHold, actor: Principal, *, before: Mapping[str, Any] | None) -> None:
    audit.record(
        principal=actor,
        action=action,
        object_type="legal_hold",
        object_id=hold.pk,
        tenant=hold.tenant,
        before=before,
        after=hold_picture(hold),
    )
