"""How a message gets through: hold what is quiet, fold what is too much, lease, send, book the outcome.

At least once, under one id: the row is leased before the first byte leaves, and whoever dies in between
leaves a lease that ends. No transaction is open while something is sent, and no channel waits for another:
few messages of each go at a time, in threads that never touch the database.
"""

import logging
import smtplib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, assert_never
from urllib.parse import urlsplit

from django.conf import settings
from django.core.mail import EmailMultiAlternatives
from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet, Window
from django.db.models.functions import RowNumber

from billing.alerts.channels import Mail, Outcome, Outgoing, Post, email, pagerduty, slack, webhook
from billing.alerts.firing import href_of
from billing.alerts.notices import Notice, digest
from billing.alerts.rules import DIGEST_SPAN, digest_at, quiet_until
from billing.models import AlertAttempt, AlertChannel, AlertDelivery
from tenants import audit, egress, webhooks
from tenants.encryption import SealBrokenError
from tenants.errors import ApiError
from tenants.ids import uuid7
from tenants.principal import SYSTEM, Principal

logger = logging.getLogger(__name__)

LEASE: Final = timedelta(seconds=120)
BATCH: Final = 64
PER_CHANNEL: Final = 4
THREADS: Final = 16
TIMEOUT_S: Final = 10.0
MAX_ANSWER_BYTES: Final = 64 * 1024
TEST_EVERY: Final = timedelta(seconds=10)
KEPT_FOR: Final = timedelta(days=90)
PRUNE_BATCH: Final = 1000

_PEOPLE: Final = (AlertChannel.Kind.EMAIL, AlertChannel.Kind.SLACK)
_Event = AlertDelivery.Event
_State = AlertDelivery.State


@dataclass(frozen=True, slots=True)
class Claim:
    """A leased delivery and what to send for it, or the outcome where nothing could be composed."""

    delivery: AlertDelivery
    attempt: AlertAttempt
    outgoing: Outgoing | Outcome


def deliver_due(*, clock: Callable[[], datetime], dice: Callable[[], float]) -> int:
    """One round: everything that is due, a batch at most. Returns how many messages were tried."""
    hold_quiet(now=clock())
    fold(now=clock())
    claims = claim(now=clock())
    if not claims:
        return 0
    with ThreadPoolExecutor(THREADS, thread_name_prefix="alerts") as pool:
        sent = {pool.submit(send, each.outgoing): each for each in claims}
        for future in as_completed(sent):
            finish(claim=sent[future], outcome=future.result(), now=clock(), draw=dice())
    return len(claims)


# ------------------------------------------------------------------ before sending


def hold_quiet(*, now: datetime) -> int:
    """Put off what is due in a channel's quiet hours to their end, unless it is critical. Returns how many."""
    held = 0
    channels = AlertChannel.objects.filter(quiet_from__isnull=False)
    for channel in channels.filter(pk__in=_due(now).values("channel_id")):
        until = quiet_until(
            now, zone=channel.timezone, quiet_from=channel.quiet_from, quiet_to=channel.quiet_to
        )
        if until is not None:
            rows = _due(now).filter(channel=channel).exclude(payload__severity="critical")
            held += rows.exclude(event=_Event.TEST).update(next_at=until)
    return held


def fold(*, now: datetime) -> int:
    """Put what people would get beyond five messages in ten minutes into one digest. Returns how many.

    Programs sort by id and are told everything.
    """
    folded = 0
    due = _due(now).filter(event=_Event.FIRED, attempts=0, channel__kind__in=_PEOPLE)
    for channel_id in due.order_by().values_list("channel_id", flat=True).distinct():
        with transaction.atomic():
            # The channel's row keeps two folds of one channel apart.
            channel = AlertChannel.objects.select_for_update(skip_locked=True).filter(pk=channel_id).first()
            if channel is None:
                continue
            waiting = list(due.filter(channel=channel).order_by("id").select_for_update(of=("self",)))
            told_at = AlertAttempt.objects.filter(
                delivery__channel=channel,
                delivery__event=_Event.FIRED,
                number=1,
                started_at__gt=now - DIGEST_SPAN,
            ).values_list("started_at", flat=True)
            singly, at = digest_at(list(told_at), waiting=len(waiting), now=now)
            if at is not None:
                _fold_into_digest(channel, waiting[singly:], at=at, now=now)
                folded += len(waiting) - singly
    return folded


