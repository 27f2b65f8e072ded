"""Signing in with a real browser: a passkey by Chromium's virtual authenticator, a code, a real local provider."""

import re
import time

import pytest
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal.auth import format_hotp_value, hotp_value
from allauth.usersessions.models import UserSession
from django.core.cache import cache
from django.db import connection
from django.utils import timezone

from tenants import oidc, sso
from tenants.models import Membership
from tenants.principal import SYSTEM
from tests.e2e.test_console_browser import (  # noqa: F401 - fixtures of the same browser and server
    SCREENSHOTS,
    WIDTHS,
    _unblocked,
    browser,
    server,
    violations,
    visit,
    world,
)
from tests.fakes import oidc_provider
from tests.gateway import console_world

pytestmark = pytest.mark.browser


@pytest.mark.django_db  # it needs none, but makes pytest-django create the one that `world` fills
def test_there_is_a_database():
    assert connection.settings_dict["NAME"].startswith("test_")


@pytest.fixture(autouse=True)
def _fresh(browser, world):  # noqa: F811 - the browser first: `world` must close its connection before the loop ends
    """Nobody has a second factor, and nobody has tried anything yet."""
    cache.clear()
    Authenticator.objects.all().delete()


def device(page):
    """A device that holds passkeys and whose owner always agrees."""
    session = page.context.new_cdp_session(page)
    session.send("WebAuthn.enable")
    options = {
        "protocol": "ctap2",
        "transport": "internal",
        "hasResidentKey": True,
        "hasUserVerification": True,
        "isUserVerified": True,
        "automaticPresenceSimulation": True,
    }
    session.send("WebAuthn.addVirtualAuthenticator", {"options": options})
    return session


def type_password(page, user):
    page.get_by_label("Email").fill(user.email)
    page.get_by_label("Password").fill(console_world.PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()


def confirm(page):
    page.get_by_label("Password").fill(console_world.PASSWORD)
    page.get_by_role("button", name="Confirm").click()


def sign_out(page):
    page.goto("/accounts/logout/")
    page.get_by_role("button", name="Sign out", exact=True).last.click()
    page.wait_for_url("**/accounts/login/**")


def look(page, name):
    """Keep a screenshot, and say what axe finds wrong or what sticks out."""
    page.wait_for_load_state("networkidle")
    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)
    found = violations(page)
    wide = page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
    return found + (["the page scrolls sideways"] if wide else [])


def test_a_passkey_replaces_the_password_and_stands_behind_it(visit, world):  # noqa: F811 - fixtures
    page = visit(world.owner)
    device(page)
    page.goto("/accounts/2fa/")
    page.get_by_role("link", name="Add a passkey").click()
    confirm(page)
    page.get_by_label("Name").fill("My laptop")
    page.get_by_label("Passwordless").check()
    page.get_by_role("button", name="Add the passkey").click()
    page.wait_for_url("**/recovery-codes/")
    assert page.locator("li").filter(has_text=re.compile(r"^\d{8}$")).count() == 10
    sign_out(page)
    page.get_by_role("button", name="Sign in with a passkey").click()
    page.wait_for_url(lambda url: "/accounts/" not in url)
    page.goto("/account/")
    assert page.get_by_text("Passkey: asked for when you sign in.").is_visible()
    sign_out(page)
    type_password(page, world.owner)
    page.get_by_role("heading", name="Second step").wait_for()
    page.get_by_role("button", name="Use a passkey").click()
    page.wait_for_url(lambda url: "/accounts/" not in url)
    assert Authenticator.objects.get(type="webauthn").last_used_at is not None


