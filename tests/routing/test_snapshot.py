from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone

from routing import credentials, demo, snapshot
from routing.catalog.cost import Unpriced, cost_of, price_per_million
from routing.models import (
    CostRate,
    Credential,
    Endpoint,
    Model,
    Provider,
    RoutingPolicy,
    RoutingPolicyVersion,
)
from routing.policies.plan import PlanRequest, plan
from routing.snapshot import PolicyTarget
from routing.types import NO_HEALTH, Operation, ProviderKind, Target
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
    with django_assert_num_queries(7):
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
