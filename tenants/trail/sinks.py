"""Audit sinks: other systems that are sent the trail as it grows, in order and at least once.

A cursor per sink and chain says what was taken; it moves only when the receiver has taken a batch, and never
back, so nothing is lost while a receiver is down. A sink's secret must never leave but in the answer that made it.
"""

import logging
import socket
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, assert_never
from urllib.parse import urlsplit
from uuid import UUID

import orjson
from django.conf import settings
from django.core.cache import cache
from django.db import transaction
from django.db.models import F, Q, Sum
from django.db.models.functions import Greatest

from tenants import audit, egress, webhooks
from tenants.encryption import SealBrokenError, seal, unseal
from tenants.errors import ApiError
from tenants.ids import uuid7
from tenants.models import AuditEvent, AuditHead, AuditSink, AuditSinkCursor, Tenant
from tenants.principal import SYSTEM, Principal
from tenants.trail import syslog
from tenants.trail.export import as_json
from tenants.trail.proof import latest_checkpoint

logger = logging.getLogger(__name__)

LEASE: Final = timedelta(seconds=60)
BATCH: Final = 200
BATCHES: Final = 20
MAX_BATCH_BYTES: Final = 512 * 1024
TIMEOUT_S: Final = 10.0
TEST_EVERY_S: Final = 10
_SLOWEST: Final = 3
"""Retries go on for ever: from the third on, every half hour (webhooks.RETRY_AFTER_S)."""


class NotTakenError(Exception):
    """The receiver did not take a batch. `is_gone`: it asks never to be called again."""

    def __init__(self, message: str, *, retry_after_s: float | None = None, is_gone: bool = False) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.is_gone = is_gone


@dataclass(frozen=True, slots=True)
class Made:
    """A sink and, once, the text of its signing secret (empty for syslog, which has none)."""

    sink: AuditSink
    secret: str


# ------------------------------------------------------------------ verbs


def add_sink(
    *,
    tenant: Tenant | None,
    name: str,
    kind: str,
    target: str,
    actor: Principal,
    now: datetime,
    ca_certificate: str = "",
    has_all_chains: bool = False,
    is_from_start: bool = False,
) -> Made:
    """Send the trail there from now on, or from its first event that is still kept.

    Raises ApiError: url_not_allowed about `target`, invalid_request for all chains of a tenant.
    """
    if tenant is not None and has_all_chains:
        raise ApiError("invalid_request", "A tenant has one chain.", param="has_all_chains")
    sink = AuditSink(
        id=uuid7(), tenant=tenant, name=name, kind=kind, target=target, ca_certificate=ca_certificate,
        has_all_chains=has_all_chains, next_at=now,
    )  # fmt: skip
    _check_target(sink)
    secret = ""
    with transaction.atomic():
        if kind == AuditSink.Kind.WEBHOOK:
            secret = webhooks.new_secret()
            sink.sealed = _seal(sink, [webhooks.SigningSecret(secret)])
        sink.save(force_insert=True)
        chains = _heads(sink)
        AuditSinkCursor.objects.bulk_create(
            AuditSinkCursor(sink=sink, chain=chain, sequence=0 if is_from_start else sequence)
            for chain, sequence in (chains or {_chain(sink): 0}).items()
        )
        _record("create", sink, actor, after=_picture(sink))
    return Made(sink, secret)


def change_sink(*, sink: AuditSink, changes: Mapping[str, Any], actor: Principal, now: datetime) -> AuditSink:
    """Change name, target, ca_certificate or is_enabled; whatever failed is tried again at once.

    Raises ApiError url_not_allowed about `target`.
    """
    with transaction.atomic():
        held = AuditSink.objects.select_for_update(of=("self",)).select_related("tenant").get(pk=sink.pk)
        before = _picture(held)
        for name, value in changes.items():
            setattr(held, name, value)
        _check_target(held)
        held.next_at, held.failures, held.last_error = now, 0, ""
        held.save()
        after = _picture(held)
        moved = [name for name in after if after[name] != before[name]]
        _record(
            "update", held, actor,
            before={name: before[name] for name in moved}, after={name: after[name] for name in moved},
        )  # fmt: skip
    return held


