"""The frame on resources of its own: tenant-owned at the top level, platform-wide, and careless ones."""

import pytest
from django.urls import include, path
from rest_framework import serializers
from rest_framework.response import Response
from rest_framework.routers import SimpleRouter

from tenants.models import AuditEvent, ConfigVersion, Membership, Tenant, User
from tenants.rest import Guarded, Resource, StrictSerializer, TenantField
from tests import factories

pytestmark = pytest.mark.urls(__name__)


class OwnedSerializer(StrictSerializer, serializers.ModelSerializer):
    tenant = TenantField()
    user = serializers.SlugRelatedField(slug_field="email", queryset=User.objects.all())

    class Meta:
        model = Membership
        fields = ("id", "tenant", "user", "role")


class Owned(Resource[Membership]):
    queryset = Membership.objects.select_related("tenant", "user")
    serializer_class = OwnedSerializer
    read_scope, write_scope = "budgets:read", "budgets:write"
    section = "billing"
    audit_type = "owned"


class PlatformSerializer(StrictSerializer, serializers.ModelSerializer):
    class Meta:
        model = User
        fields = ("id", "email", "name")


class Platform(Resource[User]):
    queryset = User.objects.all()
    serializer_class = PlatformSerializer
    read_scope, write_scope = "models:read", "models:write"
    section = "routing"


class OpenPlatform(Platform):
    is_open_to_tenants = True


class Careless(Guarded):
    """Writes without an audit event."""

    write_scope = "budgets:write"
    queryset = Membership.objects.all()

    def post(self, request):
        User.objects.create_user("careless@example.com")
        return Response({})


class Refusing(Guarded):
    """Writes, then answers with an error."""

    write_scope = "budgets:write"
    queryset = Membership.objects.all()

    def post(self, request):
        self.record("create", User.objects.create_user("refused@example.com"))
        return Response({}, status=422)


router = SimpleRouter(use_regex_path=False)
router.register("owned", Owned, basename="owned")
router.register("platform", Platform, basename="platform")
router.register("open", OpenPlatform, basename="open")
urlpatterns = [
    path("", include(router.urls)),
    path("careless/", Careless.as_view()),
    path("refusing/", Refusing.as_view()),
]


@pytest.fixture
def acme(db):
    return factories.tenant("acme")


@pytest.fixture
def globex(db):
    return factories.tenant("globex")


def error_of(response):
    error = response.json()["error"]
    return response.status_code, error["code"], error["param"]


def versions():
    return dict(ConfigVersion.objects.values_list("section", "version"))


# ------------------------------------------------------------------ what a write leaves behind


def test_a_write_bumps_its_section_and_leaves_its_event(acme):
    client = factories.client_with(acme, "budgets:*")
    person = factories.user()
    before = versions().get("billing", 0)
    created = client.post(
        "/owned/", {"tenant": "acme", "user": person.email, "role": "viewer"}, format="json"
    )
    changed = client.patch(f"/owned/{created.json()['id']}/", {"role": "admin"}, format="json")
    deleted = client.delete(f"/owned/{created.json()['id']}/")
    assert [each.status_code for each in (created, changed, deleted)] == [201, 200, 204]
    assert versions()["billing"] == before + 3
    events = AuditEvent.objects.filter(object_type="owned").order_by("sequence")
    assert list(events.values_list("action", "before", "after")) == [
        ("owned.create", None, created.json()),
        ("owned.update", {"role": "viewer"}, {"role": "admin"}),
        ("owned.delete", changed.json(), None),
    ]
    assert set(events.values_list("chain", "object_id")) == {(acme.id, created.json()["id"])}
    assert [event.request_id for event in events] == [
        each["X-Request-Id"] for each in (created, changed, deleted)
    ]


def test_a_write_without_an_event_is_rolled_back(acme):
    response = factories.client_with(acme, "budgets:write").post("/careless/")
    assert error_of(response) == (500, "internal_error", None)
    assert not User.objects.exists()


def test_a_refused_write_leaves_nothing(acme):
    events = AuditEvent.objects.count()
    response = factories.client_with(acme, "budgets:write").post(
        "/refusing/", headers={"Idempotency-Key": "k"}
    )
    assert response.status_code == 422
    assert not User.objects.exists()
    assert AuditEvent.objects.count() == events + 1  # that of the key which asked


def test_a_conflict_leaves_nothing(acme):
    member = factories.member(acme, "viewer")
    client = factories.client_with(acme, "budgets:*")
    events = AuditEvent.objects.count()
    body = {"tenant": "acme", "user": member.user.email, "role": "admin"}
    response = client.post("/owned/", body, format="json")
    assert error_of(response)[:2] == (409, "conflict")
    assert (Membership.objects.get().role, AuditEvent.objects.count()) == ("viewer", events)


