"""The console in a real browser: journeys, themes, accessibility, and a content security policy that holds.

Needs Debian's Chromium. Screenshots of every page land in tests/e2e/screenshots, for people to look at.
"""

import os
import re
import shutil
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from uuid import UUID

import pytest
from django.db import connection
from django.urls import resolve
from django.utils import timezone

from routing.models import Feature, RoutingPolicy
from tenants.models import ApiKey, Tenant
from tests.gateway import console_world
from tests.gateway.test_console import console_patterns

pytestmark = pytest.mark.browser

HERE = Path(__file__).parent
AXE = HERE / "vendor" / "axe.min.js"
SCREENSHOTS = HERE / "screenshots"
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
AXE_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
KEY_TEXT = re.compile(r"^th_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}$")
WIDTHS = (1280, 390)

ONLY_POSTED = {"session_end", "sessions_end"}  # of the signed-in person, who needs no scope for them
FRAGMENTS = {"home", "platform_live", "tenant_live", "tenant_first_call"}  # no pages of their own
FILES = {
    f"{place}{name}"
    for place in ("", "tenant_")
    for name in (
        "invoice_pdf",
        "invoice_xml",
        "invoice_csv",
        "invoice_calls_csv",
        "credit_note_pdf",
        "credit_note_xml",
    )
} | {
    "margin_csv",
    "account_statement_csv",
    "audit_export",
    "tenant_audit_export",
    "tenant_certificate_export",
    "residency_csv",
}
OPERATOR_PAGES = {
    "platform-home": "/platform/",
    "platform-requests": "/platform/requests/",
    "platform-keys": "/platform/keys/",
    "encryption": "/platform/encryption/",
    "platform-request": "/platform/requests/{request_id}/",
    "platform-request-failed": "/platform/requests/{failed_id}/",
    "replays": "/platform/replays/",
    "replay-new": "/platform/replays/new/?policy=cheap-first",
    "replay": "/platform/replays/{replay_id}/",
    "policies": "/platform/policies/",
    "policy": "/platform/policies/{policy_id}/",
    "policy-new": "/platform/policies/new/",
    "policy-edit": "/platform/policies/{policy_id}/edit/",
    "policy-diff": "/platform/policies/{policy_id}/diff/",
    "features": "/platform/features/",
    "privacy": "/platform/privacy/",
    "privacy-new": "/platform/privacy/new/",
    "privacy-profile": "/platform/privacy/{operators_profile_id}/",
    "feature-new": "/platform/features/new/",
    "feature": "/platform/features/{feature_id}/",
    "experiments": "/platform/experiments/",
    "experiment-new": "/platform/experiments/new/",
    "experiment": "/platform/experiments/tone/",
    "rollouts": "/platform/experiments/rollouts/",
    "rollout-new": "/platform/experiments/rollouts/new/",
    "rollout": "/platform/experiments/rollouts/go-careful/",
    "certificates": "/platform/certificates/?verify=1",
    "kill-switches": "/platform/kill-switches/?kind=provider&target=openai",
    "budgets": "/platform/budgets/",
    "budget-new": "/platform/budgets/new/",
    "budget": "/platform/budgets/{budget_id}/",
    "alerts": "/platform/budgets/alerts/",
    "alert": "/platform/budgets/alerts/{platform_alert_id}/",
    "deliveries": "/platform/budgets/deliveries/",
    "rules": "/platform/budgets/rules/",
    "rule-new": "/platform/budgets/rules/new/",
    "rule": "/platform/budgets/rules/{platform_rule_id}/",
    "channels": "/platform/budgets/channels/",
    "channel-new": "/platform/budgets/channels/new/",
    "channel": "/platform/budgets/channels/{platform_channel_id}/",
    "billing": "/platform/billing/",
    "margin": "/platform/billing/margin/?by=tenant&then=model&span=90d",
    "margin-losing": "/platform/billing/margin/?by=feature&losing=on",
    "bills": "/platform/billing/bills/",
    "bill-source-new": "/platform/billing/bills/sources/new/",
    "bill-source": "/platform/billing/bills/sources/openai-bills/",
    "bill-run": "/platform/billing/bills/runs/{run_id}/",
    "re-ratings": "/platform/billing/re-ratings/",
    "re-rating-new": "/platform/billing/re-ratings/new/",
    "re-rating": "/platform/billing/re-ratings/{rerating_id}/",
    "plans": "/platform/billing/plans/",
    "plan": "/platform/billing/plans/scale-up/",
    "plan-new": "/platform/billing/plans/new/",
    "plan-edit": "/platform/billing/plans/scale-up/edit/",
    "wallet-as-operator": "/t/acme/billing/wallet/",
    "invoices": "/platform/billing/invoices/",
    "invoice-draft-new": "/platform/billing/invoices/draft/",
    "invoice": "/platform/billing/invoices/{invoice_id}/",
    "invoice-draft": "/platform/billing/invoices/{draft_id}/",
    "invoice-calls": "/platform/billing/invoices/{invoice_id}/lines/{position}/",
    "invoice-credit": "/platform/billing/invoices/{invoice_id}/credit/",
    "credit-note": "/platform/billing/credit-notes/{note_id}/",
    "sellers": "/platform/billing/sellers/",
    "seller-new": "/platform/billing/sellers/new/",
    "seller": "/platform/billing/sellers/tollhouse-de/",
    "tax-new": "/platform/billing/taxes/new/",
    "tax": "/platform/billing/taxes/{rate_id}/",
    "coupons": "/platform/billing/coupons/",
    "coupon-new": "/platform/billing/coupons/new/",
    "billing-details": "/t/acme/billing/details/",
    "tenants": "/platform/tenants/",
    "tenant-new": "/platform/tenants/new/",
    "providers": "/platform/providers/",
    "provider": "/platform/providers/openai/",
    "provider-new": "/platform/providers/new/",
    "provider-edit": "/platform/providers/vllm/edit/",
    "models": "/platform/models/",
    "health": "/platform/health/",
    "health-provider": "/platform/health/openai/",
    "audit": "/platform/audit/?action=key.&since=2026-01-01",
    "audit-empty": "/platform/audit/?actor=nobody-at-all",
    "audit-event": "/platform/audit/events/{platform_event_id}/",
    "audit-proof": "/platform/audit/verify/",
    "audit-sinks": "/platform/audit/sinks/",
    "audit-sink-new": "/platform/audit/sinks/new/",
    "audit-sink": "/platform/audit/sinks/{platform_sink_id}/",
    "approvals": "/platform/approvals/",
    "approval": "/platform/approvals/{platform_proposal_id}/",
    "tenant-as-operator": "/t/acme/settings/",
    "tenant-suspended": "/t/late-payer/",
    "not-found": "/t/nobody/",
}
OWNER_PAGES = {
    "home": "/t/acme/",
    "onboarding": "/t/fresh-foods/",
    "requests": "/t/acme/requests/?status=error",
    "requests-empty": "/t/fresh-foods/requests/",
    "request": "/t/acme/requests/{request_id}/",
    "keys": "/t/acme/keys/?show=all",
    "keys-empty": "/t/fresh-foods/keys/",
    "key-new": "/t/acme/keys/new/",
    "key": "/t/acme/keys/{key_id}/",
    "key-edit": "/t/acme/keys/{key_id}/edit/",
    "keys-none-unused": "/t/acme/keys/?show=unused",
    "own-provider-keys": "/t/acme/provider-keys/",
    "own-provider-keys-empty": "/t/fresh-foods/provider-keys/",
    "roles": "/t/acme/roles/",
    "roles-empty": "/t/fresh-foods/roles/",
    "role-new": "/t/acme/roles/new/",
    "role": "/t/acme/roles/auditor/",
    "service-accounts": "/t/acme/service-accounts/",
    "service-accounts-empty": "/t/fresh-foods/service-accounts/",
    "service-account": "/t/acme/service-accounts/{account_id}/",
    "tenant-privacy": "/t/acme/privacy/",
    "tenant-privacy-empty": "/t/fresh-foods/privacy/",
    "tenant-privacy-new": "/t/acme/privacy/new/",
    "tenant-privacy-profile": "/t/acme/privacy/{profile_id}/",
    "data": "/t/acme/settings/data/",
    "data-empty": "/t/fresh-foods/settings/data/",
    "tenant-certificates": "/t/acme/settings/data/certificates/?verify=1",
    "tenant-certificates-empty": "/t/fresh-foods/settings/data/certificates/",
    "residency": "/t/acme/settings/data/residency/",
    "residency-empty": "/t/fresh-foods/settings/data/residency/",
    "tenant-budgets": "/t/acme/budgets/",
    "tenant-budgets-empty": "/t/fresh-foods/budgets/",
    "tenant-budget-new": "/t/acme/budgets/new/",
    "tenant-budget": "/t/acme/budgets/{budget_id}/",
    "tenant-alerts": "/t/acme/budgets/alerts/",
    "tenant-alerts-empty": "/t/fresh-foods/budgets/alerts/",
    "tenant-alert": "/t/acme/budgets/alerts/{alert_id}/",
    "tenant-deliveries": "/t/acme/budgets/deliveries/",
    "tenant-rules": "/t/acme/budgets/rules/",
    "tenant-rule-new": "/t/acme/budgets/rules/new/",
    "tenant-rule": "/t/acme/budgets/rules/{rule_id}/",
    "tenant-channels": "/t/acme/budgets/channels/",
    "tenant-channels-empty": "/t/fresh-foods/budgets/channels/",
    "tenant-channel-new": "/t/acme/budgets/channels/new/",
    "tenant-channel": "/t/acme/budgets/channels/{channel_id}/",
    "tenant-invoices": "/t/acme/billing/",
    "tenant-invoices-empty": "/t/fresh-foods/billing/",
    "tenant-invoice": "/t/acme/billing/invoices/{invoice_id}/",
    "tenant-invoice-calls": "/t/acme/billing/invoices/{invoice_id}/lines/{position}/",
    "tenant-credit-note": "/t/acme/billing/credit-notes/{note_id}/",
    "tenant-wallet": "/t/acme/billing/wallet/",
    "tenant-wallet-empty": "/t/fresh-foods/billing/wallet/",
    "tenant-statement": "/t/acme/billing/statement/",
    "tenant-preview": "/t/acme/billing/preview/",
    "tenant-billing-details": "/t/acme/billing/details/",
    "members": "/t/acme/members/",
    "sign-in-settings": "/t/acme/settings/sign-in/",
    "sign-in-settings-empty": "/t/fresh-foods/settings/sign-in/",
    "sso-new": "/t/acme/settings/sign-in/new/",
    "sso": "/t/acme/settings/sign-in/{connection_id}/",
    "tenant-models": "/t/acme/models/",
    "tenant-audit": "/t/acme/audit/",
    "tenant-audit-event": "/t/acme/audit/events/{event_id}/",
    "tenant-audit-proof": "/t/acme/audit/verify/?anchor=1:00",
    "tenant-audit-sinks": "/t/acme/audit/sinks/",
    "tenant-audit-sinks-empty": "/t/fresh-foods/audit/sinks/",
    "tenant-audit-sink-new": "/t/acme/audit/sinks/new/",
    "tenant-audit-sink": "/t/acme/audit/sinks/{sink_id}/",
    "tenant-approvals": "/t/acme/approvals/",
    "tenant-approvals-empty": "/t/fresh-foods/approvals/?state=any",
    "tenant-approval": "/t/acme/approvals/{proposal_id}/",
    "settings": "/t/acme/settings/",
    "account": "/account/",
    "password-change": "/accounts/password/change/",
    "sign-out": "/accounts/logout/",
}
GUEST_PAGES = {
    "sign-in": "/accounts/login/",
    "password-reset": "/accounts/password/reset/",
    "password-reset-done": "/accounts/password/reset/done/",
    "sign-up-closed": "/accounts/signup/",
}


