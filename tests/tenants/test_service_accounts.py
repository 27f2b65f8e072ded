"""Service accounts: what their keys may do, on both planes, as roles and accounts change."""

from datetime import timedelta

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone
from rest_framework.test import APIClient

from tenants import keys, roles, service_accounts, snapshot
from tenants.authentication import principal_of, principal_of_key
from tenants.errors import ApiError
from tenants.models import ApiKey, AuditEvent, ServiceAccount
from tenants.principal import SYSTEM
from tests import factories

pytestmark = pytest.mark.urls("tests.tenants.urls")
ACCOUNTS = "/api/v1/tenants/acme/service-accounts/"
KEYS = "/api/v1/tenants/acme/keys/"


@pytest.fixture
def acme(db):
    return factories.tenant("acme")


def refused(code, param=None):
    return pytest.raises(ApiError, check=lambda error: (error.code, error.param) == (code, param))


def account(tenant, role="developer", name="ci"):
    return service_accounts.open_account(tenant=tenant, name=name, role=role, actor=SYSTEM)


def key_of(owner, *scopes):
    return factories.api_key(
        owner.tenant, *(scopes or ("inference:chat", "keys:write")), service_account=owner
    )


def scopes_now(issued):
    """What the control plane and the data plane say the key may do."""
    control = principal_of_key(ApiKey.objects.get(pk=issued.key.pk)).tenant_scopes[issued.key.tenant_id]
    data = snapshot.load().keys[issued.key.public_id].scopes
    assert control == data
    return control


def test_an_account_is_opened_and_audited(acme):
    opened = account(acme)
    assert (opened.status, opened.stopped_at, opened.role) == ("active", None, "developer")
    event = AuditEvent.objects.get()
    assert (event.action, event.object_id) == ("service_account.create", str(opened.id))
    assert event.after == {"name": "ci", "role": "developer"}


@pytest.mark.parametrize(
    ("changes", "param"), [({"name": ""}, "name"), ({"name": "n" * 101}, "name"), ({"role": "no"}, "role")]
)
def test_a_bad_account_is_refused_and_leaves_nothing(acme, changes, param):
    with refused("invalid_request", param):
        account(acme, **changes)
    assert (ServiceAccount.objects.count(), AuditEvent.objects.count()) == (0, 0)


def test_a_name_is_taken_once_in_a_tenant(acme):
    account(acme)
    with refused("conflict", "name"):
        account(acme)
    assert account(factories.tenant("globex")).name == "ci"


def test_nobody_opens_or_changes_an_account_that_may_do_more_than_they(acme):
    made = roles.create_role(
        tenant=acme, slug="hr", name="HR", scopes=["members:read", "members:write"], actor=SYSTEM
    )
    actor, now = principal_of(factories.member(acme, made).user), timezone.now()
    with refused("permission_denied", "role"):
        service_accounts.open_account(tenant=acme, name="x", role="developer", actor=actor)
    above = account(acme)
    with refused("permission_denied", "role"):
        service_accounts.change_role(account=above, role="hr", actor=actor)
    with refused("permission_denied", "role"):
        service_accounts.suspend(account=above, actor=actor, now=now)
    assert service_accounts.open_account(tenant=acme, name="x", role="hr", actor=actor).custom_role == made


def test_a_key_may_do_what_it_and_its_accounts_role_both_hold(acme):
    owner = account(acme)
    issued = key_of(owner)
    assert scopes_now(issued) == {"inference:chat", "keys:write"}
    service_accounts.change_role(account=owner, role="viewer", actor=SYSTEM)
    assert scopes_now(issued) == frozenset()
    service_accounts.change_role(account=owner, role="admin", actor=SYSTEM)
    assert scopes_now(issued) == {"inference:chat", "keys:write"}


def test_a_change_of_the_own_role_reaches_the_keys_of_its_accounts(acme):
    role = roles.create_role(
        tenant=acme, slug="bot", name="Bot", scopes=["inference:chat", "usage:read"], actor=SYSTEM
    )
    issued = key_of(account(acme, role="bot"), "inference:chat")
    before = snapshot.load()
    assert before.keys[issued.key.public_id].scopes == {"inference:chat"}
    roles.change_role(role=role, scopes=["usage:read"], actor=SYSTEM)
    assert snapshot.load(before).keys[issued.key.public_id].scopes == frozenset()


def test_a_key_of_everything_is_capped_to_single_scopes(acme):
    owner = account(acme, role="billing")
    issued = key_of(owner, "budgets:read")
    ApiKey.objects.update(scopes=["*"])
    assert "budgets:write" in scopes_now(issued)
    assert "keys:read" not in scopes_now(issued)


def test_a_scope_beyond_the_accounts_role_is_refused_when_the_key_is_made(acme):
    with refused("invalid_request", "scopes"):
        key_of(account(acme, role="viewer"), "keys:write")


def test_a_key_belongs_to_an_account_of_its_own_tenant(acme):
    foreign = account(factories.tenant("globex"))
    with refused("invalid_request", "service_account"):
        factories.api_key(acme, "inference:chat", service_account=foreign)
    with refused("invalid_request", "service_account"):
        factories.api_key(None, "inference:chat", service_account=foreign)


