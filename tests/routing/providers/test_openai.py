"""The pass-through dialect: bytes untouched where they may be, and nothing lost where they may not."""

import openai
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.providers import chunks
from routing.providers.openai import parse_event, parse_reply
from routing.providers.sandbox_engine import answer
from routing.providers.sse import SSEParser
from routing.types import ErrorKind, Operation, ProviderError, ProviderKind, StreamState, Usage, WireRequest
from tests.routing.providers.factories import a_chat, a_state, a_target

TARGET = a_target(ProviderKind.OPENAI)


def a_chunk(text="x", *, finish_reason=None, index=0, **fields):
    return orjson.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "gpt",
            "choices": [
                {
                    "index": index,
                    "delta": {"content": text},
                    "logprobs": None,
                    "finish_reason": finish_reason,
                }
            ],
            **fields,
        }
    )


def relayed(events: list[bytes], state: StreamState) -> list[bytes]:
    return [chunk for data in events for chunk in parse_event("", data, state)]


def test_forwards_repeated_chunks_as_the_very_same_object():
    state = a_state()
    events = [a_chunk("Hello"), a_chunk(" wor"), a_chunk("ld"), a_chunk(" 🎈 ü")]
    out = relayed(events, state)
    assert all(ours is theirs for ours, theirs in zip(out, events, strict=True))
    assert (state.content_events, state.content_bytes) == (4, len("Hello world 🎈 ü".encode()))
    assert (state.id, state.served_model) == ("chatcmpl-1", "gpt")


@given(st.lists(st.text(max_size=12), max_size=12))
def test_any_text_is_forwarded_and_counted_exactly(texts):
    events = [a_chunk(text) for text in texts]
    state = a_state()
    assert relayed(events, state) == events
    assert state.content_bytes == sum(len(text.encode()) for text in texts)
    assert state.content_events == sum(1 for text in texts if text)
    assert (state.malformed, state.error) == (0, None)


@given(st.integers(0, 400), st.binary(min_size=1, max_size=4), st.integers(0, 4))
def test_a_damaged_chunk_is_never_forwarded_unless_it_is_still_json(position, noise, removed):
    good = a_chunk("Hello")
    cut = position % len(good)
    damaged = good[:cut] + noise + good[cut + removed :]
    state = a_state()
    relayed([good, good], state)
    for chunk in parse_event("", damaged, state):
        orjson.loads(chunk)
    assert state.done is (damaged == b"[DONE]")


def test_padding_against_length_analysis_does_not_slow_or_change_chunks():
    events = [a_chunk("a", usage=None, obfuscation="k3X"), a_chunk("b", usage=None, obfuscation="pQ")]
    state = a_state(include_usage=True)
    out = relayed(events, state)
    assert all(ours is theirs for ours, theirs in zip(out, events, strict=True))
    assert state.content_bytes == 2


def test_an_event_in_the_known_frame_with_a_finish_reason_is_still_read():
    state = a_state()
    relayed([a_chunk("a"), a_chunk("b"), a_chunk("", finish_reason="length")], state)
    assert state.finish_reason == "length"


def test_text_that_speaks_of_usage_and_errors_is_only_text():
    state = a_state()
    events = [a_chunk("a"), a_chunk('"error": {"usage": 1}'), a_chunk("error"), a_chunk("[DONE]")]
    assert relayed(events, state) == events
    assert (state.error, state.usage, state.done) == (None, None, False)


def test_the_usage_chunk_is_withheld_when_nobody_asked():
    usage = a_chunk(usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3})
    document = {**orjson.loads(usage), "choices": []}
    state = a_state(include_usage=False)
    assert relayed([a_chunk("a"), orjson.dumps(document), b"[DONE]"], state) == [a_chunk("a")]
    assert (state.usage, state.done) == (Usage({"input": 1, "output": 2}), True)


