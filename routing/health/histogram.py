"""Histograms that can be added up over workers, slots and endpoints, and windows that slide over their slots. Pure.

A quantile read from them is off by at most one bucket's width: 15 % of its value, and nothing below 8 ms.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from typing import Final

type Tally = Mapping[str, int]
"""How often each thing, named by a short code, was counted. Tallies add up."""


def _bounds(*, ratio: float, last_ms: int) -> tuple[int, ...]:
    bounds = [1]
    while bounds[-1] < last_ms:
        bounds.append(max(bounds[-1] + 1, round(bounds[-1] * ratio)))
    return tuple(bounds)


BOUNDS_MS: Final = _bounds(ratio=1.15, last_ms=20 * 60 * 1000)
"""Upper bounds, inclusive, in milliseconds. Part of the stored data, for as long as a slot is kept in Redis."""


class Codes:
    """The codes of one histogram's buckets, `<letter><number>`, so that several may share a tally."""

    __slots__ = ("_names", "_numbers")

    def __init__(self, letter: str) -> None:
        self._names = tuple(f"{letter}{number}" for number in range(len(BOUNDS_MS) + 1))
        self._numbers = {name: number for number, name in enumerate(self._names)}

    def of(self, value_ms: float) -> str:
        """The bucket that counts this value: the first whose bound it does not exceed, or the overflow."""
        return self._names[bisect_left(BOUNDS_MS, value_ms)]

    def quantile(self, tally: Tally, q: float) -> float | None:
        """The value in ms below which the share `q` of the counted ones lies; None if none was counted.

        Inside a bucket values are taken to lie evenly; in the overflow the last bound is the answer.
        """
        numbers = self._numbers
        held = sorted((numbers[code], count) for code, count in tally.items() if code in numbers)
        rank = q * sum(count for _, count in held)
        seen = 0
        for number, count in held:
            if seen + count >= rank and count:
                if number == len(BOUNDS_MS):
                    return float(BOUNDS_MS[-1])
                low = BOUNDS_MS[number - 1] if number else 0
                return low + (BOUNDS_MS[number] - low) * (rank - seen) / count
            seen += count
        return None

    def count(self, tally: Tally) -> int:
        """How many were counted."""
        return sum(count for code, count in tally.items() if code in self._numbers)

    def below(self, tally: Tally) -> list[tuple[int, int]]:
        """(bound in ms, how many were not above it) for every bucket, ascending; the overflow left out."""
        total, rows = 0, []
        for number, bound in enumerate(BOUNDS_MS):
            total += tally.get(self._names[number], 0)
            rows.append((bound, total))
        return rows


FIRST_BYTE: Final = Codes("f")
WHOLE: Final = Codes("w")


class Sliding:
    """Tallies by owner over the newest `width` slots. A slot is replaced as a whole, never added to.

    The finished slots are summed once, not at every look.
    """

    __slots__ = ("_base", "_base_slot", "_slots", "_width")

    def __init__(self, width: int) -> None:
        self._width = width
        self._slots: dict[int, Mapping[str, Tally]] = {}
        self._base: dict[str, Counter[str]] = {}
        self._base_slot: int | None = None

    def put(self, slot: int, tallies: Mapping[str, Tally]) -> None:
        """What is known of this slot now, in place of what was."""
        self._slots[slot] = tallies
        if self._base_slot is not None and slot < self._base_slot:
            self._base_slot = None

    def totals(self, newest: int, *others: Mapping[int, Mapping[str, Tally]]) -> dict[str, Counter[str]]:
        """The sums per owner over the `width` slots up to `newest`; older slots are forgotten.

        `others` are further slots, kept elsewhere, that count too.
        """
        oldest = newest - self._width + 1
        live = newest - 1  # the newest two may still grow
        if self._base_slot != live:
            self._slots = {slot: held for slot, held in self._slots.items() if slot >= oldest}
            self._base, self._base_slot = {}, live
            for slot, held in self._slots.items():
                if slot < live:
                    _add(self._base, held)
        sums = {owner: Counter(tally) for owner, tally in self._base.items()}
        for slot in (live, newest):
            _add(sums, self._slots.get(slot, {}))
        for each in others:
            for slot, held in each.items():
                if oldest <= slot <= newest:
                    _add(sums, held)
        return sums


def _add(sums: dict[str, Counter[str]], tallies: Mapping[str, Tally]) -> None:
    for owner, tally in tallies.items():
        held = sums.get(owner)
        if held is None:
            sums[owner] = Counter(tally)
        else:
            held.update(tally)
