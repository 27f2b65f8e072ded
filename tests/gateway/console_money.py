"""The console world's money: budgets, alerts with messages that arrived or did not, a seller and its documents."""

from dataclasses import dataclass
from datetime import UTC, date, timedelta
from decimal import Decimal
from uuid import UUID

from billing.alerts import firing, setup
from billing.alerts.firing import Alarm
from billing.invoicing.draft import draft
from billing.invoicing.finalize import finalize
from billing.invoicing.issue_credit import issue_credit
from billing.invoicing.mark_paid import mark_paid
from billing.invoicing.preview import period_of
from billing.models import (
    AlertAttempt,
    AlertChannel,
    AlertDelivery,
    AlertRule,
    BillingProfile,
    BillSource,
    Budget,
    Coupon,
    LegalEntity,
    Plan,
    TaxRate,
)
from billing.rating.money import PICO
from billing.reconciliation.bills import import_file
from billing.reconciliation.run import reconcile
from billing.rerating.jobs import ask
from billing.subscriptions import publish, subscribe
from billing.wallets.book import grant
from tenants import webhooks
from tenants.principal import SYSTEM


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
    invoice_id: UUID  # issued to acme, open
    position: int  # a line of it with calls behind
    draft_id: UUID  # of nordlicht's last month
    note_id: UUID  # credits a part of an older, paid invoice of acme
    rate_id: UUID
    run_id: UUID  # openai's bill of two days against the ledger
    line_id: UUID  # a difference of it
    rerating_id: UUID  # waits for its dry run


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
    return Money(monthly.pk, *of_acme, *of_platform, *_documents(acme, nordlicht, now), *_books(now))


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


def _documents(acme, nordlicht, now):
    """Two issued documents of acme, a draft of nordlicht, a credit note, a coupon."""
    LegalEntity.objects.create(
        code="tollhouse-de",
        name="Tollhouse Betriebs GmbH",
        address_lines=["Speicherstrasse 4"],
        postal_code="20457",
        city="Hamburg",
        country="DE",
        vat_id="DE123456789",
        registration="HRB 4711, Amtsgericht Hamburg",
        email="billing@tollhouse.example",
        iban="DE02120300000000202051",
        bic="BYLADEM1001",
        timezone="Europe/Berlin",
        number_prefix="TH",
        is_default=True,
        net_days=7,
    )
    rate = TaxRate.objects.create(
        key="standard", category="S", percent="19", country="DE", valid_from=date(2021, 1, 1)
    )
    for tenant, name, city in (
        (acme, "Acme Robotics GmbH", "Berlin"),
        (nordlicht, "Nordlicht Verlag KG", "Kiel"),
    ):
        BillingProfile.objects.create(
            tenant=tenant,
            legal_name=name,
            address_lines=["Torstrasse 1"],
            postal_code="10119",
            city=city,
            country="DE",
            vat_id="DE987654321",
            emails=[f"accounts@{tenant.slug}.example"],
        )
    editorial = Plan.objects.create(slug="editorial", name="Editorial")
    publish(
        plan=editorial,
        terms={"currency": "EUR", "base_amount": Decimal(19), "charges": []},
        actor=SYSTEM,
    )
    Coupon.objects.create(code="welcome", name="Welcome", kind="percent", value=Decimal(10))
    last = month_before(now)
    subscribe(tenant=nordlicht, plan=editorial, start=last.replace(day=1), actor=SYSTEM)
    older = _issued(acme, month_before(last), now=now)
    note = issue_credit(
        invoice=mark_paid(invoice=older, reference="Transfer 2026-881", now=now, actor=SYSTEM),
        lines=[(older.lines.get(position=1).pk, 900)],
        reason="Two hours of outage",
        now=now,
        actor=SYSTEM,
    )
    newer = _issued(acme, last, now=now)
    drafted = draft(
        tenant=nordlicht, period=period_of(nordlicht, last, now=now), now=now, actor=SYSTEM
    ).invoice
    grant(
        tenant=acme,
        currency="USD",
        amount_pico=25 * PICO,
        category="promotional",
        name="Welcome credit",
        at=now,
        actor=SYSTEM,
        expires_at=now + timedelta(days=60),
    )
    line = next(each for each in newer.lines.all() if each.measured)
    return newer.pk, line.position, drafted.pk, note.pk, rate.pk


def _issued(tenant, moment, *, now):
    made = draft(tenant=tenant, period=period_of(tenant, moment, now=now), now=now, actor=SYSTEM)
    return finalize(invoice=made.invoice, now=now, actor=SYSTEM)


def month_before(moment):
    """The middle of the month before."""
    return (moment.replace(day=1) - timedelta(days=15)).replace(hour=12)


def _books(now):
    """A provider's file of two days that is not what the ledger says, and a correction that was asked for."""
    source = BillSource.objects.create(slug="openai-bills", provider="openai", kind="csv")
    today = now.astimezone(UTC).date()
    days = [today - timedelta(days=back) for back in (2, 1)]
    text = "day,amount,currency,model\n" + "".join(f"{day},1.25,USD,gpt-4o\n" for day in days)
    import_file(source=source, text=text, start=None, end=None, actor=SYSTEM, now=now)
    run = reconcile(source=source, start=days[0], end=today, actor=SYSTEM, now=now)
    line = run.lines.exclude(status="match").first()
    asked = ask(
        reason="The price list of spring was wrong",
        start=now - timedelta(days=2),
        end=now - timedelta(minutes=1),
        provider="openai",
        provider_model="gpt-4o",
        tenants=[],
        rates=[{"component": "input", "price": "2.00", "per": 1_000_000, "currency": "USD"}],
        needs_two=False,
        actor=SYSTEM,
    )
    return run.pk, line.pk, asked.pk
