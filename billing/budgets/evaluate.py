"""Budget windows and decisions (rules R18 and R19b). Pure: the instant is an argument.

Calendar windows are half-open, from local midnight to local midnight in their zone; spend and holds belong
to the window that contains the event's time.
"""

from calendar import monthrange
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Protocol
from zoneinfo import ZoneInfo

HOUR = timedelta(hours=1)
ROLLING_BUCKETS = 60


@dataclass(frozen=True, slots=True)
class Window:
    """[start, end) in unix seconds; `end` None never ends. `id` names it among the budget's windows.

    A rolling window is counted in buckets of `width_ms`; it starts with the bucket that its oldest instant lies
    in, so it is up to one bucket longer than it must be, never shorter.
    """

    start: float
    end: float | None
    id: str
    width_ms: int = 0

    @property
    def floor(self) -> int:
        """The number of a rolling window's oldest bucket."""
        return round(self.start * 1000) // self.width_ms

    def bucket_of(self, at_s: float) -> int:
        """The number of the bucket that an instant lies in; -1 where there are none."""
        return round(at_s * 1000) // self.width_ms if self.width_ms else -1

    def reset_text(self, timezone: str) -> str:
        """When the budget starts anew, in UTC and in its own zone, for people."""
        if self.width_ms:
            return "It frees up as older calls leave its rolling window."
        if self.end is None:
            return "It does not reset."
        utc = datetime.fromtimestamp(self.end, UTC)
        local = utc.astimezone(ZoneInfo(timezone))
        return f"It resets at {utc:%Y-%m-%dT%H:%M:%SZ} ({local:%Y-%m-%d %H:%M} {timezone})."


def window_of(unit: str, timezone: str, at: datetime, *, anchor_day: int = 1, week_start: int = 0) -> Window:
    """The window of `unit` (hour, day, week, month, quarter, year, total) that contains `at` (aware)."""
    if unit == "total":
        return Window(0.0, None, "total")
    zone = ZoneInfo(timezone)
    if unit == "hour":
        start, end = _hour(at, zone)
    else:
        first, last = _days(unit, at.astimezone(zone).date(), anchor_day, week_start)
        start, end = _midnight(first, zone), _midnight(last, zone)
        while end <= at:  # clocks set back across midnight show yesterday again after its window has ended
            first, last = _days(unit, last, anchor_day, week_start)
            start, end = end, _midnight(last, zone)
    return Window(start.timestamp(), end.timestamp(), f"{int(start.timestamp())}")


def rolling_window(length_s: int, at_s: float) -> Window:
    """The last `length_s` seconds before `at_s` (unix), in at least ROLLING_BUCKETS whole buckets."""
    width_ms = length_s * 1000 // ROLLING_BUCKETS
    floor = (round(at_s * 1000) - length_s * 1000) // width_ms
    return Window(floor * width_ms / 1000, None, f"rolling-{length_s}", width_ms)


class Windowed(Protocol):
    """What has windows that follow each other."""

    def window_at(self, now: float) -> Window: ...


def window_before(entry: Windowed, window: Window) -> Window | None:
    """The calendar window that ended where this one begins; None for windows without neighbours."""
    return None if window.end is None else entry.window_at(window.start - 0.001)


def carried(how: str, *, limit: int, spent: Sequence[int], cap: int | None = None) -> int:
    """What the windows before this one (oldest first) leave to it.

    `unused`: what the last one left of its own limit, at most `cap`. `debt`: minus what they overspent in all, each
    window paying off what it has to spare.
    """
    if not spent:
        return 0
    if how == "unused":
        left = max(0, limit - spent[-1])
        return left if cap is None else min(left, cap)
    debt = 0
    for amount in spent:
        debt = max(0, debt + amount - limit)
    return -debt if how == "debt" else 0


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    """The first moment of a local day: a midnight that clocks skip is the moment they change (fold 0)."""
    return datetime.combine(day, time(), zone).astimezone(UTC)


def _hour(at: datetime, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """The elapsed hour on the local clock's grid: an offset of :30 shifts it, a clock change repeats one."""
    at = at.astimezone(UTC)
    local = at.astimezone(zone)
    start = at - timedelta(minutes=local.minute, seconds=local.second, microseconds=local.microsecond)
    end = start + HOUR
    # Lord Howe Island moves its clocks by half an hour: there the change ends one hour and begins the next.
    if _leaves_grid(start, at, zone):
        start = _change_between(start, at, zone)
    if _leaves_grid(at, end, zone):
        end = _change_between(at, end, zone)
    return start, end


def _leaves_grid(before: datetime, after: datetime, zone: ZoneInfo) -> bool:
    return bool((_offset(after, zone) - _offset(before, zone)) % HOUR)


def _change_between(low: datetime, high: datetime, zone: ZoneInfo) -> datetime:
    """When the zone's offset leaves that of `low`. Changes fall on whole minutes."""
    minute = timedelta(minutes=1)
    moment = low.replace(second=0, microsecond=0) + minute
    while moment < high and _offset(moment, zone) == _offset(low, zone):
        moment += minute
    return min(moment, high)


def _offset(moment: datetime, zone: ZoneInfo) -> timedelta:
    return moment.astimezone(zone).utcoffset() or timedelta()


def _days(unit: str, today: date, anchor_day: int, week_start: int) -> tuple[date, date]:
    """First day of the window and of the next one."""
    match unit:
        case "day":
            return today, today + timedelta(days=1)
        case "week":
            first = today - timedelta(days=(today.weekday() - week_start) % 7)
            return first, first + timedelta(days=7)
        case "month":
            return _months(today, anchor_day, 1)
        case "quarter":
            first = date(today.year, 3 * ((today.month - 1) // 3) + 1, 1)
            return first, _anchored(first.year, first.month + 3, 1)
        case "year":
            return date(today.year, 1, 1), date(today.year + 1, 1, 1)
    msg = f"unknown window {unit!r}"
    raise ValueError(msg)


def _months(today: date, anchor_day: int, length: int) -> tuple[date, date]:
    first = _anchored(today.year, today.month, anchor_day)
    if first > today:
        first = _anchored(today.year, today.month - 1, anchor_day)
    return first, _anchored(first.year, first.month + length, anchor_day)


def _anchored(year: int, month: int, anchor_day: int) -> date:
    """The anchor day of that month, or the month's last day; months beyond 1 to 12 roll over."""
    year, month = year + (month - 1) // 12, (month - 1) % 12 + 1
    return date(year, month, min(anchor_day, monthrange(year, month)[1]))


def allows(*, limit: int, spent: int, held: int, estimate: int, mode: str) -> bool:
    """R19b: a hard budget allows a reservation that fits beside what is spent and held; a soft one always."""
    return mode != "hard" or spent + held + estimate <= limit


def due(*, limit: int, spent: int, thresholds: Iterable[int], fired: Collection[int]) -> tuple[int, ...]:
    """R19b: the thresholds (percent of the limit) that `spent` has reached, less those that fired in this
    window already; ascending."""
    return tuple(t for t in sorted(set(thresholds) - set(fired)) if spent * 100 >= limit * t)
