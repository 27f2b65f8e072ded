"""The life of an alert: fire, acknowledge, snooze, resolve, and what it does to a key. One transaction each.

A firing, its messages and its actions come into being together or not at all. Nothing is sent here.
Locks go in the order of the house: config version, row, audit chain.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from django.conf import settings
from django.db import transaction
from django.db.models import Max

from billing.alerts.notices import Notice, one_line
from billing.models import (
    AlertAction,
    AlertChannel,
    AlertDelivery,
    AlertFiring,
    AlertRule,
    Budget,
)
from billing.rating.money import plain_text
from tenants import audit, keys, versions
from tenants.errors import ApiError
from tenants.models import ApiKey, Tenant
from tenants.principal import SYSTEM, Principal

MAX_SNOOZE: Final = timedelta(days=30)
THROTTLE_FOR: Final = timedelta(hours=1)
"""How long a throttle lasts whose alert has no window of its own to end with."""

_RECOVERY_KINDS: Final = frozenset({AlertRule.Kind.ERROR_RATE, AlertRule.Kind.LATENCY_P95})
_PROGRAMS: Final = frozenset({AlertChannel.Kind.WEBHOOK, AlertChannel.Kind.PAGERDUTY})

_Event = AlertDelivery.Event
_State = AlertDelivery.State


@dataclass(frozen=True, slots=True)
class Alarm:
    """A threshold that was reached, in full. Amounts in units of `currency`, else in the kind's unit."""

    subject: str
    tenant: Tenant | None
    kind: str
    severity: str
    window: str
    window_start: datetime
    window_end: datetime | None
    threshold: Decimal
    unit: str
    value: Decimal
    title: str
    body: str
    rule: AlertRule | None = None
    budget: Budget | None = None
    basis: str = AlertRule.Basis.ACTUAL
    limit: Decimal | None = None
    currency: str = ""
    is_cost: bool = False
    facts: Sequence[tuple[str, str]] = ()


def fire(*, alarm: Alarm, now: datetime) -> AlertFiring | None:
    """Let an alarm fire: the row, one message per channel and step, the rule's actions. None if it has.

    Two that find the same at the same time make one firing.
    """
    rule = alarm.rule
    firing = AlertFiring(
        tenant=alarm.tenant, rule=rule, budget=alarm.budget, subject=alarm.subject, kind=alarm.kind,
        basis=alarm.basis, severity=alarm.severity, window=alarm.window, window_start=alarm.window_start,
        window_end=alarm.window_end, threshold=alarm.threshold, unit=alarm.unit, value=alarm.value,
        limit=alarm.limit, currency=alarm.currency, is_cost=alarm.is_cost,
        title=one_line(alarm.title, 300), body=alarm.body, fired_at=now,
        facts={"shown": [[one_line(label), one_line(value)] for label, value in alarm.facts]},
    )  # fmt: skip
    with transaction.atomic():
        if rule is not None and rule.actions:
            versions.bump("tenants")
        AlertFiring.objects.bulk_create([firing], ignore_conflicts=True)
        if not AlertFiring.objects.filter(pk=firing.pk).exists():
            return None
        _queue(firing, _Event.FIRED, _steps_of(alarm), now=now)
        if rule is not None and rule.actions:
            _act(firing, rule, now)
        _audit(firing, "fire", SYSTEM, after={"title": firing.title, "value": plain_text(firing.value)})
    return firing


def acknowledge(*, firing: AlertFiring, actor: Principal, now: datetime) -> AlertFiring:
    """Somebody is on it: later steps are not told. Again changes nothing. Raises ApiError conflict if resolved."""
    with transaction.atomic():
        held = _locked(firing)
        if held.resolved_at is not None:
            raise ApiError("conflict", "This alert is resolved.")
        if held.acknowledged_at is None:
            held.acknowledged_at, held.acknowledged_by = now, actor.label
            held.save(update_fields=("acknowledged_at", "acknowledged_by", "updated_at"))
            _cancel_later_steps(held)
            told = [channel for channel in _told(held) if channel.kind in _PROGRAMS]
            _queue(held, _Event.ACKNOWLEDGED, ((channel, 0) for channel in told), now=now)
        _audit(held, "acknowledge", actor, after={"acknowledged_by": held.acknowledged_by})
    return held


