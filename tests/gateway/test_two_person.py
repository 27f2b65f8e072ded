"""The two-person rule through both doors: prices of providers and plans, caps of budgets and plans."""

import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from django.core import mail
from django.utils import timezone

from billing.models import Budget, Plan
from routing.models import CostRate
from tenants import keys, tasks
from tenants.models import AuditEvent, Proposal
from tenants.principal import Principal
from tests import factories
from tests.gateway import console_world
from tests.gateway.test_console import signed_in
from tests.gateway.test_console_billing import PLAN
from tests.gateway.test_console_budgets import BUDGET

pytestmark = pytest.mark.django_db
API = "/api/v1"
RATE = {
    "provider": "openai", "provider_model": "gpt-4o", "component": "input", "price": "1.5",
    "effective_from": "2026-10-01T00:00:00Z",
}  # fmt: skip
NEW_TERMS = {"base_amount": "99", "entitlements": {"limits": {"limit_rpm": 1200, "max_concurrent": 64}}}


@pytest.fixture
def world(settings):
    settings.TOLLHOUSE_TWO_PERSON = "prices,caps"
    world = console_world.build(now=timezone.now(), calls=10)
    Proposal.objects.all().delete()
    return world


@pytest.fixture
def asker(world):
    """A key of the clerk's making."""
    return factories.key_client(
        keys.issue(tenant=None, name="clara", scopes=["*"], actor=clerk_of(world)).text
    )


def clerk_of(world):
    return Principal(
        kind="user", id=world.clerk.id, label=world.clerk.email, operator_scopes=frozenset({"*"})
    )


def ask(client, method, path, body=None, **headers):
    answer = client.generic(
        method.upper(),
        f"{API}{path}",
        json.dumps(body or {}),
        content_type="application/json",
        headers=headers,
    )
    assert answer.status_code == 202, answer.content
    return Proposal.objects.get(pk=answer.json()["proposal"]["id"])


def decide(person, proposal, verb="approve"):
    return signed_in(person).post(
        f"{API}/approvals/{proposal.pk}/{verb}/", b"{}", content_type="application/json"
    )


def rates():
    return list(
        CostRate.objects.filter(provider="openai", provider_model="gpt-4o", component="input")
        .order_by("effective_from")
        .values_list("price", "effective_to")
    )


def test_a_cost_rate_waits_for_another_person(world, asker):
    before = rates()
    proposal = ask(asker, "post", "/cost-rates/", RATE, **{"X-Tollhouse-Reason": "New contract"})
    assert (rates(), proposal.reason, proposal.state) == (before, "New contract", "open")
    assert decide(world.operator, proposal).status_code == 200
    at = datetime(2026, 10, 1, tzinfo=UTC)
    assert rates() == [(Decimal("2.5000000000"), at), (Decimal("1.5000000000"), None)]
    event = AuditEvent.objects.filter(action="cost_rate.create").first()
    assert (event.actor_label, event.reason.endswith("New contract")) == ("olga@example.com", True)


def test_a_rate_that_moved_meanwhile_is_not_closed_twice(world, asker):
    proposal = ask(asker, "post", "/cost-rates/", RATE)
    early = datetime(2026, 9, 1, tzinfo=UTC)
    CostRate.objects.filter(provider="openai", provider_model="gpt-4o").update(effective_to=early)
    before = rates()
    answer = decide(world.operator, proposal)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
    assert rates() == before


def test_an_import_of_rates_waits_as_a_whole(world, asker):
    review = asker.post(f"{API}/cost-rates/import/", {"rates": [RATE]}, format="json").json()
    body = {"rates": [RATE], "apply": True, "digest": review["digest"]}
    proposal = ask(asker, "post", "/cost-rates/import/", body)
    assert len(rates()) == 1
    assert decide(world.operator, proposal).status_code == 200
    assert len(rates()) == 2


