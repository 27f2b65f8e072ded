"""restore_drill: restore a backup into a second database, prove it there, say how long it took, drop it."""

import tempfile
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import connection

from gateway import restoring
from tenants.encryption import SealBrokenError, Sealed, unseal_all
from tenants.models import DataKey
from tenants.resealing import SealedColumn, sealed_columns


class Command(BaseCommand):
    """Exits with 1 when the backup cannot be restored or a proof fails; the second database is dropped anyway."""

    help = "Restore this database's backup into a second one and prove ledger, audit trail and sealed values there."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--dump", type=Path, help="a dump made earlier (pg_dump --format=custom) instead of a new one"
        )
        parser.add_argument("--keep-dump", type=Path, help="write the new dump here and leave it")
        parser.add_argument(
            "--only-tables", action="store_true", help="count the rows of this database and stop"
        )
        parser.add_argument(
            "--only-seals", action="store_true", help="open what is sealed in this database and stop"
        )

    def handle(
        self, *args: object, dump: Path | None, keep_dump: Path | None, only_tables: bool, only_seals: bool,
        **options: object,
    ) -> None:  # fmt: skip
        """Raises CommandError: no tools, a dump that does not restore, a proof that fails."""
        if only_tables:
            self.stdout.write(_tables())
            return
        if only_seals:
            self.stdout.write(_seals())
            return
        settings.TOLLHOUSE_DATA.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=settings.TOLLHOUSE_DATA, prefix="drill-") as folder:
            try:
                for step in _drill(dump, keep_dump or Path(folder) / "tollhouse.dump"):
                    words = step.words.replace("\n", "\n" + " " * 26)
                    self.stdout.write(f"{step.name:<14} {step.seconds:8.1f} s  {words}")
            except restoring.RestoreError as error:
                raise CommandError(str(error)) from error
        self.stdout.write("the backup restores, and what it holds is proved")


def _drill(given: Path | None, target: Path) -> Iterator[restoring.Step]:
    with connection.cursor() as cursor:
        cursor.execute("SHOW server_version_num")
        tools = restoring.find_tools(int(cursor.fetchone()[0]) // 10_000)
    if given is None:
        yield restoring.dump(tools, target)
    with restoring.second_database() as database:
        yield restoring.restore(tools, given or target, database)
        yield from restoring.prove(database)


def _tables() -> str:
    with connection.cursor() as cursor:
        names = sorted(connection.introspection.table_names(cursor))
        counts = []
        for name in names:
            cursor.execute(f"SELECT count(*) FROM {connection.ops.quote_name(name)}")  # noqa: S608 - from the catalogue
            counts.append(int(cursor.fetchone()[0]))
        cursor.execute("SELECT pg_size_pretty(pg_database_size(current_database()))")
        (size,) = cursor.fetchone()
    return f"{sum(counts):,} rows in {len(names)} tables, {size}"


def _seals() -> str:
    """Open every sealed value with the master keys of this environment. Raises CommandError."""
    opened = 0
    for column in sealed_columns():
        try:
            for _ in unseal_all(_sealed_in(column)):
                opened += 1
        except SealBrokenError as error:
            msg = f"{column.name}: a value does not open with these master keys: {error}"
            raise CommandError(msg) from error
    return f"{opened} sealed values under {DataKey.objects.count()} data keys opened"


def _sealed_in(column: SealedColumn) -> Iterator[Sealed]:
    for row in column.model._base_manager.order_by("pk").iterator():
        blob = bytes(getattr(row, column.column) or b"")
        if blob:
            yield Sealed(blob, getattr(row, "tenant_id", None), column.place(row))
