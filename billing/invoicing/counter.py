"""The counter behind document numbers (R16): raised inside the transaction that finalizes, or not at all."""

from datetime import datetime

from django.db import connection

from billing.invoicing.numbering import CounterKey, counter_of, number_text
from billing.models import LegalEntity
from tenants.ids import uuid7


def take_number(*, seller: LegalEntity, series: str, at: datetime) -> str:
    """The next number of the series in the seller's local year.

    Holds the counter's row lock until the caller's transaction ends: finalizations of one series queue, and
    one that rolls back gives its number to the next.
    """
    if not connection.in_atomic_block:
        msg = "a number is taken inside the transaction that finalizes"
        raise RuntimeError(msg)
    key: CounterKey = counter_of(entity=seller.code, timezone=seller.timezone, at=at, series=series)
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO billing_documentcounter AS held (id, legal_entity_id, series, year, last)"
            " VALUES (%s, %s, %s, %s, 1)"
            " ON CONFLICT (legal_entity_id, series, year) DO UPDATE SET last = held.last + 1 RETURNING last",
            [uuid7(), seller.pk, series, key.year],
        )
        (last,) = cursor.fetchone()
    return number_text(seller.number_prefix, key, int(last))
