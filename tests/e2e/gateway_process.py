"""A real gateway for end-to-end tests: uvicorn in a process of its own, on the test's database and Redis."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import httpx
from django.conf import settings
from django.db import connection


@dataclass
class Gateway:
    url: str
    process: subprocess.Popen

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)


def database_url() -> str:
    """The URL of the test database, as the ORM of this test sees it."""
    given = connection.settings_dict
    host = quote(given["HOST"], safe="") if given["HOST"].startswith("/") else given["HOST"]
    password = f":{given['PASSWORD']}" if given["PASSWORD"] else ""
    options = given.get("OPTIONS", {})
    query = f"?host={options['host']}" if "host" in options else ""
    port = f":{given['PORT']}" if given["PORT"] else ""
    return f"postgresql://{given['USER']}{password}@{host}{port}/{given['NAME']}{query}"


@contextlib.contextmanager
def running(data: Path, *options: str) -> Iterator[Gateway]:
    """Start one worker and wait until it answers; stopped in order, unless the test has killed it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {
        **os.environ,
        "DATABASE_URL": database_url(),
        "REDIS_URL": settings.REDIS_URL,
        "TOLLHOUSE_DATA": str(data),
    }
    argv = [
        "gateway.server",
        "gateway.asgi:application",
        "--port",
        str(port),
        "--no-access-log",
        "--loop",
        "uvloop",
        *options,
    ]
    with (data / "web.log").open("ab") as log:
        process = subprocess.Popen([sys.executable, "-m", *argv], env=env, stdout=log, stderr=log)
    gateway = Gateway(f"http://127.0.0.1:{port}", process)
    try:
        _wait_until_up(gateway, data)
        yield gateway
    finally:
        process.terminate()
        process.wait(30)


def _wait_until_up(gateway: Gateway, data: Path) -> None:
    for _ in range(300):
        if gateway.process.poll() is not None:
            raise RuntimeError((data / "web.log").read_text()[-2000:])
        with contextlib.suppress(httpx.TransportError):
            httpx.get(f"{gateway.url}/healthz", timeout=1)
            return
        time.sleep(0.1)
    raise TimeoutError((data / "web.log").read_text()[-2000:])