def _fold_into_digest(
    channel: AlertChannel, surplus: Sequence[AlertDelivery], *, at: datetime, now: datetime
) -> None:
    gathering = AlertDelivery.objects.select_for_update().filter(
        channel=channel, event=_Event.DIGEST, state=_State.PENDING, attempts=0
    )
    held = gathering.first()
    if held is None:
        held = AlertDelivery(
            id=uuid7(), tenant=channel.tenant, channel=channel, channel_label=str(channel)[:200],
            event=_Event.DIGEST, payload={}, next_at=at,
        )  # fmt: skip
        held.save(force_insert=True)
    for row in surplus:
        row.state, row.digest = _State.FOLDED, held
        row.save(update_fields=("state", "digest", "updated_at"))
    notices = [Notice.from_json(row.payload) for row in held.folded.order_by("id")]
    held.payload = digest(
        notices, at=now.isoformat(), dedup_key=f"digest:{held.pk}", href=href_of(channel.tenant)
    ).as_json()
    held.save(update_fields=("payload", "updated_at"))


# ------------------------------------------------------------------ lease


def claim(*, now: datetime, limit: int = BATCH) -> list[Claim]:
    """Lease due messages, the oldest first, a few of each channel and none of a channel already at work.

    A message about something waits for the one before it to the same channel: no end without a beginning.
    """
    at_work = AlertDelivery.objects.filter(lease_until__gt=now, channel__isnull=False).values("channel_id")
    earlier = AlertDelivery.objects.filter(
        firing=OuterRef("firing"), channel=OuterRef("channel"), state=_State.PENDING, id__lt=OuterRef("id")
    )
    ranked = (
        _due(now)
        .exclude(channel_id__in=at_work)
        .exclude(Exists(earlier))
        .annotate(place=Window(RowNumber(), partition_by=F("channel_id"), order_by=(F("next_at"), F("id"))))
        .filter(place__lte=PER_CHANNEL)
    )
    ids = list(ranked.order_by("next_at", "id").values_list("id", flat=True)[:limit])
    if not ids:
        return []
    with transaction.atomic():
        rows = _due(now).filter(pk__in=ids).select_related("channel__tenant").order_by("next_at", "id")
        return _lease(rows.select_for_update(of=("self",), skip_locked=True), now)


def _due(now: datetime) -> QuerySet[AlertDelivery]:
    free = Q(lease_until__isnull=True) | Q(lease_until__lte=now)
    return AlertDelivery.objects.filter(free, state=_State.PENDING, next_at__lte=now, channel__isnull=False)


def _lease(rows: Iterable[AlertDelivery], now: datetime) -> list[Claim]:
    """Called in a transaction that holds the rows' locks."""
    claims = []
    for row in rows:
        channel = row.channel
        if channel is None or not channel.is_enabled:
            row.state = _State.CANCELLED
            row.save(update_fields=("state", "updated_at"))
            continue
        row.attempts += 1
        row.lease_until = now + LEASE
        row.save(update_fields=("attempts", "lease_until", "updated_at"))
        attempt = AlertAttempt.objects.create(delivery=row, number=row.log.count() + 1, started_at=now)
        claims.append(Claim(row, attempt, _composed(row, channel, now)))
    return claims


def _composed(delivery: AlertDelivery, channel: AlertChannel, now: datetime) -> Outgoing | Outcome:
    """What to send, or why nothing can be. One bad row must not keep a batch from being leased."""
    try:
        return _compose(delivery, channel, now)
    except SealBrokenError:
        # The operator may bring the master key back: the message stays, and tells nothing of the secret.
        logger.exception("the secret of alert channel %s does not open", channel.pk)
        return Outcome("retry", "The channel's secret cannot be opened.")
    except (KeyError, TypeError, ValueError):
        logger.exception("alert delivery %s cannot be composed", delivery.pk)
        return Outcome("dead", "The message cannot be composed.")


