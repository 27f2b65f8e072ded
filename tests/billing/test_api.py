from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone
from rest_framework.test import APIClient

from billing.models import Budget, Plan
from tenants import versions
from tenants.models import AuditEvent
from tests.billing.ledger import NOON, put, record
from tests.factories import api_key, client_with, tenant

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.billing.urls")]

API = "/api/v1"
SPAN = "from=2026-11-24T00:00:00Z&to=2026-11-25T00:00:00Z"
COST_PLUS = {"model": "cost_plus", "markup_percent": "20", "fixed_per_request": "0"}


def error_of(response: Any) -> tuple[int, str, str | None]:
    error = response.json()["error"]
    return response.status_code, error["code"], error["param"]


# ------------------------------------------------------------------ who may


@pytest.mark.parametrize(
    "path", ["plans/", "budgets/", "usage/", "usage.csv", "ledger/verify/", "tenants/acme/subscription/"]
)
def test_nothing_opens_without_a_key_or_without_the_scope(path: str) -> None:
    acme = tenant("acme")
    assert error_of(APIClient().get(f"{API}/{path}")) == (401, "invalid_api_key", None)
    assert error_of(client_with(acme, "models:read").get(f"{API}/{path}"))[:2] == (403, "permission_denied")


@pytest.mark.parametrize("path", ["plans/", "ledger/verify/"])
def test_a_tenant_with_every_scope_cannot_read_the_operators_own(path: str) -> None:
    assert error_of(client_with(tenant(), "*").get(f"{API}/{path}"))[:2] == (403, "permission_denied")


# ------------------------------------------------------------------ the proof


def test_the_proof_holds_and_a_changed_rollup_breaks_it_everywhere(
    capsys: pytest.CaptureFixture[str],
) -> None:
    put(record())
    operator = client_with(None, "ledger:read")
    assert operator.get(f"{API}/ledger/verify/").json()["ok"] is True
    call_command("verify_ledger")
    assert "FAILED" not in capsys.readouterr().out
    with connection.cursor() as cursor:
        cursor.execute("UPDATE billing_usage_hour SET price_pico = price_pico + 1")
    proof = operator.get(f"{API}/ledger/verify/?since=2026-11-24T12:00:00Z").json()
    assert [check["name"] for check in proof["checks"] if not check["ok"]] == ["ledger = billing_usage_hour"]
    assert proof["ok"] is False
    with pytest.raises(CommandError, match="does not hold") as failed:
        call_command("verify_ledger", "--since", "2026-11-24T12:00:00Z")
    assert failed.value.returncode == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(proof["checks"])
    assert [line.split(":")[0] for line in lines if line.startswith("FAILED")] == [
        "FAILED   ledger = billing_usage_hour"
    ]
    call_command("verify_ledger", "--since", "2026-11-24T13:00:00Z")


@pytest.mark.parametrize(
    ("query", "expected"),
    [("since=soon", (400, "invalid_request", "since")), ("when=now", (400, "unknown_field", "when"))],
)
def test_the_proof_refuses_parameters_without_sense(query: str, expected: tuple[int, str, str]) -> None:
    assert error_of(client_with(None, "*").get(f"{API}/ledger/verify/?{query}")) == expected


# ------------------------------------------------------------------ plans and subscriptions


def test_a_changed_plan_is_a_new_version_and_the_old_one_stays() -> None:
    operator = client_with(None, "*")
    body = {
        "slug": "pro",
        "name": "Pro",
        "base_amount": "49",
        "is_in_advance": True,
        "charges": [COST_PLUS],
        "entitlements": {"models": ["gpt-4o"], "limits": {"limit_rpm": 60}},
    }
    made = operator.post(f"{API}/plans/", body, format="json")
    assert made.status_code == 201
    assert {**made.json(), "id": None} == {
        "id": None, "slug": "pro", "name": "Pro", "is_default": False, "version": 1, "currency": "USD",
        "interval": "month", "base_amount": "49.0000", "charges": [COST_PLUS], "is_in_advance": True,
        "trial_days": 0, "min_commitment": "0.0000", "proration": "day", "base_tax": "",
        "entitlements": {"models": ["gpt-4o"], "limits": {"limit_rpm": 60}, "features": []},
    }  # fmt: skip
    changed = operator.patch(f"{API}/plans/pro/", {"charges": []}, format="json").json()
    assert (changed["version"], changed["charges"], changed["base_amount"]) == (2, [], "49.0000")
    assert changed["is_in_advance"] is True
    renamed = operator.patch(f"{API}/plans/pro/", {"name": "Professional"}, format="json").json()
    assert (renamed["version"], renamed["name"]) == (2, "Professional")
    versions = operator.get(f"{API}/plans/pro/versions/").json()["data"]
    assert [(each["version"], each["charges"]) for each in versions] == [(2, []), (1, [COST_PLUS])]
    actions = AuditEvent.objects.filter(object_type="plan").order_by("id").values_list("action", flat=True)
    assert list(actions) == ["plan.create", "plan.publish", "plan.publish", "plan.update"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"slug": "pass-through", "name": "x"}, (409, "conflict", "slug")),
        ({"slug": "x", "name": "x", "charges": [{"model": "magic"}]},
         (400, "invalid_request", "charges[0].model")),
        ({"slug": "x", "name": "x", "colour": 1}, (400, "unknown_field", "colour")),
        ({"slug": "x", "name": "x", "entitlements": {"limits": {"limit_rpm": 0}}},
         (400, "invalid_request", "entitlements.limits.limit_rpm")),
        ({"slug": "x", "name": "x", "entitlements": {"limits": {"priority_weight": 101}}},
         (400, "invalid_request", "entitlements.limits.priority_weight")),
        ({"slug": "x", "name": "x", "entitlements": {"limits": {"priority": "vip"}}},
         (400, "invalid_request", "entitlements.limits.priority")),
    ],
)  # fmt: skip
def test_a_plan_that_cannot_be_sold_is_refused_and_leaves_nothing(body: Any, expected: Any) -> None:
    operator = client_with(None, "*")
    assert error_of(operator.post(f"{API}/plans/", body, format="json")) == expected
    assert [plan["slug"] for plan in operator.get(f"{API}/plans/").json()["data"]] == ["pass-through"]


