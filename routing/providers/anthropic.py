"""Anthropic's Messages API in OpenAI's terms. Chat only: it has no completions and no embeddings.

Reasoning travels as `reasoning_content` and, with the signatures Anthropic wants back, as `thinking_blocks`
(names other gateways use too). https://docs.anthropic.com/en/api/messages
"""

from collections.abc import Mapping, Sequence

import orjson

from routing.providers import chunks, content
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
from routing.providers.usage import anthropic_usage, record_usage, reply_usage
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

NAME = "Anthropic"
DEFAULT_VERSION = "2023-06-01"
DEFAULT_MAX_TOKENS = 4096
"""`max_tokens` is required there; used when neither the request nor the catalogue says."""

EXPRESSIBLE = frozenset(
    {
        "messages", "max_tokens", "max_completion_tokens", "stop", "temperature", "top_p", "top_k",
        "tools", "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort", "thinking",
        "service_tier",
    }
)  # fmt: skip

FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "pause_turn": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}

EFFORTS = ("low", "medium", "high", "xhigh", "max")
BUDGETS_TOKENS = {"low": 1024, "medium": 8192, "high": 24576, "xhigh": 32768, "max": 65536}
"""Thinking budgets for models before adaptive thinking (option `thinking` = budget)."""

IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})

KINDS: Mapping[str, ErrorKind] = {
    "authentication_error": ErrorKind.CREDENTIAL,
    "permission_error": ErrorKind.CREDENTIAL,
    "billing_error": ErrorKind.CREDENTIAL,
    "not_found_error": ErrorKind.MODEL_NOT_FOUND,
    "request_too_large": ErrorKind.INVALID_REQUEST,
    "invalid_request_error": ErrorKind.INVALID_REQUEST,
    "rate_limit_error": ErrorKind.RATE_LIMITED,
    "api_error": ErrorKind.SERVER_ERROR,
    "timeout_error": ErrorKind.TIMEOUT,
    "gateway_timeout_error": ErrorKind.TIMEOUT,
    "overloaded_error": ErrorKind.OVERLOADED,
}
"""https://docs.anthropic.com/en/api/errors"""

_TELLING = (
    ("prompt is too long", ErrorKind.CONTEXT_LENGTH),
    ("exceed context limit", ErrorKind.CONTEXT_LENGTH),
    ("credit balance is too low", ErrorKind.CREDENTIAL),
    ("blocked by content filtering policy", ErrorKind.CONTENT_POLICY),
)
"""Failures Anthropic tells apart only by their text."""


def build_request(operation: Operation, body: Json, target: Target, *, stream: bool) -> WireRequest:
    """`options`: version (the `anthropic-version` header), beta (`anthropic-beta`), thinking.

    `thinking` says how the model takes `reasoning_effort`: adaptive (default), effort (the parameter alone)
    or budget (models older than Claude 4.6).
    """
    if operation is not Operation.CHAT:
        raise UnsupportedParameter("model", f"{NAME} does not offer {operation}.")
    chunks.refuse_inexpressible(body, EXPRESSIBLE, provider=NAME)
    system, messages = _messages(body["messages"])
    wire: Json = {
        "model": target.provider_model,
        "max_tokens": _max_tokens(body, target),
        "messages": messages,
    }
    if system:
        wire["system"] = system
    if stop := content.stop_list(body):
        wire["stop_sequences"] = stop
    _sampling(body, wire)
    _tools(body, wire)
    _reasoning(body, wire, mode=target.options.get("thinking", "adaptive"))
    _response_format(body, wire)
    if user := body.get("user") or body.get("safety_identifier"):
        wire["metadata"] = {"user_id": user}
    if stream:
        wire["stream"] = True
    headers = [
        *json_headers(stream=stream),
        ("x-api-key", target.api_key),
        ("anthropic-version", target.options.get("version", DEFAULT_VERSION)),
    ]
    if beta := target.options.get("beta"):
        headers.append(("anthropic-beta", beta))
    base = target.base_url if target.base_url.endswith("/v1") else f"{target.base_url}/v1"
    return WireRequest(url=f"{base}/messages", headers=tuple(headers), body=orjson.dumps(wire))


