"""The billing floor's paths under /api/v1/."""

from django.urls import URLPattern, URLResolver, path
from rest_framework.routers import SimpleRouter

from billing import api
from billing.alerts import api as alerts

_top = SimpleRouter(use_regex_path=False)
_top.register("plans", api.PlanResource, basename="plan")
_top.register("budgets", api.BudgetResource, basename="budget")
_top.register("alert-channels", alerts.ChannelResource, basename="alert-channel")
_top.register("alert-rules", alerts.RuleResource, basename="alert-rule")
_top.register("alert-deliveries", alerts.DeliveryResource, basename="alert-delivery")
_top.register("alerts", alerts.AlertResource, basename="alert")

urlpatterns: list[URLPattern | URLResolver] = [
    *_top.urls,
    path("tenants/<slug:tenant>/subscription/", api.SubscriptionView.as_view(), name="subscription"),
    path("usage/", api.UsageView.as_view(), name="usage"),
    path("usage.csv", api.UsageCsv.as_view(), name="usage-csv"),
    path("ledger/verify/", api.LedgerProof.as_view(), name="ledger-verify"),
]
