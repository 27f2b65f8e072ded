"""Stripe: hosted checkout, charges of a saved card, refunds, portal and signed events.

Five REST calls through the one egress client, so that no SDK is needed (docs/dependencies.md). Must never log or
raise the API key. https://docs.stripe.com/api
"""

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote, urlencode

import orjson

from billing.payments.interface import (
    Charge,
    Found,
    Heard,
    Outcome,
    ProviderError,
    ProviderRefusedError,
    Returned,
    WebhookError,
)
from billing.rating.money import minor_digits
from tenants import egress
from tenants.errors import ApiError

NAME: Final = "stripe"
API_VERSION: Final = "2024-06-20"
TOLERANCE_S: Final = 300
TIMEOUT_S: Final = 20.0
MAX_ANSWER_BYTES: Final = 1024 * 1024
_ID: Final = re.compile(r"[A-Za-z0-9_]{1,200}")
_DIGITS: Final = re.compile(r"[0-9]{1,12}")

_ZERO: Final = frozenset(
    ("BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "MGA", "PYG", "RWF", "VND", "VUV", "XAF", "XOF", "XPF")
)
_THREE: Final = frozenset(("BHD", "JOD", "KWD", "OMR", "TND"))
"""Stripe's own decimals (https://docs.stripe.com/currencies): all others have two, also ISK and UGX, which ISO
4217 gives none. Three-decimal amounts must end in 0."""

_INTENTS: Final[Mapping[str, Outcome]] = {
    "succeeded": "succeeded", "canceled": "failed", "requires_payment_method": "failed",
    "requires_action": "failed", "processing": "pending", "requires_confirmation": "pending",
    "requires_capture": "pending",
}  # fmt: skip
"""Of a charge without the customer: whoever would have to act is not there."""

_REFUNDS: Final[Mapping[str, Outcome]] = {
    "succeeded": "succeeded", "pending": "pending", "requires_action": "pending", "failed": "failed",
    "canceled": "failed",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class StripeProvider:
    """One Stripe account. Several webhook secrets hold at once while one is rotated."""

    api_key: str = field(repr=False)
    webhook_secrets: Sequence[str] = field(repr=False, default=())
    url: str = "https://api.stripe.com"
    name: str = NAME

    # -- money in

    def create_payment(self, charge: Charge) -> Found:
        """A saved card is charged at once; without one, a checkout page is made."""
        amount = str(to_stripe(charge.amount_minor, charge.currency))
        currency = charge.currency.lower()
        if charge.method_ref:
            fields = {
                "amount": amount, "currency": currency, "customer": charge.customer_ref,
                "payment_method": charge.method_ref, "off_session": "true", "confirm": "true",
                "description": charge.description, "metadata[tollhouse_payment]": charge.key,
            }  # fmt: skip
            return _intent(self._call("POST", "/v1/payment_intents", fields, key=charge.key))
        fields = {
            "mode": "payment", "client_reference_id": charge.key,
            "line_items[0][quantity]": "1",
            "line_items[0][price_data][currency]": currency,
            "line_items[0][price_data][unit_amount]": amount,
            "line_items[0][price_data][product_data][name]": charge.description,
            "payment_intent_data[setup_future_usage]": "off_session",
            "payment_intent_data[metadata][tollhouse_payment]": charge.key,
            "success_url": charge.return_url, "cancel_url": charge.return_url,
        }  # fmt: skip
        if charge.customer_ref:
            fields["customer"] = charge.customer_ref
        else:
            fields["customer_creation"] = "always"
            if charge.email:
                fields["customer_email"] = charge.email
        return _session(self._call("POST", "/v1/checkout/sessions", fields, key=charge.key))

    def look_up(self, ref: str) -> Found:
        """By the id of a checkout session or a payment intent."""
        if ref.startswith("cs_"):
            path = f"/v1/checkout/sessions/{quote(ref, safe='')}?expand%5B%5D=payment_intent"
            return _session(self._call("GET", path))
        return _intent(self._call("GET", f"/v1/payment_intents/{quote(ref, safe='')}"))

    # -- money back

    def refund(self, *, charge_ref: str, amount_minor: int, currency: str, key: str) -> Returned:
        fields = {"payment_intent": charge_ref, "amount": str(to_stripe(amount_minor, currency))}
        return _refund(self._call("POST", "/v1/refunds", fields, key=key))

    def look_up_refund(self, ref: str) -> Returned:
        return _refund(self._call("GET", f"/v1/refunds/{quote(ref, safe='')}"))

    # -- people

    def portal_url(self, *, customer_ref: str, return_url: str) -> str:
        fields = {"customer": customer_ref, "return_url": return_url}
        return _text(self._call("POST", "/v1/billing_portal/sessions", fields), "url")

    # -- events

    def verify_webhook(self, *, body: bytes, headers: Mapping[str, str], now: datetime) -> Heard:
        """https://docs.stripe.com/webhooks#verify-manually, over the raw bytes."""
        header = {name.lower(): value for name, value in headers.items()}.get("stripe-signature", "")
        pairs = [
            (name.strip(), value) for name, _, value in (part.partition("=") for part in header.split(","))
        ]
        stamps = [value for name, value in pairs if name == "t"]
        offered = [value for name, value in pairs if name == "v1"]
        if len(stamps) != 1 or not _DIGITS.fullmatch(stamps[0]) or not offered or not self.webhook_secrets:
            raise WebhookError("the signature is missing or malformed")
        if abs(now.timestamp() - int(stamps[0])) > TOLERANCE_S:
            raise WebhookError("the message is too old, or from the future")
        signed = stamps[0].encode() + b"." + body
        wanted = [
            hmac.digest(secret.encode(), signed, hashlib.sha256).hex() for secret in self.webhook_secrets
        ]
        # Every pair is compared, so that the time taken tells nothing.
        matches = [hmac.compare_digest(a.encode(), b.encode()) for a in offered for b in wanted]
        if not any(matches):
            raise WebhookError("no signature matches")
        try:
            event = orjson.loads(body)
            event_id, kind, about = event["id"], event["type"], event["data"]["object"]
            ref = (
                about["id"] if about.get("object") in ("checkout.session", "payment_intent", "refund") else ""
            )
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise WebhookError("the message is no event") from error
        if not all(isinstance(each, str) for each in (event_id, kind, ref)) or not _ID.fullmatch(event_id):
            raise WebhookError("the message is no event")
        return Heard(event_id, kind[:100], ref)

    # -- the wire

    def _call(
        self, method: str, path: str, fields: Mapping[str, str] | None = None, *, key: str = ""
    ) -> Mapping[str, Any]:
        headers = [
            ("Authorization", f"Bearer {self.api_key}"),
            ("Stripe-Version", API_VERSION),
            ("Content-Type", "application/x-www-form-urlencoded"),
        ]
        if key:
            headers.append(("Idempotency-Key", key))
        try:
            reply = egress.fetch(
                method,
                self.url + path,
                allow_private_hosts=egress.ANY_HOST,  # the operator's own setting
                headers=headers,
                body=urlencode(fields or {}).encode(),
                timeout_s=TIMEOUT_S,
                max_bytes=MAX_ANSWER_BYTES,
            )
        except (egress.EgressError, ApiError) as error:
            raise ProviderError(f"Stripe cannot be reached: {error}") from error
        try:
            answer = orjson.loads(reply.body)
        except orjson.JSONDecodeError as error:
            raise ProviderError(f"Stripe answered {reply.status} without JSON.") from error
        if not isinstance(answer, dict):
            raise ProviderError(f"Stripe answered {reply.status} without an object.")
        if reply.status == 200:
            return answer
        found = answer.get("error")
        told = found if isinstance(found, dict) else {}
        words = str(told.get("message") or told.get("code") or reply.status)[:300]
        # 409 is a key still in use, 429 too many calls, 401 and 403 a wrong setting: all may pass.
        if reply.status in (400, 402, 404):
            raise ProviderRefusedError(words)
        raise ProviderError(f"Stripe answered {reply.status}: {words}")


# ------------------------------------------------------------------ amounts


def to_stripe(amount_minor: int, currency: str) -> int:
    """Raises ProviderRefusedError for an amount that Stripe cannot take."""
    scaled = amount_minor * int(10 ** _digits(currency))
    amount, rest = divmod(scaled, int(10 ** minor_digits(currency)))
    if rest or (currency in _THREE and amount % 10):
        raise ProviderRefusedError(f"Stripe cannot charge that amount in {currency}.")
    return amount


def from_stripe(amount: int, currency: str) -> int:
    """Raises ProviderError for an amount that the currency's minor unit cannot say."""
    minor, rest = divmod(amount * int(10 ** minor_digits(currency)), int(10 ** _digits(currency)))
    if rest:
        raise ProviderError(f"Stripe named a fraction of {currency}'s minor unit.")
    return minor


def _digits(currency: str) -> int:
    if currency in _ZERO:
        return 0
    return 3 if currency in _THREE else 2


# ------------------------------------------------------------------ shapes


def _session(row: Mapping[str, Any]) -> Found:
    currency, intent = _text(row, "currency").upper(), row.get("payment_intent")
    outcome: Outcome = "pending"
    if row.get("payment_status") == "paid":
        outcome = "succeeded"
    elif row.get("status") == "expired":
        outcome = "failed"
    expanded = intent if isinstance(intent, dict) else {}
    return Found(
        ref=_text(row, "id"),
        outcome=outcome,
        amount_minor=from_stripe(_whole(row, "amount_total"), currency),
        currency=currency,
        url=str(row.get("url") or ""),
        charge_ref=str(expanded.get("id") or (intent if isinstance(intent, str) else "")),
        customer_ref=_ref(row.get("customer")),
        method_ref=_ref(expanded.get("payment_method")),
        failure="The checkout page has expired." if outcome == "failed" else "",
    )


def _intent(row: Mapping[str, Any]) -> Found:
    currency = _text(row, "currency").upper()
    status = _text(row, "status")
    if status not in _INTENTS:
        raise ProviderError(f"Stripe named an unknown state {status[:50]!r}.")
    told = row.get("last_payment_error")
    failure = str(told.get("message") or "") if isinstance(told, dict) else ""
    return Found(
        ref=_text(row, "id"),
        outcome=_INTENTS[status],
        amount_minor=from_stripe(_whole(row, "amount"), currency),
        currency=currency,
        charge_ref=_text(row, "id"),
        customer_ref=_ref(row.get("customer")),
        method_ref=_ref(row.get("payment_method")),
        failure=(failure or f"The charge is {status}.")[:300] if _INTENTS[status] == "failed" else "",
    )


def _refund(row: Mapping[str, Any]) -> Returned:
    status = _text(row, "status")
    if status not in _REFUNDS:
        raise ProviderError(f"Stripe named an unknown state {status[:50]!r}.")
    return Returned(_text(row, "id"), _REFUNDS[status], str(row.get("failure_reason") or "")[:300])


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value:
        raise ProviderError(f"Stripe's answer has no {name}.")
    return value


def _whole(row: Mapping[str, Any], name: str) -> int:
    value = row.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ProviderError(f"Stripe's answer has no {name}.")
    return value


def _ref(value: Any) -> str:
    """An object's id, expanded or not."""
    return str(value.get("id") or "") if isinstance(value, dict) else str(value or "")
