"""What the gateway promises of a provider's rate limit: four workers use it up and are never refused."""

import subprocess
import sys
import time

import orjson

from tests.fakes import limited_provider

LIMIT, WINDOW_S = 100, 10.0  # 600 a minute, in Azure's windows
WORKERS = 4
WARM_UP_S, MEASURED_S = 20.0, 10.0


def test_four_workers_use_a_strict_limit_up_and_are_never_refused(redis):
    with limited_provider.running(LIMIT, WINDOW_S) as url:
        seconds = WARM_UP_S + MEASURED_S + 1
        argv = [sys.executable, "-m", "tests.fakes.paced_caller", redis.url, url, str(seconds), "6"]
        workers = [subprocess.Popen(argv, stdout=subprocess.PIPE) for _ in range(WORKERS)]
        counts = [orjson.loads(worker.communicate()[0]) for worker in workers]
        accepted, refused = limited_provider.seen(url)
    begin_s = accepted[0] + WARM_UP_S
    measured = [at_s for at_s in accepted if begin_s <= at_s < begin_s + MEASURED_S]
    assert [at_s - begin_s for at_s in refused if at_s >= begin_s] == []
    assert len(measured) >= 0.95 * LIMIT / WINDOW_S * MEASURED_S
    assert all(count["sent"] > 0 and count["saturated"] > 0 for count in counts)
    assert accepted[-1] <= time.monotonic()
