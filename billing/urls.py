"""The billing floor's paths under /api/v1/."""

from django.urls import URLPattern, URLResolver, path

from billing import api

urlpatterns: list[URLPattern | URLResolver] = [
    path("ledger/verify/", api.LedgerProof.as_view(), name="ledger-verify"),
]