def test_a_code_of_an_app_is_asked_for(visit, world):  # noqa: F811 - fixtures
    page = visit(world.viewer)
    page.goto("/accounts/2fa/")
    page.get_by_role("link", name="Set up an app").click()
    confirm(page)
    secret = page.locator("code").first.inner_text()
    page.get_by_label("code").fill(format_hotp_value(hotp_value(secret, int(time.time()) // 30)))
    page.get_by_role("button", name="Activate").click()
    page.wait_for_url("**/recovery-codes/")
    sign_out(page)
    type_password(page, world.viewer)
    page.get_by_role("heading", name="Second step").wait_for()
    page.get_by_label("Code").fill(format_hotp_value(hotp_value(secret, int(time.time()) // 30)))
    page.get_by_role("button", name="Sign in", exact=True).click()
    page.wait_for_url(lambda url: "/accounts/" not in url)


def test_somebody_comes_in_through_their_workspaces_provider(visit, world, server, settings):  # noqa: F811
    with oidc_provider.running() as provider:
        settings.TOLLHOUSE_EGRESS_ALLOWED_HOSTS = [provider.host]
        settings.PUBLIC_URL = server
        made = sso.create_connection(
            tenant=world.fresh, name="Fresh ID", issuer=provider.issuer, client_id=oidc_provider.CLIENT_ID,
            client_secret=oidc_provider.CLIENT_SECRET, domains=["fresh.example"], default_role="viewer",
            actor=SYSTEM,
        )  # fmt: skip
        sso.confirm_domain(connection=made, domain="fresh.example", actor=SYSTEM, now=timezone.now())
        provider.redirect_uri = oidc.callback_url(made)
        provider.person["email"] = "fay@fresh.example"
        page = visit()
        page.goto("/accounts/login/")
        page.get_by_role("link", name="Sign in with SSO").click()
        page.get_by_label("E-mail").fill("fay@fresh.example")
        page.get_by_role("button", name="Go on").click()
        page.wait_for_url("**/t/fresh-foods/")
        assert page.get_by_role("heading", level=1).first.is_visible()
        assert provider.refusals == []
    assert Membership.objects.get(user__email="fay@fresh.example").role == "viewer"


def test_a_session_is_ended_from_another_browser(visit, world):  # noqa: F811 - fixtures
    UserSession.objects.filter(user=world.developer).delete()
    here, there = visit(world.developer), visit(world.developer)
    here.goto("/account/")
    here.get_by_role("button", name="Sign out everywhere else").click()
    here.get_by_text("Signed out of 1 other device.").wait_for()
    there.goto("/account/")
    there.wait_for_url("**/accounts/login/**")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_pages_of_signing_in_are_clean(visit, world, theme, width):  # noqa: F811
    wrong = {}

    def see(name):
        if found := look(page, f"{name}-{theme}-{width}"):
            wrong[name] = found

    page = visit(width=width, theme=theme)
    for name, path in (
        ("door", "/accounts/login/"),
        ("door-sso", "/accounts/sso/"),
        ("door-sso-cancelled", "/accounts/sso/cancelled/"),
        ("door-invitation-dead", "/accounts/invitations/none/"),
        ("door-inactive", "/accounts/inactive/"),
        ("door-signup", "/accounts/signup/"),
    ):
        page.goto(path)
        see(name)
    page = visit(world.stranger, width=width, theme=theme)
    page.goto("/account/")
    see("account")
    page.goto("/accounts/2fa/")
    see("factors-none")
    page.goto("/accounts/2fa/totp/activate/")
    see("confirm")
    confirm(page)
    page.get_by_role("button", name="Activate").wait_for()
    see("app-new")
    page.goto("/accounts/2fa/webauthn/add/")
    see("passkey-new")
    device(page)
    page.get_by_role("button", name="Add the passkey").click()
    page.wait_for_url("**/recovery-codes/")
    see("recovery-codes")
    for name, path in (
        ("factors", "/accounts/2fa/"),
        ("passkeys", "/accounts/2fa/webauthn/"),
        (
            "passkey-edit",
            f"/accounts/2fa/webauthn/keys/{Authenticator.objects.get(type='webauthn').pk}/edit/",
        ),
        (
            "passkey-remove",
            f"/accounts/2fa/webauthn/keys/{Authenticator.objects.get(type='webauthn').pk}/remove/",
        ),
        ("codes-new", "/accounts/2fa/recovery-codes/generate/"),
        ("confirm-passkey", "/accounts/2fa/webauthn/reauthenticate/"),
        ("confirm-code", "/accounts/2fa/reauthenticate/"),
        ("password-change", "/accounts/password/change/"),
        ("logout", "/accounts/logout/"),
    ):
        page.goto(path)
        see(name)
    sign_out(page)
    type_password(page, world.stranger)
    page.get_by_role("heading", name="Second step").wait_for()
    see("second-step")
    assert wrong == {}
