from collections.abc import Sequence
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.invoicing.credit import Credit, InvoicedLine, credit, invoice_total
from billing.rating.tax import TaxRate, taxes
from tenants.errors import ApiError

D = Decimal
RATES = {"std": TaxRate("std", "S", D(21)), "red": TaxRate("red", "S", D("5.5"))}
INVOICE = (InvoicedLine("u", 1003, "std"), InvoicedLine("v", 500, "std"), InvoicedLine("b", 990, "red"))


def note(
    *wanted: tuple[str, int],
    earlier: Sequence[Credit] = (),
    paid: int = 0,
    prepaid: int = 0,
    invoice: Sequence[InvoicedLine] = INVOICE,
) -> Credit:
    return credit(
        wanted,
        invoice=invoice,
        tax_rates=RATES,
        earlier=earlier,
        paid_minor=paid,
        prepaid_applied_minor=prepaid,
    )


def test_a_note_credits_nets_and_the_tax_of_each_key():
    made = note(("u", 501), ("b", 990))
    assert (made.net_minor, made.total_minor) == (1491, 1491 + 105 + 54)
    assert [(tax.rate.key, tax.taxable_minor, tax.amount_minor) for tax in made.taxes] == [
        ("std", 501, 105),
        ("red", 990, 54),
    ]


def test_the_tax_is_the_cumulative_difference_over_the_lines_of_a_key():
    first = note(("u", 501))
    second = note(("u", 502), ("v", 500), earlier=[first])
    assert [tax.amount_minor for tax in (*first.taxes, *second.taxes)] == [105, 211]


@pytest.mark.parametrize(
    "wanted",
    [[("u", 503)], [("u", -1)], [("v", 1), ("u", 503)], [("u", 300), ("u", 203)], [("x", 1)], []],
)
def test_a_note_above_what_is_left_of_any_line_is_refused_whole(wanted: list[tuple[str, int]]):
    with pytest.raises(ApiError) as refused:
        note(*wanted, earlier=[note(("u", 501))])
    assert (refused.value.code, refused.value.param) == ("invalid_request", "lines")


def test_a_negative_line_is_credited_towards_nothing():
    invoice = [InvoicedLine("u", 1000, "std"), InvoicedLine("p", -400, "std")]
    assert note(("p", -400), invoice=invoice).net_minor == -400
    for net in (-401, 1):
        with pytest.raises(ApiError):
            note(("p", net), invoice=invoice)


def test_the_gross_goes_to_the_open_balance_then_the_payment_then_the_wallet():
    assert invoice_total(INVOICE, RATES) == 1503 + 316 + 990 + 54
    paid, prepaid = 1000, 1500
    notes: list[Credit] = []
    for wanted in (("u", 501), ("u", 502), ("v", 500), ("b", 990)):
        notes.append(note(wanted, earlier=notes, paid=paid, prepaid=prepaid))
    assert [(n.total_minor, n.reduces_open_minor, n.refundable_minor, n.to_wallet_minor) for n in notes] == [
        (606, 363, 243, 0),
        (608, 0, 608, 0),
        (605, 0, 149, 456),
        (1044, 0, 0, 1044),
    ]


def test_an_unpaid_invoice_is_only_reduced():
    made = note(("u", 1003))
    assert (made.reduces_open_minor, made.refundable_minor, made.to_wallet_minor) == (1214, 0, 0)


@given(
    st.lists(st.tuples(st.integers(1, 10**5), st.sampled_from(["std", "red"])), min_size=1, max_size=6),
    st.data(),
)
def test_notes_in_any_split_credit_exactly_the_invoice(rows, data):
    invoice = [InvoicedLine(str(n), net, tax) for n, (net, tax) in enumerate(rows)]
    total = invoice_total(invoice, RATES)
    prepaid = data.draw(st.integers(0, total))
    paid = data.draw(st.integers(0, total - prepaid))
    left = {line.id: line.net_minor for line in invoice}
    notes: list[Credit] = []
    while any(left.values()):
        names = data.draw(st.sets(st.sampled_from([name for name, net in left.items() if net]), min_size=1))
        is_last = len(notes) > 5
        wanted = {name: left[name] if is_last else data.draw(st.integers(1, left[name])) for name in names}
        notes.append(note(*wanted.items(), earlier=notes, invoice=invoice, paid=paid, prepaid=prepaid))
        for name, net in wanted.items():
            left[name] -= net
    for tax in taxes(((line.tax, line.net_minor) for line in invoice), RATES):
        credited = [row for n in notes for row in n.taxes if row.rate.key == tax.rate.key]
        assert sum(row.amount_minor for row in credited) == tax.amount_minor
        assert sum(row.taxable_minor for row in credited) == tax.taxable_minor
    assert sum(n.total_minor for n in notes) == total
    assert sum(n.reduces_open_minor for n in notes) == total - paid - prepaid
    assert sum(n.refundable_minor for n in notes) == paid
    assert sum(n.to_wallet_minor for n in notes) == prepaid
