from datetime import timedelta
from typing import Any

import pytest

from billing.models import BillingProfile, CreditNote, Invoice
from tenants.models import AuditEvent, Tenant
from tests.billing.invoicing import world
from tests.billing.invoicing.world import OCTOBER
from tests.factories import client_with, tenant

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.billing.urls")]

API = "/api/v1"


def error_of(response: Any) -> tuple[int, str, str | None]:
    error = response.json()["error"]
    return response.status_code, error["code"], error["param"]


@pytest.fixture
def acme() -> Tenant:
    world.seller()
    made = world.buyer(world.plan(base_amount="49"), slug="acme")
    world.use(made, OCTOBER + timedelta(hours=1), input_tokens=2_500_000, feature="=cmd()", cost_pico=777)
    return made


@pytest.fixture
def clerk() -> Any:
    return client_with(None, "invoices:*")


@pytest.fixture
def invoice(acme: Tenant) -> Invoice:
    return world.issued(acme)


def test_the_clerks_path_from_draft_to_paid(acme: Tenant, clerk: Any) -> None:
    body = {"tenant": "acme", "period": "2026-10-05T00:00:00Z"}
    made = clerk.post(f"{API}/invoices/", body, format="json")
    assert made.status_code == 201
    shown = made.json()
    assert (shown["status"], shown["number"], shown["unpriced_calls"]) == ("draft", None, 0)
    assert [(line["kind"], line["quantity"], line["net"]) for line in shown["lines"]] == [
        ("base", "1", "49.00"),
        ("usage", "2500000", "5.00"),
    ]
    path = f"{API}/invoices/{shown['id']}"
    issued = clerk.post(f"{path}/finalize/", {}, format="json").json()
    assert (issued["status"], issued["number"]) == ("open", "ACME-INV-2026-00001")
    assert (issued["totals"]["total"], issued["totals"]["balance"]) == ("64.26", "64.26")
    body = {"reason": "Outage", "lines": [{"line": issued["lines"][0]["id"], "net": "10.00"}]}
    note = clerk.post(f"{path}/credit-notes/", body, format="json")
    assert note.status_code == 201
    assert (note.json()["number"], note.json()["total"]) == ("ACME-CN-2026-00001", "11.90")
    assert note.json()["reduces_open"] == "11.90"
    assert [each["number"] for each in clerk.get(f"{path}/credit-notes/").json()["data"]] == [
        "ACME-CN-2026-00001"
    ]
    part = clerk.post(f"{path}/mark-paid/", {"reference": "SEPA 1", "amount": "50.00"}, format="json").json()
    assert (part["status"], part["totals"]["balance"]) == ("open", "2.36")
    paid = clerk.post(f"{path}/mark-paid/", {"reference": "SEPA 2"}, format="json").json()
    assert (paid["status"], paid["totals"]["balance"], paid["payment_reference"]) == (
        "paid",
        "0.00",
        "SEPA 2",
    )
    actions = AuditEvent.objects.filter(tenant=acme, object_type__in=("invoice", "credit_note"))
    assert list(actions.order_by("id").values_list("action", flat=True)) == [
        "invoice.draft", "invoice.finalize", "invoice.credit", "invoice.pay", "invoice.pay",
    ]  # fmt: skip


def test_a_preview_says_what_the_draft_will_and_writes_nothing(acme: Tenant) -> None:
    own = client_with(acme, "invoices:read")
    shown = own.get(f"{API}/invoices/preview/?tenant=acme&at=2026-10-05T00:00:00Z").json()
    assert (shown["id"], shown["status"], shown["totals"]["total"]) == (None, "draft", "64.26")
    assert not Invoice.objects.exists()
    assert error_of(own.get(f"{API}/invoices/preview/?tenant=acme&at=soon")) == (400, "invalid_request", "at")
    assert error_of(own.get(f"{API}/invoices/preview/")) == (400, "invalid_request", "tenant")
    assert error_of(own.get(f"{API}/invoices/preview/?tenant=acme&colour=red")) == (
        400,
        "unknown_field",
        "colour",
    )
    stranger = client_with(tenant(), "*")
    assert error_of(stranger.get(f"{API}/invoices/preview/?tenant=acme"))[:2] == (404, "not_found")


