"""Data and residency in the console: what its forms do, who sees what a call said, and what that leaves behind."""

import json
import re

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from gateway.content.models import DeletionCertificate, Erasure
from tenants.models import AuditEvent, LegalHold
from tenants.retention import setting_of
from tests.gateway import console_world

pytestmark = pytest.mark.django_db


@pytest.fixture
def world():
    return console_world.build(now=timezone.now(), calls=30)


def signed_in(user):
    client = Client()
    client.force_login(user, backend="allauth.account.auth_backends.AuthenticationBackend")
    return client


def text_of(answer):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", answer.content.decode()))


def looks():
    return AuditEvent.objects.filter(action="content.access").count()


def test_days_are_changed_and_a_wrong_one_is_shown_beside_its_field(world):
    client, url = signed_in(world.owner), reverse("data_settings", args=("acme",))
    assert client.post(url, {"content_days": "30", "audit_days": "365"}).status_code == 302
    row = setting_of(world.acme)
    assert (row.content_days, row.audit_days, row.zero_retention) == (30, 365, False)
    refused = client.post(url, {"content_days": "30", "zero_retention": "on"})
    assert (refused.status_code, "Zero retention keeps no content." in text_of(refused)) == (422, True)
    assert client.post(url, {"content_days": "900"}).status_code == 422
    assert setting_of(world.acme).content_days == 30


def test_a_viewer_reads_the_days_and_gets_no_form(world):
    page = signed_in(world.viewer).get(reverse("data_settings", args=("acme",)))
    assert "7 days" in text_of(page)
    assert 'name="content_days"' not in page.content.decode()
    assert 'name="end_user"' not in page.content.decode()


def test_a_hold_is_lifted_and_an_erasure_begun_by_form(world):
    client = signed_in(world.owner)
    erase = reverse("erasure_create", args=("acme",))
    refused = client.post(erase, {"end_user": "zed"})
    assert (refused.status_code, "legal hold stands" in text_of(refused)) == (422, True)
    operators = LegalHold.objects.get(pk=world.data.hold_id)
    assert operators.is_operators
    client.post(reverse("hold_release", args=("acme", operators.id)))
    operators.refresh_from_db()
    assert operators.released_at is None
    signed_in(world.operator).post(reverse("hold_release", args=("acme", operators.id)))
    before = Erasure.objects.count()
    assert client.post(erase, {"end_user": "zed"}).status_code == 302
    assert Erasure.objects.count() == before + 1
    assert client.post(reverse("hold_place", args=("acme",)), {"reason": "Case 13"}).status_code == 302
    assert LegalHold.objects.filter(reason="Case 13", released_at=None, is_operators=False).count() == 1


def test_content_is_shown_to_a_member_who_may_and_the_look_is_recorded(world):
    url = reverse("tenant_request_content", args=("acme", world.request_id))
    page = signed_in(world.owner).get(reverse("tenant_request", args=("acme", world.request_id)))
    assert ("Show" in text_of(page), '{"q":1}' in text_of(page), looks()) == (True, False, 0)
    shown = signed_in(world.owner).post(url)
    assert (shown.status_code, "{&quot;q&quot;:1}" in shown.content.decode(), looks()) == (200, True, 1)
    assert signed_in(world.developer).post(url).status_code == 403
    assert looks() == 1


def test_the_operators_staff_must_say_why(world):
    client = signed_in(world.operator)
    for name, arguments in (("platform", ()), ("tenant", ("acme",))):
        url = reverse(f"{name}_request_content", args=(*arguments, world.request_id))
        before = looks()
        refused = client.post(url)
        assert (refused.status_code, looks()) == (302, before)
        assert client.post(url, {"reason": "Ticket 7"}).status_code == 200
        assert AuditEvent.objects.filter(action="content.access").latest("sequence").reason == "Ticket 7"


def test_what_is_not_kept_says_so(world):
    page = signed_in(world.owner).get(reverse("tenant_request", args=("acme", world.failed_id)))
    assert "What this call said is not kept." in text_of(page)
    url = reverse("tenant_request_content", args=("acme", world.failed_id))
    assert (signed_in(world.owner).post(url).status_code, looks()) == (302, 0)


def test_certificates_are_exported_and_verified(world):
    client = signed_in(world.owner)
    document = json.loads(client.get(reverse("tenant_certificate_export", args=("acme",))).content)
    known = DeletionCertificate.objects.filter(tenant=world.acme).order_by("sequence")
    assert [each["hash"] for each in document["certificates"]] == [bytes(row.hash).hex() for row in known]
    page = client.get(reverse("tenant_certificate_list", args=("acme",)), {"verify": "1"})
    assert "The chain holds" in text_of(page)


def test_the_residency_report_takes_its_days_and_says_when_it_cannot(world):
    client, url = signed_in(world.owner), reverse("residency_report", args=("acme",))
    report = client.get(url).context["report"]
    assert (report.attempts > 0, report.unrecorded) == (True, report.attempts)
    empty = client.get(url, {"start": "2020-01-01", "end": "2020-01-02"})
    assert (empty.context["report"].attempts, "Nothing was sent" in text_of(empty)) == (0, True)
    for days in ({"start": "soon"}, {"start": "2026-01-02", "end": "2025-01-01"}, {"end": "9999-12-31"}):
        page = client.get(url, days)
        assert (page.status_code, page.context["report"].attempts) == (200, report.attempts)
        assert page.context["form"].errors
    assert client.get(reverse("residency_csv", args=("acme",)))["content-type"] == "text/csv; charset=utf-8"
