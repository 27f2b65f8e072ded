"""Every text of a request that a provider would see is read, and only what was found is changed."""

from copy import deepcopy
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.privacy.detect import Rules, compiled
from gateway.privacy.kinds import KINDS, Action
from gateway.privacy.restore import Restorer
from gateway.privacy.tokens import Vault
from gateway.privacy.walk import Redacted, redact_body, redact_text, texts_of
from routing.types import Operation
from tests.gateway.privacy.test_detect import TEXTS

VAULT = Vault(b"k" * 32)
RULES = Rules(dict.fromkeys(KINDS, Action.TOKENIZE))
MAX = "max@example.com"
TOKEN = VAULT.token("email", MAX)


def redacted(body: dict[str, Any], operation: Operation = Operation.CHAT, rules: Rules = RULES) -> Redacted:
    before = deepcopy(body)
    made = redact_body(operation, body, compiled(rules), rules, VAULT)
    assert body == before
    return made


def chat(**message: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", **message}]}


@pytest.mark.parametrize(
    "body",
    [
        chat(content=f"to {MAX}"),
        chat(content=[{"type": "text", "text": MAX}]),
        chat(content=[{"type": "hologram", "caption": {"lines": [MAX]}}]),
        chat(content=None, reasoning_content=MAX),
        chat(content=None, refusal=MAX),
        chat(content="", surprise={"deep": [{"er": MAX}]}),
        chat(content=[{"type": "file", "file": {"filename": f"{MAX} cv.pdf", "file_id": "f"}}]),
        {"messages": [{"role": "tool", "tool_call_id": "c", "content": f'{{"mail": "{MAX}"}}'}]},
        {
            "messages": [
                {"role": "assistant", "tool_calls": [{"id": "c", "function": {"arguments": f'"{MAX}"'}}]}
            ]
        },
        {"messages": [{"role": "assistant", "tool_calls": [{"id": "c", "custom": {"input": MAX}}]}]},
        {"messages": [{"role": "assistant", "function_call": {"name": "f", "arguments": f'"{MAX}"'}}]},
        {"messages": [], "prediction": {"type": "content", "content": f"x {MAX}"}},
        {"messages": [], "prediction": {"type": "content", "content": [{"type": "text", "text": MAX}]}},
        {"messages": [], "user": MAX},
        {"messages": [], "safety_identifier": MAX},
        {"messages": [], "metadata": {"mail": MAX}},
        {"messages": [], "metadata": {MAX: "x"}},
        {"messages": [], "stop": [MAX]},
        {"messages": [], "tools": [{"type": "function", "function": {"name": "f", "description": MAX}}]},
        {"messages": [], "tools": [{"function": {"parameters": {"properties": {"a": {"enum": [MAX]}}}}}]},
        {"messages": [], "response_format": {"json_schema": {"schema": {"description": MAX}}}},
        {"messages": [], "something_new": {"text": MAX}},
        {"messages": [MAX]},
        {"messages": MAX},
    ],
)
def test_finds_a_text_wherever_it_stands(body: dict[str, Any]) -> None:
    made = redacted(body)
    assert made.tokens == {TOKEN: MAX}
    assert made.counts == {"email": 1}
    assert orjson.loads(orjson.dumps(body).replace(MAX.encode(), TOKEN.encode())) == made.body


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        (Operation.COMPLETIONS, {"prompt": MAX, "suffix": "x"}),
        (Operation.COMPLETIONS, {"prompt": ["a", MAX]}),
        (Operation.COMPLETIONS, {"prompt": "a", "suffix": MAX}),
        (Operation.EMBEDDINGS, {"input": MAX}),
        (Operation.EMBEDDINGS, {"input": ["a", MAX], "user": "u"}),
    ],
)
def test_finds_texts_of_the_other_operations(operation: Operation, body: dict[str, Any]) -> None:
    made = redacted({"model": "m", **body}, operation)
    assert made.body == orjson.loads(
        orjson.dumps({"model": "m", **body}).replace(MAX.encode(), TOKEN.encode())
    )
    assert made.tokens == {TOKEN: MAX}


def test_a_clean_body_is_passed_on_as_it_is() -> None:
    body = chat(content="What is the capital of France?")
    made = redacted(body)
    assert made.body is body
    assert (made.tokens, made.counts, made.blocked, made.unscanned) == ({}, {}, None, 0)


def test_what_the_api_needs_stays_as_it_is() -> None:
    body: dict[str, Any] = {
        "model": MAX,
        "tool_choice": {"function": {"name": MAX}},
        "messages": [
            {"role": "assistant", "tool_calls": [{"id": MAX, "type": "function", "function": {"name": MAX}}]},
            {"role": "tool", "tool_call_id": MAX, "content": "fine"},
        ],
        "tools": [{"type": "function", "function": {"name": MAX, "parameters": {"required": [MAX]}}}],
    }
    assert redacted(body).body is body


