"""The two scripts against a real Redis: all or nothing, exact, and each call closed once."""

import asyncio
import uuid
from types import SimpleNamespace

import pytest
import redis
from django.conf import settings

from billing.budgets.count import AttemptAmounts
from billing.budgets.evaluate import rolling_window
from billing.snapshot import BudgetEntry, Window
from gateway.state.limits import (
    EPOCH,
    OPEN,
    STREAM,
    BudgetHold,
    BudgetUnseeded,
    Claim,
    EpochChanged,
    Limits,
    SeatLimit,
    Spent,
    Throttled,
    WindowLimit,
    limits_of,
)
from gateway.state.redis import RedisPipe
from tenants.errors import ApiError

WINDOW = Window(0.0, None, "total")
LIMITS = {"limit_rpm": 3, "limit_tpm": None, "max_concurrent": None}


def entry(**changes):
    fields = {
        "id": uuid.UUID(int=1),
        "tenant_id": uuid.UUID(int=2),
        "name": "cap",
        "api_key_id": None,
        "feature": "",
        "model": "",
        "end_user": "",
        "measure": "price",
        "limit": 100,
        "mode": "hard",
        "window": "total",
        "timezone": "UTC",
        "anchor_day": 1,
        "week_start": 0,
    }
    return BudgetEntry(**fields | changes)


def claim(*, hold=40, budget=None, rpm=1000, seats=1000, tokens=10):
    held = BudgetHold("th:budget:test", budget or entry(), WINDOW, hold)
    return Claim(
        (WindowLimit("th:rpm:test", rpm, "requests"), WindowLimit("th:tpm:test", 1000, "tokens")),
        (SeatLimit("th:seats:test", seats),),
        (held,),
        tokens,
        60_000,
    )


@pytest.fixture
def store():
    with redis.Redis.from_url(settings.REDIS_URL, decode_responses=True) as client:
        client.flushdb()
        client.set(EPOCH, "e1")
        client.hset("th:budget:test", mapping={"spent": 0, "rest": 0, "held": 0, "epoch": "e1"})
        yield client
        client.flushdb()


def played(play):
    """Run `play(limits)` on a pipe of its own."""

    async def main():
        pipe = RedisPipe(settings.REDIS_URL)
        await pipe.start()
        limits = Limits(pipe)
        limits.epoch = "e1"
        try:
            return await play(limits)
        finally:
            await pipe.aclose()

    return asyncio.run(main())


def counter(store):
    found = store.hgetall("th:budget:test")
    return {name: int(value) for name, value in found.items() if name != "epoch"}


def spent(tokens=0, price_pico=0, cost_pico=0, model="m", provider="p", **changes):
    """What one successful attempt took."""
    attempt = AttemptAmounts(model, provider, False, True, False, tokens, price_pico, "USD", cost_pico, "USD")
    return Spent(tokens, [attempt._replace(**changes)])


def test_a_settled_call_leaves_its_price_to_the_last_pico(store):
    async def play(limits):
        for number, pico in enumerate((1_500_001, 2_499_999, 1)):
            admission = await limits.admit(f"r{number}", b"{}", claim())
            await limits.send(limits.settle(f"r{number}", b"x", admission, spent(25, pico)))

    played(play)
    assert counter(store) == {"spent": 4, "rest": 1, "held": 0}
    assert (store.hlen(OPEN), store.zcard("th:seats:test"), store.xlen(STREAM)) == (0, 0, 3)
    assert int(store.hget("th:tpm:test", "s")) == 75


def test_what_does_not_fit_is_refused_and_takes_nothing(store):
    async def play(limits):
        await limits.admit("a", b"{}", claim(hold=70))
        with pytest.raises(ApiError) as refused:
            await limits.admit("b", b"{}", claim(hold=31))
        return refused.value.code

    assert played(play) == "budget_exceeded"
    assert counter(store)["held"] == 70
    assert (store.hkeys(OPEN), store.zcard("th:seats:test"), store.hget("th:rpm:test", "s")) == (
        ["a"],
        1,
        "1",
    )


@pytest.mark.parametrize(
    ("changes", "code"), [({"rpm": 0}, "rate_limit_exceeded"), ({"seats": 0}, "concurrency_exceeded")]
)
def test_each_limit_names_itself(store, changes, code):
    async def play(limits):
        with pytest.raises(ApiError) as refused:
            await limits.admit("a", b"{}", claim(**changes))
        return refused.value.code, refused.value.retry_after_s > 0

    assert played(play) == (code, True)
    assert store.hlen(OPEN) == 0


def test_no_concurrency_overspends(store):
    async def play(limits):
        answers = await asyncio.gather(
            *(limits.admit(f"r{n}", b"{}", claim(hold=5)) for n in range(200)), return_exceptions=True
        )
        return sum(not isinstance(answer, Exception) for answer in answers)

    assert played(play) == 20
    assert counter(store)["held"] == 100


def test_a_second_settlement_changes_no_counter(store):
    async def play(limits):
        admission = await limits.admit("a", b"{}", claim())
        settlement = limits.settle("a", b"x", admission, spent(10, 7_000_000))
        return [await limits.send(settlement), await limits.send(settlement)]

    assert played(play) == [1, 0]
    assert counter(store) == {"spent": 7, "rest": 0, "held": 0}


@pytest.mark.parametrize("arrived", [True, False])
def test_an_admission_whose_answer_was_lost_is_taken_back(store, arrived):
    async def play(limits):
        if arrived:
            await limits.admit("a", b"{}", claim())
        await limits.send(limits.void("a", claim()))

    played(play)
    assert counter(store) == {"spent": 0, "rest": 0, "held": 0}
    assert (store.hlen(OPEN), store.zcard("th:seats:test"), store.xlen(STREAM)) == (0, 0, 0)


