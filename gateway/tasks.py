"""What Celery's clock calls. Each may run twice, late or together with itself, without harm."""

from datetime import UTC, datetime
from smtplib import SMTPException
from uuid import UUID

from celery import shared_task
from django.utils import timezone

import billing.usage.partitions
import gateway.logs.partitions
from billing.rerating import jobs as reratings
from gateway import leaks
from gateway.content import erase, store
from gateway.content import purge as purging
from gateway.experiments.evaluation import evaluate
from gateway.logs import consumer
from gateway.replay import jobs
from gateway.rerating import PRICE_BOOK
from gateway.state import budgets, reaper
from routing.experiments.models import Rollout

DRAIN_S = 20.0


@shared_task
def drain_usage() -> int:
    """Move closed calls from the stream into the ledger and the request log."""
    return consumer.drain(budget_s=DRAIN_S)


@shared_task
def close_abandoned() -> int:
    """Close the calls of workers that died."""
    return reaper.close_abandoned()


@shared_task
def check_budgets() -> int:
    """Every minute: budgets' counters against the ledger (I8). Returns how many differed, and were repaired."""
    return len(budgets.check(now=timezone.now()).differences)


@shared_task(autoretry_for=(OSError, SMTPException), retry_backoff=30, max_retries=8)
def tell_of_leak(*, key_id: str, reason: str, by: str) -> int:
    """Mail those who answer for a leaked key; tried again while the mail server is away. Returns how many."""
    return leaks.tell(key_id=UUID(key_id), reason=reason, by=by)


@shared_task
def run_replays() -> None:
    """Run the what-if replays that wait."""
    while jobs.run_next():
        pass


@shared_task
def run_reratings() -> None:
    """Take the re-ratings that wait one step on: their dry run, or their deltas."""
    while reratings.run_next(pricer=PRICE_BOOK):
        pass


@shared_task
def prepare_partitions() -> None:
    """Days ahead for the ledger and the log."""
    today = datetime.now(UTC).date()
    billing.usage.partitions.ensure_partitions(today=today)
    gateway.logs.partitions.ensure_partitions(today=today)


@shared_task
def drain_content() -> int:
    """Move sealed content from its stream into its day."""
    return store.drain(budget_s=DRAIN_S)


@shared_task
def purge() -> int:
    """Delete what its time is over for, each with its certificate. Returns how many those were."""
    return purging.purge(now=timezone.now())


@shared_task
def run_erasures() -> None:
    """Carry out the erasures that wait."""
    while erase.run_next():
        pass


@shared_task
def evaluate_rollouts() -> dict[str, str]:
    """One look, and one step at most, at each running rollout: its slug to the verdict."""
    running = Rollout.objects.filter(status=Rollout.Status.RUNNING).order_by("id")
    return {
        slug: evaluate(rollout_id=rollout_id, now=timezone.now())
        for rollout_id, slug in list(running.values_list("id", "slug"))
    }
