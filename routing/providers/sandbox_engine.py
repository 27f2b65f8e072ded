"""The built-in offline provider: says, without doing it, what its "server" answers to a request. Pure.

The same request always gets the same answer, byte for byte and delay for delay; the gateway's transport plays
the script. docs/sandbox.md describes the token rule and the directives that make it fail.
"""

import math
import re
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b, shake_256
from struct import pack
from typing import Any, Literal
from urllib.parse import urlsplit

import orjson

from routing.providers.sandbox_schema import Unsatisfiable, instance_of
from routing.types import Json, WireRequest

CREATED = 1_735_689_600
"""Every sandbox answer is dated 2025-01-01T00:00:00Z: it has no clock."""
CONTEXT_WINDOW_TOKENS = 128_000
MAX_DELAY_MS = 120_000
MAX_TOKENS = 20_000
DEFAULT_DIMENSIONS, MAX_DIMENSIONS = 256, 4096
CACHE_MIN_TOKENS, CACHE_STEP_TOKENS = 1024, 128
TOKENS_PER_MESSAGE, TOKENS_PER_IMAGE = 3, 85
REFUSED_KEY = "sk-sandbox-refused"
"""The one credential the sandbox does not accept."""

REASONING_TOKENS = {
    "none": 0,
    "minimal": 8,
    "low": 32,
    "medium": 128,
    "high": 512,
    "xhigh": 1024,
    "max": 2048,
}

ROLES = ("system", "developer", "user", "assistant", "tool", "function")

type End = Literal["close", "reset", "hang"]


@dataclass(frozen=True, slots=True)
class Step:
    """Wait `delay_s`, then send `data`."""

    delay_s: float
    data: bytes


