import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from django.apps import apps
from django.db import models

from billing.models import AlertChannel, BillSource
from routing import credentials
from routing.models import Credential, Provider
from tenants import resealing, retention, tasks
from tenants.encryption import derived_key, seal, sealed_under
from tenants.models import AuditEvent, DataKey
from tenants.principal import SYSTEM
from tenants.resealing import progress, reseal, rotate_data_key, sealed_columns
from tests import factories

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
NOT_SEALED = {
    "billing_providerbill.payload",
    "billing_providerbill.sha256",
    "gateway_deletioncertificate.hash",
    "gateway_deletioncertificate.previous_hash",
    "gateway_content.sealed",  # under the day's key, which is sealed itself
    "tenants_apikey.digest",
    "tenants_auditcheckpoint.certificate",
    "tenants_auditcheckpoint.hash",
    "tenants_auditevent.hash",
    "tenants_auditevent.previous_hash",
    "tenants_audithead.hash",
    "tenants_datakey.wrapped",  # under the master key
    "tenants_idempotencyrecord.fingerprint",
    "tenants_invitation.token_digest",
    "tenants_proposal.fingerprint",
}


def binary_columns():
    ours = [apps.get_app_config(name) for name in ("tenants", "routing", "billing", "gateway")]
    return {
        f"{model._meta.db_table}.{field.column}"
        for config in ours
        for model in config.get_models()
        for field in model._meta.concrete_fields
        if isinstance(field, models.BinaryField)
    }


def test_every_column_of_bytes_is_known_to_be_sealed_or_not():
    sealed = {column.name for column in sealed_columns()}
    assert not sealed & NOT_SEALED
    unknown = binary_columns() - sealed - NOT_SEALED
    assert unknown == set(), "name it in sealed_columns of its app's config, or here as not sealed"


def test_every_place_in_the_code_is_a_registered_column():
    names = {column.name.replace(".", "|") for column in sealed_columns()}
    found = set()
    for folder in ("tenants", "routing", "billing", "gateway"):
        for path in (ROOT / folder).rglob("*.py"):
            found |= set(re.findall(r'f"(\w+)\|\{[\w.]+\}\|(\w+)"', path.read_text()))
    assert {"|".join(each) for each in found} <= names
    assert len(found) >= 7


@pytest.fixture
def sealed(db):
    """A value in four columns: of the tenant two, of the operator two."""
    tenant = factories.tenant()
    provider = Provider.objects.create(slug="p", name="P", kind="openai")
    for owner in (tenant, None):
        credentials.store(
            provider=provider, tenant=owner, secret="sk-0123456789", label="", base_url="", actor=SYSTEM
        )
    channel = AlertChannel(tenant=tenant, name="Hook", kind="webhook", target="https://example.com")
    channel.put_secret("whsec_1")
    channel.save()
    source = BillSource(slug="s", provider="p", kind="csv")
    source.put_secret("admin-1")
    source.save()
    return tenant, channel, source


def opened(sealed):
    _, channel, source = sealed
    channel.refresh_from_db()
    source.refresh_from_db()
    ((own,),) = credentials.unseal_own().values()
    ((operators,),) = credentials.unseal_all().values()
    return own.api_key, operators.api_key, channel.secret(), source.secret()


def test_a_rotation_seals_the_tenants_values_anew_and_no_one_elses(sealed):
    tenant, _, source = sealed
    pseudonyms = retention.pseudonym_key(tenant)
    before = DataKey.objects.get(tenant=tenant)
    others = bytes(source.sealed)
    fresh = rotate_data_key(tenant=tenant, actor=SYSTEM, now=NOW)
    assert (fresh.version, fresh.tenant) == (2, tenant)
    assert opened(sealed) == ("sk-0123456789", "sk-0123456789", "whsec_1", "admin-1")
    (rotation,) = progress().rotations
    assert rotation.remaining == {
        "routing_credential.secret": 1,
        "billing_alertchannel.sealed": 1,
        "tenants_retentionsetting.pseudonym_key": 1,
    }
    assert sum(reseal(now=NOW)) == 3
    assert progress().rotations[0].remaining == {}
    assert opened(sealed) == ("sk-0123456789", "sk-0123456789", "whsec_1", "admin-1")
    assert retention.pseudonym_key(tenant) == pseudonyms
    assert sealed_under(bytes(Credential.objects.get(tenant=tenant).secret)) == fresh.id
    assert bytes(BillSource.objects.get().sealed) == others
    before.refresh_from_db()
    assert (before.retired_at, before.resealed_at) == (NOW, None)
    assert list(reseal(now=NOW + timedelta(hours=1))) == []
    before.refresh_from_db()
    assert before.resealed_at == NOW + timedelta(hours=1)
    assert progress().rotations == ()