@pytest.mark.parametrize("verb", ["suspend", "deactivate"])
def test_a_stopped_accounts_keys_are_refused_on_both_planes(acme, verb):
    owner, now = account(acme), timezone.now()
    issued = key_of(owner)
    before = snapshot.load()
    assert keys.verify(issued.text, now) == issued.key
    stopped = getattr(service_accounts, verb)(account=owner, actor=SYSTEM, now=now)
    with refused("key_revoked"):
        keys.verify(issued.text, now)
    assert snapshot.load(before).keys[issued.key.public_id].revoked_at == now.timestamp()
    assert stopped.stopped_at == now
    with refused("conflict", "service_account"):
        key_of(owner)


def test_an_activated_accounts_keys_work_again(acme):
    owner, now = account(acme), timezone.now()
    issued = key_of(owner)
    service_accounts.suspend(account=owner, actor=SYSTEM, now=now)
    before = snapshot.load()
    service_accounts.activate(account=owner, actor=SYSTEM, now=now)
    assert keys.verify(issued.text, now) == issued.key
    assert snapshot.load(before).keys[issued.key.public_id].revoked_at is None


def test_a_key_revoked_before_its_account_stopped_stays_revoked(acme):
    owner, now = account(acme), timezone.now()
    issued = key_of(owner)
    keys.revoke(key=issued.key, actor=SYSTEM, now=now)
    service_accounts.suspend(account=owner, actor=SYSTEM, now=now + timedelta(hours=1))
    assert snapshot.load().keys[issued.key.public_id].revoked_at == now.timestamp()
    service_accounts.activate(account=owner, actor=SYSTEM, now=now)
    assert snapshot.load().keys[issued.key.public_id].revoked_at == now.timestamp()


def test_stopping_twice_keeps_the_first_instant_and_deactivation_is_for_good(acme):
    owner, now = account(acme), timezone.now()
    service_accounts.suspend(account=owner, actor=SYSTEM, now=now)
    later = now + timedelta(hours=1)
    assert service_accounts.suspend(account=owner, actor=SYSTEM, now=later).stopped_at == now
    assert service_accounts.deactivate(account=owner, actor=SYSTEM, now=later).stopped_at == now
    assert service_accounts.deactivate(account=owner, actor=SYSTEM, now=later).status == "deactivated"
    for verb in (service_accounts.activate, service_accounts.suspend):
        with refused("conflict"):
            verb(account=owner, actor=SYSTEM, now=later)
    with refused("conflict"):
        service_accounts.change_role(account=owner, role="viewer", actor=SYSTEM)


def test_a_rotated_key_stays_with_its_account(acme):
    owner = account(acme)
    issued = keys.rotate(key=key_of(owner).key, grace_s=0, actor=SYSTEM, now=timezone.now())
    assert issued.key.service_account_id == owner.id


def test_the_database_knows_no_half_stopped_account(acme):
    owner = account(acme)
    with pytest.raises(IntegrityError), transaction.atomic():
        ServiceAccount.objects.filter(pk=owner.pk).update(status="suspended")


def test_looking_a_key_up_costs_one_query(acme, django_assert_num_queries):
    role = roles.create_role(tenant=acme, slug="bot", name="Bot", scopes=["inference:chat"], actor=SYSTEM)
    text = key_of(account(acme, role=role.slug), "inference:chat").text
    with django_assert_num_queries(1):
        assert principal_of_key(keys.verify(text, timezone.now())).tenant_scopes == {
            acme.id: frozenset(("inference:chat",))
        }


def test_the_life_of_an_account_through_the_api(acme):
    client = APIClient()
    client.force_login(factories.member(acme, "owner").user)
    made = client.post(ACCOUNTS, {"name": "ci", "role": "developer"}, format="json")
    assert (made.status_code, made.json()["status"]) == (201, "active")
    body = {"name": "deploys", "scopes": ["keys:read", "keys:write"], "service_account": made.json()["id"]}
    key = client.post(KEYS, body, format="json").json()
    assert key["service_account"] == made.json()["id"]
    mine = factories.key_client(key["key"])
    assert mine.get(KEYS).status_code == 200
    one = f"{ACCOUNTS}{made.json()['id']}/"
    assert client.patch(one, {"role": "billing"}, format="json").json()["role"] == "billing"
    assert mine.get(KEYS).status_code == 403
    assert client.post(f"{one}suspend/", {}, format="json").json()["status"] == "suspended"
    answer = mine.get(KEYS)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "key_revoked")
    assert client.post(f"{one}activate/", {}, format="json").json()["status"] == "active"
    assert client.post(f"{one}deactivate/", {}, format="json").json()["status"] == "deactivated"
    assert client.post(f"{one}activate/", {}, format="json").status_code == 409
    assert client.delete(one).status_code == 405


def test_a_foreign_account_can_not_be_named_in_a_key(acme):
    foreign = account(factories.tenant("globex"))
    client = factories.client_with(acme, "*")
    body = {"name": "x", "scopes": ["keys:read"], "service_account": str(foreign.id)}
    answer = client.post(KEYS, body, format="json")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "service_account")
