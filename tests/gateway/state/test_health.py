"""Real trackers that share one real Redis, and trackers that have none."""

import asyncio
import time
from uuid import UUID

import orjson
import pytest

from gateway.state.health import HealthTracker
from gateway.state.redis import RedisPipe
from routing.entries import FeatureEntry, RoutingSnapshot
from routing.health.breaker import Rules
from routing.types import Circuit, EndpointHealth, ErrorKind, ProviderError
from tests.routing.targets import snapshot, target

BROKEN = ProviderError(ErrorKind.OVERLOADED, "down", 503)
QUICK = Rules(first_open_s=0.05, jitter=0.0)
PRIMARY = target("primary", quota_key="c/m-1")


def answer(tracker, to=PRIMARY, *, times=1, first_byte_ms=100, latency_ms=1100, output_tokens=50):
    for _ in range(times):
        tracker.begin(to)
        tracker.succeeded(
            to,
            first_byte_ms=first_byte_ms,
            latency_ms=latency_ms,
            output_tokens=output_tokens,
            headers={},
        )


def fail(tracker, to=PRIMARY, *, times=1, error=BROKEN):
    for _ in range(times):
        tracker.begin(to)
        tracker.failed(to, error, waited_ms=20)


def seen(tracker, endpoint_id="primary"):
    return tracker.view.endpoints.get(endpoint_id, EndpointHealth())


class Workers:
    """Trackers with a connection each."""

    def __init__(self, url):
        self.url = url
        self.pipes = []

    async def one(self, **options):
        pipe = RedisPipe(self.url)
        await pipe.start()
        self.pipes.append(pipe)
        tracker = HealthTracker(f"w{len(self.pipes)}", **options)
        await tracker.beat(pipe)
        return tracker, lambda: tracker.beat(pipe)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        for pipe in self.pipes:
            await pipe.aclose()


def test_an_opening_is_seen_by_the_other_worker_at_its_next_beat(run, redis):
    async def main():
        async with Workers(redis.url) as workers:
            one, beat_one = await workers.one()
            other, beat_other = await workers.one()
            fail(one, times=5)
            assert seen(one).circuit is Circuit.OPEN  # at once, before any beat
            await beat_one()
            await beat_other()
            assert seen(other).circuit is Circuit.OPEN
            assert seen(other).open_until == pytest.approx(seen(one).open_until, abs=0.2)

    run(main())


def test_failures_in_a_row_are_counted_over_all_workers(run, redis):
    async def main():
        async with Workers(redis.url) as workers:
            one, beat_one = await workers.one()
            other, beat_other = await workers.one()
            fail(one, times=3)
            await beat_one()
            await beat_other()
            fail(other, times=1)
            assert other.circuits == {}
            fail(other, times=1)
            assert seen(other).circuit is Circuit.OPEN

    run(main())


def test_a_success_elsewhere_ends_a_row_of_failures(run, redis):
    async def main():
        async with Workers(redis.url) as workers:
            one, beat_one = await workers.one()
            other, beat_other = await workers.one()
            fail(one, times=4)
            await beat_one()
            answer(other, times=10)
            await beat_other()
            await beat_one()
            fail(one, times=4)
            assert one.circuits == {}

    run(main())


def test_a_share_of_failures_is_counted_over_all_workers(run, redis):
    async def main():
        async with Workers(redis.url) as workers:
            one, beat_one = await workers.one()
            other, beat_other = await workers.one()
            for _ in range(4):
                fail(one)
                answer(one)
            await beat_one()
            await beat_other()
            fail(other)
            assert other.circuits == {}
            fail(other)
            assert other.circuits["primary"].reason == "6 of 10 calls failed within 10 s"

    run(main())


def test_one_probe_goes_out_of_all_workers(run, redis):
    async def main():
        async with Workers(redis.url) as workers:
            pairs = [await workers.one(rules=QUICK) for _ in range(4)]
            fail(pairs[0][0], times=5)
            for _, beat in pairs:
                await beat()
            for tracker, _ in pairs:
                answer(tracker, target("other"))  # all are busy
            await asyncio.sleep(0.06)
            for _ in range(3):
                await asyncio.gather(*(beat() for _, beat in pairs))
            states = [seen(tracker) for tracker, _ in pairs]
            assert {state.circuit for state in states} == {Circuit.HALF_OPEN}
            assert [state.is_probe for state in states].count(True) == 1
            (holder,) = [tracker for tracker, _ in pairs if seen(tracker).is_probe]
            holder.begin(PRIMARY)
            for _ in range(2):
                await asyncio.gather(*(beat() for _, beat in pairs))
            assert not any(seen(tracker).is_probe for tracker, _ in pairs)
            holder.succeeded(PRIMARY, first_byte_ms=5, latency_ms=9, output_tokens=1, headers={})
            for _ in range(2):
                await asyncio.gather(*(beat() for _, beat in pairs))
            assert {seen(tracker).circuit for tracker, _ in pairs} == {Circuit.CLOSED}

    run(main())


