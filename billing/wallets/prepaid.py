"""Prepaid tenants: what is left in the wallet is a hard limit on their calls, as a budget that nobody made.

Documents draw on the wallet when they are issued, calls are held against it as they come. The budget counts
the price of all calls ever, and its limit is what has been settled plus what the balance still pays: issuing a
document moves both by the same calls, so the counter is never made anew and no call slips between two windows.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from math import floor
from uuid import UUID

from django.db import connection, transaction
from django.db.models import Q, Sum

from billing.invoicing.parties import seller_of, tax_key, tax_terms
from billing.invoicing.period import period_at, segments_of
from billing.models import BillingProfile, CreditGrant, Invoice, UsageHour, Wallet
from billing.rating.money import PICO, amount_text
from billing.usage.partitions import LEDGER
from billing.usage.rollups import IS_TENANTS
from billing.wallets import book
from tenants import audit, versions
from tenants.errors import ApiError
from tenants.models import Tenant
from tenants.principal import Principal

MICRO = 10**6


@dataclass(frozen=True, slots=True)
class Limit:
    """What the prices of all calls of a prepaid tenant may come to, ever; micro-units."""

    wallet_id: UUID
    tenant_id: UUID
    currency: str
    timezone: str
    limit_micro: int


def limits(at: datetime, wallets: Iterable[Wallet] | None = None) -> tuple[Limit, ...]:
    """Of all prepaid tenants (or of those `wallets`), in a number of queries that does not grow with them.

    Promotional credit counts in full, paid credit less the tax that the document will add; rounded down.
    """
    if wallets is None:
        wallets = Wallet.objects.filter(is_prepaid=True).select_related("tenant").order_by("id")
    held = list(wallets)
    if not held:
        return ()
    usable: dict[tuple[UUID, str], int] = {
        (row["wallet"], row["category"]): int(row["left"])
        for row in CreditGrant.objects.filter(wallet__in=held, remaining_pico__gt=0, effective_at__lte=at)
        .filter(Q(expires_at__isnull=True) | Q(expires_at__gt=at))
        .order_by()
        .values("wallet", "category")
        .annotate(left=Sum("remaining_pico"))
    }
    profiles = {
        profile.tenant_id: profile
        for profile in BillingProfile.objects.filter(
            tenant__in=[each.tenant_id for each in held]
        ).select_related("legal_entity", "tenant")
    }
    taxes: dict[tuple[UUID | None, str], Fraction] = {}
    found = []
    for wallet in held:
        profile = profiles.get(wallet.tenant_id) or BillingProfile(tenant=wallet.tenant)
        key = (profile.legal_entity_id, tax_key(profile, ""))
        if key not in taxes:
            taxes[key] = _tax(profile, at)
        paid = Fraction(usable.get((wallet.pk, "paid"), 0)) / (1 + taxes[key])
        spendable = int(wallet.settled_pico) + usable.get((wallet.pk, "promotional"), 0) + floor(paid)
        found.append(
            Limit(
                wallet.pk,
                wallet.tenant_id,
                wallet.currency,
                wallet.tenant.timezone,
                spendable * MICRO // PICO,
            )
        )
    return tuple(found)


def spendable_pico(wallet: Wallet, at: datetime) -> int:
    """What the wallet has, less the calls that no document has drawn on it for yet; not below zero."""
    found = book.usable(wallet.tenant, wallet.currency, at)
    unsettled = _rolled(wallet, before=None) - int(wallet.settled_pico) if wallet.is_prepaid else 0
    return max(0, sum(found.values()) - max(0, unsettled))


def switch(*, wallet: Wallet, is_prepaid: bool, now: datetime, actor: Principal) -> Wallet:
    """Make the balance a hard limit from now on, or no longer. Calls of the running period count against it.

    Raises ApiError invalid_request for a wallet in another currency than the tenant's.
    """
    with transaction.atomic():
        held = book.locked_wallet(wallet.tenant, wallet.currency)
        if held.is_prepaid == is_prepaid:
            return held
        if is_prepaid and held.currency != held.tenant.currency:
            raise ApiError(
                "invalid_request", f"Calls are priced in {held.tenant.currency}.", param="is_prepaid"
            )
        versions.bump("billing")
        held.is_prepaid = is_prepaid
        held.prepaid_from = _running_from(held.tenant, now) if is_prepaid else None
        held.settled_pico = _settled(held) if is_prepaid else 0
        held.save(update_fields=("is_prepaid", "prepaid_from", "settled_pico", "updated_at"))
        audit.record(
            principal=actor,
            action="wallet.prepaid" if is_prepaid else "wallet.postpaid",
            object_type="wallet",
            object_id=held.pk,
            tenant=held.tenant,
            before={"is_prepaid": not is_prepaid},
            after={"is_prepaid": is_prepaid, "balance": amount_text(int(held.balance_pico))},
        )
    return held


def settle(*, tenant: Tenant) -> None:
    """Note which calls documents have dealt with, after one was issued or voided, in its transaction."""
    with transaction.atomic():
        held = (
            Wallet.objects.select_for_update(of=("self",))
            .select_related("tenant")
            .filter(tenant=tenant, is_prepaid=True)
            .first()
        )
        if held is None:
            return
        settled = _settled(held)
        if settled != held.settled_pico:
            held.settled_pico = settled
            held.save(update_fields=("settled_pico", "updated_at"))
        versions.bump("billing")


# ------------------------------------------------------------------ what is settled


def _running_from(tenant: Tenant, now: datetime) -> datetime:
    """The end of what was invoiced last, else the start of the running period."""
    last = _last_invoice(tenant, tenant.currency)
    if last is not None:
        return last.period_end
    period = period_at(segments_of(tenant), tenant.timezone, now)
    return period.start if period is not None else now


def _last_invoice(tenant: Tenant, currency: str) -> Invoice | None:
    return (
        Invoice.objects.for_tenant(tenant)
        .filter(currency=currency, occasion=Invoice.Occasion.PERIOD)
        .exclude(status__in=(Invoice.Status.DRAFT, Invoice.Status.VOID))
        .order_by("-period_end")
        .first()
    )


def _settled(wallet: Wallet) -> int:
    """Calls before `prepaid_from`, and those before the last document's end that it knew of; pico-units."""
    since = wallet.prepaid_from
    last = _last_invoice(wallet.tenant, wallet.currency)
    if since is None or last is None or last.period_end <= since:
        return 0 if since is None else _rolled(wallet, before=since)
    late = _ledger(
        wallet, "occurred_at >= %(low)s AND occurred_at < %(high)s AND recorded_at > %(recorded)s",
        low=since, high=last.period_end, recorded=last.ledger_to,
    )  # fmt: skip
    return _rolled(wallet, before=last.period_end) - late


