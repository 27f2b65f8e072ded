"""Console pages of the what-ifs: ask, watch, read the report, promote. Operators only."""

import json
from collections.abc import Iterable
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone

from billing.models import Plan
from billing.rating.money import PICO
from gateway.models import Replay
from gateway.replay import jobs
from gateway.replay.api import candidate_from
from routing.models import RoutingPolicy
from routing.policies import wordings
from tenants.console import ConsoleRequest, add_refusal, page_of, platform_room, words_of
from tenants.errors import ApiError

TENANTS_SHOWN = 50
IN_FLIGHT = (Replay.Status.QUEUED, Replay.Status.RUNNING)


class JSONText(forms.JSONField):
    """JSON typed by a person; empty means nothing."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            required=False,
            widget=forms.Textarea(attrs={"rows": 6, "class": "mono", "spellcheck": "false"}),
            **options,
        )

    def prepare_value(self, value: Any) -> Any:
        return value if isinstance(value, str) or value is None else json.dumps(value, indent=2)


class ReplayForm(forms.Form):
    """The question: which calls, under what."""

    policy = forms.ModelChoiceField(
        queryset=RoutingPolicy.objects.select_related("tenant"), required=False, empty_label="as recorded"
    )
    wording = JSONText(
        label="Its new wording",
        help_text='As in the API: {"strategy": "cost", "targets": [], "constraints": {}}.',
    )
    rates = JSONText(
        label="Cost rates to try",
        help_text='A list: [{"provider", "provider_model", "component", "price", "per"}].',
    )
    plan = forms.ModelChoiceField(queryset=Plan.objects.all(), required=False, empty_label="as recorded")
    charges = JSONText(label="Its new charges", help_text='As in the API: [{"model": "cost_plus", …}].')
    start = forms.DateTimeField(widget=forms.DateTimeInput(attrs={"type": "datetime-local"}))
    end = forms.DateTimeField(widget=forms.DateTimeInput(attrs={"type": "datetime-local"}))
    tenants = forms.CharField(
        required=False,
        help_text="Slugs, one per line; empty: all.",
        widget=forms.Textarea(attrs={"rows": 2}),
    )
    is_whole = forms.BooleanField(
        required=False,
        label="All calls of the window, not only those that the policy ruled",
    )

    def candidate(self) -> dict[str, Any]:
        """What `jobs.ask` takes."""
        data = self.cleaned_data
        policy: RoutingPolicy | None = data["policy"]
        candidate: dict[str, Any] = {}
        if policy is not None and data["wording"]:
            candidate |= {
                "policy": policy.slug,
                "policy_tenant": policy.tenant.slug if policy.tenant else None,
                "wording": data["wording"],
            }
        if data["rates"]:
            candidate["rates"] = data["rates"]
        if data["plan"] is not None and data["charges"]:
            candidate |= {"plan": data["plan"].slug, "charges": data["charges"]}
        return candidate


@platform_room("cost:read")
def replay_list(request: ConsoleRequest) -> HttpResponse:
    """Every what-if, newest first."""
    page = page_of(Replay.objects.defer("report"), cursor=request.GET.get("cursor", ""))
    return render(request, "gateway/replay_list.html", {"page": page, "replays": page.rows})


@platform_room("policies:write", write="policies:write")
def replay_create(request: ConsoleRequest) -> HttpResponse:
    """Ask what would have been; `?policy=` starts from that policy's present wording."""
    form = ReplayForm(request.POST or None, initial=_initial(request.GET.get("policy", "")))
    if request.method == "POST" and form.is_valid():
        try:
            row = jobs.ask(
                candidate=candidate_from(form.candidate()),
                start=form.cleaned_data["start"],
                end=form.cleaned_data["end"],
                tenants=words_of(form.cleaned_data["tenants"]),
                is_whole=form.cleaned_data["is_whole"],
                actor=request.principal,
            )
        except ApiError as error:
            add_refusal(form, error)
        else:
            return redirect("replay_detail", row.pk)
    return render(request, "gateway/replay_form.html", {"form": form}, status=422 if form.is_bound else 200)


def _initial(slug: str) -> dict[str, Any]:
    today = timezone.localtime().replace(hour=0, minute=0, second=0, microsecond=0)
    initial: dict[str, Any] = {
        "start": (today - timedelta(days=1)).strftime("%Y-%m-%dT%H:%M"),
        "end": today.strftime("%Y-%m-%dT%H:%M"),
    }
    policy = RoutingPolicy.objects.filter(slug=slug).order_by("tenant_id").first() if slug else None
    version = wordings.newest(policy) if policy else None
    if policy is not None and version is not None:
        initial |= {
            "policy": policy.pk,
            "wording": {
                "strategy": version.strategy,
                "targets": version.targets,
                "constraints": version.constraints,
                "fallback": version.fallback,
                "conduct": version.conduct,
                "max_attempts": version.max_attempts,
            },
        }
    return initial


@platform_room("cost:read", write="policies:write")
def replay_detail(request: ConsoleRequest, replay_id: UUID) -> HttpResponse:
    """How far it is, or what it found; a POST promotes the candidate."""
    row = get_object_or_404(Replay, pk=replay_id)
    if request.method == "POST":
        try:
            jobs.promote(row=row, actor=request.principal)
        except ApiError as error:
            messages.error(request, error.message)
        else:
            messages.success(request, "The candidate is in force.")
        return redirect("replay_detail", row.pk)
    context = {"replay": row, "is_running": row.status in IN_FLIGHT, "share": _share(row)}
    if row.report is not None:
        context |= _shown(row.report)
    context["candidate"] = json.dumps(row.candidate, indent=2)
    template = "gateway/replay_progress.html" if _is_poll(request) else "gateway/replay_detail.html"
    return render(request, template, context)


def _is_poll(request: ConsoleRequest) -> bool:
    return request.headers.get("HX-Request") == "true"


def _share(row: Replay) -> int:
    return min(100, row.done * 100 // row.calls) if row.calls else 0


def _shown(report: dict[str, Any]) -> dict[str, Any]:
    total = report["total"]
    return {
        "total": total,
        "money": list(_money(total)),
        "refusals": list(total["refused"].items()),
        "targets": [
            row | {"share": _of(row["candidate"], total), "share_before": _of(row["recorded"], total)}
            for row in report["targets"]
        ],
        "tenants": [row | {"money": list(_money(row))} for row in report["tenants"][:TENANTS_SHOWN]],
        "tenants_hidden": max(0, len(report["tenants"]) - TENANTS_SHOWN) + report["tenants_left_out"],
    }


def _money(tally: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """Cost, price and margin per currency, as pico-units for the templates' filters."""
    for name in ("cost", "price", "margin"):
        for currency, line in tally[name].items():
            yield {
                "name": name,
                "currency": currency,
                **{side: int(Decimal(amount) * PICO) for side, amount in line.items()},
            }


def _of(calls: int, total: dict[str, Any]) -> float:
    answered = total["p95_ms"]["calls"]
    return calls / answered if answered else 0.0
