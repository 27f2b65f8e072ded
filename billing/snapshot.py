"""What a tenant is sold and may spend, as plain data for the hot path."""

import logging
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.utils import timezone

from billing.budgets.count import MONEY, Counted
from billing.budgets.evaluate import Window, rolling_window, window_of
from billing.models import Budget, FxRate, PlanVersion, Subscription
from billing.rating.fx import MAX_AGE_DAYS, NO_RATES, DailyRate, FxTable
from billing.rating.prices import Pricing, compile_charges
from billing.wallets import prepaid
from tenants import versions

__all__ = ["BillingSnapshot", "BudgetEntry", "Terms", "Window", "load"]

logger = logging.getLogger(__name__)

MICRO = 10**6
DEFAULT_PRIORITY_WEIGHT = 10
COST_CURRENCY = "USD"
RECENT_DAYS = 3 * MAX_AGE_DAYS


@dataclass(frozen=True, slots=True)
class BudgetEntry:
    """A budget in force. `limit` and `carry_cap` are in micro-units for money, plain for tokens and requests.

    Without `tenant_id` it is the operator's, and all tenants that it matches share it. Empty fields of the scope
    match everything.
    """

    id: UUID
    tenant_id: UUID | None
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
    plan_id: UUID | None = None
    provider: str = ""
    tag: tuple[str, str] | None = None
    currency: str = "USD"
    rolling_s: int = 0
    carry_over: str = "none"
    carry_cap: int | None = None
    created_s: float = 0.0
    include_byok: bool = False
    include_failed: bool = True
    include_overhead: bool = False
    throttle_policy: str = ""
    throttle_rpm: int | None = None
    _memo: list[Window] = field(default_factory=list, compare=False, repr=False)

    counted: Counted = field(init=False, compare=False, repr=False)
    """What of a matching call counts."""

    id_text: str = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id_text", str(self.id))
        counted = Counted(
            self.measure, self.currency, self.model, self.provider, self.include_byok, self.include_failed
        )
        object.__setattr__(self, "counted", counted)

    @property
    def unit(self) -> int:
        """The smallest units (pico for money) in one of `limit`."""
        return MICRO if self.measure in MONEY else 1

    def window_at(self, now: float) -> Window:
        """The window that contains `now` (unix seconds); remembered while it lasts."""
        if self.rolling_s:
            return rolling_window(self.rolling_s, now)
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

    def matches(
        self,
        *,
        api_key_id: UUID,
        feature: str,
        end_user: str,
        plan_id: UUID,
        tags: Mapping[str, str],
    ) -> bool:
        """Whether calls of this budget's tenants may count against it, whichever target serves them."""
        return (
            (self.api_key_id is None or self.api_key_id == api_key_id)
            and (not self.feature or self.feature == feature)
            and (not self.end_user or self.end_user == end_user)
            and (self.plan_id is None or self.plan_id == plan_id)
            and (self.tag is None or tags.get(self.tag[0]) == self.tag[1])
        )

    def shown_name(self) -> str:
        """For answers to callers: the operator's names are not for tenants, so its id stands for them."""
        return self.name if self.name and self.tenant_id is not None else str(self.id)


@dataclass(frozen=True, slots=True)
class Terms:
    """The plan version a tenant is on, compiled."""

    plan_version_id: UUID
    plan: str  # slug@number
    plan_id: UUID
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
    """Tenants without a subscription live on `default_terms`. `house_budgets` are the operator's, over tenants."""

    version: int
    terms: Mapping[UUID, Terms]
    default_terms: Terms
    budgets: Mapping[UUID, tuple[BudgetEntry, ...]]
    house_budgets: tuple[BudgetEntry, ...] = ()
    fx: FxTable = NO_RATES

    def budgets_of(self, tenant_id: UUID) -> tuple[BudgetEntry, ...]:
        """Those that a tenant's calls may count against."""
        own = self.budgets.get(tenant_id, ())
        return own + self.house_budgets if self.house_budgets else own


