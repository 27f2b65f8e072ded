from datetime import UTC, datetime
from decimal import Decimal

import pytest
from django.db import transaction

from billing.models import Budget, Plan, PlanVersion
from billing.snapshot import entry_of, load
from billing.subscriptions import publish, subscribe
from tenants import versions
from tenants.principal import SYSTEM
from tests import factories
from tests.billing.ledger import NOON

pytestmark = pytest.mark.django_db


def plan(slug: str, **terms) -> Plan:
    made = Plan.objects.create(slug=slug, name=slug)
    publish(plan=made, terms=terms, actor=SYSTEM)
    return made


def test_a_tenant_nobody_put_on_a_plan_has_the_default_plans_terms():
    tenant = factories.tenant()
    snapshot = load()
    assert tenant.id not in snapshot.terms
    assert snapshot.default_terms.plan == "pass-through@1"
    assert snapshot.default_terms.allowed_models is None
    price = snapshot.default_terms.pricing.price_of(cost_pico=41, cost_currency="USD", units={}, model="m")
    assert price == 41


def test_a_subscriber_has_the_terms_of_its_version_also_after_a_new_one():
    tenant = factories.tenant()
    sold = plan(
        "scale",
        charges=[{"model": "cost_plus", "markup_percent": "8"}],
        allowed_models=["a", "b"],
        limits={"limit_rpm": 5},
    )
    subscribe(tenant=tenant, plan=sold, start=NOON, actor=SYSTEM)
    publish(plan=sold, terms={"charges": [{"model": "cost_plus", "markup_percent": "50"}]}, actor=SYSTEM)
    terms = load().terms[tenant.id]
    assert (terms.plan, terms.currency) == ("scale@1", "USD")
    assert terms.plan_version_id == PlanVersion.objects.get(plan=sold, number=1).id
    assert terms.allowed_models == {"a", "b"}
    assert (terms.limit_rpm, terms.limit_tpm, terms.max_concurrent) == (5, None, None)
    assert (terms.priority, terms.priority_weight) == ("interactive", 10)
    assert terms.pricing.price_of(cost_pico=100, cost_currency="USD", units={}, model="a") == 108


def test_a_plan_says_who_waits_for_whom_where_a_providers_limit_is_short():
    tenant = factories.tenant()
    sold = plan("free", charges=[], limits={"priority": "free", "priority_weight": 3})
    subscribe(tenant=tenant, plan=sold, start=NOON, actor=SYSTEM)
    terms = load().terms[tenant.id]
    assert (terms.priority, terms.priority_weight) == ("free", 3)


def test_tenants_on_one_version_share_its_terms():
    sold = plan("scale", charges=[])
    tenants = [factories.tenant() for _ in range(3)]
    for tenant in tenants:
        subscribe(tenant=tenant, plan=sold, start=NOON, actor=SYSTEM)
    terms = load().terms
    assert terms[tenants[0].id] is terms[tenants[1].id] is terms[tenants[2].id]


def test_enabled_budgets_are_listed_by_tenant_in_micro_units_or_counts():
    tenant = factories.tenant(timezone="Asia/Tokyo")
    Budget.objects.create(tenant=tenant, limit=Decimal("1.234567"), name="money")
    Budget.objects.create(tenant=tenant, limit=Decimal(500), measure="tokens", mode="soft", window="day")
    Budget.objects.create(tenant=tenant, limit=Decimal(1), is_enabled=False)
    entries = load().budgets[tenant.id]
    assert [(e.name, e.measure, e.limit, e.mode, e.window, e.timezone) for e in entries] == [
        ("money", "price", 1_234_567, "hard", "month", "Asia/Tokyo"),
        ("", "tokens", 500, "soft", "day", "Asia/Tokyo"),
    ]


def test_a_window_is_remembered_until_it_ends():
    tenant = factories.tenant(timezone="Asia/Tokyo")
    entry = entry_of(Budget(tenant=tenant, limit=Decimal(1), window="day"))
    noon = datetime(2026, 5, 1, 12, tzinfo=UTC).timestamp()
    first = entry.window_at(noon)
    assert (first.start, first.end) == (noon - 21 * 3600, noon + 3 * 3600)
    assert entry.window_at(noon + 3 * 3600 - 1) is first
    following = entry.window_at(noon + 3 * 3600)
    assert following.start == first.end
    assert entry.window_at(noon) == first


def test_the_version_is_the_billing_sections():
    before = load().version
    with transaction.atomic():
        versions.bump("billing")
    assert load().version == before + 1
