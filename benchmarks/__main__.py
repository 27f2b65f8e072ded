"""`make bench`: what one call costs the gateway on this machine, beside nginx as a plain proxy.

Starts private PostgreSQL and Redis, our own fast upstream and the product with one web worker, all as `make up` does,
and drives them over rounds that alternate with nginx. The web worker (or nginx) has one core, everything else
shares another. All that a tenant has is on: key, rate limits, hard budget, durable record, routing. Ratios within
one run are the figures to trust. It must never touch a database or a Redis that it has not started itself.
"""

import argparse
import contextlib
import json
import math
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import redis

from benchmarks import accounting
from gateway.embedded import Embedded, lock_data_folder
from gateway.environment import new_secrets
from gateway.processes import Child
from gateway.supervisor import Options, product_commands

HOUSE = Path(__file__).parents[1]
START_TIMEOUT_S = 60.0
LOAD_TIMEOUT_S = 300.0
LEDGER_TIMEOUT_S = 120.0
SETTLE_S = 0.3  # settlements leave after the answers
STREAM = "th:usage"  # gateway.state.limits.STREAM, which needs Django's settings to import
EVENTS_PER_STREAM = 52  # 50 chunks of text, the last one, the usage


class BenchmarkError(RuntimeError):
    """The benchmark cannot run, or what it measured did not work; the message says why."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of load: so many requests in all, over so many connections."""

    name: str
    model: str
    connections: int
    requests: int
    is_stream: bool = False


SCENARIOS = (
    Scenario("c1", "mock", 1, 2_000),
    Scenario("c8", "mock", 8, 8_000),
    Scenario("c64", "mock", 64, 12_000),
    Scenario("paced", "mock-g5000-n50", 16, 160, is_stream=True),
    Scenario("burst", "mock-g0-n50", 8, 400, is_stream=True),
)


@dataclass(frozen=True, slots=True)
class Subject:
    """Something to send load through. `pids` are the roots of the process trees that pay for it."""

    name: str
    base_url: str
    key: str
    pids: tuple[int, ...]


# --- starting -------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 0.5).close()
    except OSError:
        return False
    return True


def is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def _pid(child: Child) -> int:
    if child.pid is None:
        msg = f"{child.name} has not been started"
        raise BenchmarkError(msg)
    return child.pid


@contextlib.contextmanager
def running(
    name: str,
    argv: Sequence[str],
    *,
    core: int,
    ready: Callable[[], bool],
    env: Mapping[str, str] | None = None,
) -> Iterator[int]:
    """A program on one core for the length of a `with`, once it is ready. Raises BenchmarkError."""
    child = Child(
        name=name, argv=argv, stop_timeout_s=20, env=env, cwd=HOUSE, become=partial(accounting.pin, core)
    )
    child.start()
    try:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not ready():
            if child.poll() is not None or time.monotonic() > deadline_s:
                raise BenchmarkError(f"{name} does not start:\n" + "\n".join(child.tail))
            time.sleep(0.1)
        yield _pid(child)
    finally:
        child.stop()


