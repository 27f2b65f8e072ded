"""Google's Gemini API (generateContent, batchEmbedContents) in OpenAI's terms; it has no text completions.

A function call's thought signature travels as `extra_content.google.thought_signature` on the tool call,
where Google's own OpenAI endpoint puts it: Gemini 3 refuses the next turn without it.
https://ai.google.dev/api/generate-content
"""

import mimetypes
from collections.abc import Mapping, Sequence
from urllib.parse import quote, urlsplit

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
from routing.providers.usage import gemini_usage, record_usage, reply_usage
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

NAME = "Gemini"

EXPRESSIBLE = frozenset(
    {
        "messages", "max_tokens", "max_completion_tokens", "stop", "temperature", "top_p", "top_k", "n",
        "seed", "presence_penalty", "frequency_penalty", "logprobs", "top_logprobs", "tools", "tool_choice",
        "response_format", "reasoning_effort", "thinking", "safety_settings",
    }
)  # fmt: skip

PLAIN_SETTINGS = {
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "n": "candidateCount",
    "seed": "seed",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
    "top_logprobs": "logprobs",
}

FILTERED = frozenset(
    {
        "SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MODEL_ARMOR",
        "IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION",
    }
)  # fmt: skip
BROKEN = frozenset(
    {
        "MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "MISSING_THOUGHT_SIGNATURE",
        "MALFORMED_RESPONSE",
    }
)  # fmt: skip
"""Ends that deliver nothing usable: answered as an invalid response, so that another target may try."""

BUDGETS_TOKENS = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576}
"""Gemini 2.5's thinking budgets for OpenAI's efforts. https://ai.google.dev/gemini-api/docs/openai#thinking"""
LEVELS = ("minimal", "low", "medium", "high", "xhigh")

KINDS: Mapping[str, ErrorKind] = {
    "UNAUTHENTICATED": ErrorKind.CREDENTIAL,
    "PERMISSION_DENIED": ErrorKind.CREDENTIAL,
    "FAILED_PRECONDITION": ErrorKind.CREDENTIAL,  # billing not enabled, or the account's region not served
    "NOT_FOUND": ErrorKind.MODEL_NOT_FOUND,
    "RESOURCE_EXHAUSTED": ErrorKind.RATE_LIMITED,
    "UNAVAILABLE": ErrorKind.OVERLOADED,
    "DEADLINE_EXCEEDED": ErrorKind.TIMEOUT,
    "INTERNAL": ErrorKind.SERVER_ERROR,
    "INVALID_ARGUMENT": ErrorKind.INVALID_REQUEST,
}
"""https://ai.google.dev/gemini-api/docs/troubleshooting"""


def build_request(operation: Operation, body: Json, target: Target, *, stream: bool) -> WireRequest:
    match operation:
        case Operation.CHAT:
            verb = "streamGenerateContent?alt=sse" if stream else "generateContent"
            wire = _chat(body, target, stream=stream)
        case Operation.EMBEDDINGS:
            verb = "batchEmbedContents"
            wire = _embeddings(body, target)
        case _:
            raise UnsupportedParameter("model", f"{NAME} does not offer {operation}.")
    return WireRequest(
        url=f"{target.base_url}/{quote(_path(target))}:{verb}",
        headers=(*json_headers(stream=stream), ("x-goog-api-key", target.api_key)),
        body=orjson.dumps(wire),
    )


def _path(target: Target) -> str:
    """`models/…`, unless the name says which collection it is from (`tunedModels/…`)."""
    name = target.provider_model
    return name if "/" in name else f"models/{name}"


def _embeddings(body: Json, target: Target) -> Json:
    chunks.refuse_inexpressible(body, {"input", "dimensions", "encoding_format"}, provider=NAME)
    raw = body["input"]
    texts = [raw] if isinstance(raw, str) else raw
    if not all(isinstance(text, str) for text in texts):
        raise UnsupportedParameter("input", f"{NAME} takes text, not tokens.")
    extra = {"outputDimensionality": body["dimensions"]} if body.get("dimensions") else {}
    return {
        "requests": [
            {"model": _path(target), "content": {"parts": [{"text": text}]}, **extra} for text in texts
        ]
    }


