"""Tokens come back as what they stand for: whole, in streams however cut, in the forms models give them."""

from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.privacy.restore import DONE, Restorer
from gateway.privacy.tokens import Vault

VAULT = Vault(b"k" * 32)
EMAIL = VAULT.token("email", "max@example.com")
ADDRESS = VAULT.token("ip_address", "203.0.113.9")
ODD = VAULT.token("custom:odd", "odd")
TOKENS = {EMAIL: "max@example.com", ADDRESS: "203.0.113.9", ODD: 'say "hi"\n\\o/'}
RESTORER = Restorer(TOKENS)
CORE = EMAIL[1:-1]

FORMS = (
    EMAIL,
    EMAIL.lower(),
    EMAIL.title(),
    CORE,
    EMAIL.replace("_", "\\_"),
    f"\\<{CORE}\\>",
    f"\\<{CORE}>",
    f"&lt;{CORE}&gt;",
    f"\\u003c{CORE}\\u003e",
    ADDRESS,
    ADDRESS.replace("_", "\\\\_"),
    ODD,
)
FRAGMENTS = st.sampled_from(
    (
        *FORMS,
        EMAIL[:-1],
        EMAIL[:9],
        CORE + "A",
        "<",
        "\\",
        "&l",
        "&lt;",
        "_",
        "A",
        "é",
        ">",
        " ",
        "EMA",
        "<IP\\_",
    )
)
TEXTS = st.lists(st.one_of(FRAGMENTS, st.text(max_size=3))).map("".join)


def chunk(delta: dict[str, Any], index: int = 0, finish: str | None = None) -> bytes:
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return orjson.dumps({"id": "c1", "object": "chat.completion.chunk", "model": "m", "choices": [choice]})


def said(payloads: list[bytes], *path: str | int) -> str:
    """The texts at this path of all chunks' deltas, joined."""
    made = []
    for payload in payloads:
        value: Any = orjson.loads(payload)["choices"][0]["delta"]
        for step in path:
            value = value.get(step) if isinstance(value, dict) else value[step] if value else None
        made.append(value or "")
    return "".join(made)


def cut(text: str, cuts: list[int]) -> list[str]:
    places = sorted({0, len(text), *(each % (len(text) + 1) for each in cuts)})
    return [text[start:end] for start, end in pairwise(places)] or [text]


@pytest.mark.parametrize("form", FORMS[:9])
def test_knows_a_token_in_the_forms_that_models_give_it(form: str) -> None:
    expected = "\\max@example.com" if form == f"\\<{CORE}>" else "max@example.com"
    assert RESTORER.text(f"to {form}, please") == f"to {expected}, please"


@pytest.mark.parametrize(
    "text", [f"x{CORE}", f"{CORE}A", f"my_{CORE}", EMAIL[:-3], "<EMAIL_22222222>", "EMAIL_ "]
)
def test_leaves_alone_what_is_no_token_of_this_call(text: str) -> None:
    assert RESTORER.text(text) == text


@given(TEXTS, st.lists(st.integers(0, 400), max_size=12))
def test_any_cut_of_a_stream_says_what_the_whole_says(text: str, cuts: list[int]) -> None:
    stream = RESTORER.stream()
    sent = [one for piece in cut(text, cuts) for one in stream.feed([chunk({"content": piece})])]
    assert said(sent + stream.flush(), "content") == RESTORER.text(text)


@given(TEXTS, st.lists(st.integers(0, 400), max_size=12))
def test_a_stream_ends_with_all_its_text_said(text: str, cuts: list[int]) -> None:
    stream = RESTORER.stream()
    pieces = [chunk({"content": piece}) for piece in cut(text, cuts)]
    sent = stream.feed([*pieces, chunk({}, finish="stop")])
    assert said(sent, "content") == RESTORER.text(text)
    assert orjson.loads(sent[-1])["choices"][0]["finish_reason"] == "stop"
    assert stream.flush() == []


@given(st.text(), st.lists(st.integers(0, 400), max_size=12))
def test_tool_arguments_stay_json_however_cut(extra: str, cuts: list[int]) -> None:
    arguments = orjson.dumps({"to": EMAIL, "note": f"{extra}{ODD}", "cc": [ADDRESS]}).decode()
    stream = RESTORER.stream()
    sent = [
        one
        for piece in cut(arguments, cuts)
        for one in stream.feed([chunk({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})])
    ]
    made = said(sent + stream.flush(), "tool_calls", 0, "function", "arguments")
    assert orjson.loads(made) == {
        "to": "max@example.com",
        "note": f'{extra}say "hi"\n\\o/',
        "cc": ["203.0.113.9"],
    }


