from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from routing import credentials
from routing.models import (
    CostRate,
    Credential,
    Endpoint,
    Model,
    Provider,
    RoutingPolicy,
    RoutingPolicyVersion,
)
from tenants import versions
from tenants.models import AuditEvent, Tenant
from tenants.principal import SYSTEM
from tests.routing.conftest import ClientOf

pytestmark = pytest.mark.urls("tests.routing.urls")

SECRET = "sk-very-secret-value-0042"
START = datetime(2026, 1, 1, tzinfo=UTC)

RESOURCES = ("providers", "models", "endpoints", "cost-rates")


def make_provider(slug: str = "oai", kind: str = "openai", **fields: Any) -> Provider:
    return Provider.objects.create(slug=slug, name=slug, kind=kind, **fields)


def make_model(slug: str = "m-1", **fields: Any) -> Model:
    return Model.objects.create(slug=slug, name=slug, operations=["chat"], **fields)


def assert_holds(response: Any, expected: dict[str, Any]) -> None:
    """The answer has at least these fields, exactly so."""
    assert {name: value for name, value in response.json().items() if name in expected} == expected


def error_of(response: Any) -> tuple[int, str, str | None]:
    error = response.json()["error"]
    return response.status_code, error["code"], error["param"]


# ------------------------------------------------------------------ who may


@pytest.mark.parametrize("name", [*RESOURCES, "policies", "tenants/acme/credentials"])
def test_without_a_key_nothing_opens(db: None, name: str) -> None:
    assert error_of(APIClient().get(f"/api/v1/{name}/")) == (401, "invalid_api_key", None)


@pytest.mark.parametrize("name", RESOURCES)
def test_a_tenants_key_cannot_read_the_platforms_objects(
    client_of: ClientOf, acme: Tenant, name: str
) -> None:
    client = client_of("providers:read", "prices:read", tenant=acme)
    assert error_of(client.get(f"/api/v1/{name}/"))[:2] == (403, "permission_denied")


def test_reading_does_not_allow_writing(client_of: ClientOf) -> None:
    client = client_of("providers:read", "prices:read")
    assert client.get("/api/v1/providers/").status_code == 200
    response = client.post("/api/v1/providers/", {"slug": "oai", "kind": "openai"}, format="json")
    assert error_of(response)[:2] == (403, "permission_denied")
    assert not Provider.objects.exists()


# ------------------------------------------------------------------ providers


def test_a_provider_takes_a_key_and_never_gives_it_back(operator: APIClient) -> None:
    before = versions.current()["routing"]
    response = operator.post(
        "/api/v1/providers/",
        {"slug": "oai", "kind": "openai", "region": "us", "api_key": SECRET, "options": {"project": "p1"}},
        format="json",
    )
    assert response.status_code == 201
    assert_holds(
        response,
        {
            "slug": "oai",
            "name": "oai",
            "kind": "openai",
            "region": "us",
            "has_key": True,
            "options": {"project": "p1"},
        },
    )
    assert SECRET not in response.content.decode()
    assert SECRET not in operator.get("/api/v1/providers/oai/").content.decode()
    provider = Provider.objects.get()
    opened = credentials.unseal_for(provider)
    assert opened is not None
    assert opened.api_key == SECRET
    assert versions.current()["routing"] > before
    assert sorted(
        AuditEvent.objects.filter(object_type__in=("provider", "credential")).values_list("action", flat=True)
    ) == ["credential.create", "provider.create"]
    assert not any(SECRET in str(event.after) for event in AuditEvent.objects.all())


