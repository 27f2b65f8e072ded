"""The data plane's own door: ASGI in, ASGI out, for every path below /v1. No middleware, no thread hops.

Reads the request within bounds, makes one call to the pipeline, writes the answer as it comes. The same
`answer` serves the DRF views in `edge.views`, so both doors lead into one house.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.edge import models, openai
from gateway.edge.headers import (
    answer_headers,
    end_user_of,
    feature_of,
    is_whole_number,
    tags_of,
    timeout_of,
    traceparent_of,
)
from gateway.edge.speech import spoken
from gateway.edge.surfaces.paths import Address, address_of
from gateway.edge.surfaces.types import EVENTS
from gateway.pipeline.attempt import StreamAnswer
from gateway.pipeline.call import Call, Caller
from gateway.pipeline.redact import restored, restored_body, restored_error
from gateway.pipeline.relay import relay
from gateway.pipeline.run import identify, run
from gateway.pipeline.shadow import overheard
from gateway.state.process import Process
from routing.providers.chunks import dated
from routing.types import TEXTLESS, Json, Operation
from tenants.errors import ApiError, shutting_down
from tenants.ids import request_in_hand, uuid7

logger = logging.getLogger(__name__)

type Scope = MutableMapping[str, Any]
type Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
type Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

PATHS = {
    "/v1/chat/completions": Operation.CHAT,
    "/v1/completions": Operation.COMPLETIONS,
    "/v1/embeddings": Operation.EMBEDDINGS,
    "/v1/moderations": Operation.MODERATIONS,
    "/v1/rerank": Operation.RERANK,
}
BODY_PAUSE_S = 30.0
"""How long a client may pause while it sends its body."""
WATCH_AFTER_S = 0.05
"""A client is watched for leaving only once a call has taken this long: most are answered before."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the pipeline needs of HTTP. Header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    client_ip: str
    query: str = ""


@dataclass(slots=True)
class Response:
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    stream: AsyncGenerator[bytes] | None = None  # what comes after `body`; running, and to be closed


async def door(scope: Scope, receive: Receive, send: Send, process: Process) -> None:
    """Serve one request. A client that leaves cancels the work, which is then recorded as such."""
    departure = Departure(receive)
    try:
        try:
            request = await read(scope, receive, process.max_body_bytes)
        except ApiError as error:
            response = refuse(error, str(uuid7()))
        else:
            departure.watch_later()
            response = await answer(request, process)
        await write(response, send, departure)
    except asyncio.CancelledError:
        if not departure.happened:
            raise
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()
    finally:
        departure.stop()


async def answer(request: Request, process: Process) -> Response:
    """The response to one request, whatever it asks for. Never raises but for cancellation."""
    now_ms = time.time_ns() // 1_000_000
    request_id = uuid7(now_ms)
    id_text = str(request_id)
    request_in_hand.set(id_text)
    call: Call | None = None
    operation = PATHS.get(request.path)
    spoken_at = None if operation is not None else address_of(request.path, request.query)
    try:
        if process.is_draining:
            raise shutting_down()
        if len(process.live) - process.shadows.in_flight >= process.max_in_flight:
            raise ApiError("overloaded", "Too many calls at once.", retry_after_s=1)
        if operation is None and spoken_at is None:
            return await _other(request, id_text, process)
        if request.method != "POST":
            raise ApiError("method_not_allowed", f"{request.path} takes POST.")
        if spoken_at is not None and spoken_at.key:
            request.headers.setdefault("x-goog-api-key", spoken_at.key)
        caller = await identify(request.headers, request.client_ip, process)
        asked = read_body(request)
        if spoken_at is not None:
            asked |= spoken_at.said
        call = make_call(request, operation, asked, spoken_at, request_id, id_text, now_ms / 1000, process)
        served = await run(call, caller, process)
        headers = answer_headers(call, process)
        if isinstance(served, StreamAnswer):
            stream, content_type = relay(call, served, process), EVENTS
            if call.heard is not None:
                stream = overheard(call, stream)
            stream = restored(call, stream)
            if spoken_at is not None:
                voice = spoken_at.surface.voice(asked, request_id=id_text)
                stream, content_type = spoken(stream, voice), voice.content_type
            headers += ((b"content-type", content_type), *STREAM_HEADERS)
            return Response(200, headers, await anext(stream), stream)
        body = restored_body(call, dated(served.reply.body, created=int(call.occurred_at)))
        if spoken_at is not None:
            body = spoken_at.surface.reply(body, asked)
        headers += ((b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)))
        return Response(200, headers, body)
    except ApiError as error:
        told = answer_headers(call, process) if call and call.attempts else None
        return refuse(restored_error(call, error) if call else error, id_text, told, spoken_at)
    except Exception:
        # The last line of defence: a bug must answer in JSON and be seen in the log, never hang or leak.
        logger.exception("request %s failed", id_text)
        unknown = ApiError("internal_error", "An internal error; please quote the request id.")
        return refuse(unknown, id_text, None, spoken_at)


STREAM_HEADERS = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))


def read_body(request: Request) -> Json:
    """The JSON object in the request. Raises ApiError: unsupported_media_type, invalid_request."""
    content_type = request.headers.get("content-type", "application/json")
    if not content_type.lower().startswith("application/json"):
        raise ApiError("unsupported_media_type", "Send the body as application/json.")
    return openai.parse_body(request.body)


