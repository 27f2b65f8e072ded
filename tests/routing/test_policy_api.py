"""Policies through the API: their wordings, versions, differences and rollbacks; credentials; kill switches."""

from typing import Any

import pytest
from rest_framework.test import APIClient

from routing import credentials, snapshot, switches
from routing.models import Credential, Feature, KillSwitch, PolicyBinding, RoutingPolicy
from routing.policies import bindings, wordings
from tenants import lifecycle, versions
from tenants.errors import ApiError
from tenants.models import AuditEvent, Tenant
from tenants.principal import SYSTEM
from tests.routing.conftest import ClientOf
from tests.routing.test_api import SECRET, assert_holds, error_of, make_model, make_provider

pytestmark = pytest.mark.urls("tests.routing.urls")

POLICY = "/api/v1/policies/cheap/"


@pytest.fixture
def cheap(operator: APIClient) -> dict[str, Any]:
    """Three versions: two targets, then one and a constraint, then another strategy."""
    make_model()
    make_model("m-2")
    body = {"slug": "cheap", "strategy": "cost", "targets": ["m-1", "m-2"], "fallback": ["m-2"]}
    assert operator.post("/api/v1/policies/", body, format="json").status_code == 201
    for change in (
        {"targets": ["m-1"], "constraints": {"regions": ["eu"]}},
        {"strategy": "latency", "conduct": {"hedge_after_ms": 500}},
    ):
        assert operator.patch(POLICY, change, format="json").status_code == 200
    return dict(operator.get(POLICY).json())


def policy_of(slug: str = "cheap", tenant: Tenant | None = None) -> RoutingPolicy:
    return RoutingPolicy.objects.get(slug=slug, tenant=tenant)


def make_policy(slug: str, tenant: Tenant | None = None) -> RoutingPolicy:
    return wordings.create_policy(
        slug=slug,
        name="",
        tenant=tenant,
        is_enabled=True,
        wording=wordings.Wording("cost"),
        actor=SYSTEM,
    )


# ------------------------------------------------------------------ wordings


def test_a_policy_says_how_its_calls_are_carried_out_and_what_comes_last(operator: APIClient) -> None:
    make_model()
    conduct = {"recovery": "buffered", "hold_back_tokens": 40, "hedge_after_ms": 0, "queue_ms": 30_000}
    body = {
        "slug": "careful",
        "strategy": "ordered",
        "targets": [],
        "fallback": ["m-1"],
        "conduct": conduct,
        "max_attempts": 5,
    }
    created = operator.post("/api/v1/policies/", body, format="json")
    assert created.status_code == 201
    assert_holds(created, {**body, "version": 1, "constraints": {}})
    entry = snapshot.load().policies[None, "careful"]
    assert (entry.conduct.max_attempts, entry.conduct.hold_back_tokens, entry.conduct.queue_ms) == (
        5,
        40,
        30_000,
    )
    assert entry.fallback == (snapshot.PolicyTarget("m-1", None, 1),)
    event = AuditEvent.objects.get(action="policy.create")
    assert event.after is not None
    assert (event.after["conduct"], event.after["fallback"]) == (conduct, ["m-1"])


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"conduct": {"recovery": "pray"}}, "conduct.recovery"),
        ({"conduct": {"recovery": None}}, "conduct.recovery"),
        ({"conduct": {"recovery": "buffered", "hold_back_tokens": 0}}, "conduct.hold_back_tokens"),
        ({"conduct": {"recovery": "buffered", "hold_back_tokens": 100_001}}, "conduct.hold_back_tokens"),
        ({"conduct": {"recovery": "end", "hold_back_tokens": 5}}, "conduct.hold_back_tokens"),
        ({"conduct": {"hedge_after_ms": -1}}, "conduct.hedge_after_ms"),
        ({"conduct": {"hedge_after_ms": 60_001}}, "conduct.hedge_after_ms"),
        ({"conduct": {"hedge_after_ms": True}}, "conduct.hedge_after_ms"),
        ({"conduct": {"hedge_after_ms": 1.5}}, "conduct.hedge_after_ms"),
        ({"conduct": {"queue_ms": None}}, "conduct.queue_ms"),
        ({"conduct": {"queue_ms": 30_001}}, "conduct.queue_ms"),
        ({"conduct": {"max_attempts": 3}}, "conduct.max_attempts"),
        ({"fallback": ["nobody"]}, "fallback.0"),
        ({"fallback": ["m-1", {"provider": "nobody"}]}, "fallback.1"),
        ({"max_attempts": 11}, "max_attempts"),
    ],
)
def test_conduct_and_fallback_are_checked_when_they_are_written(
    operator: APIClient, change: dict[str, Any], param: str
) -> None:
    make_model()
    response = operator.post("/api/v1/policies/", {"slug": "p", "strategy": "cost", **change}, format="json")
    assert error_of(response) == (400, "invalid_request", param)
    assert not RoutingPolicy.objects.exists()