@contextlib.contextmanager
def nginx(upstream_port: int, *, core: int) -> Iterator[Subject]:
    """nginx that does nothing but pass on, with kept-alive connections on both sides."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="tollhouse-nginx-") as folder:
        temporary = "".join(
            f"{kind}_temp_path {folder}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        configuration = Path(folder) / "nginx.conf"
        configuration.write_text(
            f"worker_processes 1; daemon off; pid {folder}/pid; error_log stderr warn;"
            f"events {{ worker_connections 1024; }}"
            f"http {{ access_log off; keepalive_requests 100000000; {temporary}"
            f"upstream provider {{ server 127.0.0.1:{upstream_port}; keepalive 256;"
            f" keepalive_requests 100000000; }}"
            f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://provider;"
            f' proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }} }} }}'
        )
        argv = ["nginx", "-e", "stderr", "-c", str(configuration)]
        with running("nginx", argv, core=core, ready=lambda: _listens(port)) as pid:
            yield Subject("nginx", f"http://127.0.0.1:{port}/v1", "none", (pid,))


def prepare(env: Mapping[str, str], *, upstream_port: int) -> str:
    """Migrate and seed; returns the tenant's key. Raises BenchmarkError."""
    key = ""
    for argv in (["manage.py", "migrate", "-v0"], ["-m", "benchmarks.seed_for_compare"]):
        done = subprocess.run(
            [sys.executable, "-W", "ignore::RuntimeWarning", *argv],
            env={**env, "MOCK_PORT": str(upstream_port)},
            cwd=HOUSE,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise BenchmarkError(f"{' '.join(argv)} failed:\n{done.stderr[-3000:]}")
        key = done.stdout.strip().rpartition("\n")[2]
    return key


# --- measuring ------------------------------------------------------------------------------------------


def drive(subject: Subject, scenario: Scenario) -> dict[str, Any]:
    """Send one scenario's load from a process of its own; returns the load generator's report."""
    argv = [sys.executable, "-m", "benchmarks.load", "--url", f"{subject.base_url}/chat/completions"]
    argv += ["--key", subject.key, "--model", scenario.model, "--connections", str(scenario.connections)]
    argv += ["--requests", str(scenario.requests), *(["--stream"] if scenario.is_stream else [])]
    done = subprocess.run(
        argv, cwd=HOUSE, capture_output=True, text=True, timeout=LOAD_TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        raise BenchmarkError(f"{subject.name}, {scenario.name}: the load broke off:\n{done.stderr[-3000:]}")
    report: dict[str, Any] = json.loads(done.stdout)
    if report["ok"] != scenario.requests:
        failures = f"{report['failures']} {report['failure_sample']}"
        raise BenchmarkError(f"{subject.name}, {scenario.name}: not every call succeeded: {failures}")
    return report


def measure(subject: Subject, scenario: Scenario) -> dict[str, Any]:
    """A report with what the subject's processes spent on it: `cpu_us` per request."""
    before_ns = accounting.cpu_ns(subject.pids)
    report = drive(subject, scenario)
    time.sleep(SETTLE_S)
    report["cpu_us"] = (accounting.cpu_ns(subject.pids) - before_ns) / 1000 / scenario.requests
    return report


def await_ledger(redis_url: str) -> None:
    """Wait until every call's record has left Redis for PostgreSQL. Raises BenchmarkError."""
    client = redis.Redis.from_url(redis_url)
    try:
        deadline_s = time.monotonic() + LEDGER_TIMEOUT_S
        while client.xlen(STREAM):
            if time.monotonic() > deadline_s:
                msg = f"{client.xlen(STREAM)} records still wait for the ledger"
                raise BenchmarkError(msg)
            time.sleep(0.2)
    finally:
        client.close()


def verify_ledger(env: Mapping[str, str], *, calls: int) -> list[str]:
    """Prove the ledger and that it holds exactly the calls that were sent. Raises BenchmarkError."""
    count = "from billing.models import UsageEvent; print(UsageEvent.objects.count())"
    outputs = []
    for argv in (["verify_ledger"], ["shell", "--no-imports", "-c", count]):
        done = subprocess.run(
            [sys.executable, "manage.py", *argv],
            env=dict(env),
            cwd=HOUSE,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise BenchmarkError(f"{argv[0]} failed:\n{done.stdout}{done.stderr[-3000:]}")
        outputs.append(done.stdout.strip())
    if outputs[1] != str(calls):
        raise BenchmarkError(f"{calls} calls were sent, the ledger holds {outputs[1]}")
    return outputs[0].splitlines()


type Rounds = dict[str, dict[str, list[dict[str, Any]]]]
"""Reports by subject, then scenario, one per round."""


@dataclass(slots=True)
class Result:
    """What a run has found."""

    rounds: Rounds
    pss_mib: dict[str, tuple[float, float]]  # before and after the load
    elsewhere_us: dict[str, float]  # per call, in the processes that serve the web worker
    calls: int
    proof: list[str]


def run(root: Path, *, rounds: int, scenarios: Sequence[Scenario], cores: tuple[int, int]) -> Result:
    """Start everything on `root`, measure, prove the ledger, stop everything."""
    subject_core, other_core = cores
    accounting.pin(other_core)  # inherited by all that is not pinned elsewhere
    options = Options(
        root=root,
        host="127.0.0.1",
        port=free_port(),
        web_workers=1,
        celery_concurrency=2,
        drain_s=5,
        with_demo=False,
    )
    upstream_port = free_port()
    with contextlib.ExitStack() as stack:
        stack.callback(lock_data_folder(root).release)
        embedded = Embedded(root)
        stack.callback(embedded.stop)
        urls = embedded.start()
        if urls.database_url is None or urls.redis_url is None:
            raise BenchmarkError("PostgreSQL or Redis was not started")
        env = {
            **os.environ,
            **new_secrets(),
            "DATABASE_URL": urls.database_url,
            "REDIS_URL": urls.redis_url,
            "TOLLHOUSE_DATA": str(root),
            "PUBLIC_URL": options.public_url,
            "DJANGO_SETTINGS_MODULE": "gateway.settings",
            "LOG_LEVEL": "WARNING",
        }
        key = prepare(env, upstream_port=upstream_port)
        upstream = [sys.executable, "-m", "benchmarks.upstream", str(upstream_port)]
        stack.enter_context(
            running("upstream", upstream, core=other_core, ready=lambda: _listens(upstream_port))
        )
        pids = {}
        for name, command in product_commands(options).items():
            pids[name] = stack.enter_context(
                running(
                    name,
                    [sys.executable, "-W", "ignore", "-m", *command],
                    core=subject_core if name == "web" else other_core,
                    ready=partial(is_ready, options.port) if name == "web" else lambda: True,
                    env=env,
                )
            )
        pids |= {child.name: _pid(child) for child in embedded.children}
        tollhouse = Subject("tollhouse", f"{options.public_url}/v1", key, (pids["web"],))
        subjects = [Subject("direct", f"http://127.0.0.1:{upstream_port}/v1", "none", ()), tollhouse]
        if shutil.which("nginx"):
            subjects.insert(1, stack.enter_context(nginx(upstream_port, core=subject_core)))
        return _measure_all(
            subjects, pids=pids, env=env, rounds=rounds, scenarios=scenarios, redis_url=urls.redis_url
        )


def _measure_all(
    subjects: Sequence[Subject],
    *,
    pids: Mapping[str, int],
    env: Mapping[str, str],
    rounds: int,
    scenarios: Sequence[Scenario],
    redis_url: str,
) -> Result:
    warm_up = Scenario("warm-up", "mock", 8, 500)
    helpers = {name: pid for name, pid in pids.items() if name != "web"}
    found: Rounds = {subject.name: {} for subject in subjects}
    for subject in subjects:
        drive(subject, warm_up)
    await_ledger(redis_url)
    before_mib = {subject.name: accounting.pss_mib(subject.pids) for subject in subjects}
    spent_ns = dict.fromkeys(helpers, 0)
    for number in range(rounds):
        for subject in subjects:
            start_ns = {name: accounting.cpu_ns((pid,)) for name, pid in helpers.items()}
            for scenario in scenarios:
                report = measure(subject, scenario)
                found[subject.name].setdefault(scenario.name, []).append(report)
                print(
                    f"# round {number + 1} {subject.name} {scenario.name}: {report['cpu_us']:.0f} CPU us,"
                    f" {report['requests_per_s']:.0f} requests/s",
                    file=sys.stderr,
                )
            if subject.name == "tollhouse":
                await_ledger(redis_url)
                for name, pid in helpers.items():
                    spent_ns[name] += accounting.cpu_ns((pid,)) - start_ns[name]
    calls = rounds * sum(scenario.requests for scenario in scenarios)
    return Result(
        rounds=found,
        pss_mib={s.name: (before_mib[s.name], accounting.pss_mib(s.pids)) for s in subjects},
        elsewhere_us={name: spent / 1000 / calls for name, spent in spent_ns.items()},
        calls=calls,
        proof=verify_ledger(env, calls=calls + warm_up.requests),
    )


# --- telling --------------------------------------------------------------------------------------------


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, [("-" * (width - 1)) + ":" for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def tell(result: Result, *, scenarios: Sequence[Scenario]) -> str:
    """The tables: medians over the rounds."""
    names = {scenario.name for scenario in scenarios}

    def median(subject: str, scenario: str, *path: str) -> float:
        values = []
        for report in result.rounds[subject].get(scenario, ()):
            value: Any = report
            for step in path:
                value = value[step]
            values.append(value)
        return statistics.median(values) if values else float("nan")

    def chunk_us(subject: str) -> float:
        return (median(subject, "paced", "cpu_us") - median(subject, "c8", "cpu_us")) / EVENTS_PER_STREAM

    def row(subject: str, figures: Sequence[float], *, digits: int = 0) -> list[str]:
        return [subject, *("-" if math.isnan(figure) else f"{figure:.{digits}f}" for figure in figures)]

    paid = [subject for subject in result.rounds if subject != "direct"]
    parts = []
    whole = [name for name in ("c1", "c8", "c64") if name in names]
    if whole:
        header = ["whole answers", *(f"CPU us {name}" for name in whole)]
        header += [f"{what} {name}" for name in whole for what in ("requests/s", "p50 us", "p99 us")]
        rows = []
        for subject in result.rounds:
            figures = [median(subject, name, "cpu_us") if subject in paid else float("nan") for name in whole]
            for name in whole:
                figures.append(median(subject, name, "requests_per_s"))
                figures += [median(subject, name, "latency_us", rank) for rank in ("p50", "p99")]
            rows.append(row(subject, figures))
        parts.append(_table(header, rows))
    if {"paced", "burst"} & names:
        header = ["streams", "CPU us/stream paced", "CPU us/chunk", "first chunk p50 us", "chunk p50 us"]
        header += ["chunk p99 us", "CPU us/stream burst", "streams/s burst"]
        rows = [
            row(
                subject,
                (
                    median(subject, "paced", "cpu_us") if subject in paid else float("nan"),
                    chunk_us(subject) if subject in paid else float("nan"),
                    median(subject, "paced", "first_chunk_us", "p50"),
                    median(subject, "paced", "chunk_us", "p50"),
                    median(subject, "paced", "chunk_us", "p99"),
                    median(subject, "burst", "cpu_us") if subject in paid else float("nan"),
                    median(subject, "burst", "requests_per_s"),
                ),
            )
            for subject in result.rounds
        ]
        parts.append(_table(header, rows))
    if "nginx" in result.rounds:
        ratios = [median("tollhouse", name, "cpu_us") / median("nginx", name, "cpu_us") for name in whole]
        ratios.append(chunk_us("tollhouse") / chunk_us("nginx"))
        header = ["relative to nginx", *(f"CPU {name}" for name in whole), "CPU/chunk"]
        parts.append(_table(header, [row("tollhouse", ratios, digits=1)]))
    else:
        parts.append("nginx is not installed: no ratios.")
    memory = [row(name, result.pss_mib[name], digits=1) for name in paid]
    parts.append(_table(["memory", "PSS MiB before", "after"], memory))
    served = [row("CPU us/call", tuple(result.elsewhere_us.values()), digits=1)]
    parts.append(_table(["elsewhere", *result.elsewhere_us], served))
    parts.append(f"After {result.calls} calls, each of them in the ledger:\n" + "\n".join(result.proof))
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=3, help="medians are over these (3)")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the number of requests")
    parser.add_argument("--only", help="comma-separated scenarios: " + ",".join(s.name for s in SCENARIOS))
    parser.add_argument("--cores", help="the web worker's core and everybody else's, such as 0,1")
    parser.add_argument("--json", type=Path, help="write every report of every round to this file")
    chosen = parser.parse_args()
    if sys.platform != "linux":
        raise SystemExit("CPU time is read from /proc: run this on Linux.")
    cores = (
        [int(core) for core in chosen.cores.split(",")] if chosen.cores else sorted(os.sched_getaffinity(0))
    )
    if len(cores) < 2:
        raise SystemExit("It takes two cores: one to measure, one for everything else.")
    wanted = set(chosen.only.split(",")) if chosen.only else {scenario.name for scenario in SCENARIOS}
    scenarios = [
        Scenario(
            s.name, s.model, s.connections, max(s.connections, round(s.requests * chosen.scale)), s.is_stream
        )
        for s in SCENARIOS
        if s.name in wanted
    ]
    with tempfile.TemporaryDirectory(prefix="tollhouse-bench-") as root:
        try:
            result = run(Path(root), rounds=chosen.rounds, scenarios=scenarios, cores=(cores[0], cores[1]))
        except BenchmarkError as error:
            raise SystemExit(f"bench: {error}") from error
    if chosen.json:
        about = {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "kernel": platform.release(),
        }
        chosen.json.write_text(
            json.dumps(
                {
                    "about": about,
                    "rounds": result.rounds,
                    "pss_mib": result.pss_mib,
                    "elsewhere_us": result.elsewhere_us,
                    "calls": result.calls,
                },
                indent=1,
            )
        )
    print("\n" + tell(result, scenarios=scenarios))


if __name__ == "__main__":
    main()
