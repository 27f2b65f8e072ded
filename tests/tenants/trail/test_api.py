"""The trail through the API: export, proof, sinks."""

import csv
import io
import json

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from tenants.models import AuditEvent, AuditSink
from tenants.trail import export as exports
from tests import factories
from tests.fakes.http_server import reply, serve
from tests.tenants.test_audit import tamper, write

pytestmark = pytest.mark.urls("tests.tenants.urls")
API = "/api/v1"
SINK = {"tenant": "acme", "name": "SIEM", "kind": "webhook", "target": "https://1.1.1.1/audit"}


@pytest.fixture
def acme(db):
    from django.core.cache import cache

    cache.clear()
    return factories.tenant("acme")


@pytest.fixture
def owner(acme):
    client = APIClient()
    client.force_login(factories.member(acme, "owner").user)
    return client


def error_of(response):
    error = response.json()["error"]
    return response.status_code, error["code"], error["param"]


def lines_of(response):
    assert response.status_code == 200
    return response.getvalue().decode().splitlines()


# ------------------------------------------------------------------ export


def test_json_lines_are_the_objects_of_the_list(acme, owner):
    for number in range(3):
        write(acme, after={"n": number}, reason="Zoë")
    listed = owner.get(f"{API}/audit/").json()["data"]
    response = owner.get(f"{API}/audit/export/")
    assert response["Content-Type"] == "application/jsonl"
    assert [json.loads(line) for line in lines_of(response)] == listed[::-1]


def test_csv_is_safe_to_open_in_a_spreadsheet(acme, owner):
    write(acme, object_id="=HYPERLINK(1)", reason="+1", after={"a": "=1"})
    response = owner.get(f"{API}/audit/export/", {"as": "csv"})
    (row,) = csv.DictReader(io.StringIO(response.getvalue().decode()))
    assert (row["object_id"], row["reason"]) == ("'=HYPERLINK(1)", "'+1")
    assert (json.loads(row["after"]), row["before"], row["sequence"]) == ({"a": "=1"}, "", "1")
    assert row["hash"] == bytes(AuditEvent.objects.get().hash).hex()


def test_an_export_has_no_limit_and_keeps_its_order(acme, owner, monkeypatch):
    monkeypatch.setattr(exports, "PAGE", 2)
    for _ in range(5):
        write(acme)
    rows = [json.loads(line)["sequence"] for line in lines_of(owner.get(f"{API}/audit/export/"))]
    assert rows == [1, 2, 3, 4, 5]


def test_an_export_is_filtered_as_the_list_and_of_ones_own_tenants(acme, owner):
    write(acme, action="key.create")
    write(acme, action="key.revoke", request_id="r7")
    write(factories.tenant("other"), action="key.revoke")
    found = lines_of(owner.get(f"{API}/audit/export/", {"action": "key.revoke", "request_id": "r7"}))
    assert [json.loads(line)["sequence"] for line in found] == [2]
    assert lines_of(owner.get(f"{API}/audit/export/", {"tenant": "other"})) == []


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"as": "xml"}, (400, "invalid_request", "as")),
        ({"colour": "red"}, (400, "unknown_field", "colour")),
        ({"from": "yesterday"}, (400, "invalid_request", "from")),
    ],
)
def test_a_bad_export_is_refused(owner, query, expected):
    assert error_of(owner.get(f"{API}/audit/export/", query)) == expected


# ------------------------------------------------------------------ proof


def test_the_proof_gives_an_anchor_and_takes_it_back(acme, owner):
    write(acme)
    write(factories.tenant("other"))
    first = owner.get(f"{API}/audit/verify/").json()
    (chain,) = first["chains"]
    assert (first["ok"], chain["tenant"], chain["events"], chain["error"]) == (True, "acme", 1, "")
    anchor = f"{chain['sequence']}:{chain['head']}"
    write(acme)
    (chain,) = owner.get(f"{API}/audit/verify/", {"anchor": anchor}).json()["chains"]
    assert (chain["anchors"], chain["sequence"]) == (1, 2)
    (chain,) = owner.get(f"{API}/audit/verify/", {"anchor": f"1:{'00' * 32}"}).json()["chains"]
    assert chain["error"] == "event 1 is not the one that was anchored"


def test_the_proof_names_a_tampered_event(acme, owner):
    write(acme)
    tamper("UPDATE tenants_auditevent SET actor_label = 'nobody'")
    answer = owner.get(f"{API}/audit/verify/").json()
    assert (answer["ok"], answer["chains"][0]["error"]) == (False, "event 1 was altered")


