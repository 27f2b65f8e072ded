"""Step three: may this call spend what it may cost at worst? One trip to Redis for all limits at once."""

import asyncio
from collections.abc import Iterable

import orjson

from billing.snapshot import BudgetEntry
from gateway.pipeline.call import Call, Caller
from gateway.pipeline.record import attempt_row
from gateway.state.limits import (
    OPEN,
    PICO_PER_MICRO,
    Admission,
    BudgetHold,
    BudgetUnseeded,
    Claim,
    EpochChanged,
    WindowLimit,
    budget_key,
    limits_of,
)
from gateway.state.process import Process
from gateway.state.redis import RedisUnavailable
from routing.catalog.cost import Unpriced, cost_of, worst_case_pico
from routing.providers.media import physical_units
from routing.types import PRICED_BY, TEXTLESS, Ranked, Target
from tenants.errors import ApiError

OUTPUT_TOKENS_WITHOUT_LIMIT = 4_096
EXPECTED_OUTPUT_TOKENS = 512
LEASE_GRACE_MS = 60_000


async def admit(call: Call, caller: Caller, ranked: Iterable[Ranked], process: Process) -> None:
    """Take every limit and open the call's durable record, before any byte goes upstream.

    Raises ApiError: rate_limit_exceeded, concurrency_exceeded, budget_exceeded, budget_unavailable; Throttled where
    a throttle is used up that has not done its work on this call yet (`call.throttled`).
    """
    targets = [each.target for each in ranked]
    windows, seats = limits_of(caller.key, caller.tenant.id, caller.terms)
    if call.throttled:
        windows += tuple(_slowed(call))
    claim = Claim(
        windows=windows,
        seats=seats,
        budgets=tuple(holds(call, caller, targets, process)),
        tokens=_expected_tokens(call, targets[0], process) if windows else 0,
        lease_ms=int(call.timeout_s * 1000) + LEASE_GRACE_MS,
    )
    if call.output_limit is None and any(
        budget.hold and budget.entry.measure != "requests" and budget.entry.mode == "hard"
        for budget in claim.budgets
    ):
        call.output_cap = max(output_per_choice(call, target) for target in targets)
    record = open_record(call, caller, targets[0], claim, process.worker)
    for _ in range(3):
        try:
            call.admission = await process.limits.admit(call.id_text, record, claim)
        except EpochChanged:
            await process.reassert()
        except BudgetUnseeded as missing:
            await process.seed_budgets(missing.holds)
        except asyncio.CancelledError:
            process.settle(call.id_text, process.limits.void(call.id_text, claim))
            raise
        except RedisUnavailable as error:
            if error.maybe_executed:
                process.settle(call.id_text, process.limits.void(call.id_text, claim))
            raise ApiError(
                "budget_unavailable", "Limits and budgets cannot be checked right now.", retry_after_s=1
            ) from error
        else:
            # Only now: a refused call in the journal would be booked, and release what it never held, if we died.
            process.journal.opened(call.id_text, record)
            process.live[call.id_text] = (record, call.admission)
            if None in call.admission.budget_remaining:
                _seed_later(call.admission, process)
            return
    raise ApiError(
        "budget_unavailable", "The budget's counter is being rebuilt from the ledger.", retry_after_s=1
    )


def _seed_later(admission: Admission, process: Process) -> None:
    """Counters of soft budgets and throttles come into being beside the calls, which do not wait for them."""
    for budget, left in zip(admission.claim.budgets, admission.budget_remaining, strict=True):
        if left is None:
            process.seeding_of(budget)


def _slowed(call: Call) -> Iterable[WindowLimit]:
    """The rates of the throttles that are used up and know no other way."""
    for throttle in call.throttled:
        if throttle.rpm is not None:
            yield WindowLimit(f"th:rpm:b:{throttle.entry.id}", throttle.rpm, "requests")


def reopen(call: Call, target: Target, process: Process) -> None:
    """The call goes to another target: say so in the open record before anything is sent there."""
    if call.admission is None or call.caller is None:
        raise RuntimeError("only an admitted call can move")
    record = open_record(call, call.caller, target, call.admission.claim, process.worker)
    process.journal.opened(call.id_text, record)
    process.live[call.id_text] = (record, call.admission)
    process.in_background(process.pipe.call("HSET", OPEN, call.id_text, record))


def output_ceiling(call: Call, target: Target) -> int:
    """The most output tokens the call can produce there, over all its choices."""
    if call.operation in TEXTLESS:
        return 0
    return output_per_choice(call, target) * max(call.body.get("n") or 1, call.body.get("best_of") or 1)


def output_per_choice(call: Call, target: Target) -> int:
    """The caller's limit, or the ceiling that we set where it gave none."""
    limit = call.output_limit
    if limit is not None:
        return limit
    return min(target.max_output_tokens or OUTPUT_TOKENS_WITHOUT_LIMIT, OUTPUT_TOKENS_WITHOUT_LIMIT)


