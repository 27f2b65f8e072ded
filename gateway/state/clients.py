"""The data plane's pooled HTTP/1.1 client: asyncio protocols, httptools, one deadline timer per connection.

It must never follow redirects, read proxy settings, send a request twice that a server may have seen,
or let a body that ended early look like one that ended.
"""

import asyncio
import ipaddress
import math
import re
import socket
import ssl
import struct
import sys
import zlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, cast
from urllib.parse import urlsplit

import httptools

from routing.types import WireRequest

if sys.platform == "linux":
    import fcntl
    import termios

type TimeoutPhase = Literal["connect", "first_byte", "stall", "total"]
type ConnectReason = Literal[
    "dns", "not_allowed", "refused", "unreachable", "reset", "tls", "tls_verify", "pool_full", "closed"
]
type LimitedPart = Literal["headers", "body", "inflated"]
type Address = tuple[str, int]
type Resolver = Callable[[str, int], Awaitable[Sequence[Address]]]
"""Host and port in, the addresses to try in order out. What it raises, other than OSError, passes through."""

STREAM_BUFFER_BYTES = 256 * 1024
"""What one stream may hold unread before its connection stops reading."""

_DNS_TTL_S = 60.0
_DNS_ENTRIES = 1024
_PREPARED_REQUESTS = 1024
_SPLIT_WRITE_BYTES = 64 * 1024
_CLOSE_TIMEOUT_S = 1.0
_TIMER_SLACK_S = 0.001  # uvloop's clock ticks in whole milliseconds
_INFLATE_RATIO = 100
_INFLATE_FLOOR_BYTES = 1024 * 1024


# ------------------------------------------------------------------ errors


class ClientError(Exception):
    """Why an exchange failed. Messages name no URL, header or address: they may be shown."""


class ClientConnectError(ClientError):
    """No usable connection; nothing of the request was sent."""

    def __init__(self, reason: ConnectReason) -> None:
        super().__init__(f"could not connect: {reason}")
        self.reason = reason


class ClientReset(ClientError):
    """The connection ended before a response head. `reused`: it had served an earlier request.

    The server may have acted on the request: only whoever owns the attempt may send it again.
    """

    def __init__(self, *, reused: bool) -> None:
        super().__init__("the connection ended before a response")
        self.reused = reused


class ClientCut(ClientError):
    """The body ended before its end: short of Content-Length, without the last chunk, or by a reset."""

    def __init__(self) -> None:
        super().__init__("the response ended before its end")


class ClientTimeout(ClientError):
    """A limit in time was reached; `phase` names it."""

    def __init__(self, phase: TimeoutPhase) -> None:
        super().__init__(f"timed out: {phase}")
        self.phase = phase


class ClientTooLarge(ClientError):
    """The response outgrew a bound in bytes; `part` names it."""

    def __init__(self, part: LimitedPart) -> None:
        super().__init__(f"the response is too large: {part}")
        self.part = part


class ClientProtocolError(ClientError):
    """The peer does not speak HTTP/1.1 as we must read it; `reason` is safe to show."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"malformed response: {reason}")
        self.reason = reason


# ------------------------------------------------------------------ requests


@dataclass(frozen=True, slots=True)
class _Origin:
    key: str  # scheme://host:port, the pool's name
    host: str
    port: int
    is_tls: bool
    is_literal: bool


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What stays the same from request to request: where it goes and the head up to Content-Length."""

    origin: _Origin
    head: bytes = field(repr=False)
    is_idempotent: bool
    omits_length: bool  # a GET without a body carries no Content-Length


_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_BAD_VALUE = re.compile(r"[^\t\x20-\x7e\x80-\xff]")
_URL = re.compile(r"[\x21-\x7e]+")
_HOST = re.compile(r"[A-Za-z0-9._-]+")
_IDEMPOTENT = frozenset({"GET", "OPTIONS", "PUT", "DELETE"})
_METHODS = _IDEMPOTENT | {"POST", "PATCH"}
# The client frames the message and owns the connection; a second opinion here is request smuggling.
_OWN_HEADERS = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


