"""Celery entrances of the tenants floor. Running one twice does no harm."""

import random
import time
from collections.abc import Iterable
from uuid import UUID

from celery import shared_task
from django.utils import timezone

from tenants import approval_mails, approvals, encryption, idempotency, resealing
from tenants.principal import SYSTEM
from tenants.trail import retention as trail_retention
from tenants.trail import sinks


@shared_task
def prune_idempotency() -> int:
    """Hourly: forget the answers kept for Idempotency-Keys beyond 24 hours; returns how many."""
    return idempotency.prune(now=timezone.now())


# ------------------------------------------------------------------ keys of keys

_ROTATION_BUDGET_S = 120.0


@shared_task
def rewrap_data_keys() -> int:
    """Every few minutes: data keys under an older master key to the newest; returns how many moved."""
    return _within_budget(step.count for step in encryption.rewrap_data_keys())


@shared_task
def reseal_values() -> int:
    """Every few minutes: values under retired data keys to the current ones; returns how many moved."""
    return _within_budget(resealing.reseal(now=timezone.now()))


def _within_budget(steps: Iterable[int]) -> int:
    """Take steps until the time is over: the next run goes on from there."""
    ends_s = time.monotonic() + _ROTATION_BUDGET_S
    total = 0
    for count in steps:
        total += count
        if time.monotonic() >= ends_s:
            break
    return total


# ------------------------------------------------------------------ the audit trail


@shared_task
def stream_audit() -> int:
    """Every few seconds: sinks with something to take, each in a task of its own; returns how many."""
    due = sinks.due_sinks(now=timezone.now())
    for sink_id in due:
        deliver_audit.delay(sink_id=str(sink_id))
    return len(due)


@shared_task
def deliver_audit(*, sink_id: str) -> int:
    """One sink's next batches. A second run finds the sink leased, and does nothing."""
    return sinks.deliver(sink_id=UUID(sink_id), clock=timezone.now, draw=random.random())  # noqa: S311 - spreads retries


@shared_task
def forget_audit() -> int:
    """Daily: events older than their tenant keeps them, a batch of each chain at most; returns how many."""
    return sum(checkpoint.count for checkpoint in trail_retention.prune_due(now=timezone.now()))


# ------------------------------------------------------------------ the two-person rule


@shared_task
def tend_proposals() -> int:
    """Every minute: close proposals that nobody decided in time, tell of new ones; returns how many."""
    now = timezone.now()
    return approvals.expire(now=now, actor=SYSTEM) + approval_mails.tell(now=now)
