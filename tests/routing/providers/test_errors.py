"""What every dialect's failures have in common: kinds, waiting times, and messages safe to show."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.providers.adapters import adapter_for
from routing.providers.errors import (
    MAX_MESSAGE_CHARS,
    kind_by_status,
    openai_error,
    retry_after,
    safe_message,
)
from routing.types import ErrorKind, ProviderError, ProviderKind


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (302, ErrorKind.INVALID_RESPONSE),
        (400, ErrorKind.INVALID_REQUEST),
        (401, ErrorKind.CREDENTIAL),
        (402, ErrorKind.CREDENTIAL),
        (403, ErrorKind.CREDENTIAL),
        (404, ErrorKind.MODEL_NOT_FOUND),
        (408, ErrorKind.TIMEOUT),
        (409, ErrorKind.SERVER_ERROR),
        (413, ErrorKind.INVALID_REQUEST),
        (422, ErrorKind.INVALID_REQUEST),
        (429, ErrorKind.RATE_LIMITED),
        (500, ErrorKind.SERVER_ERROR),
        (502, ErrorKind.SERVER_ERROR),
        (503, ErrorKind.OVERLOADED),
        (504, ErrorKind.TIMEOUT),
        (529, ErrorKind.OVERLOADED),
    ],
)
@pytest.mark.parametrize("provider", list(ProviderKind))
def test_a_bare_status_means_the_same_everywhere(provider, status, kind):
    assert kind_by_status(status) is kind
    error = adapter_for(provider).classify_error(status, {"retry-after": "3"}, b"<html>secret</html>")
    message = f"The provider answered with HTTP status {status}."
    assert error == ProviderError(kind, message, status=status, retry_after_s=3.0)


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),  # without a Date: by whose clock?
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT", "date": "Wed, 21 Oct 2026 07:27:48 GMT"}, 12.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT", "date": "Wed, 21 Oct 2026 07:29:00 GMT"}, 0.0),
        ({"retry-after": "Wed, 21 Oct 2036 07:28:00 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({"retry-after": "Wed, 99 Oct 2026 07:28:00 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({"retry-after": "86401"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
    ],
)
def test_waiting_times_are_read_in_seconds_and_milliseconds(headers, wait_s):
    assert retry_after(headers) == wait_s


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "Incorrect API key provided: sk-proj-abc123DEF. See x.",
            "Incorrect API key provided: [redacted] See x.",
        ),
        ("bad key sk-ab***********yz given", "bad key [redacted] given"),
        ("key AIzaSyA1234567890abcdef refused", "key [redacted] refused"),
        ("header Bearer abc.def is wrong", "header [redacted] is wrong"),
        ("key 0123456789abcdef0123456789abcdef", "key [redacted]"),
        ("request 01234567-89ab-cdef-0123-456789abcdef", "request 01234567-89ab-cdef-0123-456789abcdef"),
        ("two\n\n  lines", "two lines"),
        ("漢" * 40, "漢" * 40),
        ("<!DOCTYPE html><html>oops", ""),
        ("a < b and c > d", "a < b and c > d"),
    ],
)
def test_messages_lose_keys_and_markup_but_keep_their_sense(text, shown):
    assert safe_message(text) == shown


def test_messages_are_cut():
    assert safe_message("word " * 1000) == ("word " * 100)[:MAX_MESSAGE_CHARS]


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, {"error": {"message": "x", "code": "context_length_exceeded"}}, ErrorKind.CONTEXT_LENGTH),
        (400, {"error": {"message": "x", "code": "content_policy_violation"}}, ErrorKind.CONTENT_POLICY),
        (400, {"error": {"message": "x", "code": "content_filter"}}, ErrorKind.CONTENT_POLICY),
        (400, {"error": {"message": "x", "code": "invalid_prompt"}}, ErrorKind.CONTENT_POLICY),
        (404, {"error": {"message": "x", "code": "model_not_found"}}, ErrorKind.MODEL_NOT_FOUND),
        (429, {"error": {"message": "x", "code": "insufficient_quota"}}, ErrorKind.CREDENTIAL),
        (429, {"error": {"message": "x", "code": "rate_limit_exceeded"}}, ErrorKind.RATE_LIMITED),
        (400, {"error": {"message": "x", "type": "overloaded_error"}}, ErrorKind.OVERLOADED),
        (400, {"error": {"message": "x", "type": "invalid_request_error"}}, ErrorKind.INVALID_REQUEST),
        (400, {"object": "error", "message": "maximum context length is 9"}, ErrorKind.CONTEXT_LENGTH),
        (422, {"detail": "no such field"}, ErrorKind.INVALID_REQUEST),
        (500, {"error": "out of memory"}, ErrorKind.SERVER_ERROR),
    ],
)
def test_openai_failures_are_told_apart_by_code_before_status(status, body, kind):
    error = openai_error(status, {}, orjson.dumps(body))
    assert (error.kind, error.status) == (kind, status)
    assert error.message in ("x", body.get("message"), body.get("detail"), body.get("error"))


ODD_BODIES = [
    b"[]",
    b"{}",
    b'{"error":[]}',
    b'{"error":{"details":[1]}}',
    b'{"error":{"details":7,"message":{}}}',
    b'[{"error":{"code":[],"type":{}}}]',
]


@given(
    st.sampled_from(list(ProviderKind)),
    st.integers(400, 599),
    st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms"]), st.text(max_size=8)),
    st.binary(max_size=60) | st.sampled_from(ODD_BODIES),
)
def test_classifying_never_raises_and_always_says_something(kind, status, headers, body):
    error = adapter_for(kind).classify_error(status, headers, body)
    assert isinstance(error, ProviderError)
    assert error.message
    assert error.status == status