def test_a_permit_used_while_a_beat_is_under_way_is_not_granted_again(run, redis):
    async def main():
        async with Workers(redis.url) as workers:
            one, beat = await workers.one(rules=QUICK)
            fail(one, times=5)
            await beat()
            await asyncio.sleep(0.06)
            await beat()
            assert seen(one).is_probe
            under_way = asyncio.ensure_future(beat())
            await asyncio.sleep(0)
            one.begin(PRIMARY)
            await under_way
            assert not seen(one).is_probe
            await beat()
            assert not seen(one).is_probe

    run(main())


def test_a_failed_probe_opens_it_again_for_all(run, redis):
    async def main():
        async with Workers(redis.url) as workers:
            one, beat_one = await workers.one(rules=QUICK)
            other, beat_other = await workers.one(rules=QUICK)
            fail(one, times=5)
            await beat_one()
            await asyncio.sleep(0.06)
            await beat_one()
            fail(one)
            assert one.circuits["primary"].generation == 2
            await beat_one()
            await beat_other()
            assert other.circuits["primary"] == one.circuits["primary"]

    run(main())


@pytest.mark.parametrize("kind", [ErrorKind.CONTEXT_LENGTH, ErrorKind.RATE_LIMITED, ErrorKind.CREDENTIAL])
def test_a_probe_without_a_verdict_gives_the_permit_back(run, redis, kind):
    async def main():
        async with Workers(redis.url) as workers:
            one, beat = await workers.one(rules=QUICK)
            fail(one, times=5)
            await beat()
            await asyncio.sleep(0.06)
            await beat()
            fail(one, error=ProviderError(kind, "no"))
            await beat()
            await beat()
            assert (seen(one).circuit, seen(one).is_probe) == (Circuit.HALF_OPEN, True)

    run(main())


def test_a_client_that_leaves_gives_the_permit_back(run, redis):
    async def main():
        async with Workers(redis.url) as workers:
            one, beat = await workers.one(rules=QUICK)
            fail(one, times=5)
            await beat()
            await asyncio.sleep(0.06)
            await beat()
            one.begin(PRIMARY)
            one.abandoned(PRIMARY)
            await beat()
            await beat()
            assert seen(one).is_probe

    run(main())


def test_without_redis_a_worker_opens_and_probes_alone(run):
    async def main():
        pipe = RedisPipe("unix:///nowhere/redis.sock")
        tracker = HealthTracker("alone", rules=QUICK)
        await tracker.beat(pipe)
        fail(tracker, times=5)
        assert seen(tracker).circuit is Circuit.OPEN
        await asyncio.sleep(0.06)
        await tracker.beat(pipe)
        assert (seen(tracker).circuit, seen(tracker).is_probe) == (Circuit.HALF_OPEN, True)
        answer(tracker)
        await tracker.beat(pipe)
        assert tracker.circuits["primary"].is_open is False

    run(main())


def test_what_happened_without_redis_is_told_when_it_is_back(run, redis):
    async def main():
        async with Workers(redis.url) as workers:
            one, beat_one = await workers.one()
            redis.kill()
            fail(one, times=5)
            answer(one, target("other"), times=3)
            await beat_one()
            redis.start()
            while not workers.pipes[0].is_connected:  # noqa: ASYNC110 - the pipe has no event for it
                await asyncio.sleep(0.01)
            await beat_one()
            newcomer, _ = await workers.one()
            assert seen(newcomer).circuit is Circuit.OPEN
            assert seen(newcomer, "other").samples == 3

    run(main())


def test_an_open_breaker_survives_a_redis_that_forgot_it(run, redis):
    async def main():
        async with Workers(redis.url) as workers:
            one, beat_one = await workers.one()
            fail(one, times=5)
            await beat_one()
            await workers.pipes[0].call("FLUSHALL")
            await beat_one()
            await beat_one()
            newcomer, _ = await workers.one()
            assert newcomer.circuits == one.circuits

    run(main())


def test_a_beat_whose_answer_was_lost_does_not_count_twice(run, redis):
    async def main():
        async with Workers(redis.url) as workers:
            one, beat_one = await workers.one()
            answer(one, times=3)
            lost = one.outgoing()
            await workers.pipes[0].script(one._script, (), lost)
            one.alone()
            answer(one, times=2)
            await beat_one()  # the lost beat once more
            await beat_one()  # what came after it
            newcomer, _ = await workers.one()
            assert seen(newcomer).samples == 5

    run(main())


def test_a_new_worker_starts_from_what_the_others_know(run, redis):
    async def main():
        async with Workers(redis.url) as workers:
            one, beat_one = await workers.one()
            answer(one, times=60, first_byte_ms=200, latency_ms=1200, output_tokens=50)
            fail(one, times=3)
            answer(one, times=37, first_byte_ms=200, latency_ms=1200, output_tokens=50)
            await beat_one()
            newcomer, _ = await workers.one()
            state = seen(newcomer)
            assert (state.samples, state.success) == (100, 0.97)
            assert state.first_byte_p50_ms == pytest.approx(200, rel=0.15)
            assert state.latency_p95_ms == pytest.approx(1200, rel=0.15)
            assert state.output_tokens_per_s == pytest.approx(50.0)

    run(main())


