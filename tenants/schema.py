"""How OpenAPI describes the control plane: ways to sign in, Idempotency-Key, filters, the error object.

Describes only: what is true is decided in authentication.py, rest.py and wire.py.
"""

from functools import cache
from typing import Any, Final

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiParameter
from rest_framework.serializers import BaseSerializer

from tenants.authentication import ConsoleAuthentication, KeyAuthentication

_NULLABLE_TEXT: Final = {"type": ["string", "null"]}
_ERROR: Final = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code", "request_id"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": _NULLABLE_TEXT,
                "code": _NULLABLE_TEXT,
                "request_id": {"type": "string"},
            },
        }
    },
}


class NamedSchema(AutoSchema):
    """One component for every serializer, and no two of one name."""

    def get_serializer_name(self, serializer: BaseSerializer[Any], direction: str) -> str:
        """The class's name; with its room's before it when another room has a serializer of that name."""
        kind = type(serializer)
        if kind.__name__ not in _shared_names():
            return kind.__name__
        outer = kind.__qualname__.rpartition(".")[0].rpartition(".")[2].removesuffix("Serializer")
        *rooms, module = kind.__module__.split(".")
        room = module.removesuffix("_api") if module != "api" else rooms[-1]
        return f"{outer or room.title().replace('_', '')}{kind.__name__}"


class ControlPlaneSchema(NamedSchema):
    """Adds to every operation of `tenants.rest.Guarded` what its frame does."""

    def get_override_parameters(self) -> list[Any]:
        if self.method != "GET":
            return [
                OpenApiParameter(
                    "Idempotency-Key",
                    location=OpenApiParameter.HEADER,
                    description="Sent again within 24 hours, the first answer comes again, secrets as null.",
                )
            ]
        if getattr(self.view, "action", None) != "list":
            return []
        return [OpenApiParameter(name) for name in getattr(self.view, "filters", ())]

    def get_operation(self, *args: Any, **kwargs: Any) -> dict[str, Any] | None:
        operation: dict[str, Any] | None = super().get_operation(*args, **kwargs)
        if operation is not None:
            content = {"application/json": {"schema": _ERROR}}
            operation["responses"]["default"] = {"description": "Any error.", "content": content}
        return operation


class KeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]  # drf-spectacular is untyped there
    """Describes KeyAuthentication in the OpenAPI schema."""

    target_class = KeyAuthentication
    name = ["apiKeyBearer", "apiKeyHeader"]

    def get_security_requirement(self, auto_schema: object) -> list[dict[str, list[str]]]:
        return [{name: []} for name in self.name]

    def get_security_definition(self, auto_schema: object) -> list[dict[str, str]]:
        return [
            {"type": "http", "scheme": "bearer", "bearerFormat": "th_…"},
            {"type": "apiKey", "in": "header", "name": "x-api-key"},
        ]


class ConsoleScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]  # drf-spectacular is untyped there
    """Describes ConsoleAuthentication in the OpenAPI schema."""

    target_class = ConsoleAuthentication
    name = "consoleSession"

    def get_security_definition(self, auto_schema: object) -> dict[str, str]:
        return {"type": "apiKey", "in": "cookie", "name": "sessionid"}


@cache
def _shared_names() -> frozenset[str]:
    seen: dict[str, type] = {}
    shared = set()
    waiting: list[type] = [BaseSerializer]
    while waiting:
        for kind in waiting.pop().__subclasses__():
            waiting.append(kind)
            if seen.setdefault(kind.__name__, kind) is not kind:
                shared.add(kind.__name__)
    return frozenset(shared)
