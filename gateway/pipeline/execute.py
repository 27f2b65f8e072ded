"""Step four: attempts, one after the other, until a target answers. Every attempt has a record of its own.

For a stream, "answers" means that something a client would show has arrived: until then a failure is
invisible, and the course (`pipeline.course`) says what comes next. What breaks later is for `pipeline.recover`.
"""

import asyncio
import random
import time
from functools import partial

from gateway.pipeline import hedge
from gateway.pipeline.admit import expected_output, reopen
from gateway.pipeline.attempt import Answer, carry_out, open_attempt
from gateway.pipeline.call import Call
from gateway.pipeline.course import Course, Step
from gateway.pipeline.verdict import exhausted, refusal
from gateway.state.pace import DEFAULT_PRIORITY, Saturated, Slot, priority_of
from gateway.state.process import Process
from routing.policies.split import applied
from routing.providers.adapters import adapter_for
from routing.providers.continuation import Continuation
from routing.types import Disposition, ErrorKind, Json, ProviderError, RoutePlan, Target, UnsupportedParameter

RETRY_BUDGET_S = 0.25
"""How long a retry waits that would exceed the provider's retry budget; other targets come before it."""


async def execute(call: Call, plan: RoutePlan, process: Process) -> Answer:
    """The first answer. Raises ApiError when every target failed or the request itself is at fault."""
    call.course = Course(
        [ranked.target for ranked in plan.targets],
        max_attempts=plan.conduct.max_attempts,
        deadline_s=call.started_s + call.timeout_s,
    )
    return await proceed(call, plan, call.course, process)


async def proceed(
    call: Call, plan: RoutePlan, course: Course, process: Process, *, text: Continuation | None = None
) -> Answer:
    """The next answer on this course: to the whole request, or going on from a text that was shown.

    Raises ApiError when nothing is left to try.
    """
    start = partial(_attempt, call, plan, course, process, text)
    missed = partial(_missed, call, course, text)
    while (step := course.next(time.monotonic())) is not None:
        if step.wait_s:
            await asyncio.sleep(step.wait_s)
        if step.is_retry and not process.retries.allows(step.target.provider):
            course.postponed(step.target, RETRY_BUDGET_S, now_s=time.monotonic())
            continue
        hedge_s = hedge.delay_s(call, plan.conduct, step.target, process)
        try:
            if hedge_s is None:
                return await start(step)
            return await hedge.race(call, course, step, hedge_s, process, start, missed)
        except (ProviderError, UnsupportedParameter, Saturated) as miss:
            missed(step, miss)
    raise exhausted(call, course)


async def _attempt(
    call: Call,
    plan: RoutePlan,
    course: Course,
    process: Process,
    text: Continuation | None,
    step: Step,
    is_hedge: bool = False,
) -> Answer:
    """One step. Raises ProviderError; UnsupportedParameter or Saturated before anything was sent."""
    target = step.target
    wire = adapter_for(target.kind).build_request(
        call.operation, _body_for(call, target, text), target, stream=call.is_stream
    )
    slot = None
    if process.pace.governs(target):
        slot = await _slot(call, plan, target, process, deadline_s=course.deadline_s)
    if call.attempts or target is not plan.targets[0].target:
        reopen(call, target, process)
    attempt = open_attempt(call, target, is_hedge=is_hedge)
    attempt.slot = slot
    process.retries.begin(target.provider, is_retry=step.is_retry)
    try:
        return await carry_out(
            call,
            attempt,
            wire,
            process,
            deadline_s=course.deadline_s,
            is_last=not course.has_other(target),
        )
    finally:
        process.retries.end(target.provider, is_retry=step.is_retry)


async def _slot(call: Call, plan: RoutePlan, target: Target, process: Process, *, deadline_s: float) -> Slot:
    """The right to send one call within the provider's rate limit. Raises Saturated: another target may have room."""
    output_tokens = expected_output(call)
    return await process.pace.take(
        target,
        tokens=process.telemetry.input_tokens_in(call.input_bytes, target.endpoint_id) + output_tokens,
        output_tokens=output_tokens,
        wait_s=max(0.0, min(plan.conduct.queue_ms / 1000, deadline_s - time.monotonic())),
        priority=(
            priority_of(caller.terms, caller.tenant.id, is_shadow=call.kind != "usage")
            if (caller := call.caller) is not None
            else DEFAULT_PRIORITY
        ),
    )


def _missed(call: Call, course: Course, text: Continuation | None, step: Step, miss: Exception) -> None:
    """A step came to nothing: tell the course. Raises ApiError where no other target may be asked."""
    match miss:
        case UnsupportedParameter():
            target = step.target
            call.skipped.append({"provider": target.provider, "model": target.model, "reason": str(miss)})
            course.refused(miss)
        case Saturated():
            target, reason = step.target, f"its rate limit is used up for {miss.retry_after_s:.1f} s"
            call.skipped.append({"provider": target.provider, "model": target.model, "reason": reason})
            course.told_to_wait(miss.retry_after_s)
            course.postponed(step.target, miss.retry_after_s, now_s=time.monotonic())
        case ProviderError(kind=ErrorKind.INVALID_REQUEST) if text is not None:
            # The caller's own request was good: it is our way of going on that this target will not take.
            if text.refuse(step.target):
                course.otherwise(step.target)
        case ProviderError(disposition=Disposition.GIVE_UP):
            raise refusal(miss) from miss
        case ProviderError():
            draw = random.random()  # noqa: S311 - jitter
            course.failed(step.target, miss, now_s=time.monotonic(), draw=draw)
        case _:
            raise miss


def _body_for(call: Call, target: Target, text: Continuation | None) -> Json:
    """The caller's body; under a hard budget with the output ceiling that was reserved for it."""
    body = call.body
    if call.plan is not None and call.plan.assignment is not None:
        body = applied(body, call.plan.assignment, call.operation)
    if call.output_cap is not None:
        body = {**body, "max_completion_tokens": call.output_cap}
    return body if text is None else text.body_for(body, target)
