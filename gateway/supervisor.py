"""`make up`: one process that runs the whole product and stops all of it again.

Services first, then migrations, then web, worker and beat; a part that ends is reported and started again
with growing pauses. Must never start anything while the port or the data folder is taken, and never end
without its children. No Django in here: the settings cannot load before the services have URLs.
"""

import argparse
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TextIO

from gateway.embedded import Embedded, EmbeddedError, FolderLock, lock_data_folder
from gateway.environment import data_folder, keep_secrets, publish_services, withdraw_services
from gateway.processes import Child

_BASE = Path(__file__).parents[1]
_DEMO_FILE = "demo.json"

_POLL_S = 0.2
_RESTART_PAUSE_S = 1.0
_RESTART_PAUSE_MAX_S = 30.0
_STABLE_AFTER_S = 60.0  # a part that lived this long starts its pauses from the beginning
_READY_TIMEOUT_S = 120.0
_LEFTOVER_PORT_S = 20.0  # how long a killed run's web process may need to let go of the port
_FORCE_AFTER_S = 1.0  # one Ctrl-C may arrive twice, from the terminal and from `uv run`

_COLORS = {
    "up": "1",
    "postgres": "34",
    "redis": "31",
    "prepare": "35",
    "web": "32",
    "worker": "33",
    "beat": "36",
}


class UpError(RuntimeError):
    """`up` cannot run; the message says why and what to do."""


class Console:
    """Prefixed lines from many threads on one stream; coloured on a terminal unless NO_COLOR is set."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._colored = stream.isatty() and not os.environ.get("NO_COLOR")

    def line(self, name: str, text: str) -> None:
        prefix = f"{name:<8} |"
        if self._colored:
            prefix = f"\x1b[{_COLORS.get(name, '0')}m{prefix}\x1b[0m"
        self.write(f"{prefix} {text}\n")

    def write(self, text: str) -> None:
        with self._lock, contextlib.suppress(BrokenPipeError, ValueError):  # nobody reads: still keep running
            self._stream.write(text)
            self._stream.flush()


class StopRequest:
    """Ctrl-C, SIGTERM or a closed terminal. A second one, a moment later, ends the patience."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._asked_at_s: float | None = None
        self.is_urgent = False

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        now_s = time.monotonic()
        if self._asked_at_s is None:
            self._asked_at_s = now_s
        elif now_s - self._asked_at_s > _FORCE_AFTER_S:
            self.is_urgent = True
        self._asked.set()

    @property
    def is_made(self) -> bool:
        return self._asked.is_set()

    def wait(self, timeout_s: float) -> bool:
        """Sleep, at most until a request comes. True if one was made."""
        return self._asked.wait(timeout_s)


