"""A leaked key: one call or one click stops it, tells people, and shows what it did."""

import re
from datetime import timedelta

import pytest
from django.core import mail
from django.core.cache import cache
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from gateway import leaks
from gateway.tasks import tell_of_leak
from tenants import keys
from tenants.errors import ApiError
from tenants.models import ApiKey, AuditEvent
from tests import factories
from tests.gateway import console_world

pytestmark = pytest.mark.django_db
KEY_TEXT = re.compile(r"th_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}")


@pytest.fixture(autouse=True)
def no_reports_yet():
    cache.clear()


@pytest.fixture
def world():
    return console_world.build(now=timezone.now(), calls=60)


def report(text, **more):
    return Client().post("/api/v1/keys/leak-report/", {"key": text, **more}, content_type="application/json")


def test_one_call_stops_the_key_and_shows_what_it_did(world):
    caller = factories.client_with(world.acme)
    path = f"/api/v1/tenants/acme/keys/{world.key.id}/leaked/"
    answer = caller.post(path, {"reason": "A public repository", "replace": True}, format="json")
    assert answer.status_code == 200
    world.key.refresh_from_db()
    assert world.key.leaked_at == world.key.revoked_at is not None
    assert answer.data["leaked"]["id"] == str(world.key.id)
    assert keys.find(answer.data["key"]).id == world.key.replaced_by_id
    traces = answer.data["traces"]
    assert traces["requests"] == sum(traces["models"].values()) > 0
    assert sum(traces["statuses"].values()) == traces["requests"]
    assert set(traces["price"]) == {"USD"}
    event = AuditEvent.objects.get(action="key.leak")
    assert (event.reason, event.object_id) == ("A public repository", str(world.key.id))


def test_an_instant_narrows_what_is_shown(world):
    now = timezone.now()
    whole = leaks.traces_of(key=world.key, since=None, now=now)
    part = leaks.traces_of(key=world.key, since=now - timedelta(hours=1), now=now)
    assert 0 < part.requests < whole.requests
    with pytest.raises(ApiError, match="not in the past"):
        leaks.traces_of(key=world.key, since=now, now=now)


def test_without_a_reason_nothing_happens(world):
    path = f"/api/v1/tenants/acme/keys/{world.key.id}/leaked/"
    assert factories.client_with(world.acme).post(path, {}, format="json").status_code == 400
    world.key.refresh_from_db()
    assert world.key.revoked_at is None


def test_owners_and_admins_are_told_and_never_the_text():
    tenant = factories.tenant("acme")
    for role in ("owner", "admin", "developer"):
        factories.member(tenant, role, person=factories.user(f"{role}@acme.example"))
    issued = factories.api_key(tenant, name="Prod\nBcc: x")
    assert tell_of_leak(key_id=str(issued.key.id), reason="A log file", by="ada") == 2
    assert [each.to for each in mail.outbox] == [["admin@acme.example"], ["owner@acme.example"]]
    first = mail.outbox[0]
    assert first.subject == "Tollhouse: the API key Prod Bcc: x has leaked"
    assert "Where: A log file" in first.body
    assert f"/t/acme/keys/{issued.key.id}/" in first.body
    assert issued.text not in first.body


def test_of_a_platform_key_the_operators_are_told():
    factories.user("olga@example.com", operator_role="owner")
    factories.user("clara@example.com", operator_role="billing")
    assert leaks.tell(key_id=factories.api_key(None).key.id, reason="x", by="y") == 1
    assert mail.outbox[0].to == ["olga@example.com"]


def test_one_click_stops_the_key_and_shows_its_replacement_once(world):
    client = Client()
    client.force_login(world.developer)
    url = reverse("key_leaked", args=("acme", world.key.id))
    page = client.post(url, {"reason": "A screenshot", "is_replaced": "on"})
    (text,) = set(KEY_TEXT.findall(page.text))
    world.key.refresh_from_db()
    assert keys.find(text).id == world.key.replaced_by_id
    assert "What it did since" in page.text
    assert text not in client.get(reverse("key_detail", args=("acme", world.key.id))).text
    assert AuditEvent.objects.get(action="key.leak").reason == "A screenshot"


def test_a_finder_stops_a_key_by_its_text_and_learns_nothing():
    tenant = factories.tenant()
    issued = factories.api_key(tenant)
    wrong = keys.compose(public_id=issued.key.public_id, secret=bytes(32))
    answers = [report(text) for text in (wrong, "nonsense", issued.text, issued.text)]
    assert {(each.status_code, each.content) for each in answers} == {(202, b'{"received":true}')}
    issued.key.refresh_from_db()
    assert issued.key.revoked_at == issued.key.leaked_at is not None
    (event,) = AuditEvent.objects.filter(action="key.leak")
    assert (event.actor_label, event.reason) == ("leak report", "Reported by a finder.")


def test_a_finder_says_where():
    issued = factories.api_key(factories.tenant())
    report(issued.text, where="https://example.com/\npaste")
    assert AuditEvent.objects.get(action="key.leak").reason == (
        "Reported by a finder: https://example.com/ paste"
    )


def test_guessing_is_slowed_down(monkeypatch):
    monkeypatch.setattr(leaks, "REPORTS_PER_MINUTE", 2)
    issued = factories.api_key(factories.tenant())
    assert [report("x").status_code for _ in range(3)] == [202, 202, 429]
    assert report(issued.text).status_code == 429
    assert ApiKey.objects.get(pk=issued.key.pk).revoked_at is None


@pytest.mark.parametrize("body", [{}, {"key": 5.5, "x": 1}, {"key": "a" * 200}])
def test_a_bad_report_is_refused(body):
    answer = Client().post("/api/v1/keys/leak-report/", body, content_type="application/json")
    assert answer.status_code == 400
    assert not AuditEvent.objects.exists()
