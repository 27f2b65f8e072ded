"""Console paths that belong to the gateway room: homes and the request log."""

from django.urls import URLPattern

urlpatterns: list[URLPattern] = []
