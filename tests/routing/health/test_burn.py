"""Burn rates: error share over allowed share, in two windows."""

import pytest

from routing.entries import FeatureEntry
from routing.health.burn import burn_rate, faults_of

FEATURE = FeatureEntry(
    slug="chat",
    tenant_id=None,
    policy=None,
    target_p95_ms=2000,
    target_success=0.99,
    max_cost_pico=1000,
)
PROMISES_NOTHING = FeatureEntry("x", None, None, None, None, None)


def test_a_call_breaks_each_promise_by_itself():
    assert faults_of(FEATURE, ok=True, latency_ms=2000, cost_pico=1000) == ()
    assert faults_of(FEATURE, ok=False, latency_ms=2001, cost_pico=1001) == ("e", "l", "c")
    assert faults_of(FEATURE, ok=True, latency_ms=1, cost_pico=None) == ()
    assert faults_of(PROMISES_NOTHING, ok=False, latency_ms=9**9, cost_pico=9**9) == ("e",)


def test_one_is_the_rate_that_spends_the_budget_exactly_in_time():
    same = {"n": 1000, "e": 10}
    assert burn_rate(FEATURE, {5: same, 60: same}) == pytest.approx(1.0)


def test_the_worst_promise_counts():
    same = {"n": 100, "e": 1, "l": 20}
    assert burn_rate(FEATURE, {5: same, 60: same}) == pytest.approx(20 / 100 / 0.05)


def test_a_blip_does_not_burn_nor_does_a_past_trouble():
    blip = {5: {"n": 100, "e": 50}, 60: {"n": 10_000, "e": 50}}
    over = {5: {"n": 100, "e": 0}, 60: {"n": 1000, "e": 500}}
    assert burn_rate(FEATURE, blip) == pytest.approx(0.005 / 0.01)
    assert burn_rate(FEATURE, over) == 0.0


def test_nothing_is_said_of_a_few_calls_or_without_a_promise():
    assert burn_rate(FEATURE, {5: {"n": 9, "e": 9}, 60: {"n": 500, "e": 9}}) is None
    assert burn_rate(PROMISES_NOTHING, {5: {"n": 50, "e": 9}, 60: {"n": 500, "e": 9}}) is None
