"""`make bench`: what one call costs the gateway, on this machine, against our own fast upstream.

Starts private PostgreSQL and Redis, the upstream, one gateway worker on core 0 and, if installed, nginx as a plain
proxy beside it; drives each from core 1 and prints CPU per request of the process tree. Everything a tenant has is
on: key, limits, hard budget, durable record, routing. Ratios within one run are the figures to trust.
"""

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gateway.embedded import services
from gateway.environment import keep_secrets

SCENARIOS = (("c1", "mock", 1, 1500, False), ("c8", "mock", 8, 8000, False), ("c64", "mock", 64, 12000, False),
             ("paced", "mock-g5000-n50", 16, 96, True))  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return
        time.sleep(0.1)
    raise TimeoutError(f"nothing listens on port {port}")


def cpu_us(pid: int) -> float:
    """User and system time of a process and its descendants, from the scheduler's own nanoseconds."""
    total = 0
    todo = [pid]
    while todo:
        current = todo.pop()
        for task in Path(f"/proc/{current}/task").glob("*"):
            total += int((task / "schedstat").read_text().split()[0])
            todo += [int(child) for child in (task / "children").read_text().split()]
    return total / 1000


@contextlib.contextmanager
def running(core: str, argv: list[str], port: int, env: dict[str, str] | None = None) -> Iterator[int]:
    pin = ["taskset", "-c", core] if shutil.which("taskset") else []
    process = subprocess.Popen([*pin, *argv], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(port)
        yield process.pid
    finally:
        process.terminate()
        process.wait(20)


def load(url: str, key: str, model: str, connections: int, count: int, stream: bool) -> dict[str, Any]:
    argv = [sys.executable, "-m", "benchmarks.load", "--url", url, "--key", key, "--model", model]
    argv += ["-c", str(connections), "-n", str(count), *(["--stream"] if stream else [])]
    done = subprocess.run(["taskset", "-c", "1", *argv], check=True, capture_output=True)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def measure(name: str, pid: int, url: str, key: str, rows: dict[str, dict[str, Any]]) -> None:
    load(url, key, "mock", 8, 500, False)
    rows[name] = {}
    for scenario, model, connections, count, stream in SCENARIOS:
        before = cpu_us(pid)
        report = load(url, key, model, connections, count, stream)
        rows[name][scenario] = {"cpu_us": (cpu_us(pid) - before) / count, **report}
        print(f"# {name} {scenario}: {rows[name][scenario]['cpu_us']:.0f} us", flush=True)


@contextlib.contextmanager
def nginx(upstream: int) -> Iterator[tuple[int, str]]:
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        temp = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("proxy", "fastcgi", "uwsgi", "scgi"))
        (Path(folder) / "nginx.conf").write_text(
            f"worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/log; events {{}}"
            f" http {{ access_log off; keepalive_requests 10000000; client_body_temp_path {folder}/body; {temp}"
            f" upstream up {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 10000000; }}"
            f" server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://up; proxy_http_version 1.1;"
            f' proxy_set_header Connection ""; proxy_buffering off; }} }} }}'
        )
        with running("0", ["nginx", "-c", f"{folder}/nginx.conf"], port) as pid:
            yield pid, f"http://127.0.0.1:{port}/v1/chat/completions"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--json", type=Path, help="keep the raw results here")
    arguments = options.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="th") as folder, services(Path(folder)) as urls:
        env = {**os.environ, **keep_secrets(Path(folder)), "TOLLHOUSE_DATA": folder, "LOG_LEVEL": "WARNING"}
        env |= {"DATABASE_URL": urls.database_url, "REDIS_URL": urls.redis_url}
        upstream, port = free_port(), free_port()
        subprocess.run([sys.executable, "manage.py", "migrate", "-v0"], env=env, check=True)
        seeded = subprocess.run(
            [sys.executable, "-m", "benchmarks.seed_for_compare"],
            env=env | {"MOCK_PORT": str(upstream)},
            check=True,
            capture_output=True,
            text=True,
        )
        key = seeded.stdout.split()[-1]
        server = ["uvicorn", "gateway.asgi:application", "--port", str(port), "--no-access-log"]
        server += ["--loop", "uvloop", "--http", "httptools"]
        worker = [
            sys.executable,
            "-m",
            "celery",
            "-A",
            "gateway",
            "worker",
            "-B",
            "-c",
            "1",
            "-s",
            f"{folder}/beat",
        ]
        with (
            running("1", [sys.executable, "-m", "benchmarks.upstream", str(upstream)], upstream),
            running("0", [sys.executable, "-m", *server], port, env) as gateway,
            running("1", worker, port, env),
        ):
            time.sleep(3)
            if shutil.which("nginx"):
                with nginx(upstream) as (pid, url):
                    measure("nginx", pid, url, key, rows)
            measure("tollhouse", gateway, f"http://127.0.0.1:{port}/v1/chat/completions", key, rows)
    print("\n| | " + " | ".join(f"{name} CPU us" for name, *_ in SCENARIOS) + " |")
    print("|---|" + "--:|" * len(SCENARIOS))
    for name, row in rows.items():
        print(
            f"| {name} | " + " | ".join(f"{row[scenario]['cpu_us']:.0f}" for scenario, *_ in SCENARIOS) + " |"
        )
    if "nginx" in rows:
        ratios = (rows["tollhouse"][s]["cpu_us"] / rows["nginx"][s]["cpu_us"] for s, *_ in SCENARIOS)
        print("| ratio | " + " | ".join(f"{ratio:.1f}x" for ratio in ratios) + " |")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
