"""When a document is overdue and when to remind of it, in the customer's zone (R27). Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo


@dataclass(frozen=True, slots=True)
class Reminder:
    """The step `day` days after the due date (before it, if negative), sent at `at` (UTC)."""

    day: int
    at: datetime


def overdue_from(due_date: date, timezone: str) -> datetime:
    """The local midnight after the due date, in UTC."""
    return _utc(due_date + timedelta(days=1), time(), timezone)


def reminders(
    due_date: date, timezone: str, *, local_time: time, schedule_days: Iterable[int]
) -> tuple[Reminder, ...]:
    """One reminder for each of the schedule's days, in its order. A local time that clocks skip on that day
    is the moment as long after the change; of two equal times it is the first."""
    return tuple(
        Reminder(day, _utc(due_date + timedelta(days=day), local_time, timezone)) for day in schedule_days
    )


def _utc(day: date, local_time: time, timezone: str) -> datetime:
    return datetime.combine(day, local_time, ZoneInfo(timezone)).astimezone(UTC)
