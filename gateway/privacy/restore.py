"""Puts back what tokens stand for: into what the model says to the caller, and nowhere else.

Only the tokens of this call's own map are ever restored. A token is known again in the forms that models give it:
in either case, with escaped underscores or brackets, without brackets.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

import orjson

from gateway.privacy.tokens import ALPHABET, DIGEST_LENGTH, bare
from routing.types import Json

DONE: Final = b"[DONE]"
MAX_FORM: Final = 128
"""No form of a token has more characters: labels have 29, each underscore may bring two backslashes."""

_TEXTS: Final = ("content", "refusal", "reasoning_content", "reasoning")
_OPENERS: Final = r"<|&lt;|\\u003c"
_CLOSERS: Final = r">|&gt;|\\u003e"
_ESCAPED: Final = r"\\{1,2}"
_UNDERSCORE: Final = r"\\{0,2}_"


class Restorer:
    """Restores the answers of one call. `tokens`: what each token of the call stands for."""

    __slots__ = ("_tokens",)

    def __init__(self, tokens: Mapping[str, str]) -> None:
        self._tokens = _Tokens(tokens) if tokens else None

    def text(self, text: str) -> str:
        """One text, restored."""
        return self._tokens.restored(text) if self._tokens else text

    def whole(self, body: bytes) -> bytes:
        """An answer to chat, completions or a ranking, restored; the same object when there is nothing to restore."""
        if self._tokens is None:
            return body
        answer = _loaded(body)
        changed = False
        said = (place for choice in _choices(answer) for place in _places(choice, "message"))
        for place in chain(said, _documents(answer)):
            restored = self._tokens.restored(place.text, is_json=place.is_json)
            if restored != place.text:
                place.put(restored)
                changed = True
        return orjson.dumps(answer) if changed else body

    def stream(self) -> "StreamRestorer":
        return StreamRestorer(self._tokens)


class StreamRestorer:
    """Restores one stream. Holds back only what may become a token, per choice and field and tool call."""

    __slots__ = ("_held", "_last", "_tokens")

    def __init__(self, tokens: "_Tokens | None") -> None:
        self._tokens = tokens
        self._held: dict[tuple[Any, ...], _Held] = {}
        self._last: Json = {}

    def feed(self, payloads: Sequence[bytes]) -> list[bytes]:
        """The chunks (JSON, without `data:`) to send on now: each in its place, and a further one before the chunk
        that ends a choice (or `[DONE]`) if text of it was still held back. A chunk without text is passed on as
        the object that it is."""
        if self._tokens is None:
            return list(payloads)
        sent: list[bytes] = []
        for payload in payloads:
            if payload == DONE:
                sent += self.flush()
                sent.append(payload)
            else:
                self._one(payload, self._tokens, sent)
        return sent

    def flush(self) -> list[bytes]:
        """What is still held back, when the stream ends: one chunk per text."""
        return [
            self._chunk(key, held, text) for key, held in self._held.items() if (text := self._rest(held))
        ]

    def _one(self, payload: bytes, tokens: "_Tokens", sent: list[bytes]) -> None:
        chunk = _loaded(payload)
        choices = _choices(chunk)
        if not choices:
            sent.append(payload)
            return
        self._last = chunk
        changed = False
        for choice in choices:
            is_last = choice.get("finish_reason") is not None
            here = set()
            for place in _places(choice, "delta"):
                key = (choice.get("index"), *place.path)
                here.add(key)
                held = self._held.get(key)
                if held is None:
                    held = self._held[key] = _Held(place.is_json)
                said = held.push(place.text, tokens)
                if is_last:
                    said += held.rest(tokens)
                if said != place.text:
                    place.put(said)
                    changed = True
            if is_last:
                for key, held in self._held.items():
                    if key[0] == choice.get("index") and key not in here and (text := held.rest(tokens)):
                        sent.append(self._chunk(key, held, text))
        sent.append(orjson.dumps(chunk) if changed else payload)

    def _rest(self, held: "_Held") -> str:
        return held.rest(self._tokens) if self._tokens else ""

    def _chunk(self, key: tuple[Any, ...], held: "_Held", text: str) -> bytes:
        """A chunk like those of this stream, with this text alone."""
        index, *path = key
        choice: Json = {"index": index}
        if path == ["text"]:
            choice["text"] = text
        else:
            inner: Any = text
            for step in reversed(path):
                inner = [{"index": step, **inner}] if not isinstance(step, str) else {step: inner}
            choice["delta"] = inner
        choice["finish_reason"] = None
        kept = {name: value for name, value in self._last.items() if name not in {"choices", "usage"}}
        return orjson.dumps({**kept, "choices": [choice]})


class _Held:
    """One text of a stream: what of it is not sent yet, and the character before that."""

    __slots__ = ("_before", "_text", "is_json")

    def __init__(self, is_json: bool) -> None:
        self._before = ""
        self._text = ""
        self.is_json = is_json

    def push(self, text: str, tokens: "_Tokens") -> str:
        """What can be said now that this came."""
        buffer = self._before + self._text + text
        said, at = tokens.decided(buffer, len(self._before), is_json=self.is_json)
        self._before, self._text = buffer[max(0, at - 1) : at], buffer[at:]
        return said

    def rest(self, tokens: "_Tokens") -> str:
        """What was held back, now that nothing follows."""
        if not self._text:
            return ""
        buffer, at = self._before + self._text, len(self._before)
        self._before, self._text = buffer[-1:], ""
        return tokens.restored(buffer, at, is_json=self.is_json)


# ------------------------------------------------------------------ tokens in texts


class _Tokens:
    """The tokens of a call, found again in texts."""

    __slots__ = ("_originals", "_partial", "_pattern")

    def __init__(self, tokens: Mapping[str, str]) -> None:
        self._originals = {bare(token): original for token, original in tokens.items()}
        labels = sorted(
            {each[: -DIGEST_LENGTH - 1] for each in self._originals}, key=lambda each: (-len(each), each)
        )
        label = "|".join(each.replace("_", _UNDERSCORE) for each in labels)
        core = rf"(?:{label}){_UNDERSCORE}[{ALPHABET}]{{{DIGEST_LENGTH}}}"
        self._pattern = re.compile(
            rf"{_ESCAPED}<({core}){_ESCAPED}>"
            rf"|(?:{_OPENERS})({core})(?:{_CLOSERS}|{_ESCAPED}>)"
            rf"|(?<![A-Z0-9_])({core})(?![A-Z0-9])",
            re.IGNORECASE | re.ASCII,
        )
        begun = "|".join(_begun(each) for each in labels)
        self._partial = re.compile(
            rf"(?:(?:{_OPENERS}|{_ESCAPED}<)(?:{begun})?|(?<![A-Z0-9_])(?:{begun})|{_nested('&lt')}|{_BACKSLASHES})\Z",
            re.IGNORECASE | re.ASCII,
        )

    def restored(self, text: str, start: int = 0, *, is_json: bool = False) -> str:
        """The text from `start` on; what stands before it only tells where words begin."""
        made: list[str] = []
        at = start
        for match in self._pattern.finditer(text, start):
            made += (text[at : match.start()], self._original(match, is_json))
            at = match.end()
        if not made:
            return text[start:]
        made.append(text[at:])
        return "".join(made)

    def decided(self, text: str, start: int, *, is_json: bool) -> tuple[str, int]:
        """As `restored`, as far as whatever may follow cannot change it; and up to where that is."""
        made: list[str] = []
        at = start
        while True:
            partial = self._partial.search(text, max(at, len(text) - MAX_FORM))
            end = partial.start() if partial else len(text)
            match = self._pattern.search(text, at)
            if match is None or match.start() >= end:
                made.append(text[at:end])
                return "".join(made), end
            made += (text[at : match.start()], self._original(match, is_json))
            at = match.end()

    def _original(self, match: re.Match[str], is_json: bool) -> str:
        core = next(group for group in match.groups() if group)
        original = self._originals.get(core.replace("\\", "").upper())
        if original is None:
            return match.group()
        return orjson.dumps(original).decode()[1:-1] if is_json else original


def _nested(text: str) -> str:
    """A pattern for every beginning of a text but none."""
    made = ""
    for sign in reversed(text):
        made = re.escape(sign) + (f"(?:{made})?" if made else "")
    return made


_BACKSLASHES: Final = rf"\\(?:\\|{_nested('u003')})?"
"""How an escaped bracket may begin."""


def _begun(name: str) -> str:
    """A pattern for every beginning of a token's inside, up to what may close it."""
    closing = rf"(?:{_nested('&gt')}|{_BACKSLASHES})?"
    made = "|".join([rf"[{ALPHABET}]{{1,{DIGEST_LENGTH - 1}}}", rf"[{ALPHABET}]{{{DIGEST_LENGTH}}}{closing}"])
    for sign in reversed(f"{name}_"):
        made = rf"\\{{1,2}}(?:_(?:{made})?)?|_(?:{made})?" if sign == "_" else f"{sign}(?:{made})?"
    return made


