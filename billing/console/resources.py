"""Forms act through the REST resources: what the API refuses, the console refuses, in the same words.

Scopes, transaction, audit event and config version are the resource's. Must never be given a principal other
than the one that the console's room let in.
"""

import io
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode
from uuid import UUID

import orjson
from django import forms
from django.core.handlers.wsgi import WSGIRequest
from django.http import HttpResponse
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from tenants.approvals import ProposedError
from tenants.console import ConsoleRequest
from tenants.errors import STATUS_OF, ApiError
from tenants.principal import Principal
from tenants.rest import Guarded, plain

_PRINCIPAL: Final = "tollhouse.principal"


class LetIn(BaseAuthentication):
    """Whoever the console's room has let in; the room has checked the session, Django the CSRF token."""

    def authenticate(self, request: Request) -> tuple[Principal, None] | None:
        principal = request.META.get(_PRINCIPAL)
        return (principal, None) if isinstance(principal, Principal) else None


def act(
    request: ConsoleRequest,
    resource: type[Guarded],
    method: str,
    data: Mapping[str, Any] | None = None,
    *,
    action: str = "",
    idempotency_key: str = "",
    **kwargs: Any,
) -> dict[str, Any]:
    """Let the resource do it; `action` is a viewset's. Returns its answer.

    Raises ApiError as the API says it; ProposedError where a second person must approve it first.
    """
    inner = _inner(request, method, orjson.dumps(plain(data or {})))
    if idempotency_key:
        inner.META["HTTP_IDEMPOTENCY_KEY"] = idempotency_key
    kwargs = {name: str(value) for name, value in kwargs.items()}
    options: dict[str, Any] = {"authentication_classes": (LetIn,)}
    # A viewset's as_view takes which action answers the method; a plain view knows its own.
    view: Any = resource.as_view
    answer = view({method.lower(): action}, **options) if action else view(**options)
    response = answer(inner, **kwargs)
    found: dict[str, Any] = plain(getattr(response, "data", None)) or {}
    if response.status_code >= 400:
        error = found["error"]
        code = error["code"] if error["code"] in STATUS_OF else "internal_error"
        raise ApiError(code, error["message"], param=error["param"])
    if response.status_code == 202 and "proposal" in found:
        raise ProposedError(UUID(found["proposal"]["id"]))
    return found


def download(request: ConsoleRequest, resource: type[Guarded], query: Mapping[str, str]) -> HttpResponse:
    """The file that the resource answers a GET with, its parameters as in the API."""
    view: Any = resource.as_view
    answer: HttpResponse = view(authentication_classes=(LetIn,))(
        _inner(request, "get", b"", urlencode(query))
    )
    return answer


def _inner(request: ConsoleRequest, method: str, body: bytes, query: str = "") -> WSGIRequest:
    """The request as the resource gets it: the same person, address and path."""
    return WSGIRequest(
        {
            "REQUEST_METHOD": method.upper(),
            "PATH_INFO": request.path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": "application/json",
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.input": io.BytesIO(body),
            "REMOTE_ADDR": request.META.get("REMOTE_ADDR", ""),
            "SERVER_NAME": request.META.get("SERVER_NAME", ""),
            "SERVER_PORT": request.META.get("SERVER_PORT", ""),
            _PRINCIPAL: request.principal,
        }
    )


def refuse(form: forms.Form, error: ApiError, names: Mapping[str, str] | None = None) -> None:
    """Show the resource's refusal beside the field it is about; `names` maps its fields to the form's."""
    param = (error.param or "").partition(".")[0]
    field = (names or {}).get(param, param)
    form.add_error(field if field in form.fields else None, error.message)