def _chat(body: Json, target: Target, *, stream: bool) -> Json:
    chunks.refuse_inexpressible(body, EXPRESSIBLE, provider=NAME)
    if stream and (body.get("n") or 1) > 1:
        # Its streams have no end mark but each candidate's own, and do not say how many there will be.
        raise UnsupportedParameter("n", f"{NAME} cannot stream more than one answer.")
    system, turns = _contents(body["messages"])
    wire: Json = {"contents": turns}
    if system:
        wire["systemInstruction"] = {"parts": system}
    _tools(body, wire)
    if config := _generation_config(body, target):
        wire["generationConfig"] = config
    if body.get("safety_settings"):
        wire["safetySettings"] = body["safety_settings"]
    return wire


def _contents(messages: list[Json]) -> tuple[list[Json], list[Json]]:
    """System parts and turns; neighbours of one role are joined, so that parallel results stand together."""
    system: list[Json] = []
    turns: list[Json] = []
    names: dict[object, object] = {}  # call id to function name: a result must name its function
    for message in messages:
        role = message.get("role")
        if role != "tool":
            content.refuse_name(message, provider=NAME)
        if role in ("system", "developer"):
            if text := content.text_of(message.get("content"), role="system"):
                system.append({"text": text})
            continue
        if role == "user":
            parts = [_user_part(part) for part in content.parts_of(message.get("content"))]
        elif role == "assistant":
            role, parts = "model", _model_parts(message, names)
        elif role == "tool":
            role, parts = "user", [_function_response(message, names)]
        else:
            raise content.inexpressible(f"{NAME} has no role '{role}'.")
        if turns and turns[-1]["role"] == role:
            turns[-1]["parts"] += parts
        elif parts:
            turns.append({"role": role, "parts": parts})
    if not turns:
        raise content.inexpressible(f"{NAME} needs at least one user message.")
    return system, turns


def _user_part(part: Json) -> Json:
    match part.get("type"):
        case "text":
            return {"text": part["text"]}
        case "image_url":
            return _address_part(content.image_url(part, provider=NAME))
        case "input_audio":
            audio = part["input_audio"]
            return {"inlineData": {"mimeType": f"audio/{audio['format']}", "data": audio["data"]}}
        case "file":
            file = part.get("file")
            inline = content.data_uri(str(file.get("file_data", ""))) if isinstance(file, dict) else None
            if inline is None:
                raise content.inexpressible(f"{NAME} takes files here only as inline data.")
            return {"inlineData": {"mimeType": inline[0], "data": inline[1]}}
        case other:
            raise content.inexpressible(f"{NAME} cannot express a content part of type '{other}'.")


def _address_part(url: str) -> Json:
    if inline := content.data_uri(url):
        return {"inlineData": {"mimeType": inline[0], "data": inline[1]}}
    file: Json = {"fileUri": url}
    if media_type := mimetypes.guess_type(urlsplit(url).path)[0]:
        file["mimeType"] = media_type
    return {"fileData": file}


def _model_parts(message: Json, names: dict[object, object]) -> list[Json]:
    if message.get("function_call") or message.get("audio"):
        raise content.inexpressible(f"{NAME} cannot express function_call or audio in a message.")
    parts: list[Json] = []
    if text := content.text_of(message.get("content"), role="assistant"):
        parts.append({"text": text})
    for call in message.get("tool_calls") or ():
        arguments = content.tool_arguments(call)
        name = call["function"].get("name")
        names[call.get("id")] = name
        part: Json = {"functionCall": {"id": call.get("id"), "name": name, "args": arguments}}
        extra = call.get("extra_content")
        google = extra.get("google") if isinstance(extra, dict) else None
        if isinstance(google, dict) and google.get("thought_signature"):
            part["thoughtSignature"] = google["thought_signature"]
        parts.append(part)
    return parts


def _function_response(message: Json, names: dict[object, object]) -> Json:
    call_id = message.get("tool_call_id")
    name = names.get(call_id) or message.get("name")
    if not name:
        raise content.inexpressible("A tool message answers a call that is not in the conversation.")
    output = content.text_of(message.get("content"), role="tool")
    response = {"error" if message.get("is_error") else "output": output}
    return {"functionResponse": {"id": call_id, "name": name, "response": response}}