@dataclass(frozen=True, slots=True)
class SandboxScript:
    """What the server does: after `head_delay_s` status and headers, then the steps, then the end.

    close: an orderly end. reset: the connection breaks. hang: nothing more comes, and it stays open.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    steps: tuple[Step, ...]
    end: End = "close"
    head_delay_s: float = 0.0


def answer(wire: WireRequest) -> SandboxScript:
    """The script for a request that `routing.providers.sandbox` built. No content makes it raise."""
    try:
        body = orjson.loads(wire.body)
    except orjson.JSONDecodeError:
        return _failure(_Refused("We could not parse the JSON body of your request."))
    if not isinstance(body, dict):
        return _failure(_Refused("The body of your request must be a JSON object."))
    try:
        directives = _directives(body)
        if directives.status is not None:
            return _told_to_fail(directives)
        if dict(wire.headers).get("authorization") == f"Bearer {REFUSED_KEY}":
            raise _Refused("Incorrect API key provided.", code="invalid_api_key", status=401)
        path = urlsplit(wire.url).path
        if path == "/embeddings":
            return _whole(_embeddings(body), directives, tokens=0)
        if path == "/moderations":
            return _whole(_moderation(body), directives, tokens=0)
        if path == "/rerank":
            return _whole(_ranking(body), directives, tokens=0)
        if path not in ("/chat/completions", "/completions"):
            raise _Refused(f"Unknown request URL: POST {path}.", code="unknown_url", status=404)
        reply = _compose(body, directives, chat=path == "/chat/completions")
    except _Refused as refused:
        return _failure(refused)
    if body.get("stream"):
        return _streamed(reply, directives)
    return _whole(_document(reply), directives, tokens=max(len(a.tokens) for a in reply.answers))


class _Refused(Exception):
    """The request is answered with an error object, as OpenAI would."""

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400
    ) -> None:
        super().__init__(message)
        self.message, self.param, self.code, self.status = message, param, code, status


# ------------------------------------------------------------------ directives

_DIRECTIVE = re.compile(r"\[\[sandbox\b([^\[\]]*)\]\]")


@dataclass(frozen=True, slots=True)
class _Directives:
    """What the prompt or the model name tells the sandbox to do; see docs/sandbox.md."""

    status: int | None = None
    retry_after: float | None = None
    delay_ms: float = 0
    first_token_ms: float = 0
    token_ms: float = 0
    tokens: int | None = None
    cut_after: int | None = None
    stall_after: int | None = None
    invalid_json_at: int | None = None
    error_after: int | None = None
    no_done: bool = False
    no_usage: bool = False
    html: bool = False


_FLAGS = frozenset({"no_done", "no_usage", "html"})
_TIMES = frozenset({"retry_after", "delay_ms", "first_token_ms", "token_ms"})


def _directives(body: Json) -> _Directives:
    """Those of the model name first, then of the last user message, which win."""
    found = _Directives()
    for text in (body.get("model"), _last_prompt(body)):
        for match in _DIRECTIVE.finditer(text) if isinstance(text, str) else ():
            for word in match[1].split():
                found = replace(found, **_setting(word))
    return found


def _setting(word: str) -> dict[str, Any]:
    name, equals, value = word.partition("=")
    if name in _FLAGS and not equals:
        return {name: True}
    if name in _FLAGS or name not in _Directives.__slots__:
        raise _Refused(f"The sandbox does not know the directive '{word}'.")
    try:
        number = float(value) if name in _TIMES else int(value)
    except ValueError:
        number = math.nan
    limit = MAX_DELAY_MS if name in _TIMES else MAX_TOKENS
    if not 0 <= number <= limit or (name == "status" and not 400 <= number <= 599):
        raise _Refused(f"The sandbox directive '{word}' is out of range.")
    return {name: number}


def _last_prompt(body: Json) -> str:
    """The text the answer is about: the last user message, the prompt, or the input."""
    messages = body.get("messages")
    if isinstance(messages, list):
        for message in reversed(messages):
            if isinstance(message, dict) and message.get("role") == "user":
                return _text(message.get("content"))
        return ""
    raw = body.get("prompt", body.get("input", body.get("query")))
    first = raw[0] if isinstance(raw, list) and raw else raw
    return first if isinstance(first, str) else ""


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return "\n".join(text for text in texts if isinstance(text, str))


def _without_directives(text: str) -> str:
    return _DIRECTIVE.sub("", text).strip()


# ------------------------------------------------------------------ tokens

_TOKEN = re.compile(r"\s*(?:[^\W_]{1,8}|_|[^\w\s])|\s+\Z")


def tokens_of(text: str) -> list[str]:
    """The sandbox's token rule: up to 8 letters or digits, or one other sign, with the space before it.

    Joined, the tokens are the text again.
    """
    return _TOKEN.findall(text)


def count_tokens(text: str) -> int:
    return len(tokens_of(text))


def _message_tokens(message: Json) -> int:
    count = TOKENS_PER_MESSAGE + count_tokens(_without_directives(_text(message.get("content"))))
    count += TOKENS_PER_IMAGE * _image_count(message)
    if message.get("tool_calls"):
        count += count_tokens(orjson.dumps(message["tool_calls"]).decode())
    return count


def _image_count(message: Json) -> int:
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    return sum(1 for part in parts if isinstance(part, dict) and part.get("type") == "image_url")


# ------------------------------------------------------------------ validation

_RANGES = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
    "n": (1, 128),
    "max_tokens": (1, math.inf),
    "max_completion_tokens": (1, math.inf),
    "top_logprobs": (0, 20),
}
_WHOLE_NUMBERS = frozenset({"n", "max_tokens", "max_completion_tokens", "top_logprobs"})


_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "messages": list,
    "tools": list,
    "tool_choice": (str, dict),
    "response_format": dict,
    "stream_options": dict,
    "logprobs": (bool, int),
    "reasoning_effort": str,
    "stop": (str, list),
    "prompt_cache_key": str,
    "suffix": str,
}


def _check_types(body: Json) -> None:
    for name, allowed in _TYPES.items():
        if body.get(name) is not None and not isinstance(body[name], allowed):
            raise _Refused(f"Invalid type for '{name}'.", param=name, code="invalid_type")
    for tool in body.get("tools") or ():
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise _Refused("Invalid tool: only named functions.", param="tools", code="invalid_value")


def _check_ranges(body: Json) -> None:
    for name, (low, high) in _RANGES.items():
        value = body.get(name)
        if value is None:
            continue
        allowed = int if name in _WHOLE_NUMBERS else (int, float)
        if isinstance(value, bool) or not isinstance(value, allowed):
            raise _Refused(f"Invalid type for '{name}'.", param=name, code="invalid_type")
        if not low <= value <= high:
            edge, bound = ("minimum", low) if value < low else ("maximum", high)
            raise _Refused(
                f"Invalid '{name}': {edge} value is {bound}.", param=name, code=f"decimal_{edge}_value"
            )


def _check_messages(messages: object) -> list[Json]:
    if not isinstance(messages, list) or not messages:
        raise _Refused(
            "Invalid 'messages': expected an array with at least one message.",
            param="messages",
            code="empty_array",
        )
    for position, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ROLES:
            raise _Refused(
                f"Invalid value: '{role}'. Supported values are: {', '.join(ROLES)}.",
                param=f"messages[{position}].role",
                code="invalid_value",
            )
        if role == "tool" and not message.get("tool_call_id"):
            raise _Refused(
                f"Missing parameter 'tool_call_id' at messages[{position}].",
                param=f"messages[{position}].tool_call_id",
                code="missing_required_parameter",
            )
    return messages


# ------------------------------------------------------------------ composing an answer


@dataclass(frozen=True, slots=True)
class _Answer:
    """One choice: its text as tokens or its tool calls, and why it ended."""

    tokens: tuple[str, ...]
    finish_reason: str
    reasoning_tokens: int = 0
    tool_calls: tuple[Json, ...] = ()

    @property
    def output_tokens(self) -> int:
        calls = sum(
            count_tokens(call["function"]["name"]) + count_tokens(call["function"]["arguments"])
            for call in self.tool_calls
        )
        return self.reasoning_tokens + len(self.tokens) + calls


@dataclass(frozen=True, slots=True)
class _Reply:
    """Everything an answer says, before it is cut into a document or a stream."""

    id: str
    model: str
    chat: bool
    answers: tuple[_Answer, ...]
    usage: Json = field(repr=False)
    top_logprobs: int | None
    """Alternatives per token; None without logprobs."""
    include_usage: bool
    no_usage: bool


def _digest(*parts: object, size: int = 12) -> str:
    return blake2b(
        "\x1f".join(map(str, parts)).encode("utf-8", "surrogatepass"), digest_size=size
    ).hexdigest()


def _compose(body: Json, directives: _Directives, *, chat: bool) -> _Reply:
    _check_types(body)
    _check_ranges(body)
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise _Refused("You must provide a model parameter.", param="model")
    model = _without_directives(model)
    choices = body.get("n") or 1
    logprobs = body.get("logprobs")
    if chat:
        messages = _check_messages(body.get("messages"))
        counts = [_message_tokens(message) for message in messages]
        if body.get("tools"):
            counts.insert(0, count_tokens(orjson.dumps(body["tools"]).decode()))
        seeds = [(_without_directives(_last_prompt(body)), n) for n in range(choices)]
        top_logprobs = (body.get("top_logprobs") or 0) if logprobs else None
    else:
        prompts = _prompts(body)
        counts = [count_tokens(_without_directives(prompt)) for prompt in prompts]
        seeds = [(_without_directives(prompt), n) for prompt in prompts for n in range(choices)]
        top_logprobs = logprobs if isinstance(logprobs, int) else None
    prompt_tokens = sum(counts)
    if prompt_tokens > CONTEXT_WINDOW_TOKENS:
        raise _Refused(
            f"This model's maximum context length is {CONTEXT_WINDOW_TOKENS} tokens. "
            f"However, your messages resulted in {prompt_tokens} tokens.",
            param="messages" if chat else "prompt",
            code="context_length_exceeded",
        )
    answers = tuple(_one_answer(body, directives, model, prompt, n, chat=chat) for prompt, n in seeds)
    request_id = _digest(model, orjson.dumps(body))
    return _Reply(
        id=("chatcmpl-" if chat else "cmpl-") + request_id,
        model=model,
        chat=chat,
        answers=answers,
        usage=_usage(body, counts, answers),
        top_logprobs=top_logprobs,
        include_usage=bool((body.get("stream_options") or {}).get("include_usage")),
        no_usage=directives.no_usage,
    )


def _prompts(body: Json) -> list[str]:
    raw = body.get("prompt")
    if body.get("suffix"):
        raise _Refused("The model does not support the suffix parameter.", param="suffix")
    if isinstance(raw, str):
        return [raw]
    if isinstance(raw, list) and raw and all(isinstance(prompt, str) for prompt in raw):
        return raw
    raise _Refused("Invalid 'prompt': expected a string or an array of strings.", param="prompt")


def _usage(body: Json, counts: Sequence[int], answers: Sequence[_Answer]) -> Json:
    prompt, output = sum(counts), sum(answer.output_tokens for answer in answers)
    cached = 0
    if body.get("prompt_cache_key"):
        # As if an earlier call with this key had sent all but the last message.
        prefix = sum(counts[:-1])
        cached = prefix // CACHE_STEP_TOKENS * CACHE_STEP_TOKENS if prefix >= CACHE_MIN_TOKENS else 0
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": sum(answer.reasoning_tokens for answer in answers),
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _one_answer(
    body: Json, directives: _Directives, model: str, prompt: str, number: int, *, chat: bool
) -> _Answer:
    limit = body.get("max_completion_tokens") or body.get("max_tokens") or (math.inf if chat else 16)
    reasoning = _reasoning_tokens(body, model) if chat else 0
    if reasoning >= limit:
        return _Answer(tokens=(), finish_reason="length", reasoning_tokens=int(limit))
    limit -= reasoning
    if chat and (calls := _tool_calls(body, prompt, number)):
        return _Answer(tokens=(), finish_reason="tool_calls", reasoning_tokens=reasoning, tool_calls=calls)
    text = _structured(body) if chat else None
    if text is None:
        text = _prose(body, model, prompt, number, chat=chat)
        if not chat and body.get("echo"):
            text = prompt + text
    tokens, reason = tokens_of(text), "stop"
    if directives.tokens is not None:
        tokens = [*_filler(directives.tokens)]
    tokens, stopped = _until_stop(tokens, body.get("stop"))
    if len(tokens) > limit:
        tokens, reason = tokens[: int(limit)], "length"
    elif stopped:
        reason = "stop"
    return _Answer(tokens=tuple(tokens), finish_reason=reason, reasoning_tokens=reasoning)


def _reasoning_tokens(body: Json, model: str) -> int:
    effort = body.get("reasoning_effort")
    if effort is None:
        effort = "medium" if "reason" in model else "none"
    if effort not in REASONING_TOKENS:
        raise _Refused(
            f"Invalid value: '{effort}' for reasoning_effort.", param="reasoning_effort", code="invalid_value"
        )
    return REASONING_TOKENS[effort]


_CLOSINGS = (
    "Nothing left this machine, and nobody was billed.",
    "The same words will always get the same answer here.",
    "A real model would know more; this one only counts.",
    "Point the same request at another provider to compare.",
)


def _prose(body: Json, model: str, prompt: str, number: int, *, chat: bool) -> str:
    words = prompt.split()
    quoted = " ".join(words[:8]) + (" ..." if len(words) > 8 else "")
    images = sum(_image_count(message) for message in body["messages"]) if chat else 0
    seen = f" and {images} image{'s' if images > 1 else ''}" if images else ""
    pick = int(_digest(body.get("seed"), prompt, size=4), 16) + number
    count = f"{len(words)} word{'' if len(words) == 1 else 's'}"
    return f'This is {model} speaking. You sent {count}{seen}: "{quoted}". {_CLOSINGS[pick % len(_CLOSINGS)]}'


_FILLER = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def _filler(count: int) -> Iterator[str]:
    for position in range(count):
        yield (" " if position else "") + _FILLER[position % len(_FILLER)]


def _until_stop(tokens: list[str], stop: object) -> tuple[list[str], bool]:
    stops = [stop] if isinstance(stop, str) else stop if isinstance(stop, list) else []
    text = "".join(tokens)
    places = [text.find(s) for s in stops if isinstance(s, str) and s and s in text]
    if not places:
        return tokens, False
    return tokens_of(text[: min(places)]), True


def _structured(body: Json) -> str | None:
    """The answer when a response format asks for JSON."""
    asked = body.get("response_format")
    if not isinstance(asked, dict) or asked.get("type") in (None, "text"):
        return None
    if asked["type"] == "json_object":
        return '{"answer": "sandbox"}'
    described = asked.get("json_schema")
    if asked["type"] != "json_schema" or not isinstance(described, dict) or not described.get("name"):
        raise _Refused(
            "Missing required parameter: 'response_format.json_schema.name'.",
            param="response_format",
            code="missing_required_parameter",
        )
    try:
        return orjson.dumps(instance_of(described.get("schema", {}))).decode()
    except Unsatisfiable as error:
        raise _Refused(
            f"Invalid schema for response_format: {error}.",
            param="response_format",
            code="invalid_json_schema",
        ) from None


def _tool_calls(body: Json, prompt: str, number: int) -> tuple[Json, ...]:
    """Calls that tool_choice forces, or that the last message asks for by a tool's name."""
    functions = [tool["function"] for tool in body.get("tools") or ()]
    choice = body.get("tool_choice")
    if choice == "none" or not functions:
        return ()
    if isinstance(choice, dict):
        wanted = choice.get("function")
        named = wanted.get("name") if isinstance(wanted, dict) else None
        chosen = [function for function in functions if function["name"] == named]
        if not chosen:
            raise _Refused(f"Tool '{named}' not found in 'tools'.", param="tool_choice")
    elif body["messages"][-1].get("role") != "user":
        return ()  # results were just given: answer in words
    else:
        chosen = [f for f in functions if re.search(rf"\b{re.escape(f['name'])}\b", prompt)]
        if not chosen and choice == "required":
            chosen = functions[:1]
        if body.get("parallel_tool_calls") is False:
            chosen = chosen[:1]
    return tuple(_tool_call(function, prompt, number) for function in chosen)


