from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection

from billing.alerts.totals import upper_bounds
from billing.budgets.counters import spent
from billing.models import OverheadHour, UsageEvent, UsageHour, UsageKeyHour, UsageLatencyHour
from billing.snapshot import BudgetEntry, Window
from billing.usage.overhead import overhead
from billing.usage.records import UsageRecord
from billing.usage.reports import live, report
from billing.usage.verify import verify
from tests.billing.ledger import ENDPOINT, NOON, TENANT, put, record

pytestmark = pytest.mark.django_db


def shadow(**changes: Any) -> UsageRecord:
    return record(**{"kind": "shadow", "price_pico": 0, "is_final": False, "policy": "cheap@1", **changes})


def test_overhead_stands_in_the_ledger_and_its_own_rollup_alone() -> None:
    put(shadow(), shadow(kind="eval", cost_pico=None, cost_components=None))
    assert UsageEvent.objects.count() == 2
    assert not UsageHour.objects.exists()
    assert not UsageKeyHour.objects.exists()
    assert not UsageLatencyHour.objects.exists()
    rollup = [
        (row.kind, row.attempts, row.tokens, int(row.cost_pico), row.unpriced)
        for row in OverheadHour.objects.order_by("kind")
    ]
    assert rollup == [("eval", 1, 155, 0, 1), ("shadow", 1, 155, 1_000, 0)]
    assert verify().ok


def test_a_tenants_numbers_are_the_same_with_and_without_overhead() -> None:
    put(record())

    def numbers() -> Any:
        found = report(
            tenant_ids=frozenset((TENANT,)),
            start=NOON - timedelta(minutes=30),
            end=NOON + timedelta(minutes=30),
            timezone="UTC",
            group_by=("model",),
            measures=("requests", "attempts", "tokens", "cost", "price", "p95_ms"),
        )
        return found.rows, found.totals

    before = numbers()
    put(shadow(), shadow(kind="eval"))
    assert numbers() == before
    assert before[1]["attempts"] == 1


def test_the_live_minutes_leave_overhead_out() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT now()")
        now = cursor.fetchone()[0]
    put(record(now), shadow(when=now), recorded_at=now)
    assert [(minute.requests, minute.tokens) for minute in live(tenant_ids=None, minutes=5)] == [(1, 155)]


@pytest.mark.parametrize(("measure", "expected"), [("cost", 1_000), ("tokens", 155), ("requests", 1)])
def test_no_budget_counts_overhead(measure: str, expected: int) -> None:
    put(record(), shadow())
    entry = BudgetEntry(
        id=TENANT, tenant_id=TENANT, name="", api_key_id=None, feature="", model="", end_user="",
        measure=measure, limit=1, mode="hard", window="day", timezone="UTC", anchor_day=1, week_start=0,
    )  # fmt: skip
    start = NOON.timestamp() - 3600
    window = Window(start, start + 7200, "w")
    assert spent(entry, window) == expected
    assert upper_bounds([(entry, window), (replace(entry, end_user="ann"), window)]) == [expected, 0]
    put(record(end_user="ann"), shadow(end_user="ann"))
    assert upper_bounds([(replace(entry, end_user="ann"), window)]) == [expected]


@pytest.mark.parametrize("wrong", [{"price_pico": 1}, {"price_pico": None}, {"is_final": True}])
def test_the_database_refuses_overhead_that_somebody_would_pay_for(wrong: dict[str, Any]) -> None:
    assert put(shadow(**wrong)).inserted == 0
    assert not UsageEvent.objects.exists()


def test_the_operators_report_sums_it_by_whom_it_was_measured_for() -> None:
    put(shadow(), shadow(), shadow(kind="eval", cost_pico=5, cost_components=None))
    shown = [
        (one.kind, one.tenant_id, one.policy, one.attempts, one.tokens, one.cost_pico, one.unpriced)
        for one in overhead(start=NOON - timedelta(hours=1), end=NOON + timedelta(hours=1))
    ]
    assert shown == [
        ("shadow", TENANT, "cheap@1", 2, 310, 2_000, 0),
        ("eval", TENANT, "cheap@1", 1, 155, 5, 0),
    ]
    assert overhead(start=NOON + timedelta(hours=1), end=NOON + timedelta(hours=2)) == []


def test_a_dead_workers_shadow_is_not_amended_into_usage() -> None:
    put(shadow(usage_source="unknown", status="unknown", cost_components=None))
    assert list(UsageEvent.objects.values_list("kind", "endpoint_id")) == [("shadow", ENDPOINT)]
    assert verify().ok


def test_a_rollup_that_lost_overhead_is_found() -> None:
    put(shadow())
    OverheadHour.objects.all().delete()
    assert [check.name for check in verify().checks if not check.ok] == ["ledger = billing_overhead_hour"]
