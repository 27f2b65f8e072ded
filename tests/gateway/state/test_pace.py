"""Slots of a provider's rate limit against a real Redis: shared by all workers, in a fair order, never lost."""

import asyncio
import json
import math
from contextlib import asynccontextmanager

import pytest
import redis as redis_client

from gateway.state.pace import (
    MAX_WAITING,
    Level,
    Pace,
    Priority,
    Saturated,
    Slot,
)
from gateway.state.redis import RedisPipe
from routing.types import ProviderKind
from tests.routing.targets import target

OPEN = target("e", kind=ProviderKind.OPENAI, quota_key="c/m")
LIMITED = target("e", kind=ProviderKind.OPENAI, quota_key="c/m", limit_rpm=10)
BY_TOKENS = target("e", kind=ProviderKind.OPENAI, quota_key="c/m", limit_tpm=1_000)
RING = "return cjson.encode(cmsgpack.unpack(redis.call('GET', KEYS[1])))"


@asynccontextmanager
async def workers(redis, count=1):
    pipes = [RedisPipe(redis.url) for _ in range(count)]
    for pipe in pipes:
        await pipe.start()
    paces = [Pace(pipe, f"w{number}") for number, pipe in enumerate(pipes)]
    try:
        yield paces
    finally:
        for pace, pipe in zip(paces, pipes, strict=True):
            pace.close()
            await pipe.aclose()


def headers(limit, remaining, *, what="requests"):
    return {f"x-ratelimit-limit-{what}": str(limit), f"x-ratelimit-remaining-{what}": str(remaining)}


def counted(redis, meter="requests"):
    """What the shared state counts on a meter."""
    with redis_client.Redis(unix_socket_path=redis.socket_path) as client:
        state = json.loads(client.eval(RING, 1, "th:pace:c/m"))
    ring = state["m"][meter]["b"]
    return sum(ring.values() if isinstance(ring, dict) else ring)


async def until(condition):
    """Corrections leave a moment later."""
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError


async def taken(pace, wanted=OPEN, *, at_most=100, **kwargs):
    """How many calls get a slot without waiting, and when the next one would."""
    for count in range(at_most):
        try:
            await pace.take(wanted, **{"tokens": 10, "wait_s": 0.0} | kwargs)
        except Saturated as full:
            return count, full.retry_after_s
    return at_most, 0.0


def test_a_quota_without_a_known_limit_is_not_governed(run, redis):
    async def scenario():
        async with workers(redis) as (pace,):
            assert not pace.governs(OPEN)
            pace.learn(OPEN, 200, {"content-type": "application/json"})
            assert not pace.governs(OPEN)
            pace.learn(OPEN, 200, headers(10, 9))
            assert pace.governs(OPEN)
            assert not pace.governs(target("e", quota_key="c/other"))

    run(scenario())


def test_a_target_without_a_quota_learns_nothing(run, redis):
    async def scenario():
        async with workers(redis) as (pace,):
            pace.learn(target("e", kind=ProviderKind.OPENAI), 429, headers(10, 0))
            assert not pace.governs(target("e", kind=ProviderKind.OPENAI))

    run(scenario())


def test_half_of_a_limit_is_there_at_once_and_the_rest_is_spread_over_the_window(run, redis):
    async def scenario():
        async with workers(redis) as (pace,):
            assert pace.governs(LIMITED)
            count, retry_after_s = await taken(pace, LIMITED)
            assert count in (5, 6)  # the first of the spread ones may be due at once
            assert 1 < retry_after_s < 60

    run(scenario())


def test_workers_share_one_limit(run, redis):
    async def scenario():
        async with workers(redis, 4) as paces:
            counts = [(await taken(pace, LIMITED))[0] for pace in paces]
            assert sum(counts) in (5, 6)
            assert counts[1:] == [0, 0, 0]

    run(scenario())


def test_what_the_provider_tells_wins_over_what_is_configured(run, redis):
    async def scenario():
        async with workers(redis) as (pace,):
            pace.learn(LIMITED, 200, headers(100, 100))
            count, _ = await taken(pace, LIMITED)
            assert 50 <= count <= 52

    run(scenario())


def test_what_another_client_of_the_account_uses_is_not_ours(run, redis):
    async def scenario():
        async with workers(redis) as (pace,):
            pace.learn(OPEN, 200, headers(100, 70))
            count, _ = await taken(pace)
            assert 20 <= count <= 22
            pace.learn(OPEN, 200, headers(100, 0))

    run(scenario())


