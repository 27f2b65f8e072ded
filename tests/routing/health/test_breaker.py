"""The breaker as a state machine: exact examples, then whatever may happen to it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from routing.health.breaker import (
    CLOSED,
    FAILURES,
    RULES,
    Breaker,
    Counts,
    checked,
    circuit_of,
    judge,
    later,
    open_for_s,
    probed,
    reset,
    slow_after_ms,
)
from routing.types import Circuit, ErrorKind

NOW = 1_800_000_000.0
MIDDLE = 0.5  # a draw that leaves the time as it is


def opened(at=NOW, **counts):
    return judge(CLOSED, Counts(**(counts or {"failed": 5, "consecutive": 5})), now=at, draw=MIDDLE)


def test_five_failures_in_a_row_open_it_for_five_seconds():
    breaker = opened(failed=5, consecutive=5)
    assert breaker == Breaker(
        is_open=True,
        generation=1,
        open_until=NOW + 5,
        opened_at=NOW,
        broken_since=NOW,
        closed_at=0.0,
        reason="5 failures in a row",
        source="calls",
    )


def test_four_failures_in_a_row_do_not():
    assert opened(failed=4, consecutive=4) is CLOSED


def test_half_of_ten_calls_open_it():
    assert opened(succeeded=5, failed=5, consecutive=1).reason == "5 of 10 calls failed within 10 s"


@pytest.mark.parametrize(("succeeded", "failed"), [(4, 5), (6, 5), (51, 49)])
def test_fewer_calls_or_fewer_failures_do_not(succeeded, failed):
    assert opened(succeeded=succeeded, failed=failed, consecutive=1) is CLOSED


def test_four_answers_in_five_far_later_than_usual_open_it():
    assert opened(succeeded=20, slow=16).reason == ("16 of 20 answers within 10 s began far later than usual")
    assert opened(succeeded=19, slow=19) is CLOSED
    assert opened(succeeded=20, slow=15) is CLOSED


def test_slow_is_five_times_the_median_and_at_least_three_seconds():
    assert [slow_after_ms(ms) for ms in (None, 100, 600, 1000)] == [float("inf"), 3000, 3000, 5000]


def test_it_is_half_open_once_its_time_is_over():
    breaker = opened()
    assert [circuit_of(breaker, NOW + wait) for wait in (0, 4.999, 5)] == [
        Circuit.OPEN,
        Circuit.OPEN,
        Circuit.HALF_OPEN,
    ]


def test_a_good_probe_closes_it():
    breaker = probed(opened(), ok=True, now=NOW + 6, draw=MIDDLE)
    assert (circuit_of(breaker, NOW + 6), breaker.closed_at, breaker.generation) == (
        Circuit.CLOSED,
        NOW + 6,
        2,
    )


def test_a_bad_probe_opens_it_for_a_third_of_the_outage():
    breaker = probed(opened(), ok=False, now=NOW + 60, draw=MIDDLE)
    assert (breaker.open_until, breaker.opened_at, breaker.generation) == (NOW + 80, NOW, 2)


def test_a_probe_counts_for_nothing_before_its_time():
    breaker = opened()
    assert probed(breaker, ok=True, now=NOW + 4, draw=MIDDLE) is breaker
    assert probed(breaker, ok=False, now=NOW + 4, draw=MIDDLE) is breaker
    assert probed(CLOSED, ok=False, now=NOW, draw=MIDDLE) is CLOSED


def test_failures_do_not_prolong_an_open_breaker():
    breaker = opened()
    assert judge(breaker, Counts(failed=50, consecutive=50), now=NOW + 3, draw=MIDDLE) is breaker


def test_an_outage_goes_on_over_a_short_recovery_and_ends_with_a_long_one():
    closed = probed(opened(), ok=True, now=NOW + 30, draw=MIDDLE)
    bad = Counts(failed=5, consecutive=5)
    soon = judge(closed, bad, now=NOW + 60, draw=MIDDLE)
    late = judge(closed, bad, now=NOW + 90, draw=MIDDLE)
    assert (soon.broken_since, soon.opened_at, soon.open_until) == (NOW, NOW + 60, NOW + 80)
    assert (late.broken_since, late.opened_at, late.open_until) == (NOW + 90, NOW + 90, NOW + 95)


@pytest.mark.parametrize(
    ("outage_s", "draw", "expected_s"),
    [(0, 0.5, 5), (0, 0, 4), (0, 1, 6), (60, 0.5, 20), (60, 1, 24), (3600, 0.5, 300), (86400, 1, 360)],
)
def test_the_open_time_grows_with_the_outage(outage_s, draw, expected_s):
    assert open_for_s(outage_s, draw=draw) == pytest.approx(expected_s)


def test_a_check_opens_it_and_a_check_closes_it():
    failing = Counts(consecutive=5)
    breaker = checked(CLOSED, failing, ok=False, now=NOW, draw=MIDDLE)
    assert (breaker.is_open, breaker.source) == (True, "check")
    assert checked(breaker, failing, ok=True, now=NOW + 4, draw=MIDDLE) is breaker
    assert not checked(breaker, failing, ok=True, now=NOW + 5, draw=MIDDLE).is_open


def test_a_check_does_not_close_what_calls_have_opened_but_prolongs_it():
    breaker = opened()
    assert checked(breaker, Counts(), ok=True, now=NOW + 6, draw=MIDDLE) is breaker
    again = checked(breaker, Counts(), ok=False, now=NOW + 30, draw=MIDDLE)
    assert (again.open_until, again.source) == (NOW + 40, "calls")


def test_a_check_closes_what_no_call_came_to_probe():
    breaker = opened()
    assert checked(breaker, Counts(), ok=True, now=NOW + 64, draw=MIDDLE) is breaker
    closed = checked(breaker, Counts(), ok=True, now=NOW + 65, draw=MIDDLE)
    assert (closed.is_open, closed.source) == (False, "check")


def test_a_person_closes_it_and_the_next_outage_is_a_new_one():
    closed = reset(opened(), now=NOW + 40)
    assert (closed.is_open, closed.source, closed.generation) == (False, "operator", 2)
    assert judge(closed, Counts(consecutive=5), now=NOW + 50, draw=MIDDLE).broken_since == NOW + 50


def test_the_newer_picture_wins_and_of_equals_the_later_deadline():
    soon = judge(CLOSED, Counts(consecutive=5), now=NOW, draw=0)
    late = judge(CLOSED, Counts(consecutive=5), now=NOW, draw=0.9)
    closed = probed(soon, ok=True, now=NOW + 5, draw=0)
    assert later(soon, late) is later(late, soon) is late
    assert later(late, closed) is later(closed, late) is closed


def test_what_is_not_the_endpoints_fault_never_counts():
    assert set(ErrorKind) - FAILURES == {
        ErrorKind.RATE_LIMITED,
        ErrorKind.CREDENTIAL,
        ErrorKind.MODEL_NOT_FOUND,
        ErrorKind.CONTEXT_LENGTH,
        ErrorKind.CONTENT_POLICY,
        ErrorKind.INVALID_REQUEST,
    }


@settings(deadline=None)
@given(
    outage_s=st.floats(1, 3 * 3600),
    every_s=st.floats(0.1, 30),
    draws=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=20),
)
def test_the_end_of_any_outage_is_noticed_after_a_bounded_time(outage_s, every_s, draws):
    """One call every so often, failing until the outage ends: Failover Bench S15 in general."""
    breaker, run, now, step = CLOSED, 0, NOW, 0
    while True:
        draw = draws[step % len(draws)]
        ok = now >= NOW + outage_s
        match circuit_of(breaker, now):
            case Circuit.HALF_OPEN:
                breaker, run = probed(breaker, ok=ok, now=now, draw=draw), 0
            case Circuit.CLOSED:
                run = 0 if ok else run + 1
                breaker = judge(breaker, Counts(consecutive=run), now=now, draw=draw)
        if ok and not breaker.is_open:
            break
        now, step = now + every_s, step + 1
    longest_s = min(max(outage_s / 3, 5), 300) * 1.2
    assert now - (NOW + outage_s) <= longest_s + every_s + 1e-3


def test_after_a_minutes_outage_the_primary_is_back_within_thirty_seconds():
    assert open_for_s(60, draw=1) + 4 + 0.25 < 30


class Life(RuleBasedStateMachine):
    """Two workers' pictures of one breaker, told of the same things at different times."""

    @initialize()
    def start(self):
        self.now = NOW
        self.pictures = [CLOSED, CLOSED]

    worker = st.integers(0, 1)
    draw = st.floats(0, 1, exclude_max=True)

    @rule(seconds=st.floats(0, 400))
    def time_passes(self, seconds):
        self.now += seconds

    @rule(w=worker, draw=draw, ok=st.integers(0, 30), failed=st.integers(0, 30), run=st.integers(0, 8))
    def a_call_ends(self, w, draw, ok, failed, run):
        self._take(w, judge(self.pictures[w], Counts(ok, failed, 0, run), now=self.now, draw=draw))

    @rule(w=worker, draw=draw, ok=st.booleans())
    def a_probe_ends(self, w, draw, ok):
        was = circuit_of(self.pictures[w], self.now)
        self._take(w, probed(self.pictures[w], ok=ok, now=self.now, draw=draw))
        if was is Circuit.HALF_OPEN:
            expected = Circuit.CLOSED if ok else Circuit.OPEN
            assert circuit_of(self.pictures[w], self.now) is expected

    @rule(w=worker, draw=draw, ok=st.booleans(), run=st.integers(0, 8))
    def a_check_ends(self, w, draw, ok, run):
        self._take(w, checked(self.pictures[w], Counts(consecutive=run), ok=ok, now=self.now, draw=draw))

    @rule(w=worker)
    def a_person_closes_it(self, w):
        self._take(w, reset(self.pictures[w], now=self.now))
        assert circuit_of(self.pictures[w], self.now) is Circuit.CLOSED

    @rule()
    def the_workers_meet(self):
        one, other = self.pictures
        assert later(one, other).generation == max(one.generation, other.generation)
        self.pictures = [later(one, other), later(other, one)]
        assert [each.open_until for each in self.pictures] == [self.pictures[0].open_until] * 2

    def _take(self, w, new):
        old = self.pictures[w]
        assert new is old or new.generation == old.generation + 1
        self.pictures[w] = new

    @invariant()
    def an_opening_is_bounded(self):
        for each in getattr(self, "pictures", ()):
            if each.is_open:
                assert each.broken_since <= each.opened_at <= self.now
                assert each.open_until - self.now <= RULES.max_open_s * (1 + RULES.jitter)
                assert each.reason
            else:
                assert each.open_until == 0.0


TestLife = Life.TestCase
TestLife.settings = settings(deadline=None, max_examples=60, stateful_step_count=30)
