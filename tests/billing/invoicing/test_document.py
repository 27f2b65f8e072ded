"""What people read: the words of a document, and its PDF."""

from datetime import timedelta

import pytest

from billing.invoicing.document import show, show_credit
from billing.invoicing.issue_credit import issue_credit
from billing.invoicing.pdf import pdf, pictures
from tenants.principal import SYSTEM
from tests.billing.invoicing import world
from tests.billing.invoicing.world import AFTER, OCTOBER

pytestmark = pytest.mark.django_db


@pytest.fixture
def invoice():
    world.seller()
    tenant = world.buyer(world.plan(base_amount="1049"), profile={"purchase_order": "PO-7"})
    world.use(tenant, OCTOBER + timedelta(hours=1), input_tokens=23_100_003, output_tokens=1)
    return world.issued(tenant)


def test_a_document_shows_parties_facts_lines_taxes_and_what_is_due(invoice):
    shown = show(invoice)
    assert (shown.title, shown.number, shown.is_draft) == ("Invoice", "ACME-INV-2026-00001", False)
    assert shown.seller["address"] == ["Torstraße 1", "10119 Berlin", "Germany"]
    assert shown.facts == (
        ("Number", "ACME-INV-2026-00001"),
        ("Issue date", "1 Nov 2026"),
        ("Service period", "1 Oct 2026 \N{EN DASH} 31 Oct 2026"),
        ("Due date", "15 Nov 2026"),
        ("Purchase order", "PO-7"),
    )
    assert [(group.title, group.subtotal) for group in shown.groups] == [
        ("Plan", "1,049.00 EUR"),
        ("Usage", "46.20 EUR"),
    ]
    line = shown.groups[1].lines[0]
    assert (line.description, line.quantity, line.price, line.amount) == (
        "Tokens, input tokens",
        "23,100,003",
        "2.00 / 1,000,000",
        "46.20 EUR",
    )
    assert [(tax.label, tax.taxable, tax.amount) for tax in shown.taxes] == [
        ("VAT 19 %", "1,095.20 EUR", "208.09 EUR")
    ]
    assert shown.due == ("Amount due", "1,303.29 EUR")
    assert shown.payment[0] == ("IBAN", "DE02 1203 0000 0000 2020 51")


def test_a_credit_note_shows_negative_amounts_and_its_invoice(invoice):
    note = issue_credit(
        invoice=invoice, lines=[(invoice.lines.first().pk, 10_000)], reason="Outage", now=AFTER, actor=SYSTEM
    )
    shown = show_credit(note)
    assert shown.due == ("Total credited", "-119.00 EUR")
    assert ("For invoice", invoice.number) in shown.facts
    assert ("Reason", "Outage") in shown.facts
    assert pdf(shown).startswith(b"%PDF-")


def test_the_same_document_gives_the_same_pdf(invoice):
    first, again = pdf(show(invoice)), pdf(show(invoice))
    assert first == again
    assert first.startswith(b"%PDF-1.7")
    assert b"pdfaid" in first


def test_lines_that_do_not_fit_go_on_the_next_page(invoice):
    charges = [
        world.TOKENS | {"models": [f"m{n}"], "name": f"A model with quite a long name, number {n}"}
        for n in range(30)
    ]
    tenant = world.buyer(world.plan("wide", charges=charges))
    for n in range(30):
        world.use(tenant, OCTOBER, model=f"m{n}", input_tokens=1_000_000)
    pages = pictures(show(world.issued(tenant)))
    assert [page[:4] for page in pages] == [b"\x89PNG"] * 2
