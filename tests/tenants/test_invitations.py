"""Invitations: mailed, taken once by whom they are for, sent again, withdrawn, gone after seven days."""

import re
from datetime import timedelta

import pytest
from django.core import mail
from django.urls import reverse
from django.utils import timezone

from tenants import adapters, invitations, roles
from tenants.authentication import principal_of
from tenants.errors import ApiError
from tenants.models import AuditEvent, Invitation, Membership, User
from tenants.principal import SYSTEM
from tests import factories

pytestmark = [pytest.mark.urls("gateway.urls"), pytest.mark.django_db]
PASSWORD = "correct horse battery"


@pytest.fixture
def acme(db, settings):
    settings.PUBLIC_URL = "https://ai.example.com"
    return factories.tenant("acme", name="Acme & Sons")


@pytest.fixture
def sent(django_capture_on_commit_callbacks):
    """Do something and give the link that was mailed."""

    def run(verb, **given):
        mail.outbox.clear()
        with django_capture_on_commit_callbacks(execute=True):
            verb(**given)
        (message,) = mail.outbox
        (path,) = re.findall(r"https://ai\.example\.com(/accounts/invitations/\S+)", message.body)
        return path

    return run


def refused(code, param=None):
    return pytest.raises(ApiError, check=lambda error: (error.code, error.param) == (code, param))


def offer(tenant, email="new@example.com", role="developer", actor=SYSTEM, now=None):
    return invitations.invite(tenant=tenant, email=email, role=role, actor=actor, now=now or timezone.now())


def invite(sent, tenant, email="new@example.com", role="developer", **more):
    return sent(offer, tenant=tenant, email=email, role=role, **more)


def signed_in(user):
    client = factories.browser()
    client.force_login(user, backend="allauth.account.auth_backends.AuthenticationBackend")
    return client


def test_a_new_person_chooses_a_password_and_is_in(acme, sent):
    ada = factories.member(acme, "owner", person=factories.user("ada@example.com")).user
    path = invite(sent, acme, " New@Example.com ", actor=principal_of(ada))
    (message,) = mail.outbox
    assert message.to == ["new@example.com"]
    assert message.subject == "Tollhouse: ada@example.com invites you to Acme & Sons"
    assert not User.objects.filter(email="new@example.com").exists()
    client = factories.browser()
    page = client.get(path)
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert all(
        words in page.content.decode() for words in ("ada@example.com", "Acme &amp; Sons", "developer")
    )
    answer = client.post(path, {"name": "Nia New", "password": PASSWORD})
    assert (answer.status_code, answer["Location"]) == (302, "/t/acme/")
    membership = Membership.objects.get(user__email="new@example.com")
    assert (membership.role, membership.user.name) == ("developer", "Nia New")
    assert client.get("/t/acme/members/").status_code == 200
    assert factories.browser().login(email="new@example.com", password=PASSWORD)
    assert factories.browser().get(path).status_code == 404, "it works once"


def test_the_token_is_kept_as_a_digest_alone(acme, sent):
    token = invite(sent, acme).split("/")[-2]
    stored = bytes(Invitation.objects.get().token_digest)
    assert token.encode() not in stored
    assert token not in str(list(AuditEvent.objects.values()))


def test_a_weak_password_takes_nothing(acme, sent):
    path = invite(sent, acme)
    answer = factories.browser().post(path, {"name": "", "password": "password1234"})
    assert answer.status_code == 422
    assert (User.objects.count(), Invitation.objects.get().accepted_at) == (0, None)


def test_somebody_known_gets_a_mail_too_and_joins_once_signed_in(acme, sent):
    person = factories.user("known@example.com", password=PASSWORD)
    path = invite(sent, acme, "KNOWN@example.com")
    assert "Sign in with this email address" in mail.outbox[0].body
    stranger = factories.browser().post(path, {"name": "x", "password": PASSWORD})
    assert (stranger.status_code, Membership.objects.count()) == (200, 0)
    client = signed_in(person)
    assert "Join" in client.get(path).content.decode()
    assert Membership.objects.count() == 0, "looking is not joining"
    assert client.post(path)["Location"] == "/t/acme/"
    assert Membership.objects.get().user == person


def test_nobody_takes_what_is_for_somebody_else(acme, sent):
    path = invite(sent, acme)
    thief = factories.user("thief@example.com")
    assert signed_in(thief).post(path).status_code == 200
    assert Membership.objects.count() == 0
    with refused("permission_denied"):
        invitations.accept(invitation=Invitation.objects.get(), user=thief, now=timezone.now())


def test_a_new_link_ends_the_old_one(acme, sent):
    old = invite(sent, acme)
    new = sent(invitations.resend, invitation=Invitation.objects.get(), actor=SYSTEM, now=timezone.now())
    assert (factories.browser().get(old).status_code, factories.browser().get(new).status_code) == (404, 200)


def test_it_ends_after_seven_days_and_can_be_made_anew(acme, sent):
    path = invite(sent, acme, now=timezone.now() - timedelta(days=7))
    assert factories.browser().get(path).status_code == 404
    again = invite(sent, acme)
    assert factories.browser().get(again).status_code == 200
    states = [each.state(timezone.now()) for each in Invitation.objects.order_by("id")]
    assert states == ["withdrawn", "pending"]


