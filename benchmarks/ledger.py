"""Do the books hold when everything goes wrong? Calls through Redis into the ledger, its workers killed on the way.

    uv run python -m benchmarks.ledger [--calls 1000000] [--tenants 200] [--workers 2] [--kills 20]

Starts a PostgreSQL and a Redis of its own. A producer writes closed calls to the stream, as the data plane does;
workers move them with the product's own consumer and are killed with SIGKILL at even distances. Then, each from its
own side: what was produced, the ledger, its rollups, and the invoices of the month must say the same to the last
digit; and batches that come again must change nothing. Prints one JSON object, exits with 1 when anything differs.
"""

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from uuid import UUID

from benchmarks.database import fresh

DATABASE = "tollhouse_bench_ledger"
BATCH = 1_000
BACKLOG = 20_000
DAYS = 10
MARKUP_PERCENT = 20
REPLAYED_BATCHES = 25
MODELS = [(f"model-{n}", f"vendor-{n % 3}", 500_000 * (n + 1), 2_000_000 * (n + 1)) for n in range(12)]
"""Slug, provider, and pico-units per input and output token."""


# ------------------------------------------------------------------ calls


def calls_of(batch: int, size: int, start: datetime, tenants: list[UUID], version: UUID):
    """The wire form of one batch's calls with its sums: the very same whenever it is made."""
    import orjson

    from billing.usage.derived import derived_id

    dice = random.Random(batch)
    payloads = []
    sums: Counter[tuple[int, str]] = Counter()
    for number in range(size):
        at = start + timedelta(milliseconds=dice.randrange(DAYS * 86_400_000))
        who = dice.randrange(len(tenants))
        slug, provider, per_input, per_output = dice.choice(MODELS)
        units = {"input": dice.randrange(1, 4000), "output": dice.randrange(1, 1000)}
        parts = {"input": units["input"] * per_input, "output": units["output"] * per_output}
        cost = parts["input"] + parts["output"]
        price = cost * (100 + MARKUP_PERCENT) // 100  # exact: costs are whole multiples of 5
        failed = dice.random() < 0.03
        common = (slug, provider, slug, str(UUID(int=7)), "eu")
        attempts = []
        if failed:
            attempts.append(
                (0, *common, "error", "server_error", 500, "provider", {}, 0, "EUR", 0, {}, 90, None, False)
            )
        attempts.append(
            (
                len(attempts),
                *common,
                "ok",
                "",
                200,
                "provider",
                units,
                cost,
                "EUR",
                price,
                parts,
                400,
                80,
                False,
            )
        )
        shared = (
            str(tenants[who]), str(UUID(int=1000 + who)), str(version), "EUR", dice.choice(("search", "chat", "")),
            f"user-{dice.randrange(10_000)}", "chat", "policy:cheap", "", "cheap@1", False, "usage", "", "",
        )  # fmt: skip
        log = (200, "", "", "stop", slug, {}, 400 + 90 * failed, {})
        request_id = derived_id(at, b"bench", batch.to_bytes(4), number.to_bytes(4))
        payloads.append(orjson.dumps((2, str(request_id), shared, attempts, log, None)))
        sums[who, "calls"] += 1
        sums[who, "rows"] += len(attempts)
        sums[who, "cost"] += cost
        sums[who, "price"] += price
    return payloads, sums


# ------------------------------------------------------------------ workers


def consume(claim_after_ms: int, ready) -> None:
    """A worker: the product's consumer, over and over, until it is killed."""
    import django

    django.setup()
    from gateway.logs import consumer, streams

    streams.CLAIM_AFTER_MS = claim_after_ms
    ready.release()
    while True:
        consumer.drain(budget_s=5, block_ms=100)


class Workers:
    """So many at any time; whoever is killed is replaced."""

    def __init__(self, number: int, claim_after_ms: int) -> None:
        self.context = multiprocessing.get_context("spawn")
        self.claim_after_ms = claim_after_ms
        self.killed = 0
        self.dice = random.Random(9)
        self.living = [self._start() for _ in range(number)]

    def _start(self):
        ready = self.context.Semaphore(0)
        process = self.context.Process(target=consume, args=(self.claim_after_ms, ready), daemon=True)
        process.start()
        ready.acquire()
        return process

    def kill_one(self) -> None:
        victim = self.dice.randrange(len(self.living))
        process = self.living[victim]
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        self.killed += 1
        self.living[victim] = self._start()

    def stop(self) -> None:
        for process in self.living:
            process.kill()
            process.join()


# ------------------------------------------------------------------ the world


