"""Console pages of experiments and gated rollouts: list, write, watch, decide. For operators.

Each view calls one verb or one query; what providers charge is shown to those who may see it alone.
"""

import json
from collections.abc import Sequence
from typing import Any, Final

from django import forms
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render

from gateway.experiments.reports import ArmReport, Money, report
from gateway.replay.views import JSONText
from routing.experiments import rollouts, trials
from routing.experiments.models import Experiment, Rollout
from routing.experiments.statistics import Estimate
from routing.models import RoutingPolicy
from tenants.console import ConsoleRequest, add_refusal, page_of, platform_room
from tenants.errors import ApiError

FIGURES: Final = {
    "success": "Success",
    "p50_ms": "Median latency",
    "p95_ms": "p95 latency",
    "cost": "Cost per call",
    "price": "Price per call",
    "feedback": "Feedback",
}
MONEY: Final = ("cost", "price")
EXAMPLE_ARMS: Final = [
    {"name": "control", "weight": 1},
    {"name": "other", "weight": 1, "targets": [], "parameters": {}, "system_prompt": ""},
]

DIALOGS: Final = (
    (
        "advance",
        "Take it a stage further",
        "Whatever the gates say. After the last stage the candidate is the policy's next version.",
        "A stage further",
        "btn-primary",
    ),
    (
        "roll_back",
        "Take it back",
        "All calls go by the wording in force again, at once. The rollout is over.",
        "Take back",
        "btn-error",
    ),
)
"""Of a decision by hand: verdict, title, what it does, its button."""


class ExperimentForm(forms.Form):
    """A draft."""

    slug = forms.SlugField(max_length=63, help_text="Stands in the request log. Never changes.")
    name = forms.CharField(max_length=200, required=False)
    policy = forms.ModelChoiceField(queryset=RoutingPolicy.objects.select_related("tenant"))
    unit = forms.CharField(
        max_length=48, initial="tenant", help_text="What keeps its arm: tenant, user, or tag:<name>."
    )
    arms = JSONText(
        label="Arms, the control first",
        initial=EXAMPLE_ARMS,
        help_text='Each {"name", "weight", "targets", "parameters", "system_prompt"}.',
    )


class RolloutForm(forms.Form):
    """A rollout, which begins at once."""

    slug = forms.SlugField(max_length=63, help_text="Stands in the request log. Never changes.")
    name = forms.CharField(max_length=200, required=False)
    policy = forms.ModelChoiceField(queryset=RoutingPolicy.objects.select_related("tenant"))
    candidate = JSONText(
        label="Candidate",
        help_text='{"version": 3}, or what differs from the wording in force: {"targets": ["gpt-4o-mini"]}.',
    )
    gates = JSONText(
        label="Gates",
        initial={"max_success_drop": 0.01, "max_p95_ratio": 1.5, "max_cost_ratio": 1.5},
        help_text="Also: min_success, max_p95_ms, min_json_valid, min_score. See docs/experiments.md.",
    )
    scoring = JSONText(label="Scoring", help_text='{"kind": "exact_match"}, similarity, or a rubric.')
    min_samples = forms.IntegerField(
        min_value=1, initial=100, label="Calls per stage", help_text="Of the candidate, at least."
    )
    min_stage_s = forms.IntegerField(min_value=0, initial=300, label="Seconds per stage, at least")


class PromoteForm(forms.Form):
    """Which arm all calls shall take."""

    arm = forms.CharField(max_length=40)


# ------------------------------------------------------------------ experiments


@platform_room("policies:read")
def experiment_list(request: ConsoleRequest) -> HttpResponse:
    """Every experiment, newest first, and the rollouts that run."""
    page = page_of(
        Experiment.objects.select_related("policy", "policy__tenant"), cursor=request.GET.get("cursor", "")
    )
    return render(request, "gateway/experiment_list.html", {"page": page, "experiments": page.rows})


