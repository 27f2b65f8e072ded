"""A tenant's own provider keys in the console and the API, against a real local provider; their fee by the plan."""

import pytest
from django.test import Client, override_settings
from django.urls import reverse

from billing.models import Plan, PlanVersion, Subscription
from gateway.credential_views import fees_of
from routing import credentials
from routing.models import Credential, Provider
from tenants.models import AuditEvent
from tenants.principal import SYSTEM
from tests import factories
from tests.routing.test_probe import upstream

pytestmark = pytest.mark.django_db
KEY = "sk-own-secret-0001"
MODELS = {"/models": (200, {"data": [{"id": "m-1"}, {"id": "m-2"}]})}
DENIED = {"/models": (401, {"error": {"message": "Incorrect API key provided.", "code": "invalid_api_key"}})}


@pytest.fixture
def tenant():
    return factories.tenant("acme")


@pytest.fixture
def owner(tenant):
    client = Client()
    client.force_login(factories.member(tenant, "owner").user)
    return client


def provider(base_url="http://127.0.0.1:9/v1"):
    return Provider.objects.create(slug="p", name="Provider P", kind="openai_compatible", base_url=base_url)


def own(tenant, row, base_url="", secret=KEY):
    return credentials.store(
        provider=row, tenant=tenant, secret=secret, label="", base_url=base_url, actor=SYSTEM
    )


def test_a_key_is_stored_replaced_and_never_shown(tenant, owner):
    provider()
    url = reverse("credential_list", args=("acme",))
    for secret in (KEY, "sk-own-secret-0002"):
        answer = owner.post(
            url, {"provider": "p", "api_key": secret, "label": "", "base_url": ""}, follow=True
        )
        assert answer.status_code == 200
        assert secret not in answer.text
    assert list(Credential.objects.order_by("id").values_list("last_four", "is_enabled")) == [
        ("0001", False),
        ("0002", True),
    ]
    assert "…0002" in answer.text
    assert KEY not in str(list(AuditEvent.objects.values_list("after", flat=True)))


def test_a_private_address_is_refused_beside_the_field(tenant, owner):
    provider()
    data = {"provider": "p", "api_key": KEY, "label": "", "base_url": "http://10.0.0.1/v1"}
    answer = owner.post(reverse("credential_list", args=("acme",)), data)
    assert answer.status_code == 422
    assert "This URL cannot be used" in answer.text
    assert not Credential.objects.exists()


def test_the_test_asks_the_provider_with_the_tenants_own_key(tenant, owner):
    with upstream(MODELS) as (url, seen):
        credential = own(tenant, provider(url))
        credentials.store(
            provider=credential.provider,
            tenant=None,
            secret="sk-operators-0001",
            label="",
            base_url="",
            actor=SYSTEM,
        )
        answer = owner.post(reverse("credential_test", args=("acme", credential.id)))
    assert "answers in" in answer.text
    assert "2 models" in answer.text
    ((path, headers),) = seen
    assert (path, headers["authorization"]) == ("/models", f"Bearer {KEY}")
    event = AuditEvent.objects.get(action="credential.access")
    assert (event.tenant, event.object_id) == (tenant, str(credential.id))
    assert "2 models" in owner.get(reverse("credential_list", args=("acme",))).text


def test_by_the_api_a_refusal_is_an_answer(tenant):
    with upstream(DENIED) as (url, _):
        credential = own(tenant, provider(url))
        caller = factories.client_with(tenant)
        answer = caller.post(f"/api/v1/tenants/acme/credentials/{credential.id}/test/", {}, format="json")
    assert (answer.status_code, answer.data["ok"], answer.data["models"]) == (200, False, [])
    assert answer.data["code"] == "credential"
    assert KEY not in str(answer.data)


def test_an_own_address_is_judged_by_egress_at_the_test_too(tenant):
    with upstream(MODELS) as (url, seen):
        credential = own(tenant, provider(), base_url=url)
        path = f"/api/v1/tenants/acme/credentials/{credential.id}/test/"
        caller = factories.client_with(tenant)
        refused = caller.post(path, {}, format="json")
        assert (refused.data["ok"], refused.data["code"], seen) == (False, "url_not_allowed", [])
        with override_settings(TOLLHOUSE_EGRESS_ALLOWED_HOSTS=["127.0.0.1"]):
            assert caller.post(path, {}, format="json").data["ok"] is True
    assert len(seen) == 1


def test_a_key_that_does_not_open_says_so(tenant):
    credential = own(tenant, provider())
    Credential.objects.filter(pk=credential.pk).update(secret=bytes(60))
    answer = factories.client_with(tenant).post(
        f"/api/v1/tenants/acme/credentials/{credential.id}/test/", {}, format="json"
    )
    assert (answer.data["ok"], answer.data["code"]) == (False, "no_credential")


def test_a_key_is_paused_used_again_and_removed(tenant, owner):
    credential = own(tenant, provider())
    switch = reverse("credential_switch", args=("acme", credential.id))
    owner.post(switch, {"is_enabled": "false"})
    assert credentials.unseal_own() == {}
    owner.post(switch, {"is_enabled": "true"})
    assert len(credentials.unseal_own()) == 1
    path = f"/api/v1/tenants/acme/credentials/{credential.id}/"
    answer = factories.client_with(tenant).patch(path, {"is_enabled": False}, format="json")
    assert (answer.status_code, answer.data["is_enabled"]) == (200, False)
    assert factories.client_with(tenant).patch(path, {"label": "x"}, format="json").status_code == 400
    owner.post(reverse("credential_remove", args=("acme", credential.id)))
    assert not Credential.objects.exists()


def test_a_strangers_key_does_not_exist(tenant, owner):
    foreign = own(factories.tenant("other"), provider())
    for name in ("credential_test", "credential_switch", "credential_remove"):
        assert owner.post(reverse(name, args=("acme", foreign.id))).status_code == 404
    assert Credential.objects.filter(pk=foreign.pk, is_enabled=True).exists()


def test_the_page_says_what_the_plan_takes(tenant, owner):
    assert "your plan takes no fee" in owner.get(reverse("credential_list", args=("acme",))).text
    plan = Plan.objects.create(slug="byo", name="BYO")
    charges = [
        {"model": "cost_plus", "markup_percent": "20"},
        {"model": "byok", "percent_of_cost": "5", "min_per_request": "0.0001", "models": ["gpt-*"]},
    ]
    version = PlanVersion.objects.create(plan=plan, number=1, charges=charges)
    Subscription.objects.create(tenant=tenant, plan_version=version, start=tenant.created_at)
    currency, (fee,) = fees_of(tenant)
    assert (currency, fee.models, str(fee.terms.percent)) == ("USD", ("gpt-*",), "5")
    page = owner.get(reverse("credential_list", args=("acme",))).text
    assert "5% of what the provider bills" in page
    assert "gpt-*" in page