def test_an_old_count_of_what_remains_is_not_heeded(run, redis):
    async def scenario():
        async with workers(redis) as (pace,):
            pace.learn(OPEN, 200, headers(100, 0), waited_ms=30_000)
            count, _ = await taken(pace)
            assert 50 <= count <= 52

    run(scenario())


def test_a_daily_quota_is_not_spread_over_the_day(run, redis):
    async def scenario():
        async with workers(redis) as (pace,):
            daily = headers(200, 10) | {"x-ratelimit-reset-requests": "22h10m0s"}
            pace.learn(OPEN, 200, daily)
            assert not pace.governs(OPEN)

    run(scenario())


def test_other_workers_hear_of_a_limit(run, redis):
    async def scenario():
        async with workers(redis, 2) as (first, second):
            first.learn(OPEN, 200, headers(10, 10))
            await taken(first, at_most=1)
            await second.refresh()
            assert second.governs(OPEN)
            assert first.workers == 1
            await first.refresh()
            assert first.workers == 2

    run(scenario())


def test_a_429_pauses_all_workers_and_is_forgotten_when_no_limit_is_known(run, redis):
    async def scenario():
        async with workers(redis, 2) as (first, second):
            first.learn(OPEN, 429, {"retry-after-ms": "800"})
            assert first.governs(OPEN)
            with pytest.raises(Saturated) as refused:
                await first.take(OPEN, tokens=1, wait_s=0.1)
            assert 0.1 < refused.value.retry_after_s < 0.81
            await until(lambda: _known(redis))
            await second.refresh()
            with pytest.raises(Saturated):
                await second.take(OPEN, tokens=1, wait_s=0.1)
            await second.take(OPEN, tokens=1, wait_s=5.0)  # waits the pause out
            await asyncio.sleep(0.8)
            for pace in (first, second):
                await pace.refresh()
                assert not pace.governs(OPEN)

    run(scenario())


def _known(redis):
    with redis_client.Redis(unix_socket_path=redis.socket_path) as client:
        return client.hexists("th:pace:known", "c/m")


def test_a_pause_may_stand_in_the_body_or_be_left_to_us(run, redis):
    async def scenario():
        async with workers(redis) as (pace,):
            pace.learn(OPEN, 429, {}, retry_after_s=30.0)
            with pytest.raises(Saturated) as refused:
                await pace.take(OPEN, tokens=1, wait_s=1.0)
            assert 29 < refused.value.retry_after_s <= 30
            other = target("e", quota_key="c/other")
            pace.learn(other, 429, {})
            with pytest.raises(Saturated) as refused:
                await pace.take(other, tokens=1, wait_s=0.0)
            assert 0 < refused.value.retry_after_s <= 1

    run(scenario())


def test_tokens_are_counted_beside_requests_and_put_right_afterwards(run, redis):
    async def scenario():
        async with workers(redis) as (pace,):
            slot = await pace.take(BY_TOKENS, tokens=500, wait_s=0.0)
            assert (await taken(pace, BY_TOKENS, tokens=400))[0] <= 1
            before = counted(redis, "tokens")
            pace.settle(slot, tokens=20)
            await until(lambda: counted(redis, "tokens") == before - 480)
            pace.settle(slot, tokens=30)  # what was last said counts
            await until(lambda: counted(redis, "tokens") == before - 470)

    run(scenario())


def test_a_call_larger_than_the_whole_limit_may_go_when_the_window_is_empty(run, redis):
    async def scenario():
        async with workers(redis) as (pace,):
            await pace.take(BY_TOKENS, tokens=5_000, wait_s=0.0)
            assert counted(redis, "tokens") == 1_000
            with pytest.raises(Saturated):
                await pace.take(BY_TOKENS, tokens=1, wait_s=0.0)

    run(scenario())


def test_input_and_output_tokens_have_limits_of_their_own(run, redis):
    async def scenario():
        async with workers(redis) as (pace,):
            told = {
                "anthropic-ratelimit-requests-limit": "1000",
                "anthropic-ratelimit-input-tokens-limit": "10000",
                "anthropic-ratelimit-output-tokens-limit": "1000",
            }
            wanted = target("e", kind=ProviderKind.ANTHROPIC, quota_key="c/m")
            pace.learn(wanted, 200, told)
            slot = await pace.take(wanted, tokens=700, output_tokens=200, wait_s=0.0)
            assert slot.amounts == {"requests": 1, "input_tokens": 500, "output_tokens": 200}
            count, _ = await taken(pace, wanted, tokens=700, output_tokens=200)
            assert count in (1, 2)  # output is what runs short

    run(scenario())


