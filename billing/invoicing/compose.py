"""What a document says, computed and not yet written: lines, discounts, taxes, totals.

One computation for preview, draft and finalization. Reads only; the caller holds the locks it needs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import cast
from zoneinfo import ZoneInfo

from billing.invoicing.measure import currencies, has_rows_since
from billing.invoicing.parties import TaxTerms, seller_of, tax_key, tax_terms
from billing.invoicing.period import Period, Segment, period_at, segment_at, segments_of, within
from billing.invoicing.rate import Key, Kind, RatedLine, RatedPeriod, rate_period
from billing.invoicing.totals import Discount, DocumentLine, Totals, totals_of
from billing.invoicing.wallet import wallet
from billing.models import (
    BillingProfile,
    ClosedPeriod,
    Invoice,
    InvoiceDiscount,
    InvoiceLine,
    LegalEntity,
    PlanVersion,
    TenantCoupon,
)
from billing.rating.fx import NO_RATES, FxTable
from billing.rating.lines import adjustment_minor
from billing.rating.money import to_minor
from billing.rating.proration import Mode, Unused, prorate
from tenants.models import Tenant

LATE_DAYS = 400
"""How long after its end usage of a period still makes an adjustment: as long as the ledger takes it."""

_USAGE_KINDS = (Kind.USAGE, Kind.TIER_FEE, Kind.REQUEST_FEE)
_RATED_KINDS = (*_USAGE_KINDS, Kind.TRUE_UP, Kind.ADJUSTMENT)


@dataclass(frozen=True, slots=True)
class AppliedCoupon:
    """What a redeemed coupon takes off, in minor units."""

    tenant_coupon: TenantCoupon
    description: str
    amount_minor: int


@dataclass(frozen=True, slots=True)
class Composition:
    """A whole document. `nets_minor`, `tax_keys` run beside `lines`; `taxes` explains each tax key."""

    tenant: Tenant
    seller: LegalEntity
    profile: BillingProfile
    occasion: str
    period: Period
    currency: str
    ledger_to: datetime
    lines: tuple[RatedLine, ...]
    tax_keys: tuple[str, ...]
    taxes: Mapping[str, TaxTerms]
    totals: Totals
    coupons: tuple[AppliedCoupon, ...]
    rating_hash: str
    unpriced: int

    def tax_breakdown(self) -> list[dict[str, object]]:
        """As the invoice keeps it: plain JSON."""
        return [
            {
                "key": row.rate.key,
                "category": row.rate.category,
                "percent": f"{row.rate.percent.normalize():f}",
                "taxable_minor": row.taxable_minor,
                "amount_minor": row.amount_minor,
                "exemption_text": self.taxes[row.rate.key].exemption_text,
                "exemption_code": self.taxes[row.rate.key].exemption_code,
            }
            for row in self.totals.taxes
        ]


def compose(
    *,
    profile: BillingProfile,
    period: Period,
    currency: str,
    now: datetime,
    ledger_to: datetime,
    occasion: str = Invoice.Occasion.PERIOD,
    segments: Sequence[Segment] | None = None,
    fx: FxTable = NO_RATES,
) -> Composition:
    """The document of `period` in `currency`, with the ledger as it stood at `ledger_to`.

    Raises ApiError conflict without a legal entity or a tax rate; Unrateable for usage nobody can price.
    """
    tenant = profile.tenant
    seller = seller_of(profile)
    segments = segments_of(tenant) if segments is None else segments
    rated = RatedPeriod((), 0)
    if occasion == Invoice.Occasion.OPENING:
        lines = opening_lines(period, segments, currency)
    else:
        rated = rate_period(
            tenant_id=tenant.pk,
            period=period,
            segments=segments,
            currency=currency,
            ledger_to=ledger_to,
            fx=fx,
        )
        base = _base_lines(tenant, period, segments, currency)
        late = _late_lines(tenant, period, segments, currency, ledger_to, fx)
        lines = (*base, *rated.lines, *late)
    keys = tuple(tax_key(profile, line.tax) for line in lines)
    supplied = min(period.end - timedelta(seconds=1), now)
    on = supplied.astimezone(ZoneInfo(seller.timezone)).date()
    terms = {key: tax_terms(seller, key, on=on) for key in dict.fromkeys(keys)}
    coupons = _coupons(tenant, period, currency)
    held = wallet().available(tenant=tenant, currency=currency, at=now)
    totals = totals_of(
        [
            DocumentLine(
                str(number), line.amount_minor, key, "usage" if line.kind in _USAGE_KINDS else line.kind
            )
            for number, (line, key) in enumerate(zip(lines, keys, strict=True))
        ],
        tax_rates={key: found.rate for key, found in terms.items()},
        currency=currency,
        discounts=[_discount(each, lines) for each in coupons],
        promotional_minor=held.promotional_minor,
        prepaid_minor=held.prepaid_minor,
        issue_zero_invoices=profile.issue_zero_invoices,
    )
    return Composition(
        tenant=tenant,
        seller=seller,
        profile=profile,
        occasion=occasion,
        period=period,
        currency=currency,
        ledger_to=ledger_to,
        lines=lines,
        tax_keys=keys,
        taxes=terms,
        totals=totals,
        coupons=tuple(
            AppliedCoupon(each, each.coupon.name, amount)
            for each, amount in zip(coupons, totals.discounts_minor, strict=True)
            if amount
        ),
        rating_hash=rated.hash,
        unpriced=rated.unpriced,
    )


def document_currencies(tenant: Tenant, period: Period, segments: Sequence[Segment]) -> tuple[str, ...]:
    """In which currencies the period makes documents: those of its plan versions and of its calls."""
    found = {segment.version.currency for segment in within(segments, period.start, period.end)}
    found |= set(currencies(tenant_id=tenant.pk, start=period.start, end=period.end))
    return tuple(sorted(found))


# ------------------------------------------------------------------ base amounts


def opening_lines(period: Period, segments: Sequence[Segment], currency: str) -> tuple[RatedLine, ...]:
    """The first base amount of a plan paid in advance, from where it begins to the end of its cycle."""
    found = opening_segment(period, segments)
    if found is None or found.version.currency != currency:
        return ()
    return _base(found.version, period, max(found.paid_from, period.start), period.cycle_end)


def opening_segment(period: Period, segments: Sequence[Segment]) -> Segment | None:
    """The first segment paid in advance whose payment begins in the period and continues no other's."""
    for number, segment in enumerate(segments):
        before = segments[number - 1] if number else None
        continues = before is not None and before.version.is_in_advance and before.rhythm == segment.rhythm
        if (
            segment.version.is_in_advance
            and segment.version.base_amount
            and not (continues and before is not None and before.paid_from < segment.start)
            and period.start <= segment.paid_from < period.end
            and (segment.end is None or segment.paid_from < segment.end)
        ):
            return segment
    return None


