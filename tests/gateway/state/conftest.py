"""Both event loops, and a Redis that tests may kill, stop and restart."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from gateway.embedded import find_redis

type Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Runs coroutines on one loop; anything the loop had to report to nobody fails the test."""
    reports: list[dict[str, Any]] = []
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.get_loop().set_exception_handler(lambda _, context: reports.append(context))
        yield runner.run
    assert reports == []


class PrivateRedis:
    """A server on a unix socket in a folder of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.socket_path = str(folder / "redis.sock")
        self.url = f"unix://{self.socket_path}"
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        binary = find_redis()[0].path
        self._process = subprocess.Popen(
            [binary, "--port", "0", "--unixsocket", self.socket_path, "--save", "", *self._options],
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 30
        while True:
            assert self._process.poll() is None, "the server has ended"
            try:
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.connect(self.socket_path)
                return
            except (FileNotFoundError, ConnectionRefusedError):
                assert time.monotonic() < deadline
                time.sleep(0.01)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)


@pytest.fixture
def start_redis() -> Iterator[Callable[..., PrivateRedis]]:
    """Called with server options, gives a running server; all are killed at the end."""
    started: list[PrivateRedis] = []
    folders: list[str] = []

    def start(*options: str) -> PrivateRedis:
        folder = tempfile.mkdtemp(prefix="th-redis-")  # short: a socket path holds about 100 bytes
        folders.append(folder)
        server = PrivateRedis(Path(folder), *options)
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        server.kill()
    for folder in folders:
        shutil.rmtree(folder)


@pytest.fixture
def redis(start_redis: Callable[..., PrivateRedis]) -> PrivateRedis:
    return start_redis()
