"""A model provider that costs next to nothing: OpenAI's chat and embeddings JSON from memory, on uvloop.

The model's name says how it behaves, so the behaviour survives any gateway in between. For measuring only: it
must never stand in for a provider in a test, and it listens on the loopback alone.

    python -m benchmarks.upstream 9100

    mock[-d<ms>][-g<us>][-n<chunks>][-s<bytes>][-e<status>][-p<percent>][-r<s>]
      d  wait before the first byte         g  gap between stream chunks      n  content chunks of a stream (50)
      s  bytes of generated text (580)      e  answer with this status ...    p  ... this share of requests (100)
      r  retry-after of such an answer

A stream chunk's text is `T<ns>`, the CLOCK_MONOTONIC time of its writing, so that a load generator on the same
machine can tell how long the chunk was under way.
"""

import argparse
import asyncio
import base64
import random
import re
import struct
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import orjson
import uvloop

CREATED = 1_790_000_000  # any fixed second
PROMPT_TOKENS = 120
EMBEDDING_DIMENSIONS = 64
HEAD_LIMIT_BYTES = 64 * 1024

_LETTERS = {
    "d": "delay_ms",
    "g": "gap_us",
    "n": "chunks",
    "s": "text_bytes",
    "e": "status",
    "p": "percent",
    "r": "retry_after_s",
}
_REASONS = {200: b"OK", 404: b"Not Found", 411: b"Length Required", 429: b"Too Many Requests"}


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What a model's name asks for."""

    delay_ms: int = 0
    gap_us: int = 0
    chunks: int = 50
    text_bytes: int = 580  # makes the whole answer 1 kB
    status: int = 0
    percent: int = 100
    retry_after_s: int = 1


def behaviour_of(model: str) -> Behaviour:
    """Read `mock-g5000-n50`; parts without a known letter and a number say nothing."""
    asked = (re.fullmatch(r"([a-z])(\d+)", part) for part in model.split("-")[1:])
    return Behaviour(**{_LETTERS[m[1]]: int(m[2]) for m in asked if m and m[1] in _LETTERS})


@dataclass(frozen=True, slots=True)
class Answer:
    """How to answer one request: `whole` at once, or (`whole` empty) a stream."""

    behaviour: Behaviour
    whole: bytes
    with_usage: bool = False


def _message(status: int, body: bytes, *, extra: bytes = b"") -> bytes:
    reason = _REASONS.get(status, b"Error")
    return b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\n%scontent-length: %d\r\n\r\n%s" % (
        status,
        reason,
        extra,
        len(body),
        body,
    )


def _error(status: int, *, extra: bytes = b"") -> bytes:
    body = {
        "error": {
            "message": f"asked to answer {status}",
            "type": "benchmark",
            "param": None,
            "code": str(status),
        }
    }
    return _message(status, orjson.dumps(body), extra=extra)


def _chat(model: str, behaviour: Behaviour) -> bytes:
    text = ("the quick brown fox jumps over the lazy dog " * (behaviour.text_bytes // 44 + 1))[
        : behaviour.text_bytes
    ]
    completion_tokens = max(1, behaviour.text_bytes // 4)
    return orjson.dumps(
        {
            "id": "chatcmpl-benchmark",
            "object": "chat.completion",
            "created": CREATED,
            "model": model,
            "system_fingerprint": "fp_benchmark",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text, "refusal": None},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": {
                "prompt_tokens": PROMPT_TOKENS,
                "completion_tokens": completion_tokens,
                "total_tokens": PROMPT_TOKENS + completion_tokens,
                "prompt_tokens_details": {"cached_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 0},
            },
        }
    )


def _embeddings(model: str, request: dict[str, object]) -> bytes:
    inputs = request.get("input")
    count = len(inputs) if isinstance(inputs, list) else 1
    vector = [round(((i * 37) % 101) / 101 - 0.5, 6) for i in range(EMBEDDING_DIMENSIONS)]
    if request.get("encoding_format") == "base64":
        embedding: object = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    else:
        embedding = vector
    return orjson.dumps(
        {
            "object": "list",
            "model": model,
            "data": [{"object": "embedding", "index": i, "embedding": embedding} for i in range(count)],
            "usage": {"prompt_tokens": 8 * count, "total_tokens": 8 * count},
        }
    )


@lru_cache(maxsize=1024)
def plan(path: bytes, body: bytes) -> Answer:
    """What to answer to this request; cached, because a load generator sends the same bytes over and over."""
    try:
        request = orjson.loads(body)
        model = request["model"]
        behaviour = behaviour_of(model)
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return Answer(Behaviour(), _error(400))
    if path.endswith(b"/chat/completions"):
        if request.get("stream"):
            return Answer(behaviour, b"", bool((request.get("stream_options") or {}).get("include_usage")))
        return Answer(behaviour, _message(200, _chat(model, behaviour)))
    if path.endswith(b"/embeddings"):
        return Answer(behaviour, _message(200, _embeddings(model, request)))
    return Answer(Behaviour(), _error(404))


_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n"
)
_EVENT_HEAD = (
    b'data: {"id":"chatcmpl-benchmark","object":"chat.completion.chunk","created":%d,"model":"mock",'
    b'"system_fingerprint":"fp_benchmark","choices":[' % CREATED
)
_FIRST = _EVENT_HEAD + (
    b'{"index":0,"delta":{"role":"assistant","content":"T%d "},"logprobs":null,"finish_reason":null}]}\n\n'
)
_NEXT = _EVENT_HEAD + b'{"index":0,"delta":{"content":"T%d "},"logprobs":null,"finish_reason":null}]}\n\n'
_STOP = _EVENT_HEAD + b'{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}\n\n'
_USAGE = _EVENT_HEAD + b'],"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}}\n\n'


