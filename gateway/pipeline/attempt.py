"""One attempt at one target: send, read up to the first content, and fill in what became of it.

An attempt is closed exactly once, whatever happens, and its upstream connection with it; it never decides what
comes next.
"""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Protocol

from gateway.pipeline import estimate
from gateway.pipeline.admit import expected_output
from gateway.pipeline.call import Attempt, Call, Status
from gateway.state.clients import (
    ClientConnectError,
    ClientCut,
    ClientError,
    ClientProtocolError,
    ClientReset,
    ClientTimeout,
    ClientTooLarge,
    HttpClient,
    WholeResponse,
)
from gateway.state.pace import Slot
from gateway.state.process import Process
from gateway.state.sandbox import SandboxClient
from routing.providers.adapters import adapter_for
from routing.providers.sse import EventTooLarge, SSEParser
from routing.types import (
    Adapter,
    ErrorKind,
    ProviderError,
    Recovery,
    Reply,
    StreamState,
    Target,
    Usage,
    WireRequest,
)

MAX_ERROR_BODY_BYTES = 64 * 1024
REASONING_PATIENCE = 6
"""How many times longer a model that thinks before it speaks may stay silent."""
SLOWEST_TOKENS_PER_S = 20
"""A whole answer shows nothing until it is there: it is taken for silent when a model this slow had ended."""


class ResponseStream(Protocol):
    """A streamed provider response; HttpClient and SandboxClient both give one."""

    status: int
    headers: dict[str, str]

    async def read(self) -> bytes: ...
    async def read_all(self, limit: int) -> bytes: ...
    async def aclose(self) -> None: ...


@dataclass(slots=True)
class WholeAnswer:
    attempt: Attempt
    reply: Reply


@dataclass(slots=True)
class StreamAnswer:
    """An open upstream stream whose first content is in `chunks` (OpenAI chunk payloads)."""

    attempt: Attempt
    adapter: Adapter
    response: ResponseStream
    parser: SSEParser
    state: StreamState
    chunks: list[bytes] = field(default_factory=list)

    recovered: Recovery | None = None  # how the client's stream was saved, if it broke
    is_held: bool = False  # nothing of it was shown yet
    id: str = ""  # by which the client knows the answer, where the stream behind it has another

    def go_on_with(self, other: "StreamAnswer", how: Recovery) -> None:
        """Become `other`: the stream behind it broke, and this one takes its place before the client's eyes."""
        self.attempt, self.adapter, self.response = other.attempt, other.adapter, other.response
        self.parser, self.state, self.chunks = other.parser, other.state, other.chunks
        self.recovered = how


type Answer = WholeAnswer | StreamAnswer


def open_attempt(call: Call, target: Target, slot: Slot | None, *, is_hedge: bool) -> Attempt:
    """An attempt of the call; `slot` is its place in the provider's rate limit."""
    attempt = Attempt(len(call.attempts) + 1, target, time.monotonic(), is_hedge=is_hedge, slot=slot)
    call.attempts.append(attempt)
    return attempt


async def carry_out(
    call: Call, attempt: Attempt, wire: WireRequest, process: Process, *, deadline_s: float, is_last: bool
) -> Answer:
    """Send the attempt's request and read up to the first content. Raises ProviderError.

    `is_last`: no other target is left, so that a slow one may take all the time there is.
    """
    target = attempt.target
    adapter = adapter_for(target.kind)
    remaining_s = deadline_s - attempt.started_s
    process.health.begin(target)
    try:
        if call.is_stream:
            return await _open_stream(call, attempt, adapter, wire, process, remaining_s)
        limit_s = remaining_s if is_last else min(remaining_s, _patience_s(call, target))
        return await _fetch(call, attempt, adapter, wire, process, limit_s)
    except ClientConnectError as failure:
        error = from_client(failure)
        if attempt.slot is not None:
            process.pace.give_back(attempt.slot)
    except ClientError as failure:
        error = from_client(failure)
    except ProviderError as provider_error:
        error = provider_error
        if error.kind is ErrorKind.RATE_LIMITED and error.retry_after_s is not None:
            # Gemini says it in the body, where its headers say nothing.
            process.pace.learn(target, 429, {}, retry_after_s=error.retry_after_s)
    except asyncio.CancelledError:
        close(attempt, Status.CANCELLED)
        process.health.abandoned(target)
        raise
    fail(attempt, error)
    process.health.failed(target, error, waited_ms=attempt.latency_ms)
    raise error


