"""What documents take from a tenant's wallet and give back: the far side of `billing.invoicing.wallet`.

Promotional credit lowers usage before tax, the paid balance pays the total (R13). Each call runs inside the
caller's transaction, which holds the lock of the buyer's profile.
"""

from datetime import datetime

from billing.invoicing.wallet import Available
from billing.models import CreditGrant, CreditNote, Invoice
from billing.rating.money import minor_digits, minor_to_pico
from billing.wallets import book
from billing.wallets.drawdown import Category
from billing.wallets.prepaid import settle
from tenants.errors import ApiError
from tenants.models import Tenant
from tenants.principal import SYSTEM


def available(*, tenant: Tenant, currency: str, at: datetime) -> Available:
    """In whole minor units, rounded down. Reads without a lock: `take` decides."""
    found = book.usable(tenant, currency, at)
    unit = 10 ** (12 - minor_digits(currency))
    return Available(promotional_minor=found["promotional"] // unit, prepaid_minor=found["paid"] // unit)


def take(*, invoice: Invoice, promotional_minor: int, prepaid_minor: int, at: datetime) -> None:
    """Book exactly these, and note what the document has settled. Raises ApiError conflict if they are gone."""
    if promotional_minor:
        _take(invoice, "promotional", promotional_minor, at)
    if prepaid_minor:
        _take(invoice, "paid", prepaid_minor, at)
    settle(tenant=invoice.tenant)


def _take(invoice: Invoice, category: Category, amount_minor: int, at: datetime) -> None:
    made = book.draw(
        tenant=invoice.tenant,
        currency=invoice.currency,
        amount_pico=minor_to_pico(amount_minor, invoice.currency),
        at=at,
        category=category,
        invoice=invoice,
    )
    if made.uncovered_pico:
        raise ApiError("conflict", "The wallet has changed since the draft: refresh it.", param="wallet")


def give_back(*, invoice: Invoice, at: datetime) -> None:
    """Undo `take` for a voided invoice."""
    book.give_back(invoice=invoice, at=at)
    settle(tenant=invoice.tenant)


def deposit(*, note: CreditNote, amount_minor: int, at: datetime) -> None:
    """What a credit note returns to the wallet, as paid credit without an end."""
    if amount_minor:
        book.grant(
            tenant=note.tenant,
            currency=note.currency,
            amount_pico=minor_to_pico(amount_minor, note.currency),
            category="paid",
            at=at,
            actor=SYSTEM,
            name=f"Credit note {note.number}",
            source=CreditGrant.Source.CREDIT_NOTE,
            credit_note=note,
        )
