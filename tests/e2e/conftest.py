"""What the data plane's end-to-end tests share: the demo, seeded, with a real gateway in front of it.

Django is not set up yet when pytest reads this file, hence the late imports.
"""

import pytest


@pytest.fixture
def demo(django_db_setup, django_db_blocker):
    """The demo as `make up` seeds it, in rows that other processes see; emptied afterwards.

    Not pytest-django's transactional_db: its flush truncates, which append-only tables refuse.
    """
    import redis
    from django.conf import settings
    from django.db import connection

    from gateway.management.commands.seed_demo import seed
    from tests.e2e.test_console_browser import empty

    with django_db_blocker.unblock():
        from billing.models import Plan

        # pytest-django makes no database unless some collected test is marked django_db.
        assert connection.settings_dict["NAME"].startswith("test_")
        kept = list(Plan.objects.values_list("id", flat=True))
        client = redis.Redis.from_url(settings.REDIS_URL)
        client.flushdb()
        client.close()
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
