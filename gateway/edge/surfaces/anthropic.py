"""Anthropic's Messages API, as its SDKs and command-line agents speak it, over any provider's chat.

Thinking blocks, cache marks and failed tool results ride through in fields of the chat body that Anthropic's own
adapter understands (`thinking_blocks`, `cache_control`, `is_error`); `routing.providers.openai` takes out what
others refuse. https://docs.anthropic.com/en/api/messages
"""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from gateway.edge.surfaces.reading import bad, inexpressible
from gateway.edge.surfaces.types import EVENTS
from routing.providers.portable import SURFACE
from routing.types import Json
from tenants.errors import ApiError

FIELDS = frozenset(
    {
        "model", "messages", "max_tokens", "system", "stream", "stop_sequences", "temperature", "top_p", "top_k",
        "tools", "tool_choice", "thinking", "metadata", "service_tier", "output_config", "provider",
    }
)  # fmt: skip

MAX_STOPS = 4  # as many as OpenAI's dialect has room for

STOP_REASONS: Mapping[str, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}

ERROR_TYPES: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    502: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""https://docs.anthropic.com/en/api/errors"""

PING = b'event: ping\ndata: {"type":"ping"}\n\n'


# ------------------------------------------------------------------ requests


def read(body: Json) -> Json:
    """A Messages request as a chat body. Raises ApiError: invalid_request, unsupported_parameter."""
    for name, value in body.items():
        if name not in FIELDS and value is not None:
            raise inexpressible(name, f"The parameter {name!r} cannot be expressed here.")
    if type(body.get("max_tokens")) is not int or body["max_tokens"] < 1:
        raise bad("max_tokens", "max_tokens must be a positive integer.")
    chat: Json = {
        "model": body.get("model"),
        "messages": [*_system(body.get("system")), *_messages(body.get("messages"))],
        "max_tokens": body["max_tokens"],
    }
    chat[SURFACE] = "anthropic"
    for name in ("stream", "temperature", "top_p", "top_k", "provider"):
        if body.get(name) is not None:
            chat[name] = body[name]
    if stops := body.get("stop_sequences"):
        if isinstance(stops, list) and len(stops) > MAX_STOPS:
            raise inexpressible(
                "stop_sequences", f"More than {MAX_STOPS} stop sequences cannot be expressed here."
            )
        chat["stop"] = stops
    _tools(body, chat)
    _thinking(body, chat)
    _output_config(body, chat)
    _service_tier(body, chat)
    metadata = body.get("metadata")
    if metadata is not None:
        if not isinstance(metadata, dict):
            raise bad("metadata", "metadata must be an object.")
        if metadata.get("user_id") is not None:
            chat["user"] = metadata["user_id"]
    return chat


def _system(system: Any) -> Iterable[Json]:
    if system is None or system == "":
        return
    if isinstance(system, str):
        yield {"role": "system", "content": system}
        return
    if not isinstance(system, list):
        raise bad("system", "system must be a string or an array of text blocks.")
    parts = [_text(block, f"system[{number}]") for number, block in enumerate(system)]
    if parts:
        yield {"role": "system", "content": parts}


def _messages(messages: Any) -> Iterable[Json]:
    if not isinstance(messages, list) or not messages:
        raise bad("messages", "messages must be a non-empty array.")
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if not isinstance(message, dict) or message.get("role") not in ("user", "assistant", "system"):
            raise bad(f"{where}.role", "role must be user or assistant.")
        content = message.get("content")
        if isinstance(content, str):
            yield {"role": message["role"], "content": content}
            continue
        if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
            raise bad(f"{where}.content", "content must be a string or an array of blocks.")
        if message["role"] == "assistant":
            yield _assistant(content, f"{where}.content")
        else:
            yield from _user(content, f"{where}.content", role=message["role"])


def _user(blocks: list[Json], where: str, *, role: str) -> Iterable[Json]:
    """Tool results are messages of their own in a chat, and stand before what the user adds."""
    parts = []
    for number, block in enumerate(blocks):
        here = f"{where}[{number}]"
        if block.get("type") == "tool_result":
            yield _tool_result(block, here)
        else:
            parts.append(_part(block, here))
    if parts:
        yield {"role": role, "content": parts}


def _part(block: Json, where: str) -> Json:
    match block.get("type"):
        case "text":
            return _text(block, where)
        case "image":
            return _image(block, where)
        case "document":
            return _document(block, where)
        case None:
            raise bad(where, "a content block needs a type.")
        case other:
            raise inexpressible(where, f"A content block of type {other!r} cannot be expressed here.")


