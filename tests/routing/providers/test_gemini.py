"""What Gemini's dialect refuses, and the choices golden files do not show."""

import orjson
import pytest

from routing.providers import gemini
from routing.types import ErrorKind, Operation, ProviderError, ProviderKind, UnsupportedParameter
from tests.routing.providers.factories import a_chat, a_state, a_target

TARGET = a_target(ProviderKind.GEMINI)


def build(body, *, operation=Operation.CHAT, stream=False, **target):
    wire = gemini.build_request(operation, body, a_target(ProviderKind.GEMINI, **target), stream=stream)
    return orjson.loads(wire.body)


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("logit_bias", {"1": 1}),
        ("parallel_tool_calls", False),
        ("store", True),
        ("modalities", ["text", "audio"]),
        ("functions", [{"name": "f"}]),
        ("service_tier", "flex"),
        ("reasoning_effort", "none"),
        ("response_format", {"type": "grammar"}),
        ("tool_choice", "required"),
        ("tools", [{"type": "custom", "custom": {"name": "x"}}]),
        ("something_new", 1),
    ],
)
def test_refuses_what_it_cannot_express_and_names_it(param, value):
    with pytest.raises(UnsupportedParameter) as caught:
        build(a_chat(**{param: value}))
    assert caught.value.param == param


def test_refuses_to_stream_several_answers():
    assert build(a_chat(n=2))["generationConfig"] == {"candidateCount": 2}
    with pytest.raises(UnsupportedParameter) as caught:
        build(a_chat(n=2), stream=True)
    assert caught.value.param == "n"


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x", "detail": "low"}}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png,raw"}}]},
        {"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]},
        {"role": "user", "content": "hi", "name": "ann"},
        {"role": "function", "name": "f", "content": "x"},
        {"role": "tool", "tool_call_id": "never made", "content": "x"},
        {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{"}}]},
        {"role": "system", "content": "only this"},
    ],
)
def test_refuses_messages_it_cannot_express(message):
    with pytest.raises(UnsupportedParameter) as caught:
        build({"model": "m", "messages": [message]})
    assert caught.value.param == "messages"


def test_offers_no_text_completions_and_embeds_only_text():
    with pytest.raises(UnsupportedParameter) as caught:
        build({"model": "m", "prompt": "x"}, operation=Operation.COMPLETIONS)
    assert caught.value.param == "model"
    with pytest.raises(UnsupportedParameter) as caught:
        build({"model": "m", "input": [1, 2]}, operation=Operation.EMBEDDINGS)
    assert caught.value.param == "input"


@pytest.mark.parametrize(
    ("model", "effort", "config"),
    [
        ("gemini-2.5-pro", "high", {"thinkingBudget": 24576}),
        ("models/gemini-2.5-flash", "minimal", {"thinkingBudget": 1024}),
        ("gemini-3-pro-preview", "xhigh", {"thinkingLevel": "XHIGH"}),
    ],
)
def test_efforts_become_budgets_or_levels_by_the_models_generation(model, effort, config):
    body = build(a_chat(reasoning_effort=effort), provider_model=model)
    assert body["generationConfig"]["thinkingConfig"] == config


@pytest.mark.parametrize(
    ("reason", "finish"),
    [("STOP", "stop"), ("MAX_TOKENS", "length"), ("SAFETY", "content_filter"), ("SPII", "content_filter")],
)
def test_ends_are_told_in_openais_words(reason, finish):
    body = {"candidates": [{"content": {"parts": [{"text": "x"}]}, "finishReason": reason}]}
    reply = gemini.parse_reply(Operation.CHAT, a_chat(), orjson.dumps(body), TARGET)
    assert reply.finish_reason == finish


def test_a_prompt_that_was_blocked_is_the_callers_own_fault():
    body = orjson.dumps({"promptFeedback": {"blockReason": "JAILBREAK"}})
    with pytest.raises(ProviderError) as caught:
        gemini.parse_reply(Operation.CHAT, a_chat(), body, TARGET)
    assert (caught.value.kind, caught.value.code) == (ErrorKind.CONTENT_POLICY, "JAILBREAK")


def test_an_answer_that_broke_off_in_a_tool_call_is_an_error_in_a_stream_too():
    state = a_state()
    event = {"candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL"}]}
    assert gemini.parse_event("", orjson.dumps(event), state) == []
    assert state.error.kind is ErrorKind.INVALID_RESPONSE
    assert (state.done, state.finish_reason) == (False, None)


def test_call_ids_made_up_for_gemini_are_unique_in_a_reply():
    call = {"functionCall": {"name": "f", "args": {}}}
    body = {
        "responseId": "r",
        "candidates": [{"content": {"parts": [call, call]}}, {"content": {"parts": [call]}, "index": 1}],
    }
    reply = gemini.parse_reply(Operation.CHAT, a_chat(), orjson.dumps(body), TARGET)
    choices = orjson.loads(reply.body)["choices"]
    ids = [call["id"] for choice in choices for call in choice["message"]["tool_calls"]]
    assert ids == ["call_r_0_0", "call_r_0_1", "call_r_1_0"]
