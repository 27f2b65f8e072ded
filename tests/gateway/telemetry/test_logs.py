import contextvars
import json
import logging
import os
import subprocess
import sys

from gateway.telemetry.logs import JsonFormatter
from tenants.ids import request_in_hand


def line_of(record, request_id=""):
    def shown():
        request_in_hand.set(request_id)
        return JsonFormatter().format(record)

    return json.loads(contextvars.copy_context().run(shown))


def a_record(*args, exc_info=None):
    return logging.LogRecord("gateway.edge", logging.WARNING, __file__, 1, "lost %s", args, exc_info)


def test_a_line_is_one_object():
    line = line_of(a_record("two\nlines"))
    assert (line["level"], line["logger"], line["message"]) == ("WARNING", "gateway.edge", "lost two\nlines")
    assert line["time"].endswith("+00:00")
    assert "request_id" not in line


def test_a_line_names_its_request():
    assert line_of(a_record("x"), "r-1")["request_id"] == "r-1"


def test_an_exception_is_a_field():
    try:
        raise ValueError("broken")
    except ValueError:
        record = a_record("x", exc_info=sys.exc_info())
    assert line_of(record)["exception"].endswith("ValueError: broken")


def test_the_settings_take_it(settings):
    """In a process of its own: logging is set up once."""
    code = "import django, logging; django.setup(); logging.getLogger('gateway').error('hello %s', 'you')"
    ring = "k1:" + "A" * 43 + "="
    environ = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "gateway.settings",
        "LOG_FORMAT": "json",
        "SECRET_KEY": "only-for-this-test",
        "DATABASE_URL": "postgresql:///none",
        "REDIS_URL": "redis://localhost/0",
        "TOLLHOUSE_MASTER_KEYS": ring,
        "TOLLHOUSE_KEY_PEPPERS": ring,
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environ,
        cwd=settings.BASE_DIR,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stderr.splitlines()[-1])["message"] == "hello you"
