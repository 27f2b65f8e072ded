"""The two-person rule: nothing changes until another person approves, and then exactly what was proposed."""

from datetime import timedelta

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.utils import timezone

from tenants import approvals, audit, keys
from tenants.approvals import ApprovalRequiredError, Draft
from tenants.authentication import principal_of, principal_of_key
from tenants.errors import ApiError
from tenants.models import AuditEvent, Proposal, Tenant, User
from tenants.principal import SYSTEM, Principal
from tests import factories

NOW = timezone.now()


def rename(*, slug, name, actor):
    """A verb under the rule."""
    tenant = Tenant.objects.get(slug=slug)
    draft = Draft(
        kind="prices", operation="test.rename", payload={"slug": slug, "name": name}, scope="prices:write",
        object_type="tenant", object_id=slug, tenant=None, before={"name": tenant.name}, after={"name": name},
    )  # fmt: skip
    approvals.gate(draft, actor)
    tenant.name = name
    tenant.save()
    audit.record(
        principal=actor, action="tenant.rename", object_type="tenant", object_id=slug, tenant=None,
        after={"name": name},
    )  # fmt: skip


@pytest.fixture(autouse=True)
def rule(db, settings, monkeypatch):
    settings.TOLLHOUSE_TWO_PERSON = "prices"
    monkeypatch.setitem(
        approvals._EXECUTORS, "test.rename", lambda payload, actor: rename(**payload, actor=actor)
    )
    factories.tenant("acme", name="Acme")


def operator(email, role="owner"):
    return principal_of(factories.user(email, operator_role=role))


@pytest.fixture
def ann(rule):
    return operator("ann@example.com")


@pytest.fixture
def bob(rule):
    return operator("bob@example.com")


def proposed(actor, name="New", reason="Ticket 7"):
    with pytest.raises(ApprovalRequiredError) as needed:
        rename(slug="acme", name=name, actor=actor)
    with audit.origin(ip=None, request_id="r", reason=reason):
        return approvals.propose(draft=needed.value.draft, actor=actor, now=NOW)


def name():
    return Tenant.objects.get(slug="acme").name


def refused(verb, proposal, actor, now=NOW):
    with pytest.raises(ApiError) as refusal:
        verb(proposal=proposal, actor=actor, now=now)
    return refusal.value.code


def test_nothing_changes_until_another_person_approves(ann, bob):
    proposal = proposed(ann)
    assert (name(), proposal.state, proposal.reason) == ("Acme", "open", "Ticket 7")
    approvals.approve(proposal=proposal, actor=bob, now=NOW)
    proposal.refresh_from_db()
    assert (name(), proposal.state, proposal.decided_by_label) == ("New", "executed", "bob@example.com")
    events = AuditEvent.objects.order_by("sequence").values_list("action", "actor_label", "reason")
    assert list(events) == [
        ("proposal.create", "ann@example.com", "Ticket 7"),
        ("tenant.rename", "bob@example.com", f"Proposal {proposal.pk} of ann@example.com: Ticket 7"),
        ("proposal.approve", "bob@example.com", ""),
    ]


def test_nobody_decides_their_own_proposal(ann):
    proposal = proposed(ann)
    assert refused(approvals.approve, proposal, ann) == "permission_denied"
    assert refused(approvals.refuse, proposal, ann) == "permission_denied"
    assert (name(), Proposal.objects.get().state) == ("Acme", "open")


@pytest.mark.parametrize("is_by_key", [True, False])
def test_a_key_of_ones_own_is_oneself(ann, is_by_key):
    """Also one rotated, and one that a key of one's own has made."""
    first = keys.issue(tenant=None, name="ann's", scopes=["*"], actor=ann).key
    rotated = keys.rotate(key=first, grace_s=60, actor=SYSTEM, now=NOW).key
    child = keys.issue(tenant=None, name="child", scopes=["*"], actor=principal_of_key(rotated)).key
    for key in (first, rotated, child):
        actor = principal_of_key(key)
        assert approvals.people_behind(actor) == {ann.id}
        proposal = proposed(actor if is_by_key else ann, name=str(key.pk))
        assert refused(approvals.approve, proposal, ann if is_by_key else actor) == "permission_denied"
    assert name() == "Acme"


def test_a_second_role_is_the_same_person(ann):
    proposal = proposed(ann)
    User.objects.filter(pk=ann.id).update(operator_role="billing", email="other@example.com")
    again = principal_of(User.objects.get(pk=ann.id))
    assert refused(approvals.approve, proposal, again) == "permission_denied"


