"""Builds the OpenAI objects that translating dialects answer with: replies, stream chunks, usage chunks.

Also holds what every dialect asks of a request body. Nothing here reads a clock: `created` is 0 where a
provider sends none, and the caller dates it.
"""

from collections.abc import Collection, Mapping, Sequence
from hashlib import blake2s

import orjson

from routing.providers.portable import SURFACE
from routing.providers.usage import usage_json
from routing.types import Json, StreamState, UnsupportedParameter, Usage

GATEWAY_FIELDS = frozenset({"provider", SURFACE})
"""Body fields addressed to the gateway; never sent upstream."""

_HARMLESS = frozenset(
    {
        "model",
        "stream",
        "stream_options",
        "user",
        "safety_identifier",
        "metadata",  # stored with the completion, never read by the model
        "prompt_cache_key",  # a hint about where to look for a cached prefix; changes no answer
        "prompt_cache_retention",
    }
    | GATEWAY_FIELDS
)

_NEUTRAL: Mapping[str, Sequence[object]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "store": (False,),
    "modalities": (["text"],),
    "service_tier": ("auto",),
    "parallel_tool_calls": (True,),
    "verbosity": ("medium",),
    "tools": ([],),
}
"""Values that say no more than leaving the parameter out."""


def refuse_inexpressible(body: Json, expressible: Collection[str], *, provider: str) -> None:
    """Raise UnsupportedParameter for the first parameter that would be dropped in silence."""
    for name, value in body.items():
        if value is None or name in expressible or name in _HARMLESS:
            continue
        if any(value == neutral for neutral in _NEUTRAL.get(name, ())):
            continue
        raise UnsupportedParameter(name, f"{provider} cannot express the parameter '{name}'.")


def derived_id(prefix: str, seed: bytes) -> str:
    """An id for an answer that came without one: the same bytes give the same id."""
    return prefix + blake2s(seed, digest_size=12).hexdigest()


def completion(
    *,
    reply_id: str,
    model: str,
    choices: list[Json],
    usage: Usage | None,
    created: int = 0,
) -> bytes:
    """A `chat.completion` as JSON."""
    document: Json = {
        "id": reply_id,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": choices,
    }
    if usage is not None:
        document["usage"] = usage_json(usage)
    return orjson.dumps(document)


def dated(body: bytes, *, created: int) -> bytes:
    """Put `created` (unix seconds) into a reply whose provider sent none; others come back as they are.

    Replies that were built here carry the field before any text a model wrote, so the first match is it.
    """
    head, mark, tail = body.partition(b'"created":0,')
    if not mark or len(head) > 512:
        return body
    return b'%s"created":%d,%s' % (head, created, tail)


def chunk(
    state: StreamState,
    delta: Json,
    *,
    index: int = 0,
    finish_reason: str | None = None,
    logprobs: Json | None = None,
) -> bytes:
    """A `chat.completion.chunk` with one choice, as JSON."""
    document = {
        "id": state.id,
        "object": "chat.completion.chunk",
        "created": state.created,
        "model": state.served_model or state.model,
        "choices": [{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}],
    }
    if state.include_usage:
        document["usage"] = None
    return orjson.dumps(document)


def usage_chunk(state: StreamState, *, kind: str = "chat.completion.chunk") -> Sequence[bytes]:
    """The chunk with the final usage, if the client asked, the usage is known and it was not sent before.

    The relay may call this at the end of a stream whose provider sent no end mark.
    """
    if not state.include_usage or state.usage is None or state.scratch.get("usage_sent"):
        return ()
    state.scratch["usage_sent"] = True
    return (
        orjson.dumps(
            {
                "id": state.id,
                "object": state.scratch.get("object", kind),
                "created": state.created,
                "model": state.served_model or state.model,
                "choices": [],
                "usage": usage_json(state.usage),
            }
        ),
    )


def count_content(state: StreamState, text: str) -> None:
    """Count generated text (or tool arguments, or reasoning) that a client would see."""
    if text:
        state.content_events += 1
        state.content_bytes += len(text.encode("utf-8", "surrogatepass"))
