"""Content, pseudonyms and zero retention on a running gateway: what of real calls is kept, and what is not."""

import time
from uuid import UUID

import orjson
import pytest
import redis
from django.conf import settings
from django.db import transaction
from django.utils import timezone

from billing.models import UsageEvent
from gateway.content import erase, read, store
from gateway.content.keep import HELD, STREAM
from gateway.content.models import StoredContent
from gateway.models import RequestLog
from routing.models import Provider
from tenants import versions
from tenants.models import AuditEvent, Tenant
from tenants.principal import SYSTEM
from tenants.pseudonyms import pseudonym
from tenants.retention import change_setting, pseudonym_key
from tests import factories
from tests.gateway import plane as planes

db, demo, plane = planes.db, planes.demo, planes.plane

SECRET = "the password is swordfish"


def chat(plane, *, key=None, user="ann", model="sandbox-small", **more):
    body = {"model": model, "messages": [{"role": "user", "content": SECRET}], "user": user, **more}
    headers = {"authorization": f"Bearer {key or plane.key}", "x-tollhouse-tags": "team=core"}
    return plane.http.post(f"{plane.url}/v1/chat/completions", json=body, headers=headers)


def choose(slug, **changes):
    """Change the tenant's retention, and wait until the worker can only know it."""
    tenant = Tenant.objects.get(slug=slug)
    change_setting(tenant=tenant, changes=changes, actor=SYSTEM)
    time.sleep(1.5)
    return tenant


def settled(count=1):
    """Everything drained, at least so many calls since the last time."""
    deadline = time.monotonic() + 20
    moved = 0
    while (moved := moved + planes.drain()) < count:
        assert time.monotonic() < deadline
    return moved


def stored(count):
    deadline = time.monotonic() + 20
    found = 0
    while (found := found + store.drain(budget_s=1, block_ms=50)) < count:
        assert time.monotonic() < deadline
    return found


@pytest.fixture
def stream():
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        yield client


def request_of(answer):
    return UUID(answer.headers["x-request-id"])


def test_nothing_is_kept_unless_the_tenant_asks_for_it(plane, stream):
    assert chat(plane).status_code == 200
    settled()
    assert (stream.exists(STREAM), StoredContent.objects.count()) == (0, 0)


def test_a_whole_call_is_kept_sealed_and_read_back_with_an_event(plane, stream):
    acme = choose("acme", content_days=7)
    answer = chat(plane)
    stored(1)
    row = StoredContent.objects.get(request_id=request_of(answer))
    assert b"swordfish" not in bytes(row.sealed)
    assert row.end_user == pseudonym(pseudonym_key(acme), "ann")
    found = read.read(request_id=row.request_id, tenant=acme, principal=SYSTEM, reason="a ticket")
    assert orjson.loads(found.texts.request)["messages"] == [{"role": "user", "content": SECRET}]
    said = orjson.loads(found.texts.answer)["choices"][0]["message"]["content"]
    assert said == answer.json()["choices"][0]["message"]["content"]
    event = AuditEvent.objects.get(action="content.access")
    assert (event.object_id, event.reason, event.tenant) == (str(row.request_id), "a ticket", acme)
    assert int(stream.get(HELD)) == 0
    assert stream.xlen(STREAM) == 0


def test_a_streams_chunks_are_kept_and_nothing_clear_stands_in_redis(plane, stream):
    acme = choose("acme", content_days=7)
    answer = chat(plane, stream=True)
    deadline = time.monotonic() + 10
    while not (waiting := stream.xrange(STREAM)):
        assert time.monotonic() < deadline
    assert b"swordfish" not in b"".join(value for _, fields in waiting for value in fields.values())
    stored(1)
    found = read.read(request_id=request_of(answer), tenant=acme, principal=SYSTEM, reason="x")
    chunks = [orjson.loads(line) for line in found.texts.answer.splitlines()]
    assert found.texts.is_stream
    shown = [
        orjson.loads(line[6:])
        for line in answer.text.split("\n\n")
        if line.startswith("data: {") and orjson.loads(line[6:])["choices"]
    ]
    assert [each["choices"] for each in chunks if each["choices"]] == [each["choices"] for each in shown]


