"""The billing floor's paths under /api/v1/."""

from django.urls import URLPattern, URLResolver, include, path
from rest_framework.routers import SimpleRouter

from billing import api, subscription_api
from billing.alerts import api as alerts
from billing.console.urls import console_urlpatterns
from billing.dunning import api as dunning
from billing.economics import api as economics
from billing.invoicing import api as invoicing
from billing.payments import api as payments
from billing.payments import views as payment_hooks
from billing.reconciliation import api as reconciliation
from billing.rerating import api as rerating
from billing.wallets import api as wallets

__all__ = ["console_urlpatterns", "urlpatterns"]

_top = SimpleRouter(use_regex_path=False)
_top.register("plans", api.PlanResource, basename="plan")
_top.register("budgets", api.BudgetResource, basename="budget")
_top.register("fx-rates", api.FxRateResource, basename="fx-rate")
_top.register("alert-channels", alerts.ChannelResource, basename="alert-channel")
_top.register("alert-rules", alerts.RuleResource, basename="alert-rule")
_top.register("alert-deliveries", alerts.DeliveryResource, basename="alert-delivery")
_top.register("alerts", alerts.AlertResource, basename="alert")
_top.register("invoices", invoicing.InvoiceResource, basename="invoice")
_top.register("credit-notes", invoicing.CreditNoteResource, basename="credit-note")
_top.register("legal-entities", invoicing.LegalEntityResource, basename="legal-entity")
_top.register("tax-rates", invoicing.TaxRateResource, basename="tax-rate")
_top.register("coupons", invoicing.CouponResource, basename="coupon")
_top.register("payments", payments.PaymentResource, basename="payment")
_top.register("dunning-schedules", dunning.ScheduleResource, basename="dunning-schedule")
_top.register("reminders", dunning.ReminderResource, basename="reminder")

_wallet = SimpleRouter(use_regex_path=False)
_wallet.register("grants", wallets.GrantResource, basename="credit-grant")
_wallet.register("entries", wallets.EntryResource, basename="wallet-entry")
_top.register("reconciliation/sources", reconciliation.BillSourceResource, basename="bill-source")
_top.register("reconciliation/bills", reconciliation.ProviderBillResource, basename="provider-bill")
_top.register("reconciliation/runs", reconciliation.ReconcileRunResource, basename="reconcile-run")
_top.register("reconciliation/lines", reconciliation.ReconcileLineResource, basename="reconcile-line")
_top.register("re-ratings", rerating.ReRatingResource, basename="re-rating")
_top.register("ledger/proofs", reconciliation.LedgerProofResource, basename="ledger-proof")

urlpatterns: list[URLPattern | URLResolver] = [
    path("payments/stripe/webhook/", payment_hooks.stripe_webhook, name="stripe-webhook"),
    path("invoices/<uuid:invoice>/dunning/", dunning.InvoiceDunningView.as_view(), name="invoice-dunning"),
    *_top.urls,
    path("tenants/<slug:tenant>/subscription/", api.SubscriptionView.as_view(), name="subscription"),
    path(
        "tenants/<slug:tenant>/subscription/change/",
        subscription_api.SubscriptionChangeView.as_view(),
        name="subscription-change",
    ),
    path(
        "tenants/<slug:tenant>/subscription/cancel/",
        subscription_api.SubscriptionCancelView.as_view(),
        name="subscription-cancel",
    ),
    path(
        "tenants/<slug:tenant>/subscription/preview/",
        subscription_api.SubscriptionPreviewView.as_view(),
        name="subscription-preview",
    ),
    path("tenants/<slug:tenant>/wallet/", wallets.WalletView.as_view(), name="wallet"),
    path("tenants/<slug:tenant>/wallet/top-up/", wallets.TopUpView.as_view(), name="wallet-top-up"),
    path("tenants/<slug:tenant>/wallet/", include(_wallet.urls)),
    path("tenants/<slug:tenant>/payment-portal/", payments.PortalView.as_view(), name="payment-portal"),
    path("tenants/<slug:tenant>/statement/", payments.StatementView.as_view(), name="statement"),
    path("tenants/<slug:tenant>/statement.csv", payments.StatementCsv.as_view(), name="statement-csv"),
    path(
        "tenants/<slug:tenant>/billing-profile/",
        invoicing.BillingProfileView.as_view(),
        name="billing-profile",
    ),
    path("economics/", economics.EconomicsView.as_view(), name="economics"),
    path("economics.csv", economics.EconomicsCsv.as_view(), name="economics-csv"),
    path("economics/forecast/", economics.EconomicsForecast.as_view(), name="economics-forecast"),
    path("usage/", api.UsageView.as_view(), name="usage"),
    path("usage.csv", api.UsageCsv.as_view(), name="usage-csv"),
    path("ledger/verify/", api.LedgerProof.as_view(), name="ledger-verify"),
]