# ------------------------------------------------------------------ the ground


@pytest.fixture(scope="module")
def world(django_db_setup, django_db_blocker):
    """Rows that the server's threads see too. Emptied afterwards, as audit and ledger rows refuse a flush."""
    with django_db_blocker.unblock():
        # pytest-django makes no database unless some collected test is marked django_db.
        assert connection.settings_dict["NAME"].startswith("test_")
        kept = _rows()
        built = console_world.build(now=timezone.now(), calls=400)
        yield built
        empty(kept)
        connection.close()


def _rows():
    """The seeded rows of the tables that `empty` leaves alone."""
    from billing.models import Plan

    return list(Plan.objects.values_list("id", flat=True))


def empty(kept_plans):
    from billing.models import Plan, PlanVersion, Subscription

    tables = (
        "tenants_membership, tenants_serviceaccount, tenants_customrole, tenants_apikey, tenants_datakey,"
        " tenants_auditevent, tenants_audithead,"
        " tenants_auditcheckpoint, tenants_auditsink, tenants_proposal,"
        " tenants_idempotencyrecord, tenants_configversion, routing_credential, routing_endpoint,"
        " routing_costrate, routing_model, routing_killswitch,"
        " routing_routingpolicyversion, routing_routingpolicy, routing_provider, billing_usage_event,"
        " billing_usage_hour, billing_usage_key_hour, billing_usage_latency_hour, billing_overhead_hour,"
        " gateway_privacybinding, gateway_privacyprofile, gateway_content, gateway_contentdaykey,"
        " gateway_deletioncertificate, gateway_erasure, tenants_retentionsetting, tenants_legalhold,"
        " gateway_request_log, gateway_replay, gateway_shadowsample, gateway_feedback, billing_budget,"
        " billing_alertchannel, billing_alertrule, billing_alertfiring, billing_alertdelivery,"
        " billing_invoice, billing_creditnote, billing_legalentity, billing_taxrate, billing_billingprofile,"
        " billing_coupon, billing_wallet, billing_payment, billing_billsource,"
        " billing_subscriptionchange, billing_rerating,"
        " tenants_invitation, tenants_ssoconnection, tenants_signinsetting,"
        " mfa_authenticator, socialaccount_socialaccount, usersessions_usersession"
    )
    with connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
        cursor.execute(f"TRUNCATE {tables} CASCADE")
        cursor.execute("DELETE FROM tenants_tenant")
        cursor.execute("DELETE FROM tenants_user")
        cursor.execute("SET session_replication_role = DEFAULT")
    Subscription.objects.all().delete()
    PlanVersion.objects.exclude(plan__in=kept_plans).delete()
    Plan.objects.exclude(id__in=kept_plans).delete()