# ------------------------------------------------------------------ texts in answers


@dataclass(frozen=True, slots=True)
class _PlaceOf:
    """A text of an answer: where it is, and how to change it."""

    path: tuple[str | int, ...]
    text: str
    holder: Json = field(repr=False)
    name: str
    is_json: bool = False

    def put(self, text: str) -> None:
        self.holder[self.name] = text


def _loaded(body: bytes) -> Any:
    """The JSON, or None for what is none: nothing is restored there."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def _choices(answer: Any) -> list[Json]:
    choices = answer.get("choices") if isinstance(answer, dict) else None
    return [each for each in choices if isinstance(each, dict)] if isinstance(choices, list) else []


def _documents(answer: Any) -> Iterator[_PlaceOf]:
    """The texts of the request's own documents, which a ranking may repeat."""
    results = answer.get("results") if isinstance(answer, dict) else None
    for number, result in enumerate(results if isinstance(results, list) else ()):
        if isinstance(result, dict):
            yield from _strings(result, "document", ("results", number))


def _strings(holder: Any, name: Any, path: tuple[str | int, ...]) -> Iterator[_PlaceOf]:
    value = holder[name] if isinstance(holder, list) else holder.get(name)
    if isinstance(value, str):
        yield _PlaceOf((*path, name), value, holder, name)
    elif isinstance(value, dict | list):
        for inner in list(value) if isinstance(value, dict) else range(len(value)):
            yield from _strings(value, inner, (*path, name))


