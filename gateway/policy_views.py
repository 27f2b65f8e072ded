"""Console pages of routing policies: list, editor with a simulated call, versions, differences, what they rule;
and of the features with their promises.

Each view calls one verb or one query; the simulated call leaves no trace.
"""

import json
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib import messages
from django.db.models import Count, Prefetch, QuerySet
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render

from billing.models import Plan
from gateway import simulate
from gateway.policies import budgets_of
from gateway.policy_forms import (
    BindingForm,
    FeatureForm,
    PolicyForm,
    SimulateForm,
    initial_of,
    line_of,
)
from routing.models import Feature, PolicyBinding, RoutingPolicy, RoutingPolicyVersion
from routing.policies import bindings, wordings
from routing.policies.names import POLICY_PREFIX
from routing.types import Operation
from tenants.console import ConsoleRequest, add_refusal, page_of, platform_room, words_of
from tenants.errors import ApiError

VERSIONS_SHOWN = 100


def _policies() -> QuerySet[RoutingPolicy]:
    newest = RoutingPolicyVersion.objects.order_by("policy_id", "-number").distinct("policy_id")
    return RoutingPolicy.objects.select_related("tenant").prefetch_related(
        Prefetch("versions", queryset=newest, to_attr="in_force")
    )


# ------------------------------------------------------------------ policies


@platform_room("policies:read")
def policy_list(request: ConsoleRequest) -> HttpResponse:
    """Every policy in its present wording."""
    rows = _policies().annotate(
        binding_count=Count("bindings", distinct=True), feature_count=Count("features", distinct=True)
    )
    page = page_of(rows, cursor=request.GET.get("cursor", ""))
    return render(request, "gateway/policy_list.html", {"page": page, "policies": page.rows})


@platform_room("policies:write", write="policies:write")
def policy_create(request: ConsoleRequest) -> HttpResponse:
    """Write a policy."""
    form = PolicyForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        data = form.cleaned_data
        try:
            policy = wordings.create_policy(
                slug=data["slug"],
                name=data["name"],
                tenant=data["tenant"],
                is_enabled=data["is_enabled"],
                wording=form.wording(),
                actor=request.principal,
            )
        except ApiError as error:
            form.refuse(error)
        else:
            messages.success(request, f"policy:{policy.slug} can be called.")
            return redirect("policy_detail", policy.pk)
    return _editor(request, form, policy=None)


@platform_room("policies:write", write="policies:write")
def policy_edit(request: ConsoleRequest, policy_id: UUID) -> HttpResponse:
    """Change a policy: another wording is its next version."""
    policy = get_object_or_404(RoutingPolicy.objects.select_related("tenant"), pk=policy_id)
    newest = wordings.newest(policy)
    wording = wordings.wording_of(newest) if newest else wordings.Wording("cost")
    form = PolicyForm(request.POST or None, policy=policy, initial=initial_of(policy, wording))
    if request.method == "POST" and form.is_valid():
        try:
            wordings.change_policy(
                policy=policy,
                name=form.cleaned_data["name"],
                is_enabled=form.cleaned_data["is_enabled"],
                wording=form.wording(),
                actor=request.principal,
            )
        except ApiError as error:
            form.refuse(error)
        else:
            messages.success(request, "Saved.")
            return redirect("policy_detail", policy.pk)
    return _editor(request, form, policy=policy)


def _editor(
    request: ConsoleRequest,
    form: PolicyForm,
    *,
    policy: RoutingPolicy | None,
    calls: SimulateForm | None = None,
    answer: dict[str, Any] | None = None,
) -> HttpResponse:
    context = {
        "form": form,
        "policy": policy,
        "calls": calls or SimulateForm(prefix="sim"),
        "answer": answer,
    }
    is_refused = form.is_bound and not form.is_valid()
    return render(request, "gateway/policy_form.html", context, status=422 if is_refused else 200)


@platform_room(write="policies:read")
def policy_simulate(request: ConsoleRequest) -> HttpResponse:
    """Plan a call by the wording in the editor, saved or not: a fragment for htmx, else the editor again."""
    chosen = request.POST.get("policy", "")
    policy = get_object_or_404(RoutingPolicy.objects.select_related("tenant"), pk=chosen) if chosen else None
    form = PolicyForm(request.POST, policy=policy)
    calls = SimulateForm(request.POST, prefix="sim")
    answer = _simulated(request, form, calls, policy) if form.is_valid() and calls.is_valid() else None
    if request.headers.get("HX-Request") != "true":
        return _editor(request, form, policy=policy, calls=calls, answer=answer)
    context = {"form": form, "calls": calls, "answer": answer}
    return render(request, "gateway/policy_simulated.html", context)


