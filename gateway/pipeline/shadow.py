"""After the answer: the same request to another target, in the background, measured and thrown away.

Never delays or fails the call it mirrors, never runs while the worker drains, and gives way first under load.
Goes through the same admission (with nothing claimed), executor, journal and ledger as any call, so that a
killed worker leaves its row too; it is booked as the operator's overhead. Its answer is kept only where the
tenant has the content of its calls stored.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any

from gateway.pipeline import scoring
from gateway.pipeline.admit import holds, open_record
from gateway.pipeline.attempt import WholeAnswer
from gateway.pipeline.call import Call, Caller, Kept
from gateway.pipeline.execute import execute
from gateway.pipeline.record import observe, record
from gateway.state.limits import BudgetUnseeded, Claim, EpochChanged, Throttled
from gateway.state.process import Process
from gateway.state.redis import RedisUnavailable
from routing.policies.split import applied
from routing.types import TEXTLESS, Conduct, Json, Mirror, Operation, Ranked, RoutePlan, Target
from tenants.errors import ApiError, shutting_down
from tenants.ids import uuid7

logger = logging.getLogger(__name__)

TIMEOUT_S = 60.0
JUDGE_TIMEOUT_S = 20.0
JUDGE_OUTPUT_TOKENS = 64
MAX_HEARD_BYTES = 512 * 1024
LEASE_MS = 180_000
OURS_TO_MEASURE = 500
"""From this status on a failed call is a provider's failure, which a shadow is compared with; below it is the
caller's."""
CONDUCT = Conduct(max_attempts=1, queue_ms=0)
"""One try, and no place in any queue that real calls wait in."""


def prepare(call: Call, process: Process) -> None:
    """The plan wants this call mirrored: collect its answer, and begin when it is recorded."""
    call.heard = []
    call.after = partial(begin, call, process)


