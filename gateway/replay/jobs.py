"""A replay's life: asked for, run by whichever worker finds it, promoted. The row carries the truth.

A worker that dies leaves its lease behind; the next one begins the replay anew, which changes nothing but
the row.
"""

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

import tenants.snapshot
from billing.models import Plan
from billing.rating.prices import compile_charges
from billing.subscriptions import newest_version, publish, terms_of
from gateway.models import Replay
from gateway.replay import recorded
from gateway.replay.candidate import Candidate, world_of
from gateway.replay.report import report
from gateway.replay.run import replay
from routing.catalog import rates as rate_book
from routing.catalog.rates import NewRate
from routing.models import RoutingPolicy
from routing.policies import wordings
from routing.policies.wordings import Wording
from tenants import audit
from tenants.errors import ApiError
from tenants.models import Tenant
from tenants.principal import Principal

logger = logging.getLogger(__name__)

LEASE = timedelta(seconds=60)
MAX_WINDOW = timedelta(days=92)
MAX_CALLS = 1_000_000
MAX_TRIES = 3
KEPT_ERROR = 500


def ask(
    *,
    candidate: Mapping[str, Any],
    start: datetime,
    end: datetime,
    tenants: Sequence[str],
    is_whole: bool,
    actor: Principal,
) -> Replay:
    """Queue a replay of the calls in [start, end). Raises ApiError invalid_request for what cannot run."""
    if not start < end:
        raise ApiError("invalid_request", "The window must end after its start.", param="end")
    if end - start > MAX_WINDOW:
        raise ApiError("invalid_request", f"A window is at most {MAX_WINDOW.days} days.", param="start")
    known = set(Tenant.objects.filter(slug__in=tenants).values_list("slug", flat=True))
    if unknown := set(tenants) - known:
        raise ApiError("invalid_request", f"There is no tenant {min(unknown)!r}.", param="tenants")
    candidate_of(candidate)
    with transaction.atomic():
        row = Replay.objects.create(
            candidate=dict(candidate),
            start=start,
            end=end,
            tenants=list(tenants),
            is_whole=is_whole,
            created_by=actor.label,
        )
        audit.record(
            principal=actor,
            action="replay.create",
            object_type="replay",
            object_id=row.id,
            tenant=None,
            after={"candidate": row.candidate, "start": start.isoformat(), "end": end.isoformat()},
        )
    return row


def candidate_of(data: Mapping[str, Any]) -> Candidate:
    """The checked candidate of its stored form. Raises ApiError invalid_request."""
    version = None
    if wording := data.get("wording"):
        version = wordings.draft(policy=policy_of(data), wording=Wording(**wording))
    rates = [
        NewRate(**{**rate, "price": Decimal(rate["price"]), "effective_from": timezone.now()})
        for rate in data.get("rates") or ()
    ]
    charges, plan = data.get("charges"), data.get("plan") or ""
    if charges is not None:
        compile_charges(charges, newest_version(_plan(plan)).currency)
    if version is None and not rates and charges is None:
        raise ApiError("invalid_request", "Name a wording, rates or charges to try out.", param="candidate")
    return Candidate(version=version, rates=rates, plan=plan, charges=charges)


def policy_of(data: Mapping[str, Any]) -> RoutingPolicy:
    """The policy that a candidate's wording belongs to. Raises ApiError invalid_request."""
    slug, owner = data.get("policy") or "", data.get("policy_tenant") or None
    policy = RoutingPolicy.objects.filter(slug=slug, tenant__slug=owner).select_related("tenant").first()
    if policy is None:
        raise ApiError("invalid_request", f"There is no policy {slug!r}.", param="policy")
    return policy


def _plan(slug: str) -> Plan:
    plan = Plan.objects.filter(slug=slug).first()
    if plan is None:
        raise ApiError("invalid_request", f"There is no plan {slug!r}.", param="plan")
    return plan


# ------------------------------------------------------------------ running


def run_next() -> bool:
    """Run one replay that waits, or whose worker died; False if there is none."""
    row = _claim(timezone.now())
    if row is None:
        return False
    try:
        answer = _run(row)
    except ApiError as error:  # the configuration has moved on since it was asked for
        _finish(row, Replay.Status.FAILED, error=error.message)
    except Exception as error:
        # Whatever went wrong, whoever asked must read that it did; the log has the rest.
        logger.exception("replay %s failed", row.pk)
        _finish(row, Replay.Status.FAILED, error=f"An internal error ({type(error).__name__}).")
    else:
        _finish(row, Replay.Status.DONE, answer=answer)
    return True


