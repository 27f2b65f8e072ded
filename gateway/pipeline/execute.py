"""Step four: try the plan's targets in order until one answers. Every try is an attempt of its own.

For a stream, "answers" means that something a client would show has arrived: until then a failure is
invisible and the next target takes over. A target that stayed silent is not tried twice.
"""

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import Protocol

from gateway.pipeline import estimate
from gateway.pipeline.admit import reopen
from gateway.pipeline.call import Attempt, Call, Status
from gateway.state.clients import (
    ClientConnectError,
    ClientCut,
    ClientError,
    ClientProtocolError,
    ClientReset,
    ClientTimeout,
    ClientTooLarge,
    WholeResponse,
)
from gateway.state.process import Process
from routing.providers.adapters import adapter_for
from routing.providers.sse import EventTooLarge, SSEParser
from routing.types import (
    Adapter,
    Disposition,
    ErrorKind,
    Json,
    ProviderError,
    Reply,
    RoutePlan,
    StreamState,
    Target,
    UnsupportedParameter,
    Usage,
    WireRequest,
)
from tenants.errors import ApiError

MAX_ERROR_BODY_BYTES = 64 * 1024
REASONING_PATIENCE = 6
"""How many times longer a model that thinks before it speaks may stay silent."""


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


type Answer = WholeAnswer | StreamAnswer


async def execute(call: Call, plan: RoutePlan, process: Process) -> Answer:
    """The first answer. Raises ApiError when every target failed or the request itself is at fault."""
    deadline = call.started_s + call.timeout_s
    opened_for = plan.targets[0].target
    unsupported: UnsupportedParameter | None = None
    for ranked in plan.targets:
        target = ranked.target
        for is_retry in (False, True):
            if len(call.attempts) >= plan.conduct.max_attempts or time.monotonic() >= deadline:
                raise exhausted(call)
            if call.attempts or target is not opened_for:
                reopen(call, target, process)
            try:
                return await _attempt(call, target, process, deadline)
            except UnsupportedParameter as refused:
                unsupported = refused
                call.skipped.append(
                    {"provider": target.provider, "model": target.model, "reason": str(refused)}
                )
                break
            except ProviderError as error:
                if error.disposition is Disposition.GIVE_UP:
                    raise refusal(error) from error
                if is_retry or error.disposition is not Disposition.RETRY_SAME:
                    break
            await asyncio.sleep(random.uniform(0.05, 0.15))  # noqa: S311 - jitter
    if unsupported is not None and not call.attempts:
        raise ApiError("unsupported_parameter", str(unsupported), param=unsupported.param)
    raise exhausted(call)


async def _attempt(call: Call, target: Target, process: Process, deadline: float) -> Answer:
    """One try. Fills in its Attempt whatever happens; raises ProviderError or UnsupportedParameter."""
    adapter = adapter_for(target.kind)
    wire = adapter.build_request(call.operation, _body_for(call), target, stream=call.is_stream)
    attempt = Attempt(len(call.attempts) + 1, target, time.monotonic())
    call.attempts.append(attempt)
    remaining_s = deadline - attempt.started_s
    try:
        if call.is_stream:
            return await _open_stream(call, attempt, adapter, wire, process, remaining_s)
        return await _fetch(call, attempt, adapter, wire, process, remaining_s)
    except ClientError as failure:
        error = from_client(failure)
    except ProviderError as provider_error:
        error = provider_error
    except asyncio.CancelledError:
        close(attempt, Status.CANCELLED)
        raise
    fail(attempt, error)
    process.health.failed(target, error, waited_ms=attempt.latency_ms)
    raise error


async def _fetch(
    call: Call, attempt: Attempt, adapter: Adapter, wire: WireRequest, process: Process, remaining_s: float
) -> WholeAnswer:
    limit_s = min(attempt.target.total_timeout_s, remaining_s)
    response: WholeResponse = await process.transport(attempt.target.kind).send(
        wire, first_byte_timeout_s=limit_s, total_timeout_s=limit_s
    )
    attempt.http_status, attempt.headers = response.status, response.headers
    if response.status >= 300:
        raise adapter.classify_error(response.status, response.headers, response.body)
    reply = adapter.parse_reply(call.operation, call.body, response.body, attempt.target)
    attempt.usage = reply.usage or estimate.of_reply(call, attempt, reply, process.telemetry)
    close(attempt, Status.OK)
    attempt.first_byte_ms = attempt.latency_ms
    return WholeAnswer(attempt, reply)


