"""What a call tells of its provider, from the running gateway to the API, /metrics and the history."""

import time
from uuid import UUID

import orjson
import pytest

from routing import tasks
from routing.health.models import HealthSample
from routing.health.tracker import Tracker
from routing.models import Endpoint
from routing.types import ErrorKind, ProviderError
from tests.gateway import plane as planes
from tests.routing.targets import target

db, demo, plane = planes.db, planes.demo, planes.plane

ASK = {"model": "sandbox/sandbox-large", "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture(scope="module")
def operator_key(demo):
    from tenants import keys
    from tenants.principal import SYSTEM

    return keys.issue(tenant=None, name="operator", scopes=("*",), actor=SYSTEM).text


def health_of(plane, key):
    answer = plane.http.get(
        f"{plane.url}/api/v1/providers/sandbox/health/", headers={"authorization": f"Bearer {key}"}
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def until(look):
    """What `look` gives once it is true; the workers tell each other within a beat or two."""
    deadline = time.monotonic() + 30
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def test_calls_are_seen_in_the_api_in_metrics_and_in_the_history(plane, operator_key):
    for _ in range(3):
        answer = plane.http.post(
            f"{plane.url}/v1/chat/completions", json=ASK, headers={"authorization": f"Bearer {plane.key}"}
        )
        assert answer.status_code == 200
    endpoint = Endpoint.objects.get(provider__slug="sandbox", model__slug="sandbox-large")

    def seen():
        health = health_of(plane, operator_key)
        return next(
            each for each in health["circuits"] if each["id"] == str(endpoint.pk) and each["samples"] == 3
        )

    shown = until(lambda: _first(seen))
    assert (shown["circuit"], shown["success"]) == ("closed", 1.0)
    page = plane.http.get(f"{plane.url}/metrics").text
    assert 'tollhouse_provider_attempts_total{provider="sandbox",outcome="ok"} 3\n' in page
    assert tasks.record_health() == 1
    assert HealthSample.objects.get(endpoint=endpoint).attempts == 3


def _first(look):
    try:
        return look()
    except StopIteration:
        return None


def test_another_workers_opening_reaches_the_gateway_and_a_reset_takes_it_back(plane, operator_key):
    from routing.health import store

    endpoint = Endpoint.objects.get(provider__slug="sandbox", model__slug="sandbox-large")
    other = Tracker("another-worker")
    for _ in range(5):
        other.failed(target(str(endpoint.pk)), ProviderError(ErrorKind.OVERLOADED, ""), waited_ms=1)
    store.exchange(other)
    headers = {"authorization": f"Bearer {plane.key}"}

    def route():
        answer = plane.http.post(f"{plane.url}/v1/chat/completions", json=ASK, headers=headers)
        assert answer.status_code == 200  # the last target is never ejected
        planes.drain()
        from gateway.logs import search

        log = search.find(UUID(answer.headers["x-request-id"]), tenant_ids=None)
        return orjson.dumps(log.route).decode()

    until(lambda: "circuit" in route())
    answer = plane.http.post(
        f"{plane.url}/api/v1/endpoints/{endpoint.pk}/reset/",
        json={},
        headers={"authorization": f"Bearer {operator_key}"},
    )
    assert (answer.status_code, answer.json()["circuit"]) == (200, "closed")
    until(lambda: "circuit" not in route())
