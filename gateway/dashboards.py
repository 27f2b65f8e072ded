"""The numbers of the home pages, shaped for reading: now against before, the last hour by minute, top models.

All sums come from billing.usage.reports, the same query that feeds the API and the invoice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, Literal
from uuid import UUID

from django.db import transaction

from billing import subscriptions
from billing.models import Plan, Subscription
from billing.rating.money import PICO
from billing.subscriptions import current_version
from billing.usage import reports
from gateway.catalogue import callable_name
from tenants import lifecycle
from tenants.models import Tenant
from tenants.principal import Principal

LIVE_MINUTES = 60
TOP_MODELS = 8

# ------------------------------------------------------------------ periods


@dataclass(frozen=True, slots=True)
class Period:
    """A stretch of time that ends now, and the words for the equal stretch before it."""

    slug: str
    label: str
    before: str
    length: timedelta


PERIODS = (
    Period("1h", "1 hour", "the hour before", timedelta(hours=1)),
    Period("24h", "24 hours", "the day before", timedelta(days=1)),
    Period("7d", "7 days", "the week before", timedelta(days=7)),
    Period("30d", "30 days", "the 30 days before", timedelta(days=30)),
)


def period_of(slug: str) -> Period:
    """The period an address names; 24 hours for anything else."""
    return next((period for period in PERIODS if period.slug == slug), PERIODS[1])


# ------------------------------------------------------------------ overview


@dataclass(frozen=True, slots=True)
class Figure:
    """One number with its change against the period before, as text ("+12.4%"); empty when incomparable.

    Money is in pico-units of `currency`, durations in ms, shares of one.
    """

    label: str
    kind: Literal["count", "money", "ms", "percent"]
    value: int | float | Decimal | None
    change: str
    currency: str = ""


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One model's share of the period; `share` is percent of the busiest model's requests, as text."""

    model: str
    requests: int
    tokens: int
    cost_pico: int | None
    cost_currency: str
    price_pico: int | None
    price_currency: str
    p95_ms: float | None
    success_rate: float | None
    share: str


@dataclass(frozen=True, slots=True)
class Overview:
    period: Period
    figures: Sequence[Figure]
    models: Sequence[ModelRow]
    unpriced: int
    with_cost: bool
    as_of: datetime


def overview(
    *, tenant_ids: frozenset[UUID] | None, period: Period, now: datetime, timezone: str, with_cost: bool
) -> Overview:
    """The period that ends now, the one before it, and the busiest models. `tenant_ids` None is everybody."""
    measures = ["requests", "tokens", "price", "p50_ms", "p95_ms", "success_rate", "unpriced"]
    measures += ["cost"] if with_cost else []
    report = partial(reports.report, tenant_ids=tenant_ids, timezone=timezone, measures=measures)
    current = report(start=now - period.length, end=now, group_by=("model",))
    before = report(start=now - 2 * period.length, end=now - period.length, group_by=())
    return Overview(
        period=period,
        figures=_figures(current.totals, before.totals, with_cost=with_cost),
        models=_models(current.rows, with_cost=with_cost),
        unpriced=current.totals["unpriced"],
        with_cost=with_cost,
        as_of=current.as_of,
    )


def _figures(totals: Mapping[str, Any], before: Mapping[str, Any], *, with_cost: bool) -> Sequence[Figure]:
    return [
        _figure("Requests", "count", totals, before, "requests"),
        _figure("Tokens", "count", totals, before, "tokens"),
        *(_money("Cost", totals, before, "cost") if with_cost else ()),
        *_money("Price", totals, before, "price"),
        _figure("p50", "ms", totals, before, "p50_ms"),
        _figure("p95", "ms", totals, before, "p95_ms"),
        _figure("Success", "percent", totals, before, "success_rate"),
    ]


def _figure(
    label: str,
    kind: Literal["count", "ms", "percent"],
    totals: Mapping[str, Any],
    before: Mapping[str, Any],
    measure: str,
) -> Figure:
    value, earlier = totals[measure], before[measure]
    change = _points(value, earlier) if kind == "percent" else change_of(value, earlier)
    return Figure(label, kind, value, change)


