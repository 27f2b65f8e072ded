"""Document numbers (R16): how one reads, and which counter it comes from. Pure.

Taking a number means locking the counter's row and raising it by one inside the transaction that finalizes;
a rolled-back transaction so uses none. A number is never given back: a void document keeps its own.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from zoneinfo import ZoneInfo

INVOICES = "INV"
CREDIT_NOTES = "CN"


@dataclass(frozen=True, slots=True)
class CounterKey:
    """One gapless sequence: of a legal entity, a series and a year of the entity's local time."""

    entity: str
    series: str
    year: int


def series_of(document: Literal["invoice", "credit_note"]) -> str:
    return CREDIT_NOTES if document == "credit_note" else INVOICES


def counter_of(*, entity: str, timezone: str, at: datetime, series: str = INVOICES) -> CounterKey:
    """The counter for a document finalized `at` (aware); the year is the legal entity's own."""
    return CounterKey(entity, series, at.astimezone(ZoneInfo(timezone)).year)


def number_text(prefix: str, key: CounterKey, sequence: int) -> str:
    """PREFIX-SERIES-YYYY-NNNNN; from 100000 on it grows wider, so that no number is ever given twice."""
    return f"{prefix}-{key.series}-{key.year:04d}-{sequence:05d}"
