import pytest
from django.apps import apps
from django.contrib import admin
from django.test import RequestFactory

from routing.models import CostRate, Credential, RoutingPolicyVersion
from tenants.models import User


def test_every_model_of_the_floor_is_registered() -> None:
    assert {
        model for model in apps.get_app_config("routing").get_models() if not admin.site.is_registered(model)
    } == set()


@pytest.mark.parametrize("model", [CostRate, RoutingPolicyVersion])
def test_even_a_superuser_only_looks_at_rates_and_versions(model: type) -> None:
    request = RequestFactory().get("/")
    request.user = User(is_superuser=True, is_staff=True, is_active=True)
    page = admin.site.get_model_admin(model)
    assert page.has_view_permission(request)
    assert not page.has_add_permission(request)
    assert not page.has_change_permission(request)
    assert not page.has_delete_permission(request)


def test_a_secret_is_on_no_page() -> None:
    request = RequestFactory().get("/")
    request.user = User(is_superuser=True, is_staff=True, is_active=True)
    page = admin.site.get_model_admin(Credential)
    assert "secret" not in page.get_fields(request)
    assert not page.has_add_permission(request)