async def _open_stream(
    call: Call, attempt: Attempt, adapter: Adapter, wire: WireRequest, process: Process, remaining_s: float
) -> StreamAnswer:
    target = attempt.target
    patience_s = target.first_byte_timeout_s * (
        REASONING_PATIENCE if "reasoning" in target.capabilities else 1
    )
    first_byte_s = min(patience_s, remaining_s)
    response: ResponseStream = await process.transport(target.kind).open(
        wire, first_byte_timeout_s=first_byte_s, stall_timeout_s=target.stall_timeout_s
    )
    attempt.http_status, attempt.headers = response.status, response.headers
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


# ------------------------------------------------------------------ outcomes


def _body_for(call: Call) -> Json:
    """The caller's body; under a hard budget with the output ceiling that was reserved for it."""
    if call.output_cap is None:
        return call.body
    return {**call.body, "max_completion_tokens": call.output_cap}


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


def elapsed_ms(since_s: float) -> int:
    return round((time.monotonic() - since_s) * 1000)


def from_client(failure: ClientError) -> ProviderError:
    match failure:
        case ClientTimeout():
            return ProviderError(ErrorKind.TIMEOUT, f"The provider did not answer in time ({failure.phase}).")
        case ClientConnectError():
            return ProviderError(ErrorKind.CONNECTION, f"No connection to the provider ({failure.reason}).")
        case ClientReset():
            return ProviderError(ErrorKind.CONNECTION, "The provider closed the connection.")
        case ClientCut():
            return ProviderError(ErrorKind.INVALID_RESPONSE, "The provider's answer was cut off.")
        case ClientTooLarge() | ClientProtocolError():
            return ProviderError(ErrorKind.INVALID_RESPONSE, "The provider's answer cannot be used.")
    return ProviderError(ErrorKind.CONNECTION, "The provider could not be reached.")


def _not_a_stream(adapter: Adapter, body: bytes) -> ProviderError:
    """A 200 that is no event stream: an error object in disguise, or something else entirely."""
    if body.lstrip().startswith(b"{"):
        error = adapter.classify_error(200, {}, body)
        if error.kind is not ErrorKind.INVALID_REQUEST:
            return error
    return ProviderError(ErrorKind.INVALID_RESPONSE, "The provider answered a stream with something else.")


def refusal(error: ProviderError) -> ApiError:
    """The caller's own fault, in the provider's words."""
    code = {
        ErrorKind.CONTENT_POLICY: "content_policy_violation",
        ErrorKind.CONTEXT_LENGTH: "context_length_exceeded",
    }.get(error.kind, "invalid_request")
    return ApiError(code, error.message, param=error.param)


def exhausted(call: Call) -> ApiError:
    """Every target failed: the error that tells the caller best what to do now."""
    kinds = {attempt.error_type for attempt in call.attempts}
    if ErrorKind.CONTEXT_LENGTH in kinds:
        return ApiError(
            "context_length_exceeded", "The request is too long for every model that could serve it."
        )
    if kinds and kinds <= {ErrorKind.RATE_LIMITED, ErrorKind.OVERLOADED}:
        waits = [attempt.retry_after_s for attempt in call.attempts if attempt.retry_after_s is not None]
        return ApiError(
            "provider_overloaded", "Every provider is at its limit.", retry_after_s=min(waits, default=5)
        )
    last = call.attempts[-1].error_type if call.attempts else ErrorKind.TIMEOUT
    if last == ErrorKind.TIMEOUT:
        return ApiError("provider_timeout", "No provider answered in time.")
    if last == ErrorKind.INVALID_RESPONSE:
        return ApiError("provider_invalid_response", "No provider gave a usable answer.")
    return ApiError("provider_unavailable", "No provider could serve the request.")