def test_a_key_that_nobody_is_known_to_have_made_decides_nothing(ann):
    key = keys.issue(tenant=None, name="bootstrap", scopes=["*"], actor=SYSTEM).key
    proposal = proposed(ann)
    for actor in (principal_of_key(key), SYSTEM):
        assert refused(approvals.approve, proposal, actor) == "permission_denied"
    assert name() == "Acme"


@pytest.mark.parametrize("missing", ["approvals:write", "prices:write"])
def test_who_could_not_make_the_change_cannot_approve_it(ann, missing):
    held = {"approvals:write", "prices:write"} - {missing}
    somebody = Principal(kind="user", id=factories.user().id, label="x", operator_scopes=frozenset(held))
    assert refused(approvals.approve, proposed(ann), somebody) == "permission_denied"
    assert name() == "Acme"


def test_what_changed_meanwhile_is_not_overwritten(ann, bob):
    proposal = proposed(ann)
    Tenant.objects.update(name="Moved on")
    assert refused(approvals.approve, proposal, bob) == "conflict"
    assert (name(), Proposal.objects.get().state) == ("Moved on", "open")
    approvals.refuse(proposal=proposal, actor=bob, now=NOW)
    assert Proposal.objects.get().state == "refused"


def test_an_altered_payload_is_not_what_was_shown(ann, bob, monkeypatch):
    proposal = proposed(ann)
    monkeypatch.setitem(
        approvals._EXECUTORS, "test.rename", lambda payload, actor: rename(slug="acme", name="X", actor=actor)
    )
    assert refused(approvals.approve, proposal, bob) == "conflict"
    assert name() == "Acme"


@pytest.mark.parametrize("verb", [approvals.approve, approvals.refuse, approvals.withdraw])
def test_a_decision_is_final(ann, bob, verb):
    proposal = proposed(ann)
    approvals.refuse(proposal=proposal, actor=bob, now=NOW)
    assert refused(verb, proposal, ann if verb is approvals.withdraw else bob) == "conflict"
    assert name() == "Acme"


def test_only_who_proposed_it_withdraws_it(ann, bob):
    proposal = proposed(ann)
    assert refused(approvals.withdraw, proposal, bob) == "permission_denied"
    approvals.withdraw(proposal=proposal, actor=ann, now=NOW)
    assert Proposal.objects.get().state == "withdrawn"


def test_a_proposal_expires_after_a_week(ann, bob):
    proposal = proposed(ann)
    later = NOW + timedelta(days=7)
    assert refused(approvals.approve, proposal, bob, now=later) == "conflict"
    assert approvals.expire(now=later - timedelta(seconds=1), actor=SYSTEM) == 0
    assert approvals.expire(now=later, actor=SYSTEM) == 1
    assert (name(), Proposal.objects.get().state) == ("Acme", "expired")


def test_the_same_change_is_not_proposed_twice(ann, bob):
    proposed(ann)
    with pytest.raises(ApprovalRequiredError) as needed:
        rename(slug="acme", name="New", actor=bob)
    with pytest.raises(ApiError, match="waits for a second person already"):
        approvals.propose(draft=needed.value.draft, actor=bob, now=NOW)
    assert Proposal.objects.count() == 1


def test_the_system_and_other_kinds_need_nobody(ann, settings):
    rename(slug="acme", name="By the system", actor=SYSTEM)
    settings.TOLLHOUSE_TWO_PERSON = "caps"
    rename(slug="acme", name="By Ann", actor=ann)
    assert name() == "By Ann"


@pytest.mark.parametrize(
    ("value", "kinds"),
    [
        ("", set()),
        ("false", set()),
        (False, set()),
        ("true", {"rerating"}),
        (True, {"rerating"}),
        ("prices, caps", {"prices", "caps"}),
        (["prices", "rerating"], {"prices", "rerating"}),
    ],
)
def test_the_setting_names_kinds_and_true_means_what_it_meant(settings, value, kinds):
    settings.TOLLHOUSE_TWO_PERSON = value
    assert approvals.kinds_on() == kinds


def test_an_unknown_kind_is_an_error_and_not_a_rule_turned_off(settings):
    settings.TOLLHOUSE_TWO_PERSON = "prices,cap"
    with pytest.raises(ImproperlyConfigured, match="'cap' is none of prices, caps, rerating"):
        approvals.kinds_on()
    assert [each.id for each in approvals.check_setting()] == ["tenants.E001"]
    settings.TOLLHOUSE_TWO_PERSON = "prices,caps"
    assert approvals.check_setting() == []
