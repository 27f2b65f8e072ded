"""A migrated database of its own for a benchmark, dropped afterwards; on DATABASE_URL's server or an embedded one."""

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg


def fresh(stack: ExitStack, name: str) -> None:
    """Create it, point Django at it, set Django up. Must come before anything that imports settings or models."""
    server = os.environ.get("DATABASE_URL") or _embedded(stack)
    admin = stack.enter_context(psycopg.connect(server, autocommit=True))
    admin.execute(f"DROP DATABASE IF EXISTS {name}")
    admin.execute(f"CREATE DATABASE {name}")
    stack.callback(admin.execute, f"DROP DATABASE {name} WITH (FORCE)")
    os.environ["DATABASE_URL"] = urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
    os.environ.setdefault("REDIS_URL", "redis://127.0.0.1:6379/0")  # settings want one
    for secret in ("SECRET_KEY", "TOLLHOUSE_MASTER_KEYS", "TOLLHOUSE_KEY_PEPPERS"):
        os.environ.setdefault(secret, "bench:" + "A" * 43 + "=")
    os.environ["DJANGO_SETTINGS_MODULE"] = "gateway.settings"
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)


def _embedded(stack: ExitStack) -> str:
    from gateway.embedded import services

    root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tollhouse-bench-")))
    urls = stack.enter_context(services(root))
    assert urls.database_url is not None
    return urls.database_url
