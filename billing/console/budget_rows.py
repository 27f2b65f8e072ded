"""Budgets as pages show them: what their window has used by the ledger, and where it is going.

Must never count what a budget of cost has used for whoever lacks `cost:read`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from billing.alerts.rules import run_rate
from billing.budgets.count import MONEY
from billing.budgets.counters import carry, spent
from billing.models import Budget
from billing.rating.money import PICO
from billing.snapshot import currency_of, entry_of
from tenants.principal import Principal

SHARE_AT_MOST = Decimal(1)


@dataclass(frozen=True, slots=True)
class BudgetRow:
    """Amounts in pico-units for money, else whole tokens or requests. `limit` holds what was carried over.

    `used` and what follows from it are None for whoever may not see it; `forecast` before three days of the
    window have passed. A rolling window has no start that stands still, so none is given.
    """

    budget: Budget
    scope: tuple[tuple[str, str], ...]
    is_money: bool
    currency: str
    limit: int
    used: int | None
    share: Decimal | None
    forecast: int | None
    reaches_at: datetime | None
    window_start: datetime | None
    window_end: datetime | None

    @property
    def bar_percent(self) -> int:
        """How much of the bar is filled, 0 to 100."""
        return 0 if self.share is None else int(min(self.share, SHARE_AT_MOST) * 100)

    @property
    def level(self) -> str:
        """calm, near (80 percent and more) or over."""
        if self.share is None or self.share < Decimal("0.8"):
            return "calm"
        return "near" if self.share < 1 else "over"


def budget_rows(budgets: Iterable[Budget], *, principal: Principal, now: datetime) -> list[BudgetRow]:
    """A row for each, in their order."""
    return [_row(budget, principal, now) for budget in budgets]


def _row(budget: Budget, principal: Principal, now: datetime) -> BudgetRow:
    entry = entry_of(budget)
    window = entry.window_at(now.timestamp())
    is_money = budget.measure in MONEY
    limit = int(budget.limit * (PICO if is_money else 1))
    is_still = window.end is not None and budget.window != Budget.Window.ROLLING
    start = None if not is_still else datetime.fromtimestamp(window.start, UTC)
    end = None if not is_still or window.end is None else datetime.fromtimestamp(window.end, UTC)
    used = forecast = share = reaches_at = None
    if budget.measure != Budget.Measure.COST or principal.can("cost:read", budget.tenant_id):
        used, carried = spent(entry, window), carry(entry, window)
        limit = max(limit + carried, 0)
        share = Decimal(used) / limit if limit else None
        if start is not None and end is not None:
            forecast = run_rate(value=used, start=start, end=end, now=now)
            reaches_at = _reaches_at(used, limit, forecast, start, now)
    return BudgetRow(
        budget=budget,
        scope=_scope(budget),
        is_money=is_money,
        currency=currency_of(budget),
        limit=limit,
        used=used,
        share=share,
        forecast=forecast,
        reaches_at=reaches_at,
        window_start=start,
        window_end=end,
    )


def _reaches_at(
    used: int, limit: int, forecast: int | None, start: datetime, now: datetime
) -> datetime | None:
    """When the straight line of the forecast crosses the limit; None if it does not in this window."""
    if forecast is None or used >= limit or forecast < limit:
        return None
    elapsed_s = int((now - start).total_seconds())
    return start + timedelta(seconds=elapsed_s * limit // used)


def _scope(budget: Budget) -> tuple[tuple[str, str], ...]:
    key = budget.api_key.name if budget.api_key else ""
    named = (
        ("key", key),
        ("plan", budget.plan.slug if budget.plan else ""),
        ("feature", budget.feature),
        ("model", budget.model),
        ("provider", budget.provider),
        ("user", budget.end_user),
        ("tag", budget.tag),
    )
    return tuple((name, value) for name, value in named if value)
