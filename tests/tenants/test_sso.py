"""Single sign-on against a real provider over HTTP, through the real views."""

import re
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from allauth.socialaccount.models import SocialAccount
from django.urls import reverse
from django.utils import timezone

from tenants import invitations, oidc, sso
from tenants.authentication import principal_of
from tenants.errors import ApiError
from tenants.models import AuditEvent, Membership, SsoConnection, User
from tenants.principal import SYSTEM
from tests import factories
from tests.fakes import oidc_provider

pytestmark = [pytest.mark.urls("gateway.urls"), pytest.mark.django_db]


@pytest.fixture
def acme(db):
    return factories.tenant("acme", name="Acme Robotics")


@pytest.fixture
def provider(settings):
    with oidc_provider.running() as started:
        settings.TOLLHOUSE_EGRESS_ALLOWED_HOSTS = [started.host]
        settings.PUBLIC_URL = "http://testserver"
        yield started


@pytest.fixture
def connection(acme, provider):
    made = connect(acme, provider)
    provider.redirect_uri = oidc.callback_url(made)
    return made


def connect(tenant, provider, *, domain="acme.example", is_confirmed=True, **fields):
    made = sso.create_connection(
        tenant=tenant,
        name="Acme ID",
        issuer=provider.issuer,
        client_id=oidc_provider.CLIENT_ID,
        client_secret=oidc_provider.CLIENT_SECRET,
        domains=[domain],
        actor=SYSTEM,
        **{"default_role": "developer", **fields},
    )
    if is_confirmed:
        sso.confirm_domain(connection=made, domain=domain, actor=SYSTEM, now=timezone.now())
    return made


def refused(code, param=None):
    return pytest.raises(ApiError, check=lambda error: (error.code, error.param) == (code, param))


def sign_in(client, provider, email="ada@acme.example"):
    """From the e-mail form to what the callback answers; each step as a browser takes it."""
    page = client.post(reverse("sso_start"), {"email": email})
    assert page.status_code == 200
    (url,) = re.findall(r'http-equiv="refresh" content="0;url=([^"]+)"', page.content.decode())
    away = client.get(url)
    if away.status_code != 302:
        return away
    assert away["Location"].startswith(f"{provider.issuer}/authorize?")
    back = httpx.get(away["Location"], follow_redirects=False)
    assert back.status_code == 302, back.text
    return client.get(back.headers["Location"].removeprefix("http://testserver"))


def who(client):
    return client.get(reverse("account")).wsgi_request.user


def test_a_newcomer_of_the_domain_becomes_a_member_with_the_default_role(connection, provider):
    client = factories.browser()
    answer = sign_in(client, provider)
    assert answer.status_code == 302
    user = User.objects.get()
    assert who(client) == user
    assert (user.email, user.name, user.has_usable_password()) == ("ada@acme.example", "Ada Lovelace", False)
    assert (user.operator_role, user.is_staff) == ("", False)
    membership = Membership.objects.get()
    assert (membership.tenant, membership.role) == (connection.tenant, "developer")
    link = SocialAccount.objects.get()
    assert (link.provider, link.uid, link.user, link.extra_data) == (str(connection.pk), "u-1", user, {})
    assert provider.asked[0]["login_hint"] == "ada@acme.example"
    assert provider.refusals == []


def test_the_sign_in_stands_in_both_trails(connection, provider):
    client = factories.browser()
    sign_in(client, provider)
    mine = AuditEvent.objects.filter(tenant=connection.tenant).order_by("sequence")
    actions = list(mine.values_list("action", flat=True))
    assert actions[-3:] == ["member.create", "user.sso_link", "user.sign_in"]
    last = mine.last()
    assert (last.ip, last.after["methods"]) == (client.defaults["REMOTE_ADDR"], ["socialaccount"])
    assert AuditEvent.objects.filter(tenant=None, action="user.sign_in").count() == 1


def test_the_second_time_it_is_the_same_person_whatever_the_address(connection, provider):
    sign_in(factories.browser(), provider)
    provider.person["email"] = "ada.king@acme.example"
    client = factories.browser()
    sign_in(client, provider)
    assert User.objects.count() == 1
    assert who(client).email == "ada@acme.example"


def test_a_linked_person_whose_account_has_left_the_domain_is_refused(connection, provider):
    sign_in(factories.browser(), provider)
    User.objects.update(email="ada@other.example")
    client = factories.browser()
    assert sign_in(client, provider).status_code == 403
    assert who(client).is_anonymous


def test_a_known_account_of_the_domain_is_linked(connection, provider):
    known = factories.user("ada@acme.example", password="correct horse battery")
    client = factories.browser()
    sign_in(client, provider)
    assert who(client) == known
    assert Membership.objects.get().user == known


