"""A corrected cost rate over a window: dry run, approval, deltas in the ledger. The row carries the truth.

Any worker may die at any point; the next one goes on. Each delta is what the corrected cost differs by from
all that is booked for its attempt, under an id that follows from re-rating and attempt: a repetition finds it
there, or finds nothing left to correct. What customers were charged never moves.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

import orjson
from django.db import transaction
from django.utils import timezone

from billing.models import ReRating
from billing.rating.money import amount_text
from billing.rerating.attempts import Attempt, Scope, attempts, slices
from billing.usage.derived import derived_id
from billing.usage.ingest import ingest
from billing.usage.records import UsageRecord
from tenants import approvals, audit
from tenants.errors import ApiError
from tenants.models import Tenant
from tenants.principal import Principal

logger = logging.getLogger(__name__)

LEASE: Final = timedelta(seconds=60)
MAX_WINDOW: Final = timedelta(days=400)
MAX_TRIES: Final = 5
KEPT_ERROR: Final = 500
SHOWN: Final = 200

_Status = ReRating.Status
_AT_WORK: Final = (_Status.RUNNING, _Status.APPLYING)
_WAITING: Final = (_Status.QUEUED, _Status.APPROVED)


@dataclass(frozen=True, slots=True)
class Costed:
    """The corrected cost of an attempt (R2), by component and in sum."""

    total_pico: int
    components: Mapping[str, int]
    currency: str


class Pricer(Protocol):
    """The price book, which is not this floor's."""

    def freeze(self, *, rerating: ReRating) -> Any:
        """The complete rates to use, as JSON: the book with the row's corrections. Raises ApiError."""

    def costing(self, frozen: Any) -> Callable[[Attempt], Costed | None]:
        """Cost by the frozen rates; None where they have none."""


class Superseded(Exception):
    """Another worker has taken this re-rating over."""


def ask(
    *,
    reason: str,
    start: datetime,
    end: datetime,
    provider: str,
    provider_model: str,
    tenants: Sequence[str],
    rates: Sequence[Mapping[str, Any]],
    needs_two: bool,
    actor: Principal,
) -> ReRating:
    """Queue the dry run of a correction. `rates` empty: by the price book as it stands then.

    Raises ApiError invalid_request for a window or tenants that cannot be. Where TOLLHOUSE_TWO_PERSON
    names re-rating, a second person must approve whatever was asked for.
    """
    if not start < end or end - start > MAX_WINDOW:
        raise ApiError("invalid_request", f"A window of up to {MAX_WINDOW.days} days.", param="end")
    if end > timezone.now():
        raise ApiError("invalid_request", "Only calls that have been made can be re-rated.", param="end")
    known = set(Tenant.objects.filter(slug__in=tenants).values_list("slug", flat=True))
    if unknown := set(tenants) - known:
        raise ApiError("invalid_request", f"There is no tenant {min(unknown)!r}.", param="tenants")
    with transaction.atomic():
        row = ReRating.objects.create(
            reason=reason,
            start=start,
            end=end,
            provider=provider,
            provider_model=provider_model,
            tenants=list(tenants),
            rates=list(rates),
            needs_two=needs_two or approvals.is_on("rerating"),
            created_by=actor.label,
            created_by_id=actor.id,
        )
        _audit(row, "create", actor, reason=reason, start=start, end=end, rates=row.rates)
    return row


def approve(*, row: ReRating, digest: str, actor: Principal, now: datetime) -> ReRating:
    """Let the deltas be appended. `digest` is that of the dry run that was looked at.

    Raises ApiError conflict unless the dry run is done and is the one named; permission_denied for whoever
    asked, where two are needed.
    """
    with transaction.atomic():
        held = ReRating.objects.select_for_update().get(pk=row.pk)
        if held.status != _Status.READY:
            raise ApiError("conflict", f"A re-rating that is {held.status} cannot be approved.")
        if held.digest != digest:
            raise ApiError("conflict", "This is not the dry run that would be applied.", param="digest")
        if held.needs_two and approvals.is_same_person(actor, held.created_by_id):
            raise ApiError("permission_denied", "Somebody else must approve this re-rating.")
        held.status, held.tries, held.leased_until = _Status.APPROVED, 0, None
        held.approved_by, held.approved_by_id, held.approved_at = actor.label, actor.id, now
        held.save()
        _audit(held, "approve", actor, digest=digest, total=(held.report or {}).get("total"))
    return held


def reject(*, row: ReRating, actor: Principal) -> ReRating:
    """Let it be. Raises ApiError conflict once it is approved or over."""
    with transaction.atomic():
        held = ReRating.objects.select_for_update().get(pk=row.pk)
        if held.status not in (_Status.QUEUED, _Status.READY):
            raise ApiError("conflict", f"A re-rating that is {held.status} cannot be rejected.")
        held.status, held.finished_at = _Status.REJECTED, timezone.now()
        held.save()
        _audit(held, "reject", actor)
    return held


