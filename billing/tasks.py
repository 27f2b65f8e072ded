"""Celery entrances of the billing floor. Each may run twice, late, or together with itself, without harm.

The rows carry the truth: what is due stands in the database with its date, and these only look.
"""

import random
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Final

from celery import shared_task
from django.core.cache import cache
from django.utils import timezone

from billing import prove, subscriptions
from billing.alerts import deliver, evaluate, firing
from billing.dunning import remind
from billing.invoicing import close
from billing.models import BillSource
from billing.payments import book as payments
from billing.reconciliation import bills, run
from billing.wallets import book as wallets
from tenants.errors import ApiError
from tenants.principal import SYSTEM

# ------------------------------------------------------------------ alerts

_OVERLAP: Final = timedelta(seconds=5)
"""Rows are stamped before they are committed: each look goes back this far behind the one before."""

_LOOK_BACK: Final = timedelta(minutes=2)
_LOOKED_AT: Final = "billing:alerts:looked_at"
_LOOKING: Final = "billing:alerts:looking"
_LOOKING_FOR_S: Final = 10
_REST_S: Final = 2.0


@shared_task
def evaluate_alerts() -> int:
    """Every second: the budgets of tenants whose calls were settled since the last look.

    Rests as long as it worked, two seconds at most: it never takes more than half of a worker.
    """
    if not cache.add(_LOOKING, 1, timeout=_LOOKING_FOR_S):
        return 0  # the one at work looks back over this second next time
    try:
        fired = _look(timezone.now())
    finally:
        cache.delete(_LOOKING)
    if fired:
        deliver_alerts.delay()
    return fired


def _look(now: datetime) -> int:
    last = cache.get(_LOOKED_AT)
    since = now - _LOOK_BACK
    if last is not None:
        began_s, took_s = last
        if now.timestamp() < began_s + took_s + min(took_s, _REST_S):
            return 0
        since = max(since, datetime.fromtimestamp(began_s, UTC) - _OVERLAP)
    tenant_ids = evaluate.fresh_tenants(since=since)
    fired = evaluate.evaluate_budgets(now=now, tenant_ids=tenant_ids) if tenant_ids else 0
    took_s = max((timezone.now() - now).total_seconds(), 0.0)
    cache.set(_LOOKED_AT, (now.timestamp(), took_s), timeout=3600)
    return fired


@shared_task
def sweep_alerts() -> int:
    """Every minute: all budgets, error rates and latencies; windows that ended, throttles that are over."""
    return _all_of(
        firing.undo_throttles, evaluate.close_windows, evaluate.evaluate_budgets, evaluate.evaluate_rates
    )


@shared_task
def evaluate_alert_trends() -> int:
    """Every hour: forecasts, margins and unusual days; old messages are forgotten."""
    return _all_of(
        evaluate.evaluate_forecasts, evaluate.evaluate_margins, evaluate.evaluate_anomalies, deliver.prune
    )


def _all_of(*steps: Callable[..., int]) -> int:
    """Run every step at the same `now`, though one before it fails; raises what failed at the end."""
    now, done, failures = timezone.now(), 0, []
    for step in steps:
        try:
            done += step(now=now)
        except Exception as error:  # noqa: BLE001 - raised below; one broken rule must not silence the others
            failures.append(error)
    if failures:
        raise ExceptionGroup("not every step was done", failures)
    return done


@shared_task
def deliver_alerts() -> int:
    """Every few seconds, and when something fired: what is due to be told."""
    tried = deliver.deliver_due(clock=timezone.now, dice=random.random)
    if tried == deliver.BATCH:
        deliver_alerts.delay()
    return tried


# ------------------------------------------------------------------ invoices

_CLOSING: Final = "billing:invoices:closing"
_CLOSING_FOR_S: Final = 1800


@shared_task
def close_periods() -> int:
    """Every 5 minutes: periods that are over become documents. Killed anywhere, the next run goes on from there.

    The mark only spares a second run the work: what keeps documents single are the rows and their locks.
    """
    if not cache.add(_CLOSING, 1, timeout=_CLOSING_FOR_S):
        return 0
    try:
        done, failed = close.close_due(now=timezone.now())
    finally:
        cache.delete(_CLOSING)
    if failed:
        msg = f"{failed} documents could not be made; the log says which"
        raise RuntimeError(msg)
    return done


# ------------------------------------------------------------------ subscriptions, wallets, payments, reminders


@shared_task
def change_subscriptions() -> int:
    """Every minute: plan changes and cancellations whose period has ended."""
    return subscriptions.apply_due(now=timezone.now())


@shared_task
def expire_credit() -> int:
    """Every minute, since credit that has ended may be a limit on calls: what is lost with ended grants."""
    return len(wallets.expire(now=timezone.now(), actor=SYSTEM))


@shared_task
def move_payments() -> int:
    """Every minute, and when somebody asked: top-ups that are due, then whatever providers are to be asked."""
    return _all_of(payments.ask_for_due_top_ups, payments.start_due, payments.refund_due)


@shared_task
def remind_of_invoices() -> int:
    """Every 5 minutes: reminders of invoices whose day and hour have come."""
    return _all_of(remind.plan, remind.send_due)


# ------------------------------------------------------------------ the proof, and providers' bills

_PROVING: Final = "billing:ledger:proving"
_PROVING_FOR_S: Final = 3600
_PULL_EVERY: Final = timedelta(hours=6)


@shared_task
def prove_ledger() -> bool:
    """Every hour: I1 to I9, kept and, where they fail, told."""
    if not cache.add(_PROVING, 1, timeout=_PROVING_FOR_S):
        return True  # one is at work, and says what it finds
    try:
        return prove.prove(now=timezone.now()).ok
    finally:
        cache.delete(_PROVING)


@shared_task
def pull_bills(*, source_id: str, start: str, end: str) -> None:
    """Fetch a source's UTC days from its provider and compare those that are over. Again changes nothing."""
    source = BillSource.objects.get(pk=source_id)
    first, last = date.fromisoformat(start), date.fromisoformat(end)
    try:
        fetched = bills.fetch(source=source, start=first, end=last)
    except ApiError as error:
        bills.failed(source=source, error=error, now=timezone.now())
        raise
    now = timezone.now()
    bills.store(source=source, fetched=fetched, start=first, end=last, actor=SYSTEM, now=now)
    over = min(last, now.astimezone(UTC).date())
    if first < over:
        run.reconcile(source=source, start=first, end=over, actor=SYSTEM, now=now)


@shared_task
def pull_due_bills() -> int:
    """Every hour: sources with an API that were not asked for six hours, back to what providers may still correct."""
    now = timezone.now()
    today = now.astimezone(UTC).date()
    due = BillSource.objects.filter(is_enabled=True, kind__in=bills.ADDRESSES, sealed__isnull=False).exclude(
        pulled_at__gt=now - _PULL_EVERY
    )
    sources = list(due)
    for source in sources:
        start = today - timedelta(days=source.repull_days + 1)
        pull_bills.delay(source_id=str(source.pk), start=str(start), end=str(today))
    return len(sources)
