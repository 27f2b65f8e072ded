"""Many keys at once, unused ones, changed ones, leaked ones; when a key was used last."""

from datetime import UTC, datetime, timedelta

import pytest

from tenants import keys
from tenants.errors import ApiError
from tenants.models import ApiKey, AuditEvent
from tenants.principal import SYSTEM, Principal
from tests import factories

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.tenants.urls")]
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def aged(key, *, made_days, used_days=None, **fields):
    used = None if used_days is None else NOW - timedelta(days=used_days)
    ApiKey.objects.filter(pk=key.pk).update(
        created_at=NOW - timedelta(days=made_days), last_used_at=used, **fields
    )


def names(rows):
    return sorted(rows.values_list("name", flat=True))


# ------------------------------------------------------------------ verbs


def test_many_rotate_together_or_not_at_all():
    tenant = factories.tenant()
    olds = [factories.api_key(tenant, name=f"k{number}").key for number in range(3)]
    issued = keys.rotate_many(keys=olds, grace_s=60, actor=SYSTEM, now=NOW)
    assert [keys.verify(each.text, NOW).name for each in issued] == ["k0", "k1", "k2"]
    assert set(ApiKey.objects.filter(pk__in=[k.pk for k in olds]).values_list("expires_at", flat=True)) == {
        NOW + timedelta(seconds=60)
    }
    fresh = factories.api_key(tenant).key
    before = ApiKey.objects.count(), AuditEvent.objects.count()
    with pytest.raises(ApiError, match="rotated already"):
        keys.rotate_many(keys=[fresh, olds[0]], grace_s=60, actor=SYSTEM, now=NOW)
    assert (ApiKey.objects.count(), AuditEvent.objects.count()) == before


def test_nobody_changes_more_than_the_most_at_once(monkeypatch):
    monkeypatch.setattr(keys, "MAX_AT_ONCE", 1)
    tenant = factories.tenant()
    two = [factories.api_key(tenant).key for _ in range(2)]
    for verb in (
        lambda: keys.revoke_many(keys=two, actor=SYSTEM, now=NOW),
        lambda: keys.rotate_many(keys=[], grace_s=0, actor=SYSTEM, now=NOW),
    ):
        with pytest.raises(ApiError, match="1 to 1 keys"):
            verb()


def test_a_key_is_unused_when_it_has_had_the_time():
    tenant = factories.tenant()
    for name, made, used in (("never", 40, None), ("idle", 400, 31), ("new", 3, None), ("busy", 400, 29)):
        aged(factories.api_key(tenant, name=name).key, made_days=made, used_days=used)
    gone = factories.api_key(tenant, name="revoked").key
    aged(gone, made_days=400, revoked_at=NOW)
    aged(factories.api_key(tenant, name="expired").key, made_days=400, expires_at=NOW)
    rows = ApiKey.objects.for_tenant(tenant)
    assert names(keys.unused(rows, days=30, now=NOW)) == ["idle", "never"]
    assert names(keys.unused(rows, days=90, now=NOW)) == []
    assert names(keys.living(rows, now=NOW)) == ["busy", "idle", "never", "new"]


def test_a_key_that_ends_soon_is_told():
    tenant = factories.tenant()
    for days in (6, 8):
        factories.api_key(tenant, name=f"{days}", expires_at=NOW + timedelta(days=days))
    assert names(keys.expiring(ApiKey.objects.for_tenant(tenant), days=7, now=NOW)) == ["6"]


def test_a_key_is_changed_and_keeps_its_text():
    tenant = factories.tenant()
    issued = factories.api_key(tenant, "inference:chat", "keys:read")
    version = issued.key.config_version
    changed = keys.change(
        key=issued.key,
        changes={"scopes": ["inference:chat"], "allowed_ips": ["10.1.2.3/8"], "allowed_models": ["m", "m"]},
        actor=SYSTEM,
        now=NOW,
    )
    assert (changed.scopes, changed.allowed_ips, changed.allowed_models) == (
        ["inference:chat"], ["10.0.0.0/8"], ["m"],
    )  # fmt: skip
    assert keys.verify(issued.text, NOW).config_version > version
    event = AuditEvent.objects.get(action="key.update")
    assert event.before["scopes"] == ["inference:chat", "keys:read"]
    assert event.after["allowed_ips"] == ["10.0.0.0/8"]


