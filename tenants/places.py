"""Pages that exist twice: on the platform over all tenants, and inside one tenant.

One function serves both; the place decides whose rows there are and which scope is asked where.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Concatenate

from django.http import HttpResponse
from django.urls import URLPattern, path, reverse

from tenants.console import ConsoleRequest, ConsoleView, platform_room, tenant_room
from tenants.models import Tenant

type View[**P] = Callable[Concatenate[ConsoleRequest, P], HttpResponse]


@dataclass(frozen=True, slots=True)
class Rooms:
    """A view as the platform's room and as a tenant's."""

    platform: ConsoleView
    tenant: ConsoleView


def both_rooms[**P](read: str | None = None, *, write: str | None = None) -> Callable[[View[P]], Rooms]:
    """Make one view two rooms with the same scopes. It finds its place in `request.tenant`."""

    def decorate(view: View[P]) -> Rooms:
        def in_tenant(
            request: ConsoleRequest, tenant: Tenant, /, *args: P.args, **kwargs: P.kwargs
        ) -> HttpResponse:
            return view(request, *args, **kwargs)  # `tenant` is request.tenant

        return Rooms(
            platform=platform_room(read, write=write)(view), tenant=tenant_room(read, write=write)(in_tenant)
        )

    return decorate


def both(route: str, rooms: Rooms, name: str) -> tuple[URLPattern, URLPattern]:
    """The two paths of a view: /platform/… named `name`, /t/<tenant>/… named `tenant_<name>`."""
    return (
        path(f"platform/{route}", rooms.platform, name=name),
        path(f"t/<slug:tenant_slug>/{route}", rooms.tenant, name=f"tenant_{name}"),
    )


def here(request: ConsoleRequest, name: str, **kwargs: Any) -> str:
    """The address of a page of both places, in the place of this request."""
    if request.tenant is None:
        return reverse(name, kwargs=kwargs)
    return reverse(f"tenant_{name}", kwargs={"tenant_slug": request.tenant.slug, **kwargs})
