"""What the clock calls for wallets, payments, reminders and subscriptions; twice, without harm."""

from datetime import timedelta

import pytest
from django.utils import timezone

from billing import tasks
from billing.models import CreditGrant, Payment
from billing.payments import book as payments
from billing.rating.money import PICO
from billing.subscriptions import schedule
from billing.wallets import book
from gateway.celery import app
from tenants.principal import SYSTEM
from tests.billing.invoicing import world

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    "name", ["change_subscriptions", "expire_credit", "move_payments", "remind_of_invoices"]
)
def test_each_stands_on_the_clock_and_has_nothing_to_do_at_first(name):
    assert f"billing.tasks.{name}" in {entry["task"] for entry in app.conf.beat_schedule.values()}
    assert getattr(tasks, name)() == 0


def test_what_is_due_is_done_once():
    now = timezone.now()
    tenant = world.buyer(world.plan(), start=now - timedelta(days=70))
    held = book.grant(
        tenant=tenant, currency="EUR", amount_pico=PICO, category="paid", at=now - timedelta(days=2),
        effective_at=now - timedelta(days=2), expires_at=now - timedelta(days=1), actor=SYSTEM,
    )  # fmt: skip
    assert (tasks.expire_credit(), tasks.expire_credit()) == (1, 0)
    assert CreditGrant.objects.get(pk=held.pk).remaining_pico == 0
    payments.ask_for_top_up(tenant=tenant, currency="EUR", amount_minor=500, key="k", now=now, actor=SYSTEM)
    assert (tasks.move_payments(), tasks.move_payments()) == (1, 0)
    assert Payment.objects.get().status == "pending"
    schedule(tenant=tenant, plan=None, now=now - timedelta(days=40), actor=SYSTEM)
    assert (tasks.change_subscriptions(), tasks.change_subscriptions()) == (1, 0)
