"""The client against a real server on loopback, on both event loops."""

import asyncio
import contextlib
import gzip
import random
import socket
import ssl
import zlib

import pytest

from gateway.state.clients import (
    STREAM_BUFFER_BYTES,
    ClientConnectError,
    ClientCut,
    ClientError,
    ClientProtocolError,
    ClientReset,
    ClientTimeout,
    ClientTooLarge,
    HttpClient,
    StreamResponse,
    WholeResponse,
)
from routing.types import WireRequest
from tests.fakes.http_server import (
    CHUNKED_HEAD,
    LAST_CHUNK,
    FakeServer,
    Handler,
    Peer,
    Request,
    chunk,
    make_authority,
    reply,
    serve,
    split,
)
from tests.gateway.state.conftest import Run

EVENTS = [b"data: one\n\n", b"data: two\n\n", b"data: [DONE]\n\n"]
STREAM = CHUNKED_HEAD + b"".join(chunk(event) for event in EVENTS) + LAST_CHUNK


def to(server: FakeServer, path: str = "/v1/chat", **given) -> WireRequest:
    return WireRequest(**{"url": server.url + path, "headers": (), "body": b"{}", **given})


async def send(client: HttpClient, request: WireRequest, **limits: float) -> WholeResponse:
    return await client.send(request, **{"first_byte_timeout_s": 10, "total_timeout_s": 20, **limits})


async def open_(client: HttpClient, request: WireRequest, **limits: float) -> StreamResponse:
    return await client.open(request, **{"first_byte_timeout_s": 10, "stall_timeout_s": 10, **limits})


async def drain(stream: StreamResponse) -> list[bytes]:
    pieces = []
    while piece := await stream.read():
        pieces.append(piece)
    return pieces


@contextlib.asynccontextmanager
async def http_client(**options):
    client = HttpClient(**options)
    try:
        yield client
    finally:
        await client.aclose()


async def eventually(condition) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the condition is the server's, in another thread
            await asyncio.sleep(0.005)


def answering(*pieces: bytes, gap_s: float = 0.0, close: bool = False, reset: bool = False) -> Handler:
    async def handler(peer: Peer, _: Request) -> None:
        await peer.send(*pieces, gap_s=gap_s)
        if reset:
            await peer.pause(0.02)  # a RST discards what the client has not read yet
            peer.reset()
        if close:
            peer.close()

    return handler


def send_once(run: Run, handler: Handler, **options) -> WholeResponse:
    with serve(handler) as server:

        async def main() -> WholeResponse:
            async with http_client(**options) as client:
                return await send(client, to(server))

        return run(main())


def stream_once(run: Run, handler: Handler, **options) -> list[bytes]:
    with serve(handler) as server:

        async def main() -> list[bytes]:
            async with http_client(**options) as client:
                return await drain(await open_(client, to(server)))

        return run(main())


# ------------------------------------------------------------------ requests


def test_sends_the_request_line_host_length_and_headers_as_given(run: Run) -> None:
    with serve(answering(reply(b'{"ok":true}', headers=(("X-Request-Id", "r1"),)))) as server:

        async def main() -> WholeResponse:
            async with http_client() as client:
                request = to(server, "/v1/chat?a=1&b=%20", headers=(("Authorization", "Bearer k"),))
                return await send(client, request)

        response = run(main())
    assert response == WholeResponse(200, {"x-request-id": "r1", "content-length": "11"}, b'{"ok":true}')
    (request,) = server.requests
    assert (request.method, request.target, request.body) == ("POST", "/v1/chat?a=1&b=%20", b"{}")
    assert request.headers == (
        ("host", f"127.0.0.1:{server.port}"),
        ("Authorization", "Bearer k"),
        ("accept-encoding", "identity"),
        ("content-length", "2"),
    )


def test_only_a_get_without_body_has_no_content_length(run: Run) -> None:
    with serve(answering(reply())) as server:

        async def main() -> None:
            async with http_client() as client:
                await send(client, to(server, method="GET", body=b""))
                await send(client, to(server, body=b""))

        run(main())
    get, post = server.requests
    assert [name for name, _ in get.headers] == ["host", "accept-encoding"]
    assert post.header("content-length") == "0"


def test_sends_a_large_body_whole(run: Run) -> None:
    body = random.Random(1).randbytes(5_000_000)
    with serve(answering(reply())) as server:

        async def main() -> None:
            async with http_client() as client:
                await send(client, to(server, body=body))
                await send(client, to(server))

        run(main())
    assert [len(request.body) for request in server.requests] == [5_000_000, 2]
    assert server.requests[0].body == body
    assert len(server.peers) == 1


