"""Cohere's v2 API (chat, embed) in OpenAI's terms; it has no text completions.

The plan before tool calls and thoughts travel as `reasoning_content`, citations of tool results as `citations`
on the message. https://docs.cohere.com/reference/chat
"""

from collections.abc import Mapping, Sequence

import orjson

from routing.providers import chunks, content
from routing.providers.embeddings import embeddings_as
from routing.providers.errors import (
    default_message,
    error_object,
    invalid_response,
    kind_by_status,
    opaque_error,
    retry_after,
    safe_message,
)
from routing.providers.openai import json_headers
from routing.providers.usage import cohere_usage, record_usage, reply_usage
from routing.types import (
    ErrorKind,
    Headers,
    Json,
    Operation,
    ProviderError,
    Reply,
    StreamState,
    Target,
    UnsupportedParameter,
    WireRequest,
)

NAME = "Cohere"

EXPRESSIBLE = frozenset(
    {
        "messages", "max_tokens", "max_completion_tokens", "stop", "temperature", "top_p", "top_k", "seed",
        "presence_penalty", "frequency_penalty", "tools", "tool_choice", "response_format", "reasoning_effort",
        "thinking",
    }
)  # fmt: skip

PLAIN_SETTINGS = {
    "temperature": "temperature",
    "top_p": "p",
    "top_k": "k",
    "seed": "seed",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}
RANGES: Mapping[str, tuple[float, float]] = {
    "top_p": (0.01, 0.99),
    "top_k": (0, 500),
    "presence_penalty": (0, 1),
    "frequency_penalty": (0, 1),
}
"""What the API takes; OpenAI's ranges are wider."""

BUDGETS_TOKENS = {"low": 1024, "medium": 8192, "high": 24576}
"""Thinking budgets for OpenAI's efforts. https://docs.cohere.com/docs/reasoning"""

FINISH_REASONS = {
    "COMPLETE": "stop",
    "STOP_SEQUENCE": "stop",
    "MAX_TOKENS": "length",
    "TOOL_CALL": "tool_calls",
}
BROKEN = {"ERROR": ErrorKind.SERVER_ERROR, "TIMEOUT": ErrorKind.TIMEOUT}
"""Ends of an answer that is none."""

DEFAULT_INPUT_TYPE = "search_document"


def build_request(operation: Operation, body: Json, target: Target, *, stream: bool) -> WireRequest:
    """`options`: safety_mode (Cohere's own), input_type (of embeddings, default search_document)."""
    if operation is Operation.CHAT:
        path, wire = "/chat", _chat(body, target, stream=stream)
    elif operation is Operation.EMBEDDINGS:
        path, wire = "/embed", _embed(body, target)
    else:
        raise UnsupportedParameter("model", f"{NAME} does not offer {operation}.")
    return WireRequest(
        url=target.base_url + path,
        headers=(*json_headers(stream=stream), ("authorization", f"Bearer {target.api_key}")),
        body=orjson.dumps(wire),
    )


def _embed(body: Json, target: Target) -> Json:
    chunks.refuse_inexpressible(body, {"input", "dimensions", "encoding_format"}, provider=NAME)
    raw = body["input"]
    texts = [raw] if isinstance(raw, str) else raw
    if not all(isinstance(text, str) for text in texts):
        raise UnsupportedParameter("input", f"{NAME} takes text, not tokens.")
    wire: Json = {
        "model": target.provider_model,
        "texts": texts,
        "input_type": target.options.get("input_type", DEFAULT_INPUT_TYPE),
        "embedding_types": ["float"],
        "truncate": "NONE",  # its default cuts what is too long in silence
    }
    if body.get("dimensions"):
        wire["output_dimension"] = body["dimensions"]
    return wire


def _chat(body: Json, target: Target, *, stream: bool) -> Json:
    chunks.refuse_inexpressible(body, EXPRESSIBLE, provider=NAME)
    wire: Json = {
        "model": target.provider_model,
        "messages": [_message(message) for message in body["messages"]],
        "stream": stream,
    }
    for ours, theirs in PLAIN_SETTINGS.items():
        value = body.get(ours)
        if value is None:
            continue
        least, most = RANGES.get(ours, (value, value))
        if not least <= value <= most:
            raise UnsupportedParameter(ours, f"{NAME} takes a {ours} of {least} to {most}.")
        wire[theirs] = value
    if limit := body.get("max_completion_tokens") or body.get("max_tokens"):
        wire["max_tokens"] = limit
    if stop := content.stop_list(body):
        wire["stop_sequences"] = stop
    _tools(body, wire)
    _response_format(body.get("response_format"), wire)
    _thinking(body, wire)
    if mode := target.options.get("safety_mode"):
        wire["safety_mode"] = mode
    return wire


