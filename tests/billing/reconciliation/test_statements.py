"""Bills as providers write them, read to the last digit or refused."""

import json
from datetime import date
from decimal import Decimal

import pytest

from billing.reconciliation.family import family_of
from billing.reconciliation.statements import (
    StatementInvalid,
    anthropic_page,
    csv_items,
    focus_items,
    openai_page,
)

OPENAI = """{"object": "page", "data": [{"object": "bucket", "start_time": 1779753600, "end_time": 1779840000,
 "results": [
  {"object": "organization.costs.result", "amount": {"value": 0.060000000001, "currency": "usd"},
   "line_item": "gpt-4o-2024-08-06, cached input", "project_id": "proj_1", "quantity": 1250000,
   "quantity_unit": "tokens"},
  {"object": "organization.costs.result", "amount": {"value": 1.3E-7, "currency": "usd"},
   "line_item": null, "project_id": null}]}],
 "has_more": true, "next_page": "page_2"}"""
ANTHROPIC = """{"data": [{"starting_at": "2026-05-26T00:00:00Z", "ending_at": "2026-05-27T00:00:00Z", "results": [
  {"currency": "USD", "amount": "123.45", "workspace_id": "wrkspc_1", "model": "claude-sonnet-4-20250514",
   "description": "Claude Sonnet 4 Usage - Input Tokens", "cost_type": "tokens", "token_type": "uncached_input_tokens"},
  {"currency": "USD", "amount": "1", "workspace_id": null, "model": null, "description": "Web search",
   "cost_type": "web_search"}]}], "has_more": false, "next_page": null}"""


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("gpt-4o-2024-08-06, cached input", "gpt-4o"),
        ("ft:gpt-4o-mini-2024-07-18:org::abc", "gpt-4o-mini"),
        ("openai/GPT-4o", "gpt-4o"),
        ("claude-sonnet-4-20250514", "claude-sonnet-4"),
        ("us.anthropic.claude-sonnet-4-20250514-v1:0", "claude-sonnet-4"),
        ("claude-3-5-haiku-latest", "claude-3-5-haiku"),
        ("gemini-2.5-flash", "gemini-2.5-flash"),
        ("gpt-4-0613", "gpt-4-0613"),
        ("Web search", "web search"),
        (" ", ""),
    ],
)
def test_a_model_has_one_family_whatever_its_date_vendor_or_region(name, family):
    assert family_of(name) == family
    assert family_of(family) == family


def test_openai_amounts_keep_every_digit_of_the_json_text():
    page = openai_page(OPENAI)
    first, second = page.items
    assert (first.amount_pico, second.amount_pico) == (60_000_000_001, 130_000)
    assert (first.day, first.currency, first.account, first.model_family) == (
        date(2026, 5, 26), "USD", "proj_1", "gpt-4o",
    )  # fmt: skip
    assert (first.quantity, first.quantity_unit) == (Decimal(1250000), "tokens")
    assert first.raw["amount"]["value"] == "0.060000000001"
    assert (second.model_family, second.quantity) == ("", None)
    assert page.next_page == "page_2"


def test_anthropic_amounts_are_cents():
    page = anthropic_page(ANTHROPIC)
    assert [item.amount_pico for item in page.items] == [1_234_500_000_000, 10_000_000_000]
    assert [item.model_family for item in page.items] == ["claude-sonnet-4", "web search"]
    assert [item.account for item in page.items] == ["wrkspc_1", ""]
    assert page.next_page is None


def test_csv_needs_three_columns_and_takes_instants_to_their_utc_day():
    text = "\ufeffday,amount,currency,model\n2026-05-26,1.5,usd,gpt-4o\n2026-05-27T01:30:00+02:00,-2,USD,x\n"
    first, second = csv_items(text)
    assert (first.day, first.amount_pico, first.currency) == (date(2026, 5, 26), 15 * 10**11, "USD")
    assert (second.day, second.amount_pico) == (date(2026, 5, 26), -2 * 10**12)


def test_focus_rows_count_by_their_charge_period_without_taxes_and_credits():
    head = (
        "ChargePeriodStart,BilledCost,BillingCurrency,ChargeCategory,SkuMeter,ConsumedQuantity,ConsumedUnit,"
        "SkuPriceDetails,SubAccountId"
    )
    rows = [
        '2026-05-26T00:00:00Z,2.50,USD,Usage,Input tokens,1000,Tokens,"{""x_Model"": ""gpt-4o-2024-08-06""}",p1',
        "2026-05-26T00:00:00Z,0.50,USD,Tax,,,,,",
        "2026-05-26T00:00:00Z,-1,USD,Credit,,,,,",
    ]
    (item,) = focus_items("\n".join([head, *rows]))
    assert (item.amount_pico, item.model_family, item.account) == (25 * 10**11, "gpt-4o", "p1")
    assert (item.quantity, item.quantity_unit) == (Decimal(1000), "Tokens")


def broken(path, value):
    data = json.loads(OPENAI)
    place = data
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return json.dumps(data)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("no json", "it is no JSON"),
        ("[]", "it is no JSON object"),
        ("{}", "'data' is no list"),
        (broken(["data", 0, "start_time"], "today"), "'today' is no unix time"),
        (broken(["data", 0, "results", 0, "amount"], None), "has no amount"),
        (broken(["data", 0, "results", 0, "amount", "value"], "much"), "amount.value is no number"),
        (broken(["data", 0, "results", 0, "amount", "value"], None), "amount.value is no number"),
        (OPENAI.replace("1.3E-7", "1E400"), "amount.value is no amount"),
        (OPENAI.replace("1.3E-7", "NaN"), "amount.value is no amount"),
        (broken(["data", 0, "results", 0, "amount", "currency"], "dollars"), "'dollars' is no currency"),
        (broken(["next_page"], None), "it has more, but no next page"),
    ],
)
def test_a_text_that_is_no_bill_is_refused_whole_with_the_place(text, reason):
    with pytest.raises(StatementInvalid, match=reason):
        openai_page(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("amount,currency\n1,USD\n", "no column 'day'"),
        ("day,amount,currency\n2026-05-26,1\n", "line 2"),
        ("day,amount,currency\n2026-13-26,1,USD\n", "line 2: '2026-13-26' is no day"),
        ('day,amount,currency\n2026-05-26,"1,USD\n', "unexpected end of data"),
    ],
)
def test_a_csv_error_names_its_line(text, reason):
    with pytest.raises(StatementInvalid, match=reason):
        csv_items(text)
