"""Several profiles' rules over one call, as one: for every kind, and wherever findings overlap, the strictest wins.

Pure. A pattern of a tenant's own can only add: it can neither hide nor soften what the operator's rules find.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from gateway.privacy.detect import Found
from gateway.privacy.kinds import Action
from gateway.privacy.walk import Finder

STRICTNESS: Final = {Action.ALLOW: 0, Action.TOKENIZE: 1, Action.REDACT: 2, Action.BLOCK: 3}


def strictest(one: Action, other: Action) -> Action:
    return one if STRICTNESS[one] >= STRICTNESS[other] else other


def merged_actions(each: Iterable[Mapping[str, Action]]) -> dict[str, Action]:
    """For every kind the strictest action of all."""
    made: dict[str, Action] = {}
    for actions in each:
        for kind, action in actions.items():
            made[kind] = strictest(made.get(kind, Action.ALLOW), action)
    return made


@dataclass(frozen=True, slots=True)
class Layers:
    """Finders whose findings may overlap each other's; `actions` says whose findings prevail there."""

    finders: Sequence[Finder]
    actions: Mapping[str, Action] = field(repr=False)

    def find(self, text: str) -> list[Found]:
        """The stricter finding stays whole, also against a longer one, which keeps only what is left of it."""
        found = [
            (STRICTNESS[self.actions.get(each.kind, Action.ALLOW)], number, each)
            for number, finder in enumerate(self.finders)
            for each in finder.find(text)
        ]
        found.sort(key=lambda entry: (-entry[0], entry[1], entry[2].start))
        kept: list[Found] = []
        for _, _, each in found:
            _add(each, kept, text)
        return kept


def _add(each: Found, kept: list[Found], text: str) -> None:
    """Put what no other finding covers of it in its place among `kept`, which is in order."""
    at = bisect_left(kept, each.start, key=lambda other: other.end)
    start = each.start
    while start < each.end:
        following = kept[at] if at < len(kept) else None
        end = each.end if following is None else min(each.end, max(start, following.start))
        if start < end:
            kept.insert(at, Found(start, end, each.kind, text[start:end]))
            at += 1
        start = end if following is None else max(end, following.end)
        at += 1
