"""Every path of the product: the data plane as DRF declares it, the control plane, the console, health."""

from django.conf import settings
from django.contrib import admin
from django.urls import include, path, re_path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

import billing.urls
import gateway.console_urls
import routing.urls
import tenants.sign_in_views
import tenants.urls
from gateway import api, closing, health, leak_api
from gateway.content import api as content_api
from gateway.edge import views as edge
from gateway.experiments import api as experiments_api
from gateway.logs import api as logs_api
from gateway.privacy import api as privacy_api

control_plane = [
    *api.urlpatterns,
    path("keys/leak-report/", leak_api.LeakReportView.as_view(), name="leak-report"),
    path(
        "tenants/<slug:tenant>/keys/<uuid:key_id>/leaked/", leak_api.LeakedView.as_view(), name="key-leaked"
    ),
    *experiments_api.urlpatterns,
    *privacy_api.urlpatterns,
    *content_api.urlpatterns,
    *logs_api.urlpatterns,
    *tenants.urls.urlpatterns,
    *routing.urls.urlpatterns,
    *billing.urls.urlpatterns,
    path("reconciliation/close/", closing.ClosingView.as_view(), name="reconciliation-close"),
    path("schema/", SpectacularAPIView.as_view(), name="schema"),
    path(
        "docs/",
        SpectacularSwaggerSplitView.as_view(url_name="schema", template_name="gateway/api_docs.html"),
        name="docs",
    ),
    re_path(r"^.*$", api.NotFound.as_view()),
]

urlpatterns = [
    path("v1/", include(edge.urlpatterns)),
    path("v1beta/", include(edge.google_urlpatterns)),
    path("api/v1/", include(control_plane)),
    path("healthz", health.alive),
    path("readyz", health.ready),
    path("metrics", health.metrics),
    path("accounts/", include(tenants.sign_in_views.door_urlpatterns)),
    *gateway.console_urls.urlpatterns,
    *tenants.urls.console_urlpatterns,
    *routing.urls.console_urlpatterns,
    *billing.urls.console_urlpatterns,
]
if settings.BREAK_GLASS_ADMIN:
    urlpatterns.append(path("admin/", admin.site.urls))