def test_what_was_never_sent_is_given_back(run, redis):
    async def scenario():
        async with workers(redis) as (pace,):
            slots = [await pace.take(LIMITED, tokens=1, wait_s=0.0) for _ in range(5)]
            assert counted(redis) == 5
            for slot in slots:
                pace.give_back(slot)
                pace.give_back(slot)  # twice is once
            await until(lambda: counted(redis) == 0)

    run(scenario())


def test_who_waits_gets_the_slot_when_it_comes(run, redis):
    async def scenario():
        async with workers(redis) as (pace,):
            busy = target("e", quota_key="c/m", limit_rpm=600)
            await taken(pace, busy, at_most=400)
            slots = await asyncio.gather(*(pace.take(busy, tokens=1, wait_s=5.0) for _ in range(5)))
            assert len({slot.stamp_ms for slot in slots}) == 5

    run(scenario())


def _order(run, redis, arrivals):
    """In which order calls of these priorities get the next slots, all waiting at once."""

    async def scenario():
        async with workers(redis) as (pace,):
            busy = target("e", quota_key="c/m", limit_rpm=3_000)
            await taken(pace, busy, at_most=2_000)
            served = []

            async def call(priority):
                await pace.take(busy, tokens=1, wait_s=30.0, priority=priority)
                served.append(priority)

            await asyncio.gather(*(call(priority) for priority in arrivals))
            return served

    return run(scenario())


def test_levels_go_one_after_the_other(run, redis):
    arrivals = [Priority(level) for level in reversed(Level) for _ in range(3)]
    assert [each.level for each in _order(run, redis, arrivals)] == [
        level for level in Level for _ in range(3)
    ]


def test_tenants_of_a_level_share_by_weight_however_many_calls_each_has_waiting(run, redis):
    heavy, light = Priority(tenant="heavy", weight=30), Priority(tenant="light", weight=10)
    first = _order(run, redis, [*[light] * 20, *[heavy] * 12])[:16]
    assert [first.count(heavy), first.count(light)] == [12, 4]


def test_refused_calls_take_nothing_from_their_tenants_share(run, redis):
    async def scenario():
        async with workers(redis) as (pace,):
            busy = target("e", quota_key="c/m", limit_rpm=3_000)
            flooding, modest = Priority(tenant="flooding"), Priority(tenant="modest")
            await taken(pace, busy, at_most=2_000)
            served = []

            async def call(priority):
                await pace.take(busy, tokens=1, wait_s=30.0, priority=priority)
                served.append(priority)

            calls = [asyncio.ensure_future(call(Priority(Level.SHADOW)))]  # somebody waits all the time
            await asyncio.sleep(0)
            for _ in range(50):
                with pytest.raises(Saturated):
                    await pace.take(busy, tokens=1, wait_s=0.0, priority=flooding)
            calls += [asyncio.ensure_future(call(flooding)) for _ in range(8)]
            calls += [asyncio.ensure_future(call(modest)) for _ in range(8)]
            await asyncio.gather(*calls)
            served.remove(Priority(Level.SHADOW))
            assert [served[:8].count(flooding), served[:8].count(modest)] == [4, 4]

    run(scenario())


def test_the_next_slot_is_no_longer_far_off_when_a_call_took_less_than_estimated(run, redis):
    async def scenario():
        async with workers(redis) as (pace,):
            slots = [await pace.take(BY_TOKENS, tokens=250, wait_s=0.0) for _ in range(3)]
            with pytest.raises(Saturated) as refused:
                await pace.take(BY_TOKENS, tokens=250, wait_s=0.0)
            assert refused.value.retry_after_s > 10
            pace.settle(slots[2], tokens=1)
            pace.settle(slots[1], tokens=200)
            await until(lambda: counted(redis, "tokens") == 451)
            await asyncio.sleep(0.1)
            slot = await pace.take(BY_TOKENS, tokens=60, wait_s=3.0)  # beyond the half, and soon
            assert slot.amounts == {"tokens": 60}

    run(scenario())