def test_a_new_key_replaces_the_old_one(operator: APIClient) -> None:
    provider = make_provider()
    for secret in (SECRET, "sk-another-secret-0043"):
        response = operator.patch("/api/v1/providers/oai/", {"api_key": secret}, format="json")
        assert response.status_code == 200
    opened = credentials.unseal_for(provider)
    assert opened is not None
    assert opened.api_key == "sk-another-secret-0043"
    assert list(Credential.objects.order_by("id").values_list("is_enabled", "last_four")) == [
        (False, "0042"), (True, "0043"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"kind": "openai"}, "slug"),
        ({"slug": "x"}, "kind"),
        ({"slug": "x", "kind": "cobol"}, "kind"),
        ({"slug": "Not A Slug", "kind": "openai"}, "slug"),
        ({"slug": "x", "kind": "openai_compatible"}, "base_url"),
        ({"slug": "x", "kind": "azure_openai"}, "base_url"),
        ({"slug": "x", "kind": "openai", "base_url": "file:///etc/passwd"}, "base_url"),
        ({"slug": "x", "kind": "openai", "base_url": "https://u:p@h/"}, "base_url"),
        ({"slug": "x", "kind": "openai", "total_timeout_s": 0}, "total_timeout_s"),
        ({"slug": "x", "kind": "openai", "api_key": "two\nlines"}, "api_key"),
    ],
)
def test_a_provider_that_makes_no_sense_is_refused(
    operator: APIClient, body: dict[str, Any], param: str
) -> None:
    assert error_of(operator.post("/api/v1/providers/", body, format="json")) == (
        400,
        "invalid_request",
        param,
    )
    assert not Provider.objects.exists()


def test_an_unknown_field_is_refused(operator: APIClient) -> None:
    response = operator.post(
        "/api/v1/providers/", {"slug": "x", "kind": "openai", "apikey": "k"}, format="json"
    )
    assert error_of(response) == (400, "unknown_field", "apikey")


def test_a_self_hosted_provider_may_be_on_a_private_address(operator: APIClient) -> None:
    body = {"slug": "local", "kind": "openai_compatible", "base_url": "http://10.0.0.7:8000/v1"}
    assert operator.post("/api/v1/providers/", body, format="json").status_code == 201


def test_a_slug_is_taken_once_and_stays(operator: APIClient) -> None:
    make_provider()
    again = operator.post("/api/v1/providers/", {"slug": "oai", "kind": "openai"}, format="json")
    assert error_of(again)[:2] == (409, "conflict")
    assert error_of(operator.patch("/api/v1/providers/oai/", {"slug": "new"}, format="json")) == (
        400, "invalid_request", "slug",
    )  # fmt: skip


def test_a_provider_that_serves_models_cannot_be_deleted(operator: APIClient) -> None:
    provider, model = make_provider(), make_model()
    Endpoint.objects.create(provider=provider, model=model, provider_model="m-1")
    assert error_of(operator.delete("/api/v1/providers/oai/"))[:2] == (409, "conflict")
    assert Provider.objects.exists()


def test_importing_takes_all_priced_models_of_the_price_book_once(operator: APIClient) -> None:
    make_provider(slug="claude", kind="anthropic")
    first = operator.post("/api/v1/providers/claude/import-models/", {}, format="json")
    again = operator.post("/api/v1/providers/claude/import-models/", {}, format="json")
    assert first.json() == {"created": Endpoint.objects.count()}
    assert first.json()["created"] > 5
    assert again.json() == {"created": 0}
    endpoint = Endpoint.objects.get(provider_model="claude-sonnet-4-5")
    assert (endpoint.model.slug, endpoint.model.context_window) == ("claude-sonnet-4-5", 200_000)


def test_importing_named_models_knows_the_book_and_our_own(operator: APIClient) -> None:
    make_provider(slug="local", kind="openai_compatible", base_url="http://10.0.0.7/v1", price_book="groq")
    make_model("ours")
    response = operator.post(
        "/api/v1/providers/local/import-models/", {"models": ["ours", "gpt-4o"]}, format="json"
    )
    assert response.json() == {"created": 2}
    unknown = operator.post(
        "/api/v1/providers/local/import-models/", {"models": ["ours", "nope"]}, format="json"
    )
    assert error_of(unknown) == (400, "invalid_request", "models")
    assert Endpoint.objects.count() == 2


def test_importing_everything_needs_a_price_book(operator: APIClient) -> None:
    make_provider(slug="local", kind="openai_compatible", base_url="http://10.0.0.7/v1")
    response = operator.post("/api/v1/providers/local/import-models/", {}, format="json")
    assert error_of(response) == (400, "invalid_request", "models")


def test_health_shows_the_last_test(operator: APIClient) -> None:
    provider = make_provider(slug="box", kind="sandbox")
    Endpoint.objects.create(provider=provider, model=make_model("sandbox-x"), provider_model="sandbox-x")
    untested = operator.get("/api/v1/providers/box/health/").json()
    assert (untested["status"], untested["endpoints"], untested["last_test"]) == ("unknown", 1, None)
    tested = operator.post("/api/v1/providers/box/test/", {}, format="json")
    assert (tested.status_code, tested.json()["ok"], tested.json()["code"]) == (200, True, "ok")
    health = operator.get("/api/v1/providers/box/health/").json()
    assert health["status"] == "ok"
    assert health["last_test"]["detail"] == tested.json()["detail"]


