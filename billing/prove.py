"""The hourly proof: made, kept, and loud when it fails. It never repairs anything."""

import time as clock
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

from billing.alerts.firing import Alarm, fire, resolve
from billing.checks import SHOWN
from billing.models import AlertFiring, AlertRule, LedgerProof
from billing.usage.verify import verify

RECENT: Final = timedelta(days=35)
WHOLE_EVERY: Final = timedelta(hours=24)
SUBJECT: Final = "ledger:proof"
KIND: Final = "ledger"


def prove(*, now: datetime) -> LedgerProof:
    """Prove the last 35 days, once a day everything; keep the result; fire or resolve the alert.

    The proof reads one snapshot in a transaction of its own and must not be called inside another.
    """
    is_whole = not LedgerProof.objects.filter(is_whole=True, at__gt=now - WHOLE_EVERY).exists()
    began = clock.monotonic()
    proof = verify(since=None if is_whole else now - RECENT)
    kept = LedgerProof.objects.create(
        at=proof.as_of,
        ok=proof.ok,
        is_whole=is_whole,
        since=proof.since,
        until=proof.until,
        checks=[asdict(check) for check in proof.checks],
        duration_ms=round((clock.monotonic() - began) * 1000),
    )
    if kept.ok:
        for firing in AlertFiring.objects.filter(subject=SUBJECT, rearmed_at__isnull=True):
            resolve(firing=firing, now=now, is_rearmed=True)
    else:
        fire(alarm=_alarm(kept, now), now=now)
    return kept


def newest() -> LedgerProof | None:
    """The last proof, for the billing home."""
    return LedgerProof.objects.first()


def _alarm(kept: LedgerProof, now: datetime) -> Alarm:
    """Told once a day while it lasts, and again when it comes back."""
    failing = [check for check in kept.checks if not check["ok"] and not check["is_warning"]]
    day = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return Alarm(
        subject=SUBJECT,
        tenant=None,
        kind=KIND,
        severity=AlertRule.Severity.CRITICAL,
        window=f"{day:%Y-%m-%d}",
        window_start=day,
        window_end=None,
        threshold=Decimal(0),
        unit="checks",
        value=Decimal(len(failing)),
        title=f"The books do not hold: {failing[0]['name']}",
        body="Run `manage.py verify_ledger` and look before anything is corrected.",
        is_cost=True,
        facts=[(check["name"], f"{check['found']} ({check['detail']})") for check in failing[:SHOWN]],
    )
