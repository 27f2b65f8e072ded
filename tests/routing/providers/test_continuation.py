"""Asking another model to go on from a text: by prefill where the dialect completes one, else by instruction."""

from dataclasses import replace

import pytest

from routing.providers.continuation import GO_ON, Continuation, can_continue
from routing.types import Operation, ProviderKind
from tests.routing.targets import TARGET

BODY = {"model": "m", "messages": [{"role": "user", "content": "Count."}], "max_tokens": 100}


def target(kind=ProviderKind.OPENAI, **options):
    return replace(TARGET, kind=kind, options=options)


def going_on(text="one two ", operation=Operation.CHAT):
    return Continuation(operation, text, tokens=2)


def test_anthropic_completes_the_turn_without_its_last_white_space():
    asked = going_on().body_for(BODY, target(ProviderKind.ANTHROPIC))
    assert asked["messages"] == [*BODY["messages"], {"role": "assistant", "content": "one two"}]
    assert going_on().doubles_space(target(ProviderKind.ANTHROPIC))
    assert not going_on("one two").doubles_space(target(ProviderKind.ANTHROPIC))


def test_gemini_completes_the_turn_as_it_is():
    asked = going_on().body_for(BODY, target(ProviderKind.GEMINI))
    assert asked["messages"][-1] == {"role": "assistant", "content": "one two "}
    assert not going_on().doubles_space(target(ProviderKind.GEMINI))


@pytest.mark.parametrize(
    "kind", [ProviderKind.OPENAI, ProviderKind.AZURE_OPENAI, ProviderKind.OPENAI_COMPATIBLE]
)
def test_openais_dialect_is_told_to_go_on(kind):
    asked = going_on().body_for(BODY, target(kind))
    assert asked["messages"][1:] == [
        {"role": "assistant", "content": "one two "},
        {"role": "user", "content": GO_ON},
    ]


def test_an_operator_may_say_how_a_provider_goes_on():
    assert going_on().way(target(continuation="prefill")) == "prefill"
    assert going_on().way(target(ProviderKind.GEMINI, continuation="instruction")) == "instruction"


def test_a_refused_prefill_leaves_the_instruction_and_then_nothing():
    text, prefilling = going_on(), target(ProviderKind.ANTHROPIC)
    assert text.refuse(prefilling)
    assert text.way(prefilling) == "instruction"
    assert not text.refuse(prefilling)


def test_a_prompt_goes_on_with_the_text():
    body = {"model": "m", "prompt": ["Count: "], "max_tokens": 100}
    asked = going_on(operation=Operation.COMPLETIONS).body_for(body, target())
    assert asked["prompt"] == "Count: one two "
    assert not going_on(operation=Operation.COMPLETIONS).refuse(target())


def test_what_was_shown_counts_against_the_callers_limit():
    assert going_on().body_for(BODY, target())["max_tokens"] == 98
    assert going_on().body_for({**BODY, "max_tokens": 1}, target())["max_tokens"] == 1


def test_the_callers_body_is_left_as_it_was():
    going_on().body_for(BODY, target())
    assert BODY == {"model": "m", "messages": [{"role": "user", "content": "Count."}], "max_tokens": 100}


@pytest.mark.parametrize(
    ("more", "answer"),
    [
        ({}, True),
        ({"response_format": {"type": "text"}}, True),
        ({"n": 2}, False),
        ({"response_format": {"type": "json_object"}}, False),
        ({"response_format": {"type": "json_schema"}}, False),
    ],
)
def test_only_one_free_text_can_be_carried_on(more, answer):
    assert can_continue(Operation.CHAT, {**BODY, **more}) is answer


@pytest.mark.parametrize(
    ("prompt", "answer"), [("a", True), (["a"], True), (["a", "b"], False), ([1, 2], False)]
)
def test_only_one_text_prompt_can_be_carried_on(prompt, answer):
    assert can_continue(Operation.COMPLETIONS, {"prompt": prompt}) is answer
