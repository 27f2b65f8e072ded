"""OpenAI's request bodies in, as checked Calls. Knows the public contract, neither providers nor money.

What every OpenAI-compatible upstream would have to refuse is refused here, so that callers get the same
answer wherever a call goes. Fields we do not know pass through: the model's own rules decide.
Source: https://platform.openai.com/docs/api-reference
"""

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from routing.policies.preferences import Preferences, read_preferences
from routing.types import PRICED_BY, Json, Operation
from tenants.errors import ApiError
from tenants.wire import is_deeper_than

MAX_JSON_DEPTH = 64
"""Tools' schemas and their arguments nest; nothing that a person means nests deeper."""
MAX_DOCUMENTS = 10_000
"""Documents of one ranking."""
IMAGE_TOKENS_BOUND = 2_000
"""Allowance for one image among input bytes; its true count depends on the model and the picture."""


def parse_body(raw: bytes) -> Json:
    """Strict JSON: UTF-8, no NaN, bounded depth, no lone surrogates; an object at the top."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise ApiError("invalid_request", f"The body is not valid JSON: {error}") from None
    if not isinstance(body, dict):
        raise ApiError("invalid_request", "The body must be a JSON object.")
    # Counting brackets is quick and bounds the depth from above: few bodies need the walk.
    if raw.count(b"[") + raw.count(b"{") > MAX_JSON_DEPTH and is_deeper_than(body, MAX_JSON_DEPTH):
        raise ApiError("invalid_request", f"The body is nested more than {MAX_JSON_DEPTH} levels deep.")
    return body


def check(operation: Operation, body: Json) -> None:
    """Raise ApiError naming the first parameter that no provider could accept."""
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise _bad("model", "You must name a model.")
    for name, value in body.items():
        rule = RULES.get(name)
        if rule is not None and value is not None and not rule[0](value):
            raise _bad(name, rule[1])
    if operation in PRICED_BY and body.get("stream"):
        raise _bad("stream", f"The answer of {operation} is not streamed.")
    match operation:
        case Operation.CHAT:
            _check_messages(body.get("messages"))
            _check_tools(body)
        case Operation.COMPLETIONS:
            if not _is_prompt(body.get("prompt")):
                raise _bad("prompt", "prompt must be a string or an array of strings or tokens.")
        case Operation.EMBEDDINGS:
            if not _is_prompt(body.get("input")):
                raise _bad("input", "input must be a non-empty string or an array of strings or tokens.")
        case Operation.MODERATIONS:
            _check_moderated(body.get("input"))
        case Operation.RERANK:
            _check_rerank(body)


def needed_capabilities(body: Json, raw: bytes) -> frozenset[str]:
    """What the model must be able to do, read off the body."""
    needed = set()
    if body.get("tools") or body.get("functions"):
        needed.add("tools")
    response_format = body.get("response_format")
    if response_format and response_format.get("type") == "json_schema":
        needed.add("json_schema")
    if b'"image_url"' in raw and _has_part(body, "image_url"):
        needed.add("vision")
    if (b'"input_audio"' in raw and _has_part(body, "input_audio")) or "audio" in (
        body.get("modalities") or ()
    ):
        needed.add("audio")
    return frozenset(needed)


def input_bound(body: Json, raw: bytes) -> int:
    """An upper bound for the input tokens: no tokeniser makes more tokens than there are bytes.

    Inlined pictures and sounds do not count by their bytes but by IMAGE_TOKENS_BOUND each.
    """
    if b"data:" not in raw and b'"input_audio"' not in raw:
        return len(raw)
    bound = len(raw)
    for message in body.get("messages") or ():
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            kind = part.get("type")
            if kind == "image_url" and part["image_url"]["url"].startswith("data:"):
                bound += IMAGE_TOKENS_BOUND - len(part["image_url"]["url"])
            elif kind == "input_audio":
                bound += IMAGE_TOKENS_BOUND - len(str(part["input_audio"].get("data", "")))
    return max(bound, 1)


def preferences_of(body: Json) -> Preferences | None:
    """The caller's wishes about providers: the `provider` object, checked. It stays with us (GATEWAY_FIELDS)."""
    return read_preferences(body["provider"]) if "provider" in body else None


