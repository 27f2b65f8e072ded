"""Console pages of the audit trail: the events and what each changed, the proof, the export, the sinks.

Each view calls one verb or one query. A sink's secret leaves once, in the answer to the POST that made it.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, time, timedelta
from typing import Any, Final, cast
from uuid import UUID

import orjson
from django import forms
from django.contrib import messages
from django.db import models
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.dateparse import parse_date
from django.utils.http import urlencode

from tenants.audit import OPERATOR_CHAIN
from tenants.console import ConsoleRequest, add_refusal, page_of
from tenants.errors import ApiError
from tenants.models import AuditEvent, AuditSink, Tenant
from tenants.places import both_rooms, here
from tenants.trail import proof, sinks
from tenants.trail.api import stream
from tenants.trail.export import MEDIA_TYPES, Format, export

READ, WRITE = "audit:read", "audit:write"
DAY_S: Final = 24 * 3600

# ------------------------------------------------------------------ events


class FilterForm(forms.Form):
    """What the list and the export are narrowed to; it stands in the address."""

    actor = forms.CharField(max_length=254, required=False)
    action = forms.CharField(max_length=64, required=False, help_text="Or its beginning, as in key.")
    object_type = forms.CharField(max_length=64, required=False, label="Object")
    object_id = forms.CharField(max_length=128, required=False, label="Object id")
    request_id = forms.CharField(max_length=64, required=False, label="Request id")
    since = forms.DateField(required=False, widget=forms.DateInput(attrs={"type": "date"}), label="From")
    until = forms.DateField(required=False, widget=forms.DateInput(attrs={"type": "date"}), label="To")


def _rows(request: ConsoleRequest) -> models.QuerySet[AuditEvent]:
    """A tenant's events inside it; all of them on the platform, or those of `?tenant=`."""
    rows = AuditEvent.objects.visible_to(request.principal, READ).select_related("tenant")
    if request.tenant is not None:
        return rows.filter(tenant=request.tenant)
    slug = request.GET.get("tenant", "")
    return rows.filter(tenant__slug=slug) if slug else rows


def _narrowed(rows: models.QuerySet[AuditEvent], asked: Mapping[str, str]) -> models.QuerySet[AuditEvent]:
    """What the filter form asks for; a day begins and ends where the reader is."""
    lookups = {
        "actor": "actor_label__icontains",
        "action": "action__startswith",
        "object_type": "object_type",
        "object_id": "object_id",
        "request_id": "request_id",
    }
    for name, lookup in lookups.items():
        if text := asked.get(name, "").replace("\0", "").strip():
            rows = rows.filter(**{lookup: text})
    if since := _day(asked.get("since", "")):
        rows = rows.filter(at__gte=since)
    if until := _day(asked.get("until", "")):
        rows = rows.filter(at__lt=until + timedelta(days=1))
    return rows


def _day(text: str) -> datetime | None:
    try:
        day = parse_date(text)
    except ValueError:
        return None
    if day is None or not 1 < day.year < 9999:
        return None
    return datetime.combine(day, time(), timezone.get_current_timezone()).astimezone(UTC)


@both_rooms(READ)
def audit_list(request: ConsoleRequest) -> HttpResponse:
    """Who did what, newest first."""
    asked = request.GET.dict()
    names = (*FilterForm.base_fields, "tenant")
    query = {name: str(asked[name]) for name in names if asked.get(name)}
    page = page_of(_narrowed(_rows(request), query), cursor=request.GET.get("cursor", ""))
    exports = {
        form: f"{here(request, 'audit_export')}?{urlencode({**query, 'as': form})}" for form in MEDIA_TYPES
    }
    context = {
        "page": page,
        "form": FilterForm(initial=query),
        "is_filtered": bool(query),
        "exports": exports,
    }
    return render(request, "tenants/audit_list.html", context)


@both_rooms(READ)
def audit_event(request: ConsoleRequest, event_id: UUID) -> HttpResponse:
    """One event with its reason and what it changed."""
    event = _rows(request).filter(pk=event_id).first()
    if event is None:
        raise Http404
    context = {
        "event": event,
        "changes": changes_of(event.before, event.after),
        "hash": bytes(event.hash).hex(),
    }
    return render(request, "tenants/audit_event.html", context)


