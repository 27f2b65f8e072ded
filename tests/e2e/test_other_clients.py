"""Anthropic's and Google's official clients, and OpenAI's Responses, against a real gateway whose provider speaks
OpenAI's dialect: every answer parses, every refusal is of its class, and the ledger has each call once."""

import json

import anthropic
import openai
import pytest
from google import genai
from google.genai import errors as google_errors
from google.genai import types as google_types

from billing.models import UsageEvent
from tests.gateway import plane as planes

db, demo, plane, drain = planes.db, planes.demo, planes.plane, planes.drain

ASK = "What is the weather in Oslo?"
MODEL = "sandbox-large"
CUT = "[[sandbox cut_after=5 tokens=40]] go on"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def booked(request_id):
    drain()
    (row,) = UsageEvent.objects.filter(request_id=request_id)
    return row.input_tokens + row.cache_read_tokens, row.output_tokens + row.reasoning_tokens


# ------------------------------------------------------------------ Anthropic

TOOL = {"name": "get_weather", "input_schema": SCHEMA}


@pytest.fixture
def claude(plane):
    with anthropic.Anthropic(base_url=plane.url, api_key=plane.key, max_retries=0) as client:
        yield client


def talk(text=ASK, **more):
    return {"model": MODEL, "max_tokens": 200, "messages": [{"role": "user", "content": text}], **more}


def test_a_message_is_answered_and_booked(claude):
    raw = claude.messages.with_raw_response.create(**talk(system="Be brief."))
    message = raw.parse()
    assert message.role == "assistant"
    assert message.stop_reason == "end_turn"
    assert message.content[0].text
    usage = message.usage.input_tokens, message.usage.output_tokens
    assert booked(raw.headers["x-request-id"]) == usage


def test_a_streamed_message_says_the_same(claude):
    whole = claude.messages.create(**talk())
    with claude.messages.stream(**talk()) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == whole.content[0].text == final.content[0].text
    assert final.stop_reason == "end_turn"
    assert final.usage.output_tokens == whole.usage.output_tokens


@pytest.mark.parametrize("streamed", [False, True])
def test_a_tool_is_used_and_its_result_answered(claude, streamed):
    asked = talk(tools=[TOOL], tool_choice={"type": "tool", "name": "get_weather"})
    if streamed:
        with claude.messages.stream(**asked) as stream:
            message = stream.get_final_message()
    else:
        message = claude.messages.create(**asked)
    assert message.stop_reason == "tool_use"
    (use,) = [block for block in message.content if block.type == "tool_use"]
    assert use.name == "get_weather"
    assert isinstance(use.input["city"], str)
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "no such city", "is_error": True}
    turns = [
        {"role": "user", "content": ASK},
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [result]},
    ]
    after = claude.messages.create(model=MODEL, max_tokens=100, messages=turns, tools=[TOOL])
    assert after.stop_reason == "end_turn"
    assert after.content[0].text


@pytest.mark.parametrize(
    ("change", "error", "code"),
    [
        ({"model": "nothing"}, anthropic.NotFoundError, "model_not_found"),
        ({"max_tokens": 0}, anthropic.BadRequestError, "invalid_request"),
        ({"extra_body": {"mcp_servers": [1]}}, anthropic.UnprocessableEntityError, "unsupported_parameter"),
    ],
)
def test_a_refused_message_is_of_its_class(claude, change, error, code):
    with pytest.raises(error) as caught:
        claude.messages.create(**{**talk(), **change})
    assert caught.value.body["error"]["code"] == code


def test_a_wrong_key_is_refused_in_anthropics_shape(plane):
    with (
        anthropic.Anthropic(base_url=plane.url, api_key="th_wrong", max_retries=0) as client,
        pytest.raises(anthropic.AuthenticationError) as caught,
    ):
        client.messages.create(**talk())
    assert caught.value.body["error"]["type"] == "authentication_error"


def test_a_broken_message_stream_raises(claude):
    with pytest.raises(anthropic.APIStatusError), claude.messages.stream(**talk(CUT)) as stream:
        stream.get_final_message()


# ------------------------------------------------------------------ Google


@pytest.fixture(params=["v1beta", "v1"])
def gemini(plane, request):
    options = google_types.HttpOptions(base_url=plane.url, api_version=request.param)
    client = genai.Client(api_key=plane.key, http_options=options)
    yield client
    client.close()


def test_generate_content_is_answered_and_booked(gemini):
    config = google_types.GenerateContentConfig(system_instruction="Be brief.", max_output_tokens=200)
    answer = gemini.models.generate_content(model=MODEL, contents=ASK, config=config)
    assert answer.text
    assert answer.candidates[0].finish_reason == google_types.FinishReason.STOP
    request_id = answer.sdk_http_response.headers["x-request-id"]
    usage = answer.usage_metadata
    assert booked(request_id) == (usage.prompt_token_count, usage.candidates_token_count)


