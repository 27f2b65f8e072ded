"""The last step: meter what every attempt used, price it, and close the call's record. Exactly once.

`record` never waits: the journal holds the record before the settlement is on its way to Redis. The two
halves of the wire form, `encode` and `decode`, stand side by side; the consumer of the stream uses the other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from django.conf import settings

from billing.budgets.count import OTHER_TOKENS, AttemptAmounts
from billing.rating.fx import FxTable
from billing.usage.records import Kind, UsageRecord
from gateway.experiments.samples import SampleEntry, sample_of
from gateway.logs.ingest import LogEntry
from gateway.pipeline.call import Attempt, Call, Caller, Status
from gateway.state.limits import Spent
from gateway.state.process import Process
from routing.catalog.cost import Unpriced, cost_of
from routing.types import Usage
from tenants.ids import instant_of

VERSION = 3
"""1 knew neither kinds nor arms nor own credentials, 2 not the tenant's regions nor zero retention; records of
both may still be on their way."""
BILLABLE = frozenset((Status.OK, Status.CUT, Status.CANCELLED))
CLIENT_LEFT = 499
OUR_FAULT = 500
LEDGER_UNITS = ("input", "cache_read", "cache_write", "output", "reasoning")
"""Components with a column of their own; `cache_write_1h` is in that of cache writes and told apart beside it."""


def meter(call: Call, caller: Caller) -> None:
    """Cost of every attempt, and the price of the one that served the call. None means unpriced."""
    call.price_pico = 0
    for attempt in call.attempts:
        usage = attempt.usage
        if usage is None or not usage.units:
            continue
        try:
            cost = cost_of(
                attempt.target.rates,
                usage.units,
                occurred_at=call.occurred_at,
                service_tier=call.service_tier,
            )
        except Unpriced:
            attempt.cost_pico, attempt.cost_components = None, None
        else:
            attempt.cost_pico, attempt.cost_components = cost.total_pico, cost.components
        if call.kind == "usage" and attempt is call.attempts[-1] and attempt.status in BILLABLE:
            call.price_pico = caller.terms.pricing.price_of(
                cost_pico=attempt.cost_pico,
                cost_currency=attempt.target.rates.currency,
                units=usage.units,
                model=attempt.target.model,
                is_byok=attempt.target.is_own,
                at_s=call.occurred_at,
            )


def record(call: Call, process: Process) -> None:
    """Close the call: journal, counters, stream. Every path of an admitted call ends here."""
    if call.is_recorded or call.admission is None or call.caller is None:
        return
    call.is_recorded = True
    meter(call, call.caller)
    payload = encode(call, call.caller)
    process.journal.closed(call.id_text, payload)
    spent = spent_by(call, call.caller, process.snapshot.billing.fx)
    process.settle(call.id_text, process.limits.settle(call.id_text, payload, call.admission, spent))
    counted = "requests" if call.kind == "usage" else call.kind
    process.telemetry.counters[f"{counted}:{call.operation}:{call.status}"] += 1
    if call.kind == "usage" and call.feature and call.status != CLIENT_LEFT:
        promised(call, call.caller, process)
    if call.kept is not None:
        process.content.keep(call, call.caller)
    if call.after is not None:
        call.after()


def promised(call: Call, caller: Caller, process: Process) -> None:
    """Hold the call against what its feature promises, if that is a feature with promises."""
    features = process.snapshot.routing.features
    feature = features.get((caller.tenant.id, call.feature)) or features.get((None, call.feature))
    if feature is not None:
        process.health.served(
            feature.key,
            ok=call.status < OUR_FAULT,
            latency_ms=(call.ended_s - call.started_s) * 1000,
            cost_pico=sum(attempt.cost_pico or 0 for attempt in call.attempts),
        )


def observe(call: Call, attempt: Attempt, process: Process) -> None:
    """Tell what a successful attempt was like to those who learn from it."""
    usage, target = attempt.usage, attempt.target
    process.health.succeeded(
        target,
        first_byte_ms=attempt.first_byte_ms or 0,
        latency_ms=attempt.latency_ms,
        output_tokens=usage.output_tokens if usage else 0,
        headers=attempt.headers,
    )
    if usage is not None and usage.source == "provider":
        process.telemetry.counted(
            target.endpoint_id, size_bytes=call.input_bytes, input_tokens=usage.input_tokens
        )


def spent_by(call: Call, caller: Caller, fx: FxTable) -> Spent:
    """What the call took from the limits it was admitted under."""
    last = call.attempts[-1].usage if call.attempts else None
    tokens = _tokens(last)
    if call.admission is None or not call.admission.claim.budgets:
        return Spent(tokens)
    attempts = [
        AttemptAmounts(
            model=attempt.target.model,
            provider=attempt.target.provider,
            is_byok=attempt.target.is_own,
            is_final=attempt is call.attempts[-1] and call.kind == "usage",
            is_failed=_is_failed(call.kind, attempt.status, is_final=attempt is call.attempts[-1]),
            tokens=tokens if attempt.usage is last else _tokens(attempt.usage),
            price_pico=call.price_pico if attempt is call.attempts[-1] else 0,
            price_currency=caller.terms.currency,
            cost_pico=attempt.cost_pico,
            cost_currency=attempt.target.rates.currency,
        )
        for attempt in call.attempts
    ]
    return Spent(tokens, attempts, fx, call.occurred_at)


def amounts_of_row(row: UsageRecord) -> AttemptAmounts:
    """The same of an attempt that only its record tells of."""
    other = row.other_units or {}
    return AttemptAmounts(
        model=row.model,
        provider=row.provider,
        is_byok=row.is_byok,
        is_final=row.is_final,
        is_failed=_is_failed(row.kind, row.status, is_final=row.is_final),
        tokens=row.input_tokens
        + row.cache_read_tokens
        + row.cache_write_tokens
        + row.output_tokens
        + row.reasoning_tokens
        + sum(other.get(name, 0) for name in OTHER_TOKENS),
        price_pico=row.price_pico,
        price_currency=row.price_currency,
        cost_pico=row.cost_pico,
        cost_currency=row.cost_currency,
    )


def _is_failed(kind: Kind, status: str, *, is_final: bool) -> bool:
    """Whether an attempt did not serve the caller; see `budgets.counters`, which asks the ledger the same."""
    return kind == "usage" and not (is_final and status not in ("error", "unknown"))


def _tokens(usage: Usage | None) -> int:
    return usage.tokens if usage else 0


# ------------------------------------------------------------------ the wire form


def encode(call: Call, caller: Caller) -> bytes:
    """The call as one JSON array: shared columns, one row per attempt, the log's columns, a shadow's sample."""
    plan = call.plan
    assignment = plan.assignment if plan else None
    shared = (
        caller.tenant.id,
        caller.key.id,
        caller.terms.plan_version_id,
        caller.terms.currency,
        call.feature,
        call.end_user,
        call.operation,
        call.request_model,
        call.service_tier,
        plan.policy if plan else "",
        call.is_stream,
        call.kind,
        assignment.experiment if assignment else "",
        assignment.arm if assignment else "",
        caller.tenant.regions_text,
        caller.tenant.zero_retention,
    )
    attempts = [attempt_row(attempt, call) for attempt in call.attempts]
    log = (
        call.status,
        call.error_code,
        call.error_message[:500],
        call.finish_reason,
        call.response_model,
        call.tags,
        round((call.ended_s - call.started_s) * 1000),
        _route(call),
    )
    return orjson.dumps((VERSION, call.id_text, shared, attempts, log, call.sample))


def attempt_row(attempt: Attempt, call: Call) -> tuple[Any, ...]:
    """One attempt's columns; the price stands on the last one alone."""
    target = attempt.target
    usage = attempt.usage or Usage({}, "unknown")
    is_last = attempt is call.attempts[-1]
    return (
        attempt.number,
        target.model,
        target.provider,
        target.provider_model,
        target.endpoint_id,
        target.region,
        attempt.status,
        attempt.error_type,
        attempt.http_status,
        usage.source,
        usage.units,
        attempt.cost_pico,
        target.rates.currency,
        call.price_pico if is_last else 0,
        attempt.cost_components,
        attempt.latency_ms,
        attempt.first_byte_ms,
        target.is_own,
    )


