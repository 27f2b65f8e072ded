"""What becomes of a stream that breaks after its first content, as the policy has it (`Conduct.recovery`).

`buffered` holds the newest part back, so that a break inside it restarts unseen; `continue` lets another
target go on from the text that was shown. Neither may show a text twice, or end a broken answer as a whole one.
"""

import asyncio
import math
import random
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace

import orjson

from gateway.pipeline import estimate
from gateway.pipeline.attempt import StreamAnswer, advance, close, cut_off, from_client, is_whole, settle
from gateway.pipeline.call import Status
from gateway.pipeline.execute import Journey
from gateway.state.clients import ClientError
from routing.providers.continuation import Continuation, can_continue
from routing.types import ErrorKind, ProviderError, Recovery
from tenants.errors import ApiError

KEEP_ALIVE = b": still at work\n\n"
KEEP_ALIVE_S = 2.0
MAX_HELD_BYTES = 16 * 1024 * 1024
UNSTITCHABLE = ("tool_calls", "function_call", "audio", "refusal")
"""Parts of a delta of which half is worth nothing to another model."""


async def mended(journey: Journey, answer: StreamAnswer) -> AsyncGenerator[list[bytes]]:
    """The answer's chunks as they may be shown; an empty list where the client needs a sign of life.

    Raises what the stream must end in: ProviderError, ClientError or ApiError.
    """
    mender = Mender(journey, answer)
    while True:
        coming = asyncio.ensure_future(mender.next())
        try:
            while not (await asyncio.wait((coming,), timeout=KEEP_ALIVE_S))[0]:
                yield []
            chunks = coming.result()
        finally:
            if not coming.done():
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)
        if not chunks:
            return
        yield chunks


@dataclass(slots=True)
class Shown:
    """What the client has seen of the answer."""

    id: str = ""
    created: int = 0
    is_anything: bool = False
    is_text: bool = True  # nothing but the text of one choice
    texts: list[str] = field(default_factory=list)
    is_space_doubled: bool = False  # what comes next begins with the white space that was shown last

    def note(self, chunk: bytes) -> None:
        document = orjson.loads(chunk)
        if not self.is_anything:
            self.id, self.created, self.is_anything = document["id"], document["created"], True
        for choice in document["choices"]:
            delta = choice.get("delta") or {}
            if choice["index"] or any(delta.get(name) for name in UNSTITCHABLE):
                self.is_text = False
            if text := choice["text"] if "text" in choice else delta.get("content"):
                self.texts.append(text)

    def stitch(self, chunk: bytes) -> bytes | None:
        """A later target's chunk as part of the same answer; None where nothing of it is left to show."""
        document = orjson.loads(chunk)
        document["id"], document["created"] = self.id, self.created
        is_empty = not document.get("usage")
        for choice in document["choices"]:
            part, name = (choice, "text") if "text" in choice else (choice.setdefault("delta", {}), "content")
            part.pop("role", None)
            if self.is_space_doubled and part.get(name):
                part[name] = part[name].lstrip()
                self.is_space_doubled = False
            is_empty &= not any(part[each] for each in part if each != "index")
            is_empty &= not choice.get("finish_reason")
        return None if is_empty else orjson.dumps(document)


class Mender:
    """One client's stream, whoever of its targets makes it."""

    def __init__(self, journey: Journey, answer: StreamAnswer) -> None:
        self._journey, self._answer = journey, answer
        conduct = journey.plan.conduct
        held_back = math.inf if conduct.hold_back_tokens is None else conduct.hold_back_tokens
        self._window = held_back if conduct.recovery is Recovery.BUFFERED else 0
        self._answer.is_held = self._window > 0
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._shown = Shown()
        self._failure: ProviderError | None = None  # what broke, while chunks that came before it are shown
        self._is_over = False

    async def next(self) -> list[bytes]:
        """The chunks to show next, none at the answer's end."""
        while True:
            if ready := self._release(keep=0 if self._is_over else self._window):
                return ready
            if self._is_over:
                return []
            if self._failure is not None:
                await self._mend(self._failure)
            else:
                self._failure = await self._read()

    async def _read(self) -> ProviderError | None:
        """Read once; what broke, if anything did."""
        answer = self._answer
        failure: ProviderError | None = None
        try:
            # What `execute` has read comes first.
            is_open = bool(answer.chunks) or (not answer.state.done and await advance(answer))
        except ClientError as error:
            is_open = False
            failure = None if is_whole(answer.state) else from_client(error)  # else only the farewell is lost
        except ProviderError as error:
            is_open, failure = False, error
        self._hold(answer.chunks)
        answer.chunks.clear()
        if self._held_bytes > MAX_HELD_BYTES:
            return ProviderError(
                ErrorKind.INVALID_RESPONSE, "The provider's answer is too long to hold back."
            )
        if is_open or failure is not None:
            return failure
        self._is_over = is_whole(answer.state)
        return None if self._is_over else cut_off()

    def _hold(self, chunks: list[bytes]) -> None:
        for chunk in chunks:
            held = self._shown.stitch(chunk) if self._shown.is_anything and self._answer.recovered else chunk
            if held is not None:
                self._held.append(held)
                self._held_bytes += len(held)

    def _release(self, *, keep: float) -> list[bytes]:
        """All that is held but the newest `keep` chunks. A provider sends a token or more in each."""
        if len(self._held) <= keep:
            return []
        count = len(self._held) - int(keep)
        ready = self._held[:count]
        del self._held[:count]
        self._held_bytes -= sum(map(len, ready))
        self._answer.is_held = False
        if not self._is_over:
            for chunk in ready:
                self._shown.note(chunk)
        return ready

    async def _mend(self, error: ProviderError) -> None:
        """Put another target's answer in place of the broken one. Raises `error` where that cannot be."""
        call, answer, shown = self._journey.call, self._answer, self._shown
        await answer.response.aclose()
        self._book(error)
        if shown.is_anything and not (shown.is_text and can_continue(call.operation, call.body)):
            raise error
        text = "".join(shown.texts)
        tokens = max(len(shown.texts), len(text) // estimate.BYTES_PER_TOKEN)
        continuation = Continuation(call.operation, text, tokens) if text else None
        try:
            successor = await replace(self._journey, text=continuation).answer()
        except ApiError as nobody:
            raise (error if shown.is_anything else nobody) from nobody
        if not isinstance(successor, StreamAnswer):
            raise TypeError(successor)
        self._held.clear()
        self._held_bytes = 0
        self._failure = None
        answer.id = shown.id
        shown.is_space_doubled = continuation is not None and continuation.doubles_space(
            successor.attempt.target
        )
        answer.go_on_with(successor, Recovery.CONTINUE if shown.is_anything else Recovery.BUFFERED)

    def _book(self, error: ProviderError) -> None:
        """Close the broken attempt with what it used: as cut, if a client has seen of it."""
        attempt, process = self._answer.attempt, self._journey.process
        attempt.error_type = error.kind
        attempt.usage = estimate.of_stream(self._journey.call, attempt, self._answer.state, process.telemetry)
        close(attempt, Status.CUT if self._shown.is_anything else Status.ERROR)
        settle(attempt, process)
        process.health.failed(attempt.target, error, waited_ms=attempt.latency_ms)
        draw = random.random()  # noqa: S311 - jitter
        self._journey.course.failed(attempt.target, error, now_s=time.monotonic(), draw=draw)
