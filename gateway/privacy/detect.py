"""Finds personal data in one text. Pure: no I/O, no clock, and time in proportion to the text, whoever wrote it.

A text is searched as its *shadow*: one byte per character, so that offsets stay, with look-alikes (full-width digits,
hard spaces, odd dashes) as the ASCII signs they stand for, without invisible characters, and with percent, HTML and
JSON escapes as what they escape. Must never log or raise with a piece of the text it reads.
"""

import functools
import hashlib
import html
import importlib
import importlib.util
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

import re2

from gateway.privacy.kinds import (
    CARD,
    CUSTOM_PREFIX,
    EMAIL,
    IBAN,
    IP_ADDRESS,
    NAME,
    NATIONAL_ID,
    PHONE,
    SECRET,
    Action,
)
from gateway.privacy.patterns import SHAPES, Sight, Span

MAX_PATTERN: Final = 1000
"""Characters of a custom pattern."""
MAX_PROGRAM: Final = 5000
"""Instructions that RE2 may need for one: what `x{1000}{5}` would exceed."""
MAX_CUSTOM: Final = 100
MAX_MEMORY_BYTES: Final = 4 * 1024 * 1024

_RANKS: Final = {
    kind: rank
    for rank, kind in enumerate((SECRET, IBAN, CARD, NATIONAL_ID, EMAIL, IP_ADDRESS, PHONE, NAME), start=1)
}
"""Which kind is meant where two find the same; custom patterns come before all."""


class Found(NamedTuple):
    """A finding: character offsets in the text that was searched, and the text between them."""

    start: int
    end: int
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class CustomPattern:
    """A profile's own detector, in RE2 syntax; its kind is `custom:<name>`."""

    name: str
    pattern: str


@dataclass(frozen=True, slots=True)
class Rules:
    """What is looked for, and what becomes of it. `regions`: ISO countries whose national phone forms need no
    word nearby. Kinds without an action, or allowed, are not looked for."""

    actions: Mapping[str, Action]
    custom: tuple[CustomPattern, ...] = ()
    names: bool = False
    regions: tuple[str, ...] = ()
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        told = (sorted(self.actions.items()), self.custom, self.names, self.regions)
        object.__setattr__(self, "fingerprint", hashlib.sha256(repr(told).encode()).hexdigest()[:32])

    @property
    def sought(self) -> frozenset[str]:
        """The kinds that something is done about."""
        return frozenset(kind for kind, action in self.actions.items() if action is not Action.ALLOW)


class NameDetector(Protocol):
    """Finds people's names: spans of character offsets, in any order."""

    def find(self, text: str) -> Iterable[tuple[int, int]]: ...


# ------------------------------------------------------------------ custom patterns


def check_pattern(pattern: CustomPattern) -> None:
    """Raises ValueError that names the pattern and says what is wrong with it."""
    _custom(pattern)


def _options(*, is_latin: bool = False) -> Any:
    options = re2.Options()
    options.max_mem = MAX_MEMORY_BYTES if not is_latin else 8 * MAX_MEMORY_BYTES
    options.log_errors = False
    options.never_capture = True
    if is_latin:
        options.encoding = re2.Options.Encoding.LATIN1
    return options


def _custom(pattern: CustomPattern) -> Any:
    named = f"Custom pattern {pattern.name!r}"
    if not pattern.pattern or len(pattern.pattern) > MAX_PATTERN:
        raise ValueError(f"{named} must have 1 to {MAX_PATTERN} characters")
    try:
        made = re2.compile(pattern.pattern, _options())
    except re2.error as error:
        raise ValueError(f"{named} is not RE2 syntax: {_said(error)}") from error
    except UnicodeEncodeError as error:
        raise ValueError(f"{named} holds half a surrogate pair") from error
    if made.programsize > MAX_PROGRAM:
        raise ValueError(f"{named} is too large: {made.programsize} instructions, {MAX_PROGRAM} are allowed")
    if made.search("") is not None:
        raise ValueError(f"{named} matches the empty text")
    return made


