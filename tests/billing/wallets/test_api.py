from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from billing.models import CreditGrant, Payment, Wallet
from tenants.models import AuditEvent
from tests.billing.invoicing import world
from tests.factories import client_with, tenant

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.billing.urls")]

ROOT = "/api/v1/tenants/acme/wallet"


def error_of(response: Any) -> tuple[int, str, str | None]:
    error = response.json()["error"]
    return response.status_code, error["code"], error["param"]


@pytest.fixture
def acme():
    return tenant("acme", currency="EUR")


@pytest.fixture
def clerk():
    return client_with(None, "wallet:*")


def give(clerk, **more):
    body = {"amount": "12.5", "category": "paid", **more}
    return clerk.post(f"{ROOT}/grants/", body, format="json")


def test_an_operator_gives_credit_and_the_tenant_sees_it(acme, clerk):
    made = give(clerk, name="Welcome", priority=10)
    assert made.status_code == 201
    assert (made.json()["amount"], made.json()["remaining"], made.json()["currency"]) == (
        "12.5",
        "12.5",
        "EUR",
    )
    assert (made.json()["source"], made.json()["priority"]) == ("manual", 10)
    reader = client_with(acme, "wallet:read")
    shown = reader.get(f"{ROOT}/").json()
    assert (shown["balance"], shown["spendable"], shown["is_prepaid"]) == ("12.5", "12.5", False)
    assert [each["name"] for each in shown["grants"]] == ["Welcome"]
    assert [each["id"] for each in reader.get(f"{ROOT}/grants/?category=paid").json()["data"]] == [
        made.json()["id"]
    ]
    (entry,) = reader.get(f"{ROOT}/entries/").json()["data"]
    assert (entry["kind"], entry["amount"], entry["grant"]) == ("grant", "12.5", made.json()["id"])
    assert AuditEvent.objects.filter(tenant=acme, action="wallet.grant").count() == 1


def test_a_tenant_never_gives_itself_credit_nor_lifts_its_limit(acme, clerk):
    own = client_with(acme, "*")
    assert error_of(give(own))[:2] == (403, "permission_denied")
    assert error_of(own.patch(f"{ROOT}/", {"is_prepaid": False}, format="json"))[:2] == (
        403,
        "permission_denied",
    )
    assert not CreditGrant.objects.exists()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"amount": "0"}, (400, "invalid_request", "amount")),
        ({"amount": "-1"}, (400, "invalid_request", "amount")),
        ({"amount": "1.0000000000001"}, (400, "invalid_request", "amount")),
        ({"category": "free"}, (400, "invalid_request", "category")),
        ({"currency": "euro"}, (400, "invalid_request", "currency")),
        ({"expires_at": "2020-01-01T00:00:00Z"}, (400, "invalid_request", "expires_at")),
        ({"remaining": "1"}, (400, "unknown_field", "remaining")),
    ],
)
def test_a_grant_without_sense_is_refused_and_changes_nothing(acme, clerk, change, expected):
    assert error_of(give(clerk, **change)) == expected
    assert not CreditGrant.objects.exists()
    assert not AuditEvent.objects.filter(action__startswith="wallet.").exists()


def test_a_grant_is_given_once_per_idempotency_key(acme, clerk):
    for _ in range(2):
        answer = clerk.post(
            f"{ROOT}/grants/", {"amount": "5", "category": "paid"}, format="json",
            headers={"idempotency-key": "k"},
        )  # fmt: skip
        assert answer.status_code == 201
    assert Wallet.objects.get().balance_pico == 5 * 10**12


def test_the_balance_becomes_a_limit_and_stops_being_one(acme, clerk):
    world.seller()
    give(clerk, amount="119")
    shown = clerk.patch(f"{ROOT}/", {"is_prepaid": True}, format="json").json()
    assert (shown["is_prepaid"], shown["balance"]) == (True, "119")
    assert clerk.patch(f"{ROOT}/", {"is_prepaid": False}, format="json").json()["is_prepaid"] is False
    actions = (
        AuditEvent.objects.filter(tenant=acme, action__startswith="wallet.")
        .order_by("sequence")
        .values_list("action", flat=True)
    )
    assert list(actions) == ["wallet.grant", "wallet.prepaid", "wallet.postpaid"]


def test_a_tenant_says_when_its_wallet_tops_itself_up(acme):
    own = client_with(acme, "wallet:read", "wallet:write")
    terms = {"below": "10.00", "amount": "50.00", "monthly_cap": "100.00"}
    assert own.patch(f"{ROOT}/", {"auto_top_up": terms}, format="json").json()["auto_top_up"] == terms
    assert own.patch(f"{ROOT}/", {"auto_top_up": None}, format="json").json()["auto_top_up"] is None
    for wrong, param in (
        (terms | {"monthly_cap": "49.99"}, "auto_top_up.monthly_cap"),
        (terms | {"below": "0.001"}, "auto_top_up.below"),
    ):
        refused = own.patch(f"{ROOT}/", {"auto_top_up": wrong}, format="json")
        assert error_of(refused) == (400, "invalid_request", param)
    assert error_of(own.patch(f"{ROOT}/", {}, format="json"))[:2] == (400, "invalid_request")


def test_a_top_up_is_asked_for_and_credits_nothing_yet(acme):
    own = client_with(acme, "wallet:read", "wallet:write")
    made = own.post(f"{ROOT}/top-up/", {"amount": "25.00"}, format="json")
    assert made.status_code == 201
    assert (made.json()["status"], made.json()["amount"], made.json()["purpose"]) == (
        "waiting",
        "25.00",
        "top_up",
    )
    assert own.get(f"{ROOT}/").json()["balance"] == "0"
    assert error_of(own.post(f"{ROOT}/top-up/", {"amount": "25.001"}, format="json")) == (
        400, "invalid_request", "amount",
    )  # fmt: skip
    assert Payment.objects.count() == 1


@pytest.mark.parametrize("path", ["", "grants/", "entries/"])
def test_strangers_and_keys_without_the_scope_see_nothing(acme, clerk, path):
    give(clerk)
    assert error_of(client_with(tenant(), "*").get(f"{ROOT}/{path}"))[:2] == (404, "not_found")
    assert error_of(client_with(acme, "usage:read").get(f"{ROOT}/{path}"))[:2] == (403, "permission_denied")


def test_another_currency_is_another_wallet(acme, clerk):
    give(clerk, currency="USD", amount="3", expires_at=(timezone.now() + timedelta(days=9)).isoformat())
    assert clerk.get(f"{ROOT}/").json()["balance"] == "0"
    assert clerk.get(f"{ROOT}/?currency=USD").json()["balance"] == "3"
    assert error_of(clerk.get(f"{ROOT}/?currency=usd")) == (400, "invalid_request", "currency")
    assert error_of(clerk.get(f"{ROOT}/?coin=USD")) == (400, "unknown_field", "coin")
