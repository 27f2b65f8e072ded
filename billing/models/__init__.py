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
from billing.models.budgets import Budget, BudgetCheck
from billing.models.fx import FxRate
from billing.models.invoices import (
    BillingProfile,
    ClosedPeriod,
    Coupon,
    CreditNote,
    CreditNoteLine,
    DocumentCounter,
    Invoice,
    InvoiceDiscount,
    InvoiceLine,
    LegalEntity,
    TaxCategory,
    TaxRate,
    TenantCoupon,
)
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
    "BillingProfile",
    "Budget",
    "BudgetCheck",
    "ClosedPeriod",
    "Coupon",
    "CreditNote",
    "CreditNoteLine",
    "DocumentCounter",
    "FxRate",
    "Invoice",
    "InvoiceDiscount",
    "InvoiceLine",
    "LegalEntity",
    "OverheadHour",
    "Plan",
    "PlanVersion",
    "Subscription",
    "TaxCategory",
    "TaxRate",
    "TenantCoupon",
    "UsageEvent",
    "UsageHour",
    "UsageKeyHour",
    "UsageLatencyHour",
)
