"""What a tenant is sold and may spend, as plain data for the hot path."""

import logging
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from billing.budgets.evaluate import Window, window_of
from billing.models import Budget, PlanVersion, Subscription
from billing.rating.prices import Pricing, compile_charges
from tenants import versions

__all__ = ["BillingSnapshot", "BudgetEntry", "Terms", "Window", "load"]

logger = logging.getLogger(__name__)

MICRO = 10**6
DEFAULT_PRIORITY_WEIGHT = 10


@dataclass(frozen=True, slots=True)
class BudgetEntry:
    """A budget in force. `limit` is in micro-units for money, plain for tokens and requests."""

    id: UUID
    tenant_id: UUID
    name: str
    api_key_id: UUID | None
    feature: str
    model: str
    end_user: str
    measure: str
    limit: int
    mode: str
    window: str
    timezone: str
    anchor_day: int
    week_start: int
    _memo: list[Window] = field(default_factory=list, compare=False, repr=False)

    def window_at(self, now: float) -> Window:
        """The window that contains `now` (unix seconds); remembered while it lasts."""
        if self._memo:
            held = self._memo[0]
            if held.start <= now and (held.end is None or now < held.end):
                return held
        window = window_of(
            self.window,
            self.timezone,
            datetime.fromtimestamp(now, UTC),
            anchor_day=self.anchor_day,
            week_start=self.week_start,
        )
        self._memo[:] = [window]
        return window

    def matches(self, *, api_key_id: UUID, feature: str, model: str, end_user: str) -> bool:
        """Whether a call of this budget's tenant counts against it; an empty field matches everything."""
        return (
            (self.api_key_id is None or self.api_key_id == api_key_id)
            and (not self.feature or self.feature == feature)
            and (not self.model or self.model == model)
            and (not self.end_user or self.end_user == end_user)
        )


@dataclass(frozen=True, slots=True)
class Terms:
    """The plan version a tenant is on, compiled."""

    plan_version_id: UUID
    plan: str  # slug@number
    currency: str
    pricing: Pricing
    allowed_models: frozenset[str] | None
    limit_rpm: int | None
    limit_tpm: int | None
    max_concurrent: int | None
    priority_weight: int = DEFAULT_PRIORITY_WEIGHT  # share of a provider's short rate limit, 1 to 100
    priority: str = "interactive"  # where a provider's limit is short: interactive before free before batch


@dataclass(frozen=True, slots=True)
class BillingSnapshot:
    """Tenants without a subscription live on `default_terms`."""

    version: int
    terms: Mapping[UUID, Terms]
    default_terms: Terms
    budgets: Mapping[UUID, tuple[BudgetEntry, ...]]


def load() -> BillingSnapshot:
    """From the database, in four queries."""
    version = versions.current()["billing"]
    compiled: dict[UUID, Terms] = {}
    current = Subscription.objects.filter(end__isnull=True).values_list("tenant_id", "plan_version_id")
    wanted = dict(current)
    for row in PlanVersion.objects.filter(pk__in=set(wanted.values())).select_related("plan"):
        compiled[row.pk] = terms_of(row)
    default = (
        PlanVersion.objects.filter(plan__is_default=True).select_related("plan").order_by("-number").first()
    )
    if default is None:
        msg = "no default plan: run the migrations"
        raise RuntimeError(msg)
    budgets: dict[UUID, list[BudgetEntry]] = defaultdict(list)
    for budget in Budget.objects.filter(is_enabled=True).select_related("tenant").order_by("id"):
        budgets[budget.tenant_id].append(entry_of(budget))
    return BillingSnapshot(
        version=version,
        terms={tenant: compiled[plan_version] for tenant, plan_version in wanted.items()},
        default_terms=terms_of(default),
        budgets={tenant: tuple(entries) for tenant, entries in budgets.items()},
    )


def terms_of(row: PlanVersion) -> Terms:
    limits: Mapping[str, Any] = row.limits
    return Terms(
        plan_version_id=row.pk,
        plan=str(row),
        currency=row.currency,
        pricing=compile_charges(row.charges, row.currency),
        allowed_models=frozenset(row.allowed_models) or None,
        limit_rpm=limits.get("limit_rpm"),
        limit_tpm=limits.get("limit_tpm"),
        max_concurrent=limits.get("max_concurrent"),
        priority_weight=limits.get("priority_weight", DEFAULT_PRIORITY_WEIGHT),
        priority=limits.get("priority", "interactive"),
    )


def entry_of(budget: Budget) -> BudgetEntry:
    is_money = budget.measure in ("price", "cost")
    return BudgetEntry(
        id=budget.pk,
        tenant_id=budget.tenant_id,
        name=budget.name,
        api_key_id=budget.api_key_id,
        feature=budget.feature,
        model=budget.model,
        end_user=budget.end_user,
        measure=budget.measure,
        limit=int(budget.limit * MICRO) if is_money else int(budget.limit),
        mode=budget.mode,
        window=budget.window,
        timezone=budget.tenant.timezone,
        anchor_day=budget.anchor_day,
        week_start=budget.week_start,
    )
