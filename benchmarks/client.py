"""CPU time of `gateway.state.clients.HttpClient` alone, per request, against a mock in another process.

    uv run python benchmarks/client.py --port 9100 [--tls-ca ca.pem] [--redis URL]

Start the mock first: any HTTP/1.1 server that answers POST /v1/chat/completions, whole or as a stream of 50
chunks, as `"stream"` in the body says. Prints medians over rounds; `raw` rows are the floor: the same bytes
over bare asyncio protocols, parsed only as far as needed to find the end of a whole answer.
"""

import argparse
import asyncio
import resource
import ssl
import statistics
from collections.abc import Awaitable, Callable

import uvloop

from gateway.state.clients import HttpClient
from gateway.state.redis import RedisPipe
from routing.types import WireRequest

HEADERS = (
    ("content-type", "application/json"),
    ("authorization", "Bearer sk-benchmark-0000000000000000000000000000000000000000"),
    ("user-agent", "tollhouse-benchmark"),
)
WHOLE_BODY = b'{"model":"mock","messages":[{"role":"user","content":"%s"}]}' % (b"lorem ipsum " * 40)
STREAM_BODY = WHOLE_BODY[:-1] + b',"stream":true}'


def cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def measure(work: Callable[[], Awaitable[None]], *, count: int, concurrency: int) -> float:
    """CPU microseconds per call of `work`."""

    async def worker() -> None:
        for _ in range(count // concurrency):
            await work()

    await asyncio.gather(*(work() for _ in range(concurrency)))  # connect outside the measurement
    before = cpu_s()
    await asyncio.gather(*(worker() for _ in range(concurrency)))
    return (cpu_s() - before) / (count // concurrency * concurrency) * 1e6


class RawConnection(asyncio.Protocol):
    """Knows only that the mock's whole answers have one length."""

    def __init__(self, head: bytes) -> None:
        self.request = head
        self.expected = 0
        self.received = 0
        self.done: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if not self.expected:
            head, _, _ = data.partition(b"\r\n\r\n")
            length = head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]
            self.expected = len(head) + 4 + int(length)
        self.received += len(data)
        if self.received >= self.expected:
            self.received = 0
            self.done.set_result(None)


async def bench(arguments: argparse.Namespace) -> None:
    tls = None
    scheme = "http"
    if arguments.tls_ca:
        tls = ssl.create_default_context(cafile=arguments.tls_ca)
        scheme = "https"
    url = f"{scheme}://127.0.0.1:{arguments.port}/v1/chat/completions"
    client = HttpClient(tls=tls)
    loop = asyncio.get_running_loop()
    # Built anew each time, as the adapters do: the prepared head is found by equality.
    shared = {"url": url, "method": "POST"}

    async def whole() -> None:
        request = WireRequest(headers=tuple(HEADERS), body=WHOLE_BODY, **shared)
        response = await client.send(request, first_byte_timeout_s=10, total_timeout_s=60)
        if response.status != 200:
            raise SystemExit(f"the mock answered {response.status}")

    async def stream() -> None:
        request = WireRequest(headers=tuple(HEADERS), body=STREAM_BODY, **shared)
        response = await client.open(request, first_byte_timeout_s=10, stall_timeout_s=10)
        try:
            while await response.read():
                pass
        finally:
            await response.aclose()

    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{arguments.port}\r\n" + "".join(
        f"{name}: {value}\r\n" for name, value in HEADERS
    )
    raw_request = f"{head}content-length: {len(WHOLE_BODY)}\r\n\r\n".encode() + WHOLE_BODY
    idle: list[RawConnection] = []

    async def raw() -> None:
        if idle:
            connection = idle.pop()
        else:
            _, connection = await loop.create_connection(
                lambda: RawConnection(raw_request), "127.0.0.1", arguments.port, ssl=tls
            )
        connection.done = loop.create_future()
        connection.transport.write(connection.request)
        await connection.done
        idle.append(connection)

    rows: list[tuple[str, Callable[[], Awaitable[None]], int]] = [
        ("raw", raw, arguments.count),
        ("whole", whole, arguments.count),
        ("stream of 50", stream, arguments.count // 10),
    ]
    pipe = None
    if arguments.redis:
        pipe = RedisPipe(arguments.redis)
        await pipe.start()

        async def ping() -> None:
            await pipe.call("SET", "benchmark", b"x" * 64)

        rows.append(("redis trip", ping, arguments.count))
    for concurrency in (1, 8, 64):
        figures: dict[str, list[float]] = {name: [] for name, _, _ in rows}
        for _ in range(arguments.rounds):
            for name, work, count in rows:
                figures[name].append(await measure(work, count=count, concurrency=concurrency))
        cells = "   ".join(f"{name} {statistics.median(values):6.1f}" for name, values in figures.items())
        print(f"c{concurrency:<3} CPU us   {cells}")
    for connection in idle:
        connection.transport.close()
    if pipe is not None:
        await pipe.aclose()
    await client.aclose()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--tls-ca", help="speak TLS, trusting this file")
    parser.add_argument("--redis", help="also measure one command through RedisPipe")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")
    arguments = parser.parse_args()
    factory = uvloop.new_event_loop if arguments.loop == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(bench(arguments))


if __name__ == "__main__":
    main()
