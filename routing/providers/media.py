"""What the operations that make no tokens use: physical units, known from the request before it is sent.

Whoever holds a budget and whoever meters ask the same function, so that no call can cost more than was held.
"""

from routing.types import Json, Operation, UnsupportedParameter

DOCUMENTS_PER_SEARCH = 100
"""One search ranks up to a hundred documents. https://cohere.com/pricing"""


def physical_units(operation: Operation, body: Json) -> dict[str, int]:
    """The units of one call of `PRICED_BY`, by price component; empty for operations metered in tokens.

    `body` is checked: `edge.openai.check` has seen it.
    """
    match operation:
        case Operation.MODERATIONS:
            return {"requests": 1}
        case Operation.RERANK:
            return {"searches": -(-len(body["documents"]) // DOCUMENTS_PER_SEARCH)}
        case _:
            return {}


def refused(operation: Operation, provider: str) -> UnsupportedParameter:
    """The error of a dialect that has no such operation: another target may have it."""
    return UnsupportedParameter("model", f"{provider} has no operation '{operation}'.")
