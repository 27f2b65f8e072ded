from dataclasses import replace
from datetime import UTC, date, datetime
from uuid import UUID

import pytest

from gateway.logs.ingest import COLUMNS, LogEntry, store
from gateway.logs.partitions import ensure_partitions
from gateway.models import RequestLog
from tenants.ids import instant_of, uuid7

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def entry(when: datetime = NOON, **changes) -> LogEntry:
    request_id = uuid7(int(when.timestamp() * 1000))
    return replace(
        LogEntry(
            occurred_at=instant_of(request_id),
            request_id=request_id,
            tenant_id=UUID(int=1),
            api_key_id=UUID(int=2),
            operation="chat",
            request_model="policy:cheap",
            model="gpt-4o",
            status=200,
            tags={"team": "search"},
            cost_pico=5,
            cost_currency="USD",
            latency_ms=12,
            attempts=({"provider": "openai", "status": 429}, {"provider": "azure", "status": 200}),
            route={"strategy": "cost", "kept": (), "dropped": []},
        ),
        **changes,
    )


def test_a_call_is_stored_with_every_column():
    call = entry()
    assert store([call], now=NOON) == 1
    row = RequestLog.objects.get()
    for name in COLUMNS:
        expected = getattr(call, name)
        if name == "attempts":
            expected = list(expected)
        if name == "route":
            expected = {"strategy": "cost", "kept": [], "dropped": []}
        assert getattr(row, name) == expected, name


def test_the_columns_are_the_tables():
    assert list(COLUMNS) == [f.attname for f in RequestLog._meta.concrete_fields if f.attname != "pk"]


def test_a_call_that_is_there_stays_as_it_is():
    call = entry()
    store([call], now=NOON)
    assert store([replace(call, status=500), entry(), entry()], now=NOON) == 2
    assert RequestLog.objects.get(request_id=call.request_id).status == 200


def test_nothing_to_store_is_fine():
    assert store([], now=NOON) == 0


def test_texts_are_cut_to_their_column_and_what_cannot_be_stored_is_replaced():
    store([entry(error_message="x" * 600, end_user="a\x00b\ud800", tags={"k": "a\x00"})], now=NOON)
    row = RequestLog.objects.get()
    assert (row.error_message, row.end_user, row.tags) == ("x" * 500, "a\ufffdb?", {"k": "a\ufffd"})


def test_days_are_made_ahead_once():
    today = date(2031, 3, 1)
    assert ensure_partitions(today=today, days_ahead=1) == (today, date(2031, 3, 2))
    assert ensure_partitions(today=today, days_ahead=1) == ()
