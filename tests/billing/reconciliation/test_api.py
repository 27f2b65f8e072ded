"""Bills over the API: the clerk's path, and who may not walk it."""

from datetime import timedelta

import pytest
from django.utils import timezone

from billing.models import BillSource, LedgerProof, ReconcileLine, UsageEvent
from tenants.models import AuditEvent
from tests.billing.ledger import put, record
from tests.factories import client_with, tenant

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.billing.urls")]

API = "/api/v1/reconciliation"
SOURCE = {"slug": "openai", "provider": "openai", "kind": "csv"}
THEN = timezone.now() - timedelta(days=2)
DAY, NEXT = (f"{THEN + timedelta(days=n):%Y-%m-%d}" for n in (0, 1))


@pytest.fixture
def clerk():
    return client_with(None, "cost:read", "prices:write", "ledger:read")


def imported(clerk, amount="10"):
    clerk.post(f"{API}/sources/", SOURCE, format="json")
    text = f"day,amount,currency,model\n{DAY},{amount},USD,gpt-4o\n"
    return clerk.post(f"{API}/sources/openai/import/", {"text": text}, format="json")


def test_the_clerk_imports_compares_and_trues_up(clerk):
    put(record(THEN, cost_pico=9 * 10**12, price_pico=0, cost_components=None, provider_model="gpt-4o"))
    assert imported(clerk).status_code == 201
    bill = clerk.get(f"{API}/bills/?source=openai").json()["data"][0]
    (item,) = clerk.get(f"{API}/bills/{bill['id']}/lines/").json()["data"]
    assert (item["amount"], item["model_family"], item["raw"]["model"]) == ("10", "gpt-4o", "gpt-4o")
    span = {"source": "openai", "start": DAY, "end": NEXT}
    made = clerk.post(f"{API}/runs/", span, format="json")
    assert made.status_code == 201
    assert made.json()["totals"]["USD"] == {
        "ledger": "9", "provider": "10", "variance": "1", "capture_rate_percent": "90.0000", "open": 1,
    }  # fmt: skip
    (line,) = clerk.get(f"{API}/lines/?status=under_captured&resolution=open").json()["data"]
    bare = clerk.post(f"{API}/lines/{line['id']}/resolve/", {"resolution": "trued_up"}, format="json")
    assert (bare.status_code, bare.json()["error"]["param"]) == (400, "note")
    decided = {"resolution": "trued_up", "note": "theirs is right"}
    done = clerk.post(f"{API}/lines/{line['id']}/resolve/", decided, format="json")
    assert done.json()["resolution"] == "trued_up"
    assert UsageEvent.objects.get(kind="adjustment").cost_pico == 10**12
    actions = set(AuditEvent.objects.values_list("action", flat=True))
    assert {
        "bill_source.create",
        "provider_bill.import",
        "reconciliation.run",
        "reconciliation.true_up",
    } <= actions


def test_an_admin_key_goes_in_and_never_comes_out(clerk):
    given = {**SOURCE, "kind": "openai", "api_key": "sk-admin-123"}
    made = clerk.post(f"{API}/sources/", given, format="json", headers={"idempotency-key": "once"})
    again = clerk.post(f"{API}/sources/", given, format="json", headers={"idempotency-key": "once"})
    assert made.status_code == again.status_code == 201
    for text in (made.content, again.content, clerk.get(f"{API}/sources/openai/").content):
        assert b"sk-admin" not in text
    assert made.json()["has_key"] is True
    assert BillSource.objects.get().secret() == "sk-admin-123"
    assert not AuditEvent.objects.filter(after__icontains="sk-admin").exists()


def test_a_key_does_not_follow_to_another_address(clerk):
    clerk.post(f"{API}/sources/", {**SOURCE, "kind": "openai", "api_key": "sk-1"}, format="json")
    moved = clerk.patch(f"{API}/sources/openai/", {"base_url": "https://evil.example"}, format="json")
    assert (moved.status_code, moved.json()["error"]["param"]) == (400, "api_key")
    assert BillSource.objects.get().base_url == ""
    both = {"base_url": "https://costs.example", "api_key": "sk-2"}
    assert clerk.patch(f"{API}/sources/openai/", both, format="json").status_code == 200
    assert BillSource.objects.get().secret() == "sk-2"


@pytest.mark.parametrize(
    ("kind", "path", "body", "param"),
    [
        ("csv", "pull", {"start": DAY, "end": NEXT}, "source"),
        ("openai", "pull", {"start": DAY, "end": NEXT}, "api_key"),
        ("openai", "import", {"text": "x"}, "source"),
        ("csv", "import", {"text": "x"}, "text"),
        ("csv", "import", {"text": "day,amount,currency\n"}, "start"),
    ],
)
def test_what_a_source_cannot_do_is_refused(clerk, kind, path, body, param):
    clerk.post(f"{API}/sources/", {**SOURCE, "kind": kind}, format="json")
    error = clerk.post(f"{API}/sources/openai/{path}/", body, format="json").json()["error"]
    assert (error["code"], error["param"]) == ("invalid_request", param)


@pytest.mark.parametrize("path", ["sources/", "bills/", "runs/", "lines/"])
def test_bills_are_the_operators_alone(path):
    assert client_with(tenant(), "*").get(f"{API}/{path}").status_code == 403
    assert client_with(None, "usage:read").get(f"{API}/{path}").status_code == 403


def test_reading_is_not_deciding():
    reader = client_with(None, "cost:read")
    assert reader.get(f"{API}/sources/").status_code == 200
    assert reader.post(f"{API}/sources/", SOURCE, format="json").status_code == 403
    assert not BillSource.objects.exists()
    assert not ReconcileLine.objects.exists()


def test_kept_proofs_are_listed_the_newest_first(clerk):
    for ok in (True, False):
        LedgerProof.objects.create(
            at=timezone.now(), ok=ok, is_whole=True, checks=[{"name": "I1"}], duration_ms=5
        )
    found = clerk.get("/api/v1/ledger/proofs/").json()["data"]
    assert [proof["ok"] for proof in found] == [False, True]
    assert client_with(tenant(), "*").get("/api/v1/ledger/proofs/").status_code == 403
