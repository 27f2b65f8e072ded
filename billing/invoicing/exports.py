"""Documents as files for machines: CSV of the lines, CSV of the calls behind them, FOCUS 1.4 cost and usage.

Streams row by row. What providers charge leaves only where the caller says so.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Context, Decimal
from typing import Any, Final

from billing.invoicing.explain import CallBehind, calls_behind, has_calls
from billing.models import Invoice, InvoiceLine
from billing.rating.money import amount_text, minor_text, plain_text
from tenants.spreadsheet import line as csv_line

LINE_COLUMNS: Final = (
    "invoice", "position", "kind", "plan", "description", "quantity", "unit", "unit_price", "per", "currency",
    "amount", "discount", "net", "tax_key", "period_start", "period_end", "calls_measured",
)  # fmt: skip
CALL_COLUMNS: Final = (
    "invoice", "position", "occurred_at", "request_id", "attempt", "kind", "key", "feature", "end_user",
    "operation", "model", "provider", "region", "status", "own_key", "units", "quantity", "price", "currency",
)  # fmt: skip
COST_COLUMNS: Final = ("cost", "cost_currency")


def lines_csv(invoice: Invoice) -> Iterator[str]:
    """One row per line (RFC 4180)."""
    yield from _csv(LINE_COLUMNS, (_line_row(invoice, line) for line in _lines(invoice)))


def calls_csv(invoice: Invoice, *, line: InvoiceLine | None = None, with_cost: bool = False) -> Iterator[str]:
    """One row per ledger row behind each line (or the given one), in the lines' order."""
    columns = (*CALL_COLUMNS, *(COST_COLUMNS if with_cost else ()))
    wanted = [line] if line is not None else [each for each in _lines(invoice) if has_calls(each)]
    yield from _csv(
        columns,
        (
            _call_row(invoice, each, call, with_cost=with_cost)
            for each in wanted
            for call in calls_behind(each)
        ),
    )


def _lines(invoice: Invoice) -> list[InvoiceLine]:
    return list(invoice.lines.select_related("plan_version__plan", "invoice"))


def _line_row(invoice: Invoice, line: InvoiceLine) -> tuple[Any, ...]:
    currency = invoice.currency
    return (
        invoice.number or "",
        line.position,
        line.kind,
        str(line.plan_version) if line.plan_version else "",
        line.description,
        plain_text(line.quantity),
        line.unit,
        "" if line.price is None else plain_text(line.price),
        plain_text(line.per),
        currency,
        minor_text(line.amount_minor, currency),
        minor_text(line.discount_minor, currency),
        minor_text(line.net_minor, currency),
        line.tax_key,
        moment(line.period_start),
        moment(line.period_end),
        "" if line.measured is None else plain_text(line.measured),
    )


def _call_row(invoice: Invoice, line: InvoiceLine, call: CallBehind, *, with_cost: bool) -> tuple[Any, ...]:
    cost: tuple[Any, ...] = ()
    if with_cost:
        cost = ("" if call.cost_pico is None else amount_text(call.cost_pico), call.cost_currency)
    return (
        invoice.number or "",
        line.position,
        moment(call.occurred_at),
        str(call.request_id),
        call.attempt,
        call.kind,
        str(call.api_key_id),
        call.feature,
        call.end_user,
        call.operation,
        call.model,
        call.provider,
        call.region,
        call.status,
        "yes" if call.is_byok else "no",
        " ".join(f"{name}={count}" for name, count in sorted(call.units.items())),
        call.quantity,
        amount_text(call.price_pico),
        call.price_currency,
        *cost,
    )


# ------------------------------------------------------------------ FOCUS 1.4

FOCUS_COLUMNS: Final = (
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd",
    "BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargeFrequency",
    "ChargePeriodEnd", "ChargePeriodStart", "ConsumedQuantity", "ConsumedUnit", "ContractedCost",
    "ContractedUnitPrice", "EffectiveCost", "HostProviderName", "InvoiceDetailId", "InvoiceId",
    "InvoiceIssuerName", "ListCost", "ListUnitPrice", "PricingCategory", "PricingQuantity", "PricingUnit",
    "ServiceCategory", "ServiceName", "ServiceProviderName", "ServiceSubcategory", "SkuId", "SkuMeter",
    "SkuPriceDetails", "SkuPriceId", "Tags",
)  # fmt: skip
"""Of FOCUS 1.4's Cost and Usage: the mandatory ones, and the conditional ones whose condition holds here."""

_PRICE_STEP: Final = Decimal("1E-18")
_EXACT: Final = Context(prec=80)

_CATEGORY: Final[Mapping[str, str]] = {
    InvoiceLine.Kind.BASE: "Purchase",
    InvoiceLine.Kind.PRORATION: "Purchase",
    InvoiceLine.Kind.TRUE_UP: "Purchase",
    InvoiceLine.Kind.USAGE: "Usage",
    InvoiceLine.Kind.TIER_FEE: "Usage",
    InvoiceLine.Kind.REQUEST_FEE: "Usage",
    InvoiceLine.Kind.ADJUSTMENT: "Adjustment",
}