@contextlib.contextmanager
def _listening_for_stop() -> Iterator[StopRequest]:
    request = StopRequest()
    previous = {
        number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@dataclass(slots=True)
class Part:
    """A child under watch. `restart_at_s` is set while it is down, on the monotonic clock."""

    child: Child
    started_at_s: float = 0.0
    restart_at_s: float | None = None
    pause_s: float = _RESTART_PAUSE_S


@dataclass(slots=True)
class Watch:
    """Keeps children running. The services are watched too: they start before and stop after the others."""

    console: Console
    parts: list[Part] = field(default_factory=list)

    def start(self, child: Child) -> None:
        """Start a child and watch it from now on."""
        child.start()
        self.console.line("up", f"{child.name} started (process {child.pid})")
        self.parts.append(Part(child=child, started_at_s=time.monotonic()))

    def adopt(self, children: Sequence[Child]) -> None:
        """Watch children that were started elsewhere."""
        self.parts += [Part(child=child, started_at_s=time.monotonic()) for child in children]

    def check(self) -> None:
        """Report and restart what has ended. Called a few times a second."""
        for part in self.parts:
            now_s = time.monotonic()
            if part.restart_at_s is not None:
                if now_s >= part.restart_at_s:
                    self._restart(part)
                continue
            status = part.child.poll()
            if status is None:
                continue
            part.child.kill_session()  # a killed leader leaves workers that would hold the port
            if now_s - part.started_at_s > _STABLE_AFTER_S:
                part.pause_s = _RESTART_PAUSE_S
            self._schedule(
                part,
                f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with {status}",
            )

    def _schedule(self, part: Part, what: str) -> None:
        self.console.line("up", f"{part.child.name} {what}; starting it again in {part.pause_s:g} s")
        part.restart_at_s = time.monotonic() + part.pause_s
        part.pause_s = min(part.pause_s * 2, _RESTART_PAUSE_MAX_S)

    def _restart(self, part: Part) -> None:
        part.started_at_s = time.monotonic()
        try:
            part.child.start()
        except (OSError, subprocess.SubprocessError) as error:  # e.g. no memory for a fork: it may pass
            self._schedule(part, f"could not be started ({error})")
            return
        part.restart_at_s = None
        self.console.line("up", f"{part.child.name} started again (process {part.child.pid})")


@dataclass(frozen=True, slots=True)
class Options:
    """What the operator chose, from the environment and the command line."""

    root: Path
    host: str
    port: int
    web_workers: int
    celery_concurrency: int
    drain_s: int
    with_demo: bool

    @property
    def public_url(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(self.host, self.host)  # noqa: S104
        return f"http://{host}:{self.port}"


def _whole_number(name: str, *, default: int, low: int, high: int) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
        msg = f"{name}={text!r}: expected a whole number from {low} to {high}."
        raise UpError(msg)
    return int(text)


def read_options(arguments: Sequence[str]) -> Options:
    """Raises UpError on a setting that makes no sense, SystemExit on unknown arguments."""
    parser = argparse.ArgumentParser(prog="manage.py up", description=__doc__)
    parser.add_argument("--no-demo", action="store_true", help="do not seed the demo on the first run")
    chosen = parser.parse_args(arguments)
    return Options(
        root=data_folder(),
        host=os.environ.get("HOST", "") or "127.0.0.1",
        port=_whole_number("PORT", default=8000, low=1, high=65535),
        web_workers=_whole_number("WEB_CONCURRENCY", default=min(os.cpu_count() or 1, 4), low=1, high=256),
        celery_concurrency=_whole_number("CELERY_CONCURRENCY", default=2, low=1, high=256),
        drain_s=_whole_number("TOLLHOUSE_DRAIN_S", default=60, low=0, high=3600),
        with_demo=not chosen.no_demo,
    )


def _port_error(host: str, port: int) -> str | None:
    """Why the port cannot be listened on, None if it can."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        return f"HOST={host} is not an address of this machine: {error.strerror}"
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as uvicorn does
        try:
            probe.bind(address)
        except OSError as error:
            return error.strerror or str(error)
    return None


def require_free_port(*, host: str, port: int, patience_s: float) -> None:
    """Raises UpError if the port is still taken after `patience_s`."""
    deadline_s = time.monotonic() + patience_s
    while reason := _port_error(host, port):
        if time.monotonic() >= deadline_s:
            msg = f"Port {port} on {host} cannot be used: {reason}. Choose another: PORT={port + 1} make up"
            raise UpError(msg)
        time.sleep(_POLL_S)


def parts_environment(
    *, options: Options, urls: Mapping[str, str], secrets: Mapping[str, str]
) -> dict[str, str]:
    """The environment of the parts. What the operator has set wins over what we made up."""
    made_up = {
        **secrets,
        **urls,
        "TOLLHOUSE_DATA": str(options.root),
        "PUBLIC_URL": options.public_url,
        "DJANGO_SETTINGS_MODULE": "gateway.settings",
        "PYTHONUNBUFFERED": "1",
    }
    return {**made_up, **{name: value for name, value in os.environ.items() if value or name not in made_up}}


def product_commands(options: Options) -> dict[str, list[str]]:
    """What web, worker and beat run, each behind `python -m`. docker-compose.yml runs the same."""
    celery = ["celery", "-A", "gateway", "--quiet"]
    quiet = ["--loglevel", "WARNING"]
    return {
        "web": [
            *(
                "gateway.server",
                "gateway.asgi:application",
                "--host",
                options.host,
                "--port",
                str(options.port),
            ),
            *("--workers", str(options.web_workers), "--timeout-worker-healthcheck", "30"),
            *("--loop", "uvloop", "--http", "httptools", "--ws", "none", "--lifespan", "on"),
            *("--no-access-log", "--no-server-header", "--no-proxy-headers", "--no-use-colors"),
            *("--timeout-graceful-shutdown", str(options.drain_s)),
        ],
        "worker": [*celery, "worker", "--concurrency", str(options.celery_concurrency), *quiet],
        "beat": [*celery, "beat", "--schedule", str(options.root / "beat-schedule"), *quiet],
    }


def _product(options: Options, environment: Mapping[str, str], console: Console) -> list[Child]:
    # Root is fine here: there is no one else on a machine where root types `make up`.
    quiet = ["-W", "ignore:You're running the worker with superuser"] if os.geteuid() == 0 else []
    patience_s = {"web": options.drain_s + 15, "worker": 30, "beat": 10}
    return [
        Child(
            name=name,
            argv=[sys.executable, *quiet, "-m", *command],
            stop_timeout_s=patience_s[name],
            env=environment,
            cwd=_BASE,
            on_line=console.line,
        )
        for name, command in product_commands(options).items()
    ]


def _prepare(
    *, options: Options, environment: Mapping[str, str], console: Console, stop: StopRequest
) -> None:
    """Migrate, collect static files and seed the demo, in one process of its own. Raises UpError."""
    words = ["--prepare-only", *([] if options.with_demo else ["--no-demo"])]
    child = Child(
        name="prepare",
        argv=[sys.executable, _BASE / "manage.py", "up", *words],
        stop_timeout_s=10,
        env=environment,
        cwd=_BASE,
        on_line=console.line,
    )
    child.start()
    while (status := child.poll()) is None:
        if stop.wait(_POLL_S):
            child.stop()
            return
    child.kill_session()
    if status != 0:
        msg = "The database could not be prepared; its message is above. Nothing was started."
        raise UpError(msg)


def _is_ready(options: Options) -> bool:
    host, _, port = options.public_url.removeprefix("http://").rpartition(":")
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def banner(*, options: Options, is_first_run: bool) -> str:
    """What a newcomer needs next. Passwords and keys are shown on the first run only."""
    demo_file = options.root / _DEMO_FILE
    lines = ["", f"  Tollhouse is up: {options.public_url}", ""]
    if is_first_run:
        demo = json.loads(demo_file.read_text(encoding="utf-8"))
        body = '{"model": "policy:cost-optimized", "messages": [{"role": "user", "content": "Hello!"}]}'
        lines += [
            f"  Console   {demo['console_url']}",
            f"  Sign in   {demo['admin_email']}   password: {demo['admin_password']}",
            "",
            "  A first call:",
            f"    curl {options.public_url}/v1/chat/completions \\",
            f"      -H 'Authorization: Bearer {demo['tenants'][0]['api_key']}' \\",
            "      -H 'Content-Type: application/json' \\",
            f"      -d '{body}'",
            "",
            f"  Password and keys are shown this once; they are also in {demo_file}.",
        ]
    elif demo_file.exists():
        lines += [
            f"  The demo's sign-in and keys, as first seeded, are in {demo_file}.",
            "  New ones: uv run manage.py seed_demo",
        ]
    lines += ["  Stop with Ctrl-C.", ""]
    return "\n".join(lines) + "\n"


def _serve(
    *,
    options: Options,
    environment: Mapping[str, str],
    console: Console,
    stop: StopRequest,
    services: Embedded,
) -> None:
    """Run the parts until a stop is asked for; then web drains, the worker finishes its tasks."""
    is_first_run = not (options.root / _DEMO_FILE).exists()
    _prepare(options=options, environment=environment, console=console, stop=stop)
    is_first_run &= (options.root / _DEMO_FILE).exists()
    watch = Watch(console=console)
    watch.adopt(services.children)
    children: list[Child] = []
    try:
        if not stop.is_made:
            for child in _product(options, environment, console):
                children.append(child)
                watch.start(child)
        deadline_s: float | None = time.monotonic() + _READY_TIMEOUT_S
        while not stop.wait(_POLL_S):
            watch.check()
            if deadline_s is None:
                continue
            if _is_ready(options):
                console.write(banner(options=options, is_first_run=is_first_run))
                deadline_s = None
            elif time.monotonic() > deadline_s:
                console.line(
                    "up", f"{options.public_url}/readyz still gives no answer; see web's lines above"
                )
                deadline_s = None
    finally:
        console.line("up", "stopping; once more to stop at once")
        for child in children:  # web first: it drains while the others still serve it
            child.stop(at_once=lambda: stop.is_urgent)


def _run(*, options: Options, lock: FolderLock, console: Console, stop: StopRequest) -> None:
    require_free_port(
        host=options.host, port=options.port, patience_s=_LEFTOVER_PORT_S if lock.was_killed else 0
    )
    services = Embedded(
        options.root,
        with_database=not (os.environ.get("DATABASE_URL") or os.environ.get("DATABASE_URL_FILE")),
        with_redis=not (os.environ.get("REDIS_URL") or os.environ.get("REDIS_URL_FILE")),
        on_line=console.line,
    )
    found = services.start()
    try:
        urls = {"DATABASE_URL": found.database_url, "REDIS_URL": found.redis_url}
        embedded_urls = {name: url for name, url in urls.items() if url is not None}
        publish_services(options.root, {**embedded_urls, "PUBLIC_URL": options.public_url})
        environment = parts_environment(
            options=options, urls=embedded_urls, secrets=keep_secrets(options.root)
        )
        _serve(options=options, environment=environment, console=console, stop=stop, services=services)
    finally:
        withdraw_services(options.root)
        services.stop()


def main(arguments: Sequence[str]) -> int:
    """Run until told to stop. Returns the exit status: 0 after a stop, 1 when it could not run."""
    console = Console(sys.stdout)
    with _listening_for_stop() as stop:
        try:
            options = read_options(arguments)
            lock = lock_data_folder(options.root)
            try:
                _run(options=options, lock=lock, console=console, stop=stop)
            finally:
                lock.release()
        except (UpError, EmbeddedError) as error:
            console.line("up", str(error))
            return 1
    console.line("up", "stopped")
    return 0