def _text(block: Any, where: str) -> Json:
    if not isinstance(block, dict) or block.get("type") != "text" or not isinstance(block.get("text"), str):
        raise bad(where, "expected a text block.")
    return _marked({"type": "text", "text": block["text"]}, block)


def _marked(part: Json, block: Json) -> Json:
    """Carry the block's cache mark, which only Anthropic's adapter can use and nobody needs for the answer."""
    if block.get("cache_control") is not None:
        part["cache_control"] = block["cache_control"]
    return part


def _source(block: Json) -> Json:
    source = block.get("source")
    return source if isinstance(source, dict) else {}


def _image(block: Json, where: str) -> Json:
    source = _source(block)
    match source.get("type"):
        case "base64":
            url = f"data:{source.get('media_type')};base64,{source.get('data')}"
        case "url":
            url = str(source.get("url"))
        case _:
            raise inexpressible(f"{where}.source", "An image comes inline (base64) or by its address.")
    return _marked({"type": "image_url", "image_url": {"url": url}}, block)


def _document(block: Json, where: str) -> Json:
    source = _source(block)
    match source.get("type"):
        case "text":
            return _marked({"type": "text", "text": str(source.get("data", ""))}, block)
        case "base64":
            file = {"file_data": f"data:{source.get('media_type')};base64,{source.get('data')}"}
            if block.get("title"):
                file["filename"] = block["title"]
            return _marked({"type": "file", "file": file}, block)
    raise inexpressible(f"{where}.source", "A document comes as text or inline (base64).")


def _tool_result(block: Json, where: str) -> Json:
    if not isinstance(block.get("tool_use_id"), str):
        raise bad(f"{where}.tool_use_id", "a tool result names its tool_use_id.")
    content = block.get("content")
    if isinstance(content, list):
        content = [
            _part(part, f"{where}.content[{number}]") if isinstance(part, dict) else part
            for number, part in enumerate(content)
        ]
    message: Json = {"role": "tool", "tool_call_id": block["tool_use_id"], "content": content or ""}
    if block.get("is_error"):
        message["is_error"] = True
    return _marked(message, block)


def _assistant(blocks: list[Json], where: str) -> Json:
    texts, calls, thinking = [], [], []
    for number, block in enumerate(blocks):
        here = f"{where}[{number}]"
        match block.get("type"):
            case "text":
                texts.append(_text(block, here))
            case "thinking" | "redacted_thinking":
                thinking.append(block)
            case "tool_use":
                if not isinstance(block.get("input"), dict) or not isinstance(block.get("name"), str):
                    raise bad(here, "a tool_use block has a name and an input object.")
                arguments = orjson.dumps(block["input"]).decode()
                calls.append(
                    {
                        "id": block.get("id"),
                        "type": "function",
                        "function": {"name": block["name"], "arguments": arguments},
                    }
                )
            case other:
                raise inexpressible(here, f"A content block of type {other!r} cannot be expressed here.")
    message: Json = {"role": "assistant", "content": texts or None}
    if calls:
        message["tool_calls"] = calls
    if thinking:
        message["thinking_blocks"] = thinking
    return message


