from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone

from routing import credentials, demo, snapshot
from routing.catalog.cost import Unpriced, cost_of, price_per_million
from routing.entries import FeatureEntry
from routing.models import (
    CostRate,
    Credential,
    Endpoint,
    Feature,
    KillSwitch,
    Model,
    PolicyBinding,
    Provider,
    RoutingPolicy,
    RoutingPolicyVersion,
)
from routing.policies.plan import PlanRequest, plan
from routing.snapshot import PolicyTarget
from routing.types import NO_HEALTH, Conduct, Operation, ProviderKind, Recovery, Target
from tenants.errors import ApiError
from tenants.ids import uuid7
from tenants.models import Tenant
from tenants.principal import SYSTEM

pytestmark = pytest.mark.django_db

START = datetime(2026, 1, 1, tzinfo=UTC)


def serve(
    provider: str = "oai",
    kind: str = "openai",
    model: str = "m-1",
    key: str = "sk-0123456789ab",
    **fields: Any,
) -> Endpoint:
    row, _ = Provider.objects.get_or_create(
        slug=provider, defaults={"name": provider, "kind": kind, "region": "us"}
    )
    if key:
        credentials.store(provider=row, tenant=None, secret=key, label="", base_url="", actor=SYSTEM)
    entry, _ = Model.objects.get_or_create(
        slug=model, defaults={"name": model, "operations": ["chat", "embeddings"], "capabilities": ["tools"]}
    )
    return Endpoint.objects.create(provider=row, model=entry, **{"provider_model": model, **fields})


def price(provider: str, provider_model: str, amount: str, **fields: Any) -> CostRate:
    return CostRate.objects.create(
        **{
            "provider": provider,
            "provider_model": provider_model,
            "component": "input",
            "price": amount,
            "effective_from": START,
            **fields,
        }
    )


def targets() -> list[Target]:
    return [target for entry in snapshot.load().models.values() for target in entry.targets]


def input_price(target: Target) -> Decimal:
    return price_per_million(target.rates, timezone.now(), "input")


def test_a_target_holds_all_that_a_call_needs() -> None:
    endpoint = serve(provider_model="m-1-2026", region="eu", weight=3)
    price("oai", "m-1-2026", "2.5")
    (target,) = targets()
    assert (target.endpoint_id, target.provider, target.kind) == (
        str(endpoint.pk),
        "oai",
        ProviderKind.OPENAI,
    )
    assert (target.provider_model, target.model, target.region) == ("m-1-2026", "m-1", "eu")
    assert (target.base_url, target.api_key, target.weight) == (
        "https://api.openai.com/v1",
        "sk-0123456789ab",
        3,
    )
    assert (target.operations, target.capabilities) == ({"chat", "embeddings"}, {"tools"})
    assert input_price(target) == Decimal("2.5")
    assert "sk-0123456789ab" not in repr(target)


def test_the_providers_region_and_address_hold_where_the_endpoint_has_none() -> None:
    endpoint = serve()
    Provider.objects.filter(pk=endpoint.provider_id).update(base_url="https://proxy.example/v1/")
    (target,) = targets()
    assert (target.region, target.base_url) == ("us", "https://proxy.example/v1")


def test_a_dialect_offers_only_the_operations_it_has() -> None:
    serve(provider="claude", kind="anthropic")
    (target,) = targets()
    assert target.operations == {"chat"}


@pytest.mark.parametrize(
    "switch",
    [
        lambda e: Endpoint.objects.filter(pk=e.pk).update(is_enabled=False),
        lambda e: Provider.objects.filter(pk=e.provider_id).update(is_enabled=False),
        lambda e: Credential.objects.filter(provider_id=e.provider_id).update(is_enabled=False),
    ],
)
def test_what_is_disabled_is_no_target(switch: Any) -> None:
    switch(serve())
    assert targets() == []


def test_only_dialects_that_need_no_key_go_without_one() -> None:
    serve(provider="a", kind="openai", key="")
    serve(provider="b", kind="openai_compatible", key="")
    serve(provider="c", kind="sandbox", key="")
    assert sorted(target.provider for target in targets()) == ["b", "c"]


def test_a_tenants_own_key_makes_no_target_for_the_operator() -> None:
    endpoint = serve(key="")
    tenant = Tenant.objects.create(slug="acme", name="Acme")
    credentials.store(
        provider=endpoint.provider,
        tenant=tenant,
        secret="sk-tenant-0001",
        label="",
        base_url="",
        actor=SYSTEM,
    )
    (target,) = targets()
    assert (target.needs_own, target.api_key, target.credential_id) == (True, "", "")
    Credential.objects.update(is_enabled=False)
    assert targets() == []


