"""Targets and stream states for the adapter tests."""

from typing import Any, cast

from routing.types import Json, Operation, ProviderKind, StreamState, Target

API_KEY = "sk-test-0123456789"

BASE_URLS = {
    ProviderKind.OPENAI: "https://api.openai.com/v1",
    ProviderKind.OPENAI_COMPATIBLE: "http://vllm.internal:8000/v1",
    ProviderKind.ANTHROPIC: "https://api.anthropic.com",
    ProviderKind.GEMINI: "https://generativelanguage.googleapis.com/v1beta",
    ProviderKind.AZURE_OPENAI: "https://example.openai.azure.com",
    ProviderKind.MISTRAL: "https://api.mistral.ai/v1",
    ProviderKind.COHERE: "https://api.cohere.com/v2",
    ProviderKind.SANDBOX: "sandbox://",
}


def a_target(kind: ProviderKind, **changes: Any) -> Target:
    fields: dict[str, Any] = {
        "endpoint_id": "ep",
        "provider": str(kind),
        "kind": kind,
        "provider_model": "their-model",
        "model": "our-model",
        "region": "eu",
        "base_url": BASE_URLS[kind],
        "credential_id": "cred",
        "api_key": API_KEY,
        "operations": frozenset(Operation),
        "capabilities": frozenset(),
        "context_window": None,
        "max_output_tokens": None,
        "weight": 1,
        "rates": cast("Any", None),
        "options": {},
        "first_byte_timeout_s": 10.0,
        "stall_timeout_s": 10.0,
        "total_timeout_s": 60.0,
    }
    return Target(**(fields | changes))


def a_state(**changes: Any) -> StreamState:
    fields: dict[str, Any] = {"model": "our-model", "include_usage": False, "created": 1_700_000_000}
    return StreamState(**(fields | changes))


def a_chat(text: str = "Hello", **changes: Any) -> Json:
    return {"model": "our-model", "messages": [{"role": "user", "content": text}], **changes}