def _said(error: Exception) -> str:
    first = error.args[0] if error.args else ""
    return first.decode("utf-8", "replace") if isinstance(first, bytes) else str(first)


# ------------------------------------------------------------------ names


class SpacyNames:
    """Names by the statistical pipeline of spaCy that is installed. Slow: about 10 ms per kilobyte."""

    def __init__(self) -> None:
        spacy = importlib.import_module("spacy")
        self._pipeline = spacy.load(_pipelines(spacy)[0])

    def find(self, text: str) -> list[tuple[int, int]]:
        return [
            (each.start_char, each.end_char)
            for each in self._pipeline(text).ents
            if each.label_ in {"PERSON", "PER"}
        ]


def check_names() -> None:
    """Raises ValueError, saying what to install, when names cannot be found here."""
    if importlib.util.find_spec("spacy") is None:
        raise ValueError(
            "Finding names needs a model: install Tollhouse with the extra `ner`, and a pipeline of spaCy"
        )
    if not _pipelines(importlib.import_module("spacy")):
        raise ValueError("Finding names needs a pipeline of spaCy, such as xx_ent_wiki_sm: none is installed")


def _pipelines(spacy: Any) -> list[str]:
    """Those that are installed, of many languages first."""
    return sorted(spacy.util.get_installed_models(), key=lambda name: (not name.startswith("xx_"), name))


@functools.cache
def _names() -> NameDetector:
    check_names()
    return SpacyNames()


# ------------------------------------------------------------------ finding


class Detector:
    """Finds what some rules look for. Safe for use by several threads. `names` stands in for the model."""

    __slots__ = ("_custom", "_gate", "_names", "_regions", "_shapes", "_sought")

    def __init__(self, rules: Rules, names: NameDetector | None = None) -> None:
        self._sought = rules.sought
        self._regions = rules.regions
        chosen = [each for each in SHAPES if each.kinds & self._sought]
        self._shapes = [(re2.compile(each.pattern, _options(is_latin=True)), each.judge) for each in chosen]
        self._gate = _gate([each.pattern for each in chosen]) if chosen else None
        if len(rules.custom) > MAX_CUSTOM:
            raise ValueError(f"There may be {MAX_CUSTOM} custom patterns, not {len(rules.custom)}")
        self._custom = [
            (f"{CUSTOM_PREFIX}{each.name}", _custom(each))
            for each in rules.custom
            if f"{CUSTOM_PREFIX}{each.name}" in self._sought
        ]
        self._names = (names or _names()) if rules.names and NAME in self._sought else None

    def find(self, text: str) -> list[Found]:
        """What is in the text: in order, none overlapping another. The longest finding stays whole; of others, what
        it does not cover."""
        spans: list[Span] = []
        if self._gate is not None:
            spans += self._by_shape(text)
        if self._custom:
            spans += self._by_custom(text)
        if self._names is not None:
            spans += [Span(start, end, NAME) for start, end in self._names.find(text) if start < end]
        if not spans:
            return []
        return [
            Found(start, end, kind, text[start:end])
            for start, end, kind in _apart(spans, text)
            if kind in self._sought
        ]

    def _by_shape(self, text: str) -> Iterator[Span]:
        plain = _plain_shadow(text)
        shadow = _Shadow(plain, None, None) if plain is not None else _shadow_of(text)
        hits = self._gate.Match(shadow.signs) if self._gate is not None else ()
        if not hits:
            return
        sight = Sight(shadow.signs, text, shadow.first, self._regions)
        for hit in sorted(hits):
            pattern, judge = self._shapes[hit]
            for match in pattern.finditer(shadow.signs):
                for start, end, kind in judge(sight, match.start(), match.end()):
                    yield Span(shadow.first(start), shadow.last(end), kind)

    def _by_custom(self, text: str) -> Iterator[Span]:
        """On the text as it is, and without tricks of writing."""
        for searched, at in _readings(text):
            for kind, pattern in self._custom:
                for match in pattern.finditer(searched):
                    start, end = match.span()
                    if start < end:
                        yield Span(at[start], at[end - 1] + 1, kind) if at else Span(start, end, kind)


