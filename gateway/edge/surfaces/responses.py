"""OpenAI's Responses API without a memory of its own: each request brings its whole conversation.

Signed thoughts of other providers travel as the `encrypted_content` of reasoning items, which clients hand back
unread. https://platform.openai.com/docs/api-reference/responses
"""

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import orjson

from gateway.edge.surfaces.reading import as_object, bad, inexpressible
from gateway.edge.surfaces.types import EVENTS
from routing.providers.portable import SURFACE
from routing.types import Json
from tenants.errors import ApiError

PLAIN: Mapping[str, str] = {
    "model": "model",
    "stream": "stream",
    "temperature": "temperature",
    "top_p": "top_p",
    "max_output_tokens": "max_completion_tokens",
    "parallel_tool_calls": "parallel_tool_calls",
    "metadata": "metadata",
    "user": "user",
    "safety_identifier": "safety_identifier",
    "prompt_cache_key": "prompt_cache_key",
    "prompt_cache_retention": "prompt_cache_retention",
    "service_tier": "service_tier",
    "top_logprobs": "top_logprobs",
    "provider": "provider",
}
"""What means the same in both, theirs to ours."""

TRANSLATED = frozenset({"input", "instructions", "tools", "tool_choice", "text", "reasoning", "include"})
NEUTRAL: Mapping[str, Sequence[object]] = {
    "store": (False,),
    "background": (False,),
    "truncation": ("disabled",),
    "stream_options": ({}, {"include_obfuscation": False}),
}
"""Values that ask for nothing; any other would need a memory, or loses text."""

INCLUDED = ("reasoning.encrypted_content", "message.output_text.logprobs")
INCOMPLETE: Mapping[str, str] = {"length": "max_output_tokens", "content_filter": "content_filter"}
SEALED: Final = "tollhouse1:"
"""Begins an `encrypted_content` that is ours."""


# ------------------------------------------------------------------ requests


def read(body: Json) -> Json:
    """A Responses request as a chat body. Raises ApiError: invalid_request, unsupported_parameter."""
    for name, value in body.items():
        if value is None or name in PLAIN or name in TRANSLATED:
            continue
        if not any(value == neutral for neutral in NEUTRAL.get(name, ())):
            raise inexpressible(name, f"The parameter {name!r} cannot be expressed here.")
    chat: Json = {ours: body[theirs] for theirs, ours in PLAIN.items() if body.get(theirs) is not None}
    chat[SURFACE] = "responses"
    chat["messages"] = [*_instructions(body.get("instructions")), *_input(body.get("input"))]
    _include(body.get("include"), chat)
    _tools(body, chat)
    _text(as_object(body.get("text"), "text"), chat)
    reasoning = as_object(body.get("reasoning"), "reasoning")
    if reasoning.get("effort") is not None:
        chat["reasoning_effort"] = reasoning["effort"]
    return chat


def _instructions(instructions: Any) -> Iterable[Json]:
    if instructions is None:
        return
    if not isinstance(instructions, str):
        raise bad("instructions", "instructions must be a string.")
    yield {"role": "system", "content": instructions}