def test_a_rate_limit_pauses_the_quota_and_breaks_nothing(run, redis):
    async def main():
        async with Workers(redis.url) as workers:
            one, beat_one = await workers.one()
            other, beat_other = await workers.one()
            limited = ProviderError(ErrorKind.RATE_LIMITED, "slow down", 429, retry_after_s=30)
            fail(one, times=20, error=limited)
            await beat_one()
            await beat_other()
            assert other.view.pauses["c/m-1"] == pytest.approx(time.time() + 30, abs=2)
            assert other.circuits == {}
            assert other.marks == {}

    run(main())


def test_a_refused_credential_rests_is_named_and_is_lifted_by_an_answer(run, redis):
    async def main():
        async with Workers(redis.url) as workers:
            one, beat_one = await workers.one()
            other, beat_other = await workers.one()
            fail(one, times=10, error=ProviderError(ErrorKind.CREDENTIAL, "bad key", 401))
            await beat_one()
            await beat_other()
            mark = other.marks["c/m-1"]
            assert (mark.provider, mark.credential_id, mark.status, mark.count) == ("acme", "c", 401, 1)
            assert other.view.pauses["c/m-1"] == pytest.approx(time.time() + 60, abs=2)
            answer(other)
            await beat_other()
            await beat_one()
            assert (one.marks, dict(one.view.pauses), one.circuits) == ({}, {}, {})

    run(main())


def test_a_tenants_own_address_closes_nothing_to_others(run, redis):
    async def main():
        async with Workers(redis.url) as workers:
            one, _ = await workers.one()
            one.configure(snapshot([PRIMARY]))
            own = target("primary", is_own=True, base_url="https://dead.tenant.test", quota_key="own/m-1")
            fail(one, own, times=20)
            assert one.circuits == {}
            fail(one, target("primary", is_own=True, quota_key="own/m-1"), times=5)
            assert seen(one).circuit is Circuit.OPEN

    run(main())


def test_a_features_burn_rate_is_everybodys(run, redis):
    feature = FeatureEntry("chat", UUID(int=7), None, 1000, 0.9, None)
    routing = RoutingSnapshot(1, {}, {}, {}, features={(feature.tenant_id, "chat"): feature})

    async def main():
        async with Workers(redis.url) as workers:
            one, beat_one = await workers.one()
            one.configure(routing)
            for number in range(20):
                one.served(feature.key, ok=number >= 4, latency_ms=100, cost_pico=5)
            one.served("unknown/feature", ok=False, latency_ms=1, cost_pico=0)
            await beat_one()
            pipe = RedisPipe(redis.url)
            await pipe.start()
            workers.pipes.append(pipe)
            newcomer = HealthTracker("newcomer")
            newcomer.configure(routing)
            await newcomer.beat(pipe)
            assert newcomer.view.burn == {feature.key: pytest.approx(0.2 / 0.1)}

    run(main())


def test_an_idle_worker_gives_its_permit_to_a_busy_one(run, redis):
    async def main():
        async with Workers(redis.url) as workers:
            pipe = RedisPipe(redis.url)
            await pipe.start()
            workers.pipes.append(pipe)
            now = [time.time()]
            idle = HealthTracker("idle", rules=QUICK)
            idle._clock = lambda: now[0]
            busy, beat_busy = await workers.one(rules=QUICK)
            fail(busy, times=5)
            await beat_busy()
            await idle.beat(pipe)
            await asyncio.sleep(0.06)
            await idle.beat(pipe)
            assert not seen(idle).is_probe  # the busy ones have a head start
            await beat_busy()
            assert seen(busy).is_probe

    run(main())


def test_a_newer_workers_words_are_read_as_far_as_they_are_known(run, redis):
    async def main():
        async with Workers(redis.url) as workers:
            one, beat_one = await workers.one()
            fail(one, times=5)
            await beat_one()
            pipe = workers.pipes[0]
            told = orjson.loads(await pipe.call("HGET", "th:health:circuits", "primary"))
            text = orjson.dumps({**told, "severity": "high"})
            await pipe.call("HSET", "th:health:circuits", "primary", text)
            newcomer, _ = await workers.one()
            assert newcomer.circuits == one.circuits

    run(main())


def test_transitions_are_left_for_the_history(run, redis):
    async def main():
        async with Workers(redis.url) as workers:
            one, beat_one = await workers.one(rules=QUICK)
            fail(one, times=5)
            await beat_one()
            await asyncio.sleep(0.06)
            await beat_one()
            answer(one)
            await beat_one()
            events = await workers.pipes[0].call("XRANGE", "th:health:events", "-", "+")
            told = [orjson.loads(fields[3]) for _, fields in events]
            assert [(each["is_open"], each["generation"]) for each in told] == [(True, 1), (False, 2)]

    run(main())
