"""A provider that repeats what it was told and remembers every byte of it: a real local HTTP server.

It speaks OpenAI's chat completions (whole, streamed in small pieces, tool calls), completions and embeddings.
The model's name picks what goes wrong: `fail…` answers 500, `late…` waits, `cut…` breaks its stream off,
`refuse…` quotes the request in an error.
"""

import asyncio
import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.http_server import CHUNKED_HEAD, LAST_CHUNK, Peer, Request, chunk, reply, serve

LATE_S = 1.0
CUT_AFTER_S = 0.2
JSON = ("Content-Type", "application/json")


@dataclass
class EchoProvider:
    """`received` are the bodies it was sent; `answer` is said in place of the echo while it is set."""

    url: str
    received: list[bytes] = field(default_factory=list)
    piece: int = 5  # characters of each streamed chunk
    answer: str | None = None

    def heard(self, text: str) -> bool:
        """Whether any request held this, in any spelling of JSON."""
        forms = (text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1])
        return any(form.encode() in body for form in forms for body in self.received)


@contextlib.contextmanager
def echo() -> Iterator[EchoProvider]:
    """Start one; `url` is its base URL for an openai_compatible provider."""
    provider: EchoProvider | None = None

    async def handle(peer: Peer, request: Request) -> None:
        assert provider is not None
        provider.received.append(request.body)
        await _answer(provider, peer, request)

    with serve(handle) as server:
        provider = EchoProvider(f"{server.url}/v1")
        yield provider


async def _answer(provider: EchoProvider, peer: Peer, request: Request) -> None:
    body = json.loads(request.body)
    model = body["model"]
    if model.startswith("fail"):
        await peer.send(reply(b'{"error": {"message": "down"}}', status="500 Oops", headers=(JSON,)))
    elif model.startswith("refuse"):
        error = {"message": f"I cannot read {said(body)}", "type": "invalid_request_error"}
        await peer.send(
            reply(json.dumps({"error": error}).encode(), status="400 Bad Request", headers=(JSON,))
        )
    else:
        if model.startswith("late"):
            await asyncio.sleep(LATE_S)
        await _echo(provider, peer, request.target, body)


async def _echo(provider: EchoProvider, peer: Peer, target: str, body: dict[str, Any]) -> None:
    if target.endswith("/embeddings"):
        data = [{"object": "embedding", "index": 0, "embedding": [0.5]}]
        usage = {"prompt_tokens": 3, "total_tokens": 3}
        document = {"object": "list", "data": data, "model": body["model"], "usage": usage}
        await peer.send(reply(json.dumps(document).encode(), headers=(JSON,)))
        return
    text = said(body) if provider.answer is None else provider.answer
    if not body.get("stream"):
        await peer.send(reply(json.dumps(_whole(body, text)).encode(), headers=(JSON,)))
        return
    await peer.send(CHUNKED_HEAD)
    deltas = _deltas(body, text, provider.piece)
    if body["model"].startswith("cut"):
        for delta in deltas[: len(deltas) // 2]:
            await peer.send(chunk(_event(body, delta)))
        await asyncio.sleep(CUT_AFTER_S)  # what was said is on its way
        peer.close()
        return
    for delta in deltas:
        await peer.send(chunk(_event(body, delta)))
    finish = "tool_calls" if body.get("tools") else "stop"
    usage = {"prompt_tokens": len(json.dumps(body)), "completion_tokens": 7, "total_tokens": 0}
    await peer.send(
        chunk(_event(body, {}, finish)),
        chunk(_event(body, None, usage=usage)),
        chunk(b"data: [DONE]\n\n"),
        LAST_CHUNK,
    )


def said(body: dict[str, Any]) -> str:
    """All texts of the request's messages, or its prompt."""
    if "prompt" in body:
        return str(body["prompt"])
    texts = []
    for message in body["messages"]:
        content = message.get("content")
        if isinstance(content, list):
            texts += [part["text"] for part in content if part["type"] == "text"]
        elif content:
            texts.append(content)
    return " | ".join(texts)


def _whole(body: dict[str, Any], text: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if body.get("tools"):
        call = {"name": "send", "arguments": json.dumps({"to": text})}
        message |= {"content": None, "tool_calls": [{"id": "call_1", "type": "function", "function": call}]}
    if "prompt" in body:
        choice: dict[str, Any] = {"index": 0, "text": text, "finish_reason": "stop"}
    else:
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {
        "id": "chatcmpl-1",
        "object": "text_completion" if "prompt" in body else "chat.completion",
        "created": 1_780_000_000,
        "model": body["model"],
        "choices": [choice],
        "usage": {"prompt_tokens": len(json.dumps(body)), "completion_tokens": 7, "total_tokens": 0},
    }


def _deltas(body: dict[str, Any], text: str, size: int) -> list[dict[str, Any]]:
    if not body.get("tools"):
        return [{"role": "assistant", "content": ""}] + [
            {"content": text[at : at + size]} for at in range(0, len(text), size)
        ]
    arguments = json.dumps({"to": text})
    opening = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "send", "arguments": ""}}
    return [{"role": "assistant", "tool_calls": [opening]}] + [
        {"tool_calls": [{"index": 0, "function": {"arguments": arguments[at : at + size]}}]}
        for at in range(0, len(arguments), size)
    ]


def _event(
    body: dict[str, Any], delta: dict[str, Any] | None, finish: str | None = None, **more: Any
) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    document = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_780_000_000,
        "model": body["model"],
        "choices": [] if delta is None else [choice],
        **more,
    }
    return b"data: " + json.dumps(document).encode() + b"\n\n"
