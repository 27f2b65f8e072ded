import logging
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from django.db import DatabaseError, connection, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.models import UsageEvent, UsageHour, UsageKeyHour, UsageLatencyHour
from billing.usage.histogram import bucket_of
from billing.usage.ingest import EventKey, Ingested, Rejected
from billing.usage.partitions import LEDGER, ensure_days, ensure_partitions, existing_days
from tests.billing import ledger
from tests.billing.ledger import NOON, book, hours_of, put, record, stream

pytestmark = pytest.mark.django_db

APPEND_ONLY = r"append[- ]only"


def test_a_record_becomes_a_row_with_every_column_kept():
    given_record = record(other_units={"images": 2}, service_tier="flex", end_user="ann", policy="cheap@3")
    assert put(given_record) == Ingested(inserted=1)
    row = UsageEvent.objects.get()
    assert row.recorded_at == NOON
    for name in given_record.__dataclass_fields__:
        assert getattr(row, name) == getattr(given_record, name), name


def test_a_batch_adds_up_in_all_three_rollups():
    records = stream(60)
    assert put(*records).inserted == len(records)
    found = {
        (h.hour, h.tenant_id, h.model, h.status): {
            name: int(getattr(h, name))
            for name in ("attempts", "requests", "input_tokens", "output_tokens", "cost_pico", "price_pico",
                         "unpriced", "latency_ms")
        }
        for h in UsageHour.objects.all()
    }  # fmt: skip
    assert found == {key: dict(sums) for key, sums in hours_of(records).items()}
    assert sum(k.tokens for k in UsageKeyHour.objects.all()) == sum(r.input_tokens + 55 for r in records)
    assert sum(k.cost_pico for k in UsageKeyHour.objects.all()) == sum(r.cost_pico or 0 for r in records)
    buckets = [bucket_of(r.latency_ms) for r in records if r.is_final]
    found_buckets = dict.fromkeys(buckets, 0)
    for row in UsageLatencyHour.objects.all():
        found_buckets[row.bucket] += row.count
    assert found_buckets == {b: buckets.count(b) for b in buckets}


def test_amounts_beyond_eight_bytes_add_up_exactly():
    biggest = 2**63 - 1
    put(*(record(cost_pico=biggest, cost_components=None) for _ in range(3)))
    assert UsageHour.objects.get().cost_pico == Decimal(3 * biggest)


def test_the_same_record_again_changes_nothing():
    first = record()
    put(first)
    before = book()
    assert put(first, first) == Ingested(duplicates=2)
    assert book() == before


def test_a_key_with_other_content_is_a_conflict_and_the_first_stays(caplog):
    first = record()
    put(first)
    before = book()
    with caplog.at_level(logging.ERROR):
        result = put(replace(first, output_tokens=31))
    assert result == Ingested(conflicts=(EventKey(first.request_id, 0, "usage"),))
    assert book() == before
    assert str(first.request_id) in caplog.text


def test_two_contents_for_a_key_in_one_batch_are_a_conflict_and_the_earlier_stays():
    first = record()
    result = put(first, replace(first, output_tokens=31), first)
    assert result == Ingested(inserted=1, duplicates=1, conflicts=(EventKey(first.request_id, 0, "usage"),))
    assert UsageEvent.objects.get().output_tokens == 30


def test_json_content_counts_as_content():
    first = record(other_units={"a": 1, "b": 2})
    put(first)
    assert put(replace(first, other_units={"b": 2, "a": 1})).duplicates == 1
    assert len(put(replace(first, other_units={"a": 1, "b": 3})).conflicts) == 1


# ------------------------------------------------------------------ unknown outcomes


def unknown(known):
    return replace(
        known, status="unknown", usage_source="unknown", input_tokens=0, cache_read_tokens=0, output_tokens=0,
        reasoning_tokens=0, cost_pico=9_000, cost_components={"input": 9_000}, price_pico=0,
        latency_ms=90_000,
    )  # fmt: skip


def test_an_unknown_outcome_gives_way_by_reversal_and_replacement():
    known = record()
    put(unknown(known))
    assert put(known, recorded_at=NOON + timedelta(hours=9)) == Ingested(amended=1)
    entries = {e.kind: e for e in UsageEvent.objects.all()}
    assert set(entries) == {"usage", "reversal", "replacement"}
    reversal, replacement = entries["reversal"], entries["replacement"]
    assert (reversal.cost_pico, reversal.price_pico, reversal.cost_components) == (
        -9_000,
        0,
        {"input": -9_000},
    )
    assert (reversal.occurred_at, reversal.status) == (known.occurred_at, "unknown")
    assert (replacement.cost_pico, replacement.input_tokens) == (1_000, 100)
    by_status = {h.status: h for h in UsageHour.objects.all()}
    assert (by_status["unknown"].attempts, by_status["unknown"].requests, by_status["unknown"].cost_pico) == (
        0,
        0,
        0,
    )
    assert (by_status["ok"].attempts, by_status["ok"].requests, by_status["ok"].cost_pico) == (1, 1, 1_000)
    counts = {c.bucket: c.count for c in UsageLatencyHour.objects.all()}
    assert counts == {bucket_of(90_000): 0, bucket_of(250): 1}


