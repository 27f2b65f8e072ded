"""The routing floor's paths under /api/v1/ and in the console."""

from django.urls import URLPattern, URLResolver

urlpatterns: list[URLPattern | URLResolver] = []
console_urlpatterns: list[URLPattern | URLResolver] = []
