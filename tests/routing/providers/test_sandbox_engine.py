"""The sandbox behaves like a provider, says the same thing twice, and fails when told to."""

import math
from base64 import b64decode
from struct import unpack

import openai.types
import openai.types.chat
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.providers import sandbox
from routing.providers.sandbox_engine import CREATED, REFUSED_KEY, answer, count_tokens, tokens_of, vector_of
from routing.providers.sse import SSEParser
from routing.types import ErrorKind, Operation, ProviderError, ProviderKind, Usage, WireRequest
from tests.routing.providers.factories import a_chat, a_state, a_target

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CLOCK = {"type": "function", "function": {"name": "get_time"}}


def play(body, *, operation=Operation.CHAT, model="sandbox-small", **target):
    target = a_target(ProviderKind.SANDBOX, provider_model=model, **target)
    return answer(sandbox.build_request(operation, body, target, stream=bool(body.get("stream"))))


def ask(text="Hello you", *, operation=Operation.CHAT, model="sandbox-small", **changes):
    body = a_chat(text, **changes) if operation is Operation.CHAT else {"model": "m", **changes}
    script = play(body, operation=operation, model=model)
    return script.status, orjson.loads(b"".join(step.data for step in script.steps))


def stream(text="Hello you", **changes):
    """The data of each event, and the script."""
    script = play(a_chat(text, stream=True, **changes))
    parser = SSEParser()
    events = [data for step in script.steps for _, data in parser.feed(step.data)]
    return events, script


def refused(text="Hello", **changes):
    status, body = ask(text, **changes)
    error = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return status, error["param"], error["code"]


# ------------------------------------------------------------------ plain answers


def test_a_chat_answer_is_readable_complete_and_exactly_counted():
    status, reply = ask()
    completion = openai.types.chat.ChatCompletion.model_validate(reply)
    text = completion.choices[0].message.content
    assert status == 200
    assert text.startswith('This is sandbox-small speaking. You sent 2 words: "Hello you".')
    assert completion.choices[0].finish_reason == "stop"
    assert completion.created == CREATED
    assert completion.usage.prompt_tokens == 3 + count_tokens("Hello you")
    assert completion.usage.completion_tokens == count_tokens(text)
    assert (
        completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    )


def test_the_same_request_gets_the_same_bytes():
    body = a_chat("What is the answer?", n=2, logprobs=True, top_logprobs=2)
    assert play(body) == play(body)
    assert play({**body, "stream": True}) == play({**body, "stream": True})


def test_a_stream_says_what_the_whole_answer_says():
    _, whole = ask(n=2)
    events, script = stream(n=2)
    assert (script.status, script.end, events[-1]) == (200, "close", b"[DONE]")
    chunks = [openai.types.chat.ChatCompletionChunk.model_validate_json(event) for event in events[:-1]]
    texts = ["", ""]
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [choice["message"]["content"] for choice in whole["choices"]]
    assert texts[0] != texts[1]
    assert chunks[-1].usage.model_dump(exclude_none=True) == whole["usage"]


@given(st.text(max_size=60))
def test_tokens_joined_are_the_text_again(text):
    assert "".join(tokens_of(text)) == text


def test_the_token_rule():
    assert tokens_of("Hello, wonderfully small world_1!") == [
        "Hello", ",", " wonderfu", "lly", " small", " world", "_", "1", "!",
    ]  # fmt: skip


def test_limits_and_stops_are_honoured():
    _, whole = ask(max_tokens=4)
    assert whole["choices"][0]["finish_reason"] == "length"
    assert whole["usage"]["completion_tokens"] == 4
    _, stopped = ask(stop=["speaking"])
    assert stopped["choices"][0]["message"]["content"] == "This is sandbox-small "
    assert stopped["choices"][0]["finish_reason"] == "stop"


def test_reasoning_counts_towards_the_output_and_its_limit():
    _, reply = ask(model="sandbox-reasoner", reasoning_effort="low")
    assert reply["usage"]["completion_tokens_details"]["reasoning_tokens"] == 32
    assert reply["usage"]["completion_tokens"] == 32 + count_tokens(reply["choices"][0]["message"]["content"])
    _, cut = ask(model="sandbox-reasoner", max_completion_tokens=20)
    assert cut["choices"][0]["message"]["content"] == ""
    assert cut["choices"][0]["finish_reason"] == "length"
    assert cut["usage"]["completion_tokens"] == 20


def test_images_are_seen_and_counted():
    parts = [
        {"type": "text", "text": "Look"},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
    ]
    _, reply = ask(messages=[{"role": "user", "content": parts}])
    assert "You sent 1 word and 1 image" in reply["choices"][0]["message"]["content"]
    assert reply["usage"]["prompt_tokens"] == 3 + 1 + 85