def test_what_nobody_looks_into_is_counted() -> None:
    parts = [
        {"type": "image_url", "image_url": {"url": f"https://example.com/{MAX}"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA"}},
        {"type": "text", "text": "data:image/png;base64,AAAA"},
    ]
    body = chat(content=parts)
    assert redacted(body).body is body
    assert redacted(body).unscanned == 4
    assert redacted({"input": [[1, 2], [3]]}, Operation.EMBEDDINGS).unscanned == 2


def test_a_name_gets_a_token_without_brackets_which_providers_refuse_there() -> None:
    made = redacted(chat(name=MAX, content="hi"))
    assert made.body["messages"][0]["name"] == TOKEN[1:-1]
    assert Restorer(made.tokens).text(f"Hello {TOKEN[1:-1]}!") == f"Hello {MAX}!"


def test_arguments_stay_json_and_otherwise_as_they_were_written() -> None:
    arguments = (
        '{"to":\t"x\\n'
        + MAX
        + '", "pan": 4111111111111111, "id": 1.0,  "big": 123456789012345678901234567890}'
    )
    made = redacted(
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": arguments}}]}]}
    )
    text = made.body["messages"][0]["tool_calls"][0]["function"]["arguments"]
    card = VAULT.token("card", "4111111111111111")
    assert text == arguments.replace(MAX, TOKEN).replace("4111111111111111", f'"{card}"')
    assert made.tokens == {TOKEN: MAX, card: "4111111111111111"}
    assert orjson.loads(text)["to"] == f"x\n{TOKEN}"


def test_arguments_that_are_no_json_are_still_read() -> None:
    made = redacted({"messages": [{"role": "assistant", "function_call": {"arguments": f"{{to: {MAX}"}}]})
    assert made.body["messages"][0]["function_call"]["arguments"] == f"{{to: {TOKEN}"


@given(
    st.recursive(
        TEXTS | st.integers(), lambda inner: st.dictionaries(TEXTS, inner) | st.lists(inner), max_leaves=6
    )
)
def test_any_arguments_stay_json(value: Any) -> None:
    try:
        arguments = orjson.dumps(value).decode()
    except orjson.JSONEncodeError:  # half a surrogate pair, or a number that is too large
        return
    made = redacted({"messages": [{"role": "assistant", "function_call": {"arguments": arguments}}]})
    orjson.loads(made.body["messages"][0]["function_call"]["arguments"])


def test_a_key_says_what_its_value_is() -> None:
    made = redacted({"messages": [], "metadata": {"bsn": "620261134", "build": "620261134"}})
    assert made.body["metadata"] == {"bsn": VAULT.token("national_id", "620261134"), "build": "620261134"}


@given(TEXTS)
def test_restoring_gives_back_what_was_replaced(text: str) -> None:
    made = redact_text(text, compiled(RULES), RULES, VAULT)
    assert Restorer(made.tokens).text(made.body) == text
    found = compiled(RULES).find(text)
    assert sum(made.counts.values()) == len(found)
    assert set(made.tokens.values()) == {each.text for each in found}


def test_each_spelling_is_restored_as_it_was() -> None:
    text = f"{MAX} MAX@example.com {MAX}"
    made = redact_text(text, compiled(RULES), RULES, VAULT)
    assert made.body.split() == [TOKEN, VAULT.token("email", MAX, 1), TOKEN]
    assert Restorer(made.tokens).text(made.body) == text


def test_a_token_that_the_caller_wrote_is_not_given_to_another_value() -> None:
    text = f"{TOKEN.lower()} {MAX}"
    made = redact_text(text, compiled(RULES), RULES, VAULT)
    assert made.body == f"{TOKEN.lower()} {VAULT.token('email', MAX, 1)}"
    assert Restorer(made.tokens).text(made.body) == text


def test_tokens_of_the_call_are_not_given_twice() -> None:
    given_out = {TOKEN: "Max@Example.com"}
    made = redact_text(MAX, compiled(RULES), RULES, VAULT, given_out)
    assert made.body == VAULT.token("email", MAX, 1)


def test_redaction_leaves_nothing_to_restore() -> None:
    rules = Rules({"email": Action.REDACT})
    made = redacted(chat(content=f"to {MAX}"), rules=rules)
    assert made.body["messages"][0]["content"] == "to [EMAIL]"
    assert (made.tokens, made.counts) == ({}, {"email": 1})


def test_blocking_names_the_kind_and_changes_nothing() -> None:
    rules = Rules({"email": Action.TOKENIZE, "card": Action.BLOCK})
    body = chat(content=f"{MAX} 4111 1111 1111 1111")
    made = redacted(body, rules=rules)
    assert made.body is body
    assert (made.blocked, made.tokens, made.counts) == ("card", {}, {"email": 1, "card": 1})


def test_the_texts_of_a_request_are_listed_in_order() -> None:
    body = chat(
        content=[{"type": "text", "text": "one"}, {"type": "image_url", "image_url": {"url": "x"}}],
        name="two",
    )
    assert texts_of(Operation.CHAT, body) == ["one", "two"]
    assert texts_of(Operation.EMBEDDINGS, {"model": "m", "input": ["a", "b"]}) == ["a", "b"]
