from datetime import timedelta

import pytest
from django.core import mail
from django.urls import get_resolver
from django.utils import timezone
from rest_framework.test import APIClient

from tenants.api import KeySerializer, MemberSerializer, TenantSerializer
from tenants.models import (
    ApiKey,
    AuditEvent,
    AuditSink,
    CustomRole,
    Invitation,
    Membership,
    Proposal,
    ServiceAccount,
    SsoConnection,
    Tenant,
)
from tenants.scopes import TENANT_ROLES
from tenants.trail import proof
from tenants.trail.api import AuditSerializer
from tests import factories

pytestmark = pytest.mark.urls("tests.tenants.urls")
API = "/api/v1"
KEYS = f"{API}/tenants/acme/keys/"
MEMBERS = f"{API}/tenants/acme/members/"
NEW_KEY = {"name": "ci", "scopes": ["inference:chat"]}


@pytest.fixture
def acme(db):
    return factories.tenant("acme")


@pytest.fixture
def globex(db):
    return factories.tenant("globex")


@pytest.fixture
def operator(db):
    return factories.client_with(None, "*")


@pytest.fixture
def owner(acme):
    client = APIClient()
    client.force_login(factories.member(acme, "owner").user)
    return client


def error_of(response):
    error = response.json()["error"]
    return response.status_code, error["code"], error["param"]


def as_member(tenant, role):
    client = APIClient()
    client.force_login(factories.member(tenant, role).user)
    return client


# ------------------------------------------------------------------ tenants


def test_an_operator_creates_a_tenant_and_it_is_audited(operator):
    body = {
        "slug": "acme",
        "name": "Acme",
        "timezone": "Europe/Berlin",
        "currency": "EUR",
        "region_policy": ["eu"],
    }
    response = operator.post(f"{API}/tenants/", body, format="json")
    assert response.status_code == 201
    tenant = Tenant.objects.get()
    stamps = {name: response.json()[name] for name in ("created_at", "updated_at")}
    assert response.json() == body | {"id": str(tenant.id), "status": "active"} | stamps
    assert tenant.config_version > 0
    event = AuditEvent.objects.get(action="tenant.create")
    assert (event.chain, event.after["slug"], event.actor_kind) == (tenant.id, "acme", "key")
    assert event.request_id == response["X-Request-Id"]
    assert event.ip == "127.0.0.1"


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("slug", "Not A Slug", "invalid_request"),
        ("slug", "-a", "invalid_request"),
        ("slug", "a" * 64, "invalid_request"),
        ("slug", "a\nb", "invalid_request"),
        ("slug", None, "invalid_request"),
        ("name", "", "invalid_request"),
        ("timezone", "Mars/Base", "invalid_request"),
        ("timezone", "../../etc/passwd", "invalid_request"),
        ("currency", "XXY", "invalid_request"),
        ("currency", "usd", "invalid_request"),
        ("region_policy", ["E U"], "invalid_request"),
        ("region_policy", "eu", "invalid_request"),
        ("status", "deleted", "invalid_request"),
        ("config_version", 9, "unknown_field"),
        ("id", "x", "unknown_field"),
        ("plan_version", "x", "unknown_field"),
    ],
)
def test_a_tenant_with_a_bad_field_is_refused(operator, field, value, code):
    body = {"slug": "acme", "name": "Acme"} | {field: value}
    assert error_of(operator.post(f"{API}/tenants/", body, format="json"))[:2] == (400, code)
    assert not Tenant.objects.exists()


def test_a_slug_is_taken_once(operator, acme):
    response = operator.post(f"{API}/tenants/", {"slug": "acme", "name": "Again"}, format="json")
    assert error_of(response)[:2] == (409, "conflict")
    assert Tenant.objects.get().name == acme.name


def test_suspending_and_changing_a_tenant_reaches_the_workers(operator, acme):
    response = operator.patch(f"{API}/tenants/acme/", {"status": "suspended", "name": "New"}, format="json")
    assert (response.status_code, response.json()["status"], response.json()["name"]) == (
        200,
        "suspended",
        "New",
    )
    acme.refresh_from_db()
    assert (acme.status, acme.name) == ("suspended", "New")
    assert acme.config_version > 0
    operator.patch(f"{API}/tenants/acme/", {"status": "active"}, format="json")
    actions = AuditEvent.objects.filter(chain=acme.id).order_by("sequence").values_list("action", flat=True)
    assert list(actions) == ["tenant.update", "tenant.suspend", "tenant.activate"]


