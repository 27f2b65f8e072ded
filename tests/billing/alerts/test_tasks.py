"""Celery's entrances, run as the worker runs them, and a worker that is killed while it sends."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from django.conf import settings
from django.core.cache import cache
from django.db import connection
from django.test import override_settings
from django.utils import timezone

from billing import tasks
from billing.alerts.deliver import LEASE, deliver_due
from billing.alerts.firing import fire
from billing.models import AlertDelivery, AlertFiring, AlertRule, Budget
from gateway.celery import app
from tests.billing.alerts.world import alarm, channel, no_dice
from tests.billing.ledger import put, record
from tests.e2e.gateway_process import database_url
from tests.factories import tenant
from tests.fakes.http_server import reply, serve

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def an_empty_cache():
    cache.clear()
    yield
    cache.clear()


@pytest.mark.django_db
def test_what_was_settled_since_the_last_look_is_evaluated_and_queued_for_delivery() -> None:
    acme = tenant("acme")
    Budget.objects.create(tenant=acme, limit=10, thresholds=[50])
    now = timezone.now()
    assert tasks.evaluate_alerts() == 0
    cache.set("billing:alerts:looked_at", (now.timestamp(), 0.0))  # rested
    put(record(now, tenant_id=acme.pk, price_pico=6 * 10**12, cost_components=None), recorded_at=now)
    assert tasks.evaluate_alerts() == 1
    cache.delete("billing:alerts:looked_at")
    assert tasks.evaluate_alerts() == 0
    assert AlertFiring.objects.get().tenant == acme


@pytest.mark.django_db
def test_a_look_that_is_under_way_is_not_doubled_and_its_rows_are_not_missed() -> None:
    acme = tenant("acme")
    Budget.objects.create(tenant=acme, limit=10, thresholds=[50])
    now = timezone.now()
    put(record(now, tenant_id=acme.pk, price_pico=6 * 10**12, cost_components=None), recorded_at=now)
    cache.add("billing:alerts:looking", 1, timeout=10)
    assert tasks.evaluate_alerts() == 0
    cache.delete("billing:alerts:looking")
    assert tasks.evaluate_alerts() == 1


@pytest.mark.django_db
def test_after_a_long_look_the_worker_has_time_for_others_and_nothing_is_missed() -> None:
    acme = tenant("acme")
    Budget.objects.create(tenant=acme, limit=10, thresholds=[50])
    now = timezone.now()
    put(record(now, tenant_id=acme.pk, price_pico=6 * 10**12, cost_components=None), recorded_at=now)
    cache.set("billing:alerts:looked_at", (now.timestamp() - 1, 30.0))
    assert tasks.evaluate_alerts() == 0
    cache.set("billing:alerts:looked_at", (now.timestamp() - 40, 30.0))
    assert tasks.evaluate_alerts() == 1


@pytest.mark.django_db
def test_one_broken_rule_does_not_silence_the_others() -> None:
    acme = tenant("acme", timezone="Mars/Base")  # as no verb would allow
    AlertRule.objects.create(tenant=acme, name="broken", kind="margin", thresholds=[5])
    good = tenant("good")
    Budget.objects.create(tenant=good, limit=10, thresholds=[50])
    now = timezone.now()
    put(record(now, tenant_id=good.pk, price_pico=6 * 10**12, cost_components=None), recorded_at=now)
    with pytest.raises(ExceptionGroup, match="not every step was done"):
        tasks.evaluate_alert_trends()
    assert tasks.sweep_alerts() == 1


def test_the_clock_calls_tasks_that_exist() -> None:
    app.loader.import_default_modules()
    scheduled = {each["task"] for each in app.conf.beat_schedule.values()}
    assert {name for name in scheduled if name.startswith("billing.tasks.") and "alert" in name} == {
        "billing.tasks.deliver_alerts",
        "billing.tasks.evaluate_alerts",
        "billing.tasks.evaluate_alert_trends",
        "billing.tasks.sweep_alerts",
    }
    assert scheduled <= set(app.tasks)


# ------------------------------------------------------------------ a worker that is killed


@pytest.fixture
def committed(django_db_setup, django_db_blocker):
    """Rows that another process sees, emptied afterwards."""
    tables = (
        "billing_alertattempt, billing_alertdelivery, billing_alertfiring, billing_alertchannel, tenants_datakey,"
        " tenants_auditevent, tenants_audithead, tenants_tenant"
    )
    with django_db_blocker.unblock():
        yield
        with connection.cursor() as cursor:
            cursor.execute("SET session_replication_role = replica")
            for table in tables.split(","):
                cursor.execute(f"DELETE FROM {table}")  # noqa: S608
            cursor.execute("SET session_replication_role = DEFAULT")
        connection.close()


def test_a_worker_killed_while_it_sends_leaves_a_message_that_arrives(committed) -> None:
    is_dying, worker = True, None

    async def answer(peer, request):
        if is_dying:
            worker.kill()  # the request is here, its answer never will be
            await peer.wait_closed()
        else:
            await peer.send(reply())

    with serve(answer) as server, override_settings(TOLLHOUSE_EGRESS_ALLOWED_HOSTS=["127.0.0.1"]):
        acme = tenant("acme")
        channel(acme, "webhook", f"{server.url}/hook")
        now = timezone.now()
        fire(alarm=alarm(acme), now=now)
        environment = {
            **os.environ,
            "DATABASE_URL": database_url(),
            "REDIS_URL": settings.REDIS_URL,
            "DJANGO_SETTINGS_MODULE": "gateway.settings",
            "TOLLHOUSE_EGRESS_ALLOWED_HOSTS": "127.0.0.1",
        }
        code = "import django; django.setup(); from billing.tasks import deliver_alerts; deliver_alerts()"
        worker = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment)
        assert worker.wait(60) == -9
        delivery = AlertDelivery.objects.get()
        assert (delivery.state, delivery.attempts) == ("pending", 1)
        is_dying = False
        later = delivery.lease_until + timedelta(seconds=1)
        assert delivery.lease_until - now < LEASE + timedelta(seconds=60)
        assert deliver_due(clock=lambda: later, dice=no_dice) == 1
        ids = {request.header("webhook-id") for request in server.requests}
        assert (len(server.requests), len(ids)) == (2, 1)
        assert AlertDelivery.objects.get().state == "delivered"


def test_many_that_find_the_same_at_once_make_one_firing_with_one_message(committed) -> None:
    acme = tenant("acme")
    channel(acme, "webhook")
    now, everybody = timezone.now(), threading.Barrier(8)

    def find(_: int) -> bool:
        everybody.wait(10)
        try:
            return fire(alarm=alarm(acme), now=now) is not None
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(find, range(8))) == [False] * 7 + [True]
    assert (AlertFiring.objects.count(), AlertDelivery.objects.count()) == (1, 1)


def test_many_senders_share_the_work_and_send_nothing_twice(committed) -> None:
    async def answer(peer, request):
        await peer.send(reply())

    with serve(answer) as server, override_settings(TOLLHOUSE_EGRESS_ALLOWED_HOSTS=["127.0.0.1"]):
        acme = tenant("acme")
        for number in range(6):
            channel(acme, "webhook", f"{server.url}/{number}")
        now = timezone.now()
        for number in range(10):
            fire(alarm=alarm(acme, threshold=Decimal(number + 1)), now=now)

        def work(_: int) -> int:
            tried = 0
            try:
                while AlertDelivery.objects.filter(state="pending").exists():
                    tried += deliver_due(clock=lambda: now, dice=no_dice)
            finally:
                connection.close()
            return tried

        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(work, range(4))) == 60
        ids = [request.header("webhook-id") for request in server.requests]
    assert len(ids) == len(set(ids)) == 60
