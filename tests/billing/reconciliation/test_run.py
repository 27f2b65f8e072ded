"""Bills from a real HTTP server against a real ledger: import, comparison, decisions, proof."""

import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from urllib.parse import parse_qs, urlsplit

import pytest

from billing import tasks
from billing.models import BillSource, LedgerProof, ProviderBill, ReconcileLine, ReRating, UsageEvent
from billing.reconciliation import bills, run
from billing.reconciliation.close import checklist
from billing.usage.derived import derived_id
from billing.usage.verify import verify
from tenants.errors import ApiError
from tenants.principal import SYSTEM
from tests.billing.ledger import put, record
from tests.fakes.http_server import reply, serve

pytestmark = pytest.mark.django_db

DAY = date(2026, 11, 20)
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
NEXT = DAY + timedelta(days=1)
UNIT = 10**12


def source(kind="csv", **changes) -> BillSource:
    row = BillSource(slug="openai", provider="openai", kind=kind, **changes)
    row.put_secret("sk-admin-secret")
    row.save()
    return row


def booked(cost: str, when=NOON, **changes):
    return record(
        when, cost_pico=int(Decimal(cost) * UNIT), price_pico=0, cost_components=None,
        **{"provider_model": "gpt-4o-2026-01-01", **changes},
    )  # fmt: skip


def bill(of: BillSource, *rows: str, start=DAY, end=NEXT) -> ProviderBill:
    text = "\n".join(["day,amount,currency,model,quantity,unit", *rows])
    return bills.import_file(source=of, text=text, start=start, end=end, actor=SYSTEM, now=NOW)


def compare(of: BillSource, start=DAY, end=NEXT) -> dict[tuple[str, str], ReconcileLine]:
    made = run.reconcile(source=of, start=start, end=end, actor=SYSTEM, now=NOW)
    return {(str(line.day), line.model_family): line for line in made.lines.all()}


# ------------------------------------------------------------------ importing


def openai_pages(asked):
    async def answer(peer, request):
        asked.append(request)
        query = parse_qs(urlsplit(request.target).query)
        page = query.get("page", ["1"])[0]
        amount = {"1": "0.30", "2": "9.69"}[page]
        start_s = int(datetime(2026, 11, 20, tzinfo=UTC).timestamp())
        more = '"has_more": true, "next_page": "2"' if page == "1" else '"has_more": false, "next_page": null'
        body = (
            f'{{"object": "page", {more}, "data": [{{"object": "bucket", "start_time": {start_s}, "results": '
            f'[{{"amount": {{"value": {amount}, "currency": "usd"}}, "project_id": "p", '
            f'"line_item": "gpt-4o-2024-08-06, input"}}]}}]}}'
        )
        await peer.send(reply(body.encode()))

    return answer


def test_openais_costs_are_fetched_page_by_page_and_compared():
    asked = []
    put(booked("9.99"))
    with serve(openai_pages(asked)) as server:
        of = source("openai", base_url=server.url)
        tasks.pull_bills(source_id=str(of.pk), start=str(DAY), end=str(NEXT))
    query = parse_qs(urlsplit(asked[0].target).query)
    assert urlsplit(asked[0].target).path == "/v1/organization/costs"
    assert query["start_time"] == [str(int(datetime(2026, 11, 20, tzinfo=UTC).timestamp()))]
    assert query["group_by"] == ["project_id", "line_item"]
    assert query["bucket_width"] == ["1d"]
    assert asked[0].header("authorization") == "Bearer sk-admin-secret"
    assert len(asked) == 2
    kept = ProviderBill.objects.get()
    assert len(kept.payload) == 2
    assert json.loads(kept.payload[0])["data"][0]["results"][0]["amount"]["value"] == 0.30
    (line,) = ReconcileLine.objects.all()
    assert (line.status, line.variance_pico, line.model_family) == ("match", 0, "gpt-4o")
    of.refresh_from_db()
    assert (of.last_error, of.pulled_at is not None) == ("", True)