def _tool_call(function: Json, prompt: str, number: int) -> Json:
    try:
        arguments = instance_of(function.get("parameters") or {"type": "object"})
    except Unsatisfiable as error:
        raise _Refused(
            f"Invalid schema for function '{function['name']}': {error}.",
            param="tools",
            code="invalid_function_parameters",
        ) from None
    return {
        "id": f"call_{_digest(function['name'], prompt, number)}",
        "type": "function",
        "function": {"name": function["name"], "arguments": orjson.dumps(arguments).decode()},
    }


# ------------------------------------------------------------------ embeddings


def _embeddings(body: Json) -> Json:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise _Refused("You must provide a model parameter.", param="model")
    size = body.get("dimensions") or DEFAULT_DIMENSIONS
    if not isinstance(size, int) or not 1 <= size <= MAX_DIMENSIONS:
        raise _Refused(
            f"Invalid 'dimensions': must be 1 to {MAX_DIMENSIONS}.", param="dimensions", code="invalid_value"
        )
    encoding = body.get("encoding_format", "float")
    if encoding not in ("float", "base64"):
        raise _Refused("Invalid 'encoding_format'.", param="encoding_format", code="invalid_value")
    data, count = [], 0
    for position, tokens in enumerate(_inputs(body.get("input"))):
        vector = vector_of(tokens, size)
        embedding: object = vector
        if encoding == "base64":
            embedding = b64encode(pack(f"<{size}f", *vector)).decode()
        data.append({"object": "embedding", "index": position, "embedding": embedding})
        count += len(tokens)
    return {
        "object": "list",
        "data": data,
        "model": _without_directives(model),
        "usage": {"prompt_tokens": count, "total_tokens": count},
    }


