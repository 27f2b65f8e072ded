"""The frame of every console view: who may enter, in which tenant, in whose time zone, and how it is audited.

A view without one of the `*_room` decorators is no part of the console, and a test refuses it. Denied unless
the principal holds the declared scope; what a stranger may not see does not exist for them (404).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, Literal, Protocol, cast
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from django import forms
from django.contrib import messages
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.db import models
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.shortcuts import redirect
from django.utils import timezone
from django.utils.cache import add_never_cache_headers

from tenants import approvals, audit, isolation
from tenants.authentication import principal_of
from tenants.errors import ApiError
from tenants.ids import uuid7
from tenants.models import Tenant, User
from tenants.principal import Principal

SAFE_METHODS = ("GET", "HEAD")
PAGE_SIZE = 50


class ConsoleRequest(HttpRequest):
    """A request that has passed `@room`. `tenant` is None on the platform's own pages."""

    user: User
    principal: Principal
    tenant: Tenant | None


@dataclass(frozen=True, slots=True)
class Access:
    """What a view declared: the scope to look (None: only acts), to act (None: only shows), and where."""

    read: str | None
    write: str | None
    place: Literal["tenant", "platform", "signed_in"]


class ConsoleView(Protocol):
    """A view as the URL configuration gets it, with its declaration for all to read."""

    console_access: Access

    def __call__(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse: ...


type PlatformView[**P] = Callable[Concatenate[ConsoleRequest, P], HttpResponse]
type TenantView[**P] = Callable[Concatenate[ConsoleRequest, Tenant, P], HttpResponse]


def platform_room[**P](
    read: str | None = None, *, write: str | None = None
) -> Callable[[PlatformView[P]], ConsoleView]:
    """A page of the operator's: needs the scope on the platform. Without `read` it takes POST alone."""
    return _room(Access(read=read, write=write, place="platform"))


def tenant_room[**P](
    read: str | None = None, *, write: str | None = None
) -> Callable[[TenantView[P]], ConsoleView]:
    """A page inside one tenant, which the path names by `tenant_slug`; the view gets the Tenant."""
    return _room(Access(read=read, write=write, place="tenant"))


def signed_in_room[**P](view: PlatformView[P]) -> ConsoleView:
    """A page about the signed-in person alone: their home, their account."""
    return _room(Access(read="", write="", place="signed_in"))(view)


def _room(access: Access) -> Callable[[Callable[..., HttpResponse]], ConsoleView]:
    def decorate(view: Callable[..., HttpResponse]) -> ConsoleView:
        @wraps(view)
        def enter(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            if not isinstance(request.user, User):
                # A fragment cannot show the sign-in page; 401 makes the page reload and come here whole.
                return (
                    HttpResponse(status=401)
                    if _is_fragment(request)
                    else redirect_to_login(request.get_full_path())
                )
            scope = access.read if request.method in SAFE_METHODS else access.write
            if scope is None:
                return HttpResponseNotAllowed(("POST",) if access.read is None else SAFE_METHODS)
            guest = cast("ConsoleRequest", request)
            guest.principal = principal_of(request.user)
            guest.tenant = None
            with isolation.only(guest.principal):
                return isolation.streamed(inside(guest, scope, *args, **kwargs), guest.principal)

        def inside(guest: ConsoleRequest, scope: str, *args: Any, **kwargs: Any) -> HttpResponse:
            if access.place == "tenant":
                guest.tenant = _tenant(guest.principal, kwargs.pop("tenant_slug"))
                args = (guest.tenant, *args)
                if not guest.principal.can(scope, guest.tenant.id):
                    raise PermissionDenied(scope)
            elif access.place == "platform":
                if not guest.principal.is_operator:
                    raise Http404
                if not guest.principal.can(scope):
                    raise PermissionDenied(scope)
            with (
                timezone.override(zone_of(guest.user)),
                audit.origin(
                    ip=audit.client_ip(guest), request_id=str(uuid7()), reason=audit.reason_typed(guest)
                ),
            ):
                response = _answer(view, guest, args, kwargs)
            add_never_cache_headers(response)
            return response

        entered = cast("ConsoleView", enter)
        entered.console_access = access
        return entered

    return decorate


def _answer(
    view: Callable[..., HttpResponse], request: ConsoleRequest, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> HttpResponse:
    """The view's answer, or the way to the proposal that was made of what it wanted to change."""
    try:
        return view(request, *args, **kwargs)
    except approvals.ApprovalRequiredError as needed:
        try:
            proposal_id = approvals.propose(draft=needed.draft, actor=needed.actor, now=timezone.now()).pk
        except ApiError as error:
            messages.error(request, error.message)
            return redirect(request.get_full_path())
    except approvals.ProposedError as proposed:
        proposal_id = proposed.proposal_id
    messages.info(
        request, "This takes a second person. Nothing has changed yet; your proposal waits for them."
    )
    if request.tenant is not None:
        return redirect("tenant_proposal_detail", tenant_slug=request.tenant.slug, proposal_id=proposal_id)
    return redirect("proposal_detail", proposal_id=proposal_id)


def _is_fragment(request: HttpRequest) -> bool:
    return request.headers.get("HX-Request") == "true"


def _tenant(principal: Principal, slug: str) -> Tenant:
    tenant = Tenant.objects.visible_to(principal, "tenants:read").filter(slug=slug).first()
    if tenant is None:
        raise Http404
    return tenant


def zone_of(user: User) -> ZoneInfo:
    """The person's time zone; UTC when the stored name is unknown to this machine."""
    try:
        return ZoneInfo(user.timezone)
    except (ZoneInfoNotFoundError, ValueError):
        return ZoneInfo("UTC")


# ------------------------------------------------------------------ forms and pages


def add_refusal(form: forms.Form, error: ApiError) -> None:
    """Show a verb's refusal beside the field it names, or above the form."""
    form.add_error(error.param if error.param in form.fields else None, error.message)


def words_of(text: str) -> list[str]:
    """What a person typed into a list field: one item per line or comma, blanks dropped, order kept."""
    return list(dict.fromkeys(word.strip() for word in text.replace(",", "\n").splitlines() if word.strip()))


@dataclass(frozen=True, slots=True)
class Page[M: models.Model]:
    """A slice of a list that is sorted by id, newest first. `next_cursor` is empty at the end."""

    rows: Sequence[M]
    next_cursor: str


def page_of[M: models.Model](rows: models.QuerySet[M], *, cursor: str, size: int = PAGE_SIZE) -> Page[M]:
    """The rows after `cursor` (a UUID's text; anything else starts at the top). One query, no count."""
    after = uuid_or_none(cursor)
    if after is not None:
        rows = rows.filter(pk__lt=after)
    found = list(rows.order_by("-pk")[: size + 1])
    return Page(rows=found[:size], next_cursor=str(found[size - 1].pk) if len(found) > size else "")


def uuid_or_none(text: str) -> UUID | None:
    """The UUID in `text`, or None when it holds none."""
    try:
        return UUID(text.strip())
    except ValueError:
        return None
