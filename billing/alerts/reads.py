"""Alerts as people may see them: the queries behind the console's pages and the API.

Must never show what providers charge without the scope `cost:read`, nor another tenant's row.
"""

from dataclasses import dataclass
from datetime import datetime

from django.db.models import Count, Q, QuerySet

from billing.models import AlertChannel, AlertDelivery, AlertFiring, AlertRule
from tenants.models import Tenant
from tenants.principal import Principal

SCOPE = "budgets:read"


@dataclass(frozen=True, slots=True)
class Summary:
    """What a badge shows: open alerts by severity, those nobody has acknowledged, and dead letters."""

    open_by_severity: dict[str, int]
    unacknowledged: int
    dead_deliveries: int


def firings(principal: Principal, *, tenant: Tenant | None = None) -> QuerySet[AlertFiring]:
    """Firings that the principal may see, the newest first; of one tenant where it is named."""
    rows = AlertFiring.objects.visible_to(principal, SCOPE).select_related("tenant", "rule", "budget")
    seen = without_cost(principal, rows)
    return seen if tenant is None else seen.filter(tenant=tenant)


def open_firings(principal: Principal, *, tenant: Tenant | None = None) -> QuerySet[AlertFiring]:
    """Those that are not over."""
    return firings(principal, tenant=tenant).filter(resolved_at__isnull=True)


def deliveries(principal: Principal, *, firing: AlertFiring | None = None) -> QuerySet[AlertDelivery]:
    """Messages to channels that the principal may see, with their attempts, the newest first."""
    rows = AlertDelivery.objects.visible_to(principal, SCOPE).select_related("tenant", "channel", "firing")
    seen = without_cost(principal, rows.prefetch_related("log"), "firing__")
    return seen if firing is None else seen.filter(firing=firing)


def channels(principal: Principal, *, tenant: Tenant | None) -> QuerySet[AlertChannel]:
    """A tenant's channels, or the operator's own (None)."""
    return AlertChannel.objects.visible_to(principal, SCOPE).filter(tenant=tenant).order_by("name", "id")


def rules(principal: Principal, *, tenant: Tenant | None) -> QuerySet[AlertRule]:
    """A tenant's rules, or the platform's (None), with whom they tell."""
    rows = AlertRule.objects.visible_to(principal, SCOPE).filter(tenant=tenant)
    return rows.select_related("budget", "api_key").prefetch_related("steps__channel").order_by("name", "id")


def summary(principal: Principal, *, tenant: Tenant | None = None, since: datetime) -> Summary:
    """Open alerts now, and dead letters since then."""
    still = open_firings(principal, tenant=tenant).order_by()
    counts = dict(still.values_list("severity").annotate(count=Count("id")))
    dead = deliveries(principal).filter(state=AlertDelivery.State.DEAD, updated_at__gte=since)
    if tenant is not None:
        dead = dead.filter(tenant=tenant)
    return Summary(counts, still.filter(acknowledged_at__isnull=True).count(), dead.count())


def without_cost[M: AlertFiring | AlertDelivery](
    principal: Principal, rows: QuerySet[M], prefix: str = ""
) -> QuerySet[M]:
    """`rows` without firings about cost in tenants where the principal lacks `cost:read`."""
    allowed = principal.tenants_with("cost:read")
    if allowed is None:
        return rows
    hidden = Q(**{f"{prefix}is_cost": True}) & ~Q(**{f"{prefix}tenant_id__in": allowed})
    return rows.exclude(hidden)