async def overheard(call: Call, stream: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """A mirrored call's stream, piece by piece as it is, with its beginning kept until the call is recorded."""
    size = 0
    async with aclosing(stream) as pieces:
        async for piece in pieces:
            if call.heard is not None and size < MAX_HEARD_BYTES:
                call.heard.append(piece)
                size += len(piece)
            yield piece


def begin(call: Call, process: Process) -> None:
    """The call is recorded: mirror it, if there is room. Never waits."""
    heard, call.heard, call.after = call.heard, None, None
    if call.plan is None or call.plan.mirror is None or call.caller is None or heard is None:
        return
    if process.is_draining or not (call.status == 200 or call.status >= OURS_TO_MEASURE):
        return
    mirror = call.plan.mirror
    if process.shadows.take(
        mirror.policy,
        mirror.per_minute,
        now=time.time(),
        calls=len(process.live) - process.shadows.in_flight,
        max_calls=process.max_in_flight,
    ):
        process.in_background(process.shadows.start(_mirror(call, call.caller, mirror, heard, process)))


async def _mirror(call: Call, caller: Caller, mirror: Mirror, heard: list[bytes], process: Process) -> None:
    body = _body_sent(call)
    shadow = _own_call(call, caller, mirror.target, body, kind="shadow", timeout_s=TIMEOUT_S)
    shadow.operation, shadow.input_bytes = call.operation, call.input_bytes
    shadow.output_limit = call.output_limit
    shadow.output_cap = call.output_cap
    shadow.sample = _sample(call, mirror)
    if caller.tenant.content_days:
        shadow.kept = Kept(process.content.max_bytes)
    if not await _open(shadow, caller, mirror.target, process):
        return
    try:
        answer = await _answer(shadow, process)
        shadow.ended_s = time.monotonic()
        if shadow.kept is not None and answer is not None:
            shadow.kept.add((answer.reply.body,))
        await _measure(shadow, body, mirror, answer, heard, caller, process)
    finally:
        record(shadow, process)


def _own_call(call: Call, caller: Caller, target: Target, body: Json, *, kind: str, timeout_s: float) -> Call:
    """A call of our own beside `call`: whole, in nobody's name, with an id of its own."""
    now_ms = time.time_ns() // 1_000_000
    request_id = uuid7(now_ms)
    plan = call.plan
    return replace(
        call,
        id=request_id,
        id_text=str(request_id),
        occurred_at=now_ms / 1000,
        started_s=time.monotonic(),
        body=body,
        is_stream=False,
        include_usage=False,
        timeout_s=timeout_s,
        kind="shadow" if kind == "shadow" else "eval",
        caller=caller,
        plan=RoutePlan(
            policy=plan.policy if plan else "",
            strategy=kind,
            targets=(Ranked(target, 0.0, kind),),
            dropped=(),
            conduct=CONDUCT,
        ),
        privacy=None,
        course=None,
        admission=None,
        throttled=[],
        output_cap=None,
        attempts=[],
        price_pico=0,
        status=0,
        error_code="",
        error_message="",
        finish_reason="",
        response_model="",
        ended_s=0.0,
        is_recorded=False,
        skipped=[],
        heard=None,
        kept=None,
        after=None,
        sample=None,
    )


def _body_sent(call: Call) -> Json:
    """The request as a whole answer: without what only streams have, as the caller's arm wants it."""
    body = {name: value for name, value in call.body.items() if name not in ("stream", "stream_options")}
    assignment = call.plan.assignment if call.plan else None
    return body if assignment is None else applied(body, assignment, call.operation)


async def _open(call: Call, caller: Caller, target: Target, process: Process) -> bool:
    """Open the durable record before any byte goes upstream. False: it cannot be opened, so nothing is sent.

    Only the operator's budgets that count overhead have a say.
    """
    try:
        budgets = tuple(holds(call, caller, [target], process))
    except ApiError:  # unpriced under a hard budget
        return False
    claim = Claim(windows=(), seats=(), budgets=budgets, tokens=0, lease_ms=LEASE_MS)
    opened = open_record(call, caller, target, claim, process.worker)
    for _ in range(2):
        try:
            call.admission = await process.limits.admit(call.id_text, opened, claim)
        except EpochChanged:
            await process.reassert()
        except BudgetUnseeded as missing:
            await process.seed_budgets(missing.holds)
        except (ApiError, Throttled):
            return False  # the overhead's budget is used up
        except asyncio.CancelledError:
            process.settle(call.id_text, process.limits.void(call.id_text, claim))
            raise
        except RedisUnavailable as error:
            if error.maybe_executed:
                process.settle(call.id_text, process.limits.void(call.id_text, claim))
            return False
        else:
            process.journal.opened(call.id_text, opened)
            process.live[call.id_text] = (opened, call.admission)
            return True
    return False


async def _answer(call: Call, process: Process) -> WholeAnswer | None:
    """Carry an opened call of our own out and fill in how it ended; None: it failed, as its record says."""
    if call.plan is None:
        raise RuntimeError("a call of our own is made with its plan")
    try:
        answer = await execute(call, call.plan, process)
    except ApiError as error:
        _ended(call, error.status, error)
        return None
    except asyncio.CancelledError:
        _ended(call, 503, shutting_down())
        raise
    except BaseException as error:
        # It is recorded whatever happens; `Process.in_background` says what it was.
        _ended(call, 500, ApiError("internal_error", type(error).__name__))
        raise
    if not isinstance(answer, WholeAnswer):
        raise RuntimeError("a call of our own is never streamed")
    call.status = 200
    call.finish_reason = answer.reply.finish_reason or ""
    call.response_model = answer.reply.model
    call.ended_s = time.monotonic()
    observe(call, answer.attempt, process)
    return answer


def _ended(call: Call, status: int, error: ApiError) -> None:
    call.status, call.error_code, call.error_message = status, error.code, error.message
    call.ended_s = time.monotonic()


# ------------------------------------------------------------------ what is measured


def _sample(call: Call, mirror: Mirror) -> dict[str, Any]:
    """What is known before the shadow is sent; see gateway.experiments.samples."""
    last = call.attempts[-1] if call.attempts else None
    costs = [attempt.cost_pico for attempt in call.attempts]
    target = mirror.target
    return {
        "rollout": mirror.rollout,
        "provider": target.provider,
        "model": target.model,
        "region": target.region,
        "is_json_valid": None,
        "scoring": mirror.scoring.get("kind", "none"),
        "score": None,
        "of_request_id": call.id_text,
        "of_provider": last.target.provider if last else "",
        "of_model": last.target.model if last else "",
        "of_status": call.status,
        "of_latency_ms": round((call.ended_s - call.started_s) * 1000),
        "of_cost_pico": None if None in costs else sum(cost or 0 for cost in costs),
        "of_cost_currency": (last.target if last else target).rates.currency,
        "of_is_json_valid": None,
    }


async def _measure(
    shadow: Call,
    body: Json,
    mirror: Mirror,
    answer: WholeAnswer | None,
    heard: list[bytes],
    caller: Caller,
    process: Process,
) -> None:
    """Add to the sample how good both answers were. Texts are compared in a thread, and go no further."""
    if shadow.sample is None or shadow.operation in TEXTLESS:
        return
    told = await asyncio.to_thread(
        _compared, shadow.operation, body, mirror.scoring, answer.reply.body if answer else None, heard
    )
    text = told.pop("text")
    shadow.sample |= told
    if mirror.scoring.get("kind") == "rubric" and mirror.judge is not None and answer is not None:
        rubric = str(mirror.scoring.get("rubric", ""))
        messages = body.get("messages") or [{"role": "user", "content": body.get("prompt")}]
        prompt = scoring.verdict_prompt(rubric, messages, text)
        shadow.sample["score"] = await _judged(shadow, caller, mirror.judge, prompt, process)


def _compared(
    operation: Operation,
    body: Json,
    how: Any,
    ours: bytes | None,
    heard: list[bytes],
) -> dict[str, Any]:
    """Validity of both answers where JSON was asked for, and the scores that need no model."""
    is_whole = bool(heard) and heard[0].startswith(b"{")
    real = scoring.text_of(heard[0]) if is_whole else scoring.text_of_events(b"".join(heard))
    text = scoring.text_of(ours) if ours is not None else ""
    told: dict[str, Any] = {"text": text}
    if scoring.asks_for_json(operation, body):
        form = body["response_format"]
        told["of_is_json_valid"] = scoring.is_valid_json(real, form) if heard else None
        told["is_json_valid"] = scoring.is_valid_json(text, form) if ours is not None else None
    if ours is not None and heard:
        match how.get("kind"):
            case "exact_match":
                told["score"] = scoring.exact_match(text, real)
            case "similarity":
                told["score"] = scoring.similarity(text, real)
    return told


async def _judged(
    shadow: Call, caller: Caller, judge: Target, prompt: list[Json], process: Process
) -> float | None:
    """Ask the judge; None when it gave no verdict. Its call is booked as the operator's overhead, too."""
    body: Json = {"messages": prompt, "max_completion_tokens": JUDGE_OUTPUT_TOKENS, "temperature": 0}
    if "json_schema" in judge.capabilities:
        body["response_format"] = scoring.VERDICT_SCHEMA
    verdict = _own_call(shadow, caller, judge, body, kind="eval", timeout_s=JUDGE_TIMEOUT_S)
    verdict.operation = Operation.CHAT
    verdict.output_limit = JUDGE_OUTPUT_TOKENS
    verdict.input_bytes = sum(len(message["content"].encode()) for message in prompt)
    if not await _open(verdict, caller, judge, process):
        return None
    try:
        answer = await _answer(verdict, process)
    finally:
        record(verdict, process)
    return scoring.verdict_of(scoring.text_of(answer.reply.body)) if answer else None
