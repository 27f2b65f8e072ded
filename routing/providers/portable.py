"""Makes a chat body that came from another surface fit for providers that speak OpenAI's own dialect.

What only the surface's own provider can use (signed thoughts, cache marks) goes; what changes the answer is said in
OpenAI's words or refused. Bodies that clients wrote in OpenAI's dialect are never touched.
"""

from collections.abc import Iterable

from routing.providers.content import inexpressible, parts_of
from routing.types import Json, ProviderKind, Target, UnsupportedParameter

SURFACE = "tollhouse_surface"
"""The body field in which a surface names itself; it stays with us (chunks.GATEWAY_FIELDS)."""

EFFORT_FROM_TOKENS = (("high", 16_000), ("medium", 4_000), ("low", 0))
"""OpenAI's efforts for a thinking budget: the nearest that is not above it."""

_OF_OTHERS = frozenset(("thinking_blocks", "is_error"))
"""What messages of other surfaces carry for those who know it."""

_STRICT = (ProviderKind.OPENAI, ProviderKind.AZURE_OPENAI)
"""Kinds that refuse what they do not know; self-hosted servers take more."""


def portable(body: Json, target: Target) -> Json:
    """The body in OpenAI's words for `target`; the same object when a client wrote it so.

    Raises UnsupportedParameter for what the target cannot be asked.
    """
    if SURFACE not in body:
        return body
    plain = {**body, "messages": [_message(message) for message in body["messages"]]}
    if body.get("tools"):
        plain["tools"] = [_unmarked(tool) for tool in body["tools"]]
    thinking = plain.pop("thinking", None)
    if thinking is not None and thinking.get("type") != "disabled" and not plain.get("reasoning_effort"):
        if "reasoning" not in target.capabilities:
            raise UnsupportedParameter("thinking", f"{target.model} does not think before it answers.")
        plain["reasoning_effort"] = effort_of(thinking)
    if plain.get("safety_settings"):
        raise UnsupportedParameter("safety_settings", "Only Gemini takes safety settings.")
    if target.kind in _STRICT:
        if plain.get("top_k") is not None:
            raise UnsupportedParameter("top_k", "OpenAI cannot express the parameter 'top_k'.")
        if "max_tokens" in plain:
            plain["max_completion_tokens"] = plain.pop("max_tokens")
    return plain


def effort_of(thinking: Json) -> str:
    """An adaptive thinker decides by itself, which is OpenAI's medium."""
    budget = thinking.get("budget_tokens")
    if not isinstance(budget, int):
        return "medium"
    return next(effort for effort, least in EFFORT_FROM_TOKENS if budget >= least)


def _message(message: Json) -> Json:
    plain = {name: value for name, value in message.items() if name not in _OF_OTHERS}
    plain = _unmarked(plain)
    content = plain.get("content")
    if isinstance(content, list):
        plain["content"] = _content(content)
    if message.get("role") == "tool":
        plain.pop("name", None)  # Google's results name their function; here the call's id does
        plain["content"] = _result(plain.get("content"), is_error=bool(message.get("is_error")))
    return plain


def _content(parts: list[Json]) -> str | list[Json]:
    """Text alone as one string, which every server takes."""
    if all(part.get("type") == "text" for part in parts):
        return "\n\n".join(_texts(parts))
    return [_unmarked(part) for part in parts]


def _result(content: object, *, is_error: bool) -> str:
    if any(part.get("type") != "text" for part in parts_of(content)):
        raise inexpressible("OpenAI takes nothing but text as a tool's result.")
    text = "\n\n".join(_texts(parts_of(content)))
    return f"Error: {text}" if is_error else text


def _texts(parts: Iterable[Json]) -> Iterable[str]:
    return (str(part.get("text", "")) for part in parts)


def _unmarked(part: Json) -> Json:
    return {name: value for name, value in part.items() if name != "cache_control"}
