"""A provider that breaks on purpose: a real local HTTP server where the model's name picks the fault.

Every healthy answer is the same sixty words, so that a caller can tell a whole one from a broken one. Each
request is logged with its time. The faults are those of Failover Bench (RELIABILITY.md §6) and of the fault
drill (§10); it speaks OpenAI's chat completions, streamed and whole.
"""

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.http_server import CHUNKED_HEAD, LAST_CHUNK, Peer, Request, chunk, reply, serve

ANSWER = (
    "Trust in a gateway grows on the bad days, when a provider falls silent, cuts a sentence in half or sends "
    "rubbish with a friendly status. Whoever asked still wants one whole answer without a word lost, "
    "doubled or made up, and a bill for that answer alone. Everything else the gateway keeps to itself "
    "and notes for its operator."
)
WORDS = ANSWER.split()
assert len(WORDS) == 60

CUT_AFTER, STALL_AFTER, BROKEN_EVENT = 40, 20, 10
TARDY_S, SLOW_GAP_S = 0.8, 0.05


@dataclass(frozen=True, slots=True)
class Waits:
    """How long the faults of one profile last, in seconds."""

    retry_after_s: float
    first_token_s: float
    stall_s: float
    silence_s: float
    outage_s: float
    token_gap_s: float


FULL = Waits(2.0, 20.0, 30.0, 120.0, 60.0, 0.015)
FAST = Waits(2.0, 3.0, 4.0, 15.0, 6.0, 0.005)


@dataclass(slots=True)
class Try:
    """One request as the provider saw it. `number` counts the requests for its model since the last reset."""

    model: str
    number: int
    at_s: float  # since the last reset
    messages: list[dict[str, Any]]
    outcome: str = ""

    @property
    def last_role(self) -> str:
        return str(self.messages[-1]["role"])


@dataclass
class FaultyProvider:
    """A running one. `mixed_share` of the requests for models named `mixed…` go wrong, by the seeded draw."""

    url: str
    waits: Waits
    tries: list[Try] = field(default_factory=list)
    mixed_share: float = 0.3
    draw: random.Random = field(default_factory=lambda: random.Random(1))
    _counts: Counter[str] = field(default_factory=Counter)
    _since_s: float = field(default_factory=time.monotonic)

    def reset(self) -> None:
        """Forget all requests; an outage begins now."""
        self.tries, self._counts, self._since_s = [], Counter(), time.monotonic()

    def tries_at(self, model: str) -> list[Try]:
        return [each for each in self.tries if each.model == model]

    def note(self, model: str, body: dict[str, Any]) -> Try:
        self._counts[model] += 1
        at_s = time.monotonic() - self._since_s
        seen = Try(model, self._counts[model], at_s, body["messages"])
        self.tries.append(seen)
        return seen


@contextlib.contextmanager
def faulty(waits: Waits) -> Iterator[FaultyProvider]:
    """Start one; `url` is its base URL for an openai_compatible provider."""
    provider: FaultyProvider | None = None

    async def handle(peer: Peer, request: Request) -> None:
        assert provider is not None
        await _answer(provider, peer, request)

    with serve(handle) as server:
        provider = FaultyProvider(f"{server.url}/v1", waits)
        yield provider


async def _answer(provider: FaultyProvider, peer: Peer, request: Request) -> None:
    body = json.loads(request.body)
    model = str(body["model"])
    seen = provider.note(model, body)
    exchange = Exchange(provider, peer, body, seen)
    fault = exchange.fault()
    seen.outcome = fault
    await FAULTS[fault](exchange)


