import random
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from billing.alerts.totals import upper_bounds
from billing.budgets.counters import spent
from billing.snapshot import BudgetEntry
from tests.billing.ledger import KEY, NOON, TENANT, put, record

pytestmark = pytest.mark.django_db

OTHER_KEY = UUID(int=33)


def entry(**changes) -> BudgetEntry:
    base = {
        "id": UUID(int=9), "tenant_id": TENANT, "name": "", "api_key_id": None, "feature": "", "model": "",
        "end_user": "", "measure": "price", "limit": 1, "mode": "soft", "window": "month", "timezone": "UTC",
        "anchor_day": 1, "week_start": 0,
    }  # fmt: skip
    return BudgetEntry(**base | changes)


def a_mixed_month(seed: int) -> None:
    dice = random.Random(seed)
    put(
        *(
            record(
                NOON - timedelta(minutes=dice.randrange(40 * 24 * 60)),
                tenant_id=dice.choice((TENANT, UUID(int=77))),
                api_key_id=dice.choice((KEY, OTHER_KEY)),
                feature=dice.choice(("chat", "search")),
                model=dice.choice(("gpt-4o", "claude")),
                end_user=dice.choice(("", "ann")),
                is_final=dice.random() < 0.8,
                input_tokens=dice.randrange(1000),
                cost_pico=dice.choice((None, dice.randrange(10**12))),
                price_pico=dice.randrange(10**12),
                cost_components=None,
            )
            for _ in range(400)
        )
    )


SCOPES = [
    {},
    {"feature": "chat"},
    {"model": "claude"},
    {"feature": "chat", "model": "claude"},
    {"api_key_id": KEY},
    {"api_key_id": KEY, "model": "gpt-4o"},
    {"api_key_id": KEY, "feature": "chat"},
    {"end_user": "ann"},
    {"end_user": "ann", "feature": "chat", "model": "claude", "api_key_id": KEY},
]


@pytest.mark.parametrize("timezone", ["UTC", "Asia/Kolkata", "America/New_York"])
def test_the_screen_is_the_ledgers_count_and_of_tokens_never_below_it(timezone: str) -> None:
    a_mixed_month(seed=len(timezone))
    asked = [
        entry(measure=measure, window=window, timezone=timezone, **scope)
        for measure in ("price", "cost", "tokens", "requests")
        for window in ("hour", "day", "week", "month", "total")
        for scope in SCOPES
    ]
    windows = [each.window_at(NOON.timestamp()) for each in asked]
    truths = [spent(each, window) for each, window in zip(asked, windows, strict=True)]
    assert sum(truths) > 0
    for each, bound, truth in zip(
        asked, upper_bounds(list(zip(asked, windows, strict=True))), truths, strict=True
    ):
        if each.measure == "tokens":
            assert bound >= truth, each
        else:
            assert bound == truth, each


def test_nobody_elses_usage_is_counted_and_no_budgets_need_no_answer() -> None:
    put(record(tenant_id=UUID(int=77)))
    asked = entry()
    assert upper_bounds([(asked, asked.window_at(NOON.timestamp()))]) == [0]
    assert upper_bounds([]) == []


def test_an_attempt_put_right_counts_as_it_does_in_the_ledger() -> None:
    first = record(usage_source="unknown", price_pico=900)
    put(first)
    put(record(request_id=first.request_id, price_pico=700), recorded_at=datetime(2026, 11, 25, tzinfo=UTC))
    for measure, expected in (("price", 700), ("requests", 1)):
        asked = entry(measure=measure)
        window = asked.window_at(NOON.timestamp())
        assert upper_bounds([(asked, window)]) == [spent(asked, window)] == [expected]
