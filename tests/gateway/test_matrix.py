"""Route by role by own or foreign object: what the declarations say, and what the doors then really answer.

A refusal is 401, 403 or 404. Whatever else comes back (a page, a redirect, a complaint about the empty body)
has passed the door. Every request is rolled back. A route without a declared scope fails the first test.
"""

import re
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from django.db import connection, transaction
from django.test import Client
from django.urls import path as url
from django.utils import timezone

from gateway import permissions
from gateway.permissions import OPERATOR_ONLY, PUBLIC, Route, UndeclaredRouteError
from tenants import roles
from tenants.authentication import principal_of, principal_of_key
from tenants.models import Tenant
from tenants.principal import SYSTEM, Principal
from tenants.rest import Guarded
from tenants.scopes import OPERATOR_ROLES, TENANT_ROLES
from tests import factories
from tests.gateway import console_world
from tests.gateway import plane as planes
from tests.gateway.test_console import url_of

ROUTES = permissions.routes()
REFUSED = (401, 403, 404)
MORE_THAN_SCOPES = {
    "approval-approve": "nobody decides what they asked for, no key decides",
    "approval-refuse": "nobody decides what they asked for, no key decides",
    "approval-withdraw": "only who asked",
    "legal-hold-release": "only the side that placed it",
    "payment-portal": "only a tenant that pays by card has one",
    "subscription-change": "only while one is planned",
}
"""Where a scope is not enough, by the rules of the thing itself: only refusals are asked for."""
OWN_ROLE = ("keys:read", "budgets:read", "tenants:read", "roles:read")
db = planes.db
BACKEND = "allauth.account.auth_backends.AuthenticationBackend"


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody at the door."""

    name: str
    principal: Principal | None
    client: Client


@dataclass(frozen=True, slots=True)
class House:
    world: console_world.World
    callers: dict[str, Caller]


@pytest.fixture(scope="module")
def house(db):
    """One world for all cells, in a transaction that is never committed."""
    with transaction.atomic():
        yield build()
        transaction.set_rollback(True)
        connection.run_on_commit = []


def build():
    world = console_world.build(now=timezone.now(), calls=12)
    own = roles.create_role(tenant=world.acme, slug="own", name="Own", scopes=OWN_ROLE, actor=SYSTEM)
    people = {
        f"operator {role}": factories.user(operator_role=role) for role in OPERATOR_ROLES if role != "admin"
    }
    people |= {role: factories.member(world.acme, role).user for role in TENANT_ROLES if role != "admin"}
    people["own role"] = factories.member(world.acme, own).user
    people["stranger"] = world.stranger
    callers = {name: Caller(name, principal_of(user), signed_in(user)) for name, user in people.items()}
    for name, tenant, scopes in (
        ("key of one scope", world.acme, ["budgets:read"]),
        ("key of a stranger", world.nordlicht, ["*"]),
        ("platform key", None, ["*"]),
        ("platform key of one scope", None, ["usage:read"]),
    ):
        issued = factories.api_key(tenant, *scopes, name=name)
        client = Client(headers={"authorization": f"Bearer {issued.text}"}, raise_request_exception=False)
        callers[name] = Caller(name, principal_of_key(issued.key), client)
    callers["nobody"] = Caller("nobody", None, Client(raise_request_exception=False))
    return House(world, callers)


def signed_in(user):
    client = Client(raise_request_exception=False)
    client.force_login(user, backend=BACKEND)
    return client


# ------------------------------------------------------------------ addresses


def url_in(route: Route, tenant: Tenant, house: House) -> tuple[str, bool]:
    """The route's address for an object of that tenant, and whether there is such an object in the world."""
    if route.door == "console":  # acme's objects, in the other tenant's place
        try:
            return url_of(route.name, house.world).replace("/t/acme/", f"/t/{tenant.slug}/"), True
        except KeyError:  # an object that this world has none of
            return _filled(route, {"tenant_slug": tenant.slug}), False
    names = re.findall(r"<(?:\w+:)?(\w+)>", route.path)
    values: dict[str, Any] = {}
    for name in names:
        if name == route.view.tenant_kwarg:
            values[name] = tenant.slug
        elif (value := _value_of(name, route, tenant)) is not None:
            values[name] = value
    return _filled(route, values), len(values) == len(set(names))


def _filled(route: Route, values: dict[str, Any]) -> str:
    """The path with these values; what is missing names an object that nobody has."""
    nobody = {"uuid": UUID(int=1), "int": 1, "slug": "nobody", "str": UUID(int=1), "path": "x"}
    return re.sub(r"<(\w+):(\w+)>", lambda found: str(values.get(found[2], nobody[found[1]])), route.path)


def _value_of(name, route, tenant):
    """Of the view's own model, an object of the tenant, or of the operator where the model knows no tenants."""
    queryset = getattr(route.view, "queryset", None)
    if queryset is None:
        return None
    rows = queryset.all()
    if rows.model is Tenant:
        rows = rows.filter(pk=tenant.pk)
    elif "tenant" in {field.name for field in rows.model._meta.fields}:
        is_operators = (route.name, route.method) in OPERATOR_ONLY and rows.filter(tenant=None).exists()
        rows = rows.filter(tenant=None if is_operators else tenant)
    lookup = getattr(route.view, "lookup_field", "pk")
    if name not in (lookup, getattr(route.view, "lookup_url_kwarg", None) or lookup):
        return None
    row = rows.first()
    return None if row is None else getattr(row, lookup)


