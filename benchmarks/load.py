"""A closed loop of OpenAI calls over a fixed number of connections, reported as one JSON object.

It checks what it measures: an answer counts only with status 200 and a whole body, a stream only with every chunk
and its `[DONE]`. It must stay cheaper than anything it measures, and it calls the loopback alone.

    python -m benchmarks.load --url http://127.0.0.1:9100/v1/chat/completions --model mock -c 8 -n 4000
"""

import argparse
import asyncio
import re
import sys
import time
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import httptools
import orjson
import uvloop

from benchmarks.upstream import behaviour_of

TIMEOUT_S = 240.0


@dataclass(slots=True)
class Tally:
    """What one run has seen; times in nanoseconds."""

    requests: int
    chunks_expected: int  # per stream; 0: not a stream
    issued: int = 0
    answered: int = 0
    ok: int = 0
    chunks: int = 0
    latency_ns: list[int] = field(default_factory=list)
    first_chunk_ns: list[int] = field(default_factory=list)
    chunk_ns: list[int] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)
    failure_sample: str = ""

    def fail(self, reason: str, sample: bytes) -> None:
        self.failures[reason] = self.failures.get(reason, 0) + 1
        if not self.failure_sample:
            self.failure_sample = sample[:400].decode("utf-8", "replace")


class Caller(asyncio.Protocol):
    """One connection: sends the request, waits for the whole answer, sends the next."""

    def __init__(self, request: bytes, tally: Tally, finished: asyncio.Future[None]) -> None:
        self._request = request
        self._tally = tally
        self._finished = finished
        self._transport: asyncio.Transport | None = None
        self._sent_ns = 0
        self._answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has the methods, not the base class
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._finished.done():
            self._finished.set_exception(ConnectionError(f"the server hung up: {exc or 'end of stream'}"))

    def _next(self) -> None:
        assert self._transport is not None
        if self._tally.issued >= self._tally.requests:
            self._finished.set_result(None)
            self._transport.close()
            return
        self._tally.issued += 1
        self._answer = b""
        self._sent_ns = time.monotonic_ns()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        answer = self._answer = self._answer + data if self._answer else data
        head_end = answer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", answer[: head_end + 2])
        if length is None:
            self._finished.set_exception(
                ConnectionError(f"an answer without a length: {answer[:head_end]!r}")
            )
            return
        if len(answer) < head_end + 4 + int(length[1]):
            return
        if answer[9:12] == b"200":
            self._tally.ok += 1
            self._tally.latency_ns.append(time.monotonic_ns() - self._sent_ns)
        else:
            self._tally.fail(f"status {answer[9:12].decode()}", answer[head_end + 4 :])
        self._tally.answered += 1
        self._next()


class StreamCaller(Caller):
    """As Caller, for server-sent events; follows the chunked framing with a real parser."""

    def __init__(self, request: bytes, tally: Tally, finished: asyncio.Future[None]) -> None:
        super().__init__(request, tally, finished)
        self._parser = httptools.HttpResponseParser(self)
        self._events = b""
        self._chunks = 0
        self._done = False
        self._body = b""

    def on_message_begin(self) -> None:
        self._events = self._body = b""
        self._chunks = 0
        self._done = False

    def on_body(self, body: bytes) -> None:
        if self._parser.get_status_code() != 200:
            self._body += body
            return
        now_ns = time.monotonic_ns()
        tally = self._tally
        *events, self._events = (self._events + body).split(b"\n\n")
        for event in events:
            mark = event.find(b'"content":"T')
            if mark >= 0:
                written_ns = int(event[mark + 12 : event.index(b" ", mark)])
                if not self._chunks:
                    tally.first_chunk_ns.append(now_ns - self._sent_ns)
                self._chunks += 1
                tally.chunk_ns.append(now_ns - written_ns)
            elif event == b"data: [DONE]":
                self._done = True

    def on_message_complete(self) -> None:
        tally = self._tally
        status = self._parser.get_status_code()
        tally.chunks += self._chunks
        if status != 200:
            tally.fail(f"status {status}", self._body)
        elif not self._done or self._chunks != tally.chunks_expected:
            tally.fail(f"a stream of {self._chunks} chunks, end mark: {self._done}", b"")
        else:
            tally.ok += 1
            tally.latency_ns.append(time.monotonic_ns() - self._sent_ns)
        tally.answered += 1
        self._next()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if not self._finished.done():
                self._finished.set_exception(error)