@platform_room("policies:write", write="policies:write")
def experiment_create(request: ConsoleRequest) -> HttpResponse:
    """Write a draft."""
    form = ExperimentForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            made = trials.create_experiment(**form.cleaned_data, actor=request.principal)
        except ApiError as error:
            add_refusal(form, error)
        else:
            messages.success(request, "The draft is saved. Nothing is split before you start it.")
            return redirect("experiment_detail", made.slug)
    return render(
        request, "gateway/experiment_form.html", {"form": form}, status=422 if form.is_bound else 200
    )


@platform_room("policies:read")
def experiment_detail(request: ConsoleRequest, experiment: str) -> HttpResponse:
    """How the arms compare, and what may be done."""
    row = get_object_or_404(Experiment.objects.select_related("policy", "policy__tenant"), slug=experiment)
    with_cost = request.principal.can("cost:read")
    found = report(row)
    hidden = () if with_cost else ("cost",)
    context = {
        "experiment": row,
        "is_draft": row.status == Experiment.Status.DRAFT,
        "may_promote": row.status in (Experiment.Status.RUNNING, Experiment.Status.STOPPED),
        "figures": [words for name, words in FIGURES.items() if name not in hidden],
        "arms": [_arm(arm, hidden) for arm in found.arms],
        "level": found.level,
        "wording": json.dumps(row.arms, indent=2, ensure_ascii=False),
    }
    return render(request, "gateway/experiment_detail.html", context)


@platform_room(write="policies:write")
def experiment_start(request: ConsoleRequest, experiment: str) -> HttpResponse:
    """Let it split its policy's calls."""
    row = get_object_or_404(Experiment, slug=experiment)
    try:
        trials.start(experiment=row, actor=request.principal)
    except ApiError as error:
        messages.error(request, error.message)
    else:
        messages.success(request, "Started: the policy's calls are split from now on.")
    return redirect("experiment_detail", experiment)


@platform_room(write="policies:write")
def experiment_stop(request: ConsoleRequest, experiment: str) -> HttpResponse:
    """Let the policy rule alone again."""
    row = get_object_or_404(Experiment, slug=experiment)
    try:
        trials.stop(experiment=row, actor=request.principal)
    except ApiError as error:
        messages.error(request, error.message)
    else:
        messages.success(request, "Stopped: the policy rules alone again.")
    return redirect("experiment_detail", experiment)


@platform_room(write="policies:write")
def experiment_promote(request: ConsoleRequest, experiment: str) -> HttpResponse:
    """Take one arm over for all calls."""
    row = get_object_or_404(Experiment, slug=experiment)
    form = PromoteForm(request.POST)
    try:
        arm = form.cleaned_data["arm"] if form.is_valid() else ""
        trials.promote(experiment=row, arm=arm, actor=request.principal)
    except ApiError as error:
        messages.error(request, error.message)
    else:
        messages.success(request, f"All calls go the way of {arm} from now on.")
    return redirect("experiment_detail", experiment)


def _arm(arm: ArmReport, hidden: Sequence[str]) -> dict[str, Any]:
    """One arm's cells, in the order of FIGURES."""
    said = {each.figure: each.wording for each in arm.differences}
    cells = [
        {"kind": _kind(name), "shown": _cell(arm, name), "wording": said.get(name, "")}
        for name in FIGURES
        if name not in hidden
    ]
    return {
        "name": arm.name,
        "is_control": arm.is_control,
        "n": arm.n,
        "tenants": arm.tenants,
        "cells": cells,
    }


def _kind(name: str) -> str:
    return "money" if name in MONEY else "share" if name == "success" else "ms" if "ms" in name else "score"


def _cell(arm: ArmReport, name: str) -> dict[str, Any] | None:
    if name in MONEY:
        found: Sequence[Money] = getattr(arm, name)
        if not found:
            return None
        first = found[0]
        return {"currency": first.currency, **_ends(first.mean_pico, whole=True)}
    estimate: Estimate | None = getattr(arm, name)
    return None if estimate is None else _ends(estimate)


def _ends(found: Estimate, *, whole: bool = False) -> dict[str, Any]:
    ends = {"value": found.value, "low": found.low, "high": found.high}
    return {name: round(end) if whole and end is not None else end for name, end in ends.items()}


