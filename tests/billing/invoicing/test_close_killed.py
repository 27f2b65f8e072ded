"""The drill of `python -m benchmarks.invoices`, small: the run is killed and every period invoiced once."""

import json
import os
import subprocess
import sys


def test_a_killed_run_goes_on_and_invoices_each_period_once_without_a_gap():
    drill = [sys.executable, "-W", "ignore", "-m", "benchmarks.invoices", "--tenants", "50", "--kills", "4"]
    made = subprocess.run(drill, capture_output=True, text=True, env=os.environ, check=False)
    assert made.returncode == 0, made.stderr
    told = json.loads(made.stdout)
    assert len(told["documents_after_each_kill"]) == 4
    assert (told["invoices"], told["periods_closed"], told["drafts_left"]) == (50, 50, 0)
    assert told["periods_invoiced_once"] is True
    assert told["numbers_without_a_gap"] is True
    assert (told["books_hold"], told["faults"]) == (True, [])
    assert told["run_after_them"] == [0, 0]
