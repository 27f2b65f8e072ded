"""A replay's money against sums made apart from the product: plain decimals over the rates as they are written."""

import random
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from uuid import UUID

import pytest
from django.utils import timezone

from gateway.models import Replay
from gateway.replay import jobs
from routing.demo import MODELS, provider_model_of
from routing.models import CostRate, Endpoint, RoutingPolicy
from tenants.errors import ApiError
from tenants.models import Tenant
from tenants.principal import SYSTEM
from tests.billing import ledger
from tests.factories import api_key, key_client
from tests.gateway import plane as planes

db, demo = planes.db, planes.demo

START = datetime(2026, 11, 20, tzinfo=UTC)
END = START + timedelta(days=1)
PRICES = {(model.slug, provider): model.prices[provider] for model in MODELS for provider in model.prices}
PICO = Decimal(10) ** 12


def cost_at(model: str, provider: str, units: dict[str, int]) -> int:
    """R2: each component rounded once to pico, half away from zero."""
    prices = PRICES[model, provider]
    return sum(
        int((Decimal(count) * Decimal(prices[name]) / 1_000_000 * PICO).quantize(Decimal(1), ROUND_HALF_UP))
        for name, count in units.items()
    )


@pytest.fixture(scope="module")
def traffic(demo):
    """600 chat calls of two tenants on the US sandbox's large model, by way of `policy:reliable`."""
    from billing.subscriptions import current_version

    dice = random.Random(3)
    endpoint = Endpoint.objects.get(provider__slug="sandbox", model__slug="sandbox-large")
    tenants = {slug: Tenant.objects.get(slug=slug) for slug in ("acme", "globex")}
    plans = {slug: current_version(tenant) for slug, tenant in tenants.items()}
    made = []
    for number in range(600):
        slug = ("acme", "globex")[number % 3 == 0]
        units = {"input": dice.randrange(1, 5000), "cache_read": dice.randrange(1, 900), "output": 1 + number}
        made.append(
            (
                slug,
                units,
                ledger.record(
                    START + timedelta(seconds=number * 100),
                    tenant_id=tenants[slug].pk,
                    api_key_id=UUID(int=7),
                    plan_version_id=plans[slug].pk,
                    request_model="policy:reliable",
                    policy="reliable@1",
                    model="sandbox-large",
                    provider="sandbox",
                    provider_model=endpoint.provider_model,
                    endpoint_id=endpoint.pk,
                    region="us",
                    input_tokens=units["input"],
                    cache_read_tokens=units["cache_read"],
                    output_tokens=units["output"],
                    reasoning_tokens=0,
                    cost_pico=cost_at("sandbox-large", "sandbox", units),
                    price_pico=1_000_000,
                    cost_components=None,
                    latency_ms=400,
                ),
            )
        )
    ledger.put(*[record for _, _, record in made])
    yield [(slug, units) for slug, units, _ in made]
    ledger.empty()


def asked(candidate, **options) -> Replay:
    row = jobs.ask(
        candidate=candidate,
        **{"start": START, "end": END, "tenants": [], "is_whole": False, "actor": SYSTEM, **options},
    )
    assert jobs.run_next()
    assert not jobs.run_next()
    row.refresh_from_db()
    assert row.status == Replay.Status.DONE, row.error
    return row


def pico(text: str) -> int:
    return int(Decimal(text) * PICO)


CHEAPEST = {"policy": "reliable", "wording": {"strategy": "cost"}}


def test_a_replay_under_another_policy_costs_to_the_pico_what_the_calls_would_have_cost(traffic):
    total = asked(CHEAPEST).report["total"]
    expected = sum(cost_at("sandbox-small", "sandbox", units) for _, units in traffic)
    recorded = sum(cost_at("sandbox-large", "sandbox", units) for _, units in traffic)
    assert (total["calls"], total["moved"], total["refused"]) == (600, 600, {})
    assert pico(total["cost"]["USD"]["candidate"]) == expected
    assert pico(total["cost"]["USD"]["recorded"]) == recorded
    assert pico(total["cost"]["USD"]["difference"]) == expected - recorded


def test_prices_and_margins_follow_each_tenants_own_plan(traffic):
    report = asked(CHEAPEST).report
    by_tenant = {row["tenant"]: row for row in report["tenants"]}
    assert {slug: row["calls"] for slug, row in by_tenant.items()} == {"acme": 400, "globex": 200}
    for slug, percent in (("acme", 120), ("globex", 108)):
        prices = [
            (Decimal(cost_at("sandbox-small", "sandbox", units) * percent) / 100).quantize(
                Decimal(1), ROUND_HALF_UP
            )
            for owner, units in traffic
            if owner == slug
        ]
        row = by_tenant[slug]
        assert pico(row["price"]["USD"]["candidate"]) == sum(prices)
        cost = pico(row["cost"]["USD"]["candidate"])
        assert pico(row["margin"]["USD"]["candidate"]) == sum(prices) - cost


def test_a_region_that_nobody_serves_refuses_every_call_and_moves_no_money(traffic):
    wording = {"strategy": "cost", "constraints": {"regions": ["mars"]}}
    total = asked({"policy": "reliable", "wording": wording}).report["total"]
    assert total["refused"] == {"region_unavailable": 600}
    assert total["cost"] == {}


