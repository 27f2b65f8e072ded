"""The closing list knows what the data plane has set aside."""

import pytest
import redis
from django.conf import settings

from gateway.logs.consumer import SUSPENSE
from tests.factories import client_with, tenant

pytestmark = pytest.mark.django_db
URL = "/api/v1/reconciliation/close/"


@pytest.fixture
def store():
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        client.delete(SUSPENSE)
        yield client
        client.delete(SUSPENSE)


def test_a_record_set_aside_keeps_the_month_open(store):
    operator = client_with(None, "cost:read")
    states = {step["key"]: step for step in operator.get(f"{URL}?month=2026-10").json()["steps"]}
    assert list(states) == [
        "suspense_empty", "all_priced", "reratings_closed", "bills_imported", "reconciled", "invoices_finalized",
        "ledger_proven",
    ]  # fmt: skip
    assert states["suspense_empty"]["state"] == "done"
    store.xadd(SUSPENSE, {"r": b"garbage"})
    found = operator.get(f"{URL}?month=2026-10").json()
    assert (found["steps"][0]["state"], found["steps"][0]["count"], found["is_done"]) == ("open", 1, False)


def test_where_redis_does_not_answer_nobody_claims_that_nothing_waits(settings):
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    (first, *_) = client_with(None, "cost:read").get(f"{URL}?month=2026-10").json()["steps"]
    assert (first["state"], first["count"]) == ("unknown", None)


@pytest.mark.parametrize("query", ["month=October", "month=2026-13", "year=2026"])
def test_only_a_month_can_be_asked_for(query):
    assert client_with(None, "cost:read").get(f"{URL}?{query}").status_code == 400


def test_the_running_month_is_never_done():
    found = client_with(None, "cost:read").get(URL).json()
    assert (found["is_over"], found["is_done"]) == (False, False)


def test_tenants_do_not_close_months():
    assert client_with(tenant(), "*").get(URL).status_code == 403
