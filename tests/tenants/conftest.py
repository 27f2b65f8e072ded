"""Fixtures of this floor. Django is not set up yet when pytest reads this file, hence the late imports."""

import pytest

_TABLES = (
    "tenants_idempotencyrecord",
    "tenants_auditsinkcursor",
    "tenants_auditsink",
    "tenants_proposal",
    "tenants_auditcheckpoint",
    "tenants_auditevent",
    "tenants_audithead",
    "tenants_datakey",
    "tenants_apikey",
    "tenants_serviceaccount",
    "tenants_membership",
    "tenants_customrole",
    "tenants_tenant",
    "tenants_user",
    "tenants_configversion",
)


@pytest.fixture
def committed_db(django_db_setup, django_db_blocker):
    """A database whose rows other connections see, emptied afterwards.

    Not pytest-django's transactional_db: its flush truncates, which append-only tables refuse.
    """
    from django.db import connection

    with django_db_blocker.unblock():
        _empty()
        yield
        _empty()
        connection.close()


def _empty():
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")  # a superuser's way past the triggers
        for table in _TABLES:
            cursor.execute(f"DELETE FROM {table}")  # noqa: S608 - our own names
        cursor.execute("SET session_replication_role = DEFAULT")