def _inputs(raw: object) -> list[list[str]]:
    rows = [raw] if isinstance(raw, str) else raw
    if isinstance(rows, list) and rows and all(isinstance(token, int) for token in rows):
        rows = [rows]
    if not isinstance(rows, list) or not rows or not all(isinstance(row, str | list) and row for row in rows):
        raise _Refused(
            "'$.input' is invalid: expected a string or an array that is not empty.",
            param="input",
            code="invalid_value",
        )
    return [
        tokens_of(_without_directives(row)) if isinstance(row, str) else [f"#{token}" for token in row]
        for row in rows
    ]


_FLAGGED = {"violence": "kill", "harassment": "idiot", "self-harm": "suicide"}
"""The sandbox's categories, each with the one word that flags it."""


def _moderation(body: Json) -> Json:
    raw = body.get("input")
    rows = raw if isinstance(raw, list) and all(isinstance(row, str) for row in raw) else [raw]
    results = []
    for row in rows:
        parts = row if isinstance(row, list) else [{"text": row}]
        words = {token.strip().lower() for token in tokens_of(_without_directives(_text(parts)))}
        found = {category: word in words for category, word in _FLAGGED.items()}
        results.append(
            {
                "flagged": any(found.values()),
                "categories": found,
                "category_scores": {category: 0.99 if hit else 0.01 for category, hit in found.items()},
                "category_applied_input_types": {category: ["text"] for category in found},
            }
        )
    digest = blake2b(orjson.dumps(raw), digest_size=12).hexdigest()
    return {"id": f"modr-{digest}", "model": _without_directives(str(body.get("model"))), "results": results}


