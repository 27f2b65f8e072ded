from datetime import UTC, date, datetime, time

from billing.invoicing.dunning import Reminder, overdue_from, reminders


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_a_document_is_overdue_from_the_local_midnight_after_its_due_date():
    assert overdue_from(date(2026, 3, 6), "America/New_York") == utc("2026-03-07T05:00")
    assert overdue_from(date(2026, 12, 31), "Asia/Tokyo") == utc("2026-12-31T15:00")


def test_reminders_keep_their_local_time_across_clock_changes():
    found = reminders(date(2026, 3, 27), "Europe/Berlin", local_time=time(9), schedule_days=[-7, 1, 3])
    assert found == (
        Reminder(-7, utc("2026-03-20T08:00")),
        Reminder(1, utc("2026-03-28T08:00")),
        Reminder(3, utc("2026-03-30T07:00")),
    )


def test_a_skipped_local_time_is_as_long_after_the_change_and_a_doubled_one_the_first():
    (skipped,) = reminders(date(2026, 3, 29), "Europe/Berlin", local_time=time(2, 30), schedule_days=[0])
    assert skipped.at == utc("2026-03-29T01:30")
    (doubled,) = reminders(date(2026, 10, 25), "Europe/Berlin", local_time=time(2, 30), schedule_days=[0])
    assert doubled.at == utc("2026-10-25T00:30")
