import tracemalloc
from datetime import UTC, datetime
from ipaddress import ip_network

import pytest
from django.conf import settings
from django.db import connection

from tenants import keys, lifecycle
from tenants.models import ApiKey, Tenant
from tenants.principal import SYSTEM
from tenants.snapshot import KeyEntry, TenantEntry, load
from tests import factories

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def test_an_empty_house_loads(db):
    snapshot = load()
    assert (dict(snapshot.keys), dict(snapshot.tenants), dict(snapshot.slugs)) == ({}, {}, {})
    assert list(snapshot.peppers) == [entry.partition(":")[0] for entry in settings.TOLLHOUSE_KEY_PEPPERS]


def test_a_key_and_its_tenant_arrive_as_plain_data(db):
    tenant = factories.tenant("acme", timezone="Europe/Berlin", currency="EUR", region_policy=["eu", "ch"])
    issued = factories.api_key(
        tenant,
        "inference:chat",
        allowed_models=["m"],
        allowed_ips=["10.0.0.0/8"],
        limit_rpm=1,
        limit_tpm=2,
        max_concurrent=3,
        expires_at=NOW,
    )
    snapshot = load()
    assert snapshot.keys[issued.key.public_id] == KeyEntry(
        id=issued.key.id,
        public_id=issued.key.public_id,
        digest=keys.digest_of(issued.text, snapshot.peppers[issued.key.pepper_id]),
        pepper_id=issued.key.pepper_id,
        tenant_id=tenant.id,
        name="key",
        scopes=frozenset(("inference:chat",)),
        allowed_models=frozenset(("m",)),
        allowed_networks=(ip_network("10.0.0.0/8"),),
        limit_rpm=1,
        limit_tpm=2,
        max_concurrent=3,
        expires_at=NOW.timestamp(),
        revoked_at=None,
    )
    assert snapshot.tenants[tenant.id] == TenantEntry(
        id=tenant.id,
        slug="acme",
        name="Acme",
        is_active=True,
        timezone="Europe/Berlin",
        currency="EUR",
        regions=frozenset(("eu", "ch")),
    )
    assert snapshot.slugs == {"acme": tenant.id}


def test_no_limit_is_none(db):
    entry = load().keys.get(factories.api_key(None).key.public_id) or load().keys.popitem()[1]
    assert (entry.tenant_id, entry.allowed_models, entry.allowed_networks) == (None, None, ())
    assert (entry.limit_rpm, entry.limit_tpm, entry.max_concurrent, entry.expires_at) == (None,) * 4
    factories.tenant("free")
    assert load().tenants[load().slugs["free"]].regions is None


def test_nothing_changed_is_the_same_snapshot_for_one_query(db, django_assert_num_queries):
    factories.api_key(factories.tenant())
    first = load()
    with django_assert_num_queries(1):
        assert load(first) is first


def test_a_difference_brings_what_changed_and_leaves_the_previous_alone(db, django_assert_num_queries):
    acme = lifecycle.open_tenant(
        slug="acme", name="Acme", timezone="UTC", currency="USD", region_policy=[], actor=SYSTEM
    )
    old, kept = factories.api_key(acme), factories.api_key(acme)
    first = load()
    keys.revoke(key=old.key, actor=SYSTEM, now=NOW)
    new = factories.api_key(acme)
    lifecycle.suspend(tenant=acme, actor=SYSTEM)
    with django_assert_num_queries(3):
        second = load(first)
    assert second.version > first.version
    assert second.keys[old.key.public_id].revoked_at == NOW.timestamp()
    assert second.keys[kept.key.public_id] is first.keys[kept.key.public_id]
    assert new.key.public_id in second.keys
    assert not second.tenants[acme.id].is_active
    assert second.slugs == {"acme": acme.id}
    assert first.keys[old.key.public_id].revoked_at is None
    assert new.key.public_id not in first.keys
    assert first.tenants[acme.id].is_active


@pytest.mark.parametrize("verb", ["issue", "rotate", "revoke", "open", "change", "suspend", "activate"])
def test_a_difference_equals_a_full_load_after_every_verb(db, verb):
    acme = lifecycle.open_tenant(
        slug="acme", name="Acme", timezone="UTC", currency="USD", region_policy=[], actor=SYSTEM
    )
    key = factories.api_key(acme).key
    before = load()
    match verb:
        case "issue":
            factories.api_key(acme)
        case "rotate":
            keys.rotate(key=key, grace_s=60, actor=SYSTEM, now=NOW)
        case "revoke":
            keys.revoke(key=key, actor=SYSTEM, now=NOW)
        case "open":
            lifecycle.open_tenant(
                slug="globex", name="G", timezone="UTC", currency="USD", region_policy=[], actor=SYSTEM
            )
        case "change":
            lifecycle.change_tenant(tenant=acme, changes={"region_policy": ["eu"]}, actor=SYSTEM)
        case "suspend":
            lifecycle.suspend(tenant=acme, actor=SYSTEM)
        case "activate":
            lifecycle.activate(tenant=acme, actor=SYSTEM)
    after = load(before)
    assert after.version > before.version
    assert after == load()


def test_ten_thousand_tenants_and_a_hundred_thousand_keys_load_lean(db, django_assert_num_queries):
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO tenants_tenant (id, created_at, updated_at, slug, name, status, timezone, currency,"
            " region_policy, config_version) SELECT gen_random_uuid(), now(), now(), 't' || n, 'Tenant ' || n,"
            " 'active', 'UTC', 'USD', CASE WHEN n % 2 = 0 THEN ARRAY['eu'] ELSE ARRAY[]::varchar[] END, 1"
            " FROM generate_series(1, 10000) n"
        )
        cursor.execute(
            "INSERT INTO tenants_apikey (id, created_at, updated_at, tenant_id, public_id, digest, pepper_id,"
            " last_four, name, scopes, allowed_models, allowed_ips, created_by, config_version)"
            " SELECT gen_random_uuid(), now(), now(), t.id, lpad(substr(t.slug, 2) || 'x' || k, 12, '0'),"
            " sha256(t.slug::bytea || k::text::bytea), 'k1', 'abcd', 'production', ARRAY['inference:*',"
            " 'models:read'], ARRAY['gpt-4o'], ARRAY['10.0.0.0/8'], 'x', 1"
            " FROM tenants_tenant t, generate_series(1, 10) k"
        )
        cursor.execute(
            "INSERT INTO tenants_configversion (section, version) VALUES ('tenants', 1)"
            " ON CONFLICT (section) DO UPDATE SET version = 1"
        )
    tracemalloc.start()
    try:
        with django_assert_num_queries(3):
            snapshot = load()
        held_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (len(snapshot.tenants), len(snapshot.slugs), len(snapshot.keys)) == (10_000, 10_000, 100_000)
    assert len({id(entry.scopes) for entry in snapshot.keys.values()}) == 1
    assert len({id(entry.allowed_models) for entry in snapshot.keys.values()}) == 1
    assert len({id(entry.name) for entry in snapshot.keys.values()}) == 1
    assert len({id(entry.tenant_id) for entry in snapshot.keys.values()}) == 10_000
    assert held_bytes / len(snapshot.keys) < 700

    tenant = Tenant.objects.get(slug="t77")
    key = ApiKey.objects.filter(tenant=tenant).first()
    keys.revoke(key=key, actor=SYSTEM, now=NOW)
    with django_assert_num_queries(3):
        later = load(snapshot)
    changed = [public_id for public_id, entry in later.keys.items() if snapshot.keys[public_id] is not entry]
    assert changed == [key.public_id]
    assert later.tenants == snapshot.tenants
