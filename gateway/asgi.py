"""One ASGI application with two doors: the data plane's own for /v1, Django's for everything else."""

import asyncio
import gc
import os
import signal
import threading
from collections.abc import Callable, MutableMapping
from functools import partial
from types import FrameType
from typing import Any, cast

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway.settings")

from django.conf import settings
from django.core.asgi import get_asgi_application
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

django_application = get_asgi_application()

from gateway.edge.door import BODY_PAUSE_S, Receive, Scope, Send, door  # noqa: E402 - needs Django's apps
from gateway.state import process as state  # noqa: E402
from gateway.state.process import Process  # noqa: E402

HOT = ("/v1/", "/v1beta/")
GC_OBJECTS = 20_000
"""How many objects more than before are looked through for cycles; Python's own 2,000 are some ten calls."""
COLD = ("/v1/generations/", "/v1/feedback")
"""Below /v1, but they use the database: Django's door."""


async def two_doors(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    path = scope.get("path", "")
    if scope["type"] == "http" and path.startswith(HOT) and not path.startswith(COLD):
        await door(scope, receive, send, state.current())
        return
    if scope["type"] == "http":
        receive = bounded(receive, settings.TOLLHOUSE_MAX_BODY_BYTES)
    await django_application(scope, receive, send)  # type: ignore[arg-type]


def bounded(receive: Receive, limit: int) -> Receive:
    """Django's door keeps a body on disk before a view can judge it: end what grows beyond every view's limit,
    and what stops arriving, as if the client had gone.
    """
    size = 0
    is_whole = False

    async def receive_bounded() -> MutableMapping[str, Any]:
        nonlocal size, is_whole
        if is_whole:
            return await receive()
        try:
            async with asyncio.timeout(BODY_PAUSE_S):
                message = await receive()
        except TimeoutError:
            return {"type": "http.disconnect"}
        size += len(message.get("body", b""))
        is_whole = not message.get("more_body", False)
        return {"type": "http.disconnect"} if size > limit else message

    return receive_bounded


application: Any = (
    ProxyHeadersMiddleware(cast("Any", two_doors), settings.TRUSTED_PROXIES)
    if settings.BEHIND_TLS_PROXY
    else two_doors
)
"""Forwarded addresses are believed of the operator's own proxy alone: a key may be bound to addresses."""


async def lifespan(receive: Receive, send: Send) -> None:
    """Start the worker's Process before the first request, stop it after the last."""
    await receive()
    process = Process()
    await process.start()
    settle_memory()
    notice_shutdown(process)
    state.set_current(process)
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await process.stop()
    state.set_current(None)
    await send({"type": "lifespan.shutdown.complete"})


def settle_memory() -> None:
    """Spare the garbage collector what stays: the code, the models, the first snapshot.

    Calls free their objects by reference count and leave hardly a cycle; without this the collector would walk the
    whole start-up heap again and again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_OBJECTS, 10, 10)


def notice_shutdown(process: Process) -> None:
    """Tell the worker at once that it is to stop; the server's own handlers, which drain it, come after.

    The lifespan protocol speaks only when the last call has ended. Only the main thread has signals.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        server = signal.getsignal(number)
        if callable(server):
            signal.signal(number, partial(_drain, process, server))


def _drain(
    process: Process,
    server: Callable[[int, FrameType | None], object],
    number: int,
    frame: FrameType | None,
) -> None:
    process.is_draining = True
    server(number, frame)
