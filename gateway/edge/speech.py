"""Carries a relayed stream to a client of another surface: OpenAI's events in, the surface's bytes out, as they come.

`pipeline.relay` decides how a stream ends; here it is only said in other words. Must never turn a broken stream
into a whole one.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import orjson

from gateway.edge.surfaces.types import Voice
from routing.types import Json
from tenants.errors import ApiError

DATA = b"data: "
DONE = b"[DONE]"
ERROR = b'{"error":'
"""How the event begins that `relay.cut` sends; chunks of an answer begin otherwise."""


async def spoken(stream: AsyncGenerator[bytes], voice: Voice) -> AsyncGenerator[bytes]:
    """The stream in the surface's words. Closes `stream` with itself."""
    opening = voice.opening()
    usage: Json = {}
    async with aclosing(stream) as pieces:
        async for piece in pieces:
            said = [opening]
            opening = b""
            for event in piece.split(b"\n\n"):
                payload = event.removeprefix(DATA)
                if not event:
                    continue
                if payload is event:  # a comment: the answer is held back
                    said.append(voice.keep_alive())
                elif payload == DONE:
                    said.append(voice.end(usage))
                elif payload.startswith(ERROR):
                    said.append(voice.broken(_error(payload)))
                else:
                    chunk = orjson.loads(payload)
                    if not chunk.get("choices") and chunk.get("usage"):
                        usage = chunk["usage"]
                    else:
                        said.append(voice.chunk(chunk))
            yield b"".join(said)


def _error(payload: bytes) -> ApiError:
    error = orjson.loads(payload)["error"]
    return ApiError(error["code"], error["message"], param=error["param"])
