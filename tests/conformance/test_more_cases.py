"""Cases of our own for the rulebook's other branches, worked by hand, through the same translation."""

from typing import Any

import pytest

from tests.conformance.billing import run_case

OPEN = {"effective_from": "2026-01-01T00:00:00Z", "effective_to": None}
EUR: dict[str, Any] = {"currency": "EUR"}
STD_RED: dict[str, Any] = {
    "std": {"category": "S", "percent": "21"},
    "red": {"category": "S", "percent": "5.5"},
}


def ask(kind: str, **given: Any) -> dict[str, Any]:
    return run_case({"kind": kind, "input": given})


def test_reasoning_has_its_own_rate_and_seconds_may_have_decimals():
    answer = ask(
        "request_cost",
        occurred_at="2026-06-01T12:00:00Z",
        token_convention="exclusive",
        usage={
            "input_tokens": 0,
            "output_tokens": 100,
            "reasoning_tokens": 60,
            "audio_seconds": 12.5,
            "images": 2,
        },
        rates=[
            {"component": "input", "price": "1", "per": 1_000_000, **OPEN},
            {"component": "output", "price": "2", "per": 1_000_000, **OPEN},
            {"component": "reasoning", "price": "3", "per": 1_000_000, **OPEN},
            {"component": "audio_seconds", "price": "0.006", "per": 60, **OPEN},
            {"component": "images", "price": "0.04", "per": 1, **OPEN},
        ],
    )
    assert answer == {
        "components": {
            "output": "0.000080000000",
            "reasoning": "0.000180000000",
            "audio_seconds": "0.001250000000",
            "images": "0.080000000000",
        },
        "cost": "0.081510000000",
    }


def test_service_tiers_match_exactly_and_writes_fall_back_by_lifetime():
    rates = [
        {"component": "input", "price": "4", "per": 1_000_000, "service_tier": "batch", **OPEN},
        {"component": "input", "price": "8", "per": 1_000_000, **OPEN},
        {"component": "cache_write", "price": "5", "per": 1_000_000, "service_tier": "batch", **OPEN},
    ]
    answer = ask(
        "request_cost",
        occurred_at="2026-06-01T12:00:00Z",
        token_convention="inclusive",
        service_tier="batch",
        usage={"input_tokens": 10, "cache_write_1h_tokens": 4, "cache_read_tokens": 3},
        rates=rates,
    )
    assert answer["components"] == {
        "input": "0.000012000000",
        "cache_write_1h": "0.000020000000",
        "cache_read": "0.000012000000",
    }


@pytest.mark.parametrize(
    "charge",
    [
        {"rate": "2.5", "fixed": "0.10", "min": "0.50", "max": "3.00"},
        {"rate_percent": "2.5", "fixed_per_event": "0.10", "min_amount": "0.50", "max_amount": "3.00"},
        {"percent": "2.5", "fixed_amount": "0.10", "minimum": "0.50", "maximum": "3.00"},
    ],
)
def test_percentage_is_kept_within_bounds_per_event(charge: dict[str, str]):
    events = [{"amount": "10.00"}, {"amount": "100.00"}, {"amount": "1000.00", "count": 3}]
    answer = ask("charge", **EUR, charge={"model": "percentage", **charge}, events=events)
    assert answer == {"lines": [{"quantity": "5", "amount": "12.10"}], "amount": "12.10"}


def test_a_short_period_commits_to_a_share_of_the_minimum():
    charge = {"model": "standard", "price": "1.00", "minimum_commitment": "100.00",
              "commitment_days": 10, "period_days": 31}  # fmt: skip
    answer = ask("charge", **EUR, quantity="5.5", charge=charge)
    assert answer == {
        "lines": [{"quantity": "5.5", "amount": "5.50"}],
        "amount": "32.26",
        "true_up": "26.76",
    }


def test_a_negative_quantity_has_no_included_units_and_rounds_away_from_zero():
    charge = {"model": "standard", "price": "0.005", "included": "100"}
    answer = ask("charge", currency="KWD", quantity="-1.5", charge=charge)
    assert answer == {"lines": [{"quantity": "-1.5", "amount": "-0.008"}], "amount": "-0.008"}


def test_volume_takes_the_tier_that_ends_at_the_quantity_with_its_fee():
    tiers = [
        {"up_to": "1000", "price": "2.00", "per": 1000, "flat": "1.00"},
        {"up_to": None, "price": "1.00", "per": 1000, "flat": "3.00"},
    ]
    at_end = ask("charge", **EUR, quantity="1000", charge={"model": "volume", "tiers": tiers})
    assert [line["amount"] for line in at_end["lines"]] == ["2.00", "1.00"]
    above = ask("charge", **EUR, quantity="1001", charge={"model": "volume", "tiers": tiers})
    assert above == {
        "lines": [{"quantity": "1001", "amount": "1.00"}, {"quantity": "1", "amount": "3.00"}],
        "amount": "4.00",
    }


