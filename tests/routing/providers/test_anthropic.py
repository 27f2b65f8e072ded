"""What Anthropic's dialect refuses, and the choices golden files do not show."""

import orjson
import pytest

from routing.providers import anthropic
from routing.types import Operation, ProviderKind, UnsupportedParameter
from tests.routing.providers.factories import a_chat, a_state, a_target

TARGET = a_target(ProviderKind.ANTHROPIC)


def build(body, **target):
    wire = anthropic.build_request(
        Operation.CHAT, body, a_target(ProviderKind.ANTHROPIC, **target), stream=False
    )
    return orjson.loads(wire.body)


def a_turn(*messages):
    return {"model": "our-model", "messages": list(messages)}


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("n", 2),
        ("seed", 1),
        ("logprobs", True),
        ("top_logprobs", 3),
        ("logit_bias", {"1": 1}),
        ("frequency_penalty", 0.5),
        ("presence_penalty", 0.5),
        ("temperature", 1.5),
        ("store", True),
        ("modalities", ["text", "audio"]),
        ("functions", [{"name": "f"}]),
        ("prediction", {"type": "content", "content": "x"}),
        ("web_search_options", {}),
        ("service_tier", "flex"),
        ("verbosity", "low"),
        ("reasoning_effort", "minimal"),
        ("response_format", {"type": "json_object"}),
        ("tool_choice", "required"),
        ("tools", [{"type": "custom", "custom": {"name": "x"}}]),
        ("something_new", 1),
    ],
)
def test_refuses_what_it_cannot_express_and_names_it(param, value):
    with pytest.raises(UnsupportedParameter) as caught:
        build(a_chat(**{param: value}))
    assert caught.value.param == param


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x", "detail": "low"}}]},
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": "data:image/bmp;base64,"}}],
        },
        {"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]},
        {"role": "user", "content": "hi", "name": "ann"},
        {"role": "function", "name": "f", "content": "x"},
        {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "[1]"}}]},
        {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{"}}]},
        {"role": "system", "content": "only this"},
        {"role": "user", "content": ""},
    ],
)
def test_refuses_messages_it_cannot_express(message):
    with pytest.raises(UnsupportedParameter) as caught:
        build(a_turn(message))
    assert caught.value.param == "messages"


@pytest.mark.parametrize("operation", [Operation.COMPLETIONS, Operation.EMBEDDINGS])
def test_offers_chat_only(operation):
    with pytest.raises(UnsupportedParameter) as caught:
        anthropic.build_request(operation, {"model": "m", "prompt": "x", "input": "x"}, TARGET, stream=False)
    assert caught.value.param == "model"


def test_takes_what_says_no_more_than_leaving_it_out():
    body = build(
        a_chat(
            n=1, logprobs=False, frequency_penalty=0, presence_penalty=0.0, logit_bias={}, store=False,
            modalities=["text"], service_tier="auto", tools=[], seed=None, prompt_cache_key="k",
            response_format={"type": "text"}, metadata={"a": "b"},
        )
    )  # fmt: skip
    assert body == {
        "model": "their-model",
        "max_tokens": 4096,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
    }


@pytest.mark.parametrize(
    ("asked", "known", "sent"),
    [
        ({}, None, 4096),
        ({}, 64000, 64000),
        ({"max_tokens": 7}, 64000, 7),
        ({"max_tokens": 7, "max_completion_tokens": 9}, None, 9),
    ],
)
def test_the_required_limit_comes_from_the_request_then_the_catalogue(asked, known, sent):
    assert build(a_chat(**asked), max_output_tokens=known)["max_tokens"] == sent


def test_refuses_to_think_where_there_is_no_room():
    with pytest.raises(UnsupportedParameter) as caught:
        build(a_chat(reasoning_effort="low", max_tokens=1024), options={"thinking": "budget"})
    assert caught.value.param == "reasoning_effort"


def test_a_base_url_may_already_end_in_its_version():
    wire = anthropic.build_request(
        Operation.CHAT,
        a_chat(),
        a_target(ProviderKind.ANTHROPIC, base_url="https://proxy/v1"),
        stream=False,
    )
    assert wire.url == "https://proxy/v1/messages"


def test_parallel_calls_can_be_forbidden_without_choosing_a_tool():
    tools = [{"type": "function", "function": {"name": "f"}}]
    body = build(a_chat(tools=tools, parallel_tool_calls=False))
    assert body["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}


def test_a_stream_cut_before_its_final_count_has_no_usage():
    state = a_state(include_usage=True)
    message = {"id": "m", "usage": {"input_tokens": 9, "output_tokens": 1}}
    start = {"type": "message_start", "message": message}
    anthropic.parse_event("message_start", orjson.dumps(start), state)
    assert state.usage is None
    assert not state.done