def _input(given: Any) -> list[Json]:
    """Items as messages; what the assistant did between two turns of others is one message of a chat."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if not isinstance(given, list) or not given:
        raise bad("input", "input must be a string or a non-empty array.")
    messages: list[Json] = []
    for number, item in enumerate(given):
        where = f"input[{number}]"
        if not isinstance(item, dict):
            raise bad(where, "an input item must be an object.")
        match item.get("type"):
            case None | "message":
                _add_message(messages, item, where)
            case "function_call":
                call = {
                    "id": item.get("call_id"),
                    "type": "function",
                    "function": {"name": item.get("name"), "arguments": item.get("arguments")},
                }
                if not all(
                    isinstance(value, str) for value in (call["id"], item.get("name"), item.get("arguments"))
                ):
                    raise bad(where, "a function call has call_id, name and arguments.")
                _assistant(messages).setdefault("tool_calls", []).append(call)
            case "function_call_output":
                messages.append(_output(item, where))
            case "reasoning":
                if blocks := unsealed(item.get("encrypted_content")):
                    _assistant(messages).setdefault("thinking_blocks", []).extend(blocks)
            case other:
                raise inexpressible(where, f"An input item of type {other!r} cannot be expressed here.")
    return messages


def _assistant(messages: list[Json]) -> Json:
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    return messages[-1]


def _add_message(messages: list[Json], item: Json, where: str) -> None:
    role, content = item.get("role"), item.get("content")
    if role not in ("user", "assistant", "system", "developer"):
        raise bad(f"{where}.role", "role must be user, assistant, system or developer.")
    if isinstance(content, list):
        content = [_part(part, f"{where}.content[{number}]") for number, part in enumerate(content)]
    elif not isinstance(content, str):
        raise bad(f"{where}.content", "content must be a string or an array of parts.")
    if role == "assistant":
        turn = _assistant(messages)
        if turn["content"] is not None or turn.get("tool_calls"):
            messages.append({"role": "assistant", "content": content})
        else:
            turn["content"] = content
    else:
        messages.append({"role": role, "content": content})


def _part(part: Any, where: str) -> Json:
    match part.get("type") if isinstance(part, dict) else None:
        case "input_text" | "output_text" | "text" if isinstance(part.get("text"), str):
            return {"type": "text", "text": part["text"]}
        case "refusal" if isinstance(part.get("refusal"), str):
            return {"type": "refusal", "refusal": part["refusal"]}
        case "input_image" if isinstance(part.get("image_url"), str):
            image = {"url": part["image_url"]}
            if part.get("detail") not in (None, "auto"):
                image["detail"] = part["detail"]
            return {"type": "image_url", "image_url": image}
        case "input_audio" if isinstance(part.get("input_audio"), dict):
            return {"type": "input_audio", "input_audio": part["input_audio"]}
        case "input_file" if isinstance(part.get("file_data"), str):
            file = {name: part[name] for name in ("file_data", "filename") if part.get(name)}
            return {"type": "file", "file": file}
        case "input_image" | "input_file":
            raise inexpressible(where, "Files come inline here, pictures also by their address.")
    raise bad(where, "a content part must be an object of a known type.")


def _output(item: Json, where: str) -> Json:
    said = item.get("output")
    if not isinstance(item.get("call_id"), str):
        raise bad(f"{where}.call_id", "a function call's output names its call_id.")
    if isinstance(said, list):
        said = [_part(part, f"{where}.output[{number}]") for number, part in enumerate(said)]
    elif not isinstance(said, str):
        raise bad(f"{where}.output", "output must be a string or an array of parts.")
    return {"role": "tool", "tool_call_id": item["call_id"], "content": said}


def _include(include: Any, chat: Json) -> None:
    if include is None:
        return
    if not isinstance(include, list):
        raise bad("include", "include must be an array.")
    for name in include:
        if name not in INCLUDED:
            raise inexpressible("include", f"{name!r} cannot be included here.")
    if "message.output_text.logprobs" in include:
        chat["logprobs"] = True


def _tools(body: Json, chat: Json) -> None:
    tools = body.get("tools") or []
    if not isinstance(tools, list):
        raise bad("tools", "tools must be an array.")
    made = [_tool(tool, f"tools[{number}]") for number, tool in enumerate(tools)]
    if made:
        chat["tools"] = made
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        if choice.get("type") != "function":
            raise inexpressible("tool_choice", "Only a function can be chosen here.")
        choice = {"type": "function", "function": {"name": choice.get("name")}}
    if choice is not None:
        chat["tool_choice"] = choice


def _tool(tool: Any, where: str) -> Json:
    if not isinstance(tool, dict) or not isinstance(tool.get("type"), str):
        raise bad(where, "a tool must be an object with a type.")
    if tool["type"] != "function":
        raise inexpressible(
            where, f"Tools of type {tool['type']!r} run at the provider and cannot be expressed."
        )
    if not isinstance(tool.get("name"), str):
        raise bad(f"{where}.name", "a function needs a name.")
    function = {
        name: tool[name]
        for name in ("name", "description", "parameters", "strict")
        if tool.get(name) is not None
    }
    return {"type": "function", "function": function}


def _text(text: Json, chat: Json) -> None:
    if text.get("verbosity") is not None:
        chat["verbosity"] = text["verbosity"]
    wanted = as_object(text.get("format"), "text.format")
    match wanted.get("type"):
        case None | "text":
            return
        case "json_object":
            chat["response_format"] = {"type": "json_object"}
        case "json_schema":
            schema = {
                name: wanted[name]
                for name in ("name", "description", "schema", "strict")
                if wanted.get(name) is not None
            }
            chat["response_format"] = {"type": "json_schema", "json_schema": schema}
        case _:
            raise bad("text.format", "format must be text, json_object or json_schema.")


def sealed(blocks: list[Json]) -> str:
    """Thinking blocks as a text that clients keep for us. The provider's own signature protects them."""
    return SEALED + base64.b64encode(orjson.dumps(blocks)).decode()


