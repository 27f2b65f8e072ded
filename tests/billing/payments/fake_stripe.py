"""Stripe's documented shapes over real HTTP: sessions, intents, refunds, portal, events. Nothing more.

https://docs.stripe.com/api/checkout/sessions/object, /payment_intents/object, /refunds/object, /events/object
"""

import contextlib
import hashlib
import hmac
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import orjson

from tests.fakes.http_server import Peer, Request, reply, serve

KEY, SECRET = "sk_test_fake", "whsec_fake"
SAYS = {200: "200 OK", 400: "400 Bad Request", 401: "401 Unauthorized", 402: "402 Payment Required",
        404: "404 Not Found", 500: "500 Internal Server Error"}  # fmt: skip


@dataclass
class FakeStripe:
    """The account's state. `down` answers 500 to everything, `declines` refuses saved cards."""

    url: str = ""
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    by_key: dict[str, dict[str, Any]] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    down: bool = False
    declines: bool = False
    ids: Any = field(default_factory=lambda: itertools.count(1))

    def answer(self, request: Request) -> tuple[int, dict[str, Any]]:
        path = urlsplit(request.target).path
        self.calls.append((request.method, path))
        if self.down:
            return 500, {"error": {"type": "api_error", "message": "down"}}
        if request.header("authorization") != f"Bearer {KEY}":
            return 401, {"error": {"type": "invalid_request_error", "message": "Invalid API Key provided"}}
        if request.method == "GET":
            found = self.objects.get(path.rsplit("/", 1)[1])
            if found is None:
                return 404, {"error": {"type": "invalid_request_error", "message": "No such object"}}
            return 200, found
        form = dict(parse_qsl(request.body.decode(), keep_blank_values=True))
        keys = [value for name, value in request.headers if name.lower() == "idempotency-key"]
        if keys and keys[0] in self.by_key:
            return 200, self.by_key[keys[0]]
        status, made = self.make(path, form)
        if status == 200 and keys:
            self.by_key[keys[0]] = made
        return status, made

    def make(self, path: str, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        number = next(self.ids)
        match path:
            case "/v1/checkout/sessions":
                made = {
                    "id": f"cs_test_{number}", "object": "checkout.session", "status": "open",
                    "payment_status": "unpaid", "payment_intent": None, "customer": form.get("customer"),
                    "amount_total": int(form["line_items[0][price_data][unit_amount]"]),
                    "currency": form["line_items[0][price_data][currency]"],
                    "url": f"https://checkout.stripe.com/c/pay/cs_test_{number}",
                }  # fmt: skip
            case "/v1/payment_intents":
                if self.declines:
                    return 402, {"error": {"type": "card_error", "code": "card_declined",
                                           "message": "Your card was declined."}}  # fmt: skip
                made = {
                    "id": f"pi_{number}", "object": "payment_intent", "status": "succeeded",
                    "amount": int(form["amount"]), "currency": form["currency"],
                    "customer": form["customer"], "payment_method": form["payment_method"],
                }  # fmt: skip
            case "/v1/refunds":
                made = {"id": f"re_{number}", "object": "refund", "status": "pending",
                        "amount": int(form["amount"]), "payment_intent": form["payment_intent"]}  # fmt: skip
            case "/v1/billing_portal/sessions":
                made = {"id": f"bps_{number}", "object": "billing_portal.session",
                        "url": f"https://billing.stripe.com/p/session/{form['customer']}"}  # fmt: skip
            case _:
                return 404, {
                    "error": {"type": "invalid_request_error", "message": f"Unrecognized URL {path}"}
                }
        self.objects[made["id"]] = made
        return 200, made

    def pay(self, session_id: str) -> None:
        """The customer pays at the checkout."""
        self.objects[session_id] |= {
            "status": "complete", "payment_status": "paid", "customer": "cus_1",
            "payment_intent": {"id": "pi_of_" + session_id, "object": "payment_intent",
                               "payment_method": "pm_1"},
        }  # fmt: skip


def event(about: dict[str, Any], kind: str = "checkout.session.completed", event_id: str = "evt_1") -> bytes:
    return orjson.dumps(
        {"id": event_id, "object": "event", "type": kind, "livemode": False, "data": {"object": about}}
    )


def signature(body: bytes, at: int, secret: str = SECRET) -> str:
    digest = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest},v0=ignored"


@contextlib.contextmanager
def running() -> Iterator[FakeStripe]:
    fake = FakeStripe()

    async def handle(peer: Peer, request: Request) -> None:
        status, body = fake.answer(request)
        await peer.send(reply(orjson.dumps(body), status=SAYS[status]))

    with serve(handle) as server:
        fake.url = server.url
        yield fake
