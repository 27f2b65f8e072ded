"""The clerk's path in a real browser: preview, finalize, files, credit note, payment; and who may not."""

import io
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from django.utils import timezone
from pypdf import PdfReader

from billing.invoicing.void import void
from billing.models import CreditNote, Invoice
from tenants.principal import SYSTEM
from tests.e2e.test_console_browser import (  # noqa: F401 - fixtures of the same browser and server
    SCREENSHOTS,
    _unblocked,
    browser,
    server,
    violations,
    visit,
    world,
)
from tests.gateway import console_money

pytestmark = pytest.mark.browser

CII = "{urn:un:unece:uncefact:data:standard:CrossIndustryInvoice:100}CrossIndustryInvoice"
NUMBER = re.compile(r"^TH-INV-\d{4}-\d{5}$")


@pytest.mark.django_db  # it needs none, but makes pytest-django create the one that `world` fills
def test_there_is_a_database():
    assert Invoice.objects.count() == 0


def fetched(page, link):
    """The bytes of what the link downloads, and the file's name."""
    page.get_by_text("Download", exact=True).click()
    with page.expect_download() as waiting:
        page.get_by_role("link", name=link, exact=True).click()
    page.get_by_text("Download", exact=True).click()
    return Path(waiting.value.path()).read_bytes(), waiting.value.suggested_filename


def keep_picture(pdf, name):
    """The first page as a picture for people, where poppler is at hand."""
    SCREENSHOTS.mkdir(exist_ok=True)
    path = SCREENSHOTS / f"{name}.pdf"
    path.write_bytes(pdf)
    if tool := shutil.which("pdftoppm"):
        subprocess.run([tool, "-png", "-r", "80", str(path), str(path.with_suffix(""))], check=True)


def test_a_clerk_takes_an_invoice_from_its_preview_to_its_payment(visit, world):  # noqa: F811 - fixtures
    page = visit(world.clerk)
    page.goto(f"/t/nordlicht/billing/preview/?month={console_money.month_before(timezone.now()):%Y-%m}")
    page.get_by_role("heading", name="Lines").wait_for()
    page.get_by_role("link", name="Draft an invoice").click()
    page.get_by_role("button", name="Draft it").click()
    page.get_by_text("This is a draft.").wait_for()
    assert violations(page) == []

    page.get_by_role("button", name="Finalize").click()
    sure = page.get_by_role("dialog").get_by_role("button", name="Finalize")
    assert sure.is_disabled()
    page.get_by_label("to confirm").fill("finalize")
    assert violations(page) == []
    sure.click()
    page.get_by_text("is issued.").wait_for()
    number = page.get_by_role("heading", level=1).inner_text()
    assert NUMBER.match(number)
    invoice = Invoice.objects.get(number=number)
    assert (invoice.status, invoice.total_minor, invoice.tax_minor) == ("open", 2261, 361)

    pdf, pdf_name = fetched(page, "PDF")
    keep_picture(pdf, "clerk-invoice")
    text = PdfReader(io.BytesIO(pdf)).pages[0].extract_text()
    assert pdf_name == f"{number}.pdf"
    assert number in text
    assert "22.61" in text
    assert "Nordlicht Verlag KG" in text
    lines, lines_name = fetched(page, "Lines as CSV")
    assert lines_name == f"{number}.csv"
    assert lines.decode().splitlines()[1].startswith(f"{number},1,base,editorial@1,")
    calls, _ = fetched(page, "Calls as CSV")
    assert calls.decode().startswith("invoice,position,occurred_at,request_id")
    cii, cii_name = fetched(page, "E-invoice, CII")
    assert cii_name == f"{number}-cii.xml"
    assert ET.fromstring(cii).tag == CII  # noqa: S314 - our own file
    hybrid, _ = fetched(page, "Factur-X PDF")
    assert "factur-x.xml" in PdfReader(io.BytesIO(hybrid)).attachments

    page.get_by_role("link", name="Credit note").click()
    page.get_by_label("Reason").fill("Two days of outage")
    page.get_by_label("Editorial").fill("2.00")
    page.get_by_role("button", name="Issue the credit note").click()
    page.get_by_text("Two days of outage").wait_for()
    assert violations(page) == []
    note = CreditNote.objects.get(invoice=invoice)
    assert (note.net_minor, note.tax_minor, note.reduces_open_minor) == (200, 38, 238)

    page.get_by_role("link", name=number).first.click()
    page.get_by_role("button", name="Mark paid").click()
    dialog = page.get_by_role("dialog")
    assert dialog.get_by_label("Amount").input_value() == "20.23"
    dialog.get_by_label("Reference").fill("SEPA 2026-11-24/17")
    dialog.get_by_role("button", name="Mark paid").click()
    page.get_by_text(f"{number} is paid.").wait_for()
    invoice.refresh_from_db()
    assert (invoice.status, invoice.paid_minor, invoice.credited_minor) == ("paid", 2023, 238)
    page.screenshot(path=SCREENSHOTS / "clerk-paid.png", full_page=True)