def _ranking(body: Json) -> Json:
    """Documents by the likeness of their vectors to the query's; like ones in the order they came."""
    query, documents = body.get("query"), body.get("documents")
    if not isinstance(query, str) or not isinstance(documents, list) or not documents:
        raise _Refused("A ranking needs a query and documents.", param="documents", code="invalid_value")
    texts = [document.get("text") if isinstance(document, dict) else document for document in documents]
    if not all(isinstance(text, str) and text for text in texts):
        raise _Refused("A document is a text.", param="documents", code="invalid_value")
    asked = vector_of(tokens_of(_without_directives(query)), DEFAULT_DIMENSIONS)
    scores = []
    for text in texts:
        vector = vector_of(tokens_of(str(text)), DEFAULT_DIMENSIONS)
        likeness = sum(one * other for one, other in zip(asked, vector, strict=True))
        scores.append(round(min(1.0, max(0.0, likeness)), 6))
    order = sorted(range(len(texts)), key=lambda index: -scores[index])[: body.get("top_n") or len(texts)]
    results: list[Json] = [{"index": index, "relevance_score": scores[index]} for index in order]
    if body.get("return_documents"):
        for result in results:
            result["document"] = {"text": texts[result["index"]]}
    digest = blake2b(orjson.dumps([query, texts]), digest_size=12).hexdigest()
    return {
        "id": f"rerank-{digest}",
        "model": _without_directives(str(body.get("model"))),
        "results": results,
    }


