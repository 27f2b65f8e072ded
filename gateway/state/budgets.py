"""Rebuilds budgets' counters in Redis from the ledger, exactly, while calls go on around it; and holds them against it.

Rebuilding:
1. `begin` (one script): the counter exists again, at zero, holding what open calls hold, and admits nothing.
   Settlements from now on add to it and name themselves in a list.
2. Wait until everything settled before is in the ledger.
3. In one database snapshot: the ledger's sum, less the calls in the list, whose part is in the counter already.
4. `finish`: add that sum, and what earlier windows carry over; the counter admits again.
Checking (I8) is the same but that the counter goes on admitting: its figures are taken down at the instant of 1 and
held against 3. Runs in threads and Celery workers, with ordinary blocking clients; must never admit anything itself.
"""

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import redis
from django.conf import settings
from django.db import connection, transaction

from billing.budgets.count import MONEY
from billing.budgets.counters import carry, spent, spent_by_bucket
from billing.budgets.evaluate import Window, window_before
from billing.models import Budget, BudgetCheck
from billing.snapshot import BudgetEntry, entry_of
from gateway.state.limits import EPOCH, OPEN, PICO_PER_MICRO, SCRIPTS, STREAM, budget_key

logger = logging.getLogger(__name__)

QUARANTINE_S: Final = 1.0
DRAIN_WAIT_S: Final = 30.0
TAKEOVER_MS: Final = 60_000
OTHER_WAIT_S: Final = 5.0
CHECK_MS: Final = 120_000
CHECK_BATCH: Final = 100
KEEP_S: Final = 3 * 24 * 3600
_SETTLED_S: Final = settings.TOLLHOUSE_REQUEST_TIMEOUT_S + 120
"""After its end nothing of a window is open any more."""
KEEP_CHECKS: Final = timedelta(days=7)


def rebuild(entry: BudgetEntry, window: Window) -> None:
    """Returns when the counter is right, or somebody else has been at it for OTHER_WAIT_S.

    Raises TimeoutError if the stream never drains.
    """
    client = redis.Redis.from_url(settings.REDIS_URL)
    try:
        _rebuild(client, entry, window)
    finally:
        client.close()


