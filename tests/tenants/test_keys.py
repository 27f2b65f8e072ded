from datetime import UTC, datetime, timedelta

import pytest
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st

from tenants import keys
from tenants.errors import ApiError
from tenants.models import ApiKey, AuditEvent, ConfigVersion
from tenants.principal import SYSTEM, Principal
from tests import factories

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
PEPPERS = ["new:" + "A" * 43 + "=", "old:" + "B" * 42 + "A="]
public_ids = st.text(
    "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", min_size=12, max_size=12
)


# ------------------------------------------------------------------ text


@given(public_ids, st.binary(min_size=32, max_size=32))
def test_a_composed_key_parses_into_its_parts(public_id, secret):
    text = keys.compose(public_id=public_id, secret=secret)
    assert len(text) == 65
    assert keys.parse(text) == keys.ParsedKey(public_id=public_id, text=text)


@given(public_ids, st.binary(min_size=32, max_size=32), st.integers(0, 64), st.characters(codec="utf-8"))
def test_any_changed_character_is_noticed(public_id, secret, position, character):
    text = keys.compose(public_id=public_id, secret=secret)
    changed = text[:position] + character + text[position + 1 :]
    assert (keys.parse(changed) is None) is (changed != text)


@given(public_ids, st.binary(min_size=32, max_size=32), st.integers(0, 64))
def test_a_cut_key_is_noticed(public_id, secret, length):
    assert keys.parse(keys.compose(public_id=public_id, secret=secret)[:length]) is None


@given(st.text(max_size=80))
def test_no_text_breaks_the_parser(text):
    keys.parse(text)


def test_the_format_is_frozen():
    text = keys.compose(public_id="abcdefABCDEF", secret=bytes(range(32)))
    assert text == "th_abcdefABCDEF_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf0IAia0"


@given(st.integers(0, 2**256 - 1))
def test_base62_is_injective_at_fixed_width(number):
    written = keys.base62(number, keys.SECRET_CHARACTERS)
    assert len(written) == keys.SECRET_CHARACTERS
    read = 0
    for character in written:
        read = read * 62 + keys._DIGITS.index(character)
    assert read == number


def test_the_digest_depends_on_text_and_pepper():
    text = keys.compose(public_id="a" * 12, secret=bytes(32))
    digests = {
        keys.digest_of(text, bytes(32)),
        keys.digest_of(text, b"p" * 32),
        keys.digest_of("th", bytes(32)),
    }
    assert {len(digest) for digest in digests} == {32}
    assert len(digests) == 3


# ------------------------------------------------------------------ issue


def refused(code, param=None):
    return pytest.raises(ApiError, check=lambda error: (error.code, error.param) == (code, param))


def test_issue_stores_a_digest_and_never_the_text(db):
    issued = factories.api_key(factories.tenant(), "inference:chat")
    stored = ApiKey.objects.values().get()
    secret = issued.text.rpartition("_")[2]
    assert secret not in repr(stored)
    assert bytes(stored["digest"]) == keys.digest_of(issued.text, _pepper(stored["pepper_id"]))
    assert stored["last_four"] == issued.text[-4:]
    assert secret not in repr(list(AuditEvent.objects.values()))


def _pepper(pepper_id):
    from django.conf import settings

    return keys.keyring(settings.TOLLHOUSE_KEY_PEPPERS, setting="x")[pepper_id]


def test_issue_normalizes_rights_and_carries_the_config_version(db):
    key = factories.api_key(
        factories.tenant(),
        "usage:read",
        "inference:chat",
        "usage:read",
        allowed_ips=["10.1.2.3/8", "2001:db8::1", "10.0.0.0/8"],
        allowed_models=["b", "a", "b"],
    ).key
    assert key.scopes == ["inference:chat", "usage:read"]
    assert key.allowed_ips == ["10.0.0.0/8", "2001:db8::1/128"]
    assert key.allowed_models == ["b", "a"]
    assert key.config_version == ConfigVersion.objects.get(section="tenants").version