# ------------------------------------------------------------------ tenant-owned at the top level


def test_a_list_holds_the_rows_of_tenants_with_the_scope(acme, globex):
    mine, foreign = factories.member(acme), factories.member(globex)
    rows = factories.client_with(acme, "budgets:read").get("/owned/").json()["data"]
    assert [row["id"] for row in rows] == [str(mine.id)]
    rows = factories.client_with(None, "budgets:read").get("/owned/").json()["data"]
    assert {row["id"] for row in rows} == {str(mine.id), str(foreign.id)}


@pytest.mark.parametrize("method", ["get", "patch", "delete"])
def test_a_strangers_row_does_not_exist(acme, globex, method):
    foreign = factories.member(globex, "owner")
    for scopes in (("*",), ("keys:read",)):
        client = factories.client_with(acme, *scopes)
        for key in (foreign.id, "01890000-0000-7000-8000-000000000000"):
            response = getattr(client, method)(f"/owned/{key}/", {"role": "viewer"}, format="json")
            assert error_of(response) == (404, "not_found", None)
    assert Membership.objects.get().role == "owner"


@pytest.mark.parametrize("method", ["patch", "delete"])
def test_somebody_who_may_only_read_is_told_so(acme, method):
    mine = factories.member(acme, "owner")
    client = factories.client_with(acme, "budgets:read")
    assert client.get(f"/owned/{mine.id}/").status_code == 200
    response = getattr(client, method)(f"/owned/{mine.id}/", {"role": "viewer"}, format="json")
    assert error_of(response)[:2] == (403, "permission_denied")
    assert Membership.objects.get().role == "owner"


def test_a_row_is_created_only_where_the_scope_is_held(acme, globex):
    client = factories.client_with(acme, "budgets:*")
    body = {"user": factories.user().email, "role": "viewer"}
    foreign = client.post("/owned/", body | {"tenant": "globex"}, format="json")
    absent = client.post("/owned/", body | {"tenant": "nobody"}, format="json")
    assert error_of(foreign) == error_of(absent) == (400, "invalid_request", "tenant")
    assert foreign.json()["error"]["message"].replace("globex", "nobody") == absent.json()["error"]["message"]
    assert not Membership.objects.exists()


def test_a_row_never_moves_to_another_tenant(acme, globex):
    member = factories.member(acme)
    response = factories.client_with(None, "*").patch(
        f"/owned/{member.id}/", {"tenant": "globex"}, format="json"
    )
    assert error_of(response) == (400, "invalid_request", "tenant")
    assert Membership.objects.get().tenant == acme


# ------------------------------------------------------------------ platform-wide


def test_the_platforms_things_are_the_operators(acme):
    person = factories.user()
    member = factories.client_with(acme, "*")
    for response in (
        member.get("/platform/"),
        member.get(f"/platform/{person.id}/"),
        member.post("/platform/", {"email": "x@example.com"}, format="json"),
        member.delete(f"/platform/{person.id}/"),
    ):
        assert error_of(response)[:2] == (403, "permission_denied")
    operator = factories.client_with(None, "models:*")
    assert operator.get(f"/platform/{person.id}/").status_code == 200
    assert operator.post("/platform/", {"email": "x@example.com"}, format="json").status_code == 201
    assert AuditEvent.objects.get(action="user.create").tenant is None


def test_open_things_are_read_by_tenants_with_the_scope_and_written_by_operators(acme):
    person = factories.user()
    reader, other = factories.client_with(acme, "models:*"), factories.client_with(acme, "keys:read")
    assert reader.get("/open/").status_code == 200
    assert reader.get(f"/open/{person.id}/").status_code == 200
    assert error_of(other.get("/open/"))[:2] == (403, "permission_denied")
    assert error_of(reader.patch(f"/open/{person.id}/", {"name": "x"}, format="json"))[:2] == (
        403,
        "permission_denied",
    )
    assert error_of(reader.delete(f"/open/{person.id}/"))[:2] == (403, "permission_denied")
    person.refresh_from_db()
    assert person.name == ""


def test_what_others_refer_to_is_a_conflict(acme, monkeypatch):
    factories.api_key(acme)
    monkeypatch.setattr(Platform, "queryset", Tenant.objects.all())
    monkeypatch.setattr(PlatformSerializer.Meta, "model", Tenant)
    monkeypatch.setattr(PlatformSerializer.Meta, "fields", ("id", "name"))
    response = factories.client_with(None, "*").delete(f"/platform/{acme.id}/")
    assert error_of(response)[:2] == (409, "conflict")
    assert Tenant.objects.get() == acme
