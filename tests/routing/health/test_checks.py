"""Active checks against a real local server: who is asked, what it costs, what it does to a breaker."""

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import redis
from django.conf import settings

from routing import credentials, tasks
from routing.health import checks, store
from routing.health.checks import Checked
from routing.health.exchange import encode_breaker
from routing.health.tracker import Tracker
from routing.models import Endpoint, KillSwitch, Model, Provider
from routing.types import ErrorKind, ProviderError
from tenants.models import AuditEvent
from tenants.principal import SYSTEM
from tests.routing.targets import target
from tests.routing.test_probe import upstream

pytestmark = pytest.mark.django_db

LIST = {"/models": (200, {"data": [{"id": "m"}]})}
DEAD = {"/models": (503, {"error": {"message": "down"}})}


@pytest.fixture(autouse=True)
def _empty_redis():
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        client.flushdb()
        yield
        client.flushdb()


def serve(base_url, **fields):
    row = Provider.objects.create(
        slug="box", name="Box", kind="openai_compatible", base_url=base_url, **fields
    )
    credentials.store(provider=row, tenant=None, secret="sk-box", label="", base_url="", actor=SYSTEM)
    model = Model.objects.create(slug="m", name="M", operations=["chat"])
    return [Endpoint.objects.create(provider=row, model=model, provider_model=name) for name in ("m", "m-2")]


def check(now=None, idle_s=60.0):
    return list(checks.check_idle(now=now or datetime.now(UTC), idle_s=idle_s))


def later(seconds):
    return datetime.now(UTC) + timedelta(seconds=seconds)


def breaker(endpoint):
    return store.current().circuits.get(str(endpoint.pk))


def let_time_pass(*endpoints):
    """The breakers' deadlines have come."""
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        for each in endpoints:
            past = replace(breaker(each), open_until=time.time() - 1)
            client.hset("th:health:circuits", str(each.pk), encode_breaker(past))


def test_a_provider_without_calls_is_asked_once_for_all_its_endpoints():
    with upstream(LIST) as (url, seen):
        serve(url)
        audited = AuditEvent.objects.count()
        assert check() == [Checked("box", 2, None)]
        assert [path for path, _ in seen] == ["/models"]
        assert seen[0][1]["authorization"] == "Bearer sk-box"
        assert check() == []  # not again within the time
        assert check(later(60)) == [Checked("box", 2, None)]
        assert AuditEvent.objects.count() == audited


def test_an_endpoint_with_calls_is_left_alone():
    with upstream(LIST) as (url, _):
        busy, idle = serve(url)
        worker = Tracker("worker")
        worker.succeeded(target(str(busy.pk)), first_byte_ms=1, latency_ms=1, output_tokens=1, headers={})
        store.exchange(worker)
        assert check() == [Checked("box", 1, None)]
        Endpoint.objects.filter(pk=idle.pk).delete()
        assert check(later(30)) == []


@pytest.mark.parametrize("what", ["provider", "endpoint", "model", "killed provider", "killed model"])
def test_what_is_turned_off_is_not_asked(what):
    with upstream(LIST) as (url, seen):
        serve(url)
        match what:
            case "provider":
                Provider.objects.update(is_enabled=False)
            case "endpoint":
                Endpoint.objects.update(is_enabled=False)
            case "model":
                Model.objects.update(is_enabled=False)
            case _:
                kind = what.split()[1]
                name = {"provider": "box", "model": "m"}[kind]
                KillSwitch.objects.create(kind=kind, target=name, reason="x", thrown_by="x")
        assert check() == []
        assert seen == []


def test_a_provider_that_lists_no_models_is_never_asked_for_a_token():
    with upstream({}) as (url, seen):
        first, _ = serve(url)
        assert check() == []
        assert [path for path, _ in seen] == ["/models"]
        assert breaker(first) is None


def test_failed_checks_in_a_row_open_the_breakers_and_a_good_one_closes_them():
    with upstream(DEAD) as (url, _):
        first, second = serve(url)
        for number in range(5):
            assert breaker(first) is None, number
            assert check() == [Checked("box", 2, ErrorKind.OVERLOADED)]  # again at once: the last one failed
        assert [breaker(each).source for each in (first, second)] == ["check", "check"]
        assert check() == []  # nothing to learn while it is open
    with upstream(LIST) as (url, _):
        Provider.objects.update(base_url=url)
        let_time_pass(first, second)
        assert check() == [Checked("box", 2, None)]
        assert [breaker(each).is_open for each in (first, second)] == [False, False]


def test_a_good_check_hides_no_failures_of_calls():
    with upstream(LIST) as (url, _):
        first, _ = serve(url)
        worker = Tracker("worker")
        for _ in range(4):
            worker.failed(target(str(first.pk)), ProviderError(ErrorKind.SERVER_ERROR, ""), waited_ms=1)
        store.exchange(worker)
        assert check(later(60)) == [Checked("box", 2, None)]
        other = Tracker("other")
        store.exchange(other)
        other.failed(target(str(first.pk)), ProviderError(ErrorKind.SERVER_ERROR, ""), waited_ms=1)
        assert other.circuits[str(first.pk)].reason == "5 failures in a row"


def test_the_clock_can_be_told_not_to_check(settings):
    with upstream(LIST) as (url, seen):
        serve(url)
        settings.TOLLHOUSE_HEALTH_CHECK_IDLE_S = 0
        assert tasks.check_idle_endpoints() == 0
        assert seen == []
        settings.TOLLHOUSE_HEALTH_CHECK_IDLE_S = 60
        assert tasks.check_idle_endpoints() == 1