def test_nobody_makes_a_key_do_more_than_they_may():
    tenant = factories.tenant()
    key = factories.api_key(tenant, "inference:chat", "budgets:write").key
    small = Principal(
        kind="user", id=None, label="d", tenant_scopes={tenant.id: frozenset(["inference:chat"])}
    )
    for changes in ({"scopes": ["members:write"]}, {"allowed_ips": []}):
        with pytest.raises(ApiError, match="you do not hold it"):
            keys.change(key=key, changes=changes, actor=small, now=NOW)
    narrowed = keys.change(key=key, changes={"scopes": ["inference:chat"]}, actor=small, now=NOW)
    assert narrowed.scopes == ["inference:chat"]


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"allowed_ips": ["nowhere"]}, "allowed_ips"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["x:y"]}, "scopes"),
        ({"name": " "}, "name"),
        ({"expires_at": NOW}, "expires_at"),
        ({"public_id": "x"}, "public_id"),
    ],
)
def test_a_bad_change_is_refused_whole(changes, param):
    key = factories.api_key(factories.tenant()).key
    with pytest.raises(ApiError) as caught:
        keys.change(key=key, changes={"limit_rpm": 5, **changes}, actor=SYSTEM, now=NOW)
    assert (caught.value.code, caught.value.param) == ("invalid_request", param)
    key.refresh_from_db()
    assert key.limit_rpm is None


def test_a_revoked_key_is_not_changed():
    key = keys.revoke(key=factories.api_key(factories.tenant()).key, actor=SYSTEM, now=NOW)
    with pytest.raises(ApiError, match="revoked or expired"):
        keys.change(key=key, changes={"name": "x"}, actor=SYSTEM, now=NOW)


def test_a_leaked_key_is_refused_and_replaced_by_one_of_the_same_rights():
    tenant = factories.tenant()
    issued = factories.api_key(tenant, "inference:chat", limit_rpm=7)
    leak = keys.mark_leaked(
        key=issued.key, reason="In a public repository", actor=SYSTEM, now=NOW, is_replaced=True
    )
    with pytest.raises(ApiError, match="revoked"):
        keys.verify(issued.text, NOW)
    new = keys.verify(leak.replacement.text, NOW)
    assert (new.scopes, new.limit_rpm, new.id) == (["inference:chat"], 7, leak.key.replaced_by_id)
    assert (leak.key.leaked_at, leak.key.revoked_at) == (NOW, NOW)
    event = AuditEvent.objects.get(action="key.leak")
    assert (event.reason, event.after["replaced_by"]) == ("In a public repository", str(new.id))


def test_a_leak_is_noted_of_a_revoked_key_too_and_replaces_nothing():
    key = keys.revoke(key=factories.api_key(factories.tenant()).key, actor=SYSTEM, now=NOW)
    later = NOW + timedelta(days=1)
    leak = keys.mark_leaked(key=key, reason="", actor=SYSTEM, now=later, is_replaced=True)
    assert (leak.key.revoked_at, leak.key.leaked_at, leak.replacement) == (NOW, later, None)


def test_use_is_noted_once_a_minute_in_one_statement(django_assert_num_queries):
    tenant = factories.tenant()
    first, second = (factories.api_key(tenant).key for _ in range(2))
    with django_assert_num_queries(1):
        assert keys.note_use({first.id: NOW, second.id: NOW}) == 2
    assert keys.note_use({first.id: NOW + timedelta(seconds=59), second.id: NOW - timedelta(days=1)}) == 0
    assert keys.note_use({first.id: NOW + timedelta(seconds=60)}) == 1
    assert keys.note_use({}) == 0
    first.refresh_from_db()
    assert first.last_used_at == NOW + timedelta(seconds=60)


def test_only_the_whole_right_text_finds_a_key():
    issued = factories.api_key(factories.tenant())
    assert keys.find(issued.text) == issued.key
    other = keys.compose(public_id=issued.key.public_id, secret=bytes(32))
    for text in (other, issued.text[:-1], "", keys.compose(public_id="0" * 12, secret=bytes(32))):
        assert keys.find(text) is None


# ------------------------------------------------------------------ REST


def test_all_keys_of_a_tenant_rotate_by_one_call_and_the_texts_come_once():
    tenant, other = factories.tenant(), factories.tenant()
    olds = [factories.api_key(tenant, "inference:chat", name=f"k{number}") for number in range(2)]
    foreign = factories.api_key(other).key
    caller = factories.client_with(tenant)
    path = f"/api/v1/tenants/{tenant.slug}/keys/bulk-rotate/"
    body = {"all": True, "grace_s": 0}
    answer = caller.post(path, body, format="json", headers={"Idempotency-Key": "once"})
    assert answer.status_code == 201
    assert answer.data["has_more"] is False
    assert sorted(each["name"] for each in answer.data["issued"]) == ["k0", "k1"]
    for each in answer.data["issued"]:
        assert factories.key_client(each["key"]).get("/api/v1/keys/").status_code == 403
        assert keys.find(each["key"]).tenant == tenant
    assert factories.key_client(olds[0].text).get("/api/v1/keys/").status_code == 401
    again = caller.post(path, body, format="json", headers={"Idempotency-Key": "once"})
    assert (again.status_code, again.json()["issued"]) == (201, None)
    foreign.refresh_from_db()
    assert foreign.replaced_by is None
    rest = {"all": True, "before": answer.data["before"]}
    assert caller.post(path, rest, format="json").status_code == 409


