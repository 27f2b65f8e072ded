"""What is let go rather than waited for: the bounds of the keeper, against a real Redis and database."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis
from django.conf import settings
from django.db import connections

from gateway.content import keep, store
from gateway.content.keep import HELD, LOST, STREAM, Keeper
from gateway.content.models import StoredContent
from gateway.pipeline.call import Kept
from gateway.state.redis import RedisPipe
from tenants.ids import uuid7
from tenants.snapshot import TenantEntry, load
from tests.gateway import plane as planes
from tests.gateway.content.world import keeping

db, demo = planes.db, planes.demo


@dataclass(slots=True)
class Said:
    """What the keeper reads of a call."""

    text: str = "hello"
    id: Any = field(default_factory=uuid7)
    kind: str = "usage"
    end_user: str = "ann"
    is_stream: bool = False
    sample: Any = None
    kept: Kept | None = None

    def __post_init__(self):
        self.kept = Kept(1_000)
        self.kept.add((self.text.encode(),))

    @property
    def body(self):
        return {"q": self.text}

    @property
    def input_bytes(self):
        return len(self.text)

    @property
    def occurred_at(self):
        return (self.id.int >> 80) / 1000


@dataclass(slots=True)
class Of:
    tenant: TenantEntry


@pytest.fixture
def caller(demo):
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        client.delete(STREAM, HELD)
    tenant = keeping(f"keeper-{uuid7().hex[-12:]}", content_days=1)
    return Of(load().tenants[tenant.id])


async def in_database(function, *args):
    """In a thread that leaves no connection behind."""

    def run():
        try:
            return function(*args)
        finally:
            connections.close_all()

    return await asyncio.to_thread(run)


def kept(calls, caller, *, url=None, **changed):
    """Let a keeper take the calls; what it counted."""
    counters: Counter[str] = Counter()

    async def run():
        pipe = RedisPipe(url or settings.REDIS_URL)
        if url is None:
            await pipe.start()
        keeper = Keeper(pipe, in_database, lambda: counters)
        for name, value in changed.items():
            setattr(keeper, name, value)
        for call in calls:
            keeper.keep(call, caller)
        await keeper.stop()
        await pipe.aclose()

    asyncio.run(run())
    return counters[LOST]


def test_what_is_kept_can_be_stored(caller):
    call = Said()
    assert kept([call], caller) == 0
    assert call.kept is None
    assert store.drain(budget_s=1, block_ms=50) == 1
    assert StoredContent.objects.get(request_id=call.id).tenant_id == caller.tenant.id


def test_a_call_without_content_to_keep_leaves_nothing(caller):
    call = Said()
    call.kept = None
    assert kept([call], caller) == 0
    assert store.drain(budget_s=1, block_ms=50) == 0


def test_a_full_stream_lets_content_go_and_says_how_many(caller):
    assert kept([Said(), Said(), Said()], caller, _most_held=0) == 3
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        assert (client.exists(STREAM), client.exists(HELD)) == (0, 0)


def test_too_much_in_the_process_is_let_go_at_once(caller, monkeypatch):
    monkeypatch.setattr(keep, "MAX_WAITING_BYTES", 25)
    calls = [Said() for _ in range(3)]  # ten bytes each, both ways
    assert kept(calls, caller) == 1
    assert store.drain(budget_s=1, block_ms=50) == 2


def test_a_redis_that_is_away_costs_content_alone(caller):
    assert kept([Said(), Said()], caller, url="redis://127.0.0.1:1/0") == 2


def test_a_long_answer_is_held_only_as_far_as_it_is_kept(caller):
    piece = Kept(10)
    piece.add(b"x" * 8 for _ in range(100))
    assert (len(piece.pieces), piece.size_bytes) == (2, 800)