def unsealed(text: Any) -> list[Json]:
    """The thinking blocks in an `encrypted_content` of ours; nothing in anybody else's."""
    if not isinstance(text, str) or not text.startswith(SEALED):
        return []
    try:
        blocks = orjson.loads(base64.b64decode(text.removeprefix(SEALED), validate=True))
    except (binascii.Error, orjson.JSONDecodeError) as error:
        raise bad("input", "A reasoning item's encrypted_content is damaged.") from error
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        raise bad("input", "A reasoning item's encrypted_content is damaged.")
    return blocks


# ------------------------------------------------------------------ answers


def reply(body: bytes, asked: Json) -> bytes:
    """A chat completion as a response."""
    document = orjson.loads(body)
    choice = document["choices"][0]
    base = _response_id(document.get("id"))
    output = list(_items(choice.get("message") or {}, choice.get("logprobs"), base=base, asked=asked))
    made = _response(asked, base=base, model=document.get("model"), created=document.get("created") or 0)
    return orjson.dumps(_ended(made, choice.get("finish_reason"), output, document.get("usage")))


def _response_id(given: object) -> str:
    return f"resp_{given}"


def _response(asked: Json, *, base: str, model: Any, created: int) -> Json:
    """Every field that OpenAI's clients insist on, as the request had it."""
    return {
        "id": base,
        "object": "response",
        "created_at": created,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": asked.get("instructions"),
        "max_output_tokens": asked.get("max_output_tokens"),
        "model": model,
        "output": [],
        "parallel_tool_calls": asked.get("parallel_tool_calls") is not False,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None, **(asked.get("reasoning") or {})},
        "service_tier": asked.get("service_tier") or "default",
        "store": False,
        "temperature": asked.get("temperature"),
        "text": {"format": {"type": "text"}, **(asked.get("text") or {})},
        "tool_choice": asked.get("tool_choice") or "auto",
        "tools": asked.get("tools") or [],
        "top_p": asked.get("top_p"),
        "truncation": "disabled",
        "usage": None,
        "user": asked.get("user"),
        "metadata": asked.get("metadata") or {},
    }


def _ended(response: Json, reason: object, output: list[Json], usage: Any) -> Json:
    why = INCOMPLETE.get(str(reason))
    return {
        **response,
        "status": "incomplete" if why else "completed",
        "incomplete_details": {"reason": why} if why else None,
        "output": output,
        "usage": _usage(usage),
    }


def _usage(usage: Any) -> Json:
    counts: Json = usage if isinstance(usage, dict) else {}
    details_in = counts.get("prompt_tokens_details") or {}
    details_out = counts.get("completion_tokens_details") or {}
    made: Json = {
        "input_tokens": counts.get("prompt_tokens") or 0,
        "input_tokens_details": {
            "cached_tokens": details_in.get("cached_tokens") or 0,
            "cache_write_tokens": details_in.get("cache_write_tokens") or 0,
        },
        "output_tokens": counts.get("completion_tokens") or 0,
        "output_tokens_details": {"reasoning_tokens": details_out.get("reasoning_tokens") or 0},
        "total_tokens": counts.get("total_tokens") or 0,
    }
    if "tollhouse" in counts:
        made["tollhouse"] = counts["tollhouse"]
    return made


