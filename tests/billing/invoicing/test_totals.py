from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.invoicing.totals import Discount, DocumentLine, Totals, totals_of
from billing.rating.tax import TaxRate, tax_minor

D = Decimal
RATES = {
    "std": TaxRate("std", "S", D(20)),
    "red": TaxRate("red", "S", D("5.5")),
    "rc": TaxRate("rc", "AE", D(0)),
}


def line(id_: str, amount: int, tax: str = "std", kind: str = "usage") -> DocumentLine:
    return DocumentLine(id_, amount, tax, kind)


def totals(*lines: DocumentLine, currency: str = "EUR", **more: Any) -> Totals:
    return totals_of(lines, tax_rates=RATES, currency=currency, **more)


def test_an_invoice_adds_up():
    made = totals(line("u", 1417), line("b", 990, "red"))
    assert (made.subtotal_minor, made.total_excluding_tax_minor) == (2407, 2407)
    assert [(tax.rate.key, tax.taxable_minor, tax.amount_minor) for tax in made.taxes] == [
        ("std", 1417, 283),
        ("red", 990, 54),
    ]
    assert (made.total_tax_minor, made.total_minor, made.amount_due_minor) == (337, 2744, 2744)
    assert made.document == "invoice"


# ------------------------------------------------------------------ discounts (R11)


def test_a_discount_applies_to_its_lines_alone():
    made = totals(line("a", 1000), line("b", 2900), discounts=[Discount("percent", D(50), frozenset({"b"}))])
    assert made.nets_minor == (1000, 1450)
    assert made.subtotal_minor == 3900
    assert made.discounts_minor == (1450,)


def test_discounts_follow_each_other_on_what_is_left():
    discounts = [Discount("percent", D(10)), Discount("fixed", D("5.00")), Discount("percent", D(50))]
    made = totals(line("a", 10000), discounts=discounts)
    assert made.discounts_minor == (1000, 500, 4250)
    assert made.nets_minor == (4250,)


def test_a_fixed_discount_takes_at_most_the_base():
    made = totals(line("a", 300), line("b", 200), discounts=[Discount("fixed", D("99.00"))])
    assert (made.discounts_minor, made.nets_minor, made.total_minor) == ((500,), (0, 0), 0)
    assert made.document == "invoice"


def test_a_fixed_discount_leaves_a_negative_base_and_a_percentage_mirrors_it():
    assert totals(line("a", -300), discounts=[Discount("fixed", D(1))]).nets_minor == (-300,)
    assert totals(line("a", -301), discounts=[Discount("percent", D(50))]).nets_minor == (-150,)


def test_a_discount_is_spread_by_largest_remainder_ties_to_the_earlier_line():
    made = totals(line("a", 100), line("b", 100), line("c", 100), discounts=[Discount("fixed", D("0.50"))])
    assert made.nets_minor == (83, 83, 84)


def test_a_discount_without_eligible_lines_is_nothing():
    made = totals(line("a", 100), discounts=[Discount("percent", D(50), frozenset({"z"}))])
    assert (made.discounts_minor, made.nets_minor) == ((0,), (100,))


def test_a_fixed_discount_has_the_currencys_own_unit():
    made = totals(line("a", 1000), currency="JPY", discounts=[Discount("fixed", D("250"))])
    assert made.nets_minor == (750,)


# ------------------------------------------------------------------ credit and prepaid (R13)


def test_promotional_credit_lowers_usage_before_tax():
    made = totals(line("u", 1000), line("base", 500, kind="base"), promotional_minor=300)
    assert (made.promotional_applied_minor, made.nets_minor, made.total_tax_minor) == (300, (700, 500), 240)


def test_promotional_credit_takes_at_most_the_discounted_usage():
    made = totals(
        line("u", 1000),
        line("v", 1000),
        line("base", 500, kind="base"),
        discounts=[Discount("percent", D(50))],
        promotional_minor=5000,
    )
    assert (made.promotional_applied_minor, made.nets_minor) == (1000, (0, 0, 250))


def test_promotional_credit_leaves_negative_usage():
    assert totals(line("u", -10), promotional_minor=100).promotional_applied_minor == 0


def test_a_prepaid_balance_pays_tax_too():
    made = totals(line("u", 1000), prepaid_minor=1100)
    assert (made.total_minor, made.prepaid_applied_minor, made.amount_due_minor) == (1200, 1100, 100)
    assert totals(line("u", 1000), prepaid_minor=5000).prepaid_applied_minor == 1200


# ------------------------------------------------------------------ what it becomes (R15, R17)


def test_a_negative_total_is_a_credit_note_with_nothing_due_and_no_balance_used():
    made = totals(line("u", 500), line("p", -1000, kind="proration"), prepaid_minor=900)
    assert (made.document, made.total_minor) == ("credit_note", -600)
    assert (made.amount_due_minor, made.prepaid_applied_minor) == (0, 0)


def test_a_document_of_nothing_is_not_issued_unless_asked_for():
    assert totals(line("u", 0)).document == "none"
    assert totals().document == "none"
    assert totals(line("u", 0), issue_zero_invoices=True).document == "invoice"
    assert totals(line("u", 100), discounts=[Discount("percent", D(100))]).document == "invoice"


def test_reverse_charge_has_a_row_of_no_tax():
    made = totals(line("u", 1000, "rc"))
    assert [(tax.rate.category, tax.taxable_minor, tax.amount_minor) for tax in made.taxes] == [
        ("AE", 1000, 0)
    ]


def test_a_line_whose_tax_nobody_knows_is_refused():
    with pytest.raises(KeyError):
        totals(line("u", 1, "unknown"))


# ------------------------------------------------------------------ properties

document_lines = st.lists(
    st.tuples(
        st.integers(-(10**5), 10**6), st.sampled_from(sorted(RATES)), st.sampled_from(["usage", "base"])
    ),
    max_size=12,
).map(lambda rows: [line(str(n), *row) for n, row in enumerate(rows)])
discount_lists = st.lists(
    st.builds(
        Discount,
        kind=st.sampled_from(["percent", "fixed"]),
        value=st.decimals(0, 100, places=2),
        line_ids=st.none() | st.frozensets(st.sampled_from("0123456789")),
    ),
    max_size=4,
)


@given(document_lines, discount_lists, st.integers(0, 10**6), st.integers(0, 10**6))
def test_parts_equal_their_wholes(lines, discounts, promotional, prepaid):
    made = totals(*lines, discounts=discounts, promotional_minor=promotional, prepaid_minor=prepaid)
    assert made.subtotal_minor - made.discount_total_minor - made.promotional_applied_minor == sum(
        made.nets_minor
    )
    assert sum(tax.taxable_minor for tax in made.taxes) == made.total_excluding_tax_minor
    for tax in made.taxes:
        assert tax.amount_minor == tax_minor(tax.taxable_minor, tax.rate)
    assert made.total_minor == made.total_excluding_tax_minor + made.total_tax_minor
    assert 0 <= made.prepaid_applied_minor <= prepaid
    if made.total_minor >= 0:
        assert made.amount_due_minor + made.prepaid_applied_minor == made.total_minor
    assert 0 <= made.promotional_applied_minor <= promotional


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=12), discount_lists, st.integers(0, 10**6))
def test_no_line_of_a_plain_invoice_is_pushed_below_nothing(amounts, discounts, promotional):
    lines = [line(str(n), amount) for n, amount in enumerate(amounts)]
    made = totals(*lines, discounts=discounts, promotional_minor=promotional)
    assert all(0 <= net <= amount for net, amount in zip(made.nets_minor, amounts, strict=True))