def test_discounts_promotion_and_balance_follow_each_other():
    answer = ask(
        "invoice",
        **EUR,
        tax_rates={"std": {"category": "S", "percent": "20"}},
        lines=[
            {"id": "u1", "amount": "10.00", "tax": "std"},
            {"id": "u2", "amount": "20.00", "tax": "std", "kind": "usage"},
            {"id": "p", "amount": "5.00", "tax": "std", "kind": "base"},
        ],
        discounts=[
            {"type": "percent", "value": "10", "applies_to": ["usage"]},
            {"type": "fixed", "value": "1.00"},
        ],
        promotional_credit="6.005",
        prepaid_balance="100.00",
    )
    # 10 % of usage: 9.00, 18.00. Fixed 1.00 over 32.00: shares 0.28125, 0.5625, 0.15625 -> 0.28, 0.56, 0.16.
    # Promotion 6.00 over 8.72 + 17.44: 2.00, 4.00.
    assert answer["lines"] == [
        {"id": "u1", "net": "6.72"},
        {"id": "u2", "net": "13.44"},
        {"id": "p", "net": "4.84"},
    ]
    assert answer["subtotal"] == "35.00"
    assert answer["discount_total"] == "4.00"
    assert answer["promotional_credit_applied"] == "6.00"
    assert (answer["total_excluding_tax"], answer["total_tax"], answer["total"]) == ("25.00", "5.00", "30.00")
    assert (answer["prepaid_applied"], answer["prepaid_left"], answer["amount_due"]) == (
        "30.00",
        "70.00",
        "0.00",
    )


def test_a_negative_document_keeps_the_sign_and_is_not_paid_from_the_balance():
    answer = ask(
        "invoice",
        currency="JPY",
        tax_rates={"std": {"category": "S", "percent": "10"}},
        lines=[{"id": "c", "amount": "-1005", "tax": "std", "kind": "proration"}],
        prepaid_balance="300",
    )
    assert answer["document"] == "credit_note"
    assert (answer["total_tax"], answer["total"], answer["amount_due"]) == ("-101", "-1106", "0")
    assert (answer["prepaid_applied"], answer["prepaid_left"]) == ("0", "300")


def test_a_zero_document_is_not_issued_and_reverse_charge_has_its_row():
    lines = [{"id": "u", "amount": "0.00", "tax": "rc"}]
    rates = {"rc": {"category": "AE", "percent": "0"}}
    assert ask("invoice", **EUR, tax_rates=rates, lines=lines)["document"] == "none"
    issued = ask("invoice", **EUR, tax_rates=rates, lines=lines, issue_zero_invoices=True)
    assert issued["document"] == "invoice"
    assert issued["tax_breakdown"] == [
        {"tax": "rc", "category": "AE", "percent": "0", "taxable": "0.00", "amount": "0.00"}
    ]


def test_a_month_with_a_clock_change_has_other_seconds():
    answer = ask(
        "proration",
        **EUR,
        timezone="Europe/Berlin",
        period_start="2026-03-01T00:00:00",
        period_end="2026-04-01T00:00:00",
        change_at="2026-03-29T00:00:00",
        mode="second",
        old_price="20.00",
        old_quantity="3",
        new_price="30.00",
    )
    assert answer == {
        "numerator": 255600,
        "denominator": 2674800,
        "credit": "-5.73",
        "charge": "2.87",
        "net": "-2.86",
    }


def test_a_rejected_note_credits_nothing_and_the_rest_goes_to_the_wallet():
    answer = ask(
        "credit_notes",
        **EUR,
        tax_rates=STD_RED,
        lines=[{"id": "u", "net": "10.03", "tax": "std"}, {"id": "b", "net": "9.90", "tax": "red"}],
        paid="5.00",
        prepaid_applied="10.00",
        credit_notes=[
            {"lines": [{"id": "u", "net": "10.04"}, {"id": "b", "net": "1.00"}]},
            {"lines": [{"id": "b", "net": "9.90"}, {"id": "u", "net": "10.03"}]},
        ],
    )
    assert answer["invoice_total"] == "22.58"
    assert answer["results"][0] == {"status": "rejected"}
    assert answer["results"][1] == {
        "status": "issued",
        "net": "19.93",
        "tax_breakdown": [
            {"tax": "red", "taxable": "9.90", "amount": "0.54"},
            {"tax": "std", "taxable": "10.03", "amount": "2.11"},
        ],
        "total": "22.58",
        "reduces_open_balance": "7.58",
        "refundable_to_payment": "5.00",
        "returned_to_wallet": "10.00",
    }


def test_promotional_goes_before_paid_and_as_of_decides_what_has_expired():
    grants = [
        {"id": "a", "amount": "1", "category": "paid", "effective_at": "2026-01-01T00:00:00Z",
         "expires_at": "2026-07-01T00:00:00Z", "priority": 1},
        {"id": "b", "amount": "1", "category": "promotional", "effective_at": "2026-01-01T00:00:00Z",
         "expires_at": "2026-07-01T00:00:00Z", "priority": 1},
    ]  # fmt: skip
    debits = [{"at": "2026-06-01T00:00:00Z", "amount": "1.5"}]
    answer = ask("wallet", currency="USD", grants=grants, debits=debits, as_of="2026-07-01T00:00:00Z")
    assert [part["grant"] for part in answer["debits"][0]["allocations"]] == ["b", "a"]
    assert answer["grants"][0] == {"id": "a", "remaining": "0.000000000000", "expired": "0.500000000000"}
    before = ask("wallet", currency="USD", grants=grants, debits=debits)
    assert before["grants"][0] == {"id": "a", "remaining": "0.500000000000", "expired": "0.000000000000"}


