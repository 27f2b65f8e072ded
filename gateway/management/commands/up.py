"""`manage.py up`: the whole product in one command. manage.py sends it to gateway/supervisor.py before any
settings load; what arrives here is the part that needs Django. Must stay safe to run again and again.
"""

import hashlib
import io
import os
from argparse import ArgumentParser
from pathlib import Path

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.staticfiles.finders import get_finders
from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from gateway import supervisor

_PREPARE_LOCK = 0x70_6C_6C_68  # any number, the same in every process that prepares this database


class Command(BaseCommand):
    help = "Run PostgreSQL and Redis if no URL names others, then web, worker and beat, until Ctrl-C."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--no-demo", action="store_true", help="do not seed the demo on the first run")
        parser.add_argument(
            "--prepare-only",
            action="store_true",
            help="migrate, collect static files and seed the demo on the database that DATABASE_URL names",
        )

    def handle(self, *args: object, prepare_only: bool, no_demo: bool, **options: object) -> None:
        if not prepare_only:
            raise SystemExit(supervisor.main(["--no-demo"] if no_demo else []))
        with connection.cursor() as cursor:  # two hosts may start on one database
            cursor.execute("SELECT pg_advisory_lock(%s)", [_PREPARE_LOCK])
        try:
            self._migrate()
            self._collect_static()
            if not no_demo:
                self._seed_once(settings.TOLLHOUSE_DATA / "demo.json")
        finally:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [_PREPARE_LOCK])

    def _migrate(self) -> None:
        executor = MigrationExecutor(connection)
        pending = executor.migration_plan(executor.loader.graph.leaf_nodes())
        call_command("migrate", interactive=False, verbosity=0)
        if pending:
            self.stdout.write(f"{len(pending)} migrations applied")

    def _collect_static(self) -> None:
        """Collect the static files if any of them, or the storage's settings, changed since the last time."""
        digest = hashlib.sha256(repr(settings.STORAGES["staticfiles"]).encode())
        for finder in get_finders():
            for name, storage in sorted(finder.list([]), key=lambda found: found[0]):
                info = Path(storage.path(name)).stat()
                digest.update(f"{name}\0{info.st_size}\0{info.st_mtime_ns}\n".encode())
        marker = Path(settings.STATIC_ROOT) / ".collected"
        if marker.exists() and marker.read_text() == digest.hexdigest():
            return
        call_command("collectstatic", interactive=False, clear=True, verbosity=0)
        marker.write_text(digest.hexdigest())
        self.stdout.write("static files collected")

    def _seed_once(self, demo_file: Path) -> None:
        """Seed a database that knows nobody yet; an operator's own is never touched."""
        if demo_file.exists() or get_user_model()._default_manager.exists():
            return
        printed = io.StringIO()
        call_command("seed_demo", json=True, stdout=printed)
        descriptor = os.open(demo_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(printed.getvalue())
        self.stdout.write("demo seeded")
