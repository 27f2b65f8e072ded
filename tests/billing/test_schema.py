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
        "tenants/{tenant}/subscription/",
        "usage/",
        "usage.csv",
        "ledger/verify/",
    }