def test_a_repeated_prefix_is_read_from_cache_when_a_cache_key_is_given():
    messages = [{"role": "system", "content": "word " * 1500}, {"role": "user", "content": "Hi"}]
    _, plain = ask(messages=messages)
    _, cached = ask(messages=messages, prompt_cache_key="k")
    assert plain["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert cached["usage"]["prompt_tokens_details"]["cached_tokens"] == 1408
    assert cached["usage"]["prompt_tokens"] == plain["usage"]["prompt_tokens"]


def test_logprobs_cover_every_token():
    _, reply = ask(logprobs=True, top_logprobs=2)
    completion = openai.types.chat.ChatCompletion.model_validate(reply)
    rows = completion.choices[0].logprobs.content
    assert "".join(row.token for row in rows) == completion.choices[0].message.content
    assert all(len(row.top_logprobs) == 2 and row.logprob <= 0 for row in rows)


def test_structured_answers_satisfy_their_schema():
    schema = {
        "type": "object",
        "properties": {"age": {"type": "integer", "minimum": 18}},
        "required": ["age"],
    }
    asked = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    _, reply = ask(response_format=asked)
    assert reply["choices"][0]["message"]["content"] == '{"age":18}'
    _, loose = ask(response_format={"type": "json_object"})
    assert orjson.loads(loose["choices"][0]["message"]["content"]) == {"answer": "sandbox"}


@pytest.mark.parametrize(
    ("text", "choice", "called"),
    [
        ("Hello", "auto", []),
        ("Please use get_weather", "auto", ["get_weather"]),
        ("get_weather and get_time", None, ["get_weather", "get_time"]),
        ("Hello", "required", ["get_weather"]),
        ("get_weather", "none", []),
        ("Hello", {"type": "function", "function": {"name": "get_time"}}, ["get_time"]),
    ],
)
def test_tools_are_called_when_forced_or_named(text, choice, called):
    changes = {"tools": [WEATHER, CLOCK]} | ({"tool_choice": choice} if choice else {})
    _, reply = ask(text, **changes)
    message = reply["choices"][0]["message"]
    assert [call["function"]["name"] for call in message.get("tool_calls", [])] == called
    assert reply["choices"][0]["finish_reason"] == ("tool_calls" if called else "stop")
    if called == ["get_weather"]:
        assert message["content"] is None
        assert message["tool_calls"][0]["function"]["arguments"] == '{"city":"sandbox"}'


def test_results_of_a_tool_are_answered_in_words():
    call = {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "get_weather"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "sunny"},
    ]
    _, reply = ask(messages=messages, tools=[WEATHER], tool_choice="required")
    assert reply["choices"][0]["finish_reason"] == "stop"


def test_streamed_tool_calls_assemble_to_the_whole_ones():
    changes = {"tools": [WEATHER, CLOCK]}
    _, whole = ask("get_weather get_time", **changes)
    events, _ = stream("get_weather get_time", **changes)
    calls = {}
    for event in events[:-1]:
        for choice in orjson.loads(event)["choices"]:
            for piece in choice["delta"].get("tool_calls", []):
                call = calls.setdefault(piece["index"], {"id": "", "name": "", "arguments": ""})
                call["id"] += piece.get("id", "")
                call["name"] += piece["function"].get("name", "")
                call["arguments"] += piece["function"]["arguments"]
    expected = whole["choices"][0]["message"]["tool_calls"]
    assert [(c["id"], c["name"], c["arguments"]) for c in calls.values()] == [
        (call["id"], call["function"]["name"], call["function"]["arguments"]) for call in expected
    ]


def test_text_completions_echo_and_default_to_sixteen_tokens():
    _, reply = ask(operation=Operation.COMPLETIONS, prompt=["One", "Two"], n=2, echo=True, logprobs=1)
    completion = openai.types.Completion.model_validate(reply)
    assert [choice.index for choice in completion.choices] == [0, 1, 2, 3]
    assert completion.choices[0].text.startswith("OneThis is")
    assert completion.choices[2].text.startswith("TwoThis is")
    assert completion.usage.completion_tokens == 64
    assert "".join(completion.choices[0].logprobs.tokens) == completion.choices[0].text
    assert completion.choices[0].logprobs.text_offset[:2] == [0, len(tokens_of("OneThis")[0])]


# ------------------------------------------------------------------ embeddings


def test_embeddings_are_unit_vectors_that_bring_like_texts_together():
    _, reply = ask(operation=Operation.EMBEDDINGS, input=["red car", "red cars drive", "tax law"])
    openai.types.CreateEmbeddingResponse.model_validate(reply)
    first, near, far = (row["embedding"] for row in reply["data"])
    assert len(first) == 256
    assert math.isclose(math.hypot(*first), 1.0)
    assert math.sumprod(first, near) > math.sumprod(first, far) + 0.2
    assert reply["usage"] == {"prompt_tokens": 7, "total_tokens": 7}


