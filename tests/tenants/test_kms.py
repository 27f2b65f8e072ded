import socket

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from tenants import kms
from tenants.encryption import rewrap_data_keys, seal, unseal
from tenants.kms import KmsUnavailableError, MasterKeyMissingError, SealBrokenError, VaultKms, Wrapped
from tenants.models import DataKey
from tests import factories
from tests.fakes.transit import TOKEN, transit

PLACE = "routing_credential|1|secret"
KEY = b"k" * 32


@pytest.fixture
def vault():
    with transit() as server:
        yield server


def client_of(server, *, token=TOKEN, cache_s=300.0, key="transit/tollhouse"):
    return VaultKms(url=server.url, token=token, key=key, cache_s=cache_s)


def vault_settings(server, **more):
    return override_settings(
        TOLLHOUSE_KMS_URL=server.url, TOLLHOUSE_KMS_TOKEN=TOKEN, TOLLHOUSE_KMS_CACHE_S=300.0, **more
    )


def wrapped_by(client, key=KEY, context=b"here"):
    ((key_id, blob),) = client.wrap([(key, context)])
    return Wrapped(key_id, blob, context, "data key 1")


def test_vault_wraps_and_unwraps_in_its_place(vault):
    client = client_of(vault)
    value = wrapped_by(client)
    assert (value.master_key_id, value.blob[:9]) == ("vault:v1", b"vault:v1:")
    assert client_of(vault).unwrap([value]) == [KEY]
    moved = Wrapped(value.master_key_id, value.blob, b"elsewhere", "data key 1")
    with pytest.raises(SealBrokenError, match="data key 1 does not open under master key 'vault:v1'"):
        client.unwrap([value, moved])


def test_many_keys_are_one_request_and_opened_ones_are_none(vault):
    client = client_of(vault)
    keys = [(bytes([number]) * 32, b"%d" % number) for number in range(20)]
    values = [
        Wrapped(key_id, blob, context, "k")
        for (key_id, blob), (_, context) in zip(client.wrap(keys), keys, strict=True)
    ]
    for _ in range(2):
        assert client.unwrap(values) == [key for key, _ in keys]
    assert vault.requests == ["POST /v1/transit/encrypt/tollhouse", "POST /v1/transit/decrypt/tollhouse"]


def test_an_opened_key_is_forgotten_after_its_time(vault):
    client = client_of(vault, cache_s=0.0)
    value = wrapped_by(client)
    for _ in range(2):
        assert client.unwrap([value]) == [KEY]
    assert vault.requests.count("POST /v1/transit/decrypt/tollhouse") == 2


def test_no_more_keys_are_kept_than_may_be(vault, monkeypatch):
    monkeypatch.setattr(kms, "MAX_CACHED_KEYS", 2)
    client = client_of(vault)
    values = [wrapped_by(client, context=b"%d" % number) for number in range(3)]
    assert client.unwrap(values) == [KEY] * 3
    assert len(client._opened) == 2


@pytest.mark.parametrize("status", [403, 429, 500, 503])
def test_a_vault_that_refuses_is_overload_and_says_nothing_secret(vault, status):
    client = client_of(vault)
    value = wrapped_by(client)
    vault.refuses = status
    for ask in (lambda: client.unwrap([value]), lambda: client.wrap([(KEY, b"")]), client.newest_id):
        with pytest.raises(KmsUnavailableError) as caught:
            ask()
        assert (caught.value.code, caught.value.status) == ("overloaded", 503)
        assert caught.value.message == f"The key management service answered {status}."


def test_a_wrong_token_is_overload_too(vault):
    with pytest.raises(KmsUnavailableError, match="answered 403"):
        client_of(vault, token="hvs.wrong").newest_id()


def test_a_vault_that_is_away_is_overload():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(KmsUnavailableError, match="cannot be reached"):
            VaultKms(url=url, token=TOKEN, key="transit/tollhouse", cache_s=1).newest_id()


def test_no_text_of_it_shows_the_token_or_a_key(vault):
    client = client_of(vault)
    value = wrapped_by(client)
    client.unwrap([value])
    assert TOKEN not in repr(client) + repr(value)
    assert repr(KEY)[2:-1] not in repr(client)


def test_data_keys_move_into_vault_and_back_while_everything_opens(db, vault):
    tenant = factories.tenant()
    blobs = [(seal("a", tenant=owner, context=PLACE), owner) for owner in (tenant, None)]

    def ids():
        return sorted(DataKey.objects.values_list("master_key_id", flat=True))

    (of_ring,) = set(ids())
    with vault_settings(vault):
        assert unseal(blobs[0][0], tenant=tenant, context=PLACE) == "a"
        assert [step.count for step in rewrap_data_keys()] == [2, 0]
        assert ids() == ["vault:v1", "vault:v1"]
        assert [unseal(blob, tenant=owner, context=PLACE) for blob, owner in blobs] == ["a", "a"]
        third = factories.tenant()
        assert unseal(seal("b", tenant=third, context=PLACE), tenant=third, context=PLACE) == "b"
    with pytest.raises(MasterKeyMissingError, match="TOLLHOUSE_KMS_URL"):
        unseal(blobs[0][0], tenant=tenant, context=PLACE)
    with vault_settings(vault, TOLLHOUSE_KMS_WRAPS=False):
        assert sum(step.count for step in rewrap_data_keys()) == 3
    assert ids() == [of_ring] * 3
    assert unseal(blobs[0][0], tenant=tenant, context=PLACE) == "a"


def test_a_rotation_inside_vault_is_followed(db, vault):
    with vault_settings(vault, TOLLHOUSE_KMS_KEY="transit/tollhouse"):
        blob = seal("a", tenant=None, context=PLACE)
        vault.rotate()
        with override_settings(TOLLHOUSE_KMS_CACHE_S=1.0):  # a process that has not asked yet
            assert [step.count for step in rewrap_data_keys()] == [1, 0]
            assert DataKey.objects.get().master_key_id == "vault:v2"
            assert unseal(blob, tenant=None, context=PLACE) == "a"


def test_an_outage_neither_breaks_a_seal_nor_makes_a_key(db, vault):
    tenant = factories.tenant()
    with vault_settings(vault):
        vault.refuses = 503
        with pytest.raises(KmsUnavailableError):
            seal("a", tenant=tenant, context=PLACE)
        assert not DataKey.objects.exists()
        vault.refuses = None
        blob = seal("a", tenant=tenant, context=PLACE)
        vault.refuses = 503
        with override_settings(TOLLHOUSE_KMS_CACHE_S=2.0), pytest.raises(KmsUnavailableError):
            unseal(blob, tenant=tenant, context=PLACE)


@pytest.mark.parametrize("wrong", [{"TOLLHOUSE_KMS_TOKEN": ""}, {"TOLLHOUSE_KMS_KEY": "tollhouse"}])
def test_half_a_configuration_is_refused(wrong):
    given = {"TOLLHOUSE_KMS_URL": "http://x", "TOLLHOUSE_KMS_TOKEN": "t", **wrong}
    with override_settings(**given), pytest.raises(ImproperlyConfigured, match="TOLLHOUSE_KMS_TOKEN"):
        kms.kms()