def test_null_turns_a_number_of_the_conduct_off(operator: APIClient) -> None:
    body = {"slug": "p", "strategy": "cost", "conduct": {"hedge_after_ms": None, "hold_back_tokens": None}}
    assert operator.post("/api/v1/policies/", body, format="json").status_code == 201
    assert snapshot.load().policies[None, "p"].conduct.hedge_after_ms is None


# ------------------------------------------------------------------ shadows


def test_a_policy_says_what_its_calls_are_mirrored_to(operator: APIClient, cheap: dict[str, Any]) -> None:
    assert (cheap["shadow"], cheap["experiment"]) == (None, None)
    shadow = {"share": "0.05", "targets": ["m-2"]}
    said = operator.patch(POLICY, {"shadow": shadow}, format="json").json()
    assert said["shadow"] == {
        "share": "0.0500",
        "targets": ["m-2"],
        "per_minute": 60,
        "scoring": {"kind": "none"},
        "is_enabled": True,
    }
    assert said["version"] == 3  # no wording
    bad = operator.patch(POLICY, {"shadow": {"share": 0.9}}, format="json")
    assert error_of(bad) == (400, "invalid_request", "shadow.share")
    assert operator.patch(POLICY, {"shadow": None}, format="json").json()["shadow"] is None
    assert operator.patch(POLICY, {"shadow": None}, format="json").status_code == 200
    assert error_of(operator.patch(POLICY, {"experiment": "x"}, format="json")) == (
        400, "unknown_field", "experiment",
    )  # fmt: skip


def test_a_tenant_mirrors_nothing_at_the_operators_cost(client_of: ClientOf, acme: Tenant) -> None:
    make_model()
    make_policy("own", acme)
    mine = client_of("policies:read", "policies:write", tenant=acme)
    body = {"name": "Ours", "shadow": {"share": "0.05", "targets": ["m-1"]}}
    assert error_of(mine.patch("/api/v1/policies/own/", body, format="json"))[:2] == (
        403,
        "permission_denied",
    )
    assert policy_of("own", acme).name == ""


# ------------------------------------------------------------------ versions


def test_versions_tell_who_and_when_and_each_can_be_read(operator: APIClient, cheap: dict[str, Any]) -> None:
    rows = operator.get(f"{POLICY}versions/").json()["data"]
    assert [(row["number"], row["strategy"], row["created_by"].split()[0]) for row in rows] == [
        (3, "latency", "test"), (2, "cost", "test"), (1, "cost", "test"),
    ]  # fmt: skip
    second = operator.get(f"{POLICY}versions/2/")
    assert second.json() == rows[1]
    assert_holds(second, {"targets": ["m-1"], "constraints": {"regions": ["eu"]}, "fallback": ["m-2"]})
    assert error_of(operator.get(f"{POLICY}versions/9/"))[:2] == (404, "not_found")


def test_a_diff_names_each_field_that_differs(operator: APIClient, cheap: dict[str, Any]) -> None:
    newest = operator.get(f"{POLICY}diff/").json()
    assert (newest["before"]["number"], newest["after"]["number"]) == (2, 3)
    assert newest["changes"] == [
        {"field": "strategy", "before": "cost", "after": "latency"},
        {"field": "conduct.hedge_after_ms", "before": None, "after": 500},
    ]
    back = operator.get(f"{POLICY}diff/?from=3&to=1").json()
    assert [(each["field"], each["before"], each["after"]) for each in back["changes"]] == [
        ("strategy", "latency", "cost"),
        ("targets", ["m-1"], ["m-1", "m-2"]),
        ("constraints.regions", ["eu"], None),
        ("conduct.hedge_after_ms", 500, None),
    ]
    assert operator.get(f"{POLICY}diff/?from=2&to=2").json()["changes"] == []
    assert error_of(operator.get(f"{POLICY}diff/?from=1&to=4"))[:2] == (404, "not_found")
    assert error_of(operator.get(f"{POLICY}diff/?from=x")) == (400, "invalid_request", "from")


