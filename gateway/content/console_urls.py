"""Console paths of data and residency."""

from django.urls import URLPattern, path

from gateway.content import views

urlpatterns: list[URLPattern] = [
    path("platform/certificates/", views.certificate_list, name="certificate_list"),
    path("t/<slug:tenant_slug>/settings/data/", views.data_settings, name="data_settings"),
    path("t/<slug:tenant_slug>/settings/data/holds/", views.hold_place, name="hold_place"),
    path(
        "t/<slug:tenant_slug>/settings/data/holds/<uuid:hold_id>/release/",
        views.hold_release,
        name="hold_release",
    ),
    path("t/<slug:tenant_slug>/settings/data/erasures/", views.erasure_create, name="erasure_create"),
    path(
        "t/<slug:tenant_slug>/settings/data/certificates/",
        views.tenant_certificate_list,
        name="tenant_certificate_list",
    ),
    path(
        "t/<slug:tenant_slug>/settings/data/certificates.json",
        views.tenant_certificate_export,
        name="tenant_certificate_export",
    ),
    path("t/<slug:tenant_slug>/settings/data/residency/", views.residency_report, name="residency_report"),
    path("t/<slug:tenant_slug>/settings/data/residency.csv", views.residency_csv, name="residency_csv"),
]