@pytest.mark.parametrize(
    "given",
    [
        {"headers": (("x-a", "1\r\nx-b: 2"),)},
        {"headers": (("x-a", "1\n"),)},
        {"headers": (("x-a", "\0"),)},
        {"headers": (("x-a", "€"),)},
        {"headers": (("x-a\r\n", "1"),)},
        {"headers": (("x a", "1"),)},
        {"headers": (("", "1"),)},
        {"headers": (("Content-Length", "5"),)},
        {"headers": (("Transfer-Encoding", "chunked"),)},
        {"headers": (("HOST", "other"),)},
        {"method": "GET / HTTP/1.1\r\n\r\nPOST"},
        {"method": "HEAD"},
        {"url": "ftp://127.0.0.1/"},
        {"url": "//127.0.0.1/"},
        {"url": "http:///path"},
        {"url": "http://user:secret@127.0.0.1/"},
        {"url": "http://127.0.0.1:0/"},
        {"url": "http://127.0.0.1:70000/"},
        {"url": "http://127.0.0.1/a\r\nx: y"},
        {"url": "http://127.0.0.1/a b"},
        {"url": "http://127.0.0.1\t/"},
        {"url": "http://ex%61mple.test/"},
        {"url": "http://[fe80::1%25lo]/"},
    ],
)
def test_refuses_what_cannot_be_sent_as_meant(given) -> None:
    async def main() -> None:
        async with http_client() as client:
            request = WireRequest(**{"url": "http://127.0.0.1:1/", "headers": (), "body": b"", **given})
            with pytest.raises(ValueError, match=r"URL|header|method|Port") as refusal:
                await send(client, request)
            assert "secret" not in str(refusal.value)
            assert client.gauges() == {}

    asyncio.run(main())


# ------------------------------------------------------------------ whole bodies


@pytest.mark.parametrize("status", ["200 OK", "404 Not Found", "302 Found", "529 Overloaded"])
def test_hands_out_every_status_as_it_is(run: Run, status: str) -> None:
    response = send_once(run, answering(reply(b"x", status=status)))
    assert (response.status, response.body) == (int(status[:3]), b"x")


def test_a_body_may_be_chunked_or_end_with_the_connection(run: Run) -> None:
    assert send_once(run, answering(STREAM)).body == b"".join(EVENTS)
    until_close = b"HTTP/1.1 200 OK\r\n\r\nsome", b" more"
    assert send_once(run, answering(*until_close, close=True)).body == b"some more"
    assert stream_once(run, answering(*until_close, gap_s=0.01, close=True)) == [b"some", b" more"]


def test_a_204_has_no_body_and_keeps_the_connection(run: Run) -> None:
    with serve(answering(b"HTTP/1.1 204 No Content\r\n\r\n")) as server:

        async def main() -> list[tuple[int, bytes]]:
            async with http_client() as client:
                answers = [await send(client, to(server)) for _ in range(2)]
                return [(answer.status, answer.body) for answer in answers]

        assert run(main()) == [(204, b""), (204, b"")]
    assert len(server.peers) == 1


def test_skips_interim_responses(run: Run) -> None:
    interim = b"HTTP/1.1 100 Continue\r\nX-Interim: 1\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\n\r\n"
    response = send_once(run, answering(*interim, reply(b"end"), gap_s=0.005))
    assert response == WholeResponse(200, {"content-length": "3"}, b"end")
    assert send_once(run, answering(b"".join(interim) + reply(b"end"))).body == b"end"
    assert b"".join(stream_once(run, answering(*interim, STREAM))) == b"".join(EVENTS)


def test_joins_repeated_headers_and_ignores_trailers(run: Run) -> None:
    head = b"HTTP/1.1 200 OK\r\nX-A: 1\r\nx-a: 2\r\nTransfer-Encoding: Chunked\r\n\r\n"
    response = send_once(run, answering(head + chunk(b"abc") + b"0\r\nX-A: 3\r\nX-B: 4\r\n\r\n"))
    assert response.headers == {"x-a": "1, 2", "transfer-encoding": "Chunked"}
    assert response.body == b"abc"


def test_understands_an_answer_split_at_any_byte(run: Run) -> None:
    answers = [
        STREAM,
        reply(b"hello", headers=(("X-A", "b"),)),
        b"HTTP/1.1 100 Continue\r\n\r\n" + reply(b"x"),
    ]
    bodies = [b"".join(EVENTS), b"hello", b"x"]
    plan = [(answer, cut) for answer in answers for cut in range(1, len(answer))]
    remaining = iter(plan)

    async def handler(peer: Peer, _: Request) -> None:
        answer, cut = next(remaining)
        await peer.send(answer[:cut], answer[cut:], gap_s=0.0005)

    with serve(handler) as server:

        async def main() -> list[bytes]:
            async with http_client() as client:
                got = []
                for number in range(len(plan)):
                    if number % 2:
                        got.append((await send(client, to(server))).body)
                    else:
                        got.append(await (await open_(client, to(server))).read_all(1000))
                return got

        got = run(main())
    assert got == [bodies[answers.index(answer)] for answer, _ in plan]
    assert len(server.peers) == 1


def test_understands_an_answer_byte_by_byte(run: Run) -> None:
    assert send_once(run, answering(*split(STREAM, 1), gap_s=0.0002)).body == b"".join(EVENTS)
    assert b"".join(stream_once(run, answering(*split(STREAM, 1), gap_s=0.0002))) == b"".join(EVENTS)


def test_a_body_cut_short_is_an_error_and_never_an_answer(run: Run) -> None:
    for cut in (
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        STREAM.removesuffix(LAST_CHUNK),
        STREAM[:-2],
    ):
        for end in ("close", "reset"):
            with pytest.raises(ClientCut):
                send_once(run, answering(cut, **{end: True}))
    with pytest.raises(ClientCut):  # a reset does not end a body that only a clean close may end
        send_once(run, answering(b"HTTP/1.1 200 OK\r\n\r\nsome", reset=True))


# ------------------------------------------------------------------ streams


