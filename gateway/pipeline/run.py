"""One call's life, as one straight line. The order of the steps is a guarantee (docs/adr/0005)."""

import asyncio
import logging
import time

from billing.snapshot import BudgetEntry
from gateway.pipeline import guard, shadow
from gateway.pipeline.admit import admit, expected_output, probable_input
from gateway.pipeline.attempt import StreamAnswer, WholeAnswer
from gateway.pipeline.authenticate import UnknownKey, authenticate, permit
from gateway.pipeline.call import Call, Caller, Throttle
from gateway.pipeline.discretion import be_discreet
from gateway.pipeline.execute import execute
from gateway.pipeline.record import observe, record
from gateway.pipeline.redact import redact
from gateway.pipeline.relay import CLIENT_LEFT
from gateway.state.limits import Throttled
from gateway.state.process import Process
from gateway.state.snapshot import allowed_models
from routing.policies.names import POLICY_PREFIX
from routing.policies.plan import PlanRequest, plan
from routing.policies.preferences import forgetful
from routing.policies.split import added_bytes
from routing.types import TEXTLESS, RoutePlan
from tenants.errors import ApiError, shutting_down

logger = logging.getLogger(__name__)


async def identify(headers: dict[str, str], client_ip: str, process: Process) -> Caller:
    """The caller; a key this worker has never heard of makes it look for newer configuration once."""
    now = time.time()
    try:
        return authenticate(headers, client_ip, process.snapshot, now=now)
    except UnknownKey:
        await process.catch_up()
        return authenticate(headers, client_ip, process.snapshot, now=now)


async def run(call: Call, caller: Caller, process: Process) -> WholeAnswer | StreamAnswer:
    """A whole answer, already recorded, or an open stream that `relay` will record. Raises ApiError."""
    call.caller = caller
    be_discreet(call, caller.tenant, process)
    permit(caller, call.operation)
    call.plan = choose(call, caller, process)
    await redact(call, caller, process)
    asked = call.input_bytes, call.output_limit
    enrol(call)
    while True:
        try:
            await admit(call, caller, call.plan.targets, process)
        except Throttled as used_up:
            throttle(call, caller, used_up.hold.entry, asked, process)
            await redact(call, caller, process)  # the plan may be another, and other rules with it
        else:
            break
    if call.plan.mirror is not None:
        shadow.prepare(call, process)
    try:
        if call.privacy is not None:
            await guard.before(call, call.privacy, process)
        answer = await execute(call, call.plan, process)
        if isinstance(answer, WholeAnswer):
            take(call, answer, process)
            if call.privacy is not None:
                await guard.after(call, call.privacy, answer, process)
    except ApiError as error:
        end(call, process, error.status, error)
        raise
    except asyncio.CancelledError:
        if process.is_draining:
            refusal = shutting_down()
            end(call, process, refusal.status, refusal)
            raise refusal from None
        end(call, process, CLIENT_LEFT)
        raise
    except BaseException as error:  # an admitted call is recorded whatever happens; the door reports it
        end(call, process, 500, ApiError("internal_error", type(error).__name__))
        raise
    call.status = 200
    if isinstance(answer, WholeAnswer):
        call.ended_s = time.monotonic()
        record(call, process)
    return answer


def throttle(
    call: Call, caller: Caller, entry: BudgetEntry, asked: tuple[int, int | None], process: Process
) -> None:
    """The budget is used up: the call goes by its policy, else no faster than its rate. Never refuses.

    `asked` are the call's size and ceiling before an experiment changed them.
    """
    rpm = entry.throttle_rpm
    if entry.throttle_policy:
        try:
            chosen = choose(call, caller, process, model=POLICY_PREFIX + entry.throttle_policy)
        except ApiError as error:  # the policy has nothing for this call: it goes on as it would have
            logger.warning("throttle %s: %s", entry.id, error.message)
        else:
            call.plan, rpm = chosen, None
            call.input_bytes, call.output_limit = asked
            call.output_cap = None
            enrol(call)
    call.throttled.append(Throttle(entry, rpm))


def choose(call: Call, caller: Caller, process: Process, *, model: str | None = None) -> RoutePlan:
    """Step two: the targets to try, in order, and the reasons. `model` takes the place of the one asked for."""
    snapshot = process.snapshot
    return plan(
        PlanRequest(
            model=model or call.request_model,
            operation=call.operation,
            tenant_id=caller.tenant.id,
            regions=caller.tenant.regions,
            allowed_models=allowed_models(caller.key.allowed_models, caller.terms.allowed_models),
            capabilities=call.capabilities,
            input_tokens=probable_input(call),
            output_tokens=expected_output(call),
            service_tier=call.service_tier,
            allow_unpriced=process.allow_unpriced,
            tenant=caller.tenant.slug,
            api_key_id=caller.key.id,
            feature=call.feature,
            plan=caller.terms.plan.partition("@")[0],
            end_user=call.end_user,
            tags=call.tags,
            preferences=forgetful(call.preferences) if caller.tenant.zero_retention else call.preferences,
        ),
        snapshot.routing,
        health=process.health.view,
        now=call.occurred_at,
        draw=process.random(),
    )


def enrol(call: Call) -> None:
    """The call has an arm of an experiment: what it sends may be longer, or its ceiling lower, than was asked."""
    assignment = call.plan.assignment if call.plan else None
    if assignment is None or call.operation in TEXTLESS:
        return
    call.input_bytes += added_bytes(assignment)
    ceiling = assignment.parameters.get("max_completion_tokens")
    if ceiling is not None:
        call.output_limit = ceiling if call.output_limit is None else min(ceiling, call.output_limit)


def take(call: Call, answer: WholeAnswer, process: Process) -> None:
    """Note what a whole answer was like, whether or not the caller will get it."""
    attempt, reply = answer.attempt, answer.reply
    call.finish_reason = reply.finish_reason or ""
    if call.kept is not None:
        call.kept.add((reply.body,))
    if call.heard is not None:
        call.heard.append(reply.body)
    call.response_model = reply.model
    observe(call, attempt, process)


def end(call: Call, process: Process, status: int, error: ApiError | None = None) -> None:
    """Close a call that got no answer."""
    call.status = status
    if error is not None:
        call.error_code, call.error_message = error.code, error.message
    call.ended_s = time.monotonic()
    record(call, process)