def make_call(
    request: Request,
    operation: Operation | None,
    asked: Json,
    spoken_at: Address | None,
    request_id: Any,
    id_text: str,
    occurred_at: float,
    process: Process,
) -> Call:
    """A checked Call from what was asked. Raises ApiError naming the parameter at fault.

    Every other surface than OpenAI's is a way to ask for a chat (`operation` None).
    """
    body, raw = asked, request.body
    if spoken_at is not None:
        body = spoken_at.surface.read(asked)
        raw = orjson.dumps(body)
    operation = operation or Operation.CHAT
    openai.check(operation, body)
    is_stream = bool(body.get("stream")) and operation not in TEXTLESS
    options = body.get("stream_options") or {}
    return Call(
        id=request_id,
        id_text=id_text,
        occurred_at=occurred_at,
        started_s=time.monotonic(),
        operation=operation,
        request_model=body["model"],
        body=body,
        is_stream=is_stream,
        include_usage=spoken_at is not None or options.get("include_usage") is True,
        output_limit=openai.output_limit(body),
        input_bytes=openai.input_bound(body, raw),
        capabilities=openai.needed_capabilities(body, raw),
        service_tier=_service_tier(body),
        feature=feature_of(request.headers),
        tags=tags_of(request.headers),
        end_user=end_user_of(request.headers, body),
        timeout_s=timeout_of(request.headers, process.request_timeout_s),
        traceparent=traceparent_of(request.headers),
        preferences=openai.preferences_of(body),
    )


def _service_tier(body: dict[str, Any]) -> str:
    tier = body.get("service_tier")
    return "" if tier in (None, "auto", "default") else str(tier)


async def _other(request: Request, id_text: str, process: Process) -> Response:
    """The small paths of the data plane, and a typed 404 for all the rest."""
    if request.path == "/v1/models" or request.path.startswith("/v1/models/"):
        if request.method != "GET":
            raise ApiError("method_not_allowed", f"{request.path} takes GET.")
        caller: Caller = await identify(request.headers, request.client_ip, process)
        return _json(200, models.answer(request.path, caller, process.snapshot), id_text)
    raise ApiError("not_found", f"No such path: {request.method} {request.path}")


def _json(status: int, document: object, id_text: str) -> Response:
    body = orjson.dumps(document)
    return Response(
        status,
        [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"x-request-id", id_text.encode()),
        ],
        body,
    )


def refuse(
    error: ApiError,
    id_text: str,
    extra: list[tuple[bytes, bytes]] | None = None,
    spoken_at: Address | None = None,
) -> Response:
    body = error.body(id_text) if spoken_at is None else spoken_at.surface.error(error, request_id=id_text)
    response = _json(error.status, body, id_text)
    if extra:
        response.headers = [*response.headers[:2], *extra]
    if error.retry_after_s is not None:
        response.headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s))))
    if error.status >= 500:
        # We have tried what could be tried: a client's own retries would only multiply ours.
        response.headers.append(
            (b"x-should-retry", b"false" if error.code.startswith("provider") else b"true")
        )
    return response


# ------------------------------------------------------------------ ASGI


async def read(scope: Scope, receive: Receive, limit: int) -> Request:
    """The whole request. Raises ApiError: payload_too_large before reading more than `limit` bytes,
    invalid_request when the client stops sending for BODY_PAUSE_S.
    """
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    check_head(headers, limit)
    message = await receive()
    body = message.get("body", b"")
    if message.get("more_body"):
        parts, size = [body], len(body)
        while message.get("more_body"):
            try:
                async with asyncio.timeout(BODY_PAUSE_S):
                    message = await receive()
            except TimeoutError:
                raise ApiError(
                    "invalid_request", f"No more of the body came for {BODY_PAUSE_S:g} s."
                ) from None
            if message["type"] == "http.disconnect":
                raise asyncio.CancelledError
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit:
                raise ApiError("payload_too_large", f"The body exceeds {limit} bytes.")
        body = b"".join(parts)
    client = scope.get("client")
    query = scope.get("query_string", b"").decode("latin-1")
    return Request(scope["method"], scope["path"], headers, body, client[0] if client else "", query)


def check_head(headers: dict[str, str], limit: int) -> None:
    """What can be refused before the body is read. Raises ApiError."""
    if headers.get("content-encoding", "identity") != "identity":
        raise ApiError("unsupported_media_type", "Compressed bodies are not accepted.")
    declared = headers.get("content-length", "")
    if is_whole_number(declared) and int(declared) > limit:
        raise ApiError("payload_too_large", f"The body exceeds {limit} bytes.")


async def write(response: Response, send: Send, departure: "Departure") -> None:
    start = {"type": "http.response.start", "status": response.status, "headers": response.headers}
    if response.stream is None:
        await send(start)
        await send({"type": "http.response.body", "body": response.body})
        return
    departure.watch_now()
    async with contextlib.aclosing(response.stream) as stream:
        await send(start)
        await send({"type": "http.response.body", "body": response.body, "more_body": True})
        async for piece in stream:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


class Departure:
    """Notices that the client has left, and cancels the task that works for it."""

    __slots__ = ("_receive", "_task", "_timer", "_watcher", "happened")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._task = asyncio.current_task()
        self._timer: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None
        self.happened = False

    def watch_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER_S, self.watch_now)

    def watch_now(self) -> None:
        if self._watcher is None:
            self._watcher = asyncio.ensure_future(self._watch())

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()

    async def _watch(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                break
        self.happened = True
        if self._task is not None:
            self._task.cancel()
