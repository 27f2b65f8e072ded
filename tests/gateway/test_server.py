"""The server before any of our code: heads that are too large or too slow; and bodies that stop arriving."""

import asyncio
import socket
import threading
import time
from contextlib import contextmanager

import pytest
import uvicorn

from gateway import asgi
from gateway.edge import door
from gateway.server import MAX_HEAD_BYTES, MAX_HEADERS, BoundedProtocol
from tenants.errors import ApiError

REFUSED = b"HTTP/1.1 431 Request Header Fields Too Large\r\n"


class Impatient(BoundedProtocol):
    head_timeout_s = 0.3


async def application(scope, receive, send):
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


@contextmanager
def serving(protocol):
    server = uvicorn.Server(
        uvicorn.Config(application, port=0, lifespan="off", log_config=None, loop="uvloop", http=protocol)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def port():
    with serving(BoundedProtocol) as port:
        yield port


def sent(port, *pieces):
    """All that comes back until the other side closes, or for half a second."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        for piece in pieces:
            try:
                connection.sendall(piece)
            except (BrokenPipeError, ConnectionResetError):
                break
        connection.settimeout(0.5)
        answer = b""
        try:
            while piece := connection.recv(65536):
                answer += piece
        except (TimeoutError, ConnectionResetError):
            pass
    return answer


def head(*lines):
    return b"\r\n".join((b"GET / HTTP/1.1", b"host: a", *lines, b"", b""))


def test_a_head_within_the_bounds_is_served(port):
    lines = [b"x-%d: 1" % number for number in range(MAX_HEADERS - 1)]
    assert sent(port, head(*lines)).startswith(b"HTTP/1.1 204 ")
    assert sent(port, head(b"x: " + b"a" * (MAX_HEAD_BYTES - 100))).startswith(b"HTTP/1.1 204 ")


@pytest.mark.parametrize(
    "request_bytes",
    [
        head(*(b"x-%d: 1" % number for number in range(MAX_HEADERS))),
        head(b"x: " + b"a" * MAX_HEAD_BYTES),
        b"GET /" + b"a" * MAX_HEAD_BYTES + b" HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET /?" + b"a" * MAX_HEAD_BYTES + b" HTTP/1.1\r\nhost: a\r\n\r\n",
    ],
    ids=["too many", "too long", "path", "query"],
)
def test_a_head_beyond_the_bounds_is_refused(port, request_bytes):
    assert sent(port, request_bytes).startswith(REFUSED)


def test_a_header_that_never_ends_is_cut_off(port):
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: a\r\nx: ")
        with pytest.raises((BrokenPipeError, ConnectionResetError)):  # noqa: PT012 - which send fails is up to the kernel
            for _ in range(16 * MAX_HEAD_BYTES // 4096):
                connection.sendall(b"a" * 4096)
                time.sleep(0.0005)


@pytest.mark.parametrize(
    "begun", [b"", b"G", b"GET / HTTP/1.1\r\nhost: a\r\nx: 1"], ids=["silent", "one byte", "half"]
)
def test_a_head_that_does_not_come_ends_the_connection(begun):
    with serving(Impatient) as port:
        assert sent(port, begun) == b""


def test_a_second_request_gets_its_own_time():
    with serving(Impatient) as port, socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        for _ in range(2):
            connection.sendall(head())
            assert connection.recv(4096).startswith(b"HTTP/1.1 204 ")
            time.sleep(0.2)
        connection.sendall(b"GET /")
        connection.settimeout(2)
        assert connection.recv(4096) == b""


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\nhost: a\r\nx: 1\n y: 2\r\n\r\n\0",
        b"GET / HTTP/1.1\r\nhost: a\r\nx y: 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: a\0b\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: \xb2\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
    ],
    ids=[
        "folded",
        "space in name",
        "nul",
        "two lengths",
        "length and chunks",
        "negative",
        "superscript",
        "tls",
    ],
)
def test_a_head_that_is_not_http_is_refused(port, request_bytes):
    assert sent(port, request_bytes).startswith(b"HTTP/1.1 400 ")


def test_the_data_plane_stops_waiting_for_a_body(monkeypatch):
    monkeypatch.setattr(door, "BODY_PAUSE_S", 0.05)

    async def receive():
        if not seen:
            seen.append(True)
            return {"type": "http.request", "body": b"{", "more_body": True}
        await asyncio.sleep(60)
        return None

    seen = []
    scope = {"method": "POST", "path": "/v1/chat/completions", "headers": [], "client": None}
    with pytest.raises(ApiError) as refused:
        asyncio.run(door.read(scope, receive, 100))
    assert refused.value.code == "invalid_request"


@pytest.mark.parametrize(
    ("pieces", "types"),
    [
        ([b"a" * 60, b"b" * 40], ["http.request", "http.request"]),
        ([b"a" * 60, b"b" * 41], ["http.request", "http.disconnect"]),
        ([b"a" * 60, None], ["http.request", "http.disconnect"]),
    ],
    ids=["fits", "grows", "stops"],
)
def test_djangos_door_gets_no_endless_body(monkeypatch, pieces, types):
    monkeypatch.setattr(asgi, "BODY_PAUSE_S", 0.05)
    waiting = list(pieces)

    async def receive():
        body = waiting.pop(0)
        if body is None:
            await asyncio.sleep(60)
        return {"type": "http.request", "body": body, "more_body": bool(waiting)}

    async def play():
        bounded = asgi.bounded(receive, 100)
        return [(await bounded())["type"] for _ in pieces]

    assert asyncio.run(play()) == types
