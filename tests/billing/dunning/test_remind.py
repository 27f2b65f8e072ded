from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from django.core import mail

from billing.dunning import remind
from billing.invoicing.mark_paid import mark_paid
from billing.models import DunningHold, DunningReminder, DunningSchedule
from tenants.errors import ApiError
from tenants.models import AuditEvent
from tenants.principal import SYSTEM
from tests import factories
from tests.billing.invoicing import world
from tests.factories import client_with

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.billing.urls")]
DAY = timedelta(days=1)


@pytest.fixture
def invoice():
    seller = world.seller()
    DunningSchedule.objects.create(legal_entity=seller, days=[-2, 3, 10])
    tenant = world.buyer(
        world.plan(base_amount="10"), timezone="Europe/Berlin", profile={"emails": ["ap@buyer.example"]}
    )
    made = world.issued(tenant)
    assert made.due_date == date(2026, 11, 15)
    return made


def at(day, hour, minute=0, month=11):
    """UTC; Berlin is one hour ahead in November."""
    return datetime(2026, month, day, hour, minute, tzinfo=UTC)


def run(now):
    remind.plan(now=now)
    return remind.send_due(now=now)


def states(invoice):
    rows = DunningReminder.objects.filter(invoice=invoice).order_by("day")
    return [(row.day, row.state) for row in rows]


def test_each_step_is_sent_once_at_its_local_hour(invoice):
    assert run(at(13, 7, 59)) == 0
    assert states(invoice) == [(-2, "pending"), (3, "pending"), (10, "pending")]
    assert (run(at(13, 8)), run(at(13, 8)), run(at(18, 7, 59)), run(at(18, 8))) == (1, 0, 0, 1)
    assert [each.subject for each in mail.outbox] == [
        "Acme AI GmbH: invoice ACME-INV-2026-00001 is due soon",
        "Acme AI GmbH: invoice ACME-INV-2026-00001 is overdue",
    ]
    message = mail.outbox[1]
    assert message.to == ["ap@buyer.example"]
    assert "11.90 EUR are overdue" in message.body
    assert "IBAN: DE02120300000000202051" in message.body
    (html,) = message.alternatives
    assert "Invoice ACME-INV-2026-00001 is overdue" in html.content
    assert message.extra_headers["Message-ID"].startswith(f"<{DunningReminder.objects.get(day=3).pk}@")
    assert AuditEvent.objects.filter(action="invoice.remind").count() == 2


def test_planning_again_adds_nothing_but_new_steps(invoice):
    assert (remind.plan(now=at(2, 0)), remind.plan(now=at(2, 0))) == (3, 0)
    DunningSchedule.objects.update(days=[-2, 3, 10, 20])
    assert remind.plan(now=at(2, 0)) == 1


def test_after_an_outage_the_last_step_alone_is_sent(invoice):
    assert run(at(30, 8)) == 1
    assert states(invoice) == [(-2, "skipped"), (3, "skipped"), (10, "sent")]
    assert len(mail.outbox) == 1


def test_nobody_is_reminded_of_what_is_paid(invoice):
    remind.plan(now=at(2, 0))
    mark_paid(invoice=invoice, reference="r", now=at(12, 0), actor=SYSTEM)
    assert run(at(30, 8)) == 0
    assert {state for _, state in states(invoice)} == {"skipped"}
    assert mail.outbox == []


def test_a_part_payment_is_taken_off_what_is_asked_for(invoice):
    mark_paid(invoice=invoice, reference="r", now=at(12, 0), actor=SYSTEM, amount_minor=190)
    run(at(18, 8))
    assert "10.00 EUR are overdue" in mail.outbox[0].body


