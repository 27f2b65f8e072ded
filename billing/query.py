"""Query parameters of this floor's reports, read strictly: what is unknown or malformed is refused, never dropped."""

from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any
from uuid import UUID

from rest_framework import serializers
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.request import Request

from tenants.errors import ApiError


class IgnoreAccept(DefaultContentNegotiation):
    """For files: whatever the client accepts, it asked for this very one; errors are JSON."""

    def select_renderer(self, request: Any, renderers: Any, format_suffix: str | None = None) -> Any:
        return renderers[0], renderers[0].media_type


def known_parameters(request: Request, *names: str) -> None:
    """Raises ApiError unknown_field for any other parameter."""
    for name in request.query_params:
        if name not in names:
            raise ApiError("unknown_field", f"The parameter {name!r} is unknown.", param=name)


def instant_of(request: Request, name: str) -> datetime | None:
    """An RFC 3339 instant, UTC when it names no zone; None when left out. Raises ApiError invalid_request."""
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        instant: datetime = serializers.DateTimeField(default_timezone=UTC).run_validation(text)
    except serializers.ValidationError as error:
        raise ApiError("invalid_request", f"{name} must be an RFC 3339 instant.", param=name) from error
    return instant


def names_of(request: Request, name: str, default: str = "") -> list[str]:
    """A parameter's comma-separated names."""
    return [each for each in request.query_params.get(name, default).split(",") if each]


def uuids_of(request: Request, name: str) -> list[UUID]:
    """A parameter's comma-separated ids. Raises ApiError invalid_request."""
    try:
        return [UUID(text) for text in names_of(request, name)]
    except ValueError as error:
        raise ApiError("invalid_request", f"{name} holds something that is no id.", param=name) from error


def decimal_of(request: Request, name: str, default: Decimal) -> Decimal:
    """A plain decimal. Raises ApiError invalid_request."""
    text = request.query_params.get(name)
    if text is None:
        return default
    try:
        return Decimal(text)
    except InvalidOperation as error:
        raise ApiError("invalid_request", f"{name} must be a decimal.", param=name) from error


def count_of(request: Request, name: str, default: int, *, most: int) -> int:
    """A whole number from 1 to `most`. Raises ApiError invalid_request."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= most):
        raise ApiError("invalid_request", f"{name} must be from 1 to {most}.", param=name)
    return int(text)


def flag_of(request: Request, name: str, *, default: bool) -> bool:
    """`true` or `false`. Raises ApiError invalid_request."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if text not in ("true", "false"):
        raise ApiError("invalid_request", f"{name} must be true or false.", param=name)
    return text == "true"


def month_of(text: str, name: str = "month") -> date:
    """The first day of YYYY-MM. Raises ApiError invalid_request."""
    try:
        return datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC).date()
    except ValueError as error:
        raise ApiError("invalid_request", f"{name} must be YYYY-MM.", param=name) from error