def test_a_stream_gives_what_arrives_when_it_arrives(run: Run) -> None:
    pieces = [CHUNKED_HEAD, *(chunk(event) for event in EVENTS), LAST_CHUNK]
    assert stream_once(run, answering(*pieces, gap_s=0.03)) == EVENTS


def test_a_stream_joins_what_has_arrived_together(run: Run) -> None:
    assert stream_once(run, answering(STREAM)) == [b"".join(EVENTS)]


def test_a_cut_stream_gives_its_bytes_and_then_the_error(run: Run) -> None:
    for end in ("close", "reset"):
        with serve(answering(CHUNKED_HEAD, chunk(b"data: 1\n\n"), gap_s=0.01, **{end: True})) as server:

            async def main(server=server) -> None:
                async with http_client() as client:
                    stream = await open_(client, to(server))
                    assert stream.status == 200
                    assert stream.headers["content-type"] == "text/event-stream"
                    assert await stream.read() == b"data: 1\n\n"
                    for _ in range(2):
                        with pytest.raises(ClientCut):
                            await stream.read()
                    await stream.aclose()
                    assert client.gauges() == {}

            run(main())


def test_the_end_of_a_stream_stays_the_end_and_frees_the_connection(run: Run) -> None:
    with serve(answering(STREAM)) as server:

        async def main() -> None:
            async with http_client() as client:
                for _ in range(3):
                    stream = await open_(client, to(server))
                    assert await stream.read_all(1000) == b"".join(EVENTS)
                    assert client.gauges() == {server.url: {"active": 0, "idle": 1}}
                    assert await stream.read() == b""
                    await stream.aclose()
                    await stream.aclose()
                    assert client.gauges() == {server.url: {"active": 0, "idle": 1}}

        run(main())
    assert len(server.peers) == 1


def test_closing_a_stream_early_closes_the_upstream(run: Run) -> None:
    left = []

    async def handler(peer: Peer, _: Request) -> None:
        await peer.send(CHUNKED_HEAD + chunk(b"data: 1\n\n"))
        await peer.wait_closed()
        left.append(peer.number)

    with serve(handler) as server:

        async def main() -> None:
            async with http_client() as client:
                stream = await open_(client, to(server))
                assert await stream.read() == b"data: 1\n\n"
                assert client.gauges() == {server.url: {"active": 1, "idle": 0}}
                await stream.aclose()
                await stream.aclose()
                assert client.gauges() == {}
                await eventually(lambda: left == [1])
                with pytest.raises(RuntimeError):
                    await stream.read()

        run(main())


def test_closing_wakes_a_waiting_reader_with_an_error(run: Run) -> None:
    async def handler(peer: Peer, _: Request) -> None:
        await peer.send(CHUNKED_HEAD)
        await peer.wait_closed()

    with serve(handler) as server:

        async def main() -> None:
            async with http_client() as client:
                stream = await open_(client, to(server))
                reading = asyncio.ensure_future(stream.read())
                await asyncio.sleep(0.01)
                with pytest.raises(RuntimeError):
                    await stream.read()  # a second reader
                await stream.aclose()
                with pytest.raises(ClientCut):
                    await reading

        run(main())


def test_a_slow_reader_holds_the_upstream_back(run: Run) -> None:
    payload = random.Random(2).randbytes(32 * 1024 * 1024)
    sent = []

    async def handler(peer: Peer, _: Request) -> None:
        peer.writer.transport.set_write_buffer_limits(high=0)
        await peer.send(CHUNKED_HEAD)
        for piece in split(payload, 64 * 1024):
            await peer.send(chunk(piece))
            sent.append(len(piece))
        await peer.send(LAST_CHUNK)

    with serve(handler) as server:

        async def main() -> None:
            async with http_client() as client:
                stream = await open_(client, to(server), stall_timeout_s=5)
                before = -1
                while len(sent) != before:  # until the server is stuck
                    before = len(sent)
                    await asyncio.sleep(0.2)
                assert sum(sent) < len(payload)
                assert STREAM_BUFFER_BYTES < stream.buffered_bytes <= 2 * STREAM_BUFFER_BYTES
                assert await stream.read_all(len(payload)) == payload
                assert client.gauges() == {server.url: {"active": 0, "idle": 1}}

        run(main())


def test_read_all_has_a_limit(run: Run) -> None:
    with serve(answering(reply(b"x" * 1000))) as server:

        async def main() -> None:
            async with http_client() as client:
                assert await (await open_(client, to(server))).read_all(1000) == b"x" * 1000
                with pytest.raises(ClientTooLarge) as error:
                    await (await open_(client, to(server))).read_all(999)
                assert error.value.part == "body"

        run(main())


# ------------------------------------------------------------------ time


def test_times_out_before_the_first_byte_and_on_a_dribbled_head(run: Run) -> None:
    async def silent(peer: Peer, _: Request) -> None:
        await peer.wait_closed()

    head = b"HTTP/1.1 200 OK\r\n" + b"X-A: 1\r\n" * 1000
    for handler in (silent, answering(*split(head, 3), gap_s=0.02)):
        for call, limits in (
            (send, {"total_timeout_s": 5.0}),
            (open_, {"stall_timeout_s": 5.0}),
        ):
            with serve(handler) as server:

                async def main(server=server, call=call, limits=limits) -> None:
                    async with http_client() as client:
                        with pytest.raises(ClientTimeout) as error:
                            await call(client, to(server), first_byte_timeout_s=0.1, **limits)
                        assert error.value.phase == "first_byte"
                        assert client.gauges() == {}
                        await eventually(lambda: not server.open_peers)

                run(main())