def test_a_rollback_publishes_the_old_wording_as_a_new_version(
    operator: APIClient, cheap: dict[str, Any]
) -> None:
    before = versions.current()["routing"]
    answer = operator.post(f"{POLICY}rollback/", {"version": 1}, format="json")
    assert answer.status_code == 200
    assert_holds(answer, {"version": 4, "strategy": "cost", "targets": ["m-1", "m-2"], "conduct": {}})
    assert versions.current()["routing"] == before + 1
    assert operator.get(f"{POLICY}diff/?from=1&to=4").json()["changes"] == []
    event = AuditEvent.objects.get(action="policy.rollback")
    assert (event.actor_label.split()[0], event.after["rolled_back_to"], event.after["version"]) == (
        "test",
        1,
        4,
    )
    assert event.before["version"] == 3


def test_a_rollback_that_could_not_be_applied_changes_nothing(
    operator: APIClient, cheap: dict[str, Any]
) -> None:
    from routing.models import Model

    Model.objects.filter(slug="m-2").delete()
    refused = operator.post(f"{POLICY}rollback/", {"version": 1}, format="json")
    assert error_of(refused) == (400, "invalid_request", "targets.1")
    same = operator.post(f"{POLICY}rollback/", {"version": 3}, format="json")
    assert error_of(same) == (409, "conflict", "version")
    missing = operator.post(f"{POLICY}rollback/", {"version": 4}, format="json")
    assert error_of(missing)[:2] == (404, "not_found")
    assert error_of(operator.post(f"{POLICY}rollback/", {}, format="json")) == (
        400,
        "invalid_request",
        "version",
    )
    assert policy_of().versions.count() == 3


def test_reading_policies_does_not_allow_rolling_back(client_of: ClientOf, cheap: dict[str, Any]) -> None:
    reader = client_of("policies:read")
    assert reader.get(f"{POLICY}versions/1/").status_code == 200
    refused = reader.post(f"{POLICY}rollback/", {"version": 1}, format="json")
    assert error_of(refused)[:2] == (403, "permission_denied")


def test_another_tenants_policy_has_no_versions(
    client_of: ClientOf, acme: Tenant, globex: Tenant, operator: APIClient
) -> None:
    make_policy("cheap", globex)
    stranger = client_of("policies:read", "policies:write", tenant=acme)
    for path in ("versions/", "versions/1/", "diff/"):
        assert error_of(stranger.get(POLICY + path))[:2] == (404, "not_found")
    assert error_of(stranger.post(f"{POLICY}rollback/", {"version": 1}, format="json"))[:2] == (
        404,
        "not_found",
    )


# ------------------------------------------------------------------ what a policy rules


def test_a_policy_that_rules_somebody_cannot_be_switched_off(
    operator: APIClient, cheap: dict[str, Any], acme: Tenant
) -> None:
    binding = bindings.bind(policy=policy_of(), tenant=acme, plan="", actor=SYSTEM)
    feature = bindings.add_feature(slug="search", tenant=None, values={"policy": policy_of()}, actor=SYSTEM)
    refused = operator.patch(POLICY, {"is_enabled": False}, format="json")
    assert error_of(refused) == (409, "conflict", "is_enabled")
    assert "the feature 'search', the tenant 'acme'" in refused.json()["error"]["message"]
    bindings.unbind(binding=binding, actor=SYSTEM)
    bindings.change_feature(feature=feature, changes={"policy": None}, actor=SYSTEM)
    assert operator.patch(POLICY, {"is_enabled": False}, format="json").json()["is_enabled"] is False
    with pytest.raises(ApiError, match="switched off"):
        bindings.bind(policy=policy_of(), tenant=acme, plan="", actor=SYSTEM)
    with pytest.raises(ApiError, match="switched off"):
        bindings.change_feature(feature=feature, changes={"policy": policy_of()}, actor=SYSTEM)
    assert not PolicyBinding.objects.exists()


