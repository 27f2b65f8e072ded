"""Recorded traffic as the replay reads it: the ledger's final attempts with the units the request log kept.

Reads only, through a server-side cursor: a hundred thousand calls never stand in memory at once.
"""

# ruff: noqa: S608 - statements are put together from constants

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from django.db import connection, transaction

from billing.usage.histogram import BOUNDS_MS, quantile
from routing.types import EndpointHealth, Health

CHUNK_ROWS = 5_000

_SERVED = "u.kind = 'usage' AND u.status IN ('ok', 'cut', 'cancelled') AND u.is_final"
_BUCKET = f"width_bucket(u.latency_ms - 1, ARRAY[{','.join(map(str, BOUNDS_MS))}])"


@dataclass(frozen=True, slots=True)
class Scope:
    """Which recorded calls: those in [start, end), of these tenants (empty: all) and this policy ("": all)."""

    start: datetime
    end: datetime
    tenant_ids: Collection[UUID] = ()
    policy: str = ""  # slug

    def where(self) -> tuple[str, list[Any]]:
        """The condition on ledger rows `u`, with its parameters."""
        words = ["u.occurred_at >= %s", "u.occurred_at < %s"]
        values: list[Any] = [self.start, self.end]
        if self.tenant_ids:
            words.append("u.tenant_id = ANY(%s)")
            values.append(list(self.tenant_ids))
        if self.policy:
            words.append("split_part(u.policy, '@', 1) = %s")
            values.append(self.policy)
        return " AND ".join(words), values


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """One answered call: what it asked, what it used, what it cost and where it went.

    `units` are disjoint components; amounts are pico-units, None means unpriced.
    """

    occurred_at: datetime
    request_id: UUID
    tenant_id: UUID
    api_key_id: UUID
    plan_version_id: UUID
    feature: str
    end_user: str
    operation: str
    request_model: str
    service_tier: str
    endpoint_id: str
    provider: str
    model: str
    region: str
    is_byok: bool
    cost_pico: int | None
    cost_currency: str
    price_pico: int | None
    price_currency: str
    latency_ms: int
    units: Mapping[str, int]
    needs: frozenset[str]  # capabilities


_COLUMNS = """
    u.occurred_at, u.request_id, u.tenant_id, u.api_key_id, u.plan_version_id, u.feature, u.end_user,
    u.operation, u.request_model, u.service_tier, u.endpoint_id::text, u.provider, u.model, u.region,
    u.is_byok, u.cost_pico, u.cost_currency, u.price_pico, u.price_currency, u.latency_ms"""
_UNITS = """
    u.input_tokens, u.cache_read_tokens, u.cache_write_tokens, u.output_tokens, u.reasoning_tokens,
    u.other_units::text"""
_NAMES = ("input", "cache_read", "cache_write", "output", "reasoning")


def count(scope: Scope) -> int:
    """How many calls `calls` will give."""
    where, values = scope.where()
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM billing_usage_event u WHERE {where} AND {_SERVED}", values)
        return int(cursor.fetchone()[0])


def calls(scope: Scope) -> Iterator[RecordedCall]:
    """Every answered call of the scope, oldest first.

    Units are the request log's where it still has the call, else the ledger's. Rows older than the split of
    cache writes by lifetime have them all as `cache_write` there.
    """
    where, values = scope.where()
    statement = f"""
        SELECT {_COLUMNS}, {_UNITS}, (l.attempts -> -1 -> 'units')::text, (l.route -> 'needs')::text
        FROM billing_usage_event u
        LEFT JOIN gateway_request_log l USING (occurred_at, request_id)
        WHERE {where} AND {_SERVED}
        ORDER BY u.occurred_at, u.request_id"""
    with transaction.atomic(), connection.chunked_cursor() as cursor:
        cursor.execute(statement, values)
        while rows := cursor.fetchmany(CHUNK_ROWS):
            for row in rows:
                yield RecordedCall(*(*row[:20], _units(row), _needs(row[27])))


def _units(row: tuple[Any, ...]) -> dict[str, int]:
    logged = row[26]
    if logged is not None and (units := orjson.loads(logged)):
        return dict(units)
    units = dict(zip(_NAMES, row[20:25], strict=True))
    units |= orjson.loads(row[25]) if row[25] else {}
    units["cache_write"] -= units.get("cache_write_1h", 0)
    return {name: number for name, number in units.items() if number}


def _needs(text: str | None) -> frozenset[str]:
    return frozenset(orjson.loads(text)) if text else frozenset()


@dataclass(frozen=True, slots=True)
class Latencies:
    """Histograms (billing.usage.histogram) of whole answers by endpoint, in the scope's window."""

    by_endpoint: Mapping[str, Mapping[int, int]]

    def p95_ms(self, shares: Mapping[str, int]) -> float | None:
        """The p95 of a mixture of endpoints by their number of calls; None while none has a history."""
        mixed: dict[int, float] = {}
        for endpoint_id, weight in shares.items():
            histogram = self.by_endpoint.get(endpoint_id)
            if histogram:
                total = sum(histogram.values())
                for bucket, number in histogram.items():
                    mixed[bucket] = mixed.get(bucket, 0.0) + weight * number / total
        return quantile({bucket: round(1000 * share) for bucket, share in mixed.items()}, 0.95)

    def known(self, shares: Mapping[str, int]) -> int:
        """How many of these calls go to an endpoint with a history."""
        return sum(number for endpoint_id, number in shares.items() if endpoint_id in self.by_endpoint)


def latencies(scope: Scope) -> Latencies:
    """Measured over the whole window, whoever called: another policy's calls tell of an endpoint too."""
    statement = f"""
        SELECT u.endpoint_id::text, {_BUCKET}, count(*) FROM billing_usage_event u
        WHERE u.occurred_at >= %s AND u.occurred_at < %s AND u.kind = 'usage' AND u.status = 'ok'
        GROUP BY 1, 2"""
    found: dict[str, dict[int, int]] = {}
    with connection.cursor() as cursor:
        cursor.execute(statement, [scope.start, scope.end])
        for endpoint_id, bucket, number in cursor.fetchall():
            found.setdefault(endpoint_id, {})[bucket] = number
    return Latencies(found)


def health(scope: Scope) -> Health:
    """The window's endpoints as a planner would have seen them on its average: no circuit open, no pause."""
    statement = """
        SELECT u.endpoint_id::text,
            count(*) FILTER (WHERE u.status IN ('ok', 'cancelled'))::float / count(*),
            count(*),
            percentile_cont(0.5) WITHIN GROUP (ORDER BY u.first_byte_ms),
            percentile_cont(0.95) WITHIN GROUP (ORDER BY u.first_byte_ms),
            percentile_cont(0.95) WITHIN GROUP (ORDER BY u.latency_ms) FILTER (WHERE u.status = 'ok')
        FROM billing_usage_event u
        WHERE u.occurred_at >= %s AND u.occurred_at < %s AND u.kind = 'usage'
        GROUP BY 1"""
    with connection.cursor() as cursor:
        cursor.execute(statement, [scope.start, scope.end])
        return Health(
            endpoints={
                endpoint_id: EndpointHealth(
                    success=success,
                    samples=samples,
                    first_byte_p50_ms=p50,
                    first_byte_p95_ms=p95,
                    latency_p95_ms=latency_p95,
                )
                for endpoint_id, success, samples, p50, p95, latency_p95 in cursor.fetchall()
            }
        )