def test_a_slug_never_changes(operator, acme):
    assert error_of(operator.patch(f"{API}/tenants/acme/", {"slug": "b"}, format="json")) == (
        400,
        "invalid_request",
        "slug",
    )
    assert (
        operator.patch(f"{API}/tenants/acme/", {"slug": "acme", "name": "A"}, format="json").status_code
        == 200
    )


def test_a_tenant_is_never_deleted(operator, acme):
    assert error_of(operator.delete(f"{API}/tenants/acme/")) == (405, "method_not_allowed", None)


def test_a_member_sees_its_own_tenants_and_changes_none(owner, acme, globex):
    assert [row["slug"] for row in owner.get(f"{API}/tenants/").json()["data"]] == ["acme"]
    assert owner.get(f"{API}/tenants/acme/").json()["slug"] == "acme"
    assert error_of(owner.get(f"{API}/tenants/globex/"))[:2] == (404, "not_found")
    for response in (
        owner.post(f"{API}/tenants/", {"slug": "new", "name": "New"}, format="json"),
        owner.patch(f"{API}/tenants/acme/", {"name": "New"}, format="json"),
    ):
        assert error_of(response)[:2] == (403, "permission_denied")
    assert set(Tenant.objects.values_list("slug", "name")) == {("acme", "Acme"), ("globex", "Globex")}


def test_a_tenants_key_with_tenants_write_changes_its_own_and_creates_none(acme, globex):
    client = factories.client_with(acme, "tenants:*")
    assert client.patch(f"{API}/tenants/acme/", {"name": "Mine"}, format="json").status_code == 200
    assert error_of(client.patch(f"{API}/tenants/globex/", {"name": "Mine"}, format="json"))[:2] == (
        404,
        "not_found",
    )
    assert error_of(client.post(f"{API}/tenants/", {"slug": "new", "name": "N"}, format="json"))[:2] == (
        403,
        "permission_denied",
    )
    assert set(Tenant.objects.values_list("name", flat=True)) == {"Mine", "Globex"}


def test_tenants_are_filtered_by_status(operator, acme, globex):
    operator.patch(f"{API}/tenants/acme/", {"status": "suspended"}, format="json")
    rows = operator.get(f"{API}/tenants/", {"status": "suspended"}).json()["data"]
    assert [row["slug"] for row in rows] == ["acme"]


# ------------------------------------------------------------------ keys


def test_a_key_is_shown_once(owner):
    body = NEW_KEY | {
        "allowed_models": ["m"],
        "allowed_ips": ["10.0.0.0/8"],
        "limit_rpm": 60,
        "limit_tpm": 1000,
        "max_concurrent": 4,
        "expires_at": "2099-01-01T00:00:00Z",
    }
    response = owner.post(KEYS, body, format="json")
    created = response.json()
    assert response.status_code == 201
    assert {name: created[name] for name in body} == body
    assert created["key"].startswith(f"th_{created['public_id']}_")
    assert created["key"].endswith(created["last_four"])
    assert (created["tenant"], created["revoked_at"], created["replaced_by"]) == ("acme", None, None)
    listed = owner.get(KEYS).json()["data"]
    assert listed == [created | {"key": None}]
    assert owner.get(f"{KEYS}{created['id']}/").json() == created | {"key": None}
    assert factories.key_client(created["key"]).get(KEYS).status_code == 403


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("name", "", "invalid_request"),
        ("name", "x" * 101, "invalid_request"),
        ("scopes", [], "invalid_request"),
        ("scopes", ["inference:fly"], "invalid_request"),
        ("scopes", "inference:chat", "invalid_request"),
        ("allowed_ips", ["10.0.0.0/33"], "invalid_request"),
        ("limit_rpm", 0, "invalid_request"),
        ("limit_rpm", 2**31, "invalid_request"),
        ("limit_tpm", 2**53, "invalid_request"),
        ("max_concurrent", -1, "invalid_request"),
        ("max_concurrent", 1.5, "invalid_request"),
        ("expires_at", "2020-01-01T00:00:00Z", "invalid_request"),
        ("expires_at", "tomorrow", "invalid_request"),
    ],
)
def test_a_key_with_a_bad_field_is_refused(owner, field, value, code):
    assert error_of(owner.post(KEYS, NEW_KEY | {field: value}, format="json")) == (400, code, field)
    assert not ApiKey.objects.exists()


