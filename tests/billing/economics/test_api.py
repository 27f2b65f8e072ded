import csv
import io
from datetime import UTC, datetime, timedelta

import pytest
from django.utils import timezone

from tests.billing.ledger import put, record
from tests.factories import client_with, tenant

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.billing.urls")]

API = "/api/v1"
DAY = datetime(2026, 11, 24, tzinfo=UTC)
SPAN = "from=2026-11-24T00:00:00Z&to=2026-11-25T00:00:00Z"


@pytest.fixture
def operator():
    return client_with(None, "cost:read")


@pytest.mark.parametrize("path", ["economics/", "economics.csv", "economics/forecast/"])
def test_tenants_never_see_margins_whatever_their_scopes(path):
    assert client_with(tenant(), "*").get(f"{API}/{path}").status_code == 403
    assert client_with(None, "usage:read").get(f"{API}/{path}").status_code == 403


def test_page_and_file_say_the_same(operator):
    acme = tenant("acme")
    put(
        record(
            tenant_id=acme.pk, cost_pico=10**12, price_pico=3 * 10**12, cost_components=None, feature="=evil"
        ),
        record(
            tenant_id=acme.pk, cost_pico=2 * 10**12, price_pico=10**12, cost_components=None, feature="chat"
        ),
    )
    answer = operator.get(f"{API}/economics/?{SPAN}&group_by=tenant,feature").json()
    assert [(row["tenant"], row["feature"], row["contribution_margin"]) for row in answer["data"]] == [
        ("acme", "=evil", "2"),
        ("acme", "chat", "-1"),
    ]
    assert answer["totals"]["contribution_margin_percent"] == "25.00"
    assert (answer["base_fees"], answer["reads_ledger"]) == ("charge_share", ["active_users"])
    text = operator.get(f"{API}/economics.csv?{SPAN}&group_by=tenant,feature").content.decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["feature"] for row in rows] == ["'=evil", "chat"]
    for row, shown in zip(rows, answer["data"], strict=True):
        for name in ("revenue", "cost", "contribution_margin", "cost_per_1k_tokens", "cost_per_request"):
            assert row[name] == shown[name]


def test_losing_rows_can_be_asked_for_the_worst_first(operator):
    put(
        *(
            record(model=f"m{n}", cost_pico=n * 10**12, price_pico=2 * 10**12, cost_components=None)
            for n in range(1, 6)
        )
    )
    answer = operator.get(f"{API}/economics/?{SPAN}&group_by=model&losing=true&sort=margin&limit=2").json()
    assert [row["model"] for row in answer["data"]] == ["m5", "m4"]


@pytest.mark.parametrize(
    ("query", "code", "param"),
    [
        ("group_by=nothing", "invalid_request", "group_by"),
        ("unknown=1", "unknown_field", "unknown"),
        ("from=yesterday", "invalid_request", "from"),
        ("currency=usd", "invalid_request", "currency"),
        ("sort=cost", "invalid_request", "sort"),
        ("limit=0", "invalid_request", "limit"),
        ("losing=yes", "invalid_request", "losing"),
        ("target_margin_percent=NaN", "invalid_request", "target_margin_percent"),
        ("key=abc", "invalid_request", "key"),
    ],
)
def test_bad_parameters_are_refused_by_name(operator, query, code, param):
    error = operator.get(f"{API}/economics/?{query}").json()["error"]
    assert (error["code"], error["param"]) == (code, param)


def test_an_unknown_tenant_is_not_found(operator):
    assert operator.get(f"{API}/economics/?tenant=nobody").status_code == 404


def test_the_forecast_names_method_interval_and_past_error(operator):
    today = timezone.now().replace(hour=12, minute=0, second=0, microsecond=0)
    put(*(record(today - timedelta(days=n), cost_pico=10**12, price_pico=2 * 10**12, cost_components=None)
          for n in range(1, 100)))  # fmt: skip
    (found,) = operator.get(f"{API}/economics/forecast/").json()["data"]
    assert found["currency"] == "USD"
    revenue = found["revenue"]
    assert revenue["method"] == "robust_theta"
    assert revenue["accuracy"]["wape"] == 0
    assert revenue["accuracy"]["origins"] >= 8
    days = (today.replace(day=28) + timedelta(days=4)).replace(day=1) - timedelta(days=1)
    assert float(revenue["total"]) == pytest.approx(2 * days.day)
    assert float(revenue["low"]) == float(revenue["high"]) == pytest.approx(2 * days.day)
