from datetime import timedelta

import pytest
from django.utils import timezone

from gateway.content import erase
from gateway.content.models import Erasure
from gateway.content.purge import shred_content
from tenants.models import AuditEvent, LegalHold, RetentionSetting
from tenants.principal import SYSTEM
from tenants.pseudonyms import pseudonym
from tenants.retention import place_hold, pseudonym_key
from tests import factories
from tests.billing.ledger import put, record
from tests.gateway.content.world import NOW, content, days_ago, keeping, logged

pytestmark = pytest.mark.django_db


@pytest.fixture
def acme():
    return factories.tenant("acme", region_policy=["eu"])


@pytest.fixture
def officer(acme):
    return factories.client_with(acme, "retention:*", "residency:read", "requests:read", "content:read")


def error(answer):
    return answer.status_code, answer.json()["error"]["code"], answer.json()["error"]["param"]


def test_retention_is_read_and_changed_in_part(officer):
    url = "/api/v1/tenants/acme/retention/"
    assert officer.get(url).json()["content_days"] == 0
    changed = officer.patch(url, {"content_days": 30, "audit_days": 730}, format="json")
    assert (changed.status_code, changed.json()["content_days"], changed.json()["audit_days"]) == (
        200,
        30,
        730,
    )
    assert changed.json()["operator"]["request_log_days"] == 30
    assert officer.patch(url, {"content_days": 7}, format="json").json()["audit_days"] == 730
    assert officer.patch(url, {"audit_days": None}, format="json").json()["audit_days"] is None


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"content_days": 400}, "invalid_request", "content_days"),
        ({"audit_days": 30}, "invalid_request", "audit_days"),
        ({"operator": {}}, "unknown_field", "operator"),
        ({"money_days": 1}, "unknown_field", "money_days"),
    ],
)
def test_bad_retention_is_refused_by_name(officer, body, code, param):
    answer = officer.patch("/api/v1/tenants/acme/retention/", body, format="json")
    assert error(answer) == (400, code, param)
    assert RetentionSetting.objects.count() == 0


def test_reading_is_not_writing(acme):
    reader = factories.client_with(acme, "retention:read")
    for path, body in (("legal-holds/", {"reason": "x"}), ("erasures/", {"end_user": "x"})):
        assert error(reader.post(f"/api/v1/tenants/acme/{path}", body, format="json"))[:2] == (
            403,
            "permission_denied",
        )
    assert error(reader.patch("/api/v1/tenants/acme/retention/", {}, format="json"))[0] == 403
    assert (LegalHold.objects.count(), Erasure.objects.count()) == (0, 0)


def test_a_hold_is_placed_and_lifted_once(officer):
    hold = officer.post("/api/v1/tenants/acme/legal-holds/", {"reason": "Case 12"}, format="json")
    assert (hold.status_code, hold.json()["released_at"], hold.json()["is_operators"]) == (201, None, False)
    url = f"/api/v1/tenants/acme/legal-holds/{hold.json()['id']}/release/"
    assert officer.post(url, {}, format="json").json()["released_at"] is not None
    assert error(officer.post(url, {}, format="json"))[:2] == (409, "conflict")
    assert error(officer.post("/api/v1/tenants/acme/legal-holds/", {"reason": " "}, format="json"))[0] == 400


def test_an_erasure_is_asked_for_and_followed_without_the_name(officer, acme):
    made = officer.post("/api/v1/tenants/acme/erasures/", {"end_user": "ann"}, format="json")
    assert (made.status_code, made.json()["status"]) == (201, "queued")
    assert "ann" not in made.json().values()
    assert erase.run_next()
    done = officer.get(f"/api/v1/tenants/acme/erasures/{made.json()['id']}/").json()
    assert (done["status"], done["counts"]["stays"]) == ("done", {"ledger_rows": 0, "budgets": 0})
    certificate = officer.get(f"/api/v1/deletion-certificates/{done['certificate']}/").json()
    assert (certificate["data_class"], certificate["tenant"], len(certificate["hash"])) == (
        "end_user",
        "acme",
        64,
    )


def test_a_hold_makes_an_erasure_a_conflict(officer, acme):
    place_hold(tenant=acme, reason="Case", actor=SYSTEM, now=NOW)
    answer = officer.post("/api/v1/tenants/acme/erasures/", {"end_user": "ann"}, format="json")
    assert error(answer)[:2] == (409, "conflict")
    assert Erasure.objects.count() == 0