def test_nobody_grants_a_key_more_than_they_hold(acme):
    developer = as_member(acme, "developer")
    assert developer.post(KEYS, NEW_KEY, format="json").status_code == 201
    for scope in ("budgets:write", "*", "keys:*", "tenants:act"):
        response = developer.post(KEYS, NEW_KEY | {"scopes": [scope]}, format="json")
        assert error_of(response) == (403, "permission_denied", "scopes")
    assert ApiKey.objects.count() == 1


def test_rotate_answers_with_a_new_text_and_the_old_one_goes_on_for_the_grace(owner, acme):
    old = factories.api_key(acme, "keys:read")
    response = owner.post(f"{KEYS}{old.key.id}/rotate/", {"grace_s": 60}, format="json")
    assert response.status_code == 201
    new_text = response.json()["key"]
    assert new_text != old.text
    for text in (old.text, new_text):
        assert factories.key_client(text).get(KEYS).status_code == 200
    shown = owner.get(f"{KEYS}{old.key.id}/").json()
    assert shown["replaced_by"] == response.json()["id"]
    ApiKey.objects.filter(id=old.key.id).update(expires_at=timezone.now() - timedelta(seconds=1))
    assert error_of(factories.key_client(old.text).get(KEYS))[:2] == (401, "key_expired")


def test_rotate_without_a_body_grants_a_day(owner, acme):
    old = factories.api_key(acme, "keys:read")
    assert owner.post(f"{KEYS}{old.key.id}/rotate/").status_code == 201
    left = ApiKey.objects.get(id=old.key.id).expires_at - timezone.now()
    assert timedelta(hours=23, minutes=55) < left <= timedelta(hours=24)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"grace_s": -1}, "invalid_request"),
        ({"grace_s": "x"}, "invalid_request"),
        ({"grace": 1}, "unknown_field"),
    ],
)
def test_rotate_refuses_a_bad_body(owner, acme, body, code):
    key = factories.api_key(acme, "keys:read").key
    assert error_of(owner.post(f"{KEYS}{key.id}/rotate/", body, format="json"))[:2] == (400, code)
    assert ApiKey.objects.count() == 1


def test_a_rotated_key_cannot_be_rotated_again(owner, acme):
    key = factories.api_key(acme, "keys:read").key
    owner.post(f"{KEYS}{key.id}/rotate/")
    assert error_of(owner.post(f"{KEYS}{key.id}/rotate/"))[:2] == (409, "conflict")


def test_a_revoked_key_is_refused_from_the_next_request(owner, acme):
    issued = factories.api_key(acme, "keys:read")
    client = factories.key_client(issued.text)
    assert client.get(KEYS).status_code == 200
    response = owner.post(f"{KEYS}{issued.key.id}/revoke/")
    assert (response.status_code, response.json()["key"]) == (200, None)
    assert response.json()["revoked_at"] is not None
    assert error_of(client.get(KEYS))[:2] == (401, "key_revoked")


@pytest.mark.parametrize("method", ["put", "delete"])
def test_a_key_is_neither_put_nor_deleted(owner, acme, method):
    key = factories.api_key(acme, "keys:read").key
    response = getattr(owner, method)(f"{KEYS}{key.id}/", {"name": "x"}, format="json")
    assert error_of(response)[:2] == (405, "method_not_allowed")


def test_platform_keys_are_the_operators_alone(operator, owner):
    url = f"{API}/platform-keys/"
    created = operator.post(url, {"name": "backend", "scopes": ["tenants:act", "inference:*"]}, format="json")
    assert (created.status_code, created.json()["tenant"]) == (201, None)
    assert created.json()["id"] in [row["id"] for row in operator.get(url).json()["data"]]
    assert error_of(owner.get(url))[:2] == (403, "permission_denied")
    assert error_of(owner.post(url, NEW_KEY, format="json"))[:2] == (403, "permission_denied")
    response = owner.post(f"{url}{created.json()['id']}/revoke/")
    assert error_of(response)[:2] == (403, "permission_denied")