async def _fetch(
    call: Call, attempt: Attempt, adapter: Adapter, wire: WireRequest, process: Process, limit_s: float
) -> WholeAnswer:
    limit_s = min(attempt.target.total_timeout_s, limit_s)
    response: WholeResponse = await _client(call, attempt.target, process).send(
        wire, first_byte_timeout_s=limit_s, total_timeout_s=limit_s
    )
    _heed(attempt, response.status, response.headers, process)
    if response.status >= 300:
        raise adapter.classify_error(response.status, response.headers, response.body)
    reply = adapter.parse_reply(call.operation, call.body, response.body, attempt.target)
    attempt.usage = reply.usage or estimate.of_reply(call, attempt, reply, process.telemetry)
    close(attempt, Status.OK)
    attempt.first_byte_ms = attempt.latency_ms
    settle(attempt, process)
    return WholeAnswer(attempt, reply)


async def _open_stream(
    call: Call, attempt: Attempt, adapter: Adapter, wire: WireRequest, process: Process, remaining_s: float
) -> StreamAnswer:
    target = attempt.target
    first_byte_s = min(_silence_s(target), remaining_s)
    response: ResponseStream = await _client(call, target, process).open(
        wire, first_byte_timeout_s=first_byte_s, stall_timeout_s=target.stall_timeout_s
    )
    _heed(attempt, response.status, response.headers, process)
    try:
        async with asyncio.timeout(first_byte_s - (time.monotonic() - attempt.started_s)):
            if response.status >= 300:
                body = await response.read_all(MAX_ERROR_BODY_BYTES)
                raise adapter.classify_error(response.status, response.headers, body)
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                body = await response.read_all(MAX_ERROR_BODY_BYTES)
                raise _not_a_stream(adapter, body)
            answer = await _until_content(call, attempt, adapter, response)
    except TimeoutError:
        await response.aclose()
        raise ClientTimeout("first_byte") from None
    except BaseException:  # whatever it is, cancellation above all: the upstream must stop working for us
        await response.aclose()
        raise
    attempt.first_byte_ms = elapsed_ms(attempt.started_s)
    return answer


async def _until_content(
    call: Call, attempt: Attempt, adapter: Adapter, response: ResponseStream
) -> StreamAnswer:
    state = StreamState(model=attempt.target.model, include_usage=False, created=int(call.occurred_at))
    answer = StreamAnswer(attempt, adapter, response, SSEParser(), state)
    while not state.content_events and not state.done:
        if not await advance(answer):
            break
    if not state.content_events and not (state.done or state.finish_reason):
        raise ProviderError(ErrorKind.INVALID_RESPONSE, "The provider's stream ended before it began.")
    return answer


async def advance(answer: StreamAnswer) -> bool:
    """Read once and turn what came into chunks. False at the end of the body.

    Raises ProviderError for an error event, ClientError for a cut, a stall or an oversized event.
    """
    data = await answer.response.read()
    try:
        events = answer.parser.feed(data) if data else answer.parser.rest()
    except EventTooLarge:
        raise ClientTooLarge("body") from None
    parse_event, state, chunks = answer.adapter.parse_event, answer.state, answer.chunks
    for name, payload in events:
        chunks.extend(parse_event(name, payload, state))
    if state.error is not None:
        raise state.error
    if state.malformed > 3:
        raise ProviderError(ErrorKind.INVALID_RESPONSE, "The provider's stream is malformed.")
    return bool(data)


# ------------------------------------------------------------------ how long, and through which door


def _silence_s(target: Target) -> float:
    """How long a stream may take to its first content."""
    return target.first_byte_timeout_s * (REASONING_PATIENCE if "reasoning" in target.capabilities else 1)


