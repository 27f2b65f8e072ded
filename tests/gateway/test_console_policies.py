"""The console's pages of policies, features and kill switches: what a form becomes, what a page shows."""

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from gateway import simulate
from gateway.policy_forms import PolicyForm, TargetLines, initial_of, lines_of
from routing import credentials, switches
from routing.models import Credential, Feature, KillSwitch, PolicyBinding, Provider, RoutingPolicy
from routing.policies import wordings
from tenants.models import AuditEvent
from tenants.principal import SYSTEM
from tests.gateway import console_world
from tests.gateway.test_console import signed_in

pytestmark = pytest.mark.django_db

CALL = {
    "sim-operation": "chat",
    "sim-model": "",
    "sim-feature": "",
    "sim-input_tokens": "1000",
    "sim-output_tokens": "500",
    "sim-needs": "",
    "sim-provider": "",
}
HTMX = {"HX-Request": "true"}


@pytest.fixture
def world():
    simulate._held.clear()
    made = console_world.build(now=timezone.now(), calls=5)
    for slug in ("openai", "azure-eu"):
        credentials.store(
            provider=Provider.objects.get(slug=slug),
            tenant=None,
            secret="sk-0123456789abcdef",
            label="",
            base_url="",
            actor=SYSTEM,
        )
    return made


@pytest.fixture
def operator(world) -> Client:
    return signed_in(world.operator)


def policy_of(slug="eu-careful") -> RoutingPolicy:
    return RoutingPolicy.objects.get(slug=slug)


def form_of(policy: RoutingPolicy, **changed: object) -> dict[str, object]:
    """What the browser would send of the editor as it opens, with some fields typed over."""
    version = wordings.newest(policy)
    assert version is not None
    form = PolicyForm(policy=policy, initial=initial_of(policy, wordings.wording_of(version)))
    data = {}
    for field in form:
        value = field.value()
        if (
            field.field.widget.input_type == "checkbox"
            if hasattr(field.field.widget, "input_type")
            else False
        ):
            if value:
                data[field.html_name] = "on"
        else:
            data[field.html_name] = "" if value is None else value
    return data | changed


# ------------------------------------------------------------------ forms


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("gpt-4o", ["gpt-4o"]),
        ("  gpt-4o  \n\n@cf/meta/llama-3 ", ["gpt-4o", "@cf/meta/llama-3"]),
        ("gpt-4o @ azure-eu", [{"model": "gpt-4o", "provider": "azure-eu"}]),
        ("gpt-4o @ azure-eu * 3", [{"model": "gpt-4o", "provider": "azure-eu", "weight": 3}]),
        ("gpt-4o * 0", [{"model": "gpt-4o", "weight": 0}]),
        ("@ azure-eu", [{"provider": "azure-eu"}]),
        ("", []),
    ],
)
def test_targets_are_typed_one_per_line(text, targets):
    assert TargetLines().clean(text) == targets
    assert TargetLines().clean(lines_of(targets)) == targets


@pytest.mark.parametrize("text", ["* 3", "gpt 4o", "gpt-4o @", "gpt-4o @ azure * x", "gpt-4o * -1"])
def test_a_line_that_is_no_target_is_refused(text):
    from django import forms

    with pytest.raises(forms.ValidationError, match="is not a target"):
        TargetLines().clean(text)


def test_a_wording_goes_through_its_form_unchanged(world):
    policy = policy_of()
    wording = wordings.Wording(
        strategy="slo",
        targets=["gpt-4o", {"provider": "openai", "weight": 2}],
        constraints={
            "regions": ["eu", "us"],
            "capabilities": ["tools"],
            "credentials": "own_only",
            "allow": {"plans": ["pro"]},
            "deny": {"providers": ["vllm"]},
            "max_p95_ms": 2000,
            "min_success": 0.99,
            "max_price_per_million": "10",
            "max_cost": "0.01",
            "data": {"training": "deny", "retention_days": 0},
        },
        max_attempts=5,
        fallback=["mistral-small"],
        conduct={"recovery": "buffered", "hold_back_tokens": 40, "hedge_after_ms": 0, "queue_ms": 0},
    )
    wordings.change_policy(policy=policy, name="x", is_enabled=True, wording=wording, actor=SYSTEM)
    form = PolicyForm(form_of(policy), policy=policy)
    assert form.is_valid(), form.errors
    assert form.wording() == wording