# ------------------------------------------------------------------ tenants' credentials


def test_a_tenant_adds_and_removes_its_own_key_and_nobody_sees_it(client_of: ClientOf, acme: Tenant) -> None:
    make_provider()
    client = client_of("credentials:read", "credentials:write", tenant=acme)
    url = "/api/v1/tenants/acme/credentials/"
    created = client.post(url, {"provider": "oai", "api_key": SECRET}, format="json")
    assert created.status_code == 201
    assert_holds(
        created,
        {
            "provider": "oai",
            "last_four": "0042",
            "is_enabled": True,
            "base_url": "",
        },
    )
    assert SECRET not in client.get(url).content.decode()
    row = Credential.objects.get()
    assert (row.tenant, SECRET.encode() in bytes(row.secret)) == (acme, False)
    assert credentials.unseal_for(row.provider) is None
    assert client.delete(f"{url}{row.pk}/").status_code == 204
    assert not Credential.objects.exists()
    assert list(
        AuditEvent.objects.filter(tenant=acme, object_type="credential")
        .order_by("sequence")
        .values_list("action", flat=True)
    ) == ["credential.create", "credential.delete"]


def test_another_tenants_credential_does_not_exist(client_of: ClientOf, acme: Tenant, globex: Tenant) -> None:
    row = credentials.store(
        provider=make_provider(), tenant=acme, secret=SECRET, label="", base_url="", actor=SYSTEM
    )
    stranger = client_of("credentials:read", "credentials:write", tenant=globex)
    assert error_of(stranger.get("/api/v1/tenants/acme/credentials/"))[:2] == (404, "not_found")
    for client, path in (
        (stranger, f"tenants/acme/credentials/{row.pk}/"),
        (stranger, f"tenants/globex/credentials/{row.pk}/"),
    ):
        assert error_of(client.delete(f"/api/v1/{path}"))[:2] == (404, "not_found")
    assert Credential.objects.exists()


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/v1", "https://169.254.169.254/", "https://0x7f.1/", "https://[::1]/"]
)
def test_a_tenants_base_url_must_be_public(client_of: ClientOf, acme: Tenant, url: str) -> None:
    make_provider()
    client = client_of("credentials:write", tenant=acme)
    body = {"provider": "oai", "api_key": SECRET, "base_url": url}
    response = client.post("/api/v1/tenants/acme/credentials/", body, format="json")
    assert error_of(response) == (400, "url_not_allowed", "base_url")
    assert not Credential.objects.exists()


# ------------------------------------------------------------------ models and endpoints


def test_a_model_is_created_changed_and_found_by_a_name_with_slashes(operator: APIClient) -> None:
    body = {
        "slug": "org/llama-3:8b",
        "operations": ["chat"],
        "capabilities": ["tools"],
        "context_window": 8192,
    }
    assert operator.post("/api/v1/models/", body, format="json").status_code == 201
    changed = operator.patch("/api/v1/models/org/llama-3:8b/", {"context_window": 4096}, format="json")
    assert (changed.status_code, changed.json()["context_window"], changed.json()["name"]) == (
        200,
        4096,
        "org/llama-3:8b",
    )
    assert operator.get("/api/v1/models/?q=llama").json()["data"][0]["slug"] == "org/llama-3:8b"
    assert operator.delete("/api/v1/models/org/llama-3:8b/").status_code == 204
    assert not Model.objects.exists()


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"slug": "m-1", "operations": ["chat"]}, 409, "conflict", "slug"),
        ({"slug": "policy: x", "operations": ["chat"]}, 400, "invalid_request", "slug"),
        ({"slug": "x", "operations": []}, 400, "invalid_request", "operations"),
        ({"slug": "x", "operations": ["dance"]}, 400, "invalid_request", "operations.0"),
    ],
)
def test_a_model_that_makes_no_sense_is_refused(
    operator: APIClient, body: dict[str, Any], status: int, code: str, param: str
) -> None:
    make_model()
    assert error_of(operator.post("/api/v1/models/", body, format="json")) == (status, code, param)
    assert Model.objects.count() == 1


