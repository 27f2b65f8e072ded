"""Finds personal data in one text. Pure: no I/O, no clock, and time in proportion to the text, whoever wrote it.

Must never log or raise with a piece of the text it reads.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

import re2

from gateway.privacy import kinds
from gateway.privacy.kinds import Action

MAX_PATTERN: Final = 1000
MAX_PROGRAM: Final = 5000
MAX_MEMORY_BYTES: Final = 4 * 1024 * 1024


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
    fingerprint: str = field(init=False, default="")


class NameDetector(Protocol):
    """Finds people's names: spans of character offsets, in any order."""

    def find(self, text: str) -> list[tuple[int, int]]: ...


class Detector:
    """Finds what some rules look for. Safe for use by several threads."""

    def __init__(self, rules: Rules) -> None:
        self._email = re2.compile(r"[\w.+-]+@[\w-]+\.[\w.-]*\w")

    def find(self, text: str) -> list[Found]:
        """What is in the text: in order, none overlapping another."""
        return [Found(m.start(), m.end(), kinds.EMAIL, m.group()) for m in self._email.finditer(text)]


def compiled(rules: Rules) -> Detector:
    """The detector for these rules; the same one for equal rules. Raises ValueError naming a custom pattern that
    cannot be used, or saying that names cannot be found here."""
    return Detector(rules)


def check_pattern(pattern: CustomPattern) -> None:
    """Raises ValueError that names the pattern and says what is wrong with it."""
    try:
        re2.compile(pattern.pattern)
    except re2.error as error:
        raise ValueError(f"custom pattern {pattern.name!r}: {error}") from error


def check_names() -> None:
    """Raises ValueError, with what to install, when no detector of names can be loaded here."""
    raise ValueError("names=True needs the extra `ner`, which is not installed")
