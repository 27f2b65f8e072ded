"""Passwords, second factors, sessions, limits, and the trail they leave: through the real pages."""

import re
import time

import pytest
from allauth.mfa.adapter import get_adapter
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal.auth import format_hotp_value, hotp_value
from allauth.usersessions.models import UserSession
from django.core import mail
from django.core.management import call_command
from django.urls import URLResolver, get_resolver, reverse

from tenants import sessions, sso
from tenants.encryption import SealBrokenError
from tenants.models import AuditEvent, SignInSetting, User
from tenants.principal import SYSTEM
from tests import factories

pytestmark = [pytest.mark.urls("gateway.urls"), pytest.mark.django_db]
PASSWORD = "correct horse battery"
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


@pytest.fixture
def ada(db):
    return factories.user("ada@example.com", password=PASSWORD)


def log_in(client, email="ada@example.com", password=PASSWORD):
    return client.post(reverse("account_login"), {"login": email, "password": password})


def signed_in(**meta):
    client = factories.browser(**meta)
    assert log_in(client).status_code == 302
    return client


def is_in(client):
    return client.get(reverse("account")).status_code == 200


def actions(**where):
    return list(AuditEvent.objects.filter(**where).order_by("id").values_list("action", flat=True))


def code_of(secret, *, steps=0):
    return format_hotp_value(hotp_value(secret, int(time.time()) // 30 + steps))


def confirm(client):
    """Type the password again, as the pages of second factors ask for."""
    assert client.post(reverse("account_reauthenticate"), {"password": PASSWORD}).status_code == 302


def set_up_app(client):
    """Activate an authenticator app and give its secret."""
    confirm(client)
    page = client.get(reverse("mfa_activate_totp"))
    secret = page.context["form"].secret
    answer = client.post(reverse("mfa_activate_totp"), {"code": code_of(secret)})
    assert (answer.status_code, answer["Location"]) == (302, reverse("mfa_view_recovery_codes"))
    return secret


# ------------------------------------------------------------------ second factors


def test_an_app_is_asked_for_after_the_password(ada, django_capture_on_commit_callbacks):
    with django_capture_on_commit_callbacks(execute=True):
        secret = set_up_app(signed_in())
    client = factories.browser()
    assert log_in(client)["Location"] == reverse("mfa_authenticate")
    assert not is_in(client)
    wrong = client.post(reverse("mfa_authenticate"), {"code": "000000"})
    assert wrong.context["form"].errors == {"code": ["Incorrect code."]}
    Authenticator.objects.filter(type="totp").update(last_used_at=None)
    code = next(each for each in (code_of(secret), code_of(secret, steps=1)) if each != "000000")
    answer = client.post(reverse("mfa_authenticate"), {"code": code})
    assert (answer.status_code, is_in(client)) == (302, True)
    assert actions(tenant=None, object_type="user") == [
        "user.sign_in", "user.mfa_add", "user.mfa_add", "user.mfa_failed", "user.sign_in"
    ]  # fmt: skip
    last = AuditEvent.objects.filter(action="user.sign_in").order_by("id").last()
    assert last.after == {"email": "ada@example.com", "methods": ["password", "totp"]}


def test_a_code_works_once(ada):
    secret = set_up_app(signed_in())
    code = code_of(secret)
    first, second = factories.browser(), factories.browser()
    for client in (first, second):
        log_in(client)
        client.post(reverse("mfa_authenticate"), {"code": code})
    assert (is_in(first), is_in(second)) == (True, False)


def test_a_recovery_code_stands_in_once(ada):
    client = signed_in()
    set_up_app(client)
    page = client.get(reverse("mfa_view_recovery_codes"))
    codes = page.context["unused_codes"]
    assert (len(codes), all(code in page.content.decode() for code in codes)) == (10, True)
    other = factories.browser()
    for expected in (True, False):
        other = factories.browser()
        log_in(other)
        other.post(reverse("mfa_authenticate"), {"code": codes[0]})
        assert is_in(other) is expected


def test_what_a_factor_is_made_of_is_sealed_at_rest(ada):
    secret = set_up_app(signed_in())
    stored = {each.type: each.data for each in Authenticator.objects.all()}
    assert secret not in str(stored)
    adapter = get_adapter()
    assert adapter.decrypt(stored["totp"]["secret"]) == secret
    assert adapter.encrypt(secret) != adapter.encrypt(secret)
    seed = stored["recovery_codes"]["seed"]
    assert re.fullmatch(r"[0-9a-f]{80}", adapter.decrypt(seed))
    for broken in ("", "AAAA", seed[:-8], seed[:40] + seed[44:]):
        with pytest.raises(SealBrokenError):
            adapter.decrypt(broken)


def test_removing_the_app_takes_the_password_again_and_leaves_an_event(ada):
    client = signed_in()
    set_up_app(client)
    client.post(reverse("mfa_deactivate_totp"))
    assert Authenticator.objects.count() == 0
    assert actions(tenant=None)[-2:] == ["user.mfa_remove", "user.mfa_remove"]
    fresh = signed_in()
    assert fresh.get(reverse("mfa_activate_totp"))["Location"].startswith(reverse("account_reauthenticate"))


@pytest.mark.parametrize("name", ["mfa_index", "mfa_list_webauthn", "mfa_add_webauthn", "mfa_activate_totp"])
def test_the_pages_of_factors_open(ada, name):
    client = signed_in()
    confirm(client)
    assert client.get(reverse(name)).status_code == 200


NO_CREDENTIALS = (
    "", "{}", "null", "[]", "[[]]", '{"id": 1}', '{"response": {}}', '{"response": []}', '"x"', "{",
    '{"id": "AA", "rawId": "AA", "type": "public-key", "response": {"userHandle": "AA"}}',
    ('{"id": "AA", "rawId": "AA", "type": "public-key", "response": {"clientDataJSON": "e30",'
    ' "authenticatorData": "AA", "signature": "AA", "userHandle": "AA"}}'),
)  # fmt: skip


@pytest.mark.parametrize("credential", NO_CREDENTIALS)
def test_a_made_up_passkey_lets_nobody_in(ada, credential):
    client = factories.browser()
    client.get(reverse("mfa_login_webauthn"), headers={"Accept": "application/json"})
    answer = client.post(reverse("mfa_login_webauthn"), {"credential": credential})
    assert (answer.status_code, is_in(client)) == (302, False)


@pytest.mark.parametrize("credential", NO_CREDENTIALS)
def test_a_made_up_passkey_is_not_added_nor_taken_as_a_second_step(ada, credential):
    client = signed_in()
    confirm(client)
    client.get(reverse("mfa_add_webauthn"))
    added = client.post(reverse("mfa_add_webauthn"), {"name": "x", "credential": credential})
    assert (added.status_code, Authenticator.objects.count()) == (200, 0)
    set_up_app(client)
    other = factories.browser()
    log_in(other)
    other.get(reverse("mfa_authenticate"))
    second = other.post(reverse("mfa_authenticate"), {"credential": credential})
    assert (second.status_code, is_in(other)) == (200, False)


# ------------------------------------------------------------------ who must have one


def test_operators_are_led_to_a_second_factor_first(ada, settings):
    settings.REQUIRE_MFA_FOR_OPERATORS = True
    User.objects.update(operator_role="owner")
    client = signed_in()
    assert client.get("/platform/")["Location"] == reverse("mfa_index")
    assert client.get("/account/")["Location"] == reverse("mfa_index")
    assert client.get("/", headers={"HX-Request": "true"}).status_code == 401
    refused = client.get("/api/v1/tenants/")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "permission_denied")
    set_up_app(client)
    assert client.get("/account/").status_code == 200
    assert client.get("/api/v1/tenants/").status_code == 200


def test_a_tenants_demand_holds_at_once_and_for_its_members_alone(ada):
    acme, other = factories.tenant("acme"), factories.tenant("other")
    factories.member(acme, "viewer", person=ada)
    factories.member(other, "viewer", person=factories.user("bob@example.com", password=PASSWORD))
    mine, bobs = signed_in(), factories.browser()
    log_in(bobs, "bob@example.com")
    assert is_in(mine)
    sso.change_demands(tenant=acme, require_mfa=True, actor=SYSTEM)
    assert mine.get("/account/")["Location"] == reverse("mfa_index")
    assert is_in(bobs)
    set_up_app(mine)
    assert is_in(mine)


def test_a_key_is_not_held_up_by_a_session_beside_it(ada):
    acme = factories.tenant("acme")
    factories.member(acme, "viewer", person=ada)
    SignInSetting.objects.create(tenant=acme, require_mfa=True)
    key = factories.api_key(acme, "keys:read").text
    client = signed_in()
    assert client.get("/api/v1/tenants/acme/keys/").status_code == 403
    answer = client.get("/api/v1/tenants/acme/keys/", headers={"Authorization": f"Bearer {key}"})
    assert answer.status_code == 200


# ------------------------------------------------------------------ sessions


def test_sessions_are_listed_with_device_and_address(ada):
    here = signed_in(HTTP_USER_AGENT=FIREFOX)
    there = signed_in()
    shown = here.get(reverse("account")).context["sessions"]
    assert [(each.device, each.is_current) for each in shown] == [
        ("Firefox on Linux", True), ("Unknown device", False)
    ]  # fmt: skip
    assert [each.ip for each in shown] == [each.defaults["REMOTE_ADDR"] for each in (here, there)]


def test_a_session_that_is_ended_is_dead_at_once(ada):
    here, there = signed_in(), signed_in()
    other = UserSession.objects.get(session_key=there.session.session_key)
    assert here.post(reverse("session_end", args=(other.pk,))).status_code == 302
    assert (is_in(here), is_in(there)) == (True, False)
    assert AuditEvent.objects.get(action="user.session_revoke").before["ip"] == there.defaults["REMOTE_ADDR"]


def test_all_others_are_ended_at_once(ada):
    here, *others = (signed_in() for _ in range(3))
    assert here.post(reverse("sessions_end")).status_code == 302
    assert [is_in(each) for each in (here, *others)] == [True, False, False]


def test_nobody_ends_anothers_session(ada):
    factories.user("eve@example.com", password=PASSWORD)
    mine, eves = signed_in(), factories.browser()
    log_in(eves, "eve@example.com")
    row = UserSession.objects.get(session_key=mine.session.session_key)
    eves.post(reverse("session_end", args=(row.pk,)))
    eves.post(reverse("sessions_end"))
    assert is_in(mine)
    assert actions(action="user.session_revoke") == []


def test_another_password_ends_the_other_sessions(ada):
    here, there = signed_in(), signed_in()
    new = "battery staple horse"
    answer = here.post(
        reverse("account_change_password"), {"oldpassword": PASSWORD, "password1": new, "password2": new}
    )
    assert answer.status_code == 302
    assert (is_in(here), is_in(there)) == (True, False)
    assert actions(tenant=None)[-1] == "user.password_change"


def test_the_list_leaves_out_dead_sessions_and_notes_living_ones(ada):
    client = signed_in()
    UserSession.objects.create(user=ada, ip="10.0.0.9", session_key="gone", user_agent="x")
    UserSession.objects.exclude(session_key="gone").update(last_seen_at="2020-01-01T00:00Z")
    client.get("/account/")
    (shown,) = sessions.list_sessions(user=ada, current_key=client.session.session_key)
    assert shown.last_seen_at.year > 2020


@pytest.mark.parametrize(
    ("agent", "device"),
    [
        (FIREFOX, "Firefox on Linux"),
        ("Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 Chrome/140.0 Safari/537.36 Edg/140.0", "Edge on Windows"),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) Version/18.0 Safari/604.1", "Safari on iOS"),
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X) AppleWebKit Chrome/140.0 Safari/537.36", "Chrome on macOS"),
        ("curl/8.0", "Unknown device"),
        ("", "Unknown device"),
    ],
)  # fmt: skip
def test_a_device_is_named_as_far_as_its_header_says(agent, device):
    assert sessions.device_of(agent) == device


