"""The calls behind a line: every ledger row that its quantity or amount was made of, one after the other.

What providers charge leaves only where the caller says so.
"""

# ruff: noqa: S608 - statements are put together from this package's own constants

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from django.db import connection, transaction

from billing.invoicing.measure import BILLABLE, SCOPE
from billing.invoicing.rate import BOOKED, Kind
from billing.models import InvoiceLine
from billing.rating.charges import REQUESTS, Charge, meter_for
from billing.rating.prices import Pricing, compile_charges
from billing.usage.partitions import LEDGER

CHUNK_ROWS = 2_000


@dataclass(frozen=True, slots=True)
class CallBehind:
    """One ledger row. `quantity` is what it adds to the line's meter: negative for a reversal."""

    occurred_at: datetime
    request_id: UUID
    attempt: int
    kind: str
    api_key_id: UUID
    feature: str
    end_user: str
    operation: str
    model: str
    provider: str
    region: str
    status: str
    is_byok: bool
    units: Mapping[str, int]
    quantity: int
    price_pico: int
    price_currency: str
    cost_pico: int | None
    cost_currency: str


def has_calls(line: InvoiceLine) -> bool:
    """Whether the ledger stands behind the line; base amounts and proration come from the plan."""
    return line.ledger_to is not None and line.plan_version_id is not None


def calls_behind(line: InvoiceLine) -> Iterator[CallBehind]:
    """The rows in the order of their calls, streamed. Σ quantity = `line.measured`."""
    version = line.plan_version
    if version is None or line.ledger_to is None:
        return
    pricing = compile_charges(version.charges, line.invoice.currency)
    charge = None if line.charge is None else pricing.charges[line.charge]
    recorded_from = "AND recorded_at > %(recorded_from)s" if line.ledger_from else ""
    with transaction.atomic(), connection.chunked_cursor() as cursor:
        cursor.execute(
            f"SELECT {_COLUMNS} FROM {LEDGER} WHERE {SCOPE} AND {BILLABLE} {recorded_from} "
            "AND plan_version_id = %(version)s AND (kind = 'adjustment') = %(is_booked)s "
            "ORDER BY occurred_at, request_id, attempt, kind",
            {
                "tenant": line.invoice.tenant_id,
                "start": line.period_start,
                "end": line.period_end,
                "currency": line.invoice.currency,
                "recorded_to": line.ledger_to,
                "recorded_from": line.ledger_from,
                "version": version.pk,
                "is_booked": line.meter == BOOKED,
            },
        )
        while rows := cursor.fetchmany(CHUNK_ROWS):
            for row in rows:
                call = _call(row)
                quantity = _quantity(line, call, charge, pricing)
                if quantity is not None:
                    yield replace(call, quantity=quantity)


def _quantity(line: InvoiceLine, call: CallBehind, charge: Charge | None, pricing: Pricing) -> int | None:
    """What the call adds to the line; None if it has nothing to do with it."""
    weight = -1 if call.kind == "reversal" else 1
    if charge is None:
        return weight  # a true-up rests on all calls of the version, a booking on its own rows
    found = pricing.charge_for(call.model, is_byok=call.is_byok)
    if found is None or found.position != charge.position:
        return None
    if not line.meter or line.kind == Kind.REQUEST_FEE or line.meter == REQUESTS:
        return weight
    names = {meter.name: meter for meter in charge.meters}
    total = sum(count for name, count in call.units.items() if meter_for(name, names) == line.meter)
    return total or None


_COLUMNS = (
    "occurred_at, request_id, attempt, kind, api_key_id, feature, end_user, operation, model, provider, "
    "region, status, is_byok, input_tokens, cache_read_tokens, cache_write_tokens, output_tokens, "
    "reasoning_tokens, other_units::text, price_pico, price_currency, cost_pico, cost_currency"
)
_TOKENS = ("input", "cache_read", "cache_write", "output", "reasoning")


def _call(row: Sequence[Any]) -> CallBehind:
    units = dict(zip(_TOKENS, row[13:18], strict=True)) | (orjson.loads(row[18]) if row[18] else {})
    units["cache_write"] -= units.get("cache_write_1h", 0)
    used = {name: count for name, count in units.items() if count}
    return CallBehind(*(*row[:13], used, 0, *row[19:23]))