def test_the_truth_about_an_unknown_outcome_is_told_once():
    known = record()
    put(unknown(known))
    put(known)
    before = book()
    assert put(known, known) == Ingested(duplicates=2)
    other = replace(known, output_tokens=99)
    assert put(other) == Ingested(conflicts=(EventKey(known.request_id, 0, "usage"),))
    assert book() == before


def test_an_unknown_outcome_in_the_batch_of_the_truth_gives_way_too():
    known = record()
    assert put(unknown(known), known) == Ingested(inserted=1, amended=1)
    assert UsageEvent.objects.count() == 3


def test_an_unknown_outcome_that_comes_late_adds_nothing():
    known = record()
    put(known)
    before = book()
    assert put(unknown(known)) == Ingested(duplicates=1)
    assert book() == before


# ------------------------------------------------------------------ bad records


def test_a_record_whose_time_is_not_its_ids_is_rejected():
    bad = replace(record(), occurred_at=NOON + timedelta(seconds=1))
    assert put(bad) == Ingested(
        rejected=(
            Rejected(EventKey(bad.request_id, 0, "usage"), "occurred_at is not the instant in request_id"),
        )
    )
    assert not UsageEvent.objects.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"feature": "x" * 101},
        {"end_user": "a\x00b"},
        {"end_user": "\ud800"},
        {"input_tokens": -1},
        {"input_tokens": 2**63},
        {"kind": "refund"},
        {"status": "fine"},
        {"cost_pico": -1},
        {"latency_ms": -1},
        {"latency_ms": 2**31},
    ],
)
def test_one_bad_record_does_not_hold_up_the_others(changes, caplog):
    good = [record() for _ in range(6)]
    bad = record(**changes)
    result = put(*good[:3], bad, *good[3:])
    assert (result.inserted, [r.key for r in result.rejected]) == (6, [EventKey(bad.request_id, 0, bad.kind)])
    assert UsageEvent.objects.count() == 6
    assert UsageHour.objects.get().attempts == 6


# ------------------------------------------------------------------ append only


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE billing_usage_event SET cost_pico = 0",
        "DELETE FROM billing_usage_event",
        "TRUNCATE billing_usage_event",
        "UPDATE billing_usage_event_20261124 SET cost_pico = 0",
        "DELETE FROM billing_usage_event_20261124",
        "TRUNCATE billing_usage_event_20261124",
        "UPDATE billing_usage_event_default SET cost_pico = 0",
        "TRUNCATE billing_usage_event_default",
    ],
)
def test_the_ledger_refuses_everything_but_additions(statement):
    put(record(), record(datetime(2020, 1, 1, tzinfo=UTC)))  # the second lies in DEFAULT
    before = book()
    with (
        pytest.raises(DatabaseError, match=APPEND_ONLY),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(statement)
    assert book() == before


# ------------------------------------------------------------------ partitions


def test_a_late_record_gets_the_partition_of_its_day():
    when = NOON - timedelta(days=100)
    assert when.date() not in existing_days(table=LEDGER)
    put(record(when))
    assert when.date() in existing_days(table=LEDGER)
    assert ledger.rows("billing_usage_event_default", "*") == []


def test_a_record_from_an_impossible_day_waits_in_the_default_partition():
    put(record(NOON - timedelta(days=4000)), record(NOON + timedelta(days=300)))
    assert len(ledger.rows("billing_usage_event_default", "*")) == 2


def test_a_partition_made_late_takes_over_the_rows_of_its_day():
    when = datetime(2020, 5, 5, 23, 59, tzinfo=UTC)
    put(record(when), record(when + timedelta(days=1)))
    before = book()
    assert ensure_days(table=LEDGER, days=[date(2020, 5, 5)]) == (date(2020, 5, 5),)
    assert book() == before
    assert len(ledger.rows("billing_usage_event_20200505", "*")) == 1
    assert len(ledger.rows("billing_usage_event_default", "*")) == 1
    with (
        pytest.raises(DatabaseError, match=APPEND_ONLY),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute("DELETE FROM billing_usage_event_default")


def test_partitions_are_made_ahead_once():
    today = date(2031, 3, 1)
    assert ensure_partitions(today=today, days_ahead=2) == tuple(today + timedelta(n) for n in range(3))
    assert ensure_partitions(today=today, days_ahead=2) == ()


# ------------------------------------------------------------------ any order, any split


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_permuted_doubled_split_and_delayed_streams_make_the_same_books(data):
    records = stream(12, seed=7)
    known = [r for r in records if r.cost_pico is not None][:3]
    sent = [*records, *(unknown(r) for r in known)]
    with transaction.atomic():
        put(*(unknown(r) for r in known))
        put(*records)
        expected = book()
        transaction.set_rollback(True)
    doubled = sent + data.draw(st.lists(st.sampled_from(sent), max_size=10))
    # The reaper speaks only for the dead: its word comes before the truth or adds nothing.
    shuffled = data.draw(st.permutations(doubled))
    ordered = [unknown(r) for r in known] + shuffled
    with transaction.atomic():
        while ordered:
            size = data.draw(st.integers(1, len(ordered)))
            put(*ordered[:size], recorded_at=NOON + timedelta(hours=len(ordered)))
            ordered = ordered[size:]
        assert book() == expected
        transaction.set_rollback(True)