def test_the_total_limit_ends_a_body_that_trickles(run: Run) -> None:
    pieces = [CHUNKED_HEAD, *[chunk(b"x")] * 500]
    with serve(answering(*pieces, gap_s=0.02)) as server:

        async def main() -> None:
            async with http_client() as client:
                with pytest.raises(ClientTimeout) as error:
                    await send(client, to(server), first_byte_timeout_s=5.0, total_timeout_s=0.15)
                assert error.value.phase == "total"
                assert client.gauges() == {}

        run(main())


def test_a_stall_is_an_error_but_a_trickle_is_not(run: Run) -> None:
    trickled = []

    async def handler(peer: Peer, _: Request) -> None:
        await peer.send(CHUNKED_HEAD, *[chunk(b"x")] * 10, gap_s=0.04)
        await peer.send(b"5;", *[b"e"] * 200, gap_s=0.02)  # chunk extensions are no content
        trickled.append(peer)

    with serve(handler) as server:

        async def main() -> None:
            async with http_client() as client:
                stream = await open_(client, to(server), stall_timeout_s=0.25)
                assert [await stream.read() for _ in range(10)] == [b"x"] * 10
                with pytest.raises(ClientTimeout) as error:
                    await stream.read()
                assert error.value.phase == "stall"
                assert trickled == []
                assert client.gauges() == {}

        run(main())


def test_a_reader_that_takes_its_time_is_no_stall(run: Run) -> None:
    pieces = [CHUNKED_HEAD + chunk(b"a"), chunk(b"b"), LAST_CHUNK]
    with serve(answering(*pieces, gap_s=0.2)) as server:

        async def main() -> list[bytes]:
            async with http_client() as client:
                stream = await open_(client, to(server), first_byte_timeout_s=0.25, stall_timeout_s=0.25)
                await asyncio.sleep(0.3)
                got = []
                while piece := await stream.read():
                    got.append(piece)
                    await asyncio.sleep(0.3)
                return got

        assert run(main()) == [b"ab"]


def test_a_waiting_read_leaves_no_limit_behind(run: Run) -> None:
    pieces = [CHUNKED_HEAD, chunk(b"a"), chunk(b"b"), LAST_CHUNK]
    with serve(answering(*pieces, gap_s=0.2)) as server:

        async def main() -> list[bytes]:
            async with http_client() as client:
                stream = await open_(client, to(server), stall_timeout_s=0.3)
                got = [await stream.read()]  # waits, and so sets a limit
                await asyncio.sleep(0.35)  # ends after the limit and before the body
                return [*got, *await drain(stream)]

        assert run(main()) == [b"a", b"b"]


def test_the_first_byte_limit_ends_with_the_head(run: Run) -> None:
    with serve(answering(CHUNKED_HEAD, chunk(b"a"), chunk(b"b"), LAST_CHUNK, gap_s=0.15)) as server:

        async def main() -> bytes:
            async with http_client() as client:
                return (await send(client, to(server), first_byte_timeout_s=0.2)).body

        assert run(main()) == b"ab"


def test_a_short_limit_after_a_long_one_is_kept_on_the_same_connection(run: Run) -> None:
    async def handler(peer: Peer, request: Request) -> None:
        if request.target == "/fast":
            await peer.send(reply())
        else:
            await peer.wait_closed()

    with serve(handler) as server:

        async def main() -> None:
            async with http_client() as client:
                await send(client, to(server, "/fast"), first_byte_timeout_s=50, total_timeout_s=50)
                with pytest.raises(ClientTimeout):
                    await send(client, to(server, "/slow"), first_byte_timeout_s=0.1)
                await send(client, to(server, "/fast"), first_byte_timeout_s=0.05)
                await asyncio.sleep(0.1)  # a limit that was met must not fire while the connection is idle
                await send(client, to(server, "/fast"))

        run(main())
    assert [request.connection for request in server.requests] == [1, 1, 2, 2]


def test_connecting_has_its_own_limit(run: Run) -> None:
    async def mute(peer: Peer) -> None:  # accepts, and never answers the TLS greeting
        await peer.wait_closed()

    async def never(_: str, __: int) -> list[tuple[str, int]]:
        await asyncio.Event().wait()
        return []

    with serve(raw=mute) as server:
        url = server.url.replace("http:", "https:") + "/"

        async def main() -> None:
            for options in ({}, {"resolver": never}):
                async with http_client(connect_timeout_s=0.1, **options) as client:
                    with pytest.raises(ClientTimeout) as error:
                        await send(client, to(server, url=url))
                    assert error.value.phase == "connect"
                    with pytest.raises(ClientTimeout) as error:
                        await send(client, to(server, url=url), total_timeout_s=0.05)
                    assert error.value.phase == "total"
                    assert client.gauges() == {}
            await eventually(lambda: not server.open_peers)

        run(main())


# ------------------------------------------------------------------ connections


def test_reuses_connections_unless_told_not_to(run: Run) -> None:
    kept = reply(b"kept")
    closing = reply(b"last", headers=(("Connection", "close"),))
    answers = iter([kept, kept, closing, kept])

    async def handler(peer: Peer, _: Request) -> None:
        await peer.send(next(answers))

    with serve(handler) as server:

        async def main() -> list[bytes]:
            async with http_client() as client:
                return [(await send(client, to(server))).body for _ in range(4)]

        assert run(main()) == [b"kept", b"kept", b"last", b"kept"]
    assert [request.connection for request in server.requests] == [1, 1, 1, 2]


