"""The drill of `benchmarks.ledger`, scaled down: workers killed on the way, batches that come again, invoices."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
DRILL = (
    "-m",
    "benchmarks.ledger",
    "--calls",
    "20000",
    "--tenants",
    "50",
    "--kills",
    "4",
    "--claim-after-ms",
    "1000",
)


def test_ledger_rollups_and_invoices_are_what_was_produced_though_workers_are_killed():
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", *DRILL], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.stdout, ran.stderr[-2000:]
    found = json.loads(ran.stdout)
    assert (found["calls"], found["workers_killed"], found["invoices"], found["set_aside"]) == (
        20000,
        4,
        50,
        0,
    )
    assert found["ledger_rows"] > found["calls"]
    for name in (
        "ledger_is_what_was_produced",
        "rollups_are_what_was_produced",
        "replay_changed_nothing",
        "invoices_are_what_was_produced",
        "proof_holds",
    ):
        assert found[name] is True, found
    assert (ran.returncode, found["failing"]) == (0, [])
