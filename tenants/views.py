"""Console pages about API keys: one tenant's, and for operators everybody's.

Each view calls one verb or one query. A key's text leaves this module once, in the answer to the POST that
made it, and is kept nowhere.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta
from typing import cast
from urllib.parse import quote
from uuid import UUID

from django import forms
from django.conf import settings
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone

from tenants import keys
from tenants.console import (
    ConsoleRequest,
    add_refusal,
    page_of,
    platform_room,
    tenant_room,
    uuid_or_none,
    words_of,
)
from tenants.errors import ApiError
from tenants.models import ApiKey, OwnedQuerySet, Tenant
from tenants.principal import Principal
from tenants.scopes import SCOPES, grants

DAY_S = 24 * 3600
GRACE_CHOICES = (
    (0, "At once: the old key stops now"),
    (3600, "1 hour"),
    (DAY_S, "1 day"),
    (7 * DAY_S, "7 days"),
    (30 * DAY_S, "30 days"),
)
EXPIRY_CHOICES = (
    ("", "Never"),
    ("30", "In 30 days"),
    ("90", "In 90 days"),
    ("365", "In a year"),
    ("on", "On a date"),
)
CALL_SCOPES = ("inference:chat", "inference:completions", "inference:embeddings", "models:read")
SHOWN = (
    ("", "In use"),
    ("mine", "Mine"),
    ("unused", "Unused for 30 days"),
    ("unused-90", "Unused for 90 days"),
    ("expiring", "Ending within 7 days"),
    ("all", "All, with revoked ones"),
)


# ------------------------------------------------------------------ forms


class RightsForm(forms.Form):
    """What a key may do. Offers only scopes that the person holds."""

    name = forms.CharField(max_length=100, help_text="Where it will be used, e.g. “Production backend”.")
    call_scopes = forms.MultipleChoiceField(
        label="Calls", required=False, widget=forms.CheckboxSelectMultiple, initial=CALL_SCOPES
    )
    manage_scopes = forms.MultipleChoiceField(
        label="Management", required=False, widget=forms.CheckboxSelectMultiple
    )
    allowed_models = forms.CharField(
        label="Models",
        required=False,
        widget=forms.Textarea(
            attrs={"rows": 3, "placeholder": "gpt-4o-mini\npolicy:cost-optimized", "spellcheck": "false"}
        ),
        help_text="One per line. Empty: every model of the plan.",
    )
    allowed_ips = forms.CharField(
        label="Addresses",
        required=False,
        widget=forms.Textarea(attrs={"rows": 2, "placeholder": "203.0.113.0/24", "spellcheck": "false"}),
        help_text="CIDR ranges that may use the key, one per line. Empty: from everywhere.",
    )
    limit_rpm = forms.IntegerField(
        label="Requests per minute", required=False, min_value=1, max_value=2**31 - 1
    )
    limit_tpm = forms.IntegerField(
        label="Tokens per minute", required=False, min_value=1, max_value=2**63 - 1
    )
    max_concurrent = forms.IntegerField(
        label="At the same time", required=False, min_value=1, max_value=2**31 - 1
    )
    expiry = forms.ChoiceField(label="Expires", choices=EXPIRY_CHOICES, required=False)
    expires_on = forms.DateField(
        label="Date",
        required=False,
        widget=forms.DateInput(attrs={"type": "date"}, format="%Y-%m-%d"),
        help_text="The key works until the end of this day.",
    )

    def __init__(self, *args: object, principal: Principal, tenant: Tenant, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]  # Django's own positional data and files
        offered = [(scope, words) for scope, words in SCOPES.items() if principal.can(scope, tenant.id)]
        calls = cast("forms.MultipleChoiceField", self.fields["call_scopes"])
        manage = cast("forms.MultipleChoiceField", self.fields["manage_scopes"])
        calls.choices = [(scope, words) for scope, words in offered if scope in CALL_SCOPES]
        manage.choices = [
            (scope, words) for scope, words in offered if scope not in CALL_SCOPES and scope != "tenants:act"
        ]

    def clean(self) -> None:
        super().clean()
        data = self.cleaned_data
        if not (data.get("call_scopes") or data.get("manage_scopes")):
            self.add_error("call_scopes", "Choose at least one thing the key may do.")
        if data.get("expiry") == "on" and not data.get("expires_on"):
            self.add_error("expires_on", "Choose the date.")
        expires_at = self.expires_at(timezone.now()) if not self.errors else None
        if expires_at is not None and expires_at <= timezone.now():
            self.add_error("expires_on", "This day is over.")

    def expires_at(self, now: datetime) -> datetime | None:
        """When the key ends, in UTC; a date means its last instant in the reader's zone."""
        choice = self.cleaned_data["expiry"]
        if choice == "on":
            day = self.cleaned_data["expires_on"] + timedelta(days=1)
            return datetime.combine(day, time.min, timezone.get_current_timezone()).astimezone(UTC)
        return now + timedelta(days=int(choice)) if choice else None

    def rights(self, now: datetime) -> dict[str, object]:
        """As `keys.issue` and `keys.change` take them."""
        data = self.cleaned_data
        return {
            "name": data["name"],
            "scopes": [*data["call_scopes"], *data["manage_scopes"]],
            "allowed_models": words_of(data["allowed_models"]),
            "allowed_ips": words_of(data["allowed_ips"]),
            "limit_rpm": data["limit_rpm"],
            "limit_tpm": data["limit_tpm"],
            "max_concurrent": data["max_concurrent"],
            "expires_at": self.expires_at(now),
        }


