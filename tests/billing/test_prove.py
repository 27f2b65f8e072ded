"""The proof is kept, and a failure is told once a day until it holds again."""

from datetime import timedelta

import pytest
from django.core.cache import cache
from django.db import connection
from django.utils import timezone

from billing import prove, tasks
from billing.models import AlertChannel, AlertDelivery, AlertFiring, LedgerProof
from tests.billing.ledger import put, record

pytestmark = pytest.mark.django_db


def shift(pico: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE billing_usage_hour SET price_pico = price_pico + %s", [pico])


def test_the_first_proof_of_a_day_is_whole_and_the_next_ones_recent():
    now = timezone.now()
    put(record(now - timedelta(days=100)))
    first, second = prove.prove(now=now), prove.prove(now=now + timedelta(hours=1))
    assert (first.is_whole, first.since, second.is_whole) == (True, None, False)
    assert second.since == (now + timedelta(hours=1) - prove.RECENT).replace(
        minute=0, second=0, microsecond=0
    )
    assert first.ok
    assert {check["name"] for check in first.checks} >= {
        "ledger = billing_usage_hour", "documents = ledger (I3)", "provider bills = ledger, or explained (I9)",
    }  # fmt: skip
    assert prove.newest() == second


def test_a_broken_ledger_alarms_the_operator_once_and_is_resolved_when_it_holds():
    channel = AlertChannel.objects.create(name="ops", kind="email", target="ops@example.com")
    now = timezone.now()
    put(record(now))
    shift(1)
    kept = [prove.prove(now=now + timedelta(minutes=n)) for n in range(2)]
    assert [proof.ok for proof in kept] == [False, False]
    (firing,) = AlertFiring.objects.all()
    assert (firing.kind, firing.severity, firing.tenant, firing.state) == (
        "ledger",
        "critical",
        None,
        "firing",
    )
    assert firing.title == "The books do not hold: ledger = billing_usage_hour"
    (delivery,) = AlertDelivery.objects.all()
    assert delivery.channel == channel
    assert "1 differ" in str(delivery.payload)
    shift(-1)
    assert prove.prove(now=now + timedelta(hours=1)).ok
    firing.refresh_from_db()
    assert firing.state == "resolved"
    shift(1)
    prove.prove(now=now + timedelta(hours=2))
    assert AlertFiring.objects.filter(resolved_at__isnull=True).count() == 1


def test_the_clock_makes_one_proof_at_a_time():
    cache.clear()
    assert tasks.prove_ledger() is True
    assert LedgerProof.objects.count() == 1
    cache.set("billing:ledger:proving", 1)
    assert tasks.prove_ledger() is True
    assert LedgerProof.objects.count() == 1
    cache.clear()
