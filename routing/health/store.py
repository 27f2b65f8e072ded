"""The shared picture of the providers for those outside the data plane: pages, reports, checks, a person's reset.

Speaks the beat's own script over an ordinary connection. Never asks for a probe permit, since it makes no calls.
"""

import secrets
from functools import cache
from typing import Any, Final

import redis
from django.conf import settings
from django.db import transaction

from routing.health.exchange import SCRIPT
from routing.health.tracker import Tracker
from routing.models import Endpoint
from tenants import audit
from tenants.errors import ApiError
from tenants.principal import Principal

TIMEOUT_S: Final = 2.0


@cache
def _redis(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S)


def connection() -> redis.Redis:
    """This process's connection pool to Redis."""
    return _redis(settings.REDIS_URL)


def exchange(tracker: Tracker, *, everything: bool = False) -> None:
    """One beat of a tracker that lives outside the data plane. Raises redis.RedisError."""
    sequence: Any = tracker.outgoing(everything=everything)
    reply: Any = connection().register_script(SCRIPT)(keys=(), args=sequence)
    tracker.incoming(reply)


def current(name: str = "reader") -> Tracker:
    """What all workers know now. Raises redis.RedisError."""
    tracker = Tracker(f"{name}-{secrets.token_hex(6)}", may_probe=False)
    exchange(tracker, everything=True)
    return tracker


def reset(*, endpoint: Endpoint, actor: Principal) -> None:
    """Close an endpoint's breaker by hand, for all workers within a beat, and leave an audit event.

    Raises ApiError: conflict when it is closed, overloaded when the shared state cannot be reached.
    """
    endpoint_id = str(endpoint.pk)
    try:
        tracker = current("reset")
        breaker = tracker.circuits.get(endpoint_id)
        if breaker is None or not breaker.is_open:
            raise ApiError("conflict", "This endpoint's breaker is closed already.")
        with transaction.atomic():
            audit.record(
                principal=actor,
                action="endpoint.reset",
                object_type="endpoint",
                object_id=endpoint.pk,
                tenant=None,
                before={"circuit": "open", "reason": breaker.reason},
                after={"circuit": "closed"},
            )
            tracker.reset(endpoint_id)
            exchange(tracker)
    except redis.RedisError as error:
        raise ApiError(
            "overloaded", "The breakers' shared state cannot be reached now.", retry_after_s=1
        ) from error
