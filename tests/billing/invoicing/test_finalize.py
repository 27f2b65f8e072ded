from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from django.db import DatabaseError, connection, transaction

from billing.invoicing.counter import take_number
from billing.invoicing.finalize import finalize
from billing.invoicing.issue_credit import issue_credit
from billing.invoicing.mark_paid import mark_paid
from billing.invoicing.uncollectible import mark_uncollectible
from billing.invoicing.void import void
from billing.models import (
    BillingProfile,
    ClosedPeriod,
    CreditNote,
    DocumentCounter,
    Invoice,
    InvoiceLine,
    LegalEntity,
)
from tenants.errors import ApiError
from tenants.principal import SYSTEM
from tests.billing.invoicing import world
from tests.billing.invoicing.world import AFTER, NOVEMBER, OCTOBER

pytestmark = pytest.mark.django_db


@pytest.fixture
def tenant():
    world.seller()
    made = world.buyer(world.plan(base_amount="49"))
    world.use(made, OCTOBER, input_tokens=1_000_000)
    return made


@pytest.fixture
def invoice(tenant):
    return world.issued(tenant)


def refusal(verb, **arguments):
    with pytest.raises(ApiError) as refused:
        verb(now=AFTER, actor=SYSTEM, **arguments)
    return refused.value.code


def test_a_finalized_invoice_has_number_dates_parties_and_closes_its_period(tenant):
    BillingProfile.objects.filter(tenant=tenant).update(net_days=30)
    made = world.issued(tenant, now=datetime(2026, 12, 31, 23, 30, tzinfo=UTC))
    assert made.number == "ACME-INV-2027-00001"  # Berlin is in the next year already
    assert (str(made.issue_date), str(made.due_date)) == ("2027-01-01", "2027-01-31")
    closed = ClosedPeriod.objects.get(tenant=tenant)
    assert (closed.start, closed.end, closed.invoice_id) == (OCTOBER, NOVEMBER, made.pk)
    LegalEntity.objects.update(name="Renamed")
    BillingProfile.objects.update(legal_name="Renamed")
    made.refresh_from_db()
    assert (made.parties["seller"]["name"], made.parties["buyer"]["name"]) == (
        "Acme AI GmbH",
        f"{tenant.name} Ltd",
    )


def test_it_is_finalized_once_and_not_before_its_period_is_over(tenant):
    draft = world.drafted(tenant, now=OCTOBER + timedelta(days=2)).invoice
    with pytest.raises(ApiError) as refused:
        finalize(invoice=draft, now=NOVEMBER - timedelta(seconds=1), actor=SYSTEM)
    assert refused.value.code == "conflict"
    made = finalize(invoice=draft, now=NOVEMBER, actor=SYSTEM)
    assert refusal(finalize, invoice=made) == "conflict"
    assert DocumentCounter.objects.get().last == 1


def test_a_draft_that_no_longer_says_what_its_ledger_says_is_refused_and_takes_no_number(tenant):
    draft = world.drafted(tenant).invoice
    world.use(tenant, OCTOBER, input_tokens=1_000_000)  # recorded below the draft's watermark
    assert refusal(finalize, invoice=draft) == "conflict"
    assert not DocumentCounter.objects.exists()
    draft.refresh_from_db()
    assert (draft.status, draft.number) == ("draft", None)
    assert world.issued(tenant).net_minor == 4900 + 400


def test_nothing_to_invoice_is_no_document_unless_the_buyer_wants_it():
    """R17."""
    world.seller()
    tenant = world.buyer(world.plan())
    draft = world.drafted(tenant).invoice
    assert (draft.document, refusal(finalize, invoice=draft)) == ("none", "conflict")
    BillingProfile.objects.update(issue_zero_invoices=True)
    made = world.issued(tenant)
    assert (made.number, made.total_minor, made.status) == ("ACME-INV-2026-00001", 0, "paid")


def test_a_rolled_back_transaction_uses_no_number(tenant):
    """R16."""
    draft = world.drafted(tenant).invoice
    with transaction.atomic():
        assert finalize(invoice=draft, now=AFTER, actor=SYSTEM).number == "ACME-INV-2026-00001"
        transaction.set_rollback(True)
    assert not DocumentCounter.objects.exists()
    assert finalize(invoice=draft, now=AFTER, actor=SYSTEM).number == "ACME-INV-2026-00001"


