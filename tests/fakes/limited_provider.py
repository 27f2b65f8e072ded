"""A provider with a strict rate limit: more than LIMIT calls in any sliding WINDOW_S are answered with 429.

    python -m tests.fakes.limited_provider PORT LIMIT WINDOW_S [LATENCY_MS]

It speaks OpenAI's chat dialect and tells its limit in OpenAI's headers. GET /seen gives the times of all calls,
{"accepted": [...], "refused": [...]}, in seconds of the machine's monotonic clock, whatever their process.
"""

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import httpx
import orjson

from tests.fakes.http_server import Peer, Request

START_TIMEOUT_S = 30.0


class SlidingLimit:
    """At most `limit` calls in any `window_s`, counted one by one as they arrive."""

    def __init__(self, limit: int, window_s: float) -> None:
        self.limit = limit
        self.window_s = window_s
        self.accepted: list[float] = []
        self.refused: list[float] = []
        self._window: deque[float] = deque()

    def arrive(self, now_s: float) -> tuple[int, dict[str, str]]:
        """The status and the headers for a call that arrives now."""
        window = self._window
        while window and window[0] <= now_s - self.window_s:
            window.popleft()
        is_accepted = len(window) < self.limit
        if is_accepted:
            window.append(now_s)
        (self.accepted if is_accepted else self.refused).append(now_s)
        headers = {
            "x-ratelimit-limit-requests": str(self.limit),
            "x-ratelimit-remaining-requests": str(self.limit - len(window)),
            "x-ratelimit-reset-requests": f"{window[-1] + self.window_s - now_s:.3f}s",
        }
        if not is_accepted:
            headers["retry-after-ms"] = str(int((window[0] + self.window_s - now_s) * 1000) + 1)
        return (200 if is_accepted else 429), headers


def _reply(request: Request) -> dict[str, Any]:
    return {
        "id": "chatcmpl-limited",
        "object": "chat.completion",
        "created": 1_790_000_000,
        "model": orjson.loads(request.body).get("model", "limited"),
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 20, "completion_tokens": 1, "total_tokens": 21},
    }


async def serve(port: int, limit: SlidingLimit, *, latency_s: float) -> None:
    """Listen on the loopback until cancelled."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer, 0)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while (request := await peer.read_request()) is not None:
                if request.method == "GET":
                    await _send(peer, 200, {}, {"accepted": limit.accepted, "refused": limit.refused})
                    continue
                status, headers = limit.arrive(time.monotonic())
                await asyncio.sleep(latency_s)
                refusal = {"error": {"message": "Rate limit reached", "code": "rate_limit_exceeded"}}
                await _send(peer, status, headers, _reply(request) if status == 200 else refusal)
        writer.close()

    async with await asyncio.start_server(connected, "127.0.0.1", port, backlog=1024) as server:
        await server.serve_forever()


async def _send(peer: Peer, status: int, headers: dict[str, str], document: dict[str, Any]) -> None:
    body = orjson.dumps(document)
    lines = [f"HTTP/1.1 {status} Whatever", "content-type: application/json", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    await peer.send("\r\n".join([*lines, "", ""]).encode() + body)


@contextlib.contextmanager
def running(limit: int, window_s: float, *, latency_ms: int = 20) -> Iterator[str]:
    """In a process of its own, so that nobody's work delays its count; gives its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    arguments = [str(port), str(limit), str(window_s), str(latency_ms)]
    process = subprocess.Popen([sys.executable, "-m", "tests.fakes.limited_provider", *arguments])
    try:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while True:
            assert process.poll() is None, "the provider has ended"
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 0.5).close()
                break
            assert time.monotonic() < deadline_s, "the provider does not start"
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def seen(url: str) -> tuple[list[float], list[float]]:
    """When the provider accepted calls, and when it refused some."""
    document = httpx.get(f"{url}/seen", timeout=30).json()
    return document["accepted"], document["refused"]


if __name__ == "__main__":
    asyncio.run(
        serve(
            int(sys.argv[1]),
            SlidingLimit(int(sys.argv[2]), float(sys.argv[3])),
            latency_s=int(sys.argv[4] if len(sys.argv) > 4 else 20) / 1000,
        )
    )