def test_a_tenants_keys_are_no_platform_keys(operator, acme):
    key = factories.api_key(acme).key
    assert error_of(operator.get(f"{API}/platform-keys/{key.id}/"))[:2] == (404, "not_found")


# ------------------------------------------------------------------ members


def test_a_member_is_added_changed_and_removed(owner, acme, django_capture_on_commit_callbacks):
    with django_capture_on_commit_callbacks(execute=True):
        created = owner.post(MEMBERS, {"email": "New@example.com", "role": "developer"}, format="json")
    assert created.status_code == 201
    assert (created.json()["email"], created.json()["role"]) == ("new@example.com", "developer")
    assert [message.to for message in mail.outbox] == [["new@example.com"]]
    url = f"{MEMBERS}{created.json()['id']}/"
    changed = owner.patch(url, {"role": "viewer"}, format="json")
    assert (changed.status_code, changed.json()) == (200, created.json() | {"role": "viewer"})
    assert owner.delete(url).status_code == 204
    assert error_of(owner.get(url))[:2] == (404, "not_found")
    assert Membership.objects.filter(tenant=acme).count() == 1


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"role": "viewer"}, (400, "invalid_request", "email")),
        ({"email": "a@example.com"}, (400, "invalid_request", "role")),
        ({"email": "nobody", "role": "viewer"}, (400, "invalid_request", "email")),
        ({"email": "a@example.com", "role": "king"}, (400, "invalid_request", "role")),
        ({"email": "a@example.com", "role": "viewer", "tenant": "globex"}, (400, "unknown_field", "tenant")),
        ({"email": "a@example.com", "role": "viewer", "user": 1}, (400, "unknown_field", "user")),
        ({"email": "a@example.com", "role": "viewer", "is_staff": True}, (400, "unknown_field", "is_staff")),
    ],
)
def test_a_bad_member_is_refused(owner, acme, body, error):
    assert error_of(owner.post(MEMBERS, body, format="json")) == error
    assert Membership.objects.count() == 1


def test_an_email_is_set_once(owner, acme):
    member = factories.member(acme, "viewer")
    response = owner.patch(f"{MEMBERS}{member.id}/", {"email": "x@example.com"}, format="json")
    assert error_of(response) == (400, "unknown_field", "email")


def test_the_last_owner_stays(owner, acme):
    (member,) = Membership.objects.all()
    assert error_of(owner.delete(f"{MEMBERS}{member.id}/"))[:2] == (409, "conflict")
    response = owner.patch(f"{MEMBERS}{member.id}/", {"role": "admin"}, format="json")
    assert error_of(response)[:2] == (409, "conflict")


def test_somebody_cannot_be_added_twice(owner, acme):
    person = factories.member(acme, "viewer").user
    response = owner.post(MEMBERS, {"email": person.email, "role": "viewer"}, format="json")
    assert error_of(response) == (409, "conflict", "email")


# ------------------------------------------------------------------ audit


def test_the_audit_trail_shows_who_did_what(owner, acme):
    key = owner.post(KEYS, NEW_KEY, format="json").json()
    (event,) = owner.get(f"{API}/audit/").json()["data"]
    row = AuditEvent.objects.get()
    person = Membership.objects.get().user
    assert event["actor"] == {"kind": "user", "id": str(person.id), "label": person.email}
    assert event["object"] == {"type": "key", "id": key["id"]}
    assert (event["action"], event["tenant"], event["before"]) == ("key.create", "acme", None)
    assert event["after"]["scopes"] == ["inference:chat"]
    assert event["hash"] == bytes(row.hash).hex()
    assert key["key"] not in str(event)
    assert owner.get(f"{API}/audit/{row.id}/").json() == event


def test_each_sees_the_events_of_its_own_tenants(operator, owner, acme, globex):
    for tenant in (acme, globex):
        factories.api_key(tenant)
    platform = AuditEvent.objects.filter(tenant=None)
    foreign = AuditEvent.objects.get(tenant=globex)
    assert [row["tenant"] for row in owner.get(f"{API}/audit/").json()["data"]] == ["acme"]
    assert owner.get(f"{API}/audit/", {"tenant": "globex"}).json()["data"] == []
    assert error_of(owner.get(f"{API}/audit/{foreign.id}/"))[:2] == (404, "not_found")
    seen = [row["tenant"] for row in operator.get(f"{API}/audit/").json()["data"]]
    assert sorted(seen, key=str) == [None] * platform.count() + ["acme", "globex"]