def test_an_endpoint_takes_the_models_name_unless_told_otherwise(operator: APIClient) -> None:
    make_provider()
    make_model()
    created = operator.post("/api/v1/endpoints/", {"provider": "oai", "model": "m-1"}, format="json")
    assert created.status_code == 201
    assert_holds(
        created,
        {
            "provider": "oai",
            "model": "m-1",
            "provider_model": "m-1",
            "region": "",
            "weight": 1,
            "is_enabled": True,
        },
    )
    url = f"/api/v1/endpoints/{created.json()['id']}/"
    assert operator.patch(url, {"weight": 3, "is_enabled": False}, format="json").json()["weight"] == 3
    assert error_of(operator.patch(url, {"model": "m-1"}, format="json")) == (400, "invalid_request", "model")
    again = operator.post("/api/v1/endpoints/", {"provider": "oai", "model": "m-1"}, format="json")
    assert error_of(again)[:2] == (409, "conflict")
    assert operator.delete(url).status_code == 204
    assert not Endpoint.objects.exists()


# ------------------------------------------------------------------ cost rates


RATE = {"provider": "oai", "provider_model": "m-1", "component": "input", "price": "2.5"}


def test_a_new_rate_closes_its_predecessor_at_its_start(operator: APIClient) -> None:
    old = CostRate.objects.create(
        provider="oai",
        provider_model="m-1",
        component="input",
        price=3,
        effective_from=START,
        source="catalogue",
    )
    response = operator.post(
        "/api/v1/cost-rates/", {**RATE, "effective_from": "2026-06-01T00:00:00Z"}, format="json"
    )
    assert response.status_code == 201
    assert_holds(
        response,
        {
            "price": "2.5000000000",
            "per": 1_000_000,
            "currency": "USD",
            "source": "manual",
            "effective_from": "2026-06-01T00:00:00Z",
            "effective_to": None,
        },
    )
    old.refresh_from_db()
    assert (old.price, old.effective_to) == (Decimal(3), datetime(2026, 6, 1, tzinfo=UTC))


def test_other_components_tiers_and_models_stay_open(operator: APIClient) -> None:
    fields = {
        "provider": "oai",
        "provider_model": "m-1",
        "component": "input",
        "price": 3,
        "effective_from": START,
    }
    for other in (
        {"component": "output"},
        {"service_tier": "flex"},
        {"min_input_tokens": 1},
        {"provider_model": "m-2"},
    ):
        CostRate.objects.create(**{**fields, **other})
    assert operator.post("/api/v1/cost-rates/", RATE, format="json").status_code == 201
    assert CostRate.objects.filter(effective_to=None).count() == 5


def test_a_rate_cannot_be_changed_or_deleted(operator: APIClient) -> None:
    row = CostRate.objects.create(
        provider="oai", provider_model="m-1", component="input", price=3, effective_from=START
    )
    for response in (
        operator.patch(f"/api/v1/cost-rates/{row.pk}/", {"price": "1"}, format="json"),
        operator.delete(f"/api/v1/cost-rates/{row.pk}/"),
    ):
        assert error_of(response)[:2] == (405, "method_not_allowed")
    row.refresh_from_db()
    assert row.price == Decimal(3)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"price": "-1"}, "price"),
        ({"price": "0.00000000001"}, "price"),
        ({"price": "NaN"}, "price"),
        ({"per": 7}, "per"),
        ({"currency": "usd"}, "currency"),
        ({"source": "catalogue"}, "source"),
        ({"effective_from": "2026-06-01T00:00:00Z", "effective_to": "2026-06-01T00:00:00Z"}, "effective_to"),
        ({"currency": "EUR"}, "currency"),
    ],
)
def test_a_rate_that_makes_no_sense_is_refused(
    operator: APIClient, change: dict[str, Any], param: str
) -> None:
    CostRate.objects.create(
        provider="oai", provider_model="m-1", component="output", price=9, effective_from=START
    )
    response = operator.post("/api/v1/cost-rates/", {**RATE, **change}, format="json")
    assert error_of(response) == (400, "invalid_request", param)
    assert CostRate.objects.count() == 1


