"""Putting a tenant on a plan and moving it to another. One transaction each, audited, announced to the workers."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Any, cast
from uuid import UUID
from zoneinfo import ZoneInfo

from django.db import transaction

from billing.invoicing.period import Period, period_at, segment_at, segments_of
from billing.models import Plan, PlanVersion, Subscription, SubscriptionChange
from billing.rating.prices import compile_charges
from billing.rating.proration import Mode, Unused, prorate
from tenants import approvals, audit, versions
from tenants.approvals import Draft
from tenants.errors import ApiError
from tenants.models import Tenant
from tenants.principal import SYSTEM, Principal

logger = logging.getLogger(__name__)


def current_version(tenant: Tenant) -> PlanVersion:
    """The plan version in force for the tenant: its subscription's, else the default plan's newest."""
    subscription = (
        Subscription.objects.for_tenant(tenant)
        .filter(end__isnull=True)
        .select_related("plan_version__plan")
        .first()
    )
    if subscription is not None:
        return subscription.plan_version
    default: PlanVersion = (
        PlanVersion.objects.filter(plan__is_default=True).select_related("plan").order_by("-number")[:1].get()
    )
    return default


def newest_version(plan: Plan) -> PlanVersion:
    """The version of the plan that is sold now. Raises ApiError invalid_request for a plan without one."""
    version = plan.versions.select_related("plan").order_by("-number").first()
    if version is None:
        raise ApiError("invalid_request", f"The plan {plan.slug} has no version yet.", param="plan")
    return version


TERMS = (
    "currency", "interval", "base_amount", "is_in_advance", "trial_days", "min_commitment", "proration",
    "base_tax", "charges", "allowed_models", "limits", "features",
)  # fmt: skip
"""The columns of a plan version that are its wording."""


def terms_of(version: PlanVersion) -> dict[str, Any]:
    """A version's wording, for `publish`: what a new version does not change, it keeps."""
    return {name: getattr(version, name) for name in TERMS}


def publish(*, plan: Plan, terms: dict[str, Any], actor: Principal) -> PlanVersion:
    """A new immutable version of the plan. Raises ApiError invalid_request for charges that cannot be rated."""
    compile_charges(terms.get("charges", []), terms.get("currency", "USD"))
    with transaction.atomic():
        versions.bump("billing")
        last = PlanVersion.objects.select_for_update().filter(plan=plan).order_by("-number").first()
        if last is not None:
            _gate(plan, last, terms, actor)
        version = PlanVersion.objects.create(plan=plan, number=last.number + 1 if last else 1, **terms)
        audit.record(
            principal=actor,
            action="plan.publish",
            object_type="plan",
            object_id=plan.id,
            tenant=None,
            before=None if last is None else {"version": last.number, **_shown(terms_of(last))},
            after={"version": version.number, **_shown(terms)},
        )
    return version


_CAPS = ("limit_rpm", "limit_tpm", "max_concurrent")


def _gate(plan: Plan, last: PlanVersion, terms: dict[str, Any], actor: Principal) -> None:
    """Whatever changes what is charged is a change of prices, a limit raised or taken away one of caps."""
    held = terms_of(last)
    shown, before = _shown(terms), _shown(held)
    free = ("limits", "allowed_models", "features")
    priced = [name for name in TERMS if name not in free]
    kinds = ["prices"] if any(shown.get(name, before[name]) != before[name] for name in priced) else []
    old, new = held["limits"], terms.get("limits", {})
    if any(name in old and (name not in new or new[name] > old[name]) for name in _CAPS):
        kinds.append("caps")
    for kind in kinds:
        approvals.gate(
            Draft(
                kind=kind,
                operation="plan.publish",
                payload={"plan": plan.slug, "terms": shown},
                scope="plans:write",
                object_type="plan",
                object_id=plan.slug,
                tenant=None,
                before={"version": last.number, **before},
                after={"version": last.number + 1, **before, **shown},
            ),
            actor,
        )


def _shown(terms: Mapping[str, Any]) -> dict[str, Any]:
    """Terms as JSON: amounts as text."""
    return {
        name: f"{Decimal(value):.4f}" if name in ("base_amount", "min_commitment") else value
        for name, value in terms.items()
    }


@approvals.executor("plan.publish")
def _publish_approved(payload: Mapping[str, Any], actor: Principal) -> None:
    plan = Plan.objects.filter(slug=payload["plan"]).first()
    if plan is None:
        raise ApiError("conflict", "The plan is gone.")
    amounts = ("base_amount", "min_commitment")
    terms = {name: Decimal(value) if name in amounts else value for name, value in payload["terms"].items()}
    publish(plan=plan, terms=terms, actor=actor)