def test_a_tenant_reads_its_plan_and_only_an_operator_changes_it() -> None:
    acme, globex = tenant("acme"), tenant("globex")
    path = f"{API}/tenants/acme/subscription/"
    own, operator = client_with(acme, "*"), client_with(None, "*")
    before = own.get(path).json()
    assert (before["plan"], before["version"], before["start"]) == ("pass-through", 1, None)
    assert "charges" not in before
    assert error_of(client_with(globex, "*").get(path))[:2] == (404, "not_found")
    assert error_of(own.put(path, {"plan": "pass-through"}, format="json"))[:2] == (403, "permission_denied")
    assert error_of(operator.put(path, {"plan": "none"}, format="json")) == (400, "invalid_request", "plan")
    body = {"plan": "pass-through", "start": "2026-01-31T00:00:00Z", "anchor_day": 31}
    assert operator.put(path, body, format="json").status_code == 200
    after = own.get(path).json()
    assert (after["start"], after["anchor_day"]) == ("2026-01-31T00:00:00Z", 31)
    operator.post(f"{API}/plans/", {"slug": "pro", "name": "Pro", "charges": [COST_PLUS]}, format="json")
    moved = operator.put(path, {"plan": "pro"}, format="json").json()
    assert (moved["plan"], moved["anchor_day"]) == ("pro", 31)
    assert AuditEvent.objects.filter(action="subscription.change", tenant=acme).count() == 2


# ------------------------------------------------------------------ budgets


def test_a_budget_tells_what_is_spent_and_left() -> None:
    acme = tenant("acme")
    now = timezone.now()
    put(record(now, tenant_id=acme.id, price_pico=1_250_000_000_001), recorded_at=now)
    client = client_with(acme, "budgets:*")
    made = client.post(
        f"{API}/budgets/", {"scope": {"tenant": "acme"}, "limit": "5", "window": "total"}, format="json"
    )
    assert made.status_code == 201
    budget = made.json()
    assert (budget["spent"], budget["remaining"]) == ("1.250000000001", "3.749999999999")
    assert (budget["limit"], budget["measure"], budget["window_end"]) == ("5.000000", "price", None)
    path = f"{API}/budgets/{budget['id']}/"
    assert client.patch(path, {"measure": "tokens", "limit": "100"}, format="json").json()["spent"] == "155"
    assert client.get(path).json()["remaining"] == "0"
    event = AuditEvent.objects.filter(action="budget.update").get()
    assert event.after is not None
    assert event.after == {
        "measure": "tokens",
        "limit": "100.000000",
        "currency": None,
        "updated_at": event.after["updated_at"],
    }
    assert client.delete(path).status_code == 204


def test_a_strangers_budget_and_key_do_not_exist() -> None:
    acme, globex = tenant("acme"), tenant("globex")
    own, other = client_with(acme, "budgets:*"), client_with(globex, "budgets:*")
    body = {"scope": {"tenant": "acme"}, "limit": "5"}
    budget = own.post(f"{API}/budgets/", body, format="json").json()
    assert error_of(other.get(f"{API}/budgets/{budget['id']}/"))[:2] == (404, "not_found")
    assert other.get(f"{API}/budgets/").json()["data"] == []
    assert error_of(other.post(f"{API}/budgets/", body, format="json")) == (
        400, "invalid_request", "scope.tenant",
    )  # fmt: skip
    foreign = str(api_key(globex, "models:read").key.id)
    scope = {"tenant": "acme", "key": foreign}
    assert error_of(own.post(f"{API}/budgets/", {"scope": scope, "limit": "5"}, format="json")) == (
        400, "invalid_request", "scope.key",
    )  # fmt: skip