def test_a_pause_puts_off_and_a_stop_ends_reminders(invoice):
    remind.hold(invoice=invoice, until=at(17, 0), reason="dispute", now=at(12, 0), actor=SYSTEM)
    assert (run(at(13, 8)), run(at(16, 23)), run(at(17, 0))) == (0, 0, 1)
    remind.hold(invoice=invoice, until=None, reason="lawyer", now=at(17, 1), actor=SYSTEM)
    assert run(at(18, 8)) == 0
    remind.resume(invoice=invoice, now=at(20, 0), actor=SYSTEM)
    assert run(at(25, 8)) == 1
    assert states(invoice) == [(-2, "sent"), (3, "skipped"), (10, "sent")]
    with pytest.raises(ApiError, match="not held back"):
        remind.resume(invoice=invoice, now=at(20, 0), actor=SYSTEM)
    with pytest.raises(ApiError) as refused:
        remind.hold(invoice=invoice, until=at(20, 0), reason="x", now=at(20, 0), actor=SYSTEM)
    assert refused.value.param == "until"
    assert not DunningHold.objects.exists()


def test_without_addresses_owners_and_billing_people_are_reminded_and_without_those_it_fails(invoice):
    invoice.tenant.billing_profile.emails = []
    invoice.tenant.billing_profile.save()
    run(at(13, 8))
    assert DunningReminder.objects.get(day=-2).detail == "Nobody's address is known."
    factories.member(invoice.tenant, "viewer", person=factories.user("viewer@buyer.example"))
    factories.member(invoice.tenant, "billing", person=factories.user("bill@buyer.example"))
    run(at(18, 8))
    assert [each.to for each in mail.outbox] == [["bill@buyer.example"]]


def test_a_mail_server_that_is_away_is_tried_again_and_given_up(invoice, settings):
    settings.MAILERS = {
        "default": {
            "BACKEND": "django.core.mail.backends.smtp.EmailBackend",
            "OPTIONS": {"host": "127.0.0.1", "port": 1, "timeout": 2},
        }
    }
    now = at(13, 8)
    for attempt in range(1, 6):
        assert run(now) == 1
        held = DunningReminder.objects.get(day=-2)
        assert held.attempts == attempt
        now = held.next_at
    assert (held.state, held.detail) == (
        "failed",
        "The mail could not be handed over (ConnectionRefusedError).",
    )


def test_an_invoice_is_overdue_from_the_local_midnight_after_its_day(invoice):
    assert not remind.is_overdue(invoice, at(15, 22, 59))
    assert remind.is_overdue(invoice, at(15, 23))


# ------------------------------------------------------------------ REST

API = "/api/v1"


def error_of(response: Any) -> tuple[int, str, str | None]:
    error = response.json()["error"]
    return response.status_code, error["code"], error["param"]


def test_a_clerk_sets_the_schedule_and_holds_an_invoice_back(invoice):
    clerk = client_with(None, "payments:*")
    (schedule,) = clerk.get(f"{API}/dunning-schedules/").json()["data"]
    assert (schedule["legal_entity"], schedule["days"], schedule["local_time"]) == (
        "acme-gmbh",
        [-2, 3, 10],
        "09:00:00",
    )
    path = f"{API}/dunning-schedules/{schedule['id']}/"
    assert clerk.patch(path, {"days": [14, 7]}, format="json").json()["days"] == [7, 14]
    assert error_of(clerk.patch(path, {"days": [7, 7]}, format="json")) == (400, "invalid_request", "days")
    path = f"{API}/invoices/{invoice.pk}/dunning/"
    held = clerk.put(path, {"until": None, "reason": "dispute"}, format="json").json()["held"]
    assert held == {"until": None, "reason": "dispute"}
    assert clerk.delete(path).json()["held"] is None
    assert error_of(clerk.delete(path))[:2] == (409, "conflict")


def test_a_tenant_sees_its_reminders_and_changes_none(invoice):
    run(at(13, 8))
    own = client_with(invoice.tenant, "*")
    path = f"{API}/invoices/{invoice.pk}/dunning/"
    assert [each["state"] for each in own.get(path).json()["reminders"]] == ["sent", "pending", "pending"]
    assert len(own.get(f"{API}/reminders/?state=sent").json()["data"]) == 1
    assert error_of(own.put(path, {"until": None, "reason": "x"}, format="json"))[:2] == (
        403,
        "permission_denied",
    )
    other = client_with(factories.tenant(), "*")
    assert error_of(other.get(path))[:2] == (404, "not_found")
    assert error_of(other.put(path, {"until": None, "reason": "x"}, format="json"))[:2] == (404, "not_found")
    assert other.get(f"{API}/reminders/").json()["data"] == []
