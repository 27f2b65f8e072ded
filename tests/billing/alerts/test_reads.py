from datetime import timedelta
from decimal import Decimal

import pytest

from billing.alerts import reads
from billing.alerts.firing import acknowledge, fire, resolve
from billing.models import AlertDelivery, AlertRule
from tenants.principal import SYSTEM, Principal
from tests.billing.alerts.world import NOW, alarm, channel
from tests.factories import tenant

pytestmark = pytest.mark.django_db


def member_of(*tenants, scopes=("budgets:read",)) -> Principal:
    return Principal("user", None, "m", tenant_scopes={each.pk: frozenset(scopes) for each in tenants})


def test_people_see_their_tenants_alerts_and_cost_only_where_they_may() -> None:
    acme, globex = tenant("acme"), tenant("globex")
    plain = fire(alarm=alarm(acme), now=NOW)
    cost = fire(alarm=alarm(acme, threshold=Decimal(90), is_cost=True), now=NOW)
    theirs = fire(alarm=alarm(globex, subject="budget:2"), now=NOW)
    platform = fire(alarm=alarm(None, subject="rule:3"), now=NOW)
    assert set(reads.firings(member_of(acme))) == {plain}
    assert set(reads.firings(member_of(acme, scopes=("budgets:read", "cost:read")))) == {plain, cost}
    assert set(reads.firings(SYSTEM)) == {plain, cost, theirs, platform}
    assert set(reads.firings(SYSTEM, tenant=globex)) == {theirs}
    assert list(reads.firings(member_of())) == []


def test_a_summary_counts_what_is_open_unanswered_and_lost() -> None:
    acme = tenant("acme")
    channel(acme, "webhook")
    rows = [fire(alarm=alarm(acme, threshold=Decimal(n)), now=NOW) for n in (50, 80, 100)]
    fire(alarm=alarm(acme, threshold=Decimal(120), severity="critical"), now=NOW)
    acknowledge(firing=rows[0], actor=SYSTEM, now=NOW)
    resolve(firing=rows[1], now=NOW)
    AlertDelivery.objects.filter(firing=rows[2]).update(state="dead")
    who = member_of(acme)
    found = reads.summary(
        who, tenant=acme, since=AlertDelivery.objects.first().updated_at - timedelta(days=1)
    )
    assert found == reads.Summary({"warning": 2, "critical": 1}, 2, 1)
    assert set(reads.open_firings(who)) == {rows[0], rows[2], *reads.open_firings(who).filter(threshold=120)}
    assert reads.deliveries(who, firing=rows[2]).get().state == "dead"


def test_channels_and_rules_are_those_of_one_tenant_or_of_the_operator() -> None:
    acme = tenant("acme")
    own, operators = channel(acme, "email"), channel(None, "email")
    rule = AlertRule.objects.create(tenant=acme, name="r", kind="error_rate", thresholds=[5])
    assert list(reads.channels(member_of(acme), tenant=acme)) == [own]
    assert list(reads.channels(member_of(acme), tenant=None)) == []
    assert list(reads.channels(SYSTEM, tenant=None)) == [operators]
    assert list(reads.rules(member_of(acme), tenant=acme)) == [rule]