def test_a_withdrawn_one_is_dead_and_cannot_be_sent_again(acme, sent):
    path = invite(sent, acme)
    held = Invitation.objects.get()
    invitations.withdraw(invitation=held, actor=SYSTEM, now=timezone.now())
    assert factories.browser().get(path).status_code == 404
    for verb in (invitations.resend, invitations.withdraw):
        with refused("conflict"):
            verb(invitation=held, actor=SYSTEM, now=timezone.now())


def test_an_invitation_withdrawn_meanwhile_is_not_taken(acme):
    held = offer(acme)
    person = factories.user("new@example.com")
    invitations.withdraw(invitation=held, actor=SYSTEM, now=timezone.now())
    with refused("conflict"):
        invitations.accept(invitation=held, user=person, now=timezone.now())
    assert Membership.objects.count() == 0


def test_a_role_removed_meanwhile_is_given_to_nobody(acme):
    role = roles.create_role(tenant=acme, slug="auditor", name="A", scopes=["audit:read"], actor=SYSTEM)
    held = offer(acme, role="auditor")
    roles.remove_role(role=role, actor=SYSTEM)
    with refused("conflict"):
        invitations.accept(invitation=held, user=factories.user("new@example.com"), now=timezone.now())
    held.refresh_from_db()
    assert held.accepted_at is None


def test_a_dead_mail_server_undoes_nothing(acme, django_capture_on_commit_callbacks, monkeypatch, caplog):
    def refuse(*args, **kwargs):
        raise OSError("no mail server")

    monkeypatch.setattr(adapters.AccountAdapter, "send_mail", refuse)
    with django_capture_on_commit_callbacks(execute=True):
        offer(acme)
    assert Invitation.objects.get().email == "new@example.com"
    assert "no mail server" in caplog.text


@pytest.mark.parametrize(
    "email", ["", "nobody", "a@b", "a b@example.com", "a@example.com\nBcc: x@example.com"]
)
def test_a_bad_address_is_refused(acme, email):
    with refused("invalid_request", "email"):
        offer(acme, email)
    assert not Invitation.objects.exists()


def test_a_bad_role_is_refused(acme):
    with refused("invalid_request", "role"):
        offer(acme, role="king")


def test_nobody_is_invited_twice_nor_as_a_member(acme):
    offer(acme)
    with refused("conflict", "email"):
        offer(acme, "NEW@example.com", role="owner")
    factories.member(acme, "viewer", person=factories.user("in@example.com"))
    with refused("conflict", "email"):
        offer(acme, "in@example.com")
    assert Invitation.objects.count() == 1


@pytest.mark.parametrize(
    ("actor_role", "role", "allowed"),
    [
        ("owner", "owner", True),
        ("owner", "admin", True),
        ("admin", "owner", False),
        ("admin", "admin", True),
        ("admin", "billing", True),
        ("developer", "admin", False),
        ("developer", "viewer", True),
        ("viewer", "developer", False),
        ("billing", "viewer", False),
    ],
)
def test_nobody_offers_a_role_that_may_do_more(acme, actor_role, role, allowed):
    actor = principal_of(factories.member(acme, actor_role).user)
    if allowed:
        assert offer(acme, role=role, actor=actor).role == role
    else:
        with refused("permission_denied", "role"):
            offer(acme, role=role, actor=actor)
        assert not Invitation.objects.exists()


def test_every_step_leaves_its_events(acme):
    held = offer(acme)
    invitations.resend(invitation=held, actor=SYSTEM, now=timezone.now())
    invitations.accept_as_new(invitation=held, name="N", password=PASSWORD, now=timezone.now())
    events = AuditEvent.objects.order_by("id").values_list("action", "actor_label")
    assert list(events) == [
        ("invitation.create", "tollhouse"),
        ("invitation.resend", "tollhouse"),
        ("user.create", "tollhouse"),
        ("member.create", "new@example.com"),
        ("invitation.accept", "new@example.com"),
    ]


def test_the_api_invites_sends_again_and_withdraws(acme, sent):
    api = factories.client_with(acme, "members:read", "members:write", "inference:*", "models:read")
    url = "/api/v1/tenants/acme/invitations/"
    actor = factories.member(acme, "owner").user
    browser = signed_in(actor)
    made = api.post(url, {"email": "new@example.com", "role": "developer"}, format="json")
    assert made.status_code == 403, "a key of few scopes offers no more than it holds"
    made = factories.client_with(None, "*").post(
        url, {"email": "new@example.com", "role": "developer"}, format="json"
    )
    assert (made.status_code, made.data["state"]) == (201, "pending")
    assert not {"token", "token_digest", "url"} & made.data.keys()
    assert [each["email"] for each in api.get(url).data["data"]] == ["new@example.com"]
    page = browser.get("/t/acme/members/").content.decode()
    assert ("new@example.com" in page, "pending" in page) == (True, True)
    again = browser.post(reverse("invitation_resend", args=("acme", made.data["id"])))
    assert again.status_code == 302
    gone = browser.post(reverse("invitation_withdraw", args=("acme", made.data["id"])))
    assert gone.status_code == 302
    assert api.get(f"{url}{made.data['id']}/").data["state"] == "withdrawn"