@pytest.mark.parametrize(
    ("rights", "param"),
    [
        ({"scopes": []}, "scopes"),
        ({"scopes": ["inference:fly"]}, "scopes"),
        ({"scopes": ["inference"]}, "scopes"),
        ({"scopes": ["nothing:*"]}, "scopes"),
        ({"scopes": ["*"], "allowed_ips": ["10.0.0.0/33"]}, "allowed_ips"),
        ({"scopes": ["*"], "allowed_ips": ["everywhere"]}, "allowed_ips"),
    ],
)
def test_issue_refuses_impossible_rights(db, rights, param):
    with refused("invalid_request", param):
        keys.issue(tenant=factories.tenant(), name="x", actor=SYSTEM, **rights)
    assert not ApiKey.objects.exists()
    assert not AuditEvent.objects.exists()


@pytest.mark.parametrize("scope", ["*", "inference:*", "keys:write"])
def test_nobody_grants_more_than_they_hold(db, scope):
    tenant = factories.tenant()
    actor = Principal(
        "user", None, "dev", tenant_scopes={tenant.id: frozenset(("inference:chat", "keys:read"))}
    )
    with refused("permission_denied", "scopes"):
        keys.issue(tenant=tenant, name="x", scopes=[scope], actor=actor)
    assert not ApiKey.objects.exists()


def test_a_tenants_rights_reach_neither_another_tenant_nor_the_platform(db):
    mine, other = factories.tenant(), factories.tenant()
    actor = Principal("user", None, "owner", tenant_scopes={mine.id: frozenset(("*",))})
    keys.issue(tenant=mine, name="x", scopes=["*"], actor=actor)
    for tenant in (other, None):
        with refused("permission_denied", "scopes"):
            keys.issue(tenant=tenant, name="x", scopes=["inference:chat"], actor=actor)
    assert ApiKey.objects.count() == 1


# ------------------------------------------------------------------ rotate and revoke


def test_rotate_keeps_the_rights_and_ends_the_old_key_after_the_grace(db):
    old = factories.api_key(
        factories.tenant(), "inference:chat", limit_rpm=5, allowed_models=["m"], allowed_ips=["10.0.0.0/8"]
    )
    new = keys.rotate(key=old.key, grace_s=3600, actor=SYSTEM, now=NOW)
    old.key.refresh_from_db()
    assert old.key.expires_at == NOW + timedelta(hours=1)
    assert old.key.replaced_by == new.key
    for field in ("tenant_id", "name", "scopes", "limit_rpm", "allowed_models", "allowed_ips"):
        assert getattr(new.key, field) == getattr(old.key, field)
    assert new.key.expires_at is None
    assert old.key.config_version == new.key.config_version == ConfigVersion.objects.get().version
    assert keys.verify(old.text, NOW) == old.key
    assert keys.verify(new.text, NOW) == new.key
    with refused("key_expired"):
        keys.verify(old.text, NOW + timedelta(hours=1))


def test_rotate_never_lengthens_a_keys_life(db):
    ends_at = NOW + timedelta(minutes=1)
    old = factories.api_key(factories.tenant(), expires_at=ends_at)
    new = keys.rotate(key=old.key, grace_s=3600, actor=SYSTEM, now=NOW)
    old.key.refresh_from_db()
    assert old.key.expires_at == new.key.expires_at == ends_at


def test_a_key_rotates_once(db):
    old = factories.api_key(factories.tenant())
    keys.rotate(key=old.key, grace_s=0, actor=SYSTEM, now=NOW - timedelta(days=1))
    with refused("conflict"):
        keys.rotate(key=old.key, grace_s=0, actor=SYSTEM, now=NOW)
    other = factories.api_key(factories.tenant())
    keys.rotate(key=other.key, grace_s=60, actor=SYSTEM, now=NOW)
    with refused("conflict"):
        keys.rotate(key=other.key, grace_s=60, actor=SYSTEM, now=NOW)
    assert ApiKey.objects.count() == 4