# ------------------------------------------------------------------ brute force


def test_a_known_address_and_an_unknown_one_get_the_same_answer(ada):
    known, unknown = (
        log_in(factories.browser(), email, "wrong") for email in ("ada@example.com", "nobody@example.com")
    )
    assert (known.status_code, known.context["form"].errors) == (200, unknown.context["form"].errors)
    assert actions(object_type="user") == ["user.sign_in_failed"]


def test_a_reset_says_and_does_the_same_for_both(ada):
    answers = [
        factories.browser().post(reverse("account_reset_password"), {"email": email})
        for email in ("ada@example.com", "nobody@example.com")
    ]
    assert {(each.status_code, each["Location"]) for each in answers} == {
        (302, reverse("account_reset_password_done"))
    }
    assert [message.to for message in mail.outbox] == [["ada@example.com"], ["nobody@example.com"]]
    assert "There is no account with this address" in mail.outbox[1].body


def test_guessing_from_one_address_is_stopped_and_a_forwarded_header_does_not_help(ada):
    client = factories.browser()
    answers = [
        client.post(
            reverse("account_login"),
            {"login": f"guess-{number}@example.com", "password": "x"},
            headers={"X-Forwarded-For": f"203.0.113.{number}"},
        )
        for number in range(11)
    ]
    too_many = ["Too many failed login attempts. Try again later."]
    stopped = [list(each.context["form"].non_field_errors()) == too_many for each in answers]
    assert stopped == [False] * 10 + [True]


