import orjson
import pytest
from google.genai import types as google_types
from hypothesis import given
from hypothesis import strategies as st

from gateway.edge import openai
from gateway.edge.surfaces import google
from routing.types import Operation
from tenants.errors import STATUS_OF, ApiError

HELLO = [{"role": "user", "parts": [{"text": "Hi"}]}]
BRIEF = {"parts": [{"text": "Be brief."}]}
USAGE = {
    "prompt_tokens": 30,
    "completion_tokens": 7,
    "total_tokens": 37,
    "prompt_tokens_details": {"cached_tokens": 10},
    "completion_tokens_details": {"reasoning_tokens": 3},
    "tollhouse": {"price": "0.1"},
}


def asked(**changes):
    return {"model": "m", "contents": HELLO, **changes}


def chunk(delta, *, index=0, finish_reason=None):
    choice = {"index": index, "delta": delta, "finish_reason": finish_reason}
    return {"id": "c1", "model": "served", "choices": [choice]}


def pieces(raw):
    return [orjson.loads(line.removeprefix("data: ")) for line in raw.decode().strip().split("\n\n")]


# ------------------------------------------------------------------ requests


@pytest.mark.parametrize(
    "spelled",
    [
        {"systemInstruction": BRIEF, "generationConfig": {"maxOutputTokens": 9, "topP": 0.5}},
        {"system_instruction": BRIEF, "generation_config": {"max_output_tokens": 9, "top_p": 0.5}},
    ],
)
def test_both_spellings_are_read(spelled):
    chat = google.read(asked(stream=True, alt="sse", **spelled))
    assert chat == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        ],
        "tollhouse_surface": "google",
        "stream": True,
        "max_tokens": 9,
        "top_p": 0.5,
    }
    openai.check(Operation.CHAT, chat)


def test_calls_without_ids_meet_their_responses():
    contents = [
        *HELLO,
        {
            "role": "model",
            "parts": [
                {"text": "hm", "thought": True},
                {"functionCall": {"name": "get", "args": {"city": "Oslo"}}, "thoughtSignature": "s"},
                {"functionCall": {"name": "get", "args": {"city": "Bergen"}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"name": "get", "response": {"output": "rain"}}},
                {"functionResponse": {"name": "get", "response": {"error": "no city"}}},
                {"text": "So?"},
            ],
        },
    ]
    _, model, first, second, user = google.read(asked(contents=contents))["messages"]
    assert model["content"] is None
    assert [call["id"] for call in model["tool_calls"]] == ["call_1", "call_2"]
    assert model["tool_calls"][0]["extra_content"] == {"google": {"thought_signature": "s"}}
    assert first == {"role": "tool", "tool_call_id": "call_1", "name": "get", "content": "rain"}
    assert second == {
        "role": "tool",
        "tool_call_id": "call_2",
        "name": "get",
        "content": "no city",
        "is_error": True,
    }
    assert user == {"role": "user", "content": [{"type": "text", "text": "So?"}]}


def test_media_by_kind():
    parts = [
        {"inlineData": {"mimeType": "image/png", "data": "AA"}},
        {"inline_data": {"mime_type": "audio/wav", "data": "BB"}},
        {"inlineData": {"mimeType": "application/pdf", "data": "CC"}},
        {"fileData": {"fileUri": "https://example.com/a.png", "mimeType": "image/png"}},
    ]
    chat = google.read(asked(contents={"role": "user", "parts": parts}))
    assert chat["messages"][0]["content"] == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
        {"type": "input_audio", "input_audio": {"format": "wav", "data": "BB"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,CC"}},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
    ]


def test_tools_schemas_and_choices():
    declared = [
        {
            "name": "get",
            "description": "Weather",
            "parameters": {
                "type": "OBJECT",
                "properties": {
                    "city": {"type": "STRING", "nullable": True},
                    "days": {"type": "ARRAY", "items": {"type": "INTEGER"}},
                },
            },
        },
        {"name": "other", "parametersJsonSchema": {"type": "object"}},
    ]
    wanted = {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["get"]}}
    chat = google.read(asked(tools=[{"functionDeclarations": declared}], toolConfig=wanted))
    assert chat["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "get",
                "description": "Weather",
                "parameters": {
                    "type": "object",
                    "properties": {
                        "city": {"type": ["string", "null"]},
                        "days": {"type": "array", "items": {"type": "integer"}},
                    },
                },
            },
        }
    ]
    assert chat["tool_choice"] == {"type": "function", "function": {"name": "get"}}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"responseMimeType": "application/json"}, {"response_format": {"type": "json_object"}}),
        (
            {"responseMimeType": "application/json", "responseSchema": {"type": "OBJECT"}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "answer", "schema": {"type": "object"}},
                }
            },
        ),
        ({"thinkingConfig": {"thinkingBudget": 0}}, {"thinking": {"type": "disabled"}}),
        ({"thinkingConfig": {"thinkingBudget": -1}}, {"thinking": {"type": "adaptive"}}),
        (
            {"thinkingConfig": {"thinkingBudget": 64}},
            {"thinking": {"type": "enabled", "budget_tokens": 64}},
        ),
        ({"thinkingConfig": {"thinkingLevel": "LOW"}}, {"reasoning_effort": "low"}),
        ({"candidateCount": 2, "stopSequences": ["x"]}, {"n": 2, "stop": ["x"]}),
    ],
)
def test_settings(config, expected):
    chat = google.read(asked(generationConfig=config))
    assert {name: chat[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"contents": []}, "invalid_request", "contents"),
        ({"contents": [{"role": "system", "parts": []}]}, "invalid_request", "contents[0].role"),
        ({"contents": [{"parts": "x"}]}, "invalid_request", "contents[0].parts"),
        (
            {"contents": [{"parts": [{"executableCode": {}}]}]},
            "unsupported_parameter",
            "contents[0].parts[0]",
        ),
        (
            {"contents": [{"parts": [{"functionResponse": {"name": "f", "response": {}}}]}]},
            "invalid_request",
            "contents[0].parts[0].functionResponse",
        ),
        ({"tools": [{"googleSearch": {}}]}, "unsupported_parameter", "tools[0].googleSearch"),
        ({"cachedContent": "x"}, "unsupported_parameter", "cachedContent"),
        (
            {"generationConfig": {"speechConfig": {}}},
            "unsupported_parameter",
            "generationConfig.speechConfig",
        ),
        (
            {"generationConfig": {"responseModalities": ["IMAGE"]}},
            "unsupported_parameter",
            "generationConfig.responseModalities",
        ),
        ({"generationConfig": []}, "invalid_request", "generationConfig"),
    ],
)
def test_what_cannot_be_said_is_refused_by_its_own_name(changes, code, param):
    with pytest.raises(ApiError) as refused:
        google.read(asked(**changes))
    assert (refused.value.code, refused.value.param) == (code, param)