def output_limit(body: Json) -> int | None:
    """The caller's own ceiling for output tokens of one choice, if it gave one."""
    limit = body.get("max_completion_tokens")
    return limit if limit is not None else body.get("max_tokens")


# ------------------------------------------------------------------ rules


def _bad(param: str, message: str) -> ApiError:
    return ApiError("invalid_request", message, param=param)


def _is_number(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: type(value) in (int, float) and low <= value <= high


def _is_count(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _is_bool(value: Any) -> bool:
    return type(value) is bool


def _is_object(value: Any) -> bool:
    return type(value) is dict


def _is_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_stop(value: Any) -> bool:
    return isinstance(value, str) or (_is_strings(value) and len(value) <= 4)


def _is_prompt(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value)
    if not isinstance(value, list) or not value:
        return False
    if all(isinstance(item, str) for item in value):
        return all(value)
    if all(type(item) is int for item in value):
        return True
    return all(
        isinstance(item, list) and item and all(type(token) is int for token in item) for item in value
    )


def _is_metadata(value: Any) -> bool:
    return (
        isinstance(value, dict) and len(value) <= 16 and all(isinstance(item, str) for item in value.values())
    )


def _is_response_format(value: Any) -> bool:
    if not isinstance(value, dict) or value.get("type") not in ("text", "json_object", "json_schema"):
        return False
    if value["type"] != "json_schema":
        return True
    schema = value.get("json_schema")
    return isinstance(schema, dict) and isinstance(schema.get("name"), str)


RULES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "stream": (_is_bool, "stream must be true or false."),
    "stream_options": (_is_object, "stream_options must be an object."),
    "temperature": (_is_number(0, 2), "temperature must be between 0 and 2."),
    "top_p": (_is_number(0, 1), "top_p must be between 0 and 1."),
    "frequency_penalty": (_is_number(-2, 2), "frequency_penalty must be between -2 and 2."),
    "presence_penalty": (_is_number(-2, 2), "presence_penalty must be between -2 and 2."),
    "max_tokens": (_is_count(1, 10**7), "max_tokens must be a positive integer."),
    "max_completion_tokens": (_is_count(1, 10**7), "max_completion_tokens must be a positive integer."),
    "n": (_is_count(1, 128), "n must be an integer between 1 and 128."),
    "best_of": (_is_count(1, 20), "best_of must be an integer between 1 and 20."),
    "seed": (_is_count(-(2**63), 2**63 - 1), "seed must be an integer."),
    "stop": (_is_stop, "stop must be a string or an array of at most 4 strings."),
    "logit_bias": (_is_object, "logit_bias must be an object."),
    "top_logprobs": (_is_count(0, 20), "top_logprobs must be an integer between 0 and 20."),
    "response_format": (
        _is_response_format,
        "response_format must be text, json_object, or json_schema with a name.",
    ),
    "metadata": (_is_metadata, "metadata must be an object of at most 16 strings."),
    "user": (lambda value: isinstance(value, str), "user must be a string."),
    "service_tier": (
        lambda value: isinstance(value, str) and len(value) <= 32 and value.isprintable(),
        "service_tier must be a string of at most 32 printable characters.",
    ),
    "modalities": (_is_strings, "modalities must be an array of strings."),
    "top_n": (_is_count(1, 10**6), "top_n must be a positive integer."),
    "return_documents": (_is_bool, "return_documents must be true or false."),
    "dimensions": (_is_count(1, 100_000), "dimensions must be a positive integer."),
    "encoding_format": (
        lambda value: value in ("float", "base64"),
        "encoding_format must be float or base64.",
    ),
}

ROLES = frozenset(("system", "developer", "user", "assistant", "tool", "function"))


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, list) or not messages:
        raise _bad("messages", "messages must be a non-empty array.")
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        role = message.get("role") if isinstance(message, dict) else None
        if not isinstance(role, str) or role not in ROLES:
            raise _bad(f"{where}.role", f"role must be one of {', '.join(sorted(ROLES))}.")
        content = message.get("content")
        if isinstance(content, str):
            continue
        if content is None:
            if role != "assistant":
                raise _bad(f"{where}.content", "content is missing.")
        elif isinstance(content, list):
            for number, part in enumerate(content):
                _check_part(f"{where}.content[{number}]", part)
        else:
            raise _bad(f"{where}.content", "content must be a string or an array of parts.")


