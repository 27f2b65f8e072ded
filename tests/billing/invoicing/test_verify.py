# ruff: noqa: S608 - statements are put together from this module's own constants

from datetime import UTC, datetime

import pytest
from django.db import connection

from billing.invoicing.issue_credit import issue_credit
from billing.invoicing.verify import document_checks
from billing.usage.verify import verify
from tenants.principal import SYSTEM
from tests.billing.invoicing import world
from tests.billing.invoicing.world import AFTER, NOVEMBER, OCTOBER

pytestmark = pytest.mark.django_db

NAMES = {
    "I3": "documents = ledger (I3)",
    "I4": "documents = sum of their lines and taxes (I4)",
    "I6": "credit notes stay within their invoice (I6)",
    "I7": "document numbers run from 1 without a gap (I7)",
}

RAISED = "net_minor = net_minor + 1, amount_minor = amount_minor + 1"
TAXED = (
    "tax_minor = tax_minor + 1, total_minor = total_minor + 1, reduces_open_minor = reduces_open_minor + 1"
)


@pytest.fixture
def books():
    """October invoiced and partly credited, late usage of it on November's document."""
    world.seller()
    tenant = world.buyer(world.plan(base_amount="49", min_commitment="1"))
    world.use(tenant, OCTOBER, input_tokens=1_000_000)
    october = world.issued(tenant)
    world.use(tenant, OCTOBER, recorded_at=AFTER, input_tokens=2_000_000)
    world.issued(tenant, at=NOVEMBER, now=datetime(2026, 12, 1, 7, tzinfo=UTC))
    issue_credit(
        invoice=october, lines=[(october.lines.first().pk, 333)], reason="x", now=AFTER, actor=SYSTEM
    )
    return tenant


def broken():
    return {check.name for check in document_checks(since=None, until=None) if not check.ok}


def test_the_books_of_documents_hold_and_are_part_of_the_proof(books):
    proof = verify()
    assert proof.ok
    assert set(NAMES.values()) <= {check.name for check in proof.checks}
    (numbers,) = (check for check in proof.checks if check.name == NAMES["I7"])
    assert numbers.detail == "3 numbers"


@pytest.mark.parametrize(
    ("statement", "names"),
    [
        ("UPDATE billing_usage_event SET input_tokens = input_tokens + 1000000", {"I3"}),
        ("UPDATE billing_invoice SET rating_hash = 'x' WHERE number LIKE '%1'", {"I3"}),
        (f"UPDATE billing_invoiceline SET {RAISED} WHERE kind = 'base'", {"I4"}),
        (f"UPDATE billing_invoiceline SET {RAISED} WHERE kind = 'adjustment'", {"I3", "I4"}),
        ("UPDATE billing_invoice SET tax_minor = tax_minor + 1, total_minor = total_minor + 1", {"I4"}),
        (f"UPDATE billing_creditnote SET {TAXED}", {"I6"}),
        ("UPDATE billing_invoice SET credited_minor = 0", {"I6"}),
        ("UPDATE billing_invoice SET number = 'ACME-INV-2026-00003' WHERE number LIKE '%2'", {"I7"}),
        ("UPDATE billing_documentcounter SET last = last + 1 WHERE series = 'CN'", {"I7"}),
    ],
)  # fmt: skip
def test_what_was_changed_behind_the_triggers_is_found(books, statement, names):
    with connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
        cursor.execute(statement)
        cursor.execute("SET session_replication_role = DEFAULT")
    assert broken() == {NAMES[name] for name in names}
