import orjson
import pytest
from anthropic.types import Message, RawMessageStreamEvent
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from gateway.edge import openai
from gateway.edge.surfaces import anthropic
from routing.types import Operation
from tenants.errors import STATUS_OF, ApiError

EVENT = TypeAdapter(RawMessageStreamEvent)
ASKED = {"model": "m", "max_tokens": 64, "messages": [{"role": "user", "content": "Hi"}]}
USAGE = {
    "prompt_tokens": 30,
    "completion_tokens": 7,
    "prompt_tokens_details": {"cached_tokens": 10, "cache_write_tokens": 5},
    "tollhouse": {"price": "0.1"},
}


def asked(**changes):
    return {**ASKED, **changes}


def said(*blocks):
    return {"messages": [{"role": "user", "content": list(blocks)}]}


def completion(message, *, finish_reason="stop", **changes):
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return orjson.dumps(
        {"id": "chatcmpl-1", "model": "served", "choices": [choice], "usage": USAGE, **changes}
    )


def chunk(delta, *, finish_reason=None):
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {"id": "c1", "model": "served", "choices": [choice]}


def events(raw):
    """(name, data) of each event; the names agree with the data's own types."""
    found = []
    for block in raw.decode().strip().split("\n\n"):
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), orjson.loads(data.removeprefix("data: "))))
        assert found[-1][0] == found[-1][1]["type"]
    return found


def heard(*deltas, finish_reason="stop"):
    """The events of a whole stream of these deltas, each valid for Anthropic's SDK."""
    voice = anthropic.voice(ASKED, request_id="r1")
    raw = voice.opening()
    for delta in deltas:
        raw += voice.chunk(chunk(delta))
    raw += voice.chunk(chunk({}, finish_reason=finish_reason)) + voice.end(USAGE)
    found = events(raw)
    for _, data in found:
        EVENT.validate_python(data)
    return found


# ------------------------------------------------------------------ requests


def test_a_plain_request_is_a_chat():
    chat = anthropic.read(asked(system="Be brief.", temperature=0.5, stop_sequences=["END"], stream=True))
    assert chat == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "max_tokens": 64,
        "stream": True,
        "temperature": 0.5,
        "stop": ["END"],
        "tollhouse_surface": "anthropic",
    }
    openai.check(Operation.CHAT, chat)


def test_cache_marks_ride_on_their_parts():
    mark = {"type": "ephemeral", "ttl": "1h"}
    system = [{"type": "text", "text": "Long.", "cache_control": mark}]
    tool = {"name": "f", "input_schema": {"type": "object"}, "cache_control": mark}
    chat = anthropic.read(asked(system=system, tools=[tool]))
    assert chat["messages"][0]["content"] == [{"type": "text", "text": "Long.", "cache_control": mark}]
    assert chat["tools"][0]["cache_control"] == mark


def test_tool_results_become_messages_before_what_the_user_adds():
    messages = [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "text", "text": "Looking."},
                {"type": "tool_use", "id": "t1", "name": "get", "input": {"city": "Oslo"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "no such city", "is_error": True},
                {"type": "text", "text": "And Bergen?"},
            ],
        },
    ]
    _, assistant, result, user = anthropic.read(asked(messages=messages))["messages"]
    assert assistant == {
        "role": "assistant",
        "content": [{"type": "text", "text": "Looking."}],
        "tool_calls": [
            {"id": "t1", "type": "function", "function": {"name": "get", "arguments": '{"city":"Oslo"}'}}
        ],
        "thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "s"}],
    }
    assert result == {"role": "tool", "tool_call_id": "t1", "content": "no such city", "is_error": True}
    assert user == {"role": "user", "content": [{"type": "text", "text": "And Bergen?"}]}


def test_pictures_and_documents_become_parts():
    blocks = [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
        {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
        {
            "type": "document",
            "title": "a.pdf",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "BB"},
        },
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "plain"}},
    ]
    parts = anthropic.read(asked(messages=[{"role": "user", "content": blocks}]))["messages"][0]["content"]
    assert parts == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,BB", "filename": "a.pdf"}},
        {"type": "text", "text": "plain"},
    ]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        ({"type": "any", "disable_parallel_tool_use": True}, {"tool_choice": "required", "parallel_tool_calls": False}),
        ({"type": "tool", "name": "f"}, {"tool_choice": {"type": "function", "function": {"name": "f"}}}),
    ],
)  # fmt: skip
def test_tool_choices(choice, expected):
    chat = anthropic.read(asked(tools=[{"name": "f", "input_schema": {}}], tool_choice=choice))
    assert {name: chat[name] for name in expected} == expected


def test_thinking_effort_and_formats():
    chat = anthropic.read(
        asked(
            max_tokens=4000,
            thinking={"type": "enabled", "budget_tokens": 2000},
            output_config={"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}},
            service_tier="standard_only",
            metadata={"user_id": "u1"},
        )
    )
    assert chat["thinking"] == {"type": "enabled", "budget_tokens": 2000}
    assert chat["reasoning_effort"] == "low"
    assert chat["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert (chat["service_tier"], chat["user"]) == ("default", "u1")


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"max_tokens": None}, "invalid_request", "max_tokens"),
        ({"max_tokens": True}, "invalid_request", "max_tokens"),
        ({"messages": []}, "invalid_request", "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "invalid_request", "messages[0].role"),
        (said({"type": "text"}), "invalid_request", "messages[0].content[0]"),
        (said({"type": "video"}), "unsupported_parameter", "messages[0].content[0]"),
        (said({"type": "image", "source": {"type": "file"}}), "unsupported_parameter", "messages[0].content[0].source"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "unsupported_parameter", "tools[0]"),
        ({"tool_choice": {"type": "some"}}, "invalid_request", "tool_choice.type"),
        ({"thinking": {"type": "enabled", "budget_tokens": 64}}, "invalid_request", "thinking.budget_tokens"),
        ({"mcp_servers": [{}]}, "unsupported_parameter", "mcp_servers"),
        ({"system": [{"type": "image"}]}, "invalid_request", "system[0]"),
        ({"service_tier": "batch"}, "invalid_request", "service_tier"),
    ],
)  # fmt: skip
def test_what_cannot_be_said_is_refused_by_its_own_name(changes, code, param):
    with pytest.raises(ApiError) as refused:
        anthropic.read(asked(**changes))
    assert (refused.value.code, refused.value.param) == (code, param)