def _route(call: Call) -> dict[str, Any]:
    plan = call.plan
    if plan is None:
        return {}
    return {
        "strategy": plan.strategy,
        "needs": sorted(call.capabilities),
        "kept": [
            {
                "provider": kept.target.provider,
                "model": kept.target.provider_model,
                "region": kept.target.region,
                "score": kept.score,
                "reason": kept.reason,
            }
            for kept in plan.targets
        ],
        "dropped": [
            {"provider": left.provider, "model": left.model, "reason": left.reason} for left in plan.dropped
        ]
        + call.skipped,
        **({"traceparent": call.traceparent} if call.traceparent else {}),
        **_protected(call),
    }


def _protected(call: Call) -> dict[str, Any]:
    """What privacy rules did: how many findings of which kind, never a finding."""
    if call.privacy is None:
        return {}
    return {
        "privacy": {
            "profiles": call.privacy.rules.profiles,
            "findings": dict(call.privacy.counts),
            "unscanned": call.privacy.unscanned,
            "guardrails": call.privacy.flags,
        }
    }


def encode_unknown(id_text: str, opened: Mapping[str, Any]) -> bytes:
    """The record of a call whose worker died: the worst case as cost, nothing as price; see admit.open_record."""
    worst = opened["worst_cost_pico"]
    shared = (
        opened["tenant"],
        opened["key"],
        opened["plan_version"],
        opened["price_currency"],
        opened["feature"],
        opened["end_user"],
        opened["operation"],
        opened["request_model"],
        "",
        opened["policy"],
        opened["is_stream"],
        opened.get("kind", "usage"),
        opened.get("experiment", ""),
        opened.get("arm", ""),
        opened.get("regions"),
        opened.get("is_discreet", False),
    )
    attempt: tuple[Any, ...] = (
        opened["attempt"],
        opened["model"],
        opened["provider"],
        opened["provider_model"],
        opened["endpoint"],
        opened["region"],
        Status.UNKNOWN,
        "worker_lost",
        0,
        "unknown",
        {},
        worst,
        opened["cost_currency"],
        0,
        None if worst is None else {"unknown": worst},
        0,
        None,
        opened.get("is_own", False),
    )
    tags = opened.get("tags", {})
    log: tuple[Any, ...] = (500, "internal_error", "The worker died during the call.", "", "", tags, 0, {})
    rows = [*opened.get("earlier", ()), attempt]
    return orjson.dumps((VERSION, id_text, shared, rows, log, opened.get("sample")))


