"""One multiplexed Redis connection per process: commands of one loop tick leave in one write, replies come
back in order.

It must never queue without bound, never wait for a Redis that does not answer, and never send a command
twice, except a script that Redis has answered it does not know.
"""

import asyncio
import hashlib
import logging
import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import parse_qs, unquote, urlsplit

import hiredis

logger = logging.getLogger(__name__)

type Argument = bytes | str | int
type OnConnect = Callable[["RedisPipe"], Awaitable[None]]

CLIENT_NAME = "tollhouse"

_BACKOFF_MIN_S = 0.05
_BACKOFF_MAX_S = 0.25  # well within what a rebuilt budget waits for workers to come back (state.budgets)
_STABLE_AFTER_S = 1.0
_WATCH_TICKS = 4
_WATCH_GRACE_S = 0.02
_CLOSE_TIMEOUT_S = 1.0
_NOT_ENOUGH = object()
# In C, and twice as fast as joining a prepared prefix with encoded arguments. Its stub names a 1-tuple.
_pack = cast("Callable[[tuple[Argument, ...]], bytes]", hiredis.pack_command)
# Answers that tell of the server's state, not of the command: another connection may find a better one.
_UNREADY = ("LOADING", "READONLY", "MASTERDOWN")


class RedisUnavailable(Exception):
    """No answer from Redis. `maybe_executed`: the command had been handed to the socket: it may have run."""

    def __init__(self, reason: str, *, maybe_executed: bool) -> None:
        super().__init__(f"redis is unavailable: {reason}")
        self.reason = reason
        self.maybe_executed = maybe_executed


class RedisReplyError(Exception):
    """Redis refused a command; the text is Redis's own."""


class Script:
    """A Lua script, called by its SHA-1 (which is Redis's name for it, not a security measure)."""

    __slots__ = ("sha", "source")

    def __init__(self, source: str) -> None:
        self.source = source
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class _Server:
    host: str
    port: int
    path: str  # of a unix socket; "" for TCP
    is_tls: bool
    username: str
    password: str = field(repr=False)
    db: int


def _parse_url(url: str) -> _Server:
    """redis:// and rediss://[user:pass@]host[:port][/db], unix:// and redis+socket://[user:pass@]/path[?db=n].

    Raises ValueError, which never quotes the URL: it may hold a password.
    """
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    is_socket = parts.scheme in {"unix", "redis+socket"}
    if parts.scheme not in {"redis", "rediss"} and not is_socket:
        msg = "the Redis URL must be redis://, rediss://, unix:// or redis+socket://"
        raise ValueError(msg)
    path = unquote(parts.path)
    if is_socket:
        if not path.startswith("/"):
            msg = "the Redis URL must name an absolute socket path"
            raise ValueError(msg)
        db = query.get("db") or query.get("virtual_host") or ["0"]
    else:
        db = query.get("db") or [path.strip("/") or "0"]
    if not db[0].isdecimal():
        msg = "the Redis URL's database must be a number"
        raise ValueError(msg)
    return _Server(
        host=parts.hostname or "localhost",
        port=parts.port or 6379,
        path=path if is_socket else "",
        is_tls=parts.scheme == "rediss",
        username=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        db=int(db[0]),
    )


class _Call:
    """A script call under way, kept until its answer, in case Redis has lost the script."""

    __slots__ = ("future", "payload", "script")

    def __init__(self, future: asyncio.Future[Any], payload: bytes, script: Script) -> None:
        self.future = future
        self.payload = payload
        self.script = script


