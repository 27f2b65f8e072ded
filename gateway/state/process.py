"""What one worker process holds while it lives: configuration, connections, its journal, its open calls.

Made at start-up, passed to every step, closed at shut-down. The only place where the data plane touches the
database, always in a thread of its own and never while a call waits for its answer.
"""

import asyncio
import logging
import os
import random
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final
from uuid import UUID

import orjson
import redis.asyncio as redis_async
from django.conf import settings
from django.db import close_old_connections, connections

from gateway.content.keep import Keeper
from gateway.state import budgets, snapshot
from gateway.state.clients import HttpClient
from gateway.state.egress import guarded
from gateway.state.health import HealthTracker
from gateway.state.journal import Journal
from gateway.state.limits import (
    EPOCH,
    OPEN,
    SCRIPTS,
    STREAM,
    Admission,
    BudgetHold,
    Limits,
    Settlement,
)
from gateway.state.pace import Pace
from gateway.state.redis import RedisPipe, RedisReplyError, RedisUnavailable, Script
from gateway.state.retries import HedgeBudget, RetryBudget
from gateway.state.sandbox import SandboxClient
from gateway.state.shadows import Shadows
from gateway.state.snapshot import Snapshot
from gateway.state.telemetry import Telemetry
from routing.types import ProviderKind
from tenants import versions

logger = logging.getLogger(__name__)

HEARTBEAT_S: Final = 0.25
POLL_S: Final = 1.0
WORKER_TTL_MS: Final = 10_000
SEED_WAIT_S: Final = 3.0
STOP_WAIT_S: Final = 5.0
WORKER_KEY: Final = "th:worker:{}"
METRICS: Final = "th:metrics"
EPOCH_AT: Final = "th:epoch_at"
EPOCH_OF: Final = "th:epoch_of"
SEEDERS: Final = 2