@dataclass(frozen=True, slots=True)
class Closed:
    """A closed call, decoded: its ledger rows, and its log row or (a shadow) its sample; an evaluation has neither."""

    request_id: UUID
    rows: list[UsageRecord]
    log: LogEntry | None
    sample: SampleEntry | None


def decode(payload: bytes) -> Closed:
    """What one closed call leaves in the database. Raises ValueError for anything else."""
    version, id_text, shared, attempts, log, *more = orjson.loads(payload)
    if version == 1:
        shared = (*shared, "usage", "", "", None, False)
    elif version == 2:
        shared = (*shared, None, False)
    elif version != VERSION:
        msg = f"a usage record of version {version}, and this code knows 1 to {VERSION}"
        raise ValueError(msg)
    request_id = UUID(id_text)
    occurred_at = instant_of(request_id)
    kind = shared[11]
    rows = [
        _ledger_row(request_id, occurred_at, shared, row, log[5], is_last=number == len(attempts))
        for number, row in enumerate(attempts, 1)
    ]
    if kind == "usage":
        return Closed(request_id, rows, _log_entry(request_id, occurred_at, shared, attempts, log), None)
    sample = more[0] if more else None
    if sample is None:
        return Closed(request_id, rows, None, None)
    return Closed(request_id, rows, None, sample_of(request_id, occurred_at, shared, attempts, log, sample))