def focus_csv(invoices: Iterable[Invoice]) -> Iterator[str]:
    """Issued documents as FOCUS 1.4 cost and usage: a row per line and per tax; BilledCost sums to the totals.

    BilledCost and EffectiveCost are net of discounts and rounded as billed; ListCost and ContractedCost are the
    exact product of price and quantity, or the line's amount where there is none.
    """
    yield from _csv(
        FOCUS_COLUMNS,
        (
            tuple(row.get(name, "") for name in FOCUS_COLUMNS)
            for each in invoices
            for row in _focus_rows(each)
        ),
    )


def _focus_rows(invoice: Invoice) -> Iterator[Mapping[str, Any]]:
    currency = invoice.currency
    seller, buyer = invoice.parties["seller"], invoice.parties["buyer"]
    common = {
        "BillingAccountId": buyer["tenant"],
        "BillingAccountName": buyer["name"],
        "BillingCurrency": currency,
        "BillingPeriodStart": moment(invoice.period_start),
        "BillingPeriodEnd": moment(invoice.period_end),
        "InvoiceId": invoice.number or "",
        "InvoiceIssuerName": seller["name"],
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": "AI gateway",
        "ServiceProviderName": seller["name"],
        "ServiceSubcategory": "Generative AI",
    }
    for line in _lines(invoice):
        yield common | _focus_line(line, currency)
    for row in invoice.tax_breakdown:
        amount = minor_text(row["amount_minor"], currency)
        yield common | {
            "BilledCost": amount,
            "EffectiveCost": amount,
            "ListCost": amount,
            "ContractedCost": amount,
            "ChargeCategory": "Tax",
            "ChargeDescription": f"Tax {row['key']} {row['percent']} %",
            "ChargeFrequency": "Recurring",
            "ChargePeriodStart": moment(invoice.period_start),
            "ChargePeriodEnd": moment(invoice.period_end),
            "InvoiceDetailId": f"{invoice.pk}-{row['key']}",
        }


def _focus_line(line: InvoiceLine, currency: str) -> dict[str, Any]:
    is_usage = _CATEGORY[line.kind] == "Usage"
    is_late = line.kind == InvoiceLine.Kind.ADJUSTMENT
    net, amount = minor_text(line.net_minor, currency), minor_text(line.amount_minor, currency)
    row: dict[str, Any] = {
        "BilledCost": net,
        "EffectiveCost": net,
        "ListCost": amount,
        "ContractedCost": amount,
        "ChargeCategory": _CATEGORY[line.kind],
        "ChargeClass": "Correction" if is_late else "",
        "ChargeDescription": line.description,
        "ChargeFrequency": "Usage-Based" if is_usage or is_late else "Recurring",
        "ChargePeriodStart": moment(line.period_start),
        "ChargePeriodEnd": moment(line.period_end),
        "InvoiceDetailId": str(line.pk),
        "Tags": "{}",
    }
    unit_price = None if line.price is None else _exact_quotient(line.price, line.per)
    if line.price is None or unit_price is None or line.kind == InvoiceLine.Kind.PRORATION:
        return row
    unit = "Tokens" if "tokens" in line.unit else line.unit.title() or "Units"
    price, listed = plain_text(unit_price), plain_text(_EXACT.multiply(unit_price, line.quantity))
    row |= {
        "ListCost": listed,
        "ContractedCost": listed,
        "ListUnitPrice": price,
        "ContractedUnitPrice": price,
        "PricingCategory": "Standard",
        "PricingQuantity": plain_text(line.quantity),
        "PricingUnit": unit,
        "SkuId": f"{line.plan_version}/{'base' if line.charge is None else line.charge}",
        "SkuMeter": line.unit[:1].upper() + line.unit[1:],
        "SkuPriceId": f"{line.plan_version_id}/{line.charge}/{line.meter}/{line.tier}",
        "SkuPriceDetails": json.dumps({"x_Per": plain_text(line.per), "x_Price": plain_text(line.price)}),
    }
    if is_usage:
        row |= {"ConsumedQuantity": plain_text(line.quantity), "ConsumedUnit": unit}
    return row


def _exact_quotient(price: Decimal, per: Decimal) -> Decimal | None:
    """price / per if it is a decimal of at most 18 places: FOCUS wants cost = price times quantity."""
    found = _EXACT.divide(price, per).quantize(_PRICE_STEP, context=_EXACT)
    return found if _EXACT.multiply(found, per) == price else None


# ------------------------------------------------------------------ CSV


def _csv(columns: Iterable[str], rows: Iterable[tuple[Any, ...]]) -> Iterator[str]:
    yield csv_line(columns)
    yield from map(csv_line, rows)


def moment(value: datetime) -> str:
    """RFC 3339 in UTC, to the second; to the millisecond where there is one."""
    text = value.astimezone(UTC).isoformat(timespec="milliseconds" if value.microsecond else "seconds")
    return text.replace("+00:00", "Z")
