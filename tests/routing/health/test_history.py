"""What becomes of Redis's counts: samples and incidents, written once however often the task runs."""

from datetime import UTC, date, datetime, timedelta
from uuid import uuid4

import pytest
import redis
from django.conf import settings

from routing import tasks
from routing.health import history, store
from routing.health.breaker import Breaker
from routing.health.exchange import EVENTS, encode_breaker
from routing.health.models import HealthSample, Incident
from routing.health.tracker import Tracker
from routing.models import Endpoint, Model, Provider
from routing.types import ErrorKind, ProviderError
from tests.routing.targets import target

pytestmark = pytest.mark.django_db

DOWN = ProviderError(ErrorKind.SERVER_ERROR, "down", 500)
LIMITED = ProviderError(ErrorKind.RATE_LIMITED, "slow down", 429)


@pytest.fixture
def client():
    with redis.Redis.from_url(settings.REDIS_URL) as held:
        held.flushdb()
        yield held
        held.flushdb()


@pytest.fixture
def endpoint():
    return make("box", "m")


def make(provider, model, *, days_old=200):
    row = Endpoint.objects.create(
        provider=Provider.objects.get_or_create(
            slug=provider, defaults={"name": provider.title(), "kind": "openai"}
        )[0],
        model=Model.objects.get_or_create(slug=model, defaults={"name": model, "operations": ["chat"]})[0],
        provider_model=model,
    )
    Endpoint.objects.filter(pk=row.pk).update(created_at=datetime.now(UTC) - timedelta(days=days_old))
    row.refresh_from_db()
    return row


def used(endpoint, *, ok=0, failed=0, limited=0):
    """A worker that saw these and told of them."""
    tracker = Tracker(f"worker-{uuid4()}")
    at = target(str(endpoint.pk), provider=endpoint.provider.slug, quota_key="q")
    for _ in range(ok):
        tracker.succeeded(at, first_byte_ms=100, latency_ms=400, output_tokens=5, headers={})
    for error, times in ((DOWN, failed), (LIMITED, limited)):
        for _ in range(times):
            tracker.failed(at, error, waited_ms=10)
    store.exchange(tracker)
    return tracker


def incident(endpoint, opened_at, closed_at=None):
    return Incident.objects.create(
        endpoint=endpoint, opened_at=opened_at, closed_at=closed_at, reason="5 failures in a row"
    )


def test_a_sample_holds_what_the_workers_counted(client, endpoint):
    used(endpoint, ok=7, failed=3, limited=2)
    assert tasks.record_health() == 1
    (row,) = HealthSample.objects.all()
    assert (row.endpoint, row.attempts, row.failed) == (endpoint, 10, 3)
    assert row.errors == {"server_error": 3, "rate_limited": 2}
    assert row.first_byte_p50_ms == pytest.approx(100, rel=0.15)
    assert row.latency_p95_ms == pytest.approx(400, rel=0.15)
    assert row.circuit == "closed"
    assert row.at.timestamp() % 300 == 0


def test_writing_again_changes_nothing_and_later_counts_are_taken_over(client, endpoint):
    used(endpoint, ok=7)
    tasks.record_health()
    before = list(HealthSample.objects.values_list("id", "attempts"))
    tasks.record_health()
    assert list(HealthSample.objects.values_list("id", "attempts")) == before
    used(endpoint, ok=5)
    tasks.record_health()
    assert sum(HealthSample.objects.values_list("attempts", flat=True)) == 12


def test_an_endpoint_that_is_gone_leaves_no_sample(client, endpoint):
    used(endpoint, ok=7)
    endpoint.delete()
    assert tasks.record_health() == 0


def test_an_outage_becomes_one_incident_however_often_its_events_are_read(client, endpoint):
    used(endpoint, failed=5)
    kept = client.xrange(EVENTS)
    tasks.record_health()
    (row,) = Incident.objects.all()
    assert (row.closed_at, row.reason, row.opened_by) == (None, "5 failures in a row", "calls")
    assert client.xlen(EVENTS) == 0
    for _, fields in kept:  # as if the task had died before it could delete them
        client.xadd(EVENTS, fields)
    tasks.record_health()
    assert list(Incident.objects.all()) == [row]
    assert HealthSample.objects.get().circuit == "open"


def test_two_workers_that_open_it_within_a_moment_make_one_incident(client, endpoint):
    now = datetime.now(UTC).timestamp()
    pictures = [
        Breaker(True, 1, now + 4, now - 9.0, now - 9.0, 0.0, "why", "calls"),
        Breaker(True, 1, now + 5, now - 8.9, now - 8.9, 0.0, "why", "calls"),
        Breaker(False, 2, 0.0, now - 8.9, now - 8.9, now - 1, "why", "calls"),
    ]
    for _ in range(2):
        for breaker in pictures:
            client.xadd(EVENTS, {"endpoint": str(endpoint.pk), "breaker": encode_breaker(breaker)})
        history.record_incidents(client=client, circuits={}, now=datetime.now(UTC))
    (row,) = Incident.objects.all()
    assert (row.opened_at.timestamp(), row.closed_at.timestamp()) == (
        pytest.approx(now - 9),
        pytest.approx(now - 1),
    )