def _base_lines(
    tenant: Tenant, period: Period, segments: Sequence[Segment], currency: str
) -> tuple[RatedLine, ...]:
    """What the period's plans owe beside usage, and the next period's amount where that is due in advance.

    R10: a change within what was paid in advance credits the unused rest of the old plan and charges that of
    the new one. A subscription that ends with no other after it credits nothing.
    """
    lines: list[RatedLine] = []
    paid = _paid_in_advance(tenant, period, currency)
    parts = [part for part in within(segments, period.start, period.end) if part.version.currency == currency]
    for part in parts:
        end = part.end or period.end
        if part.paid_from >= end:
            continue
        version, mode = part.version, cast("Mode", part.version.proration)
        if paid is not None and paid.pk != version.pk and part.is_subscribed:
            new = version if version.is_in_advance else None
            lines += _change(paid, new, period, part.paid_from, currency)
            paid = new
        elif paid is None and version.is_in_advance:
            lines += _base(version, period, part.paid_from, period.cycle_end)
            paid = version
        if not version.is_in_advance:
            lines += _base(version, period, part.paid_from, end, mode)
    following = segment_at(segments, period.end)
    if following is None or following.version.currency != currency:
        return tuple(lines)
    is_cut = period.end < period.cycle_end
    if paid is not None and is_cut and following.is_subscribed:
        lines += _change(paid, None, period, period.end, currency)
    if following.version.is_in_advance:
        coming = period_at(segments, period.timezone, period.end)
        if (
            coming is not None
            and following.paid_from <= coming.start
            and _paid_in_advance(tenant, coming, currency) is None
        ):
            lines += _base(following.version, coming, coming.start, coming.cycle_end)
    return tuple(lines)