def remove_sink(*, sink: AuditSink, actor: Principal) -> None:
    """Send nothing there any more; its secret and cursors are deleted."""
    with transaction.atomic():
        _record("delete", sink, actor, before=_picture(sink) | {"lag": lags_of([sink])[sink.pk]})
        AuditSink.objects.filter(pk=sink.pk).delete()


def rotate_secret(*, sink: AuditSink, grace_s: int, actor: Principal, now: datetime) -> Made:
    """A new signing secret; messages carry both signatures for `grace_s`.

    Raises ApiError invalid_request for syslog, or a grace out of range.
    """
    if sink.kind != AuditSink.Kind.WEBHOOK:
        raise ApiError("invalid_request", "Only webhooks are signed.")
    if not 0 <= grace_s <= webhooks.MAX_GRACE_S:
        limit = webhooks.MAX_GRACE_S
        raise ApiError("invalid_request", f"grace_s must be between 0 and {limit}.", param="grace_s")
    with transaction.atomic():
        held = AuditSink.objects.select_for_update(of=("self",)).select_related("tenant").get(pk=sink.pk)
        secret = webhooks.new_secret()
        held.sealed = _seal(held, webhooks.rotate(_secrets(held), secret, now=now, grace_s=grace_s))
        held.save(update_fields=("sealed", "updated_at"))
        _record("rotate", held, actor, after={"grace_s": grace_s})
    return Made(held, secret)


def try_out(*, sink: AuditSink, actor: Principal, now: datetime) -> str:
    """Send a message without events now; returns why it was not taken, empty when it was.

    Raises ApiError rate_limit_exceeded within ten seconds of another.
    """
    if not cache.add(f"tenants:audit-sink-test:{sink.pk}", 1, timeout=TEST_EVERY_S):
        raise ApiError("rate_limit_exceeded", "One test in ten seconds.", retry_after_s=TEST_EVERY_S)
    failure = ""
    try:
        _send(sink, _chain(sink), [], now)
    except NotTakenError as error:
        failure = str(error)
    with transaction.atomic():
        _record("test", sink, actor, after={"taken": not failure, "error": failure})
    return failure


# ------------------------------------------------------------------ delivery


def due_sinks(*, now: datetime) -> list[UUID]:
    """Sinks that may be tried now and have something to take."""
    sinks = list(_free(now).filter(next_at__lte=now, is_enabled=True).order_by("next_at"))
    lags = lags_of(sinks)
    return [sink.pk for sink in sinks if lags[sink.pk] > 0]


def deliver(*, sink_id: UUID, clock: Callable[[], datetime], draw: float) -> int:
    """Send what a sink has not taken yet, batch by batch in order; returns how many events it took.

    Leased first, so that two deliverers do not send beside each other; whoever dies leaves a lease that ends,
    and its batch is sent again. Stops at the first batch that is not taken. Not to be called in a transaction.
    """
    sink = _lease(sink_id, clock())
    if sink is None:
        return 0
    taken = 0
    try:
        for _ in range(BATCHES):
            batch = _next_batch(sink)
            if batch is None:
                break
            chain, events = batch
            _send(sink, chain, events, clock())
            taken += len(events)
            _book(sink, chain, events[-1].sequence, clock())
    except NotTakenError as error:
        _book_failure(sink, error, clock(), draw)
    else:
        AuditSink.objects.filter(pk=sink.pk).update(lease_until=None)
    return taken


def lags_of(sinks: Iterable[AuditSink]) -> dict[UUID, int]:
    """How many events each sink has not taken yet."""
    sinks = list(sinks)
    cursors: dict[UUID, int] = dict(
        AuditSinkCursor.objects.filter(sink__in=sinks)
        .values_list("sink")
        .annotate(taken=Sum("sequence"))
        .values_list("sink", "taken")
    )
    ends = dict(AuditHead.objects.values_list("chain", "sequence"))
    everything = sum(ends.values())
    return {
        sink.pk: (everything if sink.has_all_chains else ends.get(_chain(sink), 0)) - cursors.get(sink.pk, 0)
        for sink in sinks
    }


