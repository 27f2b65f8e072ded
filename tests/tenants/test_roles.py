"""Roles of a tenant's own: what they may hold, who may make and give them, and what they open."""

import contextlib

import pytest
from django.db import IntegrityError, transaction
from rest_framework.test import APIClient

from tenants import members, roles
from tenants.authentication import principal_of
from tenants.errors import ApiError
from tenants.models import AuditEvent, CustomRole, Membership, ServiceAccount
from tenants.principal import SYSTEM
from tenants.scopes import OPERATOR_ROLES, RESERVED_ROLES, SCOPES, TENANT_ROLES, TENANT_SCOPES, capped
from tests import factories

pytestmark = pytest.mark.urls("tests.tenants.urls")
ROLES = "/api/v1/tenants/acme/roles/"
AUDITOR = {"slug": "auditor", "name": "Auditor", "scopes": ["audit:read", "keys:read"]}


@pytest.fixture
def acme(db):
    return factories.tenant("acme")


def refused(code, param=None):
    return pytest.raises(ApiError, check=lambda error: (error.code, error.param) == (code, param))


def auditor(tenant, **changes):
    return roles.create_role(tenant=tenant, actor=SYSTEM, **(AUDITOR | changes))


def person_with(tenant, role):
    """Somebody who holds a role of the tenant's own."""
    return factories.member(tenant, role).user


def actor(tenant, role):
    return principal_of(factories.member(tenant, role).user)


def signed_in(user):
    client = APIClient()
    client.force_login(user)
    return client


# ------------------------------------------------------------------ the table


def test_a_tenants_own_roles_reach_as_far_as_its_owner_and_no_further():
    assert set(SCOPES) >= TENANT_SCOPES
    assert {"keys:write", "inference:feedback", "roles:write"} <= TENANT_SCOPES
    assert not TENANT_SCOPES & {"tenants:write", "tenants:act", "cost:read", "prices:read", "ledger:read"}
    assert capped(TENANT_ROLES["owner"], ["*"]) == TENANT_SCOPES


def test_what_two_grants_cover_together_is_said_in_single_scopes():
    assert capped(["inference:*", "keys:read"], ["inference:chat", "keys:*"]) == {
        "inference:chat",
        "keys:read",
    }
    assert capped(["*"], ["usage:read"]) == {"usage:read"}
    assert capped(["*"], []) == frozenset()


# ------------------------------------------------------------------ making


def test_a_role_is_made_in_the_tables_order_and_audited(acme):
    role = auditor(acme, name="  Auditor ", scopes=["audit:read", "keys:read", "audit:read"])
    assert (role.name, role.scopes) == ("Auditor", ["keys:read", "audit:read"])
    event = AuditEvent.objects.get(action="role.create")
    assert (event.tenant, event.object_id) == (acme, "auditor")
    assert event.after == {"name": "Auditor", "scopes": ["keys:read", "audit:read"]}


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        *(({"slug": slug}, "slug") for slug in ("", "A", "a_b", "-a", "a-", "a" * 64, "ä", "a b")),
        *(({"slug": slug}, "slug") for slug in sorted(RESERVED_ROLES)),
        *(({"name": name}, "name") for name in ("", "  ", "n" * 101)),
        ({"scopes": []}, "scopes"),
        *(
            ({"scopes": ["keys:read", scope]}, "scopes")
            for scope in ("*", "keys:*", "keys", "no:such", "tenants:write", "tenants:act", "cost:read")
        ),
    ],
)
def test_a_bad_role_is_refused_and_leaves_nothing(acme, changes, param):
    with refused("invalid_request", param):
        auditor(acme, **changes)
    assert not CustomRole.objects.exists()
    assert not AuditEvent.objects.exists()


def test_a_slug_is_taken_once_in_a_tenant(acme):
    auditor(acme)
    with refused("conflict", "slug"):
        auditor(acme)
    assert auditor(factories.tenant("globex")).slug == "auditor"
    assert AuditEvent.objects.count() == 2


