"""What has reached its threshold, by the ledger and its rollups. Each firing is a transaction of its own.

Anything here may run twice, late, or together with itself: what fired, fired. Must never let the rollups
alone decide about a budget: they screen, the ledger's count decides.
"""

# ruff: noqa: S608 - statements are put together from this package's own constants

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from statistics import median
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

from django.db import connection
from django.db.models import Q

from billing.alerts import rules
from billing.alerts.firing import Alarm, fire, resolve
from billing.alerts.notices import money_text, number_text
from billing.alerts.rules import Fired
from billing.alerts.totals import upper_bounds
from billing.budgets.counters import spent
from billing.budgets.evaluate import Window, window_of
from billing.economics.forecast import THETA_FROM_DAYS, robust_theta
from billing.models import AlertFiring, AlertRule, AlertWatch, Budget
from billing.rating.money import PICO
from billing.snapshot import BudgetEntry, entry_of
from billing.usage.partitions import LEDGER
from billing.usage.reports import Report, report
from tenants.models import ApiKey, Tenant

logger = logging.getLogger(__name__)

MONEY: Final = ("price", "cost")
HISTORY_DAYS: Final = 120
USUAL_DAYS: Final = 14
_Kind = AlertRule.Kind
_Basis = AlertRule.Basis


def fresh_tenants(*, since: datetime) -> frozenset[UUID]:
    """Tenants with ledger rows recorded since then, of calls up to a day older; others wait for the sweep."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT DISTINCT tenant_id FROM {LEDGER} WHERE recorded_at >= %s AND occurred_at >= %s",
            [since, since - timedelta(days=1)],
        )
        return frozenset(row[0] for row in cursor.fetchall())


# ------------------------------------------------------------------ budgets


@dataclass(frozen=True, slots=True)
class _Watched:
    """A budget in its running window, and the words of whoever watches it: itself, or a rule."""

    budget: Budget
    entry: BudgetEntry
    window: Window
    rule: AlertRule | None

    @property
    def subject(self) -> str:
        return f"rule:{self.rule.pk}" if self.rule else f"budget:{self.budget.pk}"

    @property
    def thresholds(self) -> list[Decimal]:
        return [*map(Decimal, self.rule.thresholds if self.rule else self.budget.thresholds)]

    @property
    def is_percent(self) -> bool:
        return self.rule is None or self.rule.unit == AlertRule.Unit.PERCENT

    @property
    def unit(self) -> int:
        """Smallest units in one of the budget's."""
        return PICO if self.entry.measure in MONEY else 1

    @property
    def limit(self) -> int:
        return int(self.budget.limit * self.unit)

    def decide(self, value: int, fired: Collection[Fired]) -> rules.Decision:
        return rules.decide(
            value=value,
            limit=self.limit,
            thresholds=self.thresholds,
            is_percent=self.is_percent,
            unit=self.unit,
            fired=fired,
        )


def evaluate_budgets(*, now: datetime, tenant_ids: Collection[UUID] | None = None) -> int:
    """Fire the thresholds of actual use, of these tenants' budgets (None: all); returns how many fired."""
    watched = list(_watched(_Basis.ACTUAL, now, tenant_ids))
    bounds = upper_bounds([(each.entry, each.window) for each in watched]) if watched else []
    fired = _fired(watched)
    count = 0
    for each, bound in zip(watched, bounds, strict=True):
        known = fired.get((each.subject, each.window.id), ())
        decision = each.decide(bound, [held for held, _ in known])
        for held, firing in known:
            if held.threshold in decision.rearm:
                resolve(firing=firing, now=now, is_rearmed=True)
        if decision.fire:
            used = spent(each.entry, each.window)
            for threshold in each.decide(used, [held for held, _ in known]).fire:
                count += fire(alarm=_alarm_of(each, threshold, used), now=now) is not None
    return count