def test_the_operators_own_values_move_too(sealed):
    rotate_data_key(tenant=None, actor=SYSTEM, now=NOW)
    assert tasks.reseal_values() == 2
    current = DataKey.objects.get(tenant=None, retired_at=None)
    assert sealed_under(bytes(BillSource.objects.get().sealed)) == current.id
    assert opened(sealed) == ("sk-0123456789", "sk-0123456789", "whsec_1", "admin-1")


def test_a_stopped_resealing_goes_on_where_it_was(db, monkeypatch):
    monkeypatch.setattr(resealing, "BATCH", 2)
    tenant = factories.tenant()
    provider = Provider.objects.create(slug="p", name="P", kind="openai")
    for number in range(5):
        credentials.store(
            provider=provider,
            tenant=tenant,
            secret="sk-0123456789",
            label=str(number),
            base_url="",
            actor=SYSTEM,
        )
    rotate_data_key(tenant=tenant, actor=SYSTEM, now=NOW)
    stopped = reseal(now=NOW)
    assert next(stopped) == 2
    stopped.close()
    assert list(reseal(now=NOW)) == [2, 1]
    assert len(credentials.unseal_own()[tenant.id, "p"]) == 5


def test_a_value_that_does_not_open_stays_and_stops_nothing(sealed, caplog):
    tenant, *_ = sealed
    broken = Credential.objects.get(tenant=tenant)
    blob = bytes(broken.secret)[:-1] + bytes([bytes(broken.secret)[-1] ^ 1])
    Credential.objects.filter(pk=broken.pk).update(secret=blob)
    rotate_data_key(tenant=tenant, actor=SYSTEM, now=NOW)
    assert sum(reseal(now=NOW)) == 1
    assert "stays under its retired data key" in caplog.text
    assert "sk-" not in caplog.text
    assert bytes(Credential.objects.get(tenant=tenant).secret) == blob
    list(reseal(now=NOW + timedelta(hours=1)))
    assert progress().rotations[0].remaining == {"routing_credential.secret": 1}


def test_what_is_derived_from_an_owners_key_outlives_rotations(db):
    tenant = factories.tenant()
    before = derived_key(tenant=tenant, purpose="tokens")
    rotate_data_key(tenant=tenant, actor=SYSTEM, now=NOW)
    rotate_data_key(tenant=tenant, actor=SYSTEM, now=NOW)
    assert derived_key(tenant=tenant, purpose="tokens") == before
    assert list(DataKey.objects.order_by("version").values_list("version", "retired_at")) == [
        (1, NOW),
        (2, NOW),
        (3, None),
    ]


def test_a_rotation_is_audited_and_needs_no_earlier_key(db):
    tenant = factories.tenant()
    fresh = rotate_data_key(tenant=tenant, actor=SYSTEM, now=NOW)
    event = AuditEvent.objects.get(tenant=tenant)
    assert (event.action, event.object_id) == ("data_key.rotate", str(fresh.id))
    assert (event.before["version"], event.after["version"]) == (0, 1)


def test_the_task_takes_data_keys_to_the_newest_master_key(db):
    seal("a", tenant=None, context="a|b|c")
    assert tasks.rewrap_data_keys() == 0
    DataKey.objects.update(master_key_id="k0")
    assert progress().under_older_master_keys == {"k0": 1}
