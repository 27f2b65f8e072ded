"""Which surface a path belongs to, and what its address says about the request."""

from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qs, unquote

from gateway.edge.surfaces import anthropic, google, responses
from gateway.edge.surfaces.types import Surface
from routing.types import Json

EXACT: Final[dict[str, Surface]] = {"/v1/messages": anthropic, "/v1/responses": responses}
GOOGLE_ROOTS: Final = ("/v1beta/models/", "/v1/models/")
GOOGLE_VERBS: Final = {"generateContent": False, "streamGenerateContent": True}


@dataclass(frozen=True, slots=True)
class Address:
    """A surface, and the fields that stand in the path and the query instead of in the body."""

    surface: Surface
    said: Json = field(default_factory=dict)
    key: str = field(default="", repr=False)  # Google's clients may put their key into the query


def address_of(path: str, query: str) -> Address | None:
    """The surface at this path, None where there is none. `path` is decoded, `query` is not."""
    surface = EXACT.get(path)
    if surface is not None:
        return Address(surface)
    root = next((root for root in GOOGLE_ROOTS if path.startswith(root)), None)
    if root is None:
        return None
    model, _, verb = path.removeprefix(root).rpartition(":")
    if verb not in GOOGLE_VERBS or not model:
        return None
    asked = parse_qs(query)
    said: Json = {"model": unquote(model), "stream": GOOGLE_VERBS[verb]}
    if "alt" in asked:
        said["alt"] = asked["alt"][0]
    return Address(google, said, asked.get("key", [""])[0])
