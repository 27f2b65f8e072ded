"""Budgets on real calls: their scopes, throttles, currencies, and the check that holds counters against the ledger."""

import threading
import time
from datetime import UTC, datetime
from decimal import Decimal

import pytest
import redis
from django.conf import settings
from django.db import connection
from django.utils import timezone

from billing.budgets.counters import spent
from billing.models import Budget, BudgetCheck, FxRate
from billing.snapshot import entry_of
from billing.usage.verify import verify
from gateway.state import budgets
from gateway.state.limits import OPEN, STREAM, budget_key
from tenants.models import Tenant
from tests.gateway import plane as planes

db, plane = planes.db, planes.plane


@pytest.fixture(scope="module")
def made():
    return {}


@pytest.fixture(scope="module")
def demo(db, made):
    for demo in planes.rows(db):
        owner = Tenant.objects.get(slug="acme")
        FxRate.objects.create(base="USD", quote="GBP", day=datetime.now(UTC).date(), rate=Decimal("0.75"))

        def budget(name, *, tenant=owner, limit=1, measure="requests", window="total", **fields):
            made[name] = Budget.objects.create(
                name=name, feature=name, tenant=tenant, limit=limit, measure=measure, window=window, **fields
            )

        budget("detour", mode="throttle", throttle_policy="eu-only")
        budget("nowhere", mode="throttle", throttle_policy="no-such-policy")
        budget("slow", mode="throttle", throttle_rpm=1)
        budget("tagged", tag="env=live")
        budget("shared", tenant=None, limit=2)
        budget("everywhere", tenant=None, plan=plan_of(owner))
        budget("azure", provider="azure", limit=0)
        budget("rolling", window="rolling", rolling_s=3600, limit=2)
        budget("roomy", measure="price", limit=1000)
        budget("soft", mode="soft", measure="price", limit=1000)
        budget("francs", measure="price", limit=1000, currency="CHF")
        budget("pounds", measure="price", limit=1000, currency="GBP")
        yield demo


def plan_of(tenant):
    return tenant.subscriptions.get(end__isnull=True).plan_version.plan


@pytest.fixture(scope="module", autouse=True)
def draining(plane):
    """Counters are made from the ledger, which must follow."""
    over = threading.Event()

    def work():
        while not over.is_set():
            planes.drain()
        connection.close()

    worker = threading.Thread(target=work)
    worker.start()
    yield
    over.set()
    worker.join()


def call(plane, feature, *, key=None, tags="", **body):
    headers = {"authorization": f"Bearer {key or plane.key}", "x-tollhouse-feature": feature}
    if tags:
        headers["x-tollhouse-tags"] = tags
    asked = {"model": "sandbox-small", "messages": [{"role": "user", "content": "[[sandbox tokens=1]] hi"}]}
    return plane.http.post(f"{plane.url}/v1/chat/completions", json=asked | body, headers=headers)


def code_of(answer):
    return answer.status_code if answer.status_code == 200 else answer.json()["error"]["code"]


def throttled(plane, feature):
    """The first answer that a throttle had a hand in; its counter comes into being beside the first calls."""
    for _ in range(100):
        answer = call(plane, feature)
        if answer.status_code != 200 or "x-tollhouse-throttled" in answer.headers:
            return answer
        time.sleep(0.05)
    raise AssertionError("the throttle never throttled")


def counter_of(budget):
    entry = entry_of(Budget.objects.select_related("tenant").get(pk=budget.pk))
    return entry, entry.window_at(time.time())


def settled():
    with redis.Redis.from_url(settings.REDIS_URL) as store:
        while store.hlen(OPEN) or store.xlen(STREAM):
            time.sleep(0.02)


# ------------------------------------------------------------------ throttles


def test_a_used_up_throttle_sends_calls_by_its_policy_and_says_so(plane):
    answer = throttled(plane, "detour")
    assert answer.status_code == 200
    assert answer.headers["x-tollhouse-throttled"] == "detour"
    assert answer.headers["x-tollhouse-provider"] == "sandbox-eu"


def test_a_throttle_whose_policy_has_nothing_for_the_call_lets_it_go_on(plane):
    answer = throttled(plane, "nowhere")
    assert (answer.status_code, answer.headers["x-tollhouse-throttled"]) == (200, "nowhere")