# ------------------------------------------------------------------ the editor


def test_a_policy_is_written_and_changed_in_the_editor(world, operator):
    body = {
        "slug": "fast", "name": "Fast", "is_enabled": "on", "strategy": "latency", "targets": "gpt-4o-mini",
        "max_attempts": "3", "recovery": "end", "min_success": "0.9",
    }  # fmt: skip
    answer = operator.post(reverse("policy_create"), body)
    policy = policy_of("fast")
    assert answer["Location"] == reverse("policy_detail", args=(policy.id,))
    assert (
        operator.post(reverse("policy_edit", args=(policy.id,)), body | {"strategy": "cost"}).status_code
        == 302
    )
    first, second = policy.versions.order_by("number")
    assert (first.strategy, first.targets, first.constraints, first.created_by) == (
        "latency", ["gpt-4o-mini"], {"min_success": 0.9}, world.operator.email,
    )  # fmt: skip
    assert (second.number, second.strategy) == (2, "cost")
    assert list(
        AuditEvent.objects.filter(object_type="policy", object_id="fast")
        .order_by("sequence")
        .values_list("action", flat=True)
    ) == ["policy.create", "policy.update"]


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"targets": "nobody"}, "targets"),
        ({"fallback": "nobody"}, "fallback"),
        ({"recovery": "end", "hold_back_tokens": "5"}, "hold_back_tokens"),
        ({"hedge_after_ms": "70000"}, "hedge_after_ms"),
        ({"max_cost": "much"}, "max_cost"),
        ({"allow": '{"planets": []}'}, None),
    ],
)
def test_a_refusal_stands_beside_its_field(world, operator, changed, field):
    policy = policy_of()
    before = policy.versions.count()
    answer = operator.post(reverse("policy_edit", args=(policy.id,)), form_of(policy, **changed))
    assert answer.status_code == 422
    assert list(answer.context["form"].errors) == [field or "__all__"]
    assert policy.versions.count() == before


def test_a_call_is_simulated_with_what_stands_in_the_editor(world, operator):
    policy = policy_of()
    data = form_of(policy, strategy="cost", fallback="") | CALL | {
        "policy": str(policy.id), "sim-tenant": str(world.acme.id),
    }  # fmt: skip
    answer = operator.post(reverse("policy_simulate"), data, headers=HTMX)
    assert answer.status_code == 200
    assert answer.templates[0].name == "gateway/policy_simulated.html"
    said = answer.context["answer"]["said"]
    assert (said.policy, said.refusal) == ("eu-careful@4", None)
    assert [each.target.provider for each in said.kept] == ["azure-eu", "azure-eu"]
    page = answer.content.decode()
    assert "is in region us" in page
    assert "azure-eu/gpt-4o-mini" in page
    assert policy.versions.count() == 3


def test_without_script_the_editor_comes_back_with_the_answer(world, operator):
    policy = policy_of("cheap-first")
    data = form_of(policy, targets="gpt-4o-mini") | CALL | {
        "policy": str(policy.id), "sim-tenant": str(world.acme.id),
    }  # fmt: skip
    answer = operator.post(reverse("policy_simulate"), data)
    page = answer.content.decode()
    assert answer.status_code == 200
    assert "openai/gpt-4o-mini" in page
    assert answer.context["form"]["targets"].value() == "gpt-4o-mini"
    assert wordings.newest(policy).number == 1


def test_a_simulated_call_that_cannot_be_says_why(world, operator):
    policy = policy_of("cheap-first")
    data = form_of(policy, regions="ch") | CALL | {"policy": str(policy.id), "sim-tenant": str(world.acme.id)}
    page = operator.post(reverse("policy_simulate"), data, headers=HTMX).content.decode()
    assert "region_unavailable" in page
    bad = operator.post(
        reverse("policy_simulate"), data | {"targets": "nobody"}, headers=HTMX
    ).content.decode()
    assert "does not exist" in bad


