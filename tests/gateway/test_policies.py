"""Features with their budgets, and what a policy is bound to, through the API."""

from decimal import Decimal
from typing import Any

import pytest
from rest_framework.test import APIClient

from billing.models import Budget, Plan
from routing.models import Feature, PolicyBinding, RoutingPolicy
from routing.policies import wordings
from tenants import keys, versions
from tenants.models import AuditEvent, Tenant
from tenants.principal import SYSTEM

pytestmark = pytest.mark.django_db

FEATURES, BINDINGS = "/api/v1/features/", "/api/v1/policy-bindings/"


def client_of(*scopes: str, tenant: Tenant | None = None) -> APIClient:
    issued = keys.issue(tenant=tenant, actor=SYSTEM, name="test", scopes=list(scopes))
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {issued.text}")
    return client


def error_of(response: Any) -> tuple[int, str, str | None]:
    error = response.json()["error"]
    return response.status_code, error["code"], error["param"]


def make_policy(slug: str, tenant: Tenant | None = None) -> RoutingPolicy:
    return wordings.create_policy(
        slug=slug, name="", tenant=tenant, is_enabled=True, wording=wordings.Wording("cost"), actor=SYSTEM
    )


@pytest.fixture
def operator() -> APIClient:
    return client_of("*")


@pytest.fixture
def acme() -> Tenant:
    return Tenant.objects.create(slug="acme", name="Acme")


# ------------------------------------------------------------------ features


def test_a_feature_has_a_policy_a_promise_and_a_budget(operator: APIClient, acme: Tenant) -> None:
    make_policy("careful")
    make_policy("careful", acme)
    before = versions.current()
    body = {
        "slug": "search",
        "tenant": "acme",
        "policy": "careful",
        "slo": {"p95_ms": 2000, "success": "0.999", "max_cost": "0.01"},
        "budget": {"limit": "50", "window": "month", "thresholds": [80, 100]},
    }
    created = operator.post(FEATURES, body, format="json")
    assert created.status_code == 201, created.content
    said = created.json()
    assert (said["slug"], said["tenant"], said["policy"]) == ("search", "acme", "careful")
    assert said["slo"] == {"p95_ms": 2000, "success": "0.99900", "max_cost": "0.0100000000"}
    assert (said["budget"]["limit"], said["budget"]["measure"], said["budget"]["spent"]) == (
        "50.000000", "price", "0",
    )  # fmt: skip
    feature = Feature.objects.get()
    assert feature.policy == RoutingPolicy.objects.get(tenant=acme)  # its own before everybody's
    budget = Budget.objects.get()
    assert (budget.tenant, budget.feature, budget.thresholds) == (acme, "search", [80, 100])
    after = versions.current()
    assert (after["routing"], after["billing"]) == (before["routing"] + 1, before["billing"] + 1)
    assert list(
        AuditEvent.objects.filter(tenant=acme, object_type__in=("feature", "budget"))
        .order_by("sequence")
        .values_list("action", flat=True)
    ) == ["feature.create", "budget.create"]
    assert operator.get(f"{FEATURES}search/").json() == said


