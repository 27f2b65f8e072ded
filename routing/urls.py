"""The routing floor's paths under /api/v1/ and in the console."""

from django.urls import URLPattern, URLResolver, include, path
from rest_framework.routers import SimpleRouter

from routing import api, views
from routing.health import api as health_api
from routing.health import views as health_views

_top = SimpleRouter(use_regex_path=False)
_top.register("providers", api.ProviderResource, basename="provider")
_top.register("models", api.ModelResource, basename="model")
_top.register("endpoints", api.EndpointResource, basename="endpoint")
_top.register("cost-rates", api.RateResource, basename="cost-rate")
_top.register("policies", api.PolicyResource, basename="policy")
_top.register("kill-switches", api.KillSwitchResource, basename="kill-switch")

_of_provider = SimpleRouter(use_regex_path=False)
_of_provider.register("credentials", api.ProviderCredentialResource, basename="provider-credential")

_nested = SimpleRouter(use_regex_path=False)
_nested.register("credentials", api.CredentialResource, basename="credential")

urlpatterns: list[URLPattern | URLResolver] = [
    path("health/", health_api.OverviewView.as_view(), name="health"),
    path("providers/<slug:slug>/health/", health_api.ProviderHealthView.as_view(), name="provider-health"),
    path("endpoints/<uuid:endpoint_id>/reset/", health_api.ResetView.as_view(), name="endpoint-reset"),
    *_top.urls,
    path("providers/<slug:provider>/", include(_of_provider.urls)),
    path("tenants/<slug:tenant>/", include(_nested.urls)),
]
console_urlpatterns: list[URLPattern | URLResolver] = [
    path("platform/providers/", views.provider_list, name="provider_list"),
    path("platform/providers/new/", views.provider_create, name="provider_create"),
    path("platform/providers/<slug:slug>/", views.provider_detail, name="provider_detail"),
    path("platform/providers/<slug:slug>/edit/", views.provider_edit, name="provider_edit"),
    path("platform/providers/<slug:slug>/test/", views.provider_test, name="provider_test"),
    path("platform/providers/<slug:slug>/import/", views.provider_import, name="provider_import"),
    path(
        "platform/providers/<slug:slug>/endpoints/<uuid:endpoint_id>/",
        views.endpoint_toggle,
        name="endpoint_toggle",
    ),
    path("platform/models/", views.model_list, name="model_list"),
    path("platform/kill-switches/", views.kill_switch_list, name="kill_switch_list"),
    path(
        "platform/kill-switches/<uuid:switch_id>/restore/",
        views.kill_switch_restore,
        name="kill_switch_restore",
    ),
    path("platform/health/", health_views.health_list, name="health_list"),
    path("platform/health/<slug:slug>/", health_views.health_detail, name="health_detail"),
    path(
        "platform/health/<slug:slug>/endpoints/<uuid:endpoint_id>/reset/",
        health_views.breaker_reset,
        name="breaker_reset",
    ),
]