def snooze(*, firing: AlertFiring, until: datetime, actor: Principal, now: datetime) -> AlertFiring:
    """Say nothing of this subject until then, at most 30 days from now; what waits is told afterwards.

    Raises ApiError: conflict if resolved, invalid_request for an instant out of range.
    """
    if not now < until <= now + MAX_SNOOZE:
        raise ApiError("invalid_request", "Snooze for up to 30 days from now.", param="until")
    with transaction.atomic():
        held = _locked(firing)
        if held.resolved_at is not None:
            raise ApiError("conflict", "This alert is resolved.")
        before, held.snoozed_until = held.snoozed_until, until
        held.save(update_fields=("snoozed_until", "updated_at"))
        AlertDelivery.objects.filter(
            firing__subject=held.subject, state=_State.PENDING, event=_Event.FIRED, next_at__lt=until
        ).update(next_at=until)
        _audit(held, "snooze", actor, before={"snoozed_until": before}, after={"snoozed_until": until})
    return held


def resolve(*, firing: AlertFiring, now: datetime, is_rearmed: bool = False) -> AlertFiring:
    """It is over: the window has ended, the value is back, or (`is_rearmed`) the limit was raised.

    Programs are told of every end, people of a recovery. Once resolved, it stays so.
    """
    with transaction.atomic():
        held = _locked(firing)
        if held.resolved_at is not None and (held.rearmed_at is not None or not is_rearmed):
            return held
        was_open = held.resolved_at is None
        held.resolved_at = held.resolved_at or now
        held.rearmed_at = now if is_rearmed else held.rearmed_at
        held.save(update_fields=("resolved_at", "rearmed_at", "updated_at"))
        if was_open:
            _cancel_later_steps(held)
            _queue(held, _Event.RESOLVED, ((channel, 0) for channel in _to_tell_of_the_end(held)), now=now)
        _audit(held, "rearm" if is_rearmed else "resolve", SYSTEM, after={"title": held.title})
    return held


# ------------------------------------------------------------------ whom to tell


def _steps_of(alarm: Alarm) -> list[tuple[AlertChannel, int]]:
    """Channels and seconds. What providers charge goes to the operator's channels, unless a rule says else."""
    if alarm.rule is not None:
        steps = alarm.rule.steps.select_related("channel__tenant").filter(channel__is_enabled=True)
        return [(step.channel, step.after_s) for step in steps]
    own = AlertChannel.objects.filter(
        tenant=None if alarm.is_cost else alarm.tenant, is_enabled=True, is_default=True
    )
    return [(channel, 0) for channel in own.select_related("tenant").order_by("id")]


def _told(firing: AlertFiring) -> list[AlertChannel]:
    """Enabled channels that were told, or are being told, that it fired."""
    told = AlertDelivery.objects.filter(firing=firing, event=_Event.FIRED).exclude(state=_State.CANCELLED)
    channels = AlertChannel.objects.filter(pk__in=told.values("channel_id"), is_enabled=True)
    return list(channels.select_related("tenant").order_by("id"))


def _to_tell_of_the_end(firing: AlertFiring) -> list[AlertChannel]:
    has_siblings = (
        AlertFiring.objects.filter(subject=firing.subject, window=firing.window, resolved_at__isnull=True)
        .exclude(pk=firing.pk)
        .exists()
    )
    chosen = []
    for channel in _told(firing):
        if channel.kind == AlertChannel.Kind.PAGERDUTY and has_siblings:
            continue  # they share one incident, which ends with the last of them
        if channel.kind in _PROGRAMS or firing.kind in _RECOVERY_KINDS:
            chosen.append(channel)
    return chosen


def _queue(
    firing: AlertFiring, event: str, steps: Iterable[tuple[AlertChannel, int]], *, now: datetime
) -> None:
    """One pending message per channel and step, none before a snooze of the subject ends."""
    notice = notice_of(firing, event, at=now).as_json()
    snoozed = None
    if event == _Event.FIRED:
        snoozed = AlertFiring.objects.filter(subject=firing.subject, snoozed_until__gt=now).aggregate(
            until=Max("snoozed_until")
        )["until"]
    AlertDelivery.objects.bulk_create(
        AlertDelivery(
            tenant=channel.tenant,
            firing=firing,
            channel=channel,
            channel_label=str(channel)[:200],
            event=event,
            after_s=after_s,
            payload=notice,
            next_at=max(now + timedelta(seconds=after_s), snoozed or now),
        )
        for channel, after_s in steps
    )


def _cancel_later_steps(firing: AlertFiring) -> None:
    firing.deliveries.filter(state=_State.PENDING, event=_Event.FIRED, after_s__gt=0, attempts=0).update(
        state=_State.CANCELLED
    )