def test_anthropics_report_is_asked_for_with_its_own_headers():
    asked = []

    async def answer(peer, request):
        asked.append(request)
        result = {
            "currency": "USD",
            "amount": "250",
            "model": "claude-sonnet-4-20250514",
            "description": "in",
        }
        bucket = {
            "starting_at": "2026-11-20T00:00:00Z",
            "ending_at": "2026-11-21T00:00:00Z",
            "results": [result],
        }
        await peer.send(reply(json.dumps({"data": [bucket], "has_more": False, "next_page": None}).encode()))

    with serve(answer) as server:
        of = source("anthropic", base_url=server.url)
        fetched = bills.fetch(source=of, start=DAY, end=NEXT)
    assert asked[0].header("x-api-key") == "sk-admin-secret"
    assert asked[0].header("anthropic-version") == "2023-06-01"
    assert parse_qs(urlsplit(asked[0].target).query)["group_by[]"] == ["workspace_id", "description"]
    assert [item.amount_pico for item in fetched.items] == [25 * UNIT // 10]


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        ("401 Unauthorized", b'{"error": "sk-admin-secret is wrong"}', "provider_unavailable"),
        ("500 Oops", b"{}", "provider_unavailable"),
        ("200 OK", b"<html>", "provider_invalid_response"),
        ("200 OK", b"\xff", "provider_invalid_response"),
    ],
)
def test_a_pull_that_fails_is_remembered_without_the_key_and_changes_nothing(status, body, code):
    async def answer(peer, request):
        await peer.send(reply(body, status=status))

    with serve(answer) as server:
        of = source("openai", base_url=server.url)
        with pytest.raises(ApiError) as refused:
            tasks.pull_bills(source_id=str(of.pk), start=str(DAY), end=str(NEXT))
    assert refused.value.code == code
    of.refresh_from_db()
    assert of.last_error
    assert "sk-admin" not in of.last_error
    assert not ProviderBill.objects.exists()


def test_the_same_import_again_changes_nothing_and_a_later_one_takes_its_days():
    of = source()
    first = bill(of, "2026-11-20,10,USD,gpt-4o,,")
    assert bill(of, "2026-11-20,10,USD,gpt-4o,,").pk == first.pk
    second = bill(of, "2026-11-20,12,USD,gpt-4o,,")
    assert bills.covering(source=of, start=DAY, end=NEXT) == {DAY: second}
    put(booked("12"))
    assert compare(of)["2026-11-20", "gpt-4o"].status == "match"


def test_a_file_that_reaches_outside_of_what_it_covers_is_refused():
    with pytest.raises(ApiError, match="2026-11-21 lies outside"):
        bill(source(), "2026-11-21,10,USD,gpt-4o,,")
    assert not ProviderBill.objects.exists()


# ------------------------------------------------------------------ comparing


