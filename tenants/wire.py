"""What crosses the wire of the control plane: strict JSON in, the error object out, pages by cursor.

REST_FRAMEWORK in the settings names these, so this module must never import rest_framework.views (which
reads them while it loads).
"""

import base64
import logging
import math
from collections.abc import Mapping
from typing import Any, Final

import orjson
import psycopg.errors
from django.core.exceptions import PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.core.exceptions import ValidationError as DjangoValidationError
from django.db import DatabaseError, DataError, IntegrityError, models
from django.http import Http404, HttpRequest
from rest_framework import exceptions
from rest_framework.pagination import BasePagination
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.response import Response

from tenants.errors import ApiError
from tenants.ids import request_in_hand, uuid7

MAX_BODY_BYTES: Final = 1024 * 1024
MAX_JSON_DEPTH: Final = 32
MAX_LIMIT: Final = 200
_SHOWN_ERRORS: Final = 5

logger = logging.getLogger(__name__)


# ------------------------------------------------------------------ errors


def request_id_of(request: HttpRequest) -> str:
    """The id of this request, ours always: a client's X-Request-Id is not echoed."""
    request_id = getattr(request, "tollhouse_request_id", None)
    if request_id is None:
        request_id = str(uuid7())
        request_in_hand.set(request_id)
        request.tollhouse_request_id = request_id  # type: ignore[attr-defined]  # rides on the request
    return str(request_id)


def error_response(exc: Exception, context: Mapping[str, Any]) -> Response:
    """DRF's exception handler: every exception becomes API.md's error object, unknown ones a logged 500."""
    request = context.get("request")
    http_request = request._request if isinstance(request, Request) else request
    request_id = request_id_of(http_request) if http_request is not None else str(uuid7())
    error = api_error(exc)
    if error.status >= 500:
        logger.error("%s in request %s", type(exc).__name__, request_id, exc_info=exc)
    headers = {"X-Request-Id": request_id}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="tollhouse"'
    return Response(error.body(request_id), status=error.status, headers=headers)


def api_error(exc: Exception) -> ApiError:
    """What a client is told of any exception."""
    match exc:
        case ApiError():
            return exc
        case exceptions.ValidationError():
            return _invalid(exc.detail)
        case exceptions.NotAuthenticated() | exceptions.AuthenticationFailed():
            return ApiError("invalid_api_key", "Give an API key: 'Authorization: Bearer <key>'.")
        case exceptions.PermissionDenied() | PermissionDenied():
            return ApiError("permission_denied", str(exc) or "You may not do this.")
        case exceptions.NotFound() | Http404():
            return ApiError("not_found", "There is no such object.")
        case exceptions.MethodNotAllowed():
            return ApiError("method_not_allowed", str(exc.detail))
        case exceptions.UnsupportedMediaType():
            return ApiError("unsupported_media_type", str(exc.detail))
        case exceptions.Throttled():
            return ApiError("rate_limit_exceeded", str(exc.detail), retry_after_s=getattr(exc, "wait", None))
        case exceptions.APIException() if exc.status_code < 500:
            return ApiError("invalid_request", str(exc.detail))
        case RequestDataTooBig():
            return ApiError("payload_too_large", "The request body is too large.")
        case SuspiciousOperation():
            return ApiError("invalid_request", "The request is malformed.")
        case DjangoValidationError():
            return ApiError("invalid_request", "; ".join(exc.messages))
        case IntegrityError():
            return _integrity_error(exc)
        case DataError():
            return ApiError(
                "invalid_request", "A value is out of range or holds characters that cannot be stored."
            )
        case DatabaseError():
            return ApiError("overloaded", "The database is not available.", retry_after_s=1)
    return ApiError("internal_error", "Something went wrong on our side.")


def _integrity_error(exc: IntegrityError) -> ApiError:
    cause = exc.__cause__
    if isinstance(cause, (psycopg.errors.CheckViolation, psycopg.errors.NotNullViolation)):
        return ApiError(
            "invalid_request", f"The values break the rule {cause.diag.constraint_name or 'not null'!r}."
        )
    if isinstance(exc, (models.ProtectedError, models.RestrictedError)):
        return ApiError("conflict", "Other objects still refer to this one.")
    return ApiError("conflict", "This conflicts with an object that exists.")


def _invalid(detail: Any) -> ApiError:
    found = list(_flatten(detail, ""))
    param, first = found[0]
    message = "; ".join(f"{path}: {each}" if path else str(each) for path, each in found[:_SHOWN_ERRORS])
    code = "conflict" if first.code == "unique" else "invalid_request"
    return ApiError(code, message, param=param or None)


