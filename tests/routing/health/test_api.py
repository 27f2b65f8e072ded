"""The REST views of the providers' health: what they show, to whom, and what a reset leaves behind."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from django.conf import settings
from rest_framework.test import APIClient

from routing import credentials
from routing.health import store
from routing.health.models import HealthSample, Incident
from routing.health.tracker import Tracker
from routing.models import Endpoint, Model, Provider
from routing.types import ErrorKind, ProviderError
from tenants.models import AuditEvent
from tenants.principal import SYSTEM
from tests.routing.targets import target

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.routing.urls")]

PATH = "/api/v1/providers/box/health/"
DOWN = ProviderError(ErrorKind.OVERLOADED, "down", 503)


@pytest.fixture(autouse=True)
def _empty_redis() -> Iterator[None]:
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        client.flushdb()
        yield
        client.flushdb()


@pytest.fixture
def endpoints() -> list[Endpoint]:
    provider = Provider.objects.create(slug="box", name="Box", kind="openai", region="eu")
    model = Model.objects.create(slug="m", name="M", operations=["chat"])
    rows = [
        Endpoint.objects.create(provider=provider, model=model, provider_model=name)
        for name in ("m-1", "m-2")
    ]
    Endpoint.objects.update(created_at=datetime.now(UTC) - timedelta(days=2))
    return rows


def tell(endpoint: Endpoint, *errors: ProviderError, ok: int = 0, quota_key: str = "") -> None:
    tracker = Tracker(f"worker-{endpoint.pk}-{len(errors)}-{ok}")
    at = target(str(endpoint.pk), provider="box", quota_key=quota_key)
    for _ in range(ok):
        tracker.succeeded(at, first_byte_ms=100, latency_ms=900, output_tokens=40, headers={})
    for error in errors:
        tracker.failed(at, error, waited_ms=5)
    store.exchange(tracker)


def breaker_of(endpoint: Endpoint) -> Any:
    return store.current().circuits[str(endpoint.pk)]


def test_a_provider_nobody_called_is_unknown(operator: APIClient, endpoints: list[Endpoint]) -> None:
    health = operator.get(PATH).json()
    assert (health["status"], health["is_live"], health["endpoints"]) == ("unknown", True, 2)
    assert (health["uptime"], health["incidents"], health["pauses"]) == (1.0, [], [])
    assert [day["uptime"] for day in health["days"]] == [None] * 87 + [1.0] * 3


def test_a_provider_that_answers_is_ok_with_its_figures(
    operator: APIClient, endpoints: list[Endpoint]
) -> None:
    tell(endpoints[0], ok=30)
    health = operator.get(PATH).json()
    first = next(each for each in health["circuits"] if each["id"] == str(endpoints[0].pk))
    assert health["status"] == "ok"
    assert (first["circuit"], first["success"], first["samples"]) == ("closed", 1.0, 30)
    assert first["first_byte_p95_ms"] == pytest.approx(100, rel=0.15)
    assert first["output_tokens_per_s"] == pytest.approx(50.0)
    assert (first["open_until"], first["reason"], first["region"]) == (None, "", "eu")


def test_one_open_breaker_is_degraded_and_all_are_failing(
    operator: APIClient, endpoints: list[Endpoint]
) -> None:
    tell(endpoints[0], *[DOWN] * 5)
    health = operator.get(PATH).json()
    (broken,) = [each for each in health["circuits"] if each["circuit"] == "open"]
    assert (health["status"], broken["reason"]) == ("degraded", "5 failures in a row")
    assert broken["open_until"] is not None
    tell(endpoints[1], *[DOWN] * 5)
    assert operator.get(PATH).json()["status"] == "failing"
    assert operator.get("/api/v1/health/").json()["data"][0]["broken"] == 2


def test_pauses_name_the_credential_and_why(operator: APIClient, endpoints: list[Endpoint]) -> None:
    held = credentials.store(
        provider=endpoints[0].provider, tenant=None, secret="sk-1", label="", base_url="", actor=SYSTEM
    )
    tell(
        endpoints[0],
        ProviderError(ErrorKind.RATE_LIMITED, "", 429, retry_after_s=20),
        quota_key=f"{held.pk}/m-1",
    )
    tell(endpoints[1], ProviderError(ErrorKind.CREDENTIAL, "", 401), quota_key=f"{held.pk}/m-2")
    limited, refused = operator.get(PATH).json()["pauses"]
    assert (limited["credential"], limited["provider_model"], limited["reason"]) == (
        str(held.pk),
        "m-1",
        "rate_limited",
    )
    assert (refused["provider_model"], refused["reason"], refused["refused_times"]) == (
        "m-2",
        "credential",
        1,
    )


def test_history_is_shown_without_redis_and_now_is_unknown(
    operator: APIClient, endpoints: list[Endpoint], settings: Any
) -> None:
    now = datetime.now(UTC)
    Incident.objects.create(
        endpoint=endpoints[0], opened_at=now - timedelta(minutes=9), closed_at=now, reason="x"
    )
    HealthSample.objects.create(endpoint=endpoints[0], at=now, attempts=10, failed=4, circuit="open")
    settings.REDIS_URL = "unix:///nowhere/redis.sock"
    health = operator.get(PATH).json()
    assert (health["status"], health["is_live"]) == ("unknown", False)
    assert [each["reason"] for each in health["incidents"]] == ["x"]
    assert (health["days"][-1]["attempts"], health["days"][-1]["failed"]) == (10, 4)
    refused = operator.post(f"/api/v1/endpoints/{endpoints[0].pk}/reset/", {}, format="json")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
    assert not AuditEvent.objects.filter(action="endpoint.reset").exists()


def test_a_reset_closes_the_breaker_for_all_and_is_audited(
    operator: APIClient, endpoints: list[Endpoint]
) -> None:
    tell(endpoints[0], *[DOWN] * 5)
    path = f"/api/v1/endpoints/{endpoints[0].pk}/reset/"
    answer = operator.post(path, {}, format="json")
    assert (answer.status_code, answer.json()["circuit"]) == (200, "closed")
    assert (breaker_of(endpoints[0]).is_open, breaker_of(endpoints[0]).source) == (False, "operator")
    event = AuditEvent.objects.get(action="endpoint.reset")
    assert (event.object_id, event.before["reason"]) == (str(endpoints[0].pk), "5 failures in a row")
    worker = Tracker("another")
    store.exchange(worker)
    worker.failed(target(str(endpoints[0].pk)), DOWN, waited_ms=1)
    assert not worker.circuits[str(endpoints[0].pk)].is_open  # the old failures are forgotten
    again = operator.post(path, {}, format="json")
    assert (again.status_code, again.json()["error"]["code"]) == (409, "conflict")


def test_a_reset_takes_no_fields_and_an_endpoint_that_exists(
    operator: APIClient, endpoints: list[Endpoint]
) -> None:
    tell(endpoints[0], *[DOWN] * 5)
    answer = operator.post(f"/api/v1/endpoints/{endpoints[0].pk}/reset/", {"x": 1}, format="json")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unknown_field")
    assert breaker_of(endpoints[0]).is_open
    gone = operator.post(f"/api/v1/endpoints/{endpoints[0].model_id}/reset/", {}, format="json")
    assert gone.status_code == 404
    assert operator.get("/api/v1/providers/nobody/health/").status_code == 404


def test_health_needs_the_platforms_scope(client_of: Any, acme: Any, endpoints: list[Endpoint]) -> None:
    tell(endpoints[0], *[DOWN] * 5)
    reader, stranger = client_of("providers:read"), client_of("*", tenant=acme)
    reset = f"/api/v1/endpoints/{endpoints[0].pk}/reset/"
    assert [reader.get(path).status_code for path in (PATH, "/api/v1/health/")] == [200, 200]
    assert reader.post(reset, {}, format="json").status_code == 403
    assert [stranger.get(path).status_code for path in (PATH, "/api/v1/health/")] == [403, 403]
    assert stranger.post(reset, {}, format="json").status_code == 403
    assert breaker_of(endpoints[0]).is_open


def test_the_overview_costs_a_fixed_number_of_queries(
    operator: APIClient, endpoints: list[Endpoint], django_assert_num_queries: Any
) -> None:
    from routing.health import report

    for number in range(5):
        Provider.objects.create(slug=f"p{number}", name="P", kind="openai")
    with django_assert_num_queries(6):
        assert len(report.of_all(now=datetime.now(UTC))) == 6
