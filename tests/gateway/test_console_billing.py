"""The money pages: the worked example, margin as the API has it, wallets, invoices' refusals, the books."""

from decimal import Decimal

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.utils import timezone

from billing.economics.report import report
from billing.models import CreditGrant, Invoice, Plan, ProviderBill, ReconcileLine, ReRating
from tenants.models import AuditEvent
from tests.gateway import console_world
from tests.gateway.test_console import signed_in

pytestmark = pytest.mark.django_db


@pytest.fixture
def world():
    return console_world.build(now=timezone.now(), calls=12)


PLAN = {
    "name": "Scale-up",
    "currency": "usd",
    "interval": "month",
    "base_amount": "49",
    "min_commitment": "10",
    "trial_days": "0",
    "proration": "day",
    "charges": '[{"model": "cost_plus", "markup_percent": "50"}]',
    "limit_rpm": "900",
}
MONTH = {
    "example_model": "gpt-4o",
    "example_requests": "1000",
    "example_input": "0",
    "example_output": "0",
    "example_cost": "4.00",
}


def test_the_example_rates_what_is_typed_and_writes_nothing(world):
    before = Plan.objects.get(slug="scale-up").versions.count()
    found = signed_in(world.clerk).post("/platform/billing/plans/example/", PLAN | MONTH).context["example"]
    assert [line.amount_minor for line in found.lines] == [600]
    assert (found.base_minor, found.true_up_minor, found.net_minor) == (4900, 400, 5900)
    assert found.margin_minor == 5500
    assert Plan.objects.get(slug="scale-up").versions.count() == before


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"charges": "[{"}, "This is no JSON"),
        ({"charges": '[{"model": "mystery"}]'}, "must be cost_plus"),
        ({"charges": '[{"model": "cost_plus", "models": ["claude*"]}]'}, "No charge covers gpt-4o"),
        ({"example_requests": "many"}, "Fill in the month"),
    ],
)
def test_an_example_that_cannot_be_says_why(wrong, words, world):
    page = signed_in(world.clerk).post("/platform/billing/plans/example/", PLAN | MONTH | wrong)
    assert (page.status_code, words in page.content.decode()) == (200, True)


def test_saving_a_plan_publishes_the_next_version_and_keeps_hidden_limits(world):
    Plan.objects.get(slug="scale-up").versions.update(limits={"limit_rpm": 1, "priority": "free"})
    answer = signed_in(world.clerk).post("/platform/billing/plans/scale-up/edit/", PLAN)
    assert answer["Location"] == "/platform/billing/plans/scale-up/"
    newest = Plan.objects.get(slug="scale-up").versions.order_by("-number").first()
    assert (newest.number, newest.currency, newest.min_commitment) == (2, "USD", Decimal(10))
    assert newest.limits == {"limit_rpm": 900, "priority": "free"}


def test_charges_that_cannot_be_rated_are_refused_beside_their_field(world):
    wrong = PLAN | {"charges": '[{"model": "mystery"}]'}
    answer = signed_in(world.clerk).post("/platform/billing/plans/scale-up/edit/", wrong)
    assert (answer.status_code, list(answer.context["form"].errors)) == (422, ["charges"])
    assert Plan.objects.get(slug="scale-up").versions.count() == 1


def test_the_margin_page_and_its_file_say_what_the_report_says(world):
    client = signed_in(world.clerk)
    query = "?by=tenant&then=model&span=90d&currency=USD"
    page = client.get(f"/platform/billing/margin/{query}").context
    again = report(
        start=page["asked"].start, end=page["asked"].end, group_by=("tenant", "model"), currency="USD"
    )
    assert page["report"].totals.amounts == again.totals.amounts
    assert page["report"].totals.amounts.usage_revenue_pico > 0
    lines = client.get(f"/platform/billing/margin.csv{query}").content.decode().splitlines()
    assert lines[0].startswith("tenant,model,requests")
    assert len(lines) == 1 + len(again.rows)


def test_the_operator_gives_credit_and_a_tenant_cannot(world):
    data = {"amount": "12.5", "category": "promotional", "name": "Sorry", "priority": "10"}
    refused = signed_in(world.owner).post("/t/acme/billing/wallet/grant/", data)
    assert refused.status_code == 422
    assert not CreditGrant.objects.filter(name="Sorry").exists()
    signed_in(world.clerk).post("/t/acme/billing/wallet/grant/", data)
    assert CreditGrant.objects.get(name="Sorry").amount_pico == 12_500_000_000_000