def _max_tokens(body: Json, target: Target) -> int:
    asked = body.get("max_completion_tokens") or body.get("max_tokens")
    return asked or target.max_output_tokens or DEFAULT_MAX_TOKENS


def _sampling(body: Json, wire: Json) -> None:
    temperature = body.get("temperature")
    if temperature is not None and temperature > 1:
        raise UnsupportedParameter("temperature", f"{NAME} takes a temperature of 0 to 1.")
    for name in ("temperature", "top_p", "top_k"):
        if body.get(name) is not None:
            wire[name] = body[name]
    tier = body.get("service_tier")
    if tier == "default":
        wire["service_tier"] = "standard_only"
    elif tier not in (None, "auto"):
        raise UnsupportedParameter("service_tier", f"{NAME} cannot express the service tier '{tier}'.")


def _messages(messages: list[Json]) -> tuple[list[Json], list[Json]]:
    """System blocks and turns. Neighbours of one role are joined: tool results must stand together."""
    system: list[Json] = []
    turns: list[Json] = []
    for message in messages:
        role = message.get("role")
        if role in ("system", "developer"):
            content.refuse_name(message, provider=NAME)
            system += _system_blocks(message)
            continue
        if role == "user":
            content.refuse_name(message, provider=NAME)
            blocks = [
                _user_block(part) for part in content.parts_of(message.get("content")) if not _is_empty(part)
            ]
        elif role == "assistant":
            content.refuse_name(message, provider=NAME)
            blocks = _assistant_blocks(message)
        elif role == "tool":
            role, blocks = "user", [_tool_result(message)]
        else:
            raise content.inexpressible(f"{NAME} has no role '{role}'.")
        if not blocks:
            continue
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
    if not turns:
        raise content.inexpressible(f"{NAME} needs at least one user message that is not empty.")
    return system, turns


def _is_empty(part: Json) -> bool:
    """Anthropic refuses empty text blocks; OpenAI takes them."""
    return part.get("type") == "text" and not part.get("text")


def _text_block(part: Json) -> Json:
    return _marked({"type": "text", "text": part["text"]}, part)


def _marked(block: Json, part: Json) -> Json:
    """With the part's cache mark. https://docs.anthropic.com/en/docs/build-with-claude/prompt-caching"""
    if "cache_control" in part:
        block["cache_control"] = part["cache_control"]
    return block


def _system_blocks(message: Json) -> list[Json]:
    content.text_of(message.get("content"), role="system")  # refuses anything but text
    return [_text_block(part) for part in content.parts_of(message.get("content")) if not _is_empty(part)]


def _user_block(part: Json) -> Json:
    match part.get("type"):
        case "text":
            return _text_block(part)
        case "image_url":
            return _image_block(part)
        case "file":
            return _document_block(part)
        case other:
            raise content.inexpressible(f"{NAME} cannot express a content part of type '{other}'.")


def _image_block(part: Json) -> Json:
    url = content.image_url(part, provider=NAME)
    inline = content.data_uri(url)
    if inline is None:
        return _marked({"type": "image", "source": {"type": "url", "url": url}}, part)
    media_type, data = inline
    if media_type not in IMAGE_TYPES:
        raise content.inexpressible(f"{NAME} does not take images of type {media_type}.")
    source = {"type": "base64", "media_type": media_type, "data": data}
    return _marked({"type": "image", "source": source}, part)


def _document_block(part: Json) -> Json:
    file = part.get("file")
    inline = content.data_uri(str(file.get("file_data", ""))) if isinstance(file, dict) else None
    if not isinstance(file, dict) or inline is None or inline[0] != "application/pdf":
        raise content.inexpressible(f"{NAME} takes files here only as inline PDF data.")
    block: Json = {
        "type": "document",
        "source": {"type": "base64", "media_type": "application/pdf", "data": inline[1]},
    }
    if file.get("filename"):
        block["title"] = file["filename"]
    return _marked(block, part)


