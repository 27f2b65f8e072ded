"""What Prometheus reads of the providers."""

import pytest
import redis
from django.conf import settings
from django.test import Client

from routing.health import metrics, store
from routing.health.tracker import Tracker
from routing.types import ErrorKind, ProviderError
from tests.routing.targets import target


@pytest.fixture(autouse=True)
def _workers():
    """Two workers that saw three answers of 100, 200 and 20,000 ms and five failures."""
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        client.flushdb()
        for name, waits, failures in (("a", (100, 200), 5), ("b", (20_000,), 0)):
            worker = Tracker(name)
            at = target("e-1", model='odd "name"', quota_key="c/m-1")
            for wait_ms in waits:
                worker.succeeded(at, first_byte_ms=wait_ms, latency_ms=30_000, output_tokens=5, headers={})
            for _ in range(failures):
                worker.failed(at, ProviderError(ErrorKind.OVERLOADED, ""), waited_ms=3)
            if failures:
                worker.failed(at, ProviderError(ErrorKind.CREDENTIAL, "", 401), waited_ms=3)
            store.exchange(worker)
        yield
        client.flushdb()


def test_attempts_are_counted_by_provider_and_outcome():
    assert [line for line in metrics.lines() if line.startswith("tollhouse_provider_attempts")] == [
        'tollhouse_provider_attempts_total{provider="acme",outcome="ok"} 3',
        'tollhouse_provider_attempts_total{provider="acme",outcome="overloaded"} 5',
        'tollhouse_provider_attempts_total{provider="acme",outcome="credential"} 1',
    ]


def test_the_histogram_is_cumulative_and_complete():
    lines = [line for line in metrics.lines() if "first_byte_seconds" in line and line[0] != "#"]
    counts = [int(line.split()[1]) for line in lines if "_bucket" in line]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, 3)
    assert lines[-2:] == [
        'tollhouse_provider_first_byte_seconds_sum{provider="acme"} 20.300',
        'tollhouse_provider_first_byte_seconds_count{provider="acme"} 3',
    ]


def test_an_open_circuit_and_a_refused_credential_are_told():
    told = set(metrics.lines())
    labels = 'endpoint="e-1",provider="acme",model="odd \\"name\\"",provider_model="m-1",region="us"'
    assert f"tollhouse_endpoint_circuit{{{labels}}} 2" in told
    assert 'tollhouse_credential_refused{provider="acme",credential="c"} 1' in told


@pytest.mark.django_db
def test_the_page_that_prometheus_reads_has_them():
    page = Client().get("/metrics").content.decode()
    assert 'tollhouse_provider_attempts_total{provider="acme",outcome="ok"} 3\n' in page
    assert page.endswith("\n")