def _compose(delivery: AlertDelivery, channel: AlertChannel, now: datetime) -> Outgoing:
    """Raises SealBrokenError."""
    notice = Notice.from_json(delivery.payload)
    match AlertChannel.Kind(channel.kind):
        case AlertChannel.Kind.EMAIL:
            host = urlsplit(settings.PUBLIC_URL).hostname or "localhost"
            return email.compose(
                notice, to=email.recipients(channel.target), message_id=str(delivery.pk), host=host
            )
        case AlertChannel.Kind.SLACK:
            return slack.compose(notice, url=channel.secret())
        case AlertChannel.Kind.WEBHOOK:
            secrets = webhooks.in_force(webhooks.load(channel.secret()), now)
            return webhook.compose(
                notice, url=channel.target, secrets=secrets, message_id=f"msg_{delivery.pk.hex}", now=now
            )
        case AlertChannel.Kind.PAGERDUTY:
            return pagerduty.compose(
                notice, base_url=settings.TOLLHOUSE_PAGERDUTY_URL, routing_key=channel.secret()
            )
        case kind:
            assert_never(kind)


# ------------------------------------------------------------------ send


def send(outgoing: Outgoing | Outcome) -> Outcome:
    """Send it, and say what became of it. Touches no database and raises nothing."""
    try:
        match outgoing:
            case Outcome():
                return outgoing
            case Mail():
                return _send_mail(outgoing)
            case Post():
                return _send_post(outgoing)
            case never:
                assert_never(never)
    except Exception as error:
        # Nobody knows what a mail server or a library comes up with. Raised here, it would leave the messages
        # beside this one sent but not booked; so it is an attempt that failed, in the log and on the page.
        logger.exception("an alert cannot be sent")
        return Outcome("retry", f"It could not be sent ({type(error).__name__}).")


def _send_mail(mail: Mail) -> Outcome:
    message = EmailMultiAlternatives(
        mail.subject, mail.text, to=list(mail.recipients), headers={"Message-ID": mail.message_id}
    )
    message.attach_alternative(mail.html, "text/html")
    try:
        message.send()
    except smtplib.SMTPRecipientsRefused as error:
        codes = [code for code, _ in error.recipients.values()]
        is_final = all(500 <= code < 600 for code in codes)
        return Outcome("dead" if is_final else "retry", "The mail server refuses the addresses.", codes[0])
    except smtplib.SMTPResponseException as error:
        return Outcome("retry", f"The mail server answered {error.smtp_code}.", error.smtp_code)
    except (smtplib.SMTPException, OSError) as error:
        return Outcome("retry", f"The mail server cannot be reached ({type(error).__name__}).")
    return Outcome("delivered", "")


def _send_post(post: Post) -> Outcome:
    allowed = egress.ANY_HOST if post.is_operators else settings.TOLLHOUSE_EGRESS_ALLOWED_HOSTS
    try:
        reply = egress.fetch(
            "POST",
            post.url,
            allow_private_hosts=allowed,
            headers=post.headers,
            body=post.body,
            timeout_s=TIMEOUT_S,
            max_bytes=MAX_ANSWER_BYTES,
            is_cut_allowed=True,
        )
    except ApiError as error:  # also a name that does not resolve now, which may pass
        return Outcome("retry", error.message)
    except egress.EgressError as error:
        return Outcome("retry", str(error))
    return post.judge(reply.status, reply.headers)


# ------------------------------------------------------------------ book


def finish(*, claim: Claim, outcome: Outcome, now: datetime, draw: float) -> AlertDelivery:
    """Book what became of an attempt: delivered, due again by the schedule, or a dead letter.

    Who lost the lease meanwhile only books its attempt, unless it delivered: that settles it for all.
    """
    with transaction.atomic():
        AlertAttempt.objects.filter(pk=claim.attempt.pk).update(
            finished_at=now, status=outcome.status, detail=outcome.detail[:300]
        )
        row = AlertDelivery.objects.select_for_update(of=("self",)).get(pk=claim.delivery.pk)
        is_mine = row.lease_until == claim.delivery.lease_until
        if row.state != _State.PENDING or not (is_mine or outcome.kind == "delivered"):
            return row
        row.lease_until = None
        following = webhooks.next_attempt_at(
            attempts=row.attempts, now=now, draw=draw, retry_after_s=outcome.retry_after_s
        )
        if outcome.kind == "delivered":
            row.state, row.delivered_at = _State.DELIVERED, now
        elif outcome.kind == "dead" or following is None or row.event == _Event.TEST:
            row.state = _State.DEAD
        else:
            row.next_at = following
        row.save(update_fields=("state", "delivered_at", "next_at", "lease_until", "updated_at"))
        if row.state == _State.DEAD:
            logger.warning("alert delivery %s is dead: %s", row.pk, outcome.detail)
        if outcome.is_gone and row.channel_id is not None:
            _disable(AlertChannel.objects.select_for_update(of=("self",)).get(pk=row.channel_id))
    return row