# ------------------------------------------------------------------ asking


def ask(caller: Caller, route: Route, address: str) -> int:
    """The status of the answer. Whatever it did is undone."""
    with transaction.atomic():
        if route.door == "console":
            answer = getattr(caller.client, route.method.lower())(address)
            status = (
                401
                if answer.status_code == 302 and "/accounts/login/" in answer["Location"]
                else answer.status_code
            )
        else:
            answer = caller.client.generic(route.method, address, b"{}", content_type="application/json")
            status = answer.status_code
        transaction.set_rollback(True)
    return status


def cells(house: House, route: Route):
    """Caller, address and whether the declaration admits them: acme's object, and for whom that is their own,
    the stranger's too.
    """
    acme, other = house.world.acme, house.world.nordlicht
    (own, has_own), (foreign, has_foreign) = url_in(route, acme, house), url_in(route, other, house)
    is_of_tenant = route.reach == "tenant" or (route.reach == "owned" and "<" in route.path)
    for caller in house.callers.values():
        if route.door == "console" and caller.principal is not None and caller.principal.kind == "key":
            continue  # the console takes no keys
        admitted = route.admits(caller.principal, acme.id if is_of_tenant else None)
        if not admitted or (has_own and route.name not in MORE_THAN_SCOPES):
            yield caller, own, admitted
        if is_of_tenant and has_foreign and admitted and route.name not in MORE_THAN_SCOPES:
            # In the console it is acme's object at the other tenant's address: not there, whoever asks.
            is_there = route.door == "API" or route.path.count("<") == 1
            yield caller, foreign, is_there and route.admits(caller.principal, other.id)


def batch(number: int, of: int) -> list[Route]:
    return [route for route in ROUTES if route.door in ("API", "console")][number::of]


BATCHES = 12


@pytest.mark.parametrize("number", range(BATCHES))
def test_every_door_answers_as_its_route_declares(house, number):
    wrong, seen = [], 0
    for route in batch(number, BATCHES):
        for caller, address, admitted in cells(house, route):
            status = ask(caller, route, address)
            seen += 1
            if (status not in REFUSED) is not admitted:
                wrong.append(f"{route.name} {route.method} {address} as {caller.name}: {status}, {admitted=}")
    assert not wrong, "\n".join(wrong)
    assert seen > 100


# ------------------------------------------------------------------ the declarations


def test_an_admin_holds_the_scopes_of_an_owner_whom_the_cells_above_stand_for():
    assert TENANT_ROLES["admin"] == TENANT_ROLES["owner"]
    assert OPERATOR_ROLES["admin"] == OPERATOR_ROLES["owner"]


def test_every_route_declares_its_scope_or_is_public_on_purpose():
    assert {route.path.removeprefix("/") for route in ROUTES if route.scope is None} == PUBLIC.keys()
    known = {(route.name, route.method) for route in ROUTES}
    assert known >= OPERATOR_ONLY


class Undeclared(Guarded):
    def get(self, request):
        raise AssertionError


def bare(request):
    raise AssertionError


urlpatterns = []


@pytest.mark.urls(__name__)
@pytest.mark.parametrize("view", [Undeclared.as_view(), bare])
def test_a_new_route_without_a_scope_fails(view, monkeypatch):
    monkeypatch.setitem(globals(), "urlpatterns", [url("api/v1/new/", view)])
    with pytest.raises(UndeclaredRouteError, match="api/v1/new/"):
        permissions.routes()


WORDS = {
    "list": ("list", "GET"),
    "detail": ("detail", "GET"),
    "create": ("list", "POST"),
    "edit": ("detail", "PATCH"),
    "remove": ("detail", "DELETE"),
}


def twin_of(route):
    """The API's name and method for what a console page does: key_rotate is key-rotate, by POST."""
    name = (
        route.name if route.name in ("tenant_list", "tenant_create") else route.name.removeprefix("tenant_")
    )
    thing, _, verb = name.rpartition("_")
    place, method = WORDS.get(verb, (verb, "POST"))
    if route.method == "POST" and method == "GET":  # the page has the form in it
        method = "POST" if place == "list" else "PATCH"
    return f"{thing}-{place}".replace("_", "-"), method


def test_the_console_and_the_api_ask_for_the_same_scope():
    api = {(route.name, route.method): route.scope for route in ROUTES if route.door == "API"}
    pages = [route for route in ROUTES if route.door == "console"]
    pairs, differ = 0, []
    for page in pages:
        name, method = twin_of(page)
        if (name, method) not in api:
            continue
        pairs += 1
        if api[name, method] != page.scope:
            differ.append(f"{page.method} {page.name}: {page.scope}, {method} {name}: {api[name, method]}")
    assert differ == []
    assert pairs > 60


def test_the_page_of_permissions_is_as_the_code_says(settings):
    page = (settings.BASE_DIR / "docs" / "permissions.md").read_text(encoding="utf-8")
    assert page == permissions.document(), "run manage.py permissions_doc"
