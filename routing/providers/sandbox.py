"""The adapter of the built-in offline provider, which speaks OpenAI's dialect and never touches a network.

Its addresses are `sandbox://…`; the gateway's transport plays what `sandbox_engine.answer` says.
"""

from urllib.parse import quote

from routing.providers.openai import (
    PATHS,
    classify_error,
    json_headers,
    parse_event,
    parse_reply,
    request_body,
)
from routing.types import Json, Operation, Target, WireRequest

__all__ = ["build_request", "classify_error", "parse_event", "parse_reply"]


def build_request(operation: Operation, body: Json, target: Target, *, stream: bool) -> WireRequest:
    return WireRequest(
        url=f"sandbox://{quote(target.provider_model, safe='')}{PATHS[operation]}",
        headers=(*json_headers(stream=stream), ("authorization", f"Bearer {target.api_key}")),
        body=request_body(body, target, stream=stream),
    )
