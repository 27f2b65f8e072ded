import re

import pytest
from django.core import mail
from django.test import Client, RequestFactory, override_settings

from tenants import members
from tenants.authentication import principal_of
from tenants.errors import ApiError
from tenants.models import AuditEvent, Membership, User
from tenants.principal import SYSTEM
from tests import factories

pytestmark = pytest.mark.urls("tests.tenants.urls")


@pytest.fixture
def acme(db):
    return factories.tenant("acme", name="Acme & Sons")


def refused(code, param=None):
    return pytest.raises(ApiError, check=lambda error: (error.code, error.param) == (code, param))


def add(tenant, email="new@example.com", role="developer", actor=SYSTEM):
    return members.add_member(tenant=tenant, email=email, role=role, actor=actor)


def test_a_new_person_gets_a_link_to_choose_a_password_and_can_sign_in(
    acme, django_capture_on_commit_callbacks
):
    with (
        override_settings(PUBLIC_URL="https://ai.example.com"),
        django_capture_on_commit_callbacks(execute=True),
    ):
        membership = add(acme, " New@Example.com ")
    assert membership.user.email == "new@example.com"
    assert not membership.user.has_usable_password()
    (message,) = mail.outbox
    assert message.to == ["new@example.com"]
    assert message.subject == "Tollhouse: You are a member of Acme & Sons"
    (link,) = re.findall(r"https://ai\.example\.com(/accounts/password/reset/key/\S+)", message.body)
    client = Client()
    form = client.get(link, follow=True)
    chosen = {"password1": "correct horse battery", "password2": "correct horse battery"}
    client.post(form.redirect_chain[-1][0], chosen)
    assert Client().login(email="new@example.com", password="correct horse battery")
    assert client.get(link, follow=True).context["token_fail"]


def test_somebody_known_is_added_without_a_mail(acme, django_capture_on_commit_callbacks):
    person = factories.user("known@example.com", password="correct horse battery")
    with django_capture_on_commit_callbacks(execute=True):
        assert add(acme, "KNOWN@example.com").user == person
    assert mail.outbox == []
    person.refresh_from_db()
    assert person.check_password("correct horse battery")


def test_a_dead_mail_server_undoes_nothing(acme, django_capture_on_commit_callbacks, monkeypatch, caplog):
    def refuse(*args, **kwargs):
        raise OSError("no mail server")

    monkeypatch.setattr(members.ClosedDoorAdapter, "send_mail", refuse)
    with django_capture_on_commit_callbacks(execute=True):
        add(acme)
    assert Membership.objects.get().user.email == "new@example.com"
    assert "no mail server" in caplog.text


@pytest.mark.parametrize(
    "email", ["", "nobody", "a@b", "a b@example.com", "a@example.com\nBcc: x@example.com"]
)
def test_a_bad_address_is_refused(acme, email):
    with refused("invalid_request", "email"):
        add(acme, email)
    assert not User.objects.exists()


def test_a_bad_role_is_refused(acme):
    with refused("invalid_request", "role"):
        add(acme, role="king")


def test_nobody_is_a_member_twice(acme):
    add(acme)
    with refused("conflict", "email"):
        add(acme, "NEW@example.com", role="owner")
    assert Membership.objects.get().role == "developer"


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
def test_nobody_gives_a_role_that_may_do_more(acme, actor_role, role, allowed):
    actor = principal_of(factories.member(acme, actor_role).user)
    if allowed:
        assert add(acme, role=role, actor=actor).role == role
    else:
        with refused("permission_denied", "role"):
            add(acme, role=role, actor=actor)
        assert Membership.objects.count() == 1


def test_an_admin_can_neither_demote_nor_remove_an_owner(acme):
    owners = [factories.member(acme, "owner") for _ in range(2)]
    admin = principal_of(factories.member(acme, "admin").user)
    with refused("permission_denied", "role"):
        members.change_role(membership=owners[0], role="viewer", actor=admin)
    with refused("permission_denied", "role"):
        members.remove_member(membership=owners[0], actor=admin)
    assert Membership.objects.filter(role="owner").count() == 2


def test_the_last_owner_stays(acme):
    owner = factories.member(acme, "owner")
    factories.member(factories.tenant(), "owner")
    with refused("conflict", "role"):
        members.change_role(membership=owner, role="admin", actor=SYSTEM)
    with refused("conflict", "role"):
        members.remove_member(membership=owner, actor=SYSTEM)
    other = factories.member(acme, "owner")
    members.remove_member(membership=owner, actor=SYSTEM)
    assert list(acme.memberships.all()) == [other]


def test_every_change_leaves_one_event(acme):
    membership = add(acme)
    members.change_role(membership=membership, role="viewer", actor=SYSTEM)
    members.remove_member(membership=membership, actor=SYSTEM)
    events = AuditEvent.objects.order_by("sequence").values_list("action", "before", "after")
    first, second = ({"email": "new@example.com", "role": role} for role in ("developer", "viewer"))
    assert list(events) == [
        ("member.create", None, first),
        ("member.update", first, second),
        ("member.delete", second, None),
    ]


def test_a_membership_gone_meanwhile_is_not_found(acme):
    membership = factories.member(acme, "viewer")
    Membership.objects.all().delete()
    with refused("not_found"):
        members.remove_member(membership=membership, actor=SYSTEM)


def test_the_door_is_closed_to_strangers(db):
    assert not members.ClosedDoorAdapter().is_open_for_signup(RequestFactory().get("/"))
    response = Client().post(
        "/accounts/signup/",
        {
            "email": "x@example.com",
            "password1": "correct horse battery",
            "password2": "correct horse battery",
        },
    )
    assert response.status_code == 200
    assert not User.objects.exists()


def test_a_reset_link_does_not_follow_the_host_header(db):
    factories.user("known@example.com", password="correct horse battery")
    with override_settings(ALLOWED_HOSTS=["*"], PUBLIC_URL="https://ai.example.com"):
        Client(headers={"host": "evil.example.net"}).post(
            "/accounts/password/reset/", {"email": "known@example.com"}
        )
    (message,) = mail.outbox
    assert "https://ai.example.com/accounts/password/reset/key/" in message.body
    assert "evil" not in message.body
