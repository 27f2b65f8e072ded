"""Console pages of the top room: homes with live usage, tenants with their plans, prices, the request log.

Views read input, make one call and shape the answer; no rule lives here. What a provider charges is shown
only to principals with `cost:read`.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from django import forms
from django.conf import settings
from django.contrib import messages
from django.db.models import Q
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone

from billing import subscriptions
from billing.models import Plan
from gateway import dashboards
from gateway.catalogue import priced_models
from gateway.content import read
from gateway.logs import search as logs
from gateway.models import RequestLog
from gateway.navigation import frame_of, theme_of
from tenants import audit, lifecycle
from tenants.console import (
    ConsoleRequest,
    add_refusal,
    page_of,
    platform_room,
    signed_in_room,
    tenant_room,
    uuid_or_none,
    words_of,
    zone_of,
)
from tenants.errors import ApiError
from tenants.models import ApiKey, Tenant
from tenants.people_views import zone_choices

REQUEST_PERIODS = (
    ("15m", "15 minutes", 15),
    ("1h", "1 hour", 60),
    ("24h", "24 hours", 1440),
    ("7d", "7 days", 10080),
)
STATUS_CHOICES = (
    ("ok", "Succeeded"),
    ("error", "Failed"),
    ("4xx", "4xx"),
    ("5xx", "5xx"),
    ("cancelled", "Client left"),
)
REQUESTS_PER_PAGE = 50


def navigation(request: HttpRequest) -> dict[str, Any]:
    """Template context of every page: the frame around it and the chosen theme."""
    return {"frame": frame_of(request), "theme": theme_of(request)}


# ------------------------------------------------------------------ homes


@signed_in_room
def home(request: ConsoleRequest) -> HttpResponse:
    """The way in: operators to the platform, members to their first workspace, others to their account."""
    if request.principal.is_operator:
        return redirect("platform_home")
    tenant = Tenant.objects.visible_to(request.principal, "tenants:read").order_by("name").first()
    return redirect("tenant_home", tenant.slug) if tenant else redirect("account")


def _usage(request: ConsoleRequest, tenant_ids: frozenset[UUID] | None) -> dict[str, Any]:
    tenant = request.tenant
    zone = zone_of(request.user)
    now = timezone.now()
    period = dashboards.period_of(request.GET.get("period", ""))
    with_cost = request.principal.can("cost:read", tenant.id if tenant else None)
    live_url = reverse("tenant_live", args=(tenant.slug,)) if tenant else reverse("platform_live")
    overview = dashboards.overview(
        tenant_ids=tenant_ids, period=period, now=now, timezone=zone.key, with_cost=with_cost
    )
    return {
        "overview": overview,
        "live": dashboards.live_series(tenant_ids=tenant_ids, now=now),
        "zone": zone.key,
        "live_url": f"{live_url}?period={period.slug}",
        "tabs": [(each.label, f"?period={each.slug}", each is period) for each in dashboards.PERIODS],
    }


@platform_room("usage:read")
def platform_home(request: ConsoleRequest) -> HttpResponse:
    """Everything that runs through the house, and what is wrong right now."""
    context = _usage(request, None) | {"errors": _errors(request, None)}
    return render(request, "gateway/home.html", context)


@platform_room("usage:read")
def platform_live(request: ConsoleRequest) -> HttpResponse:
    """The moving parts of the home page, for its poll."""
    return render(request, "gateway/live.html", _usage(request, None) | {"is_swap": True})


@tenant_room("usage:read")
def tenant_home(request: ConsoleRequest, tenant: Tenant) -> HttpResponse:
    """One tenant's usage; before its first call, the way there."""
    tenant_ids = frozenset((tenant.id,))
    if not logs.was_ever_called(tenant_ids=tenant_ids):
        has_key = ApiKey.objects.for_tenant(tenant).filter(revoked_at__isnull=True).exists()
        snippets = dashboards.first_call(tenant=tenant, base_url=f"{settings.PUBLIC_URL}/v1")
        return render(request, "gateway/onboarding.html", {"has_key": has_key, "snippets": snippets})
    context = _usage(request, tenant_ids) | {"errors": _errors(request, tenant)}
    return render(request, "gateway/home.html", context)


@tenant_room("usage:read")
def tenant_live(request: ConsoleRequest, tenant: Tenant) -> HttpResponse:
    """The moving parts of the home page. `?waiting`: reload the page once the first call has arrived."""
    tenant_ids = frozenset((tenant.id,))
    if "waiting" in request.GET:
        response = HttpResponse(status=204)
        if logs.was_ever_called(tenant_ids=tenant_ids):
            response["HX-Refresh"] = "true"
        return response
    return render(request, "gateway/live.html", _usage(request, tenant_ids) | {"is_swap": True})


