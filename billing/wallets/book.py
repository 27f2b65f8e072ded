"""Moving credit: grant, draw in R14's order, expire, return. One transaction each; entries are only ever added.

Locks the wallet's row before its grants, after a payment, a buyer's profile and a document, before the config
version and the audit chain. What a wallet holds never falls below zero: the database refuses it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import cast
from uuid import UUID

from django.db import transaction

from billing.models import CreditGrant, CreditNote, Invoice, Wallet, WalletEntry
from billing.rating.money import amount_text
from billing.wallets.drawdown import Allocation, Category, Drawdown, Grant
from billing.wallets.drawdown import draw as drawn
from tenants import audit, versions
from tenants.errors import ApiError
from tenants.models import Tenant
from tenants.principal import Principal

_Kind = WalletEntry.Kind


@dataclass(frozen=True, slots=True)
class Expired:
    """What was lost when a grant ended (R14)."""

    grant_id: UUID
    tenant_id: UUID
    currency: str
    lost_pico: int


def locked_wallet(tenant: Tenant, currency: str) -> Wallet:
    """The tenant's wallet in that currency, made if missing, locked until the caller's transaction ends."""
    Wallet.objects.bulk_create([Wallet(tenant=tenant, currency=currency)], ignore_conflicts=True)
    return (
        Wallet.objects.select_for_update(of=("self",))
        .select_related("tenant")
        .get(tenant=tenant, currency=currency)
    )


def grant(
    *,
    tenant: Tenant,
    currency: str,
    amount_pico: int,
    category: Category,
    at: datetime,
    actor: Principal,
    name: str = "",
    source: str = CreditGrant.Source.MANUAL,
    priority: int = 50,
    effective_at: datetime | None = None,
    expires_at: datetime | None = None,
    credit_note: CreditNote | None = None,
) -> CreditGrant:
    """Put credit into the wallet. Raises ApiError invalid_request for an amount or a span that is none."""
    effective_at = effective_at or at
    if amount_pico <= 0:
        raise ApiError("invalid_request", "A grant needs an amount above zero.", param="amount")
    if expires_at is not None and expires_at <= max(effective_at, at):
        raise ApiError(
            "invalid_request", "A grant must expire after it begins, and not yet.", param="expires_at"
        )
    with transaction.atomic():
        wallet = locked_wallet(tenant, currency)
        made = CreditGrant.objects.create(
            wallet=wallet,
            tenant=tenant,
            name=name,
            category=category,
            source=source,
            amount_pico=amount_pico,
            priority=priority,
            effective_at=effective_at,
            expires_at=expires_at,
            credit_note=credit_note,
        )
        _enter(wallet, [Allocation(str(made.pk), amount_pico)], kind=_Kind.GRANT, at=at)
        announce(wallet)
        audit.record(
            principal=actor,
            action="wallet.grant",
            object_type="credit_grant",
            object_id=made.pk,
            tenant=tenant,
            after={"amount": amount_text(amount_pico), "currency": currency, "category": category,
                   "source": source, "expires_at": expires_at.isoformat() if expires_at else None},
        )  # fmt: skip
    made.refresh_from_db()
    return made


def draw(
    *,
    tenant: Tenant,
    currency: str,
    amount_pico: int,
    at: datetime,
    category: Category | None = None,
    invoice: Invoice | None = None,
    request_id: UUID | None = None,
) -> Drawdown:
    """Take what the grants usable `at` have, in R14's order, of one category or all; the rest is `uncovered`.

    Once per request id: a second draw answers what the first one took, and takes nothing.
    """
    with transaction.atomic():
        wallet = locked_wallet(tenant, currency)
        if request_id is not None:
            earlier = _drawn_before(wallet, amount_pico, request_id)
            if earlier is not None:
                return earlier
        rows = wallet.grants.filter(remaining_pico__gt=0)
        if category is not None:
            rows = rows.filter(category=category)
        made = drawn(amount_pico, *_as_grants(rows), at=at)
        _enter(
            wallet,
            [Allocation(each.grant_id, -each.amount_pico) for each in made.allocations],
            kind=_Kind.DRAW,
            at=at,
            invoice=invoice,
            request_id=request_id,
        )
        if made.allocations:
            announce(wallet)
    return made


def give_back(*, invoice: Invoice, at: datetime) -> int:
    """Return what was drawn for a document to the grants it came from, once; pico-units.

    What came from a grant that has ended since returns as a grant without an end: the tenant must not lose by
    our voiding.
    """
    with transaction.atomic():
        wallet = locked_wallet(invoice.tenant, invoice.currency)
        rows = WalletEntry.objects.filter(invoice=invoice).select_related("grant")
        if rows.filter(kind=_Kind.RETURN).exists():
            return 0
        total = 0
        for row in rows.filter(kind=_Kind.DRAW).order_by("id"):
            amount, target = -int(row.amount_pico), row.grant
            total += amount
            if target.expires_at is not None and target.expires_at <= at:
                target = CreditGrant.objects.create(
                    wallet=wallet,
                    tenant=invoice.tenant,
                    name=target.name,
                    category=target.category,
                    source=CreditGrant.Source.RETURNED,
                    amount_pico=amount,
                    priority=target.priority,
                    effective_at=at,
                )
                _enter(wallet, [Allocation(str(target.pk), amount)], kind=_Kind.GRANT, at=at)
                continue
            _enter(wallet, [Allocation(str(target.pk), amount)], kind=_Kind.RETURN, at=at, invoice=invoice)
        if total:
            announce(wallet)
    return total


def take_from_grant(*, held: CreditGrant, amount_pico: int, at: datetime) -> None:
    """Take refunded money out of the grant that it had made. Raises ApiError conflict beyond what remains."""
    with transaction.atomic():
        wallet = locked_wallet(held.tenant, held.wallet.currency)
        held.refresh_from_db()
        if amount_pico > held.remaining_pico:
            left = amount_text(int(held.remaining_pico))
            raise ApiError("conflict", f"Only {left} {wallet.currency} of it are left in the wallet.")
        _enter(wallet, [Allocation(str(held.pk), -amount_pico)], kind=_Kind.REFUND, at=at)
        announce(wallet)


def expire(*, now: datetime, actor: Principal) -> tuple[Expired, ...]:
    """Book the loss of every grant that has ended with something left. Each wallet is a transaction of its own."""
    lost: list[Expired] = []
    due = CreditGrant.objects.filter(expires_at__lte=now, remaining_pico__gt=0)
    for wallet in (
        Wallet.objects.filter(pk__in=due.values("wallet_id")).select_related("tenant").order_by("id")
    ):
        with transaction.atomic():
            held = locked_wallet(wallet.tenant, wallet.currency)
            rows = [(row.pk, int(row.remaining_pico)) for row in due.filter(wallet=held).order_by("id")]
            if not rows:
                continue  # another run was faster
            _enter(held, [Allocation(str(pk), -amount) for pk, amount in rows], kind=_Kind.EXPIRE, at=now)
            announce(held)
            for pk, amount in rows:
                audit.record(
                    principal=actor,
                    action="wallet.expire",
                    object_type="credit_grant",
                    object_id=pk,
                    tenant=held.tenant,
                    after={"lost": amount_text(amount), "currency": held.currency},
                )
                lost.append(Expired(pk, held.tenant_id, held.currency, amount))
    return tuple(lost)


def announce(wallet: Wallet) -> None:
    """Tell the workers about a balance that limits calls. Before the audit event, as everywhere."""
    if wallet.is_prepaid:
        versions.bump("billing")


def usable(tenant: Tenant, currency: str, at: datetime) -> Mapping[str, int]:
    """What the grants usable `at` still have, by category, in pico-units."""
    found = {"paid": 0, "promotional": 0}
    rows = CreditGrant.objects.for_tenant(tenant).filter(wallet__currency=currency, remaining_pico__gt=0)
    grants, remaining = _as_grants(rows)
    for each in grants:
        if each.is_usable(at):
            found[each.category] += remaining[each.id]
    return found


def _as_grants(rows: Iterable[CreditGrant]) -> tuple[list[Grant], dict[str, int]]:
    grants, remaining = [], {}
    for row in rows:
        grants.append(
            Grant(
                id=str(row.pk),
                amount_pico=int(row.amount_pico),
                category=cast("Category", row.category),
                effective_at=row.effective_at,
                expires_at=row.expires_at,
                priority=row.priority,
            )
        )
        remaining[str(row.pk)] = int(row.remaining_pico)
    return grants, remaining


def _drawn_before(wallet: Wallet, amount_pico: int, request_id: UUID) -> Drawdown | None:
    rows = list(wallet.entries.filter(request_id=request_id, kind=_Kind.DRAW).order_by("id"))
    if not rows:
        return None
    parts = tuple(Allocation(str(row.grant_id), -int(row.amount_pico)) for row in rows)
    return Drawdown(parts, max(0, amount_pico - sum(part.amount_pico for part in parts)))


def _enter(
    wallet: Wallet,
    parts: Iterable[Allocation],
    *,
    kind: str,
    at: datetime,
    invoice: Invoice | None = None,
    request_id: UUID | None = None,
) -> None:
    WalletEntry.objects.bulk_create(
        WalletEntry(
            wallet=wallet,
            tenant_id=wallet.tenant_id,
            grant_id=UUID(part.grant_id),
            kind=kind,
            amount_pico=part.amount_pico,
            at=at,
            invoice=invoice,
            request_id=request_id,
        )
        for part in parts
    )
