"""The official OpenAI client against a real gateway: every answer parses, every refusal is of its class, and
the ledger agrees with what the client was told."""

import base64
import json
import struct
from decimal import Decimal

import openai
import orjson
import pytest

from billing.models import UsageEvent
from billing.usage.verify import verify
from gateway.models import RequestLog
from tenants import keys
from tenants.models import Tenant
from tenants.principal import SYSTEM
from tests.gateway import plane as planes

db, demo, plane, drain = planes.db, planes.demo, planes.plane, planes.drain

HELLO = [{"role": "user", "content": "What is the weather in Oslo?"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
FORCED = {"type": "function", "function": {"name": "get_weather"}}
ANSWER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "degrees": {"type": "integer"}},
    "required": ["city", "degrees"],
    "additionalProperties": False,
}


@pytest.fixture
def limited(demo):
    tenant = Tenant.objects.get(slug="acme")
    return keys.issue(tenant=tenant, name="limited", scopes=("*",), actor=SYSTEM, limit_rpm=1).text


@pytest.fixture
def open_client(plane):
    """Clients by key, closed afterwards. They never retry: a test counts what it sends."""
    opened = []

    def make(key):
        opened.append(openai.OpenAI(base_url=f"{plane.url}/v1", api_key=key, max_retries=0))
        return opened[-1]

    yield make
    for client in opened:
        client.close()


@pytest.fixture
def client(open_client, plane):
    return open_client(plane.key)


def booked(request_id):
    """The ledger's rows of one call, oldest attempt first; all of them priced at cost plus 20 %."""
    drain()
    assert verify().ok
    rows = list(UsageEvent.objects.filter(request_id=request_id).order_by("attempt"))
    for row in rows:
        assert row.price_pico * 100 == row.cost_pico * 120
    return rows


def tokens(rows):
    (row,) = rows
    return row.input_tokens + row.cache_read_tokens, row.output_tokens + row.reasoning_tokens


def told(usage):
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    return usage.prompt_tokens, usage.completion_tokens


def test_a_chat_is_answered_and_booked(client):
    raw = client.chat.completions.with_raw_response.create(model="sandbox-large", messages=HELLO)
    chat = raw.parse()
    assert chat.object == "chat.completion"
    assert chat.choices[0].message.role == "assistant"
    assert chat.choices[0].message.content
    assert chat.choices[0].finish_reason == "stop"
    rows = booked(raw.headers["x-request-id"])
    assert tokens(rows) == told(chat.usage)
    assert (rows[0].status, rows[0].usage_source, rows[0].is_final) == ("ok", "provider", True)
    assert Decimal(raw.headers["x-tollhouse-price"]) * 10**12 == rows[0].price_pico


def test_a_stream_says_the_same_as_a_whole_answer_and_is_booked(client):
    whole = client.chat.completions.create(model="sandbox-large", messages=HELLO)
    raw = client.chat.completions.with_raw_response.create(
        model="sandbox-large", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(raw.parse())
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert len({chunk.id for chunk in chunks}) == 1
    rows = booked(raw.headers["x-request-id"])
    assert tokens(rows) == told(chunks[-1].usage) == told(whole.usage)
    assert rows[0].is_stream


def test_a_stream_without_include_usage_is_booked_all_the_same(client):
    raw = client.chat.completions.with_raw_response.create(model="sandbox-large", messages=HELLO, stream=True)
    chunks = list(raw.parse())
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    whole = client.chat.completions.create(model="sandbox-large", messages=HELLO)
    assert tokens(booked(raw.headers["x-request-id"])) == told(whole.usage)


def test_a_forced_tool_is_called_with_arguments_of_its_schema(client):
    raw = client.chat.completions.with_raw_response.create(
        model="sandbox-small", messages=HELLO, tools=[TOOL], tool_choice=FORCED
    )
    choice = raw.parse().choices[0]
    (call,) = choice.message.tool_calls
    assert call.function.name == "get_weather"
    assert isinstance(json.loads(call.function.arguments)["city"], str)
    assert call.id
    assert tokens(booked(raw.headers["x-request-id"])) == told(raw.parse().usage)


def test_streamed_tool_deltas_join_to_the_whole_call(client):
    asked = {"model": "sandbox-small", "messages": HELLO, "tools": [TOOL], "tool_choice": "required"}
    (whole,) = client.chat.completions.create(**asked).choices[0].message.tool_calls
    deltas = [
        delta
        for chunk in client.chat.completions.create(**asked, stream=True)
        for choice in chunk.choices
        for delta in choice.delta.tool_calls or ()
    ]
    assert {delta.index for delta in deltas} == {0}
    assert deltas[0].id
    assert deltas[0].function.name == "get_weather"
    arguments = "".join(delta.function.arguments or "" for delta in deltas)
    assert arguments == whole.function.arguments


def test_an_answer_follows_its_json_schema(client):
    chat = client.chat.completions.create(
        model="sandbox-large",
        messages=HELLO,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "weather", "strict": True, "schema": ANSWER},
        },
    )
    answer = json.loads(chat.choices[0].message.content)
    assert {name: type(value) for name, value in answer.items()} == {"city": str, "degrees": int}


