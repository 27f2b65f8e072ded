"""Money that arrives by other ways than ours: bank transfers, cheques. People book it; nothing is asked anywhere."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from billing.payments.interface import (
    Charge,
    Found,
    Heard,
    ProviderRefusedError,
    Returned,
    WebhookError,
)

NAME: Final = "manual"


class ManualProvider:
    """A payment waits until an operator books it under its reference."""

    name = NAME

    def create_payment(self, charge: Charge) -> Found:
        """Nobody is asked: it waits."""
        return Found(charge.key, "pending", charge.amount_minor, charge.currency)

    def look_up(self, ref: str) -> Found:
        raise ProviderRefusedError("Only an operator knows whether a transfer has arrived.")

    def refund(self, *, charge_ref: str, amount_minor: int, currency: str, key: str) -> Returned:
        """The operator has transferred it back, and says so by booking the refund."""
        return Returned(key, "succeeded")

    def look_up_refund(self, ref: str) -> Returned:
        return Returned(ref, "succeeded")

    def portal_url(self, *, customer_ref: str, return_url: str) -> str:
        raise ProviderRefusedError("There is no payment portal: payments are made by transfer.")

    def verify_webhook(self, *, body: bytes, headers: Mapping[str, str], now: datetime) -> Heard:
        raise WebhookError("nobody sends messages about transfers")