def test_each_series_and_year_counts_apart():
    seller = world.seller()
    with transaction.atomic():
        taken = [
            take_number(seller=seller, series=series, at=at)
            for series, at in (
                ("INV", AFTER),
                ("INV", AFTER),
                ("CN", AFTER),
                ("INV", AFTER.replace(year=2027)),
            )
        ]
    assert taken == [
        "ACME-INV-2026-00001",
        "ACME-INV-2026-00002",
        "ACME-CN-2026-00001",
        "ACME-INV-2027-00001",
    ]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE billing_invoice SET total_minor = total_minor + 1, net_minor = net_minor + 1",
        "UPDATE billing_invoice SET number = 'X-INV-2026-00009'",
        "UPDATE billing_invoice SET parties = '{}'",
        "UPDATE billing_invoice SET status = 'draft', number = NULL",
        "DELETE FROM billing_invoice",
        "UPDATE billing_invoiceline SET description = 'other'",
        "DELETE FROM billing_invoiceline",
        "TRUNCATE billing_invoiceline CASCADE",
    ],
)
def test_a_finalized_invoice_stands_whatever_sql_says(invoice, statement):
    before = (Invoice.objects.values().get(), list(InvoiceLine.objects.values()))
    with pytest.raises(DatabaseError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)
    assert (Invoice.objects.values().get(), list(InvoiceLine.objects.values())) == before


def test_no_line_is_added_to_a_finalized_invoice(invoice):
    line = invoice.lines.first()
    line.pk, line.position = uuid4(), 99
    with pytest.raises(DatabaseError), transaction.atomic():
        line.save(force_insert=True)
    assert invoice.lines.count() == 2


def test_a_void_invoice_keeps_its_number_and_its_period_can_be_invoiced_again(tenant, invoice):
    made = void(invoice=invoice, reason="Wrong buyer", now=AFTER, actor=SYSTEM)
    assert (made.status, made.number, made.status_reason) == ("void", "ACME-INV-2026-00001", "Wrong buyer")
    again = world.issued(tenant)
    assert (again.number, again.total_minor) == ("ACME-INV-2026-00002", invoice.total_minor)
    assert ClosedPeriod.objects.get().invoice_id == again.pk
    assert refusal(void, invoice=made, reason="again") == "conflict"


def test_what_was_paid_or_credited_is_not_voided(tenant, invoice):
    mark_paid(invoice=invoice, reference="1", amount_minor=1, now=AFTER, actor=SYSTEM)
    assert refusal(void, invoice=invoice, reason="x") == "conflict"
    invoice.refresh_from_db()
    assert (invoice.status, invoice.paid_minor) == ("open", 1)


def test_an_uncollectible_invoice_may_still_be_paid(invoice):
    made = mark_uncollectible(invoice=invoice, reason="Insolvent", now=AFTER, actor=SYSTEM)
    assert made.status == "uncollectible"
    assert refusal(mark_uncollectible, invoice=made, reason="x") == "conflict"
    paid = mark_paid(invoice=made, reference="Estate", now=AFTER, actor=SYSTEM)
    assert (paid.status, paid.balance_minor, paid.paid_at) == ("paid", 0, AFTER)
    assert refusal(mark_paid, invoice=paid, reference="again") == "conflict"


def test_crediting_everything_in_parts_gives_back_exactly_the_tax(invoice):
    """R14b: in three notes, each rounded by what was credited before."""
    base, usage = invoice.lines.all()
    for nets in ([(base.pk, 3333)], [(base.pk, 1567), (usage.pk, 1)], [(usage.pk, 199)]):
        issue_credit(invoice=invoice, lines=nets, reason="Outage", now=AFTER, actor=SYSTEM)
    notes = CreditNote.objects.order_by("number")
    assert [note.number for note in notes] == [f"ACME-CN-2026-0000{n}" for n in (1, 2, 3)]
    assert sum(note.net_minor for note in notes) == invoice.net_minor
    assert sum(note.tax_minor for note in notes) == invoice.tax_minor
    invoice.refresh_from_db()
    assert (invoice.status, invoice.credited_minor, invoice.balance_minor) == (
        "paid",
        invoice.total_minor,
        0,
    )


def test_a_note_above_what_is_left_is_refused_whole_and_takes_no_number(invoice):
    base, usage = invoice.lines.all()
    code = refusal(issue_credit, invoice=invoice, lines=[(base.pk, 100), (usage.pk, 201)], reason="x")
    assert code == "invalid_request"
    assert not CreditNote.objects.exists()
    assert list(DocumentCounter.objects.values_list("series", "last")) == [("INV", 1)]


def test_a_credit_of_a_paid_invoice_is_refundable(invoice):
    mark_paid(invoice=invoice, reference="1", now=AFTER, actor=SYSTEM)
    base = invoice.lines.first()
    note = issue_credit(invoice=invoice, lines=[(base.pk, 1000)], reason="x", now=AFTER, actor=SYSTEM)
    assert (note.reduces_open_minor, note.refundable_minor, note.to_wallet_minor) == (0, 1190, 0)
    for statement in ("UPDATE billing_creditnote SET reason = 'y'", "DELETE FROM billing_creditnoteline"):
        with pytest.raises(DatabaseError), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(statement)
