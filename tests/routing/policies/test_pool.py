"""What is worked out once per kind of call is exact for every call of that kind."""

import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from routing.catalog.cost import Rate, RateCard, Unpriced, estimate_pico
from routing.policies import routes
from routing.policies.plan import plan
from routing.types import NO_HEALTH, Target
from tenants.errors import ApiError
from tests.routing.policies.planning import asked, order, request
from tests.routing.targets import NOW, card, policy, snapshot, target

DAY = timedelta(days=1)
TODAY = datetime.fromtimestamp(NOW, UTC)


def some_card(dice: random.Random) -> RateCard:
    """Prices that change today and with the size of the prompt, some by the thousand, some in a tier of service."""
    edges = [TODAY - 30 * DAY, TODAY + timedelta(seconds=dice.choice((0, 5, 3600))), None]
    rates = [
        Rate(component, Decimal(dice.randint(0, 500)) / 7, per, "USD", tier, above, start, end, component)
        for component in ("input", "output")
        for tier in ("", "flex")
        for above in (0, dice.choice((100, 1000)))
        for (start, end), per in zip(
            ((edges[0], edges[1]), (edges[1], edges[2])), (1000, 1_000_000), strict=True
        )
        if start is not None and dice.random() < 0.9
    ]
    return RateCard(rates)


def window_and_price(
    each: Target, input_tokens: int, output_tokens: int, now: float, tier: str
) -> int | None:
    if each.context_window is not None and input_tokens > each.context_window:
        return None
    try:
        return estimate_pico(each.rates, input_tokens, output_tokens, now, tier)
    except Unpriced:
        return None


@settings(deadline=None)
@given(seed=st.integers(0, 2**32))
def test_every_plan_ranks_by_the_estimate_of_its_own_size_and_moment(seed: int) -> None:
    dice = random.Random(seed)
    targets = [
        target(f"e{n}", rates=some_card(dice), context_window=dice.choice((None, 99, 1000)))
        for n in range(dice.randint(1, 5))
    ]
    world = snapshot(targets, policy("p", "cost"))
    for _ in range(40):
        input_tokens = dice.choice((0, 1, 99, 100, 101, 999, 1000, 1001, 50_000))
        output_tokens = dice.choice((0, 1, 333))
        now = NOW + dice.choice((-1, 0, 4.9, 5, 3600, 9999))
        tier = dice.choice(("", "flex"))
        expected = {
            each.endpoint_id: cost
            for each in targets
            if (cost := window_and_price(each, input_tokens, output_tokens, now, tier)) is not None
        }
        call = request("policy:p", input_tokens=input_tokens, output_tokens=output_tokens, service_tier=tier)
        try:
            answer = plan(call, world, health=NO_HEALTH, now=now, draw=0.5)
        except ApiError:
            assert expected == {}
            continue
        assert {each.target.endpoint_id: each.score for each in answer.targets} == expected
        assert [each.score for each in answer.targets] == sorted(expected.values())


def test_a_price_change_takes_effect_in_the_middle_of_a_snapshot() -> None:
    change = TODAY + DAY
    falling = RateCard(
        Rate(name, Decimal(price), 10**6, "USD", "", 0, start, end, name)
        for name in ("input", "output")
        for price, start, end in ((9, TODAY - DAY, change), (1, change, None))
    )
    world = snapshot(
        [target("falls", rates=falling), target("stays", rates=card(input="5", output="5"))],
        policy("p", "cost"),
    )
    assert order(asked(world, "policy:p")) == ["stays", "falls"]
    assert order(asked(world, "policy:p", now=change.timestamp())) == ["falls", "stays"]
    assert order(asked(world, "policy:p", now=change.timestamp() - 0.001)) == ["stays", "falls"]


def test_what_is_remembered_is_bounded_and_shared_by_tenants() -> None:
    world = snapshot([target("a")], policy("p", "cost"))
    for number in range(routes.MEMO_ENTRIES + 50):
        asked(world, "policy:p", tenant_id=UUID(int=number))
    assert len(world.memo) <= routes.MEMO_ENTRIES
    assert len(world.memo[routes.SIEVES]) == 1


def test_features_that_nobody_declared_are_not_remembered() -> None:
    world = snapshot([target("a")], policy("p", "cost"))
    for number in range(10):
        asked(world, "policy:p", feature=f"made-up-{number}")
    assert len(world.memo) == 2  # one route, and the sieves