def changes_of(before: Any, after: Any) -> list[tuple[str, str, str]]:
    """Field by field what was and what is, as text; fields that did not move are left out."""
    old = before if isinstance(before, dict) else {}
    new = after if isinstance(after, dict) else {}
    names = dict.fromkeys((*old, *new))
    return [
        (name, _text(old, name), _text(new, name)) for name in names if old.get(name) != new.get(name)
    ] or [(name, _text(old, name), _text(new, name)) for name in names]


def _text(values: Mapping[str, Any], name: str) -> str:
    if name not in values:
        return ""
    value = values[name]
    return value if isinstance(value, str) else orjson.dumps(value).decode()


@both_rooms(READ)
def audit_export(request: ConsoleRequest) -> HttpResponse:
    """A file of all events that the list's filters find."""
    form = request.GET.get("as", "jsonl")
    if form not in MEDIA_TYPES:
        raise Http404
    asked = {name: str(value) for name, value in request.GET.dict().items()}
    rows = _narrowed(_rows(request), asked)
    return cast("HttpResponse", stream(request, export(rows, cast("Format", form)), cast("Format", form)))


@both_rooms(READ)
def audit_verify(request: ConsoleRequest) -> HttpResponse:
    """Recompute one chain now: the tenant's, or on the platform the operator's or that of `?tenant=`."""
    chain, name = _chain(request)
    anchors, fault = [], ""
    if text := request.GET.get("anchor", "").strip():
        try:
            sequence, _, head = text.partition(":")
            anchors = [proof.Anchor(chain, int(sequence[:18]), bytes.fromhex(head.strip()))]
        except ValueError:
            fault = "An anchor is a number, a colon and 64 hexadecimal digits."
    (found,) = proof.verify(chain, anchors=anchors).chains
    context = {
        "proof": found,
        "head": found.head.hex(),
        "name": name,
        "anchor": text,
        "fault": fault,
        "checkpoint": proof.latest_checkpoint(chain),
        "slug": request.GET.get("tenant", ""),
    }
    return render(request, "tenants/audit_verify.html", context)


def _chain(request: ConsoleRequest) -> tuple[UUID, str]:
    if request.tenant is not None:
        return request.tenant.id, request.tenant.name
    slug = request.GET.get("tenant", "")
    if not slug:
        return OPERATOR_CHAIN, "The operator's own events"
    tenant = Tenant.objects.filter(slug=slug).first()
    if tenant is None:
        raise Http404
    return tenant.id, tenant.name


# ------------------------------------------------------------------ sinks