def test_restores_a_whole_answer_where_the_model_speaks_and_nowhere_else() -> None:
    arguments = orjson.dumps({"to": EMAIL, "odd": ODD}).decode()
    message = {
        "role": "assistant",
        "content": f"I write to {EMAIL}.",
        "refusal": EMAIL,
        "reasoning_content": ADDRESS,
        "tool_calls": [{"id": EMAIL, "function": {"name": "send", "arguments": arguments}}],
    }
    answer = {"id": EMAIL, "choices": [{"index": 0, "message": message}], "system_fingerprint": EMAIL}
    made = orjson.loads(RESTORER.whole(orjson.dumps(answer)))
    said_here = made["choices"][0]["message"]
    assert said_here["content"] == "I write to max@example.com."
    assert said_here["refusal"] == "max@example.com"
    assert said_here["reasoning_content"] == "203.0.113.9"
    assert orjson.loads(said_here["tool_calls"][0]["function"]["arguments"]) == {
        "to": "max@example.com",
        "odd": 'say "hi"\n\\o/',
    }
    assert (made["id"], made["system_fingerprint"], said_here["tool_calls"][0]["id"]) == (EMAIL, EMAIL, EMAIL)


def test_restores_completions_and_their_streams() -> None:
    body = orjson.dumps({"choices": [{"index": 0, "text": f"a {EMAIL}"}]})
    assert orjson.loads(RESTORER.whole(body))["choices"][0]["text"] == "a max@example.com"
    stream = RESTORER.stream()
    sent = stream.feed([orjson.dumps({"choices": [{"index": 0, "text": EMAIL[:6], "finish_reason": None}]})])
    sent += stream.feed(
        [orjson.dumps({"choices": [{"index": 0, "text": EMAIL[6:], "finish_reason": "stop"}]})]
    )
    assert [orjson.loads(each)["choices"][0]["text"] for each in sent] == ["", "max@example.com"]


@pytest.mark.parametrize(
    "body", [b"", b"not json", b"[]", b'{"choices":3}', b'{"error":{"message":"x"}}', b"\xff"]
)
def test_passes_on_what_it_does_not_know_as_it_is(body: bytes) -> None:
    assert RESTORER.whole(body) is body
    assert RESTORER.stream().feed([body])[0] is body


def test_without_tokens_nothing_is_touched() -> None:
    nothing = Restorer({})
    payload = chunk({"content": EMAIL})
    stream = nothing.stream()
    assert nothing.whole(payload) is payload
    assert nothing.text(EMAIL) is EMAIL
    assert stream.feed([payload])[0] is payload
    assert stream.flush() == []


def test_chunks_without_a_token_are_passed_on_as_they_are_and_at_once() -> None:
    payloads = [
        chunk({"role": "assistant"}),
        chunk({"content": "Hello"}),
        chunk({"content": ", world"}),
        DONE,
    ]
    assert all(new is old for new, old in zip(RESTORER.stream().feed(payloads), payloads, strict=True))


def test_choices_and_tool_calls_do_not_mix() -> None:
    stream = RESTORER.stream()
    for index, half in ((0, EMAIL[:5]), (1, ADDRESS[:7]), (0, EMAIL[5:]), (1, ADDRESS[7:])):
        sent = stream.feed([chunk({"content": half}, index=index)])
        last = {index: orjson.loads(sent[0])["choices"][0]["delta"]["content"]}
        assert last[index] in {"", "max@example.com", "203.0.113.9"}
    assert last == {1: "203.0.113.9"}
    both = chunk(
        {
            "tool_calls": [
                {"index": 0, "function": {"arguments": EMAIL[:4]}},
                {"index": 1, "function": {"arguments": "{}"}},
            ]
        }
    )
    calls = orjson.loads(stream.feed([both])[0])["choices"][0]["delta"]["tool_calls"]
    assert [each["function"]["arguments"] for each in calls] == ["", "{}"]
    rest = stream.feed([chunk({}, finish="tool_calls")])
    assert len(rest) == 2
    assert orjson.loads(rest[0])["choices"][0]["delta"]["tool_calls"] == [
        {"index": 0, "function": {"arguments": EMAIL[:4]}}
    ]


def test_what_is_held_back_comes_before_done_and_before_the_end_of_its_choice() -> None:
    stream = RESTORER.stream()
    first = stream.feed([chunk({"content": "see <EMA"})])
    assert said(first, "content") == "see "
    sent = stream.feed([DONE])
    assert said(sent[:1], "content") == "<EMA"
    assert orjson.loads(sent[0])["id"] == "c1"
    assert sent[1:] == [DONE]


def test_holds_back_no_more_than_may_become_a_token() -> None:
    stream = RESTORER.stream()
    assert (
        said(stream.feed([chunk({"content": "A < B and <EMAILS are"})]), "content") == "A < B and <EMAILS are"
    )
    assert said(stream.feed([chunk({"content": " here: <EMAIL_2"})]), "content") == " here: "
    assert said(stream.feed([chunk({"content": "0 no"})]), "content") == "<EMAIL_20 no"


def test_the_documents_of_a_ranking_come_back_as_they_were_sent():
    results = [
        {"index": 1, "relevance_score": 0.5, "document": {"text": f"to {EMAIL}", "more": [{"a": EMAIL}, 1]}},
        {"index": 0, "relevance_score": 0.1, "document": EMAIL},
        {"index": 2, "relevance_score": 0.1},
    ]
    restored = orjson.loads(RESTORER.whole(orjson.dumps({"results": results})))["results"]
    assert restored[0]["document"] == {"text": f"to {TOKENS[EMAIL]}", "more": [{"a": TOKENS[EMAIL]}, 1]}
    assert (restored[1]["document"], "document" in restored[2]) == (TOKENS[EMAIL], False)