def test_a_features_budget_is_changed_and_ended_with_it(operator: APIClient, acme: Tenant) -> None:
    operator.post(FEATURES, {"slug": "search", "tenant": "acme", "budget": {"limit": "5"}}, format="json")
    changed = operator.patch(f"{FEATURES}search/", {"budget": {"mode": "soft"}}, format="json").json()
    assert (changed["budget"]["limit"], changed["budget"]["mode"]) == ("5.000000", "soft")
    fraction = operator.patch(
        f"{FEATURES}search/", {"budget": {"measure": "requests", "limit": "1.5"}}, format="json"
    )
    assert error_of(fraction) == (400, "invalid_request", "budget.limit")
    assert Budget.objects.get().limit == Decimal(5)
    ended = operator.patch(f"{FEATURES}search/", {"budget": None}, format="json").json()
    assert ended["budget"] is None
    assert Budget.objects.get().is_enabled is False
    missing = operator.patch(f"{FEATURES}search/", {"budget": {"mode": "hard"}}, format="json")
    assert error_of(missing) == (400, "invalid_request", "budget.limit")
    assert operator.delete(f"{FEATURES}search/").status_code == 204
    assert not Feature.objects.exists()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"slug": "a b"}, "slug"),
        ({"slug": "x", "policy": "nobody"}, "policy"),
        ({"slug": "x", "policy": "theirs"}, "policy"),
        ({"slug": "x", "slo": {"success": "1"}}, "slo.success"),
        ({"slug": "x", "slo": {"success": "0"}}, "slo.success"),
        ({"slug": "x", "slo": {"p95_ms": 0}}, "slo.p95_ms"),
        ({"slug": "x", "slo": {"max_cost": "-1"}}, "slo.max_cost"),
        ({"slug": "x", "budget": {"limit": "5"}}, "budget"),
        ({"slug": "x", "tenant": "acme", "budget": {"limit": "-5"}}, "budget.limit"),
        ({"slug": "x", "tenant": "acme", "budget": {"mode": "soft"}}, "budget.limit"),
        ({"slug": "x", "tenant": "acme", "budget": {"limit": "5", "window": "rolling"}}, "budget.window"),
        ({"slug": "x", "tenant": "acme", "budget": {"limit": "5", "mode": "throttle"}}, "budget.mode"),
    ],
)
def test_a_feature_that_makes_no_sense_is_refused(
    operator: APIClient, acme: Tenant, body: dict[str, Any], param: str
) -> None:
    make_policy("theirs", acme)
    assert error_of(operator.post(FEATURES, body, format="json")) == (400, "invalid_request", param)
    assert not Feature.objects.exists()
    assert not Budget.objects.exists()


def test_an_unknown_field_of_a_promise_is_refused(operator: APIClient) -> None:
    answer = operator.post(FEATURES, {"slug": "x", "slo": {"p99_ms": 1}}, format="json")
    assert error_of(answer) == (400, "unknown_field", "slo.p99_ms")


def test_the_same_slug_may_be_everybodys_and_one_tenants(operator: APIClient, acme: Tenant) -> None:
    assert operator.post(FEATURES, {"slug": "search"}, format="json").status_code == 201
    assert operator.post(FEATURES, {"slug": "search", "tenant": "acme"}, format="json").status_code == 201
    again = operator.post(FEATURES, {"slug": "search"}, format="json")
    assert error_of(again) == (409, "conflict", "slug")
    assert operator.get(f"{FEATURES}search/").json()["tenant"] is None
    assert operator.get(f"{FEATURES}search/?tenant=acme").json()["tenant"] == "acme"
    moved = operator.patch(f"{FEATURES}search/", {"tenant": "acme"}, format="json")
    assert error_of(moved) == (400, "invalid_request", "tenant")


def test_a_tenant_reads_its_features_and_writes_none(operator: APIClient, acme: Tenant) -> None:
    for body in ({"slug": "common"}, {"slug": "search", "tenant": "acme"}):
        assert operator.post(FEATURES, body, format="json").status_code == 201
    mine = client_of("policies:read", "policies:write", "budgets:write", tenant=acme)
    assert [row["slug"] for row in mine.get(FEATURES).json()["data"]] == ["search"]
    for answer in (
        mine.post(FEATURES, {"slug": "new", "tenant": "acme"}, format="json"),
        mine.patch(f"{FEATURES}search/", {"name": "x"}, format="json"),
        mine.delete(f"{FEATURES}search/"),
    ):
        assert error_of(answer)[:2] == (403, "permission_denied")
    other = Tenant.objects.create(slug="globex", name="Globex")
    stranger = client_of("policies:read", tenant=other)
    assert stranger.get(FEATURES).json()["data"] == []
    assert error_of(stranger.get(f"{FEATURES}search/"))[:2] == (404, "not_found")