def test_a_payment_that_is_too_much_is_refused_in_the_dialog(visit, world):  # noqa: F811 - fixtures
    page = visit(world.clerk)
    page.goto(f"/platform/billing/invoices/{world.money.invoice_id}/")
    page.get_by_role("button", name="Mark paid").click()
    page.get_by_role("dialog").get_by_label("Reference").fill("Too much")
    page.get_by_role("dialog").get_by_label("Amount").fill("100000")
    page.get_by_role("dialog").get_by_role("button", name="Mark paid").click()
    page.get_by_text("The payment must lie between").wait_for()
    assert violations(page) == []
    assert Invoice.objects.get(pk=world.money.invoice_id).paid_minor == 0


def test_several_drafts_are_issued_at_once(visit, world):  # noqa: F811 - fixtures
    page = visit(world.clerk)
    void(
        invoice=Invoice.objects.get(pk=world.money.invoice_id),
        reason="To be drafted again",
        now=timezone.now(),
        actor=SYSTEM,
    )
    page.goto("/platform/billing/invoices/draft/?tenant=acme")
    page.get_by_role("button", name="Draft it").click()
    page.get_by_text("This is a draft.").wait_for()
    page.goto("/platform/billing/invoices/?status=draft")
    page.get_by_label("Finalize the draft of Acme Robotics").check()
    page.get_by_role("button", name="Finalize the chosen").click()
    page.get_by_label("to confirm").fill("finalize")
    page.get_by_role("dialog").get_by_role("button", name="Finalize").click()
    page.get_by_text("1 document issued.").wait_for()
    assert Invoice.objects.filter(tenant=world.acme, status="open").count() == 1


def test_a_tenants_owner_reads_and_downloads_and_no_more(visit, world):  # noqa: F811 - fixtures
    page = visit(world.owner)
    page.goto("/t/acme/")
    page.get_by_role("link", name="Billing").click()
    page.get_by_role("link", name="TH-INV").last.click()
    pdf, _ = fetched(page, "PDF")
    assert pdf.startswith(b"%PDF-")
    assert page.get_by_role("button", name="Mark paid").count() == 0
    assert page.get_by_role("link", name="Credit note").count() == 0


@pytest.mark.parametrize(
    ("person", "path", "status"),
    [
        ("viewer", "/t/acme/billing/invoices/{id}/", 403),
        ("viewer", "/t/acme/billing/invoices/{id}/pdf/", 403),
        ("viewer", "/platform/billing/invoices/{id}/", 404),
        ("stranger", "/t/acme/billing/invoices/{id}/", 404),
        ("stranger", "/t/nordlicht/billing/invoices/{id}/", 404),
        ("stranger", "/t/nordlicht/billing/invoices/{id}/pdf/", 404),
        ("stranger", "/platform/billing/invoices/{id}/", 404),
    ],
)
def test_a_viewer_may_not_and_for_a_stranger_there_is_nothing(person, path, status, visit, world):  # noqa: F811
    page = visit(getattr(world, person))
    answer = page.goto(path.format(id=world.money.invoice_id))
    assert answer.status == status
