"""Console pages of data and residency: retention, legal holds, erasures, certificates, where data went.

Views read input, make one call and shape the answer; no rule lives here.
"""

from datetime import UTC, datetime, time, timedelta
from typing import Any
from uuid import UUID

import orjson
from django import forms
from django.conf import settings
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone

from gateway.content import certificates, erase, residency
from gateway.content.models import DeletionCertificate, Erasure
from tenants import retention
from tenants.console import ConsoleRequest, add_refusal, page_of, platform_room, tenant_room
from tenants.errors import ApiError
from tenants.models import LegalHold, Tenant
from tenants.models.retention import MAX_CONTENT_DAYS, MIN_AUDIT_DAYS

RECENT = 20


class RetentionForm(forms.Form):
    """A tenant's days by data class. An empty field: as long as the operator keeps it."""

    content_days = forms.IntegerField(
        label="Content, in days",
        min_value=0,
        max_value=MAX_CONTENT_DAYS,
        help_text="Requests and answers, sealed under a key of each day. 0: never stored.",
    )
    request_log_days = forms.IntegerField(
        label="Names in the request log, in days",
        required=False,
        min_value=1,
        max_value=32767,
        help_text="After these, end user, tags and error text are blanked.",
    )
    artifacts_days = forms.IntegerField(
        label="Feedback and samples, in days", required=False, min_value=1, max_value=32767
    )
    audit_days = forms.IntegerField(
        label="Audit trail, in days",
        required=False,
        min_value=MIN_AUDIT_DAYS,
        max_value=2**31 - 1,
        help_text="365 at least. Empty: for good.",
    )
    pseudonymize_end_users = forms.BooleanField(
        label="Record end users by pseudonym alone",
        required=False,
        help_text="Their names are replaced before anything is recorded or sent; budgets name the pseudonym.",
    )
    zero_retention = forms.BooleanField(
        label="Zero retention",
        required=False,
        help_text="No content, no names; calls go only to endpoints that keep nothing.",
    )


class HoldForm(forms.Form):
    reason = forms.CharField(max_length=500, help_text="Nothing is deleted or erased until it is lifted.")


class ErasureForm(forms.Form):
    end_user = forms.CharField(
        max_length=erase.MAX_NAME,
        strip=False,
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
        help_text="As your calls name them, or their pseudonym.",
    )


class PeriodForm(forms.Form):
    """Days in UTC, both included."""

    start = forms.DateField(widget=forms.DateInput(attrs={"type": "date"}, format="%Y-%m-%d"), label="From")
    end = forms.DateField(widget=forms.DateInput(attrs={"type": "date"}, format="%Y-%m-%d"), label="To")


# ------------------------------------------------------------------ data settings


@tenant_room("retention:read", write="retention:write")
def data_settings(request: ConsoleRequest, tenant: Tenant) -> HttpResponse:
    """What is kept and for how long, what holds it, who was erased."""
    form = RetentionForm(request.POST or None, initial=retention.picture(retention.setting_of(tenant)))
    if request.method == "POST" and form.is_valid():
        try:
            retention.change_setting(tenant=tenant, changes=form.cleaned_data, actor=request.principal)
        except ApiError as error:
            add_refusal(form, error)
        else:
            messages.success(request, "Saved. What is older than the new days goes within the hour.")
            return redirect("data_settings", tenant.slug)
    return _data_settings(request, tenant, form=form)


@tenant_room(write="retention:write")
def hold_place(request: ConsoleRequest, tenant: Tenant) -> HttpResponse:
    """Stop every deletion of the tenant's data."""
    form = HoldForm(request.POST)
    if form.is_valid():
        try:
            retention.place_hold(
                tenant=tenant, actor=request.principal, now=timezone.now(), **form.cleaned_data
            )
        except ApiError as error:
            add_refusal(form, error)
        else:
            messages.success(request, "The hold stands. Nothing is deleted until it is lifted.")
            return redirect("data_settings", tenant.slug)
    return _data_settings(request, tenant, hold_form=form)


@tenant_room(write="retention:write")
def hold_release(request: ConsoleRequest, tenant: Tenant, hold_id: UUID) -> HttpResponse:
    """Lift a hold."""
    hold = get_object_or_404(LegalHold.objects.for_tenant(tenant), pk=hold_id)
    try:
        retention.release_hold(hold=hold, actor=request.principal, now=timezone.now())
    except ApiError as error:
        messages.error(request, error.message)
    else:
        messages.success(request, "Lifted. What is due is deleted within the hour.")
    return redirect("data_settings", tenant.slug)


