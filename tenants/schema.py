"""The OpenAPI schema's own rules: every serializer has one component, and no two share a name.

REST_FRAMEWORK in the settings names the class here; nothing else imports it.
"""

from functools import cache
from typing import Any

from drf_spectacular.openapi import AutoSchema
from rest_framework.serializers import BaseSerializer


class Schema(AutoSchema):  # type: ignore[misc]  # the library has no types
    def get_serializer_name(self, serializer: BaseSerializer[Any], direction: str) -> str:
        """The class's name; with its room's before it when another room has a serializer of that name."""
        kind = type(serializer)
        if kind.__name__ not in _shared_names():
            return kind.__name__
        outer = kind.__qualname__.rpartition(".")[0].rpartition(".")[2].removesuffix("Serializer")
        *rooms, module = kind.__module__.split(".")
        room = module.removesuffix("_api") if module != "api" else rooms[-1]
        return f"{outer or room.title().replace('_', '')}{kind.__name__}"


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
