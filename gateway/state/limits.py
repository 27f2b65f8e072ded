"""Limits and budgets in Redis: one script admits a call, one settles it, whatever the number of scopes.

The scripts are scripts/admit.lua and scripts/settle.lua. Money is integer micro-units in the counters,
holds rounded up; what a settlement adds keeps its pico remainder, so a counter equals the ledger exactly.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple
from uuid import UUID

from billing.budgets.count import MONEY, NOTHING, AttemptAmounts, Counted, taken
from billing.budgets.evaluate import Window
from billing.rating.fx import NO_RATES, FxTable
from billing.snapshot import BudgetEntry, Terms
from gateway.state.redis import RedisPipe, Script
from tenants.errors import ApiError
from tenants.snapshot import KeyEntry

SCRIPTS = Path(__file__).parent / "scripts"
OPEN, EPOCH, STREAM = "th:open", "th:epoch", "th:usage"
PICO_PER_MICRO = 1_000_000
MODES = {"soft": 0, "hard": 1, "throttle": 2}


@dataclass(frozen=True, slots=True)
class WindowLimit:
    """At most `limit` requests or tokens in any minute."""

    key: str
    limit: int
    measure: Literal["requests", "tokens"]


@dataclass(frozen=True, slots=True)
class SeatLimit:
    """At most `limit` calls at once."""

    key: str
    limit: int


class BudgetHold(NamedTuple):
    """What one call may take from one budget at most, in the budget's unit (micro for money).

    `bucket` is the call's in a rolling window, else -1. `is_lenient`: a throttle that has done its work on this
    call, which now refuses nothing.
    """

    key: str
    entry: BudgetEntry
    window: Window
    hold: int
    bucket: int = -1
    is_lenient: bool = False

    @property
    def as_wire(self) -> tuple[Any, ...]:
        """For the open record; `seed_begin.lua` and the reaper read it."""
        return (self.key, self.hold, self.bucket, self.entry.counted.as_wire())


class Claim(NamedTuple):
    """Everything one call must be granted at once."""

    windows: tuple[WindowLimit, ...]
    seats: tuple[SeatLimit, ...]
    budgets: tuple[BudgetHold, ...]
    tokens: int  # estimate, input and output
    lease_ms: int


class Admission(NamedTuple):
    """A granted claim: what `settle` must give back, and what the answer's headers tell."""

    claim: Claim
    second: int
    window_remaining: tuple[int, ...]
    budget_remaining: tuple[int | None, ...]


class Spent(NamedTuple):
    """What a call really took: tokens for the rate limits, its attempts for the budgets."""

    tokens: int
    attempts: Sequence[AttemptAmounts] = ()
    fx: FxTable = NO_RATES
    at_s: float = 0.0


class EpochChanged(Exception):
    """Redis has lost its memory since we last looked: re-assert what we hold, then ask again."""


class BudgetUnseeded(Exception):
    """Hard budgets' counters must be rebuilt from the ledger before they may admit anything."""

    def __init__(self, holds: Sequence[BudgetHold]) -> None:
        super().__init__(", ".join(hold.key for hold in holds))
        self.holds = holds


class Throttled(Exception):
    """A throttle is used up: the call must go another way, or slower."""

    def __init__(self, hold: BudgetHold) -> None:
        super().__init__(hold.key)
        self.hold = hold


def limits_of(
    key: KeyEntry, tenant_id: UUID, terms: Terms
) -> tuple[tuple[WindowLimit, ...], tuple[SeatLimit, ...]]:
    """The key's own limits and its tenant's plan limits, both of which must hold."""
    return _limits_of(
        (key.public_id, key.limit_rpm, key.limit_tpm, key.max_concurrent),
        (tenant_id, terms.limit_rpm, terms.limit_tpm, terms.max_concurrent),
    )


@lru_cache(maxsize=10_000)  # every call asks, and few answers differ
def _limits_of(
    key: tuple[str, int | None, int | None, int | None],
    tenant: tuple[UUID, int | None, int | None, int | None],
) -> tuple[tuple[WindowLimit, ...], tuple[SeatLimit, ...]]:
    windows, seats = [], []
    for letter, (owner, limit_rpm, limit_tpm, max_concurrent) in (("k", key), ("t", tenant)):
        if limit_rpm is not None:
            windows.append(WindowLimit(f"th:rpm:{letter}:{owner}", limit_rpm, "requests"))
        if limit_tpm is not None:
            windows.append(WindowLimit(f"th:tpm:{letter}:{owner}", limit_tpm, "tokens"))
        if max_concurrent is not None:
            seats.append(SeatLimit(f"th:seats:{letter}:{owner}", max_concurrent))
    return tuple(windows), tuple(seats)


def budget_key(entry: BudgetEntry, window: Window) -> str:
    return f"th:budget:{entry.id_text}:{window.id}"


class Settlement(NamedTuple):
    """Keys and arguments of settle.lua."""

    keys: list[str]
    args: list[Any]