def test_a_secret_that_does_not_open_is_passed_over_and_the_other_routes_stay(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken, _ = serve(provider="broken"), serve(provider="fine", key="sk-fine-000001")
    row = Credential.objects.get(provider=broken.provider)
    Credential.objects.filter(pk=row.pk).update(secret=bytes(row.secret)[:-1] + b"\x00")
    found = targets()
    assert [target.provider for target in found] == ["fine"]
    assert "a credential is not used" in caplog.text
    assert "sk-" not in caplog.text


# ------------------------------------------------------------------ which rates


def test_the_providers_own_rates_come_before_its_price_books() -> None:
    serve()
    price("openai", "m-1", "5")
    assert input_price(targets()[0]) == Decimal(5)
    price("oai", "m-1", "4")
    assert input_price(targets()[0]) == Decimal(4)


def test_a_named_price_book_replaces_the_dialects() -> None:
    endpoint = serve()
    price("openai", "m-1", "5")
    price("groq", "m-1", "3")
    Provider.objects.filter(pk=endpoint.provider_id).update(price_book="groq")
    assert input_price(targets()[0]) == Decimal(3)


def test_a_deployment_is_priced_by_its_model() -> None:
    serve(provider="az", kind="azure_openai", provider_model="our-deployment")
    price("azure", "m-1", "2")
    assert input_price(targets()[0]) == Decimal(2)


def test_without_rates_a_target_is_unpriced() -> None:
    serve()
    with pytest.raises(Unpriced):
        cost_of(targets()[0].rates, {"input": 1}, occurred_at=timezone.now())


def test_rates_to_come_and_just_gone_are_carried_and_old_ones_are_not() -> None:
    serve()
    now = timezone.now()
    price("oai", "m-1", "1", effective_to=now - timedelta(days=2))
    price("oai", "m-1", "2", effective_from=now - timedelta(days=2), effective_to=now - timedelta(hours=1))
    price("oai", "m-1", "3", effective_from=now - timedelta(hours=1), effective_to=now + timedelta(hours=1))
    price("oai", "m-1", "4", effective_from=now + timedelta(hours=1))
    rates = targets()[0].rates
    assert sorted(rate.price for rate in rates.rates) == [Decimal(2), Decimal(3), Decimal(4)]
    assert price_per_million(rates, now + timedelta(hours=2), "input") == Decimal(4)


def test_rates_in_two_currencies_leave_the_target_unpriced_and_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    serve()
    price("oai", "m-1", "1")
    price("oai", "m-1", "1", component="output", currency="EUR")
    assert targets()[0].rates.rates == ()
    assert "oai/m-1" in caplog.text


# ------------------------------------------------------------------ policies, versions, size


def test_the_newest_wording_of_every_enabled_policy_is_in_force() -> None:
    tenant = Tenant.objects.create(slug="acme", name="Acme")
    for slug, owner, is_enabled in (("p", None, True), ("p", tenant, True), ("off", None, False)):
        policy = RoutingPolicy.objects.create(slug=slug, tenant=owner, is_enabled=is_enabled)
        for number, strategy in ((1, "cost"), (2, "latency")):
            RoutingPolicyVersion.objects.create(
                policy=policy,
                number=number,
                strategy=strategy,
                targets=["m-1", {"model": "m-2", "provider": "oai", "weight": 4}],
            )
    policies = snapshot.load().policies
    assert set(policies) == {(None, "p"), (tenant.pk, "p")}
    entry = policies[None, "p"]
    assert (entry.number, entry.strategy, entry.conduct.max_attempts) == (2, "latency", 3)
    assert entry.targets == (PolicyTarget("m-1", None, 1), PolicyTarget("m-2", "oai", 4))


def test_the_number_of_queries_does_not_grow_with_the_rows(django_assert_num_queries: Any) -> None:
    for number in range(5):
        serve(provider=f"p{number % 2}", model=f"m-{number}", key="sk-0123456789ab" if number < 2 else "")
        price(f"p{number % 2}", f"m-{number}", "1")
    with django_assert_num_queries(13):
        snapshot.load()


def test_the_version_is_that_of_the_last_change() -> None:
    before = snapshot.load().version
    serve()
    assert snapshot.load().version == before + 1


# ------------------------------------------------------------------ the demo


def test_the_demo_is_seeded_once_and_keeps_what_an_operator_changed() -> None:
    first = demo.seed()
    assert (first.providers, first.models, first.endpoints, first.policies) == (2, 5, 10, 4)
    assert first.rates == CostRate.objects.count() > 20
    Endpoint.objects.filter(model__slug="sandbox-large").update(is_enabled=False)
    assert demo.seed() == demo.DemoRoutes(0, 0, 0, 0, 0)
    assert Endpoint.objects.filter(is_enabled=False).count() == 2


@pytest.mark.parametrize(
    ("model", "first"),
    [
        ("policy:cost-optimized", ("sandbox", "sandbox-small")),
        ("policy:eu-only", ("sandbox-eu", "sandbox-small")),
        ("policy:reliable", ("sandbox", "sandbox-large")),
        ("sandbox-eu/sandbox-vision", ("sandbox-eu", "sandbox-vision")),
    ],
)
def test_the_demos_policies_choose_as_they_say(model: str, first: tuple[str, str]) -> None:
    demo.seed()
    answer = plan(
        PlanRequest(model, Operation.CHAT, uuid7(), input_tokens=100, output_tokens=100),
        snapshot.load(),
        health=NO_HEALTH,
        now=timezone.now().timestamp(),
        draw=0.5,
    )
    target = answer.targets[0].target
    assert (target.provider, target.model) == first
    assert all(ranked.target.base_url == "sandbox://local" for ranked in answer.targets)


def test_the_demo_serves_embeddings_by_policy_too() -> None:
    demo.seed()
    answer = plan(
        PlanRequest("policy:cost-optimized", Operation.EMBEDDINGS, uuid7(), input_tokens=100),
        snapshot.load(),
        health=NO_HEALTH,
        now=timezone.now().timestamp(),
        draw=0.5,
    )
    assert [ranked.target.model for ranked in answer.targets] == ["sandbox-embed", "sandbox-embed"]


# ------------------------------------------------------------------ several credentials


def lend(label: str, *, provider: str = "oai", tenant: Tenant | None = None, **fields: Any) -> Credential:
    return credentials.store(
        provider=Provider.objects.get(slug=provider),
        tenant=tenant,
        secret=f"sk-of-{label or 'nobody'}-0123",
        label=label,
        base_url=fields.pop("base_url", ""),
        actor=SYSTEM,
        **fields,
    )


def test_each_label_of_the_operator_gives_a_target_and_they_share_the_weight() -> None:
    endpoint = serve(weight=5)
    second = lend("second", weight=2, limit_rpm=600, limit_tpm=90_000)
    serve(provider="other", weight=5)
    mine, also_mine, other = sorted(targets(), key=lambda t: (t.provider, t.api_key))
    assert {mine.endpoint_id, also_mine.endpoint_id} == {str(endpoint.pk)}
    assert [(t.provider, t.weight) for t in (mine, also_mine, other)] == [
        ("oai", 5), ("oai", 10), ("other", 15),
    ]  # fmt: skip
    assert (also_mine.credential_id, also_mine.api_key) == (str(second.pk), "sk-of-second-0123")
    assert (also_mine.limit_rpm, also_mine.limit_tpm) == (600, 90_000)
    assert also_mine.quota_key == f"{second.pk}/m-1"
    assert mine.quota_key != also_mine.quota_key
    assert other.quota_key == f"{other.credential_id}/m-1"


def test_of_a_label_only_the_newest_counts() -> None:
    serve()
    newer = lend("")
    (target,) = targets()
    assert (target.credential_id, target.weight) == (str(newer.pk), 1)


def test_credentials_without_any_weight_share_alike_and_one_without_waits_behind_the_others() -> None:
    serve(key="")
    for label in ("a", "b", "c"):
        lend(label, weight=0)
    assert [target.weight for target in targets()] == [1, 1, 1]
    credentials.change(credential=Credential.objects.get(label="b"), changes={"weight": 7}, actor=SYSTEM)
    assert sorted((target.api_key, target.weight) for target in targets()) == [
        ("sk-of-a-0123", 0), ("sk-of-b-0123", 1), ("sk-of-c-0123", 0),
    ]  # fmt: skip


def test_a_server_without_a_key_has_its_own_quota() -> None:
    serve(provider="local", kind="openai_compatible", key="")
    (target,) = targets()
    assert (target.credential_id, target.api_key, target.quota_key) == ("", "", "local/m-1")


def test_a_tenants_own_credentials_are_kept_apart_from_the_operators() -> None:
    serve()
    acme = Tenant.objects.create(slug="acme", name="Acme")
    globex = Tenant.objects.create(slug="globex", name="Globex")
    lend("old", tenant=acme)
    second = lend("new", tenant=acme, base_url="https://proxy.example/v1")
    off = lend("", tenant=globex)
    credentials.change(credential=off, changes={"is_enabled": False}, actor=SYSTEM)
    held = snapshot.load()
    assert list(held.own) == [(acme.id, "oai")]
    old, new = held.own[acme.id, "oai"]
    assert (old.base_url, old.api_key) == ("", "sk-of-old-0123")
    assert (new.credential_id, new.base_url, new.api_key) == (
        str(second.pk), "https://proxy.example/v1", "sk-of-new-0123",
    )  # fmt: skip
    assert "sk-of-new" not in repr(held)
    assert [target.api_key for target in held.models["m-1"].targets] == ["sk-0123456789ab"]


def test_where_only_tenants_have_keys_there_is_a_target_for_them_alone() -> None:
    serve(key="", weight=2)
    acme = Tenant.objects.create(slug="acme", name="Acme")
    row = lend("", tenant=acme)
    held = snapshot.load()
    (target,) = held.models["m-1"].targets
    assert (target.needs_own, target.api_key, target.credential_id, target.weight) == (True, "", "", 2)

    def answer(tenant_id: Any) -> Any:
        request = PlanRequest("m-1", Operation.CHAT, tenant_id, allow_unpriced=True)
        return plan(request, held, health=NO_HEALTH, now=timezone.now().timestamp(), draw=0.5)

    (ranked,) = answer(acme.pk).targets
    assert (ranked.target.is_own, ranked.target.api_key, ranked.target.credential_id) == (
        True, "sk-of-nobody-0123", str(row.pk),
    )  # fmt: skip
    with pytest.raises(ApiError) as refused:
        answer(uuid7())
    assert refused.value.code == "model_not_found"


# ------------------------------------------------------------------ features, bindings, conduct


def test_features_and_bindings_lead_to_the_policy_in_force() -> None:
    serve()
    acme = Tenant.objects.create(slug="acme", name="Acme")
    careful = RoutingPolicy.objects.create(slug="careful")
    RoutingPolicyVersion.objects.create(policy=careful, number=1, strategy="cost")
    RoutingPolicyVersion.objects.create(
        policy=careful,
        number=2,
        strategy="slo",
        fallback=["m-1"],
        conduct={"recovery": "buffered", "hold_back_tokens": 50, "hedge_after_ms": 0, "queue_ms": 100},
        max_attempts=4,
    )
    off = RoutingPolicy.objects.create(slug="off", is_enabled=False)
    RoutingPolicyVersion.objects.create(policy=off, number=1, strategy="cost")
    Feature.objects.create(
        slug="search",
        policy=careful,
        slo_p95_ms=2000,
        slo_success=Decimal("0.999"),
        slo_max_cost=Decimal("0.0100000001"),
    )
    Feature.objects.create(slug="search", tenant=acme)
    PolicyBinding.objects.create(policy=careful, tenant=acme)
    PolicyBinding.objects.create(policy=careful, plan="pro")
    PolicyBinding.objects.create(policy=off, plan="free")
    held = snapshot.load()
    entry = held.policies[None, "careful"]
    assert (entry.name, entry.fallback) == ("careful@2", (PolicyTarget("m-1", None, 1),))
    assert entry.conduct == Conduct(
        max_attempts=4, recovery=Recovery.BUFFERED, hold_back_tokens=50, hedge_after_ms=0, queue_ms=100
    )
    assert held.features[None, "search"] == FeatureEntry(
        slug="search",
        tenant_id=None,
        policy=entry,
        target_p95_ms=2000,
        target_success=0.999,
        max_cost_pico=10_000_000_100,
    )
    assert held.features[acme.id, "search"].policy is None
    assert held.bindings == {(acme.id, ""): entry, (None, "pro"): entry}


@pytest.mark.parametrize(("kind", "target"), [("provider", "oai"), ("model", "m-1")])
def test_what_a_kill_switch_cut_off_is_no_target_until_it_is_restored(kind: str, target: str) -> None:
    serve()
    serve(provider="other", model="m-2")
    thrown = KillSwitch.objects.create(kind=kind, target=target, reason="leak", thrown_by="root")
    assert [each.provider for each in targets()] == ["other"]
    assert ("oai" in snapshot.load().providers) is (kind == "model")
    KillSwitch.objects.filter(pk=thrown.pk).update(restored_at=timezone.now())
    assert sorted(each.provider for each in targets()) == ["oai", "other"]