@pytest.fixture(scope="module")
def server(world):
    from pytest_django.live_server_helper import LiveServer

    live = LiveServer("localhost")
    yield live.url
    live.stop()


@pytest.fixture(scope="module")
def browser():
    if not Path(CHROMIUM).exists():
        if os.environ.get("CI"):
            pytest.fail(f"no Chromium at {CHROMIUM}, and CI must not skip")
        pytest.skip(f"no Chromium at {CHROMIUM}: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    # Playwright runs a loop in this thread, which Django takes for an asynchronous caller.
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()
    del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]


@pytest.fixture(autouse=True)
def _unblocked(django_db_blocker):
    with django_db_blocker.unblock():
        yield


@pytest.fixture
def visit(browser, server):
    """Open a page as somebody; every script error and every blocked resource fails the test."""
    contexts, complaints = [], []

    def open_as(user=None, *, width=1280, theme="light"):
        context = browser.new_context(
            base_url=server,
            viewport={"width": width, "height": 900},
            color_scheme=theme,
            reduced_motion="reduce",
            permissions=["clipboard-read", "clipboard-write"],
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: _complain(complaints, message))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        if user is not None:
            page.goto("/accounts/login/")
            page.get_by_label("Email").fill(user.email)
            page.get_by_label("Password").fill(console_world.PASSWORD)
            page.get_by_role("button", name="Sign in", exact=True).click()
            page.wait_for_url(lambda url: "/accounts/" not in url)
        return page

    yield open_as
    for context in contexts:
        context.close()
    assert complaints == []


