"""The routing floor's paths under /api/v1/ and in the console."""

from django.urls import URLPattern, URLResolver, path

from routing import views

urlpatterns: list[URLPattern | URLResolver] = []
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
]
