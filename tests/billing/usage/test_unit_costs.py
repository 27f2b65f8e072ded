"""The hours' parts of the cost, as ingest writes them and as their migration fills them in."""

from importlib import import_module

import pytest
from django.db import connection

from billing.models import UsageHour
from billing.usage.verify import verify
from tests.billing.ledger import NOON, put, record, request_id_at, stream

pytestmark = pytest.mark.django_db


def parts():
    names = ("input_cost_pico", "output_cost_pico", "failover_cost_pico", "cache_saved_pico")
    return [
        tuple(map(int, row))
        for row in UsageHour.objects.order_by("hour", "status", "model").values_list(*names)
    ]


def test_components_failovers_and_cache_savings_add_up_and_a_reversal_takes_them_back():
    request_id = request_id_at(NOON)
    put(
        record(
            input_tokens=1000, cache_read_tokens=200, cache_write_tokens=100, cost_pico=5_000,
            cost_components={"input": 2_000, "cache_read": 100, "cache_write": 250, "output": 2_500, "audio": 150},
        ),
        record(status="error", is_final=False, cost_pico=40, cost_components={"input": 40}),
        record(request_id=request_id, status="unknown", usage_source="unknown", cost_pico=9, cost_components=None,
               is_final=False),
    )  # fmt: skip
    assert parts() == [(40, 0, 40, 8), (2_350, 2_500, 0, 250), (0, 0, 9, 0)]
    put(record(request_id=request_id, status="ok", cost_components=None, cost_pico=7))
    assert parts() == [(40, 0, 40, 8), (2_350, 2_500, 0, 250), (0, 0, 0, 0)]
    assert verify().ok


def test_the_migration_fills_in_what_ingest_would_have_written():
    put(
        *stream(40),
        *(record(cost_components={"input": 300, "cache_read": 10, "output": 690}) for _ in range(5)),
    )
    before = parts()
    assert any(saved for _, _, _, saved in before)
    sums = import_module("billing.migrations.0014_unit_costs_and_references").SUMS
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE billing_usage_hour SET input_cost_pico = 0, output_cost_pico = 0, failover_cost_pico = 0, "
            "cache_saved_pico = 0"
        )
        cursor.execute(sums[sums.index("WITH part") :])
    assert parts() == before
    assert verify().ok