class _Connection(asyncio.Protocol):
    """One socket, the commands waiting for its loop tick, and those waiting for their answer."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, timeout_s: float) -> None:
        self.loop = loop
        self.lost: asyncio.Future[str] = loop.create_future()
        self.pending: deque[asyncio.Future[Any] | _Call] = deque()
        self.is_ready = False
        self._timeout_s = timeout_s
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._reader = hiredis.Reader(
            protocolError=hiredis.ProtocolError, replyError=RedisReplyError, notEnoughData=_NOT_ENOUGH
        )
        self._answered = 0
        # Commands sent by the time of each of the last ticks; the oldest must all be answered by now.
        self._sent_at_tick: deque[int] = deque(maxlen=_WATCH_TICKS)
        self._watch = loop.call_later(timeout_s / _WATCH_TICKS, self._tick)

    def push(self, entry: asyncio.Future[Any] | _Call, payload: bytes) -> None:
        self.pending.append(entry)
        out = self._out
        if not out:
            self.loop.call_soon(self._flush)
        out.append(payload)

    def execute(self, *args: Argument) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self.loop.create_future()
        self.push(future, _pack(args))
        return future

    def drop(self, reason: str) -> None:
        """Fail all that is pending and close at once. Idempotent."""
        self.is_ready = False
        self._watch.cancel()
        if not self.lost.done():
            self.lost.set_result(reason)
        unsent = len(self._out)
        self._out.clear()
        pending, self.pending = self.pending, deque()
        sent = len(pending) - unsent
        for number, entry in enumerate(pending):
            future = entry.future if type(entry) is _Call else cast("asyncio.Future[Any]", entry)
            if not future.done():
                future.set_exception(RedisUnavailable(reason, maybe_executed=number < sent))
        if self._transport is not None:
            self._transport.abort()

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.lost.done():
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        reader.feed(data)
        gets = reader.gets
        while True:
            try:
                reply = gets()
            except hiredis.ProtocolError:
                self.drop("malformed reply")
                return
            if reply is _NOT_ENOUGH:
                return
            if not self.pending:
                if not self.lost.done():
                    self.drop("a reply nobody waits for")
                return
            self._answered += 1
            entry = self.pending.popleft()
            if type(entry) is _Call:
                future = entry.future
                if type(reply) is RedisReplyError and str(reply).startswith("NOSCRIPT"):
                    self._load_and_repeat(entry)
                    continue
            else:
                future = cast("asyncio.Future[Any]", entry)
            if type(reply) is not RedisReplyError:
                if not future.done():
                    future.set_result(reply)
            elif str(reply).startswith(_UNREADY):
                reason = str(reply).partition(" ")[0].lower()
                if not future.done():
                    future.set_exception(RedisUnavailable(reason, maybe_executed=False))
                self.drop(reason)
                return
            elif not future.done():
                future.set_exception(reply)

    def eof_received(self) -> None:
        self.drop("connection closed")

    def connection_lost(self, exc: Exception | None) -> None:
        self.drop("connection closed" if exc is None else "connection lost")

    # -- inside

    def _flush(self) -> None:
        out = self._out
        if out and self._transport is not None:
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))
            out.clear()

    def _load_and_repeat(self, call: _Call) -> None:
        """Redis was restarted or flushed. If the load is refused, so is the call, with Redis's reason."""
        loading = self.execute("SCRIPT", "LOAD", call.script.source)

        def loaded(done: asyncio.Future[Any]) -> None:
            error = done.exception()
            if error is None and self.lost.done():
                error = RedisUnavailable(self.lost.result(), maybe_executed=False)
            if call.future.done():
                return
            if error is None:
                self.push(call.future, call.payload)
            else:
                call.future.set_exception(error)

        loading.add_done_callback(loaded)

    def _tick(self) -> None:
        sent = self._sent_at_tick
        if len(sent) == _WATCH_TICKS and self._answered < sent[0]:
            # If it was this process that stood still, the reply lies unread in the socket: look there first.
            self._watch = self.loop.call_later(_WATCH_GRACE_S, self._check, sent[0])
            return
        sent.append(self._answered + len(self.pending) - len(self._out))
        self._watch = self.loop.call_later(self._timeout_s / _WATCH_TICKS, self._tick)

    def _check(self, sent: int) -> None:
        if self._answered < sent:
            self.drop("reply overdue")
        else:
            self._tick()