def _assistant_blocks(message: Json) -> list[Json]:
    blocks: list[Json] = list(message.get("thinking_blocks") or ())
    content.text_of(message.get("content"), role="assistant")  # refuses anything but text
    blocks += [
        _text_block({"text": part.get("text", part.get("refusal")), **part})
        for part in content.parts_of(message.get("content"))
        if part.get("text") or part.get("refusal")
    ]
    if message.get("function_call") or message.get("audio"):
        raise content.inexpressible(f"{NAME} cannot express function_call or audio in a message.")
    blocks.extend(
        {
            "type": "tool_use",
            "id": call.get("id"),
            "input": content.tool_arguments(call),
            "name": call["function"].get("name"),
        }
        for call in message.get("tool_calls") or ()
    )
    return blocks


def _tool_result(message: Json) -> Json:
    raw = message.get("content")
    result = raw if isinstance(raw, str) else [_user_block(part) for part in content.parts_of(raw)]
    block: Json = {"type": "tool_result", "tool_use_id": message.get("tool_call_id"), "content": result}
    if message.get("is_error"):
        block["is_error"] = True
    return _marked(block, message)


def _tools(body: Json, wire: Json) -> None:
    functions = content.function_tools(body, provider=NAME)
    choice = body.get("tool_choice")
    if not functions:
        if choice not in (None, "none", "auto"):
            raise UnsupportedParameter("tool_choice", "tool_choice needs tools.")
        return
    wire["tools"] = [
        _marked(_tool(function), tool) for function, tool in zip(functions, body["tools"], strict=True)
    ]
    if choice is None and body.get("parallel_tool_calls") is not False:
        return
    if isinstance(choice, dict):
        wire_choice: Json = {"type": "tool", "name": content.chosen_function(choice, provider=NAME)}
    else:
        names = {None: "auto", "auto": "auto", "required": "any", "none": "none"}
        if choice not in names:
            raise UnsupportedParameter("tool_choice", f"{NAME} cannot express this tool_choice.")
        wire_choice = {"type": names[choice]}
    if body.get("parallel_tool_calls") is False and wire_choice["type"] != "none":
        wire_choice["disable_parallel_tool_use"] = True
    wire["tool_choice"] = wire_choice


def _tool(function: Json) -> Json:
    tool: Json = {
        "name": function.get("name"),
        "input_schema": function.get("parameters") or {"type": "object", "properties": {}},
    }
    if function.get("description"):
        tool["description"] = function["description"]
    if function.get("strict"):
        tool["strict"] = True
    return tool


def _reasoning(body: Json, wire: Json, *, mode: str) -> None:
    """https://docs.anthropic.com/en/docs/build-with-claude/effort"""
    if body.get("thinking") is not None:
        wire["thinking"] = body["thinking"]
    effort = body.get("reasoning_effort")
    if effort is None:
        return
    if effort == "none":
        wire["thinking"] = {"type": "disabled"}
        return
    if effort not in EFFORTS:
        raise UnsupportedParameter("reasoning_effort", f"{NAME} has no effort '{effort}'.")
    if mode != "budget":
        wire["output_config"] = {"effort": effort}
        if mode == "adaptive":
            wire.setdefault("thinking", {"type": "adaptive"})
        return
    budget = min(BUDGETS_TOKENS[effort], wire["max_tokens"] - 1)
    if budget < BUDGETS_TOKENS["low"]:
        raise UnsupportedParameter(
            "reasoning_effort", f"{NAME} cannot think within {wire['max_tokens']} tokens."
        )
    wire["thinking"] = {"type": "enabled", "budget_tokens": budget}


def _response_format(body: Json, wire: Json) -> None:
    """https://docs.anthropic.com/en/docs/build-with-claude/structured-outputs"""
    asked = body.get("response_format")
    if asked is None or asked.get("type") == "text":
        return
    described = asked.get("json_schema")
    if asked.get("type") != "json_schema" or not isinstance(described, dict) or "schema" not in described:
        raise UnsupportedParameter("response_format", f"{NAME} only takes the response format json_schema.")
    wire.setdefault("output_config", {})["format"] = {"type": "json_schema", "schema": described["schema"]}