def test_a_failed_calls_request_is_kept_without_an_answer(plane):
    acme = choose("acme", content_days=7)
    answer = chat(plane, messages=[{"role": "user", "content": "[[sandbox status=400]]"}])
    assert answer.status_code == 400
    stored(1)
    found = read.read(request_id=request_of(answer), tenant=acme, principal=SYSTEM, reason="x")
    assert "[[sandbox status=400]]" in found.texts.request
    assert (found.texts.answer, found.texts.answer_bytes) == ("", 0)


def test_what_is_stored_twice_is_stored_once(plane):
    choose("acme", content_days=7)
    answer = chat(plane)
    stored(1)
    row = StoredContent.objects.get(request_id=request_of(answer))
    assert store.keep([row]) == 1
    assert StoredContent.objects.filter(request_id=row.request_id).count() == 1


def test_pseudonymous_tenants_record_no_name_anywhere(plane):
    globex = choose("globex", pseudonymize_end_users=True)
    answer = chat(plane, key=plane.other_key, user="zoe@example.com")
    assert answer.status_code == 200
    settled()
    name = pseudonym(pseudonym_key(globex), "zoe@example.com")
    assert UsageEvent.objects.get(request_id=request_of(answer)).end_user == name
    assert RequestLog.objects.get(request_id=request_of(answer)).end_user == name


def test_zero_retention_calls_only_endpoints_that_keep_nothing_and_logs_nobody(plane):
    choose("globex", zero_retention=True)
    refused = chat(plane, key=plane.other_key, user="zoe")
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "unsupported_parameter")
    with transaction.atomic():
        versions.bump("routing")
        Provider.objects.filter(slug="sandbox-eu").update(retention_days=0)
    time.sleep(1.5)
    answer = chat(plane, key=plane.other_key, user="zoe")
    assert (answer.status_code, answer.headers["x-tollhouse-provider"]) == (200, "sandbox-eu")
    settled()
    row = RequestLog.objects.get(request_id=request_of(answer))
    assert (row.end_user, row.tags, row.error_message) == ("", {}, "")
    ledger = UsageEvent.objects.get(request_id=request_of(answer))
    assert (ledger.end_user.startswith("u_"), ledger.tags) == (True, {"team": "core"})
    assert StoredContent.objects.filter(tenant__slug="globex").count() == 0


def test_an_erased_persons_calls_that_arrive_late_bring_no_name_and_no_content(plane):
    acme = choose("acme", content_days=7)
    answer = chat(plane, user="late@example.com")
    time.sleep(0.5)
    erasure = erase.ask(tenant=acme, end_user="late@example.com", actor=SYSTEM, now=timezone.now())
    assert erase.run_next()
    settled()
    store.drain(budget_s=1, block_ms=50)
    row = RequestLog.objects.get(request_id=request_of(answer))
    assert (row.end_user, row.tags) == (erasure.pseudonym, {})
    assert not StoredContent.objects.filter(request_id=row.request_id).exists()


def test_the_request_log_answers_with_content_only_to_who_may_and_says_so(plane):
    acme = choose("acme", content_days=7)
    answer = chat(plane)
    stored(1)
    settled()
    url = f"/api/v1/requests/{request_of(answer)}/"
    owner = factories.client_with(acme, "requests:read", "content:read")
    shown = owner.get(url, {"include": "content"}).json()
    assert orjson.loads(shown["content"]["request"])["messages"][0]["content"] == SECRET
    assert "content" not in owner.get(url).json()
    reader = factories.client_with(acme, "requests:read")
    assert reader.get(url, {"include": "content"}).json()["error"]["code"] == "permission_denied"
    staff = factories.client_with(None, "*")
    refused = staff.get(url, {"include": "content"}).json()["error"]
    assert (refused["code"], refused["param"]) == ("invalid_request", "X-Tollhouse-Reason")
    before = AuditEvent.objects.filter(action="content.access").count()
    seen = staff.get(url, {"include": "content"}, headers={"x-tollhouse-reason": "Ticket 7"}).json()
    assert seen["content"]["is_cut"] is False
    events = AuditEvent.objects.filter(action="content.access").order_by("sequence")
    assert (events.count(), events.last().reason) == (before + 1, "Ticket 7")