def _prepare(method: str, url: str, headers: tuple[tuple[str, str], ...]) -> _Prepared:
    """Raises ValueError on anything that could not be sent exactly as meant; never quotes a header value."""
    if method not in _METHODS:
        msg = "unsupported method"
        raise ValueError(msg)
    # Checked before urlsplit, which silently drops tabs and line ends.
    if not _URL.fullmatch(url):
        msg = "the URL must be visible ASCII"
        raise ValueError(msg)
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        msg = "the URL must be absolute, http or https"
        raise ValueError(msg)
    if parts.username is not None or parts.password is not None:
        msg = "the URL must not carry credentials"
        raise ValueError(msg)
    is_tls = parts.scheme == "https"
    default_port = 443 if is_tls else 80
    port = default_port if parts.port is None else parts.port
    if port == 0:
        msg = "the URL must not name port 0"
        raise ValueError(msg)
    host, authority, is_literal = _parse_host(parts.hostname)
    if port != default_port:
        authority = f"{authority}:{port}"
    target = parts.path or "/"
    if parts.query:
        target = f"{target}?{parts.query}"
    lines = [f"{method} {target} HTTP/1.1", f"host: {authority}"]
    names = set()
    for name, value in headers:
        if not _TOKEN.fullmatch(name):
            msg = f"not a header name: {name!r}"
            raise ValueError(msg)
        if _BAD_VALUE.search(value):
            msg = f"the value of header {name} has a character that cannot be sent"
            raise ValueError(msg)
        names.add(name.lower())
        lines.append(f"{name}: {value}")
    if names & _OWN_HEADERS:
        msg = f"the client sets these headers itself: {', '.join(sorted(names & _OWN_HEADERS))}"
        raise ValueError(msg)
    if "accept-encoding" not in names:
        lines.append("accept-encoding: identity")
    return _Prepared(
        origin=_Origin(f"{parts.scheme}://{authority}", host, port, is_tls, is_literal),
        head=("\r\n".join(lines) + "\r\n").encode("latin-1"),
        is_idempotent=method in _IDEMPOTENT,
        omits_length=method == "GET",
    )


def _parse_host(hostname: str) -> tuple[str, str, bool]:
    """The host to connect to, its spelling in Host, and whether it is an address."""
    try:
        address = ipaddress.ip_address(hostname)
    except ValueError:
        if not _HOST.fullmatch(hostname):
            msg = "the URL's host is malformed"
            raise ValueError(msg) from None
        return hostname, hostname, False
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            msg = "the URL's host must not carry a zone"
            raise ValueError(msg)
        return str(address), f"[{address}]", True
    return str(address), str(address), True


# ------------------------------------------------------------------ responses


@dataclass(frozen=True, slots=True)
class WholeResponse:
    """A response that has arrived completely; header names in lower case, repeated values joined by `, `."""

    status: int
    headers: dict[str, str]
    body: bytes


class _Exchange:
    """One request on its way and what has come back. The connection writes it, the caller reads it."""

    __slots__ = (
        "chunks",
        "complete",
        "connection",
        "error",
        "headers",
        "is_stream",
        "size",
        "status",
        "unseen",
        "waiter",
    )

    def __init__(self, *, is_stream: bool) -> None:
        self.is_stream = is_stream
        self.connection: _Connection | None = None
        self.waiter: asyncio.Future[None] | None = None
        self.status = 0
        self.headers: dict[str, str] = {}
        self.chunks: list[bytes] = []
        self.size = 0  # bytes in chunks
        self.complete = False
        self.error: ClientError | None = None
        self.unseen = False  # the error is a ClientReset, and the server cannot have acted on the request

    def wake(self) -> None:
        waiter = self.waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def take(self) -> bytes:
        chunks = self.chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self.size = 0
        return data


