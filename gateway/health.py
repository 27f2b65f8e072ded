"""Liveness, readiness and metrics. Liveness never depends on a store."""

from typing import Any

import redis
from django.conf import settings
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, HttpResponse, JsonResponse

from gateway.content.keep import LOST
from gateway.logs.consumer import SUSPENSE
from gateway.state.limits import OPEN, STREAM
from gateway.state.process import METRICS
from gateway.telemetry.metrics import CALLS, rendered
from routing.health import metrics as provider_health


def alive(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"status": "alive"})


def ready(request: HttpRequest) -> JsonResponse:
    """200 when this worker may be sent traffic: database, migrations and Redis are in order."""
    checks: dict[str, str] = {}
    try:
        executor = MigrationExecutor(connection)
        pending = executor.migration_plan(executor.loader.graph.leaf_nodes())
        checks["database"] = "ok"
        checks["migrations"] = "pending" if pending else "ok"
    except DatabaseError:
        checks["database"] = "unavailable"
    client = _redis()
    try:
        client.ping()
        checks["redis"] = "ok"
    except redis.RedisError:
        checks["redis"] = "unavailable"
    finally:
        client.close()
    is_ready = all(state == "ok" for state in checks.values())
    return JsonResponse(
        {"status": "ready" if is_ready else "not ready", "checks": checks}, status=200 if is_ready else 503
    )


def metrics(request: HttpRequest) -> HttpResponse:
    """Prometheus text: totals of all workers, kept in Redis, so that any worker may be asked."""
    client = _redis()
    try:
        counted: Any = client.hgetall(METRICS)
        calls: Any = client.hgetall(CALLS)
        in_flight, backlog, suspense = client.hlen(OPEN), client.xlen(STREAM), client.xlen(SUSPENSE)
    finally:
        client.close()
    lines = ["# TYPE tollhouse_requests_total counter"]
    for name, count in sorted(counted.items()):
        kind, operation, status = name.decode().split(":")
        if kind == "requests":
            lines.append(
                f'tollhouse_requests_total{{operation="{operation}",status="{status}"}} {int(count)}'
            )
    lines += (
        "# TYPE tollhouse_requests_in_flight gauge",
        f"tollhouse_requests_in_flight {in_flight}",
        "# TYPE tollhouse_ledger_backlog gauge",
        f"tollhouse_ledger_backlog {backlog}",
        "# TYPE tollhouse_content_lost_total counter",
        f"tollhouse_content_lost_total {int(counted.get(LOST.encode(), 0))}",
        "# TYPE tollhouse_ledger_suspense gauge",
        f"tollhouse_ledger_suspense {suspense}",
        *rendered(calls.items()),
        *provider_health.lines(),
        "",
    )
    return HttpResponse("\n".join(lines), content_type="text/plain; version=0.0.4; charset=utf-8")


def _redis() -> redis.Redis:
    return redis.Redis.from_url(settings.REDIS_URL, socket_timeout=1, socket_connect_timeout=1)