@tenant_room("keys:read")
def tenant_first_call(request: ConsoleRequest, tenant: Tenant) -> HttpResponse:
    """Snippets that work with this tenant's keys, as a fragment."""
    snippets = dashboards.first_call(tenant=tenant, base_url=f"{settings.PUBLIC_URL}/v1")
    return render(request, "gateway/snippets.html", {"snippets": snippets})


def _errors(request: ConsoleRequest, tenant: Tenant | None) -> Sequence[RequestLog]:
    if not request.principal.can("requests:read", tenant.id if tenant else None):
        return ()
    return logs.recent_errors(
        tenant_ids=frozenset((tenant.id,)) if tenant else None,
        now=timezone.now(),
        within=timedelta(days=1),
        size=8,
    )


# ------------------------------------------------------------------ the request log


class StatusSelect(forms.Select):
    """The usual states, and whatever error code a link has put into the address."""

    def optgroups(self, name: str, value: list[str], attrs: dict[str, Any] | None = None) -> list[Any]:
        known = {str(choice) for choice, _ in self.choices}
        extra = [(code, code) for code in value if code not in known]
        self.choices = [*self.choices, *extra]
        return super().optgroups(name, value, attrs)


class RequestFilterForm(forms.Form):
    """The filter bar; every value lives in the address."""

    tenant = forms.CharField(
        required=False, widget=forms.TextInput(attrs={"placeholder": "any", "spellcheck": "false"})
    )
    model = forms.CharField(
        required=False, widget=forms.TextInput(attrs={"placeholder": "any", "spellcheck": "false"})
    )
    provider = forms.CharField(
        required=False, widget=forms.TextInput(attrs={"placeholder": "any", "spellcheck": "false"})
    )
    status = forms.CharField(required=False, widget=StatusSelect(choices=(("", "any"), *STATUS_CHOICES)))
    period = forms.ChoiceField(required=False, choices=[(slug, label) for slug, label, _ in REQUEST_PERIODS])
    key = forms.UUIDField(required=False, widget=forms.HiddenInput)
    id = forms.CharField(
        label="Request id",
        required=False,
        widget=forms.TextInput(attrs={"placeholder": "find one", "spellcheck": "false"}),
    )


@platform_room("requests:read")
def platform_requests(request: ConsoleRequest) -> HttpResponse:
    """Every tenant's calls."""
    return _requests(request, None)


@tenant_room("requests:read")
def tenant_requests(request: ConsoleRequest, tenant: Tenant) -> HttpResponse:
    """One tenant's calls."""
    return _requests(request, tenant)


def _requests(request: ConsoleRequest, tenant: Tenant | None) -> HttpResponse:
    form = RequestFilterForm({"period": "24h", **request.GET.dict()})
    if tenant is not None:
        del form.fields["tenant"]
    form.is_valid()  # a wrong filter is shown beside its field and filters nothing
    data = form.cleaned_data
    detail = "tenant_request" if tenant else "platform_request"
    wanted = uuid_or_none(data.get("id", ""))
    if wanted is not None:
        return redirect(detail, *([tenant.slug] if tenant else []), wanted)
    if data.get("id"):
        form.add_error("id", "Not a request id.")
    tenant_ids = frozenset((tenant.id,)) if tenant else _tenant_ids(data.get("tenant", ""))
    minutes = {slug: minutes for slug, _, minutes in REQUEST_PERIODS}.get(data.get("period", ""), 1440)
    now = timezone.now()
    status = data.get("status", "")
    found = logs.search(
        filters=logs.Filters(
            tenant_ids=tenant_ids,
            start=now - timedelta(minutes=minutes),
            end=now + timedelta(minutes=1),  # clocks of other hosts may be ahead
            model=data.get("model", "").strip(),
            provider=data.get("provider", "").strip(),
            status=status,
            api_key_id=data.get("key"),
        ),
        cursor=uuid_or_none(request.GET.get("cursor", "")),
        size=REQUESTS_PER_PAGE,
    )
    key = (
        ApiKey.objects.visible_to(request.principal, "keys:read").filter(pk=data["key"]).first()
        if data.get("key")
        else None
    )
    context = {
        "form": form,
        "page": found,
        "key": key,
        "with_cost": request.principal.can("cost:read", tenant.id if tenant else None),
        "is_filtered": any(data.get(name) for name in ("tenant", "model", "provider", "status", "key")),
        "list_url": request.path,
    }
    template = (
        "gateway/request_rows.html" if request.headers.get("HX-Request") else "gateway/request_list.html"
    )
    return render(request, template, context)


