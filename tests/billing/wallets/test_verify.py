from decimal import Decimal

import pytest
from django.db import connection

from billing.invoicing.issue_credit import issue_credit
from billing.payments import book as payments
from billing.rating.money import PICO
from billing.usage.verify import verify
from billing.wallets import book
from billing.wallets.verify import wallet_checks
from tenants.principal import SYSTEM
from tests.billing.invoicing import world

AFTER = world.AFTER


@pytest.fixture
def tenant(db):
    """Credit given, drawn by an invoice, partly returned; a top-up paid."""
    world.seller()
    tenant = world.buyer(world.plan(base_amount="10"))
    for amount, category in (("5", "promotional"), ("100", "paid")):
        book.grant(
            tenant=tenant, currency="EUR", amount_pico=int(Decimal(amount) * PICO), category=category,
            at=world.OCTOBER, actor=SYSTEM,
        )  # fmt: skip
    invoice = world.issued(tenant)
    issue_credit(
        invoice=invoice, lines=[(invoice.lines.get().pk, 500)], reason="half", now=AFTER, actor=SYSTEM
    )
    payment = payments.ask_for_top_up(
        tenant=tenant, currency="EUR", amount_minor=700, key="k", now=AFTER, actor=SYSTEM
    )
    payments.confirm_manual(payment=payment, reference="r", now=AFTER, actor=SYSTEM)
    return tenant


def broken():
    return [check.name for check in wallet_checks() if not check.ok]


def tamper(statement):
    """What only a superuser past the triggers could do."""
    with connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
        cursor.execute(statement)
        cursor.execute("SET session_replication_role = DEFAULT")


def test_the_wallets_prove_themselves_and_the_ledgers_proof_holds_them(tenant):
    assert broken() == []
    names = {check.name for check in wallet_checks()}
    assert names <= {check.name for check in verify().checks}


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("UPDATE billing_wallet SET balance_pico = balance_pico + 1", "wallet balance = its entries (I5)"),
        ("UPDATE billing_creditgrant SET remaining_pico = remaining_pico - 1 WHERE source = 'top_up'",
         "wallet balance = its entries (I5)"),
        ("UPDATE billing_invoice SET prepaid_minor = prepaid_minor + 1",
         "credit applied to documents = its draws (I5)"),
        ("UPDATE billing_creditgrant SET amount_pico = amount_pico + 1 WHERE source = 'credit_note'",
         "credit notes' return to wallets = their grants (I5)"),
        ("UPDATE billing_payment SET invoice_minor = 1", "payments = invoices paid + credit granted (I5)"),
    ],
)  # fmt: skip
def test_each_tampering_is_found_by_its_check(tenant, statement, name):
    tamper(statement)
    assert broken() == [name]
