"""What a surface is. A module of this package is one by having these four functions."""

from typing import Final, Protocol

from routing.types import Json
from tenants.errors import ApiError

EVENTS: Final = b"text/event-stream; charset=utf-8"


class Voice(Protocol):
    """How one open stream sounds to its client. Made for one answer, fed in order, never after `broken` or `end`."""

    @property
    def content_type(self) -> bytes: ...

    def opening(self) -> bytes:
        """What stands before the first content."""
        ...

    def chunk(self, chunk: Json) -> bytes:
        """One `chat.completion.chunk` as the surface's bytes; may be empty."""
        ...

    def keep_alive(self) -> bytes:
        """Something that says nothing, while the answer is held back."""
        ...

    def broken(self, error: ApiError) -> bytes:
        """The stream failed after its first byte: the surface's error event, and no clean end."""
        ...

    def end(self, usage: Json) -> bytes:
        """The answer is whole. `usage` is OpenAI's usage object, with `tollhouse` in it."""
        ...


class Surface(Protocol):
    """A client-side wire format."""

    def read(self, body: Json) -> Json:
        """The request as an OpenAI chat body, `stream` included. Raises ApiError naming the surface's own field.

        `body` is not changed. Only what the surface itself knows is checked: the chat body is checked after.
        """
        ...

    def reply(self, body: bytes, asked: Json) -> bytes:
        """A whole `chat.completion` (JSON) as the surface's answer to the request `asked`."""
        ...

    def voice(self, asked: Json, *, request_id: str) -> Voice:
        """The voice for a streamed answer to the request `asked`."""
        ...

    def error(self, error: ApiError, *, request_id: str) -> Json:
        """The body of an error answer in the surface's shape; the status is `error.status`."""
        ...