def test_an_operator_proves_all_chains_or_one(acme):
    operator = factories.client_with(None, "audit:read")
    write(acme)
    chains = operator.get(f"{API}/audit/verify/").json()["chains"]
    assert [each["tenant"] for each in chains] == [None, "acme"]
    chains = operator.get(f"{API}/audit/verify/", {"tenant": "acme"}).json()["chains"]
    assert [each["tenant"] for each in chains] == ["acme"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"tenant": "other"}, (404, "not_found", None)),
        ({"anchor": "one"}, (400, "invalid_request", "anchor")),
        ({"since": "2026"}, (400, "unknown_field", "since")),
    ],
)
def test_a_bad_proof_is_refused(owner, query, expected):
    factories.tenant("other")
    assert error_of(owner.get(f"{API}/audit/verify/", query)) == expected


# ------------------------------------------------------------------ sinks


def test_a_sink_is_made_shown_changed_and_removed(owner):
    answer = owner.post(f"{API}/audit-sinks/", SINK, format="json")
    made = answer.json()
    assert (answer.status_code, made["secret"][:6], made["lag"]) == (201, "whsec_", 1)
    path = f"{API}/audit-sinks/{made['id']}/"
    assert owner.get(path).json()["secret"] is None
    (listed,) = owner.get(f"{API}/audit-sinks/").json()["data"]
    assert (listed["secret"], listed["lag"], listed["tenant"]) == (None, 1, "acme")
    changed = owner.patch(path, {"name": "Other", "is_enabled": False}, format="json").json()
    assert (changed["name"], changed["is_enabled"]) == ("Other", False)
    rotated = owner.post(f"{path}rotate/", {}, format="json").json()
    assert rotated["secret"] not in (None, made["secret"])
    assert owner.delete(path).status_code == 204
    actions = AuditEvent.objects.order_by("sequence").values_list("action", flat=True)
    assert list(actions) == [f"audit_sink.{verb}" for verb in ("create", "update", "rotate", "delete")]


def test_a_sinks_test_says_what_came_back(acme, owner, settings):
    settings.TOLLHOUSE_EGRESS_ALLOWED_HOSTS = ["127.0.0.1"]

    async def take(peer, request):
        await peer.send(reply(status="202 Accepted"))

    with serve(take) as server:
        made = owner.post(f"{API}/audit-sinks/", SINK | {"target": server.url}, format="json").json()
        path = f"{API}/audit-sinks/{made['id']}/test/"
        assert owner.post(path, {}, format="json").json() == {"taken": True, "error": ""}
        assert error_of(owner.post(path, {}, format="json"))[:2] == (429, "rate_limit_exceeded")
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"target": "https://10.0.0.1/"}, (400, "url_not_allowed", "target")),
        ({"target": "ftp://1.1.1.1"}, (400, "url_not_allowed", "target")),
        ({"kind": "pager"}, (400, "invalid_request", "kind")),
        ({"kind": "syslog"}, (400, "url_not_allowed", "target")),
        ({"has_all_chains": True}, (400, "invalid_request", "has_all_chains")),
        ({"sealed": "x"}, (400, "unknown_field", "sealed")),
        ({"tenant": None}, (403, "permission_denied", None)),
        ({"tenant": "other"}, (400, "invalid_request", "tenant")),
    ],
)
def test_a_sink_that_cannot_be_is_refused_and_changes_nothing(owner, change, expected):
    factories.tenant("other")
    assert error_of(owner.post(f"{API}/audit-sinks/", SINK | change, format="json")) == expected
    assert (AuditSink.objects.count(), AuditEvent.objects.count()) == (0, 0)


@pytest.mark.parametrize("role", ["developer", "billing", "viewer"])
def test_sinks_are_closed_to_other_roles(acme, role):
    client = APIClient()
    client.force_login(factories.member(acme, role).user)
    assert error_of(client.get(f"{API}/audit-sinks/"))[:2] == (403, "permission_denied")
    assert error_of(client.post(f"{API}/audit-sinks/", SINK, format="json"))[:2] == (403, "permission_denied")


def test_a_tenant_does_not_see_the_operators_sinks(acme, owner):
    AuditSink.objects.create(name="ours", kind="webhook", target="https://x.example", next_at=timezone.now())
    assert owner.get(f"{API}/audit-sinks/").json()["data"] == []


# ------------------------------------------------------------------ reasons


def test_the_header_gives_every_write_its_reason(acme, owner):
    headers = {"X-Tollhouse-Reason": "Ticket 7"}
    owner.post(f"{API}/audit-sinks/", SINK, format="json", headers=headers)
    assert AuditEvent.objects.get().reason == "Ticket 7"
    answer = owner.post(f"{API}/audit-sinks/", SINK, format="json", headers={"X-Tollhouse-Reason": "x" * 501})
    assert error_of(answer) == (400, "invalid_request", "X-Tollhouse-Reason")
    assert AuditEvent.objects.count() == 1
