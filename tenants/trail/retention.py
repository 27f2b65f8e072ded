"""Forgetting: the oldest events of a chain leave, and a certified checkpoint takes their place.

Must never remove an event that is younger than a year, that a sink has not taken yet, or that stands after
one that stays. The database refuses the first of these by itself.
"""

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Max, Min

from tenants import audit, retention
from tenants.errors import ApiError
from tenants.models import (
    AuditCheckpoint,
    AuditEvent,
    AuditHead,
    AuditSink,
    AuditSinkCursor,
    RetentionSetting,
    Tenant,
)
from tenants.principal import SYSTEM, Principal
from tenants.trail.proof import PRUNE, certificate_of, latest_checkpoint

MIN_DAYS: Final = 365
BATCH: Final = 20_000


def prune(*, chain: UUID, kept_days: int, now: datetime, actor: Principal = SYSTEM) -> AuditCheckpoint | None:
    """Remove the events at the beginning of a chain that are older than `kept_days`, a batch at most.

    Returns the checkpoint that stands for them, None when there were none. The certificate is witnessed by an
    event of the chain itself. Raises ApiError invalid_request for less than a year.
    """
    if kept_days < MIN_DAYS:
        raise ApiError(
            "invalid_request", f"Audit events are kept for {MIN_DAYS} days at least.", param="audit_days"
        )
    with transaction.atomic():
        head = AuditHead.objects.select_for_update().filter(chain=chain).first()
        if head is None:
            return None
        before = latest_checkpoint(chain)
        begin = before.sequence if before else 0
        events = AuditEvent.objects.filter(chain=chain)
        young = events.filter(at__gte=now - timedelta(days=kept_days))
        first_young = young.aggregate(first=Min("sequence"))["first"]
        last = head.sequence if first_young is None else first_young - 1
        last = min(last, begin + BATCH, _taken_by_sinks(chain, default=last))
        removed = events.filter(sequence__lte=last)
        end = removed.filter(sequence=last).first()
        if last <= begin or end is None:
            return None
        span = removed.aggregate(first_at=Min("at"), last_at=Max("at"))
        tenant = None if chain == audit.OPERATOR_CHAIN else Tenant.objects.get(pk=chain)
        checkpoint = AuditCheckpoint(
            chain=chain,
            tenant=tenant,
            sequence=last,
            hash=bytes(end.hash),
            count=last - begin,
            first_at=span["first_at"],
            last_at=span["last_at"],
            kept_days=kept_days,
            removed_at=now,
        )
        checkpoint.certificate = certificate_of(
            checkpoint, bytes(before.certificate) if before else bytes(32)
        )
        checkpoint.save(force_insert=True)
        audit.record(
            principal=actor,
            action=PRUNE,
            object_type="audit_checkpoint",
            object_id=checkpoint.pk,
            tenant=tenant,
            after={
                "sequence": last,
                "count": checkpoint.count,
                "kept_days": kept_days,
                "first_at": checkpoint.first_at,
                "last_at": checkpoint.last_at,
                "certificate": bytes(checkpoint.certificate).hex(),
            },
        )
        with connection.cursor() as cursor:  # the trigger lets nobody else delete
            cursor.execute("SELECT set_config('tollhouse.audit_retention', %s, true)", [str(chain)])
            cursor.execute(
                "DELETE FROM tenants_auditevent WHERE chain = %s AND sequence <= %s", [chain, last]
            )
            cursor.execute("SELECT set_config('tollhouse.audit_retention', '', true)")
    return checkpoint


def _taken_by_sinks(chain: UUID, default: int) -> int:
    """The last event that every sink in use has taken; `default` where none has this chain."""
    cursors = AuditSinkCursor.objects.filter(chain=chain, sink__is_enabled=True)
    taken: int | None = cursors.aggregate(taken=Min("sequence"))["taken"]
    waiting = AuditSink.objects.filter(is_enabled=True, has_all_chains=True).exclude(cursors__chain=chain)
    if waiting.exists():  # it has not begun with this chain
        return 0
    return default if taken is None else taken


def prune_due(*, now: datetime) -> list[AuditCheckpoint]:
    """One batch of each chain whose owner lets old events go, but of no tenant on whom a legal hold stands.

    The operator's own chain goes by TOLLHOUSE_AUDIT_DAYS (0: kept for good). Each chain is a transaction.
    """
    days_of: dict[UUID, int | None] = dict(
        RetentionSetting.objects.filter(audit_days__isnull=False).values_list("tenant_id", "audit_days")
    )
    if settings.TOLLHOUSE_AUDIT_DAYS:
        days_of[audit.OPERATOR_CHAIN] = max(settings.TOLLHOUSE_AUDIT_DAYS, MIN_DAYS)
    made = []
    for chain, days in days_of.items():
        with transaction.atomic():
            retention.deletion_lock()
            if days is not None and chain not in retention.held_tenants():
                made.append(prune(chain=chain, kept_days=days, now=now))
    return [checkpoint for checkpoint in made if checkpoint is not None]