def _tenant_ids(text: str) -> frozenset[UUID] | None:
    text = text.strip()
    if not text:
        return None
    return frozenset(Tenant.objects.filter(Q(slug=text) | Q(name__iexact=text)).values_list("id", flat=True))


@platform_room("requests:read")
def platform_request(request: ConsoleRequest, request_id: UUID) -> HttpResponse:
    """One call of any tenant."""
    return _request(request, None, request_id)


@tenant_room("requests:read")
def tenant_request(request: ConsoleRequest, tenant: Tenant, request_id: UUID) -> HttpResponse:
    """One call of this tenant."""
    return _request(request, tenant, request_id)


@platform_room(write=read.SCOPE)
def platform_request_content(request: ConsoleRequest, request_id: UUID) -> HttpResponse:
    """What a call said, for the operator's staff who say why they look."""
    return _content(request, None, request_id)


@tenant_room(write=read.SCOPE)
def tenant_request_content(request: ConsoleRequest, tenant: Tenant, request_id: UUID) -> HttpResponse:
    """What a call of this tenant said."""
    return _content(request, tenant, request_id)


def _content(request: ConsoleRequest, tenant: Tenant | None, request_id: UUID) -> HttpResponse:
    log = logs.find(request_id, tenant_ids=frozenset((tenant.id,)) if tenant else None)
    if log is None:
        raise Http404
    try:
        content = read.read(
            request_id=request_id,
            tenant=log.tenant,
            principal=request.principal,
            reason=audit.reason_typed(request),
        )
    except ApiError as error:
        messages.error(request, error.message)
        content = None
    else:
        if content is None:
            messages.error(request, "What this call said is not kept any more.")
    if content is None:
        return redirect(
            "tenant_request" if tenant else "platform_request", *([tenant.slug] if tenant else []), request_id
        )
    return _request(request, tenant, request_id, content=content)


def _request(
    request: ConsoleRequest,
    tenant: Tenant | None,
    request_id: UUID,
    *,
    content: read.Content | None = None,
) -> HttpResponse:
    log = logs.find(request_id, tenant_ids=frozenset((tenant.id,)) if tenant else None)
    if log is None:
        raise Http404
    tenant_id = tenant.id if tenant else None
    key = ApiKey.objects.visible_to(request.principal, "keys:read").filter(pk=log.api_key_id).first()
    spans = logs.spans_of(log)
    context = {
        "log": log,
        "spans": spans,
        "key": key,
        "with_cost": request.principal.can("cost:read", tenant_id),
        "tags": sorted(log.tags.items()),
        "kept": log.route.get("kept", ()),
        "dropped": log.route.get("dropped", ()),
        "strategy": log.route.get("strategy", ""),
        "headers": logs.headers_of(log),
        "content": content,
        "is_kept": content is not None or read.is_kept(request_id, tenant=log.tenant),
        "may_read_content": request.principal.can(read.SCOPE, log.tenant_id),
        "needs_reason": log.tenant_id not in request.principal.tenant_scopes,
        "content_url": reverse("tenant_request_content", args=(tenant.slug, request_id))
        if tenant
        else reverse("platform_request_content", args=(request_id,)),
        "list_url": reverse("tenant_requests", args=(tenant.slug,))
        if tenant
        else reverse("platform_requests"),
    }
    return render(request, "gateway/request_detail.html", context)


# ------------------------------------------------------------------ tenants and their plans


def plan_choices() -> list[tuple[str, str]]:
    """Every plan by name, and the default one for tenants without a choice."""
    return [("", "Default plan"), *Plan.objects.values_list("slug", "name")]


class TenantForm(forms.Form):
    """A tenant's own data; `slug` only while it is being made."""

    name = forms.CharField(max_length=200)
    slug = forms.SlugField(max_length=63, help_text="Stands in addresses and headers, and never changes.")
    plan = forms.ChoiceField(required=False, choices=plan_choices)
    timezone = forms.ChoiceField(
        label="Time zone",
        choices=zone_choices,
        initial="UTC",
        help_text="Its days, budgets and invoices begin in it.",
    )
    currency = forms.CharField(
        max_length=3, min_length=3, initial="USD", help_text="ISO 4217, e.g. USD or EUR."
    )
    region_policy = forms.CharField(
        label="Regions",
        required=False,
        widget=forms.TextInput(attrs={"placeholder": "eu, us", "spellcheck": "false"}),
        help_text="Where its data may go. Empty: everywhere.",
    )

    def clean_currency(self) -> str:
        return str(self.cleaned_data["currency"]).upper()

    def clean_region_policy(self) -> list[str]:
        return words_of(self.cleaned_data["region_policy"])