def load() -> BillingSnapshot:
    """From the database, in eight queries at most."""
    version = versions.current()["billing"]
    fx = fx_table(days=RECENT_DAYS)
    compiled: dict[UUID, Terms] = {}
    current = Subscription.objects.filter(end__isnull=True).values_list("tenant_id", "plan_version_id")
    wanted = dict(current)
    for row in PlanVersion.objects.filter(pk__in=set(wanted.values())).select_related("plan"):
        compiled[row.pk] = terms_of(row, fx)
    default = (
        PlanVersion.objects.filter(plan__is_default=True).select_related("plan").order_by("-number").first()
    )
    if default is None:
        msg = "no default plan: run the migrations"
        raise RuntimeError(msg)
    budgets: dict[UUID | None, list[BudgetEntry]] = defaultdict(list)
    for budget in Budget.objects.filter(is_enabled=True).select_related("tenant").order_by("id"):
        budgets[budget.tenant_id].append(entry_of(budget))
    for each in prepaid.limits(timezone.now()):
        budgets[each.tenant_id].append(_prepaid(each))
    return BillingSnapshot(
        version=version,
        terms={tenant: compiled[plan_version] for tenant, plan_version in wanted.items()},
        default_terms=terms_of(default, fx),
        budgets={tenant: tuple(entries) for tenant, entries in budgets.items() if tenant is not None},
        house_budgets=tuple(budgets.get(None, ())),
        fx=fx,
    )


def fx_table(*, days: int | None = None) -> FxTable:
    """The frozen daily rates, of the last `days` only where given."""
    rows = FxRate.objects.all()
    if days is not None:
        rows = rows.filter(day__gte=timezone.now().date() - timedelta(days=days))
    return FxTable(
        DailyRate(base, quote, day, rate, str(id_))
        for id_, base, quote, day, rate in rows.values_list("id", "base", "quote", "day", "rate")
    )


def terms_of(row: PlanVersion, fx: FxTable = NO_RATES) -> Terms:
    limits: Mapping[str, Any] = row.limits
    return Terms(
        plan_version_id=row.pk,
        plan=str(row),
        plan_id=row.plan_id,
        currency=row.currency,
        pricing=compile_charges(row.charges, row.currency, fx),
        allowed_models=frozenset(row.allowed_models) or None,
        limit_rpm=limits.get("limit_rpm"),
        limit_tpm=limits.get("limit_tpm"),
        max_concurrent=limits.get("max_concurrent"),
        priority_weight=limits.get("priority_weight", DEFAULT_PRIORITY_WEIGHT),
        priority=limits.get("priority", "interactive"),
    )


def _prepaid(limit: prepaid.Limit) -> BudgetEntry:
    """The balance of a prepaid tenant as a budget that nobody made."""
    return BudgetEntry(
        id=limit.wallet_id,
        tenant_id=limit.tenant_id,
        name="Prepaid balance",
        api_key_id=None,
        feature="",
        model="",
        end_user="",
        measure="price",
        limit=limit.limit_micro,
        mode="hard",
        window="total",
        timezone=limit.timezone,
        anchor_day=1,
        week_start=0,
        currency=limit.currency,
    )


def currency_of(budget: Budget) -> str:
    """Its own, else the tenant's for a price and USD for a cost."""
    if budget.currency or budget.measure == Budget.Measure.COST or budget.tenant is None:
        return budget.currency or COST_CURRENCY
    return budget.tenant.currency


def entry_of(budget: Budget) -> BudgetEntry:
    unit = MICRO if budget.measure in MONEY else 1
    limit = int(budget.limit * unit)
    caps = [] if budget.carry_max_amount is None else [int(budget.carry_max_amount * unit)]
    if budget.carry_max_percent is not None:
        caps.append(limit * budget.carry_max_percent // 100)
    key, _, value = budget.tag.partition("=")
    return BudgetEntry(
        id=budget.pk,
        tenant_id=budget.tenant_id,
        name=budget.name,
        api_key_id=budget.api_key_id,
        feature=budget.feature,
        model=budget.model,
        end_user=budget.end_user,
        measure=budget.measure,
        limit=limit,
        mode=budget.mode,
        window=budget.window,
        timezone=budget.timezone or (budget.tenant.timezone if budget.tenant else "UTC"),
        anchor_day=budget.anchor_day,
        week_start=budget.week_start,
        plan_id=budget.plan_id,
        provider=budget.provider,
        tag=(key, value) if budget.tag else None,
        currency=currency_of(budget),
        rolling_s=budget.rolling_s or 0,
        carry_over=budget.carry_over,
        carry_cap=min(caps) if caps else None,
        created_s=budget.created_at.timestamp() if budget.created_at else 0.0,
        include_byok=budget.include_byok,
        include_failed=budget.include_failed,
        include_overhead=budget.include_overhead,
        throttle_policy=budget.throttle_policy,
        throttle_rpm=budget.throttle_rpm,
    )