def notice_of(firing: AlertFiring, event: str, *, at: datetime) -> Notice:
    """What is said about a firing."""
    slug = firing.tenant.slug if firing.tenant else None
    return Notice(
        event=event,
        title=firing.title,
        body=firing.body,
        severity=firing.severity,
        at=at.isoformat(),
        dedup_key=f"{firing.subject}:{firing.window}",
        href=href_of(firing.tenant),
        facts=tuple((label, value) for label, value in firing.facts["shown"]),
        data={
            "id": str(firing.pk),
            "kind": firing.kind,
            "basis": firing.basis,
            "tenant": slug,
            "budget": str(firing.budget_id) if firing.budget_id else None,
            "rule": str(firing.rule_id) if firing.rule_id else None,
            "window_start": firing.window_start.isoformat(),
            "window_end": firing.window_end.isoformat() if firing.window_end else None,
            "threshold": plain_text(firing.threshold),
            "unit": firing.unit,
            "value": plain_text(firing.value),
            "limit": None if firing.limit is None else plain_text(firing.limit),
            "currency": firing.currency or None,
            "fired_at": firing.fired_at.isoformat(),
        },
    )


def href_of(tenant: Tenant | None) -> str:
    """Where people look first: the tenant's home in the console, or the platform's."""
    return f"{settings.PUBLIC_URL}/t/{tenant.slug}/" if tenant else f"{settings.PUBLIC_URL}/platform/"


# ------------------------------------------------------------------ what it does


def _act(firing: AlertFiring, rule: AlertRule, now: datetime) -> None:
    """The rule's actions on the key it names. A key that is revoked already is left alone."""
    key = rule.api_key or (rule.budget.api_key if rule.budget else None)
    if key is None:
        return
    key = ApiKey.objects.select_for_update(of=("self",)).get(pk=key.pk)
    if key.revoked_at is not None:
        return
    if AlertRule.Action.FREEZE_KEY in rule.actions:
        keys.revoke(key=key, actor=SYSTEM, now=now)
        AlertAction.objects.create(firing=firing, api_key=key, action=AlertRule.Action.FREEZE_KEY)
    elif rule.throttle_rpm is not None and (key.limit_rpm is None or key.limit_rpm > rule.throttle_rpm):
        _throttle(firing, key, rule.throttle_rpm, until=firing.window_end or now + THROTTLE_FOR, now=now)


def _throttle(firing: AlertFiring, key: ApiKey, limit_rpm: int, *, until: datetime, now: datetime) -> None:
    """Lower the key's rate; a throttle in force is taken over, so that the end restores what was before both."""
    before = key.limit_rpm
    for earlier in AlertAction.objects.select_for_update().filter(api_key=key, until__isnull=False,
                                                                 undone_at__isnull=True):  # fmt: skip
        if earlier.limit_rpm == key.limit_rpm:
            before = earlier.limit_rpm_before
        until = max(until, earlier.until or until)
        earlier.undone_at = now
        earlier.save(update_fields=("undone_at", "updated_at"))
    keys.limit_rate(key=key, limit_rpm=limit_rpm, actor=SYSTEM)
    AlertAction.objects.create(
        firing=firing, api_key=key, action=AlertRule.Action.THROTTLE_KEY, limit_rpm=limit_rpm,
        limit_rpm_before=before, until=until,
    )  # fmt: skip


def undo_throttles(*, now: datetime) -> int:
    """Take back the throttles whose time is over; a limit that people changed meanwhile stays theirs."""
    undone = 0
    due = AlertAction.objects.filter(until__lte=now, undone_at__isnull=True).order_by("id")
    for pk in due.values_list("pk", flat=True):
        with transaction.atomic():
            versions.bump("tenants")
            action = AlertAction.objects.select_for_update().get(pk=pk)
            if action.undone_at is not None:
                continue
            key = ApiKey.objects.select_for_update(of=("self",)).get(pk=action.api_key_id)
            if key.limit_rpm == action.limit_rpm:
                keys.limit_rate(key=key, limit_rpm=action.limit_rpm_before, actor=SYSTEM)
            action.undone_at = now
            action.save(update_fields=("undone_at", "updated_at"))
            undone += 1
    return undone


# ------------------------------------------------------------------ shared


def _locked(firing: AlertFiring) -> AlertFiring:
    rows = AlertFiring.objects.select_for_update(of=("self",)).select_related("tenant", "rule", "budget")
    return rows.get(pk=firing.pk)


def _audit(
    firing: AlertFiring,
    verb: str,
    actor: Principal,
    *,
    after: Mapping[str, Any],
    before: Mapping[str, Any] | None = None,
) -> None:
    audit.record(
        principal=actor,
        action=f"alert.{verb}",
        object_type="alert",
        object_id=firing.pk,
        tenant=firing.tenant,
        before=before,
        after=after,
    )
