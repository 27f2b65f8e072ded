"""Runs one golden file's input through its adapter and shows the outcome in the file's own terms.

A golden file is named after what it holds (request_, reply_, stream_, error_) and lies in its kind's folder.
"""

from pathlib import Path
from typing import Any

import orjson

from routing.providers.adapters import adapter_for
from routing.types import Operation, ProviderError, ProviderKind
from tests.routing.providers.factories import a_state, a_target

ROOT = Path(__file__).parent / "golden"
INPUTS = {
    "request": ("operation", "stream", "target", "request"),
    "reply": ("operation", "target", "request", "reply", "reply_text"),
    "stream": ("include_usage", "events"),
    "error": ("status", "headers", "body", "body_text"),
}


def golden_files(prefix: str = "") -> list[str]:
    return sorted(str(path.relative_to(ROOT))[:-5] for path in ROOT.glob(f"*/{prefix}*.json"))


def load(name: str) -> dict[str, Any]:
    return orjson.loads((ROOT / f"{name}.json").read_bytes())


def inputs_of(name: str, case: dict[str, Any]) -> dict[str, Any]:
    return {key: case[key] for key in INPUTS[name.partition("_")[0]] if key in case}


def observe(kind: str, name: str, case: dict[str, Any]) -> dict[str, Any]:
    show = {"request": _request, "reply": _reply, "stream": _stream, "error": _error}
    return show[name.partition("_")[0]](ProviderKind(kind), case)


def _request(kind: ProviderKind, case: dict[str, Any]) -> dict[str, Any]:
    wire = adapter_for(kind).build_request(
        Operation(case["operation"]),
        case["request"],
        a_target(kind, **case.get("target", {})),
        stream=case["stream"],
    )
    assert wire.method == "POST"
    return {"wire": {"url": wire.url, "headers": dict(wire.headers), "body": orjson.loads(wire.body)}}


def _reply(kind: ProviderKind, case: dict[str, Any]) -> dict[str, Any]:
    body = case["reply_text"].encode() if "reply_text" in case else orjson.dumps(case["reply"])
    target = a_target(kind, **case.get("target", {}))
    try:
        reply = adapter_for(kind).parse_reply(Operation(case["operation"]), case["request"], body, target)
    except ProviderError as error:
        return {"raises": shown_error(error)}
    return {
        "openai": orjson.loads(reply.body),
        "untouched": reply.body is body,
        "units": dict(reply.usage.units) if reply.usage else None,
        "usage_invalid": reply.usage_invalid,
        "model": reply.model,
        "finish_reason": reply.finish_reason,
    }


def events_of(case: dict[str, Any]) -> list[tuple[str, bytes]]:
    """Events as (name, data): a bare item is data without a name, a string or `raw` is not JSON."""
    events = []
    for item in case["events"]:
        name, data = item if isinstance(item, list) else ("", item)
        raw = data if isinstance(data, str) else data.get("raw")
        events.append((name, raw.encode() if raw is not None else orjson.dumps(data)))
    return events


def _stream(kind: ProviderKind, case: dict[str, Any]) -> dict[str, Any]:
    state = a_state(include_usage=case["include_usage"])
    chunks = [
        [orjson.loads(chunk) for chunk in adapter_for(kind).parse_event(name, data, state)]
        for name, data in events_of(case)
    ]
    return {
        "chunks": chunks,
        "state": {
            "id": state.id,
            "served_model": state.served_model,
            "units": dict(state.usage.units) if state.usage else None,
            "usage_invalid": state.scratch.get("usage_invalid", False),
            "finish_reason": state.finish_reason,
            "done": state.done,
            "error": shown_error(state.error) if state.error else None,
            "content_events": state.content_events,
            "content_bytes": state.content_bytes,
            "malformed": state.malformed,
        },
    }


def _error(kind: ProviderKind, case: dict[str, Any]) -> dict[str, Any]:
    body = case["body_text"].encode() if "body_text" in case else orjson.dumps(case["body"])
    return {"error": shown_error(adapter_for(kind).classify_error(case["status"], case["headers"], body))}


def shown_error(error: ProviderError) -> dict[str, Any]:
    shown = {
        "kind": str(error.kind),
        "message": error.message,
        "status": error.status,
        "code": error.code,
        "param": error.param,
        "retry_after_s": error.retry_after_s,
    }
    return {name: value for name, value in shown.items() if value is not None}