def test_streamed_content_says_the_same(gemini):
    whole = gemini.models.generate_content(model=MODEL, contents=ASK)
    pieces = list(gemini.models.generate_content_stream(model=MODEL, contents=ASK))
    assert "".join(piece.text or "" for piece in pieces) == whole.text
    assert pieces[-1].candidates[0].finish_reason == google_types.FinishReason.STOP
    assert pieces[-1].usage_metadata.candidates_token_count == whole.usage_metadata.candidates_token_count


@pytest.mark.parametrize("streamed", [False, True])
def test_a_function_is_called_and_its_response_answered(gemini, streamed):
    declared = google_types.FunctionDeclaration(name="get_weather", parameters_json_schema=SCHEMA)
    config = google_types.GenerateContentConfig(
        tools=[google_types.Tool(function_declarations=[declared])],
        tool_config=google_types.ToolConfig(
            function_calling_config=google_types.FunctionCallingConfig(mode="ANY")
        ),
    )
    ask = google_types.Content(role="user", parts=[google_types.Part(text=ASK)])
    if streamed:
        *_, last = gemini.models.generate_content_stream(model=MODEL, contents=[ask], config=config)
    else:
        last = gemini.models.generate_content(model=MODEL, contents=[ask], config=config)
    (call,) = last.function_calls
    assert call.name == "get_weather"
    assert isinstance(call.args["city"], str)
    result = google_types.Part.from_function_response(name=call.name, response={"output": "rain"})
    contents = [ask, last.candidates[0].content, google_types.Content(role="user", parts=[result])]
    assert gemini.models.generate_content(model=MODEL, contents=contents).text


def test_refused_content_is_googles_error(gemini):
    with pytest.raises(google_errors.ClientError) as caught:
        gemini.models.generate_content(model="nothing", contents=ASK)
    assert (caught.value.code, caught.value.status) == (404, "NOT_FOUND")


def test_a_broken_content_stream_raises(gemini):
    with pytest.raises(google_errors.APIError):
        list(gemini.models.generate_content_stream(model=MODEL, contents=CUT))


def test_the_key_may_stand_in_the_query(plane):
    answer = plane.http.post(
        f"{plane.url}/v1beta/models/{MODEL}:generateContent?key={plane.key}",
        json={"contents": [{"parts": [{"text": ASK}]}]},
    )
    assert answer.status_code == 200


def test_without_events_a_stream_is_a_json_array(plane):
    answer = plane.http.post(
        f"{plane.url}/v1beta/models/{MODEL}:streamGenerateContent",
        headers={"x-goog-api-key": plane.key},
        json={"contents": [{"parts": [{"text": ASK}]}]},
    )
    assert answer.json()[-1]["candidates"][0]["finishReason"] == "STOP"
    assert answer.headers["content-type"] == "application/json"


# ------------------------------------------------------------------ OpenAI's Responses

FUNCTION = {"type": "function", "name": "get_weather", "parameters": SCHEMA, "strict": False}


@pytest.fixture
def client(plane):
    with openai.OpenAI(base_url=f"{plane.url}/v1", api_key=plane.key, max_retries=0) as client:
        yield client


def test_a_response_is_answered_and_booked(client):
    raw = client.responses.with_raw_response.create(model=MODEL, input=ASK, instructions="Be brief.")
    response = raw.parse()
    assert response.status == "completed"
    assert response.output_text
    usage = response.usage
    assert booked(raw.headers["x-request-id"]) == (usage.input_tokens, usage.output_tokens)


def test_a_streamed_response_says_the_same(client):
    whole = client.responses.create(model=MODEL, input=ASK)
    with client.responses.stream(model=MODEL, input=ASK) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert text == whole.output_text == final.output_text
    assert final.usage.total_tokens == whole.usage.total_tokens


@pytest.mark.parametrize("streamed", [False, True])
def test_a_function_is_called_in_a_response(client, streamed):
    asked = {"model": MODEL, "input": ASK, "tools": [FUNCTION], "tool_choice": "required"}
    if streamed:
        with client.responses.stream(**asked) as stream:
            response = stream.get_final_response()
    else:
        response = client.responses.create(**asked)
    (call,) = response.output
    assert isinstance(json.loads(call.arguments)["city"], str)
    items = [
        {"role": "user", "content": ASK},
        call.to_dict(),
        {"type": "function_call_output", "call_id": call.call_id, "output": "rain"},
    ]
    assert client.responses.create(model=MODEL, input=items, tools=[FUNCTION]).output_text


def test_what_a_response_cannot_have_is_refused(client):
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.responses.create(model=MODEL, input=ASK, previous_response_id="resp_1")
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "previous_response_id")


def test_a_broken_response_stream_ends_in_an_error(client):
    *_, last = client.responses.create(model=MODEL, input=CUT, stream=True)
    assert last.type == "error"
    assert last.code.startswith("provider_")