def open_record(call: Call, caller: Caller, target: Target, claim: Claim, worker: str) -> bytes:
    """What a reaper needs to close the call when this worker no longer can; see pipeline.record."""
    assignment = call.plan.assignment if call.plan else None
    return orjson.dumps(
        {
            "worker": worker,
            "kind": call.kind,
            "experiment": assignment.experiment if assignment else "",
            "arm": assignment.arm if assignment else "",
            "sample": call.sample,
            "is_own": target.is_own,
            "tenant": caller.tenant.id,
            "key": caller.key.id,
            "plan_version": caller.terms.plan_version_id,
            "price_currency": caller.terms.currency,
            "feature": call.feature,
            "end_user": call.end_user,
            "operation": call.operation,
            "request_model": call.request_model,
            "policy": call.plan.policy if call.plan else "",
            "is_stream": call.is_stream,
            "attempt": len(call.attempts) + 1,
            "endpoint": target.endpoint_id,
            "provider": target.provider,
            "provider_model": target.provider_model,
            "model": target.model,
            "region": target.region,
            "cost_currency": target.rates.currency,
            "worst_cost_pico": _worst_cost(call, target),
            "earlier": [attempt_row(attempt, call) for attempt in call.attempts],
            "seats": [seat.key for seat in claim.seats],
            "budgets": [budget.as_wire for budget in claim.budgets],
            "tags": call.tags,
            "regions": caller.tenant.regions_text,
            "is_discreet": caller.tenant.zero_retention,
        }
    )


def expected_output(call: Call) -> int:
    """How many output tokens the call will probably produce: for ranking and for rate limits, not for money."""
    if call.operation in TEXTLESS:
        return 0
    return min(call.output_limit or EXPECTED_OUTPUT_TOKENS, EXPECTED_OUTPUT_TOKENS)


def probable_input(call: Call) -> int:
    """How many input tokens the call will probably have, for ranking; exactly its units where it has no tokens."""
    if call.operation in PRICED_BY:
        return sum(physical_units(call.operation, call.body).values())
    return max(1, call.input_bytes // 4)


def _units_bound(call: Call, target: Target) -> dict[str, int]:
    """The most units the call can be metered with there."""
    if call.operation in PRICED_BY:
        return physical_units(call.operation, call.body)
    return {"input": call.input_bytes, "output": output_ceiling(call, target)}


def _expected_tokens(call: Call, target: Target, process: Process) -> int:
    """For the tokens-per-minute window: what the call will probably take; settling corrects it."""
    if call.operation in PRICED_BY:
        return 0
    return process.telemetry.input_tokens_in(call.input_bytes, target.endpoint_id) + expected_output(call)


def holds(call: Call, caller: Caller, targets: list[Target], process: Process) -> Iterable[BudgetHold]:
    """What the call may take at most from each budget that any of its targets counts against."""
    is_overhead = call.kind != "usage"
    for entry in process.snapshot.billing.budgets_of(caller.tenant.id):
        if is_overhead and not entry.include_overhead:
            continue
        if not entry.matches(
            api_key_id=caller.key.id,
            feature=call.feature,
            end_user=call.end_user,
            plan_id=caller.terms.plan_id,
            tags=call.tags,
        ):
            continue
        counted = entry.counted
        covered = [
            target
            for target in targets
            if counted.covers(model=target.model, provider=target.provider, is_byok=target.is_own)
        ]
        if covered:
            window = entry.window_at(call.occurred_at)
            yield BudgetHold(
                budget_key(entry, window),
                entry,
                window,
                _hold(entry, call, caller, covered, process) if entry.mode != "soft" else 0,
                window.bucket_of(call.occurred_at),
                bool(call.throttled) and any(each.entry.id == entry.id for each in call.throttled),
            )


def _hold(entry: BudgetEntry, call: Call, caller: Caller, targets: list[Target], process: Process) -> int:
    """The most this call can take from the budget, whichever of its targets serves it.

    Raises ApiError model_unpriced where a hard budget cannot tell; a throttle holds nothing then.
    """
    match entry.measure:
        case "requests":
            return 1
        case "tokens":
            if call.operation in PRICED_BY:
                return 0
            return call.input_bytes + max(output_ceiling(call, target) for target in targets)
    amounts = [_worst_amount(entry, call, caller, target, process) for target in targets]
    known = [amount for amount in amounts if amount is not None]
    if len(known) < len(amounts) and entry.mode == "hard":
        model = targets[amounts.index(None)].model
        raise ApiError(
            "model_unpriced",
            f"{model} has no price in {entry.currency}, and a hard budget applies to this call.",
        )
    return -(-max(known, default=0) // PICO_PER_MICRO)


def _worst_amount(
    entry: BudgetEntry, call: Call, caller: Caller, target: Target, process: Process
) -> int | None:
    """A bound in pico-units of the budget's currency; None where there is no price or no rate."""
    cost, currency = _worst_cost(call, target), target.rates.currency
    amount: int | None = cost
    if entry.measure == "price":
        currency = caller.terms.currency
        amount = caller.terms.pricing.hold_of(
            worst_cost_pico=cost,
            units_bound=_units_bound(call, target),
            model=target.model,
            cost_currency=target.rates.currency,
            is_byok=target.is_own,
            at_s=call.occurred_at,
        )
    if amount is None or currency == entry.currency:
        return amount
    rate = process.snapshot.billing.fx.rate_at(currency, entry.currency, call.occurred_at)
    return None if rate is None else -(-amount * rate.numerator // rate.denominator)


def _worst_cost(call: Call, target: Target) -> int | None:
    """The most the call can cost there, None where it has no price; several ask, for budgets and the record."""
    key = (target.endpoint_id, call.input_bytes, call.output_limit)
    if key not in call.worst_costs:
        try:
            call.worst_costs[key] = _bound(call, target)
        except Unpriced:
            call.worst_costs[key] = None
    return call.worst_costs[key]


def _bound(call: Call, target: Target) -> int:
    if call.operation in PRICED_BY:
        return cost_of(
            target.rates,
            physical_units(call.operation, call.body),
            occurred_at=call.occurred_at,
            service_tier=call.service_tier,
        ).total_pico
    return worst_case_pico(
        target.rates,
        call.input_bytes,
        output_ceiling(call, target),
        call.occurred_at,
        service_tier=call.service_tier,
    )