@tenant_room(write="retention:write")
def erasure_create(request: ConsoleRequest, tenant: Tenant) -> HttpResponse:
    """Erase an end user."""
    form = ErasureForm(request.POST)
    if form.is_valid():
        try:
            erase.ask(tenant=tenant, actor=request.principal, now=timezone.now(), **form.cleaned_data)
        except ApiError as error:
            add_refusal(form, error)
        else:
            messages.success(request, "The erasure has begun. Its certificate will stand here.")
            return redirect("data_settings", tenant.slug)
    return _data_settings(request, tenant, erasure_form=form)


def _data_settings(
    request: ConsoleRequest,
    tenant: Tenant,
    *,
    form: RetentionForm | None = None,
    hold_form: HoldForm | None = None,
    erasure_form: ErasureForm | None = None,
) -> HttpResponse:
    setting = retention.setting_of(tenant)
    context = {
        "form": form or RetentionForm(initial=retention.picture(setting)),
        "hold_form": hold_form or HoldForm(),
        "erasure_form": erasure_form or ErasureForm(),
        "setting": setting,
        "holds": LegalHold.objects.for_tenant(tenant).order_by("-id")[:RECENT],
        "is_held": retention.is_held(tenant.id),
        "erasures": Erasure.objects.for_tenant(tenant).select_related("certificate").order_by("-id")[:RECENT],
        "log_days": settings.TOLLHOUSE_REQUEST_LOG_DAYS,
        "artifacts_days": settings.TOLLHOUSE_ARTIFACTS_DAYS,
        "kept_in": settings.TOLLHOUSE_REGION,
    }
    is_refused = any(each is not None and each.is_bound for each in (form, hold_form, erasure_form))
    return render(request, "gateway/data_settings.html", context, status=422 if is_refused else 200)


# ------------------------------------------------------------------ certificates


@tenant_room("retention:read")
def tenant_certificate_list(request: ConsoleRequest, tenant: Tenant) -> HttpResponse:
    """What was deleted of this tenant."""
    return _certificates(request, tenant)


@platform_room("retention:read")
def certificate_list(request: ConsoleRequest) -> HttpResponse:
    """What was deleted of anybody, and of the installation."""
    return _certificates(request, None)


def _certificates(request: ConsoleRequest, tenant: Tenant | None) -> HttpResponse:
    rows = DeletionCertificate.objects.visible_to(request.principal, "retention:read")
    if tenant is not None:
        rows = rows.for_tenant(tenant)
    page = page_of(rows.select_related("tenant"), cursor=request.GET.get("cursor", ""))
    chain = tenant.id if tenant is not None else None
    context = {
        "page": page,
        "errors": certificates.verify(chain) if "verify" in request.GET else None,
    }
    return render(request, "gateway/certificate_list.html", context)


@tenant_room("retention:read")
def tenant_certificate_export(request: ConsoleRequest, tenant: Tenant) -> HttpResponse:
    """All certificates of this tenant, oldest first, as one JSON document."""
    rows = DeletionCertificate.objects.for_tenant(tenant).order_by("sequence")
    document: dict[str, Any] = {
        "tenant": tenant.slug,
        "as_of": timezone.now(),
        "certificates": [certificates.document(row) for row in rows.iterator(chunk_size=1000)],
    }
    return HttpResponse(
        orjson.dumps(document, option=orjson.OPT_INDENT_2),
        content_type="application/json",
        headers={"Content-Disposition": f'attachment; filename="certificates-{tenant.slug}.json"'},
    )


# ------------------------------------------------------------------ residency


@tenant_room("residency:read")
def residency_report(request: ConsoleRequest, tenant: Tenant) -> HttpResponse:
    """Where the tenant's data went in a period."""
    form, found = _report(request, tenant)
    return render(request, "gateway/residency.html", {"form": form, "report": found})


@tenant_room("residency:read")
def residency_csv(request: ConsoleRequest, tenant: Tenant) -> HttpResponse:
    """The same report as a file."""
    _, found = _report(request, tenant)
    return HttpResponse(
        residency.csv_of(found),
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="residency-{tenant.slug}.csv"'},
    )


def _report(request: ConsoleRequest, tenant: Tenant) -> tuple[PeriodForm, residency.Report]:
    """The report of the days asked for; of the last thirty where these are none."""
    today = datetime.now(UTC).date()
    usual = {"start": today - timedelta(days=29), "end": today}
    asked = PeriodForm({name: request.GET.get(name, usual[name].isoformat()) for name in usual})
    days = asked.cleaned_data if asked.is_valid() else usual
    now = timezone.now()

    def report_of(days: dict[str, Any]) -> residency.Report:
        return residency.report(
            tenant=tenant,
            start=datetime.combine(days["start"], time(), UTC),
            end=datetime.combine(days["end"] + timedelta(days=1), time(), UTC),
            now=now,
            kept_in=settings.TOLLHOUSE_REGION,
        )

    try:
        return asked, report_of(days)
    except (ApiError, OverflowError) as error:
        asked.add_error("end", error.message if isinstance(error, ApiError) else "There is no such day.")
        return asked, report_of(usual)
