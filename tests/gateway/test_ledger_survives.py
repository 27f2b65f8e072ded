"""A gateway killed in the middle of its work: every call that was opened is booked once, and every hold is back."""

import asyncio
from collections import Counter
from uuid import UUID

import httpx
import pytest
import redis
from django.conf import settings

from billing.models import Budget, UsageEvent
from billing.usage.verify import verify
from gateway.models import RequestLog
from gateway.state import journal, reaper
from gateway.state.limits import OPEN, STREAM
from gateway.state.process import WORKER_KEY
from tenants import keys
from tenants.models import Tenant
from tenants.principal import SYSTEM
from tests.e2e.gateway_process import running
from tests.gateway import plane as planes

db, drain = planes.db, planes.drain
demo = pytest.fixture(planes.rows)  # each test has a ledger of its own

CALLS, ANSWERS_BEFORE_THE_END = 100, 30


@pytest.fixture
def store():
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        yield client


@pytest.fixture
def data(tmp_path, monkeypatch):
    """The folder of the gateway and of the reaper: they live on one host."""
    monkeypatch.setattr(settings, "TOLLHOUSE_DATA", tmp_path)
    monkeypatch.setattr(reaper, "GRACE_S", 0)  # the calls are young, and their worker is surely dead
    return tmp_path


@pytest.fixture
def key(demo):
    """A key under a roomy hard budget with room for everybody at once."""
    tenant = Tenant.objects.get(slug="acme")
    issued = keys.issue(tenant=tenant, name="k", scopes=("*",), actor=SYSTEM, max_concurrent=2 * CALLS)
    Budget.objects.create(tenant=tenant, api_key=issued.key, limit="1000")
    return issued


def body(text, **more):
    return {"model": "policy:reliable", "messages": [{"role": "user", "content": text}], **more}


def various(number):
    """Whole answers, streams and failovers, from quick to two seconds long."""
    if number % 10 == 9:
        return body("[[sandbox status=500]]")
    return body(f"[[sandbox tokens=20 token_ms={number}]] hi", stream=number % 2 == 1)


async def drive(gateway, text, bodies, *, kill_after):
    """Send all at once, kill the gateway after so many answers. The request ids of what was answered in full."""
    answered = {}
    async with httpx.AsyncClient(
        base_url=gateway.url,
        headers={"authorization": f"Bearer {text}"},
        timeout=60,
        limits=httpx.Limits(max_connections=None),
    ) as http:

        async def call(each):
            try:
                answer = await http.post("/v1/chat/completions", json=each)
            except httpx.TransportError:
                return
            answered[UUID(answer.headers["x-request-id"])] = answer.status_code
            if len(answered) == kill_after:
                gateway.kill()

        await asyncio.gather(*map(call, bodies))
    return answered


def journaled(data):
    """What the dead worker had opened and what it had closed, by its own journal."""
    entries = [entry for path in (data / "journal").glob("*.log") for entry in journal.read(path)]
    opened = {UUID(entry.request_id) for entry in entries if entry.kind == "s"}
    return opened, {UUID(entry.request_id) for entry in entries if entry.kind == "e"}


def expire_signs_of_life(store):
    for name in store.scan_iter(WORKER_KEY.format("*")):
        store.delete(name)


def final_statuses():
    """Request id to status; every call has exactly one final row and one log row."""
    rows = list(UsageEvent.objects.all())
    finals = Counter(row.request_id for row in rows if row.is_final)
    assert set(finals) == {row.request_id for row in rows}
    assert set(finals.values()) <= {1}
    assert {row.kind for row in rows} <= {"usage"}
    assert sorted(RequestLog.objects.values_list("request_id", flat=True)) == sorted(finals)
    return {row.request_id: row.status for row in rows if row.is_final}


def nothing_is_held(store, key):
    assert store.hlen(OPEN) == 0
    assert store.xlen(STREAM) == 0
    assert store.zcard(f"th:seats:k:{key.key.public_id}") == 0
    (name,) = store.scan_iter("th:budget:*")
    counter = {field: int(store.hget(name, field)) for field in ("spent", "rest", "held")}
    assert counter["held"] == 0
    booked = sum(row.price_pico for row in UsageEvent.objects.all())
    assert counter["spent"] * 1_000_000 + counter["rest"] == booked > 0


def warm_up(gateway, text):
    """One call, so that the budget's counter exists when the many come."""
    answer = httpx.post(
        f"{gateway.url}/v1/chat/completions",
        json=body("hi"),
        headers={"authorization": f"Bearer {text}"},
        timeout=60,
    )
    assert answer.status_code == 200


