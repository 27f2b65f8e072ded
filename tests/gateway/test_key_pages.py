"""The console's pages of many keys, of one key's rights, and of what seals secrets."""

import re
from datetime import timedelta
from urllib.parse import unquote

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from tenants import keys
from tenants.models import ApiKey, DataKey
from tests import factories

pytestmark = pytest.mark.django_db
KEY_TEXT = re.compile(r"th_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}")


@pytest.fixture
def tenant():
    return factories.tenant("acme")


@pytest.fixture
def owner(tenant):
    client = Client()
    client.force_login(factories.member(tenant, "owner").user)
    return client


@pytest.fixture
def operator():
    client = Client()
    client.force_login(factories.user(operator_role="owner"))
    return client


def test_ticked_keys_rotate_and_their_texts_are_one_list_to_download(tenant, owner):
    olds = [factories.api_key(tenant, "inference:chat", name=f"k{number}").key for number in range(3)]
    chosen = {"keys": [str(key.id) for key in olds[:2]], "action": "rotate", "grace_s": "3600"}
    page = owner.post(reverse("key_bulk", args=("acme",)), chosen)
    texts = set(KEY_TEXT.findall(page.text))
    assert {keys.find(text).name for text in texts} == {"k0", "k1"}
    (href,) = re.findall(r'href="(data:[^"]+)"', page.text)
    lines = unquote(href.partition(",")[2]).splitlines()
    assert sorted(line.split("\t")[:2] for line in lines) == [["acme", "k0"], ["acme", "k1"]]
    assert {line.split("\t")[2] for line in lines} == texts
    assert not KEY_TEXT.search(owner.get(reverse("key_list", args=("acme",))).text)


def test_ticked_keys_are_revoked_and_strangers_are_not(tenant, owner):
    mine, foreign = factories.api_key(tenant).key, factories.api_key(factories.tenant()).key
    chosen = {"keys": [str(mine.id), str(foreign.id), "nonsense"], "action": "revoke"}
    owner.post(reverse("key_bulk", args=("acme",)), chosen)
    assert set(ApiKey.objects.filter(revoked_at__isnull=False)) == {mine}


def test_nothing_ticked_changes_nothing(tenant, owner):
    factories.api_key(tenant)
    answer = owner.post(
        reverse("key_bulk", args=("acme",)), {"action": "rotate", "grace_s": "0"}, follow=True
    )
    assert "Tick the keys first." in answer.text
    assert ApiKey.objects.count() == 1


def test_unused_keys_are_shown_with_their_last_use(tenant, owner):
    old, busy = (factories.api_key(tenant, name=name).key for name in ("Dusty", "Busy"))
    month = timezone.now() - timedelta(days=31)
    ApiKey.objects.filter(pk=old.pk).update(created_at=month)
    ApiKey.objects.filter(pk=busy.pk).update(created_at=month, last_used_at=timezone.now())
    page = owner.get(reverse("key_list", args=("acme",)), {"show": "unused"}).text
    assert "Dusty" in page
    assert "Busy" not in page


def test_the_operator_sees_and_rotates_over_all_workspaces(tenant, operator):
    others = factories.tenant("other")
    olds = [
        factories.api_key(each, "inference:chat", name=f"of-{each.slug}").key for each in (tenant, others)
    ]
    page = operator.get(reverse("platform_key_list")).text
    assert "of-acme" in page
    assert "of-other" in page
    chosen = {"keys": [str(key.id) for key in olds], "action": "rotate", "grace_s": "0"}
    answer = operator.post(reverse("platform_key_bulk"), chosen)
    assert len(set(KEY_TEXT.findall(answer.text))) == 2


def form_of(key, **changes):
    return {
        "name": key.name,
        "call_scopes": ["inference:chat"],
        "allowed_models": "",
        "allowed_ips": "",
        "expiry": "keep",
        **changes,
    }


def test_a_keys_addresses_models_and_limits_are_changed(tenant, owner):
    key = factories.api_key(tenant, "inference:chat").key
    url = reverse("key_edit", args=("acme", key.id))
    assert owner.get(url).status_code == 200
    data = form_of(key, allowed_ips="192.0.2.0/24", allowed_models="m-1\nm-2", limit_rpm="9", expiry="30")
    assert owner.post(url, data).status_code == 302
    key.refresh_from_db()
    assert (key.allowed_ips, key.allowed_models, key.limit_rpm) == (["192.0.2.0/24"], ["m-1", "m-2"], 9)
    assert timedelta(days=29) < key.expires_at - timezone.now() <= timedelta(days=30)
    owner.post(url, form_of(key, expiry="keep"))
    before = key.expires_at
    key.refresh_from_db()
    assert (key.expires_at, key.allowed_ips, key.limit_rpm) == (before, [], None)


def test_a_wildcard_stays_unless_the_scopes_are_changed(tenant, owner):
    key = factories.api_key(tenant, "inference:*", "models:read").key
    url = reverse("key_edit", args=("acme", key.id))
    form = owner.get(url).context["form"]
    ticked = {name: form[name].value() for name in ("call_scopes", "manage_scopes")}
    assert owner.post(url, form_of(key, **ticked, limit_rpm="3")).status_code == 302
    key.refresh_from_db()
    assert (key.scopes, key.limit_rpm) == (["inference:*", "models:read"], 3)


def test_a_bad_address_is_refused_beside_its_field(tenant, owner):
    key = factories.api_key(tenant, "inference:chat").key
    answer = owner.post(reverse("key_edit", args=("acme", key.id)), form_of(key, allowed_ips="nowhere"))
    assert answer.status_code == 422
    assert "Not an address range" in answer.text


def test_the_encryption_page_shows_what_is_left_and_rotates(tenant, operator):
    operator.post(reverse("encryption_rotate"), {"tenant": "acme"})
    operator.post(reverse("encryption_rotate"), {"tenant": "acme"})
    assert list(DataKey.objects.order_by("version").values_list("tenant__slug", "version")) == [
        ("acme", 1),
        ("acme", 2),
    ]
    DataKey.objects.filter(version=1).update(master_key_id="k0")
    page = operator.get(reverse("encryption")).text
    assert "Acme, version 1" in page
    assert "k0" in page


def test_the_encryption_api_is_the_operators(tenant):
    operator, theirs = factories.client_with(None), factories.client_with(tenant)
    made = operator.post("/api/v1/encryption/rotate/", {"tenant": "acme"}, format="json")
    assert (made.status_code, made.data["version"]) == (201, 1)
    state = operator.get("/api/v1/encryption/").data
    assert (state["data_keys"], state["under_older_master_keys"], state["rotations"]) == (1, {}, [])
    assert theirs.get("/api/v1/encryption/").status_code == 403
    assert theirs.post("/api/v1/encryption/rotate/", {}, format="json").status_code == 403
    assert operator.post("/api/v1/encryption/rotate/", {"tenant": "none"}, format="json").status_code == 400