def test_guessing_one_account_from_many_addresses_is_stopped():
    email = f"{time.time_ns()}@example.com"
    factories.user(email, password=PASSWORD)
    answers = [log_in(factories.browser(), email, "wrong") for _ in range(10)]
    assert all(each.status_code == 200 for each in answers)
    held = log_in(factories.browser(), email, PASSWORD)
    assert held.context["form"].errors == {"__all__": ["Too many failed login attempts. Try again later."]}


def test_the_limit_has_a_page_of_its_own(ada):
    client = factories.browser()
    answers = [client.post(reverse("sso_start"), {"email": "x@example.com"}) for _ in range(31)]
    assert {each.status_code for each in answers[:30]} == {422}
    assert answers[30].status_code == 429
    assert "Too many attempts" in answers[30].content.decode()


# ------------------------------------------------------------------ the trail


def test_members_sign_ins_stand_in_their_tenants_trail_with_the_address(ada):
    acme, other = factories.tenant("acme"), factories.tenant("other")
    factories.member(acme, "viewer", person=ada)
    client = factories.browser()
    log_in(client, password="wrong")
    log_in(client)
    events = AuditEvent.objects.filter(tenant=acme).order_by("id")
    assert [(each.action, each.actor_label, each.ip) for each in events] == [
        ("user.sign_in_failed", "sign-in", client.defaults["REMOTE_ADDR"]),
        ("user.sign_in", "ada@example.com", client.defaults["REMOTE_ADDR"]),
    ]
    assert not AuditEvent.objects.filter(tenant=other).exists()
    assert PASSWORD not in str(list(AuditEvent.objects.values()))