def subscribe(
    *, tenant: Tenant, plan: Plan, start: datetime, actor: Principal, anchor_day: int = 1
) -> Subscription:
    """The tenant's first subscription. Raises ApiError: conflict when it has one, invalid_request."""
    with transaction.atomic():
        versions.bump("billing")
        if Subscription.objects.for_tenant(tenant).filter(end__isnull=True).exists():
            raise ApiError("conflict", f"{tenant.slug} is on a plan already; change it instead.")
        made = _begin(tenant=tenant, plan=plan, start=start, anchor_day=anchor_day, before=None, actor=actor)
        if made.plan_version.trial_days:
            made.trial_end = trial_end(start, made.plan_version.trial_days, tenant.timezone)
            made.save(update_fields=("trial_end", "updated_at"))
        return made


def change_plan(*, tenant: Tenant, plan: Plan, at: datetime, actor: Principal) -> Subscription:
    """End the present subscription at `at` and begin the next there; old calls keep the terms they were made under."""
    with transaction.atomic():
        versions.bump("billing")
        present = Subscription.objects.select_for_update().filter(tenant=tenant, end__isnull=True).first()
        before = None
        anchor_day = 1
        trial = None
        if present is not None:
            before, anchor_day, trial = str(present.plan_version), present.anchor_day, present.trial_end
            if at <= present.start:
                raise ApiError(
                    "invalid_request", "A change must come after the present plan's start.", param="at"
                )
            present.end = at
            present.save(update_fields=("end", "updated_at"))
            _withdraw(tenant)
        made = _begin(tenant=tenant, plan=plan, start=at, anchor_day=anchor_day, before=before, actor=actor)
        if trial is not None and trial > at:
            made.trial_end = trial
            made.save(update_fields=("trial_end", "updated_at"))
        return made


def cancel(*, tenant: Tenant, at: datetime, actor: Principal) -> Subscription:
    """End the subscription at `at`; from then on the tenant is on the default plan. What was paid in advance is
    not credited.

    Raises ApiError: conflict without a subscription, invalid_request for a time before its start.
    """
    with transaction.atomic():
        versions.bump("billing")
        present = _present(tenant)
        if at <= present.start:
            raise ApiError("invalid_request", "An end must come after the plan's start.", param="at")
        present.end = at
        present.save(update_fields=("end", "updated_at"))
        _withdraw(tenant)
        audit.record(
            principal=actor,
            action="subscription.cancel",
            object_type="subscription",
            object_id=present.id,
            tenant=tenant,
            before={"plan": str(present.plan_version)},
            after={"end": at.isoformat()},
        )
    return present


# ------------------------------------------------------------------ at the end of the period


def schedule(*, tenant: Tenant, plan: Plan | None, now: datetime, actor: Principal) -> SubscriptionChange:
    """Change to `plan` (None: cancel) when the running period ends, in place of what was to become of it.

    Raises ApiError: conflict without a subscription, invalid_request for a plan that cannot be sold to the tenant.
    """
    if plan is not None:
        _check_sellable(tenant, newest_version(plan))
    with transaction.atomic():
        versions.bump("billing")
        present = _present(tenant)
        _withdraw(tenant)
        made = SubscriptionChange.objects.create(
            tenant=tenant, subscription=present, plan=plan, at=_running_period(tenant, now).end
        )
        audit.record(
            principal=actor,
            action="subscription.schedule",
            object_type="subscription",
            object_id=present.id,
            tenant=tenant,
            before={"plan": str(present.plan_version)},
            after={"plan": plan.slug if plan else None, "at": made.at.isoformat()},
        )
    return made


def withdraw(*, tenant: Tenant, actor: Principal) -> SubscriptionChange:
    """Let the subscription go on as it is. Raises ApiError not_found where nothing was to become of it."""
    with transaction.atomic():
        versions.bump("billing")
        held = _withdraw(tenant)
        if held is None:
            raise ApiError("not_found", "No change is scheduled.")
        audit.record(
            principal=actor,
            action="subscription.keep",
            object_type="subscription",
            object_id=held.subscription_id,
            tenant=tenant,
            before={"at": held.at.isoformat()},
        )
    return held


def apply_due(*, now: datetime) -> int:
    """Carry out what is due, each at the very end of its period and in a transaction of its own. Returns how many.

    What has become impossible since is refused, said on its row and in the log.
    """
    done = 0
    due = SubscriptionChange.objects.filter(state=SubscriptionChange.State.PENDING, at__lte=now)
    for change_id in list(due.order_by("at").values_list("pk", flat=True)):
        try:
            done += _apply(change_id)
        except ApiError as error:
            logger.error("subscription change %s is refused: %s", change_id, error)
            SubscriptionChange.objects.filter(pk=change_id, state=SubscriptionChange.State.PENDING).update(
                state=SubscriptionChange.State.REFUSED, detail=error.message[:300]
            )
    return done