def test_a_new_month_has_a_new_cap_and_no_cap_is_none():
    given = {"balance": "5", "threshold": "10", "topup_amount": "4.00", "monthly_cap": "4.00"}
    debits = [
        {"at": "2026-05-30T00:00:00Z", "amount": "1"},
        {"at": "2026-05-31T00:00:00Z", "amount": "1"},
        {"at": "2026-06-01T00:00:00Z", "amount": "1"},
    ]
    answer = ask("topup", **given, debits=debits)
    assert [row["topup"] for row in answer["topups"]] == ["4.00", None, "4.00"]
    assert answer["balance"] == "10.000000000000"
    assert [
        row["topup"] for row in ask("topup", **given | {"monthly_cap": None}, debits=debits)["topups"]
    ] == [
        "4.00",
        "4.00",
    ]


def test_years_and_series_are_counted_apart_and_a_void_keeps_its_number():
    finalize = {"type": "finalize", "entity": "DE"}
    answer = ask(
        "numbering",
        entities={"DE": {"prefix": "NORD", "timezone": "Europe/Berlin"}},
        actions=[
            finalize | {"id": "a", "at": "2026-12-31T22:59:59Z"},
            {"type": "void", "id": "a"},
            finalize | {"id": "b", "at": "2026-12-31T23:00:00Z"},
            finalize | {"id": "c", "at": "2027-01-02T00:00:00Z", "series": "CN"},
            {"type": "delete_draft", "id": "d"},
            finalize | {"id": "e", "at": "2027-01-02T00:00:00Z"},
        ],
    )
    assert [row["number"] for row in answer["results"]] == [
        "NORD-INV-2026-00001",
        "NORD-INV-2026-00001",
        "NORD-INV-2027-00001",
        "NORD-CN-2027-00001",
        None,
        "NORD-INV-2027-00002",
    ]


def test_an_amendment_without_a_replacement_only_reverses():
    event = {
        "source": "a",
        "event_id": "1",
        "occurred_at": "2026-05-01T00:00:00Z",
        "quantity": "1.50",
        "amount": "1",
    }
    answer = ask(
        "ledger", timezone="UTC", events=[event, event | {"source": "b"}], amendments=[{"event_id": "1"}]
    )
    assert answer == {
        "entries": 3,
        "duplicates_ignored": 0,
        "conflicts": [],
        "quantity": "1.5",
        "amount": "1.000000000000",
        "by_local_day": {"2026-05-01": {"entries": 3, "quantity": "1.5", "amount": "1.000000000000"}},
    }


def test_late_usage_under_the_commitment_adjusts_nothing():
    charge = {"model": "standard", "price": "1.00", "minimum_commitment": "10.00"}
    answer = ask("late_usage", **EUR, billed_quantity="5", late_quantity="3", charge=charge)
    assert answer == {"already_billed": "10.00", "should_be": "10.00", "adjustment": "0.00"}


def test_a_soft_budget_allows_and_each_window_warns_anew():
    answer = ask(
        "budget",
        budget={"limit": "1.00", "mode": "soft", "timezone": "UTC", "window": {"type": "calendar", "unit": "day"},
                "thresholds": [100, 50]},
        events=[
            {"type": "spend", "at": "2026-05-01T10:00:00Z", "amount": "1.20"},
            {"type": "reserve", "id": "a", "at": "2026-05-01T11:00:00Z", "estimate": "5"},
            {"type": "settle", "id": "a", "at": "2026-05-02T00:00:00Z", "amount": "0.50"},
        ],
    )  # fmt: skip
    assert [(alert["threshold"], alert["at"]) for alert in answer["alerts"]] == [
        (50, "2026-05-01T10:00:00Z"),
        (100, "2026-05-01T10:00:00Z"),
        (50, "2026-05-02T00:00:00Z"),
    ]
    assert answer["decisions"] == [{"id": "a", "decision": "allow", "available_before": "-0.200000000000"}]


def test_nothing_to_divide_by_is_null():
    row = {"key": "k", "revenue": "0", "provider_cost": "1"}
    (answer,) = ask("unit_economics", target_margin_percent="50", rows=[row])["rows"]
    assert answer.pop("contribution_margin") == "-1.000000"
    assert answer.pop("key") == "k"
    assert {*answer.values()} == {None}


def test_the_first_of_a_month_has_no_run_rate():
    answer = ask("forecast", as_of="2026-06-01", history=[{"day": "2026-05-31", "amount": "7.00"}])
    assert answer == {"month_to_date": "0.00", "run_rate": None, "seasonal_naive": "28.00"}
