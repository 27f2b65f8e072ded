import random
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from django.utils import timezone as clock

from billing.usage.reports import live, report
from tenants.errors import ApiError
from tests.billing.ledger import KEY, NOON, TENANT, put, record, request_id_at, stream

pytestmark = pytest.mark.django_db

OTHER = UUID(int=77)


def ask(**changes: Any) -> Any:
    asked: dict[str, Any] = {
        "tenant_ids": None,
        "start": NOON - timedelta(days=1),
        "end": NOON + timedelta(days=1),
        "timezone": "UTC",
        "group_by": (),
        "measures": ("requests",),
    }
    return report(**(asked | changes))


def test_every_measure_of_a_small_ledger_is_exact() -> None:
    put(
        record(),
        record(NOON + timedelta(minutes=1), cost_pico=None, cost_components=None),
        record(NOON + timedelta(minutes=2), status="cancelled", price_currency="EUR", price_pico=7),
        record(NOON + timedelta(minutes=3), status="error", is_final=True),
        record(NOON + timedelta(minutes=4), status="error", is_final=False),
    )
    measures = ("requests", "attempts", "tokens", "input_tokens", "output_tokens", "cache_read_tokens",
                "cache_write_tokens", "reasoning_tokens", "errors", "success_rate", "unpriced", "cost",
                "price")  # fmt: skip
    assert ask(measures=measures).totals == {
        "requests": 4,
        "attempts": 5,
        "tokens": 5 * 155,
        "input_tokens": 5 * 120,
        "output_tokens": 5 * 35,
        "cache_read_tokens": 100,
        "cache_write_tokens": 0,
        "reasoning_tokens": 25,
        "errors": 1,
        "success_rate": 2 / 3,
        "unpriced": 1,
        "cost": {"USD": 4_000},
        "price": {"EUR": 7, "USD": 4_800},
    }


def test_nothing_used_is_zero_and_has_no_rate() -> None:
    found = ask(measures=("requests", "price", "success_rate", "p95_ms"), group_by=("model",))
    assert list(found.rows) == []
    assert found.totals == {"requests": 0, "price": {}, "success_rate": None, "p95_ms": None}


def test_only_the_tenants_asked_for_are_counted() -> None:
    put(record(), record(tenant_id=OTHER))
    assert ask(tenant_ids=frozenset({OTHER}), group_by=("tenant",)).rows == [{"tenant": OTHER, "requests": 1}]
    assert ask(tenant_ids=frozenset()).totals == {"requests": 0}
    assert ask().totals == {"requests": 2}


@pytest.mark.parametrize("group", ["model", "provider", "region", "feature", "status", "operation", "key"])
def test_rows_of_any_group_add_up_to_the_total(group: str) -> None:
    records = stream(80)
    put(*records)
    names = {"key": "api_key_id"}
    expected: dict[Any, int] = {}
    for each in records:
        label = getattr(each, names.get(group, group))
        expected[label] = expected.get(label, 0) + each.is_final
    found = ask(group_by=(group,), measures=("requests", "attempts"))
    assert {row[group]: row["requests"] for row in found.rows} == expected
    assert found.totals == {"requests": 80, "attempts": len(records)}
    assert ask(group_by=(group,)).totals == {"requests": 80}


@pytest.mark.parametrize(
    "zone",
    ["UTC", "Europe/Berlin", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe", "America/St_Johns"],
)
@pytest.mark.parametrize("unit", ["day", "hour"])
def test_days_and_hours_are_the_zones_own(zone: str, unit: str) -> None:
    dice = random.Random(zone)
    records = [record(NOON + timedelta(seconds=dice.randrange(40 * 3600))) for _ in range(150)]
    put(*records)
    start, end = NOON + timedelta(minutes=17), NOON + timedelta(hours=37, seconds=5)
    expected: dict[Any, int] = {}
    for each in records:
        if start <= each.occurred_at < end:
            local = each.occurred_at.astimezone(ZoneInfo(zone))
            whole = local.replace(minute=0, second=0, microsecond=0).astimezone(UTC)
            label = local.date() if unit == "day" else whole
            expected[label] = expected.get(label, 0) + 155
    found = ask(start=start, end=end, timezone=zone, group_by=(unit,), measures=("tokens",))
    assert {row[unit]: row["tokens"] for row in found.rows} == expected


def test_an_hour_that_the_clock_repeats_is_two_hours() -> None:
    first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)  # 02:30 in Berlin, twice
    put(record(first), record(first + timedelta(hours=1)))
    found = ask(
        start=first - timedelta(days=1), end=first + timedelta(days=1), timezone="Europe/Berlin",
        group_by=("hour",),
    )  # fmt: skip
    assert [row["hour"] for row in found.rows] == [
        datetime(2026, 10, 25, 0, tzinfo=UTC), datetime(2026, 10, 25, 1, tzinfo=UTC),
    ]  # fmt: skip
    found = ask(
        start=first - timedelta(days=1), end=first + timedelta(days=1), timezone="Europe/Berlin",
        group_by=("day",),
    )  # fmt: skip
    assert found.rows == [{"day": date(2026, 10, 25), "requests": 2}]