def test_an_invitation_gives_its_role_and_is_taken(connection, provider, acme):
    sso.change_connection(connection=connection, changes={"default_role": ""}, actor=SYSTEM)
    offer = invitations.invite(
        tenant=acme, email="Ada@acme.example", role="owner", actor=SYSTEM, now=timezone.now()
    )
    sign_in(factories.browser(), provider)
    assert Membership.objects.get().role == "owner"
    offer.refresh_from_db()
    assert offer.state(timezone.now()) == "accepted"


def test_without_a_default_role_only_the_invited_come_in(connection, provider):
    sso.change_connection(connection=connection, changes={"default_role": ""}, actor=SYSTEM)
    answer = sign_in(factories.browser(), provider)
    assert (answer.status_code, User.objects.count()) == (403, 0)
    assert "no invitation" in answer.content.decode()


@pytest.mark.parametrize(
    ("person", "words"),
    [
        ({"email_verified": False}, "does not say that your e-mail address is verified"),
        ({"email_verified": None}, "does not say that your e-mail address is verified"),
        ({"email": "ada@other.example"}, "belongs to no domain"),
        ({"email": "ada@acme.example.evil.example"}, "belongs to no domain"),
        ({"email": ""}, "does not say that your e-mail address is verified"),
    ],
)
def test_an_address_that_is_not_vouched_for_is_refused(connection, provider, person, words):
    provider.claims = person
    client = factories.browser()
    answer = sign_in(client, provider)
    assert answer.status_code == 403
    assert words in answer.content.decode()
    assert (User.objects.count(), Membership.objects.count(), SocialAccount.objects.count()) == (0, 0, 0)
    assert AuditEvent.objects.filter(action="sso_connection.sign_in_refused").count() == 1
    assert who(client).is_anonymous


@pytest.mark.parametrize("rank", [{"operator_role": "support"}, {"is_staff": True}, {"is_active": False}])
def test_the_operators_staff_and_closed_accounts_never_come_in_this_way(connection, provider, rank):
    factories.user("ada@acme.example", **rank)
    client = factories.browser()
    assert sign_in(client, provider).status_code == 403
    assert who(client).is_anonymous
    assert (Membership.objects.count(), SocialAccount.objects.count()) == (0, 0)


def test_somebody_who_joins_the_operators_staff_loses_this_way_in(connection, provider):
    sign_in(factories.browser(), provider)
    User.objects.update(operator_role="admin")
    client = factories.browser()
    assert sign_in(client, provider).status_code == 403
    assert who(client).is_anonymous


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://evil.example"},
        {"aud": "another-client"},
        {"aud": ["tollhouse-client", "another-client"]},
        {"exp": 1},
        {"exp": None},
        {"sub": None},
        {"nonce": "another"},
        {"nonce": None},
    ],
    ids=str,
)
def test_a_token_that_does_not_hold_lets_nobody_in(connection, provider, claims):
    provider.claims = claims
    client = factories.browser()
    assert sign_in(client, provider).status_code in (401, 403)
    assert (User.objects.count(), who(client).is_anonymous) == (0, True)


@pytest.mark.parametrize("broken", ["strange key", "shared secret"])
def test_a_token_of_another_signer_lets_nobody_in(connection, provider, broken):
    if broken == "strange key":
        provider.signing_key = oidc_provider.STRANGE_KEY
    else:
        provider.algorithm = "HS256"
    assert sign_in(factories.browser(), provider).status_code == 401
    assert User.objects.count() == 0


@pytest.mark.parametrize(
    "config",
    [
        {"issuer": "https://evil.example"},
        {"token_endpoint": None},
        {"token_endpoint": "http://169.254.169.254/token"},
        {"jwks_uri": "http://10.0.0.1/jwks"},
        {"authorization_endpoint": "javascript:alert(1)"},
    ],
    ids=str,
)
def test_a_description_that_points_elsewhere_is_refused(connection, provider, config):
    provider.config = config
    assert sign_in(factories.browser(), provider).status_code == 401
    with refused("invalid_request", "issuer"):
        oidc.try_connection(connection=connection, actor=SYSTEM)


def test_a_provider_on_a_private_address_is_reached_only_if_the_operator_opens_it(
    connection, provider, settings
):
    settings.TOLLHOUSE_EGRESS_ALLOWED_HOSTS = []
    assert sign_in(factories.browser(), provider).status_code == 401
    assert provider.server.requests == []