def test_embeddings_are_the_same_as_floats_and_as_base64(client):
    raw = client.embeddings.with_raw_response.create(
        model="sandbox-embed", input=["one", "two"], encoding_format="float"
    )
    floats = raw.parse()
    default = client.embeddings.with_raw_response.create(model="sandbox-embed", input=["one", "two"])
    on_the_wire = orjson.loads(default.http_response.content)["data"]
    vectors = [item.embedding for item in floats.data]
    assert [len(vector) for vector in vectors] == [256, 256]
    assert [item.index for item in floats.data] == [0, 1]
    assert vectors[0] != vectors[1]
    assert [item.embedding for item in default.parse().data] == [
        pytest.approx(vector, abs=1e-6) for vector in vectors
    ]
    packed = base64.b64decode(on_the_wire[0]["embedding"])  # the client asks for it unless told otherwise
    assert list(struct.unpack("<256f", packed)) == default.parse().data[0].embedding
    assert tokens(booked(raw.headers["x-request-id"])) == (floats.usage.prompt_tokens, 0)


def test_fewer_dimensions_are_given_when_asked(client):
    vectors = client.embeddings.create(model="sandbox-embed", input="one", dimensions=8)
    assert len(vectors.data[0].embedding) == 8


def test_a_text_completion_is_answered_whole_and_as_a_stream(client):
    raw = client.completions.with_raw_response.create(model="sandbox-small", prompt="Once upon a time")
    text = raw.parse()
    assert text.object == "text_completion"
    stream = client.completions.create(model="sandbox-small", prompt="Once upon a time", stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == text.choices[0].text
    assert tokens(booked(raw.headers["x-request-id"])) == told(text.usage)


def test_models_are_listed_and_found_by_name(client):
    listed = {model.id: model for model in client.models.list()}
    assert {"sandbox-small", "sandbox-embed", "policy:reliable"} <= set(listed)
    assert client.models.retrieve("sandbox-small") == listed["sandbox-small"]
    assert client.models.retrieve("policy:reliable") == listed["policy:reliable"]
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("nothing")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("change", "error", "code", "param"),
    [
        ({"model": "nothing"}, openai.NotFoundError, "model_not_found", "model"),
        ({"messages": []}, openai.BadRequestError, "invalid_request", "messages"),
        ({"top_p": 7}, openai.BadRequestError, "invalid_request", "top_p"),
    ],
)
def test_a_refusal_is_of_its_class_and_names_the_parameter(client, change, error, code, param):
    with pytest.raises(error) as caught:
        client.chat.completions.create(**{"model": "sandbox-small", "messages": HELLO, **change})
    assert (caught.value.code, caught.value.param) == (code, param)
    assert caught.value.request_id == caught.value.body["request_id"]
    assert booked(caught.value.request_id) == []


def test_a_wrong_key_is_an_authentication_error(open_client):
    with pytest.raises(openai.AuthenticationError) as caught:
        open_client("th_wrong").chat.completions.create(model="sandbox-small", messages=HELLO)
    assert caught.value.code == "invalid_api_key"
    assert caught.value.request_id


def test_a_rate_limit_is_a_rate_limit_error(limited, open_client):
    client = open_client(limited)
    client.chat.completions.create(model="sandbox-large", messages=HELLO)
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model="sandbox-large", messages=HELLO)
    assert caught.value.code == "rate_limit_exceeded"
    assert int(caught.value.response.headers["retry-after"]) >= 1
    assert booked(caught.value.request_id) == []


def test_a_broken_stream_raises_in_the_client(client):
    cut = [{"role": "user", "content": "[[sandbox cut_after=5 tokens=40]] go on"}]
    stream = client.chat.completions.create(model="sandbox-large", messages=cut, stream=True)
    heard = []
    with pytest.raises(openai.APIError, match="interrupted"):
        heard.extend(chunk.choices[0].delta.content or "" for chunk in stream)
    assert "".join(heard)


def test_a_failover_is_invisible_to_the_client_and_booked_try_by_try(client):
    failing = [{"role": "user", "content": "[[sandbox status=500]]"}]
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="policy:reliable", messages=failing)
    rows = booked(caught.value.request_id)
    tries = caught.value.response.headers["x-tollhouse-attempts"].split(",")
    assert [f"{row.provider}:500" for row in rows] == tries
    assert [row.is_final for row in rows] == [False] * (len(rows) - 1) + [True]
    assert {(row.status, row.cost_pico, row.price_pico) for row in rows} == {("error", 0, 0)}
    assert RequestLog.objects.get(request_id=caught.value.request_id).status == 502