def test_the_span_is_half_open_to_the_millisecond() -> None:
    put(record(), record(NOON + timedelta(milliseconds=1)), record(NOON + timedelta(minutes=5)))
    assert ask(start=NOON, end=NOON + timedelta(minutes=5)).totals == {"requests": 2}
    assert ask(start=NOON + timedelta(milliseconds=1), end=NOON + timedelta(minutes=6)).totals == {
        "requests": 2
    }


def test_a_reversed_row_counts_once() -> None:
    request_id = request_id_at(NOON)
    put(record(request_id=request_id, status="unknown", usage_source="unknown", cost_pico=9, price_pico=9,
               cost_components=None))  # fmt: skip
    put(record(request_id=request_id))
    for group in ("model", "key"):
        found = ask(group_by=(group,), measures=("requests", "tokens", "price"))
        assert found.totals == {"requests": 1, "tokens": 155, "price": {"USD": 1_200}}
    assert ask(start=NOON - timedelta(minutes=1), end=NOON + timedelta(minutes=1)).totals == {"requests": 1}


@pytest.mark.parametrize("group", [(), ("model",), ("feature",), ("key",)])
def test_quantiles_agree_from_rollup_and_ledger(group: tuple[str, ...]) -> None:
    put(*(record(latency_ms=100) for _ in range(19)), record(latency_ms=50_000))
    found = ask(group_by=group, measures=("p50_ms", "p95_ms", "requests"))
    assert found.totals["requests"] == 20
    assert 93 <= found.totals["p50_ms"] <= 108
    assert found.totals["p95_ms"] == pytest.approx(found.totals["p50_ms"], rel=0.15)
    assert ask(group_by=(), measures=("p50_ms",)).totals["p50_ms"] == found.totals["p50_ms"]


def test_filters_narrow_every_source() -> None:
    put(record(model="a"), record(model="b"), record(model="b", feature="chat", api_key_id=OTHER))
    measures = ("requests", "p50_ms")
    assert ask(filters={"model": ["b"]}, measures=measures).totals["requests"] == 2
    assert ask(filters={"model": ["b"], "feature": ["chat"]}).totals == {"requests": 1}
    assert ask(filters={"key": [KEY]}).totals == {"requests": 2}
    assert ask(filters={"tenant": [OTHER]}).totals == {"requests": 0}


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"group_by": ("colour",)}, "group_by"),
        ({"group_by": ("day", "day")}, "group_by"),
        ({"measures": ("joy",)}, "measures"),
        ({"measures": ()}, "measures"),
        ({"filters": {"day": ["2026-01-01"]}}, "filters"),
        ({"timezone": "Mars/Olympus"}, "timezone"),
        ({"timezone": "../etc/passwd"}, "timezone"),
        ({"end": NOON - timedelta(days=1)}, "to"),
    ],
)
def test_a_question_without_sense_is_refused(changes: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as refused:
        ask(**changes)
    assert (refused.value.code, refused.value.param) == ("invalid_request", param)


def test_the_last_minutes_come_from_the_ledger() -> None:
    now = clock.now()
    put(record(now), record(now, status="cut"), recorded_at=now)
    put(record(now - timedelta(hours=2)), record(now, tenant_id=OTHER), recorded_at=now)
    rows = live(tenant_ids=frozenset({TENANT}), minutes=60)
    minute = now.replace(second=0, microsecond=0)
    assert [(row.minute, row.requests, row.errors, row.tokens) for row in rows] == [(minute, 2, 1, 310)]
    assert sum(row.requests for row in live(tenant_ids=None, minutes=60)) == 3