class SinkForm(forms.Form):
    """Where the trail is sent. `kind` and the chains are set once."""

    name = forms.CharField(max_length=100)
    kind = forms.ChoiceField(choices=AuditSink.Kind.choices)
    target = forms.CharField(
        max_length=2000,
        help_text="https://… for a webhook; syslog+tls://host:6514 for syslog. Private hosts only where allowed.",
    )
    ca_certificate = forms.CharField(
        label="CA certificate",
        required=False,
        max_length=20_000,
        widget=forms.Textarea(attrs={"rows": 4}),
        help_text="PEM, for a syslog server whose certificate is not a public authority's.",
    )
    is_from_start = forms.BooleanField(label="Begin with the first event that is kept", required=False)
    has_all_chains = forms.BooleanField(label="Events of all tenants too", required=False)
    is_enabled = forms.BooleanField(label="Send events", required=False, initial=True)

    def __init__(self, *args: Any, is_new: bool, is_platform: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        gone = ("is_enabled",) if is_new else ("kind", "is_from_start", "has_all_chains")
        for name in (*gone, *(() if is_platform else ("has_all_chains",))):
            self.fields.pop(name, None)


class SinkRotateForm(forms.Form):
    """How long messages carry both signatures."""

    grace_s = forms.TypedChoiceField(
        label="The old secret goes on for",
        coerce=int,
        initial=DAY_S,
        choices=((0, "no time: receivers must change now"), (DAY_S, "a day"), (7 * DAY_S, "7 days")),
    )


def _sinks(request: ConsoleRequest) -> models.QuerySet[AuditSink]:
    return AuditSink.objects.select_related("tenant").filter(tenant=request.tenant)


def _sink(request: ConsoleRequest, sink_id: UUID) -> AuditSink:
    sink = _sinks(request).filter(pk=sink_id).first()
    if sink is None:
        raise Http404
    return sink


@both_rooms(READ)
def audit_sink_list(request: ConsoleRequest) -> HttpResponse:
    """Where the trail is sent, and how far each has come."""
    rows = list(_sinks(request))
    lags = sinks.lags_of(rows)
    return render(request, "tenants/audit_sink_list.html", {"sinks": [(row, lags[row.pk]) for row in rows]})


@both_rooms(WRITE, write=WRITE)
def audit_sink_create(request: ConsoleRequest) -> HttpResponse:
    """A new sink; a webhook's secret is shown this once."""
    form = SinkForm(request.POST or None, is_new=True, is_platform=request.tenant is None)
    if form.is_valid():
        try:
            made = sinks.add_sink(
                **form.cleaned_data, tenant=request.tenant, actor=request.principal, now=timezone.now()
            )
        except ApiError as error:
            add_refusal(form, error)
        else:
            if made.secret:
                return _secret_page(request, made)
            return redirect(here(request, "audit_sink_edit", sink_id=made.sink.pk))
    status = 422 if request.method == "POST" else 200
    return render(request, "tenants/audit_sink_form.html", {"form": form}, status=status)


@both_rooms(WRITE, write=WRITE)
def audit_sink_edit(request: ConsoleRequest, sink_id: UUID) -> HttpResponse:
    """Change a sink; whatever failed is tried again at once."""
    sink = _sink(request, sink_id)
    initial = {name: getattr(sink, name) for name in ("name", "target", "ca_certificate", "is_enabled")}
    form = SinkForm(request.POST or None, initial=initial, is_new=False, is_platform=request.tenant is None)
    if request.method == "POST" and form.is_valid():
        try:
            sinks.change_sink(
                sink=sink, changes=form.cleaned_data, actor=request.principal, now=timezone.now()
            )
        except ApiError as error:
            add_refusal(form, error)
        else:
            messages.success(request, "Saved.")
            return redirect(here(request, "audit_sink_list"))
    context = {
        "form": form,
        "sink": sink,
        "lag": sinks.lags_of([sink])[sink.pk],
        "rotate_form": SinkRotateForm(),
    }
    status = 422 if request.method == "POST" else 200
    return render(request, "tenants/audit_sink_form.html", context, status=status)


@both_rooms(write=WRITE)
def audit_sink_test(request: ConsoleRequest, sink_id: UUID) -> HttpResponse:
    """Send a message without events now."""
    sink = _sink(request, sink_id)
    try:
        failure = sinks.try_out(sink=sink, actor=request.principal, now=timezone.now())
    except ApiError as error:
        failure = error.message
    if failure:
        messages.error(request, failure)
    else:
        messages.success(request, "The test message was taken.")
    return redirect(here(request, "audit_sink_edit", sink_id=sink.pk))


@both_rooms(write=WRITE)
def audit_sink_rotate(request: ConsoleRequest, sink_id: UUID) -> HttpResponse:
    """A fresh signing secret, shown this once."""
    sink, form = _sink(request, sink_id), SinkRotateForm(request.POST)
    if not form.is_valid():
        messages.error(request, "Choose how long the old secret goes on.")
        return redirect(here(request, "audit_sink_edit", sink_id=sink.pk))
    try:
        made = sinks.rotate_secret(
            sink=sink, grace_s=form.cleaned_data["grace_s"], actor=request.principal, now=timezone.now()
        )
    except ApiError as error:
        messages.error(request, error.message)
        return redirect(here(request, "audit_sink_edit", sink_id=sink.pk))
    return _secret_page(request, made)


@both_rooms(write=WRITE)
def audit_sink_remove(request: ConsoleRequest, sink_id: UUID) -> HttpResponse:
    """Send nothing there any more, its name typed to confirm."""
    sink = _sink(request, sink_id)
    if request.POST.get("confirm", "").strip() != sink.name:
        messages.error(request, "The name did not match. The sink was not removed.")
        return redirect(here(request, "audit_sink_edit", sink_id=sink.pk))
    sinks.remove_sink(sink=sink, actor=request.principal)
    messages.success(request, f"{sink.name} is sent nothing any more.")
    return redirect(here(request, "audit_sink_list"))


def _secret_page(request: ConsoleRequest, made: sinks.Made) -> HttpResponse:
    return render(request, "tenants/audit_sink_secret.html", {"sink": made.sink, "secret": made.secret})
