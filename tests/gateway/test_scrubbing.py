"""Logs: no secret passes in a message, an argument or a traceback, whatever the handler."""

import io
import logging
import os
import subprocess
import sys

import pytest
from celery.app.log import TaskFormatter
from uvicorn.logging import AccessFormatter, DefaultFormatter

from gateway.scrubbing import Scrubber

KEY = "th_0123456789ab_" + "Q" * 43 + "1z1z1z"
SECRETS = [
    (f"refused {KEY}", "refused th_0123456789ab_***"),
    ("key sk-proj-abcdefghijklmnop was refused", "key sk-*** was refused"),
    ("sk-ant-api03-AAAAAAAAAAAAAAAAAAAA", "sk-***"),
    ("use AIzaSyA-1234567890abcdefghijklmnopqrstu", "use AIza***"),
    ("slack xoxb-123456789012-abcdef", "slack xoxb-***"),
    ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_***"),
    ("aws AKIAIOSFODNN7EXAMPLE.", "aws AKIA***."),
    ("Authorization: Bearer abc.def-ghi", "Authorization: ***"),
    ("{'authorization': 'Bearer abcdefgh'}", "{'authorization': '***'}"),
    ('{"api_key": "plain-value", "n": 1}', '{"api_key": "***", "n": 1}'),
    ("(b'x-api-key', b'plain-value')", "(b'x-api-key', b'***')"),
    ("password=hunter2hunter2 failed", "password=*** failed"),
    ("client_secret='s3cr3t-value'", "client_secret='***'"),
    ("postgresql://user:pa55word@db:5432/t", "postgresql://***@db:5432/t"),
    ("redis://:pa55word@cache/0", "redis://***@cache/0"),
    ("GET https://api.example/v1?key=abc&alt=sse", "GET https://api.example/v1?key=***&alt=sse"),
    ("https://hooks.slack.com/services/T0/B0/xyz", "https://hooks.slack.com/***"),
    ("token eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0x.sig", "token ***"),
    ("k1:" + "A" * 43 + "=", "k1:***"),
    ("-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----.", "-----BEGIN PRIVATE KEY-----***."),
    ("our own-literal-value here", "our *** here"),
]
HARMLESS = [
    "request 0199-aa of tenant acme took 12 ms, input_tokens=12 output_tokens=7",
    "model gpt-4o-mini at https://api.openai.com/v1/chat/completions answered 200",
    "task-bold risk-free whisk-ey: nothing to mask",
    "GET /t/acme/keys/?show=all 200",
]


@pytest.mark.parametrize(("text", "masked"), SECRETS)
def test_masks_what_is_secret_and_says_what_it_was(text, masked):
    assert Scrubber(["own-literal-value"]).text(text) == masked


@pytest.mark.parametrize("text", HARMLESS)
def test_leaves_the_rest(text):
    assert Scrubber(["own-literal-value"]).text(text) == text


@pytest.mark.parametrize(
    "formatter",
    [logging.Formatter("%(message)s"), DefaultFormatter("%(message)s"), TaskFormatter("%(message)s")],
    ids=["standard", "uvicorn", "celery"],
)
def test_a_traceback_with_a_secret_in_its_message_does_not_show_it(formatter):
    logger, seen = listening(formatter)
    try:
        raise RuntimeError(f"provider said no to {KEY}")
    except RuntimeError:
        logger.exception("call with %s failed", {"api_key": "plain-value"})
    assert "Q" * 43 not in seen.getvalue()
    assert "plain-value" not in seen.getvalue()
    assert "RuntimeError: provider said no to th_0123456789ab_***" in seen.getvalue()


def test_an_exception_behind_an_exception_is_masked_too():
    logger, seen = listening(logging.Formatter("%(message)s"))
    try:
        try:
            raise ValueError("password=hunter2hunter2")
        except ValueError as error:
            raise RuntimeError("outer") from error
    except RuntimeError:
        logger.exception("failed")
    assert "hunter2" not in seen.getvalue()
    assert "ValueError: password=***" in seen.getvalue()


def test_a_call_whose_arguments_do_not_fit_is_masked():
    logger, seen = listening(logging.Formatter("%(message)s"))
    logger.warning("%d %d", f"Bearer {KEY}")  # noqa: PLE1206 - the mistake is the point
    assert "Q" * 43 not in seen.getvalue()
    assert seen.getvalue().startswith("%d %d (")


def test_the_access_log_keeps_its_form():
    seen = io.StringIO()
    handler = logging.StreamHandler(seen)
    handler.setFormatter(
        AccessFormatter('%(client_addr)s "%(request_line)s" %(status_code)s', use_colors=False)
    )
    record = Scrubber().record(
        "uvicorn.access", logging.INFO, "", 0, '%s - "%s %s HTTP/%s" %d',
        ("1.2.3.4:5", "GET", "/v1/models?key=abcdef", "1.1", 200), None,
    )  # fmt: skip
    handler.handle(record)
    assert seen.getvalue() == '1.2.3.4:5 "GET /v1/models?key=*** HTTP/1.1" 200 OK\n'


@pytest.mark.parametrize(
    "crash",
    [
        "raise RuntimeError('no ' + secret)",
        "import threading; t = threading.Thread(target=lambda: open(secret)); t.start(); t.join()",
        "import celery.app.log, gateway.celery as c; c.app.log.setup(); c.app.log.get_default_logger().error(secret)",
    ],
    ids=["main", "thread", "celery"],
)
def test_a_process_with_our_settings_prints_no_secret(crash):
    code = f"import django; django.setup(); secret = 'sk-' + 'abc'*9 + ' {os.environ['SECRET_KEY']}'; {crash}"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "gateway.settings"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    printed = done.stdout + done.stderr
    assert "abcabc" not in printed
    assert os.environ["SECRET_KEY"] not in printed
    assert "sk-*** ***" in printed


def listening(formatter):
    """A logger of its own whose records our settings have made, and what it has written."""
    seen = io.StringIO()
    handler = logging.StreamHandler(seen)
    handler.setFormatter(formatter)
    logger = logging.Logger("tests.scrubbing")
    logger.addHandler(handler)
    return logger, seen
