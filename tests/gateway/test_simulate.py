"""Simulated calls: the planner's answer with its reasons, for a policy as it is or as it is being edited."""

from datetime import UTC, datetime
from typing import Any

import pytest
from rest_framework.test import APIClient

from billing.models import Plan
from billing.subscriptions import publish, subscribe
from gateway import simulate
from routing import credentials
from routing.models import CostRate, Endpoint, Model, Provider, RoutingPolicy
from routing.policies import bindings, wordings
from tenants import keys, lifecycle
from tenants.models import AuditEvent, Tenant
from tenants.principal import SYSTEM
from tenants.retention import change_setting
from tests.gateway.test_policies import client_of, error_of

pytestmark = pytest.mark.django_db

START = datetime(2026, 1, 1, tzinfo=UTC)
URL = "/api/v1/policies/cheap/simulate/"


@pytest.fixture(autouse=True)
def nothing_remembered():
    """Versions begin anew in every test, which they never do in a product."""
    simulate._held.clear()


@pytest.fixture
def acme() -> Tenant:
    return Tenant.objects.create(slug="acme", name="Acme")


@pytest.fixture
def operator() -> APIClient:
    return client_of("*")


@pytest.fixture
def cheap(acme: Tenant) -> RoutingPolicy:
    """`m` at a dear provider in the EU and a cheap one in the US; a policy that takes the cheapest."""
    model = Model.objects.create(slug="m", name="m", operations=["chat"], capabilities=["tools"])
    for slug, region, price in (("dear", "eu", "10"), ("low", "us", "1")):
        provider = Provider.objects.create(slug=slug, name=slug, kind="openai", region=region)
        credentials.store(
            provider=provider, tenant=None, secret="sk-0123456789abcdef", label="", base_url="", actor=SYSTEM
        )
        Endpoint.objects.create(provider=provider, model=model, provider_model="m")
        for component in ("input", "output"):
            CostRate.objects.create(
                provider=slug, provider_model="m", component=component, price=price, effective_from=START
            )
    return wordings.create_policy(
        slug="cheap",
        name="",
        tenant=None,
        is_enabled=True,
        wording=wordings.Wording("cost", targets=["m"], max_attempts=2),
        actor=SYSTEM,
    )


def ask(client: APIClient, **body: Any) -> dict[str, Any]:
    answer = client.post(URL, {"tenant": "acme", **body}, format="json")
    assert answer.status_code == 200, answer.content
    return dict(answer.json())


def places(said: dict[str, Any]) -> list[str]:
    return [each["provider"] for each in said["kept"]]


def test_it_says_where_a_call_would_go_and_what_it_would_cost(
    operator: APIClient, cheap: RoutingPolicy
) -> None:
    said = ask(operator, input_tokens=1000, output_tokens=500)
    assert (said["policy"], said["strategy"], said["binding"]) == ("cheap@1", "cost", "")
    assert (said["health"], said["refusal"], said["dropped"]) == ("live", None, [])
    assert said["conduct"]["max_attempts"] == 2
    assert [(each["provider"], each["cost"], each["currency"]) for each in said["kept"]] == [
        ("low", "0.0015", "USD"), ("dear", "0.015", "USD"),
    ]  # fmt: skip
    assert "0.0015" in said["kept"][0]["reason"]


def test_tokens_and_capabilities_are_read_off_the_body(operator: APIClient, cheap: RoutingPolicy) -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    body = {"messages": [{"role": "user", "content": "x" * 4000}], "tools": [tool], "max_tokens": 100}
    said = ask(operator, request=body)
    assert said["capabilities"] == ["tools"]
    assert 1000 <= said["input_tokens"] <= 1060
    assert said["output_tokens"] == 100
    assert ask(operator, request=body, output_tokens=7)["output_tokens"] == 7
    bad = operator.post(URL, {"tenant": "acme", "request": {"messages": []}}, format="json")
    assert error_of(bad) == (400, "invalid_request", "messages")


def test_an_unsaved_wording_rules_without_being_saved(operator: APIClient, cheap: RoutingPolicy) -> None:
    events = AuditEvent.objects.count()
    wording = {"strategy": "ordered", "constraints": {"regions": ["eu"]}}
    said = ask(operator, wording=wording)
    assert (said["policy"], places(said)) == ("cheap@2", ["dear"])
    assert [(each["provider"], each["reason"]) for each in said["dropped"]] == [("low", "is in region us")]
    assert cheap.versions.count() == 1
    assert AuditEvent.objects.count() == events
    assert places(ask(operator)) == ["low", "dear"]
    bad = operator.post(URL, {"tenant": "acme", "wording": {"strategy": "luck"}}, format="json")
    assert error_of(bad) == (400, "invalid_request", "strategy")


def test_a_refusal_is_the_answer_and_says_what_was_left_out(
    operator: APIClient, cheap: RoutingPolicy
) -> None:
    said = ask(operator, wording={"strategy": "cost", "constraints": {"regions": ["ch"]}})
    assert (said["refusal"]["code"], said["refusal"]["status"]) == ("region_unavailable", 422)
    assert said["kept"] == []
    assert sorted((each["provider"], each["reason"]) for each in said["dropped"]) == [
        ("dear", "is in region eu"), ("low", "is in region us"),
    ]  # fmt: skip