def test_usage_in_every_chunk_is_sent_once_and_no_choice_is_lost():
    usages = [{"prompt_tokens": 1, "completion_tokens": n, "total_tokens": 1 + n} for n in range(3)]
    last = {**orjson.loads(a_chunk(usage=usages[2])), "choices": []}
    events = [
        a_chunk("a", usage=usages[1]),
        a_chunk("b", usage=usages[2]),
        a_chunk("", finish_reason="stop", usage=usages[2]),
        orjson.dumps(last),
        b"[DONE]",
    ]
    state = a_state(include_usage=True)
    out = [orjson.loads(chunk) for chunk in relayed(events, state)]
    assert ["".join(c["delta"]["content"] for c in chunk["choices"]) for chunk in out] == ["a", "b", "", ""]
    assert [chunk["usage"] and chunk["usage"]["completion_tokens"] for chunk in out] == [None, None, None, 2]


def test_usage_of_two_answers_waits_for_both_to_end():
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    events = [
        a_chunk("a", usage=usage),
        a_chunk("b", index=1, usage=usage),
        a_chunk("", finish_reason="stop", usage=usage),
        a_chunk("c", index=1, usage=usage),
        a_chunk("", index=1, finish_reason="stop", usage=usage),
    ]
    state = a_state(include_usage=True)
    sizes = [len(parse_event("", event, state)) for event in events]
    assert sizes == [1, 1, 1, 1, 2]


def test_usage_that_came_without_an_end_mark_can_still_be_sent_by_the_relay():
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    state = a_state(include_usage=True)
    relayed([a_chunk("a", usage=usage)], state)
    (chunk,) = chunks.usage_chunk(state)
    assert orjson.loads(chunk)["usage"]["total_tokens"] == 3
    assert chunks.usage_chunk(state) == ()


def test_a_whole_reply_comes_back_as_the_very_same_bytes():
    body = answer(
        WireRequest("sandbox://m/chat/completions", (), orjson.dumps(a_chat() | {"model": "m"}))
    ).steps[0]
    reply = parse_reply(Operation.CHAT, a_chat(), body.data, TARGET)
    assert reply.body is body.data
    assert reply.finish_reason == "stop"


def test_a_reply_without_a_date_is_dated_by_the_caller():
    sparse = orjson.dumps({"choices": [{"message": {"content": '"created":0,'}, "finish_reason": "stop"}]})
    reply = parse_reply(Operation.CHAT, a_chat(), sparse, TARGET)
    document = orjson.loads(chunks.dated(reply.body, created=1_700_000_000))
    assert document["created"] == 1_700_000_000
    assert document["choices"][0]["message"]["content"] == '"created":0,'
    assert chunks.dated(b'{"created":5}', created=1) == b'{"created":5}'


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'"x"', b'{"choices":[]}', b'{"choices":[{}]}']
)
@pytest.mark.parametrize("operation", list(Operation))
def test_a_good_status_with_another_shape_is_an_invalid_response(operation, body):
    with pytest.raises(ProviderError) as caught:
        parse_reply(operation, a_chat(documents=["a"]), body, TARGET)
    assert caught.value.kind is ErrorKind.INVALID_RESPONSE


def test_openais_own_client_reads_the_stream_we_relay():
    wire = WireRequest(
        "sandbox://m/chat/completions",
        (),
        orjson.dumps(
            {**a_chat("Hello you"), "model": "m", "stream": True, "stream_options": {"include_usage": True}}
        ),
    )
    parser, state = SSEParser(), a_state(include_usage=True)
    raw = b"".join(step.data for step in answer(wire).steps)
    out = [chunk for name, data in parser.feed(raw) for chunk in parse_event(name, data, state)]
    chunks_read = [openai.types.chat.ChatCompletionChunk.model_validate_json(chunk) for chunk in out]
    text = "".join(c.choices[0].delta.content or "" for c in chunks_read if c.choices)
    assert text.startswith('This is m speaking. You sent 2 words: "Hello you".')
    assert chunks_read[-1].usage is not None
    assert chunks_read[-1].usage.completion_tokens == state.usage.output_tokens
    assert state.done