def test_embeddings_honour_dimensions_and_encoding():
    _, reply = ask(operation=Operation.EMBEDDINGS, input="red car", dimensions=8, encoding_format="base64")
    values = unpack("<8f", b64decode(reply["data"][0]["embedding"]))
    assert values == pytest.approx(vector_of(tokens_of("red car"), 8))


def test_embeddings_take_tokens():
    _, reply = ask(operation=Operation.EMBEDDINGS, input=[[1, 2, 3], [4]])
    assert len(reply["data"]) == 2
    assert reply["usage"]["prompt_tokens"] == 4


@pytest.mark.parametrize("changes", [{"input": ""}, {"input": []}, {"input": [""]}, {"input": {"a": 1}}, {}])
def test_embeddings_of_nothing_are_refused(changes):
    assert refused(operation=Operation.EMBEDDINGS, **changes) == (400, "input", "invalid_value")


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"messages": []}, "messages", "empty_array"),
        ({"messages": "hi"}, "messages", "invalid_type"),
        ({"tools": [{"type": "function"}]}, "tools", "invalid_value"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "tool"}]}, "messages[0].tool_call_id", "missing_required_parameter"),
        ({"temperature": 3}, "temperature", "decimal_maximum_value"),
        ({"temperature": -1}, "temperature", "decimal_minimum_value"),
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        ({"top_p": 1.5}, "top_p", "decimal_maximum_value"),
        ({"n": 0}, "n", "decimal_minimum_value"),
        ({"n": 1.5}, "n", "invalid_type"),
        ({"max_tokens": 0}, "max_tokens", "decimal_minimum_value"),
        ({"reasoning_effort": "huge"}, "reasoning_effort", "invalid_value"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "missing_required_parameter"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": False}}},
            "response_format",
            "invalid_json_schema",
        ),
        (
            {"tools": [CLOCK], "tool_choice": {"type": "function", "function": {"name": "f"}}},
            "tool_choice",
            None,
        ),
    ],
)  # fmt: skip
def test_bad_requests_are_refused_as_openai_does(changes, param, code):
    assert refused(**changes) == (400, param, code)


def test_a_prompt_beyond_the_window_is_refused():
    assert refused("word " * 130_000) == (400, "messages", "context_length_exceeded")


def test_one_key_is_refused():
    script = play(a_chat(), api_key=REFUSED_KEY)
    assert script.status == 401
    error = sandbox.classify_error(script.status, dict(script.headers), script.steps[0].data)
    assert (error.kind, error.code) == (ErrorKind.CREDENTIAL, "invalid_api_key")


# ------------------------------------------------------------------ told to fail


@pytest.mark.parametrize(
    ("directive", "kind", "wait_s"),
    [
        ("status=429 retry_after=2", ErrorKind.RATE_LIMITED, 2.0),
        ("status=401", ErrorKind.CREDENTIAL, None),
        ("status=404", ErrorKind.MODEL_NOT_FOUND, None),
        ("status=400", ErrorKind.INVALID_REQUEST, None),
        ("status=500", ErrorKind.SERVER_ERROR, None),
        ("status=503 retry_after=0.5", ErrorKind.OVERLOADED, 0.5),
        ("status=504", ErrorKind.TIMEOUT, None),
        ("status=502 html", ErrorKind.SERVER_ERROR, None),
    ],
)
@pytest.mark.parametrize("place", ["prompt", "model"])
def test_statuses_on_demand_by_prompt_or_model(directive, kind, wait_s, place):
    text = f"[[sandbox {directive}]]"
    script = play(a_chat(f"Hi {text}")) if place == "prompt" else play(a_chat(), model=f"sandbox-small{text}")
    assert script.status == int(directive[7:10])
    error = sandbox.classify_error(script.status, dict(script.headers), script.steps[0].data)
    assert (error.kind, error.retry_after_s) == (kind, wait_s)
    assert "<" not in error.message


def test_directives_leave_no_trace_in_answer_or_count():
    _, plain = ask("Hello you")
    _, directed = ask("Hello you [[sandbox token_ms=5]]")
    assert directed["choices"][0]["message"] == plain["choices"][0]["message"]
    assert directed["usage"] == plain["usage"]
    _, model = ask("Hello you", model="sandbox-small[[sandbox token_ms=5]]")
    assert model["model"] == "sandbox-small"


def test_delays_are_spread_over_head_first_token_and_tokens():
    _, script = stream("x [[sandbox delay_ms=100 first_token_ms=50 token_ms=10 tokens=3]]")
    assert script.head_delay_s == 0.1
    assert [step.delay_s for step in script.steps] == [0.05, 0.01, 0.01, 0.01, 0.01, 0.01, 0.0]
    whole = play(a_chat("x [[sandbox delay_ms=100 first_token_ms=50 token_ms=10 tokens=3]]"))
    assert whole.head_delay_s == pytest.approx(0.18)


