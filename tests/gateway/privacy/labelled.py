"""The labelled set: texts of many languages and forms, in which ⟦kind:…⟧ stands around what is to be found.

All of it is invented: documentation addresses and domains, telephone ranges reserved for fiction, test card numbers,
ids made from their checksums alone. Texts without a mark are there to be left alone. `tuning.jsonl` was looked at while
the patterns were made; `held_out.jsonl` was written, without running anything on it, before the first measurement.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gateway.privacy.detect import Detector

HERE = Path(__file__).parent
MARK = re.compile(r"⟦(\w+):(.*?)⟧", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Labelled:
    language: str
    form: str
    text: str
    spans: frozenset[tuple[int, int, str]]


@dataclass(frozen=True, slots=True)
class Score:
    """Of one kind: how many were found rightly, wrongly, and not."""

    right: int
    wrong: int
    missed: int

    @property
    def precision(self) -> float:
        return self.right / max(1, self.right + self.wrong)

    @property
    def recall(self) -> float:
        return self.right / max(1, self.right + self.missed)


def labelled(name: str) -> list[Labelled]:
    """The texts of `tuning` or `held_out`."""
    return [_read(json.loads(line)) for line in (HERE / f"{name}.jsonl").read_text().splitlines()]


def _read(raw: dict[str, str]) -> Labelled:
    pieces: list[str] = []
    spans = set()
    at = length = 0
    for match in MARK.finditer(raw["text"]):
        before = raw["text"][at : match.start()]
        start = length + len(before)
        pieces += (before, match[2])
        length = start + len(match[2])
        spans.add((start, length, match[1]))
        at = match.end()
    pieces.append(raw["text"][at:])
    return Labelled(raw["language"], raw["form"], "".join(pieces), frozenset(spans))


def scores(texts: Iterable[Labelled], detector: Detector) -> dict[str, Score]:
    """For each kind; a finding is right when its borders and its kind are."""
    right, wrong, missed = Counter[str](), Counter[str](), Counter[str]()
    for each in texts:
        found = {(one.start, one.end, one.kind) for one in detector.find(each.text)}
        right.update(kind for _, _, kind in found & each.spans)
        wrong.update(kind for _, _, kind in found - each.spans)
        missed.update(kind for _, _, kind in each.spans - found)
    return {kind: Score(right[kind], wrong[kind], missed[kind]) for kind in right | wrong | missed}
