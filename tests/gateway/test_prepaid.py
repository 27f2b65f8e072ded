"""A prepaid tenant on a running gateway: calls at once never come to more than the wallet holds."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import httpx
import pytest
import redis
from django.conf import settings
from django.db import connection
from django.db.models import Sum

from billing.models import UsageEvent, Wallet
from billing.rating.money import PICO
from gateway.logs import consumer
from gateway.state.limits import STREAM
from tests.gateway import plane as planes
from tests.gateway.plane import Plane

db, demo, plane = planes.db, planes.demo, planes.plane

CHAT, WALLET = "/v1/chat/completions", "/api/v1/tenants/acme/wallet/"
PATIENCE_S = 20.0  # only ends a test that would hang: no speed is asserted


@pytest.fixture
def wallet(plane):
    """Ask the wallet's API as the operator; its rows are taken back afterwards."""
    headers = {"authorization": f"Bearer {plane.demo['operator_key']}"}

    def ask(method: str, path: str = "", body: Any = None) -> dict[str, Any]:
        answer = plane.http.request(method, plane.url + WALLET + path, json=body, headers=headers)
        assert answer.status_code in (200, 201), answer.text
        return answer.json()

    yield ask
    with connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
        for table in ("walletentry", "creditgrant", "wallet"):
            cursor.execute(f"DELETE FROM billing_{table}")  # noqa: S608 - own names
        cursor.execute("SET session_replication_role = DEFAULT")


@pytest.fixture
def worker(plane):
    """Moves closed calls into the ledger all the while, as the product's worker does."""
    stop = threading.Event()

    def work() -> None:
        try:
            while not stop.is_set():
                consumer.drain(budget_s=0.2, block_ms=50)
        finally:
            connection.close()

    thread = threading.Thread(target=work, name="worker")
    thread.start()
    yield
    stop.set()
    thread.join()


def call(plane: Plane) -> httpx.Response:
    body = {
        "model": "sandbox-large",
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 16,
    }
    return plane.http.post(plane.url + CHAT, json=body, headers={"authorization": f"Bearer {plane.key}"})


def call_until(plane: Plane, status: int) -> httpx.Response:
    """The workers hear of a new balance a moment after it was committed."""
    started = time.monotonic()
    while time.monotonic() - started < PATIENCE_S:
        answer = call(plane)
        if answer.status_code == status:
            return answer
    pytest.fail(f"no answer {status} within {PATIENCE_S:g} s")


def test_calls_stop_where_the_balance_ends_and_go_on_with_new_credit(plane, wallet, worker):
    price = Decimal(call(plane).headers["x-tollhouse-price"])
    assert price > 0
    amount = price * 40
    wallet("POST", "grants/", {"amount": f"{amount:f}", "category": "promotional"})
    wallet("PATCH", body={"is_prepaid": True})
    before = Decimal(wallet("GET")["spendable"])
    error = refused(plane)
    assert "Prepaid balance" in error["message"]
    settled()
    held = Wallet.objects.get(tenant__slug="acme")
    spent = UsageEvent.objects.filter(tenant_id=held.tenant_id).aggregate(sum=Sum("price_pico"))["sum"]
    assert price * PICO < spent - held.settled_pico <= held.balance_pico
    left = Decimal(wallet("GET")["spendable"])
    assert left * PICO == held.balance_pico - (spent - held.settled_pico)
    assert 0 <= left < before <= amount
    wallet("POST", "grants/", {"amount": f"{price * 100:f}", "category": "promotional"})
    assert Decimal(call_until(plane, 200).headers["x-tollhouse-budget-remaining"]) > 0


def settled() -> None:
    """Until every closed call is in the ledger."""
    with redis.Redis.from_url(settings.REDIS_URL) as client:
        started = time.monotonic()
        while client.xlen(STREAM):
            assert time.monotonic() - started < PATIENCE_S
            time.sleep(0.05)


def refused(plane: Plane) -> dict[str, Any]:
    """Calls from 8 threads until all of a round are refused; the error of the last."""
    with ThreadPoolExecutor(8) as pool:
        for _ in range(60):
            answers = list(pool.map(lambda _: call(plane), range(16)))
            assert {answer.status_code for answer in answers} <= {
                200,
                402,
                503,
            }  # 503: the counter is being made
            if {answer.status_code for answer in answers} == {402}:
                error: dict[str, Any] = answers[-1].json()["error"]
                assert error["code"] == "budget_exceeded"
                return error
    pytest.fail("calls are never refused")
