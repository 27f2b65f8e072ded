"""Step five: carry an open stream to the client as it is made. A broken stream never looks like a finished one.

Whatever happens (end, cut, stall, client gone), the attempt is closed with what was really delivered.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import orjson

from billing.rating.money import amount_text
from gateway.pipeline import estimate
from gateway.pipeline.attempt import (
    StreamAnswer,
    advance,
    close,
    cut_off,
    from_client,
    is_whole,
    serve,
    settle,
)
from gateway.pipeline.call import Call, Status
from gateway.pipeline.execute import Journey
from gateway.pipeline.guard import Blocked, watched
from gateway.pipeline.record import observe, record
from gateway.pipeline.recover import KEEP_ALIVE, mended
from gateway.pipeline.verdict import broken
from gateway.state.clients import ClientError
from gateway.state.process import Process
from routing.types import ProviderError, Recovery, Usage
from tenants.errors import ApiError, shutting_down

logger = logging.getLogger(__name__)

CLIENT_LEFT = 499
DONE = b"data: [DONE]\n\n"


async def relay(call: Call, answer: StreamAnswer, process: Process) -> AsyncGenerator[bytes]:
    """Server-sent events for the client. Closes and records the call when it ends, however it ends.

    The first piece is at hand: whoever takes the iterator must take that piece at once, for only a running
    generator can see to its own end.
    """
    try:
        async with asyncio.timeout(call.started_s + call.timeout_s - time.monotonic()):
            async with aclosing(chunks_of(call, answer, process)) as pieces:
                async for chunks in pieces:
                    yield shown(call, chunks) if chunks else KEEP_ALIVE
        if not is_whole(answer.state):
            raise cut_off()
        finish(call, answer, Status.OK, process)
        if call.include_usage:
            yield frame([usage_chunk(call, answer)])
        yield DONE
    except GeneratorExit:
        finish(call, answer, Status.CANCELLED, process, status=CLIENT_LEFT)
        raise
    except asyncio.CancelledError:
        if not process.is_draining:
            finish(call, answer, Status.CANCELLED, process, status=CLIENT_LEFT)
            raise
        yield cut(call, answer, shutting_down(), process)
    except Blocked as failure:
        yield blocked(call, answer, failure, process)
    except (ProviderError, ClientError) as failure:
        blame(answer, failure, process)
        yield cut(call, answer, broken(failure), process)
    except (ApiError, TimeoutError) as failure:
        yield cut(call, answer, broken(failure), process)
    except Exception:
        # A mistake of ours, in a dialect for example: it must be seen, and the stream must not look finished.
        logger.exception("the stream of %s failed", call.id_text)
        yield cut(call, answer, ApiError("internal_error", "An internal error."), process)
    finally:
        await answer.response.aclose()


def chunks_of(call: Call, answer: StreamAnswer, process: Process) -> AsyncGenerator[list[bytes]]:
    """The answer's chunks as they may be shown; an empty list where the client needs a sign of life."""
    plan, course = call.plan, call.course
    if plan is None or course is None or plan.conduct.recovery is Recovery.END:
        chunks = as_they_come(answer)
    else:
        chunks = mended(Journey(call, plan, course, process), answer)
    if call.privacy is not None and call.privacy.rules.after:
        chunks = watched(call, call.privacy, answer, chunks, process)
    return chunks


async def as_they_come(answer: StreamAnswer) -> AsyncGenerator[list[bytes]]:
    try:
        while True:
            if answer.chunks:
                yield answer.chunks
                answer.chunks.clear()
            if answer.state.done or not await advance(answer):
                break
    except ClientError:
        if not is_whole(answer.state):  # else only the farewell is lost
            raise
    if answer.chunks:
        yield answer.chunks


def shown(call: Call, chunks: list[bytes]) -> bytes:
    """Chunks on their way to the client; stored content gets them as the provider made them."""
    if call.kept is not None:
        call.kept.add(chunks)
    return frame(chunks)


def frame(chunks: list[bytes]) -> bytes:
    return b"data: " + b"\n\ndata: ".join(chunks) + b"\n\n"


