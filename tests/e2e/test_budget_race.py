"""`benchmarks.budgets` on a small scale: two real workers, more calls than fit, and a Redis that forgets."""

import asyncio
from collections import Counter

import pytest
import redis
from django.conf import settings

from benchmarks import budgets
from benchmarks.budgets import KINDS, House, Load
from tests.e2e.gateway_process import running
from tests.gateway import plane as planes

db = planes.db
demo = pytest.fixture(scope="module")(planes.rows)

CALLERS, FITS = 40, 8


class Forgetful:
    """The tests' own Redis, which can be made to forget."""

    url = settings.REDIS_URL

    def keep(self) -> None:
        """Nothing: what it forgets does not come back."""

    def lose(self, how: str) -> None:
        with redis.Redis.from_url(self.url) as client:
            client.flushdb()


@pytest.fixture(scope="module")
def house(demo, tmp_path_factory):
    key = budgets.open_acme()
    with (
        running(tmp_path_factory.mktemp("data"), "--workers", "2") as gateway,
        budgets.draining(),
    ):
        yield House(f"{gateway.url}/v1", key, Forgetful())


def test_of_calls_at_once_exactly_those_pass_that_fit(house, monkeypatch):
    monkeypatch.setattr(budgets, "CALLERS", CALLERS)
    monkeypatch.setattr(budgets, "FITS", FITS)
    seen = list(budgets.races(house, len(KINDS)))
    assert [kind for kind, _, _ in seen] == list(KINDS)
    assert [statuses for _, statuses, _ in seen] == [Counter({402: CALLERS - FITS, 200: FITS})] * len(KINDS)
    assert all(spent <= limit for _, _, sums in seen for spent, limit in sums)
    assert all(sums[0][0] == sums[0][1] for _, _, sums in seen)


def test_a_redis_that_forgets_under_load_lets_nothing_pass_a_limit(house, monkeypatch):
    monkeypatch.setattr(budgets, "LOAD_CALLERS", 4)
    monkeypatch.setattr(budgets, "GAP_S", 1.5)
    made = [*budgets.budgets_for("tight", fits=60), *budgets.budgets_for("roomy", fits=100_000)]
    budgets.announce()
    load = Load()
    asyncio.run(budgets.drill(house, "flushed", 2, load))
    budgets.right_after_s()
    budgets.settle(house)
    sums = [budgets.spent_of(budget) for budget in made]
    assert set(load.statuses) <= {200, 402, 503}
    assert sums[0] == (sums[0][1], sums[0][1])
    assert 0 < sums[1][0] < sums[1][1]
