"""What comes after a failed attempt: the order of a call's targets, and the waits."""

from dataclasses import replace

import pytest

from gateway.pipeline.course import (
    LAST_RETRY_AFTER_S,
    MAX_POSTPONED,
    RETRY_AFTER_S,
    TRIES_PER_TARGET,
    Course,
)
from routing.types import ErrorKind, ProviderError, UnsupportedParameter
from tests.routing.targets import TARGET

A, B, C = (replace(TARGET, endpoint_id=name, credential_id=f"key {name}") for name in "abc")
SIBLING = replace(A, credential_id="another key")


def course(*targets, attempts=10, deadline_s=100.0):
    return Course(targets, max_attempts=attempts, deadline_s=deadline_s)


def fail(way, kind, *, now_s=0.0, retry_after_s=None, code=None):
    """Make the next attempt and let it fail; its target."""
    step = way.next(now_s)
    error = ProviderError(kind, "no", code=code, retry_after_s=retry_after_s)
    way.failed(step.target, error, now_s=now_s, draw=0.5)
    return step.target


def test_targets_are_tried_in_the_order_of_the_plan():
    way = course(A, B, C)
    assert [fail(way, ErrorKind.MODEL_NOT_FOUND) for _ in range(3)] == [A, B, C]
    assert way.next(0.0) is None


@pytest.mark.parametrize("kind", [ErrorKind.SERVER_ERROR, ErrorKind.CONNECTION])
def test_a_fault_that_may_pass_is_tried_again_at_once_and_once(kind):
    way = course(A, B)
    assert [fail(way, kind) for _ in range(3)] == [A, A, B]


def test_a_retry_waits_a_jittered_moment():
    way = course(A, B)
    fail(way, ErrorKind.SERVER_ERROR)
    step = way.next(0.0)
    assert (step.target, step.wait_s, step.is_retry) == (A, 0.1, True)


@pytest.mark.parametrize("code", ["dns", "tls", "tls_verify", "not_allowed"])
def test_a_connection_that_cannot_come_about_is_not_tried_again_at_once(code):
    way = course(A, B)
    assert [fail(way, ErrorKind.CONNECTION, code=code), way.next(0.0).target] == [A, B]


@pytest.mark.parametrize("kind", [ErrorKind.OVERLOADED, ErrorKind.INVALID_RESPONSE, ErrorKind.RATE_LIMITED])
def test_other_faults_go_to_the_next_target_and_come_round_again(kind):
    way = course(A, B)
    assert [fail(way, kind) for _ in range(3)] == [A, B, A]


@pytest.mark.parametrize("kind", [ErrorKind.CREDENTIAL, ErrorKind.MODEL_NOT_FOUND, ErrorKind.CONTEXT_LENGTH])
def test_a_lasting_fault_puts_the_target_out(kind):
    way = course(A, B)
    fail(way, kind)
    assert [fail(way, ErrorKind.OVERLOADED) for _ in range(2)] == [B, B]


def test_a_short_retry_after_is_waited_out_before_failing_over():
    way = course(A, B)
    fail(way, ErrorKind.RATE_LIMITED, retry_after_s=RETRY_AFTER_S)
    step = way.next(0.0)
    assert (step.target, step.wait_s) == (A, pytest.approx(RETRY_AFTER_S + 0.05))
    way.failed(A, ProviderError(ErrorKind.RATE_LIMITED, "no", retry_after_s=1.0), now_s=3.0, draw=0.0)
    assert way.next(3.0).target is B


def test_a_longer_retry_after_goes_to_the_next_target_first():
    way = course(A, B)
    fail(way, ErrorKind.OVERLOADED, retry_after_s=RETRY_AFTER_S + 0.1)
    assert fail(way, ErrorKind.MODEL_NOT_FOUND) is B
    step = way.next(1.0)
    assert (step.target, step.wait_s) == (A, pytest.approx(1.65))


def test_a_retry_after_beyond_the_limit_ends_in_its_own_words():
    way = course(A)
    fail(way, ErrorKind.RATE_LIMITED, retry_after_s=LAST_RETRY_AFTER_S + 1)
    assert way.next(0.0) is None
    assert way.ready_in_s == LAST_RETRY_AFTER_S + 1


def test_no_wait_goes_beyond_the_deadline():
    way = course(A, deadline_s=2.0)
    fail(way, ErrorKind.RATE_LIMITED, retry_after_s=2.0)
    assert way.next(0.0) is None


