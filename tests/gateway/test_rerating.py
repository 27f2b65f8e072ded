"""A corrected rate over a window, against sums made apart from the product: dry run, approval, deltas, crashes."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from django.utils import timezone

from billing.economics.report import report
from billing.models import ReRating, UsageEvent, UsageHour
from billing.rerating import jobs
from billing.usage.verify import verify
from gateway.rerating import PRICE_BOOK
from routing.models import CostRate, Provider
from tenants.errors import ApiError
from tenants.models import AuditEvent
from tenants.principal import SYSTEM, Principal
from tests.billing.ledger import put, record, request_id_at
from tests.factories import client_with, tenant

pytestmark = pytest.mark.django_db

DAY = datetime(2026, 11, 20, tzinfo=UTC)
END = DAY + timedelta(days=1)
MODEL = "gpt-x-1"
ANN, BOB = (Principal("user", UUID(int=n), name, frozenset(("*",))) for n, name in ((1, "ann"), (2, "bob")))
UNITS = {"input": 1000, "cache_read": 400, "output": 300}


@pytest.fixture(autouse=True)
def book():
    """Input 1.00, cached input 0.50, output 4.00 per million since ever."""
    Provider.objects.create(slug="openai", name="OpenAI", kind="openai")
    for component, price in (("input", "1"), ("cache_read", "0.5"), ("output", "4")):
        CostRate.objects.create(
            provider="openai", provider_model=MODEL, component=component, price=Decimal(price),
            effective_from=datetime(2025, 1, 1, tzinfo=UTC),
        )  # fmt: skip


def call(when=DAY, **changes):
    """1000 input, 400 cached and 300 output tokens: 1000 + 200 + 1200 = 2400 millionths."""
    base = {
        "input_tokens": 1000, "cache_read_tokens": 400, "output_tokens": 300, "reasoning_tokens": 0,
        "provider_model": MODEL, "cost_pico": 2_400_000_000, "price_pico": 5_000_000_000,
        "cost_components": {"input": 1_000_000_000, "cache_read": 200_000_000, "output": 1_200_000_000},
    }  # fmt: skip
    return record(when, **{**base, **changes})


INPUT_2 = {"component": "input", "price": "2", "per": 1_000_000, "currency": "USD"}


def asked(*rates, actor=ANN, **changes) -> ReRating:
    row = jobs.ask(**{
        "reason": "contract", "start": DAY, "end": END, "provider": "openai", "provider_model": "", "tenants": [],
        "rates": rates, "needs_two": False, "actor": actor, **changes,
    })  # fmt: skip
    assert jobs.run_next(pricer=PRICE_BOOK)
    row.refresh_from_db()
    return row


def applied(row: ReRating, actor=ANN) -> ReRating:
    jobs.approve(row=row, digest=row.digest, actor=actor, now=timezone.now())
    assert jobs.run_next(pricer=PRICE_BOOK)
    row.refresh_from_db()
    assert row.status == "done", row.error
    return row


def entries():
    return list(UsageEvent.objects.filter(kind="rerate").order_by("occurred_at", "request_id"))


def test_the_dry_run_says_what_would_change_and_writes_nothing():
    put(call(), call(tenant_id=UUID(int=77)), call(DAY - timedelta(seconds=1)), call(END))
    row = asked(INPUT_2)
    assert row.status == "ready"
    assert row.report["total"] == {
        "USD": {
            "attempts": 2, "changed": 2, "cost_before": "0.0048", "cost_after": "0.0068", "delta": "0.002",
            "charged": "0.01", "margin_before": "0.0052", "margin_after": "0.0032",
        }
    }  # fmt: skip
    assert [each["delta"] for each in row.report["tenants"]] == ["0.001", "0.001"]
    assert [(each["model"], each["delta"]) for each in row.report["models"]] == [("gpt-4o", "0.002")]
    assert entries() == []
    assert not jobs.run_next(pricer=PRICE_BOOK)


def test_deltas_are_appended_in_full_open_interval_and_prices_do_not_move():
    original = call()
    put(original, call(END))
    row = applied(asked(INPUT_2))
    (entry,) = entries()
    assert (entry.ref_request_id, entry.attempt, entry.occurred_at) == (
        original.request_id,
        0,
        original.occurred_at,
    )
    assert (entry.cost_pico, entry.price_pico) == (1_000_000_000, 0)
    assert entry.cost_components == {"input": 1_000_000_000}
    assert (entry.tenant_id, entry.feature, entry.model) == (
        original.tenant_id,
        original.feature,
        original.model,
    )
    assert row.appended == 1
    (hour,) = UsageHour.objects.filter(hour=DAY)
    assert (hour.cost_pico, hour.price_pico, hour.attempts, hour.requests) == (
        3_400_000_000,
        5_000_000_000,
        1,
        1,
    )
    assert hour.input_cost_pico == 2_200_000_000
    assert report(start=DAY, end=END).totals.amounts.cost_pico == 3_400_000_000
    assert verify().ok


def test_again_finds_nothing_to_correct_and_a_second_correction_starts_from_the_first():
    put(call())
    applied(asked(INPUT_2))
    same = asked(INPUT_2)
    assert (same.report["total"]["USD"]["delta"], same.report["total"]["USD"]["changed"]) == ("0", 0)
    applied(asked({**INPUT_2, "price": "1.5"}))
    assert sorted(entry.cost_pico for entry in entries()) == [-500_000_000, 1_000_000_000]
    back = applied(asked())  # by the book as it stands
    assert back.appended == 1
    assert sum(entry.cost_pico for entry in entries()) == 0
    assert verify().ok


def test_a_call_that_had_no_rate_gets_its_cost_and_stays_unpriced_for_the_customer():
    put(call(cost_pico=None, price_pico=None, cost_components=None, provider_model="new-1"))
    missing = asked()
    assert (missing.report["unpriced"], missing.report["total"]) == (1, {})
    jobs.reject(row=missing, actor=ANN)
    CostRate.objects.create(
        provider="openai", provider_model="new-1", component="input", price=1,
        effective_from=datetime(2025, 1, 1, tzinfo=UTC),
    )  # fmt: skip
    row = applied(asked({"component": "output", "price": "2", "per": 1_000_000, "currency": "USD"}))
    assert row.report["newly_priced"] == 1
    (entry,) = entries()
    # cached input falls back to input: 1400 + 600
    assert (entry.cost_pico, entry.price_pico) == (2_000_000_000, 0)


def test_what_replaced_an_unknown_attempt_is_corrected_and_unknown_ones_are_left_alone():
    request_id = request_id_at(DAY)
    unknown = {"status": "unknown", "usage_source": "unknown", "cost_components": None, "cost_pico": 7}
    put(call(request_id=request_id, **unknown), call(DAY + timedelta(hours=1), **unknown))
    put(call(request_id=request_id))
    row = applied(asked(INPUT_2))
    assert row.report["unknown"] == 1
    (entry,) = entries()
    assert (entry.ref_request_id, entry.cost_pico) == (request_id, 1_000_000_000)
    assert verify().ok


def test_a_correction_of_a_part_of_the_window_leaves_the_rest_at_the_books_rate():
    put(call(), call(DAY + timedelta(hours=6)), call(DAY + timedelta(hours=12)))
    rate = {
        **INPUT_2,
        "effective_from": (DAY + timedelta(hours=6)).isoformat(),
        "effective_to": (DAY + timedelta(hours=12)).isoformat(),
    }
    applied(asked(rate))
    assert [entry.occurred_at for entry in entries()] == [DAY + timedelta(hours=6)]


def test_scope_is_provider_model_and_tenants():
    acme = tenant("acme")
    put(call(tenant_id=acme.pk), call(), call(provider="other"), call(provider_model="gpt-y"))
    row = asked(INPUT_2, provider_model=MODEL, tenants=["acme"])
    assert row.report["total"]["USD"]["attempts"] == 1
    assert row.report["tenants"][0]["tenant"] == "acme"


def test_another_currency_is_not_booked_over_the_old_one():
    put(call(provider_model="bare"))
    euro = [{"component": name, "price": "2", "per": 1_000_000, "currency": "EUR"} for name in UNITS]
    row = asked(*euro)
    assert (row.report["foreign"], row.report["total"]) == (1, {})
    put(call())
    mixed = asked(euro[0])
    assert mixed.status == "failed"
    assert "more than one currency" in mixed.error


# ------------------------------------------------------------------ approval


def test_nothing_is_appended_without_approval_of_the_very_dry_run():
    put(call())
    row = asked(INPUT_2)
    assert not jobs.run_next(pricer=PRICE_BOOK)
    with pytest.raises(ApiError, match="not the dry run"):
        jobs.approve(row=row, digest="0" * 64, actor=ANN, now=timezone.now())
    jobs.reject(row=row, actor=ANN)
    with pytest.raises(ApiError, match="rejected cannot be approved"):
        jobs.approve(row=row, digest=row.digest, actor=ANN, now=timezone.now())
    assert entries() == []


@pytest.mark.parametrize("by", ["setting", "row"])
def test_where_two_are_needed_whoever_asked_may_not_approve(by, settings):
    put(call())
    settings.TOLLHOUSE_TWO_PERSON = by == "setting"
    row = asked(INPUT_2, needs_two=by == "row")
    settings.TOLLHOUSE_TWO_PERSON = False  # what was needed when it was asked for stays needed
    for actor in (ANN, SYSTEM):
        with pytest.raises(ApiError) as refused:
            jobs.approve(row=row, digest=row.digest, actor=actor, now=timezone.now())
        assert refused.value.code == "permission_denied"
    assert applied(row, actor=BOB).approved_by == "bob"
    actions = AuditEvent.objects.filter(object_type="rerating").order_by("sequence")
    assert [(event.action, event.actor_label) for event in actions] == [
        ("rerating.create", "ann"),
        ("rerating.approve", "bob"),
    ]


# ------------------------------------------------------------------ crashes


class Dying:
    """The price book, until so many attempts were priced."""

    def __init__(self, after: int) -> None:
        self.left = after

    def freeze(self, *, rerating):
        return PRICE_BOOK.freeze(rerating=rerating)

    def costing(self, frozen):
        cost_of = PRICE_BOOK.costing(frozen)

        def cost(attempt):
            self.left -= 1
            if self.left < 0:
                raise SystemExit
            return cost_of(attempt)

        return cost


def test_a_worker_that_dies_anywhere_is_followed_by_one_that_ends_the_work(monkeypatch):
    monkeypatch.setattr("billing.rerating.attempts.SLICE_ROWS", 4)
    put(*(call(DAY + timedelta(minutes=n)) for n in range(30)))
    row = asked(INPUT_2)
    jobs.approve(row=row, digest=row.digest, actor=ANN, now=timezone.now())
    for after in (0, 5, 9, 1):
        with pytest.raises(SystemExit):
            jobs.run_next(pricer=Dying(after))
        assert not jobs.run_next(pricer=PRICE_BOOK)  # its lease still runs
        ReRating.objects.update(leased_until=timezone.now() - timedelta(seconds=1))
    done = len(entries())
    assert 0 < done < 30
    assert jobs.run_next(pricer=PRICE_BOOK)
    row.refresh_from_db()
    assert row.status == "done"
    assert len(entries()) == 30
    assert {entry.cost_pico for entry in entries()} == {1_000_000_000}
    assert verify().ok


def test_a_worker_that_kills_itself_again_and_again_is_given_up():
    put(call())
    row = jobs.ask(
        reason="r", start=DAY, end=END, provider="openai", provider_model="", tenants=[], rates=[INPUT_2],
        needs_two=False, actor=ANN,
    )  # fmt: skip
    for _ in range(jobs.MAX_TRIES):
        with pytest.raises(SystemExit):
            jobs.run_next(pricer=Dying(0))
        ReRating.objects.update(leased_until=timezone.now() - timedelta(seconds=1))
    assert jobs.run_next(pricer=PRICE_BOOK)
    row.refresh_from_db()
    assert (row.status, row.error) == ("failed", f"Its worker died {jobs.MAX_TRIES} times.")


# ------------------------------------------------------------------ over the API


def test_over_the_api_a_correction_is_asked_for_looked_at_and_approved():
    put(call())
    operator = client_with(None, "cost:read", "prices:write")
    given = {
        "reason": "contract", "start": DAY.isoformat(), "end": END.isoformat(), "provider": "openai",
        "rates": [{"component": "input", "price": "2"}],
    }  # fmt: skip
    made = operator.post("/api/v1/re-ratings/", given, format="json")
    assert (made.status_code, made.json()["status"]) == (201, "queued")
    assert jobs.run_next(pricer=PRICE_BOOK)
    url = f"/api/v1/re-ratings/{made.json()['id']}/"
    shown = operator.get(url).json()
    assert shown["report"]["total"]["USD"]["delta"] == "0.001"
    wrong = operator.post(f"{url}approve/", {"digest": "x"}, format="json")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (409, "conflict")
    assert (
        operator.post(f"{url}approve/", {"digest": shown["digest"]}, format="json").json()["status"]
        == "approved"
    )
    assert jobs.run_next(pricer=PRICE_BOOK)
    assert operator.get(url).json()["appended"] == 1


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"end": DAY.isoformat()}, "end"),
        ({"end": "2999-01-01T00:00:00Z", "start": "2998-12-31T00:00:00Z"}, "end"),
        ({"tenants": ["nobody"]}, "tenants"),
        ({"rates": [{"component": "input", "price": "-1"}]}, "rates"),
        ({"status": "approved"}, "status"),
    ],
)
def test_what_cannot_be_re_rated_is_refused(change, param):
    operator = client_with(None, "cost:read", "prices:write")
    given = {
        "reason": "r", "start": DAY.isoformat(), "end": END.isoformat(), "provider": "openai", **change,
    }  # fmt: skip
    answer = operator.post("/api/v1/re-ratings/", given, format="json")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith(param)
    assert not ReRating.objects.exists()


def test_tenants_neither_see_nor_make_corrections():
    client = client_with(tenant(), "*")
    assert client.get("/api/v1/re-ratings/").status_code == 403
    assert client.post("/api/v1/re-ratings/", {}, format="json").status_code == 403
