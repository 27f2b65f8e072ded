"""Google's generateContent and streamGenerateContent, as its SDK speaks them, over any provider's chat.

Names come in camelCase or snake_case: both are read everywhere. The door puts what the path and the query say into
the body (`model`, `stream`, `alt`). https://ai.google.dev/api/generate-content
"""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from gateway.edge.surfaces.reading import as_object, bad, inexpressible
from gateway.edge.surfaces.types import EVENTS
from routing.providers.portable import SURFACE
from routing.types import Json
from tenants.errors import ApiError

FIELDS = frozenset(
    {
        "model", "stream", "alt", "contents", "systemInstruction", "tools", "toolConfig", "generationConfig",
        "safetySettings", "labels", "provider",
    }
)  # fmt: skip

PLAIN_SETTINGS: Mapping[str, str] = {
    "temperature": "temperature",
    "topP": "top_p",
    "topK": "top_k",
    "candidateCount": "n",
    "maxOutputTokens": "max_tokens",
    "stopSequences": "stop",
    "seed": "seed",
    "presencePenalty": "presence_penalty",
    "frequencyPenalty": "frequency_penalty",
    "responseLogprobs": "logprobs",
    "logprobs": "top_logprobs",
}
"""The settings that mean the same in both, theirs to ours."""

OTHER_SETTINGS = frozenset(
    {"responseMimeType", "responseSchema", "responseJsonSchema", "responseModalities", "thinkingConfig"}
)

FINISH_REASONS: Mapping[str, str] = {
    "stop": "STOP",
    "tool_calls": "STOP",
    "function_call": "STOP",
    "length": "MAX_TOKENS",
    "content_filter": "SAFETY",
}

STATUSES: Mapping[int, str] = {
    401: "UNAUTHENTICATED",
    402: "FAILED_PRECONDITION",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""https://ai.google.dev/gemini-api/docs/troubleshooting"""


# ------------------------------------------------------------------ requests


def read(body: Json) -> Json:
    """A generateContent request as a chat body. Raises ApiError: invalid_request, unsupported_parameter."""
    asked = camel(body)
    for name, value in asked.items():
        if name not in FIELDS and value is not None:
            raise inexpressible(name, f"The parameter {name!r} cannot be expressed here.")
    chat: Json = {
        "model": asked.get("model"),
        "messages": [*_system(asked.get("systemInstruction")), *_contents(asked.get("contents"))],
        SURFACE: "google",
    }
    for name in ("stream", "provider"):
        if asked.get(name) is not None:
            chat[name] = asked[name]
    _tools(asked, chat)
    _settings(as_object(asked.get("generationConfig"), "generationConfig"), chat)
    if asked.get("safetySettings"):
        chat["safety_settings"] = asked["safetySettings"]
    if asked.get("labels"):
        chat["metadata"] = asked["labels"]
    return chat


def camel(value: Json) -> Json:
    """The object with its own keys in camelCase; what stands deeper is left as it is."""
    return {_camel(name): item for name, item in value.items()}


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word[:1].upper() + word[1:] for word in rest) if rest and head else name


