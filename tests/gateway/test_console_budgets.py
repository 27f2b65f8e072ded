"""Budgets and alerts in the console: what the forms write, what they refuse, what is shown once."""

from decimal import Decimal

import pytest
from django.urls import reverse
from django.utils import timezone

from billing.models import AlertChannel, AlertDelivery, AlertFiring, AlertRule, Budget
from tenants.models import AuditEvent
from tests.gateway import console_world
from tests.gateway.test_console import signed_in

pytestmark = pytest.mark.django_db

BUDGET = {
    "name": "Launch",
    "limit": "12.50",
    "measure": "price",
    "mode": "hard",
    "window": "month",
    "anchor_day": "15",
    "week_start": "0",
    "carry_over": "none",
    "include_failed": "on",
    "thresholds": "100, 80%",
    "is_enabled": "on",
}


@pytest.fixture
def world():
    return console_world.build(now=timezone.now(), calls=12)


def test_an_owner_sets_a_budget_and_the_trail_says_so(world):
    answer = signed_in(world.owner).post("/t/acme/budgets/new/", BUDGET)
    assert answer["Location"] == "/t/acme/budgets/"
    budget = Budget.objects.get(name="Launch")
    assert (budget.tenant, budget.limit, budget.anchor_day, budget.thresholds) == (
        world.acme,
        Decimal("12.5"),
        15,
        [80, 100],
    )
    assert AuditEvent.objects.filter(action="budget.create", object_id=str(budget.pk)).count() == 1


def test_the_operator_names_the_tenant_of_a_budget(world):
    signed_in(world.clerk).post("/platform/budgets/new/", BUDGET | {"tenant": "nordlicht"})
    assert Budget.objects.get(name="Launch").tenant == world.nordlicht


def test_a_tenants_form_cannot_name_another_tenant(world):
    signed_in(world.owner).post("/t/acme/budgets/new/", BUDGET | {"tenant": "nordlicht"})
    assert not Budget.objects.filter(name="Launch", tenant=world.nordlicht).exists()


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"limit": "-1"}, "limit"),
        ({"thresholds": "many"}, "thresholds"),
        ({"thresholds": "2000"}, "thresholds"),
        ({"measure": "requests", "limit": "1.5"}, "limit"),
        ({"anchor_day": "40"}, "anchor_day"),
    ],
)
def test_a_wrong_budget_is_refused_beside_its_field_and_changes_nothing(wrong, field, world):
    before = Budget.objects.count()
    answer = signed_in(world.owner).post("/t/acme/budgets/new/", BUDGET | wrong)
    assert (answer.status_code, list(answer.context["form"].errors)) == (422, [field])
    assert Budget.objects.count() == before


def test_a_budget_is_changed_and_removed(world):
    client, path = signed_in(world.owner), f"/t/acme/budgets/{world.money.budget_id}/"
    client.post(path, BUDGET)
    assert Budget.objects.get(pk=world.money.budget_id).limit == Decimal("12.5")
    client.post(f"{path}remove/")
    assert not Budget.objects.filter(pk=world.money.budget_id).exists()


def test_another_tenants_budget_does_not_exist_here(world):
    foreign = Budget.objects.get(name="Redaktion")
    client = signed_in(world.owner)
    assert client.get(f"/t/acme/budgets/{foreign.pk}/").status_code == 404
    assert client.post(f"/t/acme/budgets/{foreign.pk}/remove/").status_code == 404
    assert Budget.objects.filter(pk=foreign.pk).exists()


def test_a_tenant_is_not_told_what_it_costs(world):
    rows = signed_in(world.owner).get("/t/acme/budgets/").context["rows"]
    assert {row.budget.measure: row.used is None for row in rows} == {
        "price": False,
        "tokens": False,
        "cost": True,
    }


def test_an_alert_is_acknowledged_and_snoozed(world):
    client, path = signed_in(world.owner), f"/t/acme/budgets/alerts/{world.money.alert_id}/"
    client.post(f"{path}acknowledge/")
    client.post(f"{path}snooze/", {"hours": "4"})
    firing = AlertFiring.objects.get(pk=world.money.alert_id)
    assert firing.acknowledged_by == world.owner.email
    assert firing.snoozed_until > timezone.now()


def test_a_dead_message_is_sent_again(world):
    path = reverse("tenant_delivery_replay", args=("acme", world.money.delivery_id))
    signed_in(world.owner).post(path)
    assert AlertDelivery.objects.get(pk=world.money.delivery_id).state == "pending"


def test_a_channels_secret_is_shown_once_and_its_end_needs_its_name(world):
    client = signed_in(world.owner)
    path = f"/t/acme/budgets/channels/{world.money.channel_id}/"
    page = client.post(f"{path}rotate/", {"grace_s": "3600"}).content.decode()
    assert "whsec_" in page
    assert "whsec_" not in client.get(path).content.decode()
    client.post(f"{path}close/", {"confirm": "operations"})
    assert AlertChannel.objects.filter(pk=world.money.channel_id).exists()
    client.post(f"{path}close/", {"confirm": "Operations"})
    assert not AlertChannel.objects.filter(pk=world.money.channel_id).exists()


RULE = {
    "kind": "latency_p95",
    "name": "Slow",
    "severity": "warning",
    "thresholds": "2000, 4000",
    "basis": "actual",
    "unit": "percent",
    "window": "day",
    "span_s": "600",
    "min_requests": "50",
    "min_amount": "1",
    "is_enabled": "on",
}


def test_a_rule_tells_at_once_and_then_somebody_else(world):
    later = AlertChannel.objects.get(tenant=world.acme, kind="email")
    data = RULE | {
        "channels": [str(world.money.channel_id)],
        "escalate_after_min": "15",
        "escalate_to": [str(later.pk)],
    }
    answer = signed_in(world.owner).post("/t/acme/budgets/rules/new/", data)
    assert answer["Location"] == "/t/acme/budgets/rules/"
    rule = AlertRule.objects.get(name="Slow")
    assert [(step.after_s, step.channel_id) for step in rule.steps.all()] == [
        (0, world.money.channel_id),
        (900, later.pk),
    ]
    again = signed_in(world.owner).get(f"/t/acme/budgets/rules/{rule.pk}/").context["form"]
    assert (again["escalate_after_min"].value(), again["thresholds"].value()) == (15, "2000, 4000")


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"thresholds": "0"}, "thresholds"),
        ({"action": "freeze_key"}, "action"),
        ({"escalate_after_min": "5"}, "escalate_after_min"),
        ({"kind": "budget", "thresholds": "80"}, "budget"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(wrong, field, world):
    answer = signed_in(world.owner).post("/t/acme/budgets/rules/new/", RULE | wrong)
    assert (answer.status_code, list(answer.context["form"].errors)) == (422, [field])
    assert not AlertRule.objects.filter(name="Slow").exists()