@pytest.mark.parametrize("role", ["developer", "billing", "viewer"])
def test_the_audit_trail_is_closed_to_other_roles(acme, role):
    assert error_of(as_member(acme, role).get(f"{API}/audit/"))[:2] == (403, "permission_denied")


def test_events_are_filtered_by_time_and_kind(operator, acme):
    factories.api_key(acme)
    event = AuditEvent.objects.get(tenant=acme)
    at = event.at.isoformat().replace("+00:00", "Z")

    def found(**parameters):
        return len(operator.get(f"{API}/audit/", {"tenant": "acme"} | parameters).json()["data"])

    assert found(**{"from": at}) == 1
    assert found(to=at) == 0
    assert (
        found(action="key.create", object_type="key", object_id=str(event.object_id), actor="tollhouse") == 1
    )
    assert found(action="key.revoke") == 0
    response = operator.get(f"{API}/audit/", {"from": "yesterday"})
    assert error_of(response) == (400, "invalid_request", "from")


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
def test_nobody_writes_the_audit_trail(operator, method):
    assert error_of(getattr(operator, method)(f"{API}/audit/"))[:2] == (405, "method_not_allowed")


# ------------------------------------------------------------------ strangers, roles, mass assignment


def routes():
    """Every path and method of this floor's API, with placeholders."""
    from tenants.urls import urlpatterns

    for pattern in urlpatterns:
        for prefix, each in (
            [(str(pattern.pattern), inner) for inner in pattern.url_patterns]
            if hasattr(pattern, "url_patterns")
            else [("", pattern)]
        ):
            actions = getattr(each.callback, "actions", None)
            if actions is None:  # a view of one path, without actions
                view = each.callback.view_class
                actions = {method: method for method in view.http_method_names if hasattr(view, method)}
            for method, action in actions.items():
                if method in each.callback.cls.http_method_names:
                    yield method, prefix + str(each.pattern), action


ROUTES = sorted(set(routes()))


def test_the_walk_below_sees_every_route():
    assert len(ROUTES) >= 45
    assert get_resolver("tests.tenants.urls").resolve(KEYS).url_name == "key-list"


@pytest.mark.parametrize(("method", "path", "action"), ROUTES)
def test_a_stranger_meets_nothing_of_another_tenant(acme, globex, method, path, action):
    """Somebody with every right in globex walks acme's routes."""
    ids = {
        "keys": factories.api_key(acme).key.id,
        "members": factories.member(acme, "owner").id,
        "audit": AuditEvent.objects.get().id,
        "platform-keys": factories.api_key(None).key.id,
        "audit-sinks": AuditSink.objects.create(
            tenant=acme, name="siem", kind="webhook", target="https://example.com", next_at=timezone.now()
        ).id,
        "approvals": Proposal.objects.create(
            tenant=acme,
            kind="caps",
            operation="budget.remove",
            payload={},
            scope="budgets:write",
            people=[],
            expires_at=timezone.now(),
        ).id,
        "sso": SsoConnection.objects.create(
            tenant=acme, name="idp", issuer="https://id.example.com", client_id="c", client_secret=b""
        ).id,
        "invitations": Invitation.objects.create(
            tenant=acme,
            email="asked@example.com",
            role="viewer",
            token_digest=bytes(32),
            sent_at=timezone.now(),
            expires_at=timezone.now(),
        ).id,
        "service-accounts": ServiceAccount.objects.create(tenant=acme, name="ci", role="viewer").id,
    }
    CustomRole.objects.create(tenant=acme, slug="acme", name="Acme's", scopes=["keys:read"])
    kind = next((name for name in ids if f"{name}/" in path), None)
    url = path.replace("<slug:tenant>", "acme").replace("<str:slug>", "acme")
    url = f"{API}/{url}".replace("<str:pk>", str(ids[kind]) if kind else "")
    assert "<" not in url
    before = _everything()
    for client in (factories.client_with(globex, "*"), as_member(globex, "owner")):
        before = _everything()
        response = getattr(client, method)(url, {}, format="json")
        if url.startswith(f"{API}/encryption/"):
            assert error_of(response)[:2] == (403, "permission_denied")
        elif url in (f"{API}/keys/bulk-rotate/", f"{API}/keys/bulk-revoke/"):
            assert error_of(response)[:2] == (400, "invalid_request")  # names no key of theirs
        elif "platform-keys" in url or (action == "create" and url == f"{API}/tenants/"):
            assert response.status_code in (400, 403)
        elif action == "create" and url == f"{API}/audit-sinks/":
            assert response.status_code == 400
        elif action in ("list", "export_events", "verify") and "tenants/acme" not in url:
            assert b"acme" not in response.getvalue()
            assert response.status_code == 200
        else:
            assert error_of(response)[:2] == (404, "not_found")
        assert _everything() == before


