"""Every text of a request that a provider would see, and what becomes of the personal data in it.

Must never change the body it is given, and never miss a text because its place is not known: what is left alone is
listed here, everything else is read.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final, Protocol

import orjson

from gateway.privacy.detect import Found, Rules
from gateway.privacy.kinds import Action, label
from gateway.privacy.tokens import Vault, bare, digests_in
from routing.types import Json, Operation


class Finder(Protocol):
    """What finds personal data in one text: findings in order, none overlapping another."""

    def find(self, text: str) -> list[Found]: ...


@dataclass(frozen=True, slots=True)
class Redacted:
    """A body without personal data. `tokens`: what each token stands for. `counts`: findings per kind (also of the
    kind that blocks). `blocked`: the kind that may not be sent; the body is then the one that was given.
    `unscanned`: images, audio, files and lists of token ids, which nobody looked into."""

    body: Any
    tokens: Mapping[str, str] = field(repr=False)
    counts: Mapping[str, int]
    blocked: str | None = None
    unscanned: int = 0


def redact_body(operation: Operation, body: Json, detector: Finder, rules: Rules, vault: Vault) -> Redacted:
    """The body with every finding replaced as the rules say; the same object when there is none."""
    reading = _Reading(detector, rules.actions)
    walk = _Walk(reading.visit)
    walk.request(operation, body)
    if not reading.counts or reading.blocked is not None:
        return Redacted(body, {}, reading.counts, reading.blocked, walk.unscanned)
    writing = _Writing(reading, vault, {})
    return Redacted(
        _Walk(writing.visit).request(operation, body), writing.tokens, reading.counts, None, walk.unscanned
    )


def redact_text(
    text: str, detector: Finder, rules: Rules, vault: Vault, tokens: Mapping[str, str] | None = None
) -> Redacted:
    """As `redact_body`, for one text (`Redacted.body` is a str). `tokens`: of the same call, already given out."""
    reading = _Reading(detector, rules.actions)
    reading.visit(text, Place.PLAIN, "")
    if not reading.counts or reading.blocked is not None:
        return Redacted(text, {}, reading.counts, reading.blocked)
    writing = _Writing(reading, vault, tokens or {})
    made = writing.visit(text, Place.PLAIN, "")
    return Redacted(made, writing.tokens, reading.counts)


def texts_of(operation: Operation, body: Json) -> list[str]:
    """The texts of a request that a provider would read, in order."""
    texts: list[str] = []

    def visit(text: str, place: "Place", key: str) -> str:
        texts.append(text)
        return text

    _Walk(visit).request(operation, body)
    return texts


# ------------------------------------------------------------------ where texts are


class Place(Enum):
    """What a text must stay."""

    PLAIN = auto()
    JSON = auto()  # JSON written as a text
    BARE = auto()  # a name, in which providers take no angle brackets


type _Visit = Callable[[str, Place, str], str]
"""A text, what it must stay, and the key it stands under ("" where that tells nothing) to what replaces it."""

_SETTINGS: Final = frozenset(
    (
        "model",
        "encoding_format",
        "logit_bias",
        "modalities",
        "reasoning_effort",
        "service_tier",
        "stream_options",
        "tool_choice",
        "function_call",
        "verbosity",
        "prompt_cache_retention",
    )
)
"""Top-level fields that hold words of the API, never of the caller."""
_MARKS: Final = frozenset(
    ("id", "role", "type", "tool_call_id", "call_id", "signature", "cache_control", "detail")
)
"""Fields of messages and parts by which the API tells things apart."""
_SCHEMA_MARKS: Final = frozenset(("type", "name", "$ref", "$id", "$schema", "format", "pattern", "required"))
"""Fields of tools and schemas that the answer must agree with. A key of `properties` is never changed."""
_MEDIA: Final = {
    "image_url": "image_url",
    "input_image": "image_url",
    "input_audio": "input_audio",
    "audio": "audio",
    "video_url": "video_url",
    "file": "file",
    "input_file": "file_data",
}
"""Types of content parts that hold no text, and under which key."""
_DATA_URI: Final = re.compile(r"data:[\w.+-]+/[\w.+-]+[;,]")


class _Walk:
    """One walk through a request. Copies what it changes, and nothing else."""

    __slots__ = ("_visit", "unscanned")

    def __init__(self, visit: _Visit) -> None:
        self._visit = visit
        self.unscanned = 0

    def request(self, operation: Operation, body: Json) -> Json:
        return self._mapped(body, lambda key, value: self._field(operation, key, value))

    def _field(self, operation: Operation, key: str, value: Any) -> Any:
        if key in _SETTINGS:
            return value
        match key:
            case "messages" if operation is Operation.CHAT and isinstance(value, list):
                return self._listed(value, self._message)
            case "prompt" | "input" if operation is not Operation.CHAT:
                return self._prompt(value)
            case "tools" | "functions" | "response_format":
                return self._schema(value)
            case "user" | "safety_identifier" | "prompt_cache_key":
                return self._text(value)
            case "prediction":
                return self._part(value)
        return self._free(value, key)

    def _prompt(self, value: Any) -> Any:
        if isinstance(value, list):
            if value and all(isinstance(each, int) for each in value):
                self.unscanned += 1
                return value
            return self._listed(value, self._prompt)
        return self._text(value)

    def _message(self, message: Any) -> Any:
        if not isinstance(message, dict):
            return self._free(message, "")
        return self._mapped(message, self._message_field)

    def _message_field(self, key: str, value: Any) -> Any:
        if key in _MARKS:
            return value
        match key:
            case "name":
                return self._visit(value, Place.BARE, "") if isinstance(value, str) else value
            case "tool_calls" if isinstance(value, list):
                return self._listed(value, self._tool_call)
            case "function_call":
                return self._function(value)
            case "audio":  # an earlier answer's, by its id
                self.unscanned += value is not None
                return value
        return self._part(value)

    def _tool_call(self, call: Any) -> Any:
        if not isinstance(call, dict):
            return self._free(call, "")
        return self._mapped(
            call,
            lambda key, value: (
                value
                if key in _MARKS
                else self._function(value)
                if key in {"function", "custom"}
                else self._free(value, key)
            ),
        )

    def _function(self, function: Any) -> Any:
        if not isinstance(function, dict):
            return self._free(function, "")
        return self._mapped(
            function,
            lambda key, value: (
                value
                if key == "name"
                else self._arguments(value)
                if key == "arguments"
                else self._free(value, key)
            ),
        )

    def _arguments(self, value: Any) -> Any:
        return self._visit(value, Place.JSON, "") if isinstance(value, str) else self._free(value, "")

    def _part(self, value: Any) -> Any:
        """A content: a text, a part, a list of parts."""
        if isinstance(value, list):
            return self._listed(value, self._part)
        if not isinstance(value, dict):
            return self._free(value, "")
        data = _MEDIA.get(str(value.get("type")))
        if data is not None:
            self.unscanned += 1
        return self._mapped(
            value,
            lambda key, inner: (
                inner if key in _MARKS else self._media(inner) if key == data else self._part(inner)
            ),
        )

    def _media(self, value: Any) -> Any:
        """Of a file, its name is a text."""
        if not isinstance(value, dict):
            return value
        return self._mapped(value, lambda key, inner: self._text(inner) if key == "filename" else inner)

    def _schema(self, value: Any) -> Any:
        if isinstance(value, list):
            return self._listed(value, self._schema)
        if isinstance(value, dict):
            return self._mapped(
                value,
                lambda key, inner: (
                    inner if key in _SCHEMA_MARKS and not isinstance(inner, dict) else self._schema(inner)
                ),
            )
        return self._text(value)

    def _free(self, value: Any, key: str) -> Any:
        """What is not known: every string in it, keys too."""
        if isinstance(value, str):
            return self._text(value, key)
        if isinstance(value, list):
            return self._listed(value, lambda each: self._free(each, key))
        if isinstance(value, dict):
            made = self._mapped(value, lambda name, inner: self._free(inner, name))
            keys = {
                name: name if name.isidentifier() else self._visit(name, Place.PLAIN, "") for name in made
            }
            if any(name != new for name, new in keys.items()):
                return {keys[name]: inner for name, inner in made.items()}
            return made
        return value

    def _text(self, value: Any, key: str = "") -> Any:
        if not isinstance(value, str):
            return value if not isinstance(value, list | dict) else self._free(value, key)
        if value.startswith("data:") and _DATA_URI.match(value):
            self.unscanned += 1
            return value
        return self._visit(value, Place.PLAIN, key)

    @staticmethod
    def _mapped(value: Json, change: Callable[[str, Any], Any]) -> Json:
        changed: Json = {}
        for key, inner in value.items():
            made = change(key, inner)
            if made is not inner:
                changed[key] = made
        return {**value, **changed} if changed else value

    @staticmethod
    def _listed(value: list[Any], change: Callable[[Any], Any]) -> list[Any]:
        made = [change(each) for each in value]
        return made if any(new is not old for new, old in zip(made, value, strict=True)) else value


# ------------------------------------------------------------------ reading, writing


class _Reading:
    """Looks at every text, and remembers what is in it."""

    __slots__ = ("_actions", "_detector", "blocked", "counts", "found", "texts")

    def __init__(self, detector: Finder, actions: Mapping[str, Action]) -> None:
        self._detector = detector
        self._actions = actions
        self.texts: list[str] = []
        self.found: dict[tuple[str, str], list[tuple[Found, Action]]] = {}
        self.counts: Counter[str] = Counter()
        self.blocked: str | None = None

    def visit(self, text: str, place: Place, key: str) -> str:
        found = self.found_in(text, key)
        self.texts.append(text)
        for each, action in found:
            self.counts[each.kind] += 1
            if action is Action.BLOCK and self.blocked is None:
                self.blocked = each.kind
        return text

    def found_in(self, text: str, key: str) -> list[tuple[Found, Action]]:
        """What is in the text and not allowed. The key counts as words that stand before the text."""
        known = self.found.get((text, key))
        if known is None:
            before = f"{key}: " if key else ""
            known = self.found[text, key] = [
                (Found(each.start - len(before), each.end - len(before), each.kind, each.text), action)
                for each in self._detector.find(before + text)
                if each.start >= len(before)
                and (action := self._actions.get(each.kind, Action.ALLOW)) is not Action.ALLOW
            ]
        return known


class _Writing:
    """Replaces what was found. The first spelling of a value has its token; other spellings have further ones, so
    that each is restored as it was."""

    __slots__ = ("_given", "_reading", "_taken", "_vault", "tokens")

    def __init__(self, reading: _Reading, vault: Vault, given: Mapping[str, str]) -> None:
        self._reading = reading
        self._vault = vault
        self._given = given
        self._taken = digests_in(reading.texts)
        self.tokens: dict[str, str] = {}

    def visit(self, text: str, place: Place, key: str) -> str:
        found = self._reading.found_in(text, key)
        if not found:
            return text
        if place is Place.JSON:
            return self._json(text, found)
        return _spliced(
            text,
            [
                (
                    each.start,
                    each.end,
                    self._replacement(each.kind, each.text, action, is_bare=place is Place.BARE),
                )
                for each, action in found
            ],
        )

    def _replacement(self, kind: str, original: str, action: Action, *, is_bare: bool = False) -> str:
        if action is Action.REDACT:
            return f"[{label(kind)}]"
        attempt = 0
        while True:
            token = self._vault.token(kind, original, attempt)
            known = self.tokens.get(token, self._given.get(token, original))
            # What the caller has written itself must not come back as something else.
            if known == original and bare(token).rpartition("_")[2] not in self._taken:
                break
            attempt += 1
        self.tokens[token] = original
        return bare(token) if is_bare else token

    def _json(self, text: str, found: Sequence[tuple[Found, Action]]) -> str:
        """Replaces within strings, and numbers as a whole, so that JSON stays JSON, else as it was written."""
        if not _is_json(text):
            return _spliced(
                text,
                [(each.start, each.end, self._replacement(each.kind, each.text, how)) for each, how in found],
            )
        pieces: list[tuple[int, int, str]] = []
        scalars = [(each.start(), each.end()) for each in _SCALAR.finditer(text)]
        at = 0
        for each, action in found:
            while at < len(scalars) and scalars[at][1] <= each.start:
                at += 1
            while at < len(scalars) and scalars[at][0] < each.end:
                pieces.append(self._scalar(text, scalars[at], each, action))
                if scalars[at][1] > each.end:
                    break
                at += 1
        return _spliced(text, _merged(pieces))

    def _scalar(
        self, text: str, scalar: tuple[int, int], each: Found, action: Action
    ) -> tuple[int, int, str]:
        """What replaces the part of the string or number that the finding covers."""
        first, last = scalar
        if text[first] != '"':
            return first, last, f'"{self._replacement(each.kind, text[first:last], action)}"'
        start, end = max(first + 1, each.start), min(last - 1, each.end)
        try:
            original = orjson.loads(f'"{text[start:end]}"')
        except orjson.JSONDecodeError:  # it begins or ends within an escape: then all of the string
            start, end = first + 1, last - 1
            original = orjson.loads(text[first:last])
        return start, end, self._replacement(each.kind, original, action)


_SCALAR: Final = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*', re.DOTALL)


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def _merged(pieces: Iterable[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """Without pieces that lie in one before them, which covers them."""
    made: list[tuple[int, int, str]] = []
    for piece in pieces:
        if made and piece[0] < made[-1][1]:
            if piece[0] > made[-1][0]:
                continue
            made.pop()
        made.append(piece)
    return made


def _spliced(text: str, pieces: Iterable[tuple[int, int, str]]) -> str:
    made: list[str] = []
    at = 0
    for start, end, new in pieces:
        made += (text[at:start], new)
        at = end
    made.append(text[at:])
    return "".join(made)
