"""A gateway killed while it mirrors: the shadow that was under way is booked once, as overhead of the worst cost."""

import time
from decimal import Decimal

import httpx
import pytest
import redis
from django.conf import settings

from billing.models import UsageEvent
from billing.usage.verify import verify
from gateway.experiments.models import ShadowSample
from gateway.models import RequestLog
from gateway.state import reaper
from gateway.state.limits import OPEN
from gateway.state.process import WORKER_KEY
from routing import provisioning
from routing.catalog import rates
from routing.demo import PRICED_FROM
from routing.experiments import shadows
from routing.models import Model, Provider, RoutingPolicy
from tenants.principal import SYSTEM
from tests.e2e.gateway_process import running
from tests.gateway import plane as planes

db, drain = planes.db, planes.drain
demo = pytest.fixture(planes.rows)
SLOW = "slow [[sandbox delay_ms=60000]]"


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "TOLLHOUSE_DATA", tmp_path)
    monkeypatch.setattr(reaper, "GRACE_S", 0)
    return tmp_path


def test_a_killed_workers_shadow_is_booked_as_overhead(demo, data):
    provider, model = Provider.objects.get(slug="sandbox"), Model.objects.get(slug="sandbox-large")
    provisioning.add_endpoint(
        provider=provider, model=model, provider_model=SLOW, region="", weight=1, actor=SYSTEM
    )
    for component in ("input", "output"):
        rate = rates.NewRate("sandbox", SLOW, component, Decimal(1), PRICED_FROM)
        rates.open_rate(rate=rate, actor=SYSTEM)
    shadows.set_shadow(
        policy=RoutingPolicy.objects.get(slug="cost-optimized"),
        wording={"share": "0.5", "targets": [{"model": SLOW, "provider": "sandbox"}]},
        actor=SYSTEM,
    )
    calls = 0
    with running(data) as gateway, redis.Redis.from_url(settings.REDIS_URL) as store:
        while not any(b'"kind":"shadow"' in record for record in store.hvals(OPEN)):
            answer = httpx.post(
                f"{gateway.url}/v1/chat/completions",
                headers={"authorization": f"Bearer {demo['tenants'][0]['api_key']}"},
                json={"model": "policy:cost-optimized", "messages": [{"role": "user", "content": "Hi"}]},
            )
            assert answer.status_code == 200
            calls += 1
            time.sleep(0.05)
        gateway.kill()
        for name in store.scan_iter(WORKER_KEY.format("*")):
            store.delete(name)
        reaper.close_abandoned()
        assert store.hlen(OPEN) == 0
    while drain():
        pass
    (row,) = UsageEvent.objects.filter(kind="shadow")
    assert (row.status, row.usage_source, row.price_pico, row.is_final) == ("unknown", "unknown", 0, False)
    assert row.cost_pico > 0
    assert row.provider_model == SLOW
    (sample,) = ShadowSample.objects.all()
    assert (sample.request_id, sample.status, sample.of_status) == (row.request_id, 500, 200)
    assert RequestLog.objects.count() == UsageEvent.objects.filter(kind="usage").count() == calls
    assert verify().ok