@dataclass(slots=True)
class Exchange:
    """One request and the means to answer it badly."""

    provider: FaultyProvider
    peer: Peer
    body: dict[str, Any]
    seen: Try

    @property
    def is_stream(self) -> bool:
        return bool(self.body.get("stream"))

    def fault(self) -> str:
        """What becomes of this request, by its model's name."""
        model, number = self.seen.model, self.seen.number
        name = model.partition(":")[0]
        if name.startswith("mixed"):
            return self._mixed()
        if name == "ok-noprefill":
            return "refuse prefill" if self.seen.last_role == "assistant" else "ok"
        fault, times = MODELS[name]
        if name == "s15":
            return fault if self.seen.at_s < self.provider.waits.outage_s else "ok"
        return fault if times is None or number <= times else "ok"

    def _mixed(self) -> str:
        draw = self.provider.draw
        if draw.random() >= self.provider.mixed_share:
            return "ok"
        return draw.choice(STREAM_FAULTS if self.is_stream else WHOLE_FAULTS)

    # -- answers

    def words(self) -> list[str]:
        """The answer, or the rest of it for a prefill and for the request to go on."""
        messages = self.body["messages"]
        if messages[-1]["role"] == "assistant":
            begun = messages[-1]["content"]
        elif len(messages) > 1 and messages[-2]["role"] == "assistant":
            begun = messages[-2]["content"]
        else:
            return [word if number == 0 else f" {word}" for number, word in enumerate(WORDS)]
        assert ANSWER.startswith(begun), f"asked to go on from what it never wrote: {begun!r}"
        rest = ANSWER[len(begun) :]
        return [f" {word}" for word in rest.split()] if rest.startswith(" ") else [rest]

    def usage(self, words: int) -> dict[str, int]:
        prompt = sum(len(str(message["content"]).split()) + 4 for message in self.body["messages"])
        return {"prompt_tokens": prompt, "completion_tokens": words, "total_tokens": prompt + words}

    def whole(self) -> bytes:
        text = "".join(self.words())
        return json.dumps(
            {
                "id": f"chatcmpl-{self.seen.model}-{self.seen.number}",
                "object": "chat.completion",
                "created": 1_780_000_000,
                "model": self.seen.model,
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": text, "refusal": None},
                        "logprobs": None,
                        "finish_reason": "stop",
                    }
                ],
                "usage": self.usage(len(text.split())),
            }
        ).encode()

    def event(self, delta: dict[str, Any] | None, *, finish: str | None = None, **more: Any) -> bytes:
        """A chunk as a server-sent event; without a delta it has no choices."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        document = {
            "id": f"chatcmpl-{self.seen.model}-{self.seen.number}",
            "object": "chat.completion.chunk",
            "created": 1_780_000_000,
            "model": self.seen.model,
            "choices": [] if delta is None else [choice],
            **more,
        }
        return b"data: " + json.dumps(document).encode() + b"\n\n"

    async def events(self, *, gap_s: float | None = None) -> AsyncGenerator[bytes]:
        """The healthy stream: the role, a word an event, the reason of the end, usage, [DONE]."""
        words = self.words()
        gap_s = self.provider.waits.token_gap_s if gap_s is None else gap_s
        yield self.event({"role": "assistant", "content": ""})
        for word in words:
            await asyncio.sleep(gap_s)
            yield self.event({"content": word})
        yield self.event({}, finish="stop")
        if (self.body.get("stream_options") or {}).get("include_usage"):
            yield self.event(None, usage=self.usage(len(words)))
        yield b"data: [DONE]\n\n"

    async def send(self, *pieces: bytes) -> None:
        await self.peer.send(*pieces)

    async def begin(self) -> None:
        await self.send(CHUNKED_HEAD)

    async def stream(
        self, *, until: int | None = None, change: Callable[[int, bytes], bytes] = lambda _, e: e
    ) -> None:
        """Events from the start; `until` so many words and no further."""
        number = 0
        async for event in self.events():
            if until is not None and number > until:
                return
            if changed := change(number, event):
                await self.send(chunk(changed))
            number += 1

    async def error(self, status: str, code: str | None, message: str, *headers: tuple[str, str]) -> None:
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
        if not status.startswith("400"):
            error["type"] = "server_error"
        json_type = ("Content-Type", "application/json")
        await self.send(
            reply(json.dumps({"error": error}).encode(), status=status, headers=(json_type, *headers))
        )

    async def silence(self, duration_s: float) -> None:
        """Say nothing until then, or until the client has left."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(duration_s):
                await self.peer.wait_closed()
        self.peer.close()


async def ok(at: Exchange) -> None:
    if not at.is_stream:
        await at.send(reply(at.whole(), headers=(("Content-Type", "application/json"),)))
        return
    await at.begin()
    await at.stream()
    await at.send(LAST_CHUNK)


async def limited_with_wait(at: Exchange) -> None:
    wait = ("Retry-After", f"{at.provider.waits.retry_after_s:g}")
    await at.error("429 Too Many Requests", "rate_limit_exceeded", "Rate limit reached.", wait)


async def limited(at: Exchange) -> None:
    await at.error("429 Too Many Requests", "rate_limit_exceeded", "Rate limit reached.")


async def broken_500(at: Exchange) -> None:
    await at.error("500 Internal Server Error", None, "The server had an error.")


async def overloaded(at: Exchange) -> None:
    await at.error("503 Service Unavailable", None, "The engine is overloaded.")


async def reset(at: Exchange) -> None:
    at.peer.reset()


async def silent(at: Exchange) -> None:
    await at.silence(at.provider.waits.silence_s)


async def late(at: Exchange) -> None:
    """A stream whose head is prompt and whose first token is not; a whole answer that takes as long."""
    if at.is_stream:
        await at.begin()
        await asyncio.sleep(at.provider.waits.first_token_s)
        await at.stream()
        await at.send(LAST_CHUNK)
    else:
        await asyncio.sleep(at.provider.waits.first_token_s)
        await ok(at)


