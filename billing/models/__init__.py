"""Money: plans and subscriptions, budgets, the ledger and its rollups. Tenants are known, routes are not."""

from billing.models.alerts import (
    AlertAction,
    AlertAttempt,
    AlertChannel,
    AlertDelivery,
    AlertFiring,
    AlertRule,
    AlertStep,
    AlertWatch,
)
from billing.models.budgets import Budget
from billing.models.plans import Plan, PlanVersion, Subscription
from billing.models.usage import OverheadHour, UsageEvent, UsageHour, UsageKeyHour, UsageLatencyHour

__all__ = (
    "AlertAction",
    "AlertAttempt",
    "AlertChannel",
    "AlertDelivery",
    "AlertFiring",
    "AlertRule",
    "AlertStep",
    "AlertWatch",
    "Budget",
    "OverheadHour",
    "Plan",
    "PlanVersion",
    "Subscription",
    "UsageEvent",
    "UsageHour",
    "UsageKeyHour",
    "UsageLatencyHour",
)
