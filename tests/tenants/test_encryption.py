import base64
import uuid

import pytest
from django.core.management import CommandError, call_command
from django.test import override_settings

from tenants.encryption import (
    MasterKeyMissingError,
    SealBrokenError,
    Sealed,
    rewrap_data_keys,
    seal,
    unseal,
    unseal_all,
)
from tenants.models import DataKey
from tests import factories

PLACE = "routing_credential|1|secret"


def master(*names):
    return override_settings(
        TOLLHOUSE_MASTER_KEYS=[
            f"{name}:{base64.b64encode(name.encode().ljust(32, b'.')).decode()}" for name in names
        ]
    )


@pytest.mark.parametrize("text", ["sk-secret", "", "schlüssel ☂", "x" * 10_000])
def test_what_was_sealed_opens_in_its_place(db, text):
    tenant = factories.tenant()
    assert unseal(seal(text, tenant=tenant, context=PLACE), tenant=tenant, context=PLACE) == text
    assert unseal(seal(text, tenant=None, context=PLACE), tenant=None, context=PLACE) == text


def test_the_sealed_value_names_its_version_and_data_key_and_never_repeats(db):
    first, second = (seal("sk-secret", tenant=None, context=PLACE) for _ in range(2))
    assert first[0] == 1
    assert first[1:17] == DataKey.objects.get().id.bytes
    assert first[17:] != second[17:]
    assert b"sk-secret" not in first


def test_each_owner_has_one_data_key(db):
    tenant = factories.tenant()
    for owner in (tenant, tenant, None, None):
        seal("x", tenant=owner, context=PLACE)
    assert sorted(map(str, DataKey.objects.values_list("tenant", flat=True))) == sorted(
        [str(tenant.id), "None"]
    )


def test_a_moved_value_does_not_open(db):
    mine, other = factories.tenant(), factories.tenant()
    blob = seal("sk-secret", tenant=mine, context=PLACE)
    seal("sk-other", tenant=other, context=PLACE)
    for tenant, context in ((mine, "routing_credential|2|secret"), (other, PLACE), (None, PLACE)):
        with pytest.raises(SealBrokenError) as caught:
            unseal(blob, tenant=tenant, context=context)
        assert "sk-" not in str(caught.value)


def test_any_changed_byte_is_noticed(db):
    blob = seal("sk-secret", tenant=None, context=PLACE)
    for position in range(len(blob)):
        broken = bytearray(blob)
        broken[position] ^= 1
        with pytest.raises(SealBrokenError):
            unseal(bytes(broken), tenant=None, context=PLACE)


@pytest.mark.parametrize("length", [0, 1, 17, 29])
def test_a_cut_value_does_not_open(db, length):
    blob = seal("sk-secret", tenant=None, context=PLACE)[:length]
    with pytest.raises(SealBrokenError):
        unseal(blob, tenant=None, context=PLACE)


def test_a_data_key_moved_to_another_owner_does_not_open(db):
    mine, other = factories.tenant(), factories.tenant()
    blob = seal("sk-secret", tenant=mine, context=PLACE)
    DataKey.objects.filter(tenant=mine).update(tenant=other)
    with pytest.raises(SealBrokenError):
        unseal(blob, tenant=other, context=PLACE)


def test_many_open_in_order_with_one_query(db, django_assert_num_queries):
    owners = [factories.tenant() for _ in range(5)] + [None]
    values = []
    for number in range(30):
        owner = owners[number % 6]
        blob = seal(str(number), tenant=owner, context=f"t|{number}|c")
        values.append(Sealed(blob, owner.id if owner else None, f"t|{number}|c"))
    with django_assert_num_queries(1):
        assert list(unseal_all(values)) == [str(number) for number in range(30)]


def test_an_unknown_data_key_is_a_broken_seal(db):
    blob = bytes((1,)) + uuid.uuid4().bytes + bytes(40)
    with pytest.raises(SealBrokenError):
        unseal(blob, tenant=None, context=PLACE)


def test_rotation_rewraps_every_key_and_the_old_master_key_is_not_needed_after(db, capsys):
    tenant = factories.tenant()
    with master("old"):
        blobs = [(seal("a", tenant=owner, context=PLACE), owner) for owner in (tenant, None)]
    with master("new", "old"):
        assert unseal(blobs[0][0], tenant=tenant, context=PLACE) == "a"
        call_command("rotate_master_key")
    assert capsys.readouterr().out.splitlines() == [
        "2 rewrapped, 0 left",
        "2 rewrapped, 0 left",
        "Older master keys have no rows left and may leave TOLLHOUSE_MASTER_KEYS.",
    ]
    assert set(DataKey.objects.values_list("master_key_id", flat=True)) == {"new"}
    with master("new"):
        assert [unseal(blob, tenant=owner, context=PLACE) for blob, owner in blobs] == ["a", "a"]
    with master("old"), pytest.raises(MasterKeyMissingError):
        unseal(blobs[0][0], tenant=tenant, context=PLACE)


def test_a_stopped_rotation_goes_on_where_it_was(db, monkeypatch):
    monkeypatch.setattr("tenants.encryption._REWRAP_BATCH", 2)
    owners = [factories.tenant() for _ in range(5)]
    with master("old"):
        blobs = [seal(owner.slug, tenant=owner, context=PLACE) for owner in owners]
    with master("new", "old"):
        stopped = rewrap_data_keys()
        assert (next(stopped).remaining) == {"old": 3}
        stopped.close()
        assert [unseal(b, tenant=o, context=PLACE) for b, o in zip(blobs, owners, strict=True)] == [
            owner.slug for owner in owners
        ]
        assert [step.count for step in rewrap_data_keys()] == [2, 1, 0]
    with master("new"):
        assert [unseal(b, tenant=o, context=PLACE) for b, o in zip(blobs, owners, strict=True)] == [
            owner.slug for owner in owners
        ]


def test_rotation_without_the_old_key_says_so_and_changes_nothing(db):
    with master("old"):
        seal("a", tenant=None, context=PLACE)
    with master("new"), pytest.raises(CommandError, match="lacks the key 'old'"):
        call_command("rotate_master_key")
    assert DataKey.objects.get().master_key_id == "old"
