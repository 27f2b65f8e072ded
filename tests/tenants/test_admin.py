import pytest
from django.apps import apps
from django.contrib import admin
from django.test import Client
from django.urls import path, reverse

import gateway.urls
from tenants.encryption import seal
from tenants.models import ApiKey, AuditEvent, DataKey
from tests import factories

pytestmark = pytest.mark.urls(__name__)
urlpatterns = [path("admin/", admin.site.urls), *gateway.urls.urlpatterns]


@pytest.fixture
def root(db):
    client = Client()
    client.force_login(factories.user(is_staff=True, is_superuser=True))
    return client


@pytest.fixture
def rows(db):
    tenant = factories.tenant()
    factories.member(tenant)
    seal("sk-secret", tenant=tenant, context="a|b|c")
    return factories.api_key(tenant)


def page_of(row):
    return reverse(f"admin:tenants_{row._meta.model_name}_change", args=[row.pk])


def test_every_model_has_its_page(root, rows):
    models = list(apps.get_app_config("tenants").get_models())
    assert all(admin.site.is_registered(model) for model in models)
    for model in models:
        assert root.get(reverse(f"admin:tenants_{model._meta.model_name}_changelist")).status_code == 200


def test_no_page_shows_a_secret(root, rows):
    data_key = DataKey.objects.get()
    for row, secret in ((rows.key, bytes(rows.key.digest)), (data_key, bytes(data_key.wrapped))):
        page = root.get(page_of(row))
        assert page.status_code == 200
        for shown in (secret.hex(), repr(secret), str(memoryview(secret)), "digest", "wrapped"):
            assert shown not in page.text
    assert "password" not in root.get(page_of(factories.user(password="correct horse battery"))).text.lower()


@pytest.mark.parametrize("model", [AuditEvent, ApiKey, DataKey])
def test_what_history_needs_is_read_only(root, rows, model):
    row = model.objects.first()
    before = model.objects.values().get(pk=row.pk)
    name = model._meta.model_name
    assert root.post(page_of(row), {"name": "x", "action": "x"}).status_code == 403
    assert root.get(reverse(f"admin:tenants_{name}_add")).status_code == 403
    assert (
        root.post(reverse(f"admin:tenants_{name}_delete", args=[row.pk]), {"post": "yes"}).status_code == 403
    )
    assert model.objects.values().get(pk=row.pk) == before


@pytest.mark.parametrize("name", ["tenant", "user"])
def test_tenants_and_people_are_not_deleted(root, rows, name):
    model = apps.get_model("tenants", name)
    row = model.objects.first()
    assert (
        root.post(reverse(f"admin:tenants_{name}_delete", args=[row.pk]), {"post": "yes"}).status_code == 403
    )
    assert model.objects.filter(pk=row.pk).exists()


def test_members_do_not_enter(db):
    client = Client()
    client.force_login(factories.member(factories.tenant(), "owner").user)
    assert client.get("/admin/").status_code == 302