def vector_of(tokens: Sequence[str], size: int) -> list[float]:
    """A unit vector: the sum of a pseudo-random direction per token, so that like texts lie close."""
    total = [0.0] * size
    for token, times in Counter(token.strip().lower() for token in tokens).items():
        noise = shake_256(token.encode("utf-8", "surrogatepass")).digest(2 * size)
        for position in range(size):
            total[position] += times * (noise[2 * position] * 256 + noise[2 * position + 1] - 32767.5)
    length = math.hypot(*total)
    return [value / length for value in total] if length else [1.0] + [0.0] * (size - 1)


# ------------------------------------------------------------------ documents and streams


def _document(reply: _Reply) -> Json:
    choices = []
    for index, answer in enumerate(reply.answers):
        choice: Json = {"index": index}
        if reply.chat:
            message: Json = {
                "role": "assistant",
                "content": None if answer.tool_calls else "".join(answer.tokens),
                "refusal": None,
                "annotations": [],
            }
            if answer.tool_calls:
                message["tool_calls"] = list(answer.tool_calls)
            choice["message"] = message
        else:
            choice["text"] = "".join(answer.tokens)
        choice["logprobs"] = _logprobs(answer.tokens, reply)
        choice["finish_reason"] = answer.finish_reason
        choices.append(choice)
    document = {**_envelope(reply, "chat.completion"), "choices": choices}
    if not reply.no_usage:
        document["usage"] = reply.usage
    return document


