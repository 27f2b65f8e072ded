"""The console page about the keys that seal stored secrets: where rotations stand, and a new data key."""

from django import forms
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone

from tenants import resealing
from tenants.console import ConsoleRequest, platform_room
from tenants.errors import ApiError
from tenants.models import Tenant


class DataKeyForm(forms.Form):
    tenant = forms.ModelChoiceField(
        Tenant.objects.order_by("name"),
        required=False,
        to_field_name="slug",
        label="Whose",
        empty_label="The operator's own",
        help_text="A new data key seals from now on; stored secrets move to it in the background.",
    )


@platform_room("credentials:read")
def encryption(request: ConsoleRequest) -> HttpResponse:
    """Data keys under older master keys, and values under retired data keys."""
    progress, refusal = None, ""
    try:
        progress = resealing.progress()
    except ApiError as error:
        refusal = error.message
    context = {"progress": progress, "refusal": refusal, "form": DataKeyForm()}
    return render(request, "tenants/encryption.html", context)


@platform_room(write="credentials:write")
def encryption_rotate(request: ConsoleRequest) -> HttpResponse:
    """Rotate one owner's data key."""
    form = DataKeyForm(request.POST)
    if not form.is_valid():
        messages.error(request, "There is no such workspace.")
        return redirect("encryption")
    tenant = form.cleaned_data["tenant"]
    try:
        fresh = resealing.rotate_data_key(tenant=tenant, actor=request.principal, now=timezone.now())
    except ApiError as error:
        messages.error(request, error.message)
    else:
        whose = tenant.name if tenant else "The operator"
        messages.success(request, f"{whose} seals with data key {fresh.version} from now on.")
    return redirect("encryption")