def test_many_at_once_each_get_their_own_answer(run: Run) -> None:
    async def handler(peer: Peer, request: Request) -> None:
        await peer.pause(0.001)
        await peer.send(reply(request.body))

    with serve(handler) as server:

        async def main() -> None:
            async with http_client() as client:
                for _ in range(3):
                    bodies = [f"request {number}".encode() for number in range(200)]
                    answers = await asyncio.gather(*(send(client, to(server, body=body)) for body in bodies))
                    assert [answer.body for answer in answers] == bodies
                assert client.gauges() == {server.url: {"active": 0, "idle": len(server.peers)}}

        run(main())
    assert len(server.peers) <= 200


def test_turns_away_above_the_connection_limit(run: Run) -> None:
    async def handler(peer: Peer, _: Request) -> None:
        await peer.send(CHUNKED_HEAD)
        await peer.wait_closed()

    with serve(handler) as server:

        async def main() -> None:
            async with http_client(max_connections_per_origin=2) as client:
                streams = [await open_(client, to(server)) for _ in range(2)]
                with pytest.raises(ClientConnectError) as error:
                    await open_(client, to(server))
                assert error.value.reason == "pool_full"
                assert client.gauges() == {server.url: {"active": 2, "idle": 0}}
                await streams[0].aclose()
                streams[0] = await open_(client, to(server))
                for stream in streams:
                    await stream.aclose()

        run(main())


def test_closes_connections_that_stay_idle(run: Run) -> None:
    with serve(answering(reply())) as server:

        async def main() -> None:
            async with http_client(idle_timeout_s=0.1) as client:
                await send(client, to(server))
                assert client.gauges() == {server.url: {"active": 0, "idle": 1}}
                await eventually(lambda: not server.open_peers)
                assert client.gauges() == {}
                await send(client, to(server))

        run(main())
    assert len(server.peers) == 2


def test_forgets_origins_it_has_no_connection_to(run: Run) -> None:
    with serve(answering(reply(headers=(("Connection", "close"),)))) as server, socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{bound.getsockname()[1]}/"

        async def main() -> None:
            async with http_client(idle_timeout_s=0.1) as client:
                await send(client, to(server))
                assert isinstance(await failure(client, dead), ClientConnectError)
                assert len(client._pools) == 2
                await eventually(lambda: client._pools == {})
                assert client._sweeper is None

        run(main())


def test_a_connection_the_server_closed_while_idle_is_not_used(run: Run) -> None:
    with serve(answering(reply())) as server:

        async def main() -> None:
            async with http_client() as client:
                await send(client, to(server))
                server.peers[0].hang_up_now()
                await eventually(lambda: client.gauges() == {})
                await send(client, to(server))

        run(main())
    assert [request.connection for request in server.requests] == [1, 2]


def test_repeats_a_request_once_that_met_a_connection_closed_before_it(run: Run) -> None:
    with serve(answering(reply())) as server:

        async def main() -> None:
            async with http_client() as client:
                await send(client, to(server))
                server.peers[0].hang_up_now()  # the loop has had no chance to notice
                await send(client, to(server, body=b"again"))
                assert client.gauges() == {server.url: {"active": 0, "idle": 1}}

        run(main())
    assert [(request.connection, request.body) for request in server.requests] == [(1, b"{}"), (2, b"again")]


def test_repeats_a_request_once_that_met_a_tls_connection_closed_before_it(run: Run) -> None:
    authority = make_authority("127.0.0.1")
    connections = []

    def answer_once(listener: socket.socket) -> None:
        accepted, _ = listener.accept()
        connection = authority.server_context.wrap_socket(accepted, server_side=True)
        connections.append(connection)
        while not connection.recv(65536).endswith(b"{}"):
            pass
        connection.sendall(reply(b"%d" % len(connections)))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/"
        request = WireRequest(url=url, headers=(), body=b"{}")

        async def main() -> list[bytes]:
            async with http_client(tls=authority.client_context()) as client:
                answering = asyncio.create_task(asyncio.to_thread(answer_once, listener))
                first = await send(client, request)
                await answering
                connections[0].setblocking(False)
                with pytest.raises(ssl.SSLWantReadError):
                    connections[0].unwrap()  # sends close_notify
                connections[0].close()  # and the loop has had no chance to notice
                answering = asyncio.create_task(asyncio.to_thread(answer_once, listener))
                second = await send(client, request)
                await answering
                return [first.body, second.body]

        assert run(main()) == [b"1", b"2"]
    connections[1].close()


@pytest.mark.parametrize("end", ["close", "reset"])
def test_never_repeats_a_post_the_server_may_have_seen(run: Run, end: str) -> None:
    async def handler(peer: Peer, request: Request) -> None:
        if request.target == "/fine":
            await peer.send(reply())
        else:
            getattr(peer, end)()

    with serve(handler) as server:

        async def main() -> None:
            async with http_client() as client:
                with pytest.raises(ClientReset) as error:
                    await send(client, to(server, "/die"))
                assert not error.value.reused
                for call in (send, open_):
                    await send(client, to(server, "/fine"))
                    with pytest.raises(ClientReset) as error:
                        await call(client, to(server, "/die"))
                    assert error.value.reused
                assert client.gauges() == {}

        run(main())
    assert [request.target for request in server.requests] == ["/die", "/fine", "/die", "/fine", "/die"]