@pytest.mark.parametrize("role", sorted(TENANT_ROLES))
def test_nobody_makes_a_role_that_may_do_more_than_they(acme, role):
    may = role in ("owner", "admin")
    with contextlib.nullcontext() if may else refused("permission_denied", "scopes"):
        roles.create_role(tenant=acme, actor=actor(acme, role), **AUDITOR)
    assert CustomRole.objects.exists() is may


def test_a_key_makes_no_role_beyond_its_own_scopes(acme):
    client = factories.client_with(acme, "roles:write", "keys:read")
    body = AUDITOR | {"scopes": ["keys:read"]}
    assert client.post(ROLES, body, format="json").status_code == 201
    answer = client.post(ROLES, AUDITOR | {"slug": "more"}, format="json")
    assert (answer.status_code, answer.json()["error"]["param"]) == (403, "scopes")


def test_an_actor_of_another_tenant_makes_none_here(acme):
    elsewhere = actor(factories.tenant("globex"), "owner")
    with refused("permission_denied", "scopes"):
        roles.create_role(tenant=acme, actor=elsewhere, **AUDITOR)


# ------------------------------------------------------------------ changing and removing


def test_a_change_holds_at_once_for_whoever_has_the_role(acme):
    role = auditor(acme)
    person = person_with(acme, role)
    assert principal_of(person).tenant_scopes == {acme.id: frozenset(("audit:read", "keys:read"))}
    roles.change_role(role=role, scopes=["usage:read"], actor=SYSTEM)
    assert principal_of(person).tenant_scopes == {acme.id: frozenset(("usage:read",))}
    event = AuditEvent.objects.get(action="role.update")
    assert (event.before["scopes"], event.after["scopes"]) == (["keys:read", "audit:read"], ["usage:read"])


def test_a_change_of_the_name_leaves_the_scopes(acme):
    changed = roles.change_role(role=auditor(acme), name="Reviser", actor=SYSTEM)
    assert (changed.name, changed.scopes) == ("Reviser", ["keys:read", "audit:read"])


def test_a_role_above_ones_own_can_be_neither_changed_nor_removed_nor_given(acme):
    small = roles.create_role(
        tenant=acme, slug="clerk", name="Clerk", scopes=["roles:write", "members:write"], actor=SYSTEM
    )
    clerk = principal_of(person_with(acme, small))
    role = auditor(acme)
    with refused("permission_denied"):
        roles.change_role(role=role, scopes=["roles:write"], actor=clerk)
    with refused("permission_denied"):
        roles.remove_role(role=role, actor=clerk)
    with refused("permission_denied", "role"):
        roles.assignable("auditor", tenant=acme, actor=clerk)
    assert roles.assignable("clerk", tenant=acme, actor=clerk) == small
    membership = factories.member(acme, small)
    with refused("permission_denied", "role"):
        members.change_role(membership=membership, role="viewer", actor=clerk)


def test_one_cannot_widen_the_role_one_holds(acme):
    small = roles.create_role(tenant=acme, slug="c", name="C", scopes=["roles:write"], actor=SYSTEM)
    clerk = principal_of(person_with(acme, small))
    with refused("permission_denied", "scopes"):
        roles.change_role(role=small, scopes=["roles:write", "keys:write"], actor=clerk)


@pytest.mark.parametrize("holder", ["member", "account"])
def test_a_role_that_somebody_holds_stays(acme, holder):
    role = auditor(acme)
    if holder == "member":
        held = Membership.objects.get(user=person_with(acme, role))
    else:
        held = ServiceAccount.objects.create(tenant=acme, name="ci", role=role.slug, custom_role=role)
    with refused("conflict"):
        roles.remove_role(role=role, actor=SYSTEM)
    held.delete()
    roles.remove_role(role=role, actor=SYSTEM)
    assert not CustomRole.objects.exists()
    assert AuditEvent.objects.filter(action="role.delete").count() == 1


