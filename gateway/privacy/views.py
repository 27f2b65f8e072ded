"""Console pages of data protection: profiles with a box to try them in, whose calls they rule, and the vault.

On the platform they show the operator's profiles, which are mandatory where they are bound; inside a tenant its own.
"""

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.db.models import Count, QuerySet
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone

from gateway.privacy import bindings
from gateway.privacy.forms import BindForm, Editor, TryForm
from gateway.privacy.models import PrivacyBinding, PrivacyProfile
from gateway.privacy.trial import tried
from tenants.console import ConsoleRequest, add_refusal
from tenants.errors import ApiError
from tenants.places import both_rooms, here

READ, WRITE = "privacy:read", "privacy:write"
GRACE_S = 24 * 3600


def _profiles(request: ConsoleRequest) -> QuerySet[PrivacyProfile]:
    """Those of this place."""
    return PrivacyProfile.objects.filter(tenant=request.tenant).select_related("tenant")


def _profile(request: ConsoleRequest, profile_id: UUID) -> PrivacyProfile:
    found: PrivacyProfile = get_object_or_404(_profiles(request), pk=profile_id)
    return found


@both_rooms(READ)
def privacy_list(request: ConsoleRequest) -> HttpResponse:
    """The profiles of this place, and in a tenant what the operator demands."""
    rows = _profiles(request).annotate(binding_count=Count("bindings")).order_by("slug")
    context = {
        "profiles": rows,
        "demanded": bindings.rules_of(request.tenant) if request.tenant is not None else (),
    }
    return render(request, "gateway/privacy_list.html", context)


@both_rooms(WRITE, write=WRITE)
def privacy_create(request: ConsoleRequest) -> HttpResponse:
    """A new profile."""
    editor = Editor(request.POST or None, None)
    if request.method == "POST" and editor.is_valid():
        try:
            profile = bindings.create_profile(
                slug=editor.form.cleaned_data["slug"],
                tenant=request.tenant,
                values=editor.values(),
                actor=request.principal,
            )
        except ApiError as error:
            editor.refuse(error)
        else:
            messages.success(request, "Saved. It rules no call yet: say below whose.")
            return redirect(here(request, "privacy_edit", profile_id=profile.pk))
    return _show(request, editor)


@both_rooms(WRITE, write=WRITE)
def privacy_edit(request: ConsoleRequest, profile_id: UUID) -> HttpResponse:
    """Change a profile, try it, bind it."""
    profile = _profile(request, profile_id)
    editor = Editor(request.POST or None, profile)
    if request.method == "POST" and editor.is_valid():
        try:
            bindings.change_profile(profile=profile, values=editor.values(), actor=request.principal)
        except ApiError as error:
            editor.refuse(error)
        else:
            messages.success(request, "Saved, and in force wherever it is bound.")
            return redirect(here(request, "privacy_edit", profile_id=profile.pk))
    return _show(request, editor)


def _show(
    request: ConsoleRequest,
    editor: Editor,
    *,
    trial: TryForm | None = None,
    told: dict[str, Any] | None = None,
    bind: BindForm | None = None,
) -> HttpResponse:
    profile = editor.profile
    is_refused = told is None and (editor.form.is_bound or (bind is not None and bind.is_bound))
    context = {
        "editor": editor,
        "form": editor.form,
        "profile": profile,
        "trial": trial or TryForm(prefix="try"),
        "told": told,
        "bind": bind or BindForm(tenant=request.tenant, prefix="bind"),
        "bindings": _bindings(profile) if profile is not None else (),
        "has_webhook": profile is not None and any(each["kind"] == "webhook" for each in profile.guardrails),
    }
    return render(request, "gateway/privacy_form.html", context, status=422 if is_refused else 200)


def _bindings(profile: PrivacyProfile) -> QuerySet[PrivacyBinding]:
    return PrivacyBinding.objects.filter(profile=profile).select_related("bound_tenant").order_by("id")


@both_rooms(write=WRITE)
def privacy_try(request: ConsoleRequest) -> HttpResponse:
    """What the profile in the editor, saved or not, makes of a text: a fragment for htmx, else the editor again."""
    chosen = request.POST.get("profile", "")
    profile = _profile(request, UUID(chosen)) if _is_uuid(chosen) else None
    editor, trial = Editor(request.POST, profile), TryForm(request.POST, prefix="try")
    told = None
    if profile is None and "slug" in editor.form.fields:
        editor.form.fields["slug"].required = False  # nothing is made here
    if all([editor.is_valid(), trial.is_valid()]):
        try:
            draft = bindings.draft(tenant=request.tenant, values=editor.values(), base=profile)
            told = tried(draft, trial.cleaned_data["text"])
        except ApiError as error:
            editor.refuse(error)
    if request.headers.get("HX-Request") != "true":
        return _show(request, editor, trial=trial, told=told)
    context = {"told": told, "form": editor.form, "editor": editor}
    return render(request, "gateway/privacy_tried.html", context)


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


@both_rooms(write=WRITE)
def privacy_remove(request: ConsoleRequest, profile_id: UUID) -> HttpResponse:
    """Forget a profile that rules nobody."""
    profile = _profile(request, profile_id)
    try:
        bindings.remove_profile(profile=profile, actor=request.principal)
    except ApiError as error:
        messages.error(request, error.message)
        return redirect(here(request, "privacy_edit", profile_id=profile.pk))
    messages.success(request, f"{profile.slug} is gone.")
    return redirect(here(request, "privacy_list"))


@both_rooms(write=WRITE)
def privacy_bind(request: ConsoleRequest, profile_id: UUID) -> HttpResponse:
    """Let it rule calls."""
    profile = _profile(request, profile_id)
    form = BindForm(request.POST, tenant=request.tenant, prefix="bind")
    if form.is_valid():
        try:
            bindings.bind(
                profile=profile,
                bound_tenant=request.tenant or form.cleaned_data["bound_tenant"],
                feature=form.cleaned_data["feature"],
                policy=form.cleaned_data["policy"],
                actor=request.principal,
            )
        except ApiError as error:
            add_refusal(form, error)
        else:
            messages.success(request, "It rules these calls from now on.")
            return redirect(here(request, "privacy_edit", profile_id=profile.pk))
    return _show(request, Editor(None, profile), bind=form)


@both_rooms(write=WRITE)
def privacy_unbind(request: ConsoleRequest, profile_id: UUID, privacy_binding_id: UUID) -> HttpResponse:
    """Let it rule these calls no longer."""
    row = get_object_or_404(
        PrivacyBinding.objects.filter(tenant=request.tenant).select_related(
            "profile", "bound_tenant", "tenant"
        ),
        pk=privacy_binding_id,
        profile=profile_id,
    )
    bindings.unbind(binding=row, actor=request.principal)
    messages.success(request, "It no longer rules these calls.")
    return redirect(here(request, "privacy_edit", profile_id=profile_id))


@both_rooms(write=WRITE)
def privacy_secret(request: ConsoleRequest, profile_id: UUID) -> HttpResponse:
    """A fresh signing secret for the profile's webhooks, shown this once."""
    profile = _profile(request, profile_id)
    secret = bindings.rotate_webhook_secret(
        profile=profile, grace_s=GRACE_S, now=timezone.now(), actor=request.principal
    )
    return render(request, "gateway/privacy_secret.html", {"profile": profile, "secret": secret})