class ChangeForm(RightsForm):
    """A key as it is, to be changed. A wildcard of an older key is shown as the scopes it stands for."""

    expiry = forms.ChoiceField(
        label="Expires", choices=(("keep", "As it is"), *EXPIRY_CHOICES), required=False, initial="keep"
    )

    def __init__(
        self, data: object, *, key: ApiKey, principal: Principal, tenant: Tenant, now: datetime
    ) -> None:
        self.key = key
        held = [scope for scope in SCOPES if grants(key.scopes, scope)]
        initial = {
            "name": key.name,
            "call_scopes": [scope for scope in held if scope in CALL_SCOPES],
            "manage_scopes": [scope for scope in held if scope not in CALL_SCOPES],
            "allowed_models": "\n".join(key.allowed_models),
            "allowed_ips": "\n".join(key.allowed_ips),
            "limit_rpm": key.limit_rpm,
            "limit_tpm": key.limit_tpm,
            "max_concurrent": key.max_concurrent,
        }
        super().__init__(data, initial=initial, principal=principal, tenant=tenant)

    def expires_at(self, now: datetime) -> datetime | None:
        """As chosen; "keep" is what it was."""
        return self.key.expires_at if self.cleaned_data["expiry"] == "keep" else super().expires_at(now)

    def changes(self, now: datetime) -> dict[str, object]:
        """What differs from the key as it is."""
        rights = self.rights(now)
        if not {"call_scopes", "manage_scopes"} & set(self.changed_data):
            del rights["scopes"]
        if self.cleaned_data["expiry"] == "keep":
            del rights["expires_at"]
        return {name: value for name, value in rights.items() if value != getattr(self.key, name)}


class RotateForm(forms.Form):
    grace_s = forms.TypedChoiceField(
        label="Keep the old key working for", choices=GRACE_CHOICES, coerce=int, initial=DAY_S
    )


class LeakForm(forms.Form):
    reason = forms.CharField(
        label="Where it was seen",
        max_length=500,
        widget=forms.TextInput(attrs={"placeholder": "e.g. a public repository, a log file"}),
        help_text="Stands in the audit trail and in the mail to owners and admins.",
    )
    is_replaced = forms.BooleanField(
        label="Make a new key with the same rights", required=False, initial=True
    )


def state_of(key: ApiKey, now: datetime) -> str:
    """active, expiring (ends within seven days), expired, leaked or revoked."""
    if key.leaked_at is not None:
        return "leaked"
    if key.revoked_at is not None:
        return "revoked"
    if key.expires_at is not None and key.expires_at <= now:
        return "expired"
    if key.expires_at is not None and key.expires_at <= now + keys.EXPIRES_SOON:
        return "expiring"
    return "active"


