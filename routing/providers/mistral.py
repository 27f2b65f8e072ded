"""Mistral's API in OpenAI's terms: OpenAI's dialect with its own words for seeds, tools, thoughts and ends.

It refuses fields it does not know, so a request is written anew, never passed on; an answer is put into
OpenAI's words and then read by the OpenAI dialect, which must never see Mistral's lists of content.
https://docs.mistral.ai/api
"""

import re
from collections.abc import Sequence
from hashlib import blake2s

import orjson

from routing.providers import chunks, content, openai
from routing.providers.errors import (
    default_message,
    error_object,
    invalid_response,
    openai_error,
    openai_error_from,
    safe_message,
)
from routing.providers.portable import portable
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

NAME = "Mistral"

EXPRESSIBLE = frozenset(
    {
        "messages", "max_tokens", "max_completion_tokens", "stop", "temperature", "top_p", "seed",
        "presence_penalty", "frequency_penalty", "tools", "tool_choice", "parallel_tool_calls",
        "response_format", "reasoning_effort",
    }
)  # fmt: skip

PLAIN_SETTINGS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "stop": "stop",
    "seed": "random_seed",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "response_format": "response_format",
}

MAX_TEMPERATURE = 1.5
GRADED_EFFORTS = ("none", "high")
"""What `reasoning_effort` takes. https://docs.mistral.ai/capabilities/reasoning"""

_CALL_ID = re.compile(r"[a-zA-Z0-9]{9}", re.ASCII)
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

_MARKS = (b'"content":[', b'"content": [', b'"tool_calls"', b'"model_length"', b'"error"')
"""Only an answer with one of these says anything in other words than OpenAI's."""

_KINDS = {
    "invalid_model": ErrorKind.MODEL_NOT_FOUND,
    "service_tier_capacity_exceeded": ErrorKind.RATE_LIMITED,
}


def build_request(operation: Operation, body: Json, target: Target, *, stream: bool) -> WireRequest:
    """`options`: safe_prompt (`true` puts Mistral's safety prompt before the conversation)."""
    if operation is Operation.CHAT:
        wire = _chat(body, target, stream=stream)
    elif operation is Operation.EMBEDDINGS:
        wire = _embeddings(body, target)
    else:
        raise UnsupportedParameter("model", f"{NAME} does not offer {operation}.")
    return WireRequest(
        url=target.base_url + openai.PATHS[operation],
        headers=(*openai.json_headers(stream=stream), ("authorization", f"Bearer {target.api_key}")),
        body=orjson.dumps(wire),
    )


def _embeddings(body: Json, target: Target) -> Json:
    chunks.refuse_inexpressible(body, {"input", "dimensions", "encoding_format"}, provider=NAME)
    raw = body["input"]
    texts = [raw] if isinstance(raw, str) else raw
    if not all(isinstance(text, str) for text in texts):
        raise UnsupportedParameter("input", f"{NAME} takes text, not tokens.")
    wire: Json = {"model": target.provider_model, "input": texts}
    if body.get("dimensions"):
        wire["output_dimension"] = body["dimensions"]
    return wire


def _chat(body: Json, target: Target, *, stream: bool) -> Json:
    plain = portable(body, target)
    chunks.refuse_inexpressible(plain, EXPRESSIBLE, provider=NAME)
    temperature = plain.get("temperature")
    if temperature is not None and temperature > MAX_TEMPERATURE:
        raise UnsupportedParameter("temperature", f"{NAME} takes a temperature of 0 to {MAX_TEMPERATURE}.")
    wire: Json = {"model": target.provider_model, "messages": _messages(plain["messages"])}
    for ours, theirs in PLAIN_SETTINGS.items():
        if plain.get(ours) is not None:
            wire[theirs] = plain[ours]
    if limit := plain.get("max_completion_tokens") or plain.get("max_tokens"):
        wire["max_tokens"] = limit
    _tools(plain, wire)
    if effort := plain.get("reasoning_effort"):
        _reasoning(effort, wire)
    if target.options.get("safe_prompt") == "true":
        wire["safe_prompt"] = True
    if stream:
        wire["stream"] = True
    return wire


