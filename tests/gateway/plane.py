"""The data plane as a server in this process: the real ASGI application under uvicorn, in a thread of its own.

For tests that need both doors, or other settings than the product's own; tests/e2e runs a process instead.
Rows are committed, since the server's thread has connections of its own, and emptied afterwards: never in a
transaction, never by pytest-django's flush, which append-only tables refuse.

A test module takes the fixtures it needs by name: `db, plane = planes.db, planes.plane`.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

DJANGO = "/django"
"""Paths below it go through Django's door, all others through the data plane's own."""


@dataclass(frozen=True, slots=True)
class Plane:
    """A running server. `demo` is what `seed_demo` shows: tenants acme (cost plus 20 %) and globex."""

    url: str
    demo: dict[str, Any]
    http: httpx.Client

    @property
    def key(self) -> str:
        """Acme's key, which may use everything."""
        return str(self.demo["tenants"][0]["api_key"])

    @property
    def other_key(self) -> str:
        """Globex's."""
        return str(self.demo["tenants"][1]["api_key"])


@pytest.fixture(scope="module")
def db(django_db_setup, django_db_blocker):
    """In place of pytest-django's: rows that other threads see. (By its name the database gets made at all.)"""
    with django_db_blocker.unblock():
        yield


def rows(db) -> Iterator[dict[str, Any]]:
    """The demo's rows on an empty Redis; emptied afterwards, but for the seeded plan. A fixture of any scope."""
    import redis
    from django.conf import settings
    from django.db import connection

    from billing.models import Plan
    from gateway.management.commands.seed_demo import seed
    from tests.e2e.test_console_browser import empty

    assert connection.settings_dict["NAME"].startswith("test_")
    kept = list(Plan.objects.values_list("id", flat=True))
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        client.flushdb()
    try:
        yield seed()
    finally:
        empty(kept)
        connection.close()


demo = pytest.fixture(scope="module")(rows)


@pytest.fixture(scope="module")
def plane(demo, tmp_path_factory) -> Iterator[Plane]:
    with serving(demo, tmp_path_factory.mktemp("data")) as started:
        yield started


@contextmanager
def serving(demo: dict[str, Any], data: Path, **changed: Any) -> Iterator[Plane]:
    """Start the application with these settings, and stop it in order."""
    import uvicorn
    from django.db import connection
    from django.test import override_settings

    from gateway.server import BoundedProtocol

    config = uvicorn.Config(
        two_doors,
        port=0,
        lifespan="on",
        log_config=None,
        access_log=False,
        loop="uvloop",
        http=BoundedProtocol,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="gateway")
    # Django's request threads die with the server: no connection may outlive its request there.
    age_s, connection.settings_dict["CONN_MAX_AGE"] = connection.settings_dict["CONN_MAX_AGE"], 0
    try:
        with override_settings(TOLLHOUSE_DATA=data, **changed), httpx.Client(timeout=30) as http:
            thread.start()
            try:
                while not server.started:
                    assert thread.is_alive(), "the gateway did not start"
                    time.sleep(0.01)
                port = server.servers[0].sockets[0].getsockname()[1]
                yield Plane(f"http://127.0.0.1:{port}", demo, http)
            finally:
                server.should_exit = True
                thread.join()
    finally:
        connection.settings_dict["CONN_MAX_AGE"] = age_s


async def two_doors(scope, receive, send) -> None:
    """gateway.asgi's application, and the same paths below DJANGO through Django's middleware and views."""
    from gateway import asgi

    path = scope.get("path", "")
    if path.startswith(f"{DJANGO}/"):
        path = path.removeprefix(DJANGO)
        await asgi.django_application({**scope, "path": path, "raw_path": path.encode()}, receive, send)
    else:
        await asgi.application(scope, receive, send)


def drain() -> int:
    """Move every closed call into the ledger, as the worker does each second. Returns how many."""
    from gateway.logs import consumer

    return consumer.drain(budget_s=2, block_ms=50)
