"""The pipe against a real server that is killed, frozen, flushed and locked, on both event loops."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

import pytest

from gateway.state.redis import (
    RedisPipe,
    RedisReplyError,
    RedisUnavailable,
    Script,
    _parse_url,
)
from tests.gateway.state.conftest import PrivateRedis, Run

type StartRedis = Callable[..., PrivateRedis]

ECHO = Script("return {KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3]}")
COUNT = Script("return redis.call('INCRBY', KEYS[1], ARGV[1])")


@contextlib.asynccontextmanager
async def redis_pipe(url: str, **options):
    pipe = RedisPipe(url, **options)
    await pipe.start()
    try:
        yield pipe
    finally:
        await pipe.aclose()


async def connected(pipe: RedisPipe) -> None:
    async with asyncio.timeout(20):
        while not pipe.is_connected:  # noqa: ASYNC110 - what a worker sees, without a callback
            await asyncio.sleep(0.005)


async def disconnected(pipe: RedisPipe) -> None:
    async with asyncio.timeout(20):
        while pipe.is_connected:  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.005)


async def outcomes(*calls: asyncio.Future) -> list:
    return await asyncio.gather(*calls, return_exceptions=True)


# ------------------------------------------------------------------ commands


def test_answers_come_in_order_and_in_redis_types(run: Run, redis: PrivateRedis) -> None:
    async def main() -> None:
        async with redis_pipe(redis.url) as pipe:
            assert pipe.is_connected
            calls = (
                pipe.call("SET", "text", "grün"),
                pipe.call("SET", b"\xff\r\n", b"\x00\r\n$-1\r\n"),
                pipe.call("INCRBY", "number", 9_007_199_254_740_993),
                pipe.call("GET", "text"),
                pipe.call("GET", b"\xff\r\n"),
                pipe.call("GET", "absent"),
                pipe.call("MGET", "text", "absent"),
                pipe.call("ECHO", ""),
            )
            assert pipe.pending == 8
            assert await asyncio.gather(*calls) == [
                b"OK",
                b"OK",
                9_007_199_254_740_993,
                "grün".encode(),
                b"\x00\r\n$-1\r\n",
                None,
                ["grün".encode(), None],
                b"",
            ]
            assert pipe.pending == 0

    run(main())


def test_large_values_and_many_calls_keep_their_order(run: Run, redis: PrivateRedis) -> None:
    async def main() -> None:
        async with redis_pipe(redis.url) as pipe:
            big = bytes(range(256)) * 40_000
            calls = [pipe.call("ECHO", number) for number in range(5000)]
            calls.insert(2500, pipe.call("ECHO", big))
            answers = await asyncio.gather(*calls)
            assert answers.pop(2500) == big
            assert answers == [b"%d" % number for number in range(5000)]

    run(main())


def test_an_error_is_raised_for_its_own_call_only(run: Run, redis: PrivateRedis) -> None:
    async def main() -> None:
        async with redis_pipe(redis.url) as pipe:
            calls = pipe.call("SET", "a", 1), pipe.call("LPUSH", "a", 1), pipe.call("GET", "a")
            before, error, after = await outcomes(*calls)
            assert (before, after) == (b"OK", b"1")
            assert type(error) is RedisReplyError
            assert str(error).startswith("WRONGTYPE ")
            assert pipe.is_connected

    run(main())


def test_calls_of_one_tick_leave_in_one_write(run: Run) -> None:
    writes = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Counts what one read brings; answers every command with its number of lines' worth of +OK.
        while data := await reader.read(1 << 20):
            writes.append(data.count(b"*"))
            writer.write(b"+OK\r\n" * data.count(b"*"))
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with redis_pipe(f"redis://127.0.0.1:{port}") as pipe:
            writes.clear()
            await asyncio.gather(*(pipe.call("PING") for _ in range(100)))
            assert writes == [100]
        server.close()
        await server.wait_closed()

    run(main())


def test_a_cancelled_call_does_not_shift_the_others(run: Run, redis: PrivateRedis) -> None:
    async def main() -> None:
        async with redis_pipe(redis.url) as pipe:
            calls = [pipe.call("ECHO", number) for number in range(10)]
            for call in calls[::2]:
                call.cancel()
            answers = await outcomes(*calls)
            assert answers[1::2] == [b"1", b"3", b"5", b"7", b"9"]
            assert {type(answer) for answer in answers[::2]} == {asyncio.CancelledError}
            assert await pipe.call("ECHO", "end") == b"end"

    run(main())


# ------------------------------------------------------------------ scripts


def test_a_script_is_loaded_when_redis_does_not_know_it(run: Run, redis: PrivateRedis) -> None:
    async def main() -> None:
        async with redis_pipe(redis.url) as pipe:
            answer = await pipe.script(ECHO, ["k1", b"k2"], [7, "a", b"\xff"])
            assert answer == [b"k1", b"k2", b"7", b"a", b"\xff"]
            assert await pipe.call("SCRIPT", "EXISTS", ECHO.sha) == [1]

    run(main())


def test_a_flushed_script_runs_exactly_once_per_call(run: Run, redis: PrivateRedis) -> None:
    async def main() -> None:
        async with redis_pipe(redis.url) as pipe:
            await pipe.script(COUNT, ["n"], [1])
            await pipe.call("SCRIPT", "FLUSH")
            answers = await asyncio.gather(*(pipe.script(COUNT, ["n"], [1]) for _ in range(20)))
            assert sorted(answers) == list(range(2, 22))
            assert await pipe.call("GET", "n") == b"21"

    run(main())


def test_known_scripts_are_loaded_again_after_a_restart(run: Run, redis: PrivateRedis) -> None:
    async def main() -> None:
        async with redis_pipe(redis.url) as pipe:
            await pipe.script(COUNT, ["n"], [1])
            redis.kill()
            await disconnected(pipe)
            redis.start()
            await connected(pipe)
            assert await pipe.call("SCRIPT", "EXISTS", COUNT.sha) == [1]

    run(main())


def test_what_a_script_or_its_compiler_says_reaches_the_caller(run: Run, redis: PrivateRedis) -> None:
    async def main() -> None:
        async with redis_pipe(redis.url) as pipe:
            with pytest.raises(RedisReplyError, match="compiling"):
                await pipe.script(Script("this is no lua"), [], [])
            with pytest.raises(RedisReplyError, match=r"^EPOCH changed"):
                await pipe.script(Script("return redis.error_reply('EPOCH changed')"), [], [])
            assert await pipe.call("ECHO", "fine") == b"fine"

    run(main())


# ------------------------------------------------------------------ losing it


def test_fails_at_once_while_redis_is_away_and_comes_back(
    run: Run, redis: PrivateRedis, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        redis.kill()
        async with redis_pipe(redis.url) as pipe:
            assert not pipe.is_connected
            for call in (pipe.call("PING"), pipe.script(COUNT, ["n"], [1])):
                assert call.done()
                with pytest.raises(RedisUnavailable) as error:
                    await call
                assert not error.value.maybe_executed
            await asyncio.sleep(0.3)  # several attempts
            redis.start()
            await connected(pipe)
            assert await pipe.script(COUNT, ["n"], [1]) == 1

    with caplog.at_level(logging.INFO, "gateway.state.redis"):
        run(main())
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]  # not one per attempt


def test_what_is_pending_fails_when_the_connection_is_lost(run: Run, redis: PrivateRedis) -> None:
    async def main() -> None:
        async with redis_pipe(redis.url) as pipe:
            redis.freeze()
            sent = [pipe.call("INCR", "n") for _ in range(10)]
            await asyncio.sleep(0.05)
            redis.kill()
            unsent = pipe.call("INCR", "n")  # this tick's commands are not written yet
            errors = await outcomes(*sent, unsent)
            assert {type(error) for error in errors} == {RedisUnavailable}
            assert [error.maybe_executed for error in errors[:10]] == [True] * 10
            assert pipe.pending == 0
            redis.start()
            await connected(pipe)
            assert await pipe.call("GET", "n") is None

    run(main())


def test_a_frozen_redis_hangs_nobody(run: Run, redis: PrivateRedis) -> None:
    async def main() -> None:
        async with redis_pipe(redis.url, timeout_s=0.2) as pipe:
            redis.freeze()
            async with asyncio.timeout(10):
                first = await outcomes(pipe.call("INCR", "n"), pipe.script(COUNT, ["n"], [1]))
                assert [error.reason for error in first] == ["reply overdue"] * 2
                assert [error.maybe_executed for error in first] == [True] * 2
                # A frozen server's kernel still accepts connections: that must not look like connected.
                await asyncio.sleep(0.3)
                assert not pipe.is_connected
                (second,) = await outcomes(pipe.call("PING"))
                assert type(second) is RedisUnavailable
            redis.thaw()
            await connected(pipe)
            assert await pipe.call("ECHO", "back") == b"back"

    run(main())


def test_a_reply_is_not_overdue_because_this_process_stood_still(run: Run, redis: PrivateRedis) -> None:
    async def main() -> None:
        async with redis_pipe(redis.url, timeout_s=0.2) as pipe:
            for _ in range(3):
                calls = [pipe.call("ECHO", "x") for _ in range(50)]
                await asyncio.sleep(0)  # written
                time.sleep(0.5)  # noqa: ASYNC251 - the point
                assert await asyncio.gather(*calls) == [b"x"] * 50
            assert pipe.is_connected

    run(main())


def test_slow_answers_in_time_are_fine(run: Run, redis: PrivateRedis) -> None:
    async def main() -> None:
        async with redis_pipe(redis.url, timeout_s=0.4) as pipe:
            for _ in range(4):
                call = pipe.call("ECHO", "x")
                await asyncio.sleep(0)
                redis.freeze()
                later = pipe.call("ECHO", "y")
                await asyncio.sleep(0.2)
                redis.thaw()
                assert await asyncio.gather(call, later) == [b"x", b"y"]

    run(main())


def test_the_number_of_pending_calls_is_bounded(run: Run, redis: PrivateRedis) -> None:
    async def main() -> None:
        async with redis_pipe(redis.url, max_pending=100) as pipe:
            calls = [pipe.call("ECHO", number) for number in range(100)]
            refused = pipe.call("ECHO", 100), pipe.script(COUNT, ["n"], [1])
            for error in await outcomes(*refused):
                assert (type(error), error.maybe_executed) == (RedisUnavailable, False)
            assert await asyncio.gather(*calls) == [b"%d" % number for number in range(100)]
            assert await pipe.call("ECHO", "again") == b"again"

    run(main())


def test_closing_fails_what_is_pending(run: Run, redis: PrivateRedis) -> None:
    async def main() -> None:
        async with redis_pipe(redis.url) as pipe:
            redis.freeze()
            call = pipe.call("PING")
            await asyncio.sleep(0.01)
            await pipe.aclose()
            with pytest.raises(RedisUnavailable):
                await call
            with pytest.raises(RedisUnavailable):
                await pipe.call("PING")
            await pipe.aclose()
            assert not pipe.is_connected
        redis.thaw()

    run(main())


@pytest.mark.parametrize("answer", [b"!nonsense\r\n", b"+OK\r\n+one too many\r\n"])
def test_a_peer_that_is_no_redis_is_dropped(run: Run, answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(b"+OK\r\n" * 2)  # the greeting
        if await reader.read(65536):
            writer.write(answer)
        await reader.read()
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with redis_pipe(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}") as pipe:
            await outcomes(pipe.call("PING"))
            await disconnected(pipe)
        server.close()
        await server.wait_closed()

    run(main())


def test_a_server_that_cannot_write_is_unavailable(run: Run, redis: PrivateRedis) -> None:
    async def main() -> None:
        async with redis_pipe(redis.url) as pipe:
            await pipe.call("REPLICAOF", "127.0.0.1", 1)
            with pytest.raises(RedisUnavailable) as error:
                await pipe.call("SET", "a", 1)
            assert (error.value.reason, error.value.maybe_executed) == ("readonly", False)
            await connected(pipe)
            await pipe.call("REPLICAOF", "NO", "ONE")
            assert await pipe.call("SET", "a", 1) == b"OK"

    run(main())


# ------------------------------------------------------------------ connecting


def test_on_connect_runs_after_every_connect_and_may_call(run: Run, redis: PrivateRedis) -> None:
    seen = []

    async def announce(pipe: RedisPipe) -> None:
        seen.append(await pipe.call("INCR", "connects"))

    async def main() -> None:
        async with redis_pipe(redis.url, on_connect=[announce]) as pipe:
            assert seen == [1]
            redis.kill()
            await disconnected(pipe)
            redis.start()
            await connected(pipe)
            await pipe.call("PING")
            assert seen == [1, 1]  # the restart emptied the server

    run(main())


def test_a_failing_on_connect_is_logged_and_tried_again(
    run: Run, redis: PrivateRedis, caplog: pytest.LogCaptureFixture
) -> None:
    attempts = []

    async def fail_once(_: RedisPipe) -> None:
        attempts.append(1)
        if len(attempts) == 1:
            raise KeyError("mistake")

    async def main() -> None:
        async with redis_pipe(redis.url, on_connect=[fail_once]) as pipe:
            await connected(pipe)
            assert await pipe.call("ECHO", "x") == b"x"

    with caplog.at_level(logging.ERROR, "gateway.state.redis"):
        run(main())
    assert len(attempts) == 2
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[0] is KeyError


def test_signs_in_selects_and_names_itself(run: Run, start_redis: StartRedis) -> None:
    server = start_redis("--requirepass", "p@ss/word")

    async def main() -> None:
        url = f"unix://:p%40ss%2Fword@{server.socket_path}?db=3"
        async with redis_pipe(url) as pipe:
            info = (await pipe.call("CLIENT", "INFO")).decode()
            fields = dict(pair.split("=", 1) for pair in info.split())
            assert (fields["db"], fields["name"], fields["resp"]) == ("3", "tollhouse", "2")
            await pipe.call("ACL", "SETUSER", "worker", "on", ">secret", "+@all", "-client", "~*")
            async with redis_pipe(f"unix://worker:secret@{server.socket_path}") as worker:
                assert await worker.call("ACL", "WHOAMI") == b"worker"

    run(main())


def test_a_wrong_password_is_reported_without_it(
    run: Run, start_redis: StartRedis, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_redis("--requirepass", "right")

    async def main() -> None:
        async with redis_pipe(f"unix://:canary@{server.socket_path}") as pipe:
            assert not pipe.is_connected
            with pytest.raises(RedisUnavailable):
                await pipe.call("PING")

    with caplog.at_level(logging.INFO, "gateway.state.redis"):
        run(main())
    assert [record.getMessage() for record in caplog.records] == ["redis unavailable: WRONGPASS"]
    assert "canary" not in caplog.text


def test_a_pipe_starts_once(run: Run, redis: PrivateRedis) -> None:
    async def main() -> None:
        async with redis_pipe(redis.url) as pipe:
            with pytest.raises(RuntimeError):
                await pipe.start()

    run(main())


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://localhost", ("localhost", 6379, "", False, "", "", 0)),
        ("redis://:p%3As@[::1]:7000/2", ("::1", 7000, "", False, "", "p:s", 2)),
        ("rediss://u:p@redis.test/", ("redis.test", 6379, "", True, "u", "p", 0)),
        ("redis://redis.test?db=4", ("redis.test", 6379, "", False, "", "", 4)),
        ("unix:///run/redis.sock?db=5", ("localhost", 6379, "/run/redis.sock", False, "", "", 5)),
        ("unix://u:p@/run/a%20b.sock", ("localhost", 6379, "/run/a b.sock", False, "u", "p", 0)),
        ("redis+socket:///r.sock?virtual_host=6", ("localhost", 6379, "/r.sock", False, "", "", 6)),
    ],
)
def test_understands_the_usual_urls(url: str, expected: tuple) -> None:
    server = _parse_url(url)
    got = (
        server.host,
        server.port,
        server.path,
        server.is_tls,
        server.username,
        server.password,
        server.db,
    )
    assert got == expected
    assert "password" not in repr(server)


@pytest.mark.parametrize(
    "url", ["http://:canary@x/", "unix://:canary@", "redis://:canary@x/zero", "redis://:canary@x/-1"]
)
def test_refuses_other_urls_without_quoting_them(url: str) -> None:
    with pytest.raises(ValueError, match="Redis URL") as refusal:
        RedisPipe(url)
    assert "canary" not in str(refusal.value)
