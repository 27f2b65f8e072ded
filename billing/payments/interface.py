"""What a payment provider is to us: it is asked for money, asked what became of it, and heard when it speaks.

Amounts are in the currency's ISO 4217 minor unit; a provider that counts otherwise converts for itself. What a
provider's message says is never believed: it only tells which payment to look up.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

type Outcome = Literal["pending", "succeeded", "failed"]


class ProviderError(Exception):
    """The provider could not be asked, or did not answer in its own words: try again later."""


class ProviderRefusedError(Exception):
    """The provider will not do this, now or later. Its message may be shown to an operator."""


class WebhookError(Exception):
    """A message that is not to be believed. Says why, never what would have been right."""


@dataclass(frozen=True, slots=True)
class Charge:
    """What is asked for. With a `method_ref` the customer need not be there."""

    key: str
    amount_minor: int
    currency: str
    description: str
    email: str = ""
    customer_ref: str = ""
    method_ref: str = ""
    return_url: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """A payment as its provider has it. `url`: where the customer pays it."""

    ref: str
    outcome: Outcome
    amount_minor: int
    currency: str
    url: str = ""
    charge_ref: str = ""
    customer_ref: str = ""
    method_ref: str = ""
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Returned:
    """A refund as its provider has it."""

    ref: str
    outcome: Outcome
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Heard:
    """A believed message: `ref` names what it is about, if it is about a payment at all."""

    event_id: str
    kind: str
    ref: str


class PaymentProvider(Protocol):
    """Every method may be called again with the same key without another effect. Raises ProviderError,
    ProviderRefusedError."""

    @property
    def name(self) -> str:
        """As payments keep it."""

    def create_payment(self, charge: Charge) -> Found:
        """Ask for money."""

    def look_up(self, ref: str) -> Found:
        """What became of it."""

    def refund(self, *, charge_ref: str, amount_minor: int, currency: str, key: str) -> Returned:
        """Give money back to where it came from."""

    def look_up_refund(self, ref: str) -> Returned:
        """What became of it."""

    def portal_url(self, *, customer_ref: str, return_url: str) -> str:
        """Where the customer sees to cards and receipts."""

    def verify_webhook(self, *, body: bytes, headers: Mapping[str, str], now: datetime) -> Heard:
        """`body` byte for byte as it came. Raises WebhookError."""
