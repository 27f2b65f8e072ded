"""What Celery's clock calls on the routing floor. Each may run twice, late or together with itself, without harm."""

import logging

from celery import shared_task
from django.conf import settings
from django.utils import timezone
from redis.exceptions import RedisError

from routing.health import checks, history, store

logger = logging.getLogger(__name__)


@shared_task
def check_idle_endpoints() -> int:
    """Every few seconds: ask providers that no call tells anything about; returns how many were asked."""
    idle_s: float = settings.TOLLHOUSE_HEALTH_CHECK_IDLE_S
    if idle_s <= 0:
        return 0
    try:
        return len(checks.check_idle(now=timezone.now(), idle_s=idle_s))
    except RedisError as error:
        logger.warning("endpoints are not checked: %s", error)
        return 0


@shared_task
def record_health() -> int:
    """Twice a minute: move incidents and samples from Redis into rows; returns how many samples were written."""
    now = timezone.now()
    try:
        history.record_incidents(client=store.connection(), circuits=store.current().circuits, now=now)
        return history.record_samples(client=store.connection(), now=now)
    except RedisError as error:
        logger.warning("the health history waits: %s", error)
        return 0


@shared_task
def prune_health() -> int:
    """Hourly: forget samples and incidents beyond 90 days; returns how many."""
    return history.prune(now=timezone.now())