def _patience_s(call: Call, target: Target) -> float:
    """How long a whole answer may take while another target could be asked instead."""
    return _silence_s(target) + (call.output_limit or expected_output(call)) / SLOWEST_TOKENS_PER_S


def _client(call: Call, target: Target, process: Process) -> HttpClient | SandboxClient:
    """The client that may connect there: an address from a tenant is judged at every connection."""
    usual = process.transport(target.kind)
    if not target.is_own or call.caller is None or usual is process.sandbox:  # which goes nowhere
        return usual
    own = process.snapshot.routing.own.get((call.caller.tenant.id, target.provider), ())
    is_operators = any(each.credential_id == target.credential_id and not each.base_url for each in own)
    return usual if is_operators else process.guarded


# ------------------------------------------------------------------ outcomes


def _heed(attempt: Attempt, status: int, headers: dict[str, str], process: Process) -> None:
    attempt.http_status, attempt.headers = status, headers
    process.pace.learn(attempt.target, status, headers, waited_ms=elapsed_ms(attempt.started_s))


def settle(attempt: Attempt, process: Process) -> None:
    """Count in the provider's rate limit what the attempt really took."""
    if attempt.slot is not None and attempt.usage is not None:
        usage = attempt.usage
        process.pace.settle(
            attempt.slot,
            tokens=usage.input_tokens + usage.output_tokens,
            output_tokens=usage.output_tokens,
        )


def close(attempt: Attempt, status: Status) -> None:
    attempt.status = status
    attempt.latency_ms = elapsed_ms(attempt.started_s)


def fail(attempt: Attempt, error: ProviderError) -> None:
    """An attempt that showed nothing. Providers bill no error answers; of a silent one nobody knows."""
    close(attempt, Status.ERROR)
    attempt.error_type = error.kind
    attempt.http_status = attempt.http_status or error.status
    attempt.retry_after_s = error.retry_after_s
    unknown = error.kind in (ErrorKind.TIMEOUT, ErrorKind.INVALID_RESPONSE) or attempt.http_status == 200
    attempt.usage = Usage({}, "unknown" if unknown else "provider")


def serve(call: Call, attempt: Attempt) -> None:
    """This attempt serves the call: it stands last, for the last one is what the tenant is told and pays."""
    if call.attempts[-1] is not attempt:
        call.attempts.remove(attempt)
        call.attempts.append(attempt)


def is_whole(state: StreamState) -> bool:
    """Whether a stream has told its end: by its mark, or by the reason why every choice ended."""
    return state.done or (state.finish_reason is not None and not state.scratch.get("unfinished"))


def elapsed_ms(since_s: float) -> int:
    return round((time.monotonic() - since_s) * 1000)


def from_client(failure: ClientError) -> ProviderError:
    match failure:
        case ClientTimeout():
            return ProviderError(
                ErrorKind.TIMEOUT,
                f"The provider did not answer in time ({failure.phase}).",
                code=failure.phase,
            )
        case ClientConnectError():
            return ProviderError(
                ErrorKind.CONNECTION,
                f"No connection to the provider ({failure.reason}).",
                code=failure.reason,
            )
        case ClientReset():
            return ProviderError(ErrorKind.CONNECTION, "The provider closed the connection.")
        case ClientCut():
            return ProviderError(ErrorKind.INVALID_RESPONSE, "The provider's answer was cut off.")
        case ClientTooLarge() | ClientProtocolError():
            return ProviderError(ErrorKind.INVALID_RESPONSE, "The provider's answer cannot be used.")
    return ProviderError(ErrorKind.CONNECTION, "The provider could not be reached.")


def cut_off() -> ProviderError:
    """A stream that ended without telling its end."""
    return ProviderError(ErrorKind.INVALID_RESPONSE, "The provider's stream was cut off.")


def _not_a_stream(adapter: Adapter, body: bytes) -> ProviderError:
    """A 200 that is no event stream: an error object in disguise, or something else entirely."""
    if body.lstrip().startswith(b"{"):
        error = adapter.classify_error(200, {}, body)
        if error.kind is not ErrorKind.INVALID_REQUEST:
            return error
    return ProviderError(ErrorKind.INVALID_RESPONSE, "The provider answered a stream with something else.")
