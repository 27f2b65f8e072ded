"""`make up`: what it refuses, how it watches its parts, and the whole product started twice."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.environment import new_secrets
from gateway.processes import Child
from gateway.supervisor import (
    Console,
    Options,
    StopRequest,
    UpError,
    Watch,
    banner,
    parts_environment,
    read_options,
    require_free_port,
)
from tests.gateway.test_configuration_docs import settings_documented

ROOT = Path(__file__).parents[2]
FOREVER = "import time\nwhile True: time.sleep(1)"


def options_for(root: Path, *, host: str = "127.0.0.1", port: int = 8000) -> Options:
    return Options(
        root=root, host=host, port=port, web_workers=1, celery_concurrency=1, drain_s=5, with_demo=True
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def python(name: str, program: str, **more: object) -> Child:
    return Child(name=name, argv=[sys.executable, "-c", program], stop_timeout_s=20, **more)  # type: ignore[arg-type]


def wait_for(condition, *, process: "Up | None" = None, timeout_s: float = 120) -> None:
    """Poll; the bound only ends a hung run, it measures nothing."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        text = process.text() if process else ""
        assert time.monotonic() < deadline_s, f"never happened\n{text}"
        assert process is None or process.popen.poll() is None, f"ended early\n{text}"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, 0)
        return True
    return False


@pytest.fixture
def root() -> Iterator[Path]:
    folder = Path("/tmp") / f"th-{os.getpid()}-{time.monotonic_ns() % 10**8}"  # noqa: S108
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_reads_its_options_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {
        "TOLLHOUSE_DATA": str(tmp_path),
        "HOST": "::1",
        "PORT": "8123",
        "WEB_CONCURRENCY": "3",
        "CELERY_CONCURRENCY": "4",
        "TOLLHOUSE_DRAIN_S": "7",
    }.items():
        monkeypatch.setenv(name, value)
    assert read_options(["--no-demo"]) == Options(
        root=tmp_path,
        host="::1",
        port=8123,
        web_workers=3,
        celery_concurrency=4,
        drain_s=7,
        with_demo=False,
    )


@pytest.mark.parametrize("text", ["http", "0", "65536", "-1", "80 80", "8O"])
def test_refuses_a_port_that_is_none(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("PORT", text)
    with pytest.raises(UpError, match=f"PORT='{re.escape(text)}': expected a whole number from 1 to 65535"):
        read_options([])


def test_a_busy_port_is_a_clear_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        expected = f"Port {port} on 127.0.0.1 cannot be used: Address already in use. Choose another: PORT="
        with pytest.raises(UpError, match=re.escape(expected)):
            require_free_port(host="127.0.0.1", port=port, patience_s=0)
    require_free_port(host="127.0.0.1", port=port, patience_s=0)


def test_waits_for_a_port_that_a_killed_run_still_holds() -> None:
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    closer = threading.Timer(0.5, taken.close)
    closer.start()
    require_free_port(host="127.0.0.1", port=taken.getsockname()[1], patience_s=60)
    closer.join()


def test_what_the_operator_set_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SECRET_KEY", "mine")
    monkeypatch.setenv("PUBLIC_URL", "https://gateway.example.com")
    monkeypatch.setenv("REDIS_URL", "")
    made = parts_environment(
        options=options_for(tmp_path),
        urls={"REDIS_URL": "unix:///ours"},
        secrets={"SECRET_KEY": "generated", "TOLLHOUSE_MASTER_KEYS": "k1:generated"},
    )
    monkeypatch.delenv("TOLLHOUSE_MASTER_KEYS")
    assert made["SECRET_KEY"] == "mine"
    assert made["PUBLIC_URL"] == "https://gateway.example.com"
    assert made["REDIS_URL"] == "unix:///ours"
    assert made["PATH"] == os.environ["PATH"]


def test_the_public_url_follows_host_and_port(tmp_path: Path) -> None:
    assert options_for(tmp_path, port=8123).public_url == "http://127.0.0.1:8123"
    assert options_for(tmp_path, host="0.0.0.0").public_url == "http://127.0.0.1:8000"  # noqa: S104
    assert options_for(tmp_path, host="::").public_url == "http://[::1]:8000"


DEMO = {
    "console_url": "http://127.0.0.1:8000/",
    "admin_email": "admin@example.com",
    "admin_password": "open sesame",
    "tenants": [{"slug": "acme", "api_key": "th_abc_def"}],
}


def test_the_banner_shows_secrets_on_the_first_run_only(tmp_path: Path) -> None:
    (tmp_path / "demo.json").write_text(json.dumps(DEMO))
    first = banner(options=options_for(tmp_path), is_first_run=True)
    later = banner(options=options_for(tmp_path), is_first_run=False)
    assert "admin@example.com   password: open sesame" in first
    assert "-H 'Authorization: Bearer th_abc_def'" in first
    assert "open sesame" not in later
    assert "th_abc_def" not in later
    assert str(tmp_path / "demo.json") in later


def test_a_second_stop_request_is_urgent_only_after_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr("gateway.supervisor.time.monotonic", lambda: now_s)
    stop = StopRequest()
    stop(signal.SIGINT, None)
    now_s = 100.5  # the same Ctrl-C, forwarded
    stop(signal.SIGINT, None)
    assert (stop.is_made, stop.is_urgent) == (True, False)
    now_s = 102.0
    stop(signal.SIGINT, None)
    assert stop.is_urgent is True


def test_lines_carry_the_name_of_their_part() -> None:
    stream = io.StringIO()
    console = Console(stream)
    child = python("web", "print('hello'); print('there')", on_line=console.line)
    child.start()
    wait_for(lambda: child.poll() is not None)
    child.stop()
    assert stream.getvalue() == "web      | hello\nweb      | there\n"


def test_a_part_that_ends_is_reported_and_started_again() -> None:
    stream = io.StringIO()
    watch = Watch(console=Console(stream))
    child = python("web", FOREVER)
    watch.start(child)
    try:
        first = child.pid
        assert first
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: child.poll() is not None)
        watch.check()
        assert "web was killed by SIGKILL; starting it again in 1 s" in stream.getvalue()
        wait_for(lambda: watch.check() or child.pid != first)
        assert child.poll() is None
        assert f"web started again (process {child.pid})" in stream.getvalue()
    finally:
        child.stop()