def _rebuild(client: redis.Redis, entry: BudgetEntry, window: Window, *, is_forced: bool = False) -> None:
    key = budget_key(entry, window)
    _quarantine(client)
    before = window_before(entry, window) if entry.carry_over != "none" else None
    begun: Any = client.register_script((SCRIPTS / "seed_begin.lua").read_text())(
        keys=[key, OPEN, STREAM, EPOCH, "" if before is None else budget_key(entry, before)],
        args=[TAKEOVER_MS, int(is_forced)],
    )
    if begun is None:
        _wait_for_other(client, key)
        return
    last_id, held_before = begun
    epoch: Any = client.hget(key, "epoch")
    try:
        _wait_for_ledger(client, last_id)
        parts = _by_ledger(client, key, entry, window)
        carried = carry(entry, window, held_before=held_before * entry.unit)
    except BaseException:
        client.hset(key, "seeding", 0)  # let the next caller try at once
        raise
    args: list[Any] = [0 if window.end is None else int(window.end) + KEEP_S]
    args += [carried // entry.unit, epoch or "", len(parts)]
    for bucket, total in parts.items():
        args += ["" if bucket < 0 else bucket, *_split(entry, total)]
    client.register_script((SCRIPTS / "seed_finish.lua").read_text())(keys=[key], args=args)


def _wait_for_other(client: redis.Redis, key: str) -> None:
    """Until whoever rebuilds the counter has done so, or has been at it for too long."""
    deadline = time.monotonic() + OTHER_WAIT_S
    while client.hexists(key, "seeding") and time.monotonic() < deadline:
        time.sleep(0.02)


def _split(entry: BudgetEntry, total: int) -> tuple[int, int]:
    """(whole units, pico rest), as counters keep them."""
    return divmod(total, PICO_PER_MICRO) if entry.measure in MONEY else (total, 0)


def _by_ledger(client: redis.Redis, key: str, entry: BudgetEntry, window: Window) -> Mapping[int, int]:
    """The ledger's sums by bucket (-1: all), less the calls that have been added to the counter already."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        sums = _sums(entry, window, None)
        listed: Any = client.lrange(f"{key}:since", 0, -1)
        since = [UUID(request_id.decode()) for request_id in listed]
        if since:
            for bucket, amount in _sums(entry, window, since).items():
                sums[bucket] = sums.get(bucket, 0) - amount
        return sums


def _sums(entry: BudgetEntry, window: Window, request_ids: Sequence[UUID] | None) -> dict[int, int]:
    if window.width_ms:
        return dict(spent_by_bucket(entry, window, request_ids=request_ids))
    return {-1: spent(entry, window, request_ids=request_ids)}


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
        time.sleep(0.02)


# ------------------------------------------------------------------ counters against the ledger


@dataclass(frozen=True, slots=True)
class Difference:
    """A counter that said something else than the ledger and the open records. Pico for money."""

    budget: str
    window: str
    counter: str
    ledger: str
    held: int
    held_open: int


def check(*, now: datetime) -> BudgetCheck:
    """I8 for all counters there are, once: a difference seen twice is logged as an error and repaired.

    Raises TimeoutError if the stream never drains; redis.RedisError.
    """
    client = redis.Redis.from_url(settings.REDIS_URL)
    try:
        places = list(_places(now))
        counted, suspects = 0, []
        for start in range(0, len(places), CHECK_BATCH):
            batch = places[start : start + CHECK_BATCH]
            compared, differing = _compare(client, batch)
            counted += compared
            suspects += [place for place, _ in differing]
        _, differing = _compare(client, suspects) if suspects else (0, [])
        for (entry, window), difference in differing:
            logger.error("a budget's counter differs from the ledger: %s", difference)
            _rebuild(client, entry, window, is_forced=True)
    finally:
        client.close()
    BudgetCheck.objects.filter(checked_at__lt=now - KEEP_CHECKS).delete()
    return BudgetCheck.objects.create(
        checked_at=now,
        counters=counted,
        differences=[
            {name: getattr(difference, name) for name in Difference.__dataclass_fields__}
            for _, difference in differing
        ],
    )


type Place = tuple[BudgetEntry, Window]


def _places(now: datetime) -> Iterable[Place]:
    """The windows that calls may still be settled in: the running one, and the one before."""
    for budget in Budget.objects.filter(is_enabled=True).select_related("tenant").order_by("id"):
        entry = entry_of(budget)
        window = entry.window_at(now.timestamp())
        yield entry, window
        before = window_before(entry, window)
        if before is not None and before.end is not None and before.end > now.timestamp() - 3600:
            yield entry, before


def _compare(client: redis.Redis, places: Sequence[Place]) -> tuple[int, list[tuple[Place, Difference]]]:
    """How many counters there were, and those that differ."""
    keys = [budget_key(entry, window) for entry, window in places]
    reply: Any = client.register_script((SCRIPTS / "check_begin.lua").read_text())(
        keys=[OPEN, STREAM, EPOCH, *keys], args=[CHECK_MS]
    )
    last_id, *states = reply
    if not any(states):
        return 0, []
    _wait_for_ledger(client, last_id)
    finish = client.register_script((SCRIPTS / "check_end.lua").read_text())
    compared, differing = 0, []
    for place, key, state in zip(places, keys, states, strict=True):
        if state is None:
            continue
        entry, window = place
        fields = {name.decode(): value.decode() for name, value in zip(state[1::2], state[2::2], strict=True)}
        sums = _by_ledger(client, key, entry, window)
        carried = carry(entry, window) // entry.unit
        if finish(keys=[key], args=[fields["checking"]]) != 1:
            continue
        compared += 1
        found = _counter(entry, window, fields)
        expected = {bucket: amount for bucket, amount in sums.items() if amount}
        held, held_open = int(fields.get("held", 0)), int(state[0])
        if found != expected or held != held_open:
            difference = Difference(
                str(entry.id), window.id, _shown(found), _shown(expected), held, held_open
            )
            differing.append((place, difference))
        elif carried != int(fields.get("carry", 0)) and time.time() > window.start + _SETTLED_S:
            client.hset(key, "carry", carried)  # calls of the window before were open when it was seeded
    return compared, differing


def _counter(entry: BudgetEntry, window: Window, fields: Mapping[str, str]) -> dict[int, int]:
    """The counter's sums by bucket, as `_by_ledger` has them; zeros left out."""
    unit = entry.unit
    if not window.width_ms:
        total = int(fields["spent"]) * unit + int(fields["rest"])
        return {-1: total} if total else {}
    sums: dict[int, int] = {}
    for name, value in fields.items():
        if name[0] in "sr" and name[1:].isdecimal() and int(name[1:]) >= window.floor:
            part = int(value) * (unit if name[0] == "s" else 1)
            sums[int(name[1:])] = sums.get(int(name[1:]), 0) + part
    return {bucket: amount for bucket, amount in sums.items() if amount}


def _shown(sums: Mapping[int, int]) -> str:
    return str(sum(sums.values())) if set(sums) <= {-1} else str(dict(sums))
