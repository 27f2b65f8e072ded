"""The console's answer to a leaked key: one button stops it, tells people, and shows what it did."""

from functools import partial
from uuid import UUID

from django.conf import settings
from django.contrib import messages
from django.db import transaction
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone

from gateway import leaks
from gateway.tasks import tell_of_leak
from tenants import keys
from tenants.console import ConsoleRequest, tenant_room
from tenants.errors import ApiError
from tenants.models import Tenant
from tenants.views import LeakForm, key_of


@tenant_room(write="keys:write")
def key_leaked(request: ConsoleRequest, tenant: Tenant, key_id: UUID) -> HttpResponse:
    """Revoke, audit, tell, and show: what the key did, and the text of its replacement this once."""
    key = key_of(request, tenant, key_id, "keys:write")
    form = LeakForm(request.POST)
    if not form.is_valid():
        messages.error(request, "Say where it was seen. The key was not revoked.")
        return redirect("key_detail", tenant.slug, key.id)
    now = timezone.now()
    reason = form.cleaned_data["reason"]
    try:
        leak = keys.mark_leaked(
            key=key,
            reason=reason,
            actor=request.principal,
            now=now,
            is_replaced=form.cleaned_data["is_replaced"],
        )
    except ApiError as error:
        messages.error(request, error.message)
        return redirect("key_detail", tenant.slug, key.id)
    told = partial(tell_of_leak.delay, key_id=str(leak.key.id), reason=reason, by=request.principal.label)
    transaction.on_commit(
        told, robust=True
    )  # the page holds a text that comes once: it goes out whatever happens
    context = {
        "key": leak.key,
        "text": leak.replacement.text if leak.replacement else "",
        "traces": leaks.traces_of(key=leak.key, since=None, now=now),
        "base_url": f"{settings.PUBLIC_URL}/v1",
    }
    return render(request, "gateway/key_leaked.html", context)