def test_a_pseudonym_is_told_and_nothing_is_written(officer, acme):
    before = AuditEvent.objects.count()
    answer = officer.post("/api/v1/tenants/acme/erasures/pseudonym/", {"end_user": "ann"}, format="json")
    assert answer.json() == {"pseudonym": pseudonym(pseudonym_key(acme), "ann")}
    assert AuditEvent.objects.count() == before


def test_certificates_are_listed_for_their_tenant_alone(officer):
    globex = keeping("globex", content_days=1)
    content(globex, days_ago(9))
    list(shred_content(today=NOW.date(), now=NOW))
    assert officer.get("/api/v1/deletion-certificates/").json()["data"] == []
    operator = factories.client_with(None, "*")
    (shown,) = operator.get("/api/v1/deletion-certificates/", {"tenant": "globex"}).json()["data"]
    assert (shown["method"], shown["day"], shown["rule"]) == ("key_destroyed", "2026-11-15", "content_days=1")


def test_residency_is_reported_with_its_exceptions(officer, acme):
    now = timezone.now() - timedelta(hours=1)
    put(record(now, tenant_id=acme.id, tenant_regions="eu"), recorded_at=now)
    put(record(now, tenant_id=acme.id, tenant_regions="eu", region="us"), recorded_at=now)
    found = officer.get("/api/v1/tenants/acme/residency/").json()
    assert (found["attempts"], found["outside"], found["share_within"]) == (2, 1, 0.5)
    assert [each["region"] for each in found["exceptions"]] == ["us"]
    file = officer.get("/api/v1/tenants/acme/residency.csv")
    assert (file["content-type"], file.content.count(b"us,")) == ("text/csv; charset=utf-8", 2)
    assert error(officer.get("/api/v1/tenants/acme/residency/", {"from": "x"})) == (
        400,
        "invalid_request",
        "from",
    )
    assert error(officer.get("/api/v1/tenants/acme/residency/", {"since": "x"})) == (
        400,
        "unknown_field",
        "since",
    )


def test_requests_are_paged_newest_first_and_filtered(officer, acme):
    now = timezone.now()
    ids = [str(logged(acme, now - timedelta(minutes=n), now=now, model=f"m{n % 2}")) for n in range(5)]
    logged(factories.tenant("globex"), now, now=now)
    first = officer.get("/api/v1/requests/", {"limit": "3"}).json()
    rest = officer.get("/api/v1/requests/", {"limit": "3", "cursor": first["next_cursor"]}).json()
    assert [row["id"] for row in first["data"] + rest["data"]] == ids
    assert rest["next_cursor"] is None
    assert [row["id"] for row in officer.get("/api/v1/requests/", {"model": "m1"}).json()["data"]] == ids[
        1::2
    ]
    assert officer.get("/api/v1/requests/", {"status": "error"}).json()["data"] == []
    assert "cost" not in first["data"][0]


@pytest.mark.parametrize(
    ("query", "code", "param"),
    [
        ({"cursor": "x"}, "invalid_request", "cursor"),
        ({"limit": "0"}, "invalid_request", "limit"),
        ({"key": "x"}, "invalid_request", "key"),
        ({"from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "invalid_request", "to"),
        ({"colour": "red"}, "unknown_field", "colour"),
        ({"tenant": "globex"}, "not_found", "tenant"),
    ],
)
def test_bad_parameters_of_the_request_log_are_refused_by_name(officer, query, code, param):
    answer = officer.get("/api/v1/requests/", query)
    assert error(answer)[1:] == (code, param)


def test_a_strangers_request_does_not_exist(officer):
    request_id = logged(factories.tenant("globex"), NOW)
    assert error(officer.get(f"/api/v1/requests/{request_id}/"))[:2] == (404, "not_found")


def test_content_that_is_not_kept_is_null_and_leaves_no_event(officer, acme):
    request_id = logged(acme, NOW)
    shown = officer.get(f"/api/v1/requests/{request_id}/", {"include": "content"}).json()
    assert shown["content"] is None
    assert AuditEvent.objects.filter(action="content.access").count() == 0
    assert error(officer.get(f"/api/v1/requests/{request_id}/", {"include": "all"})) == (
        400,
        "invalid_request",
        "include",
    )