def percentiles(values_ns: list[int]) -> dict[str, float]:
    """p50, p95, p99 and mean in microseconds, by nearest rank; empty without values."""
    if not values_ns:
        return {}
    ordered = sorted(values_ns)
    ranks = {f"p{p}": ordered[max(0, -(-len(ordered) * p // 100) - 1)] / 1000 for p in (50, 95, 99)}
    return {**ranks, "mean": sum(ordered) / len(ordered) / 1000}


def request_bytes(*, url: str, key: str, model: str, stream: bool) -> bytes:
    """The one request that every connection repeats: about 600 bytes of chat, or a text to embed."""
    parts = urlsplit(url)
    body: dict[str, object]
    if parts.path.endswith("/embeddings"):
        body = {"model": model, "input": "what would this cost? " * 4}
    else:
        body = {
            "model": model,
            "messages": [
                {"role": "system", "content": "You are a helpful assistant."},
                {"role": "user", "content": "what would this cost? " * 18},
            ],
            "temperature": 0.7,
            "max_tokens": 256,
        }
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    payload = orjson.dumps(body)
    head = (
        f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
        f"accept: */*\r\nuser-agent: tollhouse-benchmark\r\nauthorization: Bearer {key}\r\n"
        f"content-length: {len(payload)}\r\n\r\n"
    )
    return head.encode() + payload


async def run(
    *, url: str, key: str, model: str, connections: int, requests: int, stream: bool
) -> dict[str, object]:
    """Send `requests` calls over `connections`.

    Raises ConnectionError when a connection breaks, TimeoutError when it takes longer than TIMEOUT_S.
    """
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname not in ("127.0.0.1", "localhost") or not parts.port:
        msg = f"only http://127.0.0.1:PORT, not {url}"
        raise ValueError(msg)
    loop = asyncio.get_running_loop()
    tally = Tally(requests=requests, chunks_expected=behaviour_of(model).chunks if stream else 0)
    request = request_bytes(url=url, key=key, model=model, stream=stream)
    kind = StreamCaller if stream else Caller
    finished = [loop.create_future() for _ in range(min(connections, requests))]
    start_ns = time.monotonic_ns()
    async with asyncio.timeout(TIMEOUT_S):
        for each in finished:
            await loop.create_connection(
                lambda each=each: kind(request, tally, each), "127.0.0.1", parts.port
            )
        await asyncio.gather(*finished)
    elapsed_s = (time.monotonic_ns() - start_ns) / 1e9
    return {
        "requests": tally.answered,
        "ok": tally.ok,
        "failures": tally.failures,
        "failure_sample": tally.failure_sample,
        "chunks": tally.chunks,
        "elapsed_s": elapsed_s,
        "requests_per_s": tally.answered / elapsed_s,
        "load_cpu_us": time.process_time() / max(1, tally.answered) * 1e6,
        "latency_us": percentiles(tally.latency_ns),
        "first_chunk_us": percentiles(tally.first_chunk_ns),
        "chunk_us": percentiles(tally.chunk_ns),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", required=True)
    parser.add_argument("--key", default="none")
    parser.add_argument("--model", default="mock")
    parser.add_argument("-c", "--connections", type=int, default=1)
    parser.add_argument("-n", "--requests", type=int, default=1000)
    parser.add_argument("--stream", action="store_true")
    sys.stdout.buffer.write(
        orjson.dumps(uvloop.run(run(**vars(parser.parse_args()))), option=orjson.OPT_APPEND_NEWLINE)
    )


if __name__ == "__main__":
    main()