def _framed(event: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(event), event)


class Upstream(asyncio.Protocol):
    """One kept-alive connection, one request at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, draw: random.Random) -> None:
        self._loop = loop
        self._draw = draw
        self._buffer = b""
        self._busy = False
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has the methods, not the base class

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        if not self._busy:
            self._take()

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _take(self) -> None:
        """Answer the next whole request in the buffer, if there is one."""
        while not self._busy and self._buffer:
            head_end = self._buffer.find(b"\r\n\r\n")
            if head_end < 0:
                if len(self._buffer) > HEAD_LIMIT_BYTES and self._transport is not None:
                    self._transport.abort()
                return
            head = self._buffer[:head_end]
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            if length is None:
                self._write(_error(411, extra=b"connection: close\r\n"))
                if self._transport is not None:
                    self._transport.close()
                return
            end = head_end + 4 + int(length[1])
            if len(self._buffer) < end:
                return
            body, self._buffer = self._buffer[head_end + 4 : end], self._buffer[end:]
            self._answer(plan(head.split(b" ", 2)[1], body))

    def _answer(self, answer: Answer) -> None:
        behaviour = answer.behaviour
        if behaviour.delay_ms:
            self._busy = True
            self._timer = self._loop.call_later(behaviour.delay_ms / 1000, self._send, answer)
        else:
            self._send(answer)

    def _send(self, answer: Answer) -> None:
        behaviour = answer.behaviour
        if behaviour.status and self._draw.random() * 100 < behaviour.percent:
            self._write(_error(behaviour.status, extra=b"retry-after: %d\r\n" % behaviour.retry_after_s))
            self._end(was_waiting=behaviour.delay_ms > 0)
        elif answer.whole:
            self._write(answer.whole)
            self._end(was_waiting=behaviour.delay_ms > 0)
        else:
            self._busy = True
            self._write(_STREAM_HEAD)
            self._stream(answer, 0, self._loop.time())

    def _stream(self, answer: Answer, sent: int, start_s: float) -> None:
        """Write the chunks that are due; the gaps are counted from the start, so that they do not drift."""
        behaviour = answer.behaviour
        while sent < behaviour.chunks:
            due_s = start_s + sent * behaviour.gap_us / 1e6
            if behaviour.gap_us and sent and due_s > self._loop.time():
                self._timer = self._loop.call_at(due_s, self._stream, answer, sent, start_s)
                return
            self._write(_framed((_NEXT if sent else _FIRST) % time.monotonic_ns()))
            sent += 1
        usage = _USAGE % (PROMPT_TOKENS, sent, PROMPT_TOKENS + sent) if answer.with_usage else b""
        self._write(
            _framed(_STOP) + (_framed(usage) if usage else b"") + _framed(b"data: [DONE]\n\n") + b"0\r\n\r\n"
        )
        self._end(was_waiting=True)

    def _end(self, *, was_waiting: bool) -> None:
        self._busy = False
        self._timer = None
        if was_waiting:
            self._take()


async def serve(port: int) -> None:
    """Listen on the loopback until cancelled."""
    loop = asyncio.get_running_loop()
    draw = random.Random(20_260_101)  # the same faults in every run
    server = await loop.create_server(lambda: Upstream(loop, draw), "127.0.0.1", port, backlog=4096)
    async with server:
        await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("port", type=int)
    uvloop.run(serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