async def tardy(at: Exchange) -> None:
    """Healthy, and later than others: what a hedge is for."""
    await asyncio.sleep(TARDY_S)
    await ok(at)


async def slow(at: Exchange) -> None:
    """A healthy stream of some seconds."""
    await at.begin()
    async for event in at.events(gap_s=SLOW_GAP_S):
        await at.send(chunk(event))
    await at.send(LAST_CHUNK)


async def cut(at: Exchange) -> None:
    """The connection ends after 40 of 60 words, or of a whole answer's bytes."""
    if at.is_stream:
        await at.begin()
        await at.stream(until=CUT_AFTER)
    else:
        await _half(at)
    at.peer.close()


async def stall(at: Exchange) -> None:
    if at.is_stream:
        await at.begin()
        await at.stream(until=STALL_AFTER)
    else:
        await _half(at)
    await at.silence(at.provider.waits.stall_s)


async def _half(at: Exchange) -> None:
    whole = reply(at.whole(), headers=(("Content-Type", "application/json"),))
    await at.send(whole[: len(whole) * 2 // 3])


async def bad_event(at: Exchange) -> None:
    """The tenth event is an addition that is no JSON; a whole answer is no JSON at all."""
    if not at.is_stream:
        await at.send(reply(at.whole()[:-1] + b"]", headers=(("Content-Type", "application/json"),)))
        return

    def spoil(number: int, event: bytes) -> bytes:
        return (
            b'data: {"id": "chatcmpl-broken", "choices": [{"del\n\n' + event
            if number == BROKEN_EVENT
            else event
        )

    await at.begin()
    await at.stream(change=spoil)
    await at.send(LAST_CHUNK)


async def no_end_mark(at: Exchange) -> None:
    if not at.is_stream:
        await ok(at)
        return
    await at.begin()
    await at.stream(change=lambda _, event: b"" if b"[DONE]" in event else event)
    await at.send(LAST_CHUNK)


async def html(at: Exchange) -> None:
    page = b"<!doctype html><html><body>Welcome</body></html>"
    await at.send(reply(page, headers=(("Content-Type", "text/html"),)))


async def error_event(at: Exchange) -> None:
    """A good status, then an error before any content."""
    await at.begin()
    error = {"error": {"message": "The server had an error.", "type": "server_error", "code": None}}
    await at.send(chunk(at.event({"role": "assistant", "content": ""})))
    await at.send(chunk(b"data: " + json.dumps(error).encode() + b"\n\n"), LAST_CHUNK)


async def too_long(at: Exchange) -> None:
    await at.error("400 Bad Request", "context_length_exceeded", "The maximum context length is 8192 tokens.")


async def against_policy(at: Exchange) -> None:
    await at.error("400 Bad Request", "content_policy_violation", "The request was rejected for its content.")


async def refuse_prefill(at: Exchange) -> None:
    await at.error("400 Bad Request", "invalid_prefill", "The conversation must end with a user message.")


FAULTS = {
    "ok": ok,
    "429 with Retry-After": limited_with_wait,
    "429": limited,
    "500": broken_500,
    "503": overloaded,
    "reset": reset,
    "silent": silent,
    "late": late,
    "tardy": tardy,
    "slow": slow,
    "cut": cut,
    "stall": stall,
    "bad event": bad_event,
    "no end mark": no_end_mark,
    "html": html,
    "error event": error_event,
    "too long": too_long,
    "against policy": against_policy,
    "refuse prefill": refuse_prefill,
}

MODELS: dict[str, tuple[str, int | None]] = {
    "ok": ("ok", None),
    "tardy": ("tardy", None),
    "slow": ("slow", None),
    "s01": ("429 with Retry-After", 1),
    "s02": ("429", None),
    "s03": ("500", 1),
    "s04": ("503", None),
    "s05": ("reset", 1),
    "s06": ("silent", None),
    "s07": ("late", None),
    "s08": ("cut", None),
    "s09": ("stall", None),
    "s10": ("bad event", None),
    "s11": ("no end mark", None),
    "s12": ("too long", None),
    "s13": ("against policy", None),
    "s14": ("cut", None),
    "s15": ("503", None),
    "s16": ("503", None),
}
"""Model -> its fault, and how many times it strikes (None: always; `s15`: while the outage lasts)."""

WHOLE_FAULTS = ("500", "429", "503", "reset", "silent", "cut", "bad event", "html")
STREAM_FAULTS = ("500", "429", "error event", "cut", "stall", "bad event", "no end mark")
"""The eight plain and the seven stream faults of the drill (RELIABILITY.md §10)."""
