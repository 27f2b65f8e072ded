from datetime import timedelta

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from tenants import keys
from tenants.authentication import principal_of, principal_of_key
from tenants.models import ApiKey, Tenant
from tenants.principal import SYSTEM
from tenants.scopes import OPERATOR_ROLES, TENANT_ROLES
from tests import factories

pytestmark = pytest.mark.urls("tests.tenants.urls")
URL = "/api/v1/tenants/acme/keys/"


@pytest.fixture
def acme(db):
    return factories.tenant("acme")


def answer(client=None, url=URL, **headers):
    response = (client or APIClient()).get(url, headers=headers)
    return response.status_code, response.json().get("error", {}).get("code")


# ------------------------------------------------------------------ keys


def test_a_key_comes_as_bearer_or_as_x_api_key(acme):
    text = factories.api_key(acme, "keys:read").text
    assert answer(Authorization=f"Bearer {text}") == (200, None)
    assert answer(Authorization=f"bearer  {text}") == (200, None)
    assert answer(**{"x-api-key": text}) == (200, None)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer nonsense"},
        {"Authorization": "Basic dXNlcjpwYXNz"},
        {"x-api-key": ""},
        {"Authorization": "Bearer " + keys.compose(public_id="a" * 12, secret=bytes(32))},
        {"Authorization": "Bearer th_\u00e9\u00e9"},
    ],
)
def test_no_key_and_a_wrong_key_are_401(acme, headers):
    assert answer(**headers) == (401, "invalid_api_key")


def test_a_revoked_and_an_expired_key_say_so(acme):
    now = timezone.now()
    revoked = factories.api_key(acme)
    keys.revoke(key=revoked.key, actor=SYSTEM, now=now)
    expired = factories.api_key(acme, expires_at=now - timedelta(seconds=1))
    assert answer(Authorization=f"Bearer {revoked.text}") == (401, "key_revoked")
    assert answer(Authorization=f"Bearer {expired.text}") == (401, "key_expired")


def test_a_suspended_tenants_key_is_refused(acme):
    text = factories.api_key(acme).text
    Tenant.objects.update(status=Tenant.Status.SUSPENDED)
    assert answer(Authorization=f"Bearer {text}") == (403, "permission_denied")


@pytest.mark.parametrize(
    ("address", "status"),
    [("10.9.8.7", 200), ("2001:db8::5", 200), ("11.0.0.1", 403), ("", 403), ("unix:", 403)],
)
def test_a_key_bound_to_addresses_works_from_there_only(acme, address, status):
    text = factories.api_key(acme, allowed_ips=["10.0.0.0/8", "2001:db8::/32"]).text
    response = APIClient(REMOTE_ADDR=address).get(
        URL, headers={"x-api-key": text, "X-Forwarded-For": "10.0.0.1"}
    )
    assert response.status_code == status


def test_a_use_is_noted_once_a_minute_and_is_no_config_change(acme):
    issued = factories.api_key(acme)
    assert answer(Authorization=f"Bearer {issued.text}")[0] == 200
    first = ApiKey.objects.get()
    assert answer(Authorization=f"Bearer {issued.text}")[0] == 200
    second = ApiKey.objects.get()
    assert first.last_used_at == second.last_used_at
    assert first.last_used_at is not None
    assert second.config_version == issued.key.config_version


def test_a_tenants_key_may_act_in_its_tenant_alone(acme):
    key = factories.api_key(acme, "keys:*").key
    principal = principal_of_key(key)
    assert (principal.kind, principal.id, principal.operator_scopes) == ("key", key.id, frozenset())
    assert principal.tenant_scopes == {acme.id: frozenset(("keys:*",))}
    assert not principal.is_operator


def test_a_platform_key_may_act_everywhere(db):
    principal = principal_of_key(factories.api_key(None, "keys:read").key)
    assert principal.operator_scopes == frozenset(("keys:read",))
    assert principal.tenant_scopes == {}


# ------------------------------------------------------------------ people


@pytest.mark.parametrize("role", sorted(TENANT_ROLES))
def test_a_member_holds_the_roles_scopes_in_that_tenant(acme, role):
    person = factories.member(acme, role).user
    principal = principal_of(person)
    assert principal.tenant_scopes == {acme.id: TENANT_ROLES[role]}
    assert principal.operator_scopes == frozenset()


@pytest.mark.parametrize("role", sorted(OPERATOR_ROLES))
def test_staff_of_the_operator_hold_their_roles_scopes(db, role):
    assert principal_of(factories.user(operator_role=role)).operator_scopes == OPERATOR_ROLES[role]


def test_somebody_inactive_may_nothing(acme):
    person = factories.user(operator_role="owner", is_active=False)
    factories.member(acme, "owner", person=person)
    principal = principal_of(person)
    assert (principal.operator_scopes, principal.tenant_scopes) == (frozenset(), {})


def test_a_session_reads_and_writes_only_with_the_csrf_token(acme):
    client = APIClient(enforce_csrf_checks=True)
    client.force_login(factories.member(acme, "owner").user)
    assert answer(client) == (200, None)
    body = {"name": "ci", "scopes": ["inference:chat"]}
    response = client.post(URL, body, format="json")
    assert (response.status_code, response.json()["error"]["code"]) == (403, "permission_denied")
    assert not ApiKey.objects.exists()
    client.get("/accounts/login/")
    client.cookies["csrftoken"] = token = "a" * 32
    assert client.post(URL, body, format="json", headers={"X-CSRFToken": token}).status_code == 201


def test_a_removed_member_is_out_at_once(acme):
    membership = factories.member(acme, "owner")
    client = APIClient()
    client.force_login(membership.user)
    assert answer(client) == (200, None)
    membership.delete()
    assert answer(client) == (404, "not_found")
