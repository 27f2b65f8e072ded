"""One worker's tracker by itself, on a clock that the tests set: what it decides, and what it plans by."""

import pytest

from routing.health.tracker import CREDENTIAL_PAUSE_S, MAX_CREDENTIAL_PAUSE_S, Tracker
from routing.types import Circuit, EndpointHealth, ErrorKind, ProviderError
from tests.routing.targets import target

PRIMARY = target("primary", quota_key="c/m-1")
DOWN = ProviderError(ErrorKind.OVERLOADED, "down", 503)
MIDDLE = 0.5


class Clock:
    def __init__(self):
        self.now = 1_800_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def tracker_on(clock, draw=MIDDLE):
    return Tracker("w", clock=clock, draw=lambda: draw)


def beat(tracker, clock, after_s=0.25):
    """A beat that finds no Redis."""
    clock.now += after_s
    tracker.outgoing()
    tracker.alone()


def answer(tracker, to=PRIMARY, *, times=1, first_byte_ms=100, latency_ms=1100):
    for _ in range(times):
        tracker.begin(to)
        tracker.succeeded(
            to, first_byte_ms=first_byte_ms, latency_ms=latency_ms, output_tokens=50, headers={}
        )


def fail(tracker, error=DOWN, *, times=1, waited_ms=20, to=PRIMARY):
    for _ in range(times):
        tracker.begin(to)
        tracker.failed(to, error, waited_ms=waited_ms)


def seen(tracker):
    return tracker.view.endpoints.get("primary", EndpointHealth())


def timeout(phase):
    return ProviderError(ErrorKind.TIMEOUT, "late", code=phase)


# ------------------------------------------------------------------ what counts


@pytest.mark.parametrize(
    "error",
    [
        DOWN,
        ProviderError(ErrorKind.SERVER_ERROR, "", 500),
        ProviderError(ErrorKind.INVALID_RESPONSE, ""),
        ProviderError(ErrorKind.CONNECTION, "", code="refused"),
        timeout("connect"),
        timeout("stall"),
    ],
)
def test_the_endpoints_own_failures_open_it(clock, error):
    tracker = tracker_on(clock)
    fail(tracker, error, times=5)
    assert seen(tracker).circuit is Circuit.OPEN


@pytest.mark.parametrize(
    "error",
    [
        ProviderError(ErrorKind.RATE_LIMITED, "", 429),
        ProviderError(ErrorKind.CREDENTIAL, "", 401),
        ProviderError(ErrorKind.MODEL_NOT_FOUND, "", 404),
        ProviderError(ErrorKind.CONTEXT_LENGTH, "", 400),
        ProviderError(ErrorKind.CONTENT_POLICY, "", 400),
        ProviderError(ErrorKind.INVALID_REQUEST, "", 400),
        ProviderError(ErrorKind.CONNECTION, "", code="pool_full"),
        timeout("first_byte"),
        timeout("total"),
    ],
)
def test_what_is_not_its_fault_never_does(clock, error):
    tracker = tracker_on(clock)
    fail(tracker, error, times=50, waited_ms=500)
    assert tracker.circuits == {}


@pytest.mark.parametrize(
    ("capabilities", "waited_ms", "is_open"),
    [((), 9_499, False), ((), 9_500, True), (("reasoning",), 30_000, False), (("reasoning",), 57_000, True)],
)
def test_a_silence_counts_from_the_endpoints_own_patience_on(clock, capabilities, waited_ms, is_open):
    tracker = tracker_on(clock)
    to = target("primary", capabilities=frozenset(capabilities))
    fail(tracker, timeout("first_byte"), times=5, waited_ms=waited_ms, to=to)
    assert bool(tracker.circuits) is is_open


def test_a_silent_endpoint_does_not_stay_the_fastest(clock):
    tracker = tracker_on(clock)
    answer(tracker, times=2, first_byte_ms=50)
    fail(tracker, timeout("first_byte"), times=3, waited_ms=10_000)
    beat(tracker, clock)
    assert seen(tracker).first_byte_p50_ms == pytest.approx(10_000, rel=0.15)
    assert (seen(tracker).success, seen(tracker).samples) == (0.4, 5)


def test_answers_far_later_than_usual_open_it(clock):
    tracker = tracker_on(clock)
    answer(tracker, times=100, first_byte_ms=400)
    beat(tracker, clock, 1)
    beat(tracker, clock, 15)
    answer(tracker, times=19, first_byte_ms=4000)
    assert tracker.circuits == {}
    answer(tracker, first_byte_ms=4000)
    reason = "20 of 20 answers within 10 s began far later than usual"
    assert tracker.circuits["primary"].reason == reason


# ------------------------------------------------------------------ time


def test_figures_are_those_of_five_minutes(clock):
    tracker = tracker_on(clock)
    answer(tracker, times=10)
    beat(tracker, clock)
    beat(tracker, clock, 280)
    assert seen(tracker).samples == 10
    beat(tracker, clock, 20)
    assert seen(tracker).samples == 0


def test_failures_older_than_the_window_do_not_count(clock):
    tracker = tracker_on(clock)
    for _ in range(4):
        fail(tracker, times=2)
        answer(tracker)
        beat(tracker, clock)
        clock.now += 3.75
    assert tracker.circuits == {}


def test_a_credential_rests_twice_as_long_each_time_up_to_an_hour(clock):
    tracker = tracker_on(clock)
    refused = ProviderError(ErrorKind.CREDENTIAL, "", 401)
    rests = []
    for _ in range(9):
        fail(tracker, refused, times=3)
        rests.append(round(tracker.view.pauses["c/m-1"] - clock.now))
        clock.now += rests[-1]
    assert rests == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
    assert (rests[0], rests[-1]) == (CREDENTIAL_PAUSE_S, MAX_CREDENTIAL_PAUSE_S)
    assert tracker.marks["c/m-1"].count == 9


@pytest.mark.parametrize(("retry_after_s", "rest_s"), [(None, 5), (0.5, 0.5), (30, 30), (86_400, 900)])
def test_a_rate_limit_rests_as_long_as_the_provider_says(clock, retry_after_s, rest_s):
    tracker = tracker_on(clock)
    fail(tracker, ProviderError(ErrorKind.RATE_LIMITED, "", 429, retry_after_s=retry_after_s))
    assert tracker.view.pauses["c/m-1"] - clock.now == pytest.approx(rest_s)


# ------------------------------------------------------------------ Failover Bench S15


@pytest.mark.parametrize("draw", [0.0, 0.25, 0.5, 0.75, 0.999])
@pytest.mark.parametrize("shift_s", [0.0, 1.3, 2.6, 3.9])
def test_s15_after_a_minutes_outage_the_primary_serves_again_within_thirty_seconds(clock, draw, shift_s):
    """503 for 60 s, one call every 4 s, beats in between; the planner takes a closed circuit or the one probe."""
    tracker = tracker_on(clock, draw)
    began = clock.now
    clock.now += shift_s
    wasted, served_at = 0, None
    while served_at is None:
        state = seen(tracker)
        if state.circuit is Circuit.CLOSED or state.is_probe:
            if clock.now - began >= 60:
                answer(tracker)
                served_at = clock.now - began
            else:
                fail(tracker)
                wasted += 1
        for _ in range(16):
            beat(tracker, clock)
    assert served_at <= 90
    assert wasted <= 11  # of fifteen: five until it opens, then a few probes
