"""What every answer of Django's door says to browsers about itself, beyond Django's own headers.

Must never loosen a header that a view has set.
"""

from collections.abc import Awaitable, Callable
from typing import Final, cast

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.decorators import sync_and_async_middleware

type Answer = Callable[[HttpRequest], HttpResponseBase]
type AnswerAsync = Callable[[HttpRequest], Awaitable[HttpResponseBase]]

HEADERS: Final = {
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": ", ".join(
        f"{feature}=()"
        for feature in (
            "accelerometer", "browsing-topics", "camera", "display-capture", "geolocation", "gyroscope",
            "magnetometer", "microphone", "midi", "payment", "usb",
        )
    ),
    "X-Permitted-Cross-Domain-Policies": "none",
}  # fmt: skip
CACHE_CONTROL: Final = "no-store, private"
"""Pages and API answers are one person's: no cache keeps them. Static files say otherwise themselves."""


@sync_and_async_middleware
def transport_headers(get_response: Answer | AnswerAsync) -> Answer | AnswerAsync:
    """Outermost but for whitenoise's own answers, which pass through it as well."""
    if iscoroutinefunction(get_response):

        async def answer_async(request: HttpRequest) -> HttpResponseBase:
            return _with_headers(await cast("AnswerAsync", get_response)(request))

        return answer_async

    def answer(request: HttpRequest) -> HttpResponseBase:
        return _with_headers(cast("Answer", get_response)(request))

    return answer


def _with_headers(response: HttpResponseBase) -> HttpResponseBase:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.setdefault("Cache-Control", CACHE_CONTROL)
    return response