def _message(message: Json) -> Json:
    role = message.get("role")
    if role == "tool":
        result = _texts(message.get("content"), role="tool")
        if message.get("is_error"):
            result = [{"type": "text", "text": "Error: "}, *result]
        return {"role": "tool", "tool_call_id": message.get("tool_call_id"), "content": result}
    content.refuse_name(message, provider=NAME)
    if role in ("system", "developer"):
        return {"role": "system", "content": _texts(message.get("content"), role="system")}
    if role == "user":
        parts = content.parts_of(message.get("content"))
        return {"role": "user", "content": [_part(part) for part in parts]}
    if role == "assistant":
        return _assistant(message)
    raise content.inexpressible(f"{NAME} has no role '{role}'.")


def _texts(raw: object, *, role: str) -> list[Json]:
    content.text_of(raw, role=role)  # refuses anything but text
    parts = content.parts_of(raw)
    return [{"type": "text", "text": part.get("text", part.get("refusal"))} for part in parts]


def _part(part: Json) -> Json:
    if part.get("type") == "text":
        return {"type": "text", "text": part.get("text")}
    if part.get("type") == "image_url":
        image = part.get("image_url")
        detail = image.get("detail") if isinstance(image, dict) else None
        # The address is read apart from the detail, which Cohere takes in OpenAI's words.
        url = content.image_url(
            {"image_url": image.get("url") if isinstance(image, dict) else image}, provider=NAME
        )
        return {"type": "image_url", "image_url": {"url": url, **({"detail": detail} if detail else {})}}
    raise content.inexpressible(f"{NAME} cannot express a content part of type '{part.get('type')}'.")


def _assistant(message: Json) -> Json:
    if message.get("function_call") or message.get("audio"):
        raise content.inexpressible(f"{NAME} cannot express function_call or audio in a message.")
    turn: Json = {"role": "assistant"}
    if texts := [part for part in _texts(message.get("content"), role="assistant") if part["text"]]:
        turn["content"] = texts
    if calls := message.get("tool_calls"):
        turn["tool_calls"] = [
            {
                "id": call.get("id"),
                "type": "function",
                "function": {
                    "name": call["function"].get("name"),
                    "arguments": orjson.dumps(content.tool_arguments(call)).decode(),
                },
            }
            for call in calls
        ]
    return turn if len(turn) > 1 else {**turn, "content": ""}


def _tools(body: Json, wire: Json) -> None:
    functions = content.function_tools(body, provider=NAME)
    choice = body.get("tool_choice")
    if not functions:
        if choice not in (None, "none", "auto"):
            raise UnsupportedParameter("tool_choice", "tool_choice needs tools.")
        return
    if isinstance(choice, dict):
        # One function is forced by offering no other.
        name = content.chosen_function(choice, provider=NAME)
        functions = [function for function in functions if function.get("name") == name]
        if not functions:
            raise UnsupportedParameter("tool_choice", f"tool_choice names no tool: {name}.")
        choice = "required"
    if choice not in (None, "auto", "required", "none"):
        raise UnsupportedParameter("tool_choice", f"{NAME} cannot express this tool_choice.")
    wire["tools"] = [{"type": "function", "function": _function(function)} for function in functions]
    if choice in ("required", "none"):
        wire["tool_choice"] = choice.upper()
    strict = [bool(function.get("strict")) for function in functions]
    if all(strict):
        wire["strict_tools"] = True
    elif any(strict):
        raise UnsupportedParameter("tools", f"{NAME} takes all tools as strict or none.")


def _function(function: Json) -> Json:
    described: Json = {
        "name": function.get("name"),
        "parameters": function.get("parameters") or {"type": "object", "properties": {}},
    }
    if function.get("description"):
        described["description"] = function["description"]
    return described


def _response_format(asked: Json | None, wire: Json) -> None:
    """https://docs.cohere.com/docs/structured-outputs"""
    match asked.get("type") if asked else None:
        case None | "text":
            return
        case "json_object":
            wire["response_format"] = {"type": "json_object"}
        case "json_schema" if asked and isinstance(asked.get("json_schema"), dict):
            schema = asked["json_schema"].get("schema", {})
            wire["response_format"] = {"type": "json_object", "json_schema": schema}
        case other:
            raise UnsupportedParameter("response_format", f"{NAME} cannot express the format '{other}'.")


