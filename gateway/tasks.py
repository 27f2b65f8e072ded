"""What Celery's clock calls. Each may run twice, late or together with itself, without harm."""

from datetime import UTC, datetime, timedelta

from celery import shared_task
from django.conf import settings

import billing.usage.partitions
import gateway.logs.partitions
from gateway.logs import consumer
from gateway.replay import jobs
from gateway.state import reaper

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
def run_replays() -> None:
    """Run the what-if replays that wait."""
    while jobs.run_next():
        pass


@shared_task
def prepare_partitions() -> None:
    """Days ahead for the ledger and the log; days of the log that are too old are dropped."""
    today = datetime.now(UTC).date()
    billing.usage.partitions.ensure_partitions(today=today)
    gateway.logs.partitions.ensure_partitions(today=today)
    gateway.logs.partitions.drop_before(day=today - timedelta(days=settings.TOLLHOUSE_REQUEST_LOG_DAYS))