def _tools(body: Json, chat: Json) -> None:
    tools = body.get("tools")
    if tools is not None:
        if not isinstance(tools, list):
            raise bad("tools", "tools must be an array.")
        chat["tools"] = [_tool(tool, f"tools[{number}]") for number, tool in enumerate(tools)]
    choice = body.get("tool_choice")
    if choice is None:
        return
    if not isinstance(choice, dict):
        raise bad("tool_choice", "tool_choice must be an object.")
    if choice.get("disable_parallel_tool_use"):
        chat["parallel_tool_calls"] = False
    match choice.get("type"):
        case "auto" | "none" as kind:
            chat["tool_choice"] = kind
        case "any":
            chat["tool_choice"] = "required"
        case "tool":
            chat["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
        case _:
            raise bad("tool_choice.type", "tool_choice.type must be auto, any, tool or none.")


def _tool(tool: Any, where: str) -> Json:
    if not isinstance(tool, dict) or not isinstance(tool.get("name"), str):
        raise bad(where, "a tool needs a name.")
    if tool.get("type") not in (None, "custom"):
        raise inexpressible(
            where, f"Tools of type {tool['type']!r} run at the provider and cannot be expressed."
        )
    function: Json = {"name": tool["name"], "parameters": tool.get("input_schema")}
    for name in ("description", "strict"):
        if tool.get(name) is not None:
            function[name] = tool[name]
    return _marked({"type": "function", "function": function}, tool)


def _thinking(body: Json, chat: Json) -> None:
    thinking = body.get("thinking")
    if thinking is None:
        return
    if not isinstance(thinking, dict) or thinking.get("type") not in ("enabled", "adaptive", "disabled"):
        raise bad("thinking", "thinking must be an object of type enabled, adaptive or disabled.")
    budget = thinking.get("budget_tokens")
    if thinking["type"] == "enabled" and (type(budget) is not int or not 1024 <= budget < body["max_tokens"]):
        raise bad("thinking.budget_tokens", "budget_tokens must be at least 1024 and less than max_tokens.")
    if thinking["type"] != "disabled":
        chat["thinking"] = thinking


def _output_config(body: Json, chat: Json) -> None:
    config = body.get("output_config")
    if config is None:
        return
    if not isinstance(config, dict) or config.keys() - {"effort", "format"}:
        raise inexpressible("output_config", "output_config takes effort and format here.")
    if config.get("effort") is not None:
        chat["reasoning_effort"] = config["effort"]
    wanted = config.get("format")
    if wanted is not None:
        if not isinstance(wanted, dict) or wanted.get("type") != "json_schema":
            raise bad("output_config.format", "format must be of type json_schema.")
        schema = {"name": "answer", "schema": wanted.get("schema"), "strict": True}
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}


def _service_tier(body: Json, chat: Json) -> None:
    match body.get("service_tier"):
        case None | "auto":
            return
        case "standard_only":
            chat["service_tier"] = "default"
        case _:
            raise bad("service_tier", "service_tier must be auto or standard_only.")


# ------------------------------------------------------------------ answers


def reply(body: bytes, asked: Json) -> bytes:
    """A chat completion as a message."""
    document = orjson.loads(body)
    choice = document["choices"][0]
    return orjson.dumps(
        {
            "id": _message_id(document.get("id")),
            "type": "message",
            "role": "assistant",
            "model": document.get("model"),
            "content": list(_blocks(choice.get("message") or {})),
            "stop_reason": _stop_reason(choice.get("finish_reason")),
            "stop_sequence": None,
            "usage": _usage(document.get("usage")),
        }
    )


def _blocks(message: Json) -> Iterable[Json]:
    thinking = message.get("thinking_blocks")
    if thinking:
        yield from thinking
    elif message.get("reasoning_content"):
        yield {"type": "thinking", "thinking": message["reasoning_content"], "signature": ""}
    if text := message.get("content") or message.get("refusal"):
        yield {"type": "text", "text": text}
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {}
        yield {
            "type": "tool_use",
            "id": call.get("id"),
            "name": function.get("name"),
            "input": _arguments(function.get("arguments")),
        }


def _arguments(text: Any) -> Json:
    """A model may write arguments that are no object; they are handed on under a name of ours, not lost."""
    try:
        value = orjson.loads(text or "{}")
    except orjson.JSONDecodeError:
        value = None
    return value if isinstance(value, dict) else {"unparsed": text}


def _message_id(given: object) -> str:
    text = str(given or "")
    return text if text.startswith("msg_") else f"msg_{text}"


def _stop_reason(reason: object) -> str | None:
    return None if reason is None else STOP_REASONS.get(str(reason), "end_turn")


def _usage(usage: Any) -> Json:
    """Anthropic counts cached input beside plain input, OpenAI inside it."""
    counts: Json = usage if isinstance(usage, dict) else {}
    details = counts.get("prompt_tokens_details") or {}
    read_, written = details.get("cached_tokens") or 0, details.get("cache_write_tokens") or 0
    return {
        "input_tokens": max(0, (counts.get("prompt_tokens") or 0) - read_ - written),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read_,
        "output_tokens": counts.get("completion_tokens") or 0,
    }


def error(error: ApiError, *, request_id: str) -> Json:
    """Anthropic's error object, with our code and parameter beside it."""
    return {
        "type": "error",
        "error": {
            "type": ERROR_TYPES.get(error.status, "invalid_request_error"),
            "message": error.message,
            "code": error.code,
            "param": error.param,
        },
        "request_id": request_id,
    }


