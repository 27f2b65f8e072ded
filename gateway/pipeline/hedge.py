"""A slow first attempt gets a rival at another endpoint; the first to answer serves the call.

Never where an answer could act (tools), costs much more than it says (pictures, sound), or is billed to the
tenant by its own provider; never beyond the worker's hedge budget. The loser is cancelled and recorded.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from gateway.pipeline import estimate
from gateway.pipeline.attempt import Answer, StreamAnswer, close, serve
from gateway.pipeline.call import Call, Status
from gateway.pipeline.course import Course, Step
from gateway.state.process import Process
from routing.types import Conduct

UNHEDGED = frozenset(("tools", "vision", "audio"))
LOST = "hedge_lost"


class Start(Protocol):
    """Carries out a step."""

    def __call__(self, step: Step, *, is_hedge: bool = False) -> Coroutine[Any, Any, Answer]: ...


type Missed = Callable[[Step, Exception], None]
"""Is told of a step that failed while another is still running. Raises what must end the call at once."""


def delay_s(call: Call, conduct: Conduct, step: Step, process: Process) -> float | None:
    """How long a step may be silent before it gets a rival; None where it never does. A retry gets none."""
    after_ms: float | None = conduct.hedge_after_ms
    if after_ms is None or step.is_retry or step.target.is_own:
        return None
    if call.capabilities & UNHEDGED or call.body.get("store"):
        return None
    if after_ms == 0:
        seen = process.health.view.endpoints.get(step.target.endpoint_id)
        after_ms = seen.first_byte_p95_ms if seen else None
    return None if after_ms is None else after_ms / 1000


async def race(
    call: Call, course: Course, step: Step, after_s: float, process: Process, start: Start, missed: Missed
) -> Answer:
    """The first answer of `step` and the rival it gets after `after_s`. Raises what the last of them raised."""
    if not call.attempts:
        process.hedges.earn()
    running: dict[asyncio.Future[Answer], Step] = {asyncio.ensure_future(start(step)): step}
    patience_s: float | None = after_s
    try:
        while True:
            done, _ = await asyncio.wait(running, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                patience_s = None
                rival = course.rival(step)
                if rival is not None and not rival.is_own and process.hedges.spend():
                    hedge = course.take(rival)
                    running[asyncio.ensure_future(start(hedge, is_hedge=True))] = hedge
                continue
            runner = done.pop()
            its_step = running.pop(runner)
            error = runner.exception()
            if error is None:
                await _call_off(running)
                _book_losers(call, process)
                return _served(call, runner.result())
            if not running or not isinstance(error, Exception):
                raise error
            missed(its_step, error)
    finally:
        await _call_off(running)


async def _call_off(running: dict[asyncio.Future[Answer], Step]) -> None:
    """Stop who is still running, also one that answered in this very moment."""
    for runner in running:
        runner.cancel()
    for result in await asyncio.gather(*running, return_exceptions=True):
        if isinstance(result, StreamAnswer):
            close(result.attempt, Status.CANCELLED)
            await result.response.aclose()
    running.clear()


def _book_losers(call: Call, process: Process) -> None:
    """Their providers have read the request, and will charge for that at least."""
    for attempt in call.attempts:
        if attempt.status is Status.CANCELLED:
            attempt.error_type = LOST
            attempt.usage = attempt.usage or estimate.of_request(call, attempt, process.telemetry)


def _served(call: Call, answer: Answer) -> Answer:
    serve(call, answer.attempt)
    return answer