def _disable(channel: AlertChannel) -> None:
    """A receiver that says it is gone (410) is not called again, as Standard Webhooks asks."""
    if channel.is_enabled:
        channel.is_enabled = False
        channel.save(update_fields=("is_enabled", "updated_at"))
        audit.record(
            principal=SYSTEM, action="alertchannel.gone", object_type="alertchannel", object_id=channel.pk,
            tenant=channel.tenant, before={"is_enabled": True}, after={"is_enabled": False},
        )  # fmt: skip


def prune(*, now: datetime) -> int:
    """Forget messages that were settled 90 days ago, with their attempts; firings stay. Returns how many."""
    old = AlertDelivery.objects.exclude(state=_State.PENDING).filter(updated_at__lt=now - KEPT_FOR)
    forgotten = 0
    while ids := list(old.order_by("updated_at").values_list("pk", flat=True)[:PRUNE_BATCH]):
        AlertDelivery.objects.filter(pk__in=ids).delete()
        forgotten += len(ids)
    return forgotten


# ------------------------------------------------------------------ by hand


def replay(*, delivery: AlertDelivery, actor: Principal, now: datetime) -> AlertDelivery:
    """Send a message once more under its own id, with the whole schedule before it again.

    Raises ApiError conflict while it is due anyway, was folded into a digest, or has no channel any more.
    """
    with transaction.atomic():
        row = AlertDelivery.objects.select_for_update(of=("self",)).get(pk=delivery.pk)
        if row.state in (_State.PENDING, _State.FOLDED):
            raise ApiError("conflict", f"This delivery is {row.state}.")
        if row.channel is None or not row.channel.is_enabled:
            raise ApiError("conflict", "Its channel is gone or disabled.")
        before = row.state
        row.state, row.attempts, row.next_at, row.lease_until = _State.PENDING, 0, now, None
        row.save(update_fields=("state", "attempts", "next_at", "lease_until", "updated_at"))
        audit.record(
            principal=actor, action="alertdelivery.replay", object_type="alertdelivery", object_id=row.pk,
            tenant=row.tenant, before={"state": before}, after={"state": row.state},
        )  # fmt: skip
    return row


def try_out(
    *, channel: AlertChannel, actor: Principal, clock: Callable[[], datetime]
) -> tuple[AlertDelivery, Outcome]:
    """Send a test message now, once, and say what became of it. Not to be called in a transaction.

    Raises ApiError: rate_limit_exceeded within ten seconds of another, conflict for a disabled channel.
    """
    now = clock()
    with transaction.atomic():
        held = (
            AlertChannel.objects.select_for_update(of=("self",)).select_related("tenant").get(pk=channel.pk)
        )
        if not held.is_enabled:
            raise ApiError("conflict", "This channel is disabled.")
        if held.deliveries.filter(event=_Event.TEST, created_at__gt=now - TEST_EVERY).exists():
            wait_s = TEST_EVERY.total_seconds()
            raise ApiError("rate_limit_exceeded", "One test in ten seconds.", retry_after_s=wait_s)
        row = _message(held, _Event.TEST, now)
        audit.record(
            principal=actor, action="alertchannel.test", object_type="alertchannel", object_id=held.pk,
            tenant=held.tenant, after={"delivery": row.pk},
        )  # fmt: skip
        (leased,) = _lease([row], now)
    outcome = send(leased.outgoing)
    booked = finish(claim=leased, outcome=outcome, now=clock(), draw=0.0)
    if held.kind == AlertChannel.Kind.PAGERDUTY and outcome.kind == "delivered":
        _message(held, _Event.RESOLVED, clock())  # else the test stays open as an incident
    return booked, outcome


def _message(channel: AlertChannel, event: str, now: datetime) -> AlertDelivery:
    """A pending message about the channel itself."""
    notice = Notice(
        event=event,
        title=f"A message to {channel.name}",
        body="This channel works: alerts will arrive here.",
        severity="info",
        at=now.isoformat(),
        dedup_key=f"test:{channel.pk}",
        href=href_of(channel.tenant),
        data={"channel": str(channel.pk)},
    )
    return AlertDelivery.objects.create(
        tenant=channel.tenant, channel=channel, channel_label=str(channel)[:200], event=event,
        payload=notice.as_json(), next_at=now,
    )  # fmt: skip
