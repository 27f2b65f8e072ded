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
from billing.models.dunning import DunningHold, DunningReminder, DunningSchedule
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
from billing.models.payments import Payment, PaymentCustomer, PaymentEvent, Refund
from billing.models.plans import Plan, PlanVersion, Subscription, SubscriptionChange
from billing.models.proofs import LedgerProof
from billing.models.reconciliation import (
    BillSource,
    ProviderBill,
    ProviderBillLine,
    ReconcileLine,
    ReconcileRun,
)
from billing.models.reratings import ReRating
from billing.models.usage import OverheadHour, UsageEvent, UsageHour, UsageKeyHour, UsageLatencyHour
from billing.models.wallets import CreditGrant, Wallet, WalletEntry

__all__ = (
    "AlertAction",
    "AlertAttempt",
    "AlertChannel",
    "AlertDelivery",
    "AlertFiring",
    "AlertRule",
    "AlertStep",
    "AlertWatch",
    "BillSource",
    "BillingProfile",
    "Budget",
    "BudgetCheck",
    "ClosedPeriod",
    "Coupon",
    "CreditGrant",
    "CreditNote",
    "CreditNoteLine",
    "DocumentCounter",
    "DunningHold",
    "DunningReminder",
    "DunningSchedule",
    "FxRate",
    "Invoice",
    "InvoiceDiscount",
    "InvoiceLine",
    "LedgerProof",
    "LegalEntity",
    "OverheadHour",
    "Payment",
    "PaymentCustomer",
    "PaymentEvent",
    "Plan",
    "PlanVersion",
    "ProviderBill",
    "ProviderBillLine",
    "ReRating",
    "ReconcileLine",
    "ReconcileRun",
    "Refund",
    "Subscription",
    "SubscriptionChange",
    "TaxCategory",
    "TaxRate",
    "TenantCoupon",
    "UsageEvent",
    "UsageHour",
    "UsageKeyHour",
    "UsageLatencyHour",
    "Wallet",
    "WalletEntry",
)