def test_a_used_up_throttle_slows_calls_to_its_rate(plane):
    assert throttled(plane, "slow").headers["x-tollhouse-throttled"] == "slow"
    refused = call(plane, "slow")
    assert code_of(refused) == "rate_limit_exceeded"
    assert int(refused.headers["retry-after"]) >= 1


# ------------------------------------------------------------------ scopes and windows


def test_a_tags_budget_counts_calls_with_that_tag(plane):
    answers = [call(plane, "tagged", tags=tags) for tags in ("env=live,a=b", "env=test", "", "env=live")]
    assert [code_of(answer) for answer in answers] == [200, 200, 200, "budget_exceeded"]


def test_the_operators_budget_is_shared_by_tenants_and_told_by_its_id(plane, made):
    keys = (plane.key, plane.other_key, plane.key)
    answers = [call(plane, "shared", key=key) for key in keys]
    assert [code_of(answer) for answer in answers] == [200, 200, "budget_exceeded"]
    message = answers[2].json()["error"]["message"]
    assert message == f"The budget {made['shared'].pk} of the operator is used up. It does not reset."


def test_a_plans_budget_leaves_tenants_of_other_plans_alone(plane):
    keys = (plane.key, plane.key, plane.other_key, plane.other_key)
    assert [code_of(call(plane, "everywhere", key=key)) for key in keys] == [200, "budget_exceeded", 200, 200]


def test_a_providers_budget_has_no_say_where_the_call_cannot_go_there(plane):
    assert code_of(call(plane, "azure")) == 200


def test_a_rolling_budget_refuses_beyond_its_limit(plane):
    answers = [call(plane, "rolling") for _ in range(3)]
    assert [code_of(answer) for answer in answers] == [200, 200, "budget_exceeded"]
    assert "frees up" in answers[2].json()["error"]["message"]


def test_a_hard_budget_in_a_currency_without_a_rate_refuses_and_with_one_converts(plane, made):
    assert code_of(call(plane, "francs")) == "model_unpriced"
    answer = call(plane, "pounds")
    assert code_of(answer) == 200
    settled()
    entry, window = counter_of(made["pounds"])
    price_pico = int(Decimal(answer.headers["x-tollhouse-price"]) * 10**12)
    assert spent(entry, window) == int(price_pico * Decimal("0.75") + Decimal("0.5"))


# ------------------------------------------------------------------ I8


def test_counters_agree_with_the_ledger_and_a_wrong_one_is_found_told_and_repaired(plane, made):
    for feature in ("roomy", "soft", "pounds", "rolling"):
        call(plane, feature)
    settled()
    time.sleep(0.5)  # the soft budget's counter is made beside its first call
    proof = budgets.check(now=timezone.now())
    names = {str(budget.pk): name for name, budget in made.items()}
    assert [(names[each["budget"]], each) for each in proof.differences] == []
    assert proof.counters >= 9
    entry, window = counter_of(made["roomy"])
    with redis.Redis.from_url(settings.REDIS_URL) as store:
        store.hincrby(budget_key(entry, window), "spent", -7)
        store.hincrby(budget_key(entry, window), "held", 5)
        found = budgets.check(now=timezone.now()).differences
        assert [(each["budget"], each["held"], each["held_open"]) for each in found] == [
            (str(entry.id), 5, 0)
        ]
        assert int(found[0]["ledger"]) - int(found[0]["counter"]) == 7_000_000
        told = next(check for check in verify().checks if check.name.startswith("budget counters"))
        assert (told.ok, str(entry.id) in told.detail) == (False, True)
        names = ("spent", "rest", "held")
        whole, rest, held = (int(store.hget(budget_key(entry, window), name)) for name in names)
    assert (whole * 10**6 + rest, held) == (spent(entry, window), 0)
    assert budgets.check(now=timezone.now()).differences == []
    assert BudgetCheck.objects.count() == 3


def test_counters_are_checked_while_calls_go_on(plane):
    over = threading.Event()
    statuses = []

    def work():
        while not over.is_set():
            statuses.append(call(plane, "roomy").status_code)

    callers = [threading.Thread(target=work) for _ in range(3)]
    for caller in callers:
        caller.start()
    try:
        found = [budgets.check(now=timezone.now()).differences for _ in range(5)]
    finally:
        over.set()
        for caller in callers:
            caller.join()
    assert (found, set(statuses)) == ([[]] * 5, {200})
