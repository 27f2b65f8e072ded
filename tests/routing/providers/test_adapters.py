"""Promises every adapter keeps, whatever its provider sends."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.providers.adapters import adapter_for
from routing.types import Operation, ProviderError, ProviderKind, Reply, Usage
from tests.routing.providers.factories import API_KEY, a_chat, a_state, a_target

KINDS = st.sampled_from(list(ProviderKind))

WORDS = st.sampled_from(
    [
        "choices", "delta", "message", "content", "tool_calls", "function", "arguments", "usage",
        "finish_reason", "index", "error", "text", "id", "model", "type", "content_block",
        "content_block_start",
        "content_block_delta", "content_block_stop", "message_start", "message_delta", "text_delta",
        "input_json_delta", "partial_json", "tool_use", "thinking", "candidates", "parts", "functionCall",
        "finishReason", "promptFeedback", "blockReason", "usageMetadata", "embeddings", "values", "data",
        "embedding", "stop_reason", "logprobsResult", "chosenCandidates", "topCandidates", "prompt_tokens",
        "object", "created",
    ]
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | WORDS | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=5),
    max_leaves=25,
)


@pytest.mark.parametrize("kind", list(ProviderKind))
def test_every_kind_has_an_adapter_with_the_four_functions(kind):
    adapter = adapter_for(kind)
    for name in ("build_request", "parse_reply", "parse_event", "classify_error"):
        assert callable(getattr(adapter, name))


@given(KINDS, st.lists(st.dictionaries(WORDS, JSON, max_size=6).map(orjson.dumps) | st.binary(max_size=20)))
def test_no_event_makes_an_adapter_raise_or_send_something_that_is_not_a_chunk(kind, events):
    state = a_state(include_usage=True)
    for data in events:
        for chunk in adapter_for(kind).parse_event("", data, state):
            document = orjson.loads(chunk)
            assert isinstance(document["choices"], list)
            assert document["id"]
            assert document["object"]
            assert document["model"]
    assert state.content_bytes >= 0


@given(KINDS, st.sampled_from(list(Operation)), JSON.map(orjson.dumps) | st.binary(max_size=20))
def test_a_whole_answer_is_either_a_reply_or_a_provider_error(kind, operation, body):
    try:
        reply = adapter_for(kind).parse_reply(operation, a_chat(documents=["a"]), body, a_target(kind))
    except ProviderError:
        return
    assert isinstance(reply, Reply)
    assert orjson.loads(reply.body)["model"]
    assert reply.usage is None or isinstance(reply.usage, Usage)


@pytest.mark.parametrize("kind", list(ProviderKind))
@pytest.mark.parametrize("stream", [False, True])
def test_building_a_request_leaves_the_body_alone_and_the_key_out_of_it(kind, stream):
    body = a_chat(provider={"order": ["x"]}, user="u-1")
    before = orjson.dumps(body)
    wire = adapter_for(kind).build_request(Operation.CHAT, body, a_target(kind), stream=stream)
    assert orjson.dumps(body) == before
    assert "provider" not in orjson.loads(wire.body)
    assert API_KEY.encode() not in wire.body
    assert API_KEY not in wire.url
    assert API_KEY in "".join(value for _, value in wire.headers)
    assert API_KEY not in repr(wire)
