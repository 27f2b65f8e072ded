import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from gateway.edge import openai
from gateway.edge.surfaces import responses
from routing.types import Operation
from tenants.errors import ApiError

EVENT = TypeAdapter(ResponseStreamEvent)
USAGE = {
    "prompt_tokens": 30,
    "completion_tokens": 7,
    "total_tokens": 37,
    "prompt_tokens_details": {"cached_tokens": 10},
    "completion_tokens_details": {"reasoning_tokens": 3},
}
BLOCK = {"type": "thinking", "thinking": "hm", "signature": "s"}
KEPT = {"include": ["reasoning.encrypted_content"]}


def asked(**changes):
    return {"model": "m", "input": "Hi", **changes}


def chunk(delta, *, finish_reason=None):
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {"id": "c1", "created": 5, "model": "served", "choices": [choice]}


def events(raw):
    found = []
    for block in raw.decode().strip().split("\n\n"):
        name, data = block.split("\n")
        found.append(orjson.loads(data.removeprefix("data: ")))
        assert found[-1]["type"] == name.removeprefix("event: ")
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def heard(*deltas, finish_reason="stop", **changes):
    """The events of a whole stream of these deltas, each valid for OpenAI's SDK."""
    voice = responses.voice(asked(**changes), request_id="r1")
    raw = voice.opening()
    for delta in deltas:
        raw += voice.chunk(chunk(delta))
    found = events(raw + voice.chunk(chunk({}, finish_reason=finish_reason)) + voice.end(USAGE))
    for event in found:
        EVENT.validate_python(event)
    return found


def completion(message, *, finish_reason="stop"):
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    made = {"id": "c1", "created": 5, "model": "served", "choices": [choice], "usage": USAGE}
    return orjson.dumps(made)


# ------------------------------------------------------------------ requests


def test_a_plain_request_is_a_chat():
    chat = responses.read(
        asked(
            instructions="Be brief.",
            max_output_tokens=9,
            stream=True,
            store=False,
            reasoning={"effort": "low"},
        )
    )
    assert chat == {
        "model": "m",
        "stream": True,
        "max_completion_tokens": 9,
        "tollhouse_surface": "responses",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "reasoning_effort": "low",
    }
    openai.check(Operation.CHAT, chat)


def test_a_conversation_is_put_together_from_its_items():
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
        {"type": "reasoning", "summary": [], "encrypted_content": responses.sealed([BLOCK])},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Looking."}]},
        {"type": "function_call", "call_id": "t1", "name": "get", "arguments": "{}"},
        {"type": "function_call", "call_id": "t2", "name": "get", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "t1", "output": "rain"},
        {"type": "function_call_output", "call_id": "t2", "output": [{"type": "input_text", "text": "sun"}]},
    ]
    user, assistant, first, second = responses.read(asked(input=items))["messages"]
    assert user == {"role": "user", "content": [{"type": "text", "text": "Weather?"}]}
    assert assistant["content"] == [{"type": "text", "text": "Looking."}]
    assert [call["id"] for call in assistant["tool_calls"]] == ["t1", "t2"]
    assert assistant["thinking_blocks"] == [BLOCK]
    assert first == {"role": "tool", "tool_call_id": "t1", "content": "rain"}
    assert second["content"] == [{"type": "text", "text": "sun"}]


def test_tools_choices_and_formats():
    tool = {"type": "function", "name": "get", "parameters": {"type": "object"}, "strict": True}
    wanted = {
        "format": {"type": "json_schema", "name": "a", "schema": {"type": "object"}},
        "verbosity": "low",
    }
    chat = responses.read(asked(tools=[tool], tool_choice={"type": "function", "name": "get"}, text=wanted))
    assert chat["tools"] == [
        {
            "type": "function",
            "function": {"name": "get", "parameters": {"type": "object"}, "strict": True},
        }
    ]
    assert chat["tool_choice"] == {"type": "function", "function": {"name": "get"}}
    assert chat["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "a", "schema": {"type": "object"}},
    }
    assert chat["verbosity"] == "low"


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"input": []}, "invalid_request", "input"),
        ({"input": [{"role": "tool", "content": "x"}]}, "invalid_request", "input[0].role"),
        ({"input": [{"role": "user", "content": [{"type": "x"}]}]}, "invalid_request", "input[0].content[0]"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]},
            "unsupported_parameter",
            "input[0].content[0]",
        ),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "unsupported_parameter", "input[0]"),
        ({"input": [{"type": "function_call", "call_id": "t"}]}, "invalid_request", "input[0]"),
        (
            {"input": [{"type": "reasoning", "encrypted_content": "tollhouse1:?"}]},
            "invalid_request",
            "input",
        ),
        ({"previous_response_id": "resp_1"}, "unsupported_parameter", "previous_response_id"),
        ({"store": True}, "unsupported_parameter", "store"),
        ({"background": True}, "unsupported_parameter", "background"),
        ({"tools": [{"type": "web_search"}]}, "unsupported_parameter", "tools[0]"),
        ({"include": ["file_search_call.results"]}, "unsupported_parameter", "include"),
        ({"text": {"format": {"type": "xml"}}}, "invalid_request", "text.format"),
    ],
)
def test_what_cannot_be_said_is_refused_by_its_own_name(changes, code, param):
    with pytest.raises(ApiError) as refused:
        responses.read(asked(**changes))
    assert (refused.value.code, refused.value.param) == (code, param)