def settle(tenants: int, start: datetime):
    """A seller, one plan at cost plus 20 %, and its tenants, there since `start`. Ids and the plan's version."""
    from billing.models import BillingProfile, LegalEntity, Plan, TaxRate
    from billing.subscriptions import newest_version, publish, subscribe
    from tenants.models import Tenant
    from tenants.principal import SYSTEM

    LegalEntity.objects.create(
        code="bench", name="Bench GmbH", address_lines=["Hauptstr. 1"], postal_code="10115", city="Berlin",
        country="DE", vat_id="DE123456789", registration="HRB 1", email="billing@bench.example",
        iban="DE02120300000000202051", bic="BYLADEM1001", timezone="UTC", number_prefix="BENCH", is_default=True,
        auto_finalize=True, bills_from=start,
    )  # fmt: skip
    TaxRate.objects.create(
        key="standard", category="S", percent="19", country="DE", valid_from=date(2021, 1, 1)
    )
    plan = Plan.objects.create(slug="bench", name="Bench")
    charges = [{"model": "cost_plus", "markup_percent": str(MARKUP_PERCENT), "fixed_per_request": "0"}]
    publish(plan=plan, terms={"charges": charges, "currency": "EUR"}, actor=SYSTEM)
    ids = []
    for number in range(tenants):
        tenant = Tenant.objects.create(slug=f"t-{number}", name=f"Tenant {number}", currency="EUR")
        Tenant.objects.filter(pk=tenant.pk).update(created_at=start)
        tenant.refresh_from_db()
        BillingProfile.objects.create(
            tenant=tenant, legal_name=tenant.name, address_lines=["1 High St"], postal_code="10115",
            city="Berlin", country="DE",
        )  # fmt: skip
        subscribe(tenant=tenant, plan=plan, start=start, anchor_day=1, actor=SYSTEM)
        ids.append(tenant.pk)
    return ids, newest_version(plan).pk


def month_before(now: datetime) -> datetime:
    """The beginning of the last month that is over and out of its grace."""
    first = (now - timedelta(hours=12)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return (first - timedelta(days=1)).replace(day=1)


# ------------------------------------------------------------------ what the books say


def ledger_sums() -> dict[UUID, tuple[int, ...]]:
    return _by_tenant(
        "count(DISTINCT request_id), count(*), sum(cost_pico), sum(price_pico)", "billing_usage_event"
    )


def rollup_sums() -> dict[UUID, tuple[int, ...]]:
    return _by_tenant("sum(requests), sum(attempts), sum(cost_pico), sum(price_pico)", "billing_usage_hour")


def _by_tenant(sums: str, table: str) -> dict[UUID, tuple[int, ...]]:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(f"SELECT tenant_id, {sums} FROM {table} GROUP BY 1")
        return {tenant: tuple(map(int, numbers)) for tenant, *numbers in cursor.fetchall()}


def fingerprint() -> list[tuple]:
    """Rows and a digest of every table that ingest writes, whatever their order."""
    from django.db import connection

    from billing.usage.rollups import ROLLUPS

    tables = ("billing_usage_event", "gateway_request_log", *(rollup.table for rollup in ROLLUPS))
    found = []
    for table in tables:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)), 0) FROM {table} t")
            found.append((table, *map(int, cursor.fetchone())))
    return found


def invoiced_minor() -> dict[UUID, int]:
    from billing.models import Invoice

    return dict(Invoice.objects.exclude(number=None).values_list("tenant_id", "subtotal_minor"))


# ------------------------------------------------------------------ the run


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--calls", type=int, default=1_000_000)
    options.add_argument("--tenants", type=int, default=200)
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--kills", type=int, default=20)
    options.add_argument("--claim-after-ms", type=int, default=30_000, help="as the product does: 30000")
    chosen = options.parse_args()
    with ExitStack() as stack:
        from gateway.embedded import services

        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tollhouse-bench-")))
        urls = stack.enter_context(services(root))
        os.environ["DATABASE_URL"], os.environ["REDIS_URL"] = urls.database_url, urls.redis_url
        fresh(stack, DATABASE)
        result = run(chosen)
        from django.db import connection

        connection.close()
    print(json.dumps(result, indent=1))
    sys.exit(0 if result["holds"] else 1)