# ------------------------------------------------------------------ running


def run_next(*, pricer: Pricer) -> bool:
    """Take one re-rating one step on (dry run, or appending); False if none waits."""
    row = _claim(timezone.now())
    if row is None:
        return False
    try:
        if row.tries > MAX_TRIES:
            raise ApiError("invalid_request", f"Its worker died {MAX_TRIES} times.")
        if row.status == _Status.RUNNING:
            _dry_run(row, pricer)
        else:
            _apply(row, pricer)
    except Superseded:
        logger.warning("re-rating %s was taken over", row.pk)
    except ApiError as error:
        _fail(row, error.message)
    except Exception as error:
        # Whatever went wrong, whoever asked must read that it did; the log has the rest.
        logger.exception("re-rating %s failed", row.pk)
        _fail(row, f"An internal error ({type(error).__name__}).")
    return True


def _claim(now: datetime) -> ReRating | None:
    """One at a time for all: a delta is the difference to what is booked, and two must not see the same."""
    with transaction.atomic():
        rows = list(
            ReRating.objects.select_for_update().filter(status__in=(*_AT_WORK, *_WAITING)).order_by("id")
        )
        if not rows or any(row.leased_until is not None and row.leased_until >= now for row in rows):
            return None
        row = min(rows, key=lambda each: each.status not in _AT_WORK)
        row.status = _Status.RUNNING if row.status in (_Status.QUEUED, _Status.RUNNING) else _Status.APPLYING
        row.leased_until, row.tries = now + LEASE, row.tries + 1
        row.save(update_fields=("status", "leased_until", "tries", "updated_at"))
    return row


def _renew(row: ReRating, **values: Any) -> None:
    """Go on holding it. Raises Superseded when somebody else does."""
    mine = ReRating.objects.filter(pk=row.pk, tries=row.tries, status=row.status)
    if not mine.update(leased_until=timezone.now() + LEASE, **values):
        raise Superseded


def _fail(row: ReRating, error: str) -> None:
    ReRating.objects.filter(pk=row.pk, tries=row.tries, status=row.status).update(
        status=_Status.FAILED, error=error[:KEPT_ERROR], leased_until=None, finished_at=timezone.now()
    )


def scope_of(row: ReRating) -> Scope:
    """What the row is about."""
    ids = (
        tuple(Tenant.objects.filter(slug__in=row.tenants).values_list("id", flat=True)) if row.tenants else ()
    )
    return Scope(row.start, row.end, row.provider, row.provider_model, ids)


# ------------------------------------------------------------------ the dry run


@dataclass(slots=True)
class Tally:
    """Sums in pico-units of one currency. `charged` is what customers were, which stays."""

    attempts: int = 0
    changed: int = 0
    before_pico: int = 0
    delta_pico: int = 0
    charged_pico: int = 0

    def shown(self) -> dict[str, Any]:
        after = self.before_pico + self.delta_pico
        return {
            "attempts": self.attempts,
            "changed": self.changed,
            "cost_before": amount_text(self.before_pico),
            "cost_after": amount_text(after),
            "delta": amount_text(self.delta_pico),
            "charged": amount_text(self.charged_pico),
            "margin_before": amount_text(self.charged_pico - self.before_pico),
            "margin_after": amount_text(self.charged_pico - after),
        }


@dataclass(slots=True)
class Diff:
    """What a re-rating changes, altogether and by tenant and model; each by currency.

    `unknown` attempts have no counts to rate, `unpriced` no rate: both stay as they are booked. `foreign`
    have a card in another currency than they were booked in: those too.
    """

    total: dict[str, Tally] = field(default_factory=dict)
    tenants: dict[tuple[str, str], Tally] = field(default_factory=dict)
    models: dict[tuple[str, str], Tally] = field(default_factory=dict)
    unknown: int = 0
    unpriced: int = 0
    foreign: int = 0
    newly_priced: int = 0

    def count(self, attempt: Attempt, delta_pico: int) -> None:
        currency = attempt.columns["cost_currency"]
        for tally in (
            self.total.setdefault(currency, Tally()),
            self.tenants.setdefault((str(attempt.columns["tenant_id"]), currency), Tally()),
            self.models.setdefault((attempt.columns["model"], currency), Tally()),
        ):
            tally.attempts += 1
            tally.changed += delta_pico != 0
            tally.before_pico += attempt.booked_pico or 0
            tally.delta_pico += delta_pico
            if attempt.columns["price_currency"] == currency:
                tally.charged_pico += attempt.price_pico
        self.newly_priced += attempt.booked_pico is None