def _simulated(
    request: ConsoleRequest, form: PolicyForm, calls: SimulateForm, policy: RoutingPolicy | None
) -> dict[str, Any] | None:
    """The answer for the template; None when the form now says why there is none."""
    data = calls.cleaned_data
    if policy is None:
        policy = RoutingPolicy(slug=form.cleaned_data["slug"], tenant=form.cleaned_data["tenant"])
    may_see_cost = request.principal.can("cost:read")
    try:
        candidate = wordings.draft(policy=policy, wording=form.wording())
    except ApiError as error:
        form.refuse(error)
        return None
    imagined = simulate.Imagined(
        model=data["model"].strip() or f"{POLICY_PREFIX}{policy.slug}",
        tenant=data["tenant"],
        operation=Operation(data["operation"]),
        feature=data["feature"].strip(),
        preferences=data["provider"],
        capabilities=frozenset(words_of(data["needs"])),
        input_tokens=data["input_tokens"],
        output_tokens=data["output_tokens"],
    )
    try:
        answer = simulate.simulate(
            imagined=imagined,
            candidate=candidate,
            allow_unpriced=settings.TOLLHOUSE_ALLOW_UNPRICED,
            explain=may_see_cost,
        )
    except ApiError as error:
        add_refusal(calls, error)
        return None
    return {"said": answer, "with_cost": may_see_cost}


@platform_room("policies:read")
def policy_detail(request: ConsoleRequest, policy_id: UUID) -> HttpResponse:
    """What it says now, what it said before, whom it rules."""
    return _show_policy(request, _policy(policy_id), BindingForm(plans=_plans()))


def _policy(policy_id: UUID) -> RoutingPolicy:
    return get_object_or_404(RoutingPolicy.objects.select_related("tenant"), pk=policy_id)


def _show_policy(request: ConsoleRequest, policy: RoutingPolicy, form: BindingForm) -> HttpResponse:
    versions = list(policy.versions.order_by("-number")[:VERSIONS_SHOWN])
    context = {
        "policy": policy,
        "versions": versions,
        "newest": versions[0] if versions else None,
        "facts": _facts(versions[0]) if versions else [],
        "bindings": policy.bindings.select_related("tenant").order_by("-id"),
        "features": policy.features.select_related("tenant").order_by("slug"),
        "form": form,
    }
    return render(request, "gateway/policy_detail.html", context, status=422 if form.is_bound else 200)


def _facts(version: RoutingPolicyVersion) -> list[tuple[str, list[str]]]:
    """A wording, one line per thing said."""
    facts = [
        ("Targets", [line_of(each) for each in version.targets] or ["the whole catalogue"]),
        ("Fallback", [line_of(each) for each in version.fallback]),
        ("Constraints", [f"{name}: {_text(value)}" for name, value in version.constraints.items()]),
        ("Conduct", [f"{name}: {_text(value)}" for name, value in version.conduct.items()]),
        ("Attempts", [str(version.max_attempts)]),
    ]
    return [(name, lines) for name, lines in facts if lines]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@platform_room("policies:read")
def policy_diff(request: ConsoleRequest, policy_id: UUID) -> HttpResponse:
    """What changed between two versions: `?from` and `?to`, without them the newest and the one before."""
    policy = _policy(policy_id)
    versions = {version.number: version for version in policy.versions.order_by("-number")}
    newest = max(versions, default=0)
    after = versions.get(_number(request, "to", newest))
    before = versions.get(_number(request, "from", max(after.number - 1, 1) if after else 0))
    changes = []
    if before is not None and after is not None:
        changes = [
            (change.field, _lines(change.before), _lines(change.after))
            for change in wordings.difference(wordings.wording_of(before), wordings.wording_of(after))
        ]
    context = {
        "policy": policy,
        "numbers": list(versions),
        "before": before,
        "after": after,
        "changes": changes,
    }
    return render(request, "gateway/policy_diff.html", context, status=200 if before and after else 404)


def _number(request: ConsoleRequest, name: str, default: int) -> int:
    text = request.GET.get(name, "")
    return int(text) if text.isdecimal() and len(text) < 10 else default


def _lines(value: Any) -> list[str]:
    """A value of a wording as lines to compare; none for what was not said."""
    if value is None:
        return []
    if isinstance(value, list):
        return [line_of(each) if isinstance(each, str | dict) else _text(each) for each in value] or ["none"]
    return [_text(value)]


