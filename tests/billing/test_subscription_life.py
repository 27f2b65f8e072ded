from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from billing.models import Subscription, SubscriptionChange
from billing.subscriptions import (
    apply_due,
    cancel,
    change_plan,
    current_version,
    preview_change,
    schedule,
    withdraw,
)
from tenants.errors import ApiError
from tenants.models import AuditEvent
from tenants.principal import SYSTEM
from tests import factories
from tests.billing.invoicing import world
from tests.factories import client_with

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.billing.urls")]
MIDDLE, END = datetime(2026, 10, 16, 12, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture
def plans():
    world.seller()
    return {
        "basic": world.plan("basic", base_amount="20", is_in_advance=True),
        "pro": world.plan("pro", base_amount="50", is_in_advance=True),
        "later": world.plan("later", base_amount="62"),
    }


@pytest.fixture
def tenant(plans):
    return world.buyer(plans["basic"])


def history(tenant):
    rows = Subscription.objects.filter(tenant=tenant).order_by("start")
    return [(str(row.plan_version), row.start, row.end) for row in rows]


def test_a_scheduled_change_is_carried_out_at_the_very_end_of_the_period(tenant, plans):
    made = schedule(tenant=tenant, plan=plans["pro"], now=MIDDLE, actor=SYSTEM)
    assert made.at == END
    assert apply_due(now=END - timedelta(seconds=1)) == 0
    assert str(current_version(tenant)) == "basic@1"
    assert (apply_due(now=END + timedelta(minutes=3)), apply_due(now=END + timedelta(minutes=4))) == (1, 0)
    assert history(tenant) == [("basic@1", world.OCTOBER, END), ("pro@1", END, None)]
    assert SubscriptionChange.objects.get().state == "done"


def test_a_cancelled_subscription_ends_with_its_period_and_the_default_plan_follows(tenant):
    schedule(tenant=tenant, plan=None, now=MIDDLE, actor=SYSTEM)
    apply_due(now=END)
    assert history(tenant) == [("basic@1", world.OCTOBER, END)]
    assert str(current_version(tenant)) == "pass-through@1"


def test_what_was_scheduled_last_holds_and_can_be_withdrawn(tenant, plans):
    schedule(tenant=tenant, plan=plans["pro"], now=MIDDLE, actor=SYSTEM)
    schedule(tenant=tenant, plan=None, now=MIDDLE, actor=SYSTEM)
    withdraw(tenant=tenant, actor=SYSTEM)
    assert apply_due(now=END) == 0
    assert set(SubscriptionChange.objects.values_list("state", flat=True)) == {"withdrawn"}
    with pytest.raises(ApiError, match="No change is scheduled"):
        withdraw(tenant=tenant, actor=SYSTEM)


def test_a_change_now_withdraws_what_was_scheduled(tenant, plans):
    schedule(tenant=tenant, plan=None, now=MIDDLE, actor=SYSTEM)
    change_plan(tenant=tenant, plan=plans["pro"], at=MIDDLE, actor=SYSTEM)
    assert apply_due(now=END) == 0
    assert history(tenant) == [("basic@1", world.OCTOBER, MIDDLE), ("pro@1", MIDDLE, None)]


def test_what_has_become_impossible_is_refused_on_its_row_and_holds_up_nobody(tenant, plans):
    other = world.buyer(plans["basic"])
    schedule(tenant=tenant, plan=plans["pro"], now=MIDDLE, actor=SYSTEM)
    schedule(tenant=other, plan=plans["pro"], now=MIDDLE, actor=SYSTEM)
    type(tenant).objects.filter(pk=tenant.pk).update(currency="USD")
    assert apply_due(now=END) == 1
    refused = SubscriptionChange.objects.get(tenant=tenant)
    assert (refused.state, refused.detail) == ("refused", "The plan is in EUR, the tenant in USD.")
    assert history(tenant) == [("basic@1", world.OCTOBER, None)]


def test_without_a_subscription_there_is_nothing_to_end_or_change(plans):
    tenant = factories.tenant(currency="EUR")
    for verb in (
        lambda: cancel(tenant=tenant, at=MIDDLE, actor=SYSTEM),
        lambda: schedule(tenant=tenant, plan=plans["pro"], now=MIDDLE, actor=SYSTEM),
    ):
        with pytest.raises(ApiError) as refused:
            verb()
        assert refused.value.code == "conflict"


def test_the_preview_is_what_the_document_then_says(tenant, plans):
    world.issued(tenant, occasion="opening", now=world.OCTOBER + timedelta(hours=1))
    shown = preview_change(tenant=tenant, plan=plans["pro"], at=MIDDLE)
    assert (shown.mode, shown.unused, shown.whole) == ("day", 16, 31)
    assert (shown.credit_minor, shown.charge_minor, shown.net_minor) == (-1032, 2581, 1549)
    change_plan(tenant=tenant, plan=plans["pro"], at=MIDDLE, actor=SYSTEM)
    lines = world.lines(world.issued(tenant))
    assert [(kind, net) for kind, _, net in lines if kind == "proration"] == [
        ("proration", -1032), ("proration", 2581),
    ]  # fmt: skip


def test_a_plan_paid_afterwards_charges_nothing_at_the_change(tenant, plans):
    shown = preview_change(tenant=tenant, plan=plans["later"], at=MIDDLE)
    assert (shown.credit_minor, shown.charge_minor) == (-1032, 0)


# ------------------------------------------------------------------ REST

ROOT = "/api/v1/tenants/acme/subscription"


def error_of(response: Any) -> tuple[int, str, str | None]:
    error = response.json()["error"]
    return response.status_code, error["code"], error["param"]


def test_an_operator_schedules_previews_and_withdraws(plans):
    acme = world.buyer(plans["basic"], slug="acme")
    clerk = client_with(None, "plans:*")
    preview = clerk.get(f"{ROOT}/preview/?plan=pro").json()
    assert (preview["currency"], preview["mode"]) == ("EUR", "day")
    made = clerk.post(f"{ROOT}/change/", {"plan": "pro"}, format="json").json()
    assert made["plan"] == "pro"
    assert clerk.get(f"{ROOT}/change/").json() == made
    assert clerk.delete(f"{ROOT}/change/").json() == {"at": None, "plan": None}
    assert clerk.post(f"{ROOT}/cancel/", {}, format="json").json()["plan"] is None
    assert clerk.post(f"{ROOT}/change/", {"plan": "pro", "when": "now"}, format="json").json()["at"] is None
    assert str(current_version(acme)) == "pro@1"
    assert error_of(clerk.post(f"{ROOT}/change/", {"plan": "none"}, format="json")) == (
        400, "invalid_request", "plan",
    )  # fmt: skip
    assert clerk.post(f"{ROOT}/cancel/", {"when": "now"}, format="json").status_code == 200
    assert str(current_version(acme)) == "pass-through@1"
    assert AuditEvent.objects.filter(tenant=acme, action__startswith="subscription.").count() == 6


def test_a_tenant_may_look_but_not_move_itself(plans):
    acme = world.buyer(plans["basic"], slug="acme")
    own = client_with(acme, "*")
    assert own.get(f"{ROOT}/preview/?plan=pro").status_code == 200
    for answer in (
        own.post(f"{ROOT}/change/", {"plan": "pro"}, format="json"),
        own.delete(f"{ROOT}/change/"),
        own.post(f"{ROOT}/cancel/", {}, format="json"),
    ):
        assert error_of(answer)[:2] == (403, "permission_denied")
    assert not SubscriptionChange.objects.exists()


def test_a_plan_entitles_to_features_that_a_new_version_keeps(plans):
    clerk = client_with(None, "plans:*")
    terms = {"entitlements": {"features": ["sso", "priority-support"]}}
    assert clerk.patch("/api/v1/plans/pro/", terms, format="json").json()["entitlements"]["features"] == [
        "sso", "priority-support",
    ]  # fmt: skip
    changed = clerk.patch("/api/v1/plans/pro/", {"base_amount": "60"}, format="json").json()
    assert (changed["version"], changed["entitlements"]["features"]) == (3, ["sso", "priority-support"])