def evaluate_forecasts(*, now: datetime) -> int:
    """Fire the thresholds that windows will reach by their end, seen twice in a row; returns how many."""
    watched = [
        each
        for each in _watched(_Basis.FORECAST, now, None)
        if rules.may_forecast(start=_instant(each.window.start), end=_end(each.window), now=now)
    ]
    fired = _fired(watched)
    count = 0
    for each in watched:
        known = fired.get((each.subject, each.window.id), ())
        used = spent(each.entry, each.window)
        value, method = _projected(each, used, now)
        decision = each.decide(value, [held for held, _ in known])
        for held, firing in known:
            if held.threshold in decision.rearm:
                resolve(firing=firing, now=now, is_rearmed=True)
        for threshold in _confirmed(each, decision.fire, now):
            count += fire(alarm=_alarm_of(each, threshold, value, method=method), now=now) is not None
    return count


def _watched(basis: str, now: datetime, tenant_ids: Collection[UUID] | None) -> Iterator[_Watched]:
    """Enabled budgets with thresholds of their own (of actual use), and those that rules watch."""
    whose = Q() if tenant_ids is None else Q(tenant_id__in=tenant_ids) | Q(tenant=None)
    budgets = Budget.objects.filter(whose, is_enabled=True).select_related("tenant", "api_key").order_by("id")
    by_id: dict[UUID, tuple[BudgetEntry, Window]] = {}

    def placed(budget: Budget) -> tuple[BudgetEntry, Window]:
        if budget.pk not in by_id:
            entry = entry_of(budget)
            by_id[budget.pk] = entry, entry.window_at(now.timestamp())
        return by_id[budget.pk]

    if basis == _Basis.ACTUAL:
        for budget in budgets.filter(thresholds__len__gt=0):
            yield _Watched(budget, *placed(budget), None)
    of_rules = AlertRule.objects.filter(kind=_Kind.BUDGET, basis=basis, is_enabled=True, budget__in=budgets)
    for rule in of_rules.select_related("tenant", "api_key", "budget__tenant", "budget__api_key").order_by(
        "id"
    ):
        if rule.budget is not None:
            yield _Watched(rule.budget, *placed(rule.budget), rule)


def _fired(watched: Sequence[_Watched]) -> Mapping[tuple[str, str], Sequence[tuple[Fired, AlertFiring]]]:
    """What fired already in these windows and was not armed again, by subject and window."""
    unit_of = {each.subject: each.unit for each in watched}
    found: dict[tuple[str, str], list[tuple[Fired, AlertFiring]]] = {}
    rows = AlertFiring.objects.filter(
        subject__in=unit_of, window__in={each.window.id for each in watched}, rearmed_at__isnull=True
    )
    for firing in rows:
        limit = int((firing.limit or 0) * unit_of[firing.subject])
        found.setdefault((firing.subject, firing.window), []).append((Fired(firing.threshold, limit), firing))
    return found


def _confirmed(each: _Watched, reached: Collection[Decimal], now: datetime) -> list[Decimal]:
    """Those of `reached` that the evaluation before saw too; the others are remembered or forgotten."""
    rows = AlertWatch.objects.filter(subject=each.subject, window=each.window.id)
    rows.exclude(threshold__in=reached).delete()
    seen = dict(rows.values_list("threshold", "seen_at"))
    confirmed = []
    for threshold in reached:
        seen_at = seen.get(threshold)
        if rules.is_confirmed(seen_at=seen_at, now=now):
            confirmed.append(threshold)
        elif seen_at is None or now - seen_at > rules.CONFIRM_WITHIN:
            AlertWatch.objects.update_or_create(
                subject=each.subject, window=each.window.id, threshold=threshold, defaults={"seen_at": now}
            )
    return confirmed


# ------------------------------------------------------------------ how a window will end


