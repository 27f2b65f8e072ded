"""A call through the gateway, settled, booked, and told to a receiver: the whole way of an alert."""

import orjson
import pytest
from django.core.cache import cache
from django.test import override_settings

from billing import tasks
from billing.alerts import setup
from billing.models import AlertChannel, AlertDelivery, Budget
from tenants import webhooks
from tenants.models import Tenant
from tests.fakes.http_server import reply, serve
from tests.gateway import plane as planes
from tests.gateway.plane import drain

db, demo, plane = planes.db, planes.demo, planes.plane


def test_a_call_that_reaches_a_budgets_threshold_is_told_to_the_tenants_webhook(plane):
    async def answer(peer, request):
        await peer.send(reply())

    cache.clear()
    acme = Tenant.objects.get(slug="acme")
    budget = Budget.objects.create(
        tenant=acme, name="Tokens", measure="tokens", limit=10, mode="soft", thresholds=[50]
    )
    with serve(answer) as server, override_settings(TOLLHOUSE_EGRESS_ALLOWED_HOSTS=["127.0.0.1"]):
        url = f"{server.url}/hook"
        channel, secret = setup.open_channel(
            tenant=acme, kind="webhook", target=url, name="hook", now=budget.created_at
        )
        assert tasks.evaluate_alerts() == 0
        cache.clear()
        said = plane.http.post(
            f"{plane.url}/v1/chat/completions",
            headers={"Authorization": f"Bearer {plane.key}"},
            json={"model": "sandbox-large", "messages": [{"role": "user", "content": "Hello there"}]},
        )
        assert said.status_code == 200
        assert drain() == 1
        assert tasks.evaluate_alerts() == 1
        assert tasks.deliver_alerts() == 1
        (request,) = server.requests
    delivery = AlertDelivery.objects.get(channel=channel)
    now = delivery.delivered_at
    message_id = webhooks.verify(headers=dict(request.headers), body=request.body, secrets=[secret], now=now)
    assert message_id == f"msg_{delivery.pk.hex}"
    told = orjson.loads(request.body)
    used = said.json()["usage"]["total_tokens"]
    assert told["data"]["budget"] == str(budget.pk)
    assert told["data"]["value"] == str(used)
    assert told["data"]["title"].startswith("Tokens has reached 50 %")


@pytest.fixture(autouse=True, scope="module")
def nothing_left(db):
    """The demo's own emptying truncates what hangs on keys; channels hang on tenants alone."""
    yield
    AlertChannel.objects.all().delete()
