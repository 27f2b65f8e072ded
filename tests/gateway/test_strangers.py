"""Every route of the control plane, walked as a stranger: another tenant's object is never there."""

import uuid

import pytest
from django.db import transaction
from django.test import Client
from django.urls import URLPattern, get_resolver
from django.utils import timezone

from billing.models import AlertChannel, AlertDelivery, AlertFiring, AlertRule, Budget
from billing.payments import book as payments
from billing.wallets import book as wallets
from gateway.content import certificates, erase
from gateway.privacy import bindings as privacy
from tenants import invitations, keys, retention
from tenants.models import AuditEvent, AuditSink, Membership, Proposal, SsoConnection, Tenant, User
from tenants.principal import SYSTEM
from tests.gateway.content.world import content, logged

PUBLIC = {"schema", "docs"}
REFUSED = {401, 403, 404, 405}


def routes(patterns, prefix=""):
    for each in patterns:
        path = prefix + str(each.pattern)
        if isinstance(each, URLPattern):
            yield path, each
        else:
            yield from routes(each.url_patterns, path)


API = sorted(
    {
        path
        for path, each in routes(get_resolver().url_patterns)
        if path.startswith("api/v1/") and each.name not in PUBLIC
    }
)


@pytest.fixture
def world(db):
    mine = Tenant.objects.create(slug="mine", name="Mine")
    theirs = Tenant.objects.create(slug="theirs", name="Theirs-secret-name")
    key = keys.issue(tenant=theirs, name="Theirs-secret-key", scopes=("*",), actor=SYSTEM).key
    user = User.objects.create_user("theirs-secret@example.com")
    member = Membership.objects.create(tenant=theirs, user=user, role="owner")
    budget = Budget.objects.create(tenant=theirs, name="Theirs-secret-budget", limit=1)
    alerts = alerts_of(theirs, budget)
    trail = trail_of(theirs)
    credit = credit_of(theirs)
    kept = kept_of(theirs)
    doors = doors_of(theirs)
    rules = privacy_of(theirs)
    stranger = keys.issue(tenant=mine, name="stranger", scopes=("*",), actor=SYSTEM).text
    return {
        "stranger": stranger,
        "ids": [
            str(key.id),
            str(member.id),
            str(budget.id),
            *alerts,
            *credit,
            *trail,
            *kept,
            *doors,
            *rules,
            str(uuid.UUID(int=1)),
        ],
    }


def privacy_of(theirs):
    """A profile and its binding."""
    profile = privacy.create_profile(
        slug="theirs", tenant=theirs, values={"name": "Theirs-secret-profile"}, actor=SYSTEM
    )
    binding = privacy.bind(profile=profile, bound_tenant=theirs, actor=SYSTEM)
    return [str(profile.id), str(binding.id)]


def doors_of(theirs):
    """An invitation and a single sign-on connection of the other tenant."""
    now = timezone.now()
    offer = invitations.invite(
        tenant=theirs, email="theirs-secret-guest@example.com", role="viewer", actor=SYSTEM, now=now
    )
    connection = SsoConnection.objects.create(
        tenant=theirs, name="Theirs-secret-sso", issuer="https://theirs.example", client_secret=b"x"
    )
    return [str(offer.id), str(connection.id)]


def trail_of(theirs):
    """A sink, a proposal, and an event."""
    sink = AuditSink.objects.create(
        tenant=theirs, name="Theirs-secret-sink", kind="webhook", target="https://theirs-secret.example.com",
        next_at=timezone.now(),
    )  # fmt: skip
    proposal = Proposal.objects.create(
        tenant=theirs, kind="caps", operation="budget.remove", payload={"budget": "Theirs-secret"},
        scope="budgets:write", object_id="Theirs-secret", people=[], expires_at=timezone.now(),
    )  # fmt: skip
    return [str(each.id) for each in (sink, proposal, AuditEvent.objects.filter(tenant=theirs).first())]