def _items(message: Json, logprobs: Any, *, base: str, asked: Json) -> Iterable[Json]:
    blocks, thoughts = message.get("thinking_blocks"), message.get("reasoning_content")
    if thoughts or blocks:
        item = _reasoning(f"rs_{base}")
        if thoughts:
            item["summary"] = [{"type": "summary_text", "text": thoughts}]
        if blocks and _keeps_thoughts(asked):
            item["encrypted_content"] = sealed(blocks)
        yield item
    parts = []
    if text := message.get("content"):
        tokens = (logprobs or {}).get("content") or []
        parts.append({"type": "output_text", "text": text, "annotations": [], "logprobs": tokens})
    if refusal := message.get("refusal"):
        parts.append({"type": "refusal", "refusal": refusal})
    if parts:
        yield {**_message(f"msg_{base}"), "status": "completed", "content": parts}
    for number, call in enumerate(message.get("tool_calls") or ()):
        function = call.get("function") or {}
        yield {
            **_function_call(f"fc_{base}_{number}", call.get("id"), function.get("name")),
            "arguments": function.get("arguments") or "",
            "status": "completed",
        }


def _keeps_thoughts(asked: Json) -> bool:
    return "reasoning.encrypted_content" in (asked.get("include") or ())


def _reasoning(item_id: str) -> Json:
    return {"id": item_id, "type": "reasoning", "summary": []}


def _message(item_id: str) -> Json:
    return {"id": item_id, "type": "message", "role": "assistant", "status": "in_progress", "content": []}


def _function_call(item_id: str, call_id: Any, name: Any) -> Json:
    return {
        "id": item_id,
        "type": "function_call",
        "call_id": call_id,
        "name": name,
        "arguments": "",
        "status": "in_progress",
    }


def error(error: ApiError, *, request_id: str) -> Json:
    return error.body(request_id)


# ------------------------------------------------------------------ streams


def voice(asked: Json, *, request_id: str) -> "ResponsesVoice":
    """https://platform.openai.com/docs/api-reference/responses-streaming"""
    return ResponsesVoice(asked, request_id)


