"""OpenAI's own dialect, for `openai` and `openai_compatible` providers: bytes pass through untouched.

It looks inside a reply only to meter it, to catch a failure dressed as success and to fill in what
self-hosted servers leave out; it must never lose a choice or let a broken answer pass as a whole one.
"""

from collections.abc import Sequence

import orjson

from routing.providers.chunks import GATEWAY_FIELDS, derived_id, usage_chunk
from routing.providers.embeddings import embeddings_as
from routing.providers.errors import invalid_response, openai_error, openai_error_from
from routing.providers.media import physical_units, refused
from routing.providers.portable import portable
from routing.providers.usage import openai_usage, record_usage, reply_usage
from routing.registry import dialect_of
from routing.types import (
    PRICED_BY,
    Headers,
    Json,
    Operation,
    ProviderError,
    Reply,
    StreamState,
    Target,
    Usage,
    WireRequest,
)

PATHS = {
    Operation.CHAT: "/chat/completions",
    Operation.COMPLETIONS: "/completions",
    Operation.EMBEDDINGS: "/embeddings",
    Operation.MODERATIONS: "/moderations",
    Operation.RERANK: "/rerank",
}

DONE = b"[DONE]"


def path_of(operation: Operation, target: Target) -> str:
    """Where the operation is, below the dialect's address. Raises UnsupportedParameter where there is none."""
    dialect = dialect_of(target.kind)
    if operation not in dialect.operations:
        raise refused(operation, dialect.name)
    return PATHS[operation]


def build_request(operation: Operation, body: Json, target: Target, *, stream: bool) -> WireRequest:
    """The same body for `target`'s model. `options`: organization, project (OpenAI's headers)."""
    headers = [*json_headers(stream=stream)]
    if target.api_key:
        headers.append(("authorization", f"Bearer {target.api_key}"))
    headers += [
        (f"openai-{name}", target.options[name])
        for name in ("organization", "project")
        if name in target.options
    ]
    return WireRequest(
        url=target.base_url + path_of(operation, target),
        headers=tuple(headers),
        body=request_body(body, target, stream=stream),
    )


def json_headers(*, stream: bool) -> tuple[tuple[str, str], ...]:
    return (
        ("content-type", "application/json"),
        ("accept", "text/event-stream" if stream else "application/json"),
    )