def test_a_cost_budget_needs_the_scope_that_sees_costs(acme: Tenant) -> None:
    body = {"slug": "x", "tenant": "acme", "budget": {"measure": "cost", "limit": "5"}}
    blind = client_of("policies:*", "budgets:*")
    assert error_of(blind.post(FEATURES, body, format="json"))[:2] == (403, "permission_denied")
    assert not Feature.objects.exists()
    assert (
        client_of("policies:*", "budgets:*", "cost:read").post(FEATURES, body, format="json").status_code
        == 201
    )


# ------------------------------------------------------------------ bindings


def test_a_policy_is_bound_to_a_tenant_or_a_plan(operator: APIClient, acme: Tenant) -> None:
    Plan.objects.create(slug="pro", name="Pro")
    make_policy("common")
    make_policy("own", acme)
    for body in ({"policy": "own", "tenant": "acme"}, {"policy": "common", "plan": "pro"}):
        answer = operator.post(BINDINGS, body, format="json")
        assert answer.status_code == 201, answer.content
    plan, tenant = operator.get(BINDINGS).json()["data"]
    assert (plan["policy"], plan["version"], plan["plan"], plan["tenant"]) == (
        "common",
        "common@1",
        "pro",
        None,
    )
    assert (tenant["policy"], tenant["version"], tenant["plan"], tenant["tenant"]) == (
        "own",
        "own@1",
        None,
        "acme",
    )
    url = f"{BINDINGS}{tenant['id']}/"
    assert operator.patch(url, {"policy": "common"}, format="json").json()["policy"] == "common"
    assert operator.delete(url).status_code == 204
    assert [row.plan for row in PolicyBinding.objects.all()] == ["pro"]


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"policy": "common"}, 400, "invalid_request", "tenant"),
        ({"policy": "common", "tenant": "acme", "plan": "pro"}, 400, "invalid_request", "tenant"),
        ({"policy": "common", "plan": "nobody"}, 400, "invalid_request", "plan"),
        ({"policy": "common", "tenant": "nobody"}, 400, "invalid_request", "tenant"),
        ({"policy": "nobody", "tenant": "acme"}, 400, "invalid_request", "policy"),
        ({"policy": "own", "plan": "pro"}, 400, "invalid_request", "policy"),
        ({"tenant": "acme"}, 400, "invalid_request", "policy"),
        ({"policy": "common", "plan": "default-taken"}, 409, "conflict", "policy"),
    ],
)
def test_a_binding_that_makes_no_sense_is_refused(
    operator: APIClient, acme: Tenant, body: dict[str, Any], status: int, code: str, param: str
) -> None:
    common = make_policy("common")
    make_policy("own", acme)
    for slug in ("pro", "default-taken"):
        Plan.objects.create(slug=slug, name=slug)
    PolicyBinding.objects.create(policy=common, plan="default-taken")
    assert error_of(operator.post(BINDINGS, body, format="json")) == (status, code, param)
    assert PolicyBinding.objects.count() == 1


def test_a_tenant_sees_what_binds_it_and_cannot_loosen_it(operator: APIClient, acme: Tenant) -> None:
    make_policy("common")
    row = PolicyBinding.objects.create(policy=RoutingPolicy.objects.get(), tenant=acme)
    mine = client_of("policies:read", "policies:write", tenant=acme)
    assert [each["policy"] for each in mine.get(BINDINGS).json()["data"]] == ["common"]
    for answer in (
        mine.delete(f"{BINDINGS}{row.pk}/"),
        mine.patch(f"{BINDINGS}{row.pk}/", {"policy": "common"}, format="json"),
        mine.post(BINDINGS, {"policy": "common", "tenant": "acme"}, format="json"),
    ):
        assert error_of(answer)[:2] == (403, "permission_denied")
    assert PolicyBinding.objects.count() == 1
