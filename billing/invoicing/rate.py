"""A period's usage rated into lines, from the ledger at a watermark: the same answer whenever it is asked.

Reads, never writes. Draft, preview, late usage and the proof all come through here.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import cast
from uuid import UUID

from billing.invoicing.measure import Fact, Measured, measure
from billing.invoicing.period import Period, Segment, within
from billing.models import InvoiceLine, PlanVersion
from billing.rating.charges import ALL_TOKENS, REQUESTS, Charge, CostPlus
from billing.rating.fx import NO_RATES, FxTable, convert_pico
from billing.rating.lines import Line, PeriodUsage, Unrateable, rate_charge, true_up_minor
from billing.rating.money import pico_to_minor, plain_text
from billing.rating.prices import compile_charges
from billing.rating.proration import Mode

Kind = InvoiceLine.Kind

type Key = tuple[UUID | None, int | None, str]
"""Plan version, charge, meter: what late usage is compared by. The meter names a true-up or a booking too."""

TRUE_UP = "minimum_commitment"
BOOKED = "booked_adjustment"


@dataclass(frozen=True, slots=True)
class RatedLine:
    """A line before discounts; the fields are InvoiceLine's."""

    kind: str
    description: str
    amount_minor: int
    quantity: Decimal
    period_start: datetime
    period_end: datetime
    tax: str = ""
    version: PlanVersion | None = None
    charge: int | None = None
    meter: str = ""
    tier: int | None = None
    unit: str = ""
    price: Decimal | None = None
    per: Decimal = Decimal(1)
    measured: int | None = None
    ledger_from: datetime | None = None
    ledger_to: datetime | None = None

    @property
    def key(self) -> Key:
        return (self.version.pk if self.version else None, self.charge, self.meter)