def test_a_tenant_reads_what_was_issued_and_changes_nothing(acme: Tenant, clerk: Any) -> None:
    draft = world.drafted(acme).invoice
    own = client_with(acme, "*")
    assert own.get(f"{API}/invoices/").json()["data"] == []
    assert own.get(f"{API}/invoices/{draft.pk}/").status_code == 404
    clerk.post(f"{API}/invoices/{draft.pk}/finalize/", {}, format="json")
    assert [each["number"] for each in own.get(f"{API}/invoices/").json()["data"]] == ["ACME-INV-2026-00001"]
    for verb, body in (
        ("void", {"reason": "x"}), ("mark-paid", {"reference": "x"}), ("uncollectible", {"reason": "x"}),
        ("finalize", {}), ("credit-notes", {"reason": "x", "lines": []}),
    ):  # fmt: skip
        answer = own.post(f"{API}/invoices/{draft.pk}/{verb}/", body, format="json")
        assert error_of(answer)[:2] == (403, "permission_denied"), verb
    assert error_of(own.post(f"{API}/invoices/", {"tenant": "acme"}, format="json"))[:2] == (
        403,
        "permission_denied",
    )
    assert own.delete(f"{API}/invoices/{draft.pk}/").status_code == 403
    draft.refresh_from_db()
    assert (draft.status, draft.paid_minor) == ("open", 0)
    assert not CreditNote.objects.exists()


def test_a_strangers_and_a_viewers_key_get_404_and_403(invoice: Invoice, acme: Tenant) -> None:
    for path in ("", "pdf/", "csv/", "calls/", "xml/", "credit-notes/"):
        stranger = client_with(tenant(), "*").get(f"{API}/invoices/{invoice.pk}/{path}")
        assert error_of(stranger)[:2] == (404, "not_found"), path
        viewer = client_with(acme, "usage:read").get(f"{API}/invoices/{invoice.pk}/{path}")
        assert error_of(viewer)[:2] == (403, "permission_denied"), path


def test_the_files_of_an_invoice(invoice: Invoice, acme: Tenant) -> None:
    own = client_with(acme, "invoices:read")
    path = f"{API}/invoices/{invoice.pk}"
    document = own.get(f"{path}/pdf/", headers={"accept": "application/pdf"})
    assert (document.content[:5], document["Content-Type"]) == (b"%PDF-", "application/pdf")
    assert document["Content-Disposition"] == 'attachment; filename="ACME-INV-2026-00001.pdf"'
    lines = own.get(f"{path}/csv/").content.decode().splitlines()
    assert lines[2].startswith(
        'ACME-INV-2026-00001,2,usage,scale@1,"Tokens, input tokens",2500000,input tokens'
    )
    calls = b"".join(own.get(f"{path}/calls/").streaming_content).decode().splitlines()
    assert len(calls) == 2
    assert ",'=cmd()," in calls[1]
    assert ",input=2500000,2500000," in calls[1]
    assert "cost" not in calls[0]
    seeing = client_with(acme, "invoices:read", "cost:read")
    calls = b"".join(seeing.get(f"{path}/calls/?position=2").streaming_content).decode().splitlines()
    assert calls[0].endswith(",cost,cost_currency")
    assert calls[1].endswith(",0.000000000777,EUR")
    assert error_of(own.get(f"{path}/calls/?position=9")) == (400, "invalid_request", "position")
    focus = b"".join(own.get(f"{API}/invoices/focus/").streaming_content).decode().splitlines()
    assert [row.split(",")[0] for row in focus] == ["BilledCost", "49.00", "5.00", "10.26"]