def kept_of(theirs):
    """A hold, an erasure, a certificate, a logged call and its content."""
    now = timezone.now()
    hold = retention.place_hold(tenant=theirs, reason="Theirs-secret-case", actor=SYSTEM, now=now)
    retention.release_hold(hold=hold, actor=SYSTEM, now=now)
    erasure = erase.ask(tenant=theirs, end_user="theirs-secret-person", actor=SYSTEM, now=now)
    deleted = certificates.Deleted(
        tenant_id=theirs.id, data_class="content", method="key_destroyed", rows=1, rule="Theirs-secret-rule"
    )
    with transaction.atomic():
        (certificate,) = certificates.issue([deleted], now=now)
    request_id = logged(theirs, now, now=now, model="Theirs-secret-model")
    content(theirs, request_id=request_id, request="Theirs-secret-question")
    return [str(each) for each in (hold.id, erasure.id, certificate.id, request_id)]


def credit_of(theirs):
    """A grant, its entry, and a payment that waits."""
    now = timezone.now()
    grant = wallets.grant(
        tenant=theirs, currency="USD", amount_pico=1, category="paid", at=now, actor=SYSTEM,
        name="Theirs-secret-grant",
    )  # fmt: skip
    payment = payments.ask_for_top_up(
        tenant=theirs, currency="USD", amount_minor=1, key="theirs-secret-key", now=now, actor=SYSTEM
    )
    return [str(grant.id), str(grant.entries.get().id), str(payment.id)]


def alerts_of(theirs, budget):
    """A channel, a rule, a firing and its delivery."""
    now = timezone.now()
    channel = AlertChannel.objects.create(
        tenant=theirs, name="Theirs-secret-channel", kind="email", target="theirs-secret@example.com"
    )
    rule = AlertRule.objects.create(
        tenant=theirs, name="Theirs-secret-rule", kind="budget", budget=budget, thresholds=[1]
    )
    firing = AlertFiring.objects.create(
        tenant=theirs, rule=rule, subject=f"rule:{rule.id}", kind="budget", severity="info", window="1",
        window_start=now, threshold=1, unit="percent", value=1, title="Theirs-secret-title", body="",
        facts={"shown": []}, fired_at=now,
    )  # fmt: skip
    delivery = AlertDelivery.objects.create(
        tenant=theirs, firing=firing, channel=channel, channel_label="Theirs-secret-label", event="fired",
        payload={"title": "Theirs-secret-title"}, next_at=now,
    )  # fmt: skip
    return [str(each.id) for each in (channel, rule, firing, delivery)]


def urls_of(path, ids):
    """The route with every object id it may take, always in the other tenant."""
    for one in ids:
        url = "/" + path.replace("^", "").replace("$", "").replace("<slug:tenant>", "theirs").replace(
            "<slug:slug>", "theirs"
        )
        while "<" in url:
            before, _, rest = url.partition("<")
            name, _, after = rest.partition(">")
            url = before + ("theirs" if "slug" in name or "tenant" in name else one) + after
        yield url


@pytest.mark.parametrize("path", [path for path in API if "<" in path and "(" not in path])
@pytest.mark.parametrize("method", ["get", "post", "patch", "put", "delete"])
def test_a_stranger_never_reaches_an_object(world, path, method):
    client = Client(headers={"authorization": f"Bearer {world['stranger']}"})
    for url in urls_of(path, world["ids"]):
        answer = client.generic(method.upper(), url, b"{}", content_type="application/json")
        assert answer.status_code in REFUSED, (method, url, answer.status_code, answer.getvalue()[:300])
        assert b"secret" not in answer.getvalue()


@pytest.mark.parametrize("path", [path for path in API if "<" not in path and "(" not in path])
def test_a_stranger_finds_nothing_in_a_list(world, path):
    client = Client(headers={"authorization": f"Bearer {world['stranger']}"})
    answer = client.get(f"/{path}")
    assert answer.status_code < 500
    assert b"heirs-secret" not in answer.getvalue()
    assert b"theirs" not in answer.getvalue()


@pytest.mark.parametrize("path", API)
def test_without_a_key_nothing_is_answered(db, path):
    if "(" in path:
        pytest.skip("the last 404")
    for url in urls_of(path, [str(uuid.UUID(int=1))]):
        assert Client().get(url).status_code in REFUSED
