"""The seam to the tenant's wallet: what it can pay of a document, and the booking when one is finalized.

`billing.wallets.apply` stands behind it once it exists, with functions of these names; until then no tenant
has a wallet and nothing is applied. Every call runs inside the caller's transaction, which holds the lock of
the tenant's billing profile.
"""

import importlib
import importlib.util
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, cast

from billing.models import CreditNote, Invoice
from tenants.errors import ApiError
from tenants.models import Tenant

MODULE = "billing.wallets.apply"


@dataclass(frozen=True, slots=True)
class Available:
    """What the wallet has at an instant, in whole minor units rounded down."""

    promotional_minor: int = 0
    prepaid_minor: int = 0


class Wallet(Protocol):
    """What `billing.wallets.apply` offers. Amounts are in minor units and never negative."""

    def available(self, *, tenant: Tenant, currency: str, at: datetime) -> Available:
        """Read, without booking."""

    def take(self, *, invoice: Invoice, promotional_minor: int, prepaid_minor: int, at: datetime) -> None:
        """Book exactly these. Raises ApiError conflict if the wallet no longer has them."""

    def give_back(self, *, invoice: Invoice, at: datetime) -> None:
        """Undo `take` for a voided invoice."""

    def deposit(self, *, note: CreditNote, amount_minor: int, at: datetime) -> None:
        """What a credit note returns to the wallet."""


class _None:
    """Before there are wallets."""

    def available(self, *, tenant: Tenant, currency: str, at: datetime) -> Available:
        return Available()

    def take(self, *, invoice: Invoice, promotional_minor: int, prepaid_minor: int, at: datetime) -> None:
        if promotional_minor or prepaid_minor:
            raise ApiError("conflict", "There is no wallet to take that from.")

    def give_back(self, *, invoice: Invoice, at: datetime) -> None:
        if invoice.promotional_minor or invoice.prepaid_minor:
            raise ApiError("conflict", "There is no wallet to give that back to.")

    def deposit(self, *, note: CreditNote, amount_minor: int, at: datetime) -> None:
        if amount_minor:
            raise ApiError("conflict", "There is no wallet to return that to.")


def wallet() -> Wallet:
    """The one in force."""
    if importlib.util.find_spec(MODULE) is None:
        return _None()
    return cast("Wallet", importlib.import_module(MODULE))
