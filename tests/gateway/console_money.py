"""The console world's money: budgets, alerts with their channels, and messages that arrived or did not."""

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from uuid import UUID

from billing.alerts import firing, setup
from billing.alerts.firing import Alarm
from billing.models import AlertAttempt, AlertChannel, AlertDelivery, AlertRule, Budget
from tenants import webhooks


@dataclass(frozen=True, slots=True)
class Money:
    """Ids that stand in the paths."""

    budget_id: UUID
    alert_id: UUID
    delivery_id: UUID
    rule_id: UUID
    channel_id: UUID
    platform_alert_id: UUID
    platform_delivery_id: UUID
    platform_rule_id: UUID
    platform_channel_id: UUID


def build(*, acme, nordlicht, key, now):
    """Four budgets of acme, one of nordlicht; an alert and a rule of acme and of the platform."""
    monthly = Budget.objects.create(
        tenant=acme, name="All calls", limit=Decimal("1.8"), thresholds=[50, 80, 100]
    )
    Budget.objects.create(
        tenant=acme,
        name="Nightly batch",
        api_key=key,
        measure="tokens",
        limit=5_000_000,
        mode="soft",
        window="day",
    )
    Budget.objects.create(tenant=acme, name="Search", feature="search", limit=Decimal(25), window="week")
    Budget.objects.create(
        tenant=acme, name="What it costs us", measure="cost", limit=Decimal(400), is_enabled=False
    )
    Budget.objects.create(tenant=nordlicht, name="Redaktion", limit=Decimal(50))
    of_acme = _alert(acme, monthly, now)
    of_platform = _alert(None, None, now)
    return Money(monthly.pk, *of_acme, *of_platform)


def _alert(tenant, budget, now):
    hook = AlertChannel(
        tenant=tenant, kind="webhook", target="https://example.com/alerts", name="Operations"
    )  # not by its verb, which looks the host up
    hook.put_secret(webhooks.dump(webhooks.rotate((), webhooks.new_secret(), now=now, grace_s=0)))
    hook.save()
    setup.open_channel(
        tenant=tenant, kind="email", target="oncall@example.com, boss@example.com", now=now, name="On call"
    )
    rule = AlertRule.objects.create(
        tenant=tenant, name="Errors", kind="error_rate", thresholds=[Decimal(5)], severity="critical"
    )
    setup.set_steps(rule=rule, steps=[(0, hook.pk)])
    fired = firing.fire(
        alarm=Alarm(
            subject=f"budget:{budget.pk}" if budget else f"rule:{rule.pk}",
            tenant=tenant,
            kind="budget" if budget else "error_rate",
            severity="warning",
            window="1",
            window_start=now - timedelta(days=3),
            window_end=now + timedelta(days=7),
            threshold=Decimal(80),
            unit="percent",
            value=Decimal("0.42"),
            title="All calls has used 84 % of its limit" if budget else "12 % of all calls fail",
            body="At this pace it is reached in four days." if budget else "Usually it is one in a hundred.",
            rule=None if budget else rule,
            budget=budget,
            limit=Decimal("0.5") if budget else None,
            currency="USD" if budget else "",
            facts=(("Used", "$0.42"), ("Limit", "$0.50")),
        ),
        now=now - timedelta(hours=2),
    )
    delivery = AlertDelivery.objects.filter(firing=fired, channel=hook).get()
    AlertAttempt.objects.create(
        delivery=delivery,
        number=1,
        started_at=now - timedelta(hours=2),
        finished_at=now - timedelta(hours=2),
        status=503,
        detail="The receiver answered 503.",
    )
    AlertDelivery.objects.filter(pk=delivery.pk).update(state="dead", attempts=1)
    return fired.pk, delivery.pk, rule.pk, hook.pk