def test_a_tenant_or_a_plan_is_bound_once_and_never_to_another_tenants_policy(
    db: None, acme: Tenant, globex: Tenant
) -> None:
    common, own = make_policy("common"), make_policy("own", acme)
    row = bindings.bind(policy=own, tenant=acme, plan="", actor=SYSTEM)
    bindings.bind(policy=common, tenant=None, plan="pro", actor=SYSTEM)
    with pytest.raises(ApiError, match="bound already") as twice:
        bindings.bind(policy=common, tenant=acme, plan="", actor=SYSTEM)
    assert twice.value.code == "conflict"
    for tenant, plan in ((globex, ""), (None, "free")):
        with pytest.raises(ApiError, match="another's"):
            bindings.bind(policy=own, tenant=tenant, plan=plan, actor=SYSTEM)
    for wrong in ({"tenant": None, "plan": ""}, {"tenant": globex, "plan": "pro"}):
        with pytest.raises(ApiError, match="to a tenant or to a plan"):
            bindings.bind(policy=common, actor=SYSTEM, **wrong)
    bindings.rebind(binding=row, policy=common, actor=SYSTEM)
    held = snapshot.load().bindings
    assert {key: entry.slug for key, entry in held.items()} == {
        (acme.id, ""): "common",
        (None, "pro"): "common",
    }
    assert list(
        AuditEvent.objects.filter(object_type="policy_binding")
        .order_by("at")
        .values_list("action", "tenant__slug")
    ) == [("binding.create", "acme"), ("binding.create", None), ("binding.update", "acme")]


def test_a_feature_keeps_its_slug_and_leaves_a_trail(db: None, acme: Tenant) -> None:
    feature = bindings.add_feature(slug="search", tenant=acme, values={"slo_p95_ms": 900}, actor=SYSTEM)
    with pytest.raises(ApiError) as taken:
        bindings.add_feature(slug="search", tenant=acme, values={}, actor=SYSTEM)
    assert (taken.value.code, taken.value.param) == ("conflict", "slug")
    with pytest.raises(ApiError) as fixed:
        bindings.change_feature(feature=feature, changes={"slug": "other"}, actor=SYSTEM)
    assert (fixed.value.code, fixed.value.param) == ("invalid_request", "slug")
    before = versions.current()["routing"]
    bindings.remove_feature(feature=feature, actor=SYSTEM)
    assert versions.current()["routing"] == before + 1
    assert not Feature.objects.exists()
    assert [e.action for e in AuditEvent.objects.filter(tenant=acme).order_by("sequence")] == [
        "feature.create", "feature.delete",
    ]  # fmt: skip


# ------------------------------------------------------------------ providers' data policy and credentials


def test_a_provider_says_what_it_does_with_content(operator: APIClient) -> None:
    body = {"slug": "oai", "kind": "openai", "trains_on_data": False, "retention_days": 0}
    created = operator.post("/api/v1/providers/", body, format="json")
    assert created.status_code == 201
    assert_holds(created, {"trains_on_data": False, "retention_days": 0})
    changed = operator.patch(
        "/api/v1/providers/oai/", {"trains_on_data": None, "retention_days": 30}, format="json"
    )
    assert_holds(changed, {"trains_on_data": None, "retention_days": 30})
    event = AuditEvent.objects.get(action="provider.update")
    assert (event.before["retention_days"], event.after["retention_days"]) == (0, 30)
    bad = operator.patch("/api/v1/providers/oai/", {"retention_days": -1}, format="json")
    assert error_of(bad) == (400, "invalid_request", "retention_days")


def test_a_model_can_be_switched_off(operator: APIClient) -> None:
    make_model()
    assert operator.get("/api/v1/models/m-1/").json()["is_enabled"] is True
    assert (
        operator.patch("/api/v1/models/m-1/", {"is_enabled": False}, format="json").json()["is_enabled"]
        is False
    )