def test_a_call_that_stops_waiting_leaves_its_slot_to_others(run, redis):
    async def scenario():
        async with workers(redis) as (pace,):
            busy = target("e", quota_key="c/m", limit_rpm=120)
            free, _ = await taken(pace, busy, at_most=400)
            waiting = [asyncio.ensure_future(pace.take(busy, tokens=1, wait_s=5.0)) for _ in range(3)]
            await until(lambda: counted(redis) == free + 3)
            for each in waiting:
                each.cancel()
            assert [
                isinstance(each, asyncio.CancelledError)
                for each in await asyncio.gather(*waiting, return_exceptions=True)
            ] == [True] * 3
            await until(lambda: counted(redis) == free)

    run(scenario())


def test_the_queue_is_bounded(run, redis):
    async def scenario():
        async with workers(redis) as (pace,):
            redis.freeze()
            waiting = [
                asyncio.ensure_future(pace.take(LIMITED, tokens=1, wait_s=60.0)) for _ in range(MAX_WAITING)
            ]
            await asyncio.sleep(0)
            try:
                with pytest.raises(Saturated):
                    await pace.take(LIMITED, tokens=1, wait_s=60.0)
            finally:
                redis.thaw()
                for each in waiting:
                    each.cancel()
                await asyncio.gather(*waiting, return_exceptions=True)

    run(scenario())


def test_without_redis_each_worker_paces_alone_at_its_share(run, redis):
    async def scenario():
        async with workers(redis, 2) as paces:
            for pace in paces:
                await pace.refresh()
            await paces[0].refresh()
            redis.kill()
            outcomes = [await taken(pace, LIMITED) for pace in paces]
            assert [count for count, _ in outcomes] == [1, 1]
            # ten a minute, two workers: each may send every twelve seconds
            assert all(math.isclose(retry_after_s, 12, abs_tol=0.5) for _, retry_after_s in outcomes)

    run(scenario())


def test_a_redis_that_lost_its_memory_counts_anew(run, redis):
    async def scenario():
        async with workers(redis) as (pace,):
            slot = await pace.take(LIMITED, tokens=1, wait_s=0.0)
            with redis_client.Redis(unix_socket_path=redis.socket_path) as client:
                client.flushall()
                client.script_flush()
            pace.settle(slot, tokens=99)
            pace.give_back(slot)
            await pace.take(LIMITED, tokens=1, wait_s=0.0)
            assert counted(redis) == 1

    run(scenario())


def test_slots_lent_ahead_go_back_when_nobody_calls_any_more(run, redis):
    async def scenario():
        async with workers(redis) as (pace,):
            fast = target("e", quota_key="c/m", limit_rpm=60_000)
            sent = 0
            while not pace.lent(fast):
                await pace.take(fast, tokens=1, wait_s=1.0)
                await asyncio.sleep(0.001)
                sent += 1
            assert counted(redis) == sent + pace.lent(fast)
            await pace.take(fast, tokens=1, wait_s=0.0)  # without a trip to Redis
            assert counted(redis) == sent + 1 + pace.lent(fast)
            await until(lambda: counted(redis) == sent + 1)

    run(scenario())


def test_closing_turns_away_who_still_waits(run, redis):
    async def scenario():
        async with workers(redis) as (pace,):
            await taken(pace, LIMITED)
            waiting = asyncio.ensure_future(pace.take(LIMITED, tokens=1, wait_s=60.0))
            await asyncio.sleep(0.05)
            pace.close()
            with pytest.raises(Saturated):
                await waiting
            pace.give_back(Slot("c/m", 1, {"requests": 1}))  # of a call that ends later: nothing to do

    run(scenario())


def test_whoever_loses_a_slot_to_somebody_more_urgent_gets_another_one(run, redis):
    async def scenario():
        async with workers(redis) as (pace,):
            busy = target("e", quota_key="c/m", limit_rpm=600)
            free, _ = await taken(pace, busy, at_most=2_000)
            first = [
                asyncio.ensure_future(pace.take(busy, tokens=1, wait_s=20.0, priority=Priority(Level.BATCH)))
                for _ in range(3)
            ]
            await until(lambda: counted(redis) >= free + 3)
            redis.freeze()
            urgent = []
            for _ in range(3):  # the first of these is being asked for, the others are not yet
                urgent.append(asyncio.ensure_future(pace.take(busy, tokens=1, wait_s=20.0)))
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.5)
            assert any(each.done() for each in urgent[1:])
            redis.thaw()
            slots = await asyncio.gather(*first, *urgent)
            assert len(slots) == 6

    run(scenario())
