"""The billing floor's paths under /api/v1/."""

from django.urls import URLPattern, URLResolver, path
from rest_framework.routers import SimpleRouter

from billing import api
from billing.alerts import api as alerts
from billing.console.urls import console_urlpatterns
from billing.invoicing import api as invoicing
from billing.payments import views as payment_hooks

__all__ = ["console_urlpatterns", "urlpatterns"]

_top = SimpleRouter(use_regex_path=False)
_top.register("plans", api.PlanResource, basename="plan")
_top.register("budgets", api.BudgetResource, basename="budget")
_top.register("alert-channels", alerts.ChannelResource, basename="alert-channel")
_top.register("alert-rules", alerts.RuleResource, basename="alert-rule")
_top.register("alert-deliveries", alerts.DeliveryResource, basename="alert-delivery")
_top.register("alerts", alerts.AlertResource, basename="alert")
_top.register("invoices", invoicing.InvoiceResource, basename="invoice")
_top.register("credit-notes", invoicing.CreditNoteResource, basename="credit-note")
_top.register("legal-entities", invoicing.LegalEntityResource, basename="legal-entity")
_top.register("tax-rates", invoicing.TaxRateResource, basename="tax-rate")
_top.register("coupons", invoicing.CouponResource, basename="coupon")

urlpatterns: list[URLPattern | URLResolver] = [
    *_top.urls,
    path("tenants/<slug:tenant>/subscription/", api.SubscriptionView.as_view(), name="subscription"),
    path(
        "tenants/<slug:tenant>/billing-profile/",
        invoicing.BillingProfileView.as_view(),
        name="billing-profile",
    ),
    path("payments/stripe/webhook/", payment_hooks.stripe_webhook, name="stripe-webhook"),
    path("usage/", api.UsageView.as_view(), name="usage"),
    path("usage.csv", api.UsageCsv.as_view(), name="usage-csv"),
    path("ledger/verify/", api.LedgerProof.as_view(), name="ledger-verify"),
]
