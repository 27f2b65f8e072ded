"""The console's health pages: what they show of breakers and incidents, and the reset by hand."""

import re

import pytest
import redis
from django.conf import settings
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from routing.health import store
from routing.health.tracker import Tracker
from routing.models import Endpoint
from routing.types import ErrorKind, ProviderError
from tenants.models import AuditEvent
from tests.gateway import console_world
from tests.gateway.test_console import signed_in
from tests.routing.targets import target

pytestmark = pytest.mark.django_db


@pytest.fixture
def world():
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        client.flushdb()
        yield console_world.build(now=timezone.now(), calls=60)
        client.flushdb()


@pytest.fixture
def endpoint(world):
    return Endpoint.objects.filter(provider__slug="openai").order_by("id").first()


def broken(endpoint):
    worker = Tracker("worker")
    for _ in range(5):
        worker.failed(target(str(endpoint.pk)), ProviderError(ErrorKind.OVERLOADED, ""), waited_ms=1)
    store.exchange(worker)


def page(user, name, *args):
    answer = signed_in(user).get(reverse(name, args=args))
    assert answer.status_code == 200
    return answer.content.decode()


def texts(html):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def test_the_overview_tells_every_providers_state(world, endpoint):
    broken(endpoint)
    shown = texts(page(world.operator, "health_list"))
    assert "OpenAI degraded 2 models, 1 left alone" in shown
    assert "Own vLLM unknown 1 model" in shown
    assert "goes on" in shown


def test_bars_are_worded_too(world):
    shown = page(world.operator, "health_list")
    assert re.search(
        r'aria-label="Uptime of OpenAI per day over 90 days: 9\d\.\d% on average, [23] days with incidents"',
        shown,
    )
    assert (
        'aria-label="Uptime of Own vLLM per day over 90 days: 100% on average, 0 days with incidents"'
        in shown
    )


def test_an_open_breaker_says_why_and_can_be_closed_by_those_who_may(world, endpoint):
    broken(endpoint)
    mine = page(world.operator, "health_detail", "openai")
    assert "5 failures in a row; next try" in texts(mine)
    assert mine.count("Close now") == 1
    assert "Close now" not in page(world.clerk, "health_detail", "openai")


def test_closing_by_hand_reaches_the_workers_and_the_audit_trail(world, endpoint):
    broken(endpoint)
    url = reverse("breaker_reset", args=("openai", endpoint.pk))
    answer = signed_in(world.operator).post(url, follow=True)
    assert f"Calls go to {endpoint.model.slug} at openai again." in answer.content.decode()
    assert not store.current().circuits[str(endpoint.pk)].is_open
    event = AuditEvent.objects.get(action="endpoint.reset")
    assert (event.object_id, event.actor_label) == (str(endpoint.pk), "olga@example.com")
    again = signed_in(world.operator).post(url, follow=True)
    assert "closed already" in again.content.decode()


def test_another_providers_endpoint_is_not_there(world, endpoint):
    broken(endpoint)
    url = reverse("breaker_reset", args=("vllm", endpoint.pk))
    assert signed_in(world.operator).post(url).status_code == 404
    assert store.current().circuits[str(endpoint.pk)].is_open


def test_without_redis_the_history_is_shown_and_nothing_is_called_well(world, settings):
    settings.REDIS_URL = "unix:///nowhere/redis.sock"
    shown = texts(page(world.operator, "health_detail", "openai"))
    assert "The present state is unknown." in shown
    assert "closed " not in shown.partition("Models it serves")[2].partition("Incidents")[0]
    assert "11 of 20 calls failed within 10 s" in shown


def test_the_pages_carry_no_inline_style_or_script(world, endpoint):
    broken(endpoint)
    for shown in (page(world.operator, "health_list"), page(world.operator, "health_detail", "openai")):
        main = shown.partition("<main")[2].partition("</main>")[0]
        assert not re.search(r"\sstyle=|<script|\son\w+=", main)


def test_a_guest_is_sent_to_the_sign_in(world):
    assert Client().get(reverse("health_list")).status_code == 302