def test_an_answer_without_the_state_of_this_browser_is_refused(connection, provider):
    client = factories.browser()
    page = client.post(reverse("sso_start"), {"email": "ada@acme.example"}).content.decode()
    (url,) = re.findall(r'content="0;url=([^"]+)"', page)
    away = client.get(url)["Location"]
    back = httpx.get(away, follow_redirects=False).headers["Location"].removeprefix("http://testserver")
    victim = factories.browser()
    assert victim.get(back).status_code == 401
    assert who(victim).is_anonymous
    assert client.get(back).status_code == 302
    assert client.get(back).status_code == 401, "a code and its state work once"


def test_a_request_cannot_add_to_what_is_asked_of_the_provider(connection, provider):
    url = reverse("openid_connect_login", args=(str(connection.pk),))
    away = factories.browser().get(
        f"{url}?scope=admin&auth_params=prompt%3Dnone&process=connect&next=//evil.example"
    )
    asked = {name: values[0] for name, values in parse_qs(urlsplit(away["Location"]).query).items()}
    assert sorted(asked) == [
        "client_id", "code_challenge", "code_challenge_method", "nonce", "redirect_uri", "response_type",
        "scope", "state",
    ]  # fmt: skip
    assert sorted(asked["scope"].split()) == ["email", "openid", "profile"]


def test_a_connection_that_is_off_or_unknown_does_not_exist(connection, provider):
    sso.change_connection(connection=connection, changes={"is_enabled": False}, actor=SYSTEM)
    for key in (str(connection.pk), "openid_connect", "00000000-0000-0000-0000-000000000000"):
        assert factories.browser().get(f"/accounts/oidc/{key}/login/").status_code == 404
        assert factories.browser().get(f"/accounts/oidc/{key}/login/callback/").status_code == 404
    assert factories.browser().post(reverse("sso_start"), {"email": "ada@acme.example"}).status_code == 422


# ------------------------------------------------------------------ domains


def test_a_domain_counts_only_once_the_operator_has_confirmed_it(acme, provider):
    made = connect(acme, provider, is_confirmed=False)
    assert sso.connection_for("ada@acme.example") is None
    sso.confirm_domain(connection=made, domain="ACME.example", actor=SYSTEM, now=timezone.now())
    assert sso.connection_for("Ada@ACME.example") == made
    assert sso.connection_for("ada@sub.acme.example") is None


def test_a_domain_belongs_to_one_connection(acme, provider):
    connect(acme, provider)
    second = connect(factories.tenant("evil"), provider, is_confirmed=False)
    with refused("conflict", "domain"):
        sso.confirm_domain(connection=second, domain="acme.example", actor=SYSTEM, now=timezone.now())
    assert sso.connection_for("ada@acme.example").tenant == acme


def test_another_issuer_ends_confirmations_and_links(connection, provider, settings):
    sign_in(factories.browser(), provider)
    with oidc_provider.running() as other:
        settings.TOLLHOUSE_EGRESS_ALLOWED_HOSTS = [provider.host, other.host]
        sso.change_connection(connection=connection, changes={"issuer": other.issuer}, actor=SYSTEM)
    assert sso.connection_for("ada@acme.example") is None
    assert SocialAccount.objects.count() == 0
    assert Membership.objects.count() == 1


def test_the_secret_is_sealed_and_in_no_trail(connection):
    stored = bytes(SsoConnection.objects.get().client_secret)
    assert oidc_provider.CLIENT_SECRET.encode() not in stored
    assert sso.secret_of(connection) == oidc_provider.CLIENT_SECRET
    sso.change_connection(connection=connection, changes={"client_secret": "another"}, actor=SYSTEM)
    assert sso.secret_of(SsoConnection.objects.get()) == "another"
    text = str(list(AuditEvent.objects.values_list("before", "after")))
    assert oidc_provider.CLIENT_SECRET not in text


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"issuer": "http://10.0.0.1"}, "url_not_allowed", "issuer"),
        ({"issuer": "https://127.0.0.1/"}, "url_not_allowed", "issuer"),
        ({"domains": ["localhost"]}, "invalid_request", "domains"),
        ({"domains": ["a b.example"]}, "invalid_request", "domains"),
        ({"default_role": "king"}, "invalid_request", "default_role"),
        ({"default_role": "owner"}, "invalid_request", "default_role"),
        ({"name": " "}, "invalid_request", "name"),
        ({"client_secret": ""}, "invalid_request", "client_secret"),
    ],
    ids=str,
)
def test_a_bad_connection_is_refused(acme, provider, fields, code, param):
    given = {
        "name": "x", "issuer": provider.issuer, "client_id": "c", "client_secret": "s", "domains": [], **fields
    }  # fmt: skip
    with refused(code, param):
        sso.create_connection(tenant=acme, actor=SYSTEM, **given)
    assert SsoConnection.objects.count() == 0


