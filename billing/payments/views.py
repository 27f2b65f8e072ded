"""Where payment providers speak to us: one address each, believed by signature alone.

Answers 200 to whatever was understood, so that it is not said again, and 503 when the provider could not be asked
what really happened. Must never act on what a message claims.
"""

import logging

from django.http import HttpRequest, HttpResponseBase, JsonResponse
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt

from billing.payments import stripe
from billing.payments.book import hear
from billing.payments.interface import ProviderError, WebhookError
from billing.payments.providers import provider
from tenants.errors import ApiError
from tenants.wire import request_id_of

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 1024 * 1024


@csrf_exempt
def stripe_webhook(request: HttpRequest) -> HttpResponseBase:
    """Stripe's events."""
    try:
        if request.method != "POST":
            raise ApiError("method_not_allowed", "Events are posted here.")
        body = _body(request)
        source = provider(stripe.NAME)
        now = timezone.now()
        try:
            heard = source.verify_webhook(body=body, headers=request.headers, now=now)
        except WebhookError as error:
            raise ApiError("invalid_request", f"This event is not believed: {error}.") from error
        try:
            hear(name=stripe.NAME, heard=heard, now=now)
        except ProviderError as error:
            logger.warning("event %s waits: %s", heard.event_id, error)
            raise ApiError(
                "overloaded", "Stripe cannot be asked right now: send it again.", retry_after_s=60
            ) from error
    except ApiError as error:
        answer = JsonResponse(error.body(request_id_of(request)), status=error.status)
        if error.retry_after_s is not None:
            answer["Retry-After"] = f"{error.retry_after_s:g}"
        return answer
    return JsonResponse({"received": True})


def _body(request: HttpRequest) -> bytes:
    """Byte for byte. Raises ApiError payload_too_large before reading more than there may be."""
    declared = request.META.get("CONTENT_LENGTH") or ""
    if not declared.isdecimal():
        raise ApiError("invalid_request", "Send the body with a Content-Length.")
    if int(declared) > MAX_BODY_BYTES:
        raise ApiError("payload_too_large", f"The body may hold {MAX_BODY_BYTES} bytes.")
    return request.read(int(declared))