def delta_of(attempt: Attempt, costed: Costed) -> int:
    """R22: the new cost, rounded as in R2, less what is booked."""
    return costed.total_pico - (attempt.booked_pico or 0)


def _dry_run(row: ReRating, pricer: Pricer) -> None:
    frozen = pricer.freeze(rerating=row)
    cost_of = pricer.costing(frozen)
    scope, diff = scope_of(row), Diff()
    for begin, until in slices(scope):
        for attempt in attempts(scope, begin, until):
            costed = _costed(attempt, cost_of, diff)
            if costed is not None:
                diff.count(attempt, delta_of(attempt, costed))
        _renew(row)
    report = _shown(diff)
    digest = hashlib.sha256(orjson.dumps([report, frozen], option=orjson.OPT_SORT_KEYS)).hexdigest()
    _renew(row, report=report, frozen=frozen, digest=digest, error="")
    ReRating.objects.filter(pk=row.pk, tries=row.tries, status=_Status.RUNNING).update(
        status=_Status.READY, leased_until=None, tries=0
    )


def _costed(attempt: Attempt, cost_of: Callable[[Attempt], Costed | None], diff: Diff) -> Costed | None:
    if not attempt.is_known:
        diff.unknown += 1
        return None
    costed = cost_of(attempt)
    if costed is None:
        diff.unpriced += 1
        return None
    if attempt.units and costed.currency != attempt.columns["cost_currency"]:
        diff.foreign += 1
        return None
    return costed


def _shown(diff: Diff) -> dict[str, Any]:
    ids = {tenant for tenant, _ in diff.tenants}
    slugs = {str(pk): slug for pk, slug in Tenant.objects.filter(id__in=ids).values_list("id", "slug")}

    def rows(name: str, tallies: Mapping[tuple[str, str], Tally], labels: Mapping[str, str]) -> list[Any]:
        ordered = sorted(tallies.items(), key=lambda each: (-abs(each[1].delta_pico), each[0]))
        return [
            {name: labels.get(label, label), "currency": currency, **tally.shown()}
            for (label, currency), tally in ordered[:SHOWN]
        ]

    return {
        "total": {currency: tally.shown() for currency, tally in sorted(diff.total.items())},
        "tenants": rows("tenant", diff.tenants, slugs),
        "models": rows("model", diff.models, {}),
        "unknown": diff.unknown,
        "unpriced": diff.unpriced,
        "foreign": diff.foreign,
        "newly_priced": diff.newly_priced,
    }


# ------------------------------------------------------------------ appending


def _apply(row: ReRating, pricer: Pricer) -> None:
    cost_of = pricer.costing(row.frozen)
    scope, ignored = scope_of(row), Diff()
    begin_at = None if row.position is None else datetime.fromisoformat(row.position)
    appended = row.appended
    for begin, until in slices(scope, begin=begin_at):
        entries = []
        for attempt in attempts(scope, begin, until):
            costed = _costed(attempt, cost_of, ignored)
            if costed is not None and delta_of(attempt, costed):
                entries.append(entry_of(row, attempt, costed))
        _renew(row)
        if entries:
            stored = ingest(entries, recorded_at=timezone.now())
            if stored.conflicts or stored.rejected:
                raise ApiError(
                    "conflict", f"The ledger refused {len(stored.conflicts + stored.rejected)} deltas."
                )
            appended += stored.inserted
        _renew(row, position=until.isoformat(), appended=appended)
    ReRating.objects.filter(pk=row.pk, tries=row.tries, status=_Status.APPLYING).update(
        status=_Status.DONE, leased_until=None, finished_at=timezone.now()
    )


def entry_of(row: ReRating, attempt: Attempt, costed: Costed) -> UsageRecord:
    """The `rerate` entry of an attempt: the difference in cost, by component where that is known."""
    parts = None
    if attempt.components is not None:
        names = {*attempt.components, *costed.components}
        both = {
            name: costed.components.get(name, 0) - attempt.components.get(name, 0) for name in sorted(names)
        }
        parts = {name: pico for name, pico in both.items() if pico}
    return UsageRecord(
        occurred_at=attempt.occurred_at,
        request_id=derived_id(
            attempt.occurred_at,
            b"rerate",
            row.pk.bytes,
            attempt.request_id.bytes,
            attempt.attempt.to_bytes(2),
        ),
        attempt=attempt.attempt,
        kind="rerate",
        ref_request_id=attempt.request_id,
        cost_pico=delta_of(attempt, costed),
        price_pico=0,
        cost_components=parts,
        latency_ms=0,
        **attempt.columns,
    )


def _audit(row: ReRating, verb: str, actor: Principal, **after: Any) -> None:
    audit.record(
        principal=actor,
        action=f"rerating.{verb}",
        object_type="rerating",
        object_id=row.pk,
        tenant=None,
        after={"provider": row.provider, "provider_model": row.provider_model, **after},
    )
