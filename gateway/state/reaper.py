"""Closes what dead workers left open: first from their journals, then from the open records in Redis.

A call whose end stands in a journal is settled with it. A call without an end is `unknown`: the provider may
have billed it, so the worst case is booked as our cost, and nothing as the tenant's price. Runs in a thread or
a Celery worker, with blocking clients; every step may happen twice without harm.
"""

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import orjson
import redis
from django.conf import settings

from billing.budgets.count import Counted
from billing.rating.fx import NO_RATES
from billing.snapshot import fx_table
from gateway.pipeline.record import amounts_of_row, decode, encode_unknown
from gateway.state.journal import abandoned, read
from gateway.state.limits import OPEN, SCRIPTS, STREAM, Spent, settlement
from gateway.state.process import WORKER_KEY

logger = logging.getLogger(__name__)

REAPED: Final = "th:reaped:{}"
"""Says that a call was closed by a reaper: the journal of its worker, found later, must not close it again."""
REAPED_S: Final = 7 * 24 * 3600

GRACE_S: Final = 12.0
"""A worker is dead when its sign of life (10 s) has expired; a young call is left alone until it must have."""


def close_abandoned() -> int:
    """Replay journals of dead workers on this host, then close calls of dead workers anywhere. Returns how many."""
    client = redis.Redis.from_url(settings.REDIS_URL)
    try:
        return replay_journals(client, settings.TOLLHOUSE_DATA / "journal") + close_open(client)
    finally:
        client.close()


def replay_journals(client: redis.Redis, folder: Path) -> int:
    """Settle what dead workers had closed; put in Redis again what they had open and Redis has forgotten.

    All files together, since a call may end in a later one than it began in.
    """
    closed = 0
    files = list(abandoned(folder))
    try:
        opened: dict[str, bytes] = {}  # the last attempt's record
        ended: dict[str, bytes] = {}
        for path, _ in files:
            for entry in read(path):
                (opened if entry.kind == "s" else ended)[entry.request_id] = entry.record
        for request_id in {**opened, **ended}:
            if client.exists(REAPED.format(request_id)):
                continue
            if request_id in ended:
                _settle(client, request_id, ended[request_id], client.hget(OPEN, request_id))
                closed += 1
            else:
                client.hsetnx(OPEN, request_id, opened[request_id])
        for path, _ in files:
            path.unlink(missing_ok=True)
    finally:
        for _, fd in files:
            os.close(fd)
    return closed


def close_open(client: redis.Redis) -> int:
    """Book calls as unknown whose worker is gone."""
    closed = 0
    living: dict[str, bool] = {}
    for request_id, record in client.hscan_iter(OPEN, count=500):
        opened = orjson.loads(record)
        worker = opened["worker"]
        if worker not in living:
            living[worker] = bool(client.exists(WORKER_KEY.format(worker)))
        age_s = time.time() - (UUID(request_id.decode()).int >> 80) / 1000
        if living[worker] or age_s < GRACE_S:
            continue
        logger.warning("call %s was left open by %s: booked as unknown", request_id.decode(), worker)
        client.set(REAPED.format(request_id.decode()), 1, ex=REAPED_S)
        _settle(client, request_id.decode(), encode_unknown(request_id.decode(), opened), record)
        closed += 1
    return closed


def _settle(client: redis.Redis, request_id: str, payload: bytes, opened_record: Any) -> None:
    if opened_record is None:
        client.xadd(STREAM, {"r": payload})  # settled before, perhaps: the ledger drops doubles
        return
    opened = orjson.loads(opened_record)
    rows = decode(payload).rows
    made = settlement(
        request_id,
        payload,
        seats=opened["seats"],
        budgets=[_budget(budget) for budget in opened["budgets"]],
        spent=Spent(
            tokens=0,
            attempts=[amounts_of_row(row) for row in rows],
            fx=fx_table() if opened["budgets"] else NO_RATES,
            at_s=(UUID(request_id).int >> 80) / 1000,
        ),
    )
    client.register_script((SCRIPTS / "settle.lua").read_text())(keys=made.keys, args=made.args)


def _budget(wire: Sequence[Any]) -> tuple[str, int, int, Counted]:
    """(key, hold, bucket, what counts) as the open record has it; records of the version before end in a measure."""
    key, hold, *more = wire
    if len(more) == 1:
        return key, hold, -1, Counted(more[0], include_byok=True)
    return key, hold, more[0], Counted.from_wire(more[1])
