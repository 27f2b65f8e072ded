"""What the console's world knows of retention: a hold that was lifted and one that stands, deletions, an erasure."""

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from gateway.content import erase
from gateway.content.purge import shred_content
from tenants import retention
from tests.gateway.content.world import content


@dataclass(frozen=True, slots=True)
class Data:
    """Handles to what a test clicks on."""

    hold_id: UUID  # of acme; it stands


def build(*, acme, request_id, actor, now):
    """Acme keeps content for a week: a call's of today, and one's that is shredded by now."""
    retention.change_setting(tenant=acme, changes={"content_days": 7}, actor=actor)
    content(acme, now, request_id=request_id)
    content(acme, now - timedelta(days=20))
    list(shred_content(today=now.date(), now=now))
    erase.ask(tenant=acme, end_user="gone@example.com", actor=actor, now=now)
    while erase.run_next():
        pass
    erase.ask(tenant=acme, end_user="going@example.com", actor=actor, now=now)
    lifted = retention.place_hold(
        tenant=acme, reason="Audit of 2025", actor=actor, now=now - timedelta(days=9)
    )
    retention.release_hold(hold=lifted, actor=actor, now=now - timedelta(days=2))
    return Data(retention.place_hold(tenant=acme, reason="Case 12 of 2026", actor=actor, now=now).id)
