"""A seller, its tax rates, buyers on plans, and calls of theirs: what documents are made of."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from billing.invoicing.draft import Drafted, draft
from billing.invoicing.finalize import finalize
from billing.invoicing.period import Period, period_at, segments_of
from billing.models import BillingProfile, Invoice, LegalEntity, Plan, PlanVersion, TaxRate
from billing.subscriptions import change_plan, publish, subscribe
from billing.usage.records import UsageRecord
from tenants.models import Tenant
from tenants.principal import SYSTEM
from tests import factories
from tests.billing.ledger import put, record

OCTOBER = datetime(2026, 10, 1, tzinfo=UTC)
NOVEMBER = datetime(2026, 11, 1, tzinfo=UTC)
AFTER = datetime(2026, 11, 1, 7, tzinfo=UTC)
"""When October's grace is over."""

TOKENS = {"model": "standard", "name": "Tokens", "components": {
    "input": {"price": "2.00", "per": 1_000_000}, "output": {"price": "8.00", "per": 1_000_000}}}  # fmt: skip
FREE = {"model": "standard", "components": {"tokens": {"price": "0"}}}


def seller(**fields: Any) -> LegalEntity:
    made = LegalEntity.objects.create(
        **{
            "code": "acme-gmbh", "name": "Acme AI GmbH", "address_lines": ["Torstraße 1"],
            "postal_code": "10119", "city": "Berlin", "country": "DE", "vat_id": "DE123456789",
            "registration": "HRB 1234 B, Amtsgericht Charlottenburg", "email": "billing@acme.example",
            "iban": "DE02120300000000202051", "bic": "BYLADEM1001", "timezone": "Europe/Berlin",
            "number_prefix": "ACME", "is_default": True, "auto_finalize": True,
            "bills_from": OCTOBER, **fields,
        }
    )  # fmt: skip
    TaxRate.objects.create(
        key="standard", category="S", percent="19", country=made.country, valid_from=date(2021, 1, 1)
    )
    TaxRate.objects.create(
        key="reduced", category="S", percent="7", country=made.country, valid_from=date(2021, 1, 1)
    )
    return made


def plan(slug: str = "scale", **terms: Any) -> Plan:
    made = Plan.objects.create(slug=slug, name=slug.title())
    publish(plan=made, terms={"charges": [TOKENS], "currency": "EUR", **terms}, actor=SYSTEM)
    return made


def buyer(on: Plan | None = None, start: datetime = OCTOBER, anchor_day: int = 1, **fields: Any) -> Tenant:
    profile = fields.pop("profile", {})
    made = factories.tenant(**{"currency": "EUR", **fields})
    Tenant.objects.filter(pk=made.pk).update(created_at=start)
    made.refresh_from_db()
    BillingProfile.objects.create(
        tenant=made, **{"legal_name": f"{made.name} Ltd", "address_lines": ["1 High St"],
                        "postal_code": "EC1", "city": "London", "country": "GB", **profile}
    )  # fmt: skip
    if on is not None:
        subscribe(tenant=made, plan=on, start=start, anchor_day=anchor_day, actor=SYSTEM)
    return made


def version_of(tenant: Tenant) -> PlanVersion:
    return tenant.subscriptions.order_by("-start").first().plan_version


def call(tenant: Tenant, at: datetime, version: PlanVersion | None = None, **changes: Any) -> UsageRecord:
    """A priced call; its tokens are given by `changes`, all others are 0."""
    return record(
        at,
        **{
            "tenant_id": tenant.pk, "plan_version_id": (version or version_of(tenant)).pk,
            "input_tokens": 0, "cache_read_tokens": 0, "output_tokens": 0, "reasoning_tokens": 0,
            "price_currency": "EUR", "cost_currency": "EUR", "cost_pico": 0, "price_pico": 0,
            "cost_components": None, **changes,
        },
    )  # fmt: skip


def use(tenant: Tenant, at: datetime, *, recorded_at: datetime | None = None, **changes: Any) -> UsageRecord:
    made = call(tenant, at, **changes)
    put(made, recorded_at=recorded_at or at + timedelta(seconds=1))
    return made


def period(tenant: Tenant, at: datetime) -> Period:
    found = period_at(segments_of(tenant), tenant.timezone, at)
    assert found is not None
    return found


def drafted(tenant: Tenant, at: datetime = OCTOBER, now: datetime = AFTER, **more: Any) -> Drafted:
    return draft(tenant=tenant, period=period(tenant, at), now=now, actor=SYSTEM, **more)


def issued(tenant: Tenant, at: datetime = OCTOBER, now: datetime = AFTER, **more: Any) -> Invoice:
    made = drafted(tenant, at, now, **more)
    return finalize(invoice=made.invoice, now=now, actor=SYSTEM)


def lines(invoice: Invoice) -> list[tuple[str, str, int]]:
    """(kind, quantity, net) of each line."""
    return [(line.kind, f"{line.quantity.normalize():f}", line.net_minor) for line in invoice.lines.all()]


__all__ = ["AFTER", "NOVEMBER", "OCTOBER", "Decimal", "change_plan"]
