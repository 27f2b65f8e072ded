import asyncio

from gateway.state.shadows import MAX_IN_FLIGHT, Shadows


def take(shadows, policy="p", per_minute=100, *, now=0.0, calls=0):
    return shadows.take(policy, per_minute, now=now, calls=calls, max_calls=10)


def test_a_policy_has_so_many_a_minute_and_each_its_own():
    shadows = Shadows()
    assert [take(shadows, per_minute=2) for _ in range(3)] == [True, True, False]
    assert take(shadows, "other", 2)
    assert take(shadows, per_minute=2, now=60.0)
    assert shadows.dropped == {"per_minute": 1}


def test_a_worker_with_half_its_calls_under_way_begins_none():
    shadows = Shadows()
    assert take(shadows, calls=4)
    assert not take(shadows, calls=5)
    assert shadows.dropped == {"busy": 1}


def test_so_many_at_once_and_no_more():
    async def scenario():
        shadows = Shadows()
        for _ in range(MAX_IN_FLIGHT):
            assert take(shadows)
            shadows.start(asyncio.sleep(60))
        assert not take(shadows)
        assert (shadows.in_flight, shadows.dropped) == (MAX_IN_FLIGHT, {"in_flight": 1})
        await shadows.stop()
        assert shadows.in_flight == 0

    asyncio.run(scenario())


def test_a_stop_lets_each_close_its_record():
    async def scenario():
        shadows, closed = Shadows(), []

        async def work():
            try:
                await asyncio.sleep(60)
            finally:
                closed.append(1)

        task = shadows.start(work())
        await asyncio.sleep(0)
        await shadows.stop()
        assert closed == [1]
        assert task.cancelled()

    asyncio.run(scenario())
