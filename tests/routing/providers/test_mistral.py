"""Mistral's own words: call ids, thoughts, and what it cannot be asked."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.providers import mistral
from routing.types import Operation, ProviderKind, UnsupportedParameter
from tests.routing.providers.factories import a_chat, a_target


def wire(body, **changes):
    request = mistral.build_request(
        Operation.CHAT, body, a_target(ProviderKind.MISTRAL, **changes), stream=False
    )
    return orjson.loads(request.body)


@given(st.text(max_size=40))
def test_every_call_id_becomes_nine_letters_and_digits_and_stays_the_same(text):
    made = mistral.call_id(text)
    assert len(made) == 9
    assert made.isascii()
    assert made.isalnum()
    assert mistral.call_id(text) == made
    assert mistral.call_id(made) == made


def test_different_call_ids_stay_apart():
    assert len({mistral.call_id(f"call_{number}") for number in range(2000)}) == 2000


@pytest.mark.parametrize(
    ("param", "changes"),
    [
        ("n", {"n": 2}),
        ("logprobs", {"logprobs": True}),
        ("logit_bias", {"logit_bias": {"1": 1}}),
        ("top_k", {"top_k": 4}),
        ("prediction", {"prediction": {"type": "content", "content": "x"}}),
        ("temperature", {"temperature": 1.6}),
        ("reasoning_effort", {"reasoning_effort": "medium"}),
        ("tools", {"tools": [{"type": "custom", "custom": {"name": "x"}}]}),
        ("tool_choice", {"tool_choice": "required"}),
        (
            "tool_choice",
            {"tools": [{"type": "function", "function": {"name": "x"}}], "tool_choice": "sometimes"},
        ),
        ("messages", {"messages": [{"role": "user", "content": "Hi", "name": "Ann"}]}),
        ("messages", {"messages": [{"role": "assistant", "content": "To go on from"}]}),
        ("messages", {"messages": [{"role": "function", "name": "f", "content": "x"}]}),
        (
            "messages",
            {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
        ),
        (
            "messages",
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {
                                "type": "image_url",
                                "image_url": {"url": "https://a.example/x", "detail": "low"},
                            }
                        ],
                    }
                ]
            },
        ),
    ],
)
def test_what_mistral_cannot_express_is_refused(param, changes):
    with pytest.raises(UnsupportedParameter) as refused:
        wire(a_chat(**changes))
    assert refused.value.param == param


def test_magistral_cannot_be_told_not_to_think():
    with pytest.raises(UnsupportedParameter, match="always thinks"):
        wire(a_chat(reasoning_effort="none"), provider_model="magistral-small-latest")


def test_token_lists_and_completions_are_refused():
    target = a_target(ProviderKind.MISTRAL)
    for operation, body in (
        (Operation.EMBEDDINGS, {"model": "m", "input": [[1, 2]]}),
        (Operation.COMPLETIONS, {"model": "m", "prompt": "x"}),
    ):
        with pytest.raises(UnsupportedParameter):
            mistral.build_request(operation, body, target, stream=False)