def _shown(rows: OwnedQuerySet[ApiKey], show: str, *, principal: Principal) -> OwnedQuerySet[ApiKey]:
    now = timezone.now()
    match show:
        case "all":
            return rows
        case "mine":
            return rows.filter(revoked_at__isnull=True, created_by=principal.label)
        case "unused":
            return keys.unused(rows, days=30, now=now)
        case "unused-90":
            return keys.unused(rows, days=90, now=now)
        case "expiring":
            return keys.expiring(rows, days=keys.EXPIRES_SOON.days, now=now)
        case _:
            return rows.filter(revoked_at__isnull=True)


# ------------------------------------------------------------------ lists


@tenant_room("keys:read")
def key_list(request: ConsoleRequest, tenant: Tenant) -> HttpResponse:
    """The tenant's keys, newest first; those that show what is asked for."""
    rows = ApiKey.objects.for_tenant(tenant).visible_to(request.principal, "keys:read")
    return _list(request, rows.select_related("tenant"), template="tenants/key_list.html")


@platform_room("keys:read")
def platform_key_list(request: ConsoleRequest) -> HttpResponse:
    """Everybody's keys, and the operator's own."""
    rows = ApiKey.objects.visible_to(request.principal, "keys:read").select_related("tenant")
    return _list(request, rows, template="tenants/platform_key_list.html")


def _list(request: ConsoleRequest, rows: OwnedQuerySet[ApiKey], *, template: str) -> HttpResponse:
    show = request.GET.get("show", "")
    page = page_of(_shown(rows, show, principal=request.principal), cursor=request.GET.get("cursor", ""))
    now = timezone.now()
    context = {
        "page": page,
        "keys": [(key, state_of(key, now)) for key in page.rows],
        "show": show,
        "shown": SHOWN,
        "rotate_form": RotateForm(),
    }
    return render(request, template, context)


@tenant_room(write="keys:write")
def key_bulk(request: ConsoleRequest, tenant: Tenant) -> HttpResponse:
    """Rotate or revoke the keys that were ticked, all or none of them."""
    rows = ApiKey.objects.for_tenant(tenant).visible_to(request.principal, "keys:write")
    return _bulk(request, rows, tenant=tenant)


@platform_room(write="keys:write")
def platform_key_bulk(request: ConsoleRequest) -> HttpResponse:
    """The same, over everybody's."""
    rows = ApiKey.objects.visible_to(request.principal, "keys:write").select_related("tenant")
    return _bulk(request, rows, tenant=None)


def _bulk(request: ConsoleRequest, rows: OwnedQuerySet[ApiKey], *, tenant: Tenant | None) -> HttpResponse:
    back = redirect("key_list", tenant.slug) if tenant else redirect("platform_key_list")
    ids = {found for text in request.POST.getlist("keys") if (found := uuid_or_none(text))}
    chosen = list(rows.filter(pk__in=ids))
    now = timezone.now()
    form = RotateForm(request.POST)
    try:
        if request.POST.get("action") == "revoke":
            keys.revoke_many(keys=chosen, actor=request.principal, now=now)
            messages.success(request, f"{len(chosen)} revoked. Calls with them are refused from now on.")
            return back
        if not form.is_valid():
            raise ApiError("invalid_request", "Choose how long the old keys go on.")
        issued = keys.rotate_many(
            keys=chosen, grace_s=form.cleaned_data["grace_s"], actor=request.principal, now=now
        )
    except ApiError as error:
        messages.error(request, error.message if chosen else "Tick the keys first.")
        return back
    return _show_list_once(request, issued, grace_s=form.cleaned_data["grace_s"])


def _show_list_once(request: ConsoleRequest, issued: Sequence[keys.Issued], *, grace_s: int) -> HttpResponse:
    lines = [
        "\t".join((each.key.tenant.slug if each.key.tenant else "platform", each.key.name, each.text))
        for each in issued
    ]
    text = "\n".join(lines)
    context = {
        "text": text,
        "count": len(issued),
        "download": f"data:text/plain;charset=utf-8,{quote(text + '\n', safe='')}",
        "ends_at": timezone.now() + timedelta(seconds=grace_s) if grace_s else None,
    }
    return render(request, "tenants/keys_created.html", context)


