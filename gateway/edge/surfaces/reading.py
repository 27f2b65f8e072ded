"""What the surfaces share when they read a request: refusals that name the surface's own field."""

from typing import Any

from routing.types import Json
from tenants.errors import ApiError


def bad(param: str, message: str) -> ApiError:
    return ApiError("invalid_request", message, param=param)


def inexpressible(param: str, message: str) -> ApiError:
    """The surface has it, a chat body has no words for it."""
    return ApiError("unsupported_parameter", message, param=param)


def as_object(value: Any, where: str) -> Json:
    """The object, an empty one for null. Raises ApiError invalid_request for anything else."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise bad(where, f"{where} must be an object.")
    return value