@platform_room(write="policies:write")
def policy_rollback(request: ConsoleRequest, policy_id: UUID) -> HttpResponse:
    """Put an older wording in force again, as a new version."""
    policy = _policy(policy_id)
    text = request.POST.get("version", "")
    try:
        version = wordings.roll_back(
            policy=policy,
            number=int(text) if text.isdecimal() and len(text) < 10 else 0,
            actor=request.principal,
        )
    except ApiError as error:
        messages.error(request, error.message)
    else:
        messages.success(request, f"Version {text} is in force again, as version {version.number}.")
    return redirect("policy_detail", policy.pk)


# ------------------------------------------------------------------ bindings


def _plans() -> list[str]:
    return list(Plan.objects.order_by("slug").values_list("slug", flat=True))


@platform_room(write="policies:write")
def policy_bind(request: ConsoleRequest, policy_id: UUID) -> HttpResponse:
    """Let the policy rule a tenant's calls, or those of all tenants on a plan."""
    policy = _policy(policy_id)
    form = BindingForm(request.POST, plans=_plans())
    if form.is_valid():
        try:
            row = bindings.bind(
                policy=policy,
                tenant=form.cleaned_data["tenant"],
                plan=form.cleaned_data["plan"],
                actor=request.principal,
            )
        except ApiError as error:
            add_refusal(form, error)
        else:
            messages.success(
                request, f"{bindings.row_name(row.tenant, row.plan)} is ruled by it from now on."
            )
            return redirect("policy_detail", policy.pk)
    return _show_policy(request, policy, form)


@platform_room(write="policies:write")
def policy_unbind(request: ConsoleRequest, policy_id: UUID, binding_id: UUID) -> HttpResponse:
    """Take a binding away."""
    row = get_object_or_404(
        PolicyBinding.objects.select_related("policy", "policy__tenant", "tenant"),
        pk=binding_id,
        policy=policy_id,
    )
    whom = bindings.row_name(row.tenant, row.plan)
    bindings.unbind(binding=row, actor=request.principal)
    messages.success(request, f"{whom} is no longer ruled by it.")
    return redirect("policy_detail", policy_id)


# ------------------------------------------------------------------ features


@platform_room("policies:read")
def feature_list(request: ConsoleRequest) -> HttpResponse:
    """Every feature with its policy, its promise and its budget."""
    rows = Feature.objects.select_related("tenant", "policy")
    page = page_of(rows, cursor=request.GET.get("cursor", ""))
    budgets = budgets_of(page.rows)
    features = [(feature, budgets.get(feature.pk)) for feature in page.rows]
    return render(request, "gateway/feature_list.html", {"page": page, "features": features})


@platform_room("policies:write", write="policies:write")
def feature_create(request: ConsoleRequest) -> HttpResponse:
    """Name a feature, and say what it promises."""
    form = FeatureForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            bindings.add_feature(
                slug=form.cleaned_data["slug"],
                tenant=form.cleaned_data["tenant"],
                values=form.values(),
                actor=request.principal,
            )
        except ApiError as error:
            add_refusal(form, error)
        else:
            messages.success(request, "Saved.")
            return redirect("feature_list")
    return _feature_editor(request, form, None)


@platform_room("policies:write", write="policies:write")
def feature_edit(request: ConsoleRequest, feature_id: UUID) -> HttpResponse:
    """Change a feature's policy or promise."""
    feature = get_object_or_404(Feature.objects.select_related("tenant", "policy"), pk=feature_id)
    initial = {name: getattr(feature, name) for name in ("name", "policy", "slo_p95_ms")}
    initial |= {
        name: None if value is None else format(value.normalize(), "f")
        for name, value in (("slo_success", feature.slo_success), ("slo_max_cost", feature.slo_max_cost))
    }
    form = FeatureForm(request.POST or None, feature=feature, initial=initial)
    if request.method == "POST" and form.is_valid():
        try:
            bindings.change_feature(feature=feature, changes=form.values(), actor=request.principal)
        except ApiError as error:
            add_refusal(form, error)
        else:
            messages.success(request, "Saved.")
            return redirect("feature_list")
    return _feature_editor(request, form, feature)


def _feature_editor(request: ConsoleRequest, form: FeatureForm, feature: Feature | None) -> HttpResponse:
    context = {"form": form, "feature": feature}
    return render(request, "gateway/feature_form.html", context, status=422 if form.is_bound else 200)


@platform_room(write="policies:write")
def feature_remove(request: ConsoleRequest, feature_id: UUID) -> HttpResponse:
    """Forget a feature: its calls are ruled by their tenant's or plan's policy again."""
    feature = get_object_or_404(Feature.objects.select_related("tenant", "policy"), pk=feature_id)
    bindings.remove_feature(feature=feature, actor=request.principal)
    messages.success(request, f"{feature.slug} is no feature any more.")
    return redirect("feature_list")