def _ledger_row(
    request_id: UUID,
    occurred_at: datetime,
    shared: Sequence[Any],
    row: Sequence[Any],
    tags: Mapping[str, str],
    *,
    is_last: bool,
) -> UsageRecord:
    (
        tenant,
        key,
        plan_version,
        currency,
        feature,
        end_user,
        operation,
        request_model,
        tier,
        policy,
        is_stream,
        kind,
    ) = shared[:12]
    (attempt, model, provider, provider_model, endpoint, region, status, error, _, source, units) = row[:11]
    (cost_pico, cost_currency, price_pico, components, latency_ms, first_byte_ms) = row[11:17]
    return UsageRecord(
        occurred_at=occurred_at,
        request_id=request_id,
        attempt=attempt,
        kind=kind,
        tenant_id=UUID(tenant),
        api_key_id=UUID(key),
        plan_version_id=UUID(plan_version),
        feature=feature,
        end_user=end_user,
        operation=operation,
        request_model=request_model,
        model=model,
        provider=provider,
        provider_model=provider_model,
        endpoint_id=UUID(endpoint),
        region=region,
        service_tier=tier,
        policy=policy,
        status=status,
        error_type=error,
        is_final=is_last and kind == "usage",
        is_stream=is_stream,
        is_byok=len(row) > 17 and row[17],
        usage_source=source,
        input_tokens=units.get("input", 0),
        cache_read_tokens=units.get("cache_read", 0),
        cache_write_tokens=units.get("cache_write", 0) + units.get("cache_write_1h", 0),
        output_tokens=units.get("output", 0),
        reasoning_tokens=units.get("reasoning", 0),
        other_units={name: count for name, count in units.items() if name not in LEDGER_UNITS} or None,
        cost_pico=cost_pico,
        cost_currency=cost_currency,
        price_pico=price_pico,
        price_currency=currency,
        cost_components=components,
        latency_ms=latency_ms,
        first_byte_ms=first_byte_ms,
        tags=tags or None,
        tenant_regions=shared[14],
    )


def _log_entry(
    request_id: UUID,
    occurred_at: datetime,
    shared: Sequence[Any],
    attempts: Sequence[Sequence[Any]],
    log: Sequence[Any],
) -> LogEntry:
    (tenant, key, _, currency, feature, end_user, operation, request_model, _, policy, is_stream) = shared[
        :11
    ]
    (experiment, arm, regions, is_discreet) = shared[12:]
    (status, code, message, finish_reason, response_model, tags, latency_ms, route) = log
    if is_discreet:  # zero retention: the log tells nothing about anybody
        end_user, message, tags = "", "", {}
    last = attempts[-1] if attempts else None
    units: Mapping[str, int] = last[10] if last else {}
    usage = Usage(units)
    costs = [row[11] for row in attempts]
    return LogEntry(
        occurred_at=occurred_at,
        request_id=request_id,
        tenant_id=UUID(tenant),
        api_key_id=UUID(key),
        operation=operation,
        request_model=request_model,
        model=response_model or (last[1] if last else ""),
        provider=last[2] if last else "",
        region=last[5] if last else "",
        policy=policy,
        status=status,
        error_code=code,
        error_message=message,
        finish_reason=finish_reason,
        is_stream=is_stream,
        feature=feature,
        end_user=end_user,
        tags=tags,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        usage_source=last[9] if last else "provider",
        cost_pico=None if None in costs else sum(costs),
        price_pico=last[13] if last else 0,
        cost_currency=last[12] if last else "USD",
        price_currency=currency,
        latency_ms=latency_ms,
        first_byte_ms=last[16] if last else None,
        attempts=[
            {
                "provider": row[2],
                "model": row[3],
                "region": row[5],
                "status": row[6],
                "error": row[7],
                "http_status": row[8],
                "latency_ms": row[15],
                "first_byte_ms": row[16],
                "cost_pico": row[11],
                "cost_components": row[14],
                "units": row[10],
            }
            for row in attempts
        ],
        route=route,
        experiment=experiment,
        arm=arm,
        tenant_regions=regions,
        kept_in=settings.TOLLHOUSE_REGION,
    )
