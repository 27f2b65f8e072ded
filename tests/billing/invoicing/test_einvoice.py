from datetime import timedelta
from decimal import Decimal

import pytest

from billing.invoicing.einvoice import factur_x, xml
from billing.invoicing.issue_credit import issue_credit
from billing.models import Coupon, TenantCoupon
from tenants.errors import ApiError
from tenants.principal import SYSTEM
from tests.billing.invoicing import world
from tests.billing.invoicing.world import AFTER, OCTOBER

facturx = pytest.importorskip("facturx", reason="the extra einvoice is not installed")
pytestmark = pytest.mark.django_db


@pytest.fixture
def invoice():
    world.seller()
    charges = [world.TOKENS, {"model": "byok", "fixed_per_request": "0.10"}]
    tenant = world.buyer(world.plan(base_amount="49", charges=charges))
    world.use(tenant, OCTOBER + timedelta(hours=1), input_tokens=2_500_000, output_tokens=1)
    world.use(tenant, OCTOBER + timedelta(hours=2), is_byok=True, input_tokens=5, price_pico=10**11)
    coupon = Coupon.objects.create(code="ten", name="Ten percent", kind="percent", value=10)
    TenantCoupon.objects.create(tenant=tenant, coupon=coupon, redeemed_at=OCTOBER)
    return world.issued(tenant)


@pytest.mark.parametrize("form", ["cii", "ubl"])
def test_an_issued_invoice_is_valid_xml_that_says_the_same(invoice, form):
    made = xml(invoice, form)
    read = facturx.parse_ubl_cii_xml(made)
    assert read["BT-1"] == "ACME-INV-2026-00001"
    assert read["BT-3"] == "380"
    assert {name: Decimal(read[name]) for name in ("BT-106", "BT-109", "BT-110", "BT-112", "BT-115")} == {
        "BT-106": Decimal("48.69"),
        "BT-109": Decimal("48.69"),
        "BT-110": Decimal("9.25"),
        "BT-112": Decimal("57.94"),
        "BT-115": Decimal("57.94"),
    }
    tokens = read["BG-25"][1]
    assert (Decimal(tokens["BT-129"]), Decimal(tokens["BT-146"]), Decimal(tokens["BT-149"])) == (
        Decimal(2_500_000),
        Decimal(2),
        Decimal(1_000_000),
    )
    assert Decimal(tokens["BT-131"]) == Decimal("4.50")


def test_reverse_charge_is_category_ae_with_both_vat_ids_and_the_reason():
    world.seller()
    tenant = world.buyer(
        world.plan(base_amount="49"), profile={"tax_treatment": "reverse_charge", "vat_id": "ATU12345678"}
    )
    read = facturx.parse_ubl_cii_xml(xml(world.issued(tenant), "cii"))
    (tax,) = read["BG-23"]
    assert (tax["BT-118"], Decimal(tax["BT-119"]), Decimal(tax["BT-117"])) == ("AE", Decimal(0), Decimal(0))
    assert "Reverse charge" in tax["BT-120"]
    assert (read["BG-4"]["vat_identifier"], read["BG-7"]["vat_identifier"]) == ("DE123456789", "ATU12345678")


def test_a_credit_note_names_its_invoice_in_positive_amounts(invoice):
    line = invoice.lines.get(kind="base")
    note = issue_credit(invoice=invoice, lines=[(line.pk, 1000)], reason="Outage", now=AFTER, actor=SYSTEM)
    read = facturx.parse_ubl_cii_xml(xml(note, "cii"))
    assert (read["BT-3"], Decimal(read["BT-112"])) == ("381", Decimal("11.90"))
    assert read["BG-3"][0]["BT-25"] == invoice.number
    assert xml(note, "ubl").startswith(b"<?xml")


def test_the_pdf_carries_the_xml(invoice):
    made = factur_x(invoice)
    name, inside = facturx.get_facturx_xml_from_pdf(made)
    assert name == "factur-x.xml"
    assert facturx.parse_ubl_cii_xml(inside)["BT-1"] == invoice.number


def test_a_currency_of_three_decimals_cannot_be_an_e_invoice():
    world.seller()
    tenant = world.buyer(world.plan(base_amount="49", currency="KWD"), currency="KWD")
    invoice = world.issued(tenant)
    assert invoice.net_minor == 49_000
    with pytest.raises(ApiError) as refused:
        xml(invoice, "cii")
    assert (refused.value.code, refused.value.param) == ("conflict", "currency")
