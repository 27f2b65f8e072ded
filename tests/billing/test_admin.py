from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.db.models import CompositePrimaryKey
from django.test import RequestFactory

from billing.models import PlanVersion, Subscription
from tenants.models import User


def test_every_model_that_the_admin_can_show_is_registered() -> None:
    missing = {m for m in apps.get_app_config("billing").get_models() if not admin.site.is_registered(m)}
    assert {
        model.__name__ for model in missing if not isinstance(model._meta.pk, CompositePrimaryKey)
    } == set()


@pytest.mark.parametrize("model", [PlanVersion, Subscription])
def test_even_a_superuser_only_looks_at_what_priced_the_ledger(model: type) -> None:
    request = RequestFactory().get("/")
    request.user = User(is_superuser=True, is_staff=True, is_active=True)
    page: Any = admin.site.get_model_admin(model)
    assert page.has_view_permission(request)
    assert not page.has_add_permission(request)
    assert not page.has_change_permission(request)
    assert not page.has_delete_permission(request)
