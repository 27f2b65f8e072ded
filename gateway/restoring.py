"""Proof that a backup can be restored: into a second database beside the first, proved there, dropped again.

Must never write to the database it was started on, and never put a password on a command line.
"""

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

from django.conf import settings
from django.db import connection
from psycopg import sql

from gateway.embedded import find_postgres, postgres_major

PREFIX: Final = "tollhouse_drill_"
_FOLDERS: Final = ("usr/lib/postgresql/*/bin", "opt/homebrew/opt/postgresql@*/bin", "usr/pgsql-*/bin")


class RestoreError(Exception):
    """The drill cannot go on; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step that was done: how long it took, and what came out of it."""

    name: str
    seconds: float
    words: str


@dataclass(frozen=True, slots=True)
class Tools:
    """pg_dump and pg_restore of one installation, at least as new as the server."""

    folder: Path
    major: int


def find_tools(server_major: int) -> Tools:
    """The oldest installation that can read this server. Raises RestoreError."""
    folders = [Path(hit).parent for hit in [shutil.which("pg_dump")] if hit]
    folders += [folder for pattern in _FOLDERS for folder in Path("/").glob(pattern)]
    folders += [binaries.folder for binaries in find_postgres()]
    found = []
    for folder in dict.fromkeys(folders):
        if (folder / "pg_restore").exists() and (folder / "pg_dump").exists():
            said = _run([str(folder / "pg_dump"), "--version"], os.environ)
            major = postgres_major(said)
            if major is not None and major >= server_major:
                found.append(Tools(folder, major))
    if not found:
        msg = f"No pg_dump of PostgreSQL {server_major} or newer here: install the client of the server's version."
        raise RestoreError(msg)
    return min(found, key=lambda tools: tools.major)


def dump(tools: Tools, target: Path) -> Step:
    """Write the whole database into `target`, readable by its owner alone, as one snapshot. Raises RestoreError."""
    begun = time.monotonic()
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    # Row security stays on: policies let everything pass where no tenant is set, also for an owner that is
    # no superuser, for whom pg_dump would otherwise refuse.
    _run(
        [str(tools.folder / "pg_dump"), "--format=custom", "--enable-row-security", f"--file={target}"],
        _access(connection.settings_dict["NAME"]),
    )
    return Step("dump", time.monotonic() - begun, f"{target.stat().st_size:,} bytes")


@contextmanager
def second_database() -> Iterator[str]:
    """An empty database beside ours, dropped afterwards whatever happens. Raises RestoreError."""
    name = f"{PREFIX}{secrets.token_hex(4)}"
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
    try:
        yield name
    finally:
        with connection.cursor() as cursor:
            cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def restore(tools: Tools, source: Path, database: str) -> Step:
    """Fill the second database from a dump, any error ending it. Raises RestoreError."""
    if not database.startswith(PREFIX):
        msg = f"{database} is no database of a drill."
        raise RestoreError(msg)
    begun = time.monotonic()
    _run(
        [
            *(str(tools.folder / "pg_restore"), "--exit-on-error", "--no-owner", "--no-privileges"),
            *(f"--dbname={database}", str(source)),
        ],
        _access(database),
    )
    return Step("restore", time.monotonic() - begun, database)


def prove(database: str) -> Iterator[Step]:
    """Run the product's own proofs on the second database, each in a process of its own. Raises RestoreError."""
    environment = {**os.environ, "DATABASE_URL": url_of(database), "PYTHONWARNINGS": "ignore"}
    for name, arguments in (
        ("migrations", ["migrate", "--no-input", "--verbosity", "0"]),
        ("tables", ["restore_drill", "--only-tables"]),
        ("ledger", ["verify_ledger"]),
        ("audit", ["verify_audit"]),
        ("sealed values", ["restore_drill", "--only-seals"]),
    ):
        begun = time.monotonic()
        said = _run([sys.executable, str(settings.BASE_DIR / "manage.py"), *arguments], environment)
        yield Step(name, time.monotonic() - begun, said.strip() or "ok")


def url_of(database: str) -> str:
    """DATABASE_URL for another database of the same server."""
    given = connection.settings_dict
    query = {
        name: str(value) for name, value in given.get("OPTIONS", {}).items() if isinstance(value, (str, int))
    }
    host = str(given["HOST"] or "")
    if host.startswith("/"):
        query["host"], host = host, ""
    password = f":{quote(given['PASSWORD'], safe='')}" if given["PASSWORD"] else ""
    user = f"{quote(given['USER'], safe='')}{password}@" if given["USER"] else ""
    port = f":{given['PORT']}" if given["PORT"] else ""
    return f"postgresql://{user}{host}{port}/{database}" + (f"?{urlencode(query)}" if query else "")


def _access(database: str) -> Mapping[str, str]:
    """The environment in which libpq reaches one database as we do."""
    given: dict[str, Any] = connection.get_connection_params()
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "sslmode": "PGSSLMODE",
             "sslrootcert": "PGSSLROOTCERT", "service": "PGSERVICE"}  # fmt: skip
    return {
        **os.environ,
        "PGDATABASE": database,
        **{variable: str(given[name]) for name, variable in names.items() if given.get(name)},
    }


def _run(argv: list[str], environment: Mapping[str, str]) -> str:
    done = subprocess.run(  # noqa: S603 - programs found on this machine, our own arguments
        argv, env=dict(environment), capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()[-5:]
        msg = f"{Path(argv[0]).name} {' '.join(argv[1:3])} ended with {done.returncode}: " + "\n".join(said)
        raise RestoreError(msg)
    return done.stdout