def parse_reply(operation: Operation, request: Json, body: bytes, target: Target) -> Reply:
    """A message as a chat completion. Raises ProviderError."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise invalid_response("The provider's answer is not JSON.") from None
    if isinstance(document, dict) and isinstance(document.get("error"), dict):
        raise _error_from(document["error"], 200, {})
    if not isinstance(document, dict) or not isinstance(document.get("content"), list):
        raise invalid_response("The provider's answer is not a message.")
    usage, usage_invalid = reply_usage(document.get("usage"), anthropic_usage)
    message = _message(document["content"])
    reason = _finish_reason(document.get("stop_reason"))
    model = str(document.get("model") or target.provider_model)
    return Reply(
        body=chunks.completion(
            reply_id=str(document.get("id") or chunks.derived_id("msg_", body)),
            model=model,
            choices=[{"index": 0, "message": message, "logprobs": None, "finish_reason": reason}],
            usage=usage,
        ),
        usage=usage,
        model=model,
        finish_reason=reason,
        usage_invalid=usage_invalid,
    )


def _finish_reason(stop_reason: object) -> str | None:
    return FINISH_REASONS.get(str(stop_reason), "stop") if stop_reason is not None else None


def _message(blocks: list[Json]) -> Json:
    texts, thoughts, thinking, calls = [], [], [], []
    for block in blocks:
        match block.get("type") if isinstance(block, dict) else None:
            case "text":
                texts.append(str(block.get("text", "")))
            case "thinking":
                thoughts.append(str(block.get("thinking", "")))
                thinking.append(block)
            case "redacted_thinking":
                thinking.append(block)
            case "tool_use":
                calls.append(_tool_call(block))
            case None:
                raise invalid_response("The provider's answer has a content block without a type.")
            case _:  # blocks of server tools, which are never asked for here
                continue
    message: Json = {"role": "assistant", "content": "".join(texts) if texts else None, "refusal": None}
    if calls:
        message["tool_calls"] = calls
    if any(thoughts):
        message["reasoning_content"] = "".join(thoughts)
    if thinking:
        message["thinking_blocks"] = thinking
    return message


def _tool_call(block: Json) -> Json:
    arguments = orjson.dumps(block.get("input") or {}).decode()
    return {
        "id": block.get("id"),
        "type": "function",
        "function": {"name": block.get("name"), "arguments": arguments},
    }


def parse_event(event: str, data: bytes, state: StreamState) -> Sequence[bytes]:
    """Events of unknown types are passed over. https://docs.anthropic.com/en/docs/build-with-claude/streaming"""
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        state.malformed += 1
        return ()
    if not isinstance(document, dict):
        state.malformed += 1
        return ()
    match document.get("type") or event:
        case "message_start":
            return _start(document, state)
        case "content_block_start":
            return _block_start(document, state)
        case "content_block_delta":
            return _block_delta(document, state)
        case "content_block_stop":
            return _block_stop(document, state)
        case "message_delta":
            return _message_delta(document, state)
        case "message_stop":
            state.done = True
            return chunks.usage_chunk(state)
        case "error":
            error = document.get("error")
            state.error = _error_from(error if isinstance(error, dict) else document, 0, {})
    return ()


def _object(document: Json, name: str) -> Json:
    value = document.get(name)
    return value if isinstance(value, dict) else {}


def _start(document: Json, state: StreamState) -> Sequence[bytes]:
    message = _object(document, "message")
    state.id = str(message.get("id") or state.id or chunks.derived_id("msg_", orjson.dumps(document)))
    if message.get("model"):
        state.served_model = str(message["model"])
    # Not state.usage yet: the output count here is a beginning, and a cut stream must not look counted.
    state.scratch["usage"] = dict(_object(message, "usage"))
    return (chunks.chunk(state, {"role": "assistant", "content": "", "refusal": None}),)