def _gate(patterns: Sequence[bytes]) -> Any:
    """All patterns as one automaton: one pass over the text tells which of them are worth a search."""
    gate = re2.Set.SearchSet(_options(is_latin=True))
    for pattern in patterns:
        gate.Add(pattern)
    gate.Compile()
    return gate


def compiled(rules: Rules) -> Detector:
    """The detector for these rules; the same one for equal rules. Raises ValueError naming a custom pattern that
    cannot be used, or saying what to install to find names."""
    return _compiled(rules.sought, rules.custom, rules.names, rules.regions)


@functools.lru_cache(maxsize=256)
def _compiled(
    sought: frozenset[str], custom: tuple[CustomPattern, ...], names: bool, regions: tuple[str, ...]
) -> Detector:
    return Detector(Rules(dict.fromkeys(sought, Action.REDACT), custom, names, regions))


def _apart(spans: list[Span], text: str) -> list[Span]:
    """The longest first, custom ones before others of their length; what is left of the rest, if it says anything."""
    spans = sorted(set(spans), key=lambda each: (each.start - each.end, _RANKS.get(each.kind, 0), each.start))
    kept: list[Span] = []
    if len(spans) > 1:
        covered = bytearray(len(text))
        for start, end, kind in spans:
            if not any(covered[start:end]):
                kept.append(Span(start, end, kind))
            else:
                kept += [
                    Span(start + begin, start + stop, kind)
                    for begin, stop in _gaps(covered[start:end])
                    if any(sign.isalnum() for sign in text[start + begin : start + stop])
                ]
            covered[start:end] = b"\x01" * (end - start)
        return sorted(kept)
    return spans


def _gaps(covered: bytearray) -> list[tuple[int, int]]:
    return [match.span() for match in re.finditer(rb"\x00+", covered)]


# ------------------------------------------------------------------ shadows

_OTHER: Final = b"\xa4"
_LETTER: Final = b"\xff"
_GONE: Final = b"\x01"
_ESCAPE: Final = re.compile(
    rb"%[2-7][0-9A-Fa-f]|&(?:#[0-9]{1,6}|#[xX][0-9A-Fa-f]{1,5}|commat|nbsp|period|plus|hyphen|dash|shy|amp|lt|gt|quot"
    rb"|lpar|rpar|colon|lowbar|num|sol);|\\+(?:u[0-9A-Fa-f]{4}|[nrt\"/])"
)
_BACKSLASHED: Final = {b"n": b"\n", b"r": b"\n", b"t": b"\t", b'"': b'"', b"/": b"/"}


@functools.lru_cache(maxsize=1024)
def _sign(character: str) -> bytes:
    """The one byte that stands for a character."""
    if character.isascii():
        return character.encode()
    category = unicodedata.category(character)
    if category in {"Cf", "Mn", "Me"} and character not in _VISIBLE_MARKS:
        return (
            _GONE
            if category == "Cf" or "\ufe00" <= character <= "\ufe0f" or character == "\u034f"
            else _OTHER
        )
    if category == "Nd":
        return str(unicodedata.digit(character)).encode()
    if category in {"Zs", "Zl", "Zp"}:
        return b" " if category == "Zs" else b"\n"
    if category == "Pd" or character == "\u2212":
        return b"-"
    folded = unicodedata.normalize("NFKC", character)
    if len(folded) == 1 and folded.isascii() and category != "No":
        return folded.encode()
    return _LETTER if character.lower() != character.upper() else _OTHER


_VISIBLE_MARKS: Final = frozenset("\u0600\u0601\u0602\u0603\u06dd")
_LATIN: Final = bytes(range(128)) + b"".join(_sign(chr(code)) for code in range(128, 256))