def change_of(value: float | Decimal | None, earlier: float | Decimal | None) -> str:
    """The relative change as text, "" when either side is missing or the earlier one is zero."""
    if value is None or not earlier:
        return ""
    share = (Decimal(str(value)) / Decimal(str(earlier)) - 1) * 100
    if share >= 1000:
        return f"{Decimal(str(value)) / Decimal(str(earlier)):.0f} times"
    return f"{share:+.1f}%"


def _points(value: float | Decimal | None, earlier: float | Decimal | None) -> str:
    if value is None or earlier is None:
        return ""
    return f"{(Decimal(str(value)) - Decimal(str(earlier))) * 100:+.1f} points"


def _money(
    label: str, totals: Mapping[str, Any], before: Mapping[str, Any], measure: str
) -> Sequence[Figure]:
    """One figure per currency: sums of different currencies are different numbers."""
    now, earlier = totals[measure], before[measure]
    currencies = sorted(now) or ["USD"]
    return [
        Figure(
            label if len(currencies) == 1 else f"{label}, {currency}",
            "money",
            now.get(currency, 0),
            change_of(now.get(currency, 0), earlier.get(currency)),
            currency,
        )
        for currency in currencies
    ]


def _models(rows: Sequence[Mapping[str, Any]], *, with_cost: bool) -> Sequence[ModelRow]:
    busiest = sorted(rows, key=lambda row: (-row["requests"], row["model"]))[:TOP_MODELS]
    most = max((row["requests"] for row in busiest), default=0) or 1
    return [_model_row(row, most, with_cost=with_cost) for row in busiest]


def _model_row(row: Mapping[str, Any], most: int, *, with_cost: bool) -> ModelRow:
    is_unpriced = row["unpriced"] > 0
    cost_currency, cost_pico = _main_amount(row["cost"], is_unpriced=is_unpriced) if with_cost else ("", None)
    price_currency, price_pico = _main_amount(row["price"], is_unpriced=is_unpriced)
    return ModelRow(
        model=row["model"] or "refused before routing",
        requests=row["requests"],
        tokens=row["tokens"],
        cost_pico=cost_pico,
        cost_currency=cost_currency,
        price_pico=price_pico,
        price_currency=price_currency,
        p95_ms=row["p95_ms"],
        success_rate=row["success_rate"],
        share=f"{100 * row['requests'] / most:.2f}",
    )


def _main_amount(amounts: Mapping[str, int], *, is_unpriced: bool) -> tuple[str, int | None]:
    """The largest of a row's amounts; a model is nearly always bought and sold in one currency.

    A sum of nothing but unpriced calls is unknown (None), not zero.
    """
    currency, pico = max(amounts.items(), key=lambda item: item[1], default=("USD", 0))
    return currency, None if is_unpriced and pico == 0 else pico


# ------------------------------------------------------------------ the last hour


@dataclass(frozen=True, slots=True)
class Minute:
    """One minute of the live chart; `values` in the order of the series' names, as text for machines."""

    at: datetime
    values: Sequence[int]


@dataclass(frozen=True, slots=True)
class LiveSeries:
    names: Sequence[str]
    rows: Sequence[Minute]


def live_series(*, tenant_ids: frozenset[UUID] | None, now: datetime) -> LiveSeries:
    """Requests and tokens of each of the last 60 minutes, quiet minutes as zeros."""
    by_minute = {row.minute: row for row in reports.live(tenant_ids=tenant_ids, minutes=LIVE_MINUTES)}
    last = now.replace(second=0, microsecond=0)
    minutes = [last - timedelta(minutes=back) for back in range(LIVE_MINUTES - 1, -1, -1)]
    rows = []
    for minute in minutes:
        found = by_minute.get(minute)
        rows.append(Minute(minute, (found.requests, found.tokens) if found else (0, 0)))
    return LiveSeries(("Requests", "Tokens"), rows)


# ------------------------------------------------------------------ tenants and their plans


@dataclass(frozen=True, slots=True)
class Amount:
    pico: int
    currency: str


@dataclass(frozen=True, slots=True)
class TenantRow:
    """A tenant in the operator's list: its plan ("" for the default one), and its last 30 days."""

    tenant: Tenant
    plan: str
    requests: int
    prices: Sequence[Amount]