def test_the_tenants_regions_count(operator: APIClient, cheap: RoutingPolicy, acme: Tenant) -> None:
    lifecycle.change_tenant(tenant=acme, changes={"region_policy": ["eu"]}, actor=SYSTEM)
    assert places(ask(operator)) == ["dear"]


def test_a_tenants_zero_retention_leaves_out_who_keeps_anything(
    operator: APIClient, cheap: RoutingPolicy, acme: Tenant
) -> None:
    change_setting(tenant=acme, changes={"zero_retention": True}, actor=SYSTEM)
    assert places(ask(operator)) == []
    Provider.objects.filter(slug="dear").update(retention_days=0)
    simulate._held.clear()
    assert places(ask(operator)) == ["dear"]


def test_the_plans_and_the_keys_allowlists_count(
    operator: APIClient, cheap: RoutingPolicy, acme: Tenant
) -> None:
    key = keys.issue(tenant=acme, actor=SYSTEM, name="k", scopes=["*"], allowed_models=["dear/m"]).key
    assert places(ask(operator, key=str(key.pk))) == ["dear"]
    plan = Plan.objects.create(slug="small", name="Small")
    publish(plan=plan, terms={"allowed_models": ["low/m"]}, actor=SYSTEM)
    subscribe(tenant=acme, plan=plan, start=START, actor=SYSTEM)
    assert places(ask(operator)) == ["low"]
    assert ask(operator, key=str(key.pk))["refusal"]["code"] == "model_not_allowed"
    other = keys.issue(tenant=None, actor=SYSTEM, name="k", scopes=["*"]).key
    foreign = operator.post(URL, {"tenant": "acme", "key": str(other.pk)}, format="json")
    assert error_of(foreign) == (400, "invalid_request", "key")


def test_a_binding_rules_a_plain_model_and_is_named(
    operator: APIClient, cheap: RoutingPolicy, acme: Tenant
) -> None:
    bindings.add_feature(slug="search", tenant=None, values={"policy": cheap}, actor=SYSTEM)
    said = ask(operator, model="m", feature="search")
    assert (said["policy"], said["binding"], places(said)) == (
        "cheap@1",
        "the feature 'search'",
        ["low", "dear"],
    )
    bindings.bind(policy=cheap, tenant=acme, plan="", actor=SYSTEM)
    assert ask(operator, model="auto")["binding"] == "the tenant"
    assert ask(operator, model="nope")["refusal"]["code"] == "model_not_found"


def test_preferences_of_the_body_narrow_the_choice(operator: APIClient, cheap: RoutingPolicy) -> None:
    assert places(ask(operator, provider={"only": ["dear"]})) == ["dear"]
    bad = operator.post(URL, {"tenant": "acme", "provider": {"onyl": []}}, format="json")
    assert error_of(bad) == (400, "unknown_field", "provider.onyl")


def test_without_the_scope_for_costs_none_is_told(cheap: RoutingPolicy) -> None:
    said = ask(client_of("policies:read"), input_tokens=1000)
    assert [(each["provider"], each["score"], each["cost"]) for each in said["kept"]] == [
        ("low", None, None), ("dear", None, None),
    ]  # fmt: skip
    assert "0.0" not in said["kept"][0]["reason"]


def test_simulating_is_for_the_operator(cheap: RoutingPolicy, acme: Tenant) -> None:
    own = wordings.create_policy(
        slug="own", name="", tenant=acme, is_enabled=True, wording=wordings.Wording("cost"), actor=SYSTEM
    )
    assert own.tenant == acme
    mine = client_of("policies:read", "policies:write", "cost:read", tenant=acme)
    answer = mine.post("/api/v1/policies/own/simulate/", {"tenant": "acme"}, format="json")
    assert error_of(answer)[:2] == (403, "permission_denied")
    stranger = client_of("*", tenant=Tenant.objects.create(slug="globex", name="Globex"))
    answer = stranger.post("/api/v1/policies/own/simulate/", {"tenant": "acme"}, format="json")
    assert error_of(answer)[:2] == (404, "not_found")


def test_a_suspended_tenant_has_no_calls(operator: APIClient, cheap: RoutingPolicy, acme: Tenant) -> None:
    lifecycle.suspend(tenant=acme, actor=SYSTEM)
    answer = operator.post(URL, {"tenant": "acme"}, format="json")
    assert error_of(answer) == (403, "permission_denied", "tenant")


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({}, "invalid_request", "tenant"),
        ({"tenant": "nobody"}, "invalid_request", "tenant"),
        ({"tenant": "acme", "draw": 1}, "invalid_request", "draw"),
        ({"tenant": "acme", "operation": "dance"}, "invalid_request", "operation"),
        ({"tenant": "acme", "input_tokens": -1}, "invalid_request", "input_tokens"),
        ({"tenant": "acme", "tokens": 5}, "unknown_field", "tokens"),
        (
            {"tenant": "acme", "wording": {"strategy": "cost", "policy": "x"}},
            "unknown_field",
            "wording.policy",
        ),
    ],
)
def test_what_is_not_understood_is_refused(
    operator: APIClient, cheap: RoutingPolicy, body: dict[str, Any], code: str, param: str
) -> None:
    assert error_of(operator.post(URL, body, format="json")) == (400, code, param)


def test_without_redis_it_says_that_health_was_unknown(
    operator: APIClient, cheap: RoutingPolicy, settings: Any
) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    said = ask(operator)
    assert (said["health"], places(said)) == ("unknown", ["low", "dear"])