# ------------------------------------------------------------------ streams


def voice(asked: Json, *, request_id: str) -> "MessagesVoice":
    """Server-sent events: https://docs.anthropic.com/en/docs/build-with-claude/streaming"""
    return MessagesVoice(asked, request_id)


class MessagesVoice:
    """Opens and closes content blocks as the kind of content changes; one block is open at a time."""

    content_type = EVENTS
    __slots__ = ("_index", "_is_told", "_kind", "_model", "_out", "_reason", "_request_id", "_tool")

    def __init__(self, asked: Json, request_id: str) -> None:
        self._model = asked.get("model")
        self._request_id = request_id
        self._out: list[bytes] = []
        self._index = -1
        self._kind = ""  # of the open block, "" between blocks
        self._tool = -1  # the chat's index of the open tool call
        self._reason: str | None = None
        self._is_told = False

    def opening(self) -> bytes:
        return b""

    def keep_alive(self) -> bytes:
        return PING

    def chunk(self, chunk: Json) -> bytes:
        if not self._is_told:
            self._start(chunk)
        for choice in chunk.get("choices") or ():
            if choice.get("index", 0) == 0:
                self._delta(choice.get("delta") or {})
                self._reason = _stop_reason(choice.get("finish_reason")) or self._reason
        return self._take()

    def broken(self, error_: ApiError) -> bytes:
        self._event("error", error(error_, request_id=self._request_id))
        return self._take()

    def end(self, usage: Json) -> bytes:
        if not self._is_told:
            self._start({})
        self._close()
        self._event(
            "message_delta",
            {
                "delta": {"stop_reason": self._reason or "end_turn", "stop_sequence": None},
                "usage": {**_usage(usage), "tollhouse": usage.get("tollhouse")},
            },
        )
        self._event("message_stop", {})
        return self._take()

    # -- blocks

    def _delta(self, delta: Json) -> None:
        if text := delta.get("reasoning_content"):
            self._open("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            self._piece({"type": "thinking_delta", "thinking": text})
        for block in delta.get("thinking_blocks") or ():
            self._sign(block)
        if text := delta.get("content") or delta.get("refusal"):
            self._open("text", {"type": "text", "text": ""})
            self._piece({"type": "text_delta", "text": text})
        for call in delta.get("tool_calls") or ():
            self._call(call)

    def _sign(self, block: Json) -> None:
        """A whole thinking block: the text of an open one has been shown, its signature closes it."""
        if block.get("type") == "redacted_thinking":
            self._open("redacted_thinking", block)
        else:
            if self._kind != "thinking":
                self._open("thinking", {"type": "thinking", "thinking": "", "signature": ""})
                if block.get("thinking"):
                    self._piece({"type": "thinking_delta", "thinking": block["thinking"]})
            self._piece({"type": "signature_delta", "signature": block.get("signature") or ""})
        self._close()

    def _call(self, call: Json) -> None:
        function = call.get("function") or {}
        position = call.get("index", 0)
        if self._kind != "tool_use" or self._tool != position:
            self._close()
            self._tool = position
            self._open(
                "tool_use",
                {"type": "tool_use", "id": call.get("id"), "name": function.get("name"), "input": {}},
            )
        if text := function.get("arguments"):
            self._piece({"type": "input_json_delta", "partial_json": text})

    def _open(self, kind: str, block: Json) -> None:
        if self._kind == kind:
            return
        self._close()
        self._kind = kind
        self._index += 1
        self._event("content_block_start", {"index": self._index, "content_block": block})

    def _piece(self, delta: Json) -> None:
        self._event("content_block_delta", {"index": self._index, "delta": delta})

    def _close(self) -> None:
        if self._kind:
            self._event("content_block_stop", {"index": self._index})
            self._kind = ""

    # -- events

    def _start(self, chunk: Json) -> None:
        self._is_told = True
        message: Json = {
            "id": _message_id(chunk.get("id") or self._request_id),
            "type": "message",
            "role": "assistant",
            "model": chunk.get("model") or self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _usage(None),
        }
        self._event("message_start", {"message": message})

    def _event(self, name: str, data: Json) -> None:
        self._out.append(b"event: %s\ndata: %s\n\n" % (name.encode(), orjson.dumps({"type": name, **data})))

    def _take(self) -> bytes:
        taken = b"".join(self._out)
        self._out.clear()
        return taken
