"""Documents in another currency than their costs (R23)."""

from datetime import timedelta

import pytest

from billing.invoicing.preview import preview
from billing.invoicing.verify import document_checks
from billing.models import FxRate
from tests.billing.invoicing import world
from tests.billing.invoicing.world import AFTER, OCTOBER

pytestmark = pytest.mark.django_db


def test_costs_in_another_currency_are_converted_at_the_rate_of_each_day():
    world.seller()
    charge = {"model": "cost_plus", "markup_percent": "10"}
    tenant = world.buyer(world.plan(charges=[charge]))
    for number, (rate, cost) in enumerate((("0.90", 10), ("0.80", 20))):
        at = OCTOBER + timedelta(days=number + 1)
        FxRate.objects.create(base="USD", quote="EUR", day=at.date(), rate=rate)
        world.use(tenant, at, input_tokens=1, cost_currency="USD", cost_pico=cost * 10**12)
    shown = preview(tenant=tenant, now=AFTER, at=OCTOBER)
    drafted = world.drafted(tenant).invoice
    issued = world.issued(tenant)
    by_hand = 2750  # (10 USD at 0.90 + 20 USD at 0.80) and 10 %
    assert [line.amount_minor for line in shown.lines] == [by_hand]
    assert drafted.subtotal_minor == issued.subtotal_minor == by_hand
    assert shown.rating_hash == drafted.rating_hash == issued.rating_hash
    assert all(check.ok for check in document_checks(since=None, until=None))