def _messages(messages: list[Json]) -> list[Json]:
    turns = [_message(message) for message in messages]
    if turns and turns[-1]["role"] not in ("user", "tool"):
        # Its own way to continue an assistant's turn (`prefix`) repeats the beginning in the answer.
        raise content.inexpressible(f"{NAME} answers only to a user's message or a tool's result.")
    return turns


def _message(message: Json) -> Json:
    role = message.get("role")
    if role in ("system", "developer"):
        content.refuse_name(message, provider=NAME)
        return {"role": "system", "content": content.text_of(message.get("content"), role="system")}
    if role == "user":
        content.refuse_name(message, provider=NAME)
        raw = message.get("content")
        if isinstance(raw, str):
            return {"role": "user", "content": raw}
        return {"role": "user", "content": [_part(part) for part in content.parts_of(raw)]}
    if role == "assistant":
        return _assistant(message)
    if role == "tool":
        return {
            "role": "tool",
            "tool_call_id": call_id(message.get("tool_call_id")),
            "content": content.text_of(message.get("content"), role="tool"),
        }
    raise content.inexpressible(f"{NAME} has no role '{role}'.")


def _part(part: Json) -> Json:
    if part.get("type") == "text":
        return {"type": "text", "text": part.get("text")}
    if part.get("type") == "image_url":
        return {"type": "image_url", "image_url": content.image_url(part, provider=NAME)}
    raise content.inexpressible(f"{NAME} cannot express a content part of type '{part.get('type')}' here.")


def _assistant(message: Json) -> Json:
    content.refuse_name(message, provider=NAME)
    if message.get("function_call") or message.get("audio"):
        raise content.inexpressible(f"{NAME} cannot express function_call or audio in a message.")
    turn: Json = {
        "role": "assistant",
        "content": content.text_of(message.get("content"), role="assistant"),
    }
    if calls := message.get("tool_calls"):
        turn["tool_calls"] = [
            {
                "id": call_id(call.get("id")),
                "type": "function",
                "function": {
                    "name": call["function"].get("name"),
                    "arguments": orjson.dumps(content.tool_arguments(call)).decode(),
                },
            }
            for call in calls
        ]
    return turn


def call_id(ours: object) -> str:
    """An id in Mistral's form, nine letters and digits; the same for a call and its result.

    Ids of other providers are hashed into it: 62 to the ninth keeps those of one conversation apart.
    """
    text = str(ours)
    if _CALL_ID.fullmatch(text):
        return text
    number = int.from_bytes(blake2s(text.encode("utf-8", "surrogatepass"), digest_size=16).digest())
    digits = []
    for _ in range(9):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(digits)


def _tools(body: Json, wire: Json) -> None:
    functions = content.function_tools(body, provider=NAME)
    choice = body.get("tool_choice")
    if not functions:
        if choice not in (None, "none", "auto"):
            raise UnsupportedParameter("tool_choice", "tool_choice needs tools.")
        return
    wire["tools"] = [{"type": "function", "function": _function(function)} for function in functions]
    if isinstance(choice, dict):
        name = content.chosen_function(choice, provider=NAME)
        wire["tool_choice"] = {"type": "function", "function": {"name": name}}
    elif choice is not None:
        names = {"auto": "auto", "none": "none", "required": "any"}
        if choice not in names:
            raise UnsupportedParameter("tool_choice", f"{NAME} cannot express this tool_choice.")
        wire["tool_choice"] = names[choice]
    if body.get("parallel_tool_calls") is not None:
        wire["parallel_tool_calls"] = body["parallel_tool_calls"]


def _function(function: Json) -> Json:
    described: Json = {
        "name": function.get("name"),
        "parameters": function.get("parameters") or {"type": "object", "properties": {}},
    }
    for name in ("description", "strict"):
        if function.get(name):
            described[name] = function[name]
    return described


def _reasoning(effort: str, wire: Json) -> None:
    """Magistral thinks with one strength or (unknown to it) not; later models take the effort itself."""
    if wire["model"].startswith("magistral"):
        if effort == "none":
            raise UnsupportedParameter("reasoning_effort", f"{wire['model']} always thinks.")
        wire["prompt_mode"] = "reasoning"
    elif effort in GRADED_EFFORTS:
        wire["reasoning_effort"] = effort
    else:
        raise UnsupportedParameter("reasoning_effort", f"{NAME} has no effort '{effort}'.")