def test_repeats_a_get_on_a_reused_connection_once(run: Run) -> None:
    async def handler(peer: Peer, request: Request) -> None:
        if request.target == "/fine":
            await peer.send(reply())
        else:
            peer.reset()

    with serve(handler) as server:

        async def main() -> None:
            async with http_client() as client:
                await send(client, to(server, "/fine"))
                with pytest.raises(ClientReset) as error:
                    await send(client, to(server, "/die", method="GET", body=b""))
                assert not error.value.reused

        run(main())
    assert [(request.target, request.connection) for request in server.requests] == [
        ("/fine", 1),
        ("/die", 1),
        ("/die", 2),
    ]


@pytest.mark.parametrize(
    "extra", [b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", b"HTTP/1.1 2", b"garbage"]
)
@pytest.mark.parametrize("gap_s", [0.0, 0.02])
def test_bytes_nobody_asked_for_never_become_the_next_answer(run: Run, extra: bytes, gap_s: float) -> None:
    async def handler(peer: Peer, request: Request) -> None:
        if request.connection == 1 and gap_s:
            await peer.send(reply(b"good"), extra, gap_s=gap_s)
        elif request.connection == 1:
            await peer.send(reply(b"good") + extra)
        else:
            await peer.send(reply(b"next"))

    with serve(handler) as server:

        async def main() -> list[bytes]:
            async with http_client() as client:
                first = await send(client, to(server))
                await asyncio.sleep(gap_s * 2)
                return [first.body, (await send(client, to(server))).body]

        assert run(main()) == [b"good", b"next"]


def test_an_answer_that_overtakes_its_request_is_given_and_the_connection_is_not_kept(run: Run) -> None:
    async def too_large(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(reply(b"no", status="413 Too Large"))
        await peer.pause(0.2)

    with serve(raw=too_large) as server:

        async def main() -> None:
            async with http_client() as client:
                response = await send(client, to(server, body=bytes(30_000_000)))
                assert (response.status, response.body) == (413, b"no")
                assert client.gauges() == {}

        run(main())


def test_sends_small_writes_at_once(run: Run) -> None:
    with serve(answering(reply())) as server:

        async def main() -> int:
            async with http_client() as client:
                await send(client, to(server))
                (connection,) = client._connections
                sock = connection._transport.get_extra_info("socket")
                return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

        assert run(main()) == 1


# ------------------------------------------------------------------ leaving


@pytest.mark.parametrize(("is_tls", "count"), [(False, 2000), (True, 300)])
def test_cancelled_callers_leak_nothing(run: Run, is_tls: bool, count: int) -> None:
    draw = random.Random(3)
    authority = make_authority("127.0.0.1")

    async def handler(peer: Peer, request: Request) -> None:
        if request.target == "/whole":
            await peer.pause(0.003)
            await peer.send(reply(b"done"))
        else:
            await peer.send(CHUNKED_HEAD, *[chunk(b"data: x\n\n")] * 4, LAST_CHUNK, gap_s=0.002)

    with serve(handler, tls=authority.server_context if is_tls else None) as server:

        async def whole(client: HttpClient) -> None:
            await send(client, to(server, "/whole"))

        async def stream(client: HttpClient) -> None:
            response = await open_(client, to(server, "/stream"))
            try:
                await drain(response)
            finally:
                await response.aclose()

        async def main() -> None:
            async with http_client(tls=authority.client_context()) as client:
                cancelled = 0
                while cancelled < count:
                    tasks = [asyncio.ensure_future(draw.choice([whole, stream])(client)) for _ in range(40)]
                    for task in tasks:
                        await asyncio.sleep(draw.choice([0, 0, 0, 0.001]))
                        task.cancel()
                    await asyncio.wait(tasks)
                    cancelled += sum(task.cancelled() for task in tasks)
                    assert all(task.cancelled() or task.exception() is None for task in tasks)
                idle = client.gauges().get(server.url, {"active": 0, "idle": 0})
                assert idle["active"] == 0
                assert not client._lookups
                await eventually(lambda: len(server.open_peers) <= idle["idle"])
                assert len(client._connections) == idle["idle"]
                assert (await send(client, to(server, "/whole"))).body == b"done"

        run(main())


def test_closing_the_client_ends_everything(run: Run) -> None:
    async def handler(peer: Peer, request: Request) -> None:
        if request.target == "/fine":
            await peer.send(reply())
        else:
            await peer.send(CHUNKED_HEAD if request.target == "/stream" else b"")
            await peer.wait_closed()

    with serve(handler) as server:

        async def main() -> None:
            client = HttpClient()
            await client.aclose()  # never used
            client = HttpClient()
            stream = await open_(client, to(server, "/stream"))
            waiting = asyncio.ensure_future(send(client, to(server, "/hang")))
            await eventually(lambda: len(server.requests) == 2)
            await send(client, to(server, "/fine"))
            assert client.gauges() == {server.url: {"active": 2, "idle": 1}}
            await client.aclose()
            with pytest.raises(ClientReset):
                await waiting
            with pytest.raises(ClientCut):
                await stream.read()
            with pytest.raises(ClientConnectError) as error:
                await send(client, to(server))
            assert error.value.reason == "closed"
            assert client.gauges() == {}
            await client.aclose()
            await eventually(lambda: not server.open_peers)

        run(main())


# ------------------------------------------------------------------ bounds and nonsense


def test_bounds_the_head(run: Run) -> None:
    line = b"X-Fill: " + b"a" * 90 + b"\r\n"
    for pieces in (
        [b"HTTP/1.1 200 OK\r\n", *[line] * 60, b"Content-Length: 0\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\n", *[b"n" * 1000] * 20],
        [b"HTTP/1.1 103 Early Hints\r\n" + line * 10 + b"\r\n"] * 10,
        [b"HTTP/1.1 200 OK\r\n" + line * 60 + b"Content-Length: 0\r\n\r\n"],
    ):
        with pytest.raises(ClientTooLarge) as error:
            send_once(run, answering(*pieces, gap_s=0.001), max_header_bytes=5000)
        assert error.value.part == "headers"
    fits = b"HTTP/1.1 200 OK\r\n" + line * 40 + b"Content-Length: 9000\r\n\r\n" + bytes(9000)
    assert send_once(run, answering(fits), max_header_bytes=5000).body == bytes(9000)


def test_bounds_a_whole_body(run: Run) -> None:
    assert len(send_once(run, answering(reply(bytes(10_000))), max_body_bytes=10_000).body) == 10_000
    for answer in (reply(bytes(10_001)), CHUNKED_HEAD + chunk(bytes(5001)) * 2 + LAST_CHUNK):
        with pytest.raises(ClientTooLarge) as error:
            send_once(run, answering(answer), max_body_bytes=10_000)
        assert error.value.part == "body"


def raw_deflate(data: bytes) -> bytes:
    return zlib.compress(data, wbits=-15)


@pytest.mark.parametrize(
    ("name", "compress"),
    [
        ("gzip", gzip.compress),
        ("X-GZip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", raw_deflate),
        ("gzip", lambda data: gzip.compress(data[:7]) + gzip.compress(data[7:])),
    ],
)
def test_inflates_what_it_did_not_ask_for(run: Run, name: str, compress) -> None:
    data = b"".join(EVENTS) * 50
    coded = compress(data)
    headers = (("Content-Encoding", name),)
    response = send_once(run, answering(reply(coded, headers=headers)))
    assert response == WholeResponse(200, {}, data)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % name.encode()
    pieces = [head, *(chunk(piece) for piece in split(coded, 5)), LAST_CHUNK]
    assert b"".join(stream_once(run, answering(*pieces, gap_s=0.0005))) == data


def test_a_bomb_is_refused_before_it_goes_off(run: Run) -> None:
    bomb = gzip.compress(bytes(200_000_000))
    answer = answering(reply(bomb, headers=(("Content-Encoding", "gzip"),)))
    for once in (send_once, stream_once):
        with pytest.raises(ClientTooLarge) as error:
            once(run, answer)
        assert error.value.part == "inflated"
    modest = answering(reply(gzip.compress(bytes(50_000)), headers=(("Content-Encoding", "gzip"),)))
    assert len(send_once(run, modest, max_body_bytes=50_000).body) == 50_000
    with pytest.raises(ClientTooLarge):
        send_once(run, modest, max_body_bytes=49_999)


def test_a_compressed_body_that_ends_early_is_cut_and_garbage_is_refused(run: Run) -> None:
    coded = gzip.compress(random.Random(4).randbytes(1000))
    headers = (("Content-Encoding", "gzip"),)
    for once in (send_once, stream_once):
        with pytest.raises(ClientCut):
            once(run, answering(reply(coded[:-3], headers=headers)))
        for answer in (
            reply(b"not gzip", headers=headers),
            reply(coded + b"tail", headers=headers),
            reply(b"x", headers=(("Content-Encoding", "br"),)),
        ):
            with pytest.raises(ClientProtocolError) as error:
                once(run, answering(answer))
            assert error.value.reason == "content-encoding"


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nBad Name: x\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        CHUNKED_HEAD + b"zz\r\n",
    ],
)
def test_refuses_what_is_not_http(run: Run, answer: bytes) -> None:
    with serve(answering(answer)) as server:

        async def main() -> None:
            async with http_client() as client:
                with pytest.raises(ClientProtocolError):
                    await send(client, to(server))
                with pytest.raises(ClientProtocolError):
                    await drain(await open_(client, to(server)))
                assert client.gauges() == {}

        run(main())


