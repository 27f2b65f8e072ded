"""The body's `provider` object on a running gateway: heeded, refused by name, and never sent on."""

import time

import httpx
import orjson
import pytest
from django.db import transaction

from routing.models import PolicyBinding, RoutingPolicy
from routing.providers.adapters import adapter_for
from routing.types import Operation, ProviderKind
from tenants import versions
from tenants.models import Tenant
from tests.gateway import plane as planes
from tests.routing.providers.factories import a_chat, a_target

db, demo, plane = planes.db, planes.demo, planes.plane

CHAT = "/v1/chat/completions"


def chat(base, key, model, **more):
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], **more}
    return httpx.post(base + CHAT, json=body, headers={"authorization": f"Bearer {key}"})


@pytest.fixture(params=["asgi", "django"])
def ask(plane, request):
    base = plane.url + ("" if request.param == "asgi" else planes.DJANGO)
    return lambda model, key=plane.key, **more: chat(base, key, model, **more)


@pytest.mark.parametrize("provider", ["sandbox", "sandbox-eu"])
def test_only_and_order_choose_the_provider(ask, provider):
    assert ask("sandbox-large", provider={"only": [provider]}).headers["x-tollhouse-provider"] == provider
    first = {"order": [provider], "allow_fallbacks": False}
    assert ask("sandbox-large", provider=first).headers["x-tollhouse-provider"] == provider


def test_null_asks_for_nothing(ask):
    assert ask("sandbox-large", provider=None).status_code == 200


@pytest.mark.parametrize(
    ("provider", "status", "code", "param"),
    [
        ("sandbox-eu", 400, "invalid_request", "provider"),
        ({"only": "sandbox-eu"}, 400, "invalid_request", "provider.only"),
        ({"fastest": True}, 400, "unknown_field", "provider.fastest"),
        ({"quantizations": ["fp8"]}, 422, "unsupported_parameter", "provider.quantizations"),
        ({"only": ["nobody"]}, 422, "unsupported_parameter", "provider.only"),
        ({"max_price": {"prompt": "0"}}, 422, "unsupported_parameter", "provider.max_price"),
    ],
)
def test_what_cannot_be_heeded_is_refused_by_its_name(ask, provider, status, code, param):
    answer = ask("sandbox-large", provider=provider)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param), error


def test_preferences_do_not_open_a_region_that_a_policy_closes(ask):
    answer = ask("policy:eu-only", provider={"only": ["sandbox"]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "unsupported_parameter")


@pytest.fixture(scope="module")
def bound(plane):
    """The policy eu-only, bound to globex."""
    policy, tenant = RoutingPolicy.objects.get(slug="eu-only"), Tenant.objects.get(slug="globex")
    with transaction.atomic():
        versions.bump("routing")
        PolicyBinding.objects.create(policy=policy, tenant=tenant)
    deadline = time.monotonic() + 10
    while "x-tollhouse-policy" not in (answer := chat(plane.url, plane.other_key, "auto")).headers:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.05)


@pytest.mark.parametrize("model", ["auto", "sandbox-large"])
def test_auto_and_plain_models_go_by_the_policy_bound_to_the_tenant(plane, ask, bound, model):
    answer = ask(model, key=plane.other_key)
    assert answer.headers["x-tollhouse-policy"] == "eu-only@1"
    assert answer.headers["x-tollhouse-region"] == "eu"


def test_auto_without_a_binding_is_not_found(ask):
    answer = ask("auto")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("kind", list(ProviderKind))
def test_the_object_is_never_sent_on(kind):
    body = a_chat(provider={"only": ["sandbox-eu"]})
    wire = adapter_for(kind).build_request(Operation.CHAT, body, a_target(kind), stream=False)
    assert "provider" not in orjson.loads(wire.body)
    assert b"sandbox-eu" not in wire.body
