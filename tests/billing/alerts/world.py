"""Rows and alarms for the tests of alerts."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from billing.alerts import setup
from billing.alerts.firing import Alarm
from billing.models import AlertChannel, AlertRule
from tenants.models import Tenant

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
SLACK_URL = "https://8.8.4.4/services/T0/B0/secret"
ROUTING_KEY = "R" * 32
_TARGETS = {
    "email": "ops@acme.example",
    "slack": SLACK_URL,
    "webhook": "https://8.8.8.8/hook",
    "pagerduty": ROUTING_KEY,
}


def channel(of: Tenant | None, kind: str, target: str | None = None, **fields: Any) -> AlertChannel:
    """A channel, named after its kind."""
    made, _ = setup.open_channel(
        tenant=of, kind=kind, target=target or _TARGETS[kind], now=NOW, **{"name": kind, **fields}
    )
    return made


def alarm(of: Tenant | None, **changes: Any) -> Alarm:
    """80 % of a budget of 10 USD, in November."""
    base: dict[str, Any] = {
        "subject": "budget:1",
        "tenant": of,
        "kind": AlertRule.Kind.BUDGET,
        "severity": "warning",
        "window": "1793491200",
        "window_start": datetime(2026, 11, 1, tzinfo=UTC),
        "window_end": datetime(2026, 12, 1, tzinfo=UTC),
        "threshold": Decimal(80),
        "unit": "percent",
        "value": Decimal("8.5"),
        "limit": Decimal(10),
        "currency": "USD",
        "title": "Chat has reached 80 %: 8.50 USD of 10.00 USD",
        "body": "Calls go on.",
        "facts": (("Used", "8.50 USD"), ("Limit", "10.00 USD")),
    }
    return Alarm(**base | changes)


def clock(start: datetime = NOW) -> Callable[[], datetime]:
    """A clock that stands still."""
    return lambda: start


def after(**span: float) -> datetime:
    return NOW + timedelta(**span)


def no_dice() -> float:
    return 0.0