def _paid_in_advance(tenant: Tenant, period: Period, currency: str) -> PlanVersion | None:
    """The version whose base amount an earlier document has charged up to the end of this cycle."""
    line = (
        InvoiceLine.objects.filter(
            invoice__in=Invoice.objects.for_tenant(tenant).filter(currency=currency),
            kind=Kind.BASE,
            period_end=period.cycle_end,
            period_start__lt=period.end,
            plan_version__is_in_advance=True,
        )
        .exclude(invoice__status__in=(Invoice.Status.VOID, Invoice.Status.DRAFT))
        .exclude(invoice__period_start=period.start, invoice__occasion=Invoice.Occasion.PERIOD)
        .select_related("plan_version__plan")
        .order_by("-invoice__finalized_at")
        .first()
    )
    return line.plan_version if line is not None else None


def _base(
    version: PlanVersion, period: Period, start: datetime, end: datetime, mode: Mode | None = None
) -> tuple[RatedLine, ...]:
    """quantity of per days (or seconds) of the cycle, at the whole amount; a whole cycle is 1."""
    if not version.base_amount:
        return ()
    mode = mode or cast("Mode", version.proration)
    used, whole = period.days(start, end, mode)
    if not used:
        return ()
    share = period.share(start, end, mode)
    is_whole = share == 1
    return (
        RatedLine(
            kind=Kind.BASE,
            description=version.plan.name if is_whole else f"{version.plan.name}: {used} of {whole} {mode}s",
            amount_minor=to_minor(share * Fraction(version.base_amount), version.currency),
            quantity=Decimal(1 if is_whole else used),
            unit=version.interval if is_whole else f"{mode}s",
            price=version.base_amount,
            per=Decimal(1 if is_whole else whole),
            period_start=start,
            period_end=end,
            tax=version.base_tax,
            version=version,
        ),
    )


def _change(
    old: PlanVersion, new: PlanVersion | None, period: Period, at: datetime, currency: str
) -> list[RatedLine]:
    """R10: minus the unused rest of the old price, plus that of the new one."""
    mode = cast("Mode", (new or old).proration)
    left, whole = period.days(at, period.cycle_end, mode)
    made = prorate(
        unused=Unused(left, whole),
        old_price=old.base_amount,
        new_price=new.base_amount if new else Decimal(0),
        currency=currency,
    )
    sides = [(old, made.credit_minor, -left, "unused")]
    if new is not None:
        sides.append((new, made.charge_minor, left, "from the change on"))
    return [
        RatedLine(
            kind=Kind.PRORATION,
            description=f"{version.plan.name}: {abs(quantity)} of {whole} {mode}s {words}",
            amount_minor=amount,
            quantity=Decimal(quantity),
            unit=f"{mode}s",
            price=version.base_amount,
            per=Decimal(whole),
            period_start=at,
            period_end=period.cycle_end,
            tax=version.base_tax,
            version=version,
        )
        for version, amount, quantity, words in sides
        if amount
    ]


# ------------------------------------------------------------------ late usage


def _late_lines(
    tenant: Tenant,
    period: Period,
    segments: Sequence[Segment],
    currency: str,
    ledger_to: datetime,
    fx: FxTable,
) -> tuple[RatedLine, ...]:
    """R19 for every closed period whose ledger has grown since: all of it rated anew, less what was billed."""
    closed = (
        ClosedPeriod.objects.for_tenant(tenant)
        .filter(currency=currency, start__lt=period.start, end__gt=ledger_to - timedelta(days=LATE_DAYS))
        .exclude(invoice__status=Invoice.Status.VOID)
        .order_by("start")
    )
    lines: list[RatedLine] = []
    for held in closed:
        billed = standing_lines(tenant, held, currency)
        seen = max((line.ledger_to for line in billed if line.ledger_to), default=held.ledger_to)
        if seen >= ledger_to or not has_rows_since(
            tenant_id=tenant.pk,
            start=held.start,
            end=held.end,
            currency=currency,
            recorded_from=seen,
            recorded_to=ledger_to,
        ):
            continue
        was = period_at(segments, period.timezone, held.start)
        if was is None or (was.start, was.end) != (held.start, held.end):
            was = Period(held.start, held.end, held.start, held.end, period.timezone)
        rated = rate_period(
            tenant_id=tenant.pk, period=was, segments=segments, currency=currency, ledger_to=ledger_to, fx=fx
        )
        lines += _adjustments(rated, billed, held, seen, ledger_to)
    return tuple(lines)


