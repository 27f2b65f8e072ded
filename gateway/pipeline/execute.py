"""Step four: attempts, one after the other, until a target answers. Every attempt has a record of its own.

For a stream, "answers" means that something a client would show has arrived: until then a failure is
invisible, and the course (`pipeline.course`) says what comes next. What breaks later is for `pipeline.recover`.
"""

import asyncio
import random
import time
from dataclasses import dataclass

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
    return await Journey(call, plan, call.course, process).answer()


@dataclass(slots=True)
class Journey:
    """A call on its way along its course; with a `text`, to whoever goes on from what was shown."""

    call: Call
    plan: RoutePlan
    course: Course
    process: Process
    text: Continuation | None = None

    async def answer(self) -> Answer:
        """The next answer. Raises ApiError when nothing is left to try."""
        course, process = self.course, self.process
        while (step := course.next(time.monotonic())) is not None:
            if step.wait_s:
                await asyncio.sleep(step.wait_s)
            if step.is_retry and not process.retries.allows(step.target.provider):
                course.postponed(step.target, RETRY_BUDGET_S, now_s=time.monotonic())
                continue
            hedge_s = hedge.delay_s(self.call, self.plan.conduct, step, process)
            try:
                if hedge_s is None:
                    return await self.attempt(step)
                return await hedge.race(self.call, course, step, hedge_s, process, self.attempt, self.missed)
            except (ProviderError, UnsupportedParameter, Saturated) as miss:
                self.missed(step, miss)
        raise exhausted(self.call, course)

    async def attempt(self, step: Step, *, is_hedge: bool = False) -> Answer:
        """One step. Raises ProviderError; UnsupportedParameter or Saturated before anything was sent."""
        call, process, target = self.call, self.process, step.target
        wire = adapter_for(target.kind).build_request(
            call.operation, self._body_for(target), target, stream=call.is_stream
        )
        slot = await self._slot(target) if process.pace.governs(target) else None
        if call.attempts or target is not self.plan.targets[0].target:
            reopen(call, target, process)
        attempt = open_attempt(call, target, slot, is_hedge=is_hedge)
        process.retries.begin(target.provider, is_retry=step.is_retry)
        try:
            is_last = not self.course.has_other(target)
            deadline_s = self.course.deadline_s
            return await carry_out(call, attempt, wire, process, deadline_s=deadline_s, is_last=is_last)
        finally:
            process.retries.end(target.provider, is_retry=step.is_retry)

    def missed(self, step: Step, miss: Exception) -> None:
        """A step came to nothing: tell the course. Raises ApiError where no other target may be asked."""
        course, target = self.course, step.target
        match miss:
            case UnsupportedParameter():
                self._skipped(target, str(miss))
                course.refused(miss)
            case Saturated():
                self._skipped(target, f"its rate limit is used up for {miss.retry_after_s:.1f} s")
                course.told_to_wait(miss.retry_after_s)
                course.postponed(target, miss.retry_after_s, now_s=time.monotonic())
            case ProviderError(kind=ErrorKind.INVALID_REQUEST) if self.text is not None:
                # The caller's own request was good: it is our way of going on that this target will not take.
                if self.text.refuse(target):
                    course.otherwise(target)
            case ProviderError(disposition=Disposition.GIVE_UP):
                raise refusal(miss) from miss
            case ProviderError():
                draw = random.random()  # noqa: S311 - jitter
                course.failed(target, miss, now_s=time.monotonic(), draw=draw)
            case _:
                raise miss

    async def _slot(self, target: Target) -> Slot:
        """The right to send one call within the provider's rate limit. Raises Saturated: others may have room."""
        call, process, caller = self.call, self.process, self.call.caller
        output_tokens = expected_output(call)
        return await process.pace.take(
            target,
            tokens=process.telemetry.input_tokens_in(call.input_bytes, target.endpoint_id) + output_tokens,
            output_tokens=output_tokens,
            wait_s=max(
                0.0, min(self.plan.conduct.queue_ms / 1000, self.course.deadline_s - time.monotonic())
            ),
            priority=(
                priority_of(caller.terms, caller.tenant.id, is_shadow=call.kind != "usage")
                if caller is not None
                else DEFAULT_PRIORITY
            ),
        )

    def _body_for(self, target: Target) -> Json:
        """The caller's body as its experiment has it; under a hard budget with the ceiling reserved for it."""
        call, body = self.call, self.call.body
        if self.plan.assignment is not None:
            body = applied(body, self.plan.assignment, call.operation)
        if call.output_cap is not None:
            body = {**body, "max_completion_tokens": call.output_cap}
        return body if self.text is None else self.text.body_for(body, target)

    def _skipped(self, target: Target, reason: str) -> None:
        self.call.skipped.append({"provider": target.provider, "model": target.model, "reason": reason})