NAMES = st.sampled_from(("type", "text", "role", "content", "source", "name"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(sorted(anthropic.FIELDS)), JSON))
def test_any_body_is_read_or_refused(body):
    status = 200
    try:
        openai.check(Operation.CHAT, anthropic.read(asked(**body)))
    except ApiError as refused:
        status = refused.status
    assert status in (200, 400, 422)


# ------------------------------------------------------------------ answers


def test_a_whole_answer_is_a_message():
    call = {"id": "t1", "type": "function", "function": {"name": "get", "arguments": '{"city":"Oslo"}'}}
    block = {"type": "thinking", "thinking": "hm", "signature": "s"}
    message = {"role": "assistant", "content": "Hi", "tool_calls": [call], "thinking_blocks": [block]}
    answer = orjson.loads(anthropic.reply(completion(message, finish_reason="tool_calls"), ASKED))
    Message.model_validate(answer)
    assert answer["id"] == "msg_chatcmpl-1"
    assert answer["content"] == [
        block,
        {"type": "text", "text": "Hi"},
        {"type": "tool_use", "id": "t1", "name": "get", "input": {"city": "Oslo"}},
    ]
    assert answer["stop_reason"] == "tool_use"
    assert answer["usage"] == {
        "input_tokens": 15,
        "cache_creation_input_tokens": 5,
        "cache_read_input_tokens": 10,
        "output_tokens": 7,
    }


@pytest.mark.parametrize(
    ("reason", "stop_reason"),
    [("stop", "end_turn"), ("length", "max_tokens"), ("content_filter", "refusal"), (None, None)],
)
def test_why_an_answer_ended(reason, stop_reason):
    answer = orjson.loads(anthropic.reply(completion({"content": "x"}, finish_reason=reason), ASKED))
    assert answer["stop_reason"] == stop_reason


def test_arguments_that_are_no_object_are_not_lost():
    call = {"id": "t1", "type": "function", "function": {"name": "get", "arguments": "[1"}}
    answer = orjson.loads(anthropic.reply(completion({"content": None, "tool_calls": [call]}), ASKED))
    assert answer["content"][0]["input"] == {"unparsed": "[1"}


@pytest.mark.parametrize("code", sorted(STATUS_OF))
def test_every_error_has_anthropics_shape(code):
    body = anthropic.error(ApiError(code, "words", param="p"), request_id="r1")
    assert body["type"] == "error"
    assert body["error"]["message"] == "words"
    assert (body["error"]["code"], body["error"]["param"], body["request_id"]) == (code, "p", "r1")


# ------------------------------------------------------------------ streams


def test_a_stream_of_text():
    found = heard({"role": "assistant", "content": ""}, {"content": "He"}, {"content": "llo"})
    assert [name for name, _ in found] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert [data["delta"]["text"] for name, data in found if name == "content_block_delta"] == ["He", "llo"]
    assert found[-2][1]["delta"]["stop_reason"] == "end_turn"
    assert found[-2][1]["usage"]["output_tokens"] == 7
    assert found[-2][1]["usage"]["tollhouse"] == {"price": "0.1"}


def test_blocks_follow_one_another():
    found = heard(
        {"reasoning_content": "hm"},
        {"thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "s"}]},
        {"content": "Looking."},
        {"tool_calls": [{"index": 0, "id": "t1", "function": {"name": "get", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a":1}'}}]},
        {"tool_calls": [{"index": 1, "id": "t2", "function": {"name": "get", "arguments": "{}"}}]},
        finish_reason="tool_calls",
    )
    starts = [data["content_block"]["type"] for name, data in found if name == "content_block_start"]
    assert starts == ["thinking", "text", "tool_use", "tool_use"]
    assert [data["index"] for name, data in found if name == "content_block_stop"] == [0, 1, 2, 3]
    deltas = [data["delta"] for name, data in found if name == "content_block_delta"]
    assert deltas[:2] == [
        {"type": "thinking_delta", "thinking": "hm"},
        {"type": "signature_delta", "signature": "s"},
    ]
    assert deltas[-1] == {"type": "input_json_delta", "partial_json": "{}"}


def test_a_broken_stream_ends_in_an_error_and_no_stop():
    voice = anthropic.voice(ASKED, request_id="r1")
    raw = voice.chunk(chunk({"content": "He"})) + voice.broken(ApiError("provider_timeout", "slow"))
    names = [name for name, _ in events(raw)]
    assert names[-1] == "error"
    assert "message_stop" not in names


def test_a_ping_says_nothing():
    assert events(anthropic.voice(ASKED, request_id="r1").keep_alive()) == [("ping", {"type": "ping"})]