def test_a_bad_rate_is_refused_at_once(world, asker):
    answer = asker.post(f"{API}/cost-rates/", {**RATE, "currency": "EUR"}, format="json")
    assert (answer.status_code, Proposal.objects.count()) == (400, 0)


def test_a_plans_price_waits_and_is_published_as_proposed(world, asker):
    plan = Plan.objects.get(slug="scale-up")
    proposal = ask(asker, "patch", "/plans/scale-up/", NEW_TERMS)
    assert (proposal.kind, plan.versions.count()) == ("prices", 1)
    assert (proposal.before["base_amount"], proposal.after["base_amount"]) == ("49.0000", "99.0000")
    assert decide(world.operator, proposal).status_code == 200
    newest = plan.versions.order_by("-number").first()
    assert (newest.number, newest.base_amount) == (2, Decimal(99))


def test_a_plans_limit_raised_is_a_cap_and_one_lowered_needs_nobody(world, asker):
    raised = {"entitlements": {"limits": {"limit_rpm": 5000, "max_concurrent": 64}}}
    assert ask(asker, "patch", "/plans/scale-up/", raised).kind == "caps"
    lowered = {"entitlements": {"limits": {"limit_rpm": 60, "max_concurrent": 64}}}
    answer = asker.patch(f"{API}/plans/scale-up/", lowered, format="json")
    assert (answer.status_code, answer.json()["version"]) == (200, 2)


def test_a_name_does_not_get_lost_with_the_terms(world, asker):
    answer = asker.patch(f"{API}/plans/scale-up/", {"name": "Scale", **NEW_TERMS}, format="json")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "name")
    assert (Plan.objects.get(slug="scale-up").name, Proposal.objects.count()) == ("Scale-up", 0)


@pytest.mark.parametrize(
    "loosened",
    [{"limit": "999999"}, {"is_enabled": False}, {"anchor_day": 3}, {"scope": {"feature": "search"}}],
)
def test_a_loosened_budget_waits(world, asker, loosened):
    path = f"/budgets/{world.money.budget_id}/"
    before = Budget.objects.filter(pk=world.money.budget_id).values().get()
    proposal = ask(asker, "patch", path, loosened)
    assert Budget.objects.filter(pk=world.money.budget_id).values().get() == before
    assert decide(world.operator, proposal).status_code == 200
    after = Budget.objects.filter(pk=world.money.budget_id).values().get()
    moved = {name for name in after if after[name] != before[name]} - {"updated_at"}
    assert moved >= {name if name != "scope" else "feature" for name in loosened}
    asked = asker.get(f"{API}{path}").json()
    assert {name: asked[name] for name in loosened if name in ("is_enabled", "anchor_day")} == {
        name: value for name, value in loosened.items() if name in ("is_enabled", "anchor_day")
    }


def test_a_tightened_or_renamed_budget_needs_nobody(world, asker):
    path = f"{API}/budgets/{world.money.budget_id}/"
    answer = asker.patch(path, {"limit": "1", "name": "Tight"}, format="json")
    assert (answer.status_code, answer.json()["limit"], answer.json()["name"]) == (200, "1.000000", "Tight")


def test_a_budget_that_changed_meanwhile_stays_as_it_is(world, asker):
    proposal = ask(asker, "patch", f"/budgets/{world.money.budget_id}/", {"limit": "999999"})
    Budget.objects.filter(pk=world.money.budget_id).update(limit="5")
    assert decide(world.operator, proposal).status_code == 409
    assert Budget.objects.get(pk=world.money.budget_id).limit == 5


def test_a_removed_budget_waits(world, asker):
    proposal = ask(asker, "delete", f"/budgets/{world.money.budget_id}/")
    assert Budget.objects.filter(pk=world.money.budget_id).exists()
    assert decide(world.operator, proposal).status_code == 200
    assert not Budget.objects.filter(pk=world.money.budget_id).exists()


