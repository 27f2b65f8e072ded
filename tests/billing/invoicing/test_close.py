from datetime import UTC, datetime, timedelta

import pytest

from billing.invoicing.close import close_due, due
from billing.invoicing.finalize import finalize
from billing.models import ClosedPeriod, Invoice, LegalEntity
from billing.subscriptions import change_plan
from billing.tasks import close_periods
from tenants.principal import SYSTEM
from tests.billing.invoicing import world
from tests.billing.invoicing.world import AFTER, NOVEMBER, OCTOBER

pytestmark = pytest.mark.django_db

DECEMBER = datetime(2026, 12, 1, tzinfo=UTC)


def numbers():
    return list(Invoice.objects.exclude(number=None).order_by("number").values_list("number", flat=True))


def test_a_period_is_closed_once_its_grace_is_over_and_never_again():
    world.seller()
    world.buyer(world.plan(base_amount="49"))
    assert close_due(now=NOVEMBER + timedelta(hours=6) - timedelta(seconds=1)) == (0, 0)
    assert close_due(now=NOVEMBER + timedelta(hours=6)) == (1, 0)
    assert close_due(now=AFTER + timedelta(days=3)) == (0, 0)
    assert numbers() == ["ACME-INV-2026-00001"]


def test_where_a_clerk_finalizes_the_clock_only_drafts():
    world.seller(auto_finalize=False)
    world.buyer(world.plan(base_amount="49"))
    assert close_due(now=AFTER) == (1, 0)
    assert close_due(now=AFTER + timedelta(minutes=5)) == (0, 0)
    assert list(Invoice.objects.values_list("status", "number")) == [("draft", None)]
    LegalEntity.objects.update(auto_finalize=True)
    assert close_due(now=AFTER + timedelta(minutes=10)) == (1, 0)
    assert numbers() == ["ACME-INV-2026-00001"]


def test_a_run_that_died_after_the_draft_goes_on_from_there():
    world.seller()
    tenant = world.buyer(world.plan(base_amount="49"))
    world.drafted(tenant)
    assert close_due(now=AFTER + timedelta(minutes=5)) == (1, 0)
    assert (numbers(), Invoice.objects.count()) == (["ACME-INV-2026-00001"], 1)


def test_a_period_worth_nothing_is_closed_without_a_document_and_its_late_usage_is_billed():
    world.seller()
    tenant = world.buyer(world.plan())
    assert close_due(now=AFTER) == (1, 0)
    assert close_due(now=AFTER + timedelta(minutes=5)) == (0, 0)
    closed = ClosedPeriod.objects.get()
    assert (closed.start, closed.invoice, Invoice.objects.count()) == (OCTOBER, None, 0)
    world.use(tenant, OCTOBER, recorded_at=AFTER + timedelta(hours=1), input_tokens=1_000_000)
    assert close_due(now=DECEMBER + timedelta(hours=7)) == (1, 0)
    assert world.lines(Invoice.objects.get()) == [("adjustment", "1000000", 200)]


def test_unpriced_calls_leave_the_document_to_a_clerk():
    world.seller()
    tenant = world.buyer(world.plan(base_amount="49"))
    world.use(tenant, OCTOBER, price_pico=None, input_tokens=1)
    assert close_due(now=AFTER) == (1, 0)
    assert Invoice.objects.get().status == "draft"


def test_a_negative_document_waits_for_a_clerk():
    """R15."""
    world.seller()
    tenant = world.buyer(world.plan("large", base_amount="62", is_in_advance=True))
    assert close_due(now=OCTOBER + timedelta(hours=1)) == (1, 0)
    small = world.plan("small", base_amount="31")
    change_plan(tenant=tenant, plan=small, at=datetime(2026, 10, 2, 9, tzinfo=UTC), actor=SYSTEM)
    assert close_due(now=AFTER) == (1, 0)
    draft = Invoice.objects.get(occasion="period")
    assert world.lines(draft) == [("proration", "-30", -6000), ("base", "30", 3000)]
    assert (draft.status, draft.document, draft.amount_due_minor) == ("draft", "credit_note", 0)
    made = finalize(invoice=draft, now=AFTER + timedelta(minutes=2), actor=SYSTEM)
    assert (made.number, made.status, made.total_minor) == ("ACME-CN-2026-00001", "paid", -3570)


def test_a_fee_in_advance_is_charged_when_the_plan_begins_and_not_again_with_the_period():
    world.seller()
    world.buyer(world.plan(base_amount="31", is_in_advance=True), start=datetime(2026, 10, 22, 9, tzinfo=UTC))
    assert close_due(now=datetime(2026, 10, 22, 9, 5, tzinfo=UTC)) == (1, 0)
    assert close_due(now=datetime(2026, 10, 23, tzinfo=UTC)) == (0, 0)
    opening = Invoice.objects.get()
    assert (opening.occasion, world.lines(opening)) == ("opening", [("base", "10", 1000)])
    assert close_due(now=AFTER) == (1, 0)
    october = Invoice.objects.get(occasion="period")
    assert [(line.kind, line.period_start, line.net_minor) for line in october.lines.all()] == [
        ("base", NOVEMBER, 3100)
    ]
    assert close_due(now=AFTER + timedelta(minutes=5)) == (0, 0)


def test_one_tenants_trouble_does_not_hold_up_the_others():
    world.seller()
    taxed = {"model": "standard", "tax": "unknown", "components": {"input": {"price": "1"}}}
    poor = world.buyer(world.plan("odd", charges=[taxed]))
    world.use(poor, OCTOBER, input_tokens=1)
    world.buyer(world.plan(base_amount="49"))
    assert close_due(now=AFTER) == (1, 1)
    assert Invoice.objects.get().number == "ACME-INV-2026-00001"


def test_periods_from_before_the_seller_bills_and_without_a_seller_are_left_alone():
    tenant = world.buyer(world.plan(base_amount="49"))
    assert list(due(now=AFTER)) == []
    world.seller(bills_from=NOVEMBER)
    assert list(due(now=AFTER)) == []
    assert {each.tenant_id for each in due(now=DECEMBER + timedelta(hours=7))} == {tenant.pk}


def test_a_voided_period_is_not_invoiced_again_by_the_clock():
    world.seller()
    world.buyer(world.plan(base_amount="49"))
    close_due(now=AFTER)
    Invoice.objects.update(status="void")
    assert close_due(now=AFTER + timedelta(minutes=5)) == (0, 0)
    assert Invoice.objects.count() == 1


def test_the_task_closes_what_is_due_now():
    world.seller(bills_from=datetime(2026, 1, 1, tzinfo=UTC))
    world.buyer(world.plan(base_amount="49"))
    assert close_periods() == Invoice.objects.count()
    assert close_periods() == 0