# ------------------------------------------------------------------ ends


def cut(call: Call, answer: StreamAnswer, error: ApiError, process: Process) -> bytes:
    """Close the call as cut, or as failed where nothing was shown; the event that says so to the client."""
    if not call.is_recorded:  # else the client has its whole answer, and only the goodbye failed
        call.error_code, call.error_message = error.code, error.message
        if is_open(answer):
            answer.attempt.error_type = error.code
        how = Status.ERROR if answer.is_held else Status.CUT
        finish(call, answer, how, process, status=error.status)
    return frame([orjson.dumps(error.body(call.id_text))])


def blocked(call: Call, answer: StreamAnswer, error: Blocked, process: Process) -> bytes:
    """A guardrail holds the answer back, or the rest of it: the provider's work is metered, and is charged."""
    call.error_code, call.error_message = error.code, error.message
    how = Status.OK if is_whole(answer.state) else Status.CUT
    finish(call, answer, how, process, status=error.status)
    return frame([orjson.dumps(error.body(call.id_text))])


def blame(answer: StreamAnswer, failure: ProviderError | ClientError, process: Process) -> None:
    """A stream that broke is its endpoint's failure, also after the first byte."""
    if is_open(answer):
        error = from_client(failure) if isinstance(failure, ClientError) else failure
        waited_ms = round((time.monotonic() - answer.attempt.started_s) * 1000)
        process.health.failed(answer.attempt.target, error, waited_ms=waited_ms)


def is_open(answer: StreamAnswer) -> bool:
    """Whether the attempt is still to be closed: what recovery gave up on is closed already."""
    return answer.attempt.status is Status.UNKNOWN


def finish(
    call: Call, answer: StreamAnswer, how: Status, process: Process, *, status: int | None = None
) -> None:
    """Close the attempt and the call; where the provider sent no count, estimate from what was delivered."""
    if call.is_recorded:
        return
    attempt, state = answer.attempt, answer.state
    if status is not None:
        call.status = status
    if is_open(answer):
        if state.usage is not None and (how is Status.OK or state.done):
            attempt.usage = state.usage
        else:
            attempt.usage = estimate.of_stream(call, attempt, state, process.telemetry)
        close(attempt, how)
        settle(attempt, process)
    if attempt.status is not Status.ERROR:
        serve(call, attempt)  # what the client has seen of the answer came from here
    call.finish_reason = state.finish_reason or ""
    call.response_model = state.served_model or attempt.target.provider_model
    call.ended_s = time.monotonic()
    if how is Status.OK:
        observe(call, attempt, process)
    else:
        process.health.abandoned(attempt.target)
    record(call, process)


# ------------------------------------------------------------------ the last chunk


def usage_chunk(call: Call, answer: StreamAnswer) -> bytes:
    """OpenAI's last chunk: the count, once, only if asked for; with the money beside it."""
    state = answer.state
    return orjson.dumps(
        {
            "id": answer.id or state.id or call.id_text,
            "object": "text_completion" if call.operation == "completions" else "chat.completion.chunk",
            "created": state.created,
            "model": call.response_model,
            "choices": [],
            "usage": openai_usage(call, answer.recovered),
        }
    )


def openai_usage(call: Call, recovered: Recovery | None = None) -> dict[str, object]:
    """The final attempt's units in OpenAI's words, and `tollhouse`: what API.md promises for streams.

    Headers left before a stream could break: who made the answer in the end, and how often it was tried, is
    told here.
    """
    if call.caller is None:
        raise RuntimeError("an unauthenticated call has no usage")
    attempt = call.attempts[-1]
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
            "attempts": len(call.attempts),
            "recovery": RECOVERIES[recovered],
            "source": usage.source,
            "redacted": sum(call.privacy.counts.values()) if call.privacy is not None else 0,
            "price": None if call.price_pico is None else amount_text(call.price_pico),
            "currency": call.caller.terms.currency,
        },
    }


RECOVERIES = {None: None, Recovery.BUFFERED: "restarted", Recovery.CONTINUE: "continued"}
"""What is said of a stream that broke and was saved."""
