"""Putting a tenant on a plan and moving it to another. One transaction each, audited, announced to the workers."""

from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django.db import transaction

from billing.models import Plan, PlanVersion, Subscription
from billing.rating.prices import compile_charges
from tenants import audit, versions
from tenants.errors import ApiError
from tenants.models import Tenant
from tenants.principal import Principal


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
    "base_tax", "charges", "allowed_models", "limits",
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
        version = PlanVersion.objects.create(plan=plan, number=last.number + 1 if last else 1, **terms)
        audit.record(
            principal=actor,
            action="plan.publish",
            object_type="plan",
            object_id=plan.id,
            tenant=None,
            after={"version": version.number, "charges": version.charges},
        )
    return version


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
        made = _begin(tenant=tenant, plan=plan, start=at, anchor_day=anchor_day, before=before, actor=actor)
        if trial is not None and trial > at:
            made.trial_end = trial
            made.save(update_fields=("trial_end", "updated_at"))
        return made


def trial_end(start: datetime, days: int, zone: str) -> datetime:
    """The local midnight that ends a trial of so many days, the day of the start being the first (UTC)."""
    last = start.astimezone(ZoneInfo(zone)).date() + timedelta(days=days)
    return datetime.combine(last, time(), ZoneInfo(zone)).astimezone(UTC)


def _begin(
    *, tenant: Tenant, plan: Plan, start: datetime, anchor_day: int, before: str | None, actor: Principal
) -> Subscription:
    version = newest_version(plan)
    if version.currency != tenant.currency:
        raise ApiError(
            "invalid_request",
            f"The plan is in {version.currency}, the tenant in {tenant.currency}.",
            param="plan",
        )
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