def test_nothing_is_sent_after_the_deadline():
    assert course(A, deadline_s=2.0).next(2.0) is None


def test_a_silent_target_is_not_tried_twice():
    way = course(A)
    assert fail(way, ErrorKind.TIMEOUT) is A
    assert way.next(0.0) is None


def test_another_silent_target_does_not_bring_the_first_back_before_the_rest():
    way = course(A, B, C)
    assert [fail(way, ErrorKind.TIMEOUT), fail(way, ErrorKind.TIMEOUT)] == [A, B]
    assert [fail(way, ErrorKind.OVERLOADED) for _ in range(TRIES_PER_TARGET)] == [C] * TRIES_PER_TARGET


def test_when_all_of_several_were_silent_they_are_gone_round_again():
    way = course(A, B, attempts=5)
    assert [fail(way, ErrorKind.TIMEOUT) for _ in range(5)] == [A, B, A, B, A]
    assert way.next(0.0) is None


def test_one_silent_target_among_broken_ones_is_not_tried_twice():
    way = course(A, B)
    assert [fail(way, ErrorKind.TIMEOUT), fail(way, ErrorKind.CREDENTIAL)] == [A, B]
    assert way.next(0.0) is None


def test_retries_and_targets_are_bounded_by_the_policys_attempts():
    way = course(A, B, attempts=3)
    assert [fail(way, ErrorKind.SERVER_ERROR) for _ in range(3)] == [A, A, B]
    assert way.next(0.0) is None


def test_one_target_is_tried_so_many_times_and_no_more():
    way = course(A, attempts=20)
    assert [fail(way, ErrorKind.OVERLOADED, now_s=9.0 * n) for n in range(4)] == [A] * TRIES_PER_TARGET
    assert way.next(50.0) is None


@pytest.mark.parametrize("kind", [ErrorKind.RATE_LIMITED, ErrorKind.CREDENTIAL])
def test_after_a_fault_of_the_key_another_key_of_the_endpoint_comes_next(kind):
    way = course(A, B, SIBLING)
    assert [fail(way, kind), way.next(0.0).target] == [A, SIBLING]


def test_another_key_is_better_than_a_short_wait():
    way = course(A, B, SIBLING)
    fail(way, ErrorKind.RATE_LIMITED, retry_after_s=1.0)
    assert way.next(0.0).target is SIBLING


@pytest.mark.parametrize("kind", [ErrorKind.TIMEOUT, ErrorKind.OVERLOADED, ErrorKind.INVALID_RESPONSE])
def test_after_a_fault_of_the_endpoint_its_other_keys_come_after_the_other_targets(kind):
    way = course(A, SIBLING, B)
    fail(way, kind)
    assert [way.next(0.0).target for _ in range(2)] == [B, SIBLING]


def test_so_they_do_after_the_retry_of_the_same_key():
    way = course(A, SIBLING, B)
    assert [fail(way, ErrorKind.SERVER_ERROR) for _ in range(4)] == [A, A, B, B]
    assert way.next(0.0).target is SIBLING


def test_what_cannot_be_expressed_costs_no_attempt():
    way = course(A, B, attempts=1)
    refused = UnsupportedParameter("logprobs", "no logprobs here")
    assert way.next(0.0).target is A
    way.refused(refused)
    assert (way.next(0.0).target, way.unsupported) == (B, refused)


def test_a_postponed_step_comes_last_and_costs_no_attempt():
    way = course(A, B, attempts=2)
    way.next(0.0)
    way.postponed(A, 0.5, now_s=0.0)
    assert fail(way, ErrorKind.MODEL_NOT_FOUND) is B
    step = way.next(0.2)
    assert (step.target, step.wait_s, step.is_retry) == (A, pytest.approx(0.3), False)


def test_a_step_is_not_postponed_without_end():
    way = course(A)
    for number in range(MAX_POSTPONED + 1):
        assert way.next(float(number)).target is A
        way.postponed(A, 0.5, now_s=float(number))
    assert way.next(50.0) is None


def test_a_rival_is_another_endpoint_that_was_not_tried():
    way = course(A, SIBLING, B)
    step = way.next(0.0)
    assert way.rival(step) is B
    assert way.take(B).target is B
    assert way.rival(step) is None
    assert (way.next(0.0).target, way.attempts_left) == (SIBLING, 7)


def test_without_an_attempt_left_there_is_no_rival_and_no_other():
    way = course(A, B, attempts=1)
    step = way.next(0.0)
    assert (way.rival(step), way.has_other(A)) == (None, False)
