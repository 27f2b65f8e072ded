"""Azure's hosting of OpenAI models: OpenAI's dialect behind other addresses and another key header.

`provider_model` is the deployment. https://learn.microsoft.com/azure/ai-services/openai/reference
"""

from urllib.parse import quote

from routing.providers.openai import (
    classify_error,
    json_headers,
    parse_event,
    parse_reply,
    path_of,
    request_body,
)
from routing.types import Json, Operation, Target, WireRequest

__all__ = ["build_request", "classify_error", "parse_event", "parse_reply"]

DEFAULT_API_VERSION = "2024-10-21"


def build_request(operation: Operation, body: Json, target: Target, *, stream: bool) -> WireRequest:
    """`options`: api_version, a date, or "v1" for the path without versions."""
    version = target.options.get("api_version", DEFAULT_API_VERSION)
    if version == "v1":
        url = f"{target.base_url}/openai/v1{path_of(operation, target)}"
    else:
        deployment = quote(target.provider_model, safe="")
        path = f"/openai/deployments/{deployment}{path_of(operation, target)}"
        url = f"{target.base_url}{path}?api-version={quote(version)}"
    return WireRequest(
        url=url,
        headers=(*json_headers(stream=stream), ("api-key", target.api_key)),
        body=request_body(body, target, stream=stream),
    )