def test_the_costs_of_a_simulated_call_are_for_who_may_see_them(world):
    get_user_model().objects.filter(pk=world.clerk.pk).update(operator_role="support")
    support = signed_in(get_user_model().objects.get(pk=world.clerk.pk))
    policy = policy_of("cheap-first")
    data = form_of(policy) | CALL | {"policy": str(policy.id), "sim-tenant": str(world.acme.id)}
    answer = support.post(reverse("policy_simulate"), data, headers=HTMX)
    assert answer.status_code == 200
    assert "Estimated cost" in answer.content.decode()  # support holds cost:read
    assert support.get(reverse("policy_edit", args=(policy.id,))).status_code == 403


# ------------------------------------------------------------------ versions and bindings


def test_the_difference_names_what_changed(world, operator):
    policy = policy_of()
    page = operator.get(reverse("policy_diff", args=(policy.id,))).content.decode()
    for words in ("strategy", "constraints.max_cost", "constraints.data", "fallback", "conduct.recovery"):
        assert f">{words}<" in page
    same = operator.get(reverse("policy_diff", args=(policy.id,)) + "?from=2&to=2").content.decode()
    assert "They say the same" in same
    assert operator.get(reverse("policy_diff", args=(policy.id,)) + "?from=1&to=9").status_code == 404


def test_a_rollback_is_a_new_version(world, operator):
    policy = policy_of()
    answer = operator.post(reverse("policy_rollback", args=(policy.id,)), {"version": "1"}, follow=True)
    assert "Version 1 is in force again, as version 4." in answer.content.decode()
    assert wordings.newest(policy).number == 4
    refused = operator.post(reverse("policy_rollback", args=(policy.id,)), {"version": "x"}, follow=True)
    assert "There is no version 0" in refused.content.decode()
    assert wordings.newest(policy).number == 4


def test_a_policy_is_bound_and_unbound(world, operator):
    policy, url = policy_of("cheap-first"), reverse("policy_bind", args=(policy_of("cheap-first").id,))
    assert operator.post(url, {"tenant": str(world.acme.id)}).status_code == 302
    row = PolicyBinding.objects.get(policy=policy)
    assert row.tenant == world.acme
    twice = operator.post(url, {"tenant": str(world.acme.id)})
    assert (twice.status_code, "bound already" in twice.content.decode()) == (422, True)
    assert operator.post(url, {}).status_code == 422
    operator.post(reverse("policy_unbind", args=(policy.id, row.id)))
    assert not PolicyBinding.objects.filter(policy=policy).exists()


# ------------------------------------------------------------------ features


def test_a_feature_is_made_changed_and_removed(world, operator):
    body = {"slug": "chat", "policy": str(policy_of().id), "slo_success": "0.99"}
    assert operator.post(reverse("feature_create"), body).status_code == 302
    feature = Feature.objects.get(slug="chat")
    assert (feature.policy, str(feature.slo_success)) == (policy_of(), "0.99000")
    url = reverse("feature_edit", args=(feature.id,))
    assert operator.get(url).context["form"]["slo_success"].value() == "0.99"
    assert operator.post(url, {"slo_success": "1.5"}).status_code == 422
    assert operator.post(url, {"slo_p95_ms": "900"}).status_code == 302
    feature.refresh_from_db()
    assert (feature.policy, feature.slo_success, feature.slo_p95_ms) == (None, None, 900)
    operator.post(reverse("feature_remove", args=(feature.id,)))
    assert not Feature.objects.filter(slug="chat").exists()


# ------------------------------------------------------------------ kill switches


