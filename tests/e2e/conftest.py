"""What the data plane's end-to-end tests share: the demo, fresh for each, with a real gateway in front of it.

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
    from tests.gateway.plane import rows

    yield from rows(db)


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