def test_an_incident_that_redis_forgot_ends_and_goes_on_when_a_worker_remembers(client, endpoint):
    worker = used(endpoint, failed=5)
    tasks.record_health()
    client.flushdb()
    tasks.record_health()
    assert Incident.objects.get().closed_by == "lost"
    store.exchange(worker)  # learns that Redis knows nothing
    store.exchange(worker)  # and tells it again
    tasks.record_health()
    row = Incident.objects.get()
    assert (row.closed_at, row.closed_by) == (None, "")


def test_an_endpoint_turned_off_is_no_incident_any_more(client, endpoint):
    used(endpoint, failed=5)
    tasks.record_health()
    Endpoint.objects.update(is_enabled=False)
    tasks.record_health()
    assert Incident.objects.get().closed_by == "lost"


def test_without_redis_nothing_is_written_and_nothing_breaks(endpoint, settings):
    settings.REDIS_URL = "unix:///nowhere/redis.sock"
    incident(endpoint, datetime.now(UTC))
    assert tasks.record_health() == 0
    assert Incident.objects.get().closed_at is None


def test_what_is_older_than_90_days_is_forgotten(endpoint):
    now = datetime.now(UTC)
    for days in (89, 91):
        HealthSample.objects.create(endpoint=endpoint, at=now - timedelta(days=days), circuit="closed")
        incident(endpoint, now - timedelta(days=days, hours=1), now - timedelta(days=days))
    incident(endpoint, now - timedelta(days=100))  # goes on
    assert tasks.prune_health() == 2
    assert (HealthSample.objects.count(), Incident.objects.count()) == (1, 2)


# ------------------------------------------------------------------ uptime

NOON = datetime(2026, 6, 10, 12, tzinfo=UTC)


def days_of(*endpoints, days=3):
    return history.uptime(endpoints, now=NOON, days=days)


def test_a_day_without_incidents_was_up(endpoint):
    Endpoint.objects.update(created_at=NOON - timedelta(days=30))
    endpoint.refresh_from_db()
    assert [(day.date, day.uptime) for day in days_of(endpoint)["box"]] == [
        (date(2026, 6, 8), 1.0),
        (date(2026, 6, 9), 1.0),
        (date(2026, 6, 10), 1.0),
    ]


def test_an_incident_over_midnight_counts_in_both_days(endpoint):
    Endpoint.objects.update(created_at=NOON - timedelta(days=30))
    endpoint.refresh_from_db()
    midnight = NOON.replace(hour=0)
    incident(endpoint, midnight - timedelta(hours=6), midnight + timedelta(hours=3))
    days = days_of(endpoint)["box"]
    assert [day.uptime for day in days] == [1.0, 0.75, 0.75]
    assert [day.incidents for day in days] == [0, 1, 1]
    assert history.mean_uptime(days) == pytest.approx(2.5 / 3)


def test_an_incident_that_goes_on_counts_until_now(endpoint):
    Endpoint.objects.update(created_at=NOON - timedelta(days=30))
    endpoint.refresh_from_db()
    incident(endpoint, NOON - timedelta(hours=3))
    assert days_of(endpoint)["box"][-1].uptime == 0.75


def test_a_provider_is_the_mean_of_its_endpoints_since_they_exist():
    old, young = make("box", "m"), make("box", "n")
    Endpoint.objects.filter(pk=old.pk).update(created_at=NOON - timedelta(days=2, hours=12))
    Endpoint.objects.filter(pk=young.pk).update(created_at=NOON - timedelta(hours=6))
    rows = [Endpoint.objects.select_related("provider").get(pk=row.pk) for row in (old, young)]
    incident(young, NOON - timedelta(hours=6))
    days = days_of(*rows, days=4)["box"]
    assert [day.uptime for day in days] == [None, 1.0, 1.0, pytest.approx(12 / 18)]


def test_a_day_counts_its_calls(endpoint):
    for hour, attempts, failed in ((1, 10, 1), (2, 20, 5), (30, 7, 0)):
        HealthSample.objects.create(
            endpoint=endpoint,
            at=NOON - timedelta(hours=hour),
            attempts=attempts,
            failed=failed,
            circuit="closed",
        )
    assert [(day.attempts, day.failed) for day in days_of(endpoint)["box"]] == [(0, 0), (7, 0), (30, 6)]