def _places(choice: Json, where: str) -> Iterator[_PlaceOf]:
    """The texts of a choice that are the model's words to the caller; `where`: message or delta."""
    if isinstance(text := choice.get("text"), str):
        yield _PlaceOf(("text",), text, choice, "text")
    message = choice.get(where)
    if not isinstance(message, dict):
        return
    for name in _TEXTS:
        text = message.get(name)
        if isinstance(text, str):
            yield _PlaceOf((name,), text, message, name)
        elif isinstance(text, list):
            for number, part in enumerate(text):
                if isinstance(part, dict) and isinstance(said := part.get("text"), str):
                    yield _PlaceOf((name, number, "text"), said, part, "text")
    yield from _arguments(message.get("function_call"), ("function_call",))
    calls = message.get("tool_calls")
    for number, call in enumerate(calls if isinstance(calls, list) else ()):
        if isinstance(call, dict):
            place = ("tool_calls", call.get("index", number))
            yield from _arguments(call.get("function"), (*place, "function"))
            custom = call.get("custom")
            if isinstance(custom, dict) and isinstance(text := custom.get("input"), str):
                yield _PlaceOf((*place, "custom", "input"), text, custom, "input")


def _arguments(function: Any, path: tuple[str | int, ...]) -> Iterator[_PlaceOf]:
    if isinstance(function, dict) and isinstance(text := function.get("arguments"), str):
        yield _PlaceOf((*path, "arguments"), text, function, "arguments", is_json=True)