class StreamResponse:
    """A response whose head has arrived. Close it in `finally`; a finished body has already left the pool's
    connection free, anything else closes the connection, which is how the upstream learns to stop.
    """

    __slots__ = ("_closed", "_exchange", "_loop", "_stall_timeout_s", "headers", "status")

    def __init__(
        self, exchange: _Exchange, loop: asyncio.AbstractEventLoop, *, stall_timeout_s: float
    ) -> None:
        self._exchange = exchange
        self._loop = loop
        self._stall_timeout_s = stall_timeout_s
        self._closed = False
        self.status = exchange.status
        self.headers = exchange.headers

    @property
    def buffered_bytes(self) -> int:
        """Arrived and not read yet: at most STREAM_BUFFER_BYTES and what one more read of the socket brought
        (or inflated to).
        """
        return self._exchange.size

    async def read(self) -> bytes:
        """All that has arrived, joined; b"" at the clean end. One reader at a time.

        Raises ClientCut, ClientTimeout("stall") when a read has waited for `stall_timeout_s`, ClientTooLarge
        and ClientProtocolError. Bytes that came before an error are handed out before it is raised.
        """
        if self._closed:
            msg = "read after aclose"
            raise RuntimeError(msg)
        exchange = self._exchange
        while not exchange.chunks:
            if exchange.error is not None:
                raise exchange.error
            connection = exchange.connection
            if exchange.complete or connection is None:
                return b""
            if exchange.waiter is not None:
                msg = "another task is reading this response"
                raise RuntimeError(msg)
            exchange.waiter = waiter = self._loop.create_future()
            connection.arm(self._loop.time() + self._stall_timeout_s, "stall")
            try:
                await waiter
            except BaseException:  # the caller is cancelled: nobody will read the rest
                self._closed = True
                connection.abandon(exchange)
                raise
            finally:
                exchange.waiter = None
            connection.disarm(exchange)
        data = exchange.take()
        if exchange.connection is not None:
            exchange.connection.resume()
        return data

    async def read_all(self, limit: int) -> bytes:
        """The rest of the body. Raises as `read`, and ClientTooLarge (and closes) above `limit` bytes."""
        pieces = []
        size = 0
        while data := await self.read():
            size += len(data)
            if size > limit:
                await self.aclose()
                raise ClientTooLarge("body")
            pieces.append(data)
        return b"".join(pieces)

    async def aclose(self) -> None:
        """Idempotent; never waits for the peer."""
        if self._closed:
            return
        self._closed = True
        exchange = self._exchange
        if exchange.connection is not None:
            exchange.connection.fail(ClientCut())


class _Inflater:
    """Undoes a Content-Encoding we did not ask for, within bounds in size and ratio."""

    __slots__ = ("_decompress", "_limit", "_produced", "_received", "_wbits")

    def __init__(self, encoding: str, *, limit: int | None) -> None:
        """Raises ClientProtocolError for an encoding other than gzip and deflate."""
        if encoding not in {"gzip", "x-gzip", "deflate"}:
            raise ClientProtocolError("content-encoding")
        self._wbits = 0 if encoding == "deflate" else 31
        self._decompress: Any = None
        self._limit = limit
        self._received = 0
        self._produced = 0

    def feed(self, data: bytes) -> bytes:
        """Raises ClientTooLarge before the excess is produced, ClientProtocolError on garbage."""
        self._received += len(data)
        allowed = max(_INFLATE_FLOOR_BYTES, self._received * _INFLATE_RATIO)
        if self._limit is not None:
            allowed = min(allowed, self._limit)
        pieces = []
        try:
            while data:
                if self._decompress is None:
                    if self._wbits == 0:
                        # RFC 9110 means zlib's format by "deflate"; some servers send the bare stream.
                        is_zlib = data[0] & 0x0F == 8 and data[0] >> 4 <= 7
                        self._wbits = 15 if is_zlib else -15
                    self._decompress = zlib.decompressobj(self._wbits)
                piece = self._decompress.decompress(data, allowed - self._produced + 1)
                self._produced += len(piece)
                if self._produced > allowed:
                    raise ClientTooLarge("inflated")
                pieces.append(piece)
                if self._decompress.eof:  # RFC 1952: further members may follow
                    data = self._decompress.unused_data
                    self._decompress = None
                else:
                    data = self._decompress.unconsumed_tail
        except zlib.error:
            raise ClientProtocolError("content-encoding") from None
        return b"".join(pieces)

    @property
    def is_complete(self) -> bool:
        """Whether the last member has ended (nothing received counts as an empty body)."""
        return self._decompress is None


# ------------------------------------------------------------------ connections


class _Pool:
    __slots__ = ("active", "idle")

    def __init__(self) -> None:
        self.active = 0  # connecting or carrying an exchange
        self.idle: dict[_Connection, None] = {}  # least recently used first