def _projected(each: _Watched, used: int, now: datetime) -> tuple[int, str]:
    """The window's total at its end, and by which method: robust Theta from 14 days of history, else a line."""
    start, end = _instant(each.window.start), _end(each.window)
    line = rules.run_rate(value=used, start=start, end=end, now=now) if end else None
    if line is None or end is None:
        raise AssertionError("asked for windows that may be forecast only")
    entry, zone = each.entry, ZoneInfo(each.entry.timezone)
    if entry.end_user or entry.tag or entry.plan_id or entry.rolling_s:  # reports know none of them
        return line, "straight line"
    today = now.astimezone(zone).date()
    filters = {
        "key": entry.api_key_id,
        "feature": entry.feature,
        "model": entry.model,
        "provider": entry.provider,
    }
    found = report(
        tenant_ids=None if entry.tenant_id is None else frozenset({entry.tenant_id}),
        start=_midnight(today - timedelta(days=HISTORY_DAYS), zone),
        end=_midnight(today, zone),
        timezone=entry.timezone,
        group_by=("day",),
        measures=(entry.measure,),
        filters={name: [value] for name, value in filters.items() if value},
    )
    series = _series({row["day"]: _amount(row, entry.measure) for row in found.rows}, until=today)
    if len(series) < THETA_FROM_DAYS:
        return line, "straight line"
    days = max(1, -(-(end - _midnight(today, zone)) // timedelta(days=1)))
    first = start.astimezone(zone).date()
    before = sum(series[-(today - first).days :]) if first < today else 0
    total = int(before) + round(sum(robust_theta(series, days)))
    return max(total, used), "robust Theta"


def _series(by_day: Mapping[date, int], *, until: date) -> list[float]:
    """Daily values from the first day there is, up to the day before `until`; missing days are 0."""
    if not by_day:
        return []
    first = min(by_day)
    return [float(by_day.get(first + timedelta(days=n), 0)) for n in range((until - first).days)]


def _amount(row: Mapping[str, Any], measure: str) -> int:
    """A count, or money of all currencies together, as budgets count it."""
    value = row[measure]
    return sum(value.values()) if isinstance(value, Mapping) else int(value)


# ------------------------------------------------------------------ a budget's alarm in words


def _alarm_of(each: _Watched, threshold: Decimal, value: int, *, method: str = "") -> Alarm:
    """`method` names how `value` was forecast; empty for actual use."""
    budget, rule, entry, window = each.budget, each.rule, each.entry, each.window
    name = budget.name or str(budget)
    reached = f"{number_text(threshold)} %" if each.is_percent else _said(each, int(threshold * each.unit))
    used, limit = _said(each, value), _said(each, each.limit)
    end = _end(window)
    facts = [("Budget", name), ("Forecast" if method else "Used", used), ("Limit", limit), *_scope_of(budget)]
    if end is not None:
        facts.append(("Window", _span_text(_instant(window.start), end, entry.timezone)))
    if method:
        facts.append(("Method", method))
        title = f"{name} is heading for {used} of {limit}"
        body = f"If it goes on like this, {reached} will be passed before the window ends."
    else:
        title = f"{name} has reached {reached}: {used} of {limit}"
        is_refusing = entry.mode == "hard" and value >= each.limit
        body = (
            "Calls that count against it are refused. " if is_refusing else "Calls go on. "
        ) + window.reset_text(entry.timezone)
    return Alarm(
        subject=each.subject,
        tenant=rule.tenant if rule else budget.tenant,
        kind=_Kind.BUDGET,
        severity=rule.severity if rule else rules.severity_of(threshold, is_hard=entry.mode == "hard"),
        window=window.id,
        window_start=_instant(window.start),
        window_end=end,
        threshold=threshold,
        unit=AlertRule.Unit.PERCENT if each.is_percent else AlertRule.Unit.ABSOLUTE,
        value=Decimal(value) / each.unit,
        title=title,
        body=body,
        rule=rule,
        budget=budget,
        basis=_Basis.FORECAST if method else _Basis.ACTUAL,
        limit=Decimal(each.limit) / each.unit,
        currency=entry.currency if entry.measure in MONEY else "",
        is_cost=entry.measure == "cost",
        facts=facts,
    )


def _said(each: _Watched, value: int) -> str:
    if each.entry.measure in MONEY:
        return money_text(Decimal(value) / PICO, each.entry.currency)
    return f"{value:,} {each.entry.measure}"


def _scope_of(scoped: Budget | AlertRule) -> list[tuple[str, str]]:
    """The parts of a scope that are not everything, for people."""
    found = [("Tenant", scoped.tenant.name)] if scoped.tenant else []
    if scoped.api_key is not None:
        found.append(("Key", scoped.api_key.name))
    for label, name in (("Feature", "feature"), ("Model", "model"), ("Provider", "provider"),
                        ("End user", "end_user"), ("Tag", "tag")):  # fmt: skip
        if getattr(scoped, name, ""):
            found.append((label, getattr(scoped, name)))
    return found


def _span_text(start: datetime, end: datetime, timezone: str) -> str:
    zone = ZoneInfo(timezone)
    return f"{start.astimezone(zone):%Y-%m-%d %H:%M} to {end.astimezone(zone):%Y-%m-%d %H:%M} ({timezone})"


# ------------------------------------------------------------------ error rate and latency


def evaluate_rates(*, now: datetime) -> int:
    """Fire and resolve the rules on error rate and p95 over their last `span_s`; returns how many fired."""
    wanted = AlertRule.objects.filter(kind__in=(_Kind.ERROR_RATE, _Kind.LATENCY_P95), is_enabled=True)
    count = 0
    for rule in wanted.select_related("tenant", "api_key").order_by("id"):
        start = now - timedelta(seconds=rule.span_s)
        measures = ("requests", "success_rate", "p95_ms")
        totals = _report_of(rule, start, now, (), measures).totals
        value: float | None
        if rule.kind == _Kind.ERROR_RATE:
            value = rules.error_percent(
                success_rate=totals["success_rate"],
                requests=totals["requests"],
                min_requests=rule.min_requests,
            )
        else:
            value = totals["p95_ms"] if totals["requests"] >= rule.min_requests else None
        count += _settle_rate(rule, value, totals["requests"], start=start, now=now)
    return count


def _settle_rate(
    rule: AlertRule, value: float | None, requests: int, *, start: datetime, now: datetime
) -> int:
    """Fire what is reached and not open, resolve what is open and no more reached. Silence ends it in time."""
    reached = rules.beyond(value=value, thresholds=rule.thresholds) if value is not None else ()
    open_rows = list(AlertFiring.objects.filter(rule=rule, resolved_at__isnull=True))
    for firing in open_rows:
        is_silent = value is None and now - firing.fired_at < timedelta(seconds=rule.span_s)
        if firing.threshold not in reached and not is_silent:
            resolve(firing=firing, now=now)
    count = 0
    for threshold in reached:
        if value is not None and threshold not in {firing.threshold for firing in open_rows}:
            alarm = _rate_alarm(rule, threshold, value, requests, start=start, now=now)
            count += fire(alarm=alarm, now=now) is not None
    return count


def _rate_alarm(
    rule: AlertRule, threshold: Decimal, value: float, requests: int, *, start: datetime, now: datetime
) -> Alarm:
    is_errors = rule.kind == _Kind.ERROR_RATE
    unit = "%" if is_errors else "ms"
    what = "Error rate" if is_errors else "95th percentile of latency"
    minutes = number_text(rule.span_s / 60, 1)
    return Alarm(
        subject=f"rule:{rule.pk}",
        tenant=rule.tenant,
        kind=rule.kind,
        severity=rule.severity,
        window=str(int(now.timestamp()) // rule.span_s * rule.span_s),
        window_start=start,
        window_end=None,
        threshold=threshold,
        unit=AlertRule.Unit.PERCENT if is_errors else "ms",
        value=Decimal(str(round(value, 6))),
        title=f"{rule.name}: {what.lower()} {number_text(value, 1)} {unit}",
        body=f"{what} of the last {minutes} min is at or above {number_text(threshold)} {unit}.",
        rule=rule,
        facts=[
            (what, f"{number_text(value, 1)} {unit}"),
            ("Threshold", f"{number_text(threshold)} {unit}"),
            ("Requests", f"{requests:,}"),
            *_scope_of(rule),
        ],
    )


# ------------------------------------------------------------------ margin


def evaluate_margins(*, now: datetime) -> int:
    """Fire the rules on margin in their running windows; returns how many fired.

    Only currencies in which something was sold and bought count, from `min_amount` of revenue on.
    """
    count = 0
    wanted = AlertRule.objects.filter(kind=_Kind.MARGIN, is_enabled=True)
    for rule in wanted.select_related("tenant", "api_key").order_by("id"):
        window = window_of(rule.window, _zone_of(rule), now)
        totals = _report_of(rule, _instant(window.start), now, (), ("price", "cost")).totals
        margins = {
            currency: rules.margin_percent(price=price, cost=totals["cost"][currency])
            for currency, price in totals["price"].items()
            if currency in totals["cost"] and price >= int(rule.min_amount * PICO)
        }
        worst = min(
            ((value, currency) for currency, value in margins.items() if value is not None), default=None
        )
        if worst is None:
            continue
        value, currency = worst
        for threshold in rules.beyond(value=value, thresholds=rule.thresholds, is_floor=True):
            price, cost = (Decimal(totals[name][currency]) / PICO for name in MONEY)
            alarm = Alarm(
                subject=f"rule:{rule.pk}",
                tenant=rule.tenant,
                kind=rule.kind,
                severity=rule.severity,
                window=window.id,
                window_start=_instant(window.start),
                window_end=_end(window),
                threshold=threshold,
                unit=AlertRule.Unit.PERCENT,
                value=Decimal(str(round(value, 6))),
                currency=currency,
                is_cost=True,
                title=f"{rule.name}: margin {number_text(value, 1)} %",
                body=f"The contribution margin of this {rule.window} is below {number_text(threshold)} %.",
                rule=rule,
                facts=[
                    ("Revenue", money_text(price, currency)),
                    ("Provider cost", money_text(cost, currency)),
                    *_scope_of(rule),
                ],
            )
            count += fire(alarm=alarm, now=now) is not None
    return count


# ------------------------------------------------------------------ anomalies


def evaluate_anomalies(*, now: datetime) -> int:
    """Fire the rules on unusual days; returns how many fired.

    Yesterday is judged as a whole, today only for what is too much already. A tenant's rule looks at what it
    pays, the operator's at what providers charge.
    """
    count = 0
    wanted = AlertRule.objects.filter(kind=_Kind.ANOMALY, is_enabled=True)
    for rule in wanted.select_related("tenant", "api_key").order_by("id"):
        zone = ZoneInfo(_zone_of(rule))
        today = now.astimezone(zone).date()
        measure = "price" if rule.tenant else "cost"
        start = _midnight(today - timedelta(days=HISTORY_DAYS), zone)
        found = _report_of(rule, start, now, ("day",), (measure,))
        if not found.totals[measure]:
            continue
        currency = max(found.totals[measure], key=found.totals[measure].__getitem__)
        by_day = {row["day"]: row[measure].get(currency, 0) for row in found.rows}
        for day in (today - timedelta(days=1), today):
            judgement = _judged(rule, by_day, day, is_over=day < today)
            if judgement is None:
                continue
            for threshold in rules.beyond(value=abs(judgement.z), thresholds=rule.thresholds):
                alarm = _anomaly_alarm(rule, threshold, judgement, day, measure, currency, now)
                count += fire(alarm=alarm, now=now) is not None
    return count


def _judged(
    rule: AlertRule, by_day: Mapping[date, int], day: date, *, is_over: bool
) -> rules.Judgement | None:
    """In units of the currency. None where there is too little history, money or day to judge."""
    floor = float(rule.min_amount)
    series = [value / PICO for value in _series(by_day, until=day + timedelta(days=1))]
    judgement = rules.judge(series, weekday=day.weekday(), floor=max(floor, 1e-6))
    if judgement is None or abs(judgement.value - judgement.expected) < floor:
        return None
    return judgement if is_over or judgement.z > 0 else None


def _anomaly_alarm(
    rule: AlertRule,
    threshold: Decimal,
    judgement: rules.Judgement,
    day: date,
    measure: str,
    currency: str,
    now: datetime,
) -> Alarm:
    zone = ZoneInfo(_zone_of(rule))
    start, end = _midnight(day, zone), _midnight(day + timedelta(days=1), zone)
    value, expected = (Decimal(str(round(each, 12))) for each in (judgement.value, judgement.expected))
    shares = _attributed(rule, judgement, day, measure, currency, min(end, now))
    return Alarm(
        subject=f"rule:{rule.pk}",
        tenant=rule.tenant,
        kind=rule.kind,
        severity=rule.severity,
        window=day.isoformat(),
        window_start=start,
        window_end=end + timedelta(days=1),  # yesterday's is open for a day, or nobody would see it
        threshold=threshold,
        unit="z",
        value=value,
        limit=expected,
        currency=currency,
        is_cost=measure == "cost",
        title=f"{rule.name}: {money_text(value, currency)} on {day}, usually {money_text(expected, currency)}",
        body=f"This is {number_text(judgement.z, 1)} times the usual spread away from a day like this.",
        rule=rule,
        facts=[
            ("Spent", money_text(value, currency)),
            ("Usual", money_text(expected, currency)),
            *((f"Most by {each.dimension}", f"{each.member} ({each.percent:g} %)") for each in shares),
            *_scope_of(rule),
        ],
    )


def _attributed(
    rule: AlertRule, judgement: rules.Judgement, day: date, measure: str, currency: str, until: datetime
) -> list[rules.Share]:
    """Which feature, model, key (and tenant) explains most of the difference, the clearest first."""
    zone = ZoneInfo(_zone_of(rule))
    start = _midnight(day - timedelta(days=USUAL_DAYS), zone)
    shares = []
    for dimension in ("feature", "model", "key", *(() if rule.tenant else ("tenant",))):
        values: dict[Any, dict[date, float]] = {}
        for row in _report_of(rule, start, until, ("day", dimension), (measure,)).rows:
            values.setdefault(row[dimension], {})[row["day"]] = row[measure].get(currency, 0) / PICO
        days = [day - timedelta(days=n) for n in range(1, USUAL_DAYS + 1)]
        share = rules.attribute(
            dimension,
            on_day={str(member): by_day.get(day, 0.0) for member, by_day in values.items()},
            before={
                str(member): median(by_day.get(each, 0.0) for each in days)
                for member, by_day in values.items()
            },
            difference=judgement.value - judgement.expected,
        )
        if share is not None:
            shares.append(_named(share))
    return sorted(shares, key=lambda each: -each.percent)


def _named(share: rules.Share) -> rules.Share:
    """With a name for people instead of an id."""
    match share.dimension:
        case "key":
            name = ApiKey.objects.filter(pk=share.member).values_list("name", flat=True).first()
        case "tenant":
            name = Tenant.objects.filter(pk=share.member).values_list("slug", flat=True).first()
        case _:
            name = share.member or "none"
    return rules.Share(share.dimension, name or share.member, share.percent)


# ------------------------------------------------------------------ the end


def close_windows(*, now: datetime) -> int:
    """Resolve what ended with its window, and what nobody watches any more; returns how many."""
    orphaned = Q(rule__isnull=True, budget__isnull=True) | Q(rule__is_enabled=False)
    orphaned |= Q(rule__isnull=True, budget__is_enabled=False)
    rows = AlertFiring.objects.filter(resolved_at__isnull=True).filter(Q(window_end__lte=now) | orphaned)
    closed = 0
    for firing in rows.order_by("id"):
        resolve(firing=firing, now=now)
        closed += 1
    AlertWatch.objects.filter(seen_at__lt=now - timedelta(days=1)).delete()
    return closed


# ------------------------------------------------------------------ shared


def _report_of(
    rule: AlertRule, start: datetime, end: datetime, group_by: Sequence[str], measures: Sequence[str]
) -> Report:
    """Usage in the rule's scope."""
    named = {"key": rule.api_key_id, "feature": rule.feature, "model": rule.model, "provider": rule.provider}
    return report(
        tenant_ids=frozenset({rule.tenant_id}) if rule.tenant_id else None,
        start=start,
        end=end,
        timezone=_zone_of(rule),
        group_by=group_by,
        measures=measures,
        filters={name: [value] for name, value in named.items() if value},
    )


def _zone_of(rule: AlertRule) -> str:
    return rule.tenant.timezone if rule.tenant else "UTC"


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(), zone).astimezone(UTC)


def _instant(unix_s: float) -> datetime:
    return datetime.fromtimestamp(unix_s, UTC)


def _end(window: Window) -> datetime | None:
    return None if window.end is None else _instant(window.end)
