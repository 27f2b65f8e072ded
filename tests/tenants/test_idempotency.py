import threading
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from tenants import idempotency
from tenants.models import ApiKey, AuditEvent, IdempotencyRecord
from tenants.tasks import prune_idempotency
from tests import factories

pytestmark = pytest.mark.urls("tests.tenants.urls")
BODY = {"name": "ci", "scopes": ["inference:chat"]}
SENT = {"Idempotency-Key": "once"}


@pytest.fixture
def acme(db):
    return factories.tenant("acme")


@pytest.fixture
def client(acme):
    return factories.client_with(acme, "*")


def create(client, body=BODY, url="/api/v1/tenants/acme/keys/", headers=SENT):
    return client.post(url, body, format="json", headers=headers)


def code_of(response):
    return response.status_code, response.json()["error"]["code"]


def test_the_second_sending_gets_the_first_answer_without_the_secret(client):
    first, second = create(client), create(client)
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json()["key"].startswith("th_")
    assert second.json() == first.json() | {"key": None}
    assert second["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first
    assert ApiKey.objects.filter(name="ci").count() == 1
    assert AuditEvent.objects.filter(object_id=first.json()["id"]).count() == 1


def test_no_secret_is_kept(client):
    text = create(client).json()["key"]
    assert IdempotencyRecord.objects.get().body["key"] is None
    assert text.rpartition("_")[2] not in repr(list(IdempotencyRecord.objects.values()))


def test_the_order_of_fields_makes_no_other_request(client):
    first = create(client)
    second = create(client, dict(reversed(BODY.items())))
    assert second.json()["id"] == first.json()["id"]


@pytest.mark.parametrize(
    "changed", [{"body": BODY | {"name": "other"}}, {"url": "/api/v1/tenants/acme/keys/?x=1"}]
)
def test_the_same_key_for_another_request_is_a_conflict(client, changed):
    create(client)
    assert code_of(create(client, **changed)) == (409, "conflict")
    assert ApiKey.objects.filter(name__in=("ci", "other")).count() == 1


def test_two_callers_may_choose_the_same_key(acme, client):
    assert create(client).json()["id"] != create(factories.client_with(acme, "*")).json()["id"]


def test_a_refused_write_is_not_kept(client):
    assert code_of(create(client, BODY | {"scopes": []})) == (400, "invalid_request")
    assert create(client).status_code == 201


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there", "ümlaut"])
def test_a_malformed_key_is_refused(client, key):
    response = create(client, headers={"Idempotency-Key": key.encode().decode("latin-1")})
    assert code_of(response) == (400, "invalid_request")
    assert not ApiKey.objects.filter(name="ci").exists()


def test_an_answer_is_forgotten_after_a_day(client):
    first = create(client)
    IdempotencyRecord.objects.update(created_at=timezone.now() - idempotency.KEPT_FOR - timedelta(seconds=1))
    assert create(client).json()["id"] != first.json()["id"]


def test_pruning_keeps_what_is_younger_than_a_day(client):
    create(client, headers={"Idempotency-Key": "old"})
    IdempotencyRecord.objects.update(created_at=timezone.now() - idempotency.KEPT_FOR - timedelta(seconds=1))
    create(client, headers={"Idempotency-Key": "new"})
    assert prune_idempotency() == 1
    assert IdempotencyRecord.objects.get().key == "new"


def test_a_deletion_is_replayed_with_its_empty_body(acme, client):
    member = factories.member(acme, "viewer")
    url = f"/api/v1/tenants/acme/members/{member.id}/"
    first, second = (client.delete(url, headers=SENT) for _ in range(2))
    assert (first.status_code, second.status_code, second["Idempotent-Replayed"]) == (204, 204, "true")
    assert second.content == b""


def test_a_write_still_running_turns_the_second_sender_away(committed_db):
    client = factories.client_with(factories.tenant("acme"), "*")
    principal = f"key:{ApiKey.objects.get().id}"
    lock_id = idempotency.lock_id_of(principal, "once")
    held, done = threading.Event(), threading.Event()

    def hold():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", [lock_id])
            held.set()
            done.wait(timeout=60)
        connection.close()

    running = threading.Thread(target=hold)
    running.start()
    assert held.wait(timeout=60)
    response = create(client)
    done.set()
    running.join()
    assert code_of(response) == (409, "conflict")
    assert response["Retry-After"] == "1"
    assert create(client).status_code == 201


def test_a_race_of_twelve_creates_one(committed_db):
    issued = factories.api_key(factories.tenant("acme"), "*")
    start = threading.Barrier(12)
    answers = []

    def send():
        client = factories.key_client(issued.text)
        start.wait(timeout=60)
        answers.append(create(client))
        connection.close()

    threads = [threading.Thread(target=send) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    created = [answer for answer in answers if answer.status_code == 201]
    fresh = [answer for answer in created if "Idempotent-Replayed" not in answer]
    assert len(fresh) == 1
    assert {answer.json()["id"] for answer in created} == {fresh[0].json()["id"]}
    assert {code_of(answer) for answer in answers if answer not in created} <= {(409, "conflict")}
    assert ApiKey.objects.filter(name="ci").count() == 1
