from typing import Any

import pytest

from billing.models import Payment
from billing.payments import book
from tenants.models import AuditEvent
from tests.billing.invoicing import world
from tests.billing.payments import fake_stripe
from tests.billing.payments.test_book import NOW
from tests.factories import client_with, tenant

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.billing.urls")]

API = "/api/v1"


def error_of(response: Any) -> tuple[int, str, str | None]:
    error = response.json()["error"]
    return response.status_code, error["code"], error["param"]


@pytest.fixture
def acme():
    world.seller()
    return world.buyer(world.plan(base_amount="10"), slug="acme")


@pytest.fixture
def invoice(acme):
    return world.issued(acme)


@pytest.fixture
def clerk():
    return client_with(None, "payments:*", "invoices:*")


def test_a_clerk_books_a_transfer_in_parts_and_once_per_key(acme, invoice, clerk):
    body = {"invoice": str(invoice.pk), "reference": "SEPA 1", "amount": "4.00"}
    for _ in range(2):
        made = clerk.post(f"{API}/payments/", body, format="json", headers={"idempotency-key": "k1"})
        assert made.status_code == 201
    assert (made.json()["status"], made.json()["amount"], made.json()["reference"]) == (
        "succeeded",
        "4.00",
        "SEPA 1",
    )
    invoice.refresh_from_db()
    assert invoice.balance_minor == 790
    assert (
        clerk.post(
            f"{API}/payments/", {"invoice": str(invoice.pk), "reference": "SEPA 2"}, format="json"
        ).status_code
        == 201
    )
    assert error_of(clerk.post(f"{API}/payments/", body, format="json"))[:2] == (409, "conflict")
    own = client_with(acme, "payments:read")
    assert [each["amount"] for each in own.get(f"{API}/payments/?tenant=acme").json()["data"]] == [
        "7.90",
        "4.00",
    ]
    assert AuditEvent.objects.filter(action="payment.record").count() == 2


def test_a_tenant_asks_to_pay_its_invoice_but_never_says_that_it_has(acme, invoice):
    own = client_with(acme, "payments:*", "invoices:read")
    body = {"invoice": str(invoice.pk)}
    made = own.post(f"{API}/payments/checkout/", body, format="json")
    assert (made.status_code, made.json()["status"], made.json()["amount"]) == (201, "waiting", "11.90")
    assert error_of(own.post(f"{API}/payments/checkout/", body, format="json"))[:2] == (409, "conflict")
    assert error_of(own.post(f"{API}/payments/", body | {"reference": "x"}, format="json"))[:2] == (
        403, "permission_denied",
    )  # fmt: skip
    confirm = own.post(f"{API}/payments/{made.json()['id']}/confirm/", {"reference": "x"}, format="json")
    assert error_of(confirm)[:2] == (403, "permission_denied")
    refund = {"amount": "1", "reason": "x"}
    assert error_of(own.post(f"{API}/payments/{made.json()['id']}/refunds/", refund, format="json"))[:2] == (
        403, "permission_denied",
    )  # fmt: skip


def test_a_strangers_invoice_cannot_be_paid_nor_its_payment_seen(acme, invoice):
    payment = book.ask_for_invoice(invoice=invoice, key="k", now=NOW, actor=book.SYSTEM)
    other = client_with(tenant(), "*")
    asked = other.post(f"{API}/payments/checkout/", {"invoice": str(invoice.pk)}, format="json")
    assert error_of(asked) == (400, "invalid_request", "invoice")
    assert error_of(other.get(f"{API}/payments/{payment.pk}/"))[:2] == (404, "not_found")
    assert other.get(f"{API}/payments/").json()["data"] == []


