"""The invoice run of many tenants, killed at random points and run again: once each, numbers without a gap?

    uv run python -m benchmarks.invoices [--tenants 1000] [--kills 10] [--calls 20] [--seed 1]

Fills a database of its own, `tollhouse_bench_invoices`, on the server of DATABASE_URL (or an embedded one) and
drops it afterwards. The run is `billing.invoicing.close.close_due` in a process of its own, killed with SIGKILL
once a random number of documents stands, at a random moment of the next. Prints one JSON object; exits with 1
if a period was invoiced twice or not at all, a number is missing, or the books do not hold.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from contextlib import ExitStack
from datetime import UTC, date, datetime, timedelta

import psycopg

from benchmarks.database import fresh

DATABASE = "tollhouse_bench_invoices"
START = datetime(2026, 10, 1, tzinfo=UTC)
AFTER = datetime(2026, 11, 1, 7, tzinfo=UTC)


def seed(tenants: int, calls: int) -> None:
    """Tenants on one plan, each with `calls` calls in October, all by the product's own verbs."""
    from billing.models import LegalEntity, Plan, TaxRate
    from billing.subscriptions import publish, subscribe
    from billing.usage.ingest import ingest
    from billing.usage.records import UsageRecord
    from tenants.ids import instant_of, uuid7
    from tenants.models import Tenant
    from tenants.principal import SYSTEM

    LegalEntity.objects.create(
        code="bench", name="Bench GmbH", country="DE", timezone="Europe/Berlin", number_prefix="B",
        is_default=True, auto_finalize=True, bills_from=START,
    )  # fmt: skip
    TaxRate.objects.create(
        key="standard", category="S", percent="19", country="DE", valid_from=date(2021, 1, 1)
    )
    plan = Plan.objects.create(slug="bench", name="Bench")
    charge = {"model": "standard", "components": {"input": {"price": "2", "per": 1000}}}
    version = publish(
        plan=plan, terms={"charges": [charge], "currency": "EUR", "base_amount": "49"}, actor=SYSTEM
    )
    made = []
    for number in range(tenants):
        tenant = Tenant.objects.create(slug=f"t{number:05d}", name=f"Tenant {number}", currency="EUR")
        subscribe(tenant=tenant, plan=plan, start=START, actor=SYSTEM)
        made.append(tenant)
    Tenant.objects.update(created_at=START)
    dice = random.Random(7)
    records = []
    for tenant in made:
        for _ in range(calls):
            request_id = uuid7(int((START.timestamp() + dice.random() * 86_400 * 30) * 1000))
            tokens = dice.randrange(1, 10_000)
            records.append(
                UsageRecord(
                    occurred_at=instant_of(request_id), request_id=request_id, tenant_id=tenant.pk,
                    api_key_id=tenant.pk, plan_version_id=version.pk, operation="chat", request_model="m",
                    model="m", provider="p", provider_model="m", endpoint_id=tenant.pk, status="ok",
                    usage_source="provider", input_tokens=tokens, cost_pico=0, cost_currency="EUR",
                    price_pico=tokens * 2 * 10**9, price_currency="EUR", latency_ms=1,
                )
            )  # fmt: skip
    for position in range(0, len(records), 2000):
        ingest(records[position : position + 2000], recorded_at=AFTER - timedelta(hours=1))


def run_once() -> None:
    """What the clock's task does, at the drill's own time. In a process of its own, so that it can be killed."""
    import django

    django.setup()
    from billing.invoicing.close import close_due

    print(json.dumps(close_due(now=AFTER)), flush=True)


def _start() -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.invoices", "--run-once"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip


def drill(tenants: int, kills: int, dice: random.Random) -> dict[str, object]:
    """Kill and run again, then let two runs finish beside each other, then one more: what stood after each."""
    goals = sorted(dice.sample(range(tenants), kills))
    stood = []
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as watch:
        for goal in goals:
            process = _start()
            while _documents(watch) < goal and process.poll() is None:
                time.sleep(0.002)
            time.sleep(dice.random() * 0.03)
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
            stood.append(_documents(watch))
        began = time.perf_counter()
        before = _documents(watch)
        beside = _start()
        last = _finish()
        beside.communicate()
        again = _finish()
        seconds = time.perf_counter() - began
        return {
            "documents_after_each_kill": stood,
            "last_run_of_two_at_once": last,
            "run_after_them": again,
            "documents_per_s": round((_documents(watch) - before) / seconds, 1),
        }


def _finish() -> list[int]:
    process = _start()
    out, _ = process.communicate()
    return list(json.loads(out)) if process.returncode == 0 else [-1, -1]


def _documents(watch: psycopg.Connection) -> int:
    row = watch.execute("SELECT count(*) FROM billing_invoice WHERE number IS NOT NULL").fetchone()
    return 0 if row is None else int(row[0])


def findings(tenants: int) -> dict[str, object]:
    """The documents as they stand, and the proof of the books."""
    from billing.models import ClosedPeriod, Invoice
    from billing.usage.verify import verify

    numbers = sorted(Invoice.objects.exclude(number=None).values_list("number", flat=True))
    periods = set(Invoice.objects.values_list("tenant_id", "period_start", "occasion", "currency"))
    proof = verify()
    return {
        "tenants": tenants,
        "invoices": len(numbers),
        "periods_invoiced_once": len(periods) == Invoice.objects.count() == tenants,
        "periods_closed": ClosedPeriod.objects.filter(currency="EUR").count(),
        "drafts_left": Invoice.objects.filter(status="draft").count(),
        "numbers_without_a_gap": numbers == [f"B-INV-2026-{n:05d}" for n in range(1, tenants + 1)],
        "books_hold": proof.ok,
        "faults": [check.detail for check in proof.checks if not check.ok],
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--tenants", type=int, default=1000)
    options.add_argument("--kills", type=int, default=10)
    options.add_argument("--calls", type=int, default=20)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--run-once", action="store_true", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.run_once:
        run_once()
        return
    with ExitStack() as stack:
        fresh(stack, DATABASE)
        seed(chosen.tenants, chosen.calls)
        told = drill(chosen.tenants, chosen.kills, random.Random(chosen.seed)) | findings(chosen.tenants)
        from django.db import connection

        connection.close()
        print(json.dumps(told))
    if not (told["periods_invoiced_once"] and told["numbers_without_a_gap"] and told["books_hold"]):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
