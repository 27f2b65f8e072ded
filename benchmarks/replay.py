"""How long a what-if over recorded traffic takes, and that its money is right to the pico.

    uv run python -m benchmarks.replay [--calls 100000]

Seeds the demo's routes and `--calls` recorded calls of 50 tenants, replays them under another policy as the worker
does, and compares the candidate's cost with a sum that knows only the rates as they are written. Prints one JSON
object.
"""

import argparse
import json
import random
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from uuid import UUID

from benchmarks.database import fresh

BATCH = 2_000


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--calls", type=int, default=100_000)
    chosen = options.parse_args()
    with ExitStack() as stack:
        fresh(stack, "tollhouse_bench_replay")
        print(json.dumps(_run(chosen.calls)))


def _run(calls: int) -> dict[str, object]:
    from django.db import connections

    from billing.usage.partitions import ensure_partitions
    from gateway.management.commands.seed_demo import seed
    from gateway.models import Replay
    from gateway.replay import jobs
    from tenants.principal import SYSTEM

    seed()
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)
    ensure_partitions(today=start.date())
    units = _record(calls, start)
    row = jobs.ask(
        candidate={"policy": "reliable", "wording": {"strategy": "cost"}},
        start=start,
        end=start + timedelta(days=1),
        tenants=[],
        is_whole=False,
        actor=SYSTEM,
    )
    began, cpu = time.perf_counter(), time.process_time()
    jobs.run_next()
    elapsed_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    row.refresh_from_db()
    assert row.status == Replay.Status.DONE, row.error
    candidate = row.report["total"]["cost"]["USD"]["candidate"]
    connections.close_all()
    return {
        "calls": row.done,
        "seconds": round(elapsed_s, 2),
        "cpu_us_per_call": round(cpu_s / calls * 1e6, 1),
        "candidate_cost": candidate,
        "is_exact": Decimal(candidate) * 10**12 == sum(map(_cheapest, units)),
    }


def _record(calls: int, start: datetime) -> list[dict[str, int]]:
    """Ledger rows of calls that the large sandbox model served; returns their units."""
    from billing.models import PlanVersion
    from billing.usage.ingest import ingest
    from billing.usage.records import UsageRecord
    from routing.models import Endpoint
    from tenants.ids import instant_of, uuid7

    dice = random.Random(1)
    endpoint = Endpoint.objects.get(provider__slug="sandbox", model__slug="sandbox-large")
    plans = list(PlanVersion.objects.values_list("pk", flat=True))
    units, batch = [], []
    for number in range(calls):
        request_id = uuid7(int((start.timestamp() + number * 86_000 / calls) * 1000))
        used = {
            "input": dice.randrange(1, 8000),
            "cache_read": dice.randrange(1, 999),
            "output": dice.randrange(1, 900),
        }
        units.append(used)
        batch.append(
            UsageRecord(
                occurred_at=instant_of(request_id),
                request_id=request_id,
                tenant_id=UUID(int=dice.randrange(50)),
                api_key_id=UUID(int=1),
                plan_version_id=dice.choice(plans),
                feature="search",
                operation="chat",
                request_model="policy:reliable",
                policy="reliable@1",
                model="sandbox-large",
                provider="sandbox",
                provider_model=endpoint.provider_model,
                endpoint_id=endpoint.pk,
                region="us",
                status="ok",
                usage_source="provider",
                input_tokens=used["input"],
                cache_read_tokens=used["cache_read"],
                output_tokens=used["output"],
                cost_pico=1_000_000,
                cost_currency="USD",
                price_pico=1_200_000,
                price_currency="USD",
                latency_ms=dice.randrange(100, 2_000),
            )
        )
        if len(batch) == BATCH or number == calls - 1:
            ingest(batch, recorded_at=datetime.now(UTC))
            batch.clear()
    return units


def _cheapest(units: dict[str, int]) -> int:
    """R2 by hand at the small sandbox model's rates."""
    prices = {"input": "0.10", "cache_read": "0.025", "output": "0.40"}
    return sum(
        int((Decimal(count) * Decimal(prices[name]) * 10**6).quantize(Decimal(1), ROUND_HALF_UP))
        for name, count in units.items()
    )


if __name__ == "__main__":
    main()