def test_other_rates_alone_leave_every_call_where_it_went(traffic):
    large = next(model for model in MODELS if model.slug == "sandbox-large")
    rate = {
        "provider": "sandbox",
        "provider_model": provider_model_of(large),
        "component": "output",
        "price": "20",
    }
    total = asked({"rates": [rate]}).report["total"]
    doubled = sum(
        cost_at("sandbox-large", "sandbox", {**units, "output": 2 * units["output"]}) for _, units in traffic
    )
    assert (total["moved"], pico(total["cost"]["USD"]["candidate"])) == (0, doubled)


def test_other_charges_alone_change_the_price_and_not_the_cost(traffic):
    charges = [{"model": "cost_plus", "markup_percent": "50", "fixed_per_request": "0"}]
    row = asked({"plan": "starter", "charges": charges}, tenants=["acme"])
    total = row.report["total"]
    prices = [
        (Decimal(cost_at("sandbox-large", "sandbox", units) * 150) / 100).quantize(Decimal(1), ROUND_HALF_UP)
        for owner, units in traffic
        if owner == "acme"
    ]
    assert total["calls"] == 400
    assert pico(total["cost"]["USD"]["difference"]) == 0
    assert pico(total["price"]["USD"]["candidate"]) == sum(prices)


def test_the_expected_p95_is_that_of_the_endpoints_chosen_and_unknown_without_a_history(traffic):
    total = asked(CHEAPEST).report["total"]
    assert total["p95_ms"]["recorded"] == pytest.approx(400, rel=0.15)
    assert (total["p95_ms"]["candidate"], total["p95_ms"]["calls_with_history"]) == (None, 0)


def test_calls_that_the_policy_did_not_rule_are_left_out_unless_all_are_asked_for(traffic):
    wording = {"strategy": "cost"}
    assert asked({"policy": "eu-only", "wording": wording}).report["total"]["calls"] == 0
    whole = asked({"policy": "eu-only", "wording": wording}, is_whole=True).report
    assert whole["total"]["calls"] == 600
    assert {row["provider"] for row in whole["targets"] if row["candidate"]} == {"sandbox"}


def test_two_replays_of_one_candidate_say_the_same(traffic):
    weighted = {
        "policy": "reliable",
        "wording": {"strategy": "weighted", "targets": ["sandbox-small", "sandbox-large"]},
    }
    assert asked(weighted).report == asked(weighted).report


def test_a_replay_that_a_dead_worker_left_is_run_again_and_given_up_after_three_deaths(traffic):
    row = jobs.ask(candidate=CHEAPEST, start=START, end=END, tenants=[], is_whole=False, actor=SYSTEM)
    dead = {"status": Replay.Status.RUNNING, "leased_until": timezone.now() - timedelta(seconds=1)}
    Replay.objects.filter(pk=row.pk).update(**dead, tries=1)
    assert jobs.run_next()
    row.refresh_from_db()
    assert (row.status, row.tries, row.done) == (Replay.Status.DONE, 2, 600)
    Replay.objects.filter(pk=row.pk).update(**dead, tries=3)
    assert jobs.run_next()
    row.refresh_from_db()
    assert (row.status, row.error) == (Replay.Status.FAILED, "Its worker died 3 times.")


@pytest.mark.parametrize(
    ("candidate", "param"),
    [
        ({}, "candidate"),
        ({"policy": "nobody", "wording": {"strategy": "cost"}}, "policy"),
        ({"policy": "reliable", "wording": {"strategy": "magic"}}, "strategy"),
        ({"plan": "nobody", "charges": []}, "plan"),
        ({"plan": "starter", "charges": [{"model": "magic"}]}, "charges[0].model"),
    ],
)
def test_a_candidate_that_cannot_be_applied_is_refused_before_anything_is_queued(traffic, candidate, param):
    before = Replay.objects.count()
    with pytest.raises(ApiError) as caught:
        jobs.ask(candidate=candidate, start=START, end=END, tenants=[], is_whole=False, actor=SYSTEM)
    assert (caught.value.code, caught.value.param) == ("invalid_request", param)
    assert Replay.objects.count() == before


def test_promoting_publishes_the_wording_and_the_rates_once(traffic):
    large = next(model for model in MODELS if model.slug == "sandbox-large")
    rate = {
        "provider": "sandbox",
        "provider_model": provider_model_of(large),
        "component": "output",
        "price": "12",
    }
    client = key_client(api_key(None).text)
    made = client.post(
        "/api/v1/replays/",
        {"candidate": {**CHEAPEST, "rates": [rate]}, "start": START.isoformat(), "end": END.isoformat()},
        format="json",
    )
    assert made.status_code == 201, made.data
    assert jobs.run_next()
    url = f"/api/v1/replays/{made.data['id']}/"
    assert client.get(url).data["report"]["total"]["calls"] == 600
    newest = RoutingPolicy.objects.get(slug="reliable").versions.order_by("-number")
    number = newest[0].number
    assert client.post(f"{url}promote/").status_code == 200
    assert (newest[0].number, newest[0].strategy) == (number + 1, "cost")
    in_force = CostRate.objects.get(
        provider="sandbox", provider_model=rate["provider_model"], component="output", effective_to=None
    )
    assert in_force.price == 12
    again = client.post(f"{url}promote/")
    assert (again.status_code, again.data["error"]["code"]) == (409, "conflict")


def test_a_tenants_key_sees_no_replays(traffic):
    client = key_client(api_key(Tenant.objects.get(slug="acme")).text)
    assert client.get("/api/v1/replays/").status_code == 403