def test_an_owner_sets_the_automatic_top_up(world):
    client, path = signed_in(world.owner), "/t/acme/billing/wallet/automatic/"
    wrong = client.post(path, {"is_on": "on", "below": "5"})
    assert (wrong.status_code, list(wrong.context["auto_form"].errors)) == (422, ["amount"])
    client.post(path, {"is_on": "on", "below": "5", "amount": "20", "monthly_cap": "60"})
    form = client.get("/t/acme/billing/wallet/").context["auto_form"]
    assert (form["below"].value(), form["amount"].value(), form["monthly_cap"].value()) == (
        "5.00",
        "20.00",
        "60.00",
    )


@pytest.mark.parametrize("typed", ["", "Finalize", "yes"])
def test_finalizing_needs_the_word(typed, world):
    path = f"/platform/billing/invoices/{world.money.draft_id}/finalize/"
    signed_in(world.clerk).post(path, {"confirm": typed})
    assert Invoice.objects.get(pk=world.money.draft_id).status == "draft"


def test_voiding_needs_the_number_and_a_reason(world):
    invoice = Invoice.objects.get(pk=world.money.invoice_id)
    client, path = signed_in(world.clerk), f"/platform/billing/invoices/{invoice.pk}/void/"
    client.post(path, {"confirm": invoice.number})
    client.post(path, {"confirm": "TH", "reason": "Wrong buyer"})
    invoice.refresh_from_db()
    assert invoice.status == "open"
    client.post(path, {"confirm": invoice.number, "reason": "Wrong buyer"})
    invoice.refresh_from_db()
    assert (invoice.status, invoice.status_reason) == ("void", "Wrong buyer")


def test_a_credit_beyond_the_line_is_refused_and_issues_nothing(world):
    path = f"/platform/billing/invoices/{world.money.invoice_id}/credit/"
    before = AuditEvent.objects.count()
    answer = signed_in(world.clerk).post(path, {"reason": "Too much", "line-1": "1000"})
    assert (answer.status_code, bool(answer.context["form"].errors)) == (422, True)
    assert AuditEvent.objects.count() == before


def test_a_tenant_sees_no_draft_of_its_own(world):
    draft = Invoice.objects.get(pk=world.money.draft_id)
    client = signed_in(world.stranger)
    assert client.get(f"/t/nordlicht/billing/invoices/{draft.pk}/").status_code == 404
    assert list(client.get("/t/nordlicht/billing/").context["page"].rows) == []


def test_the_filter_narrows_the_list_and_its_totals(world):
    context = signed_in(world.clerk).get("/platform/billing/invoices/?tenant=acme&status=open").context
    assert [row.pk for row in context["page"].rows] == [world.money.invoice_id]
    (total,) = context["totals"]
    invoice = Invoice.objects.get(pk=world.money.invoice_id)
    assert (total.count, total.open_minor) == (1, invoice.balance_minor)


def test_the_calls_behind_a_line_add_up_to_it(world):
    path = f"/platform/billing/invoices/{world.money.invoice_id}/lines/{world.money.position}/"
    context = signed_in(world.clerk).get(path).context
    assert sum(call.quantity for call in context["calls"]) == context["line"].measured


def test_what_providers_charge_stays_inside(world):
    path = f"billing/invoices/{world.money.invoice_id}/lines/{world.money.position}/"
    mine = signed_in(world.owner).get(f"/t/acme/{path}").content.decode()
    theirs = signed_in(world.clerk).get(f"/platform/{path}").content.decode()
    assert (">Cost<" in mine, ">Cost<" in theirs) == (False, True)


def test_a_true_up_needs_its_word_and_a_bill_its_file(world):
    client = signed_in(world.clerk)
    path = f"/platform/billing/bills/lines/{world.money.line_id}/resolve/"
    client.post(path, {"resolution": "trued_up", "note": "Late calls"})
    assert ReconcileLine.objects.get(pk=world.money.line_id).resolution == "open"
    client.post(path, {"resolution": "accepted", "note": "Late calls"})
    assert ReconcileLine.objects.get(pk=world.money.line_id).resolution == "accepted"
    bill = SimpleUploadedFile("bill.csv", b"day,amount,currency\n2026-10-01,3.50,USD\n")
    client.post("/platform/billing/bills/sources/openai-bills/import/", {"bill": bill})
    assert ProviderBill.objects.count() == 2


def test_a_re_rating_is_asked_for_and_rejected(world):
    client = signed_in(world.clerk)
    client.post(
        f"/platform/billing/re-ratings/{world.money.rerating_id}/decide/",
        {"decision": "approve", "confirm": "yes"},
    )
    assert ReRating.objects.get(pk=world.money.rerating_id).status == "queued"
    client.post(f"/platform/billing/re-ratings/{world.money.rerating_id}/decide/", {"decision": "reject"})
    assert ReRating.objects.get(pk=world.money.rerating_id).status == "rejected"