def _check_moderated(value: Any) -> None:
    """A text, several, or the parts of one thing to look at."""
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        for number, part in enumerate(value):
            if part.get("type") not in ("text", "image_url"):
                raise _bad(f"input[{number}].type", "a part to moderate is a text or an image_url.")
            _check_part(f"input[{number}]", part)
        return
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise _bad("input", "input must be a non-empty string, an array of them, or an array of parts.")


def _check_rerank(body: Json) -> None:
    query, documents = body.get("query"), body.get("documents")
    if not isinstance(query, str) or not query:
        raise _bad("query", "query must be a non-empty string.")
    if not isinstance(documents, list) or not 1 <= len(documents) <= MAX_DOCUMENTS:
        raise _bad("documents", f"documents must be an array of 1 to {MAX_DOCUMENTS} texts.")
    for number, document in enumerate(documents):
        text = document.get("text") if isinstance(document, dict) else document
        if not isinstance(text, str) or not text:
            raise _bad(
                f"documents[{number}]", "a document must be a non-empty string or an object with a text."
            )


def _check_part(where: str, part: Any) -> None:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise _bad(where, "a content part must be an object with a type.")
    match part["type"]:
        case "text":
            if not isinstance(part.get("text"), str):
                raise _bad(f"{where}.text", "text must be a string.")
        case "image_url":
            image = part.get("image_url")
            url = image.get("url") if isinstance(image, dict) else None
            if not isinstance(url, str) or not url.startswith(("https://", "http://", "data:image/")):
                raise _bad(f"{where}.image_url", "image_url.url must be an http(s) or data:image URL.")
        case "input_audio":
            if not isinstance(part.get("input_audio"), dict):
                raise _bad(f"{where}.input_audio", "input_audio must be an object.")


def _check_tools(body: Json) -> None:
    tools = body.get("tools")
    names = set()
    if tools is not None:
        if not isinstance(tools, list):
            raise _bad("tools", "tools must be an array.")
        for index, tool in enumerate(tools):
            if not isinstance(tool, dict) or not isinstance(tool.get("type"), str):
                raise _bad(f"tools[{index}]", "a tool must be an object with a type.")
            if tool["type"] == "function":
                function = tool.get("function")
                if not isinstance(function, dict) or not isinstance(function.get("name"), str):
                    raise _bad(f"tools[{index}].function", "a function tool needs a function with a name.")
                names.add(function["name"])
    choice = body.get("tool_choice")
    if choice is None or choice in ("none", "auto", "required"):
        return
    if not isinstance(choice, dict):
        raise _bad("tool_choice", "tool_choice must be none, auto, required, or name a tool.")
    if choice.get("type") == "function":
        function = choice.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str) or name not in names:
            raise _bad("tool_choice", "tool_choice names a function that is not among the tools.")


def _has_part(body: Json, kind: str) -> bool:
    for message in body.get("messages") or ():
        content = message.get("content")
        if isinstance(content, list) and any(part["type"] == kind for part in content):
            return True
    given = body.get("input")
    return isinstance(given, list) and any(
        isinstance(part, dict) and part.get("type") == kind for part in given
    )