def test_nobody_gives_newcomers_a_role_that_may_do_more_than_they(acme, provider):
    role = factories.user("r@example.com")
    Membership.objects.create(tenant=acme, user=role, role="viewer")
    with refused("permission_denied", "default_role"):
        sso.create_connection(
            tenant=acme,
            name="x",
            issuer=provider.issuer,
            client_id="c",
            client_secret="s",
            default_role="admin",
            actor=principal_of(role),
        )


# ------------------------------------------------------------------ the only way in


def log_in(client, email):
    return client.post(reverse("account_login"), {"login": email, "password": "correct horse battery"})


@pytest.mark.parametrize(
    ("role", "is_free"), [("owner", True), ("admin", False), ("viewer", False), (None, False)]
)
def test_where_sso_is_enforced_only_owners_may_use_a_password(connection, acme, role, is_free):
    sso.change_connection(connection=connection, changes={"is_enforced": True}, actor=SYSTEM)
    person = factories.user("ada@acme.example", password="correct horse battery")
    if role:
        factories.member(acme, role, person=person)
    client = factories.browser()
    answer = log_in(client, person.email)
    assert answer.status_code == (302 if is_free else 403)
    assert who(client).is_anonymous is not is_free


def test_a_tenant_cannot_shut_out_the_operator_or_other_domains(connection):
    sso.change_connection(connection=connection, changes={"is_enforced": True}, actor=SYSTEM)
    for person in (
        factories.user("olga@acme.example", password="correct horse battery", operator_role="owner"),
        factories.user("bob@other.example", password="correct horse battery"),
    ):
        assert log_in(factories.browser(), person.email).status_code == 302


def test_a_wrong_password_does_not_tell_of_enforcement(connection):
    sso.change_connection(connection=connection, changes={"is_enforced": True}, actor=SYSTEM)
    factories.user("ada@acme.example", password="another one entirely")
    known, unknown = (
        log_in(factories.browser(), email) for email in ("ada@acme.example", "nobody@acme.example")
    )
    assert (known.status_code, unknown.status_code) == (200, 200)
    assert known.context["form"].errors == unknown.context["form"].errors


# ------------------------------------------------------------------ test and API


def test_the_test_says_what_the_provider_offers(connection, provider):
    assert oidc.try_connection(connection=connection, actor=SYSTEM) == {
        "issuer": provider.issuer,
        "authorization_endpoint": f"{provider.issuer}/authorize",
        "token_endpoint": f"{provider.issuer}/token",
        "keys": "1 of RS256",
        "callback": f"http://testserver/accounts/oidc/{connection.pk}/login/callback/",
    }


def test_the_api_takes_the_secret_and_never_gives_it(acme, provider):
    api = factories.client_with(acme, "sso:read", "sso:write")
    body = {
        "name": "Acme ID",
        "issuer": provider.issuer,
        "client_id": "c",
        "client_secret": "s3cret",
        "domains": ["acme.example"],
    }
    made = api.post("/api/v1/tenants/acme/sso/", body, format="json")
    assert made.status_code == 201, made.data
    assert made.data["claimed_domains"] == [{"domain": "acme.example", "confirmed_at": None}]
    assert "s3cret" not in str(made.data)
    one = f"/api/v1/tenants/acme/sso/{made.data['id']}/"
    assert "client_secret" not in api.get(one).data
    assert api.patch(one, {"name": "New"}, format="json").data["name"] == "New"
    assert api.post(f"{one}test/", {}, format="json").data["keys"] == "1 of RS256"
    denied = api.post(f"{one}confirm-domain/", {"domain": "acme.example"}, format="json")
    assert denied.status_code == 403
    operator = factories.client_with(None, "tenants:write", "sso:read")
    confirmed = operator.post(f"{one}confirm-domain/", {"domain": "acme.example"}, format="json")
    assert confirmed.data["claimed_domains"][0]["confirmed_at"] is not None
    assert api.delete(one).status_code == 204
    assert SsoConnection.objects.count() == 0


def test_the_demand_for_a_second_factor_is_read_and_changed(acme):
    api = factories.client_with(acme, "sso:read", "sso:write")
    url = "/api/v1/tenants/acme/sign-in/"
    assert api.get(url).data == {"require_mfa": False}
    assert api.patch(url, {"require_mfa": True}, format="json").data == {"require_mfa": True}
    assert api.get(url).data == {"require_mfa": True}
    assert (
        api.patch(url, {"require_mfa": True, "x": 1}, format="json").data["error"]["code"] == "unknown_field"
    )