def _tools(body: Json, wire: Json) -> None:
    functions = content.function_tools(body, provider=NAME)
    choice = body.get("tool_choice")
    if not functions:
        if choice not in (None, "none", "auto"):
            raise UnsupportedParameter("tool_choice", "tool_choice needs tools.")
        return
    wire["tools"] = [{"functionDeclarations": [_declaration(function) for function in functions]}]
    config: Json | None
    match choice:
        case dict():
            config = {"mode": "ANY", "allowedFunctionNames": [content.chosen_function(choice, provider=NAME)]}
        case "required":
            config = {"mode": "ANY"}
        case "none":
            config = {"mode": "NONE"}
        case "auto" | None:
            # The nearest to OpenAI's `strict`: calls are held to the declared schema.
            config = {"mode": "VALIDATED"} if any(function.get("strict") for function in functions) else None
        case _:
            raise UnsupportedParameter("tool_choice", f"{NAME} cannot express this tool_choice.")
    if config:
        wire["toolConfig"] = {"functionCallingConfig": config}


def _declaration(function: Json) -> Json:
    declaration: Json = {"name": function.get("name")}
    if function.get("description"):
        declaration["description"] = function["description"]
    if function.get("parameters"):
        declaration["parametersJsonSchema"] = function["parameters"]
    return declaration


def _generation_config(body: Json, target: Target) -> Json:
    config: Json = {
        theirs: body[ours] for ours, theirs in PLAIN_SETTINGS.items() if body.get(ours) is not None
    }
    if limit := body.get("max_completion_tokens") or body.get("max_tokens"):
        config["maxOutputTokens"] = limit
    if stop := content.stop_list(body):
        config["stopSequences"] = stop
    if body.get("logprobs"):
        config["responseLogprobs"] = True
    asked = body.get("response_format")
    match asked.get("type") if isinstance(asked, dict) else None:
        case None | "text":
            pass
        case "json_object":
            config["responseMimeType"] = "application/json"
        case "json_schema":
            config["responseMimeType"] = "application/json"
            config["responseJsonSchema"] = asked["json_schema"].get("schema", {}) if asked else {}
        case other:
            raise UnsupportedParameter("response_format", f"{NAME} cannot express the format '{other}'.")
    if effort := body.get("reasoning_effort"):
        config["thinkingConfig"] = _thinking(effort, target.provider_model)
    elif thinking := body.get("thinking"):
        config["thinkingConfig"] = _budget(thinking)
    return config


def _thinking(effort: str, model: str) -> Json:
    """Gemini 2.5 takes a budget, later models a level; thinking cannot be turned off in those."""
    if model.rpartition("/")[2].startswith("gemini-2.5"):
        if effort in BUDGETS_TOKENS:
            return {"thinkingBudget": BUDGETS_TOKENS[effort]}
    elif effort in LEVELS:
        return {"thinkingLevel": effort.upper()}
    raise UnsupportedParameter(
        "reasoning_effort", f"{NAME} cannot express the effort '{effort}' for {model}."
    )


def _budget(thinking: Json) -> Json:
    """Another surface's thinking: -1 lets the model decide. https://ai.google.dev/gemini-api/docs/thinking"""
    match thinking.get("type"):
        case "disabled":
            return {"thinkingBudget": 0}
        case "enabled":
            return {"includeThoughts": True, "thinkingBudget": thinking.get("budget_tokens")}
    return {"includeThoughts": True, "thinkingBudget": -1}


