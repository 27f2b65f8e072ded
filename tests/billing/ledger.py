"""Records for ledger tests, sums made apart from the product's SQL, and a way to empty the ledger."""

# ruff: noqa: S608

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection

from billing.usage.ingest import Ingested, ingest
from billing.usage.records import UsageRecord
from tenants.ids import instant_of, uuid7

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
TENANT, KEY, PLAN, ENDPOINT = (UUID(int=n) for n in (1, 2, 3, 4))


def request_id_at(when: datetime) -> UUID:
    return uuid7(int(when.timestamp() * 1000))


def record(when: datetime = NOON, **changes: Any) -> UsageRecord:
    """A priced, final chat call at `when`; `changes` override its columns."""
    request_id = changes.pop("request_id", None) or request_id_at(when)
    base = UsageRecord(
        occurred_at=instant_of(request_id),
        request_id=request_id,
        tenant_id=TENANT,
        api_key_id=KEY,
        plan_version_id=PLAN,
        feature="search",
        operation="chat",
        request_model="policy:cheap",
        model="gpt-4o",
        provider="openai",
        provider_model="gpt-4o-2026",
        endpoint_id=ENDPOINT,
        region="eu",
        status="ok",
        usage_source="provider",
        input_tokens=100,
        cache_read_tokens=20,
        output_tokens=30,
        reasoning_tokens=5,
        cost_pico=1_000,
        cost_currency="USD",
        price_pico=1_200,
        price_currency="USD",
        cost_components={"input": 400, "output": 600},
        latency_ms=250,
        first_byte_ms=80,
    )
    return replace(base, **changes)


def put(*records: UsageRecord, recorded_at: datetime = NOON) -> Ingested:
    return ingest(records, recorded_at=recorded_at)


def stream(count: int, seed: int = 1) -> list[UsageRecord]:
    """A mixed stream: attempts, failures, unpriced calls, several hours, tenants' models."""
    dice = random.Random(seed)
    made = []
    for _ in range(count):
        request_id = request_id_at(NOON + timedelta(seconds=dice.randrange(4 * 3600)))
        attempts = dice.choice((1, 1, 2))
        for attempt in range(attempts):
            is_final = attempt == attempts - 1
            made.append(
                record(
                    request_id=request_id,
                    attempt=attempt,
                    is_final=is_final,
                    status="ok" if is_final else "error",
                    model=dice.choice(("gpt-4o", "claude")),
                    input_tokens=dice.randrange(10_000),
                    cost_pico=dice.choice((None, dice.randrange(10**12))),
                    price_pico=dice.randrange(10**12),
                    cost_components=None,
                    latency_ms=dice.randrange(100_000),
                )
            )
    return made


def rows(table: str, columns: str, order: str = "1") -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {columns} FROM {table} ORDER BY {order}")
        return cursor.fetchall()


def book() -> tuple[list[Any], ...]:
    """Everything the ledger and its rollups say, `recorded_at` aside, in a comparable order."""
    ledger = ", ".join(UsageRecord.__dataclass_fields__)
    return (
        rows("billing_usage_event", ledger, "occurred_at, request_id, attempt, kind"),
        rows("billing_usage_hour", "*", "1,2,3,4,5,6,7,8,9,10,11,12"),
        rows("billing_usage_key_hour", "*", "1,2,3,4,5,6"),
        rows("billing_usage_latency_hour", "*", "1,2,3,4,5"),
    )


def hours_of(records: Iterable[UsageRecord]) -> dict[tuple[Any, ...], Counter[str]]:
    """UsageHour as plain Python adds it up: records of kind usage only."""
    sums: dict[tuple[Any, ...], Counter[str]] = {}
    for r in records:
        hour = r.occurred_at.replace(minute=0, second=0, microsecond=0)
        key = (hour, r.tenant_id, r.model, r.status)
        unpriced = r.cost_pico is None or r.price_pico is None
        sums.setdefault(key, Counter()).update(
            attempts=1,
            requests=int(r.is_final),
            input_tokens=r.input_tokens,
            output_tokens=r.output_tokens,
            cost_pico=r.cost_pico or 0,
            price_pico=r.price_pico or 0,
            unpriced=int(unpriced),
            latency_ms=r.latency_ms if r.is_final else 0,
        )
    return sums


def empty() -> None:
    """Forget all of the ledger. Only a superuser's session in replica role passes the triggers."""
    with connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
        cursor.execute(
            "TRUNCATE billing_usage_event, billing_usage_hour, billing_usage_key_hour,"
            " billing_usage_latency_hour"
        )
        cursor.execute("SET session_replication_role = DEFAULT")