def _everything():
    return [
        list(model.objects.order_by("pk").values_list(*fields))
        for model, fields in (
            (Tenant, ("name", "status")),
            (ApiKey, ("id", "revoked_at", "replaced_by", "expires_at")),
            (Membership, ("id", "role")),
        )
    ]


@pytest.mark.parametrize(("method", "path", "action"), ROUTES)
def test_nobody_gets_in_without_a_key(acme, method, path, action):
    url = f"{API}/{path}".replace("<slug:tenant>", "acme")
    for placeholder in ("<str:pk>", "<str:slug>"):
        url = url.replace(placeholder, "acme")
    response = getattr(APIClient(), method)(url, {}, format="json")
    assert error_of(response) == (401, "invalid_api_key", None)


@pytest.mark.parametrize("role", sorted(TENANT_ROLES))
@pytest.mark.parametrize(
    ("scope", "method", "url", "body"),
    [
        ("keys:read", "get", KEYS, None),
        ("keys:write", "post", KEYS, NEW_KEY | {"scopes": ["models:read"]}),
        ("members:read", "get", MEMBERS, None),
        ("members:write", "post", MEMBERS, {"email": "new@example.com", "role": "viewer"}),
        ("audit:read", "get", f"{API}/audit/", None),
        ("tenants:write", "patch", f"{API}/tenants/acme/", {"name": "x"}),
        ("tenants:read", "get", f"{API}/tenants/acme/", None),
    ],
)
def test_a_role_does_what_its_scopes_say(acme, role, scope, method, url, body):
    response = getattr(as_member(acme, role), method)(url, body, format="json")
    if scope in TENANT_ROLES[role]:
        assert response.status_code in (200, 201)
    else:
        assert error_of(response)[:2] == (403, "permission_denied")


@pytest.mark.parametrize(
    ("serializer", "url", "body"),
    [
        (TenantSerializer, f"{API}/tenants/", {"slug": "new", "name": "New"}),
        (KeySerializer, KEYS, NEW_KEY),
        (MemberSerializer, MEMBERS, {"email": "new@example.com", "role": "viewer"}),
    ],
)
def test_no_read_only_field_and_no_other_column_can_be_assigned(operator, acme, serializer, url, body):
    fields = serializer().fields
    columns = {field.name for field in serializer.Meta.model._meta.get_fields()}
    closed = {name for name, field in fields.items() if field.read_only} | (columns - set(fields))
    assert {"id", "created_at"} <= closed
    before = _everything()
    for name in sorted(closed):
        response = operator.post(url, body | {name: "x"}, format="json")
        assert error_of(response) == (400, "unknown_field", name)
    assert _everything() == before


def test_the_answers_hold_the_agreed_fields_and_nothing_secret():
    assert "digest" not in KeySerializer().fields
    assert set(MemberSerializer().fields) == {"id", "email", "name", "role", "created_at"}
    assert set(AuditSerializer().fields) >= {"actor", "action", "object", "before", "after", "hash"}
    assert {"slug", "name", "status", "region_policy", "timezone", "currency"} <= set(
        TenantSerializer().fields
    )


def test_all_that_was_written_here_can_be_proved(operator, acme):
    operator.post(KEYS, NEW_KEY, format="json")
    operator.patch(f"{API}/tenants/acme/", {"region_policy": ["eu"]}, format="json")
    assert proof.verify().ok
