"""This floor's API alone, at its place in the product, and the sign-in pages that mails point to."""

from django.urls import include, path

import tenants.sign_in_views
import tenants.urls

urlpatterns = [
    path("api/v1/", include(tenants.urls.urlpatterns)),
    path("accounts/", include(tenants.sign_in_views.door_urlpatterns)),
]