def test_a_provider_takes_several_keys_by_label(operator: APIClient) -> None:
    make_provider()
    url = "/api/v1/providers/oai/credentials/"
    first = operator.post(
        url, {"label": "a", "api_key": SECRET, "weight": 3, "limit_rpm": 600}, format="json"
    )
    assert first.status_code == 201
    assert_holds(first, {"label": "a", "last_four": "0042", "weight": 3, "limit_rpm": 600, "limit_tpm": None})
    second = operator.post(url, {"label": "b", "api_key": SECRET}, format="json")
    assert operator.post(url, {"label": "a", "api_key": SECRET}, format="json").status_code == 201
    rows = operator.get(url).json()["data"]
    assert [(row["label"], row["is_enabled"]) for row in rows] == [("a", True), ("b", True), ("a", False)]
    assert SECRET not in operator.get(url).content.decode()
    changed = operator.patch(
        f"{url}{second.json()['id']}/", {"weight": 0, "limit_tpm": 90_000, "is_enabled": False}, format="json"
    )
    assert_holds(changed, {"weight": 0, "limit_tpm": 90_000, "is_enabled": False})
    again = operator.patch(f"{url}{first.json()['id']}/", {"is_enabled": True}, format="json")
    assert error_of(again) == (409, "conflict", "is_enabled")
    assert operator.delete(f"{url}{first.json()['id']}/").status_code == 204
    assert [e.action for e in AuditEvent.objects.filter(object_type="credential").order_by("sequence")] == [
        "credential.create", "credential.create", "credential.create", "credential.update", "credential.delete",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "api_key"),
        ({"api_key": "two\nlines"}, "api_key"),
        ({"api_key": SECRET, "weight": -1}, "weight"),
        ({"api_key": SECRET, "weight": 1001}, "weight"),
        ({"api_key": SECRET, "limit_rpm": 0}, "limit_rpm"),
        ({"api_key": SECRET, "base_url": "ftp://x"}, "base_url"),
    ],
)
def test_a_credential_that_makes_no_sense_is_refused(
    operator: APIClient, body: dict[str, Any], param: str
) -> None:
    make_provider()
    answer = operator.post("/api/v1/providers/oai/credentials/", body, format="json")
    assert error_of(answer) == (400, "invalid_request", param)
    assert not Credential.objects.exists()


def test_a_secret_is_not_changed_but_replaced(operator: APIClient) -> None:
    row = credentials.store(
        provider=make_provider(), tenant=None, secret=SECRET, label="a", base_url="", actor=SYSTEM
    )
    url = f"/api/v1/providers/oai/credentials/{row.pk}/"
    for name in ("api_key", "label", "base_url"):
        answer = operator.patch(url, {name: "https://sk-0123456789.example"}, format="json")
        assert error_of(answer) == (400, "invalid_request", name)


def test_the_operators_credentials_are_no_tenants_business(client_of: ClientOf, acme: Tenant) -> None:
    row = credentials.store(
        provider=make_provider(), tenant=None, secret=SECRET, label="a", base_url="", actor=SYSTEM
    )
    tenants = client_of("providers:read", "providers:write", tenant=acme)
    url = "/api/v1/providers/oai/credentials/"
    assert error_of(tenants.get(url))[:2] == (403, "permission_denied")
    assert error_of(tenants.post(url, {"api_key": SECRET}, format="json"))[:2] == (403, "permission_denied")
    assert error_of(tenants.delete(f"{url}{row.pk}/"))[0] in (403, 404)
    assert Credential.objects.count() == 1


def test_a_tenants_own_key_is_not_among_the_operators(operator: APIClient, acme: Tenant) -> None:
    row = credentials.store(
        provider=make_provider(), tenant=acme, secret=SECRET, label="", base_url="", actor=SYSTEM
    )
    url = "/api/v1/providers/oai/credentials/"
    assert operator.get(url).json()["data"] == []
    assert error_of(operator.delete(f"{url}{row.pk}/"))[:2] == (404, "not_found")
    assert error_of(operator.get("/api/v1/providers/nobody/credentials/"))[:2] == (404, "not_found")


# ------------------------------------------------------------------ kill switches

SWITCHES = "/api/v1/kill-switches/"


