"""Step five: carry an open stream to the client as it is made. A broken stream never looks like a finished one.

Whatever happens (end, cut, stall, client gone), the attempt is closed with what was really delivered.
"""

import asyncio
import time
from collections.abc import AsyncIterator

import orjson

from gateway.pipeline.call import Attempt, Call, Status
from gateway.pipeline.execute import StreamAnswer, advance, close, from_client
from gateway.pipeline.record import meter, record
from gateway.state.clients import ClientError
from gateway.state.process import Process
from routing.types import ErrorKind, ProviderError, StreamState, Usage
from tenants.errors import ApiError

CLIENT_LEFT = 499
DONE = b"data: [DONE]\n\n"


async def relay(call: Call, answer: StreamAnswer, process: Process) -> AsyncIterator[bytes]:
    """Server-sent events for the client. Closes and records the call when it ends, however it ends."""
    state = answer.state
    try:
        async with asyncio.timeout(call.started_s + call.timeout_s - time.monotonic()):
            while True:
                if answer.chunks:
                    yield frame(answer.chunks)
                    answer.chunks.clear()
                if state.done or not await advance(answer):
                    break
        if answer.chunks:
            yield frame(answer.chunks)
        if not (state.done or state.finish_reason):
            raise ProviderError(ErrorKind.INVALID_RESPONSE, "The provider's stream was cut off.")
        finish(call, answer, Status.OK, process)
        if call.include_usage:
            yield frame([usage_chunk(call, state)])
        yield DONE
    except (ProviderError, ClientError, TimeoutError) as failure:
        error = broken(failure)
        call.status, call.error_code, call.error_message = error.status, error.code, error.message
        answer.attempt.error_type = error.code
        finish(call, answer, Status.CUT, process)
        yield frame([orjson.dumps(error.body(call.id_text))])
    except (asyncio.CancelledError, GeneratorExit):
        call.status = CLIENT_LEFT
        finish(call, answer, Status.CANCELLED, process)
        raise
    finally:
        await answer.response.aclose()


def frame(chunks: list[bytes]) -> bytes:
    return b"data: " + b"\n\ndata: ".join(chunks) + b"\n\n"


def finish(call: Call, answer: StreamAnswer, status: Status, process: Process) -> None:
    """Close the attempt and the call; where the provider sent no count, estimate from what was delivered."""
    attempt, state = answer.attempt, answer.state
    if state.usage is not None and (status is Status.OK or state.done):
        attempt.usage = state.usage
    else:
        attempt.usage = estimate(call, attempt, state, process)
    close(attempt, status)
    call.finish_reason = state.finish_reason or ""
    call.response_model = state.served_model or attempt.target.provider_model
    call.ended_s = time.monotonic()
    if status is Status.OK:
        process.telemetry.succeeded(
            attempt.target.endpoint_id,
            first_byte_ms=attempt.first_byte_ms or 0,
            size_bytes=call.input_bytes,
            input_tokens=attempt.usage.input_tokens if attempt.usage.source == "provider" else 0,
        )
    record(call, process)


def estimate(call: Call, attempt: Attempt, state: StreamState, process: Process) -> Usage:
    """What a cut stream used: the provider's input count if it came first, else by size; output by events.

    Providers send about one token per event; where they send more, four bytes make a token.
    """
    told = state.usage.units if state.usage is not None else {}
    inputs = {name: count for name, count in told.items() if name not in ("output", "reasoning")}
    if not inputs:
        inputs = {"input": process.telemetry.input_tokens_in(call.input_bytes, attempt.target.endpoint_id)}
    output = max(state.content_events, -(-state.content_bytes // 4) if attempt.target.kind in DENSE else 0)
    return Usage({**inputs, "output": output} if output else inputs, "estimated")


DENSE = frozenset(("anthropic", "gemini"))
"""Dialects whose events carry several tokens each."""


def broken(failure: Exception) -> ApiError:
    """The error event that ends a stream after its first byte."""
    error = from_client(failure) if isinstance(failure, ClientError) else failure
    if isinstance(error, ProviderError):
        code = "provider_timeout" if error.kind is ErrorKind.TIMEOUT else "provider_invalid_response"
        return ApiError(code, f"The stream was interrupted: {error.message}")
    return ApiError("provider_timeout", "The stream ran out of time.")


def usage_chunk(call: Call, state: StreamState) -> bytes:
    """OpenAI's last chunk: the count, once, only if asked for; with the money beside it."""
    return orjson.dumps(
        {
            "id": state.id or call.id_text,
            "object": "text_completion" if call.operation == "completions" else "chat.completion.chunk",
            "created": state.created,
            "model": call.response_model,
            "choices": [],
            "usage": openai_usage(call),
        }
    )


def openai_usage(call: Call) -> dict[str, object]:
    """The final attempt's units in OpenAI's words, and `tollhouse`: what API.md promises for streams."""
    if call.caller is None:
        raise RuntimeError("an unauthenticated call has no usage")
    attempt = call.attempts[-1]
    if attempt.usage is None:
        meter(call, call.caller)
    usage = attempt.usage or Usage({}, "unknown")
    units = usage.units
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": units.get("cache_read", 0),
            "audio_tokens": units.get("input_audio", 0),
        },
        "completion_tokens_details": {
            "reasoning_tokens": units.get("reasoning", 0),
            "audio_tokens": units.get("output_audio", 0),
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
        "tollhouse": {
            "request_id": call.id_text,
            "provider": attempt.target.provider,
            "source": usage.source,
            "price": money(call.price_pico),
            "currency": call.caller.terms.currency,
        },
    }


def money(pico: int | None) -> str | None:
    """Pico-units as a decimal string of the major unit, exactly; None stays None (unpriced)."""
    if pico is None:
        return None
    sign, pico = ("-", -pico) if pico < 0 else ("", pico)
    return f"{sign}{pico // 10**12}.{pico % 10**12:012d}"