def settlement(
    request_id: str,
    record: bytes,
    *,
    windows: Sequence[tuple[str, int, int]] = (),
    seats: Sequence[str],
    budgets: Sequence[tuple[str, int, int, Counted]],
    spent: Spent,
) -> Settlement:
    """`windows`: (key, second of admission, correction); `budgets`: (key, hold, bucket, what counts)."""
    keys = [OPEN, STREAM]
    args: list[Any] = [request_id, record, len(windows)]
    for key, second, correction in windows:
        keys.append(key)
        args += (second, correction)
    args.append(len(seats))
    keys += seats
    args.append(len(budgets))
    for key, hold, bucket, counted in budgets:
        keys.append(key)
        amount = taken(counted, spent.attempts, fx=spent.fx, at_s=spent.at_s)
        whole, rest = divmod(amount, PICO_PER_MICRO) if counted.measure in MONEY else (amount, 0)
        args += (hold, "" if bucket < 0 else bucket, whole, rest)
    return Settlement(keys, args)


class Limits:
    """The two trips to Redis that a call makes."""

    def __init__(self, pipe: RedisPipe) -> None:
        self._pipe = pipe
        self._admit = Script((SCRIPTS / "admit.lua").read_text())
        self._settle = Script((SCRIPTS / "settle.lua").read_text())
        self.epoch = ""

    async def admit(self, request_id: str, record: bytes, claim: Claim) -> Admission:
        """Take the whole claim and open the record, or raise what stands in its way.

        ApiError rate_limit_exceeded, concurrency_exceeded, budget_exceeded; EpochChanged; BudgetUnseeded;
        Throttled; RedisUnavailable.
        """
        keys = [OPEN, EPOCH]
        args: list[Any] = [self.epoch, request_id, claim.lease_ms, record, len(claim.windows)]
        for window in claim.windows:
            keys.append(window.key)
            args += (window.limit, 1 if window.measure == "requests" else claim.tokens)
        args.append(len(claim.seats))
        for seat in claim.seats:
            keys.append(seat.key)
            args.append(seat.limit)
        args.append(len(claim.budgets))
        for budget in claim.budgets:
            keys.append(budget.key)
            args += (
                budget.entry.limit,
                budget.hold,
                0 if budget.is_lenient else MODES[budget.entry.mode],
                budget.window.floor if budget.bucket >= 0 else "",
            )
        reply = await self._pipe.script(self._admit, keys, args)
        if reply[0] != b"ok":
            raise _refusal(reply, claim)
        seam = 2 + len(claim.windows)
        return Admission(claim, reply[1], tuple(reply[2:seam]), tuple(reply[seam:]))

    def settle(self, request_id: str, record: bytes, admission: Admission, spent: Spent) -> Settlement:
        """What closes the call: `send` it, and again if no answer came."""
        claim = admission.claim
        return settlement(
            request_id,
            record,
            windows=[
                (window.key, admission.second, spent.tokens - claim.tokens)
                for window in claim.windows
                if window.measure == "tokens"
            ],
            seats=[seat.key for seat in claim.seats],
            budgets=[
                (budget.key, budget.hold, budget.bucket, budget.entry.counted) for budget in claim.budgets
            ],
            spent=spent,
        )

    def void(self, request_id: str, claim: Claim) -> Settlement:
        """What takes back an admission whose answer was lost: it may have happened, and nothing came of it."""
        return settlement(
            request_id,
            b"",
            seats=[seat.key for seat in claim.seats],
            budgets=[(budget.key, budget.hold, budget.bucket, Counted(NOTHING)) for budget in claim.budgets],
            spent=Spent(0),
        )

    def send(self, settlement: Settlement) -> asyncio.Future[Any]:
        return self._pipe.script(self._settle, settlement.keys, settlement.args)


def _refusal(reply: Sequence[Any], claim: Claim) -> Exception:
    match reply[0]:
        case b"epoch":
            return EpochChanged()
        case b"unseeded":
            return BudgetUnseeded([claim.budgets[number - 1] for number in reply[1:]])
        case b"throttle":
            return Throttled(claim.budgets[reply[1] - 1])
        case b"window":
            window = claim.windows[reply[1] - 1]
            return ApiError(
                "rate_limit_exceeded",
                f"More than {window.limit} {window.measure} per minute.",
                retry_after_s=reply[2] / 1000,
            )
        case b"concurrency":
            limit = claim.seats[reply[1] - 1].limit
            return ApiError("concurrency_exceeded", f"More than {limit} calls at once.", retry_after_s=1)
    budget = claim.budgets[reply[1] - 1]
    return budget_exceeded(budget)


def budget_exceeded(budget: BudgetHold) -> ApiError:
    """402, naming the budget (an operator's by its id) and when it resets (in UTC and in its own zone)."""
    entry, window = budget.entry, budget.window
    if entry.tenant_id is None:
        name = f"{entry.id} of the operator"
    elif entry.name:
        name = f"“{entry.name}”"
    else:
        name = f"of {entry.measure} per {f'{entry.rolling_s} s' if entry.rolling_s else entry.window}"
    return ApiError("budget_exceeded", f"The budget {name} is used up. {window.reset_text(entry.timezone)}")