def parse_reply(operation: Operation, request: Json, body: bytes, target: Target) -> Reply:
    """The reply in OpenAI's words. Raises ProviderError."""
    if operation is Operation.CHAT and any(mark in body for mark in _MARKS):
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise invalid_response("The provider's answer is not JSON.") from None
        if isinstance(document, dict):
            if document.get("object") == "error":
                raise _error_from(document, 200, {})
            if broken := _put_plainly(document, "message"):
                raise broken
            body = orjson.dumps(document)
    return openai.parse_reply(operation, request, body, target)


def parse_event(event: str, data: bytes, state: StreamState) -> Sequence[bytes]:
    """Forwards what is in OpenAI's words already; rewrites lists of content, tool calls and ends."""
    if not any(mark in data for mark in _MARKS):
        return openai.parse_event(event, data, state)
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        state.malformed += 1
        return ()
    if isinstance(document, dict) and (broken := _put_plainly(document, "delta")):
        state.error = broken
        return ()
    return openai.parse_event(event, orjson.dumps(document), state)


def _put_plainly(document: Json, holder: str) -> ProviderError | None:
    """Rewrite the choices in place; an answer that ended in an error is none."""
    for choice in content.objects(document.get("choices")):
        if choice.get("finish_reason") == "error":
            return ProviderError(
                ErrorKind.INVALID_RESPONSE,
                f"{NAME} ended its answer with an error.",
                status=200,
                code="error",
            )
        if choice.get("finish_reason") == "model_length":
            choice["finish_reason"] = "length"
        message = choice.get(holder)
        if not isinstance(message, dict):
            continue
        if isinstance(message.get("content"), list):
            text, thoughts = _read_parts(message["content"])
            message["content"] = text or None
            if thoughts:
                message["reasoning_content"] = thoughts
        if "tool_calls" in message:
            _complete_calls(message, streamed=holder == "delta")
    return None


def _read_parts(parts: list[object]) -> tuple[str, str]:
    """The visible text and the thoughts of a list of content."""
    texts: list[str] = []
    thoughts: list[str] = []
    for part in content.objects(parts):
        if part.get("type") == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif part.get("type") == "thinking":
            inner = content.objects(part.get("thinking"))
            thoughts += [piece["text"] for piece in inner if isinstance(piece.get("text"), str)]
    return "".join(texts), "".join(thoughts)


def _complete_calls(message: Json, *, streamed: bool) -> None:
    """Give calls OpenAI's `type` and, in streams, `index`; arguments that came as an object become text."""
    calls = content.objects(message["tool_calls"])
    if not calls:
        del message["tool_calls"]
        return
    for position, call in enumerate(calls):
        call["type"] = "function"
        if streamed and not isinstance(call.get("index"), int):
            call["index"] = position
        elif not streamed:
            call.pop("index", None)
        function = call.get("function")
        if isinstance(function, dict) and isinstance(function.get("arguments"), dict):
            function["arguments"] = orjson.dumps(function["arguments"]).decode()
    message["tool_calls"] = calls


def classify_error(status: int, headers: Headers, body: bytes) -> ProviderError:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return openai_error(status, headers, body)
    if isinstance(document, dict):
        # FastAPI's list of what is wrong, bare or as the message.
        message = document.get("message")
        outer = message if isinstance(message, dict) else document
        if details := content.objects(outer.get("detail")):
            return _error_from({**document, "message": _told(details[0])}, status, headers)
    error = error_object(body)
    return _error_from(error, status, headers) if error is not None else openai_error(status, headers, body)


def _told(detail: Json) -> str:
    place = detail.get("loc")
    path = ".".join(str(step) for step in place if step != "body") if isinstance(place, list) else ""
    return f"{path}: {detail.get('msg')}" if path else str(detail.get("msg"))


def _error_from(error: Json, status: int, headers: Headers) -> ProviderError:
    """Its codes are numbers without public meaning; the type says more."""
    read = openai_error_from({**error, "code": None}, status, headers)
    kind = _KINDS.get(str(error.get("type")), read.kind)
    message = safe_message(str(error.get("message") or "")) or default_message(status)
    return ProviderError(
        kind, message, status=read.status, code=read.code, param=read.param, retry_after_s=read.retry_after_s
    )
