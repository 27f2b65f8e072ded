import pytest
from drf_spectacular.drainage import GENERATOR_STATS
from drf_spectacular.generators import SchemaGenerator

from routing.urls import urlpatterns


@pytest.mark.urls("tests.routing.urls")
def test_the_floors_paths_are_described_without_a_warning() -> None:
    GENERATOR_STATS.reset()
    schema = SchemaGenerator(patterns=urlpatterns).get_schema(request=None, public=True)
    assert not GENERATOR_STATS._warn_cache, GENERATOR_STATS._warn_cache
    assert not GENERATOR_STATS._error_cache, GENERATOR_STATS._error_cache
    paths = {path.removeprefix("/") for path in schema["paths"]}
    assert {"providers/{slug}/test/", "cost-rates/import/", "tenants/{tenant}/credentials/"} <= paths
    provider = schema["components"]["schemas"]["Provider"]["properties"]
    assert "api_key" not in provider or provider["api_key"].get("writeOnly")