def test_a_password_reset_is_noted(ada):
    factories.browser().post(reverse("account_reset_password"), {"email": "ada@example.com"})
    (link,) = re.findall(r"http://[^/]+(/accounts/password/reset/key/\S+)", mail.outbox[0].body)
    client = factories.browser()
    page = client.get(link, follow=True)
    new = "battery staple horse"
    client.post(page.redirect_chain[-1][0], {"password1": new, "password2": new})
    assert actions(tenant=None) == ["user.password_reset"]
    assert log_in(factories.browser(), password=new).status_code == 302


# ------------------------------------------------------------------ the door is closed


def door_paths():
    """Every path before the console's door that takes no argument."""
    door = next(
        each for each in get_resolver("gateway.urls").url_patterns
        if isinstance(each, URLResolver) and str(each.pattern) == "accounts/"
    )  # fmt: skip
    return sorted(
        f"/accounts/{route}"
        for route in _routes(door.url_patterns, "")
        if "<" not in route and "(" not in route
    )


def _routes(patterns, prefix):
    for each in patterns:
        if isinstance(each, URLResolver):
            yield from _routes(each.url_patterns, prefix + str(each.pattern))
        else:
            yield prefix + str(each.pattern)


def test_no_page_makes_an_account_or_an_operator():
    given = {
        "email": "x@example.com", "login": "x@example.com", "password": PASSWORD, "password1": PASSWORD,
        "password2": PASSWORD, "operator_role": "owner", "is_superuser": "on", "credential": "{}", "code": "1",
    }  # fmt: skip
    paths = door_paths()
    assert {"/accounts/signup/", "/accounts/login/", "/accounts/sso/"} <= set(paths)
    for path in (*paths, "/", "/account/", "/platform/", "/accounts/invitations/guessed/"):
        client = factories.browser()
        assert client.get(path).status_code < 500, path
        assert client.post(path, given).status_code < 500, path
    assert User.objects.count() == 0


@pytest.mark.parametrize(
    "path", ["email/", "confirm-email/", "signup/passkey/", "login/code/", "social/signup/"]
)
def test_pages_of_allauth_that_could_change_who_one_is_are_not_there(path):
    assert factories.browser().get(f"/accounts/{path}").status_code == 404


def test_the_first_operator_comes_from_the_command_alone(capsys):
    call_command("create_admin", email="olga@example.com")
    email, password = capsys.readouterr().out.split()
    client = factories.browser()
    assert log_in(client, email, password).status_code == 302
    assert User.objects.get().operator_role == "owner"
