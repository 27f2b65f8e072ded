"""Which grants a debit is taken from, what expires, and when to top up (R14). Pure, pico-units."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from zoneinfo import ZoneInfo

type Category = Literal["paid", "promotional"]


@dataclass(frozen=True, slots=True)
class Grant:
    """Credit usable while effective_at <= t < expires_at (None: for ever). A low `priority` goes first."""

    id: str
    amount_pico: int
    category: Category
    effective_at: datetime
    expires_at: datetime | None
    priority: int = 50

    def is_usable(self, at: datetime) -> bool:
        return self.effective_at <= at and not self.has_expired(at)

    def has_expired(self, at: datetime) -> bool:
        return self.expires_at is not None and self.expires_at <= at


@dataclass(frozen=True, slots=True)
class Allocation:
    """A part of a debit, taken from one grant."""

    grant_id: str
    amount_pico: int


@dataclass(frozen=True, slots=True)
class Drawdown:
    """Allocations in the order of taking; their sum and `uncovered_pico` are the debit."""

    allocations: tuple[Allocation, ...]
    uncovered_pico: int


def in_order(grants: Iterable[Grant]) -> list[Grant]:
    """R14: priority, earliest expiry (none last), promotional before paid, earliest effective, id."""
    return sorted(
        grants,
        key=lambda grant: (
            grant.priority,
            (1, 0.0) if grant.expires_at is None else (0, grant.expires_at.timestamp()),
            grant.category != "promotional",
            grant.effective_at,
            grant.id,
        ),
    )


def draw(
    amount_pico: int, grants: Iterable[Grant], remaining_pico: Mapping[str, int], *, at: datetime
) -> Drawdown:
    """Take `amount_pico` (not negative) from the grants usable `at`. `remaining_pico`: what each still has."""
    if amount_pico < 0:
        msg = "a debit may not be negative"
        raise ValueError(msg)
    left = amount_pico
    allocations = []
    for grant in in_order(grants):
        part = min(left, remaining_pico[grant.id]) if grant.is_usable(at) else 0
        if part > 0:
            allocations.append(Allocation(grant.id, part))
            left -= part
    return Drawdown(tuple(allocations), left)


@dataclass(frozen=True, slots=True)
class TopUp:
    """The answer to a balance below its threshold: an amount to add once, or why none is."""

    amount_pico: int | None
    reason: Literal["monthly_cap"] | None = None


def top_up(
    *,
    balance_pico: int,
    threshold_pico: int,
    amount_pico: int,
    monthly_cap_pico: int | None,
    added_this_month_pico: int,
) -> TopUp | None:
    """None while the balance is not strictly below the threshold; once per debit at most, within the cap."""
    if balance_pico >= threshold_pico:
        return None
    if monthly_cap_pico is not None and added_this_month_pico + amount_pico > monthly_cap_pico:
        return TopUp(None, "monthly_cap")
    return TopUp(amount_pico)


def cap_month(at: datetime, timezone: str = "UTC") -> tuple[int, int]:
    """The (year, month) whose cap a top-up `at` counts against."""
    local = at.astimezone(ZoneInfo(timezone))
    return local.year, local.month
