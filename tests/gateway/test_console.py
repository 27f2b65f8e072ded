"""The console's pages: who sees which, what a write leaves behind, how many queries a page may cost."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse
from django.utils import timezone

from gateway.logs import search
from routing.models import Feature, KillSwitch, PolicyBinding, RoutingPolicy
from tenants.models import ApiKey, AuditEvent, Invitation, Membership, Tenant
from tests.gateway import console_world

pytestmark = pytest.mark.django_db

OUTSIDE = ("v1/", "v1beta/", "api/", "accounts/", "admin/", "healthz", "readyz", "metrics", "static/")
KEY_TEXT = re.compile(r"th_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}")
FORM = {"name": "CI", "call_scopes": ["inference:chat"], "expiry": ""}

# Who gets what: 200 a page, 404 as if it did not exist, 403 a role too small, 302 the sign-in page.
PEOPLE = ("operator", "clerk", "owner", "developer", "viewer", "stranger")
PLATFORM = (200, 200, 404, 404, 404, 404)
NO_CLERK = (200, 403, 404, 404, 404, 404)
TENANT = (200, 200, 200, 200, 200, 404)
READS_INVOICES = (200, 200, 200, 403, 403, 404)
WRITES_BUDGETS = (200, 200, 200, 403, 403, 404)
PAGES = {
    "platform_home": PLATFORM,
    "platform_live": PLATFORM,
    "platform_requests": PLATFORM,
    "replay_list": PLATFORM,
    "replay_create": (200, 403, 404, 404, 404, 404),
    "replay_detail": PLATFORM,
    "policy_list": NO_CLERK,
    "policy_create": NO_CLERK,
    "policy_detail": NO_CLERK,
    "policy_edit": NO_CLERK,
    "policy_diff": NO_CLERK,
    "feature_list": NO_CLERK,
    "feature_create": NO_CLERK,
    "feature_edit": NO_CLERK,
    "experiment_list": NO_CLERK,
    "experiment_create": NO_CLERK,
    "experiment_detail": NO_CLERK,
    "rollout_list": PLATFORM,
    "rollout_create": NO_CLERK,
    "rollout_detail": PLATFORM,
    "privacy_list": NO_CLERK,
    "privacy_create": NO_CLERK,
    "privacy_edit": NO_CLERK,
    "tenant_privacy_list": (200, 403, 200, 200, 200, 404),
    "tenant_privacy_create": (200, 403, 200, 403, 403, 404),
    "tenant_privacy_edit": (200, 403, 200, 403, 403, 404),
    "kill_switch_list": PLATFORM,
    "budget_list": PLATFORM,
    "budget_create": PLATFORM,
    "budget_edit": PLATFORM,
    "alert_list": PLATFORM,
    "alert_detail": PLATFORM,
    "delivery_list": PLATFORM,
    "alert_rule_list": PLATFORM,
    "alert_rule_create": PLATFORM,
    "alert_rule_edit": PLATFORM,
    "channel_list": PLATFORM,
    "channel_create": PLATFORM,
    "channel_edit": PLATFORM,
    "tenant_budget_list": TENANT,
    "tenant_budget_create": WRITES_BUDGETS,
    "tenant_budget_edit": WRITES_BUDGETS,
    "tenant_alert_list": TENANT,
    "tenant_alert_detail": TENANT,
    "tenant_delivery_list": TENANT,
    "tenant_alert_rule_list": TENANT,
    "tenant_alert_rule_create": WRITES_BUDGETS,
    "tenant_alert_rule_edit": WRITES_BUDGETS,
    "tenant_channel_list": TENANT,
    "tenant_channel_create": WRITES_BUDGETS,
    "tenant_channel_edit": WRITES_BUDGETS,
    **dict.fromkeys(
        (
            "invoice_list",
            "invoice_draft",
            "invoice_detail",
            "invoice_calls",
            "invoice_pdf",
            "invoice_csv",
            "invoice_xml",
            "invoice_calls_csv",
            "invoice_credit",
            "credit_note_detail",
            "credit_note_pdf",
            "credit_note_xml",
            "legal_entity_list",
            "legal_entity_create",
            "legal_entity_edit",
            "tax_rate_create",
            "tax_rate_end",
            "coupon_list",
            "coupon_create",
            "billing_home",
            "margin",
            "margin_csv",
            "plan_list",
            "plan_create",
            "plan_detail",
            "plan_edit",
            "reconciliation",
            "bill_source_create",
            "bill_source_edit",
            "reconcile_run",
            "rerating_list",
            "rerating_create",
            "rerating_detail",
        ),
        PLATFORM,
    ),
    **dict.fromkeys(
        (
            "tenant_invoice_list",
            "tenant_invoice_detail",
            "tenant_invoice_calls",
            "tenant_invoice_pdf",
            "tenant_invoice_csv",
            "tenant_invoice_xml",
            "tenant_invoice_calls_csv",
            "tenant_credit_note_detail",
            "tenant_credit_note_pdf",
            "tenant_credit_note_xml",
            "invoice_preview",
            "billing_profile",
            "account_statement",
            "account_statement_csv",
        ),
        READS_INVOICES,
    ),
    **dict.fromkeys(
        (
            "audit_list",
            "audit_event",
            "audit_export",
            "audit_verify",
            "audit_sink_list",
            "audit_sink_create",
            "audit_sink_edit",
        ),
        NO_CLERK,
    ),
    **dict.fromkeys(
        (
            "tenant_audit_list",
            "tenant_audit_event",
            "tenant_audit_export",
            "tenant_audit_verify",
            "tenant_audit_sink_list",
            "tenant_audit_sink_create",
            "tenant_audit_sink_edit",
        ),
        (200, 403, 200, 403, 403, 404),
    ),
    **dict.fromkeys(("proposal_list", "proposal_detail"), PLATFORM),
    **dict.fromkeys(("tenant_proposal_list", "tenant_proposal_detail"), READS_INVOICES),
    "wallet": TENANT,
    "tenant_list": PLATFORM,
    "tenant_create": (200, 403, 404, 404, 404, 404),
    "data_settings": (200, 403, 200, 200, 200, 404),
    "tenant_certificate_list": (200, 403, 200, 200, 200, 404),
    "tenant_certificate_export": (200, 403, 200, 200, 200, 404),
    "residency_report": (200, 403, 200, 200, 200, 404),
    "residency_csv": (200, 403, 200, 200, 200, 404),
    "certificate_list": NO_CLERK,
    "provider_list": PLATFORM,
    "provider_create": (200, 403, 404, 404, 404, 404),
    "model_list": PLATFORM,
    "health_list": PLATFORM,
    "health_detail": PLATFORM,
    "tenant_home": TENANT,
    "tenant_live": TENANT,
    "tenant_first_call": (200, 403, 200, 200, 200, 404),
    "tenant_requests": TENANT,
    "tenant_models": TENANT,
    "tenant_settings": TENANT,
    "key_list": (200, 403, 200, 200, 200, 404),
    "key_create": (200, 403, 200, 200, 403, 404),
    "key_detail": (200, 403, 200, 200, 200, 404),
    "key_edit": (200, 403, 200, 200, 403, 404),
    "platform_key_list": NO_CLERK,
    "encryption": NO_CLERK,
    "credential_list": (200, 403, 200, 200, 200, 404),
    "member_list": (200, 403, 200, 200, 200, 404),
    "sign_in_settings": (200, 403, 200, 200, 200, 404),
    "sso_create": (200, 403, 200, 403, 403, 404),
    "sso_edit": (200, 403, 200, 200, 200, 404),
    "role_list": (200, 403, 200, 200, 200, 404),
    "role_create": (200, 403, 200, 403, 403, 404),
    "role_edit": (200, 403, 200, 403, 403, 404),
    "service_account_list": (200, 403, 200, 200, 200, 404),
    "service_account_detail": (200, 403, 200, 200, 200, 404),
    "tenant_request": TENANT,
    "platform_request": PLATFORM,
    "provider_detail": PLATFORM,
    "provider_edit": (200, 403, 404, 404, 404, 404),
    "account": (200,) * 6,
}
ACTIONS = {
    "hold_place": (403, 403, 404),
    "hold_release": (403, 403, 404),
    "erasure_create": (403, 403, 404),
    "tenant_request_content": (403, 403, 404),
    "platform_request_content": (404, 403, 404),
    "key_rotate": (403, 403, 404),  # of the viewer, the clerk, the stranger
    "key_revoke": (403, 403, 404),
    "key_bulk": (403, 403, 404),
    "key_leaked": (403, 403, 404),
    "platform_key_bulk": (404, 403, 404),
    "encryption_rotate": (404, 403, 404),
    "credential_switch": (403, 403, 404),
    "credential_test": (403, 403, 404),
    "credential_remove": (403, 403, 404),
    "member_role": (403, 403, 404),
    "member_remove": (403, 403, 404),
    "invitation_resend": (403, 403, 404),
    "invitation_withdraw": (403, 403, 404),
    "sso_test": (403, 403, 404),
    "sso_confirm": (403, 403, 404),
    "sso_remove": (403, 403, 404),
    "role_remove": (403, 403, 404),
    "service_account_key": (403, 403, 404),
    "service_account_role": (403, 403, 404),
    "service_account_status": (403, 403, 404),
    "tenant_plan": (403, None, 404),  # the clerk may
    "tenant_status": (403, 403, 404),
    "provider_test": (404, 403, 404),
    "provider_import": (404, 403, 404),
    "endpoint_toggle": (404, 403, 404),
    "policy_simulate": (404, 403, 404),
    "policy_rollback": (404, 403, 404),
    "policy_bind": (404, 403, 404),
    "policy_unbind": (404, 403, 404),
    "feature_remove": (404, 403, 404),
    **{
        f"{place}privacy_{name}": (404 if place == "" else 403, 403, 404)
        for place in ("", "tenant_")
        for name in ("try", "remove", "bind", "unbind", "secret")
    },
    "experiment_start": (404, 403, 404),
    "experiment_stop": (404, 403, 404),
    "experiment_promote": (404, 403, 404),
    "rollout_decide": (404, 403, 404),
    **{
        f"{place}{name}": (404 if place == "" else 403, None, 404)  # the clerk may
        for place in ("", "tenant_")
        for name in (
            "budget_remove",
            "alert_acknowledge",
            "alert_snooze",
            "delivery_replay",
            "alert_rule_remove",
            "channel_test",
            "channel_rotate",
            "channel_close",
        )
    },
    **dict.fromkeys(
        (
            "invoice_finalize_many",
            "invoice_refresh",
            "invoice_finalize",
            "invoice_discard",
            "invoice_void",
            "invoice_pay",
            "invoice_write_off",
            "coupon_redeem",
            "plan_example",
            "bill_pull",
            "bill_import",
            "reconcile_resolve",
            "rerating_decide",
        ),
        (404, None, 404),  # the clerk may
    ),
    **dict.fromkeys(("wallet_grant", "wallet_auto", "wallet_prepaid", "wallet_top_up"), (403, None, 404)),
    **{
        f"{place}{name}": (404 if place == "" else 403, 403, 404)
        for place in ("", "tenant_")
        for name in ("audit_sink_test", "audit_sink_rotate", "audit_sink_remove")
    },
    "proposal_decide": (404, None, 404),  # the clerk may
    "tenant_proposal_decide": (403, None, 404),
    "kill_switch_restore": (404, 403, 404),
    "breaker_reset": (404, 403, 404),
}
SIGNED_IN = {"home", "session_end", "sessions_end"}


@pytest.fixture
def world():
    return console_world.build(now=timezone.now(), calls=60)


def signed_in(user):
    client = Client()
    client.force_login(user, backend="allauth.account.auth_backends.AuthenticationBackend")
    return client


def console_patterns(patterns=None, prefix=""):
    for each in patterns if patterns is not None else get_resolver().url_patterns:
        route = prefix + str(each.pattern)
        if route.startswith(OUTSIDE):
            continue
        if isinstance(each, URLResolver):
            yield from console_patterns(each.url_patterns, route)
        elif isinstance(each, URLPattern):
            yield route, each


def url_of(name, world):
    route = next(route for route, each in console_patterns() if each.name == name)
    known = {
        "tenant_slug": world.acme.slug,
        "key_id": world.key.id,
        "credential_id": world.credential_id,
        **console_world.sign_in_ids(world.acme),
        "member_id": Membership.objects.get(tenant=world.acme, user=world.developer).id,
        "request_id": world.request_id,
        "slug": "scale-up" if "plans" in route else "openai-bills" if "bills" in route else "openai",
        "endpoint_id": _endpoint_id(),
        "replay_id": world.replay.id,
        "policy_id": RoutingPolicy.objects.get(slug="eu-careful").id,
        "binding_id": PolicyBinding.objects.get().id,
        "feature_id": Feature.objects.get(slug="search").id,
        "experiment": "tone",
        "rollout": "go-careful",
        "switch_id": KillSwitch.objects.get().id,
        "hold_id": world.data.hold_id,
        "role": "auditor",
        "account_id": world.account_id,
        **console_world.privacy_ids(world.acme, is_platform=not route.startswith("t/")),
        **console_world.trail_ids(world.acme, is_platform=not route.startswith("t/")),
        **_money_ids(world.money, is_platform=not route.startswith("t/"), is_coupon="coupons" in route),
    }
    wanted = re.findall(r"<\w+:(\w+)>", route)
    return reverse(name, kwargs={each: known[each] for each in wanted})


def _money_ids(money, *, is_platform, is_coupon):
    return {
        "budget_id": money.budget_id,
        "alert_id": money.platform_alert_id if is_platform else money.alert_id,
        "delivery_id": money.platform_delivery_id if is_platform else money.delivery_id,
        "rule_id": money.platform_rule_id if is_platform else money.rule_id,
        "channel_id": money.platform_channel_id if is_platform else money.channel_id,
        "invoice_id": money.invoice_id,
        "position": money.position,
        "note_id": money.note_id,
        "rate_id": money.rate_id,
        "run_id": money.run_id,
        "line_id": money.line_id,
        "rerating_id": money.rerating_id,
        "code": "welcome" if is_coupon else "tollhouse-de",
    }


def _endpoint_id():
    from routing.models import Endpoint

    return Endpoint.objects.filter(provider__slug="openai").order_by("id").first().id


# ------------------------------------------------------------------ who sees what


def test_every_console_view_declares_who_may_enter():
    undeclared = [route for route, each in console_patterns() if not hasattr(each.callback, "console_access")]
    assert undeclared == []


def test_this_file_knows_every_console_page():
    names = {each.name for _, each in console_patterns()}
    assert names == PAGES.keys() | ACTIONS.keys() | SIGNED_IN


@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens_for_the_roles_that_hold_its_scope(name, world):
    url = url_of(name, world)
    statuses = tuple(signed_in(getattr(world, person)).get(url).status_code for person in PEOPLE)
    assert statuses == PAGES[name]


@pytest.mark.parametrize("name", sorted(PAGES.keys() | SIGNED_IN))
def test_a_page_sends_a_guest_to_the_sign_in(name, world):
    url = url_of(name, world)
    answer = Client().get(url)
    assert (answer.status_code, answer["Location"]) == (302, f"{reverse('account_login')}?next={url}")


@pytest.mark.parametrize("name", ACTIONS)
def test_an_action_is_refused_to_those_who_may_not(name, world):
    url = url_of(name, world)
    before = AuditEvent.objects.count()
    for person, status in zip(("viewer", "clerk", "stranger"), ACTIONS[name], strict=True):
        if status is not None:
            assert signed_in(getattr(world, person)).post(url).status_code == status, person
    assert AuditEvent.objects.count() == before


@pytest.mark.parametrize("name", ACTIONS)
def test_an_action_cannot_be_reached_by_a_link(name, world):
    answer = signed_in(world.operator).get(url_of(name, world))
    assert (answer.status_code, answer["Allow"]) == (405, "POST")


def test_a_write_without_the_csrf_token_is_refused(world):
    client = Client(enforce_csrf_checks=True)
    client.force_login(world.owner, backend="allauth.account.auth_backends.AuthenticationBackend")
    assert client.post(url_of("key_revoke", world), {"confirm": world.key.name}).status_code == 403
    world.key.refresh_from_db()
    assert world.key.revoked_at is None


@pytest.mark.parametrize(
    ("person", "target"),
    [("operator", "platform_home"), ("clerk", "platform_home"), ("viewer", "tenant_home")],
)
def test_the_root_leads_home(person, target, world):
    url = reverse(target, kwargs={"tenant_slug": "acme"} if target == "tenant_home" else None)
    assert signed_in(getattr(world, person)).get("/")["Location"] == url


def test_a_person_without_a_workspace_lands_on_their_account(world):
    Membership.objects.filter(user=world.viewer).delete()
    assert signed_in(world.viewer).get("/")["Location"] == reverse("account")


def test_a_fragment_for_a_guest_makes_the_page_reload(world):
    answer = Client().get(url_of("tenant_live", world), headers={"HX-Request": "true"})
    assert answer.status_code == 401


def test_a_strangers_request_does_not_exist(world):
    answer = signed_in(world.owner).get(reverse("tenant_request", args=("acme", world.stranger_id)))
    assert answer.status_code == 404


def test_a_strangers_key_does_not_exist_in_my_workspace(world):
    foreign = ApiKey.objects.get(tenant=world.nordlicht)
    assert signed_in(world.owner).get(reverse("key_detail", args=("acme", foreign.id))).status_code == 404


def test_the_switcher_offers_only_ones_own_workspaces(world):
    page = signed_in(world.owner).get(url_of("tenant_home", world)).content.decode()
    offered = set(re.findall(r'href="/t/([a-z-]+)/"', page))
    assert offered == {"acme", "fresh-foods"}


def test_the_menu_shows_what_the_role_may_open(world):
    page = signed_in(world.clerk).get(url_of("tenant_home", world)).content.decode()
    assert re.findall(r'<a class="rail-link"[^>]*>.*?</svg>([^<]+)</a>', page) == [
        "Overview",
        "Requests",
        "Models",
        "Budgets",
        "Billing",
        "Approvals",
        "Settings",
    ]


def test_pages_are_never_kept_by_caches(world):
    answer = signed_in(world.owner).get(url_of("key_list", world))
    assert "no-store" in answer["Cache-Control"]


# ------------------------------------------------------------------ cost stays inside


@pytest.mark.parametrize("name", ["tenant_home", "tenant_requests", "tenant_request"])
def test_a_tenant_sees_prices_and_never_costs(name, world):
    url = url_of(name, world)
    mine = signed_in(world.owner).get(url).content.decode()
    operators = signed_in(world.operator).get(url).content.decode()
    assert (">Price<" in mine, ">Cost<" in mine) == (True, False)
    assert ">Cost<" in operators


def test_the_breakdown_adds_up_to_the_cost(world):
    log = search.find(world.request_id, tenant_ids=None)
    parts = [part.cost_pico for span in search.spans_of(log) for part in span.components]
    assert sum(parts) == log.cost_pico


# ------------------------------------------------------------------ keys


def test_a_new_key_is_shown_once_and_audited(world):
    client = signed_in(world.developer)
    page = client.post(url_of("key_create", world), FORM).content.decode()
    (text,) = set(KEY_TEXT.findall(page))
    key = ApiKey.objects.get(name="CI")
    assert (key.scopes, key.last_four, key.created_by) == (["inference:chat"], text[-4:], "dev@example.com")
    assert AuditEvent.objects.filter(action="key.create", object_id=str(key.id)).count() == 1
    again = client.get(reverse("key_detail", args=("acme", key.id))).content.decode()
    assert text not in again


def test_a_key_without_a_scope_is_refused_beside_the_field(world):
    answer = signed_in(world.developer).post(url_of("key_create", world), FORM | {"call_scopes": []})
    assert answer.status_code == 422
    assert answer.context["form"].errors == {
        "call_scopes": ["Choose at least one thing the key may do."],
    }
    assert not ApiKey.objects.filter(name="CI").exists()


def test_a_scope_one_does_not_hold_cannot_be_put_on_a_key(world):
    data = FORM | {"manage_scopes": ["tenants:write"]}
    answer = signed_in(world.developer).post(url_of("key_create", world), data)
    assert (answer.status_code, "manage_scopes" in answer.context["form"].errors) == (422, True)


def test_a_verbs_refusal_stands_beside_its_field(world):
    answer = signed_in(world.developer).post(
        url_of("key_create", world), FORM | {"allowed_ips": "not-an-address"}
    )
    assert (answer.status_code, list(answer.context["form"].errors)) == (422, ["allowed_ips"])


def test_a_date_of_expiry_ends_with_that_day_where_the_person_lives(world):
    data = FORM | {"expiry": "on", "expires_on": "2030-07-01"}
    signed_in(world.owner).post(url_of("key_create", world), data)  # lives in Berlin, UTC+2 in July
    assert ApiKey.objects.get(name="CI").expires_at == datetime(2030, 7, 1, 22, tzinfo=UTC)


def test_rotation_gives_a_new_text_and_an_end_to_the_old_key(world):
    page = signed_in(world.developer).post(url_of("key_rotate", world), {"grace_s": "3600"}).content.decode()
    assert len(set(KEY_TEXT.findall(page))) == 1
    world.key.refresh_from_db()
    assert world.key.replaced_by is not None
    assert world.key.expires_at - world.key.updated_at <= timedelta(hours=1)


@pytest.mark.parametrize(
    ("typed", "is_revoked"), [("Production backend", True), ("production", False), ("", False)]
)
def test_revoking_needs_the_keys_name(typed, is_revoked, world):
    signed_in(world.developer).post(url_of("key_revoke", world), {"confirm": typed})
    world.key.refresh_from_db()
    assert (world.key.revoked_at is not None) is is_revoked


# ------------------------------------------------------------------ members and tenants


def test_inviting_somebody_is_audited(world):
    signed_in(world.owner).post(url_of("member_list", world), {"email": "new@example.com", "role": "viewer"})
    offer = Invitation.objects.get(tenant=world.acme, email="new@example.com")
    assert offer.role == "viewer"
    assert AuditEvent.objects.filter(action="invitation.create", object_id=str(offer.id)).count() == 1


def test_the_last_owner_stays(world):
    owner = Membership.objects.get(tenant=world.acme, user=world.owner)
    signed_in(world.owner).post(reverse("member_remove", args=("acme", owner.id)))
    assert Membership.objects.filter(pk=owner.pk, role="owner").exists()


def test_suspending_needs_the_slug_and_can_be_undone(world):
    client, url = signed_in(world.operator), url_of("tenant_status", world)
    client.post(url, {"confirm": "Acme"})
    assert Tenant.objects.get(slug="acme").status == "active"
    client.post(url, {"confirm": "acme"})
    assert Tenant.objects.get(slug="acme").status == "suspended"
    client.post(url, {"action": "activate"})
    assert Tenant.objects.get(slug="acme").status == "active"
    actions = AuditEvent.objects.filter(tenant=world.acme, action__startswith="tenant.").order_by("sequence")
    assert list(actions.values_list("action", flat=True)) == ["tenant.suspend", "tenant.activate"]


HAFEN = {
    "name": "Hafen",
    "slug": "hafen",
    "plan": "scale-up",
    "timezone": "Europe/Berlin",
    "region_policy": "eu",
}


def test_a_new_tenant_opens_on_the_chosen_plan(world):
    answer = signed_in(world.operator).post(reverse("tenant_create"), HAFEN | {"currency": "usd"})
    assert answer["Location"] == reverse("member_list", args=("hafen",))
    tenant = Tenant.objects.get(slug="hafen")
    assert (tenant.currency, tenant.region_policy) == ("USD", ["eu"])
    assert tenant.subscriptions.get(end__isnull=True).plan_version.plan.slug == "scale-up"


def test_a_plan_in_another_currency_opens_no_tenant(world):
    answer = signed_in(world.operator).post(reverse("tenant_create"), HAFEN | {"currency": "EUR"})
    assert (answer.status_code, list(answer.context["form"].errors)) == (422, ["plan"])
    assert not Tenant.objects.filter(slug="hafen").exists()


def test_changing_the_plan_ends_one_subscription_and_begins_another(world):
    signed_in(world.clerk).post(url_of("tenant_plan", world), {"plan": "scale-up"})
    ends = world.acme.subscriptions.order_by("start").values_list("end", flat=True)
    assert [end is None for end in ends] == [False, True]


def test_a_taken_slug_is_said_beside_the_field(world):
    data = {"name": "Other", "slug": "acme", "timezone": "UTC", "currency": "USD"}
    answer = signed_in(world.operator).post(reverse("tenant_create"), data)
    assert (answer.status_code, list(answer.context["form"].errors)) == (422, ["slug"])


def test_the_time_zone_of_ones_account_is_the_one_of_the_pages(world):
    client = signed_in(world.viewer)
    client.post(reverse("account"), {"name": "Vera", "timezone": "Asia/Kolkata"})
    page = client.get(url_of("tenant_home", world)).content.decode()
    assert "per minute, Asia/Kolkata" in page


# ------------------------------------------------------------------ providers


def test_a_provider_is_connected_with_a_key_that_is_never_shown(world):
    from routing.models import Credential, Provider

    client, secret = signed_in(world.operator), "sk-a-secret-of-the-operator"
    data = {"kind": "openai", "name": "Second", "slug": "second", "region": "us", "api_key": secret}
    times = {"first_byte_timeout_s": "5", "stall_timeout_s": "5", "total_timeout_s": "60", "is_enabled": "on"}
    answer = client.post(reverse("provider_create"), data | times)
    assert answer["Location"] == reverse("provider_detail", args=("second",))
    provider = Provider.objects.get(slug="second")
    assert (provider.first_byte_timeout_s, provider.is_enabled) == (5.0, True)
    assert Credential.objects.get(provider=provider).last_four == "ator"
    page = client.get(answer["Location"]).content.decode()
    assert ("…ator" in page, secret in page) == (True, False)
    client.post(reverse("provider_edit", args=("second",)), data | times | {"name": "Renamed", "api_key": ""})
    assert Credential.objects.filter(provider=provider, is_enabled=True).count() == 1
    assert list(
        AuditEvent.objects.filter(object_type="provider", object_id="second").values_list("action", flat=True)
    ) == ["provider.update", "provider.create"]


def test_a_dialect_without_a_public_address_needs_one(world):
    data = {"kind": "openai_compatible", "name": "Own", "slug": "own", "region": "eu"}
    times = {"first_byte_timeout_s": "5", "stall_timeout_s": "5", "total_timeout_s": "60"}
    answer = signed_in(world.operator).post(reverse("provider_create"), data | times)
    assert (answer.status_code, list(answer.context["form"].errors)) == (422, ["base_url"])


def test_the_test_button_says_why_a_provider_cannot_answer(world):
    page = signed_in(world.operator).post(url_of("provider_test", world)).content.decode()
    assert '<span class="tag bad">no_credential</span>' in page


def test_an_endpoint_is_taken_out_of_the_routes_and_put_back(world):
    from routing.models import Endpoint

    client, url, endpoint = signed_in(world.operator), url_of("endpoint_toggle", world), _endpoint_id()
    states = []
    for is_enabled in ("false", "true"):
        client.post(url, {"is_enabled": is_enabled})
        states.append(Endpoint.objects.get(pk=endpoint).is_enabled)
    assert states == [False, True]


def test_the_price_book_fills_a_providers_models(world):
    from routing.models import Endpoint

    before = Endpoint.objects.filter(provider__slug="anthropic").count()
    signed_in(world.operator).post(reverse("provider_import", args=("anthropic",)))
    assert Endpoint.objects.filter(provider__slug="anthropic").count() > before


def test_the_price_list_of_a_tenant_is_its_plans_price(world):
    answer = signed_in(world.viewer).get(url_of("tenant_models", world))
    prices = {model.slug: (model.input_pico, model.output_pico) for model in answer.context["models"]}
    assert prices["gpt-4o"] == (3 * 10**12, 12 * 10**12)  # 2.50 and 10.00 USD, plus 20 %
    assert prices["mistral-small"] == (None, None)


# ------------------------------------------------------------------ the request log


def rows_of(answer):
    return [row.request_id for row in answer.context["page"].rows]


def test_pages_of_the_log_hold_every_request_once_newest_first(world):
    client = signed_in(world.operator)
    url, seen, cursor = reverse("platform_requests"), [], ""
    while True:
        answer = client.get(url, {"period": "7d", "cursor": cursor})
        seen += rows_of(answer)
        cursor = answer.context["page"].next_cursor
        if not cursor:
            break
    assert len(seen) == 60
    assert seen == sorted(set(seen), reverse=True)


@pytest.mark.parametrize(
    ("query", "holds"),
    [
        ({"status": "error"}, lambda row: row.status >= 400 and row.status != 499),
        ({"status": "ok"}, lambda row: row.status < 400),
        ({"status": "provider_unavailable"}, lambda row: row.error_code == "provider_unavailable"),
        ({"provider": "azure-eu"}, lambda row: row.provider == "azure-eu"),
        ({"model": "gpt-4o"}, lambda row: "gpt-4o" in (row.model, row.request_model)),
        ({"tenant": "nordlicht"}, lambda row: row.tenant.slug == "nordlicht"),
        ({"period": "1h"}, lambda row: row.occurred_at > timezone.now() - timedelta(hours=1, minutes=1)),
    ],
)
def test_a_filter_keeps_what_matches_and_nothing_else(query, holds, world):
    client, url = signed_in(world.operator), reverse("platform_requests")
    everything = client.get(url, {"period": "7d"}).context["page"].rows
    kept = client.get(url, {"period": "7d"} | query).context["page"].rows
    assert {row.request_id for row in everything if holds(row)} <= {row.request_id for row in kept}
    assert kept
    assert all(holds(row) for row in kept)


def test_a_request_id_in_the_filter_leads_to_the_request(world):
    answer = signed_in(world.owner).get(url_of("tenant_requests", world), {"id": f" {world.failed_id} "})
    assert answer["Location"] == reverse("tenant_request", args=("acme", world.failed_id))


def test_a_request_that_failed_over_shows_both_attempts_and_the_reasons(world):
    page = signed_in(world.operator).get(url_of("platform_request", world)).content.decode()
    assert "429 rate_limited" in page
    assert "context window 32000 is too small for 41210 tokens" in page
    assert f"X-Request-Id: {world.request_id}" in page


# ------------------------------------------------------------------ homes


def test_the_home_counts_what_the_log_holds(world):
    answer = signed_in(world.operator).get(reverse("platform_home"), {"period": "7d"})
    figures = {figure.label: figure.value for figure in answer.context["overview"].figures}
    served = [row for row in search_all() if row.provider]
    assert figures["Requests"] == len(served)
    assert figures["Tokens"] == sum(row.input_tokens + row.output_tokens for row in served)
    assert figures["Cost"] == sum(row.cost_pico or 0 for row in served)
    assert figures["Price"] == sum(row.price_pico or 0 for row in served)


def search_all():
    now = timezone.now()
    filters = search.Filters(tenant_ids=None, start=now - timedelta(days=7), end=now + timedelta(minutes=1))
    return search.search(filters=filters, cursor=None, size=1000).rows


def test_a_workspace_without_a_call_is_shown_the_way_to_one(world):
    page = signed_in(world.owner).get(reverse("tenant_home", args=("fresh-foods",))).content.decode()
    assert "policy:cheap-first" in page
    assert "http://127.0.0.1:8000/v1/chat/completions" in page


def test_the_waiting_page_reloads_when_the_first_call_has_come(world):
    waiting = signed_in(world.owner).get(reverse("tenant_live", args=("fresh-foods",)), {"waiting": ""})
    arrived = signed_in(world.owner).get(reverse("tenant_live", args=("acme",)), {"waiting": ""})
    assert (waiting.status_code, "HX-Refresh" in waiting) == (204, False)
    assert (arrived.status_code, arrived["HX-Refresh"]) == (204, "true")


# ------------------------------------------------------------------ cost of a page


@pytest.mark.parametrize("name", [name for name in PAGES if name != "provider_edit"])
def test_more_rows_do_not_cost_more_queries(name, world, django_assert_max_num_queries):
    client, url = signed_in(world.operator), url_of(name, world)
    client.get(url)
    with django_assert_max_num_queries(32) as first:
        client.get(url)
    grow(world)
    with django_assert_max_num_queries(len(first)):
        client.get(url)


def grow(world):
    """More of everything that a page lists."""
    from routing.models import Endpoint, Model, Provider
    from tenants import keys
    from tenants.models import User
    from tenants.principal import SYSTEM

    vllm = Provider.objects.get(slug="vllm")
    for number in range(12):
        tenant = Tenant.objects.create(slug=f"tenant-{number}", name=f"Tenant {number}")
        Membership.objects.create(
            tenant=world.acme, user=User.objects.create_user(f"m{number}@example.com"), role="viewer"
        )
        keys.issue(tenant=world.acme, name=f"key {number}", scopes=["inference:*"], actor=SYSTEM)
        keys.issue(tenant=tenant, name=f"key {number}", scopes=["inference:*"], actor=SYSTEM)
        model = Model.objects.create(slug=f"model-{number}", name="m", operations=["chat"])
        Endpoint.objects.create(provider=vllm, model=model, provider_model=model.slug)
        Provider.objects.create(slug=f"provider-{number}", name="p", kind="sandbox")
