"""Which events count, and how an event is corrected without touching it (R20, R21). Pure.

Nothing is updated or deleted: a correction is a reversal and, if something takes its place, a replacement.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from typing import Literal
from zoneinfo import ZoneInfo

from tenants.errors import ApiError

type Kind = Literal["usage", "reversal", "replacement"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the ledger. (source, event_id) names the event that it records or corrects."""

    source: str
    event_id: str
    occurred_at: datetime
    quantity: Decimal
    amount_pico: int
    kind: Kind = "usage"

    @property
    def key(self) -> tuple[str, str]:
        return self.source, self.event_id


@dataclass(frozen=True, slots=True)
class Taken:
    """What a stream of events came to: accepted entries in order, repeats, ids with differing content."""

    entries: tuple[Entry, ...]
    duplicates: int
    conflicts: tuple[str, ...]


def take(events: Iterable[Entry], known: Mapping[tuple[str, str], Entry] | None = None) -> Taken:
    """R20: an event already known with equal content is ignored, with other content it is a conflict; the
    first stays. Content is compared by value: 1.0 equals 1.00, and an instant its like in another zone."""
    seen = dict(known or {})
    entries: list[Entry] = []
    duplicates = 0
    conflicts: list[str] = []
    for event in events:
        first = seen.get(event.key)
        if first is None:
            seen[event.key] = event
            entries.append(event)
        elif first == event:
            duplicates += 1
        else:
            conflicts.append(event.event_id)
    return Taken(tuple(entries), duplicates, tuple(conflicts))


def standing(entries: Iterable[Entry], key: tuple[str, str]) -> Entry | None:
    """What the event counts as now: itself, its last replacement, or nothing once it was only reversed."""
    found: Entry | None = None
    for entry in entries:
        if entry.key == key:
            found = None if entry.kind == "reversal" else entry
    return found


def amend(present: Entry | None, replacement: tuple[Decimal, int] | None = None) -> tuple[Entry, ...]:
    """R21: minus what stands and, if given, the (quantity, pico) in its place, both at the original's time.

    Raises ApiError conflict where nothing stands: a reversed event cannot be reversed again.
    """
    if present is None:
        raise ApiError("conflict", "There is no such event, or it has been reversed already.")
    reversal = replace(present, quantity=-present.quantity, amount_pico=-present.amount_pico, kind="reversal")
    if replacement is None:
        return (reversal,)
    quantity, amount_pico = replacement
    return reversal, replace(present, quantity=quantity, amount_pico=amount_pico, kind="replacement")


@dataclass(frozen=True, slots=True)
class Sums:
    """Of some entries."""

    entries: int
    quantity: Decimal
    amount_pico: int


def sums_of(entries: Iterable[Entry]) -> Sums:
    total = Sums(0, Decimal(0), 0)
    for entry in entries:
        total = _add(total, entry)
    return total


def by_local_day(entries: Iterable[Entry], timezone: str) -> dict[date, Sums]:
    """R21b: by the day of the zone, adding up to `sums_of` exactly; in the days' order."""
    zone = ZoneInfo(timezone)
    days: dict[date, Sums] = {}
    for entry in entries:
        day = entry.occurred_at.astimezone(zone).date()
        days[day] = _add(days.get(day, Sums(0, Decimal(0), 0)), entry)
    return dict(sorted(days.items()))


def _add(sums: Sums, entry: Entry) -> Sums:
    return Sums(sums.entries + 1, sums.quantity + entry.quantity, sums.amount_pico + entry.amount_pico)
