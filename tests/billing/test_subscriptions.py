from datetime import timedelta

import pytest

from billing import demo
from billing.models import Plan, PlanVersion, Subscription
from billing.snapshot import load
from billing.subscriptions import change_plan, current_version, publish, subscribe
from tenants import versions
from tenants.errors import ApiError
from tenants.models import AuditEvent
from tenants.principal import SYSTEM
from tests import factories
from tests.billing.ledger import NOON

pytestmark = pytest.mark.django_db


def plan(slug: str, markup: str = "10", currency: str = "USD") -> Plan:
    made = Plan.objects.create(slug=slug, name=slug)
    charges = [{"model": "cost_plus", "markup_percent": markup}]
    publish(plan=made, terms={"charges": charges, "currency": currency}, actor=SYSTEM)
    return made


def test_a_tenant_is_put_on_a_plan_once():
    tenant, sold = factories.tenant(), plan("scale")
    before = versions.current()["billing"]
    made = subscribe(tenant=tenant, plan=sold, start=NOON, anchor_day=15, actor=SYSTEM)
    assert (str(made.plan_version), made.start, made.end, made.anchor_day) == ("scale@1", NOON, None, 15)
    assert versions.current()["billing"] == before + 1
    assert AuditEvent.objects.filter(action="subscription.change", tenant=tenant).count() == 1
    with pytest.raises(ApiError) as refused:
        subscribe(tenant=tenant, plan=sold, start=NOON, actor=SYSTEM)
    assert refused.value.code == "conflict"
    assert Subscription.objects.filter(tenant=tenant).count() == 1


def test_a_change_ends_one_row_and_begins_another():
    tenant = factories.tenant()
    subscribe(tenant=tenant, plan=plan("starter"), start=NOON, anchor_day=15, actor=SYSTEM)
    change_plan(tenant=tenant, plan=plan("scale"), at=NOON + timedelta(days=3), actor=SYSTEM)
    history = Subscription.objects.filter(tenant=tenant).order_by("start")
    assert [(str(s.plan_version), s.start, s.end, s.anchor_day) for s in history] == [
        ("starter@1", NOON, NOON + timedelta(days=3), 15),
        ("scale@1", NOON + timedelta(days=3), None, 15),
    ]
    assert str(current_version(tenant)) == "scale@1"


def test_a_change_before_the_present_plan_is_refused_and_changes_nothing():
    tenant = factories.tenant()
    subscribe(tenant=tenant, plan=plan("starter"), start=NOON, actor=SYSTEM)
    with pytest.raises(ApiError) as refused:
        change_plan(tenant=tenant, plan=plan("scale"), at=NOON, actor=SYSTEM)
    assert (refused.value.code, refused.value.param) == ("invalid_request", "at")
    assert str(current_version(tenant)) == "starter@1"


def test_a_plan_in_another_currency_or_without_a_version_is_refused():
    tenant = factories.tenant(currency="EUR")
    for unfit in (plan("scale"), Plan.objects.create(slug="empty", name="Empty")):
        with pytest.raises(ApiError) as refused:
            subscribe(tenant=tenant, plan=unfit, start=NOON, actor=SYSTEM)
        assert (refused.value.code, refused.value.param) == ("invalid_request", "plan")
    assert not Subscription.objects.filter(tenant=tenant).exists()


def test_a_tenant_without_a_subscription_is_on_the_default_plan():
    assert str(current_version(factories.tenant())) == "pass-through@1"


def test_a_version_is_never_published_with_charges_that_cannot_be_rated():
    sold = plan("scale")
    with pytest.raises(ApiError) as refused:
        publish(plan=sold, terms={"charges": [{"model": "magic"}]}, actor=SYSTEM)
    assert refused.value.param == "charges[0].model"
    assert PlanVersion.objects.filter(plan=sold).count() == 1


def test_the_demo_sells_two_plans_and_may_be_seeded_again():
    demo.seed()
    demo.seed()
    found = {
        str(v): v.charges[0]["markup_percent"] for v in PlanVersion.objects.exclude(plan__is_default=True)
    }
    assert found == {"starter@1": "20", "scale@1": "8"}
    assert load().default_terms.plan == "pass-through@1"