def test_a_scope_that_became_the_operators_is_lost_to_the_roles_that_have_it(acme):
    role = auditor(acme)
    person = person_with(acme, role)
    CustomRole.objects.update(scopes=["keys:read", "cost:read", "*"])
    assert principal_of(person).tenant_scopes == {acme.id: frozenset(("keys:read",))}


def test_the_database_knows_no_role_without_a_definition(acme):
    with pytest.raises(IntegrityError), transaction.atomic():
        Membership.objects.create(tenant=acme, user=factories.user(), role="auditor")


# ------------------------------------------------------------------ holding


def test_who_a_person_is_costs_one_query_whatever_their_roles(acme, django_assert_num_queries):
    person = person_with(acme, auditor(acme))
    factories.member(factories.tenant("globex"), "viewer", person=person)
    with django_assert_num_queries(1):
        principal = principal_of(person)
    assert len(principal.tenant_scopes) == 2


def test_a_role_of_another_tenant_can_not_be_given(acme):
    auditor(factories.tenant("globex"))
    with refused("invalid_request", "role"):
        roles.assignable("auditor", tenant=acme, actor=SYSTEM)


@pytest.mark.parametrize("role", sorted(OPERATOR_ROLES.keys() - TENANT_ROLES.keys()))
def test_an_operators_role_is_no_tenants_role(acme, role):
    with refused("invalid_request", "role"):
        roles.assignable(role, tenant=acme, actor=SYSTEM)


def test_a_member_moves_between_built_in_and_own_roles(acme):
    role = auditor(acme)
    membership = factories.member(acme, "viewer")
    held = members.change_role(membership=membership, role="auditor", actor=SYSTEM)
    assert (held.role, held.custom_role, held.scopes) == ("auditor", role, set(AUDITOR["scopes"]))
    held = members.change_role(membership=membership, role="viewer", actor=SYSTEM)
    assert (held.role, held.custom_role, held.scopes) == ("viewer", None, TENANT_ROLES["viewer"])


# ------------------------------------------------------------------ the API


def test_the_life_of_a_role_through_the_api(acme):
    client = signed_in(factories.member(acme, "owner").user)
    made = client.post(ROLES, AUDITOR, format="json")
    assert (made.status_code, made.json()["scopes"]) == (201, ["keys:read", "audit:read"])
    assert [row["slug"] for row in client.get(ROLES).json()["data"]] == ["auditor"]
    member = f"/api/v1/tenants/acme/members/{factories.member(acme, 'viewer').id}/"
    assert client.patch(member, {"role": "auditor"}, format="json").json()["role"] == "auditor"
    assert client.delete(f"{ROLES}auditor/").status_code == 409
    changed = client.patch(f"{ROLES}auditor/", {"scopes": ["usage:read"]}, format="json")
    assert (changed.status_code, changed.json()["scopes"]) == (200, ["usage:read"])
    renamed = client.patch(f"{ROLES}auditor/", {"slug": "other"}, format="json")
    assert (renamed.status_code, renamed.json()["error"]["param"]) == (400, "slug")
    client.patch(member, {"role": "viewer"}, format="json")
    assert client.delete(f"{ROLES}auditor/").status_code == 204
    actions = AuditEvent.objects.order_by("sequence").values_list("action", flat=True)
    assert list(actions) == ["role.create", "member.update", "role.update", "member.update", "role.delete"]


def test_an_own_role_opens_what_it_names_and_nothing_else(acme):
    client = signed_in(person_with(acme, auditor(acme)))
    assert client.get("/api/v1/tenants/acme/keys/").status_code == 200
    assert client.get("/api/v1/audit/").status_code == 200
    for url in ("members/", "roles/", "service-accounts/"):
        assert client.get(f"/api/v1/tenants/acme/{url}").status_code == 403
    body = {"name": "ci", "scopes": ["keys:read"]}
    assert client.post("/api/v1/tenants/acme/keys/", body, format="json").status_code == 403