def test_chosen_keys_are_revoked_and_a_strangers_does_not_exist():
    tenant, other = factories.tenant(), factories.tenant()
    mine = [factories.api_key(tenant).key for _ in range(3)]
    foreign = factories.api_key(other).key
    caller = factories.client_with(tenant)
    path = f"/api/v1/tenants/{tenant.slug}/keys/bulk-revoke/"
    both = {"keys": [str(mine[0].id), str(foreign.id)]}
    assert caller.post(path, both, format="json").status_code == 404
    assert not ApiKey.objects.filter(revoked_at__isnull=False).exists()
    answer = caller.post(path, {"keys": [str(mine[0].id), str(mine[1].id)]}, format="json")
    assert {each["id"] for each in answer.data["revoked"]} == {str(mine[0].id), str(mine[1].id)}
    assert set(ApiKey.objects.filter(revoked_at__isnull=False)) == {mine[0], mine[1]}


def test_the_operator_rotates_the_whole_platform_and_its_own_key_stays():
    tenants = [factories.tenant(), factories.tenant()]
    for tenant in tenants:
        factories.api_key(tenant)
    operator = factories.api_key(None)
    answer = factories.key_client(operator.text).post(
        "/api/v1/keys/bulk-rotate/", {"all": True}, format="json"
    )
    assert {each["tenant"] for each in answer.data["issued"]} == {tenant.slug for tenant in tenants}
    operator.key.refresh_from_db()
    assert operator.key.replaced_by is None


def test_who_may_only_read_a_key_does_not_revoke_it():
    tenant = factories.tenant()
    key = factories.api_key(tenant).key
    reader = factories.client_with(tenant, "keys:read")
    body = {"keys": [str(key.id)]}
    for path in (f"/api/v1/tenants/{tenant.slug}/keys/bulk-revoke/", "/api/v1/keys/bulk-revoke/"):
        assert reader.post(path, body, format="json").status_code == 403
    key.refresh_from_db()
    assert key.revoked_at is None


@pytest.mark.parametrize("body", [{}, {"keys": []}, {"all": False}, {"all": True, "keys": [str(SYSTEM.id)]}])
def test_which_keys_must_be_said(body):
    tenant = factories.tenant()
    answer = factories.client_with(tenant).post(
        f"/api/v1/tenants/{tenant.slug}/keys/bulk-revoke/", body, format="json"
    )
    assert answer.status_code == 400


def test_unused_keys_are_listed_of_one_tenant_and_of_all():
    tenant, other = factories.tenant(), factories.tenant()
    now = datetime.now(UTC)
    for owner in (tenant, other):
        old = factories.api_key(owner, name=f"old-{owner.slug}").key
        ApiKey.objects.filter(pk=old.pk).update(created_at=now - timedelta(days=40))
    listed = factories.client_with(tenant).get(f"/api/v1/tenants/{tenant.slug}/keys/?unused_days=30").data
    assert [each["name"] for each in listed["data"]] == [f"old-{tenant.slug}"]
    everywhere = factories.client_with(None).get("/api/v1/keys/?unused_days=30").data["data"]
    assert {each["tenant"] for each in everywhere} == {tenant.slug, other.slug}
    mine = factories.client_with(tenant).get("/api/v1/keys/?unused_days=30").data["data"]
    assert [each["tenant"] for each in mine] == [tenant.slug]


@pytest.mark.parametrize("text", ["0", "-1", "x", "4000", "²"])
def test_days_are_days(text):
    tenant = factories.tenant()
    answer = factories.client_with(tenant).get("/api/v1/keys/", {"unused_days": text})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "unused_days")


def test_a_key_is_patched():
    tenant = factories.tenant()
    key = factories.api_key(tenant).key
    caller = factories.client_with(tenant)
    path = f"/api/v1/tenants/{tenant.slug}/keys/{key.id}/"
    answer = caller.patch(path, {"allowed_ips": ["192.0.2.0/24"], "limit_rpm": 5}, format="json")
    assert (answer.status_code, answer.data["allowed_ips"], answer.data["key"]) == (
        200,
        ["192.0.2.0/24"],
        None,
    )
    assert caller.patch(path, {"service_account": None}, format="json").status_code == 200
    assert caller.patch(path, {"last_four": "abcd"}, format="json").status_code == 400
