"""The frame of every console view: who may enter, in which tenant, in whose time zone, and how it is audited.

A view without one of the `*_room` decorators is no part of the console, and a test refuses it. Denied unless
the principal holds the declared scope; what a stranger may not see does not exist for them (404).
"""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, Literal, Protocol, cast
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.db import connection, models, transaction
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
_WRITES = ("INSERT", "UPDATE", "DELETE")
_UNHEARD = re.compile(r'"(django_session|tenants_configversion)"')  # not by themselves a change of anything

logger = logging.getLogger(__name__)


class ConsoleRequest(HttpRequest):
    """A request that has passed `@room`. `tenant` is None on the platform's own pages."""

    user: User
    principal: Principal
    tenant: Tenant | None


@dataclass(frozen=True, slots=True)
class Access:
    """What a view declared: the scope to look (None: only acts), to act (None: only shows), and where.

    Whatever a view writes must leave an audit event, unless it is declared unaudited: with a reason beside it.
    """

    read: str | None
    write: str | None
    place: Literal["tenant", "platform", "signed_in"]
    is_unaudited: bool = False


class ConsoleView(Protocol):
    """A view as the URL configuration gets it, with its declaration for all to read."""

    console_access: Access

    def __call__(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse: ...


type PlatformView[**P] = Callable[Concatenate[ConsoleRequest, P], HttpResponse]
type TenantView[**P] = Callable[Concatenate[ConsoleRequest, Tenant, P], HttpResponse]


def platform_room[**P](
    read: str | None = None, *, write: str | None = None, is_unaudited: bool = False
) -> Callable[[PlatformView[P]], ConsoleView]:
    """A page of the operator's: needs the scope on the platform. Without `read` it takes POST alone."""
    return _room(Access(read=read, write=write, place="platform", is_unaudited=is_unaudited))


def tenant_room[**P](
    read: str | None = None, *, write: str | None = None, is_unaudited: bool = False
) -> Callable[[TenantView[P]], ConsoleView]:
    """A page inside one tenant, which the path names by `tenant_slug`; the view gets the Tenant."""
    return _room(Access(read=read, write=write, place="tenant", is_unaudited=is_unaudited))


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
                ) as origin,
                connection.execute_wrapper(writes := _Writes()),
            ):
                response = _answer(view, guest, args, kwargs)
            if (
                writes.stayed()
                and not origin.events
                and not access.is_unaudited
                and response.status_code < 400
            ):
                _tell_of_silent_write(guest.path)
            add_never_cache_headers(response)
            return response

        entered = cast("ConsoleView", enter)
        entered.console_access = access
        return entered

    return decorate


class _Writes:
    """Notices statements that write rows, and whether they stayed: a verb may have been refused half way."""

    def __init__(self) -> None:
        self._is_committed = False

    def __call__(
        self, execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Mapping[str, Any]
    ) -> Any:
        if isinstance(sql, str) and sql.lstrip()[:6].upper() in _WRITES and not _UNHEARD.search(sql):
            transaction.on_commit(self._commit)
        return execute(sql, params, many, context)

    def _commit(self) -> None:
        self._is_committed = True

    def stayed(self) -> bool:
        """Also inside a transaction that goes on: what was rolled back is no longer on Django's list."""
        return self._is_committed or any(entry[1] == self._commit for entry in connection.run_on_commit)


def _tell_of_silent_write(path: str) -> None:
    """Raises RuntimeError where TOLLHOUSE_AUDIT_STRICT is on; the rows are written by then, so elsewhere it logs."""
    message = f"{path} wrote without an audit event"
    if settings.TOLLHOUSE_AUDIT_STRICT:
        raise RuntimeError(message)
    logger.error(message)


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
