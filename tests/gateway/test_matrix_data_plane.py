"""The data plane's part of the matrix: every path by keys of one scope each, of a tenant and of the platform."""

import pytest

from gateway import permissions
from tenants import keys
from tenants.models import Tenant
from tenants.principal import SYSTEM
from tests.gateway import plane as planes
from tests.gateway.plane import DJANGO

db, demo, plane = planes.db, planes.demo, planes.plane
ROUTES = [route for route in permissions.routes() if route.door == "data plane"]
HELLO = [{"role": "user", "content": "hello"}]
BODIES = {
    "/v1/chat/completions": {"model": "sandbox-large", "messages": HELLO},
    "/v1/completions": {"model": "sandbox-large", "prompt": "hello"},
    "/v1/embeddings": {"model": "sandbox-embed", "input": "hello"},
    "/v1/moderations": {"model": "moderator", "input": "hello"},
    "/v1/rerank": {"model": "ranker", "query": "hello", "documents": ["hello"]},
    "/v1/messages": {"model": "sandbox-large", "messages": HELLO, "max_tokens": 8},
    "/v1/responses": {"model": "sandbox-large", "input": "hello"},
    "/v1/feedback": {},
    "/v1beta/models/<path:model_and_verb>": {"contents": [{"role": "user", "parts": [{"text": "hello"}]}]},
}
SCOPES = (
    "inference:chat",
    "inference:completions",
    "inference:embeddings",
    "inference:feedback",
    "inference:moderations",
    "inference:rerank",
    "usage:read",
)
ADDRESSES = {
    "/v1/models/<path:model>": "/v1/models/sandbox-large",
    "/v1/generations/<uuid:request_id>": "/v1/generations/00000000-0000-0000-0000-000000000001",
    "/v1beta/models/<path:model_and_verb>": "/v1beta/models/sandbox-large:generateContent",
}
DOORS = {"/v1/feedback": DJANGO, "/v1/generations/<uuid:request_id>": DJANGO}


def ask(plane, route, text):
    address = DOORS.get(route.path, "") + ADDRESSES.get(route.path, route.path)
    headers = {"authorization": f"Bearer {text}", "x-tollhouse-tenant": "acme"} if text else {}
    return plane.http.request(
        route.method, plane.url + address, json=BODIES.get(route.path), headers=headers
    ).status_code


@pytest.mark.parametrize("owner", ["acme", None])
def test_a_key_of_one_scope_opens_what_declares_it_and_nothing_else(plane, owner):
    tenant = Tenant.objects.get(slug=owner) if owner else None
    wrong = []
    for scope in SCOPES:
        scopes = (scope,) if owner else (scope, "tenants:act")
        text = keys.issue(tenant=tenant, name=scope, scopes=scopes, actor=SYSTEM).text
        for route in ROUTES:
            status, admitted = ask(plane, route, text), route.scope in ("", scope)
            if (status not in (401, 403)) is not admitted:
                wrong.append(f"{route.method} {route.path} with {scope}: {status}, {admitted=}")
    assert not wrong, "\n".join(wrong)


def test_without_a_key_nothing_opens(plane):
    assert {route.path: ask(plane, route, "") for route in ROUTES} == {route.path: 401 for route in ROUTES}