def parse_reply(operation: Operation, request: Json, body: bytes, target: Target) -> Reply:
    """A response as a chat completion or an embeddings list. Raises ProviderError."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise invalid_response("The provider's answer is not JSON.") from None
    if not isinstance(document, dict):
        raise invalid_response("The provider's answer is not a JSON object.")
    if isinstance(document.get("error"), dict):
        raise _error_from(document["error"], 200, {})
    usage, usage_invalid = reply_usage(document.get("usageMetadata"), gemini_usage)
    if operation is Operation.EMBEDDINGS:
        tokens = usage.input_tokens if usage else 0
        model = target.provider_model
        wire = _embeddings_reply(document, request, model, tokens)
        return Reply(body=wire, usage=usage, model=model, usage_invalid=usage_invalid)
    if blocked := _blocked(document):
        raise blocked
    candidates = document.get("candidates")
    if not isinstance(candidates, list) or not candidates:
        raise invalid_response("The provider's answer has no candidates.")
    id_ = str(document.get("responseId") or chunks.derived_id("gemini-", body))
    choices = [_choice(candidate, position, id_) for position, candidate in enumerate(candidates)]
    model = str(document.get("modelVersion") or target.provider_model)
    return Reply(
        body=chunks.completion(reply_id=id_, model=model, choices=choices, usage=usage),
        usage=usage,
        model=model,
        finish_reason=choices[0]["finish_reason"],
        usage_invalid=usage_invalid,
    )


def _embeddings_reply(document: Json, request: Json, model: str, tokens: int) -> bytes:
    rows = document.get("embeddings")
    if not isinstance(rows, list) or not rows:
        raise invalid_response("The provider's answer has no embeddings.")
    data = []
    for position, row in enumerate(rows):
        values = row.get("values") if isinstance(row, dict) else None
        if not isinstance(values, list):
            raise invalid_response("The provider's answer has an entry without an embedding.")
        data.append({"object": "embedding", "index": position, "embedding": values})
    reply: Json = {
        "object": "list",
        "data": data,
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    try:
        embeddings_as(request.get("encoding_format"), reply)
    except ValueError as error:
        raise invalid_response(f"The provider's answer is not usable: {error}.") from None
    return orjson.dumps(reply)


def _blocked(document: Json) -> ProviderError | None:
    feedback = document.get("promptFeedback")
    reason = feedback.get("blockReason") if isinstance(feedback, dict) else None
    if not reason or document.get("candidates"):
        return None
    return ProviderError(
        ErrorKind.CONTENT_POLICY, f"{NAME} blocked the prompt: {reason}.", status=200, code=str(reason)
    )


def _broken(candidate: Json) -> ProviderError | None:
    reason = candidate.get("finishReason")
    if not isinstance(reason, str) or reason not in BROKEN:
        return None
    return ProviderError(
        ErrorKind.INVALID_RESPONSE, f"{NAME} ended its answer with {reason}.", status=200, code=str(reason)
    )


def _choice(candidate: object, position: int, id_: str) -> Json:
    if not isinstance(candidate, dict):
        raise invalid_response("The provider's answer has a candidate that is not an object.")
    if broken := _broken(candidate):
        raise broken
    index = candidate.get("index")
    index = index if isinstance(index, int) else position
    text, thoughts, calls = _read_parts(candidate, first_call=0, id_=f"{id_}_{index}")
    message: Json = {"role": "assistant", "content": text or (None if calls else ""), "refusal": None}
    if calls:
        message["tool_calls"] = calls
    if thoughts:
        message["reasoning_content"] = thoughts
    return {
        "index": index,
        "message": message,
        "logprobs": _logprobs(candidate),
        "finish_reason": _finish_reason(candidate.get("finishReason"), called=bool(calls)),
    }


def _finish_reason(reason: object, *, called: bool) -> str | None:
    if not isinstance(reason, str) or not reason or reason == "FINISH_REASON_UNSPECIFIED":
        return None
    if reason == "MAX_TOKENS":
        return "length"
    if reason in FILTERED:
        return "content_filter"
    return "tool_calls" if called else "stop"


def _read_parts(candidate: Json, *, first_call: int, id_: str) -> tuple[str, str, list[Json]]:
    """The visible text, the thoughts and the function calls of a candidate or a piece of one."""
    body = candidate.get("content")
    parts = content.objects(body.get("parts")) if isinstance(body, dict) else []
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[Json] = []
    for part in parts:
        if isinstance(part.get("text"), str):
            (thoughts if part.get("thought") else texts).append(part["text"])
        function = part.get("functionCall")
        if not isinstance(function, dict):
            continue
        number = first_call + len(calls)
        call: Json = {
            "id": function.get("id") or f"call_{id_}_{number}",
            "type": "function",
            "function": {
                "name": str(function.get("name")),
                "arguments": orjson.dumps(function.get("args") or {}).decode(),
            },
        }
        if part.get("thoughtSignature"):
            call["extra_content"] = {"google": {"thought_signature": part["thoughtSignature"]}}
        calls.append(call)
    return "".join(texts), "".join(thoughts), calls


def _logprobs(candidate: Json) -> Json | None:
    result = candidate.get("logprobsResult")
    if not isinstance(result, dict):
        return None
    top = content.objects(result.get("topCandidates"))
    rows = []
    for position, token in enumerate(content.objects(result.get("chosenCandidates"))):
        others = content.objects(top[position].get("candidates")) if position < len(top) else []
        rows.append({**_logprob(token), "top_logprobs": [_logprob(other) for other in others]})
    return {"content": rows, "refusal": None}


def _logprob(token: Json) -> Json:
    text = str(token.get("token", ""))
    return {
        "token": text,
        "logprob": token.get("logProbability", 0.0),
        "bytes": list(text.encode("utf-8", "surrogatepass")),
    }


def parse_event(event: str, data: bytes, state: StreamState) -> Sequence[bytes]:
    """Each event is a whole response with the next pieces; the candidate's finish reason is the end mark."""
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        state.malformed += 1
        return ()
    if not isinstance(document, dict):
        state.malformed += 1
        return ()
    if isinstance(document.get("error"), dict):
        state.error = _error_from(document["error"], 0, {})
        return ()
    if blocked := _blocked(document):
        state.error = blocked
        return ()
    state.id = state.id or str(document.get("responseId") or chunks.derived_id("gemini-", data))
    if document.get("modelVersion"):
        state.served_model = str(document["modelVersion"])
    if isinstance(document.get("usageMetadata"), dict):
        record_usage(state, document["usageMetadata"], gemini_usage)
    out: list[bytes] = []
    for candidate in content.objects(document.get("candidates")):
        out += _candidate_chunks(candidate, state)
        if state.error is not None:
            return out
    if state.done:
        out += chunks.usage_chunk(state)
    return out