class _Signs(dict[int, int]):
    """For `str.translate`: every character to the code of its sign, looked up once (for as many as a text of any
    language has)."""

    def __missing__(self, code: int) -> int:
        made = _sign(chr(code))[0]
        if len(self) < MAX_SIGNS:
            self[code] = made
        return made


MAX_SIGNS: Final = 20_000
_SIGNS: Final = _Signs()


@dataclass(frozen=True, slots=True)
class _Shadow:
    """What is searched in a text's place, and where each of its bytes begins and ends there (None: at itself)."""

    signs: bytes
    starts: list[int] | None
    ends: list[int] | None

    def first(self, start: int) -> int:
        return start if self.starts is None else self.starts[start]

    def last(self, end: int) -> int:
        return end if self.ends is None else self.ends[end - 1]


def _plain_shadow(text: str) -> bytes | None:
    """The shadow of a text that is its own: ASCII without escapes or invisible characters."""
    if not text.isascii() or "%" in text or "\\" in text or "&" in text or "\x01" in text:
        return None
    return text.encode()


def _shadow_of(text: str) -> _Shadow:
    if text.isascii():
        signs = text.encode()
    else:
        try:
            signs = text.encode("latin-1").translate(_LATIN)  # ten times faster, where it can
        except UnicodeEncodeError:
            signs = text.translate(_SIGNS).encode("latin-1")
    starts: list[int] | None = None
    ends: list[int] | None = None
    if _GONE in signs:
        starts = [at for at, sign in enumerate(signs) if sign != 1]
        ends = [at + 1 for at in starts]
        signs = signs.replace(_GONE, b"")
    if (b"%" in signs or b"&" in signs or b"\\" in signs) and _ESCAPE.search(signs):
        return _unescaped(signs, starts or list(range(len(signs))), ends or list(range(1, len(signs) + 1)))
    return _Shadow(signs, starts, ends)


def _unescaped(signs: bytes, starts: list[int], ends: list[int]) -> _Shadow:
    made: list[bytes] = []
    new_starts: list[int] = []
    new_ends: list[int] = []
    at = 0
    for match in _ESCAPE.finditer(signs):
        begin, stop = match.span()
        made += (signs[at:begin], _escaped(match.group()))
        new_starts += starts[at : begin + 1]
        new_ends += ends[at:begin]
        new_ends.append(ends[stop - 1])
        at = stop
    made.append(signs[at:])
    new_starts += starts[at:]
    new_ends += ends[at:]
    joined = b"".join(made)
    if _GONE in joined:  # an escaped invisible character
        kept = [at for at, sign in enumerate(joined) if sign != 1]
        return _Shadow(
            joined.replace(_GONE, b""), [new_starts[at] for at in kept], [new_ends[at] for at in kept]
        )
    return _Shadow(joined, new_starts, new_ends)


def _escaped(escape: bytes) -> bytes:
    """The one byte that an escape stands for."""
    if escape[:1] == b"%":
        return bytes((int(escape[1:], 16),))
    if escape[:1] == b"&":
        return _one(html.unescape(escape.decode()))
    escape = escape.lstrip(b"\\")  # JSON in JSON escapes its escapes
    if escape[:1] == b"u":
        return _one(chr(int(escape[1:].decode(), 16)))
    return _BACKSLASHED[escape]


def _one(text: str) -> bytes:
    return _sign(text) if len(text) == 1 else _OTHER


def _readings(text: str) -> Iterator[tuple[str, list[int]]]:
    """The text, and (if it differs) the text with look-alikes as what they stand for and nothing invisible; with
    where its characters are in the text."""
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which RE2 cannot read
        text = text.encode("utf-8", "replace").decode()
    yield text, []
    if text.isascii():
        return
    made: list[str] = []
    at: list[int] = []
    for number, character in enumerate(text):
        sign = character if character.isascii() else _sign(character).decode("latin-1")
        if sign == "\x01" and not character.isascii():
            continue
        made.append(sign if sign.isascii() else character)
        at.append(number)
    folded = "".join(made)
    if folded != text:
        yield folded, at