# ------------------------------------------------------------------ rollouts


@platform_room("cost:read")
def rollout_list(request: ConsoleRequest) -> HttpResponse:
    """Every rollout, newest first."""
    page = page_of(Rollout.objects.select_related("policy"), cursor=request.GET.get("cursor", ""))
    rows = [(row, _stages(row)) for row in page.rows]
    return render(request, "gateway/rollout_list.html", {"page": page, "rows": rows})


@platform_room("policies:write", write="policies:write")
def rollout_create(request: ConsoleRequest) -> HttpResponse:
    """Begin one."""
    form = RolloutForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        given = form.cleaned_data
        try:
            for name in ("candidate", "gates", "scoring"):
                if given[name] is not None and not isinstance(given[name], dict):
                    raise ApiError("invalid_request", "This must be a JSON object.", param=name)
            made = rollouts.begin_rollout(
                **{**given, "candidate": given["candidate"] or {}}, actor=request.principal
            )
        except ApiError as error:
            add_refusal(form, error)
        else:
            messages.success(request, "The rollout has begun.")
            return redirect("rollout_detail", made.slug)
    return render(request, "gateway/rollout_form.html", {"form": form}, status=422 if form.is_bound else 200)


@platform_room("cost:read")
def rollout_detail(request: ConsoleRequest, rollout: str) -> HttpResponse:
    """How far it is, what the gates say, and every decision so far."""
    row = get_object_or_404(Rollout.objects.select_related("policy", "policy__tenant"), slug=rollout)
    decisions = list(row.decisions.order_by("-id"))
    is_running = row.status == Rollout.Status.RUNNING
    figures = row.evaluation or (decisions[0].figures if decisions else {})
    context = {
        "rollout": row,
        "is_running": is_running,
        "stages": _stages(row),
        "sides": [(name, _side(figures[name])) for name in ("candidate", "control") if name in figures],
        "is_now": bool(row.evaluation),
        "gates": figures.get("gates", ()),
        "reason": figures.get("reason", ""),
        "decisions": decisions,
        "candidate": json.dumps(row.candidate, indent=2, ensure_ascii=False),
        "dialogs": DIALOGS,
    }
    template = "gateway/rollout_progress.html" if _is_poll(request) else "gateway/rollout_detail.html"
    return render(request, template, context)


@platform_room(write="policies:write")
def rollout_decide(request: ConsoleRequest, rollout: str) -> HttpResponse:
    """A person takes it a stage further, or back."""
    row = get_object_or_404(Rollout.objects.select_related("policy"), slug=rollout)
    is_back = request.POST.get("verdict") == "roll_back"
    verb = rollouts.roll_back if is_back else rollouts.advance
    try:
        verb(
            rollout=row,
            reason=request.POST.get("reason", "").strip()[:400] or "By hand.",
            figures={name: row.evaluation[name] for name in row.evaluation if name != "reason"},
            actor=request.principal,
            from_stage=_number(request.POST.get("stage", "")),
        )
    except ApiError as error:
        messages.error(request, error.message)
    else:
        messages.success(request, "Taken back." if is_back else "A stage further.")
    return redirect("rollout_detail", rollout)


def _stages(row: Rollout) -> list[dict[str, Any]]:
    """Every stage with what became of it."""
    is_over = row.status == Rollout.Status.COMPLETED
    return [
        {
            "label": "shadow" if stage["kind"] == "shadow" else "live",
            "share": stage["share"],
            "state": "done"
            if number < row.stage or is_over
            else "ahead"
            if number > row.stage
            else "now"
            if row.status == Rollout.Status.RUNNING
            else "taken back",
        }
        for number, stage in enumerate(row.stages)
    ]


def _side(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures of one side; a mean cost is shown to the pico."""
    cost_pico = figures["cost_pico"]
    return {**figures, "cost_pico": None if cost_pico is None else round(cost_pico)}


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


def _is_poll(request: ConsoleRequest) -> bool:
    return request.headers.get("HX-Request") == "true"