def _free(now: datetime) -> Any:
    return AuditSink.objects.filter(Q(lease_until__isnull=True) | Q(lease_until__lte=now))


def _lease(sink_id: UUID, now: datetime) -> AuditSink | None:
    with transaction.atomic():
        free = _free(now).filter(pk=sink_id, is_enabled=True, next_at__lte=now)
        found: AuditSink | None = (
            free.select_for_update(skip_locked=True, of=("self",)).select_related("tenant").first()
        )
        if found is not None:
            found.lease_until = now + LEASE
            found.save(update_fields=("lease_until",))
    return found


def _next_batch(sink: AuditSink) -> tuple[UUID, list[AuditEvent]] | None:
    taken = dict(sink.cursors.values_list("chain", "sequence"))
    for chain, end in sorted(_heads(sink).items()):
        after = taken.get(chain, 0)
        if end <= after:
            continue
        checkpoint = latest_checkpoint(chain)
        after = max(after, checkpoint.sequence if checkpoint else 0)
        rows = AuditEvent.objects.filter(chain=chain, sequence__gt=after).select_related("tenant")
        events: list[AuditEvent] = []
        size = 0
        for event in rows.order_by("sequence")[:BATCH]:
            size += len(orjson.dumps(as_json(event)))
            if events and size > MAX_BATCH_BYTES:
                break
            events.append(event)
        if events:
            return chain, events
    return None


def _heads(sink: AuditSink) -> dict[UUID, int]:
    heads = AuditHead.objects.all() if sink.has_all_chains else AuditHead.objects.filter(chain=_chain(sink))
    return dict(heads.values_list("chain", "sequence"))


def _chain(sink: AuditSink) -> UUID:
    return sink.tenant_id or audit.OPERATOR_CHAIN


def _book(sink: AuditSink, chain: UUID, sequence: int, now: datetime) -> None:
    with transaction.atomic():
        AuditSinkCursor.objects.get_or_create(sink=sink, chain=chain)
        AuditSinkCursor.objects.filter(sink=sink, chain=chain).update(
            sequence=Greatest(F("sequence"), sequence)
        )
        AuditSink.objects.filter(pk=sink.pk).update(
            delivered_at=now, failures=0, last_error="", lease_until=now + LEASE
        )


def _book_failure(sink: AuditSink, error: NotTakenError, now: datetime, draw: float) -> None:
    with transaction.atomic():
        held = AuditSink.objects.select_for_update(of=("self",)).filter(pk=sink.pk).first()
        if held is None:
            return
        held.failures += 1
        following = webhooks.next_attempt_at(
            attempts=min(held.failures, _SLOWEST), now=now, draw=draw, retry_after_s=error.retry_after_s
        )
        held.next_at = following or now
        held.last_error, held.lease_until = str(error)[:300], None
        held.is_enabled = held.is_enabled and not error.is_gone
        held.save()
        if error.is_gone:
            _record("gone", sink, SYSTEM, before={"is_enabled": True}, after={"is_enabled": False})
    logger.warning("audit sink %s did not take its events: %s", sink.pk, error)


# ------------------------------------------------------------------ sending


def _send(sink: AuditSink, chain: UUID, events: Sequence[AuditEvent], now: datetime) -> None:
    """Raises NotTakenError."""
    try:
        match AuditSink.Kind(sink.kind):
            case AuditSink.Kind.WEBHOOK:
                _send_webhook(sink, chain, events, now)
            case AuditSink.Kind.SYSLOG:
                _send_syslog(sink, chain, events, now)
            case kind:
                assert_never(kind)
    except ApiError as error:  # also a name that does not resolve now, which may pass
        raise NotTakenError(error.message) from error
    except (egress.EgressError, syslog.SyslogError) as error:
        raise NotTakenError(str(error)) from error
    except SealBrokenError as error:
        raise NotTakenError("The signing secret cannot be opened.") from error