def _claim(now: datetime) -> Replay | None:
    waiting = Q(status=Replay.Status.QUEUED) | Q(status=Replay.Status.RUNNING, leased_until__lt=now)
    with transaction.atomic():
        row = Replay.objects.select_for_update(skip_locked=True).filter(waiting).order_by("id").first()
        if row is not None:
            row.status, row.leased_until, row.done, row.tries = (
                Replay.Status.RUNNING,
                now + LEASE,
                0,
                row.tries + 1,
            )
            row.save(update_fields=("status", "leased_until", "done", "tries", "updated_at"))
    return row


def _run(row: Replay) -> dict[str, Any]:
    if row.tries > MAX_TRIES:
        raise ApiError("invalid_request", f"Its worker died {MAX_TRIES} times.")
    world = world_of(candidate_of(row.candidate), since=row.start)
    scope = recorded.Scope(
        row.start,
        row.end,
        tuple(Tenant.objects.filter(slug__in=row.tenants).values_list("id", flat=True))
        if row.tenants
        else (),
        "" if row.is_whole else row.candidate.get("policy") or "",
    )
    calls = recorded.count(scope)
    if calls > MAX_CALLS:
        raise ApiError("invalid_request", f"{calls} calls are too many: at most {MAX_CALLS} at once.")
    Replay.objects.filter(pk=row.pk).update(calls=calls)

    def progress(done: int) -> None:
        _renew(row.pk, done)

    known = tenants.snapshot.load()
    outcome = replay(
        recorded.calls(scope),
        world,
        tenants=known,
        health=recorded.health(scope),
        as_policy=f"policy:{row.candidate['policy']}" if row.is_whole and world.is_rerouted else "",
        progress=progress,
    )
    return report(
        outcome,
        latencies=recorded.latencies(scope),
        targets=world.targets,
        tenants={tenant.id: tenant.slug for tenant in known.tenants.values()},
    )


def _renew(pk: UUID, done: int) -> None:
    Replay.objects.filter(pk=pk).update(done=done, leased_until=timezone.now() + LEASE)


def _finish(row: Replay, status: str, *, answer: dict[str, Any] | None = None, error: str = "") -> None:
    done = answer["total"]["calls"] if answer else row.done
    Replay.objects.filter(pk=row.pk, status=Replay.Status.RUNNING).update(
        status=status,
        report=answer,
        error=error[:KEPT_ERROR],
        done=done,
        leased_until=None,
        finished_at=timezone.now(),
    )


# ------------------------------------------------------------------ promoting


def promote(*, row: Replay, actor: Principal) -> Replay:
    """Put the candidate in force: the policy's next version, the rates from now on, the plan's next version.

    All its parts or none. Raises ApiError: conflict unless the replay is done and not promoted before.
    """
    with transaction.atomic():
        held = Replay.objects.select_for_update().get(pk=row.pk)
        if held.status != Replay.Status.DONE or held.promoted_at is not None:
            raise ApiError("conflict", "Only a finished replay can be promoted, and only once.")
        candidate = candidate_of(held.candidate)
        if candidate.version is not None:
            policy = candidate.version.policy
            wordings.change_policy(
                policy=policy,
                name=policy.name,
                is_enabled=policy.is_enabled,
                wording=wordings.wording_of(candidate.version),
                actor=actor,
            )
        if candidate.rates:
            rate_book.apply(
                rates=candidate.rates, digest=rate_book.preview(rates=candidate.rates).digest, actor=actor
            )
        if candidate.charges is not None:
            plan = _plan(candidate.plan)
            publish(
                plan=plan,
                terms=terms_of(newest_version(plan)) | {"charges": list(candidate.charges)},
                actor=actor,
            )
        held.promoted_at = timezone.now()
        held.save(update_fields=("promoted_at", "updated_at"))
        audit.record(
            principal=actor,
            action="replay.promote",
            object_type="replay",
            object_id=held.id,
            tenant=None,
            after={"candidate": held.candidate},
        )
    return held
