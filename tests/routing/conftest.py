"""Fixtures of this floor. Django is not set up yet when pytest reads this file, hence the late imports."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from rest_framework.test import APIClient

    from tenants.models import Tenant

type ClientOf = Callable[..., "APIClient"]


@pytest.fixture
def client_of(db: None) -> ClientOf:
    """A REST client with a key of these scopes: a platform key, or a tenant's."""
    from rest_framework.test import APIClient

    from tenants import keys
    from tenants.principal import SYSTEM

    def make(*scopes: str, tenant: "Tenant | None" = None) -> "APIClient":
        issued = keys.issue(tenant=tenant, actor=SYSTEM, name="test", scopes=list(scopes))
        client = APIClient()
        client.credentials(HTTP_AUTHORIZATION=f"Bearer {issued.text}")
        return client

    return make


@pytest.fixture
def operator(client_of: ClientOf) -> "APIClient":
    return client_of("*")


@pytest.fixture
def acme(db: None) -> "Tenant":
    from tenants.models import Tenant

    return Tenant.objects.create(slug="acme", name="Acme")


@pytest.fixture
def globex(db: None) -> "Tenant":
    from tenants.models import Tenant

    return Tenant.objects.create(slug="globex", name="Globex")