def _candidate_chunks(candidate: Json, state: StreamState) -> list[bytes]:
    if broken := _broken(candidate):
        state.error = broken
        return []
    called = state.scratch.get("calls", 0)
    text, thoughts, calls = _read_parts(candidate, first_call=called, id_=state.id)
    delta: Json = {}
    if "started" not in state.scratch:
        state.scratch["started"] = True
        delta = {"role": "assistant", "content": "", "refusal": None}
    if thoughts:
        delta["reasoning_content"] = thoughts
    if text:
        delta["content"] = text
    if calls:
        delta["tool_calls"] = [{"index": called + offset, **call} for offset, call in enumerate(calls)]
        state.scratch["calls"] = called + len(calls)
    for piece in (thoughts, text, *(call["function"]["arguments"] for call in calls)):
        chunks.count_content(state, piece)
    logprobs = _logprobs(candidate)
    out = [chunks.chunk(state, delta, logprobs=logprobs)] if delta or logprobs else []
    reason = _finish_reason(candidate.get("finishReason"), called=bool(state.scratch.get("calls")))
    if reason is not None:
        state.finish_reason = reason
        state.done = True
        out.append(chunks.chunk(state, {}, finish_reason=reason))
    return out


def classify_error(status: int, headers: Headers, body: bytes) -> ProviderError:
    error = error_object(body)
    return _error_from(error, status, headers) if error is not None else opaque_error(status, headers)


def _error_from(error: Json, status: int, headers: Headers) -> ProviderError:
    """`status` names the failure, `details` say when to retry. https://cloud.google.com/apis/design/errors"""
    name, message = error.get("status"), str(error.get("message") or "")
    inner = error.get("code")
    if status < 400 and isinstance(inner, int) and 400 <= inner <= 599:
        status = inner
    wait_s = retry_after(headers)
    kind = KINDS.get(str(name)) or kind_by_status(status)
    details = error.get("details")
    for detail in details if isinstance(details, list) else ():
        if not isinstance(detail, dict):
            continue
        if detail.get("reason") in ("API_KEY_INVALID", "API_KEY_SERVICE_BLOCKED"):
            kind = ErrorKind.CREDENTIAL
        if wait_s is None and isinstance(detail.get("retryDelay"), str):
            wait_s = retry_after({"retry-after": detail["retryDelay"].removesuffix("s")})
    if kind is ErrorKind.INVALID_REQUEST and "token count" in message and "exceeds the maximum" in message:
        kind = ErrorKind.CONTEXT_LENGTH
    return ProviderError(
        kind,
        safe_message(message) or default_message(status),
        status=status,
        code=str(name) if name else None,
        retry_after_s=wait_s,
    )