def tenant_rows(tenants: Sequence[Tenant], *, now: datetime) -> Sequence[TenantRow]:
    """The rows of one page, in two queries."""
    ids = frozenset(tenant.id for tenant in tenants)
    plans = {
        subscription.tenant_id: f"{subscription.plan_version.plan.name} v{subscription.plan_version.number}"
        for subscription in Subscription.objects.filter(tenant__in=ids, end__isnull=True).select_related(
            "plan_version__plan"
        )
    }
    usage = reports.report(
        tenant_ids=ids,
        start=now - timedelta(days=30),
        end=now,
        timezone="UTC",
        group_by=("tenant",),
        measures=("requests", "price"),
    )
    by_tenant = {row["tenant"]: row for row in usage.rows}
    rows = []
    for tenant in tenants:
        used = by_tenant.get(tenant.id)
        prices = sorted(used["price"].items()) if used else ()
        rows.append(
            TenantRow(
                tenant=tenant,
                plan=plans.get(tenant.id, ""),
                requests=used["requests"] if used else 0,
                prices=[Amount(pico, currency) for currency, pico in prices if pico],
            )
        )
    return rows


def open_tenant_on_plan(
    *,
    slug: str,
    name: str,
    timezone: str,
    currency: str,
    region_policy: Sequence[str],
    plan_slug: str,
    actor: Principal,
    now: datetime,
) -> Tenant:
    """A new tenant and, unless `plan_slug` is empty, its subscription, in one transaction.

    Raises ApiError as `lifecycle.open_tenant` and `subscriptions.subscribe`.
    """
    with transaction.atomic():
        tenant = lifecycle.open_tenant(
            slug=slug,
            name=name,
            timezone=timezone,
            currency=currency,
            region_policy=region_policy,
            actor=actor,
        )
        if plan_slug:
            plan = Plan.objects.get(slug=plan_slug)
            subscriptions.subscribe(tenant=tenant, plan=plan, start=now, actor=actor)
    return tenant


@dataclass(frozen=True, slots=True)
class Terms:
    """What the tenant is sold, for people. `since` None: the default plan; a limit None: unlimited."""

    plan: str
    plan_slug: str
    since: datetime | None
    currency: str
    interval: str
    base_pico: int
    allowed_models: Sequence[str]
    limit_rpm: int | None
    limit_tpm: int | None
    max_concurrent: int | None


def terms_shown(tenant: Tenant) -> Terms:
    """The plan version in force for the tenant."""
    subscription = Subscription.objects.for_tenant(tenant).filter(end__isnull=True).first()
    version = current_version(tenant)
    return Terms(
        plan=f"{version.plan.name} v{version.number}",
        plan_slug=version.plan.slug,
        since=subscription.start if subscription else None,
        currency=version.currency,
        interval=version.interval,
        base_pico=int(version.base_amount * PICO),
        allowed_models=version.allowed_models,
        limit_rpm=version.limits.get("limit_rpm"),
        limit_tpm=version.limits.get("limit_tpm"),
        max_concurrent=version.limits.get("max_concurrent"),
    )


# ------------------------------------------------------------------ the first call


@dataclass(frozen=True, slots=True)
class Snippets:
    """Programs that make a first call with the key from the environment."""

    model: str
    is_callable: bool
    curl: str
    python: str


_CURL = """\
curl {base_url}/chat/completions \\
  -H "Authorization: Bearer $TOLLHOUSE_API_KEY" \\
  -H "Content-Type: application/json" \\
  -d '{{"model": "{model}",
       "messages": [{{"role": "user",
                     "content": "Hello!"}}]}}'"""
_PYTHON = """\
import os
from openai import OpenAI

client = OpenAI(
    base_url="{base_url}",
    api_key=os.environ["TOLLHOUSE_API_KEY"],
)
answer = client.chat.completions.create(
    model="{model}",
    messages=[{{"role": "user", "content": "Hello!"}}],
)
print(answer.choices[0].message.content)"""


def first_call(*, tenant: Tenant, base_url: str) -> Snippets:
    """Snippets that work as they stand, once the key is in the environment."""
    name = callable_name(tenant)
    model = name or "your-model"
    return Snippets(
        model=model,
        is_callable=name is not None,
        curl=_CURL.format(base_url=base_url, model=model),
        python=_PYTHON.format(base_url=base_url, model=model),
    )