def _complain(complaints, message):
    """Everything a browser says aloud, except that a page's own status was an error (404, 422)."""
    is_status = message.text.startswith("Failed to load resource: the server responded with a status of 4")
    if message.type in ("error", "warning") and not (
        is_status and "/static/" not in message.location.get("url", "")
    ):
        complaints.append(message.text)


def violations(page):
    """What axe finds wrong, as readable lines, once every transition has come to its end."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    page.evaluate("() => Promise.allSettled(document.getAnimations().map(each => each.finished))")
    page.evaluate(AXE.read_text())
    found = page.evaluate("rules => axe.run(document, {runOnly: rules})", AXE_RULES)
    return [
        f"{each['id']}: {node['target']} {node.get('failureSummary', '')}"
        for each in found["violations"]
        for node in each["nodes"]
    ]


def ids_of(world):
    """What the paths above leave open."""
    return {
        "request_id": world.request_id,
        "failed_id": world.failed_id,
        "key_id": world.key.id,
        "account_id": world.account_id,
        "replay_id": world.replay.id,
        **asdict(world.money),
        "policy_id": RoutingPolicy.objects.get(slug="eu-careful").id,
        "feature_id": Feature.objects.get(slug="search").id,
        **{
            f"platform_{name}": value
            for name, value in console_world.trail_ids(world.acme, is_platform=True).items()
        },
        "operators_profile_id": console_world.privacy_ids(world.acme, is_platform=True)["profile_id"],
        **console_world.privacy_ids(world.acme, is_platform=False),
        **console_world.trail_ids(world.acme, is_platform=False),
        **console_world.sign_in_ids(world.acme),
    }


def look_at(page, *, name, path, theme, width, world):
    """Visit, keep a screenshot, and say what is wrong with it."""
    page.goto(path.format(**ids_of(world)))
    page.wait_for_load_state("networkidle")
    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}-{width}-{theme}.png", full_page=True)
    problems = [f"{name}: {each}" for each in violations(page)]
    overflow_px = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return problems + ([f"{name}: {overflow_px} px too wide"] if overflow_px > 0 else [])


# ------------------------------------------------------------------ every page


@pytest.mark.django_db  # it needs none, but makes pytest-django create the one that `world` fills
def test_the_browser_looks_at_every_page():
    seen = set()
    for path in (*OPERATOR_PAGES.values(), *OWNER_PAGES.values(), *GUEST_PAGES.values()):
        concrete = (
            path.partition("?")[0].replace("{position}", "1").format_map(defaultdict(lambda: UUID(int=1)))
        )
        seen.add(resolve(concrete).url_name)
    pages = {each.name for _, each in console_patterns() if each.callback.console_access.read is not None}
    assert pages - FRAGMENTS - FILES - ONLY_POSTED <= seen


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("person", ["operator", "owner", None])
def test_pages_are_accessible_fit_and_keep_the_policy(person, width, theme, visit, world):
    pages = {"operator": OPERATOR_PAGES, "owner": OWNER_PAGES, None: GUEST_PAGES}[person]
    page = visit(getattr(world, person) if person else None, width=width, theme=theme)
    problems = []
    for name, path in pages.items():
        problems += look_at(page, name=name, path=path, theme=theme, width=width, world=world)
    assert problems == []


def test_a_page_stays_within_its_budget_of_script_and_style(visit, world):
    sizes = {}
    page = visit(world.operator)
    page.on("response", lambda answer: sizes.update({answer.url: answer}))
    page.goto("/platform/")
    page.wait_for_load_state("networkidle")
    import gzip

    bodies = [a.body() for url, a in sizes.items() if url.endswith((".js", ".css"))]
    assert len(bodies) == 3
    assert sum(len(gzip.compress(body)) for body in bodies) < 200 * 1024


# ------------------------------------------------------------------ journeys


def test_a_developer_makes_copies_and_revokes_a_key(visit, world):
    page = visit(world.developer)
    page.get_by_role("link", name="API keys").click()
    page.get_by_role("link", name="New key").click()
    page.get_by_role("textbox", name="Name").fill("Browser test")
    page.get_by_label("Requests per minute").fill("60")
    page.get_by_role("button", name="Create key").click()
    page.get_by_text("Copy it now.").wait_for()
    page.get_by_role("button", name="Copy").first.click()
    text = page.evaluate("navigator.clipboard.readText()")
    assert KEY_TEXT.match(text)
    page.get_by_text("Python, with the OpenAI client").wait_for()
    assert violations(page) == []
    page.get_by_role("link", name="I have copied it").click()
    page.get_by_role("link", name="Browser test").click()
    assert text not in page.content()

    page.get_by_role("button", name="Revoke").click()
    sure = page.get_by_role("button", name="Revoke for good")
    assert sure.is_disabled()
    page.get_by_label("to confirm").fill("Browser")
    assert sure.is_disabled()
    page.get_by_label("to confirm").fill("Browser test")
    assert violations(page) == []
    sure.click()
    page.get_by_text("Calls with it are refused from now on.").wait_for()
    key = ApiKey.objects.get(name="Browser test")
    assert (key.limit_rpm, key.revoked_at is not None) == (60, True)


def test_rotating_shows_a_second_text_and_when_the_first_ends(visit, world):
    page = visit(world.developer)
    page.goto(f"/t/acme/keys/{ApiKey.objects.get(name='Nightly batch').id}/")
    page.get_by_role("button", name="Rotate").click()
    page.get_by_label("Keep the old key working for").select_option(label="7 days")
    page.get_by_role("dialog").get_by_role("button", name="Rotate").click()
    page.get_by_text("Exchange it before then.").wait_for()
    assert KEY_TEXT.match(page.locator("#key-text").inner_text())


def test_an_operator_suspends_and_activates_a_tenant(visit, world):
    page = visit(world.operator)
    page.goto("/t/nordlicht/settings/")
    page.get_by_role("button", name="Suspend").click()
    page.get_by_label("to confirm").fill("nordlicht")
    page.get_by_role("dialog").get_by_role("button", name="Suspend").click()
    page.get_by_text("This tenant is suspended.").wait_for()
    assert Tenant.objects.get(slug="nordlicht").status == "suspended"
    page.get_by_role("button", name="Activate").click()
    page.get_by_text("is active again").wait_for()
    assert Tenant.objects.get(slug="nordlicht").status == "active"


def test_a_call_is_simulated_beside_an_unsaved_edit_and_a_version_rolled_back(visit, world):
    policy = RoutingPolicy.objects.get(slug="eu-careful")
    page = visit(world.operator)
    page.goto(f"/platform/policies/{policy.id}/edit/")
    page.get_by_label("Regions").fill("ch")
    page.get_by_role("button", name="Simulate").click()
    page.locator("#simulated").get_by_text("region_unavailable").wait_for()
    page.get_by_label("Regions").fill("")
    page.get_by_label("Fallback").fill("mistral-small @ vllm")
    page.get_by_role("button", name="Simulate").click()
    page.locator("#simulated").get_by_text("vllm/mistral-small").wait_for()
    assert policy.versions.count() == 3
    page.goto(f"/platform/policies/{policy.id}/")
    page.get_by_role("button", name="Roll back to version 1").click()
    page.get_by_role("dialog").get_by_role("button", name="Roll back").click()
    page.get_by_text("Version 1 is in force again, as version 4.").wait_for()
    assert policy.versions.count() == 4


def test_a_dialog_gives_the_focus_back(visit, world):
    page = visit(world.developer)
    page.goto(f"/t/acme/keys/{world.key.id}/")
    page.get_by_role("button", name="Revoke").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "revoke-confirm"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.dataset.openDialog") == "revoke"


def test_the_first_tab_stop_skips_to_the_content(visit, world):
    page = visit(world.developer)
    page.goto("/t/acme/keys/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_the_chosen_theme_outlives_the_page(visit, world):
    page = visit(world.developer, theme="light")
    toggle = page.locator("[data-theme-toggle]")
    themes = []
    for _ in range(3):
        toggle.click()
        page.reload()
        themes.append(page.evaluate("document.documentElement.dataset.theme ?? 'system'"))
    assert themes == ["light", "dark", "system"]


def test_the_home_page_follows_new_calls_without_a_reload(visit, world):
    page = visit(world.operator)
    page.goto("/platform/?period=1h")
    before = page.locator("#figures dd").first.inner_text()
    console_world.add_calls(world, now=timezone.now(), count=25)
    page.wait_for_function(
        "before => document.querySelector('#figures dd').innerText !== before", arg=before, timeout=20_000
    )
    page.get_by_role("button", name="Live").click()
    assert page.get_by_role("button", name="Live").get_attribute("aria-pressed") == "false"


def test_on_a_phone_the_menu_opens_by_its_button(visit, world):
    page = visit(world.developer, width=390)
    link = page.get_by_role("link", name="API keys")
    assert not link.is_visible()
    page.get_by_role("button", name="Menu").click()
    link.click()
    page.wait_for_url("**/keys/")


def test_a_filter_keeps_its_place_in_the_address(visit, world):
    page = visit(world.operator)
    page.goto("/platform/requests/")
    page.get_by_label("Status").select_option("error")
    page.wait_for_url("**status=error**")
    codes = page.locator("#request-rows tbody td:nth-child(2)").all_inner_texts()
    assert codes
    assert all(int(code) >= 400 for code in codes)