def run(chosen: argparse.Namespace) -> dict[str, object]:
    import redis
    from django.conf import settings
    from django.utils import timezone

    from billing.invoicing.close import close_due
    from billing.invoicing.draft import SETTLING
    from billing.rating.money import to_minor
    from billing.usage.partitions import ensure_days, existing_days
    from billing.usage.verify import verify
    from gateway.logs import consumer
    from gateway.logs.partitions import REQUEST_LOG
    from gateway.state.limits import STREAM

    start = month_before(datetime.now(UTC))
    for table in ("billing_usage_event", REQUEST_LOG):
        ensure_days(table=table, days=(start.date() + timedelta(days=n) for n in range(DAYS)))
        assert existing_days(table=table)
    tenants, version = settle(chosen.tenants, start)
    batches = [
        (number, min(BATCH, chosen.calls - number * BATCH)) for number in range(-(-chosen.calls // BATCH))
    ]
    kill_at = [chosen.calls * (n + 1) // (chosen.kills + 1) for n in range(chosen.kills)]
    expected: Counter[tuple[int, str]] = Counter()
    workers = Workers(chosen.workers, chosen.claim_after_ms)
    try:
        with redis.Redis.from_url(settings.REDIS_URL) as client:

            def kill_those_due(moved: int) -> None:
                while kill_at and moved >= kill_at[0]:
                    kill_at.pop(0)
                    workers.kill_one()

            produced, began = 0, time.perf_counter()
            for number, size in batches:
                payloads, sums = calls_of(number, size, start, tenants, version)
                expected.update(sums)
                while (waiting := client.xlen(STREAM)) > BACKLOG:
                    kill_those_due(produced - waiting)
                    time.sleep(0.02)
                pipe = client.pipeline(transaction=False)
                for payload in payloads:
                    pipe.xadd(STREAM, {"r": payload})
                pipe.execute()
                produced += size
                kill_those_due(produced - client.xlen(STREAM))
            while waiting := client.xlen(STREAM):
                kill_those_due(produced - waiting)
                time.sleep(0.02)
            kill_those_due(produced)
            elapsed_s = time.perf_counter() - began
            workers.stop()

            by_hand = {
                tenant: tuple(expected[who, name] for name in ("calls", "rows", "cost", "price"))
                for who, tenant in enumerate(tenants)
                if expected[who, "calls"]
            }
            is_ledger, is_rollup = ledger_sums() == by_hand, rollup_sums() == by_hand

            before = fingerprint()
            for number, size in random.Random(4).sample(batches, min(REPLAYED_BATCHES, len(batches))):
                pipe = client.pipeline(transaction=False)
                for payload in calls_of(number, size, start, tenants, version)[0]:
                    pipe.xadd(STREAM, {"r": payload})
                pipe.execute()
                while client.xlen(STREAM):
                    consumer.drain(budget_s=60, block_ms=50)
            is_replay_idle = fingerprint() == before
            set_aside = client.xlen(consumer.SUSPENSE)
    finally:
        workers.stop()

    invoices_began = time.perf_counter()
    made, failed = close_due(now=timezone.now() + SETTLING + timedelta(seconds=1))  # as if a moment later
    invoices_s = time.perf_counter() - invoices_began
    by_invoice = {
        tenant: to_minor(Fraction(cost * (100 + MARKUP_PERCENT), 100 * 10**12), "EUR")
        for tenant, (_, _, cost, _) in by_hand.items()
    }
    invoiced = invoiced_minor()
    is_invoiced = failed == 0 and invoiced == by_invoice
    differing = [
        f"{tenant}: {invoiced.get(tenant)} invoiced, {minor} produced"
        for tenant, minor in by_invoice.items()
        if invoiced.get(tenant) != minor
    ]
    proof_began = time.perf_counter()
    proof = verify()
    return {
        "holds": all((is_ledger, is_rollup, is_replay_idle, is_invoiced, proof.ok, not set_aside))
        and workers.killed == chosen.kills,
        "calls": chosen.calls,
        "ledger_rows": sum(rows for _, rows, _, _ in by_hand.values()),
        "tenants": len(by_hand),
        "workers": chosen.workers,
        "workers_killed": workers.killed,
        "seconds": round(elapsed_s, 1),
        "calls_per_s": round(chosen.calls / elapsed_s),
        "ledger_is_what_was_produced": is_ledger,
        "rollups_are_what_was_produced": is_rollup,
        "batches_replayed": min(REPLAYED_BATCHES, len(batches)),
        "replay_changed_nothing": is_replay_idle,
        "set_aside": set_aside,
        "invoices": made,
        "invoices_s": round(invoices_s, 1),
        "invoices_are_what_was_produced": is_invoiced,
        "invoices_that_differ": differing[:5],
        "proof_holds": proof.ok,
        "proof_s": round(time.perf_counter() - proof_began, 1),
        "failing": [f"{check.name}: {check.detail}" for check in proof.checks if not check.ok],
    }


if __name__ == "__main__":
    main()
