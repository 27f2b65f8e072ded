"""How many usage records a second the ledger takes: ingest into a real PostgreSQL, rollups included.

    uv run python -m benchmarks.ingest [--rows 200000] [--batch 2000] [--writers 1]

Migrates and fills a database of its own, `tollhouse_bench_ingest`, on the server of DATABASE_URL (or an
embedded one) and drops it afterwards. Prints one JSON object. Durability is the server's: commits are
synchronous unless it says otherwise.
"""

import argparse
import json
import multiprocessing
import random
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from uuid import UUID

from benchmarks.database import fresh

DATABASE = "tollhouse_bench_ingest"


def make(rows: int, seed: int):
    """`rows` records of two hours before now: 200 tenants, 12 models, some failed attempts."""
    from billing.usage.records import UsageRecord
    from tenants.ids import instant_of, uuid7

    dice = random.Random(seed)
    start = datetime.now(UTC) - timedelta(hours=2)
    models = [f"model-{n}" for n in range(12)]
    for _ in range(rows):
        request_id = uuid7(int((start + timedelta(seconds=dice.random() * 7200)).timestamp() * 1000))
        tenant, model, is_ok = dice.randrange(200), dice.choice(models), dice.random() < 0.97
        tokens = dice.randrange(4000)
        yield UsageRecord(
            occurred_at=instant_of(request_id),
            request_id=request_id,
            tenant_id=UUID(int=tenant),
            api_key_id=UUID(int=1000 + tenant),
            plan_version_id=UUID(int=5),
            feature=dice.choice(("search", "chat", "")),
            end_user=f"user-{dice.randrange(10_000)}",
            operation="chat",
            request_model="policy:cost-optimized",
            model=model,
            provider="openai",
            provider_model=model,
            endpoint_id=UUID(int=7),
            region="eu",
            policy="cost-optimized@3",
            status="ok" if is_ok else "error",
            error_type="" if is_ok else "server_error",
            usage_source="provider",
            input_tokens=tokens,
            output_tokens=tokens // 4,
            cost_pico=tokens * 2_500_000,
            cost_currency="USD",
            price_pico=tokens * 3_000_000,
            price_currency="USD",
            cost_components={"input": tokens * 1_500_000, "output": tokens * 1_000_000},
            latency_ms=dice.randrange(20_000),
            first_byte_ms=120,
        )


def write(rows: int, batch: int, seed: int, ready, go, done) -> None:
    """One writer: builds its records first, then ingests batch after batch."""
    import django

    django.setup()
    from django.db import connection

    from billing.usage.ingest import ingest

    records = sorted(make(rows, seed), key=lambda record: record.occurred_at)  # as a stream brings them
    connection.ensure_connection()
    ready.release()
    go.wait()
    began, cpu = time.perf_counter(), time.process_time()
    inserted = 0
    for position in range(0, rows, batch):
        inserted += ingest(records[position : position + batch], recorded_at=datetime.now(UTC)).inserted
    done.put((inserted, time.perf_counter() - began, time.process_time() - cpu))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--rows", type=int, default=200_000)
    options.add_argument("--batch", type=int, default=2_000)
    options.add_argument("--writers", type=int, default=1)
    chosen = options.parse_args()
    with ExitStack() as stack:
        fresh(stack, DATABASE)
        print(json.dumps(_run(chosen.rows, chosen.batch, chosen.writers)))


def _run(rows: int, batch: int, writers: int) -> dict[str, object]:
    from billing.usage.partitions import ensure_partitions
    from billing.usage.verify import verify

    ensure_partitions(today=datetime.now(UTC).date() - timedelta(days=1))
    context = multiprocessing.get_context("spawn")
    ready, go, done = context.Semaphore(0), context.Event(), context.Queue()
    share = rows // writers
    processes = [
        context.Process(target=write, args=(share, batch, seed, ready, go, done)) for seed in range(writers)
    ]
    for process in processes:
        process.start()
    for _ in processes:
        ready.acquire()
    go.set()
    results = [done.get() for _ in processes]
    for process in processes:
        process.join()
    inserted = sum(result[0] for result in results)
    elapsed_s = max(result[1] for result in results)
    began = time.perf_counter()
    proof = verify()
    return {
        "rows": inserted,
        "batch": batch,
        "writers": writers,
        "seconds": round(elapsed_s, 2),
        "rows_per_s": round(inserted / elapsed_s),
        "client_cpu_us_per_row": round(sum(result[2] for result in results) / inserted * 1e6, 1),
        "ledger_is_proven": proof.ok,
        "proof_s": round(time.perf_counter() - began, 2),
    }


if __name__ == "__main__":
    main()