def request_body(body: Json, target: Target, *, stream: bool) -> bytes:
    """The body with the provider's model name and, for streams, usage asked for. `body` is not changed."""
    wire = {name: value for name, value in portable(body, target).items() if name not in GATEWAY_FIELDS}
    wire["model"] = target.provider_model
    if stream:
        wire["stream"] = True
        wire["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
    else:
        wire.pop("stream", None)
        wire.pop("stream_options", None)
    return orjson.dumps(wire)


def classify_error(status: int, headers: Headers, body: bytes) -> ProviderError:
    return openai_error(status, headers, body)


def parse_reply(operation: Operation, request: Json, body: bytes, target: Target) -> Reply:
    """The same bytes when the reply is complete; re-serialised only when something had to be filled in."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise invalid_response("The provider's answer is not JSON.") from None
    if not isinstance(document, dict):
        raise invalid_response("The provider's answer is not a JSON object.")
    error = document.get("error")
    if error and not document.get("choices"):
        raise _as_error(error)
    if operation in PRICED_BY:
        return _without_tokens(operation, request, document, body, target)
    if operation is Operation.EMBEDDINGS:
        changed = _complete_embeddings(document, request, target)
        finish_reason = None
    else:
        changed, finish_reason = _complete_choices(document, operation, body, target)
    usage, usage_invalid = reply_usage(document.get("usage"), openai_usage)
    if operation is Operation.EMBEDDINGS and not isinstance(document.get("usage"), dict):
        # The field is required of the object, but an unknown count stays unknown: Reply.usage is None.
        document["usage"] = {"prompt_tokens": 0, "total_tokens": 0}
        changed = True
    return Reply(
        body=orjson.dumps(document) if changed else body,
        usage=usage,
        model=document["model"],
        finish_reason=finish_reason,
        usage_invalid=usage_invalid,
    )


def _without_tokens(
    operation: Operation, request: Json, document: Json, body: bytes, target: Target
) -> Reply:
    """A reply that is metered by what was asked: checked against the request, and else passed on."""
    if operation is Operation.MODERATIONS:
        changed = _complete_moderations(document, request)
    else:
        changed = _complete_ranking(document, request)
    changed |= _fill(document, model=target.provider_model)
    return Reply(
        body=orjson.dumps(document) if changed else body,
        usage=Usage(physical_units(operation, request), "estimated"),
        model=document["model"],
        finish_reason=None,
    )


def _complete_moderations(document: Json, request: Json) -> bool:
    """Raise ProviderError unless every result tells whether it is flagged; True if anything was filled in."""
    results = document.get("results")
    if not isinstance(results, list) or not results:
        raise invalid_response("The provider's answer has no results.")
    for result in results:
        if not isinstance(result, dict) or not isinstance(result.get("flagged"), bool):
            raise invalid_response(
                "The provider's answer has a result that does not say whether it is flagged."
            )
    if not isinstance(document.get("id"), str):
        document["id"] = derived_id("modr-", orjson.dumps(request))
        return True
    return False


def _complete_ranking(document: Json, request: Json) -> bool:
    """Raise ProviderError unless the results name documents of the request, each once, with a score.

    Adds the documents where they were asked for and the server leaves them out; True if it did.
    """
    results, documents = document.get("results"), request["documents"]
    if not isinstance(results, list) or not results:
        raise invalid_response("The provider's answer has no results.")
    seen: set[int] = set()
    changed = False
    for result in results:
        index = result.get("index") if isinstance(result, dict) else None
        if type(index) is not int or not 0 <= index < len(documents) or index in seen:
            raise invalid_response("The provider's answer ranks a document that is not in the request.")
        if type(result.get("relevance_score")) not in (int, float):
            raise invalid_response("The provider's answer has a result without a relevance_score.")
        seen.add(index)
        if request.get("return_documents") is True and result.get("document") is None:
            text = documents[index]
            result["document"] = {"text": text} if isinstance(text, str) else text
            changed = True
    return changed


def _as_error(error: object) -> ProviderError:
    return openai_error_from(error if isinstance(error, dict) else {"message": str(error)}, 200, {})


def _fill(document: Json, **defaults: str) -> bool:
    """Set what is not a text or an empty one; True if anything was."""
    missing = {
        name: value
        for name, value in defaults.items()
        if not isinstance(document.get(name), str) or not document[name]
    }
    document.update(missing)
    return bool(missing)


def _complete_choices(
    document: Json, operation: Operation, body: bytes, target: Target
) -> tuple[bool, str | None]:
    choices = document.get("choices")
    if not isinstance(choices, list) or not choices:
        raise invalid_response("The provider's answer has no choices.")
    chat = operation is Operation.CHAT
    changed = False
    for position, choice in enumerate(choices):
        if not isinstance(choice, dict):
            raise invalid_response("The provider's answer has a choice that is not an object.")
        for name, default in (("index", position), ("logprobs", None), ("finish_reason", None)):
            if name not in choice:
                choice[name] = default
                changed = True
        if not chat:
            if not isinstance(choice.get("text"), str):
                raise invalid_response("The provider's answer has a choice without text.")
            continue
        message = choice.get("message")
        if not isinstance(message, dict):
            raise invalid_response("The provider's answer has a choice without a message.")
        for name, value in (("role", "assistant"), ("content", None), ("refusal", None)):
            if name not in message:
                message[name] = value
                changed = True
    kind = "chat.completion" if chat else "text_completion"
    filled = _fill(document, object=kind, model=target.provider_model)
    if not isinstance(document.get("id"), str) or not document["id"]:
        document["id"] = derived_id("chatcmpl-" if chat else "cmpl-", body)
        filled = True
    if not isinstance(document.get("created"), int):
        document["created"] = 0
        filled = True
    if filled and document["created"] == 0:
        # `dated` looks for the date before any text: keep the envelope's fields first.
        envelope = {name: document.pop(name) for name in ("id", "object", "created", "model")}
        rest = dict(document)
        document.clear()
        document.update(envelope | rest)
    reason = choices[0]["finish_reason"]
    return changed or filled, reason if isinstance(reason, str) else None


def _complete_embeddings(document: Json, request: Json, target: Target) -> bool:
    data = document.get("data")
    if not isinstance(data, list) or not data:
        raise invalid_response("The provider's answer has no embeddings.")
    changed = False
    for position, row in enumerate(data):
        if not isinstance(row, dict) or not isinstance(row.get("embedding"), list | str):
            raise invalid_response("The provider's answer has an entry without an embedding.")
        for name, default in (("object", "embedding"), ("index", position)):
            if name not in row:
                row[name] = default
                changed = True
    try:
        changed |= embeddings_as(request.get("encoding_format"), document)
    except ValueError as error:
        raise invalid_response(f"The provider's answer is not usable: {error}.") from None
    return _fill(document, object="list", model=target.provider_model) or changed


# A stream of one answer repeats everything but the text: the bytes before `"content":"` and after the
# closing quote are those of the event before. An event that matches the remembered frame around a string
# without escapes is therefore valid and carries nothing but that text; it is forwarded without parsing.
# Whatever differs in any byte outside the text (an error, usage, a finish reason, a tool call, a broken
# event) does not match and is parsed.
_PREFIX, _SUFFIX = "prefix", "suffix"
_CONTENT_MARKS = (b'"content":"', b'"content": "', b'"text":"', b'"text": "')
_OBFUSCATION = b',"obfuscation":"'


def parse_event(event: str, data: bytes, state: StreamState) -> Sequence[bytes]:
    """Forwards chunks as they came; the usage chunk only if asked, once.

    `content_bytes` counts the text of the events; a chunk of several choices counts as one event. Both
    serve only to estimate what a cut stream delivered.
    """
    scratch = state.scratch
    prefix = scratch.get(_PREFIX)
    if prefix is not None and data.startswith(prefix):
        end = data.find(b'"', len(prefix))
        size = end - len(prefix)
        if (
            size > 0
            and data.find(b"\\", len(prefix), end) < 0
            and _is_known_suffix(data, end, scratch[_SUFFIX])
            and _is_clean(data[len(prefix) : end])
        ):
            state.content_events += 1
            state.content_bytes += size
            return (data,)
    if data == DONE:
        state.done = True
        return usage_chunk(state)
    return _examine(event, data, state)


def _is_known_suffix(data: bytes, end: int, suffix: bytes) -> bool:
    if data.endswith(suffix) and len(data) - end == len(suffix):
        return True
    # OpenAI pads events with a random `obfuscation` string, always last, against length analysis.
    start = data.find(_OBFUSCATION, end)
    if start < 0 or not data.endswith(b'"}'):
        return False
    padding = data[start + len(_OBFUSCATION) : -2]
    return data[end:start] + b"}" == suffix and padding.isalnum()


def _is_clean(text: bytes) -> bool:
    """Whether bytes between two quotes are a valid JSON string: UTF-8 without control characters."""
    try:
        return text.decode("utf-8").isprintable()
    except UnicodeDecodeError:
        return False


def _examine(event: str, data: bytes, state: StreamState) -> Sequence[bytes]:
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        state.malformed += 1
        return ()
    if not isinstance(document, dict):
        state.malformed += 1
        return ()
    if error := document.get("error"):
        state.error = _as_error(error)
        return ()
    if event == "error" or document.get("object") == "error":
        state.error = _as_error(document)
        return ()
    choices = document.get("choices")
    usage = document.get("usage")
    if not isinstance(choices, list):
        if not isinstance(usage, dict):
            state.malformed += 1
            return ()
        choices = []
    changed = _complete_envelope(document, data, choices, state)
    plain = True
    for choice in choices:
        if not isinstance(choice, dict):
            state.malformed += 1
            return ()
        changed |= _read_choice(choice, state)
        plain &= choice["finish_reason"] is None
    if choices:
        _count_choices(choices, state)
    if usage is not None:
        if isinstance(usage, dict):
            record_usage(state, usage, openai_usage)
        plain = False
    if not choices:
        # A usage chunk, or Azure's prompt filter results, which OpenAI's clients do not expect.
        return _own_usage_chunk(document, data, state, changed=changed) if isinstance(usage, dict) else ()
    if isinstance(usage, dict):
        if state.include_usage:
            document["usage"] = None
        else:
            del document["usage"]
        changed = True
    if plain and not changed and len(choices) == 1:
        _remember_frame(data, choices[0], state)
    forwarded = orjson.dumps(document) if changed else data
    if isinstance(usage, dict) and state.finish_reason is not None and not state.scratch["unfinished"]:
        return (forwarded, *usage_chunk(state))
    return (forwarded,)


def _own_usage_chunk(document: Json, data: bytes, state: StreamState, *, changed: bool) -> Sequence[bytes]:
    if not state.include_usage or state.scratch.get("usage_sent"):
        return ()
    state.scratch["usage_sent"] = True
    if not isinstance(document.get("choices"), list):
        document["choices"] = []
        changed = True
    return (orjson.dumps(document) if changed else data,)


def _complete_envelope(document: Json, data: bytes, choices: list[Json], state: StreamState) -> bool:
    """Learn id, model and date from a chunk, or give it the stream's where it has none; True if changed."""
    id_, model, created = document.get("id"), document.get("model"), document.get("created")
    chat = not any(isinstance(choice, dict) and "text" in choice for choice in choices)
    if isinstance(id_, str) and id_:
        state.id = id_
    elif not state.id:
        state.id = derived_id("chatcmpl-" if chat else "cmpl-", data + b"%d" % state.created)
    if isinstance(model, str) and model:
        state.served_model = model
    if isinstance(created, int) and created:
        state.created = created
    state.scratch.setdefault("unfinished", set())
    if choices:
        state.scratch.setdefault("object", "chat.completion.chunk" if chat else "text_completion")
    changed = _fill(
        document,
        id=state.id,
        object=state.scratch.get("object", "chat.completion.chunk"),
        model=state.served_model or state.model,
    )
    if not isinstance(created, int):
        document["created"] = state.created
        changed = True
    return changed


def _read_choice(choice: Json, state: StreamState) -> bool:
    """Learn whether the choice has ended; give it the fields clients insist on. True if changed."""
    changed = False
    if not isinstance(choice.get("index"), int):
        choice["index"] = 0
        changed = True
    if "finish_reason" not in choice:
        choice["finish_reason"] = None
        changed = True
    if "text" not in choice and not isinstance(choice.get("delta"), dict):
        choice["delta"] = {}
        changed = True
    reason = choice["finish_reason"]
    unfinished: set[object] = state.scratch["unfinished"]
    if isinstance(reason, str) and reason:
        state.finish_reason = reason
        unfinished.discard(choice["index"])
    elif _content_size(choice):
        unfinished.add(choice["index"])
    return changed


def _count_choices(choices: list[Json], state: StreamState) -> None:
    size = sum(_content_size(choice) for choice in choices)
    if size:
        state.content_events += 1
        state.content_bytes += size


def _content_size(choice: Json) -> int:
    """UTF-8 bytes of everything a model generated in this choice of a chunk."""
    if "text" in choice:
        return _size(choice["text"])
    delta = choice["delta"]
    size = sum(_size(delta.get(name)) for name in ("content", "refusal", "reasoning_content", "reasoning"))
    calls = delta.get("tool_calls")
    for call in [*(calls if isinstance(calls, list) else []), {"function": delta.get("function_call")}]:
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            size += _size(function.get("name")) + _size(function.get("arguments"))
    audio = delta.get("audio")
    if isinstance(audio, dict):
        size += _size(audio.get("data")) + _size(audio.get("transcript"))
    return size


def _size(text: object) -> int:
    return len(text.encode("utf-8", "surrogatepass")) if isinstance(text, str) else 0


def _remember_frame(data: bytes, choice: Json, state: StreamState) -> None:
    """Keep the bytes around the text of a chunk that carries nothing else."""
    if "text" in choice:
        text = choice["text"]
    elif set(choice["delta"]) <= {"content"}:
        text = choice["delta"].get("content")
    else:
        return
    if not isinstance(text, str) or not text or choice.get("logprobs") is not None:
        return
    for mark in _CONTENT_MARKS:
        start = data.find(mark)
        if start < 0:
            continue
        start += len(mark)
        end = data.find(b'"', start)
        if data[start:end] != text.encode():
            return
        suffix = data[end:]
        cut = suffix.find(_OBFUSCATION)
        state.scratch[_PREFIX] = data[:start]
        state.scratch[_SUFFIX] = suffix[:cut] + b"}" if cut >= 0 else suffix
        return