# ------------------------------------------------------------------ where to


async def failure(client: HttpClient, url: str) -> ClientError:
    with pytest.raises(ClientError) as error:
        await send(client, WireRequest(url=url, headers=(), body=b""))
    return error.value


def test_says_why_it_could_not_connect(run: Run) -> None:
    async def unknown(_: str, __: int) -> list[tuple[str, int]]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    async def nothing(_: str, __: int) -> list[tuple[str, int]]:
        return []

    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/"  # bound, but not listening

        async def main() -> None:
            async with http_client() as client:
                refused = await failure(client, url)
                assert isinstance(refused, ClientConnectError)
                assert (refused.reason, str(refused)) == ("refused", "could not connect: refused")
            for resolver in (unknown, nothing):
                async with http_client(resolver=resolver) as client:
                    assert (await failure(client, "http://name.test/")).reason == "dns"
                    assert client.gauges() == {}

        run(main())


def test_a_resolver_pins_the_address_and_the_host_stays(run: Run) -> None:
    asked = []
    with serve(answering(reply())) as server, socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        dead = bound.getsockname()

        async def resolver(host: str, port: int) -> list[tuple[str, int]]:
            asked.append((host, port))
            return [dead, ("127.0.0.1", server.port)]

        async def main() -> None:
            async with http_client(resolver=resolver) as client:
                for url in ("http://provider.test/a", "http://provider.test/b", "http://10.0.0.1:81/c"):
                    await send(client, to(server, url=url))
                assert sorted(client.gauges()) == ["http://10.0.0.1:81", "http://provider.test"]

        run(main())
    assert asked == [("provider.test", 80), ("10.0.0.1", 81)]
    assert [request.header("host") for request in server.requests] == [
        "provider.test",
        "provider.test",
        "10.0.0.1:81",
    ]


