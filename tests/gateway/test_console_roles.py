"""The pages of roles and service accounts: what their forms change, and what must be typed first."""

import re

import pytest
from django.urls import reverse

from tenants.models import ApiKey, AuditEvent, CustomRole, ServiceAccount
from tests import factories
from tests.gateway.test_console import KEY_TEXT, signed_in

ROLE = {"slug": "auditor", "name": "Auditor", "area_usage": ["usage:read"], "area_audit": ["audit:read"]}


@pytest.fixture
def acme(db):
    return factories.tenant("acme")


@pytest.fixture
def owner(acme):
    return signed_in(factories.member(acme, "owner").user)


@pytest.fixture
def account(acme):
    return ServiceAccount.objects.create(tenant=acme, name="Deployments", role="developer")


def make(client, **changes):
    return client.post(reverse("role_create", args=("acme",)), ROLE | changes)


def test_a_role_is_made_changed_and_removed(owner):
    assert make(owner)["Location"] == reverse("role_list", args=("acme",))
    assert CustomRole.objects.get().scopes == ["usage:read", "audit:read"]
    edit = reverse("role_edit", args=("acme", "auditor"))
    page = owner.get(edit).content.decode()
    assert re.findall(r'value="([a-z]+:[a-z]+)"[^>]* checked', page) == ["usage:read", "audit:read"]
    owner.post(edit, {"name": "Reviser", "area_usage": ["usage:read"]})
    role = CustomRole.objects.get()
    assert (role.name, role.scopes) == ("Reviser", ["usage:read"])
    remove = reverse("role_remove", args=("acme", "auditor"))
    assert owner.post(remove, {"confirm": "Reviser"})["Location"] == edit
    assert CustomRole.objects.count() == 1
    owner.post(remove, {"confirm": "auditor"})
    assert CustomRole.objects.count() == 0
    actions = AuditEvent.objects.order_by("sequence").values_list("action", flat=True)
    assert list(actions) == ["role.create", "role.update", "role.delete"]


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"slug": "owner"}, "slug"),
        ({"slug": "a_b"}, "slug"),
        ({"name": ""}, "name"),
        ({"area_usage": [], "area_audit": []}, "__all__"),
        ({"area_usage": ["cost:read"]}, "area_usage"),
    ],
)
def test_a_bad_role_is_refused_beside_its_field(owner, changes, where):
    answer = make(owner, **changes)
    assert (answer.status_code, where in answer.context["form"].errors) == (422, True)
    assert not CustomRole.objects.exists()


def test_the_form_offers_nothing_that_only_an_operator_may(owner):
    page = owner.get(reverse("role_create", args=("acme",))).content.decode()
    offered = set(re.findall(r'value="([a-z]+:[a-z]+)"', page))
    assert {"keys:write", "usage:read"} <= offered
    assert not offered & {"tenants:write", "tenants:act", "cost:read", "prices:read"}


def test_a_role_that_somebody_holds_stays(owner, acme):
    make(owner)
    factories.member(acme, CustomRole.objects.get())
    owner.post(reverse("role_remove", args=("acme", "auditor")), {"confirm": "auditor"})
    assert CustomRole.objects.exists()


def test_an_account_is_opened_and_given_a_key_that_is_shown_once(owner):
    opened = owner.post(
        reverse("service_account_list", args=("acme",)), {"name": "Deployments", "role": "developer"}
    )
    account = ServiceAccount.objects.get()
    detail = reverse("service_account_detail", args=("acme", account.id))
    assert opened["Location"] == detail
    form = {"name": "CI", "scopes": ["inference:chat"]}
    page = owner.post(reverse("service_account_key", args=("acme", account.id)), form).content.decode()
    (text,) = set(KEY_TEXT.findall(page))
    key = ApiKey.objects.get()
    assert (key.service_account, key.scopes, key.last_four) == (account, ["inference:chat"], text[-4:])
    assert text not in owner.get(detail).content.decode()


def test_a_key_beyond_the_accounts_role_is_not_made(owner, account):
    form = {"name": "CI", "scopes": ["members:write"]}
    owner.post(reverse("service_account_key", args=("acme", account.id)), form)
    assert not ApiKey.objects.exists()


def test_an_accounts_role_and_state_change(owner, account):
    owner.post(reverse("service_account_role", args=("acme", account.id)), {"role": "viewer"})
    url, states = reverse("service_account_status", args=("acme", account.id)), []
    for form in (
        {"action": "suspend"},
        {"action": "activate"},
        {"action": "deactivate", "confirm": "no"},
        {"action": "nonsense"},
        {"action": "deactivate", "confirm": "Deployments"},
        {"action": "activate"},
    ):
        owner.post(url, form)
        account.refresh_from_db()
        states.append(account.status)
    assert states == ["suspended", "active", "active", "active", "deactivated", "deactivated"]
    assert account.role == "viewer"
