"""Deletion certificates: one row for everything retention has deleted, in the transaction of the deletion itself.

Hash-chained per tenant, append-only by trigger, and named in the audit trail. A certificate proves what the
program deleted and that nobody has altered the statement since; it cannot speak for backups (docs/retention.md).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, Final
from uuid import UUID

from django.db import connection

from gateway.content.models import DeletionCertificate
from tenants import audit
from tenants.models import AuditEvent
from tenants.principal import SYSTEM

DataClass = DeletionCertificate.DataClass
Method = DeletionCertificate.Method
INSTALLATION: Final = UUID(int=0)
ACTION: Final = "deletion_certificate.issue"
_LOCK: Final = 0x63657274  # advisory lock of everybody who issues certificates


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted:
    """What was deleted. `tenant_id` None: it concerns the whole installation."""

    tenant_id: UUID | None
    data_class: str
    method: str
    rows: int
    rule: str
    day: date | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


def issue(deleted: Sequence[Deleted], *, now: datetime) -> list[DeletionCertificate]:
    """Certify what the caller's transaction deletes, and say so in the audit trail.

    The event stands in the tenant's chain where all concerns one tenant, else in the operator's.
    """
    if not deleted:
        return []
    if not connection.in_atomic_block:
        msg = "issue() belongs into the transaction of the deletion"
        raise RuntimeError(msg)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
    heads = _heads({each.tenant_id or INSTALLATION for each in deleted})
    rows = []
    for each in deleted:
        chain = each.tenant_id or INSTALLATION
        sequence, previous = heads.get(chain, (0, bytes(32)))
        row = DeletionCertificate(
            chain=chain,
            sequence=sequence + 1,
            tenant_id=each.tenant_id,
            issued_at=now,
            data_class=each.data_class,
            day=each.day,
            method=each.method,
            rows=each.rows,
            rule=each.rule,
            details=dict(each.details),
            previous_hash=previous,
        )
        row.hash = hash_of(row)
        heads[chain] = row.sequence, row.hash
        rows.append(row)
    DeletionCertificate.objects.bulk_create(rows)
    _audit(rows)
    return rows


def hash_of(row: DeletionCertificate) -> bytes:
    """SHA-256 over the statement and its predecessor's hash."""
    content = [
        str(row.chain),
        row.sequence,
        row.issued_at.astimezone(UTC).isoformat(),
        row.data_class,
        row.day.isoformat() if row.day else None,
        row.method,
        row.rows,
        row.rule,
        row.details,
        bytes(row.previous_hash).hex(),
    ]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).digest()


def verify(chain: UUID | None = None) -> list[str]:
    """Walk one chain, or all; what is wrong with them, in words. Empty: they hold."""
    rows = DeletionCertificate.objects.order_by("chain", "sequence")
    if chain is not None:
        rows = rows.filter(chain=chain)
    errors: list[str] = []
    at: UUID | None = None
    sequence, previous = 0, bytes(32)
    for row in rows.iterator(chunk_size=1000):
        if row.chain != at:
            at, sequence, previous = row.chain, 0, bytes(32)
        if row.sequence != sequence + 1:
            errors.append(f"{at}: certificate {sequence + 1} is missing")
        elif bytes(row.previous_hash) != previous:
            errors.append(f"{at}: certificate {row.sequence} does not follow certificate {sequence}")
        if hash_of(row) != bytes(row.hash):
            errors.append(f"{at}: certificate {row.sequence} was altered")
        sequence, previous = row.sequence, bytes(row.hash)
    return errors + _lost(chain)


def _lost(chain: UUID | None) -> list[str]:
    """Certificates that the audit trail names, and that are gone: what the end of a chain cannot tell itself."""
    events = AuditEvent.objects.order_by("chain", "sequence").filter(action=ACTION)
    if chain is not None:
        events = events.filter(chain=chain)
    named = {UUID(object_id): owner for object_id, owner in events.values_list("object_id", "chain")}
    left = set(DeletionCertificate.objects.filter(id__in=named).values_list("id", flat=True))
    return [
        f"{owner}: certificate {each} of the audit trail is missing"
        for each, owner in named.items()
        if each not in left
    ]


def document(row: DeletionCertificate) -> dict[str, Any]:
    """A certificate as it is exported."""
    return {
        "id": str(row.id),
        "chain": str(row.chain),
        "sequence": row.sequence,
        "issued_at": row.issued_at.astimezone(UTC).isoformat(),
        "data_class": row.data_class,
        "day": row.day.isoformat() if row.day else None,
        "method": row.method,
        "rows": row.rows,
        "rule": row.rule,
        "details": row.details,
        "previous_hash": bytes(row.previous_hash).hex(),
        "hash": bytes(row.hash).hex(),
    }


def _heads(chains: set[UUID]) -> dict[UUID, tuple[int, bytes]]:
    last = (
        DeletionCertificate.objects.filter(chain__in=chains)
        .order_by("chain", "-sequence")
        .distinct("chain")
        .values_list("chain", "sequence", "hash")
    )
    return {chain: (sequence, bytes(digest)) for chain, sequence, digest in last}


def _audit(rows: Sequence[DeletionCertificate]) -> None:
    first = rows[0]
    tenant = None if len({row.chain for row in rows}) > 1 else first.tenant
    audit.record(
        principal=SYSTEM,
        action=ACTION,
        object_type="deletion_certificate",
        object_id=first.id,
        tenant=tenant,
        after={
            "certificates": len(rows),
            "data_class": first.data_class,
            "method": first.method,
            "day": None if first.day is None else first.day.isoformat(),
            "rows": sum(row.rows for row in rows if row.tenant_id) or first.rows,
            "rule": first.rule,
            "hash": hashlib.sha256(b"".join(bytes(row.hash) for row in rows)).hexdigest(),
        },
    )