def test_days_and_families_are_matched_and_each_difference_gets_its_cause():
    of = source()
    put(
        booked("4"),
        booked("5.99", provider_model="openai/gpt-4o"),
        booked(
            "3",
            provider_model="o3",
            input_tokens=500,
            cache_read_tokens=0,
            output_tokens=500,
            reasoning_tokens=0,
        ),
        booked("7", provider_model="gpt-5", is_byok=True),
        booked("2", kind="shadow", is_final=False, provider_model="o4-mini"),
        booked("8", provider="other"),
    )
    bill(
        of, "2026-11-20,10,USD,gpt-4o-2024-08-06,,", "2026-11-20,4,USD,o3,1000,tokens",
        "2026-11-20,1,USD,o1,,", "2026-11-20,2,USD,o4-mini,,",
    )  # fmt: skip
    found = compare(of)
    assert {family: (line.status, line.cause) for (_, family), line in found.items()} == {
        "gpt-4o": ("match", ""),
        "o3": ("under_captured", "price_difference"),
        "o1": ("missing_in_ledger", "missing_rows"),
        "o4-mini": ("match", ""),
    }
    total = run.summary_of(found["2026-11-20", "o3"].run)["USD"]
    assert (total.ledger_pico, total.provider_pico) == (1499 * UNIT // 100, 17 * UNIT)
    assert total.capture_rate_e4 == 881765


def test_a_bill_without_models_is_matched_by_the_day():
    of = source()
    put(booked("4"), booked("6", provider_model="o3"))
    bill(of, "2026-11-20,10,USD,,,")
    found = compare(of)
    assert [(family, line.status) for (_, family), line in found.items()] == [("", "match")]


def test_amounts_of_other_currencies_never_meet():
    of = source()
    put(booked("10"))
    bill(of, "2026-11-20,10,EUR,gpt-4o,,")
    made = run.reconcile(source=of, start=DAY, end=NEXT, actor=SYSTEM, now=NOW)
    assert [(line.currency, line.status) for line in made.lines.all()] == [
        ("EUR", "missing_in_ledger"),
        ("USD", "missing_in_provider_bill"),
    ]


@pytest.mark.parametrize(
    ("start", "end", "code"),
    [
        (NEXT, DAY, "invalid_request"),
        (DAY, date(2026, 11, 25), "invalid_request"),
        (date(2026, 1, 1), date(2026, 1, 2), "conflict"),
    ],
)
def test_what_cannot_be_compared_is_refused(start, end, code):
    of = source()
    bill(of, "2026-11-20,10,USD,gpt-4o,,")
    with pytest.raises(ApiError) as refused:
        run.reconcile(source=of, start=start, end=end, actor=SYSTEM, now=NOW)
    assert refused.value.code == code


# ------------------------------------------------------------------ deciding


def test_a_true_up_is_appended_once_and_makes_the_next_run_match():
    of = source()
    put(booked("9"))
    bill(of, "2026-11-20,10,USD,gpt-4o,,")
    line = compare(of)["2026-11-20", "gpt-4o"]
    done = run.true_up(line=line, note="their invoice is right", actor=SYSTEM, now=NOW)
    entry = UsageEvent.objects.get(kind="adjustment")
    assert (entry.request_id, entry.cost_pico, entry.price_pico) == (done.entry_id, UNIT, 0)
    assert (entry.tenant_id.int, entry.is_final, entry.provider_model) == (0, False, "gpt-4o")
    with pytest.raises(ApiError, match="trued up"):
        run.true_up(line=line, note="again", actor=SYSTEM, now=NOW)
    assert put(run.adjustment_of(line, provider="openai")).duplicates == 1
    assert compare(of)["2026-11-20", "gpt-4o"].status == "match"
    assert verify().ok


def test_a_line_that_a_newer_run_replaced_is_not_trued_up():
    of = source()
    put(booked("9"))
    bill(of, "2026-11-20,10,USD,gpt-4o,,")
    old = compare(of)["2026-11-20", "gpt-4o"]
    compare(of)
    with pytest.raises(ApiError, match="newer run"):
        run.true_up(line=old, note="late", actor=SYSTEM, now=NOW)
    assert not UsageEvent.objects.filter(kind="adjustment").exists()


def test_an_accepted_difference_stays_accepted_while_both_amounts_stay():
    of = source()
    put(booked("9"))
    bill(of, "2026-11-20,10,USD,gpt-4o,,")
    line = compare(of)["2026-11-20", "gpt-4o"]
    with pytest.raises(ApiError, match="Say why"):
        run.resolve(line=line, resolution="accepted", note=" ", actor=SYSTEM, now=NOW)
    run.resolve(line=line, resolution="accepted", note="known", actor=SYSTEM, now=NOW)
    assert compare(of)["2026-11-20", "gpt-4o"].resolution == "accepted"
    put(booked("0.5"))
    assert compare(of)["2026-11-20", "gpt-4o"].resolution == "open"


def test_an_unexplained_variance_breaks_the_proof_until_somebody_explains_it():
    of = source()
    put(booked("9"))
    bill(of, "2026-11-20,10,USD,gpt-4o,,")
    assert verify().ok
    line = compare(of)["2026-11-20", "gpt-4o"]
    (check,) = (check for check in verify().checks if not check.ok)
    assert check.name == "provider bills = ledger, or explained (I9)"
    assert check.detail == "openai 2026-11-20 gpt-4o: 1 USD under_captured"
    assert verify(since=NOON + timedelta(days=2)).ok
    run.resolve(line=line, resolution="disputed", note="asked them", actor=SYSTEM, now=NOW)
    assert not verify().ok
    run.resolve(line=line, resolution="accepted", note="they are right", actor=SYSTEM, now=NOW)
    assert verify().ok


# ------------------------------------------------------------------ closing the month


def test_a_month_is_closed_step_by_step():
    def states(suspense=0):
        made = checklist(month=date(2026, 10, 1), now=NOW, suspense=suspense)
        return {step.key: step.state for step in made.steps if step.state != "done"}, made.is_done

    when = datetime(2026, 10, 31, 12, tzinfo=UTC)
    put(booked("9", when), record(when, cost_pico=None, cost_components=None, is_byok=True))
    of = source()
    assert states()[0] == {"all_priced": "open", "bills_imported": "open", "ledger_proven": "open"}
    assert states(suspense=3)[0]["suspense_empty"] == "open"
    assert states(suspense=None)[0]["suspense_empty"] == "unknown"
    first, end = date(2026, 10, 1), date(2026, 11, 1)
    bill(of, "2026-10-31,10,USD,gpt-4o,,", start=first, end=end)
    assert "bills_imported" not in states()[0]
    assert states()[0]["reconciled"] == "open"
    line = compare(of, first, end)["2026-10-31", "gpt-4o"]
    assert states()[0]["reconciled"] == "open"
    run.resolve(line=line, resolution="accepted", note="fine", actor=SYSTEM, now=NOW)
    assert "reconciled" not in states()[0]
    rerating = ReRating.objects.create(
        reason="r", start=when, end=when + timedelta(days=1), provider="openai", status="ready"
    )
    assert states()[0]["reratings_closed"] == "open"
    rerating.delete()
    LedgerProof.objects.create(at=NOW, ok=True, is_whole=True, checks=[], duration_ms=1)
    assert states() == ({"all_priced": "open"}, False)
    unpriced = UsageEvent.objects.get(cost_pico=None)
    put(
        record(
            request_id=derived_id(unpriced.occurred_at, b"rerate"), kind="rerate", cost_pico=5, price_pico=0,
            ref_request_id=unpriced.request_id, cost_components=None, provider="other", is_final=False,
        )
    )  # fmt: skip
    assert states()[0] == {"bills_imported": "open"}  # of the other provider