def test_a_rate_that_runs_into_a_later_one_must_say_its_end(operator: APIClient) -> None:
    CostRate.objects.create(
        provider="oai",
        provider_model="m-1",
        component="input",
        price=9,
        effective_from=datetime(2026, 7, 1, tzinfo=UTC),
    )
    early = {**RATE, "effective_from": "2026-06-01T00:00:00Z"}
    assert error_of(operator.post("/api/v1/cost-rates/", early, format="json")) == (
        409,
        "conflict",
        "effective_to",
    )
    bounded = {**early, "effective_to": "2026-07-01T00:00:00Z"}
    assert operator.post("/api/v1/cost-rates/", bounded, format="json").status_code == 201


def test_the_list_shows_the_rates_in_force_at_a_moment(operator: APIClient) -> None:
    middle = START + timedelta(days=30)
    fields = {"provider": "oai", "provider_model": "m-1", "component": "input"}
    CostRate.objects.create(**fields, price=1, effective_from=START, effective_to=middle)
    CostRate.objects.create(**fields, price=2, effective_from=middle)
    for at, price in (("2026-01-30T23:59:59Z", "1.0000000000"), ("2026-01-31T00:00:00Z", "2.0000000000")):
        rows = operator.get(f"/api/v1/cost-rates/?provider=oai&at={at}").json()["data"]
        assert [row["price"] for row in rows] == [price]


IMPORT = [
    {**RATE, "effective_from": "2026-06-01T00:00:00Z"},
    {**RATE, "component": "output", "price": "10", "effective_from": "2026-06-01T00:00:00Z"},
]


def test_an_import_is_reviewed_and_then_applied_by_its_digest(operator: APIClient) -> None:
    CostRate.objects.create(
        provider="oai", provider_model="m-1", component="input", price=3, effective_from=START
    )
    review = operator.post("/api/v1/cost-rates/import/", {"rates": IMPORT}, format="json")
    assert review.status_code == 200
    assert review.json()["applied"] is False
    assert [
        (c["action"], c["component"], c["old_price"], c["new_price"]) for c in review.json()["changes"]
    ] == [
        ("change", "input", "3.0000000000", "2.5000000000"),
        ("open", "output", None, "10.0000000000"),
    ]
    assert CostRate.objects.count() == 1
    body = {"rates": IMPORT, "apply": True, "digest": review.json()["digest"]}
    applied = operator.post("/api/v1/cost-rates/import/", body, format="json")
    assert (applied.status_code, applied.json()["applied"]) == (200, True)
    assert CostRate.objects.filter(effective_to=None).count() == 2
    again = operator.post("/api/v1/cost-rates/import/", {"rates": IMPORT}, format="json")
    assert [change["action"] for change in again.json()["changes"]] == ["unchanged", "unchanged"]


def test_an_import_whose_ground_has_moved_is_refused_whole(operator: APIClient) -> None:
    digest = operator.post("/api/v1/cost-rates/import/", {"rates": IMPORT}, format="json").json()["digest"]
    CostRate.objects.create(
        provider="oai", provider_model="m-1", component="input", price=3, effective_from=START
    )
    response = operator.post(
        "/api/v1/cost-rates/import/", {"rates": IMPORT, "apply": True, "digest": digest}, format="json"
    )
    assert error_of(response) == (409, "conflict", "digest")
    assert CostRate.objects.count() == 1


def test_an_import_may_come_as_csv(operator: APIClient) -> None:
    header = "provider,provider_model,component,price,effective_from,service_tier"
    text = f"{header}\noai,m-1,input,2.5,2026-06-01T00:00:00Z,\n"
    url = "/api/v1/cost-rates/import/"
    review = operator.generic("POST", url, text, content_type="text/csv")
    assert [change["action"] for change in review.json()["changes"]] == ["open"]
    applied = operator.generic(
        "POST", f"{url}?apply=true&digest={review.json()['digest']}", text, content_type="text/csv"
    )
    assert applied.json()["applied"] is True
    assert CostRate.objects.get().price == Decimal("2.5")


@pytest.mark.parametrize("text", ["provider,price\noai\n", "provider,price\noai,1,2\n", 'a,b\n"x', "\xff"])
def test_broken_csv_is_an_invalid_request(operator: APIClient, text: str) -> None:
    response = operator.generic(
        "POST", "/api/v1/cost-rates/import/", text.encode("latin-1"), content_type="text/csv"
    )
    assert error_of(response)[:2] == (400, "invalid_request")


