"""Golden files: documented provider shapes in, ours out, checked against the providers' own SDK types."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import anthropic.types
import openai.types
import openai.types.chat
import orjson
import pytest
from google.genai import types as gemini_types
from openai.types.chat import completion_create_params
from pydantic import TypeAdapter

from routing.providers.adapters import adapter_for
from routing.types import Operation, ProviderError, ProviderKind
from tests.routing.providers.factories import a_state, a_target
from tests.routing.providers.golden_cases import events_of, golden_files, inputs_of, load, observe


def split(file: str) -> tuple[str, str]:
    kind, _, name = file.partition("/")
    return kind, name


@pytest.mark.parametrize("file", golden_files())
def test_the_adapter_does_what_the_golden_file_shows(file):
    kind, name = split(file)
    case = load(file)
    inputs = inputs_of(name, case)
    assert {**inputs, **observe(kind, name, inputs)} == case


def test_every_kind_and_every_operation_has_golden_files():
    shown = {
        (split(file)[0], split(file)[1].split("_")[0], load(file).get("operation")) for file in golden_files()
    }
    for kind in ("openai", "anthropic", "gemini", "azure_openai", "mistral", "cohere"):
        assert (kind, "request", "chat") in shown
        assert (kind, "reply", "chat") in shown
        assert (kind, "stream", None) in shown
        assert (kind, "error", None) in shown
    for kind in ("openai", "gemini", "mistral", "cohere"):
        assert (kind, "request", "embeddings") in shown
        assert (kind, "reply", "embeddings") in shown
    assert ("openai", "reply", "completions") in shown


def consumed(value: object) -> object:
    """Walk pydantic's lazy iterables, which are only checked while they are read."""
    if isinstance(value, Mapping):
        return {key: consumed(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [consumed(item) for item in value]
    return value


def as_completion(reply: dict[str, Any], operation: str) -> None:
    model: Any = {
        "chat": openai.types.chat.ChatCompletion,
        "completions": openai.types.Completion,
        "embeddings": openai.types.CreateEmbeddingResponse,
    }[operation]
    if operation == "embeddings" and isinstance(reply["data"][0]["embedding"], str):
        # The SDK decodes base64 before its own types see it.
        reply = {**reply, "data": [{**row, "embedding": [0.0]} for row in reply["data"]]}
    model.model_validate(reply)


def test_replies_are_what_openais_sdk_expects():
    seen = 0
    for file in golden_files("reply_"):
        case = load(file)
        if "openai" in case:
            as_completion(case["openai"], case["operation"])
            seen += 1
    assert seen > 15


def test_chunks_are_what_openais_sdk_expects():
    seen = 0
    for file in golden_files("stream_"):
        for chunk in [chunk for chunks in load(file)["chunks"] for chunk in chunks]:
            if chunk["object"] == "text_completion":
                # OpenAI's own type demands a finish reason that its own streams only send at the end.
                for choice in chunk["choices"]:
                    choice["finish_reason"] = choice["finish_reason"] or "stop"
                openai.types.Completion.model_validate(chunk)
            else:
                openai.types.chat.ChatCompletionChunk.model_validate(chunk)
            seen += 1
    assert seen > 60


@pytest.mark.parametrize("file", [f for f in golden_files("request_chat") if "openai" in f or "sandbox" in f])
def test_openai_requests_are_what_its_sdk_would_send(file):
    case = load(file)
    model = (
        completion_create_params.CompletionCreateParamsStreaming
        if case["stream"]
        else completion_create_params.CompletionCreateParamsNonStreaming
    )
    consumed(TypeAdapter(model).validate_python(case["wire"]["body"]))


ANTHROPIC_BLOCKS = {
    "text": anthropic.types.TextBlockParam,
    "image": anthropic.types.ImageBlockParam,
    "document": anthropic.types.DocumentBlockParam,
    "thinking": anthropic.types.ThinkingBlockParam,
    "tool_use": anthropic.types.ToolUseBlockParam,
    "tool_result": anthropic.types.ToolResultBlockParam,
}
ANTHROPIC_FIELDS = {
    "model": str,
    "max_tokens": int,
    "stream": bool,
    "stop_sequences": list[str],
    "metadata": anthropic.types.MetadataParam,
    "output_config": anthropic.types.OutputConfigParam,
    "thinking": anthropic.types.ThinkingConfigParam,
    "tool_choice": anthropic.types.ToolChoiceParam,
    "tools": list[anthropic.types.ToolParam],
    "service_tier": Literal["auto", "standard_only"],
    # The SDK has dropped the sampling parameters, which older models still take.
    "temperature": float,
    "top_p": float,
}


def check_anthropic_blocks(blocks: list[dict[str, Any]]) -> None:
    """Each block by itself: pydantic checks the SDK's iterables of unions only while they are read."""
    for block in blocks:
        inner = block.get("content")
        if isinstance(inner, list):
            check_anthropic_blocks(inner)
        outer = {**block, "content": ""} if isinstance(inner, list) else block
        model: Any = TypeAdapter(ANTHROPIC_BLOCKS[block["type"]])
        assert model.validate_python(outer) == outer


@pytest.mark.parametrize("file", [f for f in golden_files("request_") if f.startswith("anthropic/")])
def test_anthropic_requests_are_what_its_sdk_would_send(file):
    body = load(file)["wire"]["body"]
    for message in body.pop("messages"):
        assert message.keys() == {"role", "content"}
        assert message["role"] in ("user", "assistant")
        check_anthropic_blocks(message["content"])
    check_anthropic_blocks(body.pop("system", []))
    for name, value in body.items():
        model: Any = TypeAdapter(ANTHROPIC_FIELDS[name])
        assert model.validate_python(value) == value


@pytest.mark.parametrize("file", [f for f in golden_files("request_") if f.startswith("gemini/")])
def test_gemini_requests_hold_only_fields_its_sdk_knows(file):
    body = load(file)["wire"]["body"]
    for request in body.pop("requests", []):
        assert request.pop("model").startswith("models/")
        assert request.pop("outputDimensionality") > 0
        gemini_types.Content.model_validate(request.pop("content"))
        assert request == {}
    for content in body.pop("contents", []):
        gemini_types.Content.model_validate(content)
    for tool in body.pop("tools", []):
        gemini_types.Tool.model_validate(tool)
    for name, model in (
        ("systemInstruction", gemini_types.Content),
        ("toolConfig", gemini_types.ToolConfig),
        ("generationConfig", gemini_types.GenerationConfig),
    ):
        if name in body:
            model.model_validate(body.pop(name))
    assert body == {}


MISTRAL_FIELDS = {
    "chat": {
        "model", "messages", "temperature", "top_p", "max_tokens", "stream", "stop", "random_seed", "tools",
        "response_format", "tool_choice", "presence_penalty", "frequency_penalty", "parallel_tool_calls",
        "prompt_mode", "reasoning_effort", "safe_prompt",
    },
    "embeddings": {"model", "input", "output_dimension"},
}  # fmt: skip
"""https://docs.mistral.ai/api: a field beside these is answered with 422."""
MISTRAL_MESSAGE = {"role", "content", "tool_calls", "tool_call_id"}


@pytest.mark.parametrize("file", [f for f in golden_files("request_") if f.startswith("mistral/")])
def test_mistral_requests_hold_only_documented_fields(file):
    case = load(file)
    body = case["wire"]["body"]
    assert body.keys() <= MISTRAL_FIELDS[case["operation"]]
    for message in body.get("messages", []):
        assert message.keys() <= MISTRAL_MESSAGE
        assert all(len(call["id"]) == 9 for call in message.get("tool_calls", []))
        assert len(message.get("tool_call_id", "123456789")) == 9


COHERE_FIELDS = {
    "chat": {
        "model", "messages", "stream", "temperature", "p", "k", "seed", "max_tokens", "stop_sequences", "tools",
        "presence_penalty", "frequency_penalty", "tool_choice", "strict_tools", "response_format", "thinking",
        "safety_mode",
    },
    "embeddings": {"model", "texts", "input_type", "embedding_types", "output_dimension", "truncate"},
}  # fmt: skip
"""https://docs.cohere.com/reference/chat, https://docs.cohere.com/reference/embed"""


@pytest.mark.parametrize("file", [f for f in golden_files("request_") if f.startswith("cohere/")])
def test_cohere_requests_hold_only_documented_fields(file):
    case = load(file)
    body = case["wire"]["body"]
    assert body.keys() <= COHERE_FIELDS[case["operation"]]
    for message in body.get("messages", []):
        assert message.keys() <= {"role", "content", "tool_calls", "tool_call_id"}
        for part in message.get("content", []):
            assert part.keys() == {"type", part["type"]}


def test_provider_answers_in_the_golden_files_have_the_providers_own_shape():
    events: Any = TypeAdapter(anthropic.types.RawMessageStreamEvent)
    seen = 0
    for file in golden_files():
        kind, name = split(file)
        case = load(file)
        if name.startswith("reply_chat") and "openai" in case:
            if kind == "anthropic":
                anthropic.types.Message.model_validate(case["reply"])
                seen += 1
            elif kind == "gemini":
                gemini_types.GenerateContentResponse.model_validate(case["reply"])
                seen += 1
        if kind == "anthropic" and name.startswith("stream_"):
            known = ("ping", "error", "shiny_new_event")
            for event, data in events_of(case):
                if event not in known and data.endswith(b"}"):
                    events.validate_json(data)
                    seen += 1
        if kind == "gemini" and name.startswith("stream_"):
            for item in case["events"]:
                if "error" not in item:
                    gemini_types.GenerateContentResponse.model_validate(item)
                    seen += 1
    assert seen > 40


ODD = (None, 0, -1, True, "x", [], {}, [1], [None], {"x": 1})


def mutants(value: Any) -> Iterable[Any]:
    """Every copy of a JSON value with one part replaced by something odd, or one key left out."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield {k: v for k, v in value.items() if k != key}
            for mutant in (*ODD, *mutants(item)):
                yield {**value, key: mutant}
    elif isinstance(value, list):
        for position, item in enumerate(value):
            for mutant in (*ODD, *mutants(item)):
                yield [*value[:position], mutant, *value[position + 1 :]]


@pytest.mark.parametrize("file", golden_files("stream_"))
def test_a_stream_with_one_odd_value_never_breaks_the_adapter(file):
    kind = ProviderKind(split(file)[0])
    adapter = adapter_for(kind)
    events = events_of(load(file))
    for position, (name, data) in enumerate(events):
        if not data.startswith(b"{") or not data.endswith(b"}"):
            continue
        for mutant in mutants(orjson.loads(data)):
            state = a_state(include_usage=True)
            changed = [*events[:position], (name, orjson.dumps(mutant)), *events[position + 1 : position + 3]]
            for event, payload in changed:
                for chunk in adapter.parse_event(event, payload, state):
                    assert isinstance(orjson.loads(chunk)["choices"], list)


@pytest.mark.parametrize("file", golden_files("reply_"))
def test_a_reply_with_one_odd_value_is_a_reply_or_a_provider_error(file):
    case = load(file)
    if "reply" not in case:
        return
    kind = ProviderKind(split(file)[0])
    operation = Operation(case["operation"])
    for mutant in mutants(case["reply"]):
        try:
            reply = adapter_for(kind).parse_reply(
                operation, case["request"], orjson.dumps(mutant), a_target(kind)
            )
        except ProviderError as error:
            assert error.message  # noqa: PT017 - either outcome is right, but never another exception
            continue
        assert isinstance(orjson.loads(reply.body), dict)
        assert reply.model


@pytest.mark.parametrize("file", golden_files("error_"))
def test_an_error_with_one_odd_value_is_still_classified(file):
    case = load(file)
    for mutant in mutants(case.get("body", {})):
        error = adapter_for(ProviderKind(split(file)[0])).classify_error(
            case["status"], {}, orjson.dumps(mutant)
        )
        assert error.status == case["status"]
        assert error.message
