"""Usage that no provider told: counted from what was sent and delivered, and marked `estimated`. Never zero for free.

Input: the provider's own count if it came before the cut, else by size at this endpoint's usual density.
Output: one token per event, as providers send them; where they put several into one, four bytes make a token.
"""

import orjson

from gateway.pipeline.call import Attempt, Call
from gateway.state.telemetry import Telemetry
from routing.providers.media import physical_units
from routing.types import OUTPUT_COMPONENTS, PRICED_BY, ProviderKind, Reply, StreamState, Usage

BYTES_PER_TOKEN = 4
DENSE = frozenset((ProviderKind.ANTHROPIC, ProviderKind.GEMINI))
"""Dialects whose events carry several tokens each."""


def of_stream(call: Call, attempt: Attempt, state: StreamState, telemetry: Telemetry) -> Usage:
    """What a stream used that ended without its count."""
    told = state.usage.units if state.usage is not None else {}
    inputs = {name: count for name, count in told.items() if name not in OUTPUT_COMPONENTS}
    output = state.content_events
    if attempt.target.kind in DENSE:
        output = max(output, _tokens_in(state.content_bytes))
    return _usage(inputs or _inputs(call, attempt, telemetry), output)


def of_request(call: Call, attempt: Attempt, telemetry: Telemetry) -> Usage:
    """What an attempt used that was called off before it showed anything: it has read the request."""
    return _usage(_inputs(call, attempt, telemetry), 0)


def of_reply(call: Call, attempt: Attempt, reply: Reply, telemetry: Telemetry) -> Usage:
    """What a whole answer used whose provider sent no count, or one that contradicts itself."""
    size = 0
    for choice in orjson.loads(reply.body).get("choices", ()):
        message = choice.get("message") or {}
        calls = message.get("tool_calls") or ()
        texts = [
            choice.get("text"),
            message.get("content"),
            *(each["function"]["arguments"] for each in calls),
        ]
        size += sum(len(text.encode()) for text in texts if isinstance(text, str))
    return _usage(_inputs(call, attempt, telemetry), _tokens_in(size))


def _inputs(call: Call, attempt: Attempt, telemetry: Telemetry) -> dict[str, int]:
    if call.operation in PRICED_BY:
        return physical_units(call.operation, call.body)
    return {"input": telemetry.input_tokens_in(call.input_bytes, attempt.target.endpoint_id)}


def _tokens_in(size_bytes: int) -> int:
    return -(-size_bytes // BYTES_PER_TOKEN)


def _usage(inputs: dict[str, int], output: int) -> Usage:
    return Usage({**inputs, "output": output} if output else inputs, "estimated")
