"""The restore drill on the test's own database: it proves what was backed up, and notices what was not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connection

from billing.models import AlertChannel
from gateway import restoring
from gateway.environment import new_secrets
from tests.e2e.gateway_process import database_url
from tests.gateway import plane as planes

db, demo = planes.db, planes.demo


def drill(*options, **changed):
    """As an operator runs it: a process of its own."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "manage.py", "restore_drill", *options],
        env={
            **os.environ,
            "DATABASE_URL": database_url(),
            "REDIS_URL": settings.REDIS_URL,
            "TOLLHOUSE_DATA": str(settings.TOLLHOUSE_DATA),
            **changed,
        },
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def left_behind():
    with connection.cursor() as cursor:
        cursor.execute("SELECT datname FROM pg_database WHERE datname LIKE 'tollhouse_drill_%'")
        return [name for (name,) in cursor.fetchall()], list(Path(settings.TOLLHOUSE_DATA).glob("drill-*"))


def test_a_backup_is_restored_and_proved_and_one_that_was_cut_is_not(demo, tmp_path):
    kept = tmp_path / "kept.dump"
    done = drill("--keep-dump", str(kept))
    assert done.returncode == 0, done.stderr
    steps = [line.split()[0] for line in done.stdout.splitlines() if " s  " in line]
    assert steps == ["dump", "restore", "migrations", "tables", "ledger", "audit", "sealed"]
    assert done.stdout.endswith("the backup restores, and what it holds is proved\n")
    assert kept.stat().st_mode & 0o777 == 0o600
    cut = tmp_path / "cut.dump"
    cut.write_bytes(kept.read_bytes()[: kept.stat().st_size // 2])
    done = drill("--dump", str(cut))
    assert done.returncode == 1
    assert "pg_restore" in done.stderr
    assert left_behind() == ([], [])


def test_without_the_master_keys_the_backup_is_worth_nothing_and_the_drill_says_so(demo, tmp_path):
    channel = AlertChannel(name="drill", kind="slack", target="hooks.slack.com")
    channel.put_secret("https://hooks.slack.com/services/T0/B0/drill")
    channel.save()
    done = drill("--only-seals")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) >= 1
    done = drill("--only-seals", TOLLHOUSE_MASTER_KEYS=new_secrets()["TOLLHOUSE_MASTER_KEYS"])
    assert done.returncode == 1
    assert "does not open with these master keys" in done.stderr


def test_a_ledger_that_does_not_hold_fails_the_drill(demo, tmp_path):
    with connection.cursor() as cursor:
        cursor.execute("UPDATE tenants_audithead SET hash = decode(repeat('00', 32), 'hex')")
    done = drill()
    assert done.returncode == 1
    assert "the audit trail does not hold" in done.stderr
    assert left_behind() == ([], [])


def test_only_a_drills_database_is_ever_filled(demo):
    tools = restoring.find_tools(1)
    with pytest.raises(restoring.RestoreError, match="no database of a drill"):
        restoring.restore(tools, Path("x"), connection.settings_dict["NAME"])


def test_a_server_newer_than_every_client_is_named(demo):
    with pytest.raises(restoring.RestoreError, match="PostgreSQL 99 or newer"):
        restoring.find_tools(99)


def test_the_seals_are_opened_in_this_database(demo, capsys):
    call_command("restore_drill", "--only-tables")
    assert " rows in " in capsys.readouterr().out
    with pytest.raises(CommandError):
        call_command("restore_drill", "--dump", "/nowhere.dump")