class _Connection(asyncio.Protocol):
    """One socket to one origin. Carries one exchange at a time, then goes back to its pool."""

    __slots__ = (
        "_body",
        "_client",
        "_deadline",
        "_exchange",
        "_head_bytes",
        "_head_complete",
        "_headers",
        "_idle_since",
        "_inflater",
        "_is_interim",
        "_is_keep_alive",
        "_is_paused",
        "_is_spoiled",
        "_loop",
        "_message_complete",
        "_parser",
        "_phase",
        "_pool",
        "_prepared",
        "_request_bytes",
        "_timer",
        "_timer_at",
        "_total_deadline",
        "_transport",
        "_until_close",
        "is_closed",
        "is_reused",
        "on_body",
    )

    def __init__(self, client: "HttpClient", pool: _Pool, loop: asyncio.AbstractEventLoop) -> None:
        self._client = client
        self._pool = pool
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._body: list[bytes] = []
        self.on_body = self._body.append  # the parser calls it without a Python frame
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._headers: list[tuple[bytes, bytes]] = []
        self._exchange: _Exchange | None = None
        self._prepared: _Prepared | None = None
        self._inflater: _Inflater | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._deadline = math.inf
        self._phase: TimeoutPhase = "total"
        self._total_deadline = math.inf
        self._idle_since = 0.0
        self._request_bytes = 0
        self._head_bytes = 0
        self._head_complete = False
        self._message_complete = False
        self._until_close = False
        self._is_interim = False
        self._is_keep_alive = False
        self._is_paused = False
        self._is_spoiled = False
        self.is_closed = False
        self.is_reused = False

    # -- what the client and the response call

    def begin(
        self,
        exchange: _Exchange,
        prepared: _Prepared,
        body: bytes,
        *,
        first_byte_timeout_s: float,
        total_deadline: float,
    ) -> None:
        """Send a request. The pool has counted this connection as active already."""
        self._exchange = exchange
        exchange.connection = self
        if self.is_closed:
            self._reset(unseen=True)
            return
        self._prepared = prepared
        self._headers.clear()
        self._head_bytes = 0
        self._head_complete = False
        self._message_complete = False
        self._is_interim = False
        self._inflater = None
        self._total_deadline = total_deadline
        deadline = self._loop.time() + first_byte_timeout_s
        if deadline < total_deadline:
            self.arm(deadline, "first_byte")
        else:
            self.arm(total_deadline, "total")
        if body or not prepared.omits_length:
            head = b"%bcontent-length: %d\r\n\r\n" % (prepared.head, len(body))
        else:
            head = prepared.head + b"\r\n"
        self._request_bytes = len(head) + len(body)
        transport = cast("asyncio.Transport", self._transport)
        if len(body) < _SPLIT_WRITE_BYTES:
            transport.write(head + body)
        else:
            transport.write(head)
            transport.write(body)

    def arm(self, deadline: float, phase: TimeoutPhase) -> None:
        """Set the one deadline (loop time). A timer that fires too early re-arms itself: later is free."""
        self._deadline = deadline
        self._phase = phase
        timer = self._timer
        if timer is None or deadline < self._timer_at:
            if timer is not None:
                timer.cancel()
            self._timer_at = deadline
            self._timer = self._loop.call_at(deadline, self._on_timer)

    def disarm(self, exchange: _Exchange) -> None:
        """Nobody waits for this exchange now. By then the connection may carry another one."""
        if self._exchange is exchange:
            self._deadline = math.inf

    def resume(self) -> None:
        """The reader has caught up."""
        if self._is_paused:
            self._is_paused = False
            cast("asyncio.Transport", self._transport).resume_reading()

    def abandon(self, exchange: _Exchange) -> None:
        """The caller of `exchange` is gone. Does nothing if the connection has moved on."""
        if self._exchange is exchange:
            self._detach()
            self.close()

    def fail(self, error: ClientError) -> None:
        """End the exchange with `error` and close."""
        if self._exchange is not None:
            exchange = self._detach()
            exchange.error = error
            exchange.wake()
        self.close()

    def end(self) -> None:
        """The connection is over, for a reason outside the exchange it may carry."""
        if self._exchange is None:
            self.close()
        elif self._head_complete:
            self.fail(ClientCut())
        else:
            self._reset(unseen=False)

    def close(self) -> None:
        """Close at once, without waiting for anything to be written. Idempotent."""
        self._mark_closed()
        if self._transport is not None:
            self._transport.abort()

    def has_idled_since(self, then: float) -> bool:
        return self._idle_since <= then

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        parser = self._parser
        if exchange is None or parser is None:
            self.close()  # nobody asked: what follows could be taken for the next answer
            return
        if not self._head_complete:
            self._head_bytes += len(data)
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.fail(ClientProtocolError("upgrade"))
            return
        except httptools.HttpParserError as error:
            if not self._message_complete:
                self.fail(ClientProtocolError(str(error)))
                return
            self._is_spoiled = True
        if self._exchange is not exchange:
            return  # failed in a callback
        if self._message_complete:
            self._finish()
        elif self._head_complete:
            if self._body and not self._collect():
                return
            if exchange.is_stream:
                if exchange.size > STREAM_BUFFER_BYTES and not self._is_paused:
                    self._is_paused = True
                    cast("asyncio.Transport", self._transport).pause_reading()
                if exchange.chunks:
                    exchange.wake()
        elif self._head_bytes > self._client.max_header_bytes:
            self.fail(ClientTooLarge("headers"))

    def eof_received(self) -> None:
        if self._exchange is not None and not self._head_complete:
            self._reset(unseen=self._peer_closed_before_the_request())
        elif self._exchange is not None and self._until_close:
            self._message_complete = True
            self._is_keep_alive = False
            self._finish()
        else:
            self.end()

    def connection_lost(self, exc: Exception | None) -> None:
        self.end()
        self._parser = None  # it holds our methods: let the cycle go
        self._client._lost(self)

    # -- httptools

    def on_message_begin(self) -> None:
        if self._message_complete:
            self._is_spoiled = True

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        exchange = self._exchange
        if exchange is None or self._message_complete:
            return
        status = cast("httptools.HttpResponseParser", self._parser).get_status_code()
        if status < 200:
            if status == 101:
                self.fail(ClientProtocolError("upgrade"))
            self._is_interim = True
            self._headers.clear()
            return
        raw = self._headers
        if self._head_bytes > self._client.max_header_bytes:
            # One read may bring head and body: weigh the head alone.
            weight = sum(len(name) + len(value) + 4 for name, value in raw)
            if weight > self._client.max_header_bytes:
                self.fail(ClientTooLarge("headers"))
                return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in raw}
        if len(headers) != len(raw):
            headers = _join_repeated(raw)
        self._head_complete = True
        encoding = headers.get("transfer-encoding")
        if encoding is None:
            self._until_close = "content-length" not in headers and status not in {204, 304}
        elif encoding.lower() == "chunked":
            self._until_close = False
        else:
            self.fail(ClientProtocolError("transfer-encoding"))
            return
        if "content-encoding" in headers and not self._start_inflating(headers):
            return
        exchange.status = status
        exchange.headers = headers
        if exchange.is_stream:
            self._deadline = math.inf  # a waiting read sets the next one
            exchange.wake()
        else:
            self._deadline = self._total_deadline
            self._phase = "total"

    def on_message_complete(self) -> None:
        if self._is_interim:
            self._is_interim = False
            return
        if self._exchange is None or self._message_complete:
            return
        self._message_complete = True
        self._is_keep_alive = cast("httptools.HttpResponseParser", self._parser).should_keep_alive()
        if self._body:
            self._collect()

    # -- inside

    def _collect(self) -> bool:
        """Move what the parser delivered to the exchange; False if that ended it."""
        exchange = cast("_Exchange", self._exchange)
        body = self._body
        data = body[0] if len(body) == 1 else b"".join(body)
        body.clear()
        if self._inflater is not None:
            try:
                data = self._inflater.feed(data)
            except ClientError as error:
                self.fail(error)
                return False
        if data:
            exchange.chunks.append(data)
            exchange.size += len(data)
            if not exchange.is_stream and exchange.size > self._client.max_body_bytes:
                self.fail(ClientTooLarge("body"))
                return False
        return True

    def _start_inflating(self, headers: dict[str, str]) -> bool:
        """False if that ended the exchange."""
        encoding = headers["content-encoding"].strip().lower()
        if encoding == "identity":
            return True
        is_stream = cast("_Exchange", self._exchange).is_stream
        try:
            self._inflater = _Inflater(encoding, limit=None if is_stream else self._client.max_body_bytes)
        except ClientProtocolError as error:
            self.fail(error)
            return False
        del headers["content-encoding"]  # the reader gets plain bytes, and more of them
        headers.pop("content-length", None)
        return True

    def _finish(self) -> None:
        """The body is complete: free the connection, then tell the reader."""
        exchange = cast("_Exchange", self._exchange)
        if self._inflater is not None and not self._inflater.is_complete:
            self.fail(ClientCut())
            return
        self._exchange = None
        exchange.connection = None
        exchange.complete = True
        pool = self._pool
        pool.active -= 1
        transport = cast("asyncio.Transport", self._transport)
        if (
            self._is_keep_alive
            and not self._is_spoiled
            and not self.is_closed
            and not self._client.is_closed
            # An answer that overtook its own request leaves the connection unusable.
            and (self._request_bytes < _SPLIT_WRITE_BYTES or transport.get_write_buffer_size() == 0)
        ):
            self._deadline = math.inf
            self._idle_since = self._loop.time()
            self.is_reused = True
            pool.idle[self] = None
        else:
            self.close()
        exchange.wake()

    def _detach(self) -> _Exchange:
        exchange = cast("_Exchange", self._exchange)
        self._exchange = None
        exchange.connection = None
        self._pool.active -= 1
        return exchange

    def _reset(self, *, unseen: bool) -> None:
        exchange = cast("_Exchange", self._exchange)
        exchange.unseen = self._head_bytes == 0 and (
            unseen or (self._prepared is not None and self._prepared.is_idempotent)
        )
        self.fail(ClientReset(reused=self.is_reused))

    def _peer_closed_before_the_request(self) -> bool:
        """Proof that the server cannot have read any of the request it closed on.

        A FIN acknowledges all that its sender had received. If, with the FIN here, every byte of the request
        still counts as unacknowledged (tcp(7), SIOCOUTQ), the FIN was sent before the request arrived.
        A reset proves nothing of the kind, nor does a FIN without close_notify on uvloop, which hides it
        (no eof_received); nor can we tell on other systems.
        """
        if sys.platform != "linux":
            return False
        transport = cast("asyncio.Transport", self._transport)
        sock = transport.get_extra_info("socket")
        if sock is None or sock.fileno() < 0:  # closed already, and what the kernel knew with it
            return False
        (unacknowledged,) = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))
        return bool(unacknowledged + transport.get_write_buffer_size() >= self._request_bytes)

    def _on_timer(self) -> None:
        self._timer = None
        deadline = self._deadline
        if self._exchange is None or deadline == math.inf:
            return
        if self._loop.time() + _TIMER_SLACK_S < deadline:
            self.arm(deadline, self._phase)
            return
        self.fail(ClientTimeout(self._phase))

    def _mark_closed(self) -> None:
        self.is_closed = True
        self._pool.idle.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _join_repeated(raw: list[tuple[bytes, bytes]]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for raw_name, raw_value in raw:
        name = raw_name.decode("latin-1").lower()
        value = raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


# ------------------------------------------------------------------ the client


class HttpClient:
    """Belongs to the event loop that first uses it; not thread-safe.

    `resolver` decides which addresses a host may be reached at, for every new connection, also when the host
    is an address already; without one, getaddrinfo answers and a positive answer is kept for 60 s.
    `tls` replaces the default context (verified, ALPN http/1.1).
    """

    def __init__(
        self,
        *,
        max_connections_per_origin: int = 1000,
        idle_timeout_s: float = 60.0,
        connect_timeout_s: float = 3.0,
        max_header_bytes: int = 64 * 1024,
        max_body_bytes: int = 32 * 1024 * 1024,
        resolver: Resolver | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.max_connections_per_origin = max_connections_per_origin
        self.idle_timeout_s = idle_timeout_s
        self.connect_timeout_s = connect_timeout_s
        self.max_header_bytes = max_header_bytes
        self.max_body_bytes = max_body_bytes
        self.is_closed = False
        self._resolver = resolver
        self._tls = tls
        self._prepare = lru_cache(maxsize=_PREPARED_REQUESTS)(_prepare)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pools: dict[str, _Pool] = {}
        self._connections: set[_Connection] = set()
        self._drained: asyncio.Future[None] | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._dns: dict[tuple[str, int], tuple[float, Sequence[Address]]] = {}
        self._lookups: dict[tuple[str, int], asyncio.Task[Sequence[Address]]] = {}

    async def send(
        self, request: WireRequest, *, first_byte_timeout_s: float, total_timeout_s: float
    ) -> WholeResponse:
        """One request and its whole response, redirects included as they are.

        `first_byte_timeout_s` runs from the moment the request is written until the response head is
        complete; `total_timeout_s` from the call to the last byte. Raises ClientError, and ValueError for a
        request that cannot be sent. Cancelling it closes the connection.
        """
        loop = self._loop or self._bind()
        exchange = _Exchange(is_stream=False)
        await self._run(
            exchange,
            request,
            loop,
            first_byte_timeout_s=first_byte_timeout_s,
            total_deadline=loop.time() + total_timeout_s,
        )
        return WholeResponse(exchange.status, exchange.headers, exchange.take())

    async def open(
        self, request: WireRequest, *, first_byte_timeout_s: float, stall_timeout_s: float
    ) -> StreamResponse:
        """One request, up to the response head; the body is the caller's to read and to close.

        `first_byte_timeout_s` as in `send`; `stall_timeout_s` bounds each wait of a read. Raises as `send`.
        """
        loop = self._loop or self._bind()
        exchange = _Exchange(is_stream=True)
        await self._run(
            exchange, request, loop, first_byte_timeout_s=first_byte_timeout_s, total_deadline=math.inf
        )
        return StreamResponse(exchange, loop, stall_timeout_s=stall_timeout_s)

    async def aclose(self) -> None:
        """Close every connection; exchanges under way end in ClientReset or ClientCut. Idempotent."""
        self.is_closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for lookup in self._lookups.values():
            lookup.cancel()
        for connection in list(self._connections):
            connection.end()
        if self._connections and self._loop is not None:
            self._drained = self._loop.create_future()
            await asyncio.wait([self._drained], timeout=_CLOSE_TIMEOUT_S)

    def gauges(self) -> dict[str, dict[str, int]]:
        """By origin (`https://host:port`, the default port left out): active and idle connections."""
        return {
            key: {"active": pool.active, "idle": len(pool.idle)}
            for key, pool in self._pools.items()
            if pool.active or pool.idle
        }

    # -- inside

    def _bind(self) -> asyncio.AbstractEventLoop:
        self._loop = asyncio.get_running_loop()
        return self._loop

    async def _run(
        self,
        exchange: _Exchange,
        request: WireRequest,
        loop: asyncio.AbstractEventLoop,
        *,
        first_byte_timeout_s: float,
        total_deadline: float,
    ) -> None:
        prepared = self._prepare(request.method, request.url, request.headers)
        pool = self._pools.get(prepared.origin.key)
        if pool is None:
            pool = _Pool()
        connection = self._take_idle(pool, loop)
        if connection is None:
            connection = await self._connect(prepared.origin, pool, loop, total_deadline)
        while True:
            exchange.waiter = waiter = loop.create_future()
            connection.begin(
                exchange,
                prepared,
                request.body,
                first_byte_timeout_s=first_byte_timeout_s,
                total_deadline=total_deadline,
            )
            try:
                await waiter
            except BaseException:  # the caller is cancelled: the upstream should stop working for it
                connection.abandon(exchange)
                raise
            exchange.waiter = None
            error = exchange.error
            if error is None or (exchange.is_stream and exchange.status):
                return  # a stream tells of its end where it ends, in read
            if not (exchange.unseen and connection.is_reused):
                raise error
            # A stale connection, and the server cannot have acted: once more, on a fresh one.
            exchange.error = None
            exchange.unseen = False
            connection = await self._connect(prepared.origin, pool, loop, total_deadline)

    def _take_idle(self, pool: _Pool, loop: asyncio.AbstractEventLoop) -> _Connection | None:
        idle = pool.idle
        while idle:
            connection, _ = idle.popitem()
            if not connection.has_idled_since(loop.time() - self.idle_timeout_s):
                pool.active += 1
                return connection
            connection.close()
        return None

    async def _connect(
        self, origin: _Origin, pool: _Pool, loop: asyncio.AbstractEventLoop, total_deadline: float
    ) -> _Connection:
        """A fresh connection, counted as active. Raises ClientConnectError and ClientTimeout."""
        if self.is_closed:
            raise ClientConnectError("closed")
        pool = self._pools.setdefault(origin.key, pool)  # a sweep may have dropped it before a retry
        self._sweep_later()
        if pool.active >= self.max_connections_per_origin:
            raise ClientConnectError("pool_full")
        connect_deadline = loop.time() + self.connect_timeout_s
        deadline = min(connect_deadline, total_deadline)
        pool.active += 1
        try:
            async with asyncio.timeout_at(deadline):
                return await self._connect_any(origin, pool, loop, deadline)
        except BaseException as error:  # counted down whatever it is, a cancelled caller above all
            pool.active -= 1
            if isinstance(error, TimeoutError):
                raise ClientTimeout("connect" if deadline == connect_deadline else "total") from None
            raise

    async def _connect_any(
        self, origin: _Origin, pool: _Pool, loop: asyncio.AbstractEventLoop, deadline: float
    ) -> _Connection:
        try:
            addresses = await self._resolve(origin, loop)
        except TimeoutError:
            raise
        except OSError:
            raise ClientConnectError("dns") from None
        reason: ConnectReason = "dns"
        tls = self._tls_context() if origin.is_tls else None
        for tried, (host, port) in enumerate(addresses):
            # A silent address must not use up the time of those behind it.
            share_s = (deadline - loop.time()) / (len(addresses) - tried)
            try:
                async with asyncio.timeout(share_s if tried + 1 < len(addresses) else None):
                    connection = await self._open(
                        _Connection(self, pool, loop), loop, address=(host, port), name=origin.host, tls=tls
                    )
            except ssl.SSLCertVerificationError:
                reason = "tls_verify"
            except ssl.SSLError:
                reason = "tls"
            except ConnectionRefusedError:
                reason = "refused"
            except ConnectionError:
                reason = "reset"
            except TimeoutError:
                if loop.time() + _TIMER_SLACK_S >= deadline:
                    raise
                reason = "unreachable"
            except OSError:
                reason = "unreachable"
            else:
                if self.is_closed:
                    connection.close()
                    raise ClientConnectError("closed")
                # Not earlier: uvloop never reports the loss of a connection whose caller was cancelled here.
                if not connection.is_closed:
                    self._connections.add(connection)
                return connection
        raise ClientConnectError(reason)

    async def _open(
        self,
        connection: _Connection,
        loop: asyncio.AbstractEventLoop,
        *,
        address: Address,
        name: str,
        tls: ssl.SSLContext | None,
    ) -> _Connection:
        server_hostname = name.rstrip(".") if tls is not None else None
        try:
            await loop.create_connection(
                lambda: connection, *address, ssl=tls, server_hostname=server_hostname
            )
        except BaseException:
            # Cancelled just as the handshake ended, uvloop closes the socket under its own TLS layer, which
            # then reports a fatal error unless it is told as well.
            connection.close()
            raise
        return connection

    def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls

    async def _resolve(self, origin: _Origin, loop: asyncio.AbstractEventLoop) -> Sequence[Address]:
        if self._resolver is not None:
            return await self._resolver(origin.host, origin.port)
        if origin.is_literal:
            return [(origin.host, origin.port)]
        key = (origin.host, origin.port)
        known = self._dns.get(key)
        if known is not None and known[0] > loop.time():
            return known[1]
        lookup = self._lookups.get(key)
        if lookup is None:
            lookup = self._lookups[key] = loop.create_task(self._look_up(key, loop))
            lookup.add_done_callback(lambda _: self._lookups.pop(key, None))
        # Shielded: the other callers who wait for this name need the answer too.
        return await asyncio.shield(lookup)

    async def _look_up(self, key: Address, loop: asyncio.AbstractEventLoop) -> Sequence[Address]:
        found = await loop.getaddrinfo(*key, type=socket.SOCK_STREAM)
        addresses = [(str(sockaddr[0]), int(sockaddr[1])) for *_, sockaddr in found]
        if len(self._dns) >= _DNS_ENTRIES:
            self._dns.pop(next(iter(self._dns)))
        self._dns[key] = (loop.time() + _DNS_TTL_S, addresses)
        return addresses

    def _lost(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        if not self._connections and self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def _sweep_later(self) -> None:
        if self._sweeper is None and self._loop is not None:
            self._sweeper = self._loop.call_later(self.idle_timeout_s / 2, self._sweep)

    def _sweep(self) -> None:
        """Close what has idled for `idle_timeout_s`, at the latest half as long again after it was due, and
        forget origins without connections.
        """
        self._sweeper = None
        then = cast("asyncio.AbstractEventLoop", self._loop).time() - self.idle_timeout_s
        for key, pool in list(self._pools.items()):
            for connection in list(pool.idle):
                if not connection.has_idled_since(then):
                    break
                connection.close()
            if pool.idle or pool.active:
                self._sweep_later()
            else:
                del self._pools[key]