def test_a_budget_of_cost_is_closed_without_its_scope() -> None:
    acme = tenant("acme")
    body = {"scope": {"tenant": "acme"}, "limit": "5", "measure": "cost"}
    own, operator = client_with(acme, "budgets:*"), client_with(None, "*")
    assert error_of(own.post(f"{API}/budgets/", body, format="json"))[:2] == (403, "permission_denied")
    budget = operator.post(f"{API}/budgets/", body, format="json").json()
    assert budget["spent"] == "0"
    assert own.get(f"{API}/budgets/{budget['id']}/").json()["spent"] is None


def test_tokens_have_no_fractions() -> None:
    body = {"scope": {"tenant": tenant("acme").slug}, "limit": "1.5", "measure": "tokens"}
    response = client_with(None, "*").post(f"{API}/budgets/", body, format="json")
    assert error_of(response) == (400, "invalid_request", "limit")


def test_a_scope_is_nested_and_changed_part_by_part() -> None:
    acme = tenant("acme")
    Plan.objects.create(slug="gold", name="Gold")
    client = client_with(acme, "budgets:*")
    scope = {"tenant": "acme", "feature": "chat", "user": "ann", "plan": "gold", "model": "m", "provider": "p",
             "tag": "env=live"}  # fmt: skip
    made = client.post(f"{API}/budgets/", {"scope": scope, "limit": "5", "window": "quarter"}, format="json")
    assert made.status_code == 201
    assert made.json()["scope"] == {**scope, "key": None}
    path = f"{API}/budgets/{made.json()['id']}/"
    changed = client.patch(path, {"scope": {"feature": "", "tag": ""}}, format="json").json()
    assert changed["scope"] == {**scope, "key": None, "feature": "", "tag": ""}
    assert [row["id"] for row in client.get(f"{API}/budgets/?plan=gold&provider=p").json()["data"]] == [
        made.json()["id"]
    ]
    flat = client.post(f"{API}/budgets/", {"tenant": "acme", "limit": "5"}, format="json")
    assert error_of(flat) == (400, "unknown_field", "tenant")


def test_budgets_without_a_tenant_are_the_operators_alone() -> None:
    acme = tenant("acme")
    own, operator = client_with(acme, "budgets:*"), client_with(None, "*")
    put(record(timezone.now(), tenant_id=acme.id), record(timezone.now(), tenant_id=tenant("globex").id))
    body = {"limit": "5", "measure": "requests", "window": "total"}
    assert error_of(own.post(f"{API}/budgets/", body, format="json"))[:2] == (403, "permission_denied")
    made = operator.post(f"{API}/budgets/", body, format="json").json()
    assert (made["scope"]["tenant"], made["spent"], made["remaining"]) == (None, "2", "3")
    assert own.get(f"{API}/budgets/").json()["data"] == []
    assert error_of(own.get(f"{API}/budgets/{made['id']}/"))[0] == 404


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"window": "rolling"}, "rolling_s"),
        ({"rolling_s": 60}, "rolling_s"),
        ({"window": "rolling", "rolling_s": 59}, "rolling_s"),
        ({"mode": "throttle"}, "mode"),
        ({"throttle_rpm": 5}, "throttle_rpm"),
        ({"window": "total", "carry_over": "unused"}, "carry_over"),
        ({"carry_over": "debt", "carry_max_percent": 5}, "carry_max_percent"),
        ({"include_overhead": True, "measure": "cost"}, "include_overhead"),
        ({"measure": "tokens", "currency": "EUR"}, "currency"),
        ({"timezone": "Mars/Olympus"}, "timezone"),
        ({"limit": "9007199255"}, "limit"),
        ({"scope": {"tenant": "acme", "tag": "env"}}, "scope.tag"),
        ({"scope": {"tenant": "acme", "plan": "none"}}, "scope.plan"),
        ({"scope": {"user": "ann"}}, "scope.user"),
    ],
)
def test_what_does_not_go_together_is_refused_and_changes_nothing(
    changes: dict[str, Any], param: str
) -> None:
    tenant("acme")
    body = {"scope": {"tenant": "acme"}, "limit": "5"} | changes
    response = client_with(None, "*").post(f"{API}/budgets/", body, format="json")
    assert error_of(response) == (400, "invalid_request", param)
    assert not Budget.objects.exists()


