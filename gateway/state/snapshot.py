"""All configuration that a call needs, joined from the floors below into one immutable value.

A worker holds one reference to it and swaps it whole; a call keeps the one it began with.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from uuid import UUID

import billing.snapshot
import gateway.privacy.snapshot
import routing.snapshot
import tenants.snapshot
from billing.snapshot import BillingSnapshot, Terms
from gateway.privacy.snapshot import PrivacySnapshot
from routing.snapshot import RoutingSnapshot
from tenants import versions
from tenants.snapshot import TenantsSnapshot


@dataclass(frozen=True, slots=True)
class Snapshot:
    tenants: TenantsSnapshot
    routing: RoutingSnapshot
    billing: BillingSnapshot
    privacy: PrivacySnapshot

    @property
    def versions(self) -> Mapping[str, int]:
        return {
            "tenants": self.tenants.version,
            "routing": self.routing.version,
            "billing": self.billing.version,
            "privacy": self.privacy.version,
        }

    def terms_of(self, tenant_id: UUID) -> Terms:
        return self.billing.terms.get(tenant_id, self.billing.default_terms)


def allowed_models(key: frozenset[str] | None, plan: frozenset[str] | None) -> frozenset[str] | None:
    """What a key's and its plan's allowlists allow together; None allows everything."""
    if key is None or plan is None:
        return plan if key is None else key
    return key & plan


def load() -> Snapshot:
    """Everything, from the database. Minutes of staleness are impossible, seconds are not: see `refresh`."""
    return Snapshot(
        tenants.snapshot.load(),
        routing.snapshot.load(),
        billing.snapshot.load(),
        gateway.privacy.snapshot.load(),
    )


def refresh(snapshot: Snapshot) -> Snapshot:
    """The same snapshot when nothing changed, else a new one with the floors that moved loaded again."""
    current = versions.current()
    held = snapshot.versions
    if all(current[section] == version for section, version in held.items()):
        return snapshot
    if current["tenants"] != held["tenants"]:
        snapshot = replace(snapshot, tenants=tenants.snapshot.load(snapshot.tenants))
    if current["routing"] != held["routing"]:
        snapshot = replace(snapshot, routing=routing.snapshot.load())
    if current["billing"] != held["billing"]:
        snapshot = replace(snapshot, billing=billing.snapshot.load())
    if current["privacy"] != held["privacy"]:
        snapshot = replace(snapshot, privacy=gateway.privacy.snapshot.load())
    return snapshot