def test_the_length_of_an_answer_on_demand():
    _, reply = ask("x [[sandbox tokens=12]]")
    text = reply["choices"][0]["message"]["content"]
    assert text == "one two three four five six seven eight nine ten one two"
    assert reply["usage"]["completion_tokens"] == 12 == count_tokens(text)


@pytest.mark.parametrize(("word", "end"), [("cut_after", "reset"), ("stall_after", "hang")])
def test_streams_break_where_told(word, end):
    events, script = stream(f"x [[sandbox tokens=9 {word}=3]]")
    assert (len(events), script.end) == (3, end)
    assert b"[DONE]" not in events
    whole = play(a_chat(f"x [[sandbox {word}=3]]"))
    length = int(dict(whole.headers)["content-length"])
    assert (whole.end, len(whole.steps[0].data)) == (end, length // 2)


def test_an_error_inside_a_stream_ends_it():
    events, script = stream("x [[sandbox tokens=9 error_after=2]]")
    state = a_state()
    for event in events:
        sandbox.parse_event("", event, state)
    assert script.end == "close"
    assert (state.error.kind, state.done) == (ErrorKind.SERVER_ERROR, False)


def test_one_event_can_be_broken_and_the_end_mark_and_usage_left_out():
    events, _ = stream("x [[sandbox tokens=4 invalid_json_at=2 no_done no_usage]]")
    state = a_state(include_usage=True)
    out = [chunk for event in events for chunk in sandbox.parse_event("", event, state)]
    assert (state.malformed, state.done, state.usage, state.finish_reason) == (1, False, None, "stop")
    assert len(out) == len(events) - 1
    _, reply = ask("x [[sandbox no_usage]]")
    assert "usage" not in reply


@pytest.mark.parametrize("directive", ["html", "invalid_json_at=0"])
def test_a_broken_whole_answer_is_an_invalid_response(directive):
    script = play(a_chat(f"x [[sandbox {directive}]]"))
    assert script.status == 200
    with pytest.raises(ProviderError) as caught:
        sandbox.parse_reply(Operation.CHAT, a_chat(), script.steps[0].data, a_target(ProviderKind.SANDBOX))
    assert caught.value.kind is ErrorKind.INVALID_RESPONSE


@pytest.mark.parametrize(
    "directive",
    [
        "fly=1",
        "status=200",
        "status=x",
        "tokens=-1",
        "tokens=99999999",
        "delay_ms=1e9",
        "delay_ms=nan",
        "html=1",
    ],
)
def test_unknown_and_excessive_directives_are_refused(directive):
    assert refused(f"x [[sandbox {directive}]]") == (400, None, None)


# ------------------------------------------------------------------ whatever comes


def test_its_answers_pass_through_its_own_adapter_with_exact_usage():
    script = play(a_chat("Hello you"))
    target = a_target(ProviderKind.SANDBOX)
    reply = sandbox.parse_reply(Operation.CHAT, a_chat(), script.steps[0].data, target)
    tokens = count_tokens(orjson.loads(reply.body)["choices"][0]["message"]["content"])
    assert reply.usage == Usage({"input": 5, "output": tokens})
    assert reply.model == "sandbox-small"


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"1"])
def test_bodies_that_are_no_request_are_refused(body):
    assert answer(WireRequest("sandbox://m/chat/completions", (), body)).status == 400


def test_unknown_paths_are_not_found():
    assert answer(WireRequest("sandbox://m/images", (), b'{"model":"m"}')).status == 404


ODD = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.sampled_from(["user", "text", "function", "f", ""]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                ["role", "content", "type", "text", "function", "name", "parameters", "json_schema"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
PARAMETERS = [
    "messages", "tools", "tool_choice", "response_format", "stop", "stream_options", "logprobs", "input", "n",
    "prompt", "seed", "top_logprobs", "encoding_format", "dimensions", "reasoning_effort", "max_tokens",
    "model",
]  # fmt: skip
PROPER = {"model": "m", "messages": [{"role": "user", "content": "f"}], "prompt": "f", "input": "f"}


@given(
    st.sampled_from(["/chat/completions", "/completions", "/embeddings"]),
    st.dictionaries(st.sampled_from(PARAMETERS), ODD, max_size=4),
    st.booleans(),
)
def test_no_request_makes_it_raise(path, odd, streams):
    body = orjson.dumps({**PROPER, **odd, "stream": streams})
    script = answer(WireRequest(f"sandbox://m{path}", (), body))
    assert script.status in (200, 400)
    assert script.steps
