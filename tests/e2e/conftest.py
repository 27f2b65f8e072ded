"""What the data plane's end-to-end tests share: the demo, seeded, with a real gateway in front of it.

Django is not set up yet when pytest reads this file, hence the late imports.
"""

import pytest


@pytest.fixture
def db(django_db_setup, django_db_blocker):
    """In place of pytest-django's: rows that other processes see. (By its name the database gets made at all.)"""
    with django_db_blocker.unblock():
        yield


@pytest.fixture
def demo(db):
    """The demo as `make up` seeds it, on an empty Redis; emptied afterwards.

    Not pytest-django's transactional_db: its flush truncates, which append-only tables refuse.
    """
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
    yield seed()
    empty(kept)
    connection.close()


@pytest.fixture
def gateway(demo, tmp_path):
    from tests.e2e.gateway_process import running

    with running(tmp_path) as started:
        yield started


@pytest.fixture
def drain():
    """Move every closed call into the ledger, as the worker does each second."""
    from gateway.logs import consumer

    return lambda: consumer.drain(budget_s=2, block_ms=300)
