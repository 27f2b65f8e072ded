"""What answers tell browsers, cookies among them; and Django's own opinion of production settings."""

import os
import subprocess
import sys

import pytest
from django.db import connection
from django.test import Client

from gateway.environment import new_secrets
from tests.conftest import find_chromium

PAGES = [
    "/accounts/login/",
    "/api/v1/docs/",
    "/api/v1/schema/",
    "/healthz",
    "/nothing-here/",
    "/api/v1/nothing/",
]
EXPECTED = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@pytest.mark.parametrize("path", PAGES)
def test_every_answer_carries_the_security_headers(db, path):
    answer = Client().get(path)
    assert {name: answer.headers.get(name) for name in EXPECTED} == EXPECTED
    assert "camera=()" in answer.headers["Permissions-Policy"]
    assert "no-store" in answer.headers["Cache-Control"]
    policy = answer.headers["Content-Security-Policy"]
    assert "unsafe-inline" not in policy
    assert "unsafe-eval" not in policy
    assert "object-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy


def test_cookies_are_unreadable_for_scripts_and_stay_on_this_site(db):
    answer = Client().get("/accounts/login/")
    assert answer.cookies
    for cookie in answer.cookies.values():
        assert cookie["httponly"]
        assert cookie["samesite"] == "Lax"


def test_a_form_with_too_many_fields_is_refused(db):
    body = "&".join(f"f{number}=1" for number in range(1001))
    answer = Client().post("/accounts/login/", body, content_type="application/x-www-form-urlencoded")
    assert answer.status_code == 400


PRODUCTION = {
    "DATABASE_URL": "postgresql://tollhouse:pw@db/tollhouse",
    "REDIS_URL": "redis://redis/0",
    "PUBLIC_URL": "https://gateway.example.com",
    "ALLOWED_HOSTS": "gateway.example.com",
    "BEHIND_TLS_PROXY": "true",
    "EMAIL_URL": "smtp+tls://mail:pw@mail.example.com:587",
    "DJANGO_SETTINGS_MODULE": "gateway.settings",
}


def production(code, *, cwd=None):
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TOLLHOUSE_DATA") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-W", "error", *code],
        env=kept | new_secrets() | PRODUCTION,
        capture_output=True, text=True, check=False, cwd=cwd,
    )  # fmt: skip


def test_djangos_deployment_check_has_nothing_to_say():
    done = production(["manage.py", "check", "--deploy", "--fail-level", "DEBUG"])
    assert (done.returncode, done.stdout) == (0, "System check identified no issues (0 silenced).\n"), (
        done.stderr
    )


def test_behind_https_cookies_are_secure_and_hsts_is_sent():
    code = """
import django; django.setup()
from django.test import Client
from django.conf import settings
answer = Client().get("/healthz", secure=True, headers={"host": "gateway.example.com"})
print(answer.headers["Strict-Transport-Security"])
print(settings.SESSION_COOKIE_SECURE, settings.CSRF_COOKIE_SECURE)
print(Client().get("/accounts/login/", headers={"host": "gateway.example.com"}).headers["Location"])
"""
    done = production(["-c", code])
    assert done.stdout.splitlines() == [
        "max-age=31536000; includeSubDomains; preload",
        "True True",
        "https://gateway.example.com/accounts/login/",
    ], done.stderr


@pytest.mark.browser
def test_the_apis_page_works_under_the_policy_and_asks_no_other_host(
    django_db_setup, django_db_blocker, monkeypatch
):
    from playwright.sync_api import sync_playwright
    from pytest_django.live_server_helper import LiveServer

    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")  # playwright's loop runs in this thread
    problems, hosts = [], set()
    with django_db_blocker.unblock():
        live = LiveServer("localhost")
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
            page = browser.new_page()
            page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
            page.goto(f"{live.url}/api/v1/docs/")
            page.wait_for_selector(".opblock", timeout=60_000)
            shown = page.locator(".opblock").count()
            browser.close()
        live.stop()
        connection.close()
    assert problems == []
    assert shown > 0
    assert {host for host in hosts if host} == {live.url.removeprefix("http://")}