@pytest.mark.parametrize(
    ("verb", "body", "expected"),
    [
        ("finalize", {}, (409, "conflict", None)),
        ("finalize", {"now": 1}, (400, "unknown_field", "now")),
        ("void", {}, (400, "invalid_request", "reason")),
        ("mark-paid", {"reference": "x", "amount": "64.27"}, (400, "invalid_request", "amount")),
        ("mark-paid", {"reference": "x", "amount": "1.001"}, (400, "invalid_request", "amount")),
        ("mark-paid", {"reference": "x", "amount": "0"}, (400, "invalid_request", "amount")),
        ("credit-notes", {"reason": "x", "lines": []}, (400, "invalid_request", "lines")),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(
    invoice: Invoice, clerk: Any, verb: str, body: Any, expected: Any
) -> None:
    before = Invoice.objects.filter(pk=invoice.pk).values().get()
    assert error_of(clerk.post(f"{API}/invoices/{invoice.pk}/{verb}/", body, format="json")) == expected
    assert Invoice.objects.filter(pk=invoice.pk).values().get() == before


def test_an_issued_invoice_is_never_discarded_and_a_draft_is(acme: Tenant, clerk: Any) -> None:
    draft = world.drafted(acme).invoice
    assert clerk.delete(f"{API}/invoices/{draft.pk}/").status_code == 204
    issued = world.issued(acme)
    assert error_of(clerk.delete(f"{API}/invoices/{issued.pk}/"))[:2] == (409, "conflict")
    assert Invoice.objects.get().number == "ACME-INV-2026-00001"


def test_a_buyers_profile_is_read_by_it_and_written_by_operators(acme: Tenant, clerk: Any) -> None:
    path = f"{API}/tenants/acme/billing-profile/"
    own = client_with(acme, "*")
    assert own.get(path).json()["city"] == "London"
    assert error_of(own.patch(path, {"city": "Paris"}, format="json"))[:2] == (403, "permission_denied")
    assert error_of(clerk.patch(path, {"tax_treatment": "reverse_charge"}, format="json")) == (
        400,
        "invalid_request",
        "vat_id",
    )
    body = {"tax_treatment": "reverse_charge", "vat_id": "FR40303265045", "country": "FR"}
    assert clerk.patch(path, body, format="json").status_code == 200
    held = BillingProfile.objects.get(tenant=acme)
    assert (held.tax_treatment, held.vat_id, held.city) == ("reverse_charge", "FR40303265045", "London")
    event = AuditEvent.objects.get(action="billing_profile.update")
    assert event.before == {"tax_treatment": "domestic", "vat_id": "", "country": "GB"}


SELLER = {"code": "two", "name": "Two", "country": "FR", "number_prefix": "TWO"}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (SELLER | {"iban": "DE02120300000000202052"}, (400, "invalid_request", "iban")),
        (SELLER | {"timezone": "Mars/Base"}, (400, "invalid_request", "timezone")),
        (SELLER | {"series": "CN"}, (400, "invalid_request", "credit_series")),
        (SELLER | {"is_default": True}, (409, "conflict", "is_default")),
        (SELLER | {"number_prefix": "a b"}, (400, "invalid_request", "number_prefix")),
        (SELLER | {"colour": "red"}, (400, "unknown_field", "colour")),
    ],
)
def test_a_seller_that_makes_no_sense_is_refused(acme: Tenant, clerk: Any, body: Any, expected: Any) -> None:
    assert error_of(clerk.post(f"{API}/legal-entities/", body, format="json")) == expected
    assert [each["code"] for each in clerk.get(f"{API}/legal-entities/").json()["data"]] == ["acme-gmbh"]


def test_the_series_of_a_seller_stands_once_it_has_issued(invoice: Invoice, clerk: Any) -> None:
    path = f"{API}/legal-entities/acme-gmbh/"
    answer = clerk.patch(path, {"number_prefix": "NEW"}, format="json")
    assert error_of(answer) == (400, "invalid_request", "number_prefix")
    assert clerk.patch(path, {"city": "Bonn"}, format="json").json()["city"] == "Bonn"
    assert error_of(client_with(invoice.tenant, "*").get(path))[:2] == (403, "permission_denied")


def test_tax_rates_and_coupons_stand_but_for_their_end(acme: Tenant, clerk: Any) -> None:
    body = {"key": "super", "category": "S", "percent": "4", "country": "ES", "valid_from": "2026-01-01"}
    rate = clerk.post(f"{API}/tax-rates/", body, format="json").json()
    path = f"{API}/tax-rates/{rate['id']}/"
    assert error_of(clerk.patch(path, {"percent": "5"}, format="json")) == (400, "invalid_request", "percent")
    assert clerk.patch(path, {"valid_to": "2027-01-01"}, format="json").json()["valid_to"] == "2027-01-01"
    wrong = {**body, "key": "exempt", "category": "E"}
    assert error_of(clerk.post(f"{API}/tax-rates/", wrong, format="json")) == (
        400,
        "invalid_request",
        "percent",
    )
    body = {"code": "ten", "name": "Ten", "kind": "percent", "value": "10"}
    assert clerk.post(f"{API}/coupons/", body, format="json").status_code == 201
    path = f"{API}/coupons/ten/"
    assert error_of(clerk.patch(path, {"value": "11"}, format="json")) == (400, "invalid_request", "value")
    assert clerk.post(f"{path}redeem/", {"tenant": "acme"}, format="json").status_code == 200
    assert error_of(clerk.post(f"{path}redeem/", {"tenant": "acme"}, format="json"))[:2] == (409, "conflict")
    world.use(acme, OCTOBER + timedelta(hours=2), input_tokens=1)
    assert clerk.post(f"{path}remove/", {"tenant": "acme"}, format="json").status_code == 200
    fixed = {"code": "five", "name": "Five", "kind": "fixed", "value": "5"}
    assert error_of(clerk.post(f"{API}/coupons/", fixed, format="json")) == (
        400,
        "invalid_request",
        "currency",
    )
