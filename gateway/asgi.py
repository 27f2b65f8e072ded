"""One ASGI application with two doors: the data plane's own for /v1, Django's for everything else."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway.settings")

from django.core.asgi import get_asgi_application

django_application = get_asgi_application()

from gateway.edge.door import Receive, Scope, Send, door  # noqa: E402 - needs Django's apps
from gateway.state import process as state  # noqa: E402
from gateway.state.process import Process  # noqa: E402

HOT = "/v1/"
COLD = "/v1/generations/"
"""Below /v1, but it reads the database: Django's door."""


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    path = scope.get("path", "")
    if scope["type"] == "http" and path.startswith(HOT) and not path.startswith(COLD):
        await door(scope, receive, send, state.current())
        return
    await django_application(scope, receive, send)  # type: ignore[arg-type]


async def lifespan(receive: Receive, send: Send) -> None:
    """Start the worker's Process before the first request, stop it after the last."""
    await receive()
    process = Process()
    await process.start()
    state.set_current(process)
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await process.stop()
    state.set_current(None)
    await send({"type": "lifespan.shutdown.complete"})