def test_a_kill_switch_says_who_when_and_why_and_is_restored_not_deleted(operator: APIClient) -> None:
    make_provider()
    before = versions.current()["routing"]
    thrown = operator.post(
        SWITCHES, {"kind": "provider", "target": "oai", "reason": " leaks "}, format="json"
    )
    assert thrown.status_code == 201
    assert_holds(
        thrown,
        {
            "kind": "provider",
            "target": "oai",
            "reason": "leaks",
            "is_thrown": True,
            "restored_at": None,
        },
    )
    assert thrown.json()["thrown_by"].startswith("test (th_")
    assert versions.current()["routing"] == before + 1
    twice = operator.post(SWITCHES, {"kind": "provider", "target": "oai", "reason": "x"}, format="json")
    assert error_of(twice) == (409, "conflict", "target")
    url = f"{SWITCHES}{thrown.json()['id']}/"
    restored = operator.delete(url)
    assert restored.status_code == 200
    assert_holds(restored, {"is_thrown": False, "restored_by": thrown.json()["thrown_by"]})
    assert versions.current()["routing"] == before + 2
    assert error_of(operator.delete(url))[:2] == (409, "conflict")
    assert (
        operator.post(
            SWITCHES, {"kind": "provider", "target": "oai", "reason": "x"}, format="json"
        ).status_code
        == 201
    )
    assert [row["is_thrown"] for row in operator.get(f"{SWITCHES}?kind=provider").json()["data"]] == [
        True,
        False,
    ]
    assert [e.action for e in AuditEvent.objects.filter(object_type="kill_switch").order_by("sequence")] == [
        "kill_switch.throw", "kill_switch.restore", "kill_switch.throw",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"kind": "moon", "target": "oai", "reason": "x"}, "kind"),
        ({"kind": "provider", "target": "nobody", "reason": "x"}, "target"),
        ({"kind": "model", "target": "nobody", "reason": "x"}, "target"),
        ({"kind": "tenant", "target": "nobody", "reason": "x"}, "target"),
        ({"kind": "provider", "target": "oai", "reason": "  "}, "reason"),
        ({"kind": "provider", "target": "oai"}, "reason"),
    ],
)
def test_nothing_is_cut_off_without_a_target_and_a_reason(
    operator: APIClient, body: dict[str, Any], param: str
) -> None:
    make_provider()
    assert error_of(operator.post(SWITCHES, body, format="json")) == (400, "invalid_request", param)
    assert not KillSwitch.objects.exists()


def test_a_tenant_that_is_cut_off_is_suspended_until_it_is_restored(
    operator: APIClient, acme: Tenant
) -> None:
    answer = operator.post(SWITCHES, {"kind": "tenant", "target": "acme", "reason": "abuse"}, format="json")
    acme.refresh_from_db()
    assert acme.status == "suspended"
    operator.delete(f"{SWITCHES}{answer.json()['id']}/")
    acme.refresh_from_db()
    assert acme.status == "active"
    assert [e.action for e in AuditEvent.objects.filter(tenant=acme).order_by("sequence")] == [
        "tenant.suspend", "kill_switch.throw", "tenant.activate", "kill_switch.restore",
    ]  # fmt: skip


def test_a_restore_does_not_wake_a_tenant_that_was_suspended_before(db: None, acme: Tenant) -> None:
    lifecycle.suspend(tenant=acme, actor=SYSTEM)
    switch = switches.throw(kind="tenant", target="acme", reason="abuse", actor=SYSTEM)
    assert switches.thrown(kind="tenant", target="acme") == switch
    switches.restore(switch=switch, actor=SYSTEM)
    assert switches.thrown(kind="tenant", target="acme") is None
    acme.refresh_from_db()
    assert acme.status == "suspended"


def test_a_tenants_key_throws_no_switch_and_sees_none(
    client_of: ClientOf, acme: Tenant, globex: Tenant
) -> None:
    switch = switches.throw(kind="tenant", target="globex", reason="abuse", actor=SYSTEM)
    tenants = client_of("providers:read", "providers:write", "tenants:write", tenant=acme)
    assert error_of(tenants.get(SWITCHES))[:2] == (403, "permission_denied")
    body = {"kind": "tenant", "target": "acme", "reason": "x"}
    assert error_of(tenants.post(SWITCHES, body, format="json"))[:2] == (403, "permission_denied")
    assert error_of(tenants.delete(f"{SWITCHES}{switch.pk}/"))[:2] == (403, "permission_denied")
    provider_only = client_of("providers:read", "providers:write")
    assert error_of(provider_only.post(SWITCHES, body, format="json"))[:2] == (403, "permission_denied")
    assert error_of(provider_only.delete(f"{SWITCHES}{switch.pk}/"))[:2] == (403, "permission_denied")
