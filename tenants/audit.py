"""The audit trail: one event per write, hash-chained per tenant, in the transaction of the write itself.

Must never hold a secret, and must never be skipped: if the event cannot be written, neither is the change.
The chain proves that no event was altered, dropped or reordered since: see tenants/trail/proof.py.
"""

import contextlib
import hashlib
import ipaddress
import json
import math
import re
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from django.db import connection, transaction
from django.http import HttpRequest
from django.utils import timezone

from tenants.errors import ApiError
from tenants.models import AuditEvent, AuditHead, Tenant
from tenants.principal import Principal

OPERATOR_CHAIN: Final = UUID(int=0)
MASK: Final = "***"
_SECRET_NAME: Final = re.compile(
    r"(^|_)(secret|password|passphrase|token|api_key|private_key|digest|wrapped|authorization|pepper)$",
    re.IGNORECASE,
)
_SECRET_VALUE: Final = re.compile(r"\bth_[0-9A-Za-z]{12}_[0-9A-Za-z]{20,}")
_MAX_REASON_CHARACTERS: Final = 500
_FLOAT_INTEGERS_FROM: Final = 1e16  # from here on Python prints an exponent, and jsonb gives back an integer

type Json = bool | int | float | str | list[Json] | dict[str, Json] | None


@dataclass(slots=True)
class Origin:
    """Where the writes of this request come from and why, and how many events they have left so far."""

    ip: str | None = None
    request_id: str = ""
    reason: str = ""
    events: int = 0


_origin: ContextVar[Origin | None] = ContextVar("tollhouse_audit_origin", default=None)


@contextlib.contextmanager
def origin(*, ip: str | None, request_id: str, reason: str = "") -> Iterator[Origin]:
    """Set by an entrance (API, console): every `record` inside takes address, request id and reason from here."""
    outer = _origin.get()  # a console form acts through a resource of the API: what is left inside counts
    if outer is not None:
        ip, request_id, reason = ip or outer.ip, request_id or outer.request_id, reason or outer.reason
    here = Origin(ip=ip, request_id=request_id, reason=reason)
    token = _origin.set(here)
    try:
        yield here
    finally:
        _origin.reset(token)
        if outer is not None:
            outer.events += here.events


def client_ip(request: HttpRequest) -> str | None:
    """The peer's address; None behind a unix socket. Forwarded headers are the server's business."""
    try:
        return str(ipaddress.ip_address(request.META.get("REMOTE_ADDR") or ""))
    except ValueError:
        return None


def reason_here() -> str:
    """Why, as the entrance was told; empty where nobody said."""
    here = _origin.get()
    return here.reason if here is not None else ""


def reason_given(request: HttpRequest) -> str:
    """Why, in the header X-Tollhouse-Reason (UTF-8). Raises ApiError invalid_request: too long, unprintable."""
    header = request.headers.get("X-Tollhouse-Reason", "")
    with contextlib.suppress(UnicodeError):  # headers come as Latin-1; what is no UTF-8 was meant as it is
        header = header.encode("latin-1").decode()
    header = header.strip()
    if len(header) > _MAX_REASON_CHARACTERS or not header.isprintable():
        raise ApiError(
            "invalid_request",
            f"A reason is at most {_MAX_REASON_CHARACTERS} printable characters.",
            param="X-Tollhouse-Reason",
        )
    return header


def reason_typed(request: HttpRequest) -> str:
    """Why, in the field `reason` of a console form, in one line; cut where the form let more through."""
    typed = request.POST.get("reason", "") if request.method == "POST" else ""
    line = " ".join(str(typed).split())
    return "".join(filter(str.isprintable, line))[:_MAX_REASON_CHARACTERS]


def record(
    *,
    principal: Principal,
    action: str,
    object_type: str,
    object_id: object,
    tenant: Tenant | None,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    ip: str | None = None,
    request_id: str = "",
    reason: str = "",
    at: datetime | None = None,
) -> AuditEvent:
    """Append one event to the tenant's chain (the operator's when `tenant` is None) and return it.

    Holds the chain's row lock until the caller's transaction ends. Secrets are masked. Values that JSON
    does not know are written as text.
    """
    if not connection.in_atomic_block:
        msg = "record() belongs into the transaction of the change"
        raise RuntimeError(msg)
    here = _origin.get()
    if here is not None:
        here.events += 1
        ip, request_id = ip or here.ip, request_id or here.request_id
        reason = reason or here.reason
    chain = tenant.id if tenant else OPERATOR_CHAIN
    AuditHead.objects.bulk_create([AuditHead(chain=chain)], ignore_conflicts=True)
    head = AuditHead.objects.select_for_update().get(chain=chain)
    event = AuditEvent(
        chain=chain,
        sequence=head.sequence + 1,
        at=at or timezone.now(),
        tenant=tenant,
        actor_kind=principal.kind,
        actor_id=principal.id,
        actor_label=principal.label,
        action=action,
        object_type=object_type,
        object_id=str(object_id),
        before=None if before is None else masked(before),
        after=None if after is None else masked(after),
        ip=ip,
        request_id=request_id,
        reason=_SECRET_VALUE.sub(MASK, reason),
        previous_hash=bytes(head.hash),
    )
    event.hash = hash_of(event)
    event.save(force_insert=True)
    AuditHead.objects.filter(chain=chain).update(sequence=event.sequence, hash=event.hash)
    return event


def record_access(
    *, principal: Principal, object_type: str, object_id: object, tenant: Tenant | None, what: str
) -> AuditEvent:
    """Append `<object_type>.access`: somebody was given, or made use of, a secret or stored content.

    Call it before the secret leaves; it commits with the caller's transaction, or in one of its own. `what`
    says in a few words which part and how ("shown", "tested against the provider"), never the secret.
    """
    with transaction.atomic():
        return record(
            principal=principal,
            action=f"{object_type}.access",
            object_type=object_type,
            object_id=object_id,
            tenant=tenant,
            after={"what": what},
        )


def masked(value: object, name: str = "") -> Json:
    """`value` as plain JSON that survives jsonb unchanged, secrets replaced by `MASK`."""
    if name and _SECRET_NAME.search(name) and value not in (None, ""):
        return MASK
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        return int(value) if abs(value) >= _FLOAT_INTEGERS_FROM else value + 0.0
    if isinstance(value, Mapping):
        return {str(key): masked(item, str(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [masked(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return [masked(item) for item in sorted(value)]
    if isinstance(value, (bytes, memoryview)):
        return MASK
    return _SECRET_VALUE.sub(MASK, str(value))


def hash_of(event: AuditEvent) -> bytes:
    """SHA-256 over the event's content and its predecessor's hash."""
    content = [
        str(event.chain),
        event.sequence,
        event.at.astimezone(UTC).isoformat(),
        str(event.tenant_id) if event.tenant_id else None,
        event.actor_kind,
        str(event.actor_id) if event.actor_id else None,
        event.actor_label,
        event.action,
        event.object_type,
        event.object_id,
        event.before,
        event.after,
        event.ip,
        event.request_id,
        bytes(event.previous_hash).hex(),
    ]
    if event.reason:  # events from before there were reasons keep the hash they have
        content.append(event.reason)
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).digest()