def test_what_a_resolver_refuses_reaches_the_caller(run: Run) -> None:
    class EgressRefusedError(Exception):
        pass

    async def resolver(_: str, __: int) -> list[tuple[str, int]]:
        raise EgressRefusedError

    async def main() -> None:
        async with http_client(resolver=resolver) as client:
            with pytest.raises(EgressRefusedError):
                await send(client, WireRequest(url="http://10.0.0.1/", headers=(), body=b""))
            assert client.gauges() == {}

    run(main())


def test_resolves_names_and_remembers_them(run: Run) -> None:
    with serve(answering(reply(headers=(("Connection", "close"),)))) as server:

        async def main() -> None:
            lookups = 0
            loop = asyncio.get_running_loop()
            async with http_client() as client:
                url = f"http://localhost:{server.port}/"
                await asyncio.gather(*(send(client, to(server, url=url)) for _ in range(5)))
                await send(client, to(server, url=url))
                lookups = len(client._dns)
                assert client._dns[("localhost", server.port)][0] > loop.time() + 50
                assert (lookups, client._lookups) == (1, {})

        run(main())
    assert {request.header("host") for request in server.requests} == {f"localhost:{server.port}"}


def test_speaks_to_an_ipv6_literal(run: Run) -> None:
    with serve(answering(reply(b"six")), host="::1") as server:

        async def main() -> bytes:
            async with http_client() as client:
                return (await send(client, to(server))).body

        assert run(main()) == b"six"
    assert server.requests[0].header("host") == f"[::1]:{server.port}"


# ------------------------------------------------------------------ TLS


def test_speaks_tls_verified_and_keeps_the_connection(run: Run) -> None:
    authority = make_authority("provider.test", "127.0.0.1")
    pieces = [CHUNKED_HEAD, *(chunk(event) for event in EVENTS), LAST_CHUNK]
    with serve(answering(*pieces, gap_s=0.01), tls=authority.server_context) as server:

        async def resolver(_: str, __: int) -> list[tuple[str, int]]:
            return [("127.0.0.1", server.port)]

        async def main() -> None:
            async with http_client(tls=authority.client_context(), resolver=resolver) as client:
                url = "https://provider.test/v1"
                assert (await send(client, to(server, url=url))).body == b"".join(EVENTS)
                assert await drain(await open_(client, to(server, url=url))) == EVENTS
                assert client.gauges() == {"https://provider.test": {"active": 0, "idle": 1}}
                stream = await open_(client, to(server, url=url))
                await stream.aclose()
                await eventually(lambda: not server.open_peers)

        run(main())
    (peer,) = server.peers
    assert peer.alpn == "http/1.1"
    assert [request.header("host") for request in server.requests] == ["provider.test"] * 3


def test_refuses_a_certificate_it_cannot_verify(run: Run) -> None:
    authority = make_authority("127.0.0.1")
    with serve(answering(reply()), tls=authority.server_context) as server:

        async def resolver(_: str, __: int) -> list[tuple[str, int]]:
            return [("127.0.0.1", server.port)]

        async def main() -> None:
            async with http_client() as client:  # the system's trust store does not know our authority
                assert (await failure(client, server.url)).reason == "tls_verify"
                assert client.gauges() == {}
            async with http_client(tls=authority.client_context(), resolver=resolver) as client:
                assert (await failure(client, "https://other.test/")).reason == "tls_verify"

        run(main())
    assert server.requests == []


def test_tls_to_a_server_without_it_is_a_connect_error(run: Run) -> None:
    async def plain(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await peer.wait_closed()

    async def rude(peer: Peer) -> None:
        await peer.reader.read(1)
        peer.reset()

    for raw, reasons in ((plain, {"tls"}), (rude, {"reset", "tls"})):
        with serve(raw=raw) as server:

            async def main(server=server, reasons=reasons) -> None:
                async with http_client(tls=ssl.create_default_context()) as client:
                    error = await failure(client, server.url.replace("http:", "https:"))
                    assert error.reason in reasons

            run(main())


@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_cut_inside_tls_is_a_cut(run: Run, end: str) -> None:
    authority = make_authority("127.0.0.1")
    handler = answering(CHUNKED_HEAD, chunk(b"data: 1\n\n"), **{end: True})
    with serve(handler, tls=authority.server_context) as server:

        async def main() -> None:
            async with http_client(tls=authority.client_context()) as client:
                stream = await open_(client, to(server))
                assert await stream.read() == b"data: 1\n\n"
                with pytest.raises(ClientCut):
                    await stream.read()
                assert client.gauges() == {}

        run(main())