def test_thoughts_of_others_are_passed_over():
    item = {"type": "reasoning", "summary": [], "encrypted_content": "gAAAA"}
    chat = responses.read(asked(input=[item, {"role": "user", "content": "Hi"}]))
    assert chat["messages"] == [{"role": "user", "content": "Hi"}]


NAMES = st.sampled_from(("type", "role", "content", "call_id", "output", "name", "text", "format"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(sorted(responses.TRANSLATED | {"model", "stream", "store"})), JSON))
def test_any_body_is_read_or_refused(body):
    status = 200
    try:
        openai.check(Operation.CHAT, responses.read(asked(**body)))
    except ApiError as refused:
        status = refused.status
    assert status in (200, 400, 422)


# ------------------------------------------------------------------ answers


def test_a_whole_answer():
    call = {"id": "t1", "type": "function", "function": {"name": "get", "arguments": '{"a":1}'}}
    message = {
        "content": "Hi",
        "reasoning_content": "hm",
        "thinking_blocks": [BLOCK],
        "tool_calls": [call],
    }
    answer = orjson.loads(responses.reply(completion(message, finish_reason="tool_calls"), asked(**KEPT)))
    Response.model_validate(answer)
    reasoning, said, called = answer["output"]
    assert (answer["id"], answer["status"], answer["created_at"]) == ("resp_c1", "completed", 5)
    assert reasoning["summary"] == [{"type": "summary_text", "text": "hm"}]
    assert responses.unsealed(reasoning["encrypted_content"]) == [BLOCK]
    assert said["content"] == [{"type": "output_text", "text": "Hi", "annotations": [], "logprobs": []}]
    assert (called["call_id"], called["name"], called["arguments"]) == ("t1", "get", '{"a":1}')
    assert answer["usage"] == {
        "input_tokens": 30,
        "input_tokens_details": {"cached_tokens": 10, "cache_write_tokens": 0},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": 37,
    }


@pytest.mark.parametrize(
    ("reason", "why"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
)
def test_an_answer_that_is_not_whole_says_why(reason, why):
    answer = orjson.loads(responses.reply(completion({"content": "x"}, finish_reason=reason), asked()))
    assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": why})


# ------------------------------------------------------------------ streams


def test_a_stream_of_text():
    found = heard({"role": "assistant", "content": ""}, {"content": "He"}, {"content": "y"})
    assert [event["type"].removeprefix("response.") for event in found] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    response = found[-1]["response"]
    Response.model_validate(response)
    assert response["output"][0]["content"][0]["text"] == "Hey"
    assert response["usage"]["total_tokens"] == 37


def test_items_follow_one_another():
    found = heard(
        {"reasoning_content": "hm"},
        {"thinking_blocks": [BLOCK]},
        {"content": "Looking."},
        {"tool_calls": [{"index": 0, "id": "t1", "function": {"name": "get", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a":1}'}}]},
        {"tool_calls": [{"index": 1, "id": "t2", "function": {"name": "get", "arguments": "{}"}}]},
        finish_reason="tool_calls",
        **KEPT,
    )
    done = [event["item"] for event in found if event["type"] == "response.output_item.done"]
    assert [item["type"] for item in done] == ["reasoning", "message", "function_call", "function_call"]
    assert responses.unsealed(done[0]["encrypted_content"]) == [BLOCK]
    assert [item["arguments"] for item in done[2:]] == ['{"a":1}', "{}"]
    assert found[-1]["response"]["output"] == done


def test_a_refusal_is_a_part_of_its_own():
    found = heard({"refusal": "No."}, finish_reason="content_filter")
    assert found[-1]["type"] == "response.incomplete"
    assert found[-1]["response"]["output"][0]["content"] == [{"type": "refusal", "refusal": "No."}]


def test_a_broken_stream_ends_in_an_error_and_is_not_completed():
    voice = responses.voice(asked(), request_id="r1")
    raw = voice.chunk(chunk({"content": "He"})) + voice.broken(ApiError("provider_timeout", "slow"))
    last = events(raw)[-1]
    EVENT.validate_python(last)
    assert (last["type"], last["code"]) == ("error", "provider_timeout")