class ResponsesVoice:
    """Numbered events; one output item is open at a time, and its content is told again when it is done."""

    content_type = EVENTS
    __slots__ = (
        "_asked", "_base", "_blocks", "_item", "_out", "_output", "_reason", "_request_id", "_response",
        "_sequence", "_text", "_tool",
    )  # fmt: skip

    def __init__(self, asked: Json, request_id: str) -> None:
        self._asked = asked
        self._request_id = request_id
        self._base = _response_id(request_id)
        self._response: Json | None = None
        self._out: list[bytes] = []
        self._output: list[Json] = []  # items that are done
        self._item: Json | None = None  # the open one
        self._text: list[str] = []  # of the open item
        self._tool = -1
        self._blocks: list[Json] = []
        self._reason: str | None = None
        self._sequence = 0

    def opening(self) -> bytes:
        return b""

    def keep_alive(self) -> bytes:
        return b": keep-alive\n\n"

    def chunk(self, chunk: Json) -> bytes:
        self._begun(chunk)
        for choice in chunk.get("choices") or ():
            self._delta(choice.get("delta") or {})
            self._reason = choice.get("finish_reason") or self._reason
        return self._take()

    def broken(self, error_: ApiError) -> bytes:
        self._event("error", {"code": error_.code, "message": error_.message, "param": error_.param})
        return self._take()

    def end(self, usage: Json) -> bytes:
        response = self._begun({})
        self._close()
        ended = _ended(response, self._reason, self._output, usage)
        self._event(f"response.{ended['status']}", {"response": ended})
        return self._take()

    # -- items

    def _begun(self, chunk: Json) -> Json:
        if self._response is None:
            self._response = _response(
                self._asked,
                base=self._base,
                model=chunk.get("model") or self._asked.get("model"),
                created=chunk.get("created") or 0,
            )
            self._event("response.created", {"response": self._response})
            self._event("response.in_progress", {"response": self._response})
        return self._response

    def _delta(self, delta: Json) -> None:
        if text := delta.get("reasoning_content"):
            self._open(_reasoning(f"rs_{self._base}_{len(self._output)}"))
            self._piece("response.reasoning_summary_text.delta", text, summary_index=0)
        if blocks := delta.get("thinking_blocks"):
            self._open(_reasoning(f"rs_{self._base}_{len(self._output)}"))
            self._blocks += blocks
        if text := delta.get("content"):
            self._open(_message(f"msg_{self._base}_{len(self._output)}"), part="output_text")
            self._piece("response.output_text.delta", text, content_index=0, logprobs=[])
        if text := delta.get("refusal"):
            self._open(_message(f"msg_{self._base}_{len(self._output)}"), part="refusal")
            self._piece("response.refusal.delta", text, content_index=0)
        for call in delta.get("tool_calls") or ():
            self._call(call)

    def _call(self, call: Json) -> None:
        function, position = call.get("function") or {}, call.get("index", 0)
        if position != self._tool:
            self._close()
            self._tool = position
        item_id = f"fc_{self._base}_{len(self._output)}"
        self._open(_function_call(item_id, call.get("id"), function.get("name")))
        if text := function.get("arguments"):
            self._piece("response.function_call_arguments.delta", text)

    def _open(self, item: Json, *, part: str = "") -> None:
        """Make this the open item, unless one of its kind (and of its kind of part) is open."""
        if self._item is not None:
            if self._item["type"] == item["type"] and self._item.get("part", "") == part:
                return
            self._close()
        self._event("response.output_item.added", {"output_index": len(self._output), "item": item})
        self._item = {**item, "part": part}
        if item["type"] == "reasoning":
            self._of_item("response.reasoning_summary_part.added", summary_index=0, part=_summary(""))
        elif part:
            self._of_item("response.content_part.added", content_index=0, part=_content(part, ""))

    def _piece(self, event: str, text: str, **more: Any) -> None:
        self._text.append(text)
        self._of_item(event, delta=text, **more)

    def _close(self) -> None:
        item = self._item
        if item is None:
            return
        text, part = "".join(self._text), item.pop("part")
        done = {**item, "status": "completed"}
        match item["type"]:
            case "reasoning":
                self._of_item("response.reasoning_summary_text.done", summary_index=0, text=text)
                self._of_item("response.reasoning_summary_part.done", summary_index=0, part=_summary(text))
                done = {**item, "summary": [_summary(text)]}
                if self._blocks and _keeps_thoughts(self._asked):
                    done["encrypted_content"] = sealed(self._blocks)
                self._blocks = []
            case "message":
                told = {"text": text, "logprobs": []} if part == "output_text" else {"refusal": text}
                self._of_item(f"response.{part}.done", content_index=0, **told)
                self._of_item("response.content_part.done", content_index=0, part=_content(part, text))
                done["content"] = [_content(part, text)]
            case _:
                self._of_item("response.function_call_arguments.done", name=item["name"], arguments=text)
                done["arguments"] = text
        self._event("response.output_item.done", {"output_index": len(self._output), "item": done})
        self._output.append(done)
        self._item = None
        self._text.clear()

    # -- events

    def _of_item(self, event: str, **data: Any) -> None:
        item_id = self._item["id"] if self._item else ""
        self._event(event, {"item_id": item_id, "output_index": len(self._output), **data})

    def _event(self, name: str, data: Json) -> None:
        document = {"type": name, "sequence_number": self._sequence, **data}
        self._sequence += 1
        self._out.append(b"event: %s\ndata: %s\n\n" % (name.encode(), orjson.dumps(document)))

    def _take(self) -> bytes:
        taken = b"".join(self._out)
        self._out.clear()
        return taken


def _summary(text: str) -> Json:
    return {"type": "summary_text", "text": text}


def _content(part: str, text: str) -> Json:
    if part == "refusal":
        return {"type": "refusal", "refusal": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
