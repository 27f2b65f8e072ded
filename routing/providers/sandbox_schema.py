"""Builds a small value that satisfies a JSON schema, for the sandbox's structured answers and tool calls.

Covers what OpenAI's strict mode allows, and the common rest. It raises Unsatisfiable rather than answer
with a value that breaks the schema (for example a `pattern` it cannot invert), and its work is bounded.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from routing.types import Json

MAX_DEPTH = 32
MAX_NODES = 10_000
MAX_ITEMS = 1_000
MAX_CHARS = 100_000

_FORMATS: Mapping[str, str] = {
    "date-time": "2025-01-01T00:00:00Z",
    "date": "2025-01-01",
    "time": "00:00:00Z",
    "duration": "PT1H",
    "email": "user@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "uri": "https://example.com/",
}
_PATTERN_GUESSES = (
    "sandbox",
    "a",
    "A",
    "1",
    "0",
    "2025-01-01",
    "a1",
    "A1",
    "AAA",
    "000",
    "+10000000000",
    "a@b.co",
)


class Unsatisfiable(ValueError):
    """No value for this schema could be built."""


class _TooLarge(Exception):
    pass


def instance_of(schema: object) -> Any:
    """A small valid instance. Raises Unsatisfiable, also for what is not a schema."""
    try:
        return _Builder(schema if isinstance(schema, dict) else {}).build(schema, MAX_DEPTH)
    except _TooLarge:
        raise Unsatisfiable("the schema is too large") from None
    except (AttributeError, KeyError, TypeError, re.error, OverflowError) as error:
        # A keyword of the wrong type, anywhere: the caller's schema is not one.
        raise Unsatisfiable(f"not a JSON schema ({error})") from None


class _Builder:
    __slots__ = ("_nodes_left", "_root")

    def __init__(self, root: Json) -> None:
        self._root = root
        self._nodes_left = MAX_NODES

    def build(self, schema: object, depth: int) -> Any:
        self._nodes_left -= 1
        if self._nodes_left < 0:
            raise _TooLarge
        if depth == 0:
            raise Unsatisfiable("the schema is nested too deeply")
        if schema is True:
            return {}
        if not isinstance(schema, dict):
            raise Unsatisfiable("the schema allows nothing")
        if "$ref" in schema:
            rest = {name: value for name, value in schema.items() if name != "$ref"}
            return self.build({**self._resolve(schema["$ref"]), **rest}, depth - 1)
        if "const" in schema or "enum" in schema:
            return _first_allowed(schema)
        if "allOf" in schema:
            return self.build(self._merged(schema), depth - 1)
        for choice in ("anyOf", "oneOf"):
            if choice in schema:
                return self._first_possible(schema, choice, depth)
        return self._typed(schema, depth)

    def _resolve(self, ref: str) -> Json:
        node: Any = self._root
        if not ref.startswith("#"):
            raise Unsatisfiable(f"{ref} points outside the schema")
        for key in filter(None, ref[1:].split("/")):
            node = node.get(key.replace("~1", "/").replace("~0", "~")) if isinstance(node, dict) else None
        if not isinstance(node, dict):
            raise Unsatisfiable(f"{ref} does not exist")
        return node

    def _merged(self, schema: Json) -> Json:
        merged = {name: value for name, value in schema.items() if name != "allOf"}
        for part in schema["allOf"]:
            resolved = {**self._resolve(part["$ref"]), **part} if "$ref" in part else part
            for name, value in resolved.items():
                if name == "$ref":
                    continue
                if name == "properties":
                    merged["properties"] = {**merged.get("properties", {}), **value}
                elif name == "required":
                    merged["required"] = [*merged.get("required", []), *value]
                else:
                    merged.setdefault(name, value)
        return merged

    def _first_possible(self, schema: Json, choice: str, depth: int) -> Any:
        rest = {name: value for name, value in schema.items() if name != choice}
        # Null first: it is the smallest, and ends recursive types.
        for branch in sorted(schema[choice], key=lambda branch: branch.get("type") != "null"):
            try:
                return self.build({**rest, **branch}, depth - 1)
            except Unsatisfiable:
                continue
        raise Unsatisfiable(f"no branch of {choice} can be built")

    def _typed(self, schema: Json, depth: int) -> Any:
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = "null" if "null" in kind else next(iter(kind), None)
        match kind if kind is not None else _implied_type(schema):
            case "null":
                return None
            case "boolean":
                return False
            case "integer":
                return _number(schema, whole=True)
            case "number":
                return _number(schema, whole=False)
            case "string":
                return _string(schema)
            case "array":
                return self._array(schema, depth)
            case "object":
                properties = schema.get("properties", {})
                return {
                    name: self.build(properties.get(name, True), depth - 1)
                    for name in schema.get("required", ())
                }
            case other:
                return _unknown_type(other)

    def _array(self, schema: Json, depth: int) -> list[Any]:
        wanted = schema.get("minItems", 0)
        if wanted > MAX_ITEMS:
            raise _TooLarge
        prefix = schema.get("prefixItems", ())
        items: list[Any] = []
        for position in range(wanted):
            item = prefix[position] if position < len(prefix) else schema.get("items", True)
            items.append(self.build(item, depth - 1))
        if schema.get("uniqueItems") and any(item in items[:position] for position, item in enumerate(items)):
            raise Unsatisfiable("cannot invent several different items")
        return items


_TYPES: Mapping[str, tuple[type, ...]] = {
    "null": (type(None),),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "string": (str,),
    "array": (list,),
    "object": (dict,),
}


def _first_allowed(schema: Json) -> Any:
    """The first value listed that the other keywords do not forbid."""
    for value in [schema["const"]] if "const" in schema else schema["enum"]:
        kinds = schema.get("type", list(_TYPES))
        of_type = any(
            isinstance(value, _TYPES[kind]) and (kind == "boolean") >= isinstance(value, bool)
            for kind in ([kinds] if isinstance(kinds, str) else kinds)
        )
        if of_type and (isinstance(value, bool) or _is_within(value, schema)):
            return value
    raise Unsatisfiable("no listed value is allowed")


def _is_within(value: object, schema: Json) -> bool:
    if isinstance(value, int | float):
        step = schema.get("multipleOf")
        return _fits(value, schema) and (step is None or value % step == 0)
    if isinstance(value, str):
        matches = "pattern" not in schema or re.search(schema["pattern"], value) is not None
        return matches and schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", math.inf)
    return not isinstance(value, list) or len(value) >= schema.get("minItems", 0)


def _fits(value: float, schema: Json) -> bool:
    low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    above, below = schema.get("exclusiveMinimum", -math.inf), schema.get("exclusiveMaximum", math.inf)
    return bool(low <= value <= high and above < value < below)


def _unknown_type(kind: object) -> NoReturn:
    raise Unsatisfiable(f"unknown type {kind!r}")


def _implied_type(schema: Json) -> str:
    if "items" in schema or "prefixItems" in schema or "minItems" in schema:
        return "array"
    if "minLength" in schema or "pattern" in schema or "format" in schema:
        return "string"
    if schema.keys() & {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}:
        return "number"
    return "object"


def _number(schema: Json, *, whole: bool) -> int | float:
    step = schema.get("multipleOf", 1 if whole else None)
    low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    above, below = schema.get("exclusiveMinimum", -math.inf), schema.get("exclusiveMaximum", math.inf)

    floor, ceiling = max(low, above), min(high, below)
    candidates: list[int | float] = [0]
    if step:
        for edge in (floor, ceiling):
            if math.isfinite(edge):
                nearest = math.floor(edge / step)
                candidates += [nearest * step, (nearest + 1) * step, (nearest - 1) * step]
    else:
        candidates += [edge for edge in (low, high) if math.isfinite(edge)]
        if math.isfinite(floor) and math.isfinite(ceiling):
            candidates.append((floor + ceiling) / 2)
        candidates += [floor + 1, ceiling - 1]
    for value in candidates:
        if math.isfinite(value) and _fits(value, schema) and (not whole or value == int(value)):
            return int(value) if whole or value == int(value) else value
    raise Unsatisfiable("no number fits")


def _string(schema: Json) -> str:
    shortest, longest = schema.get("minLength", 0), schema.get("maxLength", math.inf)
    pattern = schema.get("pattern")
    if pattern is not None:
        for guess in _PATTERN_GUESSES:
            if shortest <= len(guess) <= longest and re.search(pattern, guess):
                return guess
        raise Unsatisfiable("cannot invent text for a pattern")
    if text := _FORMATS.get(schema.get("format", "")):
        return text
    if shortest > MAX_CHARS:
        raise _TooLarge
    if shortest > longest:
        raise Unsatisfiable("no text is both so long and so short")
    text = "sandbox" if longest >= 7 else "s" * int(longest)
    return text if len(text) >= shortest else text + "x" * (shortest - len(text))