def _system(instruction: Any) -> Iterable[Json]:
    if instruction is None:
        return
    if isinstance(instruction, str):
        parts: list[Any] = [{"text": instruction}]
    else:
        parts = _parts(as_object(instruction, "systemInstruction"), "systemInstruction")
    texts = [part.get("text") if isinstance(part, dict) else None for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise inexpressible("systemInstruction", "systemInstruction holds text alone.")
    if texts:
        yield {"role": "system", "content": "\n\n".join(str(text) for text in texts)}


def _parts(content: Json, where: str) -> list[Any]:
    parts = content.get("parts")
    if isinstance(parts, dict):
        return [parts]
    if not isinstance(parts, list):
        raise bad(f"{where}.parts", "parts must be an array.")
    return parts


def _contents(contents: Any) -> Iterable[Json]:
    if isinstance(contents, dict):
        contents = [contents]
    if not isinstance(contents, list) or not contents:
        raise bad("contents", "contents must be a non-empty array.")
    calls = Calls()
    for number, content in enumerate(contents):
        where = f"contents[{number}]"
        turn = as_object(content, where)
        parts = [
            camel(as_object(part, f"{where}.parts[{position}]"))
            for position, part in enumerate(_parts(turn, where))
        ]
        match turn.get("role"):
            case None | "user" | "function":
                yield from _user(parts, where, calls)
            case "model":
                yield _model(parts, where, calls)
            case _:
                raise bad(f"{where}.role", "role must be user or model.")


class Calls:
    """Gives function calls ids where the client knows none, and finds the call that a response answers."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[str]] = {}  # function name -> ids not answered yet
        self._made = 0

    def made(self, name: str, given: object) -> str:
        self._made += 1
        call_id = given if isinstance(given, str) and given else f"call_{self._made}"
        self._waiting.setdefault(name, []).append(call_id)
        return call_id

    def answered(self, name: str, given: object) -> str | None:
        waiting = self._waiting.get(name, [])
        if isinstance(given, str) and given:
            if given in waiting:
                waiting.remove(given)
            return given
        return waiting.pop(0) if waiting else None


def _user(parts: list[Json], where: str, calls: Calls) -> Iterable[Json]:
    shown = []
    for position, part in enumerate(parts):
        here = f"{where}.parts[{position}]"
        if "functionResponse" in part:
            yield _function_response(as_object(part["functionResponse"], here), here, calls)
        else:
            shown.append(_part(part, here))
    if shown:
        yield {"role": "user", "content": shown}


def _part(part: Json, where: str) -> Json:
    if isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if "inlineData" in part:
        return _inline(camel(as_object(part["inlineData"], where)), where)
    if "fileData" in part:
        data = camel(as_object(part["fileData"], where))
        if not str(data.get("mimeType", "image/")).startswith("image/"):
            raise inexpressible(f"{where}.fileData", "Only pictures are taken by their address.")
        return {"type": "image_url", "image_url": {"url": str(data.get("fileUri"))}}
    raise inexpressible(
        where, f"A part with {', '.join(sorted(part)) or 'nothing'} cannot be expressed here."
    )


def _inline(data: Json, where: str) -> Json:
    kind, raw = data.get("mimeType"), data.get("data")
    if not isinstance(kind, str) or not isinstance(raw, str):
        raise bad(f"{where}.inlineData", "inlineData needs mimeType and data.")
    if kind.startswith("image/"):
        return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{raw}"}}
    if kind.startswith("audio/"):
        return {"type": "input_audio", "input_audio": {"format": kind.removeprefix("audio/"), "data": raw}}
    return {"type": "file", "file": {"file_data": f"data:{kind};base64,{raw}"}}


def _function_response(response: Json, where: str, calls: Calls) -> Json:
    name = response.get("name")
    if not isinstance(name, str):
        raise bad(f"{where}.functionResponse.name", "a function response names its function.")
    call_id = calls.answered(name, response.get("id"))
    if call_id is None:
        raise bad(f"{where}.functionResponse", f"there is no call of {name!r} that this answers.")
    said = as_object(response.get("response"), f"{where}.functionResponse.response")
    is_error = said.keys() == {"error"}
    inner = said.get("error") if is_error else said.get("output") if said.keys() == {"output"} else said
    text = inner if isinstance(inner, str) else orjson.dumps(inner).decode()
    message: Json = {"role": "tool", "tool_call_id": call_id, "name": name, "content": text}
    if is_error:
        message["is_error"] = True
    return message


def _model(parts: list[Json], where: str, calls: Calls) -> Json:
    texts, made = [], []
    for position, part in enumerate(parts):
        here = f"{where}.parts[{position}]"
        if "functionCall" in part:
            made.append(_function_call(as_object(part["functionCall"], here), part, here, calls))
        elif isinstance(part.get("text"), str):
            if not part.get(
                "thought"
            ):  # thoughts are the model's own, and no provider takes them back as text
                texts.append({"type": "text", "text": part["text"]})
        elif part.keys() - {"thoughtSignature"}:
            raise inexpressible(here, f"A part with {', '.join(sorted(part))} cannot be expressed here.")
    message: Json = {"role": "assistant", "content": texts or None}
    if made:
        message["tool_calls"] = made
    return message


def _function_call(call: Json, part: Json, where: str, calls: Calls) -> Json:
    name, arguments = call.get("name"), call.get("args")
    if not isinstance(name, str) or not isinstance(arguments, dict | None):
        raise bad(f"{where}.functionCall", "a function call has a name and an args object.")
    made: Json = {
        "id": calls.made(name, call.get("id")),
        "type": "function",
        "function": {"name": name, "arguments": orjson.dumps(arguments or {}).decode()},
    }
    if part.get("thoughtSignature"):
        made["extra_content"] = {"google": {"thought_signature": part["thoughtSignature"]}}
    return made


def _tools(asked: Json, chat: Json) -> None:
    tools = asked.get("tools") or []
    if not isinstance(tools, list):
        raise bad("tools", "tools must be an array.")
    functions = [
        _declaration(as_object(declared, f"tools[{number}]"), f"tools[{number}]")
        for number, tool in enumerate(tools)
        for declared in _declarations(camel(as_object(tool, f"tools[{number}]")), f"tools[{number}]")
    ]
    wanted = as_object(asked.get("toolConfig"), "toolConfig")
    config = camel(as_object(camel(wanted).get("functionCallingConfig"), "toolConfig"))
    allowed = config.get("allowedFunctionNames")
    if allowed:
        if not isinstance(allowed, list):
            raise bad("toolConfig.functionCallingConfig.allowedFunctionNames", "These are an array of names.")
        functions = [function for function in functions if function["name"] in allowed]
    match config.get("mode"):
        case None | "MODE_UNSPECIFIED" | "AUTO":
            pass
        case "NONE":
            chat["tool_choice"] = "none"
        case "ANY" if len(functions) == 1:
            chat["tool_choice"] = {"type": "function", "function": {"name": functions[0]["name"]}}
        case "ANY":
            chat["tool_choice"] = "required"
        case "VALIDATED":
            functions = [{**function, "strict": True} for function in functions]
        case _:
            raise bad("toolConfig.functionCallingConfig.mode", "mode must be AUTO, ANY, NONE or VALIDATED.")
    if functions:
        chat["tools"] = [{"type": "function", "function": function} for function in functions]


def _declarations(tool: Json, where: str) -> list[Any]:
    for name, value in tool.items():
        if name != "functionDeclarations" and value is not None:
            raise inexpressible(f"{where}.{name}", f"{name} runs at the provider and cannot be expressed.")
    declarations = tool.get("functionDeclarations") or []
    if not isinstance(declarations, list):
        raise bad(f"{where}.functionDeclarations", "functionDeclarations must be an array.")
    return declarations


def _declaration(declared: Json, where: str) -> Json:
    asked = camel(declared)
    if not isinstance(asked.get("name"), str):
        raise bad(f"{where}.name", "a function needs a name.")
    function: Json = {"name": asked["name"]}
    if asked.get("description"):
        function["description"] = asked["description"]
    schema = asked.get("parametersJsonSchema")
    if schema is None and asked.get("parameters") is not None:
        schema = json_schema(asked["parameters"])
    if schema is not None:
        function["parameters"] = schema
    return function


def json_schema(schema: Any) -> Any:
    """Google's OpenAPI subset as JSON Schema: types in small letters, `nullable` as a type of its own."""
    if isinstance(schema, list):
        return [json_schema(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made: Json = {}
    for name, value in camel(schema).items():
        match name:
            case "type" if isinstance(value, str):
                made["type"] = value.lower()
            case "properties" if isinstance(value, dict):
                made["properties"] = {key: json_schema(item) for key, item in value.items()}
            case "items" | "anyOf" | "additionalProperties":
                made[name] = json_schema(value)
            case "nullable" | "propertyOrdering":
                continue
            case _:
                made[name] = value
    if schema.get("nullable") and "type" in made:
        made["type"] = [made["type"], "null"]
    return made


def _settings(config: Json, chat: Json) -> None:
    asked = camel(config)
    for name, value in asked.items():
        if value is None:
            continue
        if name in PLAIN_SETTINGS:
            chat[PLAIN_SETTINGS[name]] = value
        elif name not in OTHER_SETTINGS:
            raise inexpressible(f"generationConfig.{name}", f"The setting {name!r} cannot be expressed here.")
    for modality in asked.get("responseModalities") or ():
        if modality != "TEXT":
            raise inexpressible("generationConfig.responseModalities", "Only TEXT can be asked for here.")
    _format(asked, chat)
    _thinking(camel(as_object(asked.get("thinkingConfig"), "generationConfig.thinkingConfig")), chat)


def _format(asked: Json, chat: Json) -> None:
    schema = asked.get("responseJsonSchema")
    if schema is None and asked.get("responseSchema") is not None:
        schema = json_schema(asked["responseSchema"])
    match asked.get("responseMimeType"):
        case None | "text/plain":
            pass
        case "application/json" if schema is None:
            chat["response_format"] = {"type": "json_object"}
        case "application/json":
            named = {"name": "answer", "schema": schema}
            chat["response_format"] = {"type": "json_schema", "json_schema": named}
        case other:
            raise inexpressible("generationConfig.responseMimeType", f"{other!r} cannot be asked for here.")


def _thinking(config: Json, chat: Json) -> None:
    """A budget of -1 lets the model decide; thoughts are shown wherever the provider shows them."""
    if level := config.get("thinkingLevel"):
        chat["reasoning_effort"] = str(level).lower()
    budget = config.get("thinkingBudget")
    if budget is None:
        return
    if type(budget) is not int or budget < -1:
        raise bad(
            "generationConfig.thinkingConfig.thinkingBudget", "thinkingBudget must be an integer from -1."
        )
    if budget == 0:
        chat["thinking"] = {"type": "disabled"}
    else:
        chat["thinking"] = (
            {"type": "adaptive"} if budget < 0 else {"type": "enabled", "budget_tokens": budget}
        )


# ------------------------------------------------------------------ answers


def reply(body: bytes, asked: Json) -> bytes:
    """A chat completion as a GenerateContentResponse."""
    document = orjson.loads(body)
    return orjson.dumps(
        {
            "candidates": [_candidate(choice) for choice in document["choices"]],
            "usageMetadata": _usage(document.get("usage")),
            "modelVersion": document.get("model"),
            "responseId": document.get("id"),
        }
    )


def _candidate(choice: Json) -> Json:
    message = choice.get("message") or {}
    parts: list[Json] = []
    if text := message.get("reasoning_content"):
        parts.append({"text": text, "thought": True})
    if text := message.get("content") or message.get("refusal"):
        parts.append({"text": text})
    parts += [_called(call) for call in message.get("tool_calls") or ()]
    candidate: Json = {
        "content": {"role": "model", "parts": parts},
        "finishReason": FINISH_REASONS.get(str(choice.get("finish_reason")), "STOP"),
        "index": choice.get("index", 0),
    }
    if tokens := (choice.get("logprobs") or {}).get("content"):
        candidate["logprobsResult"] = _logprobs(tokens)
    return candidate


def _called(call: Json) -> Json:
    function = call.get("function") or {}
    try:
        arguments = orjson.loads(function.get("arguments") or "{}")
    except orjson.JSONDecodeError:
        arguments = None
    if not isinstance(arguments, dict):  # a model may write anything; it is handed on, not lost
        arguments = {"unparsed": function.get("arguments")}
    part: Json = {"functionCall": {"id": call.get("id"), "name": function.get("name"), "args": arguments}}
    signature = ((call.get("extra_content") or {}).get("google") or {}).get("thought_signature")
    if signature:
        part["thoughtSignature"] = signature
    return part


def _logprobs(tokens: list[Json]) -> Json:
    return {
        "chosenCandidates": [_probability(token) for token in tokens],
        "topCandidates": [
            {"candidates": [_probability(other) for other in token.get("top_logprobs") or ()]}
            for token in tokens
        ],
    }


def _probability(token: Json) -> Json:
    return {"token": token.get("token"), "logProbability": token.get("logprob")}


def _usage(usage: Any) -> Json:
    """Google counts thoughts beside the candidates, OpenAI inside the completion."""
    counts: Json = usage if isinstance(usage, dict) else {}
    cached = (counts.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    thoughts = (counts.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    made: Json = {
        "promptTokenCount": counts.get("prompt_tokens") or 0,
        "candidatesTokenCount": max(0, (counts.get("completion_tokens") or 0) - thoughts),
        "totalTokenCount": counts.get("total_tokens") or 0,
    }
    if cached:
        made["cachedContentTokenCount"] = cached
    if thoughts:
        made["thoughtsTokenCount"] = thoughts
    return made


def error(error: ApiError, *, request_id: str) -> Json:
    """Google's error object; our code and parameter are its ErrorInfo."""
    info = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": error.code,
        "domain": "tollhouse",
        "metadata": {"param": error.param or "", "request_id": request_id},
    }
    return {
        "error": {
            "code": error.status,
            "message": error.message,
            "status": STATUSES.get(error.status, "INVALID_ARGUMENT"),
            "details": [info],
        }
    }


# ------------------------------------------------------------------ streams


def voice(asked: Json, *, request_id: str) -> "GenerateContentVoice":
    """Server-sent events with `?alt=sse`, else one JSON array that grows."""
    return GenerateContentVoice(request_id, as_events=asked.get("alt") == "sse")


class GenerateContentVoice:
    """Text goes out as it comes; function calls once they are whole, for Google's arguments are objects."""

    __slots__ = ("_as_events", "_calls", "_is_first", "_named", "_reasons", "_request_id")

    def __init__(self, request_id: str, *, as_events: bool) -> None:
        self._request_id = request_id
        self._as_events = as_events
        self._is_first = True
        self._calls: dict[int, dict[int, Json]] = {}  # candidate -> position -> call
        self._reasons: dict[int, str] = {}  # candidate -> finish reason
        self._named: Json = {}

    @property
    def content_type(self) -> bytes:
        return EVENTS if self._as_events else b"application/json"

    def opening(self) -> bytes:
        return b"" if self._as_events else b"["

    def keep_alive(self) -> bytes:
        return b": keep-alive\n\n" if self._as_events else b"\n"

    def broken(self, error_: ApiError) -> bytes:
        return self._framed(error(error_, request_id=self._request_id)) + self._closing()

    def end(self, usage: Json) -> bytes:
        candidates = [
            {
                "content": {
                    "role": "model",
                    "parts": [_called(call) for _, call in sorted(self._calls.get(index, {}).items())],
                },
                "finishReason": FINISH_REASONS.get(self._reasons.get(index, ""), "STOP"),
                "index": index,
            }
            for index in sorted(self._calls.keys() | self._reasons.keys() | {0})
        ]
        told = {**_usage(usage), "tollhouse": usage.get("tollhouse")}
        return (
            self._framed({"candidates": candidates, "usageMetadata": told, **self._named}) + self._closing()
        )

    def chunk(self, chunk: Json) -> bytes:
        self._named = {"modelVersion": chunk.get("model"), "responseId": chunk.get("id")}
        candidates = []
        for choice in chunk.get("choices") or ():
            index, delta = choice.get("index", 0), choice.get("delta") or {}
            if choice.get("finish_reason"):
                self._reasons[index] = choice["finish_reason"]
            for call in delta.get("tool_calls") or ():
                self._gather(index, call)
            parts = [{"text": text, "thought": True} for text in [delta.get("reasoning_content")] if text]
            parts += [{"text": text} for text in [delta.get("content") or delta.get("refusal")] if text]
            if parts:
                candidates.append({"content": {"role": "model", "parts": parts}, "index": index})
        return self._framed({"candidates": candidates, **self._named}) if candidates else b""

    def _gather(self, index: int, piece: Json) -> None:
        kept = self._calls.setdefault(index, {}).setdefault(
            piece.get("index", 0), {"function": {"name": None, "arguments": ""}}
        )
        for name in ("id", "extra_content"):
            if piece.get(name):
                kept[name] = piece[name]
        function = piece.get("function") or {}
        if function.get("name"):
            kept["function"]["name"] = function["name"]
        kept["function"]["arguments"] += function.get("arguments") or ""

    def _framed(self, document: Json) -> bytes:
        raw = orjson.dumps(document)
        if self._as_events:
            return b"data: %s\n\n" % raw
        mark = b"" if self._is_first else b",\n"
        self._is_first = False
        return mark + raw

    def _closing(self) -> bytes:
        return b"" if self._as_events else b"]"