def _thinking(body: Json, wire: Json) -> None:
    """An effort goes before another surface's `thinking`; an adaptive thinker gets no budget."""
    effort, thinking = body.get("reasoning_effort"), body.get("thinking")
    if effort == "none" or (effort is None and thinking and thinking.get("type") == "disabled"):
        wire["thinking"] = {"type": "disabled"}
    elif effort is not None:
        if effort not in BUDGETS_TOKENS:
            raise UnsupportedParameter("reasoning_effort", f"{NAME} has no effort '{effort}'.")
        wire["thinking"] = {"type": "enabled", "token_budget": BUDGETS_TOKENS[effort]}
    elif thinking:
        budget = thinking.get("budget_tokens")
        wire["thinking"] = {"type": "enabled", **({"token_budget": budget} if budget else {})}


def parse_reply(operation: Operation, request: Json, body: bytes, target: Target) -> Reply:
    """A message as a chat completion, or embeddings as OpenAI's list. Raises ProviderError."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise invalid_response("The provider's answer is not JSON.") from None
    if not isinstance(document, dict):
        raise invalid_response("The provider's answer is not a JSON object.")
    if operation is Operation.EMBEDDINGS:
        return _embeddings_reply(document, request, target.provider_model)
    message = document.get("message")
    if isinstance(message, str):
        raise _error_from(document, 200, {})
    if not isinstance(message, dict):
        raise invalid_response("The provider's answer has no message.")
    if broken := _broken(document):
        raise broken
    usage, usage_invalid = reply_usage(document.get("usage"), cohere_usage)
    reason = _finish_reason(document.get("finish_reason"))
    return Reply(
        body=chunks.completion(
            reply_id=str(document.get("id") or chunks.derived_id("cohere-", body)),
            model=target.provider_model,
            choices=[
                {"index": 0, "message": _our_message(message), "logprobs": None, "finish_reason": reason}
            ],
            usage=usage,
        ),
        usage=usage,
        model=target.provider_model,
        finish_reason=reason,
        usage_invalid=usage_invalid,
    )


def _embeddings_reply(document: Json, request: Json, model: str) -> Reply:
    by_type, meta = document.get("embeddings"), document.get("meta")
    vectors = by_type.get("float") if isinstance(by_type, dict) else None
    if not isinstance(vectors, list) or not vectors or not all(isinstance(row, list) for row in vectors):
        raise invalid_response("The provider's answer has no embeddings.")
    usage, usage_invalid = reply_usage(meta, cohere_usage)
    tokens = usage.input_tokens if usage else 0
    reply: Json = {
        "object": "list",
        "data": [
            {"object": "embedding", "index": position, "embedding": vector}
            for position, vector in enumerate(vectors)
        ],
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    try:
        embeddings_as(request.get("encoding_format"), reply)
    except ValueError as error:
        raise invalid_response(f"The provider's answer is not usable: {error}.") from None
    return Reply(body=orjson.dumps(reply), usage=usage, model=model, usage_invalid=usage_invalid)


def _finish_reason(reason: object) -> str | None:
    return FINISH_REASONS.get(reason, "stop") if isinstance(reason, str) and reason else None


def _broken(document: Json) -> ProviderError | None:
    reason = document.get("finish_reason")
    if not isinstance(reason, str) or reason not in BROKEN:
        return None
    told = document.get("error")
    message = safe_message(told) if isinstance(told, str) else ""
    return ProviderError(
        BROKEN[reason], message or f"{NAME} ended its answer with {reason}.", status=200, code=reason
    )


def _our_message(message: Json) -> Json:
    texts: list[str] = []
    thoughts: list[str] = []
    for part in content.objects(message.get("content")):
        if isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif isinstance(part.get("thinking"), str):
            thoughts.append(part["thinking"])
    if isinstance(message.get("tool_plan"), str):
        thoughts.append(message["tool_plan"])
    calls = [_our_call(call) for call in content.objects(message.get("tool_calls"))]
    text = "".join(texts)
    ours: Json = {"role": "assistant", "content": text or (None if calls else ""), "refusal": None}
    if calls:
        ours["tool_calls"] = calls
    if reasoning := "".join(thoughts):
        ours["reasoning_content"] = reasoning
    if citations := content.objects(message.get("citations")):
        ours["citations"] = citations
    return ours


def _our_call(call: Json) -> Json:
    function = _object(call, "function")
    arguments = function.get("arguments")
    return {
        "id": str(call.get("id")),
        "type": "function",
        "function": {
            "name": str(function.get("name")),
            "arguments": arguments if isinstance(arguments, str) and arguments else "{}",
        },
    }


def _object(holder: Json, name: str) -> Json:
    value = holder.get(name)
    return value if isinstance(value, dict) else {}


def parse_event(event: str, data: bytes, state: StreamState) -> Sequence[bytes]:
    """https://docs.cohere.com/docs/streaming; `message-end` is the end mark, what is unknown is passed over."""
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict):
        state.malformed += data != b"[DONE]"
        return ()
    delta = _object(document, "delta")
    message = _object(delta, "message")
    if document.get("id"):
        state.id = state.id or str(document["id"])
    state.id = state.id or chunks.derived_id("cohere-", data)
    match document.get("type"):
        case "message-start":
            return (chunks.chunk(state, {"role": "assistant", "content": "", "refusal": None}),)
        case "content-start" | "content-delta":
            piece = _object(message, "content")
            return (
                *_text("reasoning_content", piece.get("thinking"), state),
                *_text("content", piece.get("text"), state),
            )
        case "tool-plan-delta":
            return _text("reasoning_content", message.get("tool_plan"), state)
        case "tool-call-start" | "tool-call-delta" | "tool-call-end" as step:
            return _call_chunk(step, _object(message, "tool_calls"), state)
        case "citation-start":
            citation = _object(message, "citations")
            return (chunks.chunk(state, {"citations": [citation]}),) if citation else ()
        case "message-end":
            return _end(delta, state)
        case None if isinstance(document.get("message"), str):
            state.error = _error_from(document, 0, {})
    return ()