def _envelope(reply: _Reply, kind: str) -> Json:
    return {
        "id": reply.id,
        "object": kind if reply.chat else "text_completion",
        "created": CREATED,
        "model": reply.model,
        "system_fingerprint": "fp_sandbox",
    }


def _logprobs(tokens: Sequence[str], reply: _Reply, *, offset: int = 0) -> Json | None:
    if reply.top_logprobs is None:
        return None
    rows = []
    for position, token in enumerate(tokens):
        others = [token, *(f" alt{number}" for number in range(1, reply.top_logprobs))]
        ranked = [_logprob(text, rank) for rank, text in enumerate(others[: reply.top_logprobs])]
        rows.append((offset + position, _logprob(token, 0), ranked))
    if reply.chat:
        return {"content": [{**row, "top_logprobs": top} for _, row, top in rows], "refusal": None}
    return {
        "tokens": [row["token"] for _, row, _ in rows],
        "token_logprobs": [row["logprob"] for _, row, _ in rows],
        "top_logprobs": [{entry["token"]: entry["logprob"] for entry in top} for _, _, top in rows],
        "text_offset": _offsets(tokens),
    }


def _offsets(tokens: Sequence[str]) -> list[int]:
    starts, place = [], 0
    for token in tokens:
        starts.append(place)
        place += len(token)
    return starts


def _logprob(token: str, rank: int) -> Json:
    share = int(_digest(token, size=2), 16) / 65536
    return {
        "token": token,
        "logprob": -(rank + share / 2),
        "bytes": list(token.encode("utf-8", "surrogatepass")),
    }


def _events(reply: _Reply) -> Iterator[Json]:
    """The chunks of a stream, token by token; several answers take turns."""
    many = range(len(reply.answers))
    if reply.chat:
        for index in many:
            yield _chunk(reply, index, {"role": "assistant", "content": "", "refusal": None})
    longest = max(len(answer.tokens) for answer in reply.answers)
    for position in range(longest):
        for index in many:
            tokens = reply.answers[index].tokens
            if position < len(tokens):
                token = tokens[position]
                yield _chunk(reply, index, {"content": token}, logprobs=_logprobs([token], reply))
    for index in many:
        for number, call in enumerate(reply.answers[index].tool_calls):
            yield from _call_chunks(reply, index, number, call)
    for index in many:
        yield _chunk(reply, index, {}, finish_reason=reply.answers[index].finish_reason)
    if reply.include_usage and not reply.no_usage:
        yield {**_envelope(reply, "chat.completion.chunk"), "choices": [], "usage": reply.usage}


def _call_chunks(reply: _Reply, index: int, number: int, call: Json) -> Iterator[Json]:
    function = call["function"]
    head = {"index": number, "id": call["id"], "type": "function"}
    yield _chunk(
        reply, index, {"tool_calls": [{**head, "function": {"name": function["name"], "arguments": ""}}]}
    )
    for piece in tokens_of(function["arguments"]):
        yield _chunk(reply, index, {"tool_calls": [{"index": number, "function": {"arguments": piece}}]})


def _chunk(
    reply: _Reply, index: int, delta: Json, *, finish_reason: str | None = None, logprobs: Json | None = None
) -> Json:
    choice: Json = {"index": index}
    if reply.chat:
        choice["delta"] = delta
    else:
        choice["text"] = delta.get("content", "")
    choice["logprobs"] = logprobs
    choice["finish_reason"] = finish_reason
    document = {**_envelope(reply, "chat.completion.chunk"), "choices": [choice]}
    if reply.include_usage:
        document["usage"] = None
    return document


# ------------------------------------------------------------------ scripts


def _headers(content_type: str, seed: bytes) -> tuple[tuple[str, str], ...]:
    return (("content-type", content_type), ("x-request-id", f"req_{_digest(seed)}"))