def test_a_budget_that_stops_rolling_or_throttling_forgets_what_went_with_it() -> None:
    client = client_with(tenant("acme"), "budgets:*")
    body = {"scope": {"tenant": "acme"}, "limit": "5", "window": "rolling", "rolling_s": 3600,
            "mode": "throttle", "throttle_rpm": 5}  # fmt: skip
    made = client.post(f"{API}/budgets/", body, format="json").json()
    assert (made["rolling_s"], made["window_end"]) == (3600, None)
    path = f"{API}/budgets/{made['id']}/"
    changed = client.patch(path, {"window": "day", "mode": "hard"}, format="json").json()
    assert (changed["rolling_s"], changed["throttle_rpm"], changed["window"]) == (None, None, "day")


def test_a_rate_of_exchange_is_the_operators_and_stays() -> None:
    own, operator = client_with(tenant(), "*"), client_with(None, "plans:*")
    path = f"{API}/fx-rates/"
    body = {"base": "EUR", "quote": "USD", "day": "2026-11-24", "rate": "1.0815", "source": "ECB"}
    assert error_of(own.post(path, body, format="json"))[:2] == (403, "permission_denied")
    before = versions.current()["billing"]
    made = operator.post(path, body, format="json")
    assert (made.status_code, made.json()["rate"]) == (201, "1.081500000000")
    assert versions.current()["billing"] == before + 1
    assert AuditEvent.objects.filter(action="fxrate.create").count() == 1
    assert error_of(operator.post(path, body | {"rate": "2"}, format="json")) == (409, "conflict", "day")
    assert error_of(operator.post(path, body | {"quote": "EUR"}, format="json")) == (
        400, "invalid_request", "quote",
    )  # fmt: skip
    assert operator.patch(f"{path}{made.json()['id']}/", {"rate": "2"}, format="json").status_code == 405
    assert operator.get(f"{path}?base=EUR&day=2026-11-24").json()["data"] == [made.json()]


# ------------------------------------------------------------------ usage


def test_usage_is_the_tenants_own_and_money_is_exact() -> None:
    acme, globex = tenant("acme"), tenant("globex")
    put(record(tenant_id=acme.id, price_pico=10**12 + 1), record(tenant_id=globex.id))
    query = f"{SPAN}&group_by=day,tenant&measures=requests,price"
    own = client_with(acme, "usage:read")
    found = own.get(f"{API}/usage/?{query}").json()
    row = {"requests": 1, "price": {"USD": "1.000000000001"}}
    assert found["data"] == [{"day": "2026-11-24", "tenant": "acme", **row}]
    assert found["totals"] == row
    everyone = client_with(None, "usage:read").get(f"{API}/usage/?{query}").json()
    assert everyone["totals"] == {"requests": 2, "price": {"USD": "1.000000001201"}}
    assert error_of(own.get(f"{API}/usage/?{query}&tenant=globex")) == (404, "not_found", "tenant")


def test_cost_takes_its_scope() -> None:
    acme = tenant("acme")
    put(record(tenant_id=acme.id))
    query = f"{API}/usage/?{SPAN}&measures=cost&group_by="
    assert error_of(client_with(acme, "usage:read").get(query)) == (403, "permission_denied", "measures")
    seen = client_with(acme, "usage:read", "cost:read").get(query).json()
    assert seen["totals"] == {"cost": {"USD": "0.000000001"}}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("group_by=colour", (400, "invalid_request", "group_by")),
        ("from=2020-01-01T00:00:00Z", (400, "invalid_request", "from")),
        ("from=yesterday", (400, "invalid_request", "from")),
        ("timezone=Nowhere", (400, "invalid_request", "timezone")),
        ("key=1", (400, "invalid_request", "key")),
        ("colour=red", (400, "unknown_field", "colour")),
    ],
)
def test_usage_refuses_questions_without_sense(query: str, expected: tuple[int, str, str]) -> None:
    client = client_with(None, "*")
    assert error_of(client.get(f"{API}/usage/?{query}")) == expected
    assert error_of(client.get(f"{API}/usage.csv?{query}", HTTP_ACCEPT="text/csv")) == expected


def test_the_file_holds_the_same_numbers_and_no_formula() -> None:
    acme = tenant("acme")
    put(
        record(tenant_id=acme.id, feature="=HYPERLINK(1)"),
        record(NOON, tenant_id=acme.id, feature="chat", price_currency="EUR", price_pico=5 * 10**11),
    )
    query = f"{SPAN}&group_by=feature&measures=requests,price"
    response = client_with(acme, "usage:read").get(f"{API}/usage.csv?{query}", HTTP_ACCEPT="text/csv")
    assert response["Content-Type"] == "text/csv; charset=utf-8"
    assert response.content.decode().splitlines() == [
        "feature,requests,price EUR,price USD",
        "'=HYPERLINK(1),1,0,0.0000000012",
        "chat,1,0.5,0",
    ]