def _send_webhook(sink: AuditSink, chain: UUID, events: Sequence[AuditEvent], now: datetime) -> None:
    """A batch has the same id whenever it is the same events. Raises NotTakenError and what egress raises."""
    span = f"{events[0].sequence}_{events[-1].sequence}" if events else f"test_{int(now.timestamp())}"
    body = orjson.dumps(
        {
            "type": "audit.events" if events else "audit.test",
            "timestamp": now.astimezone(UTC).isoformat().replace("+00:00", "Z"),
            "data": {"chain": str(chain), "events": [as_json(event) for event in events]},
        }
    )
    signed = webhooks.sign(
        message_id=f"{sink.pk.hex}_{chain.hex}_{span}",
        at=now,
        body=body,
        secrets=webhooks.in_force(_secrets(sink), now),
    )
    reply = egress.fetch(
        "POST",
        sink.target,
        allow_private_hosts=_allowed(sink),
        headers=(("Content-Type", "application/json"), ("User-Agent", "Tollhouse-Webhooks/1"), *signed),
        body=body,
        timeout_s=TIMEOUT_S,
        max_bytes=64 * 1024,
        is_cut_allowed=True,
    )
    if not 200 <= reply.status < 300:
        asked = reply.headers.get("retry-after", "")
        raise NotTakenError(
            f"The receiver answered {reply.status}.",
            retry_after_s=float(asked) if asked.isascii() and asked.isdecimal() and len(asked) < 8 else None,
            is_gone=reply.status == 410,
        )


def _send_syslog(sink: AuditSink, chain: UUID, events: Sequence[AuditEvent], now: datetime) -> None:
    host = urlsplit(settings.PUBLIC_URL).hostname or socket.gethostname()
    messages = [
        syslog.message(
            at=event.at, host=host, action=event.action, chain=str(chain), sequence=event.sequence,
            body=orjson.dumps(as_json(event)),
        )
        for event in events
    ] or [
        syslog.message(at=now, host=host, action="audit.test", chain=str(chain), sequence=0, body=b"{}"),
    ]  # fmt: skip
    target = syslog.target_of(sink.target)
    addresses = syslog.check(target, allow_private_hosts=_allowed(sink))
    syslog.send(target, addresses, messages, timeout_s=TIMEOUT_S, ca_pem=sink.ca_certificate)


def _allowed(sink: AuditSink) -> Collection[str]:
    """The operator's own receivers may stand in its own network."""
    return egress.ANY_HOST if sink.tenant_id is None else settings.TOLLHOUSE_EGRESS_ALLOWED_HOSTS


def _check_target(sink: AuditSink) -> None:
    if sink.kind == AuditSink.Kind.WEBHOOK:
        egress.check_url(sink.target, allow_private_hosts=_allowed(sink), param="target")
    else:
        syslog.check(syslog.target_of(sink.target), allow_private_hosts=_allowed(sink))


# ------------------------------------------------------------------ rows


def _seal(sink: AuditSink, held: Sequence[webhooks.SigningSecret]) -> bytes:
    return seal(webhooks.dump(held), tenant=sink.tenant, context=_context(sink))


def _secrets(sink: AuditSink) -> tuple[webhooks.SigningSecret, ...]:
    return webhooks.load(unseal(bytes(sink.sealed or b""), tenant=sink.tenant, context=_context(sink)))


def _context(sink: AuditSink) -> str:
    return f"tenants_auditsink|{sink.pk}|sealed"


def _picture(sink: AuditSink) -> dict[str, Any]:
    names = ("name", "kind", "target", "ca_certificate", "has_all_chains", "is_enabled")
    return {name: getattr(sink, name) for name in names}


def _record(
    verb: str,
    sink: AuditSink,
    actor: Principal,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    audit.record(
        principal=actor, action=f"audit_sink.{verb}", object_type="audit_sink", object_id=sink.pk,
        tenant=sink.tenant, before=before, after=after,
    )  # fmt: skip