@pytest.mark.parametrize("grace_s", [-1, keys.MAX_GRACE_S + 1])
def test_rotate_refuses_a_grace_out_of_range(db, grace_s):
    old = factories.api_key(factories.tenant())
    with refused("invalid_request", "grace_s"):
        keys.rotate(key=old.key, grace_s=grace_s, actor=SYSTEM, now=NOW)


def test_rotate_refuses_an_actor_with_fewer_rights(db):
    tenant = factories.tenant()
    old = factories.api_key(tenant, "budgets:write")
    actor = Principal("user", None, "dev", tenant_scopes={tenant.id: frozenset(("keys:write",))})
    with refused("permission_denied", "scopes"):
        keys.rotate(key=old.key, grace_s=0, actor=actor, now=NOW)
    old.key.refresh_from_db()
    assert old.key.expires_at is None


def test_revoke_holds_from_the_first_time(db):
    issued = factories.api_key(factories.tenant())
    keys.revoke(key=issued.key, actor=SYSTEM, now=NOW)
    again = keys.revoke(key=issued.key, actor=SYSTEM, now=NOW + timedelta(days=1))
    assert again.revoked_at == NOW
    with refused("key_revoked"):
        keys.verify(issued.text, NOW - timedelta(days=1))
    with refused("conflict"):
        keys.rotate(key=issued.key, grace_s=0, actor=SYSTEM, now=NOW)


def test_a_rate_limit_is_set_audited_and_taken_back(db):
    issued = factories.api_key(factories.tenant(), limit_rpm=100)
    limited = keys.limit_rate(key=issued.key, limit_rpm=5, actor=SYSTEM)
    assert (limited.limit_rpm, limited.config_version) == (5, ConfigVersion.objects.get(pk="tenants").version)
    event = AuditEvent.objects.get(action="key.limit_rate")
    assert (event.before, event.after) == ({"limit_rpm": 100}, {"limit_rpm": 5})
    assert keys.limit_rate(key=issued.key, limit_rpm=None, actor=SYSTEM).limit_rpm is None
    with refused("invalid_request", "limit_rpm"):
        keys.limit_rate(key=issued.key, limit_rpm=0, actor=SYSTEM)
    assert ApiKey.objects.get(pk=issued.key.pk).limit_rpm is None


# ------------------------------------------------------------------ verify


def test_verify_refuses_a_wrong_secret_like_an_unknown_key(db):
    issued = factories.api_key(factories.tenant())
    wrong = keys.compose(public_id=issued.key.public_id, secret=bytes(32))
    unknown = keys.compose(public_id="0" * 12, secret=bytes(32))
    messages = set()
    for text in (wrong, unknown, "nonsense", ""):
        with refused("invalid_api_key") as caught:
            keys.verify(text, NOW)
        messages.add(caught.value.message)
    assert messages == {"Incorrect API key provided."}


def test_an_older_pepper_goes_on_verifying_and_a_dropped_one_does_not(db):
    with override_settings(TOLLHOUSE_KEY_PEPPERS=PEPPERS[1:]):
        issued = factories.api_key(factories.tenant())
    with override_settings(TOLLHOUSE_KEY_PEPPERS=PEPPERS):
        assert keys.verify(issued.text, NOW) == issued.key
        assert factories.api_key(factories.tenant()).key.pepper_id == "new"
    with override_settings(TOLLHOUSE_KEY_PEPPERS=PEPPERS[:1]), refused("invalid_api_key"):
        keys.verify(issued.text, NOW)


def test_every_verb_leaves_one_event(db):
    issued = factories.api_key(factories.tenant())
    new = keys.rotate(key=issued.key, grace_s=60, actor=SYSTEM, now=NOW)
    keys.revoke(key=new.key, actor=SYSTEM, now=NOW)
    assert list(AuditEvent.objects.order_by("sequence").values_list("action", "object_id")) == [
        ("key.create", str(issued.key.id)),
        ("key.rotate", str(issued.key.id)),
        ("key.revoke", str(new.key.id)),
    ]
