import pytest
from drf_spectacular.drainage import GENERATOR_STATS
from drf_spectacular.generators import SchemaGenerator

from billing.urls import urlpatterns


@pytest.mark.urls("tests.billing.urls")
def test_the_floors_paths_are_described_without_a_warning() -> None:
    GENERATOR_STATS.reset()
    schema = SchemaGenerator(patterns=urlpatterns).get_schema(request=None, public=True)
    assert not GENERATOR_STATS._warn_cache, GENERATOR_STATS._warn_cache
    assert not GENERATOR_STATS._error_cache, GENERATOR_STATS._error_cache
    assert {path.removeprefix("/") for path in schema["paths"]} == {
        "plans/",
        "plans/{slug}/",
        "plans/{slug}/versions/",
        "budgets/",
        "budgets/{id}/",
        "alert-channels/",
        "alert-channels/{id}/",
        "alert-channels/{id}/rotate-secret/",
        "alert-channels/{id}/test/",
        "alert-rules/",
        "alert-rules/{id}/",
        "alerts/",
        "alerts/{id}/",
        "alerts/{id}/acknowledge/",
        "alerts/{id}/deliveries/",
        "alerts/{id}/snooze/",
        "alert-deliveries/",
        "alert-deliveries/{id}/",
        "alert-deliveries/{id}/replay/",
        "invoices/",
        "invoices/focus/",
        "invoices/preview/",
        "invoices/{id}/",
        "invoices/{id}/calls/",
        "invoices/{id}/credit-notes/",
        "invoices/{id}/csv/",
        "invoices/{id}/finalize/",
        "invoices/{id}/mark-paid/",
        "invoices/{id}/pdf/",
        "invoices/{id}/uncollectible/",
        "invoices/{id}/void/",
        "invoices/{id}/xml/",
        "credit-notes/",
        "credit-notes/{id}/",
        "credit-notes/{id}/pdf/",
        "credit-notes/{id}/xml/",
        "legal-entities/",
        "legal-entities/{code}/",
        "tax-rates/",
        "tax-rates/{id}/",
        "coupons/",
        "coupons/{code}/",
        "coupons/{code}/redeem/",
        "coupons/{code}/remove/",
        "tenants/{tenant}/billing-profile/",
        "tenants/{tenant}/subscription/",
        "usage/",
        "usage.csv",
        "ledger/verify/",
    }
