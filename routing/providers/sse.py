"""Server-sent events from bytes, incrementally (WHATWG HTML, section 9.2.6). Pure.

Handles CR, LF and CRLF ends, a byte-order mark, comments, multi-line data and events split at any byte.
"""

MAX_EVENT_BYTES = 8 * 1024 * 1024


class EventTooLarge(ValueError):
    """One event exceeded MAX_EVENT_BYTES."""


class SSEParser:
    """Feed it what arrives; it returns the events that became complete, as (event name, data)."""

    __slots__ = ("_buffer", "_started")

    def __init__(self) -> None:
        self._buffer = b""
        self._started = False

    def feed(self, chunk: bytes) -> list[tuple[str, bytes]]:
        """Raises EventTooLarge when an unfinished event has outgrown the bound."""
        buffer = self._buffer + chunk if self._buffer else chunk
        if not self._started:
            if len(buffer) < 3 and b"\xef\xbb\xbf".startswith(buffer):
                self._buffer = buffer
                return []
            self._started = True
            buffer = buffer.removeprefix(b"\xef\xbb\xbf")
        if b"\r" in buffer:
            # A lone CR at the very end may be half of a CRLF: hold it back until the next byte is here.
            held = b"\r" if buffer.endswith(b"\r") else b""
            if held:
                buffer = buffer[:-1]
            buffer = buffer.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        else:
            held = b""
        blocks = buffer.split(b"\n\n")
        self._buffer = blocks.pop() + held
        if len(self._buffer) > MAX_EVENT_BYTES:
            raise EventTooLarge
        events = []
        for block in blocks:
            parsed = _parse_block(block)
            if parsed is not None:
                events.append(parsed)
        return events

    def rest(self) -> list[tuple[str, bytes]]:
        """At the end of the body: what was left without its closing blank line."""
        parsed = _parse_block(self._buffer.replace(b"\r", b"\n")) if self._buffer else None
        self._buffer = b""
        return [parsed] if parsed is not None else []


def _parse_block(block: bytes) -> tuple[str, bytes] | None:
    if block.startswith(b"data: ") and b"\n" not in block:
        return "", block[6:]
    name, data = "", []
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value.decode("utf-8", "replace")
    return (name, b"\n".join(data)) if data else None