class RedisPipe:
    """Belongs to the event loop that starts it; not thread-safe. Not for blocking commands or subscriptions.

    A reply is overdue after `timeout_s` (noticed within a quarter more): the connection is then dropped and
    all that was pending fails. `on_connect` runs after every connect, beside other calls; if it raises, the
    connection is dropped and tried again.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 1.0,
        max_pending: int = 10_000,
        on_connect: Sequence[OnConnect] = (),
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Raises ValueError for a URL it cannot use. `tls` replaces the default (verified) context."""
        self._server = _parse_url(url)
        self._timeout_s = timeout_s
        self._max_pending = max_pending
        self._on_connect = list(on_connect)
        self._tls = tls
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: _Connection | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._scripts: dict[str, Script] = {}

    @property
    def is_connected(self) -> bool:
        return self._connection is not None and self._connection.is_ready

    @property
    def pending(self) -> int:
        """Commands without an answer yet."""
        return 0 if self._connection is None else len(self._connection.pending)

    def on_connect(self, callback: OnConnect) -> None:
        """Also run `callback` after every later connect."""
        self._on_connect.append(callback)

    async def start(self) -> None:
        """Returns after the first attempt, whatever came of it; later ones go on in the background."""
        if self._keeper is not None:
            msg = "already started"
            raise RuntimeError(msg)
        self._loop = asyncio.get_running_loop()
        tried = self._loop.create_future()
        self._keeper = self._loop.create_task(self._keep_connected(tried), name="redis pipe")
        await tried

    async def aclose(self) -> None:
        """Pending calls fail with RedisUnavailable. Idempotent."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait([keeper], timeout=_CLOSE_TIMEOUT_S)

    def call(self, *args: Argument) -> asyncio.Future[Any]:
        """One command. The future raises RedisUnavailable or RedisReplyError; text replies are bytes."""
        connection = self._connection
        if connection is None or not connection.is_ready:
            return self._refuse("not connected")
        if len(connection.pending) >= self._max_pending:
            return self._refuse("too many calls pending")
        return connection.execute(*args)

    def script(
        self, script: Script, keys: Sequence[Argument], args: Sequence[Argument]
    ) -> asyncio.Future[Any]:
        """Run a script, loading it first where Redis does not know it. Raises as `call`."""
        connection = self._connection
        if connection is None or not connection.is_ready:
            return self._refuse("not connected")
        if len(connection.pending) >= self._max_pending:
            return self._refuse("too many calls pending")
        if script.sha not in self._scripts:
            self._scripts[script.sha] = script
        future: asyncio.Future[Any] = connection.loop.create_future()
        payload = _pack(("EVALSHA", script.sha, len(keys), *keys, *args))
        connection.push(_Call(future, payload, script), payload)
        return future

    # -- inside

    def _refuse(self, reason: str) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        future.set_exception(RedisUnavailable(reason, maybe_executed=False))
        return future

    async def _keep_connected(self, tried: asyncio.Future[None]) -> None:
        loop = asyncio.get_running_loop()
        backoff_s = _BACKOFF_MIN_S
        is_reported = False
        try:
            while True:
                reason = await self._connect(loop)
                if not tried.done():
                    tried.set_result(None)
                connection = self._connection
                if connection is not None:
                    logger.info("redis connected")
                    is_reported = False
                    since = loop.time()
                    reason = await connection.lost
                    self._connection = None
                    if loop.time() - since >= _STABLE_AFTER_S:
                        backoff_s = _BACKOFF_MIN_S
                if not is_reported:
                    is_reported = True
                    logger.warning("redis unavailable: %s", reason)
                await asyncio.sleep(backoff_s)
                backoff_s = min(backoff_s * 2, _BACKOFF_MAX_S)
        finally:
            if self._connection is not None:
                self._connection.drop("closed")
                self._connection = None
            if not tried.done():
                tried.set_result(None)

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> str:
        """One attempt. Leaves `_connection` set and returns "", or returns why it failed."""
        connection = _Connection(loop, timeout_s=self._timeout_s)
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._open(connection, loop)
                await self._greet(connection)
            connection.is_ready = True
            self._connection = connection
            for callback in self._on_connect:
                await callback(self)
        except TimeoutError:
            reason = "no answer in time"
        except OSError as error:  # ssl.SSLError is one
            reason = type(error).__name__
        except RedisUnavailable as error:
            reason = error.reason
        except RedisReplyError as error:
            reason = str(error).partition(" ")[0]  # WRONGPASS, NOAUTH, LOADING: the rest may name a user
        except Exception:  # a callback's own mistake must not end the reconnecting
            logger.exception("an on_connect callback failed")
            reason = "on_connect failed"
        else:
            return ""
        finally:
            if self._connection is not connection:
                connection.drop("closed")  # also when this task is cancelled
        self._connection = None
        connection.drop(reason)
        return reason

    async def _open(self, connection: _Connection, loop: asyncio.AbstractEventLoop) -> None:
        server = self._server
        if server.path:
            await loop.create_unix_connection(lambda: connection, server.path)
            return
        tls = None
        if server.is_tls:
            self._tls = tls = self._tls or ssl.create_default_context()
        await loop.create_connection(
            lambda: connection,
            server.host,
            server.port,
            ssl=tls,
            server_hostname=server.host if tls is not None else None,
        )

    async def _greet(self, connection: _Connection) -> None:
        """Sign in, and bring the scripts along, in one write. Raises RedisReplyError and RedisUnavailable."""
        server = self._server
        execute = connection.execute
        required = []
        if server.username:
            required.append(execute("AUTH", server.username, server.password))
        elif server.password:
            required.append(execute("AUTH", server.password))
        if server.db:
            required.append(execute("SELECT", server.db))
        named = execute("CLIENT", "SETNAME", CLIENT_NAME)  # a courtesy an ACL may forbid
        required.append(execute("PING"))  # a server that still loads its data says so here
        required.extend(execute("SCRIPT", "LOAD", script.source) for script in self._scripts.values())
        outcomes = await asyncio.gather(*required, named, return_exceptions=True)
        for outcome in outcomes[:-1]:
            if isinstance(outcome, BaseException):
                raise outcome
