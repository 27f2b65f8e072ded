"""What Cohere cannot be asked, and what becomes of what it does not send."""

import orjson
import pytest

from routing.providers import cohere
from routing.types import Operation, ProviderKind, UnsupportedParameter
from tests.routing.providers.factories import a_chat, a_state, a_target

TOOLS = [{"type": "function", "function": {"name": name}} for name in ("look", "find")]


def wire(body, **changes):
    request = cohere.build_request(
        Operation.CHAT, body, a_target(ProviderKind.COHERE, **changes), stream=False
    )
    return orjson.loads(request.body)


@pytest.mark.parametrize(
    ("param", "changes"),
    [
        ("n", {"n": 2}),
        ("logprobs", {"logprobs": True}),
        ("parallel_tool_calls", {"tools": TOOLS, "parallel_tool_calls": False}),
        ("top_p", {"top_p": 1}),
        ("top_k", {"top_k": 501}),
        ("frequency_penalty", {"frequency_penalty": -0.5}),
        ("presence_penalty", {"presence_penalty": 1.5}),
        ("reasoning_effort", {"reasoning_effort": "minimal"}),
        ("safety_settings", {"safety_settings": [{"category": "x"}]}),
        ("response_format", {"response_format": {"type": "grammar"}}),
        ("tool_choice", {"tool_choice": "required"}),
        ("tool_choice", {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "other"}}}),
        ("tool_choice", {"tools": TOOLS, "tool_choice": "sometimes"}),
        ("tools", {"tools": [*TOOLS, {"type": "function", "function": {"name": "x", "strict": True}}]}),
        ("messages", {"messages": [{"role": "user", "content": "Hi", "name": "Ann"}]}),
        ("messages", {"messages": [{"role": "function", "content": "x"}]}),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "file", "file": {}}]}]}),
        ("messages", {"messages": [{"role": "tool", "content": [{"type": "image_url", "image_url": "x"}]}]}),
    ],
)
def test_what_cohere_cannot_express_is_refused(param, changes):
    with pytest.raises(UnsupportedParameter) as refused:
        wire(a_chat(**changes))
    assert refused.value.param == param


def test_token_lists_and_completions_are_refused():
    target = a_target(ProviderKind.COHERE)
    for operation, body in (
        (Operation.EMBEDDINGS, {"model": "m", "input": [[1, 2]]}),
        (Operation.COMPLETIONS, {"model": "m", "prompt": "x"}),
    ):
        with pytest.raises(UnsupportedParameter):
            cohere.build_request(operation, body, target, stream=False)


@pytest.mark.parametrize(
    ("thinking", "expected"),
    [
        ({"type": "disabled"}, {"type": "disabled"}),
        ({"type": "adaptive"}, {"type": "enabled"}),
        ({"type": "enabled", "budget_tokens": 2000}, {"type": "enabled", "token_budget": 2000}),
    ],
)
def test_another_surfaces_thinking_is_said_in_coheres_words(thinking, expected):
    assert wire(a_chat(thinking=thinking))["thinking"] == expected


def test_a_call_that_goes_on_before_it_began_is_passed_over():
    state = a_state()
    delta = {"message": {"tool_calls": {"function": {"arguments": "{}"}}}}
    event = orjson.dumps({"type": "tool-call-delta", "index": 0, "delta": delta})
    assert cohere.parse_event("tool-call-delta", event, state) == ()
    assert state.content_events == 0