NAMES = st.sampled_from(
    ("parts", "role", "text", "functionCall", "functionResponse", "inlineData", "name", "args", "response")
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(sorted(google.FIELDS)), JSON))
def test_any_body_is_read_or_refused(body):
    status = 200
    try:
        openai.check(Operation.CHAT, google.read(asked(**body)))
    except ApiError as refused:
        status = refused.status
    assert status in (200, 400, 422)


# ------------------------------------------------------------------ answers


def test_a_whole_answer():
    call = {"id": "t1", "type": "function", "function": {"name": "get", "arguments": '{"city":"Oslo"}'}}
    message = {"content": "Hi", "reasoning_content": "hm", "tool_calls": [call]}
    body = {
        "id": "c1",
        "model": "served",
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
        "usage": USAGE,
    }
    answer = orjson.loads(google.reply(orjson.dumps(body), asked()))
    google_types.GenerateContentResponse.model_validate(answer)
    assert answer["candidates"] == [
        {
            "content": {
                "role": "model",
                "parts": [
                    {"text": "hm", "thought": True},
                    {"text": "Hi"},
                    {"functionCall": {"id": "t1", "name": "get", "args": {"city": "Oslo"}}},
                ],
            },
            "finishReason": "STOP",
            "index": 0,
        }
    ]
    assert answer["usageMetadata"] == {
        "promptTokenCount": 30,
        "candidatesTokenCount": 4,
        "totalTokenCount": 37,
        "cachedContentTokenCount": 10,
        "thoughtsTokenCount": 3,
    }


@pytest.mark.parametrize("code", sorted(STATUS_OF))
def test_every_error_has_googles_shape(code):
    body = google.error(ApiError(code, "words", param="p"), request_id="r1")["error"]
    assert (body["code"], body["message"]) == (STATUS_OF[code], "words")
    assert body["details"][0]["reason"] == code
    assert body["details"][0]["metadata"] == {"param": "p", "request_id": "r1"}


# ------------------------------------------------------------------ streams


def test_a_stream_of_events():
    voice = google.voice(asked(alt="sse"), request_id="r1")
    raw = voice.opening() + voice.chunk(chunk({"role": "assistant", "content": ""}))
    assert raw == b""
    raw = voice.chunk(chunk({"content": "He"})) + voice.chunk(chunk({"content": "y"}))
    raw += voice.chunk(chunk({"tool_calls": [{"index": 0, "id": "t1", "function": {"name": "get"}}]}))
    raw += voice.chunk(chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a":1}'}}]}))
    raw += voice.chunk(chunk({}, finish_reason="tool_calls")) + voice.end(USAGE)
    first, second, last = pieces(raw)
    for each in (first, second, last):
        google_types.GenerateContentResponse.model_validate(
            {**each, "usageMetadata": google._usage(USAGE)} if each is last else each
        )
    assert first["candidates"][0]["content"]["parts"] == [{"text": "He"}]
    assert second["candidates"][0]["content"]["parts"] == [{"text": "y"}]
    assert last["candidates"][0]["content"]["parts"] == [
        {"functionCall": {"id": "t1", "name": "get", "args": {"a": 1}}}
    ]
    assert last["candidates"][0]["finishReason"] == "STOP"
    assert last["usageMetadata"]["tollhouse"] == {"price": "0.1"}


def test_without_events_the_stream_is_one_array():
    voice = google.voice(asked(), request_id="r1")
    raw = voice.opening() + voice.chunk(chunk({"content": "He"})) + voice.keep_alive() + voice.end(USAGE)
    assert len(orjson.loads(raw)) == 2


@pytest.mark.parametrize("alt", [None, "sse"])
def test_a_broken_stream_ends_in_an_error_and_no_finish(alt):
    voice = google.voice(asked(alt=alt), request_id="r1")
    raw = voice.opening() + voice.chunk(chunk({"content": "He"}))
    raw += voice.broken(ApiError("provider_timeout", "slow"))
    last = pieces(raw)[-1] if alt else orjson.loads(raw)[-1]
    assert last["error"]["status"] == "DEADLINE_EXCEEDED"
    assert b"finishReason" not in raw
