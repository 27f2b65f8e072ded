from datetime import timedelta

import pytest

from tests.billing.invoicing import world
from tests.billing.invoicing.world import OCTOBER

pytestmark = pytest.mark.django_db


def test_a_document_holds_the_base_fee_and_each_meter_rounded_once():
    world.seller()
    tenant = world.buyer(world.plan(base_amount="49"))
    for hour in (1, 2, 3):
        world.use(tenant, OCTOBER + timedelta(hours=hour), input_tokens=700_001, output_tokens=300_000)
    invoice = world.issued(tenant)
    assert world.lines(invoice) == [
        ("base", "1", 4900),
        ("usage", "2100003", 420),
        ("usage", "900000", 720),
    ]
    assert (invoice.net_minor, invoice.tax_minor, invoice.total_minor) == (6040, 1148, 7188)
    assert (invoice.number, invoice.status) == ("ACME-INV-2026-00001", "open")
    assert (str(invoice.issue_date), str(invoice.due_date)) == ("2026-11-01", "2026-11-15")
    assert invoice.parties["buyer"]["name"] == f"{tenant.name} Ltd"
