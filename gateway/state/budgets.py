"""Rebuilds a budget's counter in Redis from the ledger, exactly, while calls go on around it.

1. `begin` (one script): the counter exists again, at zero, holding what open calls hold, and admits nothing.
   Settlements from now on add to it and name themselves in a list.
2. Wait until everything settled before is in the ledger.
3. In one database snapshot: the ledger's sum, less the calls in the list, whose part is in the counter already.
4. `finish`: add that sum; the counter admits again.
Runs in a thread, with ordinary blocking clients.
"""

import time
from typing import Any, Final
from uuid import UUID

import redis
from django.conf import settings
from django.db import connection, transaction

from billing.budgets.counters import spent
from billing.snapshot import BudgetEntry, Window
from gateway.state.limits import OPEN, SCRIPTS, STREAM, budget_key

QUARANTINE_S: Final = 1.0
DRAIN_WAIT_S: Final = 30.0
TAKEOVER_MS: Final = 60_000
KEEP_S: Final = 3 * 24 * 3600


def rebuild(entry: BudgetEntry, window: Window) -> None:
    """Returns when the counter is right, or somebody else is at it. Raises TimeoutError if the stream never drains."""
    client = redis.Redis.from_url(settings.REDIS_URL)
    try:
        _rebuild(client, entry, window)
    finally:
        client.close()


def _rebuild(client: redis.Redis, entry: BudgetEntry, window: Window) -> None:
    key = budget_key(entry, window)
    _quarantine(client)
    last_id: Any = client.register_script((SCRIPTS / "seed_begin.lua").read_text())(
        keys=[key, OPEN, STREAM], args=[TAKEOVER_MS]
    )
    if last_id is None:
        return
    try:
        total = _by_ledger(client, key, entry, window, last_id)
    except BaseException:
        client.hset(key, "seeding", 0)  # let the next caller try at once
        raise
    whole, rest = divmod(total, 1_000_000) if entry.measure in ("price", "cost") else (total, 0)
    client.register_script((SCRIPTS / "seed_finish.lua").read_text())(
        keys=[key], args=[whole, rest, 0 if window.end is None else int(window.end) + KEEP_S]
    )


def _by_ledger(client: redis.Redis, key: str, entry: BudgetEntry, window: Window, last_id: bytes) -> int:
    """The ledger's sum, less the calls that have been added to the new counter already."""
    _wait_for_ledger(client, last_id)
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        total = spent(entry, window)
        listed: Any = client.lrange(f"{key}:since", 0, -1)
        since = [UUID(request_id.decode()) for request_id in listed]
        return total - spent(entry, window, request_ids=since) if since else total


def _quarantine(client: redis.Redis) -> None:
    """After a loss of memory every worker needs a moment to say what it holds open."""
    begun = client.get("th:epoch_at")
    if begun is not None:
        time.sleep(max(0.0, QUARANTINE_S - (time.time() - int(begun) / 1000)))


def _wait_for_ledger(client: redis.Redis, last_id: bytes) -> None:
    deadline = time.monotonic() + DRAIN_WAIT_S
    while client.xrange(STREAM, "-", last_id, count=1):
        if time.monotonic() > deadline:
            msg = "the usage stream is not being drained"
            raise TimeoutError(msg)
        time.sleep(0.05)
