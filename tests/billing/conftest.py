import pytest
from django.db import connection

from tests.billing import ledger


@pytest.fixture
def shared_ledger(django_db_setup, django_db_blocker):
    """A ledger that other connections see, emptied afterwards.

    Not pytest-django's transactional_db: its flush truncates, which append-only tables refuse, and takes
    the seeded plan with it. Tests with this fixture may write to the ledger and its rollups alone.
    """
    with django_db_blocker.unblock():
        ledger.empty()
        yield
        ledger.empty()
        connection.close()
