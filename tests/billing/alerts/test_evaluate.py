import random
from datetime import timedelta
from decimal import Decimal

import pytest

from billing.alerts import evaluate
from billing.alerts.firing import resolve
from billing.models import AlertDelivery, AlertFiring, AlertRule, AlertWatch, Budget
from billing.rating.money import PICO
from tests.billing.alerts.world import NOW, after, channel
from tests.billing.ledger import put, record
from tests.factories import api_key, tenant

pytestmark = pytest.mark.django_db


@pytest.fixture
def acme():
    return tenant("acme")


def spend(of, dollars: float, at=NOW, **changes) -> None:
    changes.setdefault("cost_pico", int(dollars * PICO) // 2)
    put(record(at - timedelta(seconds=1), tenant_id=of.pk, price_pico=int(dollars * PICO),
               cost_components=None, **changes), recorded_at=at)  # fmt: skip


def budget(of, **fields) -> Budget:
    return Budget.objects.create(
        tenant=of, **{"name": "Chat", "limit": 10, "thresholds": [50, 80, 100], **fields}
    )


def fired() -> list[Decimal]:
    """Thresholds in the order in which they fired."""
    return [int(each) for each in AlertFiring.objects.order_by("id").values_list("threshold", flat=True)]


# ------------------------------------------------------------------ budgets


def test_a_budgets_own_thresholds_tell_the_tenants_default_channels(acme) -> None:
    told = channel(acme, "email")
    channel(acme, "webhook", is_default=False)
    channel(tenant("globex"), "email")
    channel(None, "email")
    budget(acme, mode="soft")
    spend(acme, 8.5)
    assert evaluate.evaluate_budgets(now=NOW) == 2
    assert fired() == [50, 80]
    assert {each.channel for each in AlertDelivery.objects.all()} == {told}
    row = AlertFiring.objects.get(threshold=80)
    assert row.title == "Chat has reached 80 %: 8.50 USD of 10.00 USD"
    assert row.body.startswith("Calls go on. It resets at 2026-12-01T00:00:00Z")
    assert (row.value, row.limit, row.currency, row.severity) == (Decimal("8.5"), 10, "USD", "warning")


def test_each_threshold_fires_once_in_a_window_and_again_in_the_next(acme) -> None:
    budget(acme)
    spend(acme, 6)
    assert [evaluate.evaluate_budgets(now=NOW) for _ in range(3)] == [1, 0, 0]
    spend(acme, 5)
    assert evaluate.evaluate_budgets(now=after(minutes=1)) == 2
    assert AlertFiring.objects.get(threshold=100).severity == "critical"
    spend(acme, 6, at=after(days=10))
    assert evaluate.evaluate_budgets(now=after(days=10)) == 1
    assert fired() == [50, 80, 100, 50]


def test_a_raised_limit_above_the_spend_arms_the_thresholds_again(acme) -> None:
    row = budget(acme)
    spend(acme, 8.5)
    evaluate.evaluate_budgets(now=NOW)
    Budget.objects.filter(pk=row.pk).update(limit=15)  # 57 %: 50 stays fired, 80 may fire again
    assert evaluate.evaluate_budgets(now=after(minutes=1)) == 0
    assert set(AlertFiring.objects.filter(rearmed_at__isnull=False).values_list("threshold", flat=True)) == {
        80
    }
    spend(acme, 4)
    assert evaluate.evaluate_budgets(now=after(minutes=2)) == 1
    assert fired() == [50, 80, 80]
    assert evaluate.evaluate_budgets(now=after(minutes=3)) == 0


def test_only_the_budgets_scope_and_enabled_budgets_count(acme) -> None:
    key = api_key(acme).key
    budget(acme, api_key=key, feature="chat")
    budget(acme, is_enabled=False)
    budget(acme, thresholds=[])
    spend(acme, 20)
    assert evaluate.evaluate_budgets(now=NOW) == 0
    spend(acme, 6, api_key_id=key.pk, feature="chat")
    assert evaluate.evaluate_budgets(now=NOW) == 1
    assert ["Key", "key"] in AlertFiring.objects.get().facts["shown"]


def test_tokens_of_failed_attempts_do_not_fire_though_the_rollups_hold_them(acme) -> None:
    budget(acme, measure="tokens", limit=1000)
    put(record(NOW, tenant_id=acme.pk, input_tokens=5000, is_final=False))
    assert evaluate.evaluate_budgets(now=NOW) == 0
    put(record(NOW, tenant_id=acme.pk, input_tokens=445))
    assert evaluate.evaluate_budgets(now=NOW) == 1
    assert AlertFiring.objects.get().title == "Chat has reached 50 %: 500 tokens of 1,000 tokens"


def test_a_budget_on_cost_tells_the_operator_and_not_the_tenant(acme) -> None:
    channel(acme, "email")
    operators = channel(None, "email")
    budget(acme, measure="cost")
    spend(acme, 12)
    assert evaluate.evaluate_budgets(now=NOW) == 1
    assert AlertFiring.objects.get().is_cost
    assert [each.channel for each in AlertDelivery.objects.all()] == [operators]


def test_a_rule_watches_a_budget_by_absolute_amounts_for_its_own_channels(acme) -> None:
    own = budget(acme, thresholds=[])
    AlertRule.objects.create(
        tenant=acme, name="r", kind="budget", budget=own, unit="absolute", thresholds=["2.5", "7"],
        severity="info",
    )  # fmt: skip
    channel(acme, "email")
    spend(acme, 3)
    assert evaluate.evaluate_budgets(now=NOW) == 1
    row = AlertFiring.objects.get()
    assert (row.threshold, row.unit, row.severity) == (Decimal("2.5"), "absolute", "info")
    assert row.title == "Chat has reached 2.50 USD: 3.00 USD of 10.00 USD"
    assert not AlertDelivery.objects.exists()  # the rule names no channel


def test_only_the_tenants_asked_for_are_evaluated(acme) -> None:
    other = tenant("globex")
    for each in (acme, other):
        budget(each)
        spend(each, 6)
    assert evaluate.evaluate_budgets(now=NOW, tenant_ids={other.pk}) == 1
    assert AlertFiring.objects.get().tenant == other


def test_fresh_tenants_are_those_with_rows_recorded_since(acme) -> None:
    other = tenant("globex")
    spend(acme, 1, at=after(minutes=-5))
    spend(other, 1)
    assert evaluate.fresh_tenants(since=after(seconds=-5)) == {other.pk}
    assert evaluate.fresh_tenants(since=after(minutes=-10)) == {acme.pk, other.pk}


def test_a_windows_end_resolves_what_fired_in_it(acme) -> None:
    budget(acme)
    spend(acme, 6)
    evaluate.evaluate_budgets(now=NOW)
    assert evaluate.close_windows(now=after(days=6)) == 0
    assert evaluate.close_windows(now=after(days=7)) == 1
    assert AlertFiring.objects.get().state == "resolved"


def test_a_disabled_budgets_alert_is_over(acme) -> None:
    row = budget(acme, window="total")
    spend(acme, 6)
    evaluate.evaluate_budgets(now=NOW)
    assert evaluate.close_windows(now=after(days=600)) == 0
    Budget.objects.filter(pk=row.pk).update(is_enabled=False)
    assert evaluate.close_windows(now=NOW) == 1


# ------------------------------------------------------------------ forecasts


def forecast_rule(of, **fields) -> AlertRule:
    own = budget(of, thresholds=[], limit=100)
    return AlertRule.objects.create(
        tenant=of, name="r", kind="budget", budget=own, basis="forecast", thresholds=[100], **fields
    )


def test_a_forecast_fires_when_two_evaluations_in_a_row_agree(acme) -> None:
    rule = forecast_rule(acme)
    spend(acme, 85)  # 23 days and 13 hours of 30
    assert evaluate.evaluate_forecasts(now=NOW) == 0
    assert evaluate.evaluate_forecasts(now=after(minutes=1)) == 0
    assert evaluate.evaluate_forecasts(now=after(hours=1)) == 1
    row = AlertFiring.objects.get()
    assert (row.rule, row.basis) == (rule, "forecast")
    assert row.title == "Chat is heading for 108.32 USD of 100.00 USD"
    assert ["Method", "straight line"] in row.facts["shown"]
    assert evaluate.evaluate_forecasts(now=after(hours=2)) == 0


def test_a_forecast_that_falls_in_between_starts_anew(acme) -> None:
    rule = forecast_rule(acme)
    spend(acme, 85)
    evaluate.evaluate_forecasts(now=NOW)
    Budget.objects.filter(pk=rule.budget_id).update(limit=200)
    assert evaluate.evaluate_forecasts(now=after(hours=1)) == 0
    assert not AlertWatch.objects.exists()
    Budget.objects.filter(pk=rule.budget_id).update(limit=100)
    assert evaluate.evaluate_forecasts(now=after(hours=2)) == 0
    assert evaluate.evaluate_forecasts(now=after(hours=3)) == 1


def test_three_days_of_a_window_come_first(acme) -> None:
    forecast_rule(acme)
    early = after(days=9)  # 3 December
    spend(acme, 90, at=early)
    for hours in range(1, 12):
        assert evaluate.evaluate_forecasts(now=early + timedelta(hours=hours)) == 0
    assert not AlertWatch.objects.exists()
    evaluate.evaluate_forecasts(now=early + timedelta(hours=12))
    assert evaluate.evaluate_forecasts(now=early + timedelta(hours=13)) == 1


def test_with_two_weeks_of_history_the_weekdays_to_come_are_known(acme) -> None:
    rule = forecast_rule(acme)
    for days in range(1, 60):
        day = after(days=-days)
        spend(acme, 4 if day.weekday() < 5 else 1, at=day)
    # 71 by now; five working days and a weekend make it 93, a straight line 91.
    for limit, hours, fires in ((95, 0, 0), (92, 2, 1)):
        Budget.objects.filter(pk=rule.budget_id).update(limit=limit)
        assert evaluate.evaluate_forecasts(now=after(hours=hours)) == 0
        assert evaluate.evaluate_forecasts(now=after(hours=hours + 1)) == fires
    row = AlertFiring.objects.get()
    assert row.value == 93
    assert ["Method", "robust Theta"] in row.facts["shown"]


# ------------------------------------------------------------------ rates


def calls(of, good: int, bad: int, *, at=NOW, latency_ms: int = 100) -> None:
    put(
        *(record(at - timedelta(seconds=1 + n), tenant_id=of.pk, latency_ms=latency_ms) for n in range(good)),
        *(record(at - timedelta(seconds=1 + n), tenant_id=of.pk, status="error") for n in range(bad)),
    )


def watch(of, kind: str, *thresholds: object, **fields) -> AlertRule:
    return AlertRule.objects.create(tenant=of, name="Watch", kind=kind, thresholds=thresholds, **fields)


def test_an_error_rate_fires_stays_quiet_while_it_lasts_and_resolves(acme) -> None:
    watch(acme, "error_rate", 5, 20)
    calls(acme, 18, 1)
    assert evaluate.evaluate_rates(now=NOW) == 0  # 19 calls say nothing
    calls(acme, 0, 2)
    assert evaluate.evaluate_rates(now=NOW) == 1
    assert AlertFiring.objects.get().title == "Watch: error rate 14.3 %"
    assert evaluate.evaluate_rates(now=after(seconds=60)) == 0
    calls(acme, 0, 10, at=after(seconds=60))
    assert evaluate.evaluate_rates(now=after(seconds=60)) == 1
    assert fired() == [5, 20]
    calls(acme, 200, 0, at=after(minutes=8))
    assert evaluate.evaluate_rates(now=after(minutes=8)) == 0
    assert {each.state for each in AlertFiring.objects.all()} == {"resolved"}
    calls(acme, 0, 40, at=after(minutes=20))
    assert evaluate.evaluate_rates(now=after(minutes=20)) == 2


def test_silence_ends_an_error_rate_only_after_its_span(acme) -> None:
    watch(acme, "error_rate", 5)
    calls(acme, 10, 10)
    evaluate.evaluate_rates(now=NOW)
    Budget.objects.all().delete()
    evaluate.evaluate_rates(now=after(minutes=4, seconds=59))
    assert AlertFiring.objects.get().state == "firing"
    evaluate.evaluate_rates(now=after(minutes=6))
    assert AlertFiring.objects.get().state == "resolved"


def test_people_are_told_of_a_recovery_but_not_of_a_months_end(acme) -> None:
    told = channel(acme, "email")
    rule = watch(acme, "error_rate", 5)
    rule.steps.create(channel=told)
    budget(acme)
    calls(acme, 10, 10)
    spend(acme, 6)
    evaluate.evaluate_rates(now=NOW)
    evaluate.evaluate_budgets(now=NOW)
    for row in AlertFiring.objects.all():
        resolve(firing=row, now=after(minutes=1))
    (resolved,) = AlertDelivery.objects.filter(event="resolved")
    assert resolved.firing.rule == rule


def test_a_slow_model_fires_at_its_95th_percentile(acme) -> None:
    watch(acme, "latency_p95", 2000, model="gpt-4o")
    calls(acme, 50, 0, latency_ms=100)
    assert evaluate.evaluate_rates(now=NOW) == 0
    calls(acme, 50, 0, latency_ms=3000)
    assert evaluate.evaluate_rates(now=NOW) == 1
    assert 2600 < AlertFiring.objects.get().value < 3450


def test_a_rule_without_a_tenant_watches_the_platform(acme) -> None:
    watch(None, "error_rate", 5)
    calls(acme, 10, 5)
    calls(tenant("globex"), 10, 5)
    assert evaluate.evaluate_rates(now=NOW) == 1
    assert (AlertFiring.objects.get().tenant, AlertFiring.objects.get().value) == (None, Decimal("33.333333"))


def test_a_rule_that_was_deleted_leaves_no_open_alert(acme) -> None:
    rule = watch(acme, "error_rate", 5)
    calls(acme, 10, 10)
    evaluate.evaluate_rates(now=NOW)
    rule.delete()
    assert evaluate.close_windows(now=NOW) == 1


# ------------------------------------------------------------------ margin


def test_a_margin_below_its_floor_fires_once_a_window(acme) -> None:
    watch(acme, "margin", 20, 0, window="month")
    spend(acme, 10, cost_pico=85 * PICO // 10)
    assert evaluate.evaluate_margins(now=NOW) == 1
    row = AlertFiring.objects.get()
    assert (row.threshold, row.value, row.is_cost, row.title) == (20, 15, True, "Watch: margin 15 %")
    spend(acme, 10, cost_pico=20 * PICO)
    assert evaluate.evaluate_margins(now=NOW) == 1
    assert fired() == [20, 0]
    assert evaluate.evaluate_margins(now=NOW) == 0


def test_without_revenue_or_with_little_there_is_no_margin(acme) -> None:
    watch(acme, "margin", 20)
    spend(acme, 0, cost_pico=5 * PICO)
    assert evaluate.evaluate_margins(now=NOW) == 0
    spend(acme, 0.5, cost_pico=5 * PICO)
    assert evaluate.evaluate_margins(now=NOW) == 0


def test_revenue_and_cost_of_different_currencies_make_no_margin(acme) -> None:
    watch(acme, "margin", 20)
    spend(acme, 10, cost_pico=9 * PICO, price_currency="EUR")
    assert evaluate.evaluate_margins(now=NOW) == 0


# ------------------------------------------------------------------ anomalies


def a_usual_month(of, *, days: int = 40, until=NOW) -> None:
    dice = random.Random(3)
    for n in range(1, days + 1):
        for feature, share in (("chat", 8), ("search", 2)):
            spend(of, share * dice.uniform(0.95, 1.05), at=until - timedelta(days=n), feature=feature)


def test_an_unusual_day_fires_once_and_says_what_explains_it(acme) -> None:
    key = api_key(acme, name="nightly job").key
    watch(acme, "anomaly", 5)
    a_usual_month(acme)
    assert evaluate.evaluate_anomalies(now=NOW) == 0
    spend(acme, 60, at=after(days=-1), feature="search", api_key_id=key.pk)
    assert evaluate.evaluate_anomalies(now=NOW) == 1
    row = AlertFiring.objects.get()
    assert (row.window, row.is_cost) == ("2026-11-23", False)
    assert 69 < row.value < 71
    assert 9 < row.limit < 11
    shown = dict(map(tuple, row.facts["shown"]))
    assert shown["Most by feature"].startswith("search (")
    assert shown["Most by key"].startswith("nightly job (")
    assert evaluate.evaluate_anomalies(now=after(hours=1)) == 0
    assert evaluate.close_windows(now=after(hours=1)) == 0  # somebody should see it


def test_a_running_day_is_judged_for_too_much_but_not_for_too_little(acme) -> None:
    watch(acme, "anomaly", 5)
    a_usual_month(acme)
    spend(acme, 0.01)
    assert evaluate.evaluate_anomalies(now=NOW) == 0
    spend(acme, 80)
    assert evaluate.evaluate_anomalies(now=NOW) == 1
    assert AlertFiring.objects.get().window == "2026-11-24"


def test_little_money_is_no_anomaly(acme) -> None:
    watch(acme, "anomaly", 5, min_amount=100)
    a_usual_month(acme)
    spend(acme, 80, at=after(days=-1))
    assert evaluate.evaluate_anomalies(now=NOW) == 0


def test_the_platforms_anomaly_names_the_tenant_and_looks_at_cost(acme) -> None:
    watch(None, "anomaly", 5)
    globex = tenant("globex")
    for each in (acme, globex):
        a_usual_month(each)
    spend(globex, 200, at=after(days=-1))
    assert evaluate.evaluate_anomalies(now=NOW) == 1
    row = AlertFiring.objects.get()
    assert row.is_cost
    assert dict(map(tuple, row.facts["shown"]))["Most by tenant"].startswith("globex (")