def test_a_killed_worker_leaves_nothing_unbooked_doubled_or_held(key, data, store):
    with running(data) as gateway:
        warm_up(gateway, key.text)
        answered = asyncio.run(
            drive(gateway, key.text, map(various, range(CALLS)), kill_after=ANSWERS_BEFORE_THE_END)
        )
    opened, closed = journaled(data)
    assert len(opened) > len(closed) >= ANSWERS_BEFORE_THE_END
    assert set(answered) <= opened
    expire_signs_of_life(store)
    reaper.close_abandoned()
    drain()

    statuses = final_statuses()
    assert set(statuses) == opened
    assert {request_id for request_id, status in statuses.items() if status == "unknown"} == opened - closed
    assert {answered[each] for each in answered if statuses[each] == "ok"} == {200}
    for row in UsageEvent.objects.filter(status="unknown"):
        assert row.cost_pico > 0
        assert row.price_pico == 0
    nothing_is_held(store, key)
    assert verify().ok

    assert (reaper.close_abandoned(), drain()) == (0, 0)
    assert final_statuses() == statuses


def test_the_work_goes_on_in_a_worker_that_takes_over(key, data, store):
    with running(data) as gateway:
        warm_up(gateway, key.text)
        asyncio.run(drive(gateway, key.text, map(various, range(40)), kill_after=10))
    opened, _ = journaled(data)
    with running(data) as gateway:
        expire_signs_of_life(store)
        reaper.close_abandoned()
        answered = asyncio.run(
            drive(gateway, key.text, (body(f"again {n}") for n in range(10)), kill_after=None)
        )
    assert sorted(answered.values()) == [200] * 10
    drain()
    assert set(final_statuses()) == opened | set(answered)
    assert reaper.close_abandoned() == 0
    nothing_is_held(store, key)
    assert verify().ok


def test_redis_that_forgot_the_open_calls_is_told_by_the_journal(key, data, store):
    with running(data) as gateway:
        warm_up(gateway, key.text)
        asyncio.run(drive(gateway, key.text, map(various, range(40)), kill_after=10))
    opened, closed = journaled(data)
    store.flushdb()
    reaper.close_abandoned()
    drain()
    statuses = final_statuses()
    assert set(statuses) == opened
    assert Counter(statuses.values())["unknown"] == len(opened - closed) > 0
    assert (store.hlen(OPEN), store.xlen(STREAM)) == (0, 0)
    assert verify().ok


def test_a_refused_call_is_never_booked_nor_gives_back_what_it_never_held(key, data, store):
    tenant = Tenant.objects.get(slug="acme")
    Budget.objects.filter(api_key=key.key).update(limit="0.000001")
    limited = keys.issue(tenant=tenant, name="limited", scopes=("*",), actor=SYSTEM, limit_rpm=1)
    with running(data) as gateway:
        refused = asyncio.run(drive(gateway, key.text, [body("hi")] * 5, kill_after=None))
        served = asyncio.run(drive(gateway, limited.text, [body("hi")] * 5, kill_after=5))
    assert set(refused.values()) == {402}
    assert Counter(served.values()) == {429: 4, 200: 1}
    expire_signs_of_life(store)
    reaper.close_abandoned()
    drain()
    (booked,) = final_statuses()
    assert served[booked] == 200
    (name,) = store.scan_iter("th:budget:*")
    assert int(store.hget(name, "held") or 0) == 0
    assert verify().ok


def test_a_call_closed_by_another_hosts_reaper_is_not_closed_again(
    key, data, store, tmp_path_factory, monkeypatch
):
    with running(data) as gateway:
        warm_up(gateway, key.text)
        asyncio.run(drive(gateway, key.text, map(various, range(40)), kill_after=10))
    opened, _ = journaled(data)
    expire_signs_of_life(store)
    monkeypatch.setattr(settings, "TOLLHOUSE_DATA", tmp_path_factory.mktemp("elsewhere"))
    reaper.close_abandoned()
    drain()
    statuses = final_statuses()
    monkeypatch.setattr(settings, "TOLLHOUSE_DATA", data)
    reaper.close_abandoned()
    drain()
    assert final_statuses() == statuses
    assert set(statuses) == opened
    nothing_is_held(store, key)
    assert verify().ok


def test_a_call_whose_end_lies_in_a_later_segment_is_closed_once(key, data, store):
    with running(data) as gateway:
        warm_up(gateway, key.text)
        asyncio.run(drive(gateway, key.text, map(various, range(40)), kill_after=10))
    opened, closed = journaled(data)
    (path,) = (data / "journal").glob("*.log")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(line for line in lines if line.startswith(b"s")))
    later = path.with_name(path.name.replace("-000001", "-000002"))
    later.write_bytes(b"".join(line for line in lines if line.startswith(b"e")))
    expire_signs_of_life(store)
    reaper.close_abandoned()
    drain()
    statuses = final_statuses()
    assert set(statuses) == opened
    assert {request_id for request_id, status in statuses.items() if status == "unknown"} == opened - closed
    nothing_is_held(store, key)
    assert verify().ok