def test_a_models_budget_counts_nothing_of_another_model(store):
    async def play(limits):
        admission = await limits.admit("a", b"{}", claim(budget=entry(model="dear")))
        await limits.send(limits.settle("a", b"x", admission, spent(10, 7_000_000, model="cheap")))

    played(play)
    assert counter(store) == {"spent": 0, "rest": 0, "held": 0}


def test_a_hard_budget_without_its_counter_admits_nothing(store):
    async def play(limits):
        store.delete("th:budget:test")
        with pytest.raises(BudgetUnseeded):
            await limits.admit("a", b"{}", claim())
        store.hset("th:budget:test", mapping={"spent": 0, "rest": 0, "held": 0, "epoch": "e1", "seeding": 1})
        with pytest.raises(BudgetUnseeded):
            await limits.admit("b", b"{}", claim())

    played(play)
    assert store.hlen(OPEN) == 0


def test_a_redis_that_lost_its_memory_is_noticed(store):
    async def play(limits):
        store.set(EPOCH, "e2")
        with pytest.raises(EpochChanged):
            await limits.admit("a", b"{}", claim())

    played(play)
    assert store.hlen(OPEN) == 0


def test_all_unseeded_budgets_are_named_at_once(store):
    async def play(limits):
        holds = tuple(BudgetHold(f"th:budget:{n}", entry(), WINDOW, 1) for n in range(3))
        with pytest.raises(BudgetUnseeded) as unseeded:
            await limits.admit("a", b"{}", Claim((), (), holds, 0, 60_000))
        return [hold.key for hold in unseeded.value.holds]

    assert played(play) == ["th:budget:0", "th:budget:1", "th:budget:2"]


def test_a_counter_of_an_older_memory_admits_nothing(store):
    store.hset("th:budget:test", "epoch", "e0")

    async def play(limits):
        with pytest.raises(BudgetUnseeded):
            await limits.admit("a", b"{}", claim())

    played(play)


def test_the_rest_below_a_micro_unit_is_not_given_away(store):
    store.hset("th:budget:test", mapping={"spent": 90, "rest": 1})

    async def play(limits):
        with pytest.raises(ApiError):
            await limits.admit("a", b"{}", claim(hold=10))
        await limits.admit("b", b"{}", claim(hold=9))

    played(play)


@pytest.mark.parametrize(("carry", "hold"), [(20, 120), (-20, 80)])
def test_what_is_carried_over_widens_or_narrows_the_limit(store, carry, hold):
    store.hset("th:budget:test", "carry", carry)

    async def play(limits):
        with pytest.raises(ApiError):
            await limits.admit("a", b"{}", claim(hold=hold + 1))
        await limits.admit("b", b"{}", claim(hold=hold))

    played(play)


def test_a_throttle_says_so_once_it_is_used_up_and_lets_the_call_pass_when_it_has_done_its_work(store):
    budget = entry(mode="throttle")

    async def play(limits):
        await limits.admit("a", b"{}", claim(hold=150, budget=budget))  # 100 were left: not used up yet
        used_up = claim(hold=1, budget=budget)
        with pytest.raises(Throttled):
            await limits.admit("b", b"{}", used_up)
        await limits.admit(
            "b", b"{}", used_up._replace(budgets=(used_up.budgets[0]._replace(is_lenient=True),))
        )

    played(play)
    assert sorted(store.hkeys(OPEN)) == ["a", "b"]


def test_a_rolling_budget_counts_every_bucket_of_its_window_and_none_before(store):
    budget = entry(window="rolling", rolling_s=60)

    async def play(limits):
        def at(second, hold):
            window = rolling_window(60, second)
            held = BudgetHold("th:budget:test", budget, window, hold, window.bucket_of(second))
            return claim()._replace(budgets=(held,))

        for second, micro in ((1000, 30), (1030.5, 60)):
            admission = await limits.admit(f"r{second}", b"{}", at(second, micro))
            await limits.send(limits.settle(f"r{second}", b"x", admission, spent(1, micro * 1_000_000)))
        with pytest.raises(ApiError):
            await limits.admit("full", b"{}", at(1060.9, 11))  # the bucket of 1000 may still be in the window
        await limits.admit("fits", b"{}", at(1061, 40))

    played(play)
    assert (counter(store)["s1000"], counter(store)["s1030"], counter(store)["held"]) == (30, 60, 40)


def test_a_budget_that_held_nothing_counts_what_was_taken(store):
    async def play(limits):
        admission = await limits.admit("a", b"{}", claim(hold=0, budget=entry(mode="soft")))
        return await limits.send(limits.settle("a", b"x", admission, spent(1, 7_000_000)))

    assert played(play) == 1
    assert counter(store) == {"spent": 7, "rest": 0, "held": 0}


def test_a_platform_keys_calls_count_against_the_tenant_they_are_made_for():
    key, terms = SimpleNamespace(public_id="p", **LIMITS), SimpleNamespace(**{**LIMITS, "limit_rpm": 7})
    windows = {tenant: limits_of(key, uuid.UUID(int=tenant), terms)[0] for tenant in (1, 2)}
    assert [window.key for window in windows[1]] == ["th:rpm:k:p", f"th:rpm:t:{uuid.UUID(int=1)}"]
    assert [window.key for window in windows[2]] == ["th:rpm:k:p", f"th:rpm:t:{uuid.UUID(int=2)}"]
    assert [window.limit for window in windows[2]] == [3, 7]