def _flatten(detail: Any, path: str) -> list[tuple[str, exceptions.ErrorDetail]]:
    if isinstance(detail, Mapping):
        found: list[tuple[str, exceptions.ErrorDetail]] = []
        for name, each in detail.items():
            here = path if name == "non_field_errors" else f"{path}.{name}" if path else str(name)
            found += _flatten(each, here)
        return found
    if isinstance(detail, list):
        found = []
        for index, each in enumerate(detail):
            found += _flatten(each, f"{path}.{index}" if isinstance(each, (Mapping, list)) else path)
        return found
    return [(path, detail)]


# ------------------------------------------------------------------ what comes in


class StrictJSONParser(BaseParser):
    """One JSON object in UTF-8: no NaN, no lone surrogates, no deep nesting, no more than the body limit."""

    media_type = "application/json"

    def parse(
        self, stream: Any, media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Raises ApiError: payload_too_large, invalid_request."""
        view = (parser_context or {}).get("view")
        limit = getattr(view, "max_body_bytes", MAX_BODY_BYTES)
        parameters = dict(part.strip().partition("=")[::2] for part in (media_type or "").split(";")[1:])
        charset = parameters.get("charset", "utf-8").strip('"').lower()
        if charset not in ("utf-8", "utf8"):
            raise ApiError("invalid_request", "The body must be UTF-8.")
        raw = stream.read(limit + 1)
        if len(raw) > limit:
            raise ApiError("payload_too_large", f"The body may hold {limit} bytes.")
        try:
            body = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise ApiError("invalid_request", f"The body is not valid JSON: {error}.") from error
        if not isinstance(body, dict):
            raise ApiError("invalid_request", "The body must be a JSON object.")
        if is_deeper_than(body, MAX_JSON_DEPTH):
            raise ApiError("invalid_request", f"The body is nested more than {MAX_JSON_DEPTH} levels deep.")
        return body


def is_deeper_than(value: object, levels: int) -> bool:
    """Whether objects and arrays nest more than `levels` deep. Never recurses."""
    layer: list[object] = [value]
    for _ in range(levels):
        layer = [
            inner
            for outer in layer
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
        if not layer:
            return False
    return True


# ------------------------------------------------------------------ what goes out in pages


class Cursor(BasePagination):
    """`{"data": [...], "next_cursor": …}`; ?cursor and ?limit (1 to 200).

    Pages follow the view's `ordering`, one unique column ("-id" unless it says otherwise), so rows that are
    added or removed meanwhile are never shown twice nor make others disappear.
    """

    default_limit = 50
    ordering = "-id"
    _next: str | None = None

    def paginate_queryset(  # type: ignore[override]  # never a plain sequence here
        self, queryset: models.QuerySet[Any], request: Request, view: Any = None
    ) -> list[Any]:
        """Raises ApiError invalid_request for a limit out of range or a cursor that is not ours."""
        ordering = getattr(view, "ordering", None) or self.ordering
        column, limit = ordering.lstrip("-"), self._limit(request)
        cursor = request.query_params.get("cursor")
        if cursor is not None:
            queryset = queryset.filter(**self._after(cursor, ordering))
        try:
            rows = list(queryset.order_by(ordering)[: limit + 1])
        except DataError as error:
            raise _foreign_cursor() from error
        if len(rows) > limit:
            last = str(getattr(rows[limit - 1], column)).encode()
            self._next = base64.urlsafe_b64encode(last).decode().rstrip("=")
        return rows[:limit]

    def get_paginated_response(self, data: Any) -> Response:
        return Response({"data": data, "next_cursor": self._next})

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        return {
            "type": "object",
            "required": ["data", "next_cursor"],
            "properties": {"data": schema, "next_cursor": {"type": ["string", "null"]}},
        }

    def get_schema_operation_parameters(self, view: object) -> list[dict[str, Any]]:
        limits = {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": self.default_limit}
        return [
            {"name": "cursor", "in": "query", "required": False, "schema": {"type": "string"}},
            {"name": "limit", "in": "query", "required": False, "schema": limits},
        ]

    def _limit(self, request: Request) -> int:
        given = request.query_params.get("limit")
        if given is None:
            return self.default_limit
        if not given.isascii() or not given.isdecimal() or len(given) > 3 or not 1 <= int(given) <= MAX_LIMIT:
            raise ApiError("invalid_request", f"limit must be between 1 and {MAX_LIMIT}.", param="limit")
        return int(given)

    def _after(self, cursor: str, ordering: str) -> dict[str, str]:
        try:
            position = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        except ValueError as error:
            raise _foreign_cursor() from error
        return {f"{ordering.lstrip('-')}__{'lt' if ordering.startswith('-') else 'gt'}": position}


def _foreign_cursor() -> ApiError:
    return ApiError("invalid_request", "This cursor is not one of ours.", param="cursor")