def test_an_import_with_two_rates_for_one_thing_is_refused(operator: APIClient) -> None:
    response = operator.post("/api/v1/cost-rates/import/", {"rates": [IMPORT[0], IMPORT[0]]}, format="json")
    assert error_of(response) == (400, "invalid_request", "rates")


# ------------------------------------------------------------------ policies


def test_a_changed_wording_is_a_new_version_and_a_new_name_is_not(operator: APIClient) -> None:
    make_model()
    body = {"slug": "cheap", "strategy": "cost", "targets": ["m-1"], "constraints": {"regions": ["eu"]}}
    created = operator.post("/api/v1/policies/", body, format="json")
    assert (created.status_code, created.json()["version"], created.json()["tenant"]) == (201, 1, None)
    renamed = operator.patch("/api/v1/policies/cheap/", {"name": "Cheapest"}, format="json").json()
    assert (renamed["version"], renamed["name"]) == (1, "Cheapest")
    changed = operator.patch("/api/v1/policies/cheap/", {"strategy": "latency"}, format="json").json()
    assert (changed["version"], changed["strategy"], changed["targets"]) == (2, "latency", ["m-1"])
    rows = operator.get("/api/v1/policies/cheap/versions/").json()["data"]
    assert [(row["number"], row["strategy"]) for row in rows] == [(2, "latency"), (1, "cost")]
    assert operator.delete("/api/v1/policies/cheap/").status_code == 405


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"strategy": "luck"}, "strategy"),
        ({"targets": ["nobody"]}, "targets.0"),
        ({"targets": [{"model": "m-1", "wieght": 1}]}, "targets.0"),
        ({"targets": [{"provider": "nobody"}]}, "targets.0"),
        ({"targets": [{}]}, "targets.0"),
        ({"targets": [7]}, "targets.0"),
        ({"targets": ["m-1", {"model": "m-1", "weight": -1}]}, "targets.1"),
        ({"constraints": {"regoin": ["eu"]}}, "constraints"),
        ({"max_attempts": 0}, "max_attempts"),
    ],
)
def test_a_policy_that_could_not_be_applied_is_refused(
    operator: APIClient, change: dict[str, Any], param: str
) -> None:
    make_model()
    response = operator.post("/api/v1/policies/", {"slug": "p", "strategy": "cost", **change}, format="json")
    assert error_of(response) == (400, "invalid_request", param)
    assert not RoutingPolicy.objects.exists()


def test_a_tenant_sees_its_own_policies_and_cannot_make_global_ones(
    client_of: ClientOf, operator: APIClient, acme: Tenant, globex: Tenant
) -> None:
    for tenant in (None, acme, globex):
        policy = RoutingPolicy.objects.create(slug="p", tenant=tenant)
        RoutingPolicyVersion.objects.create(policy=policy, number=1, strategy="cost")
    client = client_of("policies:read", "policies:write", tenant=acme)
    assert [row["tenant"] for row in client.get("/api/v1/policies/").json()["data"]] == ["acme"]
    assert client.get("/api/v1/policies/p/").json()["tenant"] == "acme"
    assert operator.get("/api/v1/policies/p/").json()["tenant"] is None
    assert operator.get("/api/v1/policies/p/?tenant=globex").json()["tenant"] == "globex"
    assert error_of(client.get("/api/v1/policies/p/?tenant=globex"))[:2] == (404, "not_found")
    refused = client.post("/api/v1/policies/", {"slug": "q", "strategy": "cost"}, format="json")
    assert error_of(refused)[:2] == (403, "permission_denied")
    foreign = client.post(
        "/api/v1/policies/", {"slug": "q", "strategy": "cost", "tenant": "globex"}, format="json"
    )
    assert error_of(foreign)[:2] == (400, "invalid_request")
    assert RoutingPolicy.objects.filter(slug="q").count() == 0


def test_a_write_with_an_idempotency_key_happens_once(operator: APIClient) -> None:
    body = {"slug": "oai", "kind": "openai", "api_key": SECRET}
    answers = [
        operator.post("/api/v1/providers/", body, format="json", HTTP_IDEMPOTENCY_KEY="k-1") for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()
    assert Provider.objects.count() == Credential.objects.count() == 1
    assert Provider.objects.get().created_at <= timezone.now()
