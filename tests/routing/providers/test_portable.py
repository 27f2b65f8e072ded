import pytest

from routing.providers.portable import SURFACE, effort_of, portable
from routing.types import ProviderKind, UnsupportedParameter
from tests.routing.providers.factories import a_chat, a_target

OPENAI, SELF_HOSTED = a_target(ProviderKind.OPENAI), a_target(ProviderKind.OPENAI_COMPATIBLE)


def foreign(**changes):
    return a_chat(**{SURFACE: "anthropic"}, **changes)


def test_a_body_in_openais_own_words_is_not_touched():
    body = a_chat(top_k=4, thinking={"type": "enabled"})
    assert portable(body, OPENAI) is body


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"thinking": {"type": "adaptive"}}, "thinking"),
        ({"top_k": 4}, "top_k"),
        (
            {"messages": [{"role": "tool", "tool_call_id": "t", "content": [{"type": "image_url"}]}]},
            "messages",
        ),
    ],
)
def test_what_openai_cannot_be_asked_is_refused(changes, param):
    with pytest.raises(UnsupportedParameter) as refused:
        portable(foreign(**changes), OPENAI)
    assert refused.value.param == param


def test_self_hosted_servers_take_more():
    plain = portable(foreign(top_k=4, max_tokens=9), SELF_HOSTED)
    assert (plain["top_k"], plain["max_tokens"]) == (4, 9)


@pytest.mark.parametrize(
    ("thinking", "effort"),
    [
        ({"type": "enabled", "budget_tokens": 1024}, "low"),
        ({"type": "enabled", "budget_tokens": 4000}, "medium"),
        ({"type": "enabled", "budget_tokens": 32_000}, "high"),
        ({"type": "adaptive"}, "medium"),
    ],
)
def test_a_thinking_budget_is_an_effort(thinking, effort):
    assert effort_of(thinking) == effort


def test_an_effort_that_was_asked_for_stands():
    target = a_target(ProviderKind.OPENAI, capabilities=frozenset({"reasoning"}))
    plain = portable(foreign(thinking={"type": "adaptive"}, reasoning_effort="low"), target)
    assert plain["reasoning_effort"] == "low"
    assert "thinking" not in plain


def test_parts_that_are_not_text_keep_their_order():
    picture = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}, "cache_control": {}}
    text = {"type": "text", "text": "What is it?"}
    plain = portable(foreign(messages=[{"role": "user", "content": [picture, text]}]), OPENAI)
    assert plain["messages"][0]["content"] == [
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        text,
    ]
