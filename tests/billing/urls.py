"""This floor's API alone, at its place in the product."""

from django.urls import include, path

import billing.urls

urlpatterns = [path("api/v1/", include(billing.urls.urlpatterns))]