def test_a_transfer_is_confirmed_and_a_refund_needs_a_credit_note(acme, invoice, clerk):
    payment = book.ask_for_invoice(invoice=invoice, key="k", now=NOW, actor=book.SYSTEM)
    path = f"{API}/payments/{payment.pk}"
    assert (
        clerk.post(f"{path}/confirm/", {"reference": "SEPA 3"}, format="json").json()["status"] == "succeeded"
    )
    body = {"amount": "5.95", "reason": "goodwill"}
    assert error_of(clerk.post(f"{path}/refunds/", body, format="json")) == (409, "conflict", "amount")
    credit = {"reason": "x", "lines": [{"line": str(invoice.lines.get().pk), "net": "5.00"}]}
    assert clerk.post(f"{API}/invoices/{invoice.pk}/credit-notes/", credit, format="json").status_code == 201
    made = clerk.post(f"{path}/refunds/", body | {"destination": "wallet"}, format="json")
    assert (made.status_code, made.json()["status"], made.json()["amount"]) == (201, "succeeded", "5.95")
    assert [each["amount"] for each in clerk.get(f"{path}/refunds/").json()["data"]] == ["5.95"]


def test_the_portal_is_the_providers_for_a_customer_it_knows(acme, settings):
    own = client_with(acme, "payments:write")
    path = f"{API}/tenants/acme/payment-portal/"
    assert error_of(own.get(path))[:2] == (404, "not_found")
    with fake_stripe.running() as fake:
        settings.TOLLHOUSE_STRIPE_API_KEY, settings.TOLLHOUSE_STRIPE_URL = fake_stripe.KEY, fake.url
        acme.payment_customers.create(provider="stripe", customer_ref="cus_7")
        assert own.get(path).json() == {"url": "https://billing.stripe.com/p/session/cus_7"}
        fake.down = True
        assert error_of(own.get(path))[:2] == (503, "overloaded")


def test_a_statement_runs_from_the_opening_to_the_closing_balance(acme, invoice, clerk):
    book.record_manual(
        invoice=invoice, reference="=SUM(1)", key="a", amount_minor=400, now=world.AFTER, actor=book.SYSTEM
    )
    path = f"{API}/tenants/acme/statement"
    made = client_with(acme, "payments:read").get(f"{path}/?from=2026-11-01&to=2026-11-30").json()
    assert (made["opening_balance"], made["closing_balance"]) == ("0.00", "7.90")
    assert [(e["kind"], e["reference"], e["amount"], e["balance"]) for e in made["entries"]] == [
        ("invoice", "ACME-INV-2026-00001", "11.90", "11.90"), ("payment", "=SUM(1)", "-4.00", "7.90"),
    ]  # fmt: skip
    later = clerk.get(f"{path}/?from=2026-12-01&to=2026-12-31").json()
    assert (later["opening_balance"], later["entries"]) == ("7.90", [])
    file = clerk.get(f"{path}.csv?from=2026-11-01&to=2026-11-30")
    assert file["content-type"] == "text/csv; charset=utf-8"
    assert file.content.decode().splitlines() == [
        "date,kind,reference,amount,balance,currency",
        "2026-11-01,opening balance,,,0.00,EUR",
        "2026-11-01,invoice,ACME-INV-2026-00001,11.90,11.90,EUR",
        "2026-11-01,payment,'=SUM(1),-4.00,7.90,EUR",
        "2026-11-30,closing balance,,,7.90,EUR",
    ]
    for query, param in (("", "from"), ("?from=2026-11-02&to=2026-11-01", "to"), ("?from=x&to=y", "from")):
        assert error_of(clerk.get(f"{path}/{query}")) == (400, "invalid_request", param)


def test_a_paid_up_account_closes_at_zero_whatever_way_it_was_paid(acme, invoice, clerk):
    clerk.post(f"{API}/invoices/{invoice.pk}/mark-paid/", {"reference": "cash"}, format="json")
    made = clerk.get(f"{API}/tenants/acme/statement/?from=2026-01-01&to=2027-12-31").json()
    assert made["closing_balance"] == "0.00"
    assert Payment.objects.count() == 0