class Process:
    """One worker. `await start()` before the first call, `await stop()` after the last."""

    snapshot: Snapshot

    def __init__(self) -> None:
        self.worker = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self.pipe = RedisPipe(settings.REDIS_URL)
        self.limits = Limits(self.pipe)
        self.pace = Pace(self.pipe, self.worker)
        self.http = HttpClient()
        self.guarded = HttpClient(resolver=guarded(settings.TOLLHOUSE_EGRESS_ALLOWED_HOSTS))
        """For addresses that a tenant has given."""
        self.sandbox = SandboxClient()
        self.telemetry = Telemetry()
        self.content = Keeper(self.pipe, self.in_database, lambda: self.telemetry.counters)
        self.vault_keys: dict[UUID, bytes] = {}  # the keys of tenants' tokens, opened at first use
        self.retries = RetryBudget()
        self.hedges = HedgeBudget()
        self.health = HealthTracker(self.worker)
        self.journal = Journal(settings.TOLLHOUSE_DATA / "journal", self.worker)
        self.live: dict[str, tuple[bytes, Admission]] = {}
        self.shadows = Shadows()
        self.unsettled: dict[str, Settlement] = {}
        self._closing: dict[str, bytes] = {}  # open records of calls whose settlement is not answered yet
        self._known_epoch = ""
        self._connects = 0
        self._name_epoch = Script((SCRIPTS / "epoch.lua").read_text())
        self.is_draining = False
        self.random = random.Random().random  # noqa: S311 - draws for routing, not secrets
        self.allow_unpriced: bool = settings.TOLLHOUSE_ALLOW_UNPRICED
        self.max_body_bytes: int = settings.TOLLHOUSE_MAX_BODY_BYTES
        self.max_in_flight: int = settings.TOLLHOUSE_MAX_IN_FLIGHT
        self.request_timeout_s: float = settings.TOLLHOUSE_REQUEST_TIMEOUT_S
        self._database = ThreadPoolExecutor(1, thread_name_prefix="database")
        self._seeders = ThreadPoolExecutor(SEEDERS, thread_name_prefix="seeder")
        self._background: set[asyncio.Future[Any]] = set()
        self._settling: set[asyncio.Future[Any]] = set()
        self._seeding: dict[str, asyncio.Task[None]] = {}
        self._asserting: asyncio.Task[None] | None = None
        self._next_refresh: asyncio.Task[None] | None = None
        self._refreshing = asyncio.Lock()
        self._refreshed_s = 0.0
        self._ledger_passed: float | None = None

    # ------------------------------------------------------------------ life

    async def start(self) -> None:
        """Load the configuration, connect, and take up the beat. Raises what makes a start impossible."""
        self.snapshot = await self.in_database(snapshot.load)
        self.pipe.on_connect(self._connected)
        await self.pipe.start()
        await self.reassert()
        await self._beat()
        self.health.configure(self.snapshot.routing)
        await self.health.beat(self.pipe)
        await self.pace.refresh()
        for loop in (self._heartbeats, self._healthbeats, self._housekeeping, self._announcements):
            self.in_background(asyncio.ensure_future(loop()))

    async def stop(self) -> None:
        """Send what is unsettled, then let go. What cannot be sent stays in the journal."""
        self.is_draining = True
        await self.shadows.stop()
        if self._settling:
            await asyncio.wait(self._settling, timeout=STOP_WAIT_S)
        await self._resend()
        await self.content.stop()
        await self.health.beat(self.pipe)
        for task in tuple(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        self.pace.close()
        self.journal.finish(everything_settled=not (self.unsettled or self._settling or self.live))
        try:
            await self.pipe.call("DEL", WORKER_KEY.format(self.worker))
        except RedisUnavailable:
            logger.warning("left without saying goodbye: redis is away")
        await self.pipe.aclose()
        await self.http.aclose()
        await self.guarded.aclose()
        await self.in_database(connections.close_all)  # in its own thread, while there is one
        self._database.shutdown()
        self._seeders.shutdown()

    # ------------------------------------------------------------------ what calls need

    def transport(self, kind: ProviderKind) -> HttpClient | SandboxClient:
        return self.sandbox if kind is ProviderKind.SANDBOX else self.http

    def settle(self, request_id: str, settlement: Settlement) -> None:
        """Close a call in Redis without waiting; what fails is sent again until it is answered."""
        held = self.live.pop(request_id, None)
        if held is not None:
            self._closing[request_id] = held[0]
        sent = self.limits.send(settlement)
        self._settling.add(sent)

        def answered(reply: asyncio.Future[Any]) -> None:
            self._settling.discard(reply)
            if reply.cancelled() or reply.exception() is not None:
                self.unsettled[request_id] = settlement
            else:
                self._closing.pop(request_id, None)

        sent.add_done_callback(answered)

    async def catch_up(self) -> None:
        """Configuration at least as new as this call. Callers share loads, at most four a second."""
        if self._next_refresh is None:
            self._next_refresh = asyncio.ensure_future(self._refresh())
        await asyncio.shield(self._next_refresh)

    async def reassert(self) -> None:
        """Redis may have lost its memory: tell it again what we hold open and what the ledger may lack."""
        if self._asserting is None:
            self._asserting = asyncio.ensure_future(self._reassert())
        await asyncio.shield(self._asserting)

    async def seed_budgets(self, holds: Iterable[BudgetHold]) -> None:
        """Rebuild these counters from the ledger; waits SEED_WAIT_S at most."""
        await asyncio.wait([self.seeding_of(hold) for hold in holds], timeout=SEED_WAIT_S)

    def seeding_of(self, hold: BudgetHold) -> "asyncio.Task[None]":
        """The work that rebuilds a counter, begun unless it is under way."""
        task = self._seeding.get(hold.key)
        if task is None:
            task = asyncio.ensure_future(self._seed(hold))
            self._seeding[hold.key] = task
            task.add_done_callback(lambda done: self._seeded(hold.key, done))
        return task

    def in_background(self, work: asyncio.Future[Any]) -> None:
        """Keep a reference until it ends, and say if it ends badly."""
        self._background.add(work)
        work.add_done_callback(self._ended)

    async def in_database[**P, R](self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run ORM code in this process's one database thread."""

        def run() -> R:
            close_old_connections()
            return function(*args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._database, run)

    # ------------------------------------------------------------------ behind the scenes

    async def _seed(self, hold: BudgetHold) -> None:
        def run() -> None:
            try:
                budgets.rebuild(hold.entry, hold.window)
            finally:
                connections.close_all()

        await asyncio.get_running_loop().run_in_executor(self._seeders, run)

    async def _connected(self, _: RedisPipe) -> None:
        """Another connection may lead to another memory: nothing is admitted until `reassert` has looked."""
        self._connects += 1
        self.limits.epoch = ""

    def _seeded(self, key: str, done: "asyncio.Future[None]") -> None:
        self._seeding.pop(key, None)
        if not done.cancelled() and done.exception() is not None:
            logger.error("budget counter %s could not be rebuilt", key, exc_info=done.exception())

    def _ended(self, work: asyncio.Future[Any]) -> None:
        self._background.discard(work)
        if not work.cancelled() and (error := work.exception()) is not None:
            logger.error("background work failed: %s", error, exc_info=error)

    async def _refresh(self) -> None:
        await asyncio.sleep(self._refreshed_s + HEARTBEAT_S - time.monotonic())
        self._next_refresh = None  # whoever comes from here on needs the load after this one
        async with self._refreshing:
            try:
                self.snapshot = await self.in_database(snapshot.refresh, self.snapshot)
                self.health.configure(self.snapshot.routing)
            finally:
                self._refreshed_s = time.monotonic()

    async def _reassert(self) -> None:
        try:
            connects = self._connects
            epoch = await self._epoch()
            if epoch == self._known_epoch and connects == self._connects:
                self.limits.epoch = epoch
                return
            now_ms = int(time.time() * 1000)
            replies: list[Awaitable[Any]] = [
                self.pipe.call("HDEL", OPEN, request_id) for request_id in await self._forgotten()
            ]
            replies += [
                self.pipe.call("HSET", OPEN, request_id, record)
                for request_id, record in self._closing.items()
            ]
            for request_id, (record, admission) in self.live.items():
                expiry = now_ms + admission.claim.lease_ms
                replies.append(self.pipe.call("HSET", OPEN, request_id, record))
                replies += [
                    self.pipe.call("ZADD", seat.key, expiry, request_id) for seat in admission.claim.seats
                ]
            if self._known_epoch:
                replies += [
                    self.pipe.call("XADD", STREAM, "*", "r", entry.record)
                    for entry in self.journal.retained()
                    if entry.kind == "e"
                ]
            await asyncio.gather(*replies)
            if connects == self._connects:  # else all this was told to a Redis that is gone
                self.limits.epoch = self._known_epoch = epoch
        finally:
            self._asserting = None

    async def _epoch(self) -> str:
        """The name of Redis's present memory; whoever finds none, or another server, names a new one."""
        info = await self.pipe.call("INFO", "server")
        (server,) = [line[7:] for line in info.decode().splitlines() if line.startswith("run_id:")]
        keys = (EPOCH, EPOCH_OF, EPOCH_AT)
        args = (server, secrets.token_hex(8), int(time.time() * 1000))
        return str((await self.pipe.script(self._name_epoch, keys, args)).decode())

    async def _forgotten(self) -> list[str]:
        """Open records in our name of calls that we have closed: an older memory has brought them back."""
        records: list[bytes] = await self.pipe.call("HGETALL", OPEN)
        return [
            request_id.decode()
            for request_id, record in zip(records[::2], records[1::2], strict=True)
            if orjson.loads(record)["worker"] == self.worker
            and request_id.decode() not in self.live
            and request_id.decode() not in self._closing
        ]

    async def _beat(self) -> None:
        await self.pipe.call("SET", WORKER_KEY.format(self.worker), "1", "PX", WORKER_TTL_MS)
        if await self.pipe.call("GET", EPOCH) != self.limits.epoch.encode():
            await self.reassert()

    async def _heartbeats(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            try:
                await self._beat()
                await self._resend()
            except (RedisUnavailable, RedisReplyError) as error:
                logger.warning("redis: %s", error)
                await asyncio.sleep(HEARTBEAT_S)

    async def _healthbeats(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            await self.health.beat(self.pipe)

    async def _resend(self) -> None:
        for request_id, settlement in tuple(self.unsettled.items()):
            try:
                await self.limits.send(settlement)
            except RedisUnavailable:
                return
            self.unsettled.pop(request_id, None)
            self._closing.pop(request_id, None)

    async def _housekeeping(self) -> None:
        """Once a second: newer configuration, journal segments that have served, counters for /metrics."""
        while True:
            await asyncio.sleep(POLL_S)
            try:
                await self.catch_up()
            except Exception:
                logger.warning("configuration not refreshed", exc_info=True)
            try:
                self._ledger_passed = await self._oldest_on_stream()
                await self._publish_counters()
                await self.pace.refresh()
            except (RedisUnavailable, RedisReplyError) as error:
                logger.warning("redis: %s", error)
            await asyncio.get_running_loop().run_in_executor(None, self.journal.flush)
            self.journal.housekeep(now=time.time(), ledger_passed=self._ledger_passed)

    async def _oldest_on_stream(self) -> float:
        """Everything put on the stream before this instant has reached PostgreSQL (the consumer deletes it)."""
        now = time.time()
        oldest = await self.pipe.call("XRANGE", STREAM, "-", "+", "COUNT", 1)
        return int(oldest[0][0].split(b"-")[0]) / 1000 if oldest else now

    async def _publish_counters(self) -> None:
        counted, self.telemetry.counters = self.telemetry.counters, type(self.telemetry.counters)()
        for name, count in counted.items():
            await self.pipe.call("HINCRBY", METRICS, name, count)

    async def _announcements(self) -> None:
        """Configuration changes as they are announced; polling finds what is missed here."""
        client = redis_async.Redis.from_url(settings.REDIS_URL)
        try:
            while True:
                try:
                    async with client.pubsub() as channel:
                        await channel.subscribe(versions.CHANNEL)
                        async for message in channel.listen():
                            if message["type"] == "message":
                                await self.catch_up()
                except redis_async.RedisError as error:
                    logger.info("announcements interrupted: %s", error)
                    await asyncio.sleep(POLL_S)
        finally:
            await client.aclose()


_current: Process | None = None


def current() -> Process:
    """This worker's Process. Raises RuntimeError where no ASGI server has started one."""
    if _current is None:
        msg = "the data plane runs under ASGI: start it with gateway.asgi"
        raise RuntimeError(msg)
    return _current


def set_current(process: Process | None) -> None:
    global _current  # noqa: PLW0603 - one per worker process, set by the server's lifespan
    _current = process