def test_the_pauses_grow_while_a_part_keeps_failing(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    watch = Watch(console=Console(stream))
    child = python("beat", "raise SystemExit(3)")
    watch.start(child)
    now_s = time.monotonic()
    monkeypatch.setattr("gateway.supervisor.time.monotonic", lambda: now_s)
    for _ in range(7):
        wait_for_exit(child)
        watch.check()
        now_s += 31
        watch.check()
    child.stop()
    pauses = re.findall(r"beat exited with 3; starting it again in (\d+) s", stream.getvalue())
    assert pauses == ["1", "2", "4", "8", "16", "30", "30"]


def test_a_part_that_cannot_be_started_for_the_moment_is_tried_again(tmp_path: Path) -> None:
    program = tmp_path / "part"
    program.write_text("#!/bin/sh\nexec sleep 1000000\n")
    program.chmod(0o700)
    stream = io.StringIO()
    watch = Watch(console=Console(stream))
    child = Child(name="web", argv=[program], stop_timeout_s=20)
    watch.start(child)
    try:
        program.rename(tmp_path / "away")
        assert child.pid
        os.kill(child.pid, signal.SIGKILL)
        wait_for(lambda: watch.check() or "web could not be started ([Errno 2]" in stream.getvalue())
        (tmp_path / "away").rename(program)
        wait_for(lambda: watch.check() or "web started again" in stream.getvalue())
        assert child.poll() is None
    finally:
        child.stop()


def wait_for_exit(child: Child) -> None:
    while child.poll() is None:
        threading.Event().wait(0.02)


def test_workers_of_a_killed_leader_are_ended_before_the_restart() -> None:
    program = (
        "import subprocess, sys\n"
        f"worker = subprocess.Popen([sys.executable, '-c', {FOREVER!r}])\n"
        "print(worker.pid, flush=True)\nworker.wait()"
    )
    child = python("web", program)
    watch = Watch(console=Console(io.StringIO()))
    watch.start(child)
    try:
        wait_for(lambda: len(child.tail) == 1)
        worker = int(child.tail[0])
        assert child.pid
        os.kill(child.pid, signal.SIGKILL)
        wait_for(lambda: child.poll() is not None)
        assert is_running(worker)
        watch.check()
        wait_for(lambda: not is_running(worker))
    finally:
        child.stop()


STUBBORN = (
    "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\n" + FOREVER
)


def test_a_part_that_ignores_its_stop_signal_is_killed_at_its_time() -> None:
    child = Child(name="web", argv=[sys.executable, "-c", STUBBORN], stop_timeout_s=0.3)
    child.start()
    wait_for(lambda: "up" in child.tail)
    assert child.stop() == -signal.SIGKILL


def test_an_urgent_stop_does_not_wait() -> None:
    child = Child(name="web", argv=[sys.executable, "-c", STUBBORN], stop_timeout_s=10**6)
    child.start()
    wait_for(lambda: "up" in child.tail)
    assert child.stop(at_once=lambda: True) == -signal.SIGKILL


def clean_environment() -> dict[str, str]:
    """This machine's environment without any setting of Tollhouse: what a newcomer's shell holds."""
    ours = {*settings_documented(), *new_secrets(), "DJANGO_SETTINGS_MODULE"}
    return {name: value for name, value in os.environ.items() if name not in ours}


class Up:
    """A real `manage.py up` on a data folder of its own."""

    def __init__(self, root: Path, port: int, **environment: str) -> None:
        self.root = root
        self.port = port
        self.log = root.with_suffix(".log")
        with self.log.open("a") as output:
            self.popen = subprocess.Popen(
                [sys.executable, ROOT / "manage.py", "up"],
                env={
                    **clean_environment(),
                    "TOLLHOUSE_DATA": str(root),
                    "PORT": str(port),
                    "WEB_CONCURRENCY": "1",
                    "CELERY_CONCURRENCY": "1",
                    "TOLLHOUSE_DRAIN_S": "5",
                    **environment,
                },
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def text(self) -> str:
        return self.log.read_text()

    def pid_of(self, name: str) -> int:
        return int(re.findall(rf"\| {name} started(?: again)? \(process (\d+)\)", self.text())[-1])

    def wait_until_ready(self) -> None:
        already = self.text().count("Tollhouse is up")
        wait_for(lambda: self.text().count("Tollhouse is up") > already, process=self)

    def get(self, path: str) -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=20) as answer:
            return answer.status

    def is_answering(self) -> bool:
        with contextlib.suppress(OSError):
            return self.get("/readyz") == 200
        return False

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.popen.send_signal(number)
        return self.popen.wait(timeout=120)


@pytest.fixture
def cleaned_up(root: Path) -> Iterator[list[Up]]:
    ups: list[Up] = []
    yield ups
    for up in ups:
        if up.popen.poll() is None:
            up.stop()
        up.log.unlink(missing_ok=True)


def manage(root: Path, *words: str) -> str:
    """`manage.py` as in another terminal beside a running `up`."""
    done = subprocess.run(
        [sys.executable, ROOT / "manage.py", *words],
        env={**clean_environment(), "TOLLHOUSE_DATA": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_one_command_runs_the_product_and_a_second_start_keeps_its_data(
    root: Path, cleaned_up: list[Up]
) -> None:
    port = free_port()
    up = Up(root, port)
    cleaned_up.append(up)
    up.wait_until_ready()
    demo = json.loads((root / "demo.json").read_text())
    assert demo["admin_password"] in up.text()
    assert (root / "demo.json").stat().st_mode & 0o777 == 0o600
    count = "from tenants.models import Tenant; print(Tenant.objects.count(), 'tenants')"
    assert "2 tenants" in manage(root, "shell", "--no-imports", "-c", count)

    second = subprocess.run(
        [sys.executable, ROOT / "manage.py", "up"],
        env={**clean_environment(), "TOLLHOUSE_DATA": str(root), "PORT": str(free_port())},
        capture_output=True,
        text=True,
        check=False,
    )
    assert second.returncode == 1
    assert f"Tollhouse already runs on {root} (process {up.popen.pid})" in second.stdout

    for name in ("web", "worker", "beat"):
        os.kill(up.pid_of(name), signal.SIGKILL)
        report = f"{name} was killed by SIGKILL"
        wait_for(lambda report=report: report in up.text(), process=up)
    wait_for(up.is_answering, process=up)

    assert up.stop(signal.SIGINT) == 0
    require_free_port(host="127.0.0.1", port=port, patience_s=0)

    again = Up(root, port)
    cleaned_up.append(again)
    again.wait_until_ready()
    assert again.text().count(demo["admin_password"]) == 1
    assert "2 tenants" in manage(root, "shell", "--no-imports", "-c", count)
    assert json.loads((root / "demo.json").read_text()) == demo
    assert again.stop() == 0


def test_a_busy_port_stops_up_before_it_starts_anything(root: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = subprocess.run(
            [sys.executable, ROOT / "manage.py", "up"],
            env={**clean_environment(), "TOLLHOUSE_DATA": str(root), "PORT": str(taken.getsockname()[1])},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "cannot be used: Address already in use" in done.stdout
    assert [path.name for path in root.iterdir()] == ["lock"]
