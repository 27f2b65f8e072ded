import logging
import threading

import pytest
import redis
from django.conf import settings
from django.db import connection, transaction
from django.test import override_settings

from tenants import versions


def test_a_bump_counts_up_and_leaves_the_other_sections_alone(db):
    before = versions.current()
    assert versions.bump("routing") == before["routing"] + 1
    assert versions.bump("routing") == before["routing"] + 2
    assert versions.current() == {**before, "routing": before["routing"] + 2}


def test_a_section_that_never_changed_is_at_zero(db):
    from tenants.models import ConfigVersion

    ConfigVersion.objects.all().delete()
    assert versions.current() == {"tenants": 0, "routing": 0, "billing": 0, "privacy": 0}


def test_an_unknown_section_is_refused(db):
    with pytest.raises(ValueError, match="unknown section 'gateway'"):
        versions.bump("gateway")


def test_a_bump_outside_a_transaction_is_refused(committed_db):
    with pytest.raises(RuntimeError, match="belongs into the transaction"):
        versions.bump("tenants")


def test_the_commit_announces_the_section(committed_db):
    with redis.Redis.from_url(settings.REDIS_URL) as client, client.pubsub() as listener:
        listener.subscribe(versions.CHANNEL)
        assert listener.get_message(timeout=5)["type"] == "subscribe"
        with transaction.atomic():
            versions.bump("billing")
            assert listener.get_message(timeout=0.1) is None
        assert listener.get_message(timeout=5)["data"] == b"billing"


def test_a_rolled_back_change_announces_nothing_and_counts_nothing(committed_db):
    with redis.Redis.from_url(settings.REDIS_URL) as client, client.pubsub() as listener:
        listener.subscribe(versions.CHANNEL)
        assert listener.get_message(timeout=5)["type"] == "subscribe"
        with transaction.atomic():
            versions.bump("billing")
            transaction.set_rollback(True)
        assert listener.get_message(timeout=0.1) is None
    assert versions.current()["billing"] == 0


def test_a_dead_redis_is_logged_and_fails_no_write(committed_db, caplog):
    caplog.set_level(logging.WARNING)
    with override_settings(REDIS_URL="redis://127.0.0.1:1/0"), transaction.atomic():
        versions.bump("tenants")
    assert versions.current()["tenants"] == 1
    assert "config change of tenants not announced" in caplog.text


def test_concurrent_writers_get_versions_in_the_order_they_commit(committed_db):
    committed = []

    def change():
        for _ in range(20):
            with transaction.atomic():
                version = versions.bump("tenants")
                committed.append(version)  # under the row lock, so in the order of commits
        connection.close()

    threads = [threading.Thread(target=change) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert committed == list(range(1, 81))