def _text(field: str, text: object, state: StreamState) -> Sequence[bytes]:
    if not isinstance(text, str) or not text:
        return ()
    chunks.count_content(state, text)
    return (chunks.chunk(state, {field: text}),)


def _call_chunk(step: str, call: Json, state: StreamState) -> Sequence[bytes]:
    """Calls come one after another; `scratch` holds how many began and whether the last has arguments."""
    scratch = state.scratch
    function = _object(call, "function")
    arguments = function.get("arguments")
    arguments = arguments if isinstance(arguments, str) else ""
    change: Json = {"function": {"arguments": arguments}}
    if step == "tool-call-start":
        scratch["calls"] = scratch.get("calls", 0) + 1
        scratch["empty"] = True
        change = {
            "id": str(call.get("id")),
            "type": "function",
            "function": {"name": str(function.get("name")), "arguments": arguments},
        }
    elif "calls" not in scratch:
        return ()
    elif step == "tool-call-end":
        if not scratch["empty"]:
            return ()
        # A call without arguments; "" is not JSON.
        arguments = change["function"]["arguments"] = "{}"
    elif not arguments:
        return ()
    scratch["empty"] = scratch["empty"] and not arguments
    chunks.count_content(state, arguments)
    return (chunks.chunk(state, {"tool_calls": [{"index": scratch["calls"] - 1, **change}]}),)


def _end(delta: Json, state: StreamState) -> Sequence[bytes]:
    if isinstance(delta.get("usage"), dict):
        record_usage(state, delta["usage"], cohere_usage)
    if broken := _broken(delta):
        state.error = broken
        return ()
    state.done = True
    reason = _finish_reason(delta.get("finish_reason"))
    if reason is None:
        return chunks.usage_chunk(state)
    state.finish_reason = reason
    return (chunks.chunk(state, {}, finish_reason=reason), *chunks.usage_chunk(state))


def classify_error(status: int, headers: Headers, body: bytes) -> ProviderError:
    error = error_object(body)
    return _error_from(error, status, headers) if error is not None else opaque_error(status, headers)


def _error_from(error: Json, status: int, headers: Headers) -> ProviderError:
    """Errors are a message and a status; 498 is a blocked key. https://docs.cohere.com/reference/errors"""
    message = str(error.get("message") or "")
    kind = ErrorKind.CREDENTIAL if status == 498 else kind_by_status(status)
    if kind is ErrorKind.INVALID_REQUEST and "too many tokens" in message.lower():
        kind = ErrorKind.CONTEXT_LENGTH
    return ProviderError(
        kind,
        safe_message(message) or default_message(status),
        status=status,
        retry_after_s=retry_after(headers),
    )