def standing_lines(tenant: Tenant, held: ClosedPeriod, currency: str) -> list[InvoiceLine]:
    """What has been billed of a period's usage, on its own document and on later ones."""
    return list(
        InvoiceLine.objects.filter(
            invoice__in=Invoice.objects.for_tenant(tenant)
            .filter(currency=currency)
            .exclude(status__in=(Invoice.Status.DRAFT, Invoice.Status.VOID)),
            kind__in=_RATED_KINDS,
            period_start=held.start,
            period_end=held.end,
            ledger_to__isnull=False,
        ).select_related("plan_version__plan")
    )


def billed_by_key(lines: Iterable[InvoiceLine]) -> dict[Key, tuple[int, int]]:
    """Minor units and measured quantity; the lines of one meter on one document measure the same rows."""
    amounts: dict[Key, int] = {}
    measured: dict[tuple[Key, object], int] = {}
    for line in lines:
        key = (line.plan_version_id, line.charge, line.meter)
        amounts[key] = amounts.get(key, 0) + line.amount_minor
        measured[key, line.invoice_id] = int(line.measured or 0)
    return {
        key: (amount, sum(count for (of, _), count in measured.items() if of == key))
        for key, amount in amounts.items()
    }


def _adjustments(
    rated: RatedPeriod,
    billed: Sequence[InvoiceLine],
    held: ClosedPeriod,
    ledger_from: datetime,
    ledger_to: datetime,
) -> list[RatedLine]:
    already = billed_by_key(billed)
    should_be = rated.by_key()
    shown = {(line.plan_version_id, line.charge, line.meter): line for line in billed}
    lines = []
    for key in dict.fromkeys((*should_be, *already)):
        amount, measured, line = should_be.get(key, (0, 0, None))
        before, before_measured = already.get(key, (0, 0))
        difference = adjustment_minor(already_billed_minor=before, should_be_minor=amount)
        if not difference and measured == before_measured:
            continue
        stored = shown.get(key)
        what = line.description if line else stored.description if stored else ""
        lines.append(
            RatedLine(
                kind=Kind.ADJUSTMENT,
                description=f"Late usage of {held.start:%Y-%m-%d} to {held.end:%Y-%m-%d}: {what}"[:300],
                amount_minor=difference,
                quantity=Decimal(measured - before_measured) if measured != before_measured else Decimal(1),
                unit=line.unit if line else stored.unit if stored else "",
                period_start=held.start,
                period_end=held.end,
                tax=line.tax if line else stored.tax_key if stored else "",
                version=line.version if line else stored.plan_version if stored else None,
                charge=key[1],
                meter=key[2],
                measured=measured - before_measured,
                ledger_from=ledger_from,
                ledger_to=ledger_to,
            )
        )
    return lines


# ------------------------------------------------------------------ coupons


def _coupons(tenant: Tenant, period: Period, currency: str) -> list[TenantCoupon]:
    """Those that come off this document, in the order of their redemption (R11)."""
    rows = (
        TenantCoupon.objects.for_tenant(tenant)
        .filter(redeemed_at__lt=period.end)
        .select_related("coupon")
        .order_by("redeemed_at", "id")
    )
    usable = []
    for row in rows:
        if row.removed_at is not None and row.removed_at <= period.start:
            continue
        if row.coupon.kind == row.coupon.Kind.FIXED and row.coupon.currency != currency:
            continue
        uses = (
            InvoiceDiscount.objects.filter(tenant_coupon=row)
            .exclude(invoice__status__in=(Invoice.Status.DRAFT, Invoice.Status.VOID))
            .count()
        )
        limit = row.coupon.invoice_limit
        if limit is None or uses < limit:
            usable.append(row)
    return usable


def _discount(row: TenantCoupon, lines: Sequence[RatedLine]) -> Discount:
    kinds = row.coupon.line_kinds
    eligible = (
        frozenset(str(number) for number, line in enumerate(lines) if line.kind in kinds) if kinds else None
    )
    return Discount("percent" if row.coupon.kind == "percent" else "fixed", row.coupon.value, eligible)
