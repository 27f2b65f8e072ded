"""The ground under every test: a private PostgreSQL and Redis, fresh secrets, then the Django settings.

One pair of servers per run, also under xdist: its workers get a database each (pytest-django) and a Redis
database number each. The developer's own DATABASE_URL and REDIS_URL are never touched: only
TEST_DATABASE_URL and TEST_REDIS_URL choose other servers.

The settings are named here and not in pyproject.toml, because pytest-django would load them there before
any conftest could start the servers.
"""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from gateway.embedded import services
from gateway.environment import new_secrets

_started = contextlib.ExitStack()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("help") or config.getoption("version"):
        return
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is None:
        _start_services()
    else:
        number = int(worker.removeprefix("gw")) + 1
        os.environ["REDIS_URL"] = _with_redis_database(os.environ["REDIS_URL"], number)
    os.environ["DJANGO_SETTINGS_MODULE"] = "gateway.settings"
    _load_settings()
    # An xdist worker inherits this environment. Were the module named there, pytest-django would load the
    # settings before this function has given the worker its own Redis database, and all would share one.
    del os.environ["DJANGO_SETTINGS_MODULE"]


def _load_settings() -> None:
    """Load the settings, which pytest-django then sets Django up with. Static files are served from where
    they lie, since no test wants to wait for collectstatic."""
    from django.conf import settings

    settings.STORAGES["staticfiles"]["BACKEND"] = "django.contrib.staticfiles.storage.StaticFilesStorage"
    settings.WHITENOISE_USE_FINDERS = True
    settings.TOLLHOUSE_AUDIT_STRICT = True  # a console action that writes in silence fails its test
    settings.STATIC_ROOT.mkdir(parents=True, exist_ok=True)  # whitenoise warns where there is none


def pytest_unconfigure() -> None:
    _started.close()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A browser test without a browser skips on a workplace; on CI it must not pass unseen."""
    if item.get_closest_marker("browser") and not find_chromium():
        reason = "no Chromium on PATH (Debian: apt-get install chromium)"
        if os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


def find_chromium() -> str | None:
    """The path of this machine's Chromium or Chrome, None without one."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for name in names if (path := shutil.which(name))), None)


def _start_services() -> None:
    root = Path(tempfile.mkdtemp(prefix="tollhouse-test-"))
    _started.callback(shutil.rmtree, root)
    os.environ |= new_secrets()
    os.environ["TOLLHOUSE_DATA"] = str(root)
    database_url = os.environ.get("TEST_DATABASE_URL")
    redis_url = os.environ.get("TEST_REDIS_URL")
    if not (database_url and redis_url):
        urls = _started.enter_context(services(root, is_durable=False))
        database_url = database_url or urls.database_url
        redis_url = redis_url or urls.redis_url
    assert database_url
    assert redis_url
    os.environ["DATABASE_URL"] = database_url
    os.environ["REDIS_URL"] = redis_url


def _with_redis_database(url: str, number: int) -> str:
    """The same server, another database: by ?db= for sockets, by path for TCP."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return f"unix://{parts.path}?db={number}"
    return urlunsplit(parts._replace(path=f"/{number}"))