def _block_start(document: Json, state: StreamState) -> Sequence[bytes]:
    block = _object(document, "content_block")
    blocks = state.scratch.setdefault("blocks", {})
    kept: Json = {"type": block.get("type")}
    blocks[str(document.get("index"))] = kept
    match kept["type"]:
        case "text":
            return _text_delta("content", block.get("text"), state)
        case "thinking":
            kept |= {name: str(block.get(name) or "") for name in ("thinking", "signature")}
            return _text_delta("reasoning_content", block.get("thinking"), state)
        case "redacted_thinking":
            kept["data"] = block.get("data")
        case "tool_use":
            kept["position"] = state.scratch["calls"] = state.scratch.get("calls", -1) + 1
            kept["empty"] = True
            name = str(block.get("name"))
            chunks.count_content(state, name)
            call = {
                "index": kept["position"],
                "id": block.get("id"),
                "type": "function",
                "function": {"name": name, "arguments": ""},
            }
            return (chunks.chunk(state, {"tool_calls": [call]}),)
    return ()


def _text_delta(field: str, text: object, state: StreamState) -> Sequence[bytes]:
    if not isinstance(text, str) or not text:
        return ()
    chunks.count_content(state, text)
    return (chunks.chunk(state, {field: text}),)


def _block_delta(document: Json, state: StreamState) -> Sequence[bytes]:
    delta = _object(document, "delta")
    kept = state.scratch.get("blocks", {}).get(str(document.get("index")), {})
    match delta.get("type"):
        case "text_delta":
            return _text_delta("content", delta.get("text"), state)
        case "thinking_delta":
            kept["thinking"] = kept.get("thinking", "") + str(delta.get("thinking", ""))
            return _text_delta("reasoning_content", delta.get("thinking"), state)
        case "signature_delta":
            kept["signature"] = str(delta.get("signature", ""))
        case "input_json_delta":
            return _arguments_delta(kept, delta.get("partial_json"), state)
    return ()


def _arguments_delta(kept: Json, text: object, state: StreamState) -> Sequence[bytes]:
    if not isinstance(text, str) or not text or "position" not in kept:
        return ()
    kept["empty"] = False
    chunks.count_content(state, text)
    return (
        chunks.chunk(state, {"tool_calls": [{"index": kept["position"], "function": {"arguments": text}}]}),
    )


def _block_stop(document: Json, state: StreamState) -> Sequence[bytes]:
    kept = state.scratch.get("blocks", {}).pop(str(document.get("index")), {})
    match kept.get("type"):
        case "tool_use" if kept["empty"]:  # a call without arguments sends no delta; "" is not JSON
            return _arguments_delta(kept, "{}", state)
        case "thinking" | "redacted_thinking":
            return (chunks.chunk(state, {"thinking_blocks": [kept]}),)
    return ()


def _message_delta(document: Json, state: StreamState) -> Sequence[bytes]:
    usage = state.scratch.setdefault("usage", {})
    usage.update({name: count for name, count in _object(document, "usage").items() if count is not None})
    record_usage(state, usage, anthropic_usage)
    reason = _finish_reason(_object(document, "delta").get("stop_reason"))
    if reason is None:
        return ()
    state.finish_reason = reason
    return (chunks.chunk(state, {}, finish_reason=reason),)


def classify_error(status: int, headers: Headers, body: bytes) -> ProviderError:
    error = error_object(body)
    return _error_from(error, status, headers) if error is not None else opaque_error(status, headers)


def _error_from(error: Json, status: int, headers: Headers) -> ProviderError:
    type_ = error.get("type")
    message = str(error.get("message") or "")
    kind = next((kind for words, kind in _TELLING if words in message.lower()), None)
    if kind is None:
        kind = KINDS.get(str(type_)) or kind_by_status(status)
    return ProviderError(
        kind,
        safe_message(message) or default_message(status),
        status=status,
        code=type_ if isinstance(type_, str) else None,
        retry_after_s=retry_after(headers),
    )