# ------------------------------------------------------------------ one key


@tenant_room("keys:write", write="keys:write")
def key_create(request: ConsoleRequest, tenant: Tenant) -> HttpResponse:
    """The form, and on success the page that shows the text this once."""
    form = RightsForm(request.POST or None, principal=request.principal, tenant=tenant)
    if request.method == "POST" and form.is_valid():
        try:
            rights = form.rights(timezone.now())
            issued = keys.issue(tenant=tenant, actor=request.principal, **rights)  # type: ignore[arg-type]
        except ApiError as error:
            add_refusal(form, error)
        else:
            return show_once(request, issued)
    status = 422 if form.is_bound else 200
    return render(request, "tenants/key_create.html", {"form": form}, status=status)


def show_once(
    request: ConsoleRequest, issued: keys.Issued, *, replaced: ApiKey | None = None
) -> HttpResponse:
    """The page with a key's text, which exists only in this answer."""
    context = {
        "key": issued.key,
        "text": issued.text,
        "replaced": replaced,
        "base_url": f"{settings.PUBLIC_URL}/v1",
    }
    return render(request, "tenants/key_created.html", context)


def key_of(request: ConsoleRequest, tenant: Tenant, key_id: UUID, scope: str) -> ApiKey:
    """The tenant's key. Raises Http404 for any other."""
    rows = ApiKey.objects.for_tenant(tenant).visible_to(request.principal, scope)
    return get_object_or_404(rows.select_related("replaced_by", "replaces"), pk=key_id)


@tenant_room("keys:read")
def key_detail(request: ConsoleRequest, tenant: Tenant, key_id: UUID) -> HttpResponse:
    """What the key may do, and what is to be done with it."""
    key = key_of(request, tenant, key_id, "keys:read")
    context = {
        "key": key,
        "state": state_of(key, timezone.now()),
        "rotate_form": RotateForm(),
        "leak_form": LeakForm(),
    }
    return render(request, "tenants/key_detail.html", context)


@tenant_room("keys:write", write="keys:write")
def key_edit(request: ConsoleRequest, tenant: Tenant, key_id: UUID) -> HttpResponse:
    """Change what the key may do; its text stays."""
    key = key_of(request, tenant, key_id, "keys:write")
    now = timezone.now()
    form = ChangeForm(request.POST or None, key=key, principal=request.principal, tenant=tenant, now=now)
    if request.method == "POST" and form.is_valid():
        try:
            keys.change(key=key, changes=form.changes(now), actor=request.principal, now=now)
        except ApiError as error:
            add_refusal(form, error)
        else:
            messages.success(request, f"{form.cleaned_data['name']} is changed, for calls from now on.")
            return redirect("key_detail", tenant.slug, key.id)
    status = 422 if form.is_bound else 200
    return render(request, "tenants/key_edit.html", {"form": form, "key": key}, status=status)


@tenant_room(write="keys:write")
def key_rotate(request: ConsoleRequest, tenant: Tenant, key_id: UUID) -> HttpResponse:
    """Replace the key; the old one goes on for the chosen grace."""
    key = key_of(request, tenant, key_id, "keys:write")
    form = RotateForm(request.POST)
    if form.is_valid():
        try:
            issued = keys.rotate(
                key=key, grace_s=form.cleaned_data["grace_s"], actor=request.principal, now=timezone.now()
            )
        except ApiError as error:
            messages.error(request, error.message)
        else:
            key.refresh_from_db()
            return show_once(request, issued, replaced=key)
    return redirect("key_detail", tenant.slug, key.id)


@tenant_room(write="keys:write")
def key_revoke(request: ConsoleRequest, tenant: Tenant, key_id: UUID) -> HttpResponse:
    """Stop the key for good; the person has typed its name."""
    key = key_of(request, tenant, key_id, "keys:write")
    if request.POST.get("confirm", "").strip() != key.name:
        messages.error(request, "The name did not match. The key was not revoked.")
    else:
        keys.revoke(key=key, actor=request.principal, now=timezone.now())
        messages.success(request, f"{key.name} is revoked. Calls with it are refused from now on.")
    return redirect("key_detail", tenant.slug, key.id)