@platform_room("tenants:read")
def tenant_list(request: ConsoleRequest) -> HttpResponse:
    """Every tenant: plan, state, what it used in the last 30 days."""
    rows = Tenant.objects.visible_to(request.principal, "tenants:read")
    text = request.GET.get("q", "").strip()
    if text:
        rows = rows.filter(Q(name__icontains=text) | Q(slug__icontains=text))
    status = request.GET.get("status", "")
    if status in Tenant.Status.values:
        rows = rows.filter(status=status)
    page = page_of(rows, cursor=request.GET.get("cursor", ""))
    context = {
        "page": page,
        "tenants": dashboards.tenant_rows(page.rows, now=timezone.now()),
        "q": text,
        "status": status,
        "statuses": Tenant.Status.choices,
    }
    return render(request, "gateway/tenant_list.html", context)


@platform_room("tenants:write", write="tenants:write")
def tenant_create(request: ConsoleRequest) -> HttpResponse:
    """A new tenant, on a plan if one is chosen."""
    form = TenantForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        data = form.cleaned_data
        try:
            tenant = dashboards.open_tenant_on_plan(
                slug=data["slug"],
                name=data["name"],
                timezone=data["timezone"],
                currency=data["currency"],
                region_policy=data["region_policy"],
                plan_slug=data["plan"],
                actor=request.principal,
                now=timezone.now(),
            )
        except ApiError as error:
            add_refusal(form, error)
        else:
            messages.success(request, f"{tenant.name} is open. Add its first member next.")
            return redirect("member_list", tenant.slug)
    return render(request, "gateway/tenant_create.html", {"form": form}, status=422 if form.is_bound else 200)


@tenant_room("tenants:read", write="tenants:write")
def tenant_settings(request: ConsoleRequest, tenant: Tenant) -> HttpResponse:
    """What the tenant is, what it is sold, whether it is open."""
    initial = {
        "name": tenant.name,
        "timezone": tenant.timezone,
        "currency": tenant.currency,
        "region_policy": ", ".join(tenant.region_policy),
    }
    form = TenantForm(request.POST or None, initial=initial)
    del form.fields["slug"], form.fields["plan"]
    if request.method == "POST" and form.is_valid():
        try:
            lifecycle.change_tenant(tenant=tenant, changes=form.cleaned_data, actor=request.principal)
        except ApiError as error:
            add_refusal(form, error)
        else:
            messages.success(request, "Saved.")
            return redirect("tenant_settings", tenant.slug)
    context = {"form": form, "terms": dashboards.terms_shown(tenant), "plans": Plan.objects.all()}
    return render(request, "gateway/tenant_settings.html", context, status=422 if form.is_bound else 200)


@tenant_room(write="plans:write")
def tenant_plan(request: ConsoleRequest, tenant: Tenant) -> HttpResponse:
    """Put the tenant on a plan from now on."""
    plan = Plan.objects.filter(slug=request.POST.get("plan", "")).first()
    if plan is None:
        messages.error(request, "Choose a plan.")
        return redirect("tenant_settings", tenant.slug)
    try:
        subscriptions.change_plan(tenant=tenant, plan=plan, at=timezone.now(), actor=request.principal)
    except ApiError as error:
        messages.error(request, error.message)
    else:
        messages.success(request, f"{tenant.name} is on {plan.name} from now on.")
    return redirect("tenant_settings", tenant.slug)


@tenant_room(write="tenants:write")
def tenant_status(request: ConsoleRequest, tenant: Tenant) -> HttpResponse:
    """Suspend the tenant, its slug typed to confirm, or activate it."""
    if request.POST.get("action") == "activate":
        lifecycle.activate(tenant=tenant, actor=request.principal)
        messages.success(request, f"{tenant.name} is active again.")
    elif request.POST.get("confirm", "").strip() != tenant.slug:
        messages.error(request, "The slug did not match. The tenant was not suspended.")
    else:
        lifecycle.suspend(tenant=tenant, actor=request.principal)
        messages.success(request, f"{tenant.name} is suspended. Its keys are refused from now on.")
    return redirect("tenant_settings", tenant.slug)


# ------------------------------------------------------------------ models as a tenant sees them


@tenant_room("models:read")
def tenant_models(request: ConsoleRequest, tenant: Tenant) -> HttpResponse:
    """What the tenant may call, and what it pays."""
    text = request.GET.get("q", "").strip()
    context = {"models": priced_models(tenant=tenant, text=text, now=timezone.now()), "q": text}
    return render(request, "gateway/tenant_models.html", context)