@dataclass(frozen=True, slots=True)
class RatedPeriod:
    """`lines` of usage, fees and true-ups; `unpriced` calls are on none of them."""

    lines: tuple[RatedLine, ...]
    unpriced: int

    @property
    def hash(self) -> str:
        """Over everything but words: equal after a recompute, or something moved."""
        rows = [
            [
                line.kind, str(line.version.pk) if line.version else "", line.charge, line.meter, line.tier,
                plain_text(line.quantity), None if line.price is None else plain_text(line.price),
                plain_text(line.per), line.amount_minor, line.measured,
            ]
            for line in self.lines
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()

    def by_key(self) -> dict[Key, tuple[int, int, RatedLine]]:
        """Minor units and measured quantity, with a line to show for it."""
        found: dict[Key, tuple[int, int, RatedLine]] = {}
        for line in self.lines:
            amount, measured, _ = found.get(line.key, (0, 0, line))
            # All lines of a meter measure the same rows.
            found[line.key] = (amount + line.amount_minor, line.measured or measured, line)
        return found


def rate_period(
    *,
    tenant_id: UUID,
    period: Period,
    segments: Sequence[Segment],
    currency: str,
    ledger_to: datetime,
    fx: FxTable = NO_RATES,
) -> RatedPeriod:
    """R6 to R9 over the ledger rows of the period that were recorded up to `ledger_to`."""
    found = measure(
        tenant_id=tenant_id,
        start=period.start,
        end=period.end,
        currency=currency,
        recorded_to=ledger_to,
    )
    parts = within(segments, period.start, period.end)
    wanted = {group[0] for group in found.facts} | set(found.adjustments)
    versions = {version.pk: version for version in (part.version for part in parts)}
    versions |= PlanVersion.objects.select_related("plan").in_bulk(wanted - set(versions))
    lines: list[RatedLine] = []
    for version in sorted(versions.values(), key=lambda version: (version.plan.slug, version.number)):
        if version.currency != currency:
            continue
        rated = _usage(version, found, currency, fx)
        rated += _true_up(version, parts, period, rated, currency)
        rated += _booked(version, found, currency)
        lines += (
            replace(line, period_start=period.start, period_end=period.end, ledger_to=ledger_to)
            for line in rated
        )
    if lost := wanted - {version.pk for version in versions.values() if version.currency == currency}:
        msg = f"priced calls of plan versions that are gone or in another currency: {sorted(map(str, lost))}"
        raise Unrateable(msg)
    return RatedPeriod(tuple(lines), found.unpriced)


_EPOCH = datetime.min.replace(tzinfo=UTC)
"""Stands in until `rate_period` puts the period's own bounds there."""


def _usage(version: PlanVersion, found: Measured, currency: str, fx: FxTable) -> list[RatedLine]:
    pricing = compile_charges(version.charges, currency, fx)
    by_charge: dict[int, list[Fact]] = {}
    for (version_id, model, is_byok), fact in found.facts.items():
        if version_id != version.pk:
            continue
        charge = pricing.charge_for(model, is_byok=is_byok)
        if charge is not None:
            by_charge.setdefault(charge.position, []).append(fact)
        elif fact.price_pico:
            msg = f"calls to {model} have a price, and {version} has no charge for them"
            raise Unrateable(msg)
    lines: list[RatedLine] = []
    for position in sorted(by_charge):
        charge = pricing.charges[position]
        usage = _sum(charge, by_charge[position], currency, fx)
        counts = charge.quantities(usage.units, requests=usage.requests) if charge.meters else None
        lines += (
            _line(version, charge, line, (counts or {}).get(line.meter, usage.requests))
            for line in rate_charge(charge, usage, currency=currency)
        )
    return lines


def _sum(charge: Charge, facts: Iterable[Fact], currency: str, fx: FxTable) -> PeriodUsage:
    requests = cost = price = 0
    units: dict[str, int] = {}
    for fact in facts:
        requests += fact.requests
        price += fact.price_pico
        for name, count in fact.units.items():
            units[name] = units.get(name, 0) + count
        if isinstance(charge.terms, CostPlus):
            cost += _cost_in(currency, fact, fx)
    return PeriodUsage(requests, units, cost, price)


def _cost_in(currency: str, fact: Fact, fx: FxTable) -> int:
    """R23: each day's cost at that day's rate."""
    total = 0
    for (held, day), pico in fact.cost_pico.items():
        if held in (currency, "") or day is None:
            total += pico
            continue
        rate = fx.rate_on(held, currency, day)
        if rate is None:
            raise Unrateable(f"there is no rate from {held} to {currency} on {day}")
        total += convert_pico(pico, rate.rate)
    return total


def _line(version: PlanVersion, charge: Charge, line: Line, measured: int) -> RatedLine:
    unit = _unit(charge, line)
    return RatedLine(
        kind=line.kind,
        description=_description(charge, line, unit),
        amount_minor=line.amount_minor,
        quantity=line.quantity,
        period_start=_EPOCH,
        period_end=_EPOCH,
        tax=charge.tax,
        version=version,
        charge=charge.position,
        meter=line.meter,
        tier=line.tier,
        unit=unit,
        price=line.price,
        per=line.per,
        measured=measured,
    )


UNITS: Mapping[str, str] = {
    "input": "input tokens",
    "cache_read": "cached input tokens",
    "cache_write": "tokens written to the cache",
    "cache_write_1h": "tokens written to the cache for an hour",
    "output": "output tokens",
    "reasoning": "reasoning tokens",
    ALL_TOKENS: "tokens",
    REQUESTS: "requests",
}


def _unit(charge: Charge, line: Line) -> str:
    if not line.meter or line.kind == "request_fee":
        return UNITS[REQUESTS]
    if line.kind == "tier_fee":
        return "fee"
    name = UNITS.get(line.meter, line.meter.replace("_", " "))
    return f"packages of {name}" if charge.model == "package" else name


def _description(charge: Charge, line: Line, unit: str) -> str:
    what = charge.name or _models(charge)
    parts = [what]
    if line.kind == "request_fee":
        parts.append("fee per request")
    elif line.meter:
        parts.append(UNITS.get(line.meter, line.meter.replace("_", " ")) if line.kind == "tier_fee" else unit)
    if line.tier is not None:
        parts.append(f"tier {line.tier + 1}{' fee' if line.kind == 'tier_fee' else ''}")
    return ", ".join(parts)[:300]


def _models(charge: Charge) -> str:
    names = ", ".join(charge.models)
    what = {"byok": "Calls on own keys", "cache_hit": "Cached answers"}.get(charge.model, "Usage")
    return what if names == "*" else f"{what} of {names}"


def _true_up(
    version: PlanVersion, parts: Sequence[Segment], period: Period, rated: Sequence[RatedLine], currency: str
) -> list[RatedLine]:
    """R9 for the share of the cycle under this version, its trial left out."""
    if not version.min_commitment:
        return []
    mode = cast("Mode", version.proration)
    share = Fraction(0)
    for part in parts:
        end = part.end or period.end
        if part.version.pk == version.pk and part.paid_from < end:
            share += period.share(part.paid_from, end, mode)
    if not share:
        return []
    missing = true_up_minor(
        [Line("usage", line.quantity, line.amount_minor) for line in rated],
        version.min_commitment,
        currency=currency,
        commitment_days=share.numerator,
        period_days=share.denominator,
    )
    if not missing:
        return []
    return [
        RatedLine(
            kind=Kind.TRUE_UP,
            description=f"{version.plan.name}: up to the minimum commitment",
            amount_minor=missing,
            quantity=Decimal(1),
            period_start=_EPOCH,
            period_end=_EPOCH,
            tax=version.base_tax,
            version=version,
            meter=TRUE_UP,
        )
    ]


def _booked(version: PlanVersion, found: Measured, currency: str) -> list[RatedLine]:
    """Amounts booked in the ledger beside calls: their sum, rounded once."""
    rows, pico = found.adjustments.get(version.pk, (0, 0))
    if not rows:
        return []
    return [
        RatedLine(
            kind=Kind.ADJUSTMENT,
            description="Corrections booked to usage",
            amount_minor=pico_to_minor(pico, currency),
            quantity=Decimal(rows),
            period_start=_EPOCH,
            period_end=_EPOCH,
            version=version,
            meter=BOOKED,
            unit="bookings",
            measured=rows,
        )
    ]