def _rolled(wallet: Wallet, before: datetime | None) -> int:
    """The price of all calls before an instant: whole hours from the rollup, the rest from the ledger."""
    rows = UsageHour.objects.filter(tenant_id=wallet.tenant_id, price_currency=wallet.currency)
    if before is None:
        return int(rows.aggregate(total=Sum("price_pico"))["total"] or 0)
    hour = before.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    whole = int(rows.filter(hour__lt=hour).aggregate(total=Sum("price_pico"))["total"] or 0)
    return whole + _ledger(wallet, "occurred_at >= %(low)s AND occurred_at < %(high)s", low=hour, high=before)


def _ledger(wallet: Wallet, condition: str, **parameters: datetime) -> int:
    given: dict[str, UUID | str | datetime] = {
        "tenant": wallet.tenant_id,
        "currency": wallet.currency,
        **parameters,
    }
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT coalesce(sum(price_pico), 0) FROM {LEDGER} WHERE tenant_id = %(tenant)s "  # noqa: S608 - own words
            f"AND price_currency = %(currency)s AND {IS_TENANTS} AND {condition}",
            given,
        )
        return int(cursor.fetchone()[0])


def _tax(profile: BillingProfile, at: datetime) -> Fraction:
    """The standard tax of the tenant's documents; none where nobody issues any yet."""
    try:
        return Fraction(tax_terms(seller_of(profile), tax_key(profile, ""), on=at.date()).rate.percent) / 100
    except ApiError:
        return Fraction(0)