def _whole(document: Json, directives: _Directives, *, tokens: int) -> SandboxScript:
    body = orjson.dumps(document)
    wait_ms = directives.delay_ms + directives.first_token_ms + directives.token_ms * tokens
    end: End = "close"
    if directives.html:
        return _html(directives)
    if directives.cut_after is not None or directives.stall_after is not None:
        # A whole answer has no events to count: half of it comes.
        end = "reset" if directives.cut_after is not None else "hang"
    sent = body[: len(body) // 2] if end != "close" or directives.invalid_json_at is not None else body
    headers = _headers("application/json", body)
    if directives.invalid_json_at is None:
        headers = (*headers, ("content-length", str(len(body))))
    return SandboxScript(
        status=200,
        headers=headers,
        steps=(Step(0.0, sent),),
        end=end,
        head_delay_s=min(wait_ms, MAX_DELAY_MS) / 1000,
    )


def _html(directives: _Directives) -> SandboxScript:
    page = b"<!DOCTYPE html><html><head><title>Welcome</title></head><body>It works!</body></html>"
    return SandboxScript(
        status=200,
        headers=_headers("text/html; charset=utf-8", page),
        steps=(Step(0.0, page),),
        head_delay_s=directives.delay_ms / 1000,
    )


def _streamed(reply: _Reply, directives: _Directives) -> SandboxScript:
    if directives.html:
        return _html(directives)
    steps: list[Step] = []
    end: End = "close"
    for position, event in enumerate(_events(reply)):
        if position == directives.cut_after:
            end = "reset"
            break
        if position == directives.stall_after:
            end = "hang"
            break
        if position == directives.error_after:
            steps.append(
                Step(0.0, _frame(_error_body(_Refused("The server had an error.", code="server_error"))))
            )
            break
        data = orjson.dumps(event)
        if position == directives.invalid_json_at:
            data = data[: len(data) // 2]
        delay_ms = directives.first_token_ms if position == 0 else directives.token_ms
        steps.append(Step(delay_ms / 1000, _frame(data)))
    else:
        if not directives.no_done:
            steps.append(Step(0.0, _frame(b"[DONE]")))
    return SandboxScript(
        status=200,
        headers=_headers("text/event-stream; charset=utf-8", reply.id.encode()),
        steps=tuple(steps),
        end=end,
        head_delay_s=directives.delay_ms / 1000,
    )


def _frame(data: bytes) -> bytes:
    return b"data: %s\n\n" % data


# Statuses with the type and code OpenAI sends with them; others get the plain type of their class.
_ERRORS = {
    401: ("invalid_request_error", "invalid_api_key", "Incorrect API key provided."),
    403: ("invalid_request_error", "unsupported_country_region_territory", "Country not supported."),
    404: ("invalid_request_error", "model_not_found", "The model does not exist."),
    429: ("requests", "rate_limit_exceeded", "Rate limit reached."),
    503: ("server_error", None, "The engine is currently overloaded, please try again later."),
}


def _told_to_fail(directives: _Directives) -> SandboxScript:
    status = directives.status or 500
    default = ("server_error", None, "The server had an error while processing your request.")
    if status < 500:
        default = ("invalid_request_error", None, "The sandbox was told to refuse this request.")
    type_, code, message = _ERRORS.get(status, default)
    body = orjson.dumps({"error": {"message": message, "type": type_, "param": None, "code": code}})
    content_type = "application/json"
    if directives.html:
        body, content_type = b"<html><body><h1>%d</h1></body></html>" % status, "text/html; charset=utf-8"
    headers = _headers(content_type, body)
    if directives.retry_after is not None:
        headers = (*headers, ("retry-after", f"{directives.retry_after:g}"))
    return SandboxScript(
        status=status, headers=headers, steps=(Step(0.0, body),), head_delay_s=directives.delay_ms / 1000
    )


def _failure(refused: _Refused) -> SandboxScript:
    body = _error_body(refused)
    return SandboxScript(
        status=refused.status, headers=_headers("application/json", body), steps=(Step(0.0, body),)
    )


def _error_body(refused: _Refused) -> bytes:
    type_ = "server_error" if refused.code == "server_error" else "invalid_request_error"
    return orjson.dumps(
        {
            "error": {
                "message": refused.message,
                "type": type_,
                "param": refused.param,
                "code": refused.code,
            }
        }
    )
