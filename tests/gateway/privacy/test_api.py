"""Profiles and bindings by API: whose they are, what they may say, and what a change leaves behind."""

import pytest
from django.test import Client

from gateway.privacy.models import PrivacyBinding, PrivacyProfile
from tenants import keys, versions
from tenants.models import AuditEvent, Tenant
from tenants.principal import SYSTEM

pytestmark = pytest.mark.django_db
PROFILES, BINDINGS = "/api/v1/privacy-profiles/", "/api/v1/privacy-bindings/"


@pytest.fixture
def acme():
    return Tenant.objects.create(slug="acme", name="Acme")


@pytest.fixture
def mine(acme):
    """A client of acme's owner."""
    return client(acme)


@pytest.fixture
def operator(db):
    return client(None)


def client(tenant, *scopes):
    text = keys.issue(tenant=tenant, name="k", scopes=scopes or ("privacy:*",), actor=SYSTEM).text
    return Client(headers={"authorization": f"Bearer {text}"})


def send(who, path, body, method="post"):
    return getattr(who, method)(path, body, content_type="application/json")


def made(who, **values):
    answer = send(who, PROFILES, {"slug": "own", "actions": {"email": "tokenize"}, **values})
    assert answer.status_code == 201, answer.content
    return answer.json()


def test_a_profile_is_made_changed_bound_and_removed_with_an_event_each(mine, acme):
    before = versions.current()["privacy"]
    profile = made(mine, tenant="acme", vault_days=7)
    assert (profile["tenant"], profile["vault_days"], profile["actions"]) == (
        "acme",
        7,
        {"email": "tokenize"},
    )
    url = f"{PROFILES}{profile['id']}/"
    changed = send(mine, url, {"actions": {"email": "block"}}, "patch")
    assert changed.json()["actions"] == {"email": "block"}
    bound = send(mine, BINDINGS, {"profile": profile["id"], "feature": "chat"})
    assert (bound.status_code, bound.json()["bound_tenant"]) == (201, "acme")
    assert mine.delete(url).json()["error"]["code"] == "conflict"
    assert mine.delete(f"{BINDINGS}{bound.json()['id']}/").status_code == 204
    assert mine.delete(url).status_code == 204
    events = AuditEvent.objects.filter(tenant=acme, action__startswith="privacy").order_by("sequence")
    assert [event.action for event in events] == [
        "privacy_profile.create",
        "privacy_profile.update",
        "privacy_binding.create",
        "privacy_binding.delete",
        "privacy_profile.delete",
    ]
    assert versions.current()["privacy"] == before + 5  # the refused removal left none


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"actions": {"shoe_size": "block"}}, "actions.shoe_size"),
        ({"actions": {"email": "shred"}}, "actions.email"),
        ({"custom_patterns": [{"name": "a", "pattern": "("}]}, "custom_patterns.0.pattern"),
        ({"custom_patterns": [{"name": "A b", "pattern": "x"}]}, "custom_patterns.0.name"),
        ({"custom_patterns": [{"name": "a", "pattern": "x", "more": 1}]}, "custom_patterns.0"),
        ({"phone_regions": ["Germany"]}, "phone_regions"),
        ({"guardrails": {}}, "guardrails"),
        ({"guardrails": [{"name": "a", "kind": "magic"}]}, "guardrails.0.kind"),
        ({"guardrails": [{"name": "a", "kind": "max_length"}]}, "guardrails.0.max_characters"),
        ({"guardrails": [{"name": "a", "kind": "regex", "pattern": "(?<=x)"}]}, "guardrails.0.pattern"),
        ({"guardrails": [{"name": "a", "kind": "regex", "pattern": "x", "url": "y"}]}, "guardrails.0.url"),
        (
            {"guardrails": [{"name": "a", "kind": "json_schema", "schema": {}, "stage": "before"}]},
            "guardrails.0.stage",
        ),
        ({"guardrails": [{"name": "a", "kind": "json_schema", "schema": []}]}, "guardrails.0.schema"),
        ({"guardrails": [{"name": "a", "kind": "banned_topics", "topics": [" "]}]}, "guardrails.0.topics"),
        ({"vault_days": 366}, "vault_days"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name_and_changes_nothing(mine, values, param):
    answer = send(mine, PROFILES, {"slug": "own", "tenant": "acme", **values})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.content
    assert not PrivacyProfile.objects.exists()
    assert not AuditEvent.objects.filter(action__startswith="privacy").exists()


def test_a_tenant_neither_makes_nor_touches_the_operators(mine, operator, acme):
    assert send(mine, PROFILES, {"slug": "own"}).status_code == 403
    demanded = made(operator, slug="demanded")
    bound = send(operator, BINDINGS, {"profile": demanded["id"], "bound_tenant": "acme"}).json()
    url = f"{BINDINGS}{bound['id']}/"
    assert mine.get(url).status_code == mine.delete(url).status_code == 404
    assert (
        mine.patch(f"{PROFILES}{demanded['id']}/", "{}", content_type="application/json").status_code == 404
    )
    assert send(mine, BINDINGS, {"profile": demanded["id"]}).status_code == 400
    assert mine.get(PROFILES).json()["data"] == []
    assert PrivacyBinding.objects.count() == 1


def test_a_tenants_profile_rules_that_tenant_alone(operator, mine, acme):
    Tenant.objects.create(slug="globex", name="Globex")
    profile = made(mine, tenant="acme")
    answer = send(operator, BINDINGS, {"profile": profile["id"], "bound_tenant": "globex"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "bound_tenant")
    twice = [send(mine, BINDINGS, {"profile": profile["id"]}).status_code for _ in range(2)]
    assert twice == [201, 409]


def test_the_test_box_says_what_would_be_sent_and_keeps_nothing(mine, settings):
    settings.TOLLHOUSE_EGRESS_ALLOWED_HOSTS = ["127.0.0.1"]
    profile = made(
        mine,
        tenant="acme",
        custom_patterns=[{"name": "ticket", "pattern": "TKT-[0-9]+"}],
        actions={"email": "tokenize", "custom:ticket": "redact"},
        guardrails=[
            {"name": "short", "kind": "max_length", "max_characters": 10},
            {"name": "asked", "kind": "webhook", "url": "https://127.0.0.1/judge"},
        ],
    )
    url = f"{PROFILES}{profile['id']}/test/"
    told = send(mine, url, {"text": "a@b.example on TKT-12"}).json()
    assert [(each["start"], each["end"], each["kind"], each["action"]) for each in told["findings"]] == [
        (0, 11, "email", "tokenize"),
        (15, 21, "custom:ticket", "redact"),
    ]
    assert told["sent"].startswith("<EMAIL_")
    assert told["sent"].endswith("> on [CUSTOM_TICKET]")
    assert told["blocked"] is None
    assert [each["wrong"] for each in told["guardrails"]] == ["is longer than 10 characters", None]
    assert send(client(Tenant.objects.get(), "privacy:read"), url, {"text": "x"}).status_code == 403


def test_a_webhooks_secret_is_shown_once_and_sealed(mine):
    profile = made(mine, tenant="acme")
    shown = send(mine, f"{PROFILES}{profile['id']}/webhook-secret/", {"grace_s": 0}).json()
    assert shown["secret"].startswith("whsec_")
    assert shown["secret"] not in str(mine.get(f"{PROFILES}{profile['id']}/").json())
    row = PrivacyProfile.objects.get()
    assert shown["secret"].encode() not in bytes(row.sealed_webhook_secrets)
    assert shown["secret"] in row.webhook_secrets()
