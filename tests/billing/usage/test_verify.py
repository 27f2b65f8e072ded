from datetime import timedelta
from typing import Any

import pytest
from django.db import connection

from billing.usage.verify import verify
from tests.billing.ledger import NOON, put, record, request_id_at, stream
from tests.factories import tenant

pytestmark = pytest.mark.django_db


def execute(statement: str, *, past_triggers: bool = False) -> None:
    with connection.cursor() as cursor:
        if past_triggers:
            cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute(statement)
        cursor.execute("SET LOCAL session_replication_role = DEFAULT")


def failed(**span: Any) -> list[str]:
    return [check.name for check in verify(**span).checks if not check.ok]


def test_books_with_reversals_hold() -> None:
    request_id = request_id_at(NOON)
    put(*stream(60))
    put(record(request_id=request_id, status="unknown", usage_source="unknown", cost_components=None))
    put(record(request_id=request_id))
    assert failed() == []
    assert verify().ok


@pytest.mark.parametrize("table", ["billing_usage_hour", "billing_usage_key_hour"])
def test_one_pico_too_many_in_a_rollup_is_found_and_named(table: str) -> None:
    put(record(price_pico=9 * 10**18), record(price_pico=9 * 10**18), record(price_pico=9 * 10**18))
    execute(f"UPDATE {table} SET price_pico = price_pico + 1")  # noqa: S608
    proof = verify()
    (check,) = (check for check in proof.checks if not check.ok)
    assert not proof.ok
    assert check.name == f"ledger = {table}"
    assert f"price_pico {27 * 10**18} in the ledger, {27 * 10**18 + 1} in the rollup" in check.detail
    assert check.found == "1 rows, 1 differ"


def test_a_lost_or_invented_rollup_row_is_found() -> None:
    put(record(), record(NOON + timedelta(hours=1)))
    execute("DELETE FROM billing_usage_latency_hour WHERE hour = '2026-11-24 12:00Z'")
    execute("UPDATE billing_usage_hour SET model = 'other' WHERE hour = '2026-11-24 13:00Z'")
    details = {check.name: check.detail for check in verify().checks if not check.ok}
    assert set(details) == {"ledger = billing_usage_hour", "ledger = billing_usage_latency_hour"}
    assert "only in the ledger" in details["ledger = billing_usage_latency_hour"]
    assert "only in the rollup" in details["ledger = billing_usage_hour"]


@pytest.mark.parametrize(
    ("statement", "rule"),
    [
        ("UPDATE billing_usage_event SET cost_components = '{\"input\": 1}'", "cost = sum of its components"),
        ("UPDATE billing_usage_event SET cost_pico = -1, cost_components = NULL", "usage is never negative"),
        ("UPDATE billing_usage_event SET kind = 'replacement'", "every replacement follows a reversal"),
    ],
)
def test_a_ledger_row_changed_behind_the_triggers_is_found(statement: str, rule: str) -> None:
    put(record())
    execute("ALTER TABLE billing_usage_event DROP CONSTRAINT usage_not_negative")
    execute(statement, past_triggers=True)
    assert rule in failed()


def test_only_the_span_is_proven_widened_to_hours() -> None:
    put(record(), record(NOON + timedelta(hours=2)))
    execute("UPDATE billing_usage_hour SET requests = 9 WHERE hour = '2026-11-24 12:00Z'")
    assert failed(since=NOON + timedelta(hours=1)) == []
    assert failed(until=NOON) == []
    assert failed(since=NOON + timedelta(minutes=59)) == ["ledger = billing_usage_hour"]


def test_a_row_outside_the_partitions_is_a_warning() -> None:
    put(record(NOON + timedelta(days=4000)))
    proof = verify()
    assert proof.ok
    assert [(check.name, check.is_warning) for check in proof.checks if not check.ok] == [
        ("every row lies in its day's partition", True)
    ]


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kolkata", "Pacific/Apia"])
def test_hours_make_up_the_days_of_a_tenants_zone(zone: str) -> None:
    acme = tenant("acme", timezone=zone)
    put(*(record(NOON + timedelta(minutes=37 * n), tenant_id=acme.pk) for n in range(60)))
    (check,) = (check for check in verify().checks if check.name == "hours = days in each tenant's zone (I2)")
    assert check.ok
    assert check.detail == ("0 local days agree" if zone == "Asia/Kolkata" else "2 local days agree")
    execute("UPDATE billing_usage_hour SET hour = hour - interval '3 days' WHERE hour = '2026-11-24 12:00Z'")
    assert ("hours = days in each tenant's zone (I2)" in failed()) is (zone != "Asia/Kolkata")