def test_a_repeated_request_gets_the_same_proposal(world, asker):
    headers = {"Idempotency-Key": "one"}
    first = ask(asker, "post", "/cost-rates/", RATE, **headers)
    assert ask(asker, "post", "/cost-rates/", RATE, **headers) == first
    again = asker.post(f"{API}/cost-rates/", RATE, format="json")
    assert (again.status_code, Proposal.objects.count()) == (409, 1)


# ------------------------------------------------------------------ the console


def test_a_form_leads_to_its_proposal_and_another_person_carries_it_out(world):
    asked = BUDGET | {"reason": "Launch week"}
    answer = signed_in(world.owner).post(f"/t/acme/budgets/{world.money.budget_id}/", asked)
    proposal = Proposal.objects.get()
    page = f"/t/acme/approvals/{proposal.pk}/"
    assert (answer.status_code, answer["Location"], proposal.reason) == (302, page, "Launch week")
    mine = signed_in(world.owner).get(page)
    assert (mine.context["is_mine"], mine.context["may_decide"]) == (True, False)
    signed_in(world.owner).post(f"{page}decide/", {"decision": "approve"})
    assert Proposal.objects.get().state == "open"
    signed_in(world.operator).post(f"/platform/approvals/{proposal.pk}/decide/", {"decision": "approve"})
    assert Proposal.objects.get().state == "executed"
    assert Budget.objects.get(pk=world.money.budget_id).limit == Decimal("12.5")


def test_a_plan_form_leads_to_its_proposal(world):
    answer = signed_in(world.clerk).post("/platform/billing/plans/scale-up/edit/", PLAN)
    assert answer["Location"] == f"/platform/approvals/{Proposal.objects.get().pk}/"
    assert Plan.objects.get(slug="scale-up").versions.count() == 1


# ------------------------------------------------------------------ mails


def test_those_who_may_decide_are_told_once_and_nobody_else(world):
    signed_in(world.clerk).post("/platform/billing/plans/scale-up/edit/", PLAN)
    mail.outbox.clear()
    assert tasks.tend_proposals() == 1
    assert tasks.tend_proposals() == 0
    (message,) = mail.outbox
    assert message.to == ["olga@example.com"]
    assert message.subject == "clara@example.com asks for your approval"
    assert f"/platform/approvals/{Proposal.objects.get().pk}/" in message.body


# ------------------------------------------------------------------ keys


@pytest.mark.parametrize("limit", [900, None])
def test_a_keys_limit_raised_or_taken_away_waits_with_what_came_along(world, limit):
    path, key = f"/tenants/acme/keys/{world.key.id}/", world.key
    proposal = ask(signed_in(world.owner), "patch", path, {"limit_rpm": limit, "name": "Front"})
    key.refresh_from_db()
    assert (key.limit_rpm, key.name, proposal.kind) == (600, "Production backend", "caps")
    assert decide(world.operator, proposal).status_code == 200
    key.refresh_from_db()
    assert (key.limit_rpm, key.name) == (limit, "Front")


def test_a_keys_limit_lowered_or_first_set_needs_nobody(world):
    owner, path = signed_in(world.owner), f"{API}/tenants/acme/keys/{world.key.id}/"
    body = {"limit_rpm": 60, "limit_tpm": 1000}
    answer = owner.patch(path, body, content_type="application/json")
    assert (answer.status_code, answer.json()["limit_rpm"], answer.json()["limit_tpm"]) == (200, 60, 1000)


def test_a_key_that_changed_meanwhile_keeps_its_limit(world):
    proposal = ask(signed_in(world.owner), "patch", f"/tenants/acme/keys/{world.key.id}/", {"limit_rpm": 900})
    type(world.key).objects.filter(pk=world.key.pk).update(limit_rpm=60)
    assert decide(world.operator, proposal).status_code == 409
    world.key.refresh_from_db()
    assert world.key.limit_rpm == 60