def test_cutting_off_needs_the_slug_twice_and_a_reason(world, operator):
    url = reverse("kill_switch_list")
    page = operator.get(f"{url}?kind=provider&target=openai")
    assert (page.context["form"]["kind"].value(), page.context["form"]["target"].value()) == (
        "provider",
        "openai",
    )
    body = {"kind": "provider", "target": "openai", "reason": "It leaks.", "confirm": "OpenAI"}
    assert list(operator.post(url, body).context["form"].errors) == ["confirm"]
    assert switches.thrown(kind="provider", target="openai") is None
    assert list(operator.post(url, body | {"confirm": "openai", "reason": ""}).context["form"].errors) == [
        "reason"
    ]
    assert operator.post(url, body | {"confirm": "openai"}).status_code == 302
    switch = switches.thrown(kind="provider", target="openai")
    assert switch is not None
    assert (switch.reason, switch.thrown_by) == ("It leaks.", world.operator.email)
    shown = operator.get(reverse("provider_detail", args=("openai",))).content.decode()
    assert "It leaks." in shown
    operator.post(reverse("kill_switch_restore", args=(switch.id,)))
    assert switches.thrown(kind="provider", target="openai") is None


def test_a_tenant_is_cut_off_by_who_may_suspend_it(world, operator):
    body = {"kind": "tenant", "target": "acme", "reason": "Abuse.", "confirm": "acme"}
    assert operator.post(reverse("kill_switch_list"), body).status_code == 302
    world.acme.refresh_from_db()
    assert world.acme.status == "suspended"
    operator.post(reverse("kill_switch_restore", args=(KillSwitch.objects.first().id,)))
    world.acme.refresh_from_db()
    assert world.acme.status == "active"


def test_a_provider_takes_several_keys_and_shows_none(world, operator):
    url, secret = reverse("provider_detail", args=("openai",)), "sk-another-secret-0042"
    body = {"about": "key", "key-label": "second", "key-api_key": secret, "key-weight": "3"}
    assert operator.post(url, body | {"key-limit_rpm": "600"}).status_code == 302
    row = Credential.objects.get(label="second")
    assert (row.weight, row.limit_rpm, row.last_four, row.is_enabled) == (3, 600, "0042", True)
    page = operator.get(url).content.decode()
    assert secret not in page
    assert "…0042" in page
    refused = operator.post(url, body | {"key-weight": "2000"})
    assert (refused.status_code, list(refused.context["key_form"].errors)) == (422, ["weight"])
    assert secret not in refused.content.decode()
    bad = operator.post(url, body | {"key-api_key": "not ascii: é"})
    assert list(bad.context["key_form"].errors) == ["api_key"]
    state = {"about": "key_state", "credential": str(row.pk), "is_enabled": "false"}
    operator.post(url, state)
    row.refresh_from_db()
    assert row.is_enabled is False
    foreign = credentials.store(
        provider=row.provider, tenant=world.acme, secret=secret, label="", base_url="", actor=SYSTEM
    )
    assert operator.post(url, state | {"credential": str(foreign.pk)}).status_code == 404
    assert operator.post(url, state | {"credential": "x"}).status_code == 404
    assert signed_in(world.clerk).post(url, body).status_code == 403


def test_a_model_that_is_cut_off_is_offered_to_nobody(world, operator):
    url = reverse("tenant_models", args=("acme",))
    assert "gpt-4o-mini" in signed_in(world.owner).get(url).content.decode()
    switches.throw(kind="model", target="gpt-4o-mini", reason="It rambles.", actor=SYSTEM)
    assert "gpt-4o-mini" not in signed_in(world.owner).get(url).content.decode()
    shown = operator.get(reverse("model_list")).content.decode()
    assert "gpt-4o-mini" in shown
    assert "cut off" in shown


def test_a_provider_says_in_its_form_what_it_does_with_content(world, operator):
    url = reverse("provider_edit", args=("openai",))
    form = operator.get(url).context["form"]
    body = {f.html_name: f.value() for f in form if f.value() not in (None, "", False)}
    assert operator.post(url, body | {"trains_on_data": "False", "retention_days": "0"}).status_code == 302
    provider = Provider.objects.get(slug="openai")
    assert (provider.trains_on_data, provider.retention_days) == (False, 0)
    assert operator.get(url).context["form"]["trains_on_data"].value() is False