def _apply(change_id: UUID) -> int:
    with transaction.atomic():
        versions.bump("billing")
        held = (
            SubscriptionChange.objects.select_for_update(of=("self",))
            .select_related("tenant", "plan", "subscription")
            .filter(pk=change_id, state=SubscriptionChange.State.PENDING)
            .first()
        )
        if held is None or held.subscription.end is not None:
            return 0
        held.state = SubscriptionChange.State.DONE
        held.save(update_fields=("state", "updated_at"))
        if held.plan is None:
            cancel(tenant=held.tenant, at=held.at, actor=SYSTEM)
        else:
            change_plan(tenant=held.tenant, plan=held.plan, at=held.at, actor=SYSTEM)
    return 1


# ------------------------------------------------------------------ what a change would cost


@dataclass(frozen=True, slots=True)
class ChangePreview:
    """R10: what a change at `at` credits and charges of amounts paid in advance, in minor units before tax."""

    at: datetime
    currency: str
    mode: Mode
    unused: int
    whole: int
    credit_minor: int
    charge_minor: int

    @property
    def net_minor(self) -> int:
        return self.credit_minor + self.charge_minor


def preview_change(*, tenant: Tenant, plan: Plan, at: datetime) -> ChangePreview:
    """The proration lines that the next document would carry. Amounts in arrears are due with their period.

    Raises ApiError invalid_request for a plan that cannot be sold to the tenant, or a time without a period.
    """
    new = newest_version(plan)
    _check_sellable(tenant, new)
    period = _running_period(tenant, at)
    part = segment_at(segments_of(tenant), at)
    old = part.version if part is not None and part.is_subscribed and part.paid_from <= at else None
    has_credit = old is not None and old.is_in_advance
    mode = cast("Mode", new.proration if new.is_in_advance or old is None else old.proration)
    unused, whole = period.days(at, period.cycle_end, mode)
    made = prorate(
        unused=Unused(unused, whole),
        old_price=old.base_amount if old is not None and has_credit else Decimal(0),
        new_price=new.base_amount if new.is_in_advance else Decimal(0),
        currency=new.currency,
    )
    return ChangePreview(at, new.currency, mode, unused, whole, made.credit_minor, made.charge_minor)


def _running_period(tenant: Tenant, at: datetime) -> Period:
    period = period_at(segments_of(tenant), tenant.timezone, at)
    if period is None:
        raise ApiError("invalid_request", "The tenant has no period then.", param="at")
    return period


def _present(tenant: Tenant) -> Subscription:
    """Locked. Raises ApiError conflict where there is none."""
    present = (
        Subscription.objects.select_for_update(of=("self",))
        .select_related("plan_version__plan")
        .filter(tenant=tenant, end__isnull=True)
        .first()
    )
    if present is None:
        raise ApiError("conflict", f"{tenant.slug} has no subscription.")
    return present


def _withdraw(tenant: Tenant) -> SubscriptionChange | None:
    held = (
        SubscriptionChange.objects.select_for_update()
        .filter(tenant=tenant, state=SubscriptionChange.State.PENDING)
        .first()
    )
    if held is not None:
        held.state = SubscriptionChange.State.WITHDRAWN
        held.save(update_fields=("state", "updated_at"))
    return held


def _check_sellable(tenant: Tenant, version: PlanVersion) -> None:
    if version.currency != tenant.currency:
        raise ApiError(
            "invalid_request",
            f"The plan is in {version.currency}, the tenant in {tenant.currency}.",
            param="plan",
        )


def trial_end(start: datetime, days: int, zone: str) -> datetime:
    """The local midnight that ends a trial of so many days, the day of the start being the first (UTC)."""
    last = start.astimezone(ZoneInfo(zone)).date() + timedelta(days=days)
    return datetime.combine(last, time(), ZoneInfo(zone)).astimezone(UTC)


def _begin(
    *, tenant: Tenant, plan: Plan, start: datetime, anchor_day: int, before: str | None, actor: Principal
) -> Subscription:
    version = newest_version(plan)
    _check_sellable(tenant, version)
    made = Subscription.objects.create(
        tenant=tenant, plan_version=version, start=start, anchor_day=anchor_day
    )
    audit.record(
        principal=actor,
        action="subscription.change",
        object_type="subscription",
        object_id=made.id,
        tenant=tenant,
        before={"plan": before} if before else None,
        after={"plan": str(version)},
    )
    return made
